"""Fossa: the runtime for Aye-Aye ETL models.

Names are looked up on first use, so that a worker process, which needs few of them, stays small.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fossa.client import Client
    from fossa.config import BaseConfig, Limits, env, secret_file, use
    from fossa.contracts import Executor, LiveAttempt, Node, Reservation, Sink, Source
    from fossa.documents import outcome_document
    from fossa.embed import Fossa, TaskHandle, ThreadedFossa, ThreadedTaskHandle
    from fossa.errors import (
        ConfigError,
        DeliveredTooOften,
        FossaError,
        LeaseOver,
        NodeStopped,
        NodeStopping,
        NotAccepted,
        NotBegun,
        QueueFull,
        TaskRefused,
        TooLate,
        UnknownTask,
    )
    from fossa.hookspecs import hookimpl
    from fossa.interrupts import Cancelled, Interrupt, SoftTimeout
    from fossa.standalone import run_fossa
    from fossa.tasks import (
        Attempt,
        Delivery,
        Lease,
        LogLine,
        Origin,
        Outcome,
        Progress,
        Reason,
        Request,
        Status,
        Task,
        Watch,
        new_id,
    )

__all__ = [
    # configure
    "BaseConfig",
    "Limits",
    "env",
    "secret_file",
    "use",
    # run, embed, talk to a node
    "Client",
    "Fossa",
    "TaskHandle",
    "ThreadedFossa",
    "ThreadedTaskHandle",
    "run_fossa",
    # extend
    "Executor",
    "LiveAttempt",
    "Node",
    "Reservation",
    "Sink",
    "Source",
    "Watch",
    "hookimpl",
    "new_id",
    "outcome_document",
    # values
    "Attempt",
    "Delivery",
    "Lease",
    "LogLine",
    "Origin",
    "Outcome",
    "Progress",
    "Reason",
    "Request",
    "Status",
    "Task",
    # errors
    "Cancelled",
    "ConfigError",
    "DeliveredTooOften",
    "FossaError",
    "Interrupt",
    "LeaseOver",
    "NodeStopped",
    "NodeStopping",
    "NotAccepted",
    "NotBegun",
    "QueueFull",
    "SoftTimeout",
    "TaskRefused",
    "TooLate",
    "UnknownTask",
]

_HOMES = {
    "fossa.client": ("Client",),
    "fossa.config": ("BaseConfig", "Limits", "env", "secret_file", "use"),
    "fossa.contracts": ("Executor", "LiveAttempt", "Node", "Reservation", "Sink", "Source"),
    "fossa.documents": ("outcome_document",),
    "fossa.embed": ("Fossa", "TaskHandle", "ThreadedFossa", "ThreadedTaskHandle"),
    "fossa.errors": (
        "ConfigError",
        "DeliveredTooOften",
        "FossaError",
        "LeaseOver",
        "NodeStopped",
        "NodeStopping",
        "NotAccepted",
        "NotBegun",
        "QueueFull",
        "TaskRefused",
        "TooLate",
        "UnknownTask",
    ),
    "fossa.hookspecs": ("hookimpl",),
    "fossa.interrupts": ("Cancelled", "Interrupt", "SoftTimeout"),
    "fossa.standalone": ("run_fossa",),
    "fossa.tasks": (
        "Attempt",
        "Delivery",
        "Lease",
        "LogLine",
        "Origin",
        "Outcome",
        "Progress",
        "Reason",
        "Request",
        "Status",
        "Task",
        "Watch",
        "new_id",
    ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fossa' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
