"""`fossa schedule list` and `next`."""

import json
from textwrap import dedent

import pytest
from click.testing import CliRunner
from schedule_support import clock_at

from fossa.cli import main
from fossa_schedule import commands
from fossa_schedule.progress import Mark, Progress, progress_path
from fossa_schedule.timing import instant_of

CONFIG = """
    import ayeaye
    from fossa import BaseConfig, use
    from fossa_schedule import cron, every

    class Nightly(ayeaye.Model):
        def build(self): ...
        def refresh(self): ...

    class FossaConfig(BaseConfig):
        ACCEPTED_MODEL_CLASSES = [Nightly]
        NODE_NAME = "first"
        STATE_DIR = "{state}"
        SOURCES = [use("schedule", timezone="Europe/London", on="first", entries=[
            cron("30 1 * * *", Nightly, name="night", overlap=True),
            every("12h", Nightly, method="refresh", missed="all", jitter="30s"),
        ])]
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "clock", clock_at("2026-10-24T13:00:00Z"))
    file = tmp_path / f"scheduled_{tmp_path.name}.py"
    file.write_text(dedent(CONFIG).format(state=tmp_path / "state"))
    return file


def ran(*arguments, status=0):
    result = CliRunner().invoke(main, ["schedule", *map(str, arguments)], terminal_width=200)
    assert result.exit_code == status, result.output
    return result.output


def test_the_next_firings_are_in_order_with_zone_local_time_and_utc(script):
    rows = json.loads(ran("next", script, "--json", "-n", 5))
    assert [(r["schedule"], r["local"], r["timezone"], r["utc"]) for r in rows] == [
        (name, local, "Europe/London", at)
        for name, local, at in [
            ("Nightly.refresh", "Sun 2026-10-25 01:00:00 BST", "2026-10-25T00:00:00Z"),
            ("night", "Sun 2026-10-25 01:30:00 BST", "2026-10-25T00:30:00Z"),
            ("Nightly.refresh", "Sun 2026-10-25 12:00:00 GMT", "2026-10-25T12:00:00Z"),
            ("Nightly.refresh", "Mon 2026-10-26 00:00:00 GMT", "2026-10-26T00:00:00Z"),
            ("night", "Mon 2026-10-26 01:30:00 GMT", "2026-10-26T01:30:00Z"),
        ]
    ]
    assert [r["jitter"] for r in rows[:2]] == ["up to 30s", None]
    assert ran("next", script, "night", "-n", 1).split()[:2] == ["SCHEDULE", "LOCAL"]


def test_what_has_fired_already_is_not_among_the_next(script, tmp_path):
    (tmp_path / "state").mkdir()
    progress = Progress(progress_path(tmp_path / "state", "schedule"))
    last = instant_of("2026-10-25T00:30:00Z")  # the clock was set back since
    progress.put("night", Mark(text="cron 30 1 * * * Europe/London", last=last))
    progress.write()
    rows = json.loads(ran("next", script, "night", "--json", "-n", 1))
    assert rows[0]["utc"] == "2026-10-26T01:30:00Z"
    rows = json.loads(ran("list", script, "--json"))
    assert rows[0]["done_until"] == "2026-10-25T00:30:00Z"


def test_the_list_tells_what_each_schedule_is(script):
    assert json.loads(ran("list", script, "--json")) == [
        {"schedule": "night", "when": "cron 30 1 * * *", "timezone": "Europe/London",
         "runs": "Nightly.go", "missed": "once", "overlap": True, "on": "first (this one)",
         "done_until": None},
        {"schedule": "Nightly.refresh", "when": "every 12h", "timezone": "Europe/London",
         "runs": "Nightly.refresh", "missed": "all", "overlap": False, "on": "first (this one)",
         "done_until": None},
    ]  # fmt: skip
    assert "night" in ran("list", script)


def test_a_name_that_is_none_is_told_with_those_that_there_are(script):
    assert ran("next", script, "nihgt", status=2) == (
        "fossa: no schedule is named nihgt: did you mean 'night'?\n"
    )


def test_a_config_with_no_schedule_is_told(script):
    script.write_text(script.read_text().replace('use("schedule"', '"http"] or [use("schedule"'))
    assert "has no schedule: put use(" in ran("list", script, status=2)


def test_mistakes_of_the_config_are_told(script):
    script.write_text(script.read_text().replace("30 1 * * *", "30 25 * * *"))
    assert "the cron line is '30 25 * * *': Bad hour" in ran("next", script, status=2)
