"""The worker's end of the socket pair: blocking, and safe to send on from any thread."""

import threading
from typing import Protocol

from fossa.worker.messages import Frames, Message, ToWorker, frame, to_worker


class ChannelClosed(Exception):
    """The governor is gone."""


class Stream(Protocol):
    """What a channel needs of a socket."""

    def recv(self, most: int, /) -> bytes: ...
    def sendall(self, data: bytes, /) -> object: ...


class Channel:
    """Whole messages over a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        #: Threads of the channel's own.
        self.threads: set[threading.Thread] = set()
        self._frames = Frames()
        self._ready: list[bytes] = []
        self._sending = threading.RLock()
        self._main = threading.main_thread().ident
        self._main_is_sending = False
        self._deferred: BaseException | None = None

    def send(self, message: Message) -> None:
        """Send one message, whole: an interrupt that comes meanwhile is raised afterwards."""
        data = frame(message)
        if threading.get_ident() != self._main:
            with self._sending:
                self._stream.sendall(data)
            return
        self._main_is_sending = True
        try:
            with self._sending:
                self._stream.sendall(data)
        finally:
            self._main_is_sending = False
        if self._deferred is not None:
            interrupt, self._deferred = self._deferred, None
            raise interrupt

    def interrupt(self, interrupt: BaseException) -> None:
        """Raise in the main thread, but never in the middle of a message. For signal handlers."""
        if self._main_is_sending:
            self._deferred = interrupt
        else:
            raise interrupt

    def disarm(self) -> None:
        """Forget an interrupt that has not been raised yet: the attempt is over."""
        self._deferred = None

    def receive(self) -> ToWorker:
        """The next message. Raises `ChannelClosed` at the end of the stream."""
        while not self._ready:
            data = self._stream.recv(1 << 18)
            if not data:
                raise ChannelClosed
            self._ready = list(self._frames.feed(data))
            self._ready.reverse()
        return to_worker.decode(self._ready.pop())
