"""The kit for authors of plugins: its suites find what is wrong, its doubles hold the contracts."""

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

import fossa.testing
from fossa import BaseConfig
from fossa.errors import NodeStopped, TaskRefused
from fossa.testing import (
    FakeClock,
    LeakGuard,
    MemoryExecutor,
    MemorySink,
    MemorySource,
    SinkContract,
    SourceContract,
    free_port,
)

pytest_plugins = ["pytester"]


# ports


def test_a_port_that_is_free_is_given_once():
    with socket.create_server(("127.0.0.1", free_port())) as server:
        taken = server.getsockname()[1]
        given = [free_port() for _ in range(150)]
    assert len({taken, *given}) == 151
    with socket.create_server(("127.0.0.1", given[0])):
        assert given[0] not in [free_port() for _ in range(200)]


def test_processes_beside_each_other_are_given_different_ports(monkeypatch):
    mine = {free_port() for _ in range(150)}
    pid = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: pid)
    assert not mine & {free_port() for _ in range(150)}


# the doubles hold the contracts


class TestMemorySource(SourceContract):
    takes = True

    def make(self):
        return MemorySource()

    async def send(self, source, request):
        source.push(
            request.model,
            request.method,
            method_kwargs=request.method_kwargs,
            model_construction_kwargs=request.model_construction_kwargs,
            resolver_context=request.resolver_context,
        )

    async def left(self, source):
        return len(source.waiting)


class TestMemorySink(SinkContract):
    def make(self):
        self.sink = MemorySink()
        return self.sink

    async def read(self):
        return [taken.task.id for taken in self.sink.taken]


async def test_a_memory_source_tells_how_each_message_was_settled(start_node):
    source, sink = MemorySource(), MemorySink(required=True)
    early = source.push("Echo", "say", method_kwargs={"what": 1})
    node = await start_node(SOURCES=[source], SINKS=[sink], EXECUTORS=[MemoryExecutor()])
    late = source.push("NoSuchModel")
    outcome = await asyncio.wait_for(asyncio.wrap_future(early.settled), 10)
    assert outcome.result == {"what": 1}
    with pytest.raises(TaskRefused, match="NoSuchModel"):
        await asyncio.wait_for(asyncio.wrap_future(late.settled), 10)
    assert [taken.task.id for taken in sink.taken] == [early.admitted.result().id]
    await node.stop()


async def test_a_message_that_comes_twice_is_settled_twice_and_told_once(start_node):
    source, sink = MemorySource(), MemorySink(required=True)
    await start_node(SOURCES=[source], SINKS=[sink], EXECUTORS=[MemoryExecutor()])
    ids = []
    for _ in range(2):
        message = source.push("Echo", "say", idempotency_key="the-same")
        assert (await asyncio.wait_for(asyncio.wrap_future(message.settled), 10)).complete
        ids.append(message.admitted.result(10).id)
    assert ids[0] == ids[1]
    assert [taken.task.id for taken in sink.taken] == ids[:1]


async def test_a_memory_source_gets_back_what_a_node_did_not_end(start_node):
    source, executor = MemorySource(), MemoryExecutor(hold=True)
    node = await start_node(SOURCES=[source], EXECUTORS=[executor])
    message = source.push("Echo", "say")
    await asyncio.wait_for(asyncio.wrap_future(message.admitted), 10)
    await node.stop(0)
    assert message.given_back == 1
    assert list(source.waiting) == [message]
    assert not message.settled.done()


async def test_a_memory_sink_fails_as_often_as_it_is_told(start_node):
    sink = MemorySink(required=True, failures=2)
    node = await start_node(SINKS=[sink], EXECUTORS=[MemoryExecutor()])
    handle = await node.submit("Nothing")
    await handle.outcome(10)
    await node.stop()
    assert [taken.task.id for taken in sink.taken] == [handle.id]


async def test_a_memory_executor_holds_until_it_is_released(start_node):
    executor = MemoryExecutor(hold=True)
    node = await start_node(EXECUTORS=[executor])
    handle = await node.submit("Echo", "say")
    with pytest.raises(TimeoutError):
        await handle.outcome(0.05)
    executor.release()
    assert (await handle.outcome(10)).complete
    assert [attempt.task.id for attempt in executor.attempts] == [handle.id]


