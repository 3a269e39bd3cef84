"""The nodes: processes that are killed, stopped, and started again in the same directory."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import aiohttp

from fossa.testing import free_port

PROGRAM = Path(__file__).with_name("node.py")
#: Seconds within which a node has to answer, and to stop.
DEADLINE = 60.0


class Node:
    """One node of the fleet."""

    def __init__(self, fleet, index, settings):
        self.name = f"n{index}"
        self.fleet = fleet
        self.directory = fleet.directory / self.name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None
        #: False while it is down or does not run.
        self.up = False
        self.directory.mkdir(parents=True, exist_ok=True)
        self._settings = self.directory / "settings.json"
        mine = {
            "NODE_NAME": self.name,
            "HTTP_PORT": self.port,
            "STATE_DIR": str(self.directory / "state"),
        }
        self._settings.write_text(json.dumps({**settings, **mine}))

    @property
    def ledger(self):
        return self.directory / "state" / "ledger.sqlite"

    async def start(self):
        """Returns once it answers; how many seconds that took."""
        began = time.monotonic()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FOSSA_")}
        environment |= {"CHAOS_NODE": self.name, "CHAOS_RUN": self.fleet.run}
        with (self.directory / "node.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(PROGRAM), str(self._settings)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        while not await self.answers():
            status = self.process.poll()
            assert status is None, f"{self.name} ended with {status}:\n{self.log_end()}"
            assert time.monotonic() - began < DEADLINE, f"{self.name} hangs:\n{self.log_end()}"
            await asyncio.sleep(0.05)
        self.up = True
        return time.monotonic() - began

    async def answers(self):
        try:
            async with self.fleet.http.get(f"{self.url}/api/1/node") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    def log_end(self, lines=30):
        text = (self.directory / "node.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def signal(self, number):
        if self.process.poll() is None:
            self.process.send_signal(number)

    async def kill(self):
        self.up = False
        self.signal(signal.SIGKILL)
        await asyncio.to_thread(self.process.wait, DEADLINE)

    async def stop(self):
        """Stop it in good order."""
        self.up = False
        if self.process is None:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self.process.wait, DEADLINE)
        except subprocess.TimeoutExpired:
            await self.kill()


class Fleet:
    """All nodes, and a session with them: `async with Fleet(…) as fleet`."""

    def __init__(self, directory, settings):
        """One of `settings` for each node; with "rabbitmq": its options, or None."""
        self.directory = directory
        #: In the environment of every process that belongs to this run.
        self.run = uuid.uuid4().hex
        self.nodes = [Node(self, i, mine) for i, mine in enumerate(settings)]
        self.http = None

    async def __aenter__(self):
        deadline = aiohttp.ClientTimeout(total=30, connect=5)
        self.http = aiohttp.ClientSession(timeout=deadline)
        try:
            await asyncio.gather(*(node.start() for node in self.nodes))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_):
        await asyncio.gather(*(node.stop() for node in self.nodes))
        await self.http.close()

    def processes(self):
        """Ids of all processes of this run, whoever started them."""
        mark = f"CHAOS_RUN={self.run}\0".encode()
        return {pid for pid in _all_processes() if mark in _environment(pid)}

    async def left(self, patience=5.0):
        """Processes that there still are some seconds after the nodes have stopped; ended here."""
        end = time.monotonic() + patience
        while (left := self.processes()) and time.monotonic() < end:
            await asyncio.sleep(0.1)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return left


def _all_processes():
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _environment(pid):
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
