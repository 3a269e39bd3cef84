"""`fossa plugins`: what is installed, what is enabled, what cannot be loaded; and traced hooks."""

import json

import pytest
from click.testing import CliRunner

from fossa import hookimpl
from fossa.cli import main
from support import outcome, running

CONFIG = """
import ayeaye
from fossa import BaseConfig, use

class Nothing(ayeaye.Model):
    def build(self):
        pass

class FossaConfig(BaseConfig):
    ACCEPTED_MODEL_CLASSES = [Nothing]
    SINKS = [use("jsonl", path="outcomes.jsonl")]
    PLUGINS = []
"""


def listed(*arguments):
    result = CliRunner().invoke(main, ["plugins", "--json", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return {(row["kind"], row["name"]): row for row in json.loads(result.output)}


def test_what_is_in_the_box_is_listed():
    rows = listed()
    webhook = rows["sink", "webhook"]
    assert webhook["distribution"].startswith("ayeaye-fossa ")
    assert webhook["leads_to"] == "fossa.builtin.webhook:WebhookSink"
    assert rows["plugin", "metrics"]["hooks"]
    assert "enabled" not in webhook
    assert not any(row["trouble"] for row in rows.values())


def test_what_a_config_enables_is_marked(tmp_path):
    script = tmp_path / "etl_of_mine.py"
    script.write_text(CONFIG)
    enabled = {key for key, row in listed(script).items() if row["enabled"]}
    assert enabled == {("source", "http"), ("executor", "local"), ("sink", "jsonl")}


def test_what_cannot_be_loaded_is_told(install):
    install("broken", "import no_such_library", {"fossa.sinks": "cracked = broken:Sink"})
    row = listed()["sink", "cracked"]
    assert row["trouble"] == "ModuleNotFoundError: No module named 'no_such_library'"
    result = CliRunner().invoke(main, ["plugins"], terminal_width=200)
    assert "cracked" in result.output
    assert "cannot be loaded" in result.output


def test_two_of_one_name_are_told(install):
    for name in ("ours", "theirs"):
        install(name, "class Sink: pass", {"fossa.sinks": f"twin = {name}:Sink"})
    result = CliRunner().invoke(main, ["plugins", "--json"])
    troubles = [row["trouble"] for row in json.loads(result.output) if row["name"] == "twin"]
    wanted = "several have this name, from ours 1.0 and theirs 1.0: uninstall all but one"
    assert troubles == [wanted, wanted]


def test_one_that_leaves_while_it_is_imported_is_told(install):
    install("leaver", "import sys; sys.exit(3)", {"fossa.sinks": "leaver = leaver:Sink"})
    assert listed()["sink", "leaver"]["trouble"] == "SystemExit: 3"


class Watches:
    @hookimpl
    def fossa_task_ended(self, outcome):
        """Looks on."""

    @hookimpl
    def fossa_refuse_task(self, task):
        if task.method == "no_such":
            raise ValueError("not this one")

    @hookimpl
    def fossa_choose_executor(self, executors):
        return executors[0].name


@pytest.mark.parametrize(("value", "traced"), [("1", True), ("0", False), ("", False)])
async def test_hook_calls_are_traced_where_that_is_asked(monkeypatch, caplog, value, traced):
    monkeypatch.setenv("FOSSA_TRACE_HOOKS", value)
    caplog.set_level("INFO")
    async with running(PLUGINS=[Watches()]) as node:
        await outcome(node, "Nothing")
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("plugin Watches")]
    said = {" ".join(line.split(" in ")[0].split()[2:]) for line in lines}
    expected = {
        "fossa_refuse_task returned None",
        "fossa_choose_executor returned 'local'",
        "fossa_task_ended returned None",
    }
    assert said == (expected if traced else set())
