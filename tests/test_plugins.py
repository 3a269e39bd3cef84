"""Plugins: who may take part, what they may decide, what they may not break."""

import logging

import pytest

from fossa import Executor, Reason, Status, hookimpl, use
from fossa.composition import compose
from fossa.errors import ConfigError, PluginError, TaskRefused
from fossa.hookspecs import hookspec
from fossa.plugins import HOOKS, Hooks, look_up
from fossa.testing import MemoryExecutor, MemorySink
from support import TestConfig, outcome, running

LOG = logging.getLogger("fossa.test")


def mistakes(**settings):
    with pytest.raises(ConfigError) as raised:
        compose(TestConfig, **settings)
    return raised.value.mistakes


# who may take part


def test_a_hook_may_ask_for_fewer_arguments():
    class Fewer:
        @hookimpl
        def fossa_attempt_ended(self, outcome):
            seen.append(outcome)

    seen = []
    Hooks([("fewer", Fewer())], LOG).observe("fossa_attempt_ended", attempt="a", outcome="o")
    assert seen == ["o"]


def test_a_hook_with_an_argument_that_there_is_not_is_refused():
    class Wrong:
        @hookimpl
        def fossa_task_ended(self, task, result):
            """There is no `result`."""

    with pytest.raises(PluginError, match=r"(?s)'wrong' cannot be registered.*result"):
        Hooks([("wrong", Wrong())], LOG)


def test_an_async_hook_is_refused():
    class Waits:
        @hookimpl
        async def fossa_task_ended(self, task):
            """pluggy would never await it."""

    with pytest.raises(PluginError, match="fossa_task_ended of the plugin 'waits' is an async"):
        Hooks([("waits", Waits())], LOG)


def test_a_misspelt_hook_is_refused():
    class Misspelt:
        @hookimpl
        def fossa_task_endet(self, task):
            """Nobody would call it."""

    with pytest.raises(PluginError, match="fossa_task_endet"):
        Hooks([("misspelt", Misspelt())], LOG)


def test_a_plugin_without_a_hook_is_refused():
    class Unmarked:
        def fossa_task_ended(self, task):
            """It lacks its @hookimpl."""

    with pytest.raises(PluginError, match="'unmarked' implements no hook: mark its functions"):
        Hooks([("unmarked", Unmarked())], LOG)


def test_mistakes_in_hooks_are_mistakes_of_the_config():
    class Waits:
        @hookimpl
        async def fossa_task_ended(self, task):
            """pluggy would never await it."""

    found = mistakes(PLUGINS=[Waits], HTTP_PORT=-1)
    assert any(m.startswith("PLUGINS: fossa_task_ended of the plugin 'Waits'") for m in found)
    assert any(m.startswith("HTTP_PORT is -1") for m in found)


def test_two_plugins_of_one_name_are_refused():
    class Twice:
        @hookimpl
        def fossa_task_ended(self, task):
            """Does nothing."""

    assert any("'Twice'" in m and "registered" in m for m in mistakes(PLUGINS=[Twice, Twice]))


def test_every_hook_says_what_it_is_for():
    from fossa import hookspecs

    assert len(HOOKS) <= 12
    for name in HOOKS:
        assert (getattr(hookspecs, name).__doc__ or "").strip().endswith("."), name
    assert hookspec.project_name == hookimpl.project_name == "fossa"


def test_a_module_is_a_plugin():
    import types

    module = types.ModuleType("my_plugin")

    @hookimpl
    def fossa_refuse_task(task):
        return f"not {task}"

    module.fossa_refuse_task = fossa_refuse_task
    assert compose(TestConfig, PLUGINS=[module]).plugins == (("my_plugin", module),)
    assert Hooks([("my_plugin", module)], LOG).refuse_task("me") == "not me"


# observers


class Diary:
    """Writes down everything that it is told of."""

    def __init__(self):
        self.events = []


