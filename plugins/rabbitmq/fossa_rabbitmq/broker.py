"""RabbitMQ as a client sees it: `fossa submit --via amqp://…` and `fossa dlq` are made of this."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection
from typing import Any
from weakref import WeakValueDictionary

import attrs
import msgspec

from fossa.brokers import (
    LISTED,
    SUBMIT,
    Broker,
    BrokerError,
    DeadLetter,
    Reply,
    Submitted,
    UnknownDeadLetter,
)
from fossa.deadlines import Deadline
from fossa.errors import ConfigError, FossaError, TaskRefused
from fossa.tasks import Request, new_id
from fossa_rabbitmq import wire
from fossa_rabbitmq.connection import (
    BrokerGone,
    Channel,
    ChannelClosed,
    Connection,
    Message,
    Nacked,
    NoSuchQueue,
    Unroutable,
)
from fossa_rabbitmq.letters import MAX_NAME, id_of, letter_of, revived
from fossa_rabbitmq.options import Options, options
from fossa_rabbitmq.topology import Topology

#: What is not part of a task's document: the id of the message is the key.
_NOT_SENT = ("idempotency_key", "retry_of")
#: Ids that an error names.
_NAMED = 5
_log = logging.getLogger("fossa.rabbitmq")


class RabbitBroker(Broker):
    """A connection of a client's, which needs no node of its own.

    Args:
        url: `amqp://user:password@host:port/vhost`, or `amqps://…`.
        options: as of the source: `prefix`, `ca`, ….
    """

    def __init__(self, url: str, **given: Any) -> None:
        self._options = _checked(url, given)
        self._names = Topology(self._options)
        self._connection: Connection | None = None
        self._out: Channel | None = None
        self._replies: _Replies | None = None
        self._opening = asyncio.Lock()
        #: By their seconds; each lasts until nothing is awaited with it and its timer has run out.
        self._deadlines: WeakValueDictionary[float, Deadline] = WeakValueDictionary()

    def __repr__(self) -> str:
        return f"<RabbitBroker {self._options.safe_url}>"

    async def open(self) -> None:
        self._connection = await Connection.dial(self._options, "fossa client", _log)
        self._out = await self._connection.channel(confirms=True)

    async def close(self) -> None:
        connection, self._connection, self._out, self._replies = self._connection, None, None, None
        self._deadlines.clear()
        if connection is not None:
            await connection.close()

    # tasks

    async def submit(
        self, request: Request, *, reply: bool = True, timeout: float = SUBMIT
    ) -> Submitted:
        message_id = _id(request)
        queue = self._names.tasks(_number(request.priority))
        try:
            replies = self._replies if reply else None
            if reply and replies is None:
                replies = await self._within(timeout).keep(self._open_replies())
            if replies is not None:
                replies.expect(message_id)
            letter = wire.letter(
                wire.TASK,
                _body(request, reply),
                message_id=message_id,
                correlation_id=message_id,
                reply_to=replies.queue if replies is not None else None,
            )
            confirmed = self._publish(queue, letter.body, letter.properties)
            await self._within(timeout).wait(confirmed)
        except TimeoutError:
            raise BrokerError(self._unconfirmed(timeout)) from None
        except (Unroutable, Nacked, ChannelClosed) as error:
            raise self._not_stored(queue, error) from None
        return Submitted(id=message_id, queue=queue)

    async def outcome(self, submitted: Submitted, timeout: float | None = None) -> Reply:
        if self._replies is None:
            raise BrokerError(f"no reply was asked for to {submitted.id}: submit with reply=True")
        replies, awaited = self._replies, self._replies.awaited(submitted.id)
        if awaited.found is None:
            waiter = awaited.waiter()
            try:
                await (waiter if timeout is None else self._within(timeout).wait(waiter))
            finally:
                awaited.waiters.remove(waiter)
        return replies.give_out(submitted.id, awaited)

    def _within(self, seconds: float) -> Deadline:
        """For what may take so long. Thousands of tasks at once share a timer."""
        deadline = self._deadlines.get(seconds)
        if deadline is None:
            deadline = self._deadlines[seconds] = Deadline(seconds)
        return deadline

    async def _open_replies(self) -> "_Replies":
        async with self._opening:
            if self._replies is None:
                channel = await self._connected().channel()
                replies = _Replies(channel, self._names.replies(f"client-{new_id()}"))
                await replies.open()
                self._replies = replies
            return self._replies

    def _publish(self, queue: str, body: bytes, properties: Any) -> "asyncio.Future[None]":
        """Done once a queue has it safe."""
        if self._out is None:
            raise BrokerError("not connected: use the broker as `async with`")
        return self._out.publish("", queue, body, properties)

    def _not_stored(self, queue: str, error: Unroutable | Nacked | ChannelClosed) -> BrokerError:
        if isinstance(error, Unroutable):
            return BrokerError(
                f"no node has ever declared the queue {queue} on {self._options.safe_url}: start "
                "one there, or see its prefix (--via-option prefix=…)"
            )
        if isinstance(error, Nacked):
            return BrokerError(
                f"the queue {queue} on {self._options.safe_url} did not take the message: it is "
                "full, or the broker cannot write"
            )
        return BrokerError(f"{error}; nobody knows whether {queue} has the message")

    def _unconfirmed(self, timeout: float) -> str:
        text = f"{self._options.safe_url} did not confirm the task within {timeout:g} s"
        blocked = self._connection.blocked if self._connection is not None else None
        return f"{text}: it blocks publishers ({blocked})" if blocked else text

    def _connected(self) -> Connection:
        if self._connection is None:
            raise BrokerError("not connected: use the broker as `async with`")
        return self._connection

    # dead letters

    async def dead_letters(self, limit: int = LISTED) -> list[DeadLetter]:
        found = list[DeadLetter]()
        async with self._taking() as channel:
            while len(found) < limit and (message := await channel.get(self._names.dead)):
                found.append(letter_of(message))
        return sorted(found, key=lambda letter: letter.at or 0.0)

    async def dead_letter(self, letter_id: str) -> DeadLetter:
        async with self._taking() as channel:
            while message := await channel.get(self._names.dead):
                if id_of(message) == letter_id:
                    return letter_of(message, with_body=True)
        raise _unknown([letter_id], self._options)

    async def retry(self, ids: Collection[str] | None) -> int:
        sent, stay = 0, dict[str, FossaError]()
        async with self._taking() as channel:
            # The count may be old, and too low: so much of the same id is surely no letter that
            # was sent back just now and has died again.
            count = await channel.depth(self._names.dead)
            seen = set[str]()
            async for letter_id, message in self._meant(channel, ids):
                if letter_id in seen and sent >= count:
                    continue
                seen.add(letter_id)
                try:
                    await self._send_back(message)
                except BrokerGone:
                    raise
                except FossaError as error:
                    stay[letter_id] = error
                    continue
                channel.ack(message.delivery_tag)
                sent += 1
        if stay:
            raise _not_sent(sent, stay)
        self._complain(sent, ids, seen)
        return sent

    async def drop(self, ids: Collection[str] | None) -> int:
        dropped, seen = 0, set[str]()
        async with self._taking() as channel:
            async for letter_id, message in self._meant(channel, ids):
                seen.add(letter_id)
                channel.ack(message.delivery_tag)
                dropped += 1
        self._complain(dropped, ids, seen)
        return dropped

    async def _meant(
        self, channel: Channel, ids: Collection[str] | None
    ) -> AsyncIterator[tuple[str, Message]]:
        """Each letter that is meant, to be settled; the others are held until all were seen."""
        while message := await channel.get(self._names.dead):
            letter_id = id_of(message)
            if ids is None or letter_id in ids:
                yield letter_id, message

    async def _send_back(self, message: Message) -> None:
        back = revived(message)
        if not back.queue:
            raise BrokerError("it does not say which queue it came from")
        try:
            confirmed = self._publish(back.queue, message.body, back.properties)
            await self._within(self._options.publish_timeout).wait(confirmed)
        except TimeoutError:
            raise BrokerGone(self._unconfirmed(self._options.publish_timeout)) from None
        except (Unroutable, Nacked, ChannelClosed) as error:
            raise self._not_stored(back.queue, error) from None

    def _complain(self, done: int, ids: Collection[str] | None, seen: set[str]) -> None:
        """Say what was not there, now that everything else is done."""
        if missing := sorted(set(ids or ()) - seen):
            raise _unknown(missing, self._options, done)

    @contextlib.asynccontextmanager
    async def _taking(self) -> AsyncIterator[Channel]:
        """A channel to take dead letters on.

        What is not settled on it goes back into the queue, whatever happened meanwhile.
        """
        channel = await self._connected().channel()
        try:
            yield channel
            channel.nack(0, multiple=True)
        except NoSuchQueue:
            raise BrokerError(
                f"there is no queue {self._names.dead} on {self._options.safe_url}: no node has "
                "ever been there, or its prefix is another one (--via-option prefix=…)"
            ) from None
        finally:
            # Where it was not handed back before, this does it.
            await channel.close()


@attrs.define(eq=False)
class _Awaited:
    """A reply that may come. Each who waits has a future: one who leaves takes nothing along."""

    found: "Reply | BrokerError | None" = None
    waiters: list[asyncio.Future[None]] = attrs.Factory(list)

    def settle(self, found: "Reply | BrokerError") -> None:
        if self.found is None:
            self.found = found
            for waiter in self.waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def waiter(self) -> "asyncio.Future[None]":
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        return waiter


class _Replies:
    """The queue in which outcomes come back; it goes with the connection."""

    def __init__(self, channel: Channel, queue: str) -> None:
        self._channel = channel
        self._awaited: dict[str, _Awaited] = {}
        self.queue = queue

    async def open(self) -> None:
        await self._channel.declare_queue(
            self.queue, durable=False, exclusive=True, auto_delete=True
        )
        # The queue goes with the connection: what is not acknowledged would not come again.
        await self._channel.consume(
            self.queue,
            prefetch=0,
            no_ack=True,
            on_message=self._take,
            on_cancel=self._cancelled,
        )
        self._channel.closed.add_done_callback(self._lost)

    def expect(self, message_id: str) -> None:
        """A reply to that may come from now on."""
        if message_id not in self._awaited:
            awaited = self._awaited[message_id] = _Awaited()
            if self._channel.closed.done():
                self._fail(message_id, awaited)

    def awaited(self, message_id: str) -> _Awaited:
        awaited = self._awaited.get(message_id)
        if awaited is None:
            raise BrokerError(f"no reply to {message_id} is awaited: it is given out once")
        return awaited

    def give_out(self, message_id: str, awaited: _Awaited) -> Reply:
        """Raises BrokerError where it cannot come any more."""
        self._awaited.pop(message_id, None)
        assert awaited.found is not None
        if isinstance(awaited.found, BrokerError):
            raise awaited.found
        return awaited.found

    def _lost(self, _: object) -> None:
        for message_id, awaited in self._awaited.items():
            self._fail(message_id, awaited)

    def _fail(self, message_id: str, awaited: _Awaited) -> None:
        awaited.settle(
            BrokerError(
                f"{self._channel.closed.result()}; the task goes on without us, as message "
                f"{message_id}: the node that takes it tells its sinks of the outcome"
            )
        )

    def _take(self, message: Message) -> None:
        awaited = self._awaited.get(str(message.properties.correlation_id))
        if awaited is None or awaited.found is not None:
            return
        try:
            awaited.settle(_reply(message))
        except FossaError as error:
            awaited.settle(BrokerError(f"the reply cannot be read: {error}"))

    def _cancelled(self, tag: str, why: str) -> None:
        self._channel.shut(ChannelClosed(0, why))


def _checked(url: str, given: dict[str, Any]) -> Options:
    try:
        return options(url=url, **given)
    except ConfigError as error:
        raise BrokerError(f"the broker cannot be used so: {'; '.join(error.mistakes)}") from None


def _id(request: Request) -> str:
    key = str(request.idempotency_key or new_id())
    if len(key.encode(errors="replace")) > MAX_NAME:
        raise TaskRefused(f"idempotency_key {key!r:.40}… is over {MAX_NAME} bytes long")
    return key


def _number(priority: Any) -> int:
    """A priority, to choose the queue by. One that is no number is refused by the node."""
    return priority if isinstance(priority, int) else 0


def _body(request: Request, reply: bool) -> bytes:
    fields = attrs.asdict(request, recurse=False)
    document = {k: v for k, v in fields.items() if v is not None and k not in _NOT_SENT}
    if not reply:
        document["reply"] = False
    try:
        return msgspec.json.encode(document)
    except (TypeError, OverflowError, UnicodeEncodeError) as error:
        raise TaskRefused(f"the task's arguments are not JSON: {error}") from error


def _reply(message: Message) -> Reply:
    found = wire.read(wire.OUTCOME, message.body, message.properties)
    return Reply(
        task_id=found.task_id,
        node=found.node.name,
        node_id=found.node.id,
        outcome=wire.outcome_of(found.outcome, found.node.name),
    )


def _not_sent(sent: int, stay: dict[str, FossaError]) -> BrokerError:
    why = "; ".join(f"{letter_id}: {stay[letter_id]}" for letter_id in list(stay)[:_NAMED])
    return BrokerError(f"{sent} sent back; {len(stay)} stay where they are: {why}")


def _unknown(missing: list[str], options: Options, done: int = 0) -> UnknownDeadLetter:
    names = ", ".join(missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
    others = f"; {done} others were found" if done else ""
    return UnknownDeadLetter(
        f"no dead letter {names} in {options.prefix}.dead on {options.safe_url}{others}: "
        "fossa dlq list shows what is there"
    )
