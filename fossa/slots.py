"""The node's slots and the queue for them.

How many are in use is never counted up and down: it is how many live attempts hold one.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import TYPE_CHECKING

from fossa.composition import Model
from fossa.contracts import Reservation
from fossa.durations import Durations

if TYPE_CHECKING:
    from fossa.live import LiveTask


class TaskQueue:
    """Tasks that are ready to run: the deepest first, then by priority, then the oldest."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, LiveTask]] = []
        self._queued: set[LiveTask] = set()
        self._order = count()
        #: Queued tasks that are nobody's subtask: what MAX_QUEUED_TASKS bounds.
        self.top_level = 0

    def push(self, live: "LiveTask") -> None:
        task = live.task
        heapq.heappush(self._heap, (-task.depth, -task.priority, next(self._order), live))
        self._queued.add(live)
        self.top_level += task.depth == 0

    def remove(self, live: "LiveTask") -> bool:
        """Take one out; False where it is not in."""
        if live not in self._queued:
            return False
        self._queued.discard(live)
        self.top_level -= live.task.depth == 0
        return True

    def pop(self, *, subtasks_only: bool = False) -> "LiveTask | None":
        """The next to run."""
        live = self.peek()
        if live is None or (subtasks_only and live.task.depth == 0):
            return None
        heapq.heappop(self._heap)
        self.remove(live)
        return live

    def peek(self) -> "LiveTask | None":
        """The next to run, left in."""
        while self._heap and self._heap[0][3] not in self._queued:
            heapq.heappop(self._heap)
        return self._heap[0][3] if self._heap else None

    def __len__(self) -> int:
        return len(self._queued)

    def __iter__(self) -> Iterator["LiveTask"]:
        return iter(list(self._queued))


class Slot:
    """One slot while it is held: by one attempt, or by short ones that run one after another."""

    __slots__ = ("holders", "tenure")

    def __init__(self, tenure: int) -> None:
        self.tenure = tenure
        self.holders: set[LiveTask] = set()


class Slots:
    """The node's slots: who holds them, and who gets the next.

    A parent that wakes comes first, then the queue, then a source that wants to fetch.
    """

    def __init__(
        self,
        total: int,
        models: Mapping[str, Model],
        start: Callable[["LiveTask", Slot], None],
        chunk: Callable[["LiveTask"], int],
    ) -> None:
        """Take `start`, which begins an attempt, and `chunk`: how many its executor takes."""
        self.total = total
        self.queue = TaskQueue()
        self.durations = Durations(models)
        #: Only subtasks get slots: the node is not up yet, or drains.
        self.subtasks_only = True
        self.held: set[Slot] = set()
        self.reservations: set[SlotReservation] = set()
        self._start = start
        self._chunk = chunk
        self._waking: deque[tuple[LiveTask, asyncio.Future[None]]] = deque()
        self._reserving: deque[asyncio.Future[SlotReservation]] = deque()
        self._tenures = count(1)

    @property
    def free(self) -> int:
        return self.total - len(self.held) - len(self.reservations)

    def enqueue(self, live: "LiveTask") -> None:
        """Ready to run: it starts once it has a lane of its parent's, and a slot."""
        if live.take_lane():
            self.queue.push(live)
            self.fill()

    def fill(self) -> None:
        """Give every free slot to whoever is first."""
        while self.free > 0:
            if self._wake_one():
                continue
            live = self.queue.pop(subtasks_only=self.subtasks_only)
            if live is not None:
                self._fill_slot(live)
            elif self.subtasks_only or not self._reserve_one():
                return

    def leave(self, live: "LiveTask") -> None:
        """A task's attempt is over: its slot and its lane are for others."""
        self.rest(live, fill=False)
        sibling = live.leave_lane()
        if sibling is not None:
            self.queue.push(sibling)
        self.fill()

    def rest(self, live: "LiveTask", *, fill: bool = True) -> None:
        """A task needs no slot for now; the last to leave a slot frees it."""
        slot, live.slot = live.slot, None
        if slot is not None:
            slot.holders.discard(live)
            if not slot.holders:
                self.held.discard(slot)
        if fill:
            self.fill()

    def want_back(self, live: "LiveTask") -> asyncio.Future[None]:
        """For a parent whose subtasks have ended: done once it holds a slot again."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waking.append((live, future))
        self.fill()
        return future

    async def reserve(self) -> "SlotReservation":
        """For a source: a slot that nobody in the queue wants."""
        wanted: asyncio.Future[SlotReservation] = asyncio.get_running_loop().create_future()
        self._reserving.append(wanted)
        self.fill()
        try:
            return await wanted
        except asyncio.CancelledError:
            if wanted.done() and not wanted.cancelled():
                wanted.result().release()
            raise

    def remove(self, live: "LiveTask") -> None:
        """Take a task out of the queue, if it is in, with the lane that it has there."""
        if self.queue.remove(live):
            self.leave(live)

    def _hold(self, slot: Slot, live: "LiveTask") -> None:
        self.held.add(slot)
        slot.holders.add(live)
        live.slot = slot

    def _fill_slot(self, live: "LiveTask") -> None:
        """Start a task in a slot of its own; short ones of its kind may share it, one by one."""
        slot = Slot(next(self._tenures))
        share = self._share(live)
        self._hold(slot, live)
        self._start(live, slot)
        for _ in range(share - 1):
            follower = self._follower(live)
            if follower is None:
                return
            self._hold(slot, follower)
            self._start(follower, slot)

    def _share(self, live: "LiveTask") -> int:
        """How many attempts may share a slot: what is queued is spread over all slots first."""
        if live.suspect or live.task.timeout is not None or not self.durations.short(live):
            return 1
        siblings = live.parent is not None and live.lane is not None
        queued = len(live.parent.waiting_children if siblings and live.parent else self.queue)
        return min(self._chunk(live), self.durations.chunk(live), 1 + queued // self.total)

    def _follower(self, live: "LiveTask") -> "LiveTask | None":
        """The next in the queue, or of the siblings that wait for a lane, if it is alike."""
        if live.lane is None or live.parent is None:
            follower = self.queue.peek()
            if follower is None or not self.durations.alike(live, follower):
                return None
            return self.queue.pop()
        sibling = live.parent.waiting_child(leave_in=True)
        if sibling is None or not self.durations.alike(live, sibling):
            return None
        live.parent.waiting_child()
        sibling.join_lane(live.lane)
        return sibling

    def _wake_one(self) -> bool:
        """Give a free slot to a waiting parent, if there is one."""
        while self._waking:
            live, future = self._waking.popleft()
            if not future.done():
                self._hold(Slot(next(self._tenures)), live)
                future.set_result(None)
                return True
        return False

    def _reserve_one(self) -> bool:
        """Give a free slot to a source that wants to fetch, if there is one."""
        while self._reserving:
            future = self._reserving.popleft()
            if not future.done():
                reservation = SlotReservation(self)
                self.reservations.add(reservation)
                future.set_result(reservation)
                return True
        return False


class SlotReservation(Reservation):
    """One slot, kept for a delivery that is about to be fetched."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots

    def release(self) -> None:
        if self in self._slots.reservations:
            self._slots.reservations.discard(self)
            self._slots.fill()
