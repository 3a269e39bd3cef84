"""The node's slots and the queue for them.

How many are in use is never counted up and down: it is how many live attempts hold one.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from fossa.composition import Model
from fossa.contracts import Executor, Reservation
from fossa.durations import Durations
from fossa.lanes import FarLanes

if TYPE_CHECKING:
    from fossa.live import LiveTask


#: Where a task runs that gets one of this node's slots, among the places of the queue.
HERE = ""
#: Seconds that short attempts which share a slot here should take in all.
CHUNK_TIME = 0.01
#: Seconds of work that go to another node together: what takes less is not divided any further; and
#: the most, however much is queued.
FAR_LITTLE, FAR_MOST = 0.04, 0.5


class TaskQueue:
    """Tasks that are ready to run: the deepest first, then by priority, then the oldest.

    A task may be had at several places: here, or by a remote executor; the first to ask gets it.
    """

    def __init__(self) -> None:
        self._heaps: dict[str, list[tuple[int, int, int, LiveTask]]] = {}
        self._queued: set[LiveTask] = set()
        self._order = count()
        #: Queued tasks that are nobody's subtask here: what MAX_QUEUED_TASKS bounds.
        self.top_level = 0

    def push(self, live: "LiveTask", places: Iterable[str] = (HERE,)) -> None:
        task = live.task
        for place in places:
            heap = self._heaps.setdefault(place, [])
            if len(heap) > 64 + 2 * len(self._queued):
                heap[:] = [entry for entry in heap if entry[3] in self._queued]
                heapq.heapify(heap)
            heapq.heappush(heap, (-task.depth, -task.priority, next(self._order), live))
        self._queued.add(live)
        self.top_level += live.top_level

    def remove(self, live: "LiveTask") -> bool:
        """Take one out; False where it is not in."""
        if live not in self._queued:
            return False
        self._queued.discard(live)
        self.top_level -= live.top_level
        return True

    def pop(self, place: str = HERE) -> "LiveTask | None":
        """The next to run at a place."""
        live = self.peek(place)
        if live is not None:
            heapq.heappop(self._heaps[place])
            self.remove(live)
        return live

    def peek(self, place: str = HERE) -> "LiveTask | None":
        """The next to run at a place, left in."""
        heap = self._heaps.get(place)
        while heap and heap[0][3] not in self._queued:
            heapq.heappop(heap)
        return heap[0][3] if heap else None

    def __len__(self) -> int:
        return len(self._queued)

    def __iter__(self) -> Iterator["LiveTask"]:
        return iter(list(self._queued))


class Slot:
    """One slot while it is held: by one attempt, or by short ones that run one after another.

    A share of work that another node runs is held likewise, among those that are away.
    """

    __slots__ = ("among", "holders", "places", "tenure")

    def __init__(self, tenure: int, among: "set[Slot]", places: int = 0) -> None:
        self.tenure = tenure
        self.among = among
        #: Slots that there are for its model, here and elsewhere, when an attempt begins in it.
        self.places = places
        self.holders: set[LiveTask] = set()


class Slots:
    """The node's slots: who holds them, and who gets the next.

    A parent that wakes comes first, then the queue, then a source that wants to fetch.
    """

    def __init__(
        self,
        total: int,
        models: Mapping[str, Model],
        start: Callable[["LiveTask", Slot, Executor], None],
        executors: Sequence[Executor],
        ask: Callable[[Executor, str, str], int],
    ) -> None:
        """Take `start`, which begins an attempt in a slot, by an executor, and `ask`.

        `ask` is called with a remote executor, `"room"` or `"far_slots"`, and a model's name.
        """
        self.total = total
        self.queue = TaskQueue()
        self.durations = Durations(models)
        #: Only subtasks get slots: the node is not up yet, or drains.
        self.subtasks_only = True
        self.held: set[Slot] = set()
        self.reservations: set[SlotReservation] = set()
        local = [e for e in executors if not e.remote] or list(executors)
        self._near = {name: e for e in reversed(local) for name in e.models or ()}
        self._near_by_default = next((e for e in local if e.models is None), local[0])
        self._remote = [e for e in executors if e.remote]
        #: By remote executor: the shares of work that other nodes have.
        self._away: dict[str, set[Slot]] = {e.name: set() for e in self._remote}
        self._start, self._ask = start, ask
        self._waking: deque[tuple[LiveTask, asyncio.Future[None]]] = deque()
        self._reserving: deque[asyncio.Future[SlotReservation]] = deque()
        self._watching: list[tuple[bool, asyncio.Future[None]]] = []
        self._tenures = count(1)
        self._far_lanes = FarLanes()

    @property
    def free(self) -> int:
        return self.total - len(self.held) - len(self.reservations)

    @property
    def vacant(self) -> bool:
        """Whether a slot is free that nobody in the queue wants."""
        return self.free > 0 and not self.subtasks_only and self.queue.peek() is None

    def far_slots(self, model: str) -> int:
        """Slots of other nodes for a model, as far as is known."""
        return sum(self._ask(executor, "far_slots", model) for executor in self._remote)

    def enqueue(self, live: "LiveTask") -> None:
        """Ready to run: it starts once it has a lane of its parent's, and a slot."""
        if live.take_lane() and self._far_lanes.enter(live):
            self._push(live)
            self.fill()

    def spread(self, parent: "LiveTask") -> None:
        """Give a parent as many lanes as there are slots for, and as its model wants."""
        far = self.far_slots(parent.task.model)
        # Other nodes get their next subtasks beforehand: one for each slot.
        parent.widen(min(parent.most, max(parent.least, self.total + far) + far))
        while parent.free_lanes and (child := parent.waiting_child()) is not None:
            child.take_lane()
            self._push(child)

    def _push(self, live: "LiveTask") -> None:
        """Queue it wherever it may run: where it was sent, or here and with whoever is first."""
        if live.executor is None:
            self.queue.push(live, (HERE, *(e.name for e in self._remote[:1])))
        else:
            self.queue.push(live, (live.executor.name if live.executor.remote else HERE,))

    def fill(self) -> None:
        """Give every free slot to whoever is first, then other nodes what they have room for."""
        while self.free > 0:
            if self._wake_one():
                continue
            live = self.queue.peek()
            if live is not None and not (self.subtasks_only and live.top_level):
                self.queue.pop()
                self._fill_slot(live, self._here(live), self.held)
            elif self.subtasks_only or not self._reserve_one():
                break
        for executor in self._remote:
            self._fill_far(executor)
        self._tell()

    def near(self, live: "LiveTask") -> Executor:
        """For a task that no plugin has sent elsewhere, and that stays here."""
        return self._near.get(live.task.model, self._near_by_default)

    def _here(self, live: "LiveTask") -> Executor:
        return live.executor or self.near(live)

    def _fill_far(self, executor: Executor) -> None:
        away = self._away[executor.name]
        while (live := self.queue.peek(executor.name)) is not None:
            if len(away) >= self._ask(executor, "room", live.task.model):
                return
            if self.subtasks_only and live.top_level:
                return
            self.queue.pop(executor.name)
            self._fill_slot(live, executor, away)

    def leave(self, live: "LiveTask") -> None:
        """A task's attempt is over: its slot and its lane are for others."""
        self.rest(live, fill=False)
        sibling = live.leave_lane() or self._far_lanes.leave(live)
        if sibling is not None:
            self._push(sibling)
        self.fill()

    def rest(self, live: "LiveTask", *, fill: bool = True) -> None:
        """A task needs no slot for now; the last to leave a slot frees it."""
        slot, live.slot = live.slot, None
        if slot is not None:
            slot.holders.discard(live)
            if not slot.holders:
                slot.among.discard(slot)
        if fill:
            self.fill()

    def want_back(self, live: "LiveTask") -> asyncio.Future[None]:
        """For a parent whose subtasks have ended: done once it holds a slot again."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waking.append((live, future))
        self.fill()
        return future

    # for sources

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

    def reserve_now(self) -> "SlotReservation | None":
        """The same, if there is one now."""
        if not self.vacant:
            return None
        reservation = SlotReservation(self)
        self.reservations.add(reservation)
        self._tell()
        return reservation

    async def watch(self, vacant: bool) -> None:
        """Returns once a slot is vacant, or none is."""
        if self.vacant is vacant:
            return
        change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watching.append((vacant, change))
        await change

    def _tell(self) -> None:
        """Tell those who watch."""
        if not self._watching:
            return
        vacant = self.vacant
        for wanted, change in self._watching:
            if wanted is vacant and not change.done():
                change.set_result(None)
        self._watching = [entry for entry in self._watching if not entry[1].done()]

    def remove(self, live: "LiveTask") -> None:
        """Take a task out of the queue, if it is in, with the lane that it has there."""
        if self.drop(live):
            self.leave(live)

    def drop(self, live: "LiveTask") -> bool:
        """Have a task wait no more, whatever becomes of its lane; False where it does not."""
        return self.queue.remove(live) or self._far_lanes.drop(live)

    # sharing

    def _hold(self, slot: Slot, live: "LiveTask") -> None:
        slot.among.add(slot)
        slot.holders.add(live)
        live.slot = slot

    def _fill_slot(self, live: "LiveTask", executor: Executor, among: set[Slot]) -> None:
        """Start a task in a slot of its own; others like it may share that, one by one."""
        places = self.total + self.far_slots(live.task.model)
        slot = Slot(next(self._tenures), among, places)
        share = self._share(live, executor, places)
        self._hold(slot, live)
        self._start(live, slot, executor)
        for _ in range(share - 1):
            follower = self._follower(live, executor)
            if follower is None:
                return
            self._hold(slot, follower)
            self._start(follower, slot, executor)

    def _share(self, live: "LiveTask", executor: Executor, places: int) -> int:
        """How many attempts go together: what is queued is spread over all slots first."""
        if live.suspect or live.row.attempts or live.task.timeout is not None:
            return 1
        waiting, among = self._line(live, places)
        fitting = partial(self.durations.fitting, live)
        if executor.remote:
            little = min(fitting(FAR_LITTLE), 1 + 4 * waiting // places)
            share = max(little, min(fitting(FAR_MOST), 1 + waiting // (2 * places)))
        elif self.durations.short(live):
            share = min(fitting(CHUNK_TIME), 1 + waiting // among)
        else:
            share = 1
        return min(executor.chunk, share)

    def _line(self, live: "LiveTask", places: int) -> tuple[int, int]:
        """How many wait that may follow a task, and among how many slots they are divided."""
        if live.lane is not None and live.parent is not None:
            return len(live.parent.waiting_children), places
        if live.far_lane is not None:
            return len(live.far_lane.waiting), 1
        return len(self.queue), self.total

    def _follower(self, live: "LiveTask", executor: Executor) -> "LiveTask | None":
        """The next in the queue, or of the siblings that wait for a lane, if it is alike."""
        place = executor.name if executor.remote else HERE
        follower = self._next(live, place)
        if follower is None or not self._may_follow(live, follower, executor):
            return None
        if live.parent is not None and live.lane is not None:
            live.parent.waiting_child()
            follower.join_lane(live.lane)
        elif live.far_lane is not None:
            self._far_lanes.join(follower)
        else:
            self.queue.pop(place)
        return follower

    def _next(self, live: "LiveTask", place: str) -> "LiveTask | None":
        if live.parent is not None and live.lane is not None:
            return live.parent.waiting_child(leave_in=True)
        if live.far_lane is not None:
            return next(iter(live.far_lane.waiting), None)
        return self.queue.peek(place)

    def _may_follow(self, live: "LiveTask", other: "LiveTask", executor: Executor) -> bool:
        """Whether one is like the other, and not another executor's."""
        its_own = other.executor or (executor if executor.remote else self.near(other))
        return its_own is executor and self.durations.alike(live, other)

    def _wake_one(self) -> bool:
        """Give a free slot to a waiting parent, if there is one."""
        while self._waking:
            live, future = self._waking.popleft()
            if not future.done():
                self._hold(Slot(next(self._tenures), self.held), live)
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
