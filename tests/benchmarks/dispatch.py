"""What calling hooks takes of the processors, as a share of what the tasks take in all."""

import asyncio
import os
import tempfile
import time

from figures import cpu_seconds
from workloads import Work

from fossa import BaseConfig, Fossa, hookimpl, hookspecs
from fossa.builtin.metrics import Metrics

#: The hooks' specifications, by name.
HOOKS = {name: spec for name, spec in vars(hookspecs).items() if name.startswith("fossa_")}
#: Those that W1's one plugin implements.
OF_W1 = [name for name in HOOKS if hasattr(Metrics, name)]


def idle(hooks):
    """A plugin that implements some hooks, and does nothing in them."""

    class Idle:
        pass

    for name in hooks:
        setattr(Idle, name, _nothing(name))
    return Idle()


def _nothing(name):
    code = HOOKS[name].__code__
    wanted = ", ".join(code.co_varnames[: code.co_argcount])
    made = {}
    exec(f"def {name}(self, {wanted}): pass", made)
    return hookimpl(made[name])


class Config(BaseConfig):
    ACCEPTED_MODEL_CLASSES = (Work,)
    SLOTS = 2
    SINKS = ()


#: What a node calls for each task, and how often it is done to time it.
EVENTS = {
    "fossa_task_accepted": {"task": None},
    "fossa_attempt_started": {"attempt": None},
    "fossa_attempt_ended": {"attempt": None, "outcome": None},
    "fossa_task_ended": {"task": None, "outcome": None},
}
TIMES = 20_000


async def hook_dispatch(bench):
    """Add the rows to a bench: ms a task, with a plugin that implements W1's hooks, and all."""
    for title, hooks, promise in (
        ("H1 calling the hooks that W1 calls / W1, processor time", OF_W1, 0.02),
        ("H1 with a plugin that implements each hook / the same", list(HOOKS), None),
    ):
        row = bench.row(title, "ms a task", promise, more_is_better=False)
        await _measured(bench, row, idle(hooks))


async def _measured(bench, row, plugin):
    count = int(5000 * bench.scale)
    with tempfile.TemporaryDirectory() as directory:
        async with Fossa(Config, PLUGINS=(plugin,), STATE_DIR=directory) as node:
            await _tasks(node, 100)
            for _ in range(bench.rounds):
                before = cpu_seconds(os.getpid())
                await _tasks(node, count)
                whole = cpu_seconds(os.getpid()) - before
                row.add(_calls(node.governor._hooks) / TIMES * 1e3, whole / count * 1e3)


def _calls(hooks):
    """Seconds of the processor that the calls of so many tasks take."""
    before = time.process_time()
    for _ in range(TIMES):
        hooks.refuse_task("task")
        hooks.choose_executor("task", ())
        for hook, about in EVENTS.items():
            hooks.observe(hook, **about)
    return time.process_time() - before


async def _tasks(node, count):
    async def one(i):
        outcome = await (await node.submit(Work, "noop", method_kwargs={"i": i})).outcome()
        assert outcome.complete, outcome

    await asyncio.gather(*(one(i) for i in range(count)))
