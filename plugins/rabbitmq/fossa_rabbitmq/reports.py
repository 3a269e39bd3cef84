"""What running subtasks of other nodes have to say, passed on while they run."""

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fossa import LogLine, Watch
from fossa_rabbitmq import wire
from fossa_rabbitmq.post import Post

if TYPE_CHECKING:
    from fossa_rabbitmq.held import Held

#: Seconds between two reports. What ends sooner is not reported: its outcome says it all.
INTERVAL = 0.2
#: Seconds after which everything that is here is told of once more: reports may be lost.
REPEAT = 10.0
#: What of one subtask's lines waits for the next report, at the most: lines, and characters in
#: them. Further ones stay here.
MAX_LINES, MAX_SIZE = 1000, 1 << 20


class Reports:
    """Gathers what happened, and tells the parents' nodes now and then."""

    def __init__(self, post: Post) -> None:
        self._post = post
        #: This node's name.
        self.here = post.node.name
        self._watches: dict[str, GuestWatch] = {}
        self._news: set[GuestWatch] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._repeating = asyncio.get_running_loop().call_later(REPEAT, self._repeat)

    def watch(self, task_id: str, held: "Held") -> "GuestWatch":
        watch = GuestWatch(self, task_id, held)
        self._watches[task_id] = watch
        self.note(watch)
        return watch

    def end(self, task_id: str) -> None:
        watch = self._watches.pop(task_id, None)
        if watch is not None:
            self._news.discard(watch)

    def note(self, watch: "GuestWatch") -> None:
        """There is something to tell."""
        self._news.add(watch)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._report)

    def close(self) -> None:
        self._repeating.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def _repeat(self) -> None:
        for watch in self._watches.values():
            self.note(watch)
        self._repeating = asyncio.get_running_loop().call_later(REPEAT, self._repeat)

    def _report(self) -> None:
        self._timer = None
        long_ago = time.monotonic() - INTERVAL / 2
        # What cannot be said now is said later: who hears nothing takes a subtask for lost.
        able = self._post.sending
        news = {watch for watch in self._news if able and watch.due(long_ago)}
        self._news -= news
        if self._news:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._report)
        by_queue: dict[str, list[wire.Event]] = {}
        for watch in news:
            by_queue.setdefault(watch.reply_to, []).append(watch.event())
        for queue, events in by_queue.items():
            content = wire.Events(self._post.me, events)
            self._post.hint(wire.letter(wire.EVENTS, content, persistent=False), queue)


class GuestWatch(Watch):
    """One subtask of another node, which runs here or waits here for a slot."""

    __slots__ = (
        "_fraction", "_held", "_kept_back", "_lines", "_message", "_moved", "_reports", "_size",
        "_task_id",
    )  # fmt: skip

    def __init__(self, reports: Reports, task_id: str, held: "Held") -> None:
        self._reports = reports
        self._task_id = task_id
        self._held = held
        self._lines: list[LogLine] = []
        self._size = self._kept_back = 0
        self._fraction: float | None = None
        self._message = ""
        self._moved = False

    @property
    def reply_to(self) -> str:
        return self._held.message.properties.reply_to or ""

    def begun(self, attempt: int) -> None:
        self._held.began()
        self._reports.note(self)

    def log(self, lines: Sequence[LogLine]) -> None:
        for line in lines:
            if len(self._lines) < MAX_LINES and self._size < MAX_SIZE:
                self._lines.append(line)
                self._size += len(line.text)
            else:
                self._kept_back += 1
        self._reports.note(self)

    def progress(self, fraction: float | None, message: str) -> None:
        self._fraction, self._message, self._moved = fraction, message, True
        self._reports.note(self)

    def due(self, long_ago: float) -> bool:
        """Whether it began, or came, long ago, or has something to say."""
        since = self._held.arrived if self._held.begun is None else self._held.begun
        return bool(self._lines) or self._moved or since < long_ago

    def event(self) -> wire.Event:
        self._moved = False
        return wire.Event(
            id=self._task_id,
            lines=wire.lines(self.lines_left()),
            fraction=self._fraction,
            message=self._message[: wire.MAX_LINE],
        )

    def add_to(self, item: wire.SubtaskOutcome) -> None:
        """Put what no report has had yet beside its outcome."""
        item.lines = wire.lines(self.lines_left())
        if self._moved:
            item.fraction, item.message = self._fraction, self._message[: wire.MAX_LINE]

    def lines_left(self) -> list[LogLine]:
        """Lines that no report has had yet."""
        lines, self._lines, self._size = self._lines, [], 0
        if self._kept_back:
            text = f"{self._kept_back} more lines are on node {self._reports.here}"
            lines.append(LogLine(time=time.time(), level="WARNING", stream="node", text=text))
            self._kept_back = 0
        return lines
