"""What can go wrong with the machinery. A model's own failure is an `Outcome`, none of these."""

from collections.abc import Sequence
from inspect import getdoc


class FossaError(Exception):
    """Fossa could not do what was asked."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or getdoc(type(self)))


class ConfigError(FossaError):
    """The config has mistakes; `mistakes` lists every one of them."""

    def __init__(self, place: str, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        count = f"{len(mistakes)} mistake{'s' if len(mistakes) != 1 else ''}"
        super().__init__("\n".join([f"{place} has {count}:", *(f"  - {m}" for m in mistakes)]))


class PluginError(FossaError):
    """A plugin could not be found, loaded or registered."""


class LedgerError(FossaError):
    """The ledger could not be opened, read or written."""


class StateDirInUse(LedgerError):
    """Another node uses this state directory."""


class ExecutorError(FossaError):
    """An executor could not run an attempt, through no fault of the model."""


class NotBegun(ExecutorError):
    """The attempt was not begun, through no fault of its task: it is queued again, uncounted.

    Attributes:
        suspect: whether the process died with this attempt among those it had been given; it is
            then attempted apart from others.
        near: whether no remote executor should get it again.
    """

    def __init__(
        self, message: str | None = None, *, suspect: bool = False, near: bool = False
    ) -> None:
        super().__init__(message)
        self.suspect = suspect
        self.near = near


class LeaseOver(FossaError):
    """The source can keep the delivery for this node no longer."""


class NodeStopped(FossaError):
    """The node is not running: start it first, or it has been stopped."""


class UnknownTask(FossaError):
    """This node knows no task by that id."""


class TaskRefused(FossaError):
    """The task was not admitted; nothing of it was run or recorded."""

    #: HTTP status that tells a client the same.
    status = 400


class NotAccepted(TaskRefused):
    """The model, or its method, is not one that this node accepts."""

    status = 412


class BadArguments(TaskRefused):
    """The task's arguments are not JSON of a sane size and depth, or not of the right type."""


class DeliveredTooOften(TaskRefused):
    """Its source has delivered the task so often that it will not do so again."""


class QueueFull(TaskRefused):
    """The node has as many queued tasks as `MAX_QUEUED_TASKS` allows: try later."""

    status = 503


class NodeStopping(TaskRefused):
    """The node is stopping and takes no more tasks: try another node."""

    status = 503


class TooLate(FossaError):
    """The task has ended already; an outcome is final."""


class NodeUnreachable(FossaError):
    """No node answered at that address."""
