"""Lanes of parents on other nodes: what came in the same one runs one after another here too."""

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fossa.live import LiveTask

#: A parent's id, and the number of one of its lanes.
Key = tuple[str, int]


class FarLane:
    """Subtasks that have one lane: some are queued or run in one slot, the others wait."""

    __slots__ = ("key", "users", "waiting")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.users: set[LiveTask] = set()
        self.waiting: deque[LiveTask] = deque()


class FarLanes:
    """Every lane of another node's parent of which a subtask is here."""

    def __init__(self) -> None:
        self._lanes: dict[Key, FarLane] = {}

    def enter(self, live: "LiveTask") -> bool:
        """Ready to run: whether it may be queued now; else it is its turn later.

        One that was not begun after all has its lane still; where it shared that, it waits first.
        """
        lane = live.far_lane or self._lane_for(live)
        if lane is None:
            return True
        if live in lane.users:
            if len(lane.users) == 1:
                return True
            lane.users.discard(live)
            lane.waiting.appendleft(live)
        elif lane.users:
            lane.waiting.append(live)
        else:
            lane.users.add(live)
        return live in lane.users

    def _lane_for(self, live: "LiveTask") -> FarLane | None:
        key = _key(live)
        if key is not None:
            live.far_lane = self._lanes.setdefault(key, FarLane(key))
        return live.far_lane

    @staticmethod
    def join(live: "LiveTask") -> None:
        """The first of those that wait has its turn together with those before it."""
        lane = live.far_lane
        assert lane is not None
        lane.waiting.remove(live)
        lane.users.add(live)

    def leave(self, live: "LiveTask") -> "LiveTask | None":
        """Its attempt is over, or it is not to have one; returns whose turn it is now."""
        lane, live.far_lane = live.far_lane, None
        if lane is None:
            return None
        lane.users.discard(live)
        if lane.users:
            return None
        if not lane.waiting:
            del self._lanes[lane.key]
            return None
        first = lane.waiting.popleft()
        lane.users.add(first)
        return first

    @staticmethod
    def drop(live: "LiveTask") -> bool:
        """Have one wait no more; False where it does not."""
        lane = live.far_lane
        if lane is None or live not in lane.waiting:
            return False
        lane.waiting.remove(live)
        live.far_lane = None
        return True


def _key(live: "LiveTask") -> Key | None:
    if not live.from_afar or live.delivery is None:
        return None
    origin, parent = live.delivery.origin, live.task.parent_id
    if origin is None or origin.lane is None or parent is None:
        return None
    return parent, origin.lane
