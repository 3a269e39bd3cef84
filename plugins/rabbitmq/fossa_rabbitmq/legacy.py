"""Tasks on the wire of `ayeaye-fossa` 0.0.37: ours for its nodes, and theirs for this one.

Values in, values out: nothing here talks to a broker. `docs/reference/wire-0.0.37.md` shows the
messages and says what nodes of that version make of them. Replies are in `legacy_replies`.
"""

import hashlib
import re
from typing import Any

import attrs
import msgspec
import pika
from attrs import frozen
from msgspec import Raw

from fossa import Attempt, Request
from fossa_rabbitmq import wire
from fossa_rabbitmq.wire import BadMessage, Letter

#: The one queue of all nodes of 0.0.37: durable, declared without any arguments.
QUEUE = "fossa_task_queue"
#: The `type` of what a node of this version puts there. Those of 0.0.37 set and read none.
SUBTASK = "fossa.legacy_subtask"

# Nodes of 0.0.37 look at no headers, and fail at any field of a body that they do not know.
_TIMEOUT, _RETRIES, _PRIORITY = "fossa-timeout-ms", "fossa-retries", "fossa-priority"

#: The parts of a task's arguments, each an object that 0.0.37 expects even where it is empty.
_PARTS = (
    "method_kwargs", "resolver_context", "model_construction_kwargs",
    "partition_initialise_kwargs",
)  # fmt: skip
_REQUIRED = ("model_class", "method", "method_kwargs", "resolver_context")
_FIELDS = frozenset(("model_class", "method", *_PARTS))
_EMPTY = Raw(b"{}")
_CORRELATION = re.compile(r"([0-9a-fA-F-]{8,64}):(\d{1,9})\.(\d{1,9})", re.ASCII)

_encode = msgspec.json.Encoder().encode
_decode_parts = msgspec.json.Decoder(dict[str, Raw]).decode


# subtasks of this node, for others


@frozen
class Turn:
    """What a correlation id stands for."""

    task_id: str
    #: Number of the attempt.
    attempt: int
    #: 1, and more where this node sent the attempt out again.
    turn: int = 1

    def __str__(self) -> str:
        # Two colons together would end the id in a node of 0.0.37.
        return f"{self.task_id}:{self.attempt}.{self.turn}"


def turn_of(correlation_id: str) -> Turn | None:
    """The attempt that a reply's correlation id stands for; None: it is none of ours."""
    found = _CORRELATION.fullmatch(correlation_id)
    return Turn(found[1], int(found[2]), int(found[3])) if found else None


def encode_subtask(attempt: Attempt, reply_to: str, turn: int = 1) -> Letter:
    """An attempt as nodes of 0.0.37 take it, to be published to `QUEUE`.

    What their bodies have no room for is in headers, for nodes of this version.
    """
    task = attempt.task
    parts = _decode_parts(task.arguments)
    correlation_id = str(Turn(task.id, attempt.number, turn))
    headers = {_RETRIES: task.retries, _PRIORITY: task.priority}
    if task.timeout is not None:
        # Whole, for pika writes no floats into headers.
        headers[_TIMEOUT] = max(1, round(task.timeout * 1000))
    return wire.letter(
        SUBTASK,
        {"model_class": task.model, "method": task.method}
        | {name: parts.get(name, _EMPTY) for name in _PARTS},
        headers=headers,
        message_id=correlation_id,
        correlation_id=correlation_id,
        reply_to=reply_to,
    )


# tasks of others, for this node


@frozen(kw_only=True)
class LegacyTask:
    """A task out of `QUEUE`. What it asks for is as hostile as before: admission checks it."""

    request: Request
    #: The same wherever the same message is read; None: nothing tells it from others like it.
    key: str | None
    #: For the reply; None: the sender set none.
    correlation_id: str | None
    #: The queue of whoever waits for the outcome; None: nobody does.
    reply_to: str | None
    #: Whether a node of this version sent it.
    ours: bool


