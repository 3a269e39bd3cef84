"""Gives outcomes to the sinks."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Container, Sequence

from fossa.contracts import Sink
from fossa.errors import FossaError
from fossa.guarding import Guard
from fossa.ledger import Ledger
from fossa.tasks import Outcome, Record, Task

Settled = Callable[[Record], Awaitable[None]]

#: Outcomes that wait for one best-effort sink, at the most; the oldest goes first.
MAX_WAITING = 1000
#: Tries at a required sink, and the seconds before the second; doubled each time.
TRIES, FIRST_DELAY = 5, 0.2
#: Outcomes that one required sink is given at once, at the most.
AT_ONCE = 64
#: Seconds between two offers of what a required sink has not taken: the first, and the most.
OFFER_INTERVAL, MAX_OFFER_INTERVAL = 5.0, 300.0
#: Records of the ledger that are read at once for that.
_PAGE = 100


class Sinks:
    """A node's sinks: the required ones are awaited, the others follow in their own time."""

    def __init__(self, sinks: Sequence[Sink], guard: Guard) -> None:
        self.required = [_Gate(s, guard) for s in sinks if s.required]
        self._lanes = [_Lane(s, guard) for s in sinks if not s.required]

    async def take(self, task: Task, outcome: Outcome) -> str:
        """Hand an outcome to every sink; says which required ones did not take it, and why."""
        for lane in self._lanes:
            lane.put(task, outcome)
        return await self.insist(task, outcome, TRIES)

    async def insist(self, task: Task, outcome: Outcome, tries: int) -> str:
        """Offer an outcome to the required sinks. As `take` in what it returns."""
        if not self.required:
            return ""
        said = await asyncio.gather(*(gate.take(task, outcome, tries) for gate in self.required))
        return "; ".join(filter(None, said))

    @property
    def troubles(self) -> list[str]:
        """The required sinks that do not take what they are given."""
        return [gate.trouble for gate in self.required if gate.trouble]

    async def close(self) -> None:
        """Let the best-effort sinks take what waits, within a deadline."""
        for lane in self._lanes:
            await lane.close()


async def _take(guard: Guard, sink: Sink, task: Task, outcome: Outcome) -> None:
    await guard.call(sink, "take", task, outcome, within=sink.deadline)


class _Gate:
    """One required sink. While it fails, it is not given more than it fails to take."""

    def __init__(self, sink: Sink, guard: Guard) -> None:
        self._sink = sink
        self._guard, self._logger = guard, guard.logger
        self._turns = asyncio.Semaphore(AT_ONCE)
        #: Why it did not take the last outcome; empty where it did.
        self.trouble = ""

    async def take(self, task: Task, outcome: Outcome, tries: int) -> str:
        if self.trouble and self._turns.locked():
            return self.trouble
        async with self._turns:
            return await self._insist(task, outcome, tries)

    async def _insist(self, task: Task, outcome: Outcome, tries: int) -> str:
        delay = FIRST_DELAY
        for attempt in range(1, tries + 1):
            try:
                await _take(self._guard, self._sink, task, outcome)
            except Exception as error:
                self._failed(task, error, attempt, tries)
            else:
                self.trouble = ""
                return ""
            if attempt < tries:
                await asyncio.sleep(delay)
                delay *= 2
        return self.trouble

    def _failed(self, task: Task, error: Exception, attempt: int, tries: int) -> None:
        said = f"{type(error).__name__}: {error}"
        self.trouble = f"{self._sink.name}: it does not take outcomes: {said}"
        self._logger.warning(
            "sink %s did not take the outcome of %s (try %d of %d): %s",
            self._sink.name, task.id, attempt, tries, said,
            exc_info=None if isinstance(error, FossaError) else error,
        )  # fmt: skip


async def collect(ledger: Ledger, sinks: Sinks, settling: Container[str], settled: Settled) -> None:
    """Offer what required sinks did not take again and again, until cancelled.

    Args:
        ledger: it knows what is owed, from earlier boots too.
        sinks: the node's.
        settling: ids of tasks whose outcome they are being given for the first time.
        settled: awaited with each task whose outcome all of them have now.
    """
    interval = OFFER_INTERVAL
    while True:
        await asyncio.sleep(interval)
        if await _collect(ledger, sinks, settling, settled):
            interval = OFFER_INTERVAL
        else:
            interval = min(2 * interval, MAX_OFFER_INTERVAL)


async def _collect(
    ledger: Ledger, sinks: Sinks, settling: Container[str], settled: Settled
) -> bool:
    """Go through what is owed, oldest first; False at the first that is not taken."""
    after = 0
    while records := await ledger.owed(after, _PAGE):
        for record in records:
            after = record.seq
            if record.task.id in settling:
                continue
            assert record.outcome is not None
            if await sinks.insist(record.task, record.outcome, 1):
                return False
            await settled(record)
    return True


class _Lane:
    """One best-effort sink and what waits for it."""

    def __init__(self, sink: Sink, guard: Guard) -> None:
        self._sink = sink
        self._guard, self._logger = guard, guard.logger
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
                await _take(self._guard, self._sink, task, outcome)
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
