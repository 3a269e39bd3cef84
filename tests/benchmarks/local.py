"""The workloads on one node, without a broker: Fossa, and what it is held to, interleaved."""

import asyncio
import gc
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from ayeaye.runtime.knowledge import RuntimeKnowledge
from dispatch import hook_dispatch
from figures import Bench, pss
from fresh import fresh_processes
from workloads import Fan, Work, cpu, noop

from fossa import BaseConfig, Fossa
from fossa.ledger import Ledger
from fossa.ledger_rows import StateRow
from fossa.tasks import Task, new_id

WORKERS = 2


class Config(BaseConfig):
    ACCEPTED_MODEL_CLASSES = (Work, Fan)
    SLOTS = WORKERS
    SINKS = ()
    MAX_QUEUED_TASKS = 1_000_000


class Local(Bench):
    def __init__(self, rounds, scale, clean_python):
        super().__init__(rounds, scale)
        self.clean_python = clean_python

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
                    theirs = _rate(count, lambda: _local_process_pool(count))
                    began = time.perf_counter()
                    outcome = await (
                        await node.submit(Fan, model_construction_kwargs={"count": count})
                    ).outcome()
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

    async def s1(self):
        """Tasks from SQS, beside a loop that only receives and deletes."""
        from sqs import tasks_from_sqs

        await tasks_from_sqs(self)

    async def p1(self):
        """Attempts in fresh processes, beside interpreters that import ayeaye."""
        await fresh_processes(self)

    async def h1(self):
        """Hooks that are called for nothing, in the tasks of W1."""
        await hook_dispatch(self)


def _rate(count, work):
    gc.collect()
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def _all(futures):
    for future in futures:
        future.result()


def _local_process_pool(count):
    model = Fan(count)
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
