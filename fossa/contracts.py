"""The three contracts: `Source`, `Executor`, `Sink`; and what a node offers to them.

Each has one abstract method, and `open`/`close` for those that need them. Constructors do nothing:
no I/O, no loop, no thread. A node opens sinks, then executors, then sources, and closes them in
reverse once it has drained.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    from fossa.composition import Composition, Model
    from fossa.tasks import Attempt, Delivery, LogLine, Outcome, Record, Request, Task


class Component:
    """What sources, executors and sinks have in common."""

    #: Set by the node: the entry-point name, or the class's name.
    name: str = ""

    def check(self, models: "Mapping[str, Model]") -> "Sequence[str]":
        """What is wrong with it in a config that accepts these models, a line a mistake.

        Asked before anything starts: these mistakes are told together with all others of the
        config. A model has a name, `methods` (names of those that a task may run) and
        `partitioned` (whether it is a PartitionedModel).
        """
        return ()

    async def open(self, node: "Node") -> None:
        """Get ready. Raise a `FossaError` that names the next step to stop the node's start."""

    async def close(self) -> None:
        """Let go of everything that `open` took. Called once, also where `open` raised."""

    def ready(self) -> str | None:
        """None if it can do its work now, else why not: the node's readiness shows it."""
        return None

    def fleet(self) -> "Sequence[Mapping[str, Any]]":
        """Other nodes that it has heard of, each as `Node.fleet` describes one."""
        return ()


class Source(Component, ABC):
    """Where tasks come from."""

    @abstractmethod
    async def run(self, node: "Node") -> None:
        """Hand deliveries to `node.admit` until cancelled.

        A source that *takes* messages awaits `node.reserve()` before each one, or looks for them
        only after `node.slot_free()`, so that a busy node hoards nothing. One that is *given*
        requests (HTTP) calls `admit` at once and passes on the `TaskRefused` that it may raise.
        """


class Executor(Component, ABC):
    """What runs an attempt."""

    #: Whether the attempt runs on some other node, in that node's slot.
    remote: bool = False
    #: For a local one: names of the models whose attempts it gets, before other local ones do.
    #: None: of those that no other one names.
    models: "Collection[str] | None" = None
    #: Attempts of one tenure that it is given at once, at the most; 1: it wants them singly.
    chunk: int = 1

    def room(self, model: str) -> int:
        """For a remote one: shares of work (an attempt, or several of one tenure) it takes now.

        When it has room again it calls `node.look_again()`.
        """
        return 1

    def far_slots(self, model: str) -> int:
        """For a remote one: slots of other nodes that accept the model, as far as is known."""
        return 0

    @abstractmethod
    async def run(self, attempt: "Attempt", live: "LiveAttempt") -> "Outcome":
        """Run the attempt to its end and say how it ended.

        A model's failure is a returned `Outcome`. Raise only where the machinery failed: the node
        makes it an outcome with the reason `executor` and counts a crash; `NotBegun` queues the
        task again. What a remote executor returns is the task's outcome: the other node has
        counted retries and crashes. Where it is cancelled
        (the task was, or the node's drain ran out of time) it ends the attempt for good, then lets
        the `CancelledError` out.
        """


class Sink(Component, ABC):
    """Where outcomes go."""

    #: Whether a task is settled only once this sink took its outcome.
    required: bool = False
    #: Seconds that `take` may last.
    deadline: float = 30.0

    @abstractmethod
    async def take(self, task: "Task", outcome: "Outcome") -> None:
        """Take one outcome; return once it is safe. May see the same outcome twice."""


class LiveAttempt(ABC):
    """What an executor tells, and asks, the governor about the attempt that it runs."""

    @abstractmethod
    def log(self, lines: "Sequence[LogLine]") -> None:
        """Lines that the attempt wrote, in order."""

    @abstractmethod
    def progress(self, fraction: float, message: str) -> None:
        """What the model said of its progress; `fraction` from 0.0 to 1.0."""

    @abstractmethod
    def subtasks(self, requests: "Sequence[SubtaskRequest]") -> None:
        """Subtasks that the model made. Each one's `deliver` is called with its outcome."""

    @abstractmethod
    def planned(self, total: int | None, limit: int, most: int) -> None:
        """The model begins to make subtasks.

        Args:
            total: how many, if it knows.
            limit: how many run at once, by the attempt's `parallelism`.
            most: how many may run at once where there are more slots later on.
        """

    @abstractmethod
    def rest(self) -> None:
        """The model waits for subtasks now: its slot is free for somebody else."""

    @abstractmethod
    async def wake(self) -> None:
        """Returns once the attempt has a slot again."""


