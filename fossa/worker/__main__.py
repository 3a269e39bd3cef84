"""`python -m fossa.worker FD`: a model process. A node's local executor starts it, nobody else."""

import ctypes
import gc
import os
import socket
import sys
import traceback

from fossa.worker.channel import Channel, ChannelClosed
from fossa.worker.kernel import end_with_parent
from fossa.worker.messages import Boot
from fossa.worker.serving import serve


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("fossa.worker is started by a Fossa node; start a node with: fossa run --help")
    die_with(int(sys.argv[2]))
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    status = 0
    try:
        boot = channel.receive()
        assert isinstance(boot, Boot), boot
        serve(channel, boot, settle_memory)
    except (ChannelClosed, BrokenPipeError, ConnectionResetError):
        pass
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        status = os.EX_SOFTWARE
    # A model's exit handlers and stray threads have no say in when this process ends.
    os._exit(status)


def die_with(parent: int) -> None:
    """Have the kernel end this process when the node's process ends, however it does."""
    end_with_parent()
    if os.getppid() != parent:
        os._exit(0)


def settle_memory() -> None:
    """What was imported stays: the collector need not look at it; the rest goes back."""
    gc.collect()
    gc.freeze()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


if __name__ == "__main__":
    main()
