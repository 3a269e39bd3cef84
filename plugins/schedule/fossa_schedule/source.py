"""The source whose tasks are made by the clock."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from fossa import ConfigError, Node, Source
from fossa_schedule.entries import Entry
from fossa_schedule.progress import Mark, Progress, progress_path
from fossa_schedule.reading import Schedule, model_mistakes, read
from fossa_schedule.runner import Clock, Runner

#: How much later than the clock says a schedule may have come before that is worth a line.
AHEAD = 60


class SystemClock:
    """The machine's own."""

    def time(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> Awaitable[None]:
        return asyncio.sleep(seconds)


class ScheduleSource(Source):
    """Makes one task for each firing of its schedules.

    Args:
        entries: what `every` and `cron` made.
        timezone: of the entries that have none of their own.
        on: the name of the one node that fires, in a config that many share; None: each does.
        clock: what tells the time; a test has its own.
    """

    def __init__(
        self,
        *,
        entries: Iterable[Entry] = (),
        timezone: str = "UTC",
        on: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._entries = entries
        self._timezone = timezone
        #: The name of the one node that fires; None: each does.
        self.on = on
        self._clock = clock or SystemClock()
        self._progress: Progress | None = None
        self._runners: tuple[Runner, ...] = ()

    def check(self, models: Mapping[str, Any]) -> Sequence[str]:
        schedules, mistakes = self._read()
        return [*mistakes, *(m for s in schedules for m in model_mistakes(s, models))]

    def schedules(self) -> list[Schedule]:
        """The checked schedules. Raises ConfigError."""
        schedules, mistakes = self._read()
        if mistakes:
            raise ConfigError('use("schedule")', mistakes)
        return schedules

    def _read(self) -> tuple[list[Schedule], list[str]]:
        if isinstance(self._entries, Iterator):
            self._entries = list(self._entries)  # it is read more than once
        schedules, mistakes = read(self._entries, self._timezone)
        if self.on is not None and (not isinstance(self.on, str) or not self.on):
            mistakes.append(f"on is {self.on!r:.60}: it should be a node's name")
        return schedules, mistakes

    def fires_on(self, node_name: str) -> bool:
        """Whether the node of that name makes the tasks."""
        return self.on in (None, node_name)

    async def open(self, node: Node) -> None:
        schedules = self.schedules()
        self._check_names(node)
        if not self.fires_on(node.name):
            node.logger.info("%s: fires on the node %s, not on this one", self.name, self.on)
            return
        progress = Progress(progress_path(node.composition.state_dir, self.name))
        await asyncio.to_thread(progress.read)
        self._progress = progress
        self._begin(schedules, node)
        await asyncio.to_thread(progress.write)
        self._runners = tuple(
            Runner(schedule, node, self.name, progress, self._clock) for schedule in schedules
        )

    def _check_names(self, node: Node) -> None:
        """A firing is known by its schedule's name, on the whole node."""
        sources = [s for s in node.composition.sources if isinstance(s, ScheduleSource)]
        names = Counter(schedule.name for source in sources for schedule in source.schedules())
        twice = [name for name, number in names.items() if number > 1]
        if twice:
            text = f"two schedules are named {twice[0]!r}: give one of them another name=…"
            raise ConfigError("SOURCES", [text])

    def _begin(self, schedules: list[Schedule], node: Node) -> None:
        """Those that are new or have changed begin from now, the others where they stopped."""
        assert self._progress is not None
        self._progress.keep({schedule.name for schedule in schedules})
        now = int(self._clock.time())
        for schedule in schedules:
            mark, text = self._progress.get(schedule.name), schedule.timing.text
            if mark is None or mark.text != text:
                task = mark.task if mark is not None else None
                self._progress.put(schedule.name, Mark(text=text, last=now, task=task))
            elif mark.last > now + AHEAD:
                node.logger.warning(
                    "schedule %s has fired up to %d s from now: the clock was set back, and it "
                    "waits until then",
                    schedule.name,
                    mark.last - now,
                )

    async def run(self, node: Node) -> None:
        async with asyncio.TaskGroup() as group:
            for runner in self._runners:
                group.create_task(runner.run())
            await asyncio.Event().wait()  # it has nothing to do here, or never ends

    async def close(self) -> None:
        progress, self._progress, self._runners = self._progress, None, ()
        if progress is not None:
            await asyncio.to_thread(progress.close)

    def ready(self) -> str | None:
        late = [text for runner in self._runners if (text := runner.late())]
        if self._progress is not None and self._progress.trouble:
            late.append(self._progress.trouble)
        return "; ".join(late) or None
