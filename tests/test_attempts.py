"""Attempts: what is said of them, how they are stopped, when they are repeated."""

import asyncio
import time

import pytest

from fossa import Limits, Reason, Status
from fossa.errors import TooLate
from support import TestConfig, lives, outcome, running, texts, until


async def test_what_a_model_returns():
    async with running() as node:
        ended = await outcome(
            node,
            "Echo",
            "say",
            method_kwargs={"what": {"deep": [1, None, "é"]}},
            model_construction_kwargs={"greeting": "hi"},
        )
        assert ended.result == {"greeting": "hi", "what": {"deep": [1, None, "é"]}}
        assert ended.reason is Reason.RETURNED


async def test_return_values_that_are_not_json():
    async with running(MAX_RESULT_BYTES=1000) as node:
        assert (await outcome(node, "Returns", "numbers")).result == [
            None,
            None,
            1,
            True,
            None,
            "é",
        ]
        ended = await outcome(node, "Returns", "an_object")
        assert ended.complete
        assert not ended.result_is_json
        assert ended.result["type"] == "object"
        assert not (await outcome(node, "Returns", "a_set")).result_is_json
        ended = await outcome(node, "Returns", "huge", method_kwargs={"size": 2000})
        assert ended.reason is Reason.RESULT_TOO_LARGE
        assert "MAX_RESULT_BYTES is 1000" in ended.message


async def test_a_failed_check_is_a_failed_task():
    async with running() as node:
        ended = await outcome(node, "Checks")
        assert (ended.status, ended.reason) == (Status.FAILED, Reason.CHECK_FAILED)


async def test_an_exception_is_told_with_its_traceback():
    async with running() as node:
        ended = await outcome(node, "Fails")
        assert (ended.reason, ended.error) == (Reason.EXCEPTION, "ValueError")
        assert ended.message == "no such luck"
        assert any("models.py" in line and "in build" in line for line in ended.traceback)


async def test_everything_a_model_writes_is_logged():
    async with running() as node:
        handle = await node.submit("Writes")
        await handle.outcome(30)
        written = {(line.stream, line.level): line.text for line in await handle.logs()}
        lines = texts(await handle.logs())
        assert written["model", "WARNING"] == "a warning of the model"
        assert written["stderr", "WARNING"] == "to stderr"
        assert written["logging", "ERROR"] == "library: by logging"
        assert "UserWarning: by warnings" in written["warnings", "WARNING"]
        for text in ("by the model", "by print", "raw to descriptor 1", "by a child process"):
            assert text in lines
        assert "no line end" in lines


async def test_logs_are_bounded_and_odd_bytes_harmless():
    async with running(MAX_LOG_LINES=50) as node:
        handle = await node.submit("Writes", "many", method_kwargs={"count": 500})
        await handle.outcome(30)
        lines = texts(await handle.logs())
        assert len(lines) == 51
        assert "450 more lines were dropped" in lines[-1]
        handle = await node.submit("Writes", "odd")
        assert (await handle.outcome(30)).complete
        assert any("surrogate \\udc80" in text for text in texts(await handle.logs()))
        assert (await node.governor.record(handle.id)).progress.message == "half \\udc80"
        outcome = await (await node.submit("Fails", "oddly")).outcome(30)
        assert (outcome.reason, outcome.message) == (Reason.EXCEPTION, "no such \\udc80")


async def test_progress_is_seen_while_it_runs():
    async with running() as node:
        handle = await node.submit("Progresses")
        seen = set()
        while not (record := await handle.record()).status.final:
            seen.add(record.progress.fraction)
            await asyncio.sleep(0.02)
        assert {0.25, 0.5} <= seen
        assert (await handle.progress()).fraction == 1.0


async def test_a_soft_timeout_lets_the_model_clean_up(tmp_path):
    journal = tmp_path / "journal"
    async with running() as node:
        handle = await node.submit(
            "Stubborn", "clean_up", method_kwargs={"journal": str(journal)}, timeout=0.3
        )
        ended = await handle.outcome(30)
        assert ended.reason is Reason.SOFT_TIMEOUT
        assert "timeout of 0.3 s" in ended.message
        assert journal.read_text() == "cleaned up"


async def test_a_hard_timeout_ends_the_whole_process_group(tmp_path):
    pids = tmp_path / "pids"
    async with running() as node:
        handle = await node.submit(
            "Stubborn", "ignore", method_kwargs={"pid_file": str(pids)}, timeout=0.5
        )
        ended = await handle.outcome(30)
        assert ended.reason is Reason.HARD_TIMEOUT
        for pid in pids.read_text().split():
            await until(lambda pid=pid: not lives(pid))
        assert node.governor.status()["slots_free"] == 2


