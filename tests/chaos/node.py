"""One node of the fleet, in a process of its own: `node.py settings.json`."""

import ctypes
import json
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chaos.models import Parent, Whole
from fossa import BaseConfig, run_fossa, use

_PR_SET_PDEATHSIG = 1


class ChaosConfig(BaseConfig):
    """Crashes are what this is about: they use no task's budget up."""

    ACCEPTED_MODEL_CLASSES = [Whole, Parent]
    SINKS = ()
    CRASH_ATTEMPTS = 1000
    RETRY_DELAY = 0.1
    RETRY_MAX_DELAY = 0.5
    INTERRUPT_GRACE = 1.0
    TERMINATE_GRACE = 1.0
    DRAIN_TIMEOUT = 20.0


def components(rabbitmq):
    """What a fleet over RabbitMQ has, and one without."""
    if rabbitmq is None:
        return {"SOURCES": ["http"], "EXECUTORS": ["local"]}
    plugin = use("rabbitmq", **rabbitmq)
    return {"SOURCES": ["http", plugin], "EXECUTORS": ["local", plugin]}


if __name__ == "__main__":
    # Not even a node that is stopped outlives whoever broke it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    settings = json.loads(Path(sys.argv[1]).read_text())
    run_fossa(ChaosConfig, **components(settings.pop("rabbitmq")), **settings)
