"""pika's protocol on asyncio's own transport: TCP and TLS, one write a turn of the loop.

pika brings a transport of its own; asyncio's cancels cleanly at any point of connecting, and here
the frames of one turn of the loop leave in one write: pika's would take a system call a frame.
"""

import asyncio
import struct
from collections.abc import Callable
from typing import Any, cast

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel as PikaChannel
from pika.compat import as_bytes
from pika.frame import Body, Header, Method
from pika.spec import FRAME_END, Basic, Queue

from fossa_rabbitmq.properties import frame_of

#: pika copies what is left of its buffer at each frame: bytes given to it at once, at the most.
_PIECE = 16 * 1024
#: Bytes that are written without waiting for the turn's end.
_BATCH = 64 * 1024
#: What the first byte of a broker's greeting is: a method frame.
_METHOD_FRAME = 1
#: An acknowledgement: type of frame, channel, bytes of what follows but the end, method, tag,
#: whether it is for all before too, end.
_ACK = struct.Struct(">BHIIQBB")
_ACK_SIZE = 13
#: Of how many exchanges and routing keys a channel keeps the frame that publishes there.
_ADDRESSES = 64


class StreamLost(Exception):
    """The connection is down. `cause` is what pika or the socket said, if either did."""

    def __init__(self, text: str, cause: BaseException | None = None) -> None:
        super().__init__(text)
        self.cause = cause


class NotAmqp(Exception):
    """What answers there speaks something else; the argument is its first bytes."""


class Garbled(Exception):
    """What the peer sent makes no sense to pika; the cause is pika's error."""


class WireChannel(PikaChannel):
    """pika's channel, where a cancelled consumer still gets what was on its way.

    pika would reject such messages, which counts as a delivery on a quorum queue. And the first
    frame of what is published is made once for each address: it says only that.
    """

    on_got: Callable[[Any, Any, bytes], None] | None = None
    # Pika's protected parts, which its types leave out.
    _on_cancelok: Callable[[Any], None]
    _rpc: Callable[..., None]
    _raise_if_not_open: Callable[[], None]
    _send_method: Callable[[Any], None]
    connection: Any

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._publishing: dict[tuple[str, str, bool], bytes] = {}

    def basic_publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes | str,
        properties: pika.BasicProperties | None = None,
        mandatory: bool = False,
    ) -> None:
        """As pika's, in one piece."""
        self._raise_if_not_open()
        wire, number, body = self.connection, self.channel_number, as_bytes(body)
        if properties is None or not 0 < len(body) <= wire._body_max_length:
            super().basic_publish(exchange, routing_key, body, properties, mandatory)
            return
        address = (exchange, routing_key, mandatory)
        method = self._publishing.get(address)
        if method is None:
            method = Method(number, Basic.Publish(0, exchange, routing_key, mandatory)).marshal()
            while len(self._publishing) >= _ADDRESSES:
                del self._publishing[next(iter(self._publishing))]
            self._publishing[address] = method
        header = Header(number, len(body), properties).marshal()
        wire._output_marshaled_frames([b"".join((method, header, Body(number, body).marshal()))])

    def basic_ack(self, delivery_tag: int = 0, multiple: bool = False) -> None:
        """As pika's, without an object for it."""
        self._raise_if_not_open()
        frame = _ACK.pack(
            _METHOD_FRAME, self.channel_number, _ACK_SIZE, Basic.Ack.INDEX, delivery_tag, multiple,
            FRAME_END,
        )  # fmt: skip
        self.connection._output_marshaled_frames([frame])

    def cancel_consumer(self, tag: str, done: Callable[[Any], None]) -> None:
        """Send basic.cancel; deliveries go on reaching the consumer until its answer."""

        def cancelled(frame: Any) -> None:
            self._on_cancelok(frame)
            done(frame)

        reply = [(Basic.CancelOk, {"consumer_tag": tag})]
        self._rpc(Basic.Cancel(consumer_tag=tag, nowait=False), cancelled, reply)

    def fetch(self, queue: str) -> None:
        """Send basic.get; the answers come in order to `on_got` (pika's takes one at a time)."""
        self._raise_if_not_open()
        self._send_method(Basic.Get(queue=queue, no_ack=False))

    def measure(self, queue: str) -> None:
        """Send a passive queue.declare; pika sends one, and waits for its answer."""
        self._raise_if_not_open()
        self._send_method(Queue.Declare(queue=queue, passive=True))

    def _on_getok(self, method_frame: Any, header_frame: Any, body: bytes) -> None:
        if self.on_got is not None:
            self.on_got(method_frame.method, header_frame.properties, body)


class Wire(AsyncioConnection):
    """pika's connection with our channels; `Stream` is its transport."""

    _frame_buffer: bytes

    def _read_frame(self) -> tuple[int, Any]:
        return frame_of(self._frame_buffer)

    def _process_callbacks(self, frame: Any) -> bool:
        """Nobody registers callbacks for deliveries: pika would look for some at each one."""
        if isinstance(frame, Method) and isinstance(frame.method, Basic.Deliver):
            return False
        return bool(AsyncioConnection._process_callbacks(self, frame))  # type: ignore[attr-defined]

    def _create_channel(self, number: int, on_open: Callable[[Any], object]) -> Any:
        return WireChannel(self, number, on_open)


class Stream(asyncio.Protocol):
    """Between a socket and pika: what asyncio calls a protocol, and pika a transport."""

    def __init__(self, wire: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._wire = wire
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._waiting = 0
        self._error: BaseException | None = None
        #: When the peer was last heard of, in the loop's time.
        self.heard = self._loop.time()
        #: Bytes that the peer ever sent.
        self.received = 0
        #: Whether there was a socket.
        self.made = False
        #: Done once the socket is gone.
        self.lost: asyncio.Future[None] = self._loop.create_future()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.made = True
        if self._error is not None:
            self._transport.abort()
        self._wire._proto_connection_made(self)

    def data_received(self, data: bytes) -> None:
        if not self.received and data[0] != _METHOD_FRAME:
            self.drop(NotAmqp(data[:32]))
            return
        self.heard = self._loop.time()
        self.received += len(data)
        try:
            for start in range(0, len(data), _PIECE):
                self._wire._proto_data_received(data[start : start + _PIECE])
        except Exception as error:
            garbled = Garbled(f"{type(error).__name__}: {error}")
            garbled.__cause__ = error
            self.drop(garbled)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._out.clear()
        cause = self._error or error or self._wire._error
        # An error of our own, so that pika does not guess at one: it takes any loss while
        # authenticating for a wrong password.
        try:
            self._wire._on_stream_terminated(StreamLost("the connection is down", cause))
        finally:
            self.lost.set_result(None)

    # pika calls these

    def write(self, data: bytes) -> None:
        self._out.append(data)
        self._waiting += len(data)
        if self._waiting >= _BATCH:
            self._flush()
        elif len(self._out) == 1:
            self._loop.call_soon(self._flush)

    def abort(self) -> None:
        self._flush()
        if self._transport is not None:
            self._transport.abort()

    # ours

    def drop(self, error: BaseException) -> None:
        """Cut the connection now, because of that."""
        if self._error is None:
            self._error = error
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()
        self._waiting = 0


def parameters(**given: Any) -> pika.ConnectionParameters:
    """Pika's parameters, without what it would do on its own."""
    return pika.ConnectionParameters(
        connection_attempts=1, blocked_connection_timeout=None, **given
    )
