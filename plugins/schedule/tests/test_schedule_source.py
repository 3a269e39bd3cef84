"""What a schedule does: on time, late, after a restart, after a crash, while the node is busy."""

import asyncio
import json

import pytest
from schedule_support import clock_at, eventually, scheduled

from fossa import ConfigError, Fossa, FossaError
from fossa.testing.components import SuiteConfig
from fossa_schedule import cron, every
from fossa_schedule.source import ScheduleSource
from fossa_schedule.timing import jitter

NOON = "2026-06-01T12:00:00Z"


@pytest.fixture
def kept(tmp_path):
    """Settings of a node that remembers."""
    return {"LEDGER": "sqlite", "STATE_DIR": tmp_path / "state"}


def progress(tmp_path):
    return tmp_path / "state" / "schedule-schedule.json"


def minutes(*numbers, name="poll"):
    return [f"{name}/2026-06-01T12:{n:02}:00Z" for n in numbers]


# on time


async def test_each_firing_is_one_task_with_what_its_schedule_says():
    entries = [
        cron("5,10 12 * * *", "Answers", name="poll", method="echo", method_kwargs={"value": 1},
             model_construction_kwargs={"greeting": "hi"}, priority=7, timeout=60, retries=2),
    ]  # fmt: skip
    async with scheduled(entries, clock_at(NOON)) as run:
        await run.move(299)
        assert await run.keys() == []
        await run.move(1)
        assert await run.keys() == minutes(5)
        await run.move(600)
        assert await run.keys() == minutes(5, 10)
        task = (await run.tasks())[0]
        assert (task.model, task.method, task.source) == ("Answers", "echo", "schedule")
        assert (task.priority, task.timeout, task.retries) == (7, 60, 2)
        assert task.arguments_of("method_kwargs") == {"value": 1}
        assert task.arguments_of("model_construction_kwargs") == {"greeting": "hi"}


async def test_several_schedules_do_not_wait_for_each_other():
    entries = [every("5m", "Answers"), every("4m", "Says", name="says")]
    async with scheduled(entries, clock_at(NOON), hold=True) as run:
        await run.move(239, sleepers=2)
        await run.clock.advance(1)
        await run.has(1)  # it holds from here on
        await run.clock.advance(60)
        assert await run.has(2) == [*minutes(4, name="says"), *minutes(5, name="Answers")]


@pytest.mark.parametrize(
    ("zone", "begin", "line", "hours", "expected"),
    [
        ("Europe/London", "2026-03-29T00:00:00Z", "30 1 * * *", 2,
         ["2026-03-29T01:00:00Z"]),
        ("Europe/London", "2026-10-25T00:00:00Z", "30 1 * * *", 2,
         ["2026-10-25T00:30:00Z"]),
        ("America/New_York", "2026-11-01T04:30:00Z", "0 * * * *", 3,
         ["2026-11-01T05:00:00Z", "2026-11-01T06:00:00Z", "2026-11-01T07:00:00Z"]),
        ("Australia/Lord_Howe", "2026-04-04T14:00:00Z", "*/30 1 * * *", 2,
         ["2026-04-04T14:30:00Z", "2026-04-04T15:00:00Z"]),
    ],
)  # fmt: skip
async def test_a_node_fires_as_the_clocks_are_moved(zone, begin, line, hours, expected):
    entries = [cron(line, "Answers", name="dst")]
    async with scheduled(entries, clock_at(begin), timezone=zone) as run:
        await run.move(hours * 3600)
        assert await run.keys() == [f"dst/{at}" for at in expected]


async def test_jitter_makes_a_firing_later_and_leaves_its_key_as_it_is():
    clock = clock_at(NOON)
    async with scheduled([every("10m", "Answers", name="poll", jitter="5m")], clock) as run:
        firing = int(clock.time()) + 600
        late = jitter("poll", firing, 300)
        assert late > 1
        await run.move(600 + late - 0.5)
        assert await run.keys() == []
        await run.move(1)
        assert await run.keys() == minutes(10)


async def test_a_jitter_longer_than_the_interval_loses_none_and_keeps_their_order():
    entries = [cron("* * * * *", "Answers", name="poll", jitter="5m", missed="all")]
    async with scheduled(entries, clock_at(NOON)) as run:
        await run.move(1800)
        keys = await run.keys()
        assert keys[:20] == minutes(*range(1, 21))


async def test_a_clock_set_back_fires_nothing_twice():
    clock = clock_at(NOON)
    async with scheduled([every("1m", "Answers", name="poll")], clock) as run:
        await run.move(120)
        clock.set(clock.time() - 119)
        await run.move(118)
        assert await run.keys() == minutes(1, 2)
        await run.move(61)
        assert await run.keys() == minutes(1, 2, 3)


