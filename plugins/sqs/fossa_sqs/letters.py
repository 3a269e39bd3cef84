"""Dead letters: what is written beside a message that no node could make anything of."""

import json
import time
from typing import Any

from fossa_sqs.message import CORRELATION, KEY, REPLY_TO, Held

#: Set by the node that gives a message up. The last is JSON: queue, node, at, id.
REASON, DETAIL, ORIGIN = "fossa-reason", "fossa-detail", "fossa-origin"
#: How often it was sent back.
RETRIED = "fossa-retried"
#: Attributes of a message, at the most: SQS's own limit.
_MOST = 10
_OURS = (REASON, DETAIL, ORIGIN)
_FIRST = (KEY, REPLY_TO, CORRELATION, RETRIED)


def text(value: str) -> dict[str, str]:
    """An attribute's value."""
    return {"DataType": "String", "StringValue": value}


def sendable(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a received message, as they are sent."""
    return {
        name: {k: v for k, v in value.items() if k in ("DataType", "StringValue", "BinaryValue")}
        for name, value in attributes.items()
        if name not in _OURS
    }


def attributes_of(held: Held, reason: str, detail: str, queue: str, node: str) -> dict[str, Any]:
    """What a dead letter says: why, whence, and as much as there is room for of what it said."""
    origin = {"queue": queue, "node": node, "at": time.time(), "id": held.id}
    said = sendable(held.attributes)
    kept = sorted(said, key=lambda name: (name not in _FIRST, name))[: _MOST - len(_OURS)]
    return {
        **{name: said[name] for name in kept},
        REASON: text(reason),
        DETAIL: text(detail or reason),
        ORIGIN: text(json.dumps(origin)),
    }


def size_of(body: str, attributes: dict[str, Any]) -> int:
    """Bytes of a message as SQS counts them: names, types and values of its attributes too."""
    size = len(body.encode())
    for name, value in attributes.items():
        size += len(name) + len(value["DataType"])
        size += len(value.get("StringValue", "").encode()) + len(value.get("BinaryValue", b""))
    return size
