"""One worker process, seen from the node: its socket, its output, its end."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence

import msgspec

from fossa.tasks import Reason
from fossa.worker.loading import WORKER_MARK
from fossa.worker.messages import Frames, FromWorker, Message, frame, from_worker

#: Seconds that a new worker has to import the models.
BOOT_DEADLINE = 60.0
#: Bytes of raw output (written past Python's streams) that are read in one go.
_CHUNK = 1 << 16


#: Starts a process, given its end of the channel and where its raw output goes.
Launch = Callable[[int, int], "subprocess.Popen[bytes]"]


def launch_worker(mark: str) -> Launch:
    """Starts a `python -m fossa.worker` with this interpreter; `mark` is in its environment."""

    def launch(channel: int, output: int) -> "subprocess.Popen[bytes]":
        # start_new_session: its own process group, which a terminal's Ctrl-C does not reach.
        return subprocess.Popen(
            [sys.executable, "-m", "fossa.worker", str(channel), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(channel,),
            start_new_session=True,
            env={**os.environ, WORKER_MARK: mark, "PYTHONUNBUFFERED": "1"},
        )

    return launch


class WorkerProcess(asyncio.Protocol):
    """A worker in a session and process group of its own.

    Callbacks: `on_message` for each message, `on_output` for each line that was written straight
    to file descriptor 1 or 2, `on_end` once, when the process is gone.
    """

    def __init__(self, registry: "set[WorkerProcess]") -> None:
        #: The worker is in it for as long as its process is there.
        self._registry = registry
        #: It is to end, and to be given nothing more.
        self.retired = False
        #: It has said that it is ready.
        self.booted = False
        self.on_message: Callable[[FromWorker], None] = _ignore
        self.on_output: Callable[[str], None] = _ignore
        self.on_end: Callable[[], None] = lambda: None
        self.pid = 0
        self.tasks_run = 0
        self.first_rss = 0
        #: What made its channel untrustworthy; empty while nothing did.
        self.garbage = ""
        self.ended = False
        self._transport: asyncio.Transport | None = None
        self._frames = Frames()
        self._output = b""
        self._oom_kills = oom_kills()

    async def start(self, launch: Launch) -> None:
        """Start the process. Its boot message is the caller's to send."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        read_end, write_end = os.pipe()
        try:
            self._process = launch(theirs.fileno(), write_end)
        except BaseException:
            ours.close()
            os.close(read_end)
            raise
        finally:
            theirs.close()
            os.close(write_end)
        self.pid = self._process.pid
        self._registry.add(self)
        os.set_blocking(read_end, False)
        self._read_end = read_end
        # Until there is a transport: the process may end, and this start be cancelled, before.
        self._socket = ours
        loop.add_reader(read_end, self._output_ready)
        self._watch_end(loop)
        ours.setblocking(False)
        self._transport, _ = await loop.create_connection(lambda: self, sock=ours)

    def _watch_end(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the kernel say when the process ends: a child of the model may hold its socket."""
        self._pidfd = -1
        if hasattr(os, "pidfd_open"):
            self._pidfd = os.pidfd_open(self.pid)
            loop.add_reader(self._pidfd, self._process_ended)

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._frames.feed(data):
                self.on_message(from_worker.decode(body))
        except (ValueError, msgspec.DecodeError) as error:
            self.garbage = f"it wrote what no worker writes to its channel: {error}"
            self.kill()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.ended:
            return
        self._receive_rest()
        if not exc:
            self.kill()
        if self._pidfd < 0:
            self._look_for_end()

    def _look_for_end(self) -> None:
        """Where the kernel cannot say when a process ends: look until it has."""
        self._process_ended()
        if not self.ended:
            asyncio.get_running_loop().call_later(0.005, self._look_for_end)

    def _output_ready(self) -> None:
        self.drain_output()

    # talking

    def send(self, message: Message) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame(message))

    def drain_output(self) -> None:
        """Read what has been written to descriptors 1 and 2, now."""
        while True:
            try:
                data = os.read(self._read_end, _CHUNK)
            except BlockingIOError:
                break
            except OSError:
                return
            if not data:
                asyncio.get_running_loop().remove_reader(self._read_end)
                break
            *lines, self._output = (self._output + data).split(b"\n")
            for line in lines:
                self.on_output(line.decode("utf-8", "replace"))
            if len(self._output) > _CHUNK:
                self._flush_output()
            if len(data) < _CHUNK:
                break

    def _flush_output(self) -> None:
        if self._output:
            rest, self._output = self._output, b""
            self.on_output(rest.decode("utf-8", "replace"))

    # ending

    def interrupt(self, signal_number: int) -> None:
        """Send a signal to the worker alone."""
        if not self.ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal_number)

    def terminate(self) -> None:
        self._signal_group(signal.SIGTERM)

    def kill(self) -> None:
        """End the process and everything it started, now."""
        self.retired = True
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, signal_number: int) -> None:
        if not self.pid:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal_number)

    def _process_ended(self) -> None:
        if self.ended or self._process.poll() is None:
            return
        self.ended = True
        loop = asyncio.get_running_loop()
        self._receive_rest()
        self.drain_output()
        self._flush_output()
        self.kill()
        loop.remove_reader(self._read_end)
        os.close(self._read_end)
        if self._pidfd >= 0:
            loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        if self._transport is not None:
            self._transport.abort()
        self._socket.close()
        self._registry.discard(self)
        self.on_end()

    def _receive_rest(self) -> None:
        """Take what the process sent before it ended and the loop has not read yet."""
        with contextlib.suppress(OSError):
            while data := self._socket.recv(1 << 18):
                self.data_received(data)

    def cause_of_end(self) -> tuple[Reason, str]:
        """Why the process is gone, typed and in words."""
        if self.garbage:
            return Reason.PROTOCOL, f"the worker process was ended: {self.garbage}"
        code = self._process.returncode
        if code >= 0:
            return Reason.EXIT, f"the worker process exited with status {code} under the task"
        return self._killed_by(-code)

    def _killed_by(self, number: int) -> tuple[Reason, str]:
        name = signal.Signals(number).name if number in list(signal.Signals) else str(number)
        if number == signal.SIGKILL and oom_kills() > self._oom_kills:
            return Reason.OUT_OF_MEMORY, "the kernel's out-of-memory killer ended the process"
        return Reason.SIGNAL, f"signal {name} ended the worker process under the task"


async def gone(workers: Collection[WorkerProcess]) -> None:
    """Return once all that were killed are gone, or after five seconds."""
    deadline = time.monotonic() + 5
    while workers and time.monotonic() < deadline:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0)  # for the transports' own last callbacks


def _ignore(_: object) -> None:
    return None


def oom_kills() -> int:
    """How often the kernel's out-of-memory killer has acted; 0 where it cannot be told."""
    try:
        with open("/proc/vmstat") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
    except (OSError, StopIteration):
        return 0


class BootedWorker(WorkerProcess):
    """A worker process that has said that it is ready, or has ended."""

    async def boot(
        self, launch: Launch, messages: Sequence[Message], deadline: float = BOOT_DEADLINE
    ) -> list[str]:
        """Start it, send it the messages and wait for it; returns what it could not import.

        Raises:
            OSError: it could not be started.
            RuntimeError: it ended.
            TimeoutError: it was not ready after `deadline` seconds.
        """
        ready: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        output: list[str] = []

        def on_message(message: FromWorker) -> None:
            if not ready.done():
                ready.set_result(list(getattr(message, "problems", ())))

        def on_end() -> None:
            if not ready.done():
                said = "; it wrote: " + " | ".join(output[-5:]) if output else ""
                ready.set_exception(RuntimeError(f"{self.cause_of_end()[1]}{said}"))
                ready.exception()  # a boot that was cancelled asks for it no more

        self.on_message, self.on_end, self.on_output = on_message, on_end, output.append
        await self.start(launch)
        for message in messages:
            self.send(message)
        self.started = time.monotonic()
        try:
            problems = await asyncio.wait_for(ready, deadline)
        except BaseException:
            self.kill()
            raise
        self.booted = True
        return problems
