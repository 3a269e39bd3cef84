"""A node with schedules, and a clock that the test moves."""

import time
from contextlib import asynccontextmanager

from fossa import Fossa
from fossa.testing import FakeClock, MemoryExecutor
from fossa.testing.components import SuiteConfig, eventually
from fossa_schedule.source import ScheduleSource
from fossa_schedule.timing import instant_of


def clock_at(text):
    return FakeClock(instant_of(text))


class Scheduled:
    """A running node with one schedule source."""

    def __init__(self, node, source, clock, executor):
        self.node, self.source, self.clock, self.executor = node, source, clock, executor

    async def keys(self):
        """The keys of all its tasks, the oldest first, without their beginning."""
        page = await self.node.governor.page(limit=1000)
        return [r.task.idempotency_key.removeprefix("schedule/") for r in reversed(page)]

    async def tasks(self):
        return [r.task for r in reversed(await self.node.governor.page(limit=1000))]

    async def move(self, seconds, sleepers=1):
        """Let time pass; the schedules do what is theirs at each moment."""
        end = self.clock.time() + seconds
        while (left := end - self.clock.time()) > 1e-6:
            await self.clock.asleep(sleepers)
            await self.clock.advance(min(self.clock.next_in(), left))
        await self.clock.asleep(sleepers)

    async def has(self, number):
        """Returns once the node has so many tasks."""
        deadline = time.monotonic() + 10
        while len(found := await self.keys()) < number:
            assert time.monotonic() < deadline, found
        return found


@asynccontextmanager
async def scheduled(entries, clock, *, hold=False, timezone="UTC", on=None, **settings):
    """A node whose tasks need no time, or (`hold`) end when the test says so."""
    executor = MemoryExecutor(hold=hold)
    source = ScheduleSource(entries=entries, clock=clock, timezone=timezone, on=on)
    source.name = "schedule"
    chosen = {"EXECUTORS": [executor], "SOURCES": [source], "DRAIN_TIMEOUT": 0.0} | settings
    async with Fossa(SuiteConfig, **chosen) as node:
        yield Scheduled(node, source, clock, executor)


__all__ = ["Scheduled", "clock_at", "eventually", "scheduled"]
