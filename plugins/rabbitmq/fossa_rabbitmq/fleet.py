"""The other nodes, as this one hears of them over the broker."""

import math
import time
from collections.abc import Iterator
from typing import Any

import msgspec
from attrs import define

from fossa_rabbitmq import wire

#: Seconds between two messages in which a node says that it is there.
PRESENCE_INTERVAL = 4.0
#: Seconds of silence after which a node is gone.
GONE_AFTER = 3 * PRESENCE_INTERVAL
#: Looks for those that have gone, between two such messages: each is noticed soon after.
LOOKS = 4
#: Seconds on the broker after which every node has been heard of that there is.
SETTLED_AFTER = 1.5


@define
class _Heard:
    presence: wire.Presence
    #: Since when it may be silent, and when it was heard, by the monotonic clock; and by the wall.
    at: float
    said: float
    seen: float


class Fleet:
    """Who else is there, what they accept and how many slots they have."""

    def __init__(self, own_id: str) -> None:
        self._own_id = own_id
        self._heard: dict[str, _Heard] = {}
        #: Ids of nodes that are known to have gone.
        self._left: dict[str, None] = {}
        self._slots: dict[str, int] = {}
        #: When this node began to listen, by the monotonic clock; None while it does not.
        self.since: float | None = None

    def begin(self) -> None:
        """This node listens from now on. Everybody else gets a while to be heard again."""
        now = time.monotonic()
        self.since = now
        for heard in self._heard.values():
            heard.at = now

    def lose(self) -> None:
        """This node hears nobody for now; nobody is gone for that."""
        self.since = None

    @property
    def settled(self) -> float:
        """Seconds until everybody has been heard of; 0.0 by then."""
        if self.since is None:
            return SETTLED_AFTER
        return max(0.0, self.since + SETTLED_AFTER - time.monotonic())

    def hear(self, presence: Any) -> bool:
        """A node is there; whether that changes what can be run where."""
        if presence.id == self._own_id:
            return False
        before = self._heard.get(presence.id)
        now = time.monotonic()
        self._heard[presence.id] = _Heard(presence, now, now, time.time())
        self._left.pop(presence.id, None)
        known = before.presence if before else None
        changed = known is None or _offer(known) != _offer(presence)
        if changed:
            self._slots.clear()
        return changed

    def leave(self, node_id: str) -> None:
        """A node has said goodbye, or was silent for too long."""
        if self._heard.pop(node_id, None) is not None:
            self._slots.clear()
            self._left[node_id] = None
            if len(self._left) > 10_000:
                del self._left[next(iter(self._left))]

    def prune(self) -> bool:
        """Let go of those that were silent for too long; whether there were any."""
        if self.since is None:
            return False
        limit = time.monotonic() - GONE_AFTER
        silent = [node_id for node_id, heard in self._heard.items() if heard.at < limit]
        for node_id in silent:
            self.leave(node_id)
        return bool(silent)

    def has(self, node_id: str) -> bool:
        return node_id == self._own_id or node_id in self._heard

    def has_left(self, node_id: str) -> bool:
        """Whether a node is known to have gone, rather than not known at all."""
        return node_id in self._left

    @property
    def others(self) -> int:
        return len(self._heard)

    @property
    def idle(self) -> bool:
        """Whether another node had a slot free when it was last heard of."""
        return any(_idle(presence) for presence in self._takers())

    def idle_at(self, model: str) -> float:
        """When another node for a model was last heard to have a slot free; monotonic."""
        return max(
            (
                heard.said
                for heard in self._heard.values()
                if _takes(heard.presence)
                and _idle(heard.presence)
                and model in heard.presence.models
            ),
            default=-math.inf,
        )

    def slots(self, model: str) -> int:
        """Slots of other nodes that accept a model."""
        if model not in self._slots:
            self._slots[model] = sum(p.slots for p in self._takers() if model in p.models)
        return self._slots[model]

    def _takers(self) -> Iterator[wire.Presence]:
        heard = (h.presence for h in self._heard.values())
        return (presence for presence in heard if _takes(presence))

    def documents(self) -> list[dict[str, Any]]:
        """Every other node, as `Node.fleet` describes one."""
        documents = []
        for heard in self._heard.values():
            document = msgspec.to_builtins(heard.presence)
            del document["hello"], document["takes"]
            documents.append({**document, "last_seen": heard.seen})
        return documents


def _takes(presence: wire.Presence) -> bool:
    return presence.takes and presence.state != "stopping"


def _idle(presence: wire.Presence) -> bool:
    return bool(presence.slots_free and not presence.queued)


def _offer(presence: wire.Presence) -> tuple[Any, ...]:
    """What a node offers to run."""
    return presence.slots, presence.models, presence.state, presence.takes
