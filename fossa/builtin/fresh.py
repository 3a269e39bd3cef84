"""One fresh process, seen from the node: its greeting, its end, and what may be left of it."""

import asyncio
import contextlib
import os
import signal

import msgspec
import psutil

from fossa.builtin.cgroups import Cgroup
from fossa.builtin.process import BootedWorker, Launch, WorkerProcess
from fossa.tasks import Reason
from fossa.worker.messages import GREETING, PROTOCOL, Greeting, Signal, greeting

#: Bytes that a prefix may write before the worker's greeting.
MAX_BEFORE = 1 << 20
#: Seconds that a prefix has to end once its worker is gone: its status says how that ended.
PREFIX_GRACE = 1.0
#: Times that a cgroup is tried to be removed, where something in it still has to end.
CGROUP_TRIES = 100
#: A shell's exit status for a signal is this and the signal's number.
_BY_SIGNAL = 128


class FreshWorker(BootedWorker):
    """A `python -m fossa.worker.fresh` for one attempt, perhaps behind a prefix.

    A prefix may be another process than the worker, end before it, or run it where no signal of
    this node reaches it: what has to arrive goes over the channel.
    """

    def __init__(
        self,
        registry: "set[WorkerProcess]",
        place: str,
        advice: str,
        cgroup: Cgroup | None = None,
    ) -> None:
        """Take the `place` of this node's process ids, empty where there is no prefix."""
        super().__init__(registry)
        self._cgroup = cgroup
        self._place = place
        self._advice = advice
        self.greeting: Greeting | None = None
        self._before = b""
        #: The worker's process id here, where it is not the process that was started.
        self._inner = 0
        self._inner_end = -1
        self._cut = False
        #: What the model has started, where it has to be looked for.
        self._below: set[psutil.Process] = set()
        #: Nothing that the model started is left: nobody has to look for it.
        self.clean = False

    async def start(self, launch: Launch) -> None:
        cgroup = self._cgroup
        if cgroup is None:
            await super().start(launch)
            return
        try:
            cgroup.make()
            await super().start(launch)
            cgroup.add(self.pid)
        finally:
            if not self.pid:
                cgroup.remove()

    # the greeting

    def data_received(self, data: bytes) -> None:
        if self.greeting is None:
            data = self._greet(data)
        if data:
            super().data_received(data)

    def _greet(self, data: bytes) -> bytes:
        """Read up to the greeting; returns what follows it. What comes before is output."""
        self._before += data
        start = self._before.find(GREETING)
        end = self._before.find(b"\n", start)
        if start < 0 or end < 0:
            if len(self._before) > MAX_BEFORE:
                self._distrust("it wrote a lot, and no worker's greeting")
            return b""
        line, rest = self._before[start + len(GREETING) : end], self._before[end + 1 :]
        self._before = self._before[:start]
        self._say_before()
        try:
            self.greeting = greeting.decode(line)
        except msgspec.DecodeError as error:
            self._distrust(f"its greeting cannot be read: {error}")
            return b""
        if self.greeting.protocol != PROTOCOL:
            self._distrust(
                f"its fossa speaks protocol {self.greeting.protocol} to its node and this node's "
                f"speaks {PROTOCOL}: {self._advice}"
            )
            return b""
        if self._place and self.greeting.place == self._place:
            self._watch_inner(self.greeting.pid)
        return rest

    def _say_before(self) -> None:
        before, self._before = self._before, b""
        for line in before.splitlines():
            self.on_output(line.decode("utf-8", "replace"))

    def _distrust(self, why: str) -> None:
        self._before = b""
        self.garbage = why
        self.kill()

    def _watch_inner(self, pid: int) -> None:
        """Have the kernel say when the worker ends, where a prefix stands before it."""
        if pid <= 1 or pid == self.pid:
            return
        with contextlib.suppress(OSError, AttributeError):
            self._inner_end = os.pidfd_open(pid)
            self._inner = pid
            if self._cgroup is not None:
                self._cgroup.add(pid)
            asyncio.get_running_loop().add_reader(self._inner_end, self._inner_ended)

    def _inner_ended(self) -> None:
        self._forget_inner()
        self._process_ended()

    def _forget_inner(self) -> None:
        self._inner = 0
        if self._inner_end >= 0:
            asyncio.get_running_loop().remove_reader(self._inner_end)
            os.close(self._inner_end)
            self._inner_end = -1

    # its end

    def connection_lost(self, exc: Exception | None) -> None:
        self._cut = True
        if not self.ended:
            self._receive_rest()
        if not self._place or self.retired:
            super().connection_lost(exc)
        elif not self.ended:
            asyncio.get_running_loop().call_later(PREFIX_GRACE, self._kill_if_there)
        if not self.ended:
            self._process_ended()

    def _kill_if_there(self) -> None:
        if not self.ended:
            self.kill()

    def _process_ended(self) -> None:
        if self.ended or self._process.poll() is None:
            return
        if self._goes_on():
            # The prefix has ended, which stays so: only the worker's end is news.
            asyncio.get_running_loop().remove_reader(self._pidfd)
            return
        self._forget_inner()
        super()._process_ended()
        if self._cgroup is not None:
            _remove(self._cgroup, CGROUP_TRIES)

    def _receive_rest(self) -> None:
        super()._receive_rest()
        self._say_before()

    def _goes_on(self) -> bool:
        """Whether the worker may be there though the process that was started is not."""
        if not self._place or self._cut:
            return False
        return bool(self._inner) or self.greeting is None or self._elsewhere

    @property
    def _elsewhere(self) -> bool:
        """Whether the worker is where no signal of this node reaches it."""
        return bool(self._place and self.greeting and self.greeting.place != self._place)

    def cause_of_end(self) -> tuple[Reason, str]:
        code = self._process.returncode
        if not self._place or self.garbage or code < 0:
            return super().cause_of_end()
        if code - _BY_SIGNAL in list(signal.Signals):
            return self._killed_by(code - _BY_SIGNAL)
        if code == 0 and self.booted:
            return Reason.SIGNAL, (
                "the worker process ended under the task, and its prefix does not say how"
            )
        return super().cause_of_end()

    # ending it

    def interrupt(self, signal_number: int) -> None:
        self.send(Signal(signal_number))

    def terminate(self) -> None:
        self._look_below()
        if self._elsewhere:
            self.send(Signal(signal.SIGTERM))
        super().terminate()

    def kill(self) -> None:
        self.retired = True
        if self._cgroup is not None:
            self._cgroup.kill()
        self._look_below()
        for process in self._below:
            with contextlib.suppress(psutil.Error):
                process.kill()
        super().kill()
        if self._place and self._transport is not None:
            # What the prefix has put out of reach ends when its channel does.
            self._transport.abort()

    def _look_below(self) -> None:
        """Remember what is in other process groups, while there is a parent to find it by."""
        known = self._inner or (self.pid and self._process.returncode is None)
        if known and not (self.ended or self.clean or self._cgroup):
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(self._inner or self.pid)
                self._below.update(process.children(recursive=True))

    def _signal_group(self, signal_number: int) -> None:
        if not self.pid:
            return
        if self._inner:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(os.getpgid(self._inner), signal_number)
        if self._process.returncode is None or not self._place:
            super()._signal_group(signal_number)


def _remove(cgroup: Cgroup, tries: int) -> None:
    """Remove a group as soon as the kernel has buried what was in it."""
    if not cgroup.remove() and tries:
        asyncio.get_running_loop().call_later(0.05, _remove, cgroup, tries - 1)
