"""Dead letters: what a message in the dead queue says of its death, and how it lives again."""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
import pika
from attrs import frozen

from fossa.brokers import DeadLetter, content_id
from fossa_rabbitmq.connection import Message
from fossa_rabbitmq.properties import UNREADABLE

#: Set by the node that gives a message up.
REASON, DETAIL, QUEUE = "fossa-reason", "fossa-detail", "fossa-queue"
NODE, AT = "fossa-node", "fossa-at"
#: Set by us: how often it was sent back.
RETRIED = "fossa-retried"
#: The reason of a task that a node has in its ledger, with an outcome: by its own id it would get
#: that again.
CRASHED = "crashed"

_OF_DEATH = {REASON, DETAIL, QUEUE, NODE, AT, UNREADABLE}
#: What the broker writes into a message that dies or is delivered again.
_OF_THE_BROKER = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-", "x-acquired-")
#: What would send copies to other queues.
_COPIES = {"CC", "BCC"}
#: The broker's reasons, for people.
_IN_WORDS = {
    "delivery_limit": "it was delivered too often, and never settled",
    "rejected": "a consumer rejected it",
    "expired": "it waited for too long",
    "maxlen": "its queue was full",
}
#: Bytes of a body that is searched for the model's name.
_SEARCHED = 1024 * 1024
_UNKNOWN = "unknown"
#: Bytes of a name or an id in AMQP, at the most.
MAX_NAME = 255
#: Bytes of an id that can be added to.
_ROOM = 180
#: A moment that every calendar here can show: the year 9999.
_LAST = 253_370_764_800.0


@frozen
class Revived:
    """A dead letter as it goes back."""

    queue: str
    properties: pika.BasicProperties


def id_of(message: Message) -> str:
    """The message's own id, or one that its content gives it."""
    said = message.properties
    if said.message_id:
        return str(said.message_id)
    return content_id(
        str(said.type or "").encode(), str(said.correlation_id or "").encode(), message.body
    )


def letter_of(message: Message, *, with_body: bool = False) -> DeadLetter:
    """What there is to know of a message in the dead queue."""
    headers = message.properties.headers or {}
    about = _by_node(headers) if headers.get(REASON) else _by_broker(headers)
    return DeadLetter(
        id=id_of(message),
        model=_model_of(message.body),
        size=len(message.body),
        headers=_as_json(headers),
        body=message.body if with_body else b"",
        **about,
    )


def revived(message: Message) -> Revived:
    """How the message goes back to where it came from: as if it had never been delivered.

    Its queue is empty where nobody knows it.
    """
    letter = letter_of(message)
    said = message.properties
    headers = {k: v for k, v in (said.headers or {}).items() if not _is_of_death(k)}
    properties = pika.BasicProperties(**vars(said))
    if letter.reason == CRASHED:
        times = headers[RETRIED] = _times(headers) + 1
        # The same each time: sent back twice by mistake, it is still one task.
        properties.message_id = f"{_root_id(letter.id)}.retry-{times}"
    properties.headers = headers or None
    # The broker takes this from its owner only, and we may be somebody else.
    properties.user_id = None
    properties.delivery_mode = pika.DeliveryMode.Persistent.value
    return Revived(letter.queue, properties)


def _by_node(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "reason": str(headers[REASON]),
        "detail": str(headers.get(DETAIL) or ""),
        "queue": _queue(headers.get(QUEUE)),
        "node": str(headers.get(NODE) or ""),
        "at": _moment(headers.get(AT)),
    }


def _queue(said: Any) -> str:
    """The name of a queue, if it can be one."""
    return said if isinstance(said, str) and len(said.encode()) <= MAX_NAME else ""


def _moment(said: Any) -> float | None:
    """Seconds since the epoch, written as text: pika has no floats."""
    try:
        at = float(said)
    except (TypeError, ValueError):
        return None
    return at if 0 <= at < _LAST else None


def _by_broker(headers: Mapping[str, Any]) -> dict[str, Any]:
    reason = str(headers.get("x-first-death-reason") or _UNKNOWN)
    return {
        "reason": reason,
        "detail": _IN_WORDS.get(reason, ""),
        "queue": _queue(headers.get("x-first-death-queue")),
        "at": _death(headers),
    }


def _death(headers: Mapping[str, Any]) -> float | None:
    deaths = headers.get("x-death")
    first = deaths[0] if isinstance(deaths, list) and deaths else {}
    moment = first.get("time") if isinstance(first, dict) else None
    return moment.timestamp() if isinstance(moment, datetime) else None


def _is_of_death(name: str | bytes) -> bool:
    if isinstance(name, bytes):  # it is no UTF-8
        return False
    return name in _OF_DEATH or name in _COPIES or name.startswith(_OF_THE_BROKER)


def _times(headers: Mapping[str, Any]) -> int:
    times = headers.get(RETRIED)
    return times if isinstance(times, int) and 0 <= times < 1_000_000 else 0


def _root_id(letter_id: str) -> str:
    """An id without what we added; made shorter where there is no room to add to it."""
    root, _, times = letter_id.rpartition(".retry-")
    root = root if root and times.isdigit() else letter_id
    return root if len(root.encode()) <= _ROOM else content_id(root.encode())


class _Named(msgspec.Struct):
    model: str


class _Content(msgspec.Struct):
    """As much as is needed of a task, or of a batch of subtasks."""

    model: str | None = None
    subtasks: list[_Named] = []


_decode = msgspec.json.Decoder(_Content).decode


def _model_of(body: bytes) -> str | None:
    if len(body) > _SEARCHED:
        return None
    try:
        found = _decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    return found.model or ", ".join(sorted({s.model for s in found.subtasks})) or None


def _as_json(value: Any) -> Any:
    """A header's value as JSON has it; what JSON has not is text."""
    if isinstance(value, dict):
        return {str(name): _as_json(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_as_json(member) for member in value]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
