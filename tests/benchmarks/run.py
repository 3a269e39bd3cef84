"""Speed as ratios: Fossa and what it is held to, interleaved, in one run on one machine.

    python tests/benchmarks/run.py                 every workload, 5 rounds
    python tests/benchmarks/run.py --short W1 W2   the named ones, 1 small round
    python tests/benchmarks/run.py --check         exit with 1 where a promise is missed

A row is a median of rounds with its range. Only the ratio column means anything: machines differ,
and drift. Run it on an otherwise idle machine.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import psutil
from ayeaye.runtime.knowledge import RuntimeKnowledge
from fresh import fresh_processes
from rich.console import Console
from rich.table import Table
from workloads import Fan, Work, cpu, noop

from fossa import BaseConfig, Fossa
from fossa.ledger import Ledger, StateRow
from fossa.tasks import Task, new_id

WORKERS = 2


class Config(BaseConfig):
    ACCEPTED_MODEL_CLASSES = (Work, Fan)
    SLOTS = WORKERS
    SINKS = ()
    MAX_QUEUED_TASKS = 1_000_000


class Row:
    """One figure of ours, the figure that it is held to, and the promise about their ratio."""

    def __init__(self, name, unit, promise=None, *, more_is_better=True):
        self.name, self.unit, self.promise = name, unit, promise
        self.more_is_better = more_is_better
        self.ours, self.theirs = [], []

    def add(self, ours, theirs=None):
        self.ours.append(ours)
        if theirs is not None:
            self.theirs.append(theirs)

    @property
    def value(self):
        """The median of the rounds' ratios, or of our figures where nothing stands beside them."""
        if self.theirs:
            return statistics.median(a / b for a, b in zip(self.ours, self.theirs, strict=True))
        return statistics.median(self.ours)

    @property
    def kept(self):
        if self.promise is None:
            return None
        return self.value >= self.promise if self.more_is_better else self.value <= self.promise


