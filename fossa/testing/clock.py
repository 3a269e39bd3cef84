"""A clock that a test moves."""

import asyncio
import heapq
from itertools import count

#: Turns of the event loop in which whoever woke has gone to sleep again, or waits for another.
TURNS = 50
#: Seconds that a test waits for somebody to sleep.
PATIENCE = 10.0


class FakeClock:
    """Time that stands still until `advance` is called.

    Give a component its `time`, `monotonic` and `sleep` in place of `time.time`, `time.monotonic`
    and `asyncio.sleep`.

    Args:
        now: what `time` says at first, in seconds since the epoch.
    """

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._epoch, self._passed = now, 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()
        self._changed = asyncio.Event()

    def time(self) -> float:
        """Seconds since the epoch."""
        return self._epoch + self._passed

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._passed

    async def sleep(self, seconds: float) -> None:
        """Returns once the clock was moved by so many seconds; 0 or less: at the next turn."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._passed + seconds, next(self._order), woken))
        self._changed.set()
        await woken

    async def asleep(self, sleepers: int = 1) -> None:
        """Returns once so many sleep. Raises TimeoutError where they do not within 10 s."""
        async with asyncio.timeout(PATIENCE):
            while len(self._waiting()) < sleepers:
                self._changed.clear()
                await self._changed.wait()

    def set(self, now: float) -> None:
        """Set what `time` says, as somebody does who sets a clock: sleepers take no notice."""
        self._epoch = now - self._passed

    def next_in(self) -> float | None:
        """Seconds until the next sleeper wakes; None where nobody sleeps."""
        waiting = self._waiting()
        return waiting[0][0] - self._passed if waiting else None

    async def advance(self, seconds: float) -> None:
        """Move the clock. Sleepers wake in their order, each at its own time."""
        until = self._passed + seconds
        while (waiting := self._waiting()) and waiting[0][0] <= until:
            self._passed, _, woken = heapq.heappop(waiting)
            woken.set_result(None)
            await self._turn()
        self._passed = until

    def _waiting(self) -> list[tuple[float, int, "asyncio.Future[None]"]]:
        """Those who sleep, the first to wake first; who was cancelled does not."""
        self._sleepers = [one for one in self._sleepers if not one[2].done()]
        heapq.heapify(self._sleepers)
        return self._sleepers

    async def _turn(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)
