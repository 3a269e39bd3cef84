"""The values that everything else speaks of: frozen, keyword-only, free of behaviour that waits."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec
from attrs import Factory, field, frozen
from attrs.validators import ge, instance_of, optional
from uuid_utils import uuid7

from fossa.reasons import POINTLESS_TO_RETRY, Reason

__all__ = [
    "POINTLESS_TO_RETRY", "Attempt", "Delivery", "Lease", "LogLine", "Origin", "Outcome",
    "Progress", "Reason", "Record", "Request", "Status", "Task", "Watch", "new_id",
]  # fmt: skip

JsonObject = Mapping[str, Any]


def new_id() -> str:
    """A UUIDv7: unique on every node, and later ones sort after earlier ones."""
    return str(uuid7())


class Status(StrEnum):
    """Where a task stands. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (Status.COMPLETE, Status.FAILED, Status.CANCELLED)


@frozen(kw_only=True)
class Request:
    """What somebody asks a node to run. Nothing in it has been checked."""

    #: Name of an accepted model class.
    model: Any
    #: A public method of it.
    method: Any = "go"
    #: Keyword arguments of the method.
    method_kwargs: Any = None
    #: Keyword arguments of the model's constructor.
    model_construction_kwargs: Any = None
    #: Keyword arguments of `partition_initialise` (PartitionedModel only).
    partition_initialise_kwargs: Any = None
    #: Ayeaye's resolver context while the method runs.
    resolver_context: Any = None
    #: Two requests with the same key are one task.
    idempotency_key: Any = None
    #: Seconds that one attempt may take; None: as the config says.
    timeout: Any = None
    #: Attempts after the first, where the model fails; None: as the config says.
    retries: Any = None
    #: Higher first; from -100 to 100.
    priority: Any = 0
    #: Id of the task that this one tries again; its finished subtasks are not repeated.
    retry_of: str | None = None


@frozen(kw_only=True)
class Task:
    """One admitted request to run one method of one accepted model."""

    #: UUIDv7.
    id: str
    #: Name of the model class.
    model: str
    #: Name of the method.
    method: str = "go"
    #: JSON object: method_kwargs, model_construction_kwargs, partition_initialise_kwargs and
    #: resolver_context, each left out where empty. Encoded once, at admission.
    arguments: bytes = b"{}"
    #: Id of the task whose model made this one; None unless it is a subtask.
    parent_id: str | None = None
    #: Id of the task that began it all; its own id unless it is a subtask.
    root_id: str = Factory(lambda self: self.id, takes_self=True)
    #: 0 for a task, 1 for its subtasks, 2 for theirs.
    depth: int = field(default=0, validator=ge(0))
    #: Identity by content among the subtasks of one parent; None unless it is a subtask.
    key: str | None = None
    #: The submitter's key against doing it twice.
    idempotency_key: str | None = field(default=None, validator=optional(instance_of(str)))
    #: Id of the task that this one tries again.
    retry_of: str | None = None
    #: Higher first.
    priority: int = 0
    #: Seconds that one attempt may take; None: no limit.
    timeout: float | None = None
    #: Attempts after the first where the model fails by its own exception.
    retries: int = field(default=0, validator=ge(0))
    #: Name of the source that it came from.
    source: str = "embed"
    #: Whether that source hands it over again, here or to another node, if this node loses it.
    redelivered: bool = False
    #: When it was admitted, in seconds since the epoch.
    accepted: float = 0.0

    def arguments_of(self, name: str) -> dict[str, Any]:
        """One of the four JSON objects in `arguments`; empty where it is left out."""
        found: dict[str, Any] = msgspec.json.decode(self.arguments).get(name) or {}
        return found


@frozen(kw_only=True)
class Attempt:
    """One execution of a task."""

    task: Task
    #: 1 for the first.
    number: int = field(default=1, validator=ge(1))
    #: When it began, in seconds since the epoch.
    started: float = 0.0
    #: How many subtasks may run at once if the model makes any.
    parallelism: int = 1
    #: For a subtask: which of its parent's `parallelism` lanes it runs in, from 0.
    lane: int | None = None
    #: For a subtask: how many lanes its parent has.
    lanes: int | None = None
    #: "worker": in a process that is used again; "task": in a process of its own.
    isolation: str = "worker"
    #: Bytes of memory that the process may take for its data; None: no limit.
    memory: int | None = None
    #: Attempts may share a slot: those of one tenure run one after another.
    tenure: int = 0


