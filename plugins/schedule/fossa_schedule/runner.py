"""The life of one schedule: wait for a firing, hand it over, wait for its task to end."""

import asyncio
import random
from collections.abc import Awaitable
from itertools import takewhile
from typing import Protocol

from attrs import evolve

from fossa import Delivery, FossaError, Node, NodeStopped, NodeStopping, Task, UnknownTask
from fossa_schedule.progress import Mark, Progress
from fossa_schedule.reading import Schedule
from fossa_schedule.timing import jitter, utc

#: Seconds after which a firing that was due is a missed one, and its schedule late.
LATE = 60.0
#: Seconds of one sleep, at the most: the clock may have been set, or the machine been asleep.
TURN = 60.0
#: Seconds before a firing that was refused is tried again: the first time, and at the most.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0


class Clock(Protocol):
    """What tells the time. `fossa.testing.FakeClock` is one."""

    def time(self) -> float:
        """Seconds since the epoch."""

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Returns so many seconds later."""


class Runner:
    """Makes the tasks of one schedule until it is cancelled."""

    def __init__(
        self, schedule: Schedule, node: Node, source: str, progress: Progress, clock: Clock
    ) -> None:
        self.schedule = schedule
        self._node, self._source, self._progress, self._clock = node, source, progress, clock
        #: The firing that is to be made next; None while its turn has not come (see `run`).
        self._next: int | None = None
        self._refused = ""

    async def run(self) -> None:
        while True:
            if not self.schedule.overlap:
                await self._previous_has_ended()
            firing = await self._due()
            task = await self._insist(firing)
            await self._mark(firing, task.id)

    def late(self) -> str | None:
        """Why nobody should count on it now; None where it is in time."""
        if self._next is None:
            return None
        after = self._clock.time() - self._time(self._next)
        if after <= LATE:
            return None
        why = f": {self._refused}" if self._refused else ""
        return f"schedule {self.schedule.name} is {after:.0f} s late with {utc(self._next)}{why}"

    # waiting

    async def _previous_has_ended(self) -> None:
        task = self._marked().task
        if task is None:
            return
        self._next = None
        try:
            await self._node.outcome(task)
        except UnknownTask:
            return  # the ledger is new, or has forgotten it: long ended
        except NodeStopped:
            await asyncio.Event().wait()  # until cancelled

    async def _due(self) -> int:
        """The firing to make now, once there is one."""
        while True:
            chosen = await self._chosen()
            if chosen is not None:
                return chosen
            self._next = upcoming = next(iter(self.schedule.timing.after(self._marked().last)))
            await self._clock.sleep(min(max(self._time(upcoming) - self._clock.time(), 0), TURN))

    async def _chosen(self) -> int | None:
        """What the schedule makes of the firings that are due; None: there is nothing to make."""
        schedule, now = self.schedule, self._clock.time()
        due = self._all_due(now, schedule.max_missed if schedule.missed == "all" else 1)
        if not due:
            return None
        if schedule.missed == "all":
            return due[0]
        if schedule.missed == "once" or now - self._time(due[-1]) <= LATE:
            return due[-1]
        self._say("%s was missed and is skipped", utc(due[-1]))
        await self._mark(due[-1], self._marked().task)
        return None

    def _all_due(self, now: float, most: int) -> list[int]:
        """The latest of the firings that are due and have not been made, in order."""
        timing, last = self.schedule.timing, self._marked().last
        found = timing.last(last, int(now - self.schedule.jitter), most)
        if self.schedule.jitter:
            later = timing.after(found[-1] if found else last)
            found += takewhile(lambda firing: self._time(firing) <= now, later)
        return found[-most:]

    def _time(self, firing: int) -> float:
        """When a firing is made: its own time, and its jitter."""
        return firing + jitter(self.schedule.name, firing, self.schedule.jitter)

    # handing over

    async def _insist(self, firing: int) -> Task:
        """Hand a firing over. Refused, it is tried again: it is not lost."""
        pause, self._next = FIRST_PAUSE, firing
        while True:
            try:
                return await self.admit(firing)
            except FossaError as error:
                self._refuse(firing, error)
            await self._clock.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(LONGEST_PAUSE, pause * 2)

    def _refuse(self, firing: int, error: FossaError) -> None:
        said = f"{type(error).__name__}: {error}"
        if said != self._refused and not isinstance(error, NodeStopping | NodeStopped):
            self._say("%s was refused and is tried again: %s", utc(firing), said)
        self._refused = said

    async def admit(self, firing: int) -> Task:
        """The task of a firing: however often this is called, one. Raises `TaskRefused`."""
        key = f"schedule/{self.schedule.name}/{utc(firing)}"
        request = evolve(self.schedule.request, idempotency_key=key)
        task, _ = await self._node.admit(Delivery(request=request, source=self._source))
        self._refused = ""
        return task

    # progress

    def _marked(self) -> Mark:
        mark = self._progress.get(self.schedule.name)
        assert mark is not None, "the source has given it one"
        return mark

    async def _mark(self, firing: int, task: str | None) -> None:
        mark = Mark(text=self.schedule.timing.text, last=firing, task=task)
        self._progress.put(self.schedule.name, mark)
        await asyncio.to_thread(self._progress.write)

    def _say(self, text: str, *values: object) -> None:
        self._node.logger.warning("schedule %s: %s", self.schedule.name, text % values)
