"""One channel: declare, consume, publish, settle; every answer awaited has a deadline."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import pika
from pika.exceptions import ChannelClosed as PikaChannelClosed
from pika.exceptions import ChannelWrongStateError
from pika.spec import Basic, Queue

from fossa.deadlines import Deadline
from fossa_rabbitmq.confirms import Confirms
from fossa_rabbitmq.errors import (
    BrokerGone,
    ChannelClosed,
    Nacked,
    TooLarge,
    Unroutable,
    explained,
)
from fossa_rabbitmq.message import Consumer, Message, OnCancel, OnMessage

if TYPE_CHECKING:
    from fossa_rabbitmq.connection import Connection
    from fossa_rabbitmq.stream import WireChannel


class Channel:
    """Opened by `Connection.channel`; once it is closed it stays so."""

    def __init__(self, connection: "Connection", wire: "WireChannel", *, confirms: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._wire: Any = wire
        self._deadline = connection.options.connect_timeout
        self._answering = Deadline(self._deadline)
        self._limit = connection.options.max_message_bytes
        self._asked: set[asyncio.Future[Any]] = set()
        self._fetched: deque[tuple[str, Callable[[Message | None], bool]]] = deque()
        self._measured: deque[Callable[[int], bool]] = deque()
        self._tags = count(1)
        self._consumers: dict[str, Consumer] = {}
        self._consuming = asyncio.Lock()
        #: What the next consumer may have unsettled, as the broker was told last.
        self._prefetch: int | None = None
        self._confirms = Confirms() if confirms else None
        self.connection = connection
        #: Done once the channel is closed, with why.
        self.closed: asyncio.Future[ChannelClosed] = self._loop.create_future()
        wire.add_on_close_callback(self._on_close)
        wire.add_on_cancel_callback(self._on_cancel)
        wire.add_callback(self._on_got_nothing, [Basic.GetEmpty], one_shot=False)
        wire.add_callback(self._on_measured, [Queue.DeclareOk], one_shot=False)
        wire.on_got = self._on_got

    async def ready(self, opened: "asyncio.Future[Any]") -> "Channel":
        """Wait until it is open, and have the broker confirm if the channel is for that."""
        await self._ask("open a channel", opened.add_done_callback)
        if self._confirms is not None:
            self._wire.add_on_return_callback(self._on_return)
            await self._ask(
                "turn on confirms",
                lambda done: self._wire.confirm_delivery(self._on_confirm, callback=done),
            )
        return self

    # queues and exchanges

    async def declare_queue(
        self,
        name: str,
        *,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the queue, or check that it is so: raises Mismatch where it is different."""
        await self._ask(
            f"declare the queue {name}",
            lambda done: self._wire.queue_declare(
                name,
                durable=durable,
                exclusive=exclusive,
                auto_delete=auto_delete,
                arguments=dict(arguments or {}),
                callback=done,
            ),
        )

    async def depth(self, queue: str) -> int:
        """How many messages are ready in a queue: cheaper for the broker than `get`.

        Several may be asked at once, on a channel that declares nothing meanwhile.

        Raises:
            NoSuchQueue: there is none.
        """

        def measure(done: Callable[[Any], bool]) -> None:
            self._wire.measure(queue)
            self._measured.append(done)

        found: int = await self._ask(f"measure the queue {queue}", measure)
        return found

    async def declare_exchange(self, name: str, kind: str, durable: bool = True) -> None:
        """Make the exchange, or check that it is so: raises Mismatch where it is different."""
        await self._ask(
            f"declare the exchange {name}",
            lambda done: self._wire.exchange_declare(name, kind, durable=durable, callback=done),
        )

    async def check_exchange(self, name: str) -> None:
        """See that the exchange is there: raises NoSuchQueue where it is not."""
        await self._ask(
            f"find the exchange {name}",
            lambda done: self._wire.exchange_declare(name, passive=True, callback=done),
        )

    async def bind(self, queue: str, exchange: str, routing_key: str = "") -> None:
        await self._ask(
            f"bind the queue {queue} to the exchange {exchange}",
            lambda done: self._wire.queue_bind(queue, exchange, routing_key, callback=done),
        )

    async def delete_queue(self, name: str) -> None:
        """Delete it with all that is in it; harmless where there is none."""
        await self._ask(
            f"delete the queue {name}", lambda done: self._wire.queue_delete(name, callback=done)
        )

    async def purge(self, name: str) -> int:
        """Drop the messages that are ready in a queue; returns how many they were."""
        frame = await self._ask(
            f"purge the queue {name}", lambda done: self._wire.queue_purge(name, callback=done)
        )
        return int(frame.method.message_count)

    # take

    async def consume(
        self,
        queue: str,
        *,
        prefetch: int,
        on_message: OnMessage,
        on_cancel: OnCancel,
        no_ack: bool = False,
        exclusive: bool = False,
    ) -> str:
        """Have a queue's messages delivered, at most `prefetch` unsettled; returns a tag.

        Both functions are called on the loop. `on_message` may be called before this returns.

        Raises:
            NoSuchQueue: there is none.
        """
        tag = f"fossa-{next(self._tags)}"
        consumer = Consumer(queue, on_message, on_cancel)
        deliver = partial(self._on_deliver, consumer)
        async with self._consuming:
            if prefetch != self._prefetch:
                self._prefetch = None
                await self._ask(
                    f"set the prefetch for {queue}",
                    lambda done: self._wire.basic_qos(prefetch_count=prefetch, callback=done),
                )
                self._prefetch = prefetch
            self._consumers[tag] = consumer
            await self._ask(
                f"consume the queue {queue}",
                lambda done: self._wire.basic_consume(
                    queue, deliver, no_ack, exclusive, tag, callback=done
                ),
            )
        return tag

    async def cancel(self, tag: str) -> None:
        """Stop a consumer. What was on its way reaches `on_message` before this returns."""
        if tag not in self._consumers:
            return
        await self._ask(
            f"cancel the consumer {tag}", lambda done: self._wire.cancel_consumer(tag, done)
        )
        self._consumers.pop(tag, None)

    async def get(self, queue: str) -> Message | None:
        """Take one message, if there is any."""

        def fetch(done: Callable[[Any], bool]) -> None:
            self._wire.fetch(queue)
            self._fetched.append((queue, done))

        found: Message | None = await self._ask(f"get from the queue {queue}", fetch)
        return found

    def ack(self, tag: int, multiple: bool = False) -> None:
        """Settle a message: raises ChannelClosed where that is no longer possible."""
        self._send(self._wire.basic_ack, tag, multiple)

    def nack(self, tag: int, requeue: bool = True, multiple: bool = False) -> None:
        """Hand a message back, or (`requeue=False`) dead-letter it; raises ChannelClosed."""
        self._send(self._wire.basic_nack, tag, multiple, requeue)

    # give

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: pika.BasicProperties,
        *,
        mandatory: bool = True,
        limited: bool = True,
    ) -> "asyncio.Future[None]":
        """Publish; the future is done once confirmed, or at once on a channel without confirms.

        It fails with Unroutable, Nacked, or ChannelClosed (then nobody knows whether the message
        was stored: publish it again with the same id). Messages in flight need ids that differ:
        a returned one is known by its id. There is no deadline, and no limit to how many are in
        flight: both are the caller's.

        Raises:
            TooLarge: it is `limited` and over `max_message_bytes`; nothing was sent.
            ChannelClosed: the channel was closed before.
        """
        if limited and len(body) > self._limit:
            raise TooLarge(
                f"the message for {routing_key or exchange} has {len(body)} bytes: the limit is "
                f"{self._limit} bytes (max_message_bytes). Pass where the data is, not the data"
            )
        self._send(self._wire.basic_publish, exchange, routing_key, body, properties, mandatory)
        if self._confirms is not None:
            return self._confirms.sent((exchange, routing_key, properties.message_id))
        done: asyncio.Future[None] = self._loop.create_future()
        done.set_result(None)
        return done

    @property
    def unconfirmed(self) -> int:
        """How many messages are in flight."""
        return 0 if self._confirms is None else len(self._confirms)

    @property
    def oldest_unconfirmed(self) -> float | None:
        """When the message was published that has waited longest for its confirm."""
        return None if self._confirms is None else self._confirms.oldest

    # close

    async def close(self) -> None:
        """Close it; every unsettled message is the broker's again. Never raises."""
        if not self.closed.done() and self._wire.is_open:
            self._wire.close()
        try:
            async with asyncio.timeout(self._deadline):
                await asyncio.shield(self.closed)
        except TimeoutError:
            self.connection.drop(f"the broker did not close a channel within {self._deadline:g} s")

    def shut(self, why: ChannelClosed) -> None:
        """It is of no more use: everybody who waits for something on it is told."""
        if self.closed.done():
            return
        self.closed.set_result(why)
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(why.copy())
        if self._confirms is not None:
            self._confirms.failed(why)

    # one request, one answer

    async def _ask(self, what: str, send: Callable[[Callable[[Any], bool]], None]) -> Any:
        answer: asyncio.Future[Any] = self._loop.create_future()

        def done(value: Any) -> bool:
            if answer.done():
                return False
            answer.set_result(value)
            return True

        self._asked.add(answer)
        try:
            self._send(send, done)
            return await self._answering.wait(answer)
        except TimeoutError:
            why = f"the broker did not {what} within {self._deadline:g} s"
            self.connection.drop(why)
            raise BrokerGone(why) from None
        except ChannelClosed as closed:
            raise explained(closed, what) from closed
        finally:
            self._asked.discard(answer)

    def _send(self, send: Callable[..., None], *arguments: Any) -> None:
        if self.closed.done():
            raise self.closed.result().copy()
        try:
            send(*arguments)
        except ChannelWrongStateError as error:
            raise ChannelClosed(0, "it is being closed") from error

    # what the broker says

    def _on_deliver(
        self, consumer: Consumer, wire: Any, method: Any, properties: Any, body: bytes
    ) -> None:
        message = self._message(consumer.queue, method.consumer_tag, method, properties, body)
        self._call(consumer.on_message, message)

    def _on_got(self, method: Any, properties: Any, body: bytes) -> None:
        queue, done = self._fetched.popleft()
        if not done(self._message(queue, "", method, properties, body)):
            self.nack(method.delivery_tag)  # who asked for it has left

    def _on_got_nothing(self, frame: Any) -> None:
        _, done = self._fetched.popleft()
        done(None)

    def _on_measured(self, frame: Any) -> None:
        if self._measured:
            self._measured.popleft()(frame.method.message_count)

    def _on_cancel(self, frame: Any) -> None:
        tag = frame.method.consumer_tag
        consumer = self._consumers.pop(tag, None)
        if consumer is not None:
            why = f"the broker stopped the consumer of {consumer.queue}: was the queue deleted?"
            self._call(consumer.on_cancel, tag, why)

    def _on_confirm(self, frame: Any) -> None:
        assert self._confirms is not None
        refused = isinstance(frame.method, Basic.Nack)
        error = Nacked() if refused else None
        self._confirms.answered(frame.method.delivery_tag, frame.method.multiple, error)

    def _on_return(self, wire: Any, method: Any, properties: Any, body: bytes) -> None:
        assert self._confirms is not None
        where = f"the queue {method.routing_key}"
        if method.exchange:
            where = f"the exchange {method.exchange} with the key {method.routing_key!r}"
        error = Unroutable(f"no queue took the message for {where}: {method.reply_text}")
        self._confirms.returned((method.exchange, method.routing_key, properties.message_id), error)

    def _on_close(self, wire: Any, reason: Exception) -> None:
        if isinstance(reason, PikaChannelClosed):
            self.shut(ChannelClosed(reason.reply_code, reason.reply_text))
        else:
            self.shut(ChannelClosed(0, self.connection.why_lost(reason)))

    def _message(
        self, queue: str, tag: str, method: Any, properties: pika.BasicProperties, body: bytes
    ) -> Message:
        return Message(
            body=body,
            properties=properties,
            delivery_tag=method.delivery_tag,
            consumer_tag=tag,
            redelivered=method.redelivered,
            exchange=method.exchange,
            routing_key=method.routing_key,
            queue=queue,
            channel=self,
        )

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Somebody else's function: what it raises must not end the connection."""
        try:
            function(*arguments)
        except Exception:
            self.connection.logger.exception("a message from the broker could not be handled")