async def test_cancelling_a_running_task_lets_it_clean_up(tmp_path):
    journal = tmp_path / "journal"
    async with running() as node:
        handle = await node.submit("Stubborn", "clean_up", method_kwargs={"journal": str(journal)})
        while "begun" not in texts(await handle.logs()):
            await asyncio.sleep(0.01)
        await handle.cancel("not wanted")
        ended = await handle.outcome(30)
        assert (ended.status, ended.message) == (Status.CANCELLED, "not wanted")
        assert journal.read_text() == "cleaned up"
        with pytest.raises(TooLate, match="cancelled already"):
            await handle.cancel()


async def test_cancelling_a_queued_task():
    async with running(SLOTS=1) as node:
        blocker = await node.submit("Echo", "sleep", method_kwargs={"seconds": 0.3})
        queued = await node.submit("Nothing")
        await queued.cancel()
        assert (await queued.outcome(5)).status is Status.CANCELLED
        assert (await blocker.outcome(10)).complete
        assert (await queued.record()).attempts == 0


async def test_a_model_failure_is_not_retried_unless_asked(tmp_path):
    async with running() as node:
        once = {"journal": str(tmp_path / "once"), "times": 1}
        assert not (await outcome(node, "Fails", "until", method_kwargs=once)).complete
        twice = {"journal": str(tmp_path / "twice"), "times": 2}
        handle = await node.submit("Fails", "until", method_kwargs=twice, retries=2)
        assert (await handle.outcome(30)).result == "at last"
        assert (await handle.record()).attempts == 3


async def test_retries_per_model_class(tmp_path):
    async with running(LIMITS={"Fails": Limits(retries=1)}) as node:
        kwargs = {"journal": str(tmp_path / "j"), "times": 1}
        assert (await outcome(node, "Fails", "until", method_kwargs=kwargs)).complete


async def test_priorities():
    async with running(SLOTS=1) as node:
        blocker = await node.submit("Echo", "sleep", method_kwargs={"seconds": 0.3})
        low = await node.submit("Nothing", priority=-5)
        middle = await node.submit("Nothing")
        high = await node.submit("Nothing", priority=5)
        await asyncio.gather(*(h.outcome(30) for h in (blocker, low, middle, high)))
        began = [(await h.record()).started for h in (high, middle, low)]
        assert began == sorted(began)


async def test_a_long_task_does_not_keep_those_that_share_its_slot():
    """Short attempts of a kind share a slot; one that is long after all gives the rest back."""
    async with running(SLOTS=2) as node:
        await asyncio.gather(
            *(outcome(node, "Echo", "sleep", method_kwargs={"seconds": 0}) for _ in range(50))
        )
        handles = await asyncio.gather(
            *(
                node.submit("Echo", "sleep", method_kwargs={"seconds": 0 if i else 2})
                for i in range(41)
            )
        )
        began = time.monotonic()
        await asyncio.gather(*(h.outcome(30) for h in handles[1:]))
        assert time.monotonic() - began < 1.5
        assert (await handles[0].outcome(30)).result == 2
        assert {(await h.record()).attempts for h in handles} == {1}


async def test_of_several_in_a_slot_only_the_killer_is_charged():
    async with running(SLOTS=1, CRASH_ATTEMPTS=2) as node:

        async def submit(die):
            return await node.submit("Dies", "die_if", method_kwargs={"die": die})

        warm = await asyncio.gather(*(submit(False) for _ in range(50)))
        await asyncio.gather(*(h.outcome(30) for h in warm))
        handles = await asyncio.gather(*(submit(i == 20) for i in range(40)))
        outcomes = [await h.outcome(30) for h in handles]
        attempts = [(await h.record()).attempts for h in handles]
        assert outcomes[20].reason is Reason.SIGNAL
        assert attempts[20] == 2
        assert sum(o.complete for o in outcomes) == 39
        assert sum(attempts) == 41


class Modest(TestConfig):
    MAX_QUEUED_TASKS = 2


async def test_the_whole_node_can_be_stopped_while_a_task_runs_and_queued_ones_wait():
    async with running(Modest, SLOTS=1, DRAIN_TIMEOUT=0.3) as node:
        await node.submit("Echo", "sleep", method_kwargs={"seconds": 30})
        waiting = asyncio.create_task(outcome(node, "Nothing"))
        await until(lambda: node.governor.status()["queued"] == 1)
        began = time.monotonic()
    assert time.monotonic() - began < 3
    with pytest.raises(Exception, match="stopped before the task ended"):
        await waiting
