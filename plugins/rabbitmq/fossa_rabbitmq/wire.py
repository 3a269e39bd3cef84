"""What nodes and clients say to each other: versioned JSON, checked before it is believed.

`docs/reference/wire.md` is its description for those who write a client.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
import pika
from attrs import frozen
from msgspec import Meta, Raw, Struct

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

S = TypeVar("S", bound=Struct)

#: (major, minor) of what this node writes.
VERSION = (1, 0)
_VERSION_HEADER = "fossa-version"
#: Set on what may have been delivered before: a publish that had no confirm.
AGAIN_HEADER = "fossa-again"

TASK, OUTCOME = "fossa.task", "fossa.outcome"
SUBTASKS, OUTCOMES, EVENTS = "fossa.subtasks", "fossa.outcomes", "fossa.events"
DROPPED = "fossa.dropped"
PRESENCE, GOODBYE, CANCEL = "fossa.presence", "fossa.goodbye", "fossa.cancel"
QUEUES_LOST, PARKED = "fossa.queues_lost", "fossa.parked"

#: Levels of nesting of a message's JSON that are looked at, at the most: arguments have a limit of
#: their own.
_encode = msgspec.json.Encoder().encode


class BadMessage(FossaError):
    """A message is not what it should be.

    Attributes:
        reason: one word, for the dead letter.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


# the shapes

Id = Annotated[str, Meta(pattern=r"^[0-9a-fA-F-]{8,64}$")]
Name = Annotated[str, Meta(max_length=200)]
MAX_LINE = 1 << 20
Line = Annotated[str, Meta(max_length=MAX_LINE)]
Whole = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Seconds = Annotated[float, Meta(ge=0, le=1e12)]


class NodeName(Struct):
    id: Id
    name: Name


class Subtask(Struct, omit_defaults=True):
    id: Id
    parent: Id
    root: Id
    depth: Annotated[int, Meta(ge=1, le=1000)]
    key: Annotated[str, Meta(pattern=r"^[0-9a-f]{1,64}$")]
    model: Name
    method: Name
    arguments: Raw
    attempt: Whole = 1
    priority: int = 0
    timeout: float | None = None
    retries: Whole = 0
    lane: Whole | None = None
    lanes: Whole | None = None


class Subtasks(Struct):
    node: NodeName
    subtasks: Annotated[list[Subtask], Meta(min_length=1, max_length=10_000)]


class OutcomeDocument(Struct, omit_defaults=True):
    status: Status
    reason: Reason
    message: Line = ""
    error: Line | None = None
    traceback: tuple[Line, ...] = ()
    result: Raw = Raw(b"null")
    result_is_json: bool = True
    failed_subtask: Name | None = None
    attempt: Whole = 0
    started: Seconds | None = None
    finished: Seconds = 0.0


class EventLine(Struct):
    time: Seconds
    level: Annotated[str, Meta(max_length=20)]
    stream: Annotated[str, Meta(max_length=20)]
    text: Line
    attempt: Whole = 1


class SubtaskOutcome(Struct, omit_defaults=True):
    id: Id
    attempt: Whole
    outcome: OutcomeDocument
    #: What it wrote since the last event.
    lines: list[EventLine] = []


class Outcomes(Struct):
    node: NodeName
    outcomes: list[SubtaskOutcome]


class TaskOutcome(Struct):
    task_id: Id | None
    node: NodeName
    outcome: OutcomeDocument


class Event(Struct, omit_defaults=True):
    """What happened to one running subtask since the last time."""

    id: Id
    lines: list[EventLine] = []
    fraction: Annotated[float, Meta(ge=0, le=1)] | None = None
    message: Line = ""


class Events(Struct):
    node: NodeName
    events: list[Event]


class Dropped(Struct):
    """A node took the one of these subtasks' parent for gone, and let go of them."""

    node: NodeName
    ids: Annotated[list[Id], Meta(max_length=10_000)]


class Versions(Struct):
    fossa: Name = ""
    ayeaye: Name = ""
    python: Name = ""


class Presence(Struct):
    id: Id
    name: Name
    booted: Seconds
    versions: Versions
    models: Annotated[list[Name], Meta(max_length=10_000)]
    slots: Whole
    slots_free: Whole
    running: Whole
    queued: Whole
    state: Name
    #: The sender is new and wants to hear of everybody.
    hello: bool = False


class Goodbye(Struct):
    id: Id


class Cancel(Struct):
    ids: list[Id]


class QueuesLost(Struct):
    """A queue was made that had been there before, or should have been."""

    queue: Name


class Parked(Struct):
    """There are messages in the queue of one model, for nodes that accept it."""

    model: Name


def _closed(shape: type[Struct]) -> type[Struct]:
    """The same shape, in which a field that it does not have is a mistake."""
    return msgspec.defstruct(
        shape.__name__,
        [(f.name, _closed_type(f.type), *_default(f)) for f in msgspec.structs.fields(shape)],
        forbid_unknown_fields=True,
    )


