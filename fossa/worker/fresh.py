"""`python -m fossa.worker.fresh [ASKED …]`: a process for one attempt.

A node's subprocess executor starts it, nobody else. It is spoken to over its standard input and
output, which is what every command that starts another one passes on. What is asked for goes into
its greeting: `place`, `versions`.
"""

# ruff: noqa: E402 - the collector rests before anything else is imported

import gc

# What is imported stays: looking for garbage in between takes a tenth of the time.
gc.disable()

import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

from fossa.worker.channel import Channel, ChannelClosed
from fossa.worker.identity import this_place, versions
from fossa.worker.kernel import adopt_orphans, end_with_parent
from fossa.worker.loading import WORKER_MARK
from fossa.worker.messages import GREETING, PROTOCOL, Boot, Bounds, Signal, ToWorker
from fossa.worker.serving import serve


def main() -> None:
    if os.isatty(0):
        sys.exit("fossa.worker.fresh is started by a Fossa node; see: fossa run --help")
    stream = Standard()
    stream.sendall(greeting(sys.argv[1:]))
    channel = AttentiveChannel(stream)
    status = 0
    try:
        begin(channel)
    except (BrokenPipeError, ConnectionResetError):
        channel.end_all()
    except BaseException:
        import traceback

        os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
        status = os.EX_SOFTWARE
    # A model's exit handlers and stray threads have no say in when this process ends.
    os._exit(status)


class Standard:
    """Standard input and output, taken for the channel: what writes to the latter writes to 2."""

    def __init__(self) -> None:
        self._in, self._out = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        os.close(nothing)

    def recv(self, most: int, /) -> bytes:
        return os.read(self._in, most)

    def sendall(self, data: bytes, /) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._out, rest) :]


def greeting(asked: list[str]) -> bytes:
    """The line that says who speaks, and what was asked for."""
    known = {
        "protocol": PROTOCOL,
        "pid": os.getpid(),
        "place": this_place() if "place" in asked else "",
        "versions": versions() if "versions" in asked else {},
    }
    return GREETING + json.dumps(known).encode() + b"\n"


class AttentiveChannel(Channel):
    """A channel with a thread that listens even while the model runs.

    It passes on the signals that the node cannot send from where it is, and ends the process group
    when the node is gone.
    """

    def __init__(self, stream: Standard) -> None:
        super().__init__(stream)
        self._inbox: SimpleQueue[ToWorker] = SimpleQueue()
        self._known = False
        listener = threading.Thread(target=self._listen, name="fossa-listener", daemon=True)
        self.threads.add(listener)
        listener.start()

    def receive(self) -> ToWorker:
        message = self._inbox.get()
        self._known = True
        return message

    def _listen(self) -> None:
        try:
            while True:
                message = super().receive()
                if isinstance(message, Signal):
                    signal.pthread_kill(threading.main_thread().ident or 0, message.number)
                else:
                    self._inbox.put(message)
        except (ChannelClosed, OSError):
            pass
        except ValueError as error:
            os.write(2, f"the node said what no node says: {error}\n".encode())
        self.end_all()

    def end_all(self) -> None:
        """End this process and what the model started. Of a stranger's group only this process."""
        if self._known:
            os.killpg(0, signal.SIGKILL)
        os._exit(os.EX_NOINPUT)


def begin(channel: Channel) -> None:
    bounds = channel.receive()
    assert isinstance(bounds, Bounds), bounds
    bind(bounds)
    boot = channel.receive()
    assert isinstance(boot, Boot), boot
    if not boot.path:
        own = [path for path in sys.path if path]
        boot.path.extend(own + [path for path in bounds.more_path if path not in own])
    serve(channel, boot, settle_memory, once=True)


def bind(bounds: Bounds) -> None:
    """Set what holds for this process and for all that it starts."""
    os.environ[WORKER_MARK] = bounds.mark
    os.environ.pop("PYTHONSAFEPATH", None)
    adopt_orphans()
    if bounds.direct:
        # Its end closes the channel too, but a model that keeps the interpreter's lock hears of
        # nothing.
        end_with_parent()
    cpu, files = bounds.cpu, bounds.open_files
    with saying(f"nice={bounds.nice}"):
        if bounds.nice:
            os.nice(bounds.nice)
    with saying(f"cpu_seconds={cpu and cpu[0]}"):
        if cpu is not None:
            resource.setrlimit(resource.RLIMIT_CPU, cpu)
    with saying(f"open_files={files}"):
        if files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


@contextmanager
def saying(what: str) -> Iterator[None]:
    """Name what could not be set, and end."""
    try:
        yield
    except (OSError, ValueError) as error:
        os.write(2, f"{what} cannot be set: {error}\n".encode())
        os._exit(os.EX_NOPERM)


def settle_memory() -> None:
    gc.freeze()
    gc.enable()


if __name__ == "__main__":
    main()
