"""The workloads over RabbitMQ: Fossa, its peers and the floor, interleaved, on one broker.

R1, R2, … are W1, W2, … over the broker. Whole tasks are submitted by Fossa's own client; subtasks
are those of a partitioned model on a node that runs none of them.
"""

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from figures import Bench, Cost, cpu_seconds, pss
from rich.console import Console
from rich.progress import Progress

#: Seconds that a million subtasks may take, and between two looks at their parent's memory.
PATIENCE, LOOKS = 3600, 0.5


class Rabbit(Bench):
    def __init__(self, rounds, scale, field, broker_pid=None):
        super().__init__(rounds, scale)
        self.field, self.broker_pid = field, broker_pid
        self.peers, self.ours = _peers_are_there(field.peers_python), _plugin_is_there()

    async def r1(self):
        """No-op tasks, each result back at the submitter; and as subtasks of one parent."""
        count = int(5000 * self.scale)
        rows = {
            side: {
                "celery": self.row(f"R1 {side} / Celery acks_late, the faster", "tasks/s", 2.0),
                "dramatiq": self.row(f"R1 {side} / Dramatiq, the faster", "tasks/s", 1.2),
                "confirm": self.row(f"R1 {side} / Dramatiq with confirms", "tasks/s"),
                "floor": self.row(f"R1 {side} / bare pika, quorum queue", "tasks/s", 0.6),
            }
            for side in ("tasks", "subtasks")
        }
        entrants = {
            "floor": self.field.floor(),
            **self._entrants(tasks=lambda f: f.tasks(2), subtasks=lambda f: f.subtasks(2)),
            **self._celeries(),
            **self._dramatiqs(),
        }
        async with self._running(entrants) as running:
            for _ in range(self.rounds):
                rates = await self._rates("R1", running, "noop", count)
                for side, against in rows.items():
                    for other, row in against.items():
                        _beside(row, rates.get(side), rates.get(other))

    async def r2(self):
        """Round trips of whole tasks on an idle node."""
        middle = self.row("R2 p50 / bare pika, quorum queue", "ms", more_is_better=False)
        tail = self.row("R2 p99 / bare pika, quorum queue", "ms", more_is_better=False)
        count = max(20, int(300 * self.scale))
        entrants = {"floor": self.field.floor(), **self._entrants(tasks=lambda f: f.tasks(2))}
        async with self._running(entrants) as running:
            for _ in range(self.rounds):
                took = {
                    side: (await c.ask(work="noop", count=count, one_by_one=True))["took"]
                    for side, c in running.items()
                }
                middle.add(_ms(took.get("tasks"), 0.5), _ms(took["floor"], 0.5))
                tail.add(_ms(took.get("tasks"), 0.99), _ms(took["floor"], 0.99))

    async def r3(self):
        """CPU-bound tasks over two nodes of one slot: CPU time / cores / wall."""
        await self._efficiency(
            "R3 efficiency",
            32,
            tasks=lambda f: f.tasks(1, 1),
            subtasks=lambda f: f.subtasks(1, parent_too=True),
        )

    async def r4(self):
        """About 100 kB of JSON in and out."""
        rows = {
            "celery": self.row("R4 tasks / Celery acks_late, the faster", "tasks/s", 1.0),
            "dramatiq": self.row("R4 tasks / Dramatiq, the faster", "tasks/s"),
            "floor": self.row("R4 tasks / bare pika, quorum queue", "tasks/s"),
        }
        entrants = {
            "floor": self.field.floor(),
            **self._entrants(tasks=lambda f: f.tasks(2)),
            **self._celeries(),
            **self._dramatiqs(),
        }
        async with self._running(entrants) as running:
            for _ in range(self.rounds):
                rates = await self._rates("R4", running, "fat", max(20, int(500 * self.scale)))
                for other, row in rows.items():
                    _beside(row, rates.get("tasks"), rates.get(other))

    async def r7(self):
        """One parent with very many subtasks from a generator: as fast at the end, and as small."""
        flat = self.row("R7 last tenth of the subtasks / the first", "tasks/s", 0.9)
        memory = self.row("R7 the parent's node, at its most", "MB PSS", 200, more_is_better=False)
        count = 1_000_000 if self.scale == 1 else int(100_000 * self.scale)
        async with self._running(self._entrants(subtasks=lambda f: f.subtasks(2))) as running:
            for contender in running.values():
                with _bar(f"R7 {contender.name}", count) as tell:
                    most, found = await _watched(contender, work="noop", count=count, tell=tell)
                marks = found["marks"]
                rates = [count / 10 / (b - a) for a, b in pairwise(marks)]
                flat.add(rates[-1], rates[0])
                memory.add(most)

    async def r8(self):
        """One subtask over the broker, idle; CPU-bound ones over two nodes of one slot."""
        middle = self.row("R8 p50 of one subtask", "ms", 5.0, more_is_better=False)
        tail = self.row("R8 p99 of one subtask", "ms")
        count = max(20, int(300 * self.scale))
        async with self._running(self._entrants(subtasks=lambda f: f.subtasks(1))) as running:
            for contender in list(running.values()) * self.rounds:
                found = await contender.ask(work="noop", count=count, one_by_one=True)
                middle.add(_ms(found["took"], 0.5))
                tail.add(_ms(found["took"], 0.99))
        await self._efficiency(
            "R8 efficiency", 16, subtasks=lambda f: f.subtasks(1, parent_too=True)
        )

    # what they share

    async def _efficiency(self, what, count, **ours):
        rows = {
            side: self.row(f"{what}, {side} over two nodes / two local processes", "", 0.95)
            for side in ours
        }
        count = max(8, int(count * self.scale))
        entrants = {"pool": self.field.pool(), **self._entrants(**ours)}
        async with self._running(entrants) as running:
            for _ in range(self.rounds):
                found = {k: await c.ask(work="cpu", count=count) for k, c in running.items()}
                share = {k: f["cpu"] / 2 / f["seconds"] for k, f in found.items()}
                for side, row in rows.items():
                    row.add(share.get(side), share["pool"])

    def _entrants(self, **makers):
        return {name: make(self.field) for name, make in makers.items()} if self.ours else {}

    def _celeries(self):
        if not self.peers:
            return {}
        multipliers = (1, 4) if self.scale == 1 else (4,)
        return {f"celery {n}": self.field.celery(n) for n in multipliers}

    def _dramatiqs(self):
        if not self.peers:
            return {}
        if self.scale < 1:
            return {"dramatiq 64": self.field.dramatiq()}
        plain = {f"dramatiq {n}": self.field.dramatiq(prefetch=n) for n in (2, 64)}
        return {**plain, "confirm": self.field.dramatiq(confirm=True)}

    @asynccontextmanager
    async def _running(self, entrants):
        try:
            async with asyncio.TaskGroup() as starting:
                for contender in entrants.values():
                    starting.create_task(contender.start())
            yield entrants
        finally:
            await asyncio.gather(*(contender.stop() for contender in entrants.values()))

    async def _rates(self, workload, running, work, count):
        """Tasks a second of each, by name; of a peer's variants, the fastest."""
        rates = {}
        for name, contender in running.items():
            peer, _, _variant = name.partition(" ")
            rate = await self._rate(workload, contender, work, count)
            rates[peer] = max(rate, rates.get(peer, 0))
        return rates

    async def _rate(self, workload, contender, work, count):
        before = self._taken(contender)
        rate = count / (await contender.ask(work=work, count=count))["seconds"]
        taken = {part: (s - before[part]) / count for part, s in self._taken(contender).items()}
        self._cost(contender.name, workload).add(rate, **taken)
        return rate

    def _taken(self, contender):
        return {**contender.cpu_seconds(), "broker": cpu_seconds(self.broker_pid)}

    def _cost(self, *key):
        if key not in self.costs:
            self.costs[key] = Cost(*key)
        return self.costs[key]


