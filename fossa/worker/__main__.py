"""`python -m fossa.worker FD`: a model process. A node's local executor starts it, nobody else."""

import ctypes
import gc
import os
import signal
import socket
import sys
import traceback

from fossa.worker.capture import Capture
from fossa.worker.channel import Channel, ChannelClosed
from fossa.worker.loading import Loader
from fossa.worker.messages import Boot, Ready
from fossa.worker.redaction import Redaction
from fossa.worker.signals import Interrupts

_PR_SET_PDEATHSIG = 1


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("fossa.worker is started by a Fossa node; start a node with: fossa run --help")
    die_with(int(sys.argv[2]))
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    status = 0
    try:
        serve(channel)
    except (ChannelClosed, BrokenPipeError, ConnectionResetError):
        pass
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        status = os.EX_SOFTWARE
    # A model's exit handlers and stray threads have no say in when this process ends.
    os._exit(status)


def die_with(parent: int) -> None:
    """Have the kernel end this process when the node's process ends, however it does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def settle_memory() -> None:
    """What was imported stays: the collector need not look at it; the rest goes back."""
    gc.collect()
    gc.freeze()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def serve(channel: Channel) -> None:
    """Run what the governor sends until it closes the channel."""
    boot = channel.receive()
    assert isinstance(boot, Boot), boot
    sys.path[:] = boot.path
    redact = Redaction(boot.secrets.values())
    capture = Capture(channel, boot, redact)
    loader = Loader(boot.main_file, boot.main_module)
    models = loader.load_all(boot.models)
    resolvers = loader.load_all(boot.resolvers)
    # Only now, with the config's own path: this imports ayeaye.
    from fossa.worker.desk import Desk
    from fossa.worker.run import NodeSide, Runner

    node_side = NodeSide(resolvers, boot.secrets)
    runner = Runner(channel, models, node_side, capture, boot.max_result_bytes)
    interrupts = Interrupts(channel)
    desk = Desk(channel, runner, capture, interrupts, redact)
    capture.install()
    interrupts.install()
    settle_memory()
    channel.send(Ready(os.getpid(), loader.problems))
    desk.work()


if __name__ == "__main__":
    main()
