"""Fossa: the runtime for Aye-Aye ETL models.

Names are looked up on first use, so that a worker process, which needs few of them, stays small.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fossa.client import Client
    from fossa.config import BaseConfig, Limits, env, secret_file, use
    from fossa.contracts import Executor, LiveAttempt, Node, Sink, Source
    from fossa.embed import Fossa, TaskHandle, ThreadedFossa, ThreadedTaskHandle
    from fossa.errors import FossaError
    from fossa.hookspecs import hookimpl
    from fossa.interrupts import Cancelled, Interrupt, SoftTimeout
    from fossa.standalone import run_fossa
    from fossa.tasks import (
        Attempt,
        Delivery,
        LogLine,
        Outcome,
        Progress,
        Reason,
        Request,
        Status,
        Task,
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
    "Sink",
    "Source",
    "hookimpl",
    # values
    "Attempt",
    "Delivery",
    "LogLine",
    "Outcome",
    "Progress",
    "Reason",
    "Request",
    "Status",
    "Task",
    # errors
    "Cancelled",
    "FossaError",
    "Interrupt",
    "SoftTimeout",
]

_HOMES = {
    "fossa.client": ("Client",),
    "fossa.config": ("BaseConfig", "Limits", "env", "secret_file", "use"),
    "fossa.contracts": ("Executor", "LiveAttempt", "Node", "Sink", "Source"),
    "fossa.embed": ("Fossa", "TaskHandle", "ThreadedFossa", "ThreadedTaskHandle"),
    "fossa.errors": ("FossaError",),
    "fossa.hookspecs": ("hookimpl",),
    "fossa.interrupts": ("Cancelled", "Interrupt", "SoftTimeout"),
    "fossa.standalone": ("run_fossa",),
    "fossa.tasks": (
        "Attempt",
        "Delivery",
        "LogLine",
        "Outcome",
        "Progress",
        "Reason",
        "Request",
        "Status",
        "Task",
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