# the clock


async def test_a_fake_clock_wakes_sleepers_in_their_order_each_at_its_own_time():
    clock, woke = FakeClock(now=1000.0), []

    async def sleeps(name, *pauses):
        for seconds in pauses:
            await clock.sleep(seconds)
            woke.append((name, clock.time()))

    tasks = [asyncio.create_task(sleeps("a", 5, 5)), asyncio.create_task(sleeps("b", 7))]
    await clock.asleep(2)
    assert (clock.next_in(), clock.monotonic()) == (5, 0)
    await clock.advance(4.5)
    assert woke == []
    await clock.advance(60)
    assert woke == [("a", 1005), ("b", 1007), ("a", 1010)]
    assert (clock.time(), clock.monotonic(), clock.next_in()) == (1064.5, 64.5, None)
    await asyncio.gather(*tasks)


async def test_a_fake_clock_forgets_who_was_cancelled():
    clock = FakeClock()
    sleeper = asyncio.create_task(clock.sleep(1))
    await clock.asleep()
    sleeper.cancel()
    await asyncio.wait([sleeper])
    await clock.advance(2)
    await clock.sleep(0)
    assert clock.next_in() is None


# the fixture of nodes


class Quiet(BaseConfig):
    EXECUTORS = (MemoryExecutor,)
    SINKS = ()
    PLUGINS = ()


def test_fossa_node_starts_nodes_without_a_ledger_and_sources(fossa_node):
    first, second = fossa_node(Quiet), fossa_node(Quiet, NODE_NAME="second")
    assert first.status()["state"] == second.status()["state"] == "running"
    assert first.node.composition.LEDGER is None
    assert first.node.composition.sources == ()
    assert second.status()["name"] == "second"
    first.stop()
    with pytest.raises(NodeStopped):
        first.status()


def test_fossa_node_keeps_what_a_config_says(fossa_node, state_dir):
    class Says(Quiet):
        LEDGER = "sqlite"
        SOURCES = (MemorySource,)

    node = fossa_node(Says, STATE_DIR=state_dir)
    assert (state_dir / "ledger.sqlite").exists()
    assert [source.name for source in node.node.composition.sources] == ["MemorySource"]
    assert fossa_node(Says, LEDGER=None, SOURCES=()).node.composition.sources == ()


# the guard


def left(leak, patience=0.1):
    with LeakGuard(patience) as guard:
        leak()
    return guard.left


def test_the_guard_says_nothing_where_nothing_is_left():
    def tidy():
        threading.Thread(target=lambda: None).start()
        subprocess.run([sys.executable, "-c", ""], check=True)
        os.close(os.dup(1))

        async def waits_for_its_own():
            await asyncio.create_task(asyncio.sleep(0))

        asyncio.run(waits_for_its_own())

    assert left(tidy, patience=3) == []


def test_the_guard_finds_a_thread():
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="leaky")
    found = left(thread.start)
    release.set()
    thread.join()
    assert found == ["the thread 'leaky'"]


def test_the_guard_finds_a_file_descriptor():
    opened = []
    found = left(lambda: opened.append(os.open("/etc/hostname", os.O_RDONLY)))
    os.close(opened[0])
    assert found == [f"the file descriptor {opened[0]}: /etc/hostname"]


def test_the_guard_finds_a_child_process():
    started = []
    found = left(lambda: started.append(subprocess.Popen(["sleep", "60"])))
    started[0].kill()
    started[0].wait(10)
    assert found == [f"the child process {started[0].pid}: sleep 60"]


def test_the_guard_finds_a_child_that_nobody_waited_for():
    started = []

    def leave_a_zombie():
        started.append(subprocess.Popen(["true"]))
        os.waitid(os.P_PID, started[0].pid, os.WEXITED | os.WNOWAIT)

    (found,) = left(leave_a_zombie)
    started[0].wait(10)
    assert found.startswith(f"the child process {started[0].pid}: true")


