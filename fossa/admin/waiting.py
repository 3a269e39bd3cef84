"""Answers that are held back until there is something to tell."""

import asyncio
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiohttp import web

    from fossa.contracts import Node
    from fossa.tasks import LogLine, Record

#: Seconds that an answer may be held back, at the most.
MAX_WAIT = 60.0
#: Seconds between two looks for log lines: the node tells of an outcome at once, of lines not.
_LOOK = 0.1


class Waiting:
    """Every answer of one application that is being held back; they are let go when it stops."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._stopping = asyncio.Event()

    async def shut_down(self, app: "web.Application") -> None:
        self._stopping.set()

    async def record(self, task_id: str, seconds: float) -> "Record":
        """A task, once it has ended or the seconds are over. Raises `UnknownTask`."""
        record = await self._node.record(task_id)
        if record.outcome is None and seconds > 0:
            async with _Until(self._stopping, self._node, task_id) as until:
                await until.something(seconds)
            record = await self._node.record(task_id)
        return record

    async def lines(
        self, task_id: str, after: int, limit: int, seconds: float
    ) -> "tuple[list[tuple[int, LogLine]], bool]":
        """Log lines past a position, once there are some; and whether the task has ended."""
        end = time.monotonic() + seconds
        async with _Until(self._stopping, self._node, task_id) as until:
            while True:
                # In this order: a task that has ended writes no more.
                ended = (await self._node.record(task_id)).outcome is not None
                lines = await self._node.logs(task_id, after, limit)
                left = end - time.monotonic()
                if lines or ended or left <= 0 or self._stopping.is_set():
                    return lines, ended
                await until.something(min(left, _LOOK))


class _Until:
    """Waits for a task's end, or the application's."""

    def __init__(self, stopping: asyncio.Event, node: "Node", task_id: str) -> None:
        self._awaited: list[Any] = [stopping.wait(), node.outcome(task_id)]

    async def __aenter__(self) -> "_Until":
        self._awaited = [asyncio.ensure_future(one) for one in self._awaited]
        return self

    async def something(self, seconds: float) -> None:
        await asyncio.wait(self._awaited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    async def __aexit__(self, *_: object) -> None:
        for one in self._awaited:
            one.cancel()
        # The outcome may be the exception of a node that stops, which its record tells as well.
        await asyncio.gather(*self._awaited, return_exceptions=True)