def _note(name):
    if name in ("fossa_node_started", "fossa_node_stopped"):

        def hook(self, node):
            self.events.append(name)
    elif name == "fossa_attempt_started":

        def hook(self, attempt):
            self.events.append((name, attempt.task.method))
    elif name == "fossa_attempt_ended":

        def hook(self, attempt, outcome):
            self.events.append((name, attempt.task.method, outcome.reason))
    elif name == "fossa_task_ended":

        def hook(self, task, outcome):
            self.events.append((name, task.method, outcome.status))
    else:

        def hook(self, task):
            self.events.append((name, task.method))

    return hookimpl(hook)  # fmt: skip


OBSERVED = [name for name in HOOKS if name not in ("fossa_choose_executor", "fossa_refuse_task")]
for _name in OBSERVED:
    setattr(Diary, _name, _note(_name))


async def test_observers_are_told_the_life_of_a_task_in_order():
    diary = Diary()
    async with running(PLUGINS=[diary]) as node:
        assert (await outcome(node, "Fails", retries=1)).reason is Reason.EXCEPTION
    assert diary.events == [
        "fossa_node_started",
        ("fossa_task_accepted", "go"),
        ("fossa_attempt_started", "go"),
        ("fossa_attempt_ended", "go", Reason.EXCEPTION),
        ("fossa_attempt_started", "go"),
        ("fossa_attempt_ended", "go", Reason.EXCEPTION),
        ("fossa_task_ended", "go", Status.FAILED),
        "fossa_node_stopped",
    ]


async def test_observers_are_told_of_subtasks():
    diary = Diary()
    async with running(PLUGINS=[diary]) as node:
        options = {"count": 3, "kind": "list"}
        assert (await outcome(node, "Squares", model_construction_kwargs=options)).complete
    assert diary.events.count(("fossa_task_accepted", "square")) == 3
    assert diary.events.count(("fossa_task_ended", "square", Status.COMPLETE)) == 3


class Raises:
    """Raises from every hook that observes."""


def _raising():
    def hook(self):
        raise RuntimeError("an observer's own trouble")

    return hookimpl(hook)


for _name in OBSERVED:
    setattr(Raises, _name, _raising())


async def test_an_observer_that_raises_hurts_nobody(caplog):
    before, after = Diary(), Diary()
    before.__class__, after.__class__ = type("Before", (Diary,), {}), type("After", (Diary,), {})
    sink = MemorySink(required=True)
    async with running(PLUGINS=[before, Raises(), after], SINKS=[sink]) as node:
        assert (await outcome(node, "Nothing")).complete
    assert before.events == after.events
    assert len(before.events) == len(OBSERVED)
    assert [taken.outcome.complete for taken in sink.taken] == [True]
    told = [r.getMessage() for r in caplog.records if "plugin Raises" in r.getMessage()]
    assert sorted(told) == sorted(f"plugin Raises: {name} raised" for name in OBSERVED)


# deciders


class Far(MemoryExecutor):
    """Stands in for an executor on another node."""

    remote = True


class Chooses:
    def __init__(self, **choices):
        self.choices = choices
        self.asked = []

    @hookimpl
    def fossa_choose_executor(self, task, executors):
        self.asked.append([e.name for e in executors])
        choice = self.choices.get(task.method)
        if isinstance(choice, Exception):
            raise choice
        return choice


async def test_a_plugin_chooses_the_executor():
    near, far = MemoryExecutor(), Far()
    chooses = Chooses(say="Far")
    async with running(EXECUTORS=[near, far], PLUGINS=[chooses]) as node:
        assert (await outcome(node, "Echo", "say")).complete
        assert (await outcome(node, "Echo", "pid")).complete
    assert [a.task.method for a in far.attempts] == ["say"]
    assert [a.task.method for a in near.attempts] == ["pid"]
    assert chooses.asked[0] == ["MemoryExecutor", "Far"]


