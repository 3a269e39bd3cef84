"""Whatever ends a worker process: the attempt ends at once, typed, and the slot is free."""

import signal
import time

import pytest

from fossa import Reason, Status
from fossa.builtin.local import LocalExecutor
from support import lives, outcome, running, texts, until

ONCE = {"CRASH_ATTEMPTS": 1}


@pytest.mark.parametrize(
    ("method", "kwargs", "reason", "words"),
    [
        ("os_exit", {"status": 0}, Reason.EXIT, "status 0"),
        ("os_exit", {"status": 3}, Reason.EXIT, "status 3"),
        ("sys_exit", {"status": 0}, Reason.EXIT, "sys.exit(0)"),
        ("by_signal", {"number": int(signal.SIGKILL)}, Reason.SIGNAL, "SIGKILL"),
        ("by_signal", {"number": int(signal.SIGTERM)}, Reason.SIGNAL, "SIGTERM"),
        ("segfault", {}, Reason.SIGNAL, "SIGSEGV"),
        ("close_channel", {}, Reason.SIGNAL, "SIGKILL"),
        ("garbage_on_channel", {}, Reason.PROTOCOL, "channel"),
    ],
)
async def test_a_dead_worker_ends_its_attempt(method, kwargs, reason, words):
    async with running(**ONCE, SLOTS=1) as node:
        await outcome(node, "Nothing")
        ended = await outcome(node, "Dies", method, method_kwargs=kwargs)
        assert (ended.status, ended.reason) == (Status.FAILED, reason)
        assert words in ended.message
        assert (await outcome(node, "Nothing")).complete
        assert node.governor.status()["slots_free"] == 1


async def test_a_death_is_noticed_within_100_ms():
    async with running(**ONCE) as node:
        await outcome(node, "Nothing")
        taken = []
        for _ in range(5):
            ended = await outcome(
                node, "Dies", "by_signal", method_kwargs={"number": int(signal.SIGKILL)}
            )
            taken.append(ended.finished - ended.started)
        assert min(taken) < 0.1, taken


async def test_an_exception_that_cannot_be_described_is_an_outcome():
    async with running() as node:
        ended = await outcome(node, "Fails", "unspeakable")
        assert ended.reason is Reason.EXCEPTION
        assert "raised RuntimeError" in ended.message


async def test_garbage_on_stdout_is_only_output():
    async with running() as node:
        ended = await outcome(node, "Dies", "garbage_on_stdout")
        assert ended.result == "still here"


async def test_a_crash_is_attempted_again_up_to_the_budget(tmp_path):
    async with running(CRASH_ATTEMPTS=3) as node:
        handle = await node.submit(
            "Dies", "die_once", method_kwargs={"journal": str(tmp_path / "j")}
        )
        assert (await handle.outcome(30)).result == "survived"
        assert (await handle.record()).attempts == 2
        assert any("SIGKILL" in text for text in texts(await handle.logs()))
        handle = await node.submit("Dies", "by_signal", method_kwargs={"number": 9})
        assert (await handle.outcome(30)).reason is Reason.SIGNAL
        assert (await handle.record()).attempts == 3


async def test_a_memory_limit_ends_the_attempt_not_the_node():
    async with running(**ONCE, MEMORY_LIMIT="256MiB") as node:
        ended = await outcome(node, "Dies", "eat_memory")
        assert ended.reason is Reason.OUT_OF_MEMORY
        assert (await outcome(node, "Nothing")).complete


async def test_a_process_that_a_model_leaves_behind_is_ended(tmp_path):
    pid_file = tmp_path / "pid"
    async with running() as node:
        assert (
            await outcome(node, "Dies", "leave_a_child", method_kwargs={"pid_file": str(pid_file)})
        ).complete
        await until(lambda: not lives(pid_file.read_text()))


async def test_isolation_by_task_gives_each_attempt_a_process_of_its_own():
    async with running(ISOLATION="task") as node:
        pids = {(await outcome(node, "Echo", "pid")).result for _ in range(3)}
        assert len(pids) == 3


async def test_workers_are_used_again_and_replaced_after_their_share():
    async with running(SLOTS=1) as node:
        assert len({(await outcome(node, "Echo", "pid")).result for _ in range(5)}) == 1
    async with running(SLOTS=1, WORKER_MAX_TASKS=2) as node:
        assert len({(await outcome(node, "Echo", "pid")).result for _ in range(6)}) >= 3


async def test_stopping_leaves_no_process(tmp_path):
    pid_file = tmp_path / "pids"
    async with running(DRAIN_TIMEOUT=0.2) as node:
        await node.submit("Stubborn", "ignore", method_kwargs={"pid_file": str(pid_file)})
        await until(lambda: pid_file.exists() and len(pid_file.read_text().split()) == 2)
        began = time.monotonic()
    assert time.monotonic() - began < 3
    worker, child = pid_file.read_text().split()
    await until(lambda: not lives(worker) and not lives(child))


async def test_a_worker_that_has_grown_is_replaced():
    async with running(SLOTS=1, WORKER_MAX_GROWTH="32MiB") as node:
        first = (await outcome(node, "Echo", "pid")).result
        assert (await outcome(node, "Echo", "pid")).result == first
        await outcome(node, "Dies", "grow", method_kwargs={"megabytes": 64})
        assert (await outcome(node, "Echo", "pid")).result != first


# who gets a worker


async def test_whoever_asks_just_as_a_worker_is_handed_to_another_gets_one_too():
    executor = LocalExecutor()
    async with running(EXECUTORS=[executor], ISOLATION="task"):
        workers = executor._workers
        offer, late = workers._offer, workers.take(None)

        def offer_and_ask(worker):
            offer(worker)
            workers._offer = offer
            late.send(None)  # as far as it goes without a worker

        workers._offer = offer_and_ask
        await workers.take(None)
        await until(lambda: not workers._wanted)
        late.close()
