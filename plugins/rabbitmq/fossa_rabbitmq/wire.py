"""What nodes and clients say to each other: versioned JSON, checked before it is believed.

`docs/reference/wire.md` is its description for those who write a client.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
import pika
from attrs import frozen
from msgspec import Raw

from fossa import (
    Attempt,
    FossaError,
    LogLine,
    Origin,
    Outcome,
    Reason,
    Request,
    Status,
)
from fossa.taskdocuments import BadDocument, read_task_document
from fossa_rabbitmq.properties import UNREADABLE
from fossa_rabbitmq.shapes import (
    BY_KIND,
    CANCEL,
    DROPPED,
    EVENTS,
    GOODBYE,
    MAX_ITEMS,
    MAX_LINE,
    OUTCOME,
    OUTCOMES,
    PARKED,
    PRESENCE,
    QUEUES_LOST,
    SUBTASKS,
    TASK,
    Arguments,
    Cancel,
    Dropped,
    Event,
    EventLine,
    Events,
    Goodbye,
    NodeName,
    OutcomeDocument,
    Outcomes,
    Parked,
    Presence,
    QueuesLost,
    RawOutcomes,
    Subtask,
    SubtaskOutcome,
    Subtasks,
    TaskOutcome,
    WhoseOutcome,
    closed,
)

__all__ = [
    # shapes
    "CANCEL", "Cancel", "DROPPED", "Dropped", "EVENTS", "Event", "EventLine", "Events", "GOODBYE",
    "Goodbye",
    "MAX_LINE", "NodeName", "OUTCOME", "OUTCOMES", "OutcomeDocument", "Outcomes", "PARKED",
    "PRESENCE", "Parked", "Presence", "QUEUES_LOST", "QueuesLost", "SUBTASKS", "Subtask",
    "SubtaskOutcome", "Subtasks", "TASK", "TaskOutcome",
    # what is made of them
    "AGAIN_HEADER", "BadMessage", "Letter", "VERSION", "check_properties", "each_outcome",
    "letter", "lines", "lines_of", "one_line", "origin_of", "outcome", "outcome_of", "read",
    "read_task", "refusal", "request_of", "subtask", "too_large", "unreadable", "version_of",
]  # fmt: skip

#: (major, minor) of what this node writes.
VERSION = (1, 0)
_VERSION_HEADER = "fossa-version"
#: Set on what may have been delivered before: a publish that had no confirm.
AGAIN_HEADER = "fossa-again"

#: Characters of what is said of a bad message, at the most.
MAX_DETAIL = 500
_encode = msgspec.json.Encoder().encode


class BadMessage(FossaError):
    """A message is not what it should be.

    Attributes:
        reason: one word, for the dead letter.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(one_line(detail))


def one_line(text: str) -> str:
    """A text that somebody else may have written, to be shown: not long, and no line ends."""
    cut = text if len(text) <= MAX_DETAIL else f"{text[: MAX_DETAIL - 1]}…"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut)


_open_decoders = {kind: msgspec.json.Decoder(shape) for kind, shape in BY_KIND.items()}
_closed_decoders = {kind: msgspec.json.Decoder(closed(shape)) for kind, shape in BY_KIND.items()}

# reading


def version_of(properties: pika.BasicProperties) -> tuple[int, int]:
    """The version that a message says it is in. Raises BadMessage."""
    said = (properties.headers or {}).get(_VERSION_HEADER, "1.0")
    parts = said.split(".") if isinstance(said, str) else []
    if len(parts) != 2 or not all(p.isascii() and p.isdigit() and len(p) < 6 for p in parts):
        raise BadMessage("version", f"the header {_VERSION_HEADER} is {said!r:.50}: like 1.0")
    major, minor = int(parts[0]), int(parts[1])
    if major != VERSION[0]:
        raise BadMessage(
            "version",
            f"the message is in version {major}.{minor} of the wire and this node speaks "
            f"{VERSION[0]}.{VERSION[1]}: upgrade the older of the two",
        )
    return major, minor