async def test_the_first_plugin_that_chooses_has_chosen():
    class Later(Chooses):
        @hookimpl(trylast=True)
        def fossa_choose_executor(self, task, executors):
            return "MemoryExecutor"

    near, far = MemoryExecutor(), Far()
    plugins = [Chooses(say="Far"), Later()]
    async with running(EXECUTORS=[near, far], PLUGINS=plugins) as node:
        await outcome(node, "Echo", "say")
        await outcome(node, "Echo", "pid")
    assert [a.task.method for a in far.attempts] == ["say"]
    assert [a.task.method for a in near.attempts] == ["pid"]


@pytest.mark.parametrize(
    ("choice", "text"),
    [("Nowhere", "'Nowhere', which this node lacks"), (RuntimeError("undecided"), "undecided")],
)
async def test_a_choice_that_cannot_be_is_a_crash_with_its_reason(choice, text):
    settings = {"EXECUTORS": [MemoryExecutor()], "CRASH_ATTEMPTS": 1}
    async with running(PLUGINS=[Chooses(say=choice)], **settings) as node:
        ended = await outcome(node, "Echo", "say")
        assert ended.reason is Reason.EXECUTOR
        assert text in ended.message
        assert (await outcome(node, "Echo", "pid")).complete


class Refuses:
    def __init__(self, **reasons):
        self.reasons = reasons

    @hookimpl
    def fossa_refuse_task(self, task):
        reason = self.reasons.get(task.method)
        if isinstance(reason, Exception):
            raise reason
        return reason


@pytest.mark.parametrize("reason", ["not on Sundays", RuntimeError("not on Sundays")])
async def test_a_plugin_refuses_a_task(reason):
    sink = MemorySink()
    async with running(PLUGINS=[Refuses(pid=reason)], SINKS=[sink]) as node:
        with pytest.raises(TaskRefused, match="not on Sundays"):
            await node.submit("Echo", "pid")
        assert (await outcome(node, "Echo", "say")).complete
        assert len(await node.governor.page()) == 1
    assert [taken.task.method for taken in sink.taken] == ["say"]


async def test_a_plugin_refuses_a_subtask():
    plugin = Refuses(square="no squares here")
    async with running(PLUGINS=[plugin]) as node:
        handle = await node.submit("Squares", model_construction_kwargs={"count": 1})
        ended = await handle.outcome(30)
        assert ended.reason is Reason.SUBTASK_FAILED
        (subtask,) = await handle.subtasks()
        assert subtask.outcome.reason is Reason.REFUSED
        assert subtask.outcome.message == "no squares here"


# third parties


SINK = """
    from fossa import Sink, hookimpl

    class Parrot(Sink):
        def __init__(self, phrase="hello", times: int = 1):
            self.phrase = phrase
            self.taken = []

        async def take(self, task, outcome):
            self.taken.append((self.phrase, task.model))

    class Plugin:
        def __init__(self, reason="no"):
            self.reason = reason

        @hookimpl
        def fossa_refuse_task(self, task):
            return self.reason

    number = 5
"""


async def test_a_third_partys_sink_takes_part(install):
    install("parrots", SINK, {"fossa.sinks": "parrot = parrots:Parrot"})
    async with running(SINKS=[use("parrot", phrase="hi")]) as node:
        await outcome(node, "Nothing")
        (sink,) = node.composition.sinks
    assert (sink.name, sink.taken) == ("parrot", [("hi", "Nothing")])


async def test_a_third_partys_plugin_takes_part(install):
    install("parrots", SINK, {"fossa.plugins": "no = parrots:Plugin"})
    async with running(PLUGINS=[use("no", reason="because")]) as node:
        with pytest.raises(TaskRefused, match="because"):
            await node.submit("Nothing")


def test_installed_is_not_enabled(install):
    install("parrots", SINK, {"fossa.plugins": "no = parrots:Plugin"})
    assert "no" not in dict(compose(TestConfig).plugins)


