"""The node's slots and the queue for them.

How many are in use is never counted up and down: it is how many live attempts hold one.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import TYPE_CHECKING

from fossa.contracts import Reservation

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
    """Who holds a slot, and who waits for one without being in the queue."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.held: set[Slot] = set()
        self.reservations: set[SlotReservation] = set()
        self._waking: deque[tuple[LiveTask, asyncio.Future[None]]] = deque()
        self._reserving: deque[asyncio.Future[SlotReservation]] = deque()
        self._tenures = count(1)

    @property
    def free(self) -> int:
        return self.total - len(self.held) - len(self.reservations)

    def take(self) -> Slot:
        """A free slot. The caller has seen that there is one."""
        slot = Slot(next(self._tenures))
        self.held.add(slot)
        return slot

    def join(self, slot: Slot, live: "LiveTask") -> None:
        slot.holders.add(live)
        live.slot = slot

    def leave(self, live: "LiveTask") -> None:
        """A live task needs its slot no more; the last one to leave frees it."""
        slot, live.slot = live.slot, None
        if slot is not None:
            slot.holders.discard(live)
            if not slot.holders:
                self.held.discard(slot)

    def want_back(self, live: "LiveTask") -> asyncio.Future[None]:
        """For a parent whose subtasks have ended: done once it holds a slot again."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waking.append((live, future))
        return future

    def want_reservation(self) -> "asyncio.Future[SlotReservation]":
        future: asyncio.Future[SlotReservation] = asyncio.get_running_loop().create_future()
        self._reserving.append(future)
        return future

    def wake_one(self) -> bool:
        """Give a free slot to a waiting parent, if there is one."""
        while self._waking:
            live, future = self._waking.popleft()
            if not future.done():
                self.join(self.take(), live)
                future.set_result(None)
                return True
        return False

    def reserve_one(self, changed: Callable[[], None]) -> bool:
        """Give a free slot to a source that wants to fetch, if there is one."""
        while self._reserving:
            future = self._reserving.popleft()
            if not future.done():
                reservation = SlotReservation(self, changed)
                self.reservations.add(reservation)
                future.set_result(reservation)
                return True
        return False


class SlotReservation(Reservation):
    """One slot, kept for a delivery that is about to be fetched."""

    def __init__(self, slots: Slots, changed: Callable[[], None]) -> None:
        self._slots = slots
        self._changed = changed

    def release(self) -> None:
        if self in self._slots.reservations:
            self._slots.reservations.discard(self)
            self._changed()