class Bench:
    def __init__(self, rounds, scale, clean_python):
        self.rounds, self.scale, self.clean_python = rounds, scale, clean_python
        self.rows = []

    def row(self, *args, **kwargs):
        self.rows.append(Row(*args, **kwargs))
        return self.rows[-1]

    async def node(self, directory, **settings):
        node = Fossa(Config, STATE_DIR=directory, **settings)
        await node.start()
        await asyncio.gather(*(self._one(node, "noop", i) for i in range(100)))
        return node

    @staticmethod
    async def _one(node, method, i):
        handle = await node.submit(Work, method, method_kwargs={"i": i})
        outcome = await handle.outcome()
        assert outcome.complete, outcome
        return outcome.result

    async def w1(self):
        """No-op tasks, each result back at the submitter; and as subtasks of one parent."""
        count = int(5000 * self.scale)
        Fan.count = count
        tasks = self.row("W1 tasks / ProcessPoolExecutor", "tasks/s", 0.6)
        subtasks = self.row("W1 subtasks / ayeaye's LocalProcessPool", "tasks/s", 0.5)
        with tempfile.TemporaryDirectory() as directory:
            node = await self.node(directory)
            with ProcessPoolExecutor(WORKERS) as pool:
                list(pool.map(noop, range(100)))
                for _ in range(self.rounds):
                    theirs = _rate(
                        count, lambda: _all([pool.submit(noop, i) for i in range(count)])
                    )
                    gc.collect()
                    began = time.perf_counter()
                    results = await asyncio.gather(
                        *(self._one(node, "noop", i) for i in range(count))
                    )
                    assert [r["i"] for r in results] == list(range(count))
                    tasks.add(count / (time.perf_counter() - began), theirs)
                    theirs = _rate(count, _local_process_pool)
                    began = time.perf_counter()
                    outcome = await (await node.submit(Fan)).outcome()
                    assert outcome.complete, outcome
                    subtasks.add(count / (time.perf_counter() - began), theirs)
            await node.stop()

    async def w2(self):
        """Round trips on an idle node, embedded and over HTTP."""
        embedded = self.row("W2 p50, embedded", "ms", 2.0, more_is_better=False)
        http = self.row("W2 p50, over HTTP", "ms", 5.0, more_is_better=False)
        tail = self.row("W2 p99, embedded", "ms")
        import aiohttp

        with tempfile.TemporaryDirectory() as directory:
            node = await self.node(directory, SOURCES=("http",), HTTP_PORT=0)
            url = node.composition.sources[0].url.rstrip("/") + "/api/1/tasks"
            async with aiohttp.ClientSession() as session:
                for _ in range(self.rounds):
                    took = [await _timed(self._one(node, "noop", i)) for i in range(300)]
                    embedded.add(statistics.median(took) * 1e3)
                    tail.add(sorted(took)[297] * 1e3)
                    took = [await _timed(_http_one(session, url, i)) for i in range(300)]
                    http.add(statistics.median(took) * 1e3)
            await node.stop()

    async def w3(self):
        """CPU-bound tasks: CPU time / cores / wall."""
        efficiency = self.row("W3 efficiency / ProcessPoolExecutor", "", 0.97)
        count = max(8, int(32 * self.scale))
        with tempfile.TemporaryDirectory() as directory:
            node = await self.node(directory)
            with ProcessPoolExecutor(WORKERS) as pool:
                list(pool.map(cpu, range(2)))
                for _ in range(self.rounds):
                    began = time.perf_counter()
                    burnt = sum(r["cpu"] for r in pool.map(cpu, range(count)))
                    theirs = burnt / WORKERS / (time.perf_counter() - began)
                    began = time.perf_counter()
                    results = await asyncio.gather(
                        *(self._one(node, "cpu", i) for i in range(count))
                    )
                    burnt = sum(r["cpu"] for r in results)
                    efficiency.add(burnt / WORKERS / (time.perf_counter() - began), theirs)
            await node.stop()

    async def w7(self):
        """Attempts in fresh processes, beside interpreters that import ayeaye."""
        await fresh_processes(self)

    async def w5(self):
        """Memory of an idle node with its workers, before and after many tasks."""
        idle = self.row("W5 idle node with 2 workers", "MB PSS", 70.0, more_is_better=False)
        after = self.row("W5 after many tasks / before", "MB PSS", 1.2, more_is_better=False)
        process = await asyncio.create_subprocess_exec(
            self.clean_python,
            str(Path(__file__).with_name("idle.py")),
            str(int(100_000 * self.scale)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        weighed = []
        for _ in range(2):
            assert await process.stdout.readline()
            weighed.append(pss(process.pid))
            process.stdin.write(b"go on\n")
        await process.communicate()
        idle.add(weighed[0])
        after.add(weighed[1], weighed[0])

    async def w6(self):
        """Durable submissions over HTTP; a page of tasks with a short and a long history."""
        posts = self.row("W6 durable POST / bare aiohttp handler", "req/s", 0.2)
        pages = self.row("W6 GET a page, long history / short", "req/s", 0.8)
        long = int(1_000_000 * self.scale)
        with tempfile.TemporaryDirectory() as directory:
            await _fill(Path(directory), 100)
            node = await self.node(directory, SOURCES=("http",), HTTP_PORT=0)
            url = node.composition.sources[0].url.rstrip("/") + "/api/1/tasks"
            bare, bare_url = await _bare()
            for _ in range(self.rounds):
                theirs = await _load("POST", bare_url, self.scale)
                posts.add(await _load("POST", url, self.scale), theirs)
                await _idle(node)
            await bare.cleanup()
            await node.stop()
        rates = {}
        with tempfile.TemporaryDirectory() as short, tempfile.TemporaryDirectory() as big:
            await _fill(Path(short), 100)
            await _fill(Path(big), long)
            nodes = [await self.node(d, SOURCES=("http",), HTTP_PORT=0) for d in (short, big)]
            for _ in range(self.rounds):
                for name, node in zip(("short", "long"), nodes, strict=True):
                    url = node.composition.sources[0].url.rstrip("/") + "/api/1/tasks?limit=50"
                    rates[name] = await _load("GET", url, self.scale)
                pages.add(rates["long"], rates["short"])
            for node in nodes:
                await node.stop()


def _rate(count, work):
    gc.collect()
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def _all(futures):
    for future in futures:
        future.result()


def _local_process_pool():
    model = Fan()
    model.log_to_stdout = False
    model.runtime = RuntimeKnowledge()
    model.runtime.max_concurrent_tasks = WORKERS
    assert model.go()


async def _timed(work):
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


async def _http_one(session, url, i):
    body = {"model": "Work", "method": "noop", "method_kwargs": {"i": i}}
    async with session.post(url, json=body) as answer:
        task = await answer.json()
        assert answer.status == 202, task
    async with session.get(f"{url}/{task['id']}?wait=10") as answer:
        assert (await answer.json())["status"] == "complete"


async def _bare():
    from aiohttp import web

    async def handler(request):
        await request.json()
        return web.json_response({"id": "1"})

    app = web.Application()
    app.router.add_post("/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/"


CLIENT = """
import asyncio, sys, time, aiohttp
method, url, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
body = b'{"model": "Work", "method": "noop", "method_kwargs": {"i": 1}}'
headers = {"Content-Type": "application/json"}
async def main():
    left = iter(range(count))
    async with aiohttp.ClientSession() as session:
        async def client():
            for _ in left:
                data = body if method == "POST" else None
                async with session.request(method, url, data=data, headers=headers) as answer:
                    await answer.read()
                    assert answer.status < 300, (answer.status, await answer.text())
        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(32)))
        print(count / (time.perf_counter() - began))
asyncio.run(main())
"""


async def _load(method, url, scale):
    """Requests a second from 32 clients in a process of their own."""
    count = int((4000 if method == "POST" else 2000) * max(scale, 0.1))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, method, url, str(count), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return float(out)


async def _idle(node):
    while node.governor.status()["queued"] or node.governor.status()["running"]:
        await asyncio.sleep(0.05)


async def _fill(directory, count):
    """A ledger with so many ended tasks."""
    from fossa.tasks import Outcome, Reason, Status

    ledger = Ledger(directory / "ledger.sqlite")
    await ledger.open()
    for first in range(0, count, 10_000):
        for i in range(first, min(count, first + 10_000)):
            task = Task(id=new_id(), model="Work", accepted=time.time())
            row = StateRow()
            row.status, row.attempts, row.started = Status.COMPLETE, 1, time.time()
            row.outcome = Outcome(
                status=row.status,
                reason=Reason.RETURNED,
                result_json=b'{"i":%d}' % i,
                finished=time.time(),
            )
            ledger.insert(task, row)
        await ledger.committed()
    await ledger.close()


def pss(pid):
    """Proportional set size of a process and its children, in MB."""
    me = psutil.Process(pid)
    processes = [me, *me.children(recursive=True)]
    return sum(p.memory_full_info().pss for p in processes) / 1e6


def show(bench):
    table = Table(title="Fossa in ratios", caption=machine())
    for column in ("workload", "ours", "held to", "ratio or figure", "promise", ""):
        table.add_column(column, justify="left" if column == "workload" else "right")
    for row in bench.rows:
        sign = "≥" if row.more_is_better else "≤"
        promise = f"{sign} {row.promise:g}" if row.promise is not None else ""
        mark = {None: "", True: "kept", False: "MISSED"}[row.kept]
        table.add_row(
            row.name,
            _spread(row.ours, row.unit),
            _spread(row.theirs, row.unit) if row.theirs else "",
            f"{row.value:.3g}",
            promise,
            mark,
        )
    Console(width=150).print(table)


def _spread(figures, unit):
    middle = statistics.median(figures)
    return f"{middle:,.4g} ({min(figures):,.4g} to {max(figures):,.4g}) {unit}"


def machine():
    names = ("ayeaye-fossa", "ayeaye", "aiohttp", "msgspec")
    versions = ", ".join(f"{n} {version(n)}" for n in names)
    load = os.getloadavg()[0]
    return (
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs, load {load:.2f}, {versions}, "
        f"start method {get_context().get_start_method()}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", metavar="W", help="W1 W2 W3 W5 W6 W7; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="one round of a twentieth of the work")
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 where a promise is missed"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--clean-python",
        default=sys.executable,
        help="an interpreter with Fossa and nothing else installed, to weigh a node with",
    )
    arguments = parser.parse_args()
    rounds, scale = (1, 0.05) if arguments.short else (arguments.rounds, 1.0)
    bench = Bench(rounds, scale, arguments.clean_python)
    for name in arguments.workloads or ["W1", "W2", "W3", "W5", "W6", "W7"]:
        asyncio.run(getattr(bench, name.lower())())
    if arguments.json:
        print(
            json.dumps([{"name": r.name, "ours": r.ours, "theirs": r.theirs} for r in bench.rows])
        )
    else:
        show(bench)
    missed = [r.name for r in bench.rows if r.kept is False]
    sys.exit(f"missed: {', '.join(missed)}" if arguments.check and missed else 0)


if __name__ == "__main__":
    main()
