"""What is wrong with entries is told at once, before anything starts."""

from datetime import timedelta

import pytest

from fossa import ConfigError, Fossa, use
from fossa.testing import models
from fossa.testing.components import SuiteConfig
from fossa_schedule import cron, every
from fossa_schedule.reading import duration_text, read, seconds_of


def mistakes(*entries, **options):
    with pytest.raises(ConfigError) as told:
        Fossa(SuiteConfig, SOURCES=[use("schedule", entries=list(entries), **options)])
    return [m.removeprefix("SOURCES: schedule: ") for m in told.value.mistakes]


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (every("15x", "Says"), "schedule 'Says': the interval is '15x': it should be like '30s'"),
        (every(0, "Says"), "schedule 'Says': the interval is 0: it should be"),
        (every("", "Says"), "schedule 'Says': the interval is ''"),
        (every(1.5, "Says"), "schedule 'Says': the interval is 1.5: it should be"),
        (every(float("nan"), "Says"), "schedule 'Says': the interval is nan: it should be"),
        (every(float("inf"), "Says"), "schedule 'Says': the interval is inf: it should be"),
        (every("400d", "Says"), "schedule 'Says': the interval is '400d': it should be"),
        (
            cron("0 6 * *", "Says"),
            "schedule 'Says': the cron line is '0 6 * *': it should have five",
        ),
        (cron("0 0 6 * * *", "Says"), "schedule 'Says': the cron line is '0 0 6 * * *': it should"),
        (cron(6, "Says"), "schedule 'Says': the cron line is 6: it should have five fields"),
        (cron("0 25 * * *", "Says"), "schedule 'Says': the cron line is '0 25 * * *': Bad hour"),
        (
            cron("0 6 * * mun", "Says"),
            "…'0 6 * * mun': 'mun' is no day and no month: did you mean ",
        ),
        (cron("0 0 31 2 *", "Says"), "…'0 0 31 2 *': Bad day-of-month"),
        (
            every("1m", "Sais"),
            "…the model 'Sais' is not in ACCEPTED_MODEL_CLASSES: did you mean 'Says'?",
        ),
        (every("1m", SuiteConfig), "schedule 'SuiteConfig': the model 'SuiteConfig' is not in"),
        (
            every("1m", "Says", method="stebs"),
            "…'stebs' is no method of Says that a task may run: did you mean 'steps'?",
        ),
        (
            every("1m", "Says", method="__init__"),
            "schedule 'Says.__init__': '__init__' is no method",
        ),
        (
            every("1m", "Says", method=3, name="n"),
            "schedule 'n': method is 3: it should be the name",
        ),
        (
            every("1m", "Says", method_kwargs=[1]),
            "schedule 'Says': method_kwargs is [1]: it should",
        ),
        (
            every("1m", "Says", method_kwargs={"a": [{1}]}),
            "schedule 'Says': method_kwargs.a[0] is of type set, which is not JSON",
        ),
        (every("1m", "Says", method_kwargs={1: 2}), "schedule 'Says': method_kwargs has the key 1"),
        (
            every("1m", "Says", partition_initialise_kwargs={"a": 1}),
            "…partition_initialise_kwargs is for a PartitionedModel and Says is none",
        ),
        (
            every("1m", "Says", priority=101),
            "schedule 'Says': priority is 101: it should be a whole",
        ),
        (
            every("1m", "Says", timeout=0),
            "schedule 'Says': timeout is 0: it should be a number from",
        ),
        (
            every("1m", "Says", retries=True),
            "schedule 'Says': retries is True: it should be a whole",
        ),
        (
            every("1m", "Says", jitter="2m"),
            "schedule 'Says': jitter is '2m': it should be like '30s', from 0 to 1m",
        ),
        (
            every("1m", "Says", missed="one"),
            "schedule 'Says': missed is 'one': did you mean 'once'?",
        ),
        (
            every("1m", "Says", missed="never"),
            "schedule 'Says': missed is 'never': there is 'all', ",
        ),
        (every("1m", "Says", missed=["all"]), "schedule 'Says': missed is ['all']"),
        (
            every("1m", "Says", max_missed=0),
            "schedule 'Says': max_missed is 0: it should be a whole",
        ),
        (
            every("1m", "Says", overlap="no"),
            "schedule 'Says': overlap is 'no': it should be True or",
        ),
        (
            every("1m", "Says", jiter="1s"),
            "schedule 'Says': jiter is no option of every(…): did you mean 'jitter'?",
        ),
        (
            every("1m", "Says", timezone="Europe/Lodnon"),
            "…'Europe/Lodnon', which is no time zone: did you mean 'Europe/London'?",
        ),
        (every("1m", "Says", timezone="../etc"), "schedule 'Says': timezone is '../etc', which is"),
        (every("1m", "Says", name="night run"), "entry 1 is named 'night run': a schedule's name"),
        (every("1m", "Says", name="n" * 101), "entry 1 is named 'nnn"),
        ("Says", "entry 1 is 'Says': it should be every(…) or cron(…)"),
    ],
)
def test_a_mistake_names_the_schedule_the_value_and_what_may_be_meant(entry, told):
    found = mistakes(entry)
    assert len(found) == 1
    begins = told.partition("…")
    assert found[0].startswith(told) if begins[0] or not begins[1] else begins[2] in found[0]


def test_all_mistakes_are_told_at_once():
    found = mistakes(
        every("15x", "Sais", jitter="x", missed="one"),
        cron("0 25 * * *", "Says", method="stebs"),
        every("1m", "Breaks"),
        every("2m", "Breaks"),
        timezone="Europe/Lodnon",
        on="",
    )
    assert [m.partition(" is ")[0] for m in found] == [
        "timezone",
        "schedule 'Sais': the interval",
        "schedule 'Sais': jitter",
        "schedule 'Sais': missed",
        "schedule 'Says.stebs': the cron line",
        "two schedules are named 'Breaks': give one of them another name=…",
        "on",
        "schedule 'Sais': the model 'Sais'",
        "schedule 'Says.stebs': 'stebs'",
    ]


@pytest.mark.parametrize("entries", ["every", {"a": 1}, 5, None])
def test_entries_that_are_no_list_are_told(entries):
    with pytest.raises(ConfigError, match=r"entries is .*: it should be a list"):
        Fossa(SuiteConfig, SOURCES=[use("schedule", entries=entries)])


def test_what_is_right_is_read():
    entries = [
        every(timedelta(minutes=90), models.Says, timezone="Asia/Tokyo"),
        cron("0  6 * * MON-fri", "Says", method="steps", jitter=30, missed="all"),
    ]
    schedules, wrong = read(entries, "Europe/London")
    assert wrong == []
    assert [(s.name, s.timing.text, s.timing.zone.key) for s in schedules] == [
        ("Says", "every 1h30m", "Asia/Tokyo"),
        ("Says.steps", "cron 0 6 * * MON-fri Europe/London", "Europe/London"),
    ]
    assert (schedules[1].jitter, schedules[1].missed, schedules[1].overlap) == (30.0, "all", False)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1h30m", 5400), ("2d", 172800), ("1d1h1m1s", 90061), (60, 60), ("5", None)],
)
def test_durations(text, seconds):
    assert seconds_of(text) == seconds
    if isinstance(text, str) and seconds and text != "90s":
        assert duration_text(seconds) == text