def read(kind: str, body: bytes, properties: pika.BasicProperties) -> Any:
    """The value in a message between nodes; fields of newer minor versions are ignored.

    Raises:
        BadMessage: with the place that is wrong.
    """
    check_properties(properties)
    newer = version_of(properties)[1] > VERSION[1]
    decoders = _open_decoders if newer else _closed_decoders
    if kind not in decoders:
        raise BadMessage("bad_message", f"the property type is {kind!r:.50}: no kind of message")
    return _decoded(decoders[kind].decode, body, f"the body of a {kind}")


def read_task(body: bytes, properties: pika.BasicProperties, limit: int) -> tuple[Request, bool]:
    """The request in a `fossa.task`, and whether a reply is wanted. Raises BadMessage.

    The request is as hostile as before: admission checks what is in it.
    """
    check_properties(properties)
    newer = version_of(properties)[1] > VERSION[1]
    try:
        request, reply = read_task_document(
            body, limit=limit, key=_key(body, properties), newer=newer
        )
    except BadDocument as error:
        raise BadMessage(error.reason, str(error)) from None
    if reply and not properties.reply_to:
        raise BadMessage(
            "no_reply_to",
            'the property reply_to is missing: name a queue, or put "reply": false into the body',
        )
    return request, reply


def check_properties(properties: pika.BasicProperties) -> None:
    """Raises BadMessage where what a message says of itself cannot be read, or is no text."""
    why = (properties.headers or {}).get(UNREADABLE)
    if why is not None:
        raise BadMessage("bad_message", f"its headers cannot be read: {why!s:.200}")
    for name in ("type", "message_id", "correlation_id", "reply_to"):
        value = getattr(properties, name)
        if isinstance(value, bytes):
            raise BadMessage("bad_message", f"the property {name} is {value!r:.100}: no UTF-8")


