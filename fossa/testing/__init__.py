"""For those who test with a node, and for authors of plugins.

Contract suites are pytest classes: subclass one in a test module and override `make`. Doubles stand
in for what a test has no server for. The fixtures `fossa_node` and `no_leaks` are there in every
test, for the pytest plugin is installed with Fossa. Nothing here needs an async plugin of pytest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fossa.testing.clock import FakeClock
    from fossa.testing.components import ComponentContract
    from fossa.testing.doubles import MemoryExecutor, MemorySink, MemorySource, RecordingLiveAttempt
    from fossa.testing.executors import ExecutorContract
    from fossa.testing.leaks import LeakGuard
    from fossa.testing.ledgers import LedgerContract
    from fossa.testing.model_contract import ModelContract
    from fossa.testing.ports import free_port
    from fossa.testing.sinks import SinkContract
    from fossa.testing.sources import SourceContract

__all__ = [
    # contract suites
    "ComponentContract",
    "ExecutorContract",
    "LedgerContract",
    "ModelContract",
    "SinkContract",
    "SourceContract",
    # doubles
    "FakeClock",
    "MemoryExecutor",
    "MemorySink",
    "MemorySource",
    "RecordingLiveAttempt",
    # guards
    "LeakGuard",
    # servers
    "free_port",
]

_HOMES = {
    "fossa.testing.clock": ("FakeClock",),
    "fossa.testing.components": ("ComponentContract",),
    "fossa.testing.doubles": (
        "MemoryExecutor",
        "MemorySink",
        "MemorySource",
        "RecordingLiveAttempt",
    ),
    "fossa.testing.executors": ("ExecutorContract",),
    "fossa.testing.leaks": ("LeakGuard",),
    "fossa.testing.ledgers": ("LedgerContract",),
    "fossa.testing.model_contract": ("ModelContract",),
    "fossa.testing.ports": ("free_port",),
    "fossa.testing.sinks": ("SinkContract",),
    "fossa.testing.sources": ("SourceContract",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fossa.testing' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
