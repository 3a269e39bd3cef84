"""A task while the node has it in memory: from its admission to its outcome."""

import asyncio
import heapq
import time

from attrs import evolve

from fossa.contracts import Deliver
from fossa.ledger import StateRow
from fossa.tasks import Attempt, Delivery, Outcome, Progress, Record, Status, Task


class LiveTask:
    """One task's changing state. The governor alone changes it."""

    __slots__ = (
        "attempt",
        "cancelling",
        "children",
        "deliver",
        "delivery",
        "ended",
        "finished_keys",
        "fraction",
        "given_back",
        "lane",
        "lanes",
        "limit",
        "log_position",
        "message",
        "parent",
        "row",
        "runner",
        "subtasks",
        "subtasks_done",
        "subtasks_failed",
        "subtasks_total",
        "task",
        "timer",
        "waiting",
        "waiting_children",
    )

    def __init__(
        self,
        task: Task,
        *,
        delivery: Delivery | None = None,
        parent: "LiveTask | None" = None,
        deliver: Deliver | None = None,
    ) -> None:
        self.task = task
        self.row = StateRow()
        #: How its source settles it; None for a subtask and for one found at boot.
        self.delivery = delivery
        self.parent = parent
        #: For a subtask: told of the outcome.
        self.deliver = deliver
        #: Its asyncio task while an attempt is under way.
        self.runner: asyncio.Task[None] | None = None
        self.attempt: Attempt | None = None
        #: The delay before its next attempt, while that lasts.
        self.timer: asyncio.TimerHandle | None = None
        #: Why it should stop, once somebody said so.
        self.cancelling: str | None = None
        #: The node stops before it ended: it stays in the ledger for the next boot.
        self.given_back = False
        #: Waiters for the outcome.
        self.ended: asyncio.Future[Outcome] | None = None
        #: Its model waits for subtasks and holds no slot.
        self.waiting = False
        #: Its subtasks that have no outcome yet.
        self.children: set[LiveTask] = set()
        #: Those of them that wait for a lane.
        self.waiting_children: list[LiveTask] = []
        #: Free lanes: how many more subtasks may be queued or run.
        self.lanes: list[int] = []
        self.limit = 0
        self.lane: int | None = None
        #: Complete subtasks of an earlier attempt, by key; None where there was none.
        self.finished_keys: dict[str, list[str]] | None = None
        self.fraction: float | None = None
        self.message = ""
        self.subtasks = self.subtasks_done = self.subtasks_failed = 0
        self.subtasks_total: int | None = None
        #: Position of its newest log line.
        self.log_position = 0

    # subtasks

    def plan(self, total: int | None, limit: int) -> None:
        """Its model begins to make subtasks."""
        self.limit = limit
        self.lanes = list(range(limit))
        if total is not None:
            self.subtasks_total = (self.subtasks_total or 0) + total

    def adopt(self, child: "LiveTask") -> None:
        self.children.add(child)
        self.subtasks += 1

    def take_lane(self, child: "LiveTask") -> bool:
        """Give a child a lane; where none is free it waits here, in order."""
        if not self.lanes:
            self.waiting_children.append(child)
            return False
        child.lane = heapq.heappop(self.lanes)
        return True

    def child_ended(self, child: "LiveTask", outcome: Outcome) -> None:
        self.children.discard(child)
        self.subtasks_done += 1
        self.subtasks_failed += not outcome.complete
        if child.lane is not None:
            heapq.heappush(self.lanes, child.lane)
            child.lane = None

    def next_children(self) -> "list[LiveTask]":
        """Children that get a lane now."""
        ready = []
        while self.lanes and self.waiting_children:
            child = self.waiting_children.pop(0)
            if child in self.children and child.cancelling is None:
                child.lane = heapq.heappop(self.lanes)
                ready.append(child)
        return ready

    def begin_again(self) -> None:
        """A new attempt: what the last one said of its subtasks and progress is void."""
        self.subtasks = self.subtasks_done = self.subtasks_failed = 0
        self.subtasks_total = self.fraction = None
        self.message = ""
        self.lanes, self.waiting_children = [], []
        self.waiting = False

    # what others see

    def progress(self) -> Progress:
        fraction = self._fraction()
        return Progress(
            fraction=fraction,
            message=self.message,
            subtasks=self.subtasks,
            subtasks_total=self.subtasks_total,
            subtasks_done=self.subtasks_done,
            subtasks_failed=self.subtasks_failed,
            eta=self._eta(fraction),
        )

    def _fraction(self) -> float | None:
        if self.row.status is Status.COMPLETE:
            return 1.0
        if self.subtasks_total:
            under_way = sum(c.fraction or 0.0 for c in self.children)
            return min(1.0, (self.subtasks_done + under_way) / self.subtasks_total)
        return self.fraction

    def _eta(self, fraction: float | None) -> float | None:
        if not fraction or self.row.outcome is not None or self.row.started is None:
            return None
        taken = time.time() - self.row.started
        return max(0.0, taken / fraction - taken)

    def record(self, seq: int = 0) -> Record:
        return Record(
            task=self.task,
            status=self.row.status,
            attempts=self.row.attempts,
            started=self.row.started,
            outcome=self.row.outcome,
            progress=self.progress(),
            waiting=self.waiting,
            seq=seq,
        )

    def refresh(self, record: Record) -> Record:
        """A record from the ledger, with what has changed since."""
        return evolve(self.record(), seq=record.seq)