def _closed_type(kind: Any) -> Any:
    """Lists of structs, and structs, closed likewise."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _closed(kind)
    members = getattr(kind, "__metadata__", None)
    if members is not None:
        return Annotated[(_closed_type(kind.__origin__), *members)]
    if getattr(kind, "__origin__", None) is list:
        return list[_closed_type(kind.__args__[0])]  # type: ignore[misc]
    return kind


def _default(found: Any) -> tuple[Any, ...]:
    if found.default is not msgspec.NODEFAULT:
        return (found.default,)
    if found.default_factory is not msgspec.NODEFAULT:
        return (msgspec.field(default_factory=found.default_factory),)
    return ()


_SHAPES: dict[str, type[Struct]] = {
    SUBTASKS: Subtasks,
    OUTCOMES: Outcomes,
    OUTCOME: TaskOutcome,
    EVENTS: Events,
    DROPPED: Dropped,
    PRESENCE: Presence,
    GOODBYE: Goodbye,
    CANCEL: Cancel,
    QUEUES_LOST: QueuesLost,
    PARKED: Parked,
}
_open_decoders = {name: msgspec.json.Decoder(shape) for name, shape in _SHAPES.items()}
_closed_decoders = {name: msgspec.json.Decoder(_closed(shape)) for name, shape in _SHAPES.items()}

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
    newer = version_of(properties)[1] > VERSION[1]
    try:
        return (_open_decoders if newer else _closed_decoders)[kind].decode(body)
    except msgspec.ValidationError as error:
        raise BadMessage("bad_message", f"{kind}: {error}") from None
    except (ValueError, RecursionError) as error:  # a ValueError where it is not UTF-8
        raise BadMessage("bad_json", f"{kind}: the body is not JSON: {error}") from None


_REQUEST_FIELDS = frozenset(
    (
        "model", "method", "method_kwargs", "model_construction_kwargs",
        "partition_initialise_kwargs", "resolver_context", "timeout", "retries", "priority",
    )
)  # fmt: skip


def read_task(body: bytes, properties: pika.BasicProperties, limit: int) -> tuple[Request, bool]:
    """The request in a `fossa.task`, and whether a reply is wanted. Raises BadMessage.

    The request is as hostile as before: admission checks what is in it.
    """
    if len(body) > limit:
        raise BadMessage("too_large", f"the body has {len(body)} bytes and the limit is {limit}")
    newer = version_of(properties)[1] > VERSION[1]
    try:
        document = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        raise BadMessage("bad_json", f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        kind = type(document).__name__
        raise BadMessage("bad_message", f"the body is of type {kind}: it should be a JSON object")
    reply = document.pop("reply", True)
    unknown = document.keys() - _REQUEST_FIELDS
    if unknown and not newer:
        names = ", ".join(sorted(f"{name!r:.40}" for name in unknown)[:10])
        raise BadMessage("bad_message", f"unknown fields: {names}")
    if not isinstance(reply, bool):
        raise BadMessage("bad_message", f"reply is {reply!r:.40}: it should be true or false")
    if "model" not in document:
        raise BadMessage("bad_message", "the field model is missing: the name of a model class")
    if reply and not properties.reply_to:
        raise BadMessage(
            "no_reply_to",
            'the property reply_to is missing: name a queue, or put "reply": false into the body',
        )
    known = {name: value for name, value in document.items() if name in _REQUEST_FIELDS}
    return Request(**known, idempotency_key=_key(body, properties)), reply


def _key(body: bytes, properties: pika.BasicProperties) -> str | None:
    """What tells a second delivery of a message from another message; None: nothing does."""
    if properties.message_id:
        return str(properties.message_id)
    if not properties.correlation_id:
        return None
    told = f"{properties.reply_to}\0{properties.correlation_id}\0".encode()
    return "message:" + hashlib.blake2b(told + body, digest_size=16).hexdigest()


_ARGUMENTS = frozenset(
    (
        "method_kwargs", "model_construction_kwargs", "partition_initialise_kwargs",
        "resolver_context",
    )
)  # fmt: skip


def request_of(subtask: Subtask) -> Request:
    """The request for a subtask of another node. Raises BadMessage."""
    try:
        arguments = msgspec.json.decode(subtask.arguments)
    except (ValueError, RecursionError) as error:
        raise BadMessage("bad_json", f"the arguments are not JSON: {error}") from None
    if not isinstance(arguments, dict) or not arguments.keys() <= _ARGUMENTS:
        raise BadMessage("bad_message", f"arguments is not an object of {sorted(_ARGUMENTS)}")
    return Request(
        model=subtask.model,
        method=subtask.method,
        priority=subtask.priority,
        timeout=subtask.timeout,
        retries=subtask.retries,
        **arguments,
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


def outcome_of(document: Any) -> Outcome:
    """The value behind an `OutcomeDocument`; a failure where its result cannot be read."""
    if (wrong := _unreadable(document.result)) is not None:
        return _unreadable_result(document, wrong)
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
    )


def _unreadable(raw: Raw) -> str | None:
    """What is wrong with JSON that no decoder has looked into; None: nothing."""
    try:
        msgspec.json.decode(raw)
    except (ValueError, RecursionError) as error:
        return str(error)
    return None


def _unreadable_result(document: Any, wrong: str) -> Outcome:
    return Outcome(
        status=Status.FAILED,
        reason=Reason.PROTOCOL,
        message=f"it ended as {document.status}, and its result is not JSON: {wrong}",
        attempt=document.attempt,
        started=document.started,
        finished=document.finished,
    )


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
        traceback=outcome.traceback,
        result=Raw(outcome.result_json),
        result_is_json=outcome.result_is_json,
        failed_subtask=outcome.failed_subtask,
        attempt=outcome.attempt,
        started=outcome.started,
        finished=outcome.finished,
    )


def lines(lines: Iterable[LogLine]) -> list[EventLine]:
    return [EventLine(x.time, x.level, x.stream, x.text, x.attempt) for x in lines]


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
