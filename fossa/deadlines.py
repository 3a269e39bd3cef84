"""One deadline for many: what is awaited all the time, and hardly ever too long."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


class Deadline:
    """Awaits anything for so many seconds, as `asyncio.timeout` does, with one timer for all.

    They are due in the order in which they came: it is always for the oldest. A timer for each
    shows in the rate of whole tasks over RabbitMQ.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[asyncio.Future[Any], float] = {}
        self._overdue: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def keep(self, work: Awaitable[T]) -> T:
        """Await it, in a task that awaits nothing else here. Raises TimeoutError."""
        task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        self._watch(task)
        try:
            return await work
        except asyncio.CancelledError:
            if self._release(task) and task.cancelling() <= before:
                raise TimeoutError from None
            raise
        finally:
            self._release(task)

    async def wait(self, future: "asyncio.Future[T]") -> T:
        """Await a future that nobody else awaits: where it is late, it fails with TimeoutError."""
        self._watch(future)
        try:
            return await future
        finally:
            self._waiting.pop(future, None)

    def _watch(self, future: "asyncio.Future[Any]") -> None:
        loop = asyncio.get_running_loop()
        self._waiting[future] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._look)

    def _release(self, task: asyncio.Task[object]) -> bool:
        """Watch it no more. Whether it was cancelled here, which counts no more either."""
        self._waiting.pop(task, None)
        if task not in self._overdue:
            return False
        self._overdue.discard(task)
        task.uncancel()
        return True

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        for waiting, due in list(self._waiting.items()):
            if due > loop.time():
                self._timer = loop.call_at(due, self._look)
                return
            del self._waiting[waiting]
            if isinstance(waiting, asyncio.Task):
                self._overdue.add(waiting)
                waiting.cancel()
            elif not waiting.done():
                waiting.set_exception(TimeoutError())