def decode_task(body: bytes, properties: pika.BasicProperties, limit: int) -> LegacyTask:
    """The task in a message of at most `limit` bytes.

    Raises:
        BadMessage: it is one that a node of 0.0.37 could not read either, or is too large.
    """
    document = _document(body, limit)
    asked = _asked(properties, hashlib.blake2b(body, digest_size=16).hexdigest())
    request = Request(
        model=document["model_class"],
        method=document["method"],
        **{name: document.get(name) for name in _PARTS},
        **_asked_in_headers(properties, ours=asked.ours),
    )
    return attrs.evolve(asked, request=request)


def unread(properties: pika.BasicProperties) -> LegacyTask | None:
    """Whom to tell that a message could not be read; None: nobody can be told."""
    try:
        asked = _asked(properties, "")
    except BadMessage:
        return None
    return asked if asked.reply_to else None


def _document(body: bytes, limit: int) -> dict[str, Any]:
    if len(body) > limit:
        raise BadMessage("too_large", f"the body has {len(body)} bytes and the limit is {limit}")
    try:
        document = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        raise BadMessage("bad_json", f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        kind = type(document).__name__
        raise BadMessage("bad_message", f"the body is of type {kind}: it should be a JSON object")
    _check_fields(document)
    return document


def _check_fields(document: dict[str, Any]) -> None:
    missing = [name for name in _REQUIRED if name not in document]
    if missing:
        raise BadMessage("bad_message", f"missing fields: {', '.join(missing)}")
    unknown = sorted(f"{name!r:.40}" for name in document.keys() - _FIELDS)
    if unknown:
        raise BadMessage("bad_message", f"unknown fields: {', '.join(unknown[:10])}")


def _asked(properties: pika.BasicProperties, content: str) -> LegacyTask:
    """Who asks, and how the answer gets there. Raises BadMessage."""
    wire.version_of(properties)
    correlation_id = text_property(properties, "correlation_id")
    message_id = text_property(properties, "message_id")
    reply_to = text_property(properties, "reply_to")
    if reply_to == QUEUE:
        raise BadMessage("bad_message", f"reply_to is {QUEUE}: a reply there would stop its nodes")
    key = None
    if correlation_id or message_id:
        named = _encode([message_id, reply_to, correlation_id, content])
        key = "legacy:" + hashlib.blake2b(named, digest_size=16).hexdigest()
    return LegacyTask(
        request=Request(model=""),
        key=key,
        correlation_id=correlation_id,
        reply_to=reply_to,
        ours=properties.type == SUBTASK,
    )


def _asked_in_headers(properties: pika.BasicProperties, *, ours: bool) -> dict[str, Any]:
    if not ours:
        # The sender tries a failed subtask again by itself, once.
        return {"retries": 0}
    headers = properties.headers or {}
    timeout = headers.get(_TIMEOUT)
    return {
        "timeout": timeout / 1000 if isinstance(timeout, int) else timeout,
        "retries": headers.get(_RETRIES),
        "priority": headers.get(_PRIORITY) or 0,
    }


def text_property(properties: pika.BasicProperties, name: str) -> str | None:
    """A property that should be text: pika gives bytes where they are not UTF-8."""
    value = getattr(properties, name)
    if value is None or isinstance(value, str):
        return value or None
    raise BadMessage("bad_message", f"the property {name} is {value!r:.100}: it should be UTF-8")


class Repeats:
    """Tells a message that the broker delivers again from one that its sender sent again.

    A parent on 0.0.37 sends a subtask that failed a second time, the same to the byte, and wants it
    run; a model's second round of subtasks may be the same as its first.

    Args:
        remembered: keys of the latest so many messages are kept.
    """

    def __init__(self, remembered: int = 10_000) -> None:
        self._remembered = remembered
        self._times: dict[str, int] = {}

    def request(self, asked: LegacyTask, *, redelivered: bool) -> Request:
        """What to admit, with the idempotency key that it should have."""
        return attrs.evolve(asked.request, idempotency_key=self._key(asked, redelivered))

    def _key(self, asked: LegacyTask, redelivered: bool) -> str | None:
        key = asked.key
        if key is None or asked.ours:
            return key
        times = self._times.pop(key, 0) + (not redelivered)
        self._times[key] = times
        if len(self._times) > self._remembered:
            del self._times[next(iter(self._times))]
        return key if times < 2 else f"{key}.{times}"
