"""A plugin that does what it should not is named, and the node runs on."""

import asyncio
import logging
import time

import pytest

import bad_plugins as bad
from fossa import Fossa, FossaError, Reason, guarding, settling, supervision
from fossa.composition import compose
from fossa.errors import ConfigError, PluginError, TaskRefused
from fossa.testing import FakeClock, LeakGuard, MemoryExecutor, MemorySink
from support import TestConfig, outcome, running, until


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Patience is for nodes that work."""
    monkeypatch.setattr(guarding, "BLOCKED", 0.1)
    monkeypatch.setattr(guarding, "BLOCKED_OPENING", 0.1)
    monkeypatch.setattr("fossa.plugins.BLOCKED", 0.1)
    monkeypatch.setattr(guarding, "GIVE_UP", 0.1)
    monkeypatch.setattr(guarding, "GIVE_UP_RUN", 0.1)
    monkeypatch.setattr(guarding, "LEFT_PATIENCE", 0.1)
    for name, seconds in (("OPEN_DEADLINE", 0.3), ("CLOSE_DEADLINE", 0.3)):
        monkeypatch.setattr(f"fossa.node.{name}", seconds)
    monkeypatch.setattr(settling, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(supervision, "FIRST_DELAY", 0.02)


def node(**settings):
    return running(**{"EXECUTORS": [MemoryExecutor()], **settings})


async def works(node):
    """It runs what it is given, to the end."""
    return (await outcome(node, "Nothing", timeout=10)).complete


async def _leave():
    bad.leaves()


def said(caplog, level=logging.WARNING):
    return [r.getMessage() for r in caplog.records if r.levelno >= level]


# raises in every hook


@pytest.mark.parametrize("act", [bad.raises, bad.leaves, bad.cancels])
async def test_one_that_raises_in_every_hook_that_observes(caplog, act):
    sink = MemorySink(required=True)
    async with node(PLUGINS=[bad.observer("Sour", act)], SINKS=[sink]) as running_node:
        assert await works(running_node)
    assert len(sink.taken) == 1
    for hook in bad.OBSERVE:
        assert f"plugin Sour: {hook} raised" in said(caplog)


@pytest.mark.parametrize("act", [bad.raises, bad.leaves, bad.cancels])
async def test_one_that_raises_where_it_should_decide(caplog, act):
    plugin = bad.observer("Sour", act, ["fossa_refuse_task"])
    async with node(PLUGINS=[plugin]) as running_node:
        with pytest.raises(TaskRefused, match="the plugin 'Sour' failed at fossa_refuse_task"):
            await running_node.submit("Nothing")
        assert running_node.governor.not_ready() == []
    plugin = bad.observer("Sour", act, ["fossa_choose_executor"])
    async with node(PLUGINS=[plugin]) as running_node:
        ended = await outcome(running_node, "Nothing", timeout=10)
        assert ended.reason is Reason.EXECUTOR
        assert "the plugin 'Sour' failed at fossa_choose_executor" in ended.message


# blocks


async def test_one_that_blocks_in_a_hook_is_named_once(caplog):
    plugin = bad.observer("Slow", lambda: time.sleep(0.15), ["fossa_task_ended"])
    async with node(PLUGINS=[plugin]) as running_node:
        assert await works(running_node)
        assert await works(running_node)
    [line] = [line for line in said(caplog) if "blocked" in line]
    assert line.startswith("plugin Slow: fossa_task_ended blocked the node's event loop for 0.")


@pytest.mark.parametrize("verb", ["open", "take", "close"])
async def test_a_sink_that_blocks_the_loop_is_named(caplog, verb):
    sink = bad.BadSink(verb, bad.blocks)
    async with node(SINKS=[sink]) as running_node:
        assert await works(running_node)
    assert len(sink.taken) == 1
    [line] = [line for line in said(caplog) if "blocked" in line]
    assert line.startswith(f"sink BadSink: {verb}() blocked the node's event loop for 0.3")


async def test_a_source_that_blocks_the_loop_is_named(caplog):
    source = bad.BadSource(bad.blocks)
    async with node(SOURCES=[source]) as running_node:
        await until(lambda: source.runs == 2)
        assert await works(running_node)
    assert any(line.startswith("source BadSource: run() blocked") for line in said(caplog))


async def test_one_that_does_nothing_wrong_is_not_named(caplog):
    plugin = bad.observer("Fine", lambda: None)
    async with node(PLUGINS=[plugin], SINKS=[MemorySink()]) as running_node:
        assert await works(running_node)
    assert said(caplog) == []


# never returns


@pytest.mark.parametrize("act", [bad.forever, bad.deaf])
@pytest.mark.parametrize("required", [True, False])
async def test_a_sink_whose_take_never_returns(caplog, act, required):
    stuck, other = bad.BadSink("take", act, required, deadline=0.05), MemorySink(required=required)
    async with node(SINKS=[stuck, other]) as running_node:
        assert await works(running_node)
        await until(lambda: any("took longer than 0.05 s" in text for text in _texts(caplog)))
        assert await works(running_node)
        await until(lambda: len(other.taken) == 2)
        troubles = running_node.governor.not_ready()
        assert bool(troubles) is required
        await running_node.stop(0)
    told = "sink BadSink: take() did not stop when it was cancelled"
    assert any(told in line for line in said(caplog)) is (act is bad.deaf)


def _texts(caplog):
    return [f"{r.getMessage()} {r.exc_info and r.exc_info[1]}" for r in caplog.records]


@pytest.mark.parametrize("act", [bad.forever, bad.deaf])
async def test_one_that_never_opens_stops_the_start(act):
    sink = bad.BadSink("open", act)
    with pytest.raises(FossaError, match=r"sink BadSink: open\(\) took longer than 0\.3 s"):
        await Fossa(TestConfig, SINKS=[sink]).start()


@pytest.mark.parametrize("act", [bad.forever, bad.deaf])
async def test_one_that_refuses_to_close_is_left(caplog, act):
    sink, after = bad.BadSink("close", act), MemorySink()
    async with node(SINKS=[after, sink]) as running_node:
        assert await works(running_node)
        began = time.monotonic()
    assert time.monotonic() - began < 3
    assert "sink BadSink could not be closed" in said(caplog)
    assert "sink BadSink: close() took longer than 0.3 s" in " ".join(_texts(caplog))


async def test_a_source_that_does_not_hear_that_it_should_stop(caplog):
    source = bad.BadSource(bad.deaf)
    async with node(SOURCES=[source]) as running_node:
        assert await works(running_node)
        began = time.monotonic()
    assert time.monotonic() - began < 3
    assert "source BadSource: run() did not stop when it was cancelled" in " ".join(said(caplog))


async def test_an_executor_that_does_not_hear_that_it_should_stop(caplog, monkeypatch):
    monkeypatch.setattr("fossa.node.KILL_DEADLINE", 0.1)
    executor = bad.BadExecutor(bad.deaf)
    async with node(EXECUTORS=[executor]) as running_node:
        await running_node.submit("Echo", "pid")
        await until(lambda: executor.began)
        await running_node.stop(0)
    [line] = [line for line in said(caplog) if "running: it is cancelled" in line]
    assert line.startswith("executor BadExecutor left the task")


# returns what it should not


async def test_hooks_that_return_something_of_a_wrong_type(caplog):
    async def work():
        """Would not be awaited."""

    plugins = [bad.observer("Chatty", lambda: 5), bad.observer("Async", work)]
    async with node(PLUGINS=plugins) as running_node:
        assert await works(running_node)
    for hook in bad.OBSERVE:
        assert f"plugin Chatty: {hook} returned a int: it should be None" in said(caplog)
        assert f"plugin Async: {hook} returned a coroutine: it should be None" in said(caplog)


@pytest.mark.parametrize("value", [5, True, ["x"], object()])
async def test_deciders_that_return_something_of_a_wrong_type(value):
    async with node(PLUGINS=[bad.observer("Odd", lambda: value, ["fossa_refuse_task"])]) as it:
        with pytest.raises(TaskRefused, match=r"the plugin 'Odd' returned a .* from fossa_refuse"):
            await it.submit("Nothing")
    async with node(PLUGINS=[bad.observer("Odd", lambda: value, ["fossa_choose_executor"])]) as it:
        ended = await outcome(it, "Nothing", timeout=10)
        assert ended.reason is Reason.EXECUTOR
        assert "the plugin 'Odd' returned a" in ended.message


async def test_methods_that_are_no_async_functions(caplog):
    with pytest.raises(PluginError, match=r"sink PlainOpen: open\(\) returned a NoneType: it shou"):
        await Fossa(TestConfig, SINKS=[bad.PlainOpen]).start()
    async with node(SINKS=[bad.Plain]) as running_node:
        assert await works(running_node)
        await until(lambda: "take() returned a NoneType: it should be" in " ".join(_texts(caplog)))


async def _cancels():
    bad.cancels()


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (bad.returns_nothing, "executor BadExecutor returned a NoneType: it should return an Out"),
        (_cancels, "its executor cancelled it, and nobody had asked"),
        (_leave, "SystemExit: 3"),
    ],
)
async def test_an_executor_that_returns_no_outcome(act, told):
    async with node(EXECUTORS=[bad.BadExecutor(act)], CRASH_ATTEMPTS=2) as running_node:
        ended = await outcome(running_node, "Echo", "pid", timeout=10)
        assert (ended.reason, ended.attempt) == (Reason.EXECUTOR, 2)
        assert told in ended.message
        assert await works(running_node)


@pytest.mark.parametrize("act", [bad.raises, lambda: "many", lambda: None])
async def test_an_executor_that_cannot_say_how_much_room_it_has(caplog, act):
    executors = [MemoryExecutor(), bad.Unsure(act)]
    async with node(EXECUTORS=executors, PLUGINS=[_sends("Unsure")]) as running_node:
        assert await works(running_node)
        sent = await running_node.submit("Echo", "say")
        assert not (await sent.record()).status.final
        assert await works(running_node)
    assert any(line.startswith("executor Unsure: room()") for line in said(caplog))


def _sends(name):
    class Sends:
        @bad.hookimpl
        def fossa_choose_executor(self, task):
            return name if task.method == "say" else None

    return Sends()


async def test_one_that_cannot_say_whether_it_is_ready(caplog):
    class Mute(MemorySink):
        def ready(self):
            return bad.raises()

        def fleet(self):
            return None if self.taken else bad.raises()

    sink = Mute(required=True)
    async with node(SINKS=[sink]) as running_node:
        told = running_node.governor.not_ready()
        assert told == ["Mute: ready() raised Trouble: a plugin's own"]
        assert len(running_node.governor.fleet()) == 1
        assert await works(running_node)
        await until(lambda: sink.taken)
        assert len(running_node.governor.fleet()) == 1


# sources that end


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (bad.returns_nothing, "its run() returned and is run again"),
        (lambda: asyncio.to_thread(bad.raises), "failed and is run again: Trouble: a plugin's own"),
        (lambda: asyncio.sleep(0, bad.leaves()), r"run() called sys.exit(3)"),
        (lambda: asyncio.sleep(0, bad.cancels()), "run() was cancelled from within"),
    ],
)
async def test_a_source_that_ends_is_named_and_run_again(caplog, monkeypatch, act, why):
    monkeypatch.setattr(supervision, "FIRST_DELAY", 0.2)
    source = bad.BadSource(act)
    async with node(SOURCES=[source]) as running_node:
        await until(running_node.governor.not_ready)
        [told] = running_node.governor.not_ready()
        assert told.startswith("BadSource: its run() ")
        assert why in told
        assert await works(running_node)
        await until(lambda: source.runs == 2)
        assert running_node.governor.not_ready() == []
    assert any("source BadSource" in line for line in said(caplog))


async def test_a_source_that_ends_at_once_is_run_ever_less_often(monkeypatch):
    monkeypatch.setattr(supervision, "FIRST_DELAY", 0.5)
    monkeypatch.setattr(supervision.random, "uniform", lambda low, high: high)
    clock, source = FakeClock(), bad.BadSource(bad.returns_nothing, times=1000)
    guard = guarding.Guard("", logging.getLogger("fossa.test"))
    supervisor = supervision.Supervisor(source, None, guard, clock.monotonic, clock.sleep)
    running = asyncio.create_task(supervisor.run())
    delays = []
    for _ in range(8):
        await clock.asleep()
        delays.append(clock.next_in())
        await clock.advance(delays[-1])
    await clock.asleep()
    running.cancel()
    await asyncio.wait([running])
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert source.runs == 9


# leaves something running


@pytest.mark.parametrize("work", [bad.forever, bad.deaf])
async def test_one_that_leaks_a_task_is_named(caplog, work):
    leaked = []

    def leak():
        leaked.append(asyncio.create_task(work()))

    plugin = bad.observer("Leaky", leak, ["fossa_task_ended"])
    mine = asyncio.create_task(bad.forever())
    async with node(PLUGINS=[plugin]) as running_node:
        assert await works(running_node)
    assert leaked[0].done()
    [line] = [line for line in said(caplog) if "running: it is cancelled" in line]
    assert line.startswith("plugin Leaky left the task ")
    assert work.__qualname__ in line
    # What the host runs is its own.
    assert not mine.done()
    mine.cancel()


async def test_a_task_that_ends_soon_by_itself_is_no_leak(caplog):
    done = []

    async def soon():
        await asyncio.sleep(0.02)
        done.append(1)

    plugin = bad.observer("Tidy", lambda: _started(soon()), ["fossa_node_stopped"])
    async with node(PLUGINS=[plugin]) as running_node:
        assert await works(running_node)
    assert done == [1]
    assert said(caplog) == []


def _started(work):
    tasks.append(asyncio.create_task(work))


tasks = []


async def test_a_sink_that_leaks_a_task_is_named(caplog):
    class Leaky(MemorySink):
        async def open(self, node):
            self.task = asyncio.create_task(bad.forever(), name="poll")

    async with node(SINKS=[Leaky()]) as running_node:
        assert await works(running_node)
    assert any(line.startswith("sink Leaky left the task 'poll'") for line in said(caplog))


def test_a_process_with_all_of_them_ends():
    """An event loop that is closed waits for what will not be cancelled: there is nothing left."""
    sinks = [bad.BadSink("take", bad.deaf), MemorySink()]
    sources = [bad.BadSource(bad.deaf)]
    leaky = bad.observer("Leaky", lambda: _started(bad.deaf()), ["fossa_node_started"])

    async def ran():
        settings = {"SINKS": sinks, "SOURCES": sources, "PLUGINS": [leaky]}
        async with node(**settings) as running_node:
            assert await works(running_node)

    with LeakGuard() as guard:
        asyncio.run(asyncio.wait_for(ran(), 20))
    assert guard.left == []


# cannot be opened, or made


async def test_one_that_raises_while_it_opens_stops_the_start_with_its_name():
    async def fails():
        raise OSError("no such host")

    for act, told in ((fails, "OSError: no such host"), (_leave, r"called sys\.exit\(3\)")):
        node = Fossa(TestConfig, SINKS=[bad.BadSink("open", act)])
        with pytest.raises(PluginError, match=rf"sink BadSink.*open.*{told}"):
            await node.start()


async def test_one_that_raises_while_it_closes_holds_nobody_up(caplog):
    sink, other = bad.BadSink("close", _leave), MemorySink()
    async with node(SINKS=[other, sink]) as running_node:
        assert await works(running_node)
    assert "sink BadSink could not be closed" in said(caplog)


def mistakes(**settings):
    with pytest.raises(ConfigError) as raised:
        compose(TestConfig, **settings)
    return "\n".join(raised.value.mistakes)


def test_one_with_a_missing_dependency_is_a_mistake_of_the_config(install):
    install("lacking", "import no_such_library", {"fossa.sinks": "lacking = lacking:Sink"})
    told = mistakes(SINKS=["lacking"])
    assert "SINKS: 'lacking' of fossa.sinks cannot be loaded: lacking:Sink: Module" in told
    assert "no_such_library" in told


def test_one_that_leaves_while_it_is_imported_is_a_mistake_of_the_config(install):
    install("leaver", "import sys; sys.exit(3)", {"fossa.sinks": "leaver = leaver:Sink"})
    assert "SINKS: 'leaver' of fossa.sinks cannot be loaded: SystemExit: 3" in mistakes(
        SINKS=["leaver"]
    )


def test_one_that_claims_anothers_name_is_a_mistake_of_the_config(install):
    install("usurper", "class Sink: pass", {"fossa.sinks": "log = usurper:Sink"})
    told = mistakes(SINKS=["log"])
    assert "SINKS: 'log' is the name of several installed plugins in fossa.sinks" in told
    assert "ayeaye-fossa 1" in told
    assert "usurper 1.0: uninstall all but one" in told


def test_one_that_leaves_while_it_is_made_is_a_mistake_of_the_config():
    class Leaver(MemorySink):
        def __init__(self):
            bad.leaves()

    assert "SINKS: Leaver: SystemExit: 3" in mistakes(SINKS=[Leaver])


def test_one_without_its_method_is_a_mistake_of_the_config():
    assert "EXECUTORS: NoExecutor: TypeError" in mistakes(EXECUTORS=[bad.NoExecutor])


def test_a_wrapper_is_a_mistake_of_the_config():
    class Wraps:
        @bad.hookimpl(wrapper=True)
        def fossa_task_ended(self, task):
            return (yield)

    assert "fossa_task_ended of the plugin 'Wraps' is a wrapper" in mistakes(PLUGINS=[Wraps])
