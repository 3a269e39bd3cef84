"""Plugins that do what they should not. `test_bad_plugins.py` enables them."""

import asyncio
import time

from fossa import Executor, Sink, Source, hookimpl
from fossa.plugins import HOOKS
from fossa.testing import MemoryExecutor

#: Which arguments each hook has.
ARGUMENTS = {
    "fossa_choose_executor": ("task", "executors"),
    "fossa_refuse_task": ("task",),
    "fossa_node_started": ("node",),
    "fossa_node_stopped": ("node",),
    "fossa_task_accepted": ("task",),
    "fossa_attempt_started": ("attempt",),
    "fossa_attempt_ended": ("attempt", "outcome"),
    "fossa_task_ended": ("task", "outcome"),
}
DECIDE = ("fossa_choose_executor", "fossa_refuse_task")
OBSERVE = tuple(name for name in HOOKS if name not in DECIDE)


def observer(name, act, hooks=OBSERVE):
    """A plugin whose hooks all do the same."""

    def hook(self):
        return act()

    return type(name, (), {each: hookimpl(hook) for each in hooks})()


class Trouble(Exception):
    """A plugin's own."""


def raises():
    raise Trouble("a plugin's own")


def leaves():
    raise SystemExit(3)


def cancels():
    raise asyncio.CancelledError


async def forever():
    await asyncio.Event().wait()


async def deaf():
    """Hears of no cancelling."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


class BadSink(Sink):
    """One that acts badly in one of its methods, and counts what it takes in the others."""

    def __init__(self, verb, act, required=False, deadline=0.2):
        self.verb, self.act = verb, act
        self.required, self.deadline = required, deadline
        self.taken = []

    def _do(self, verb):
        return self.act() if verb == self.verb else asyncio.sleep(0)

    async def open(self, node):
        await self._do("open")

    async def take(self, task, outcome):
        await self._do("take")
        self.taken.append(task.id)

    async def close(self):
        await self._do("close")


class BadSource(Source):
    """One whose `run` acts badly the first few times."""

    def __init__(self, act, times=1):
        self.act, self.times = act, times
        self.runs = 0

    async def run(self, node):
        self.runs += 1
        if self.runs <= self.times:
            await self.act()
        else:
            await asyncio.Event().wait()


class BadExecutor(MemoryExecutor):
    """One whose `run` acts badly for the method `bad`."""

    def __init__(self, act):
        super().__init__()
        self.act = act
        self.began = False

    async def run(self, attempt, live):
        if attempt.task.method == "pid":
            self.began = True
            return await self.act()
        return await super().run(attempt, live)


class Unsure(MemoryExecutor):
    """A remote executor that cannot say how much room it has."""

    remote = True

    def __init__(self, act):
        super().__init__()
        self.act = act

    def room(self, model):
        return self.act()

    def far_slots(self, model):
        return self.act()


class Plain(Sink):
    """Its methods are no async functions."""

    def take(self, task, outcome):
        """Nobody can await this."""


class PlainOpen(Plain):
    def open(self, node):
        """Nor this."""


class NoExecutor(Executor):
    """Lacks `run`."""


async def blocks(seconds=0.3):
    time.sleep(seconds)  # noqa: ASYNC251 - that is what is bad about it


async def returns_nothing():
    return None
