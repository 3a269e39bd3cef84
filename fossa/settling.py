"""Gives outcomes to the sinks."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from fossa.contracts import Sink
from fossa.tasks import Outcome, Task

#: Outcomes that wait for one best-effort sink, at the most; the oldest goes first.
MAX_WAITING = 1000
#: Seconds that a sink may take for one outcome.
DEADLINE = 30.0
#: Tries at a required sink, and the seconds before the second; doubled each time.
TRIES, FIRST_DELAY = 5, 0.2


class Sinks:
    """A node's sinks: the required ones are awaited, the others follow in their own time."""

    def __init__(self, sinks: Sequence[Sink], logger: logging.Logger) -> None:
        self._logger = logger
        self._required = [s for s in sinks if s.required]
        self._lanes = [_Lane(s, logger) for s in sinks if not s.required]

    async def take(self, task: Task, outcome: Outcome) -> bool:
        """Hand an outcome to every sink; whether all required ones took it."""
        for lane in self._lanes:
            lane.put(task, outcome)
        taken = [await self._insist(sink, task, outcome) for sink in self._required]
        return all(taken)

    async def close(self) -> None:
        """Let the best-effort sinks take what waits, within a deadline."""
        for lane in self._lanes:
            await lane.close()

    async def _insist(self, sink: Sink, task: Task, outcome: Outcome) -> bool:
        delay = FIRST_DELAY
        for attempt in range(1, TRIES + 1):
            try:
                await asyncio.wait_for(sink.take(task, outcome), DEADLINE)
                return True
            except Exception:
                self._logger.exception(
                    "sink %s did not take the outcome of %s (try %d of %d)",
                    sink.name, task.id, attempt, TRIES,
                )  # fmt: skip
                await asyncio.sleep(delay)
                delay *= 2
        return False


class _Lane:
    """One best-effort sink and what waits for it."""

    def __init__(self, sink: Sink, logger: logging.Logger) -> None:
        self._sink = sink
        self._logger = logger
        self._waiting: asyncio.Queue[tuple[Task, Outcome]] = asyncio.Queue(MAX_WAITING)
        self._worker: asyncio.Task[None] | None = None

    def put(self, task: Task, outcome: Outcome) -> None:
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name=f"fossa-sink-{self._sink.name}")
        if self._waiting.full():
            lost, _ = self._waiting.get_nowait()
            self._waiting.task_done()
            self._logger.error(
                "sink %s is too slow: it did not get the outcome of %s", self._sink.name, lost.id
            )
        self._waiting.put_nowait((task, outcome))

    async def _work(self) -> None:
        while True:
            task, outcome = await self._waiting.get()
            try:
                await asyncio.wait_for(self._sink.take(task, outcome), DEADLINE)
            except Exception:
                self._logger.exception(
                    "sink %s did not take the outcome of %s", self._sink.name, task.id
                )
            finally:
                self._waiting.task_done()

    async def close(self) -> None:
        if self._worker is None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._waiting.join(), 5)
        self._worker.cancel()
        await asyncio.wait([self._worker], timeout=5)