#: Called with a subtask and its outcome, once that is in the ledger.
Deliver = Callable[["Task", "Outcome"], None]


@frozen(eq=False)
class SubtaskRequest:
    """One subtask as a running model made it."""

    model: str
    method: str
    #: JSON, as in `Task.arguments`.
    arguments: bytes
    deliver: Deliver


class Reservation(ABC):
    """A slot kept for a delivery that is about to be fetched."""

    @abstractmethod
    def release(self) -> None:
        """Give the slot back: nothing was fetched. Harmless after `admit` used it."""


class Node(ABC):
    """A running node, as its components, its pages and its host see it."""

    #: The name from the config; the same after a restart.
    name: str
    #: Made afresh at each boot.
    id: str
    #: The checked config.
    composition: "Composition"
    #: The node's own log.
    logger: logging.Logger

    @abstractmethod
    async def admit(
        self, delivery: "Delivery", reservation: Reservation | None = None
    ) -> "tuple[Task, bool]":
        """Check, record durably and queue a task; returns it, and whether it is new.

        A task that its source redelivers is queued on its way into the ledger, and this returns
        then: should it get lost there, it is delivered again.

        Raises:
            TaskRefused: it was not admitted, and why.
        """

    @abstractmethod
    def admit_now(
        self, delivery: "Delivery", reservation: Reservation | None = None
    ) -> "Task | None":
        """The same for what its source redelivers and is surely new here; None: use `admit`.

        It waits for nothing, so that a source which takes thousands in a second needs no task of
        asyncio's for each. Raises what `admit` does.
        """

    @abstractmethod
    async def reserve(self) -> Reservation:
        """Returns once a slot is free, and keeps it until used or released."""

    @abstractmethod
    def reserve_now(self) -> Reservation | None:
        """A slot that is free now and that nobody in the queue wants, kept; None: there is none."""

    @abstractmethod
    async def slot_free(self, free: bool = True) -> None:
        """Returns once `reserve_now` would find a slot; with `free` False, once it would not."""

    @abstractmethod
    async def withdraw(self, task_id: str, *, begun: bool = False) -> bool:
        """Take back a task that its source redelivers, and forget it; whether that was possible.

        It is not once the task has ended or, unless `begun`, has begun. An attempt is
        stopped first.
        """

    @abstractmethod
    def look_again(self) -> None:
        """A remote executor has room, or knows of more slots: hand out what is queued."""

    @abstractmethod
    def fleet(self) -> "list[dict[str, Any]]":
        """This node, then the others that its components have heard of, each once.

        Each has name, id, booted, versions, models, slots, slots_free, running, queued, state,
        last_seen (seconds since the epoch) and this (whether it is this node).
        """

    @abstractmethod
    async def record(self, task_id: str) -> "Record":
        """What is known of a task now. Raises `UnknownTask`."""

    @abstractmethod
    async def page(self, **query: Any) -> "list[Record]":
        """Tasks, newest first: see `Ledger.page` for the filters."""

    @abstractmethod
    async def logs(self, task_id: str, after: int = 0, limit: int = 1000) -> "list[Any]":
        """Lines of a task as (position, LogLine) after a position, oldest first."""

    @abstractmethod
    async def outcome(self, task_id: str) -> "Outcome":
        """Returns once the task has ended. Raises `UnknownTask`."""

    @abstractmethod
    async def cancel(self, task_id: str, why: str = "cancelled by request") -> None:
        """Ask a task and its subtasks to stop. Raises `UnknownTask`, `TooLate`."""

    @abstractmethod
    async def retry(self, task_id: str) -> "Task":
        """A new task that does again what an ended one failed to do."""

    @abstractmethod
    def status(self) -> dict[str, Any]:
        """The node in numbers and names, as JSON values; no secrets."""

    @abstractmethod
    def not_ready(self) -> list[str]:
        """Why the node should get no work now; empty where it is ready."""

    @abstractmethod
    def request_for(self, task: "Task") -> "Request":
        """The request that would make this task again."""
