"""One connection to the broker, for as long as it lasts: pika on the running loop."""

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from pika.credentials import PlainCredentials
from pika.exceptions import (
    AuthenticationError,
    ConnectionClosedByClient,
    ConnectionWrongStateError,
)
from pika.exceptions import ConnectionClosed as PikaConnectionClosed

from fossa_rabbitmq.channel import Channel
from fossa_rabbitmq.errors import (
    BrokerGone,
    BrokerRefused,
    ChannelClosed,
    Mismatch,
    Nacked,
    NoSuchQueue,
    TooLarge,
    Unroutable,
)
from fossa_rabbitmq.message import Message
from fossa_rabbitmq.options import Options
from fossa_rabbitmq.stream import Garbled, NotAmqp, Stream, StreamLost, Wire, parameters

__all__ = [
    "Channel", "Connection", "Message",
    "BrokerGone", "BrokerRefused", "ChannelClosed", "Mismatch", "Nacked", "NoSuchQueue",
    "TooLarge", "Unroutable",
]  # fmt: skip

#: Seconds that a farewell to the broker may take, at the most.
_FAREWELL = 3.0
#: Reply codes with which a broker refuses a login or a virtual host.
_REFUSALS = (403, 530)
#: …unless the text has one of these: then it may let us in later.
_MAY_PASS = ("limit (", "is down", "not available")

_BY_US = "this node closed the connection"


class Connection:
    """Made by `Connection.dial`; once it is closed it stays so."""

    def __init__(self, options: Options, purpose: str, logger: logging.Logger) -> None:
        self._loop = asyncio.get_running_loop()
        self._channels: set[Channel] = set()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._watch: asyncio.TimerHandle | None = None
        self._wire: Any = Wire(
            parameters(
                host=options.host,
                virtual_host=options.vhost,
                credentials=PlainCredentials(options.user, options.password),
                heartbeat=options.heartbeat,
                client_properties=_introduction(purpose),
            ),
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_lost,
            on_close_callback=self._on_lost,
            custom_ioloop=self._loop,
            internal_connection_workflow=False,
        )
        self._wire.add_on_connection_blocked_callback(self._on_blocked)
        self._wire.add_on_connection_unblocked_callback(self._on_unblocked)
        self._stream = Stream(self._wire)
        self.options = options
        self.logger = logger
        #: What the broker says of itself: "product", "version", ….
        self.server: Mapping[str, Any] = {}
        #: Why the broker takes no messages from us now (memory or disk alarm), if it does not.
        self.blocked: str | None = None
        #: Called with the same whenever that changes.
        self.on_blocked: Callable[[str | None], None] | None = None
        #: Done once the connection is down, with why.
        self.closed: asyncio.Future[str] = self._loop.create_future()

    @classmethod
    async def dial(cls, options: Options, purpose: str, logger: logging.Logger) -> "Connection":
        """Connect and log in, all within `connect_timeout`.

        Args:
            options: where the broker is, and how to log in.
            purpose: what the broker's management page shows, such as "node-1: publish".
            logger: told of what the caller's functions raise; nothing else is logged.

        Raises:
            BrokerRefused: wrong password, virtual host, certificate; or it is no AMQP broker.
            BrokerGone: it does not answer, or broke off.
        """
        connection = cls(options, purpose, logger)
        try:
            async with asyncio.timeout(options.connect_timeout):
                await connection._connect()
        except BaseException as error:
            await connection._abandon()
            if isinstance(error, Exception):
                mute = connection._stream.made and not connection._stream.received
                raise _failure(options, error, mute) from error
            raise
        connection._keep_watch()
        return connection

    async def channel(self, *, confirms: bool = False) -> Channel:
        """Open a channel; with `confirms` the broker confirms what is published on it.

        Raises:
            BrokerGone: the connection is down.
        """
        if self.closed.done():
            raise BrokerGone(self.closed.result())
        opened: asyncio.Future[Any] = self._loop.create_future()
        try:
            wire = self._wire.channel(on_open_callback=opened.set_result)
        except ConnectionWrongStateError as error:
            raise BrokerGone("the connection is being closed") from error
        channel = Channel(self, wire, confirms=confirms)
        self._channels.add(channel)
        channel.closed.add_done_callback(lambda _: self._channels.discard(channel))
        return await channel.ready(opened)

    def drop(self, why: str) -> None:
        """Cut it now, without a farewell: `closed` is done within this turn of the loop."""
        self._stream.drop(BrokerGone(why))

    async def close(self) -> None:
        """Say farewell and close. Takes 3 s at the most, and never raises."""
        if not self.closed.done() and self._wire.is_open and self.blocked is None:
            self._shut_channels(_BY_US)
            self._wire.close()
            # A broker that blocks us reads nothing of ours either.
            await asyncio.wait([self.closed], timeout=min(_FAREWELL, self.options.connect_timeout))
        await self._abandon()

    def why_lost(self, reason: BaseException | None) -> str:
        """One line for people about what ended it."""
        cause = reason.cause if isinstance(reason, StreamLost) else reason
        if cause is None:
            return "the broker closed the connection"
        if isinstance(cause, Garbled):
            return f"the broker could not be understood: {cause}"
        if isinstance(cause, ConnectionClosedByClient):
            return _BY_US
        if isinstance(cause, PikaConnectionClosed):
            return f"the broker closed the connection: {cause.reply_text} ({cause.reply_code})"
        return _in_words(cause)

    # connecting

    async def _connect(self) -> None:
        options = self.options
        await self._loop.create_connection(
            lambda: self._stream,
            options.host,
            options.port,
            ssl=_tls(options) if options.tls else None,
            server_hostname=(options.server_name or options.host) if options.tls else None,
        )
        await self._opened

    def _on_open(self, wire: Any) -> None:
        self.server = dict(wire.server_properties or {})
        if not self._opened.done():
            self._opened.set_result(None)

    async def _abandon(self) -> None:
        """Let go of the socket, however far it came."""
        self._stream.drop(BrokerGone(_BY_US))
        if self._stream.made:
            await self._stream.lost

    # losing it

    def _on_lost(self, wire: Any, reason: BaseException) -> None:
        why = self.why_lost(reason)
        if self._opened.done() and isinstance(reason, StreamLost):
            self._report(reason.cause)
        if self._watch is not None:
            self._watch.cancel()
        self._shut_channels(why)
        if not self._opened.done():
            self._opened.set_exception(reason)
            self._opened.exception()
        if not self.closed.done():
            self.closed.set_result(why)

    def _report(self, cause: BaseException | None) -> None:
        """That must not happen, so its trace is wanted."""
        if isinstance(cause, Garbled):
            self.logger.error("%s: %s", self.options.safe_url, cause, exc_info=cause)

    def _shut_channels(self, why: str) -> None:
        for channel in tuple(self._channels):
            channel.shut(ChannelClosed(0, why))

    def _keep_watch(self) -> None:
        """A peer that is silent is gone. pika would take up to two heartbeats and 10 s to see it.

        The broker sends one every half of `heartbeat`, so three of its are missing by then.
        """
        patience = 1.5 * self.options.heartbeat
        left = self._stream.heard + patience - self._loop.time()
        if left <= 0:
            self.drop(f"the broker was silent for {patience:g} s")
        elif not self.closed.done():
            self._watch = self._loop.call_later(left, self._keep_watch)

    # the broker's alarms

    def _on_blocked(self, wire: Any, frame: Any) -> None:
        self._set_blocked(f"the broker takes no messages now: {frame.method.reason}")

    def _on_unblocked(self, wire: Any, frame: Any) -> None:
        self._set_blocked(None)

    def _set_blocked(self, why: str | None) -> None:
        self.blocked = why
        if self.on_blocked is None:
            return
        try:
            self.on_blocked(why)
        except Exception:
            self.logger.exception("the broker's alarm could not be passed on")