@frozen(kw_only=True)
class Outcome:
    """How a task ended."""

    status: Status = field(converter=Status)
    reason: Reason = field(converter=Reason)
    #: One line for people; empty where there is nothing to say.
    message: str = ""
    #: Qualified name of the exception's class.
    error: str | None = None
    #: The exception's traceback, a line an item.
    traceback: tuple[str, ...] = ()
    #: JSON of the return value. NaN and infinities are null, as JavaScript has it.
    result_json: bytes = b"null"
    #: False where the value is not JSON: `result` is then a described, truncated representation.
    result_is_json: bool = True
    #: Id of the subtask that made this task fail.
    failed_subtask: str | None = None
    #: Name of the other node that ran it; empty: that did not say who it is. None: this node.
    node: str | None = None
    #: The attempt that it is the outcome of; 0 where there was none.
    attempt: int = 0
    #: Seconds since the epoch; None where no attempt began.
    started: float | None = None
    finished: float = 0.0

    @property
    def complete(self) -> bool:
        return self.status is Status.COMPLETE

    @property
    def result(self) -> Any:
        """The return value, decoded."""
        return msgspec.json.decode(self.result_json)


@frozen(kw_only=True)
class Progress:
    """How far a task has come."""

    #: From 0.0 to 1.0; None where the model does not say.
    fraction: float | None = None
    #: What the model said with it.
    message: str = ""
    #: Subtasks that the model has made so far.
    subtasks: int = 0
    #: Subtasks in all, where the model made a list of them; None for a generator under way.
    subtasks_total: int | None = None
    #: Subtasks that have ended.
    subtasks_done: int = 0
    #: Subtasks that have failed or were cancelled.
    subtasks_failed: int = 0
    #: Estimated seconds to the end; None where it cannot be told.
    eta: float | None = None


@frozen(kw_only=True)
class LogLine:
    """One line that a task wrote."""

    #: Seconds since the epoch.
    time: float
    #: DEBUG, PROGRESS, INFO, WARNING, ERROR or CRITICAL.
    level: str
    #: model, stdout, stderr, logging, warnings, or node (what the node says of the task).
    stream: str
    text: str
    attempt: int = 1


@frozen(kw_only=True)
class Record:
    """A task as the ledger knows it."""

    task: Task
    status: Status
    #: Attempts begun.
    attempts: int = 0
    started: float | None = None
    outcome: Outcome | None = None
    progress: Progress = Progress()
    #: True while its model waits for subtasks and holds no slot.
    waiting: bool = False
    #: True while a required sink has not taken its outcome.
    owed: bool = False
    #: Position in the ledger: the page cursor.
    seq: int = 0


@frozen(kw_only=True)
class Origin:
    """Who a subtask is that the model of another node made. The source has checked it all."""

    #: The subtask's id, the same on every node.
    task_id: str
    parent_id: str
    root_id: str
    depth: int = field(validator=ge(1))
    key: str
    lane: int | None = None
    lanes: int | None = None


class Watch(ABC):
    """Follows a delivery's task while it runs, for whoever sent it from afar."""

    @abstractmethod
    def begun(self, attempt: int) -> None:
        """An attempt of it has its slot."""

    @abstractmethod
    def log(self, lines: "Sequence[LogLine]") -> None:
        """Lines that it wrote, in order."""

    @abstractmethod
    def progress(self, fraction: float | None, message: str) -> None:
        """How far it says it has come; `fraction` from 0.0 to 1.0."""


@frozen(kw_only=True, eq=False)
class Lease:
    """For how long a delivery is this node's, where its source takes back what is not renewed."""

    #: Seconds between two renewals; the first is due so long after admission.
    every: float
    #: Makes it last longer. One that fails is tried again at the next turn. Raise `LeaseOver` where
    #: it can be renewed no more: the task then fails, with that as its reason.
    renew: Callable[[], Awaitable[None]]


@frozen(kw_only=True, eq=False)
class Delivery:
    """A request as a source hands it over, with the means to settle it."""

    request: Request
    source: str
    #: For a subtask of another node's task.
    origin: Origin | None = None
    #: The source hands the task over again, here or to another node, if this node loses it: the
    #: node does not take it up by itself at its next boot.
    redelivers: bool = False
    #: It may have been delivered to this node before.
    again: bool = False
    #: Why the source will deliver it no more, where that is so: a node that runs the task, or has
    #: its outcome, goes on; one that died under it ends it; others raise `DeliveredTooOften`.
    last: str = ""
    #: Told of what the task does until it has ended.
    watch: Watch | None = None
    #: Awaited (None: nothing to do) once the outcome is recorded and the required sinks took it.
    ack: Callable[[Outcome], Awaitable[None]] | None = None
    #: Awaited (None: nothing to do) where the node stops before the task has ended: somebody else
    #: should take it.
    give_back: Callable[[], Awaitable[None]] | None = None
    #: Awaited, with why, where the outcome is recorded and a required sink would not take it. The
    #: source hands the task over again later, or leaves it to a person. None: `give_back` where
    #: the source redelivers; else the node goes on offering the outcome, and settles then.
    reject: Callable[[Outcome, str], Awaitable[None]] | None = None
    #: Kept from admission until the delivery is settled, given back or rejected.
    lease: Lease | None = None