def test_a_missing_entry_point_is_told_with_the_nearest_name(install, caplog):
    install("parrots", SINK, {"fossa.sinks": "parrot = parrots:Parrot"})
    with pytest.raises(PluginError, match=r"'parot' is not installed in fossa\.sinks: did you"):
        look_up("fossa.sinks", "parot")
    with pytest.raises(PluginError, match=r"'x{9}' is not installed.*: there is 'ayeaye', 'jsonl'"):
        look_up("fossa.sinks", "x" * 9)
    with pytest.raises(PluginError, match=r"in fossa\.nothing: nothing is"):
        look_up("fossa.nothing", "x")
    assert caplog.records == []


def test_looking_up_leaves_the_hosts_logging_as_it_was(caplog):
    caplog.set_level(logging.INFO, logger="stevedore")
    with pytest.raises(PluginError):
        look_up("fossa.sinks", "no-such-sink")
    assert logging.getLogger("stevedore").level == logging.INFO


@pytest.mark.parametrize(
    ("entry", "code", "text"),
    [
        ("broken:Sink", "import no_such_library", "ModuleNotFoundError: No module named"),
        ("broken:Sink", "x = 1", "AttributeError"),
        ("no_such_module:Sink", "", "ModuleNotFoundError"),
        ("broken:Sink", "1 / 0", "ZeroDivisionError: division by zero"),
        ("broken:Sink", "def f(:", "SyntaxError"),
    ],
)
def test_a_broken_entry_point_is_told_with_its_error(install, caplog, entry, code, text):
    install("broken", code, {"fossa.sinks": f"cracked = {entry}"})
    with pytest.raises(PluginError, match=r"'cracked' of fossa\.sinks cannot be") as raised:
        look_up("fossa.sinks", "cracked")
    assert text in str(raised.value)
    assert entry in str(raised.value)
    assert caplog.records == []


def test_what_is_installed_while_the_program_runs_is_found(install):
    with pytest.raises(PluginError, match="'parrot' is not installed"):
        look_up("fossa.sinks", "parrot")
    install("parrots", SINK, {"fossa.sinks": "parrot = parrots:Parrot"})
    assert look_up("fossa.sinks", "parrot").__name__ == "Parrot"


def test_two_entry_points_of_one_name_are_told(install):
    install("parrots", SINK, {"fossa.sinks": "parrot = parrots:Parrot"})
    install("others", SINK, {"fossa.sinks": "parrot = others:Parrot"})
    with pytest.raises(PluginError, match="'parrot' is the name of several installed plugins"):
        look_up("fossa.sinks", "parrot")


def test_an_entry_point_to_something_else_is_a_mistake(install):
    points = {
        "fossa.sinks": "number = parrots:number\nplugin = parrots:Plugin",
        "fossa.plugins": "parrot = parrots:Parrot\nnumber = parrots:number",
    }
    install("parrots", SINK, points)
    found = mistakes(SINKS=["number", "plugin"], PLUGINS=["parrot"])
    assert "SINKS: number is no subclass of fossa.Sink" in found
    assert "SINKS: plugin is no subclass of fossa.Sink" in found
    assert any("'parrot' implements no hook" in m for m in found)
    found = mistakes(PLUGINS=[use("number", reason="x")])
    assert "PLUGINS: number is no class: it takes no options" in found


def test_everything_of_a_config_is_told_at_once(install):
    install("broken", "1 / 0", {"fossa.sinks": "cracked = broken:Sink"})
    found = mistakes(SINKS=["cracked", "lgo", use("jsonl")], SOURCES=["htp"], PLUGINS=["none"])
    told = "\n".join(found)
    for text in ("ZeroDivisionError", "did you mean 'log'", "missing a required argument: 'path'",
                 "did you mean 'http'", "'none' is not installed"):  # fmt: skip
        assert text in told
    assert len(found) == 5


def test_executor_is_a_contract_and_not_a_duck():
    class Duck:
        name = "duck"

        async def run(self, attempt, live):
            """It looks like one."""

    assert not issubclass(Duck, Executor)
    assert "EXECUTORS: Duck is no subclass of fossa.Executor" in mistakes(EXECUTORS=[Duck])
    assert any("EXECUTORS has a Duck" in m for m in mistakes(EXECUTORS=[Duck()]))