async def test_a_clock_set_forward_makes_firings_missed_ones():
    clock = clock_at(NOON)
    entries = [every("1m", "Answers", name="poll", missed="once")]
    async with scheduled(entries, clock) as run:
        await run.move(90)
        clock.set(clock.time() + 1800)
        await run.move(60)
        assert await run.keys() == minutes(1, 32)


# after a restart


@pytest.mark.parametrize(
    ("missed", "most", "expected"),
    [("once", 100, [1, 11, 12]), ("all", 100, range(1, 13)), ("all", 3, [1, 9, 10, 11, 12])],
)
async def test_what_was_missed_while_the_node_was_down_runs(missed, most, expected, kept):
    clock = clock_at(NOON)
    entries = [cron("* * * * *", "Answers", name="poll", missed=missed, max_missed=most)]
    async with scheduled(entries, clock, **kept) as run:
        await run.move(90)
    clock.set(clock.time() + 600)
    async with scheduled(entries, clock, **kept) as run:
        await run.move(60)
        assert await run.keys() == minutes(*expected)


@pytest.mark.parametrize(("down", "expected"), [(300, [5, 10]), (390, [10]), (990, [20])])
async def test_what_was_missed_is_skipped_unless_it_is_less_than_a_minute(down, expected, kept):
    clock = clock_at(NOON)
    entries = [every("5m", "Answers", name="poll", missed="skip")]
    async with scheduled(entries, clock, **kept) as run:
        await run.move(30)
    clock.set(clock.time() + down)
    async with scheduled(entries, clock, **kept) as run:
        await run.move(300)
        assert await run.keys() == minutes(*expected)


async def test_a_restart_makes_no_firing_again(kept):
    clock = clock_at(NOON)
    entries = [every("1m", "Answers", name="poll")]
    for until in (1, 2, 3):
        async with scheduled(entries, clock, **kept) as run:
            await run.move(60)
            assert await run.keys() == minutes(*range(1, until + 1))


async def test_a_crash_between_admission_and_progress_makes_no_second_task(kept, tmp_path):
    clock = clock_at(NOON)
    entries = [every("1m", "Answers", name="poll")]
    async with scheduled(entries, clock, **kept) as run:
        before = progress(tmp_path).read_text()
        await run.move(60)
        first = await run.tasks()
    progress(tmp_path).write_text(before)  # as a node leaves it that dies there
    async with scheduled(entries, clock, **kept) as run:
        await run.clock.asleep()
        assert await run.tasks() == first
        assert json.loads(progress(tmp_path).read_text())["schedules"]["poll"] == {
            "when": "every 1m",
            "last": "2026-06-01T12:01:00Z",
            "task": first[0].id,
        }


async def test_a_schedule_that_is_new_or_has_changed_begins_from_now(kept, tmp_path):
    clock = clock_at(NOON)
    async with scheduled([every("1m", "Answers", name="poll")], clock, **kept) as run:
        await run.move(60)
    clock.set(clock.time() + 3600 * 12)
    changed = [cron("0 * * * *", "Answers", name="poll", missed="all"), every("1h", "Says")]
    async with scheduled(changed, clock, **kept) as run:
        await run.clock.asleep(2)
        assert await run.keys() == minutes(1)
    marks = json.loads(progress(tmp_path).read_text())["schedules"]
    assert {name: mark["last"] for name, mark in marks.items()} == {
        "poll": "2026-06-02T00:01:00Z",
        "Says": "2026-06-02T00:01:00Z",
    }


async def test_without_a_state_directory_progress_is_in_memory():
    clock = clock_at(NOON)
    for _ in range(2):
        async with scheduled([every("1m", "Answers", name="poll")], clock) as run:
            await run.move(60)
            assert len(await run.keys()) == 1


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"version": 2}', '{"version": 1, "schedules": {"poll": {"when": 1, "last": 3}}}'],
)
async def test_progress_that_cannot_be_read_stops_the_start(text, kept, tmp_path):
    progress(tmp_path).parent.mkdir()
    progress(tmp_path).write_text(text)
    with pytest.raises(FossaError, match=r"schedule-schedule\.json cannot be read.*or delete it"):
        async with scheduled([every("1m", "Answers")], clock_at(NOON), **kept):
            pass
    assert progress(tmp_path).read_text() == text


async def test_progress_that_cannot_be_written_is_told(kept, tmp_path):
    clock = clock_at(NOON)
    async with scheduled([every("1m", "Answers", name="poll")], clock, **kept) as run:
        draft = progress(tmp_path).with_name("schedule-schedule.json.new")
        draft.mkdir()
        await run.move(60)
        assert "cannot be written" in run.source.ready()
        draft.rmdir()
        await run.move(60)
        assert run.source.ready() is None
        assert await run.keys() == minutes(1, 2)


