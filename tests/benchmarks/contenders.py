"""What is compared: a submitter and its workers, each a process of its own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path

from figures import cpu_seconds

HERE = Path(__file__).parent
#: Seconds in which a process is ready, and in which it has gone.
STARTS, STOPS = 60, 15
#: Seconds in which a command is obeyed, unless more are given.
PATIENCE = 120
#: Characters of a process's log that are shown where it died.
TAIL = 3000


class Program:
    """One process: its log is a file in the run's directory."""

    #: Whether it answers commands on its standard input and output.
    talks = False

    def __init__(self, command, log, env=None):
        self.command, self.log, self.env = command, log, env
        self.process = None

    async def start(self):
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if self.talks else log,
                stderr=log,
                cwd=HERE,
                env={**os.environ, **(self.env or {})},
                start_new_session=True,
            )

    async def stop(self):
        if self.process is None:
            return
        self.leave()
        try:
            await asyncio.wait_for(self.process.wait(), STOPS)
        except TimeoutError:
            # With what it started: the session was made for it.
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()

    def leave(self):
        with suppress(ProcessLookupError):
            self.process.terminate()

    async def death(self):
        """Raises, with the end of its log, once the process has ended by itself."""
        await self.process.wait()
        raise self.trouble("died")

    def trouble(self, what):
        log = self.log.read_text(errors="replace")[-TAIL:]
        return RuntimeError(f"{' '.join(self.command)} {what}:\n{log}")


class Talker(Program):
    """One that answers commands: see `talking.py`."""

    talks = True

    async def start(self):
        await super().start()
        assert await self._line(STARTS) == {"ready": True}

    async def ask(self, patience=PATIENCE, tell=lambda done: None, **command):
        """The answer to a command; `tell` is called with how many tasks are done, now and then."""
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        while "done" in (answer := await self._line(patience)):
            tell(answer["done"])
        return answer

    async def _line(self, patience):
        try:
            line = await asyncio.wait_for(self.process.stdout.readline(), patience)
        except TimeoutError:
            raise self.trouble(f"has not answered in {patience} seconds") from None
        if not line:
            await asyncio.wait_for(self.death(), STOPS)
        return json.loads(line)

    def leave(self):
        self.process.stdin.close()


class Contender:
    """A submitter, the workers that it has, and what they take of the processors."""

    def __init__(self, name, submitter, *workers):
        self.name, self.submitter, self.workers = name, submitter, workers

    async def start(self):
        """Returns once its first tasks have come back."""
        for program in (*self.workers, self.submitter):
            await program.start()
        await self.ask(patience=STARTS, work="noop", count=100)

    async def stop(self):
        for program in (self.submitter, *self.workers):
            await program.stop()

    async def ask(self, **command):
        """The submitter's answer, unless a worker dies meanwhile."""
        answer = asyncio.ensure_future(self.submitter.ask(**command))
        deaths = [asyncio.ensure_future(worker.death()) for worker in self.workers]
        done, waiting = await asyncio.wait([answer, *deaths], return_when=asyncio.FIRST_COMPLETED)
        for future in waiting:
            future.cancel()
        return (answer if answer in done else done.pop()).result()

    def cpu_seconds(self):
        workers = sum(cpu_seconds(w.process.pid) for w in self.workers)
        return {"submitter": cpu_seconds(self.submitter.process.pid), "workers": workers}


class Field:
    """Makes contenders for one broker, whose files are in one directory."""

    def __init__(self, url, directory, peers_python):
        self.url, self.directory, self.peers_python = url, directory, peers_python
        # For submitters that are silent, and deaf, between two commands.
        self.quiet_url = f"{url}?heartbeat=0"
        self._number = count(1)

    def _queue(self):
        """What the names of a contender's queues begin with: it finds nothing of another one's."""
        return f"bench.{next(self._number)}"

    def _log(self, name):
        return self.directory / f"{name}.log"

    def pool(self):
        name = "two local processes"
        command = [sys.executable, "talking.py", "peer_pool"]
        return Contender(name, Talker(command, self._log(name)))

    def floor(self, workers=1):
        name, queue = f"bare pika, workers {workers}", self._queue()
        worker = [sys.executable, "floor_worker.py", self.quiet_url, queue]
        submitter = [sys.executable, "talking.py", "peer_amqp"]
        return Contender(
            name,
            Talker([*submitter, self.quiet_url, queue], self._log(name)),
            *(Program(worker, self._log(name)) for _ in range(workers)),
        )

    def celery(self, prefetch):
        name = f"Celery acks_late, prefetch multiplier {prefetch}"
        env = {
            "BENCH_URL": self.url,
            "BENCH_QUEUE": self._queue(),
            "BENCH_PREFETCH": str(prefetch),
        }
        worker = ["-m", "celery", "-A", "peer_celery", "worker", "-c", "2", "-l", "WARNING"]
        # By default all workers of one computer have the same name, and refuse to be two.
        worker += ["-n", f"prefetch-{prefetch}@%h"]
        return self._peer(name, "peer_celery", worker, env)

    def dramatiq(self, confirm=False, prefetch=64):
        """Its default prefetch is 2 for each thread; with more it is faster."""
        name = f"Dramatiq{' with confirms' if confirm else ''}, prefetch {prefetch}"
        env = {
            "BENCH_URL": self.quiet_url,
            "BENCH_QUEUE": self._queue(),
            "BENCH_CONFIRM": str(int(confirm)),
            "dramatiq_queue_prefetch": str(prefetch),
        }
        worker = ["-m", "dramatiq", "peer_dramatiq", "-p", "2", "-t", "1"]
        return self._peer(name, "peer_dramatiq", worker, env)

    def _peer(self, name, module, worker, env):
        log = self._log(name)
        return Contender(
            name,
            Talker([self.peers_python, "talking.py", module], log, env),
            Program([self.peers_python, *worker], log, env),
        )

    def tasks(self, *slots):
        """Fossa's nodes, with so many slots each; its own client submits to them."""
        name, prefix = "Fossa, tasks", self._queue()
        nodes = [self._node(f"{prefix}.{i}", prefix, s, source=True) for i, s in enumerate(slots)]
        client = [sys.executable, "talking.py", "peer_fossa", self.url, prefix]
        return Contender(name, Talker(client, self._log(name)), *nodes)

    def subtasks(self, *slots, parent_too=False):
        """A node of one slot whose models' subtasks go to the others; to itself too, if asked."""
        name, prefix = "Fossa, subtasks", self._queue()
        parent = self._node(f"{prefix}.parent", prefix, 1, source=parent_too, executor=True)
        nodes = [self._node(f"{prefix}.{i}", prefix, s, source=True) for i, s in enumerate(slots)]
        return Contender(name, parent, *nodes)

    def _node(self, name, prefix, slots, source=False, executor=False):
        # A prefix of its own: no other contender's nodes take its tasks.
        settings = {
            "rabbitmq": {"url": self.url, "prefix": prefix},
            "source": source,
            "executor": executor,
            "SLOTS": slots,
            "NODE_NAME": name,
            "STATE_DIR": str(self.directory / name),
        }
        command = [sys.executable, "fossa_node.py", json.dumps(settings)]
        return Talker(command, self._log(name))
