"""The shapes of messages: what is in each kind of them, and within which bounds."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from fossa import Reason, Status

TASK, OUTCOME = "fossa.task", "fossa.outcome"
SUBTASKS, OUTCOMES, EVENTS = "fossa.subtasks", "fossa.outcomes", "fossa.events"
DROPPED = "fossa.dropped"
PRESENCE, GOODBYE, CANCEL = "fossa.presence", "fossa.goodbye", "fossa.cancel"
QUEUES_LOST, PARKED = "fossa.queues_lost", "fossa.parked"

Id = Annotated[str, Meta(pattern=r"^[0-9a-fA-F-]{8,64}$")]
Name = Annotated[str, Meta(max_length=200)]
MAX_LINE = 1 << 20
Line = Annotated[str, Meta(max_length=MAX_LINE)]
Word = Annotated[str, Meta(max_length=20)]
Whole = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
#: More of them than any node sends at once.
MAX_ITEMS = 100_000
_MANY = Meta(max_length=MAX_ITEMS)


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
    traceback: Annotated[tuple[Line, ...], _MANY] = ()
    result: Raw = Raw(b"null")
    result_is_json: bool = True
    failed_subtask: Name | None = None
    attempt: Whole = 0
    started: Seconds | None = None
    finished: Seconds = 0.0

    def __post_init__(self) -> None:
        if not self.status.final:
            raise ValueError(f"{self.status} is no status that a task ends with")


class EventLine(Struct):
    time: Seconds
    level: Word
    stream: Word
    text: Line
    attempt: Whole = 1


class SubtaskOutcome(Struct, omit_defaults=True):
    id: Id
    attempt: Whole
    outcome: OutcomeDocument
    #: What it wrote since the last event.
    lines: Annotated[list[EventLine], _MANY] = []
    #: How far it has said since then that it has come.
    fraction: Annotated[float, Meta(ge=0, le=1)] | None = None
    message: Line = ""


class Outcomes(Struct):
    node: NodeName
    outcomes: Annotated[list[SubtaskOutcome], _MANY]


class TaskOutcome(Struct):
    task_id: Id | None
    node: NodeName
    outcome: OutcomeDocument


class Event(Struct, omit_defaults=True):
    """What happened to one running subtask since the last time."""

    id: Id
    lines: Annotated[list[EventLine], _MANY] = []
    fraction: Annotated[float, Meta(ge=0, le=1)] | None = None
    message: Line = ""


class Events(Struct):
    node: NodeName
    events: Annotated[list[Event], _MANY]


class Dropped(Struct, omit_defaults=True):
    """A node let go of these subtasks."""

    node: NodeName
    ids: Annotated[list[Id], Meta(max_length=MAX_ITEMS)]
    #: Another node should have them; else it took their parent's for gone.
    handed_back: bool = False


class Versions(Struct):
    fossa: Name = ""
    ayeaye: Name = ""
    python: Name = ""


class Presence(Struct, omit_defaults=True):
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
    #: It takes tasks from this broker; a node without the source only gives.
    takes: bool = True


class Goodbye(Struct):
    id: Id


class Cancel(Struct):
    ids: Annotated[list[Id], _MANY]


class QueuesLost(Struct):
    """A queue was made that had been there before, or should have been."""

    queue: Name


class Parked(Struct):
    """There are messages in the queue of one model, for nodes that accept it."""

    model: Name


class Arguments(Struct, forbid_unknown_fields=True):
    """What a subtask is called with."""

    method_kwargs: dict[str, Any] | None = None
    model_construction_kwargs: dict[str, Any] | None = None
    partition_initialise_kwargs: dict[str, Any] | None = None
    resolver_context: dict[str, Any] | None = None


class WhoseOutcome(Struct):
    """As much of a `SubtaskOutcome` as tells whom it is for."""

    id: Id
    attempt: Whole


class RawOutcomes(Struct):
    """Outcomes that have not been looked into."""

    outcomes: Annotated[list[Raw], _MANY]


def closed(shape: type[Struct]) -> type[Struct]:
    """The same shape, in which a field that it does not have is a mistake."""
    return msgspec.defstruct(
        shape.__name__,
        [(f.name, _closed_type(f.type), *_default(f)) for f in msgspec.structs.fields(shape)],
        namespace={k: v for k, v in vars(shape).items() if k == "__post_init__"},
        forbid_unknown_fields=True,
    )


def _closed_type(kind: Any) -> Any:
    """Lists of structs, and structs, closed likewise."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        return closed(kind)
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


#: What is read, by the kind of message.
BY_KIND: dict[str, type[Struct]] = {
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