# overlap


async def test_a_firing_waits_for_the_task_before_and_what_passed_meanwhile_is_missed():
    entries = [every("1m", "Answers", name="poll")]
    async with scheduled(entries, clock_at(NOON), hold=True) as run:
        await run.move(59)
        await run.clock.advance(1)
        await eventually(lambda: run.executor.attempts)
        assert await run.has(1) == minutes(1)
        await run.clock.advance(600)
        assert await run.keys() == minutes(1)
        await eventually(lambda: run.source.ready() is None)
        run.executor.release()
        assert await run.has(2) == minutes(1, 11)


async def test_a_task_of_an_earlier_boot_is_waited_for(kept):
    entries = [every("1m", "Answers", name="poll")]
    clock = clock_at(NOON)
    async with scheduled(entries, clock, hold=True, **kept) as run:
        await run.move(59)
        await run.clock.advance(1)
        await eventually(lambda: run.executor.attempts)
        await _marked(kept["STATE_DIR"] / "schedule-schedule.json", "12:01")
    async with scheduled(entries, clock, hold=True, **kept) as run:
        await eventually(lambda: run.executor.attempts)
        await run.clock.advance(120)
        assert await run.keys() == minutes(1)
        run.executor.release()
        assert await run.has(2) == minutes(1, 3)


async def _marked(file, text):
    await eventually(lambda: text in file.read_text())


async def test_tasks_may_overlap_where_the_schedule_says_so():
    entries = [every("1m", "Answers", name="poll", overlap=True)]
    async with scheduled(entries, clock_at(NOON), hold=True) as run:
        await run.move(180)
        assert await run.keys() == minutes(1, 2, 3)


# refused


async def test_a_firing_that_is_refused_is_tried_again_and_told():
    entries = [every("1h", "Answers", name="poll")]
    settings = {"SLOTS": 1, "MAX_QUEUED_TASKS": 0}
    async with scheduled(entries, clock_at("2026-06-01T11:59:00Z"), **settings) as run:
        held = await run.node.governor.reserve()
        await run.move(150)
        assert await run.keys() == []
        assert "schedule poll is 90 s late with 2026-06-01T12:00:00Z: QueueFull" in (
            run.source.ready()
        )
        assert any("poll" in reason for reason in run.node.governor.not_ready())
        held.release()
        await run.move(30)
        assert await run.keys() == minutes(0)
        assert run.source.ready() is None


async def test_a_firing_while_the_node_stops_is_left_for_the_next_start(kept):
    entries = [
        cron("1 12 * * *", "Answers", name="long"),
        cron("2 12 * * *", "Answers", name="poll", missed="once"),
    ]
    clock = clock_at(NOON)
    async with scheduled(entries, clock, hold=True, **kept) as run:
        await run.move(59, sleepers=2)
        await run.clock.advance(1)
        await eventually(lambda: run.executor.attempts)
        stopping = asyncio.create_task(run.node.stop(10))
        await eventually(lambda: run.node.governor.status()["state"] == "stopping")
        await run.clock.asleep()
        await run.clock.advance(61)
        assert await run.keys() == minutes(1, name="long")
        run.executor.release()
        await stopping
    async with scheduled(entries, clock, **kept) as run:
        assert await run.has(2) == [*minutes(1, name="long"), *minutes(2)]


async def test_a_schedule_that_does_not_get_its_turn_is_late():
    async with scheduled([every("1m", "Answers", name="poll")], clock_at(NOON)) as run:
        await run.clock.asleep()
        assert run.source.ready() is None
        run.clock.set(run.clock.time() + 180)  # nobody has run since: the loop was blocked, say
        assert run.source.ready() == "schedule poll is 120 s late with 2026-06-01T12:01:00Z"


# one node of many


async def test_only_the_node_that_is_named_fires(tmp_path):
    entries = [every("1m", "Answers", name="poll")]
    here, there = clock_at(NOON), clock_at(NOON)
    async with (
        scheduled(entries, here, on="first", NODE_NAME="first") as first,
        scheduled(entries, there, on="first", NODE_NAME="second") as second,
    ):
        await first.move(60)
        await second.clock.advance(60)
        assert second.clock.next_in() is None
        assert await first.keys() == minutes(1)
        assert await second.keys() == []
        assert second.source.ready() is None
        assert second.node.governor.not_ready() == []


async def test_two_sources_cannot_have_schedules_of_one_name():
    sources = [ScheduleSource(entries=[every("1m", "Answers")]) for _ in range(2)]
    sources[0].name, sources[1].name = "one", "other"
    with pytest.raises(ConfigError, match="two schedules are named 'Answers'"):
        async with Fossa(SuiteConfig, SOURCES=sources):
            pass