def _beside(row, ours, theirs):
    """One round's figures, where there is something to hold ours to."""
    if theirs is not None:
        row.add(ours, theirs)


def _ms(took, share):
    if took is None:
        return None
    return sorted(took)[min(len(took) - 1, int(len(took) * share))] * 1e3


async def _watched(contender, **command):
    """The most memory that a submitter had while it obeyed, in MB, and its answer."""
    work = asyncio.ensure_future(contender.ask(patience=PATIENCE, **command))
    most = 0
    while not work.done():
        most = max(most, pss(contender.submitter.process.pid))
        await asyncio.wait([work], timeout=LOOKS)
    return most, work.result()


@contextmanager
def _bar(what, total):
    """A progress bar, on standard error; gives what moves it."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(what, total=total)
        yield lambda done: progress.update(bar, completed=done)


def _peers_are_there(python):
    look = [python, "-c", "import celery, dramatiq, pika, ayeaye"]
    if (
        Path(python).exists()
        and subprocess.run(look, capture_output=True, check=False).returncode == 0
    ):
        return True
    _say(f"Celery and Dramatiq are left out: {python} has them not; `make bench` installs them")
    return False


def _plugin_is_there():
    for module in ("fossa_rabbitmq.source", "fossa_rabbitmq.executor"):
        if find_spec(module) is None:
            _say(f"Fossa's own side is left out: there is no module {module}")
            return False
    return True


def _say(line):
    print(line, file=sys.stderr)


@contextmanager
def broker(url, directory):
    """The URL and the process id of the broker to use: a private one, where no URL is given."""
    if url:
        yield url, None
        return
    from fossa_rabbitmq.testing import PrivateBroker

    with PrivateBroker(directory / "broker") as private:
        yield private.url, private.pid
