"""`python -m fossa.worker FD`: a model process. A node's local executor starts it, nobody else."""

import ctypes
import os
import platform
import signal
import socket
import sys
from importlib.metadata import version
from typing import Any

from fossa.interrupts import Cancelled, SoftTimeout
from fossa.worker.capture import Capture
from fossa.worker.channel import Channel, ChannelClosed
from fossa.worker.loading import Loader
from fossa.worker.messages import Boot, Ready, Run

_PR_SET_PDEATHSIG = 1


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("fossa.worker is started by a Fossa node; start a node with: fossa run --help")
    die_with(int(sys.argv[2]))
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    try:
        serve(channel)
    except (ChannelClosed, BrokenPipeError, ConnectionResetError):
        pass
    finally:
        # A model's exit handlers and stray threads have no say in when this process ends.
        os._exit(0)


def die_with(parent: int) -> None:
    """Have the kernel end this process when the node's process ends, however it does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def serve(channel: Channel) -> None:
    """Run what the governor sends until it closes the channel."""
    boot = channel.receive()
    assert isinstance(boot, Boot), boot
    sys.path[:] = boot.path
    capture = Capture(channel, boot)
    loader = Loader(boot.main_file, boot.main_module)
    models = loader.load_all(boot.models)
    resolvers = loader.load_all(boot.resolvers)
    from fossa.worker.run import NodeSide, Runner

    node_side = NodeSide(resolvers, boot.secrets)
    runner = Runner(channel, models, node_side, capture, boot.max_result_bytes)
    capture.install()
    interrupts = Interrupts(channel)
    interrupts.install()
    channel.send(
        Ready(os.getpid(), version("ayeaye"), platform.python_version(), loader.problems)
    )
    while True:
        run = channel.receive()
        assert isinstance(run, Run), run
        attempt(channel, runner, capture, interrupts, run)


def attempt(channel: Channel, runner: Any, capture: Capture, interrupts: Any, run: Run) -> None:
    """One attempt, from its message to the message of its end."""
    import msgspec

    from fossa.worker.run import leftovers, resident_bytes

    capture.begin()
    interrupts.armed = True
    try:
        done = runner.run(run)
    finally:
        interrupts.armed = False
        channel.disarm()
    sys.__stdout__ and sys.__stdout__.flush()
    sys.__stderr__ and sys.__stderr__.flush()
    capture.end()
    channel.send(
        msgspec.structs.replace(done, retire=done.retire or leftovers(), rss=resident_bytes())
    )


class Interrupts:
    """Turns the governor's two signals into exceptions in the model."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.armed = False

    def install(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, self._soft_timeout)
        signal.signal(signal.SIGUSR2, self._cancelled)

    def _soft_timeout(self, *_: Any) -> None:
        self._raise(SoftTimeout("the task ran for longer than its timeout"))

    def _cancelled(self, *_: Any) -> None:
        self._raise(Cancelled("the task was cancelled"))

    def _raise(self, interrupt: BaseException) -> None:
        if self.armed:
            self.armed = False
            self._channel.interrupt(interrupt)


if __name__ == "__main__":
    main()