def _decoded(decode: Callable[[bytes | Raw], Any], body: bytes | Raw, what: str) -> Any:
    """What JSON says. Raises BadMessage with the place that is wrong."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise BadMessage("bad_message", f"{what} is not what it should be: {error}") from None
    except (ValueError, RecursionError) as error:  # a ValueError where it is not UTF-8
        raise BadMessage("bad_json", f"{what} is not JSON: {error}") from None


def _key(body: bytes, properties: pika.BasicProperties) -> str | None:
    """What tells a second delivery of a message from another message; None: nothing does."""
    if properties.message_id:
        return str(properties.message_id)
    if not properties.correlation_id:
        return None
    told = f"{properties.reply_to!s}\0{properties.correlation_id!s}\0".encode()
    return "message:" + hashlib.blake2b(told + body, digest_size=16).hexdigest()


_decode_arguments = msgspec.json.Decoder(Arguments).decode


def request_of(subtask: Subtask) -> Request:
    """The request for a subtask of another node. Raises BadMessage."""
    arguments: Arguments = _decoded(_decode_arguments, subtask.arguments, "arguments")
    return Request(
        model=subtask.model,
        method=subtask.method,
        priority=subtask.priority,
        timeout=subtask.timeout,
        retries=subtask.retries,
        method_kwargs=arguments.method_kwargs,
        model_construction_kwargs=arguments.model_construction_kwargs,
        partition_initialise_kwargs=arguments.partition_initialise_kwargs,
        resolver_context=arguments.resolver_context,
    )


def origin_of(subtask: Subtask) -> Origin:
    return Origin(
        task_id=subtask.id,
        parent_id=subtask.parent,
        root_id=subtask.root,
        depth=subtask.depth,
        key=subtask.key,
        lane=subtask.lane,
        lanes=subtask.lanes,
    )


_decode_json = msgspec.json.Decoder().decode


def outcome_of(document: Any, node: str = "") -> Outcome:
    """The value behind an `OutcomeDocument`; a failure where its result cannot be read.

    Args:
        document: an `OutcomeDocument`.
        node: name of the node that says so; empty: it is not known.
    """
    try:
        _decoded(_decode_json, document.result, "its result")
    except BadMessage as error:
        return unreadable(
            f"it ended as {document.status}, and {error}",
            attempt=document.attempt,
            started=document.started,
            finished=document.finished,
            node=node,
        )
    return Outcome(
        status=Status(document.status),
        reason=Reason(document.reason),
        message=document.message,
        error=document.error,
        traceback=tuple(document.traceback),
        result_json=bytes(document.result),
        result_is_json=document.result_is_json,
        failed_subtask=document.failed_subtask,
        attempt=document.attempt,
        started=document.started,
        finished=document.finished,
        node=node,
    )


def unreadable(text: str, **values: Any) -> Outcome:
    """The outcome of what another node ran, and told of in words that this one cannot read."""
    return Outcome(status=Status.FAILED, reason=Reason.PROTOCOL, message=text, **values)


_decode_items = msgspec.json.Decoder(RawOutcomes).decode
_decode_whose = msgspec.json.Decoder(WhoseOutcome).decode
_decode_item = msgspec.json.Decoder(SubtaskOutcome).decode


def each_outcome(
    body: bytes, wrong: BadMessage
) -> Iterator[tuple[WhoseOutcome | SubtaskOutcome, Outcome]]:
    """One by one, the outcomes in a `fossa.outcomes` that could not be read as a whole.

    Args:
        body: of the message.
        wrong: what `read` said of it.

    Raises:
        BadMessage: where it is not even known what it is about.
    """
    for item in _decoded(_decode_items, body, f"the body of a {OUTCOMES}").outcomes:
        try:
            whose = _decoded(_decode_whose, item, "an outcome")
        except BadMessage:
            continue
        try:
            if wrong.reason == "version":
                raise wrong
            found = _decoded(_decode_item, item, "its outcome")
            yield found, outcome_of(found.outcome)
        except BadMessage as error:
            yield whose, unreadable(str(error), attempt=whose.attempt)


def lines_of(event: Any) -> list[LogLine]:
    return [
        LogLine(
            time=line.time,
            level=line.level,
            stream=line.stream,
            text=line.text,
            attempt=max(1, line.attempt),
        )
        for line in event.lines
    ]


# writing


@frozen
class Letter:
    """A body with its properties, to be published."""

    body: bytes
    properties: pika.BasicProperties


def letter(
    kind: str,
    content: Any,
    *,
    headers: Mapping[str, Any] | None = None,
    persistent: bool = True,
    **properties: Any,
) -> Letter:
    """A message of a kind, with whatever AMQP properties it needs besides."""
    version = {_VERSION_HEADER: f"{VERSION[0]}.{VERSION[1]}"}
    return Letter(
        content if isinstance(content, bytes) else _encode(content),
        pika.BasicProperties(
            content_type="application/json",
            type=kind,
            delivery_mode=2 if persistent else 1,
            headers=version | dict(headers or {}),
            **properties,
        ),
    )


def subtask(attempt: Attempt) -> Subtask:
    """An attempt as the wire has it."""
    task = attempt.task
    return Subtask(
        id=task.id,
        parent=task.parent_id or task.id,
        root=task.root_id,
        depth=max(1, task.depth),
        key=task.key or "0",
        model=task.model,
        method=task.method,
        arguments=Raw(task.arguments),
        attempt=attempt.number,
        priority=task.priority,
        timeout=task.timeout,
        retries=task.retries,
        lane=attempt.lane,
        lanes=attempt.lanes,
    )


def outcome(outcome: Outcome) -> OutcomeDocument:
    return OutcomeDocument(
        status=outcome.status,
        reason=outcome.reason,
        message=outcome.message[:MAX_LINE],
        error=outcome.error and outcome.error[:MAX_LINE],
        traceback=tuple(line[:MAX_LINE] for line in outcome.traceback[-MAX_ITEMS:]),
        result=Raw(outcome.result_json),
        result_is_json=outcome.result_is_json,
        failed_subtask=outcome.failed_subtask,
        attempt=outcome.attempt,
        started=outcome.started,
        finished=outcome.finished,
    )


def lines(lines: Iterable[LogLine]) -> list[EventLine]:
    return [
        EventLine(x.time, x.level[:20], x.stream[:20], x.text[:MAX_LINE], x.attempt) for x in lines
    ]


def refusal(text: str) -> OutcomeDocument:
    """The outcome of what was not admitted."""
    return OutcomeDocument(status=Status.FAILED, reason=Reason.REFUSED, message=text)


def too_large(outcome: OutcomeDocument, text: str) -> OutcomeDocument:
    """The outcome of a task whose result does not fit into a message."""
    return OutcomeDocument(
        status=Status.FAILED,
        reason=Reason.RESULT_TOO_LARGE,
        message=text,
        attempt=outcome.attempt,
        started=outcome.started,
        finished=outcome.finished,
    )