@pytest.mark.may_leak("the guard around this test sees it too")
@pytest.mark.parametrize("in_thread", [False, True])
def test_the_guard_finds_a_task_of_any_loop(in_thread):
    async def forgets():
        kept.append(asyncio.create_task(asyncio.Event().wait(), name="leaky"))

    def leak():
        if not in_thread:
            return asyncio.run(forgets())
        thread = threading.Thread(target=asyncio.run, args=(forgets(),))
        thread.start()
        return thread.join()

    kept = []
    assert left(leak) == ["the asyncio task 'leaky' of Event.wait"]


def test_the_guard_lets_go_of_asyncio():
    before = asyncio.Runner.close
    with LeakGuard():
        assert asyncio.Runner.close is not before
    assert asyncio.Runner.close is before


# the plugin of pytest, in a project of somebody else's


def test_the_plugin_is_light():
    code = (
        "import sys, fossa.testing.pytest_plugin\n"
        "heavy = {'aiohttp', 'ayeaye', 'psutil', 'msgspec', 'attrs', 'attr', 'pluggy.foo',"
        " 'stevedore', 'fossa.embed', 'fossa.governor', 'fossa.config'}\n"
        "import pytest\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout.strip() == "[]"


def test_everything_that_the_kit_names_is_there():
    for name in fossa.testing.__all__:
        assert getattr(fossa.testing, name).__doc__, name
    assert set(fossa.testing.__all__) <= set(dir(fossa.testing))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        fossa.testing.Nothing  # noqa: B018


#: Keeps a suite to the tests that a broken component is to fail.
ONLY = """
from fossa.testing import components

components.PATIENCE = 1.0

def only(*names):
    def keep(suite):
        for name in dir(suite):
            if name.startswith("test_") and name not in names:
                setattr(suite, name, None)
        return suite
    return keep
"""


def run(pytester, code):
    pytester.makepyfile(ONLY + textwrap.dedent(code))
    # Neither the suites nor the fixtures may need an async plugin.
    return pytester.runpytest_subprocess("-p", "no:asyncio", "-p", "no:randomly", "-q", timeout=110)


def test_the_fixtures_work_without_an_async_plugin(pytester):
    ran = run(
        pytester,
        """
        import os, threading, pytest
        from fossa import BaseConfig
        from fossa.testing import MemoryExecutor

        class Config(BaseConfig):
            EXECUTORS = [MemoryExecutor]
            PLUGINS = []

        def test_node(fossa_node):
            assert fossa_node(Config).status()["state"] == "running"

        def test_tidy(no_leaks):
            pass

        def test_leaky(no_leaks):
            os.open("/etc/hostname", os.O_RDONLY)

        @pytest.mark.may_leak("it is what it is for")
        def test_let_off(no_leaks):
            os.open("/etc/hostname", os.O_RDONLY)

        @pytest.mark.may_leak
        def test_let_off_without_a_reason(no_leaks):
            pass
        """,
    )
    ran.assert_outcomes(passed=4, errors=2)
    ran.stdout.fnmatch_lines_random(
        ["*it left behind:*", "*the file descriptor *: /etc/hostname*", "*needs a reason*"]
    )


# the suites find what is wrong


def test_the_suites_find_broken_sources(pytester):
    ran = run(
        pytester,
        """
        import asyncio
        import contextlib
        from fossa.errors import TaskRefused
        from fossa.testing import MemorySource, SourceContract

        class Suite(SourceContract):
            takes = True
            source = MemorySource

            def make(self):
                return self.source()

            async def send(self, source, request):
                source.push(request.model, request.method, method_kwargs=request.method_kwargs)

            async def left(self, source):
                return len(source.waiting)

        class Hoards(MemorySource):
            async def run(self, node):
                while True:
                    self._arrived.clear()
                    while self.waiting:
                        with contextlib.suppress(TaskRefused):
                            await node.admit(self._delivery(self.waiting.popleft()))
                    await self._arrived.wait()

        class Dies(MemorySource):
            async def _fetch(self, node, reservation):
                delivery = self._delivery(self.waiting.popleft())
                await node.admit(delivery, reservation)

        class KeepsSlots(MemorySource):
            async def run(self, node):
                while True:
                    await self._fetch_one(node)

            async def _fetch_one(self, node):
                reservation = await node.reserve()
                while not self.waiting:
                    self._arrived.clear()
                    await self._arrived.wait()
                await self._fetch(node, reservation)

        class Deaf(MemorySource):
            async def run(self, node):
                for _ in range(2):
                    with contextlib.suppress(asyncio.CancelledError):
                        await super().run(node)

        class Busy(MemorySource):
            def __init__(self):
                super().__init__()
                open("/etc/hostname").close()

        @only("test_it_asks_for_a_slot_before_it_fetches", "test_what_is_sent_becomes_a_task")
        class TestHoards(Suite): source = Hoards

        @only("test_a_refused_request_stops_nothing")
        class TestDies(Suite): source = Dies

        @only("test_it_stops_promptly_when_cancelled")
        class TestKeepsSlots(Suite): source = KeepsSlots

        @only("test_it_stops_promptly_when_cancelled")
        class TestDeaf(Suite):
            source = Deaf
            promptly = 0.5

        @only("test_its_constructor_does_nothing")
        class TestBusy(Suite): source = Busy

        @only("test_many_are_sent_and_none_is_lost")
        class TestForgets(Suite):
            async def send(self, source, request):
                if request.method_kwargs != {"value": "7"}:
                    await super().send(source, request)
        """,
    )
    failed = failures(ran)
    assert failed == {
        ("TestHoards", "test_it_asks_for_a_slot_before_it_fetches"),
        ("TestDies", "test_a_refused_request_stops_nothing"),
        ("TestKeepsSlots", "test_it_stops_promptly_when_cancelled"),
        ("TestDeaf", "test_it_stops_promptly_when_cancelled"),
        ("TestBusy", "test_its_constructor_does_nothing"),
        ("TestForgets", "test_many_are_sent_and_none_is_lost"),
    }


def test_the_suites_find_broken_sinks(pytester):
    ran = run(
        pytester,
        """
        import asyncio
        from fossa.errors import FossaError
        from fossa.testing import MemorySink, SinkContract

        class Suite(SinkContract):
            sink = MemorySink

            def make(self):
                self.made = self.sink()
                return self.made

            async def read(self):
                return [taken.task.id for taken in self.made.taken]

        class Loses(MemorySink):
            async def take(self, task, outcome):
                if outcome.status != "cancelled":
                    await super().take(task, outcome)

        class Once(MemorySink):
            async def take(self, task, outcome):
                assert task.id not in [t.task.id for t in self.taken]
                await super().take(task, outcome)

        class OneAtATime(MemorySink):
            busy = False

            async def take(self, task, outcome):
                assert not self.busy
                self.busy = True
                await asyncio.sleep(0)
                self.busy = False
                await super().take(task, outcome)

        class Latin(MemorySink):
            async def take(self, task, outcome):
                outcome.message.encode("latin-1")
                await super().take(task, outcome)

        class LeavesATask(MemorySink):
            async def open(self, node):
                self.forgotten = asyncio.create_task(asyncio.Event().wait())

        class CannotClose(MemorySink):
            async def open(self, node):
                self.handle = object()

            async def close(self):
                del self.handle

        class OpensWide(MemorySink):
            async def open(self, node):
                raise ValueError("no FossaError")

        @only("test_it_takes_outcomes_of_every_status", "test_it_takes_many_at_once")
        class TestLoses(Suite): sink = Loses

        @only("test_it_takes_the_same_outcome_twice", "test_it_takes_many_at_once")
        class TestOnce(Suite): sink = Once

        @only("test_it_takes_many_at_once", "test_it_takes_the_same_outcome_twice")
        class TestOneAtATime(Suite): sink = OneAtATime

        @only("test_it_takes_hostile_text", "test_it_takes_every_result")
        class TestLatin(Suite): sink = Latin

        @only("test_it_opens_and_closes")
        class TestLeavesATask(Suite): sink = LeavesATask

        @only("test_it_closes_where_it_was_never_opened", "test_closing_it_twice_is_harmless",
              "test_it_opens_and_closes")
        class TestCannotClose(Suite): sink = CannotClose

        @only("test_it_closes_after_an_open_that_failed")
        class TestOpensWide(Suite):
            def broken(self):
                return OpensWide()

        @only("test_required_is_declared")
        class TestUnwritten(SinkContract): pass
        """,
    )
    failed = failures(ran)
    assert failed == {
        ("TestLoses", "test_it_takes_outcomes_of_every_status"),
        ("TestOnce", "test_it_takes_the_same_outcome_twice"),
        ("TestOneAtATime", "test_it_takes_many_at_once"),
        ("TestLatin", "test_it_takes_hostile_text"),
        ("TestLeavesATask", "test_it_opens_and_closes"),
        ("TestCannotClose", "test_it_closes_where_it_was_never_opened"),
        ("TestCannotClose", "test_closing_it_twice_is_harmless"),
        ("TestOpensWide", "test_it_closes_after_an_open_that_failed"),
        ("TestUnwritten", "test_required_is_declared"),
    }
    ran.stdout.fnmatch_lines(["*TestUnwritten should override make()*"])


def test_the_suites_find_broken_executors(pytester):
    ran = run(
        pytester,
        """
        import asyncio
        from attrs import evolve
        from fossa.builtin.local import LocalExecutor
        from fossa.testing import ExecutorContract

        class Suite(ExecutorContract):
            executor = LocalExecutor
            deadline = 20.0

            def make(self):
                return self.executor()

        class LeavesRunning(LocalExecutor):
            async def run(self, attempt, live):
                running = asyncio.ensure_future(super().run(attempt, live))
                return await asyncio.shield(running)

        class Swallows(LocalExecutor):
            async def run(self, attempt, live):
                try:
                    return await super().run(attempt, live)
                except asyncio.CancelledError:
                    return None

        class Untimed(LocalExecutor):
            async def run(self, attempt, live):
                task = evolve(attempt.task, timeout=None)
                return await super().run(evolve(attempt, task=task), live)

        class Mute(LocalExecutor):
            async def run(self, attempt, live):
                live.log = live.progress = lambda *_: None
                return await super().run(attempt, live)

        class Optimist(LocalExecutor):
            async def run(self, attempt, live):
                outcome = await super().run(attempt, live)
                return evolve(outcome, status="complete")

        @only("test_a_cancelled_attempt_is_ended_for_good")
        class TestLeavesRunning(Suite): executor = LeavesRunning

        @only("test_a_cancelled_attempt_is_ended_for_good")
        class TestSwallows(Suite): executor = Swallows

        @only("test_an_attempt_that_runs_for_too_long_is_ended")
        class TestUntimed(Suite):
            executor = Untimed
            deadline = 3.0

        @only("test_what_a_model_logs_is_told", "test_progress_is_told",
              "test_several_attempts_at_once_keep_apart")
        class TestMute(Suite): executor = Mute

        @only("test_an_exception_is_an_outcome", "test_a_result_that_is_not_json_is_described")
        class TestOptimist(Suite): executor = Optimist
        """,
    )
    failed = failures(ran)
    assert failed == {
        ("TestLeavesRunning", "test_a_cancelled_attempt_is_ended_for_good"),
        ("TestSwallows", "test_a_cancelled_attempt_is_ended_for_good"),
        ("TestUntimed", "test_an_attempt_that_runs_for_too_long_is_ended"),
        ("TestMute", "test_what_a_model_logs_is_told"),
        ("TestMute", "test_progress_is_told"),
        ("TestOptimist", "test_an_exception_is_an_outcome"),
    }


def failures(ran):
    """(suite, test) of each that failed or left something behind."""
    names = [
        line.split("::", 1)[1].split(" ")[0].split("[")[0]
        for line in ran.outlines
        if line.startswith(("FAILED ", "ERROR "))
    ]
    return {tuple(name.split("::")) for name in names}
