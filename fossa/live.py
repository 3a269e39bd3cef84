"""A task while the node has it in memory: from its admission to its outcome."""

import asyncio
import heapq
import time
from collections import deque
from typing import TYPE_CHECKING

from attrs import evolve

from fossa.contracts import Deliver, Executor, Reservation
from fossa.ledger_rows import StateRow
from fossa.tasks import Attempt, Delivery, Outcome, Progress, Reason, Record, Status, Task, Watch

if TYPE_CHECKING:
    from fossa.lanes import FarLane
    from fossa.slots import Slot


class Lane:
    """One of a parent's lanes while subtasks have it: several only where they share a slot.

    It goes back to where it came from: another attempt of the parent has lanes of its own.
    """

    __slots__ = ("home", "number", "users")

    def __init__(self, number: int, home: list[int]) -> None:
        self.number, self.home = number, home
        self.users: set[LiveTask] = set()


class LiveTask:
    """One task's changing state. The governor alone changes it."""

    __slots__ = (
        "attempt",
        "begun",
        "cancelling",
        "children",
        "deliver",
        "delivery",
        "ending",
        "executor",
        "far_lane",
        "finished_keys",
        "fraction",
        "free_lanes",
        "given_back",
        "lane",
        "least",
        "limit",
        "log_position",
        "message",
        "most",
        "near",
        "parent",
        "reservation",
        "row",
        "runner",
        "slot",
        "subtasks",
        "subtasks_done",
        "subtasks_failed",
        "subtasks_total",
        "suspect",
        "task",
        "timer",
        "waiters",
        "waiting",
        "waiting_children",
        "waking",
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
        #: The slot that is kept for it until it is queued.
        self.reservation: Reservation | None = None
        #: For a subtask: told of the outcome.
        self.deliver = deliver
        #: Its asyncio task while an attempt is under way.
        self.runner: asyncio.Task[None] | None = None
        #: Whether that has taken its first step.
        self.begun = False
        self.attempt: Attempt | None = None
        #: The slot that it holds; None also while it runs on another node.
        self.slot: Slot | None = None
        #: What runs its attempt, or is to; None: whichever has room first.
        self.executor: Executor | None = None
        #: It has been elsewhere and should stay here.
        self.near = False
        #: A process died that may have died of it: it shares no slot any more.
        self.suspect = False
        #: The delay before its next attempt, while that lasts.
        self.timer: asyncio.TimerHandle | None = None
        #: Why it should stop, once somebody said so.
        self.cancelling: str | None = None
        #: The reason of its outcome, where it is stopped.
        self.ending = Reason.CANCELLED
        #: The node stops before it ended: it stays in the ledger for the next boot.
        self.given_back = False
        #: Whoever waits for the outcome.
        self.waiters: list[asyncio.Future[Outcome]] = []
        #: Its model waits for subtasks and holds no slot.
        self.waiting = False
        #: Pending while it wants a slot again.
        self.waking: asyncio.Future[None] | None = None
        #: Its subtasks that have no outcome yet.
        self.children: set[LiveTask] = set()
        #: Those of them that wait for a lane.
        self.waiting_children: deque[LiveTask] = deque()
        #: How many of its subtasks may be queued or run beside each other; 0: no limit.
        self.limit = 0
        #: What its model wants: for as many slots as it was told of, and for any number of them.
        self.least = self.most = 0
        #: The lanes of these that nobody has.
        self.free_lanes: list[int] = []
        self.lane: Lane | None = None
        #: For a subtask of another node: the lane that it came with, once it is ready to run.
        self.far_lane: FarLane | None = None
        #: Complete subtasks of an earlier attempt, by key; None where there was none.
        self.finished_keys: dict[str, list[str]] | None = None
        self.fraction: float | None = None
        self.message = ""
        self.subtasks = self.subtasks_done = self.subtasks_failed = 0
        self.subtasks_total: int | None = None
        #: Position of its newest log line.
        self.log_position = 0

    def release(self) -> None:
        """It is queued, or never will be: it needs no slot kept for it."""
        reservation, self.reservation = self.reservation, None
        if reservation is not None:
            reservation.release()

    @property
    def top_level(self) -> bool:
        """Whether it is no subtask of a task of this node: its source settles it."""
        return self.parent is None

    @property
    def from_afar(self) -> bool:
        """Whether it is a subtask of another node's task."""
        return self.parent is None and self.task.parent_id is not None

    @property
    def for_sinks(self) -> bool:
        """Whether its outcome is for the sinks: a subtask's is for its parent alone."""
        return self.task.parent_id is None

    @property
    def watch(self) -> Watch | None:
        return self.delivery.watch if self.delivery is not None else None

    def interrupt(self) -> None:
        """Make its attempt stop. One that has not taken its first step sees for itself."""
        self.stop_waking()
        if self.runner is not None and self.begun:
            self.runner.cancel()

    def stop_waking(self) -> None:
        """It needs no slot any more to go on."""
        if self.waking is not None and not self.waking.done():
            self.waking.set_result(None)
        self.waking = None

    # subtasks

    def plan(self, total: int | None, least: int, most: int) -> None:
        """Its model begins to make subtasks, and wants so many lanes for them."""
        self.least, self.most = least, most
        self.limit, self.free_lanes = 0, []
        if total is not None:
            self.subtasks_total = (self.subtasks_total or 0) + total

    def widen(self, limit: int) -> None:
        """So many of its subtasks may be queued or run beside each other; never fewer again."""
        for number in range(self.limit, limit):
            heapq.heappush(self.free_lanes, number)
        self.limit = max(self.limit, limit)

    def adopt(self, child: "LiveTask") -> None:
        self.children.add(child)
        self.subtasks += 1

    def child_ended(self, child: "LiveTask", outcome: Outcome) -> None:
        self.children.discard(child)
        self.subtasks_done += 1
        self.subtasks_failed += not outcome.complete

    def waiting_child(self, *, leave_in: bool = False) -> "LiveTask | None":
        """The first child that waits for a lane, taken out."""
        waiting = self.waiting_children
        while waiting and (waiting[0] not in self.children or waiting[0].cancelling is not None):
            waiting.popleft()
        if not waiting:
            return None
        return waiting[0] if leave_in else waiting.popleft()

    def take_lane(self) -> bool:
        """Get a lane of the parent's: the right to be queued or run beside its siblings.

        One that was not begun after all has one still; where it shared that, it is the next to get
        another.
        """
        parent = self.parent
        if parent is None or not parent.limit:
            return True
        wait = parent.waiting_children.append
        if self.lane is not None:
            if len(self.lane.users) == 1:
                return True
            self.lane.users.discard(self)
            self.lane = None
            wait = parent.waiting_children.appendleft
        if not parent.free_lanes:
            wait(self)
            return False
        free = parent.free_lanes
        self.join_lane(Lane(heapq.heappop(free), free))
        return True

    def join_lane(self, lane: "Lane") -> None:
        lane.users.add(self)
        self.lane = lane

    def place(self) -> tuple[int | None, int | None]:
        """For a subtask: its lane, and how many lanes its parent has."""
        if self.lane is not None and self.parent is not None:
            return self.lane.number, self.parent.limit
        origin = self.delivery.origin if self.delivery is not None else None
        return (origin.lane, origin.lanes) if origin is not None else (None, None)

    def leave_lane(self) -> "LiveTask | None":
        """Give the lane back; returns a sibling that has it now."""
        lane, self.lane = self.lane, None
        parent = self.parent
        if lane is None or parent is None:
            return None
        lane.users.discard(self)
        if lane.users or lane.home is not parent.free_lanes:
            return None
        sibling = parent.waiting_child()
        if sibling is not None:
            sibling.join_lane(Lane(lane.number, lane.home))
        else:
            heapq.heappush(lane.home, lane.number)
        return sibling

    def begin_again(self) -> None:
        """A new attempt: what the last one said of its subtasks and progress is void."""
        self.subtasks = self.subtasks_done = self.subtasks_failed = 0
        self.subtasks_total = self.fraction = None
        self.message = ""
        self.least = self.most = self.limit = 0
        self.free_lanes = []
        self.waiting_children.clear()
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
