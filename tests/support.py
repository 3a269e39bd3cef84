"""What several test modules need."""

import asyncio
import os
import time
from contextlib import asynccontextmanager
from pathlib import Path

import models
from fossa import BaseConfig, Fossa


class TestConfig(BaseConfig):
    """Every model of the tests, in memory, without HTTP, with short graces."""

    __test__ = False

    ACCEPTED_MODEL_CLASSES = models.ALL
    SLOTS = 2
    LEDGER = None
    SINKS = ()
    RETRY_DELAY = 0.02
    INTERRUPT_GRACE = 0.5
    TERMINATE_GRACE = 0.3
    DRAIN_TIMEOUT = 5.0


@asynccontextmanager
async def running(config=TestConfig, **settings):
    """A running node."""
    async with Fossa(config, **settings) as node:
        yield node


async def outcome(node, model, method="go", timeout=30, **options):
    """Submit and wait."""
    handle = await node.submit(model, method, **options)
    return await handle.outcome(timeout)


async def until(condition, timeout=10):
    """Wait for a condition that nothing announces; returns what it returned."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come to pass in time"
        await asyncio.sleep(0.01)
    return value


def lives(pid):
    """Whether a process exists and is not a zombie."""
    try:
        os.kill(int(pid), 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, ValueError):
        return False


def texts(lines):
    return [line.text for line in lines]