def _introduction(purpose: str) -> dict[str, Any]:
    """What the broker's management page shows of us."""
    return {
        "product": "Fossa",
        "version": version("fossa-rabbitmq"),
        "connection_name": purpose,
        "information": f"{purpose} (process {os.getpid()})",
    }


def _tls(options: Options) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.ca)
        if options.certificate is not None:
            context.load_cert_chain(options.certificate, options.key, password=_no_password)
    except (OSError, ValueError) as error:
        files = [str(f) for f in (options.ca, options.certificate, options.key) if f is not None]
        raise BrokerRefused(
            f"cannot use the certificates {', '.join(files)}: {_in_words(error)}"
        ) from error
    return context


def _no_password() -> str:
    """OpenSSL would ask at the terminal."""
    raise ValueError("the key is encrypted: give one that is not")


def _failure(options: Options, error: Exception, mute: bool) -> Exception:
    """Why it could not connect, as an error that says whether to try again."""
    if isinstance(error, BrokerRefused):
        return error
    cause = error.cause or error if isinstance(error, StreamLost) else error
    refusal = _refusal(options, cause)
    if refusal is not None:
        return BrokerRefused(f"{options.safe_url}: {refusal}")
    absence = _absence(options, cause)
    if absence is None:
        return error
    # A broker's complaint may be lost behind the reset of its socket.
    asks = mute and options.tls and options.certificate is None
    hint = ". If it asks for a client's certificate, give certificate=" if asks else ""
    return BrokerGone(f"{options.safe_url}: {absence}{hint}")


def _absence(options: Options, cause: BaseException) -> str | None:
    """What keeps the broker from us for now, if that is what it is."""
    if isinstance(cause, TimeoutError) and not cause.args:
        return f"no answer within {options.connect_timeout:g} s"
    if isinstance(cause, StreamLost):
        return "the broker closed the connection while we logged in"
    if isinstance(cause, PikaConnectionClosed):
        return f"{cause.reply_text} ({cause.reply_code})"
    if isinstance(cause, OSError | BrokerGone):
        return _in_words(cause)
    return None


def _refusal(options: Options, cause: BaseException) -> str | None:
    """What is wrong for good, if anything is, and what to do."""
    if isinstance(cause, PikaConnectionClosed):
        return _login_refusal(cause)
    if isinstance(cause, AuthenticationError):
        return "the broker takes no password (PLAIN) logins"
    if isinstance(cause, NotAmqp):
        return f"what answers there is no AMQP 0-9-1 broker{_instead(cause)}"
    if isinstance(cause, Garbled):
        return f"what answers there is no AMQP 0-9-1 broker: it could not be understood ({cause})"
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
        return f"TLS failed: {_in_words(cause)}. Check ca, certificate, key and server_name"
    return None


def _login_refusal(closed: PikaConnectionClosed) -> str | None:
    text = closed.reply_text
    if closed.reply_code not in _REFUSALS or any(word in text for word in _MAY_PASS):
        return None
    what = "user and password" if closed.reply_code == 403 else "virtual host"
    return f"the broker refuses us, check the {what} in the url: {text}"


def _instead(error: NotAmqp) -> str:
    began: bytes = error.args[0]
    if began[0] in (0x15, 0x16):
        return ": it speaks TLS, so the url may have to begin with amqps://"
    return f": it says {began!r}"


def _in_words(error: BaseException) -> str:
    """One line about an error of the system's, without Python's names where it has words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower() if error.errno > 0 else str(error.strerror).lower()
    return str(error) or type(error).__name__
