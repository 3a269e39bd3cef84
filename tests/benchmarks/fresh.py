"""The subprocess executor beside as many interpreters that do nothing but import ayeaye."""

import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from workloads import Work

from fossa import BaseConfig, Fossa, use

WORKERS = 2


class Config(BaseConfig):
    ACCEPTED_MODEL_CLASSES = (Work,)
    EXECUTORS = (use("subprocess"),)
    SLOTS = WORKERS
    SINKS = ()


async def fresh_processes(bench):
    """Add the rows to a bench: the time of a task, and what it takes of the processors."""
    count = max(10, int(60 * bench.scale))
    held_to = 'P1 fresh process / python -c "import ayeaye"'
    wall = bench.row(held_to, "ms a task", 1.15, more_is_better=False)
    burnt = bench.row("P1 the same, processor time", "ms a task", 1.15, more_is_better=False)
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(WORKERS) as threads:
        async with Fossa(Config, STATE_DIR=directory) as node:
            await _tasks(node, WORKERS)
            for _ in range(bench.rounds):
                before = _cpu()
                theirs = await _timed(_interpreters(threads, count))
                between = _cpu()
                ours = await _timed(_tasks(node, count))
                # The last of them are still being buried.
                await asyncio.sleep(0.2)
                wall.add(ours / count * 1e3, theirs / count * 1e3)
                burnt.add((_cpu() - between) / count * 1e3, (between - before) / count * 1e3)


async def _tasks(node, count):
    async def one(i):
        outcome = await (await node.submit(Work, "noop", method_kwargs={"i": i})).outcome()
        assert outcome.complete, outcome

    await asyncio.gather(*(one(i) for i in range(count)))


async def _interpreters(threads, count):
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(threads, _interpreter) for _ in range(count)))


def _interpreter():
    subprocess.run([sys.executable, "-c", "import ayeaye"], check=True)


async def _timed(work):
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


def _cpu():
    """Seconds of processor time of this process and of its children that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)
