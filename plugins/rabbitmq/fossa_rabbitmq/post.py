"""What the source and the executor of one node have in common: the links, and who else is there."""

import asyncio
import itertools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

from attrs import evolve

from fossa import FossaError, Node, new_id
from fossa_rabbitmq import wire
from fossa_rabbitmq.connection import (
    BrokerGone,
    Channel,
    Connection,
    Message,
    NoSuchQueue,
    Unroutable,
)
from fossa_rabbitmq.fleet import LOOKS, PRESENCE_INTERVAL, Fleet
from fossa_rabbitmq.link import Link
from fossa_rabbitmq.options import Options
from fossa_rabbitmq.properties import carried
from fossa_rabbitmq.topology import Topology, declare, task_arguments
from fossa_rabbitmq.wire import BadMessage, Letter

if TYPE_CHECKING:
    from fossa_rabbitmq.outbox import Outbox

#: Messages that may wait for their confirm at once.
WINDOW = 500
#: Seconds for which a slot is free that is not just between two tasks.
IDLE_FOR = 0.025
#: Messages of the control exchange that are kept for this node, at the most, while it is busy.
_CONTROL_LENGTH = 10_000

Setup = Callable[[Connection], Awaitable[None]]
Handler = Callable[[Any], None]

_posts: "WeakKeyDictionary[Node, dict[Options, Post]]" = WeakKeyDictionary()


class Post:
    """One node's two links to one broker: one takes, one gives; and the control messages.

    Attributes:
        fleet: the other nodes.
        outbox: the executor's, where there is one: subtasks of this node come home to it.
        takes: whether this node takes tasks from the broker: it has a source.
    """

    def __init__(self, node: Node, options: Options) -> None:
        self.node = node
        self.options = options
        self.topology = Topology(options)
        self.fleet = Fleet(node.id)
        self.outbox: Outbox | None = None
        self.takes = False
        self.me = wire.NodeName(node.id, node.name)
        self._users = 0
        self._opening = asyncio.Lock()
        self._setups: list[Setup] = []
        self._handlers: dict[str, list[Handler]] = {}
        self._chores: set[asyncio.Task[Any]] = set()
        self._window = asyncio.Semaphore(WINDOW)
        #: Whether the others were last told that a slot is free here.
        self._told_idle = False
        #: When this node told that last, by the monotonic clock.
        self._idle_at = -math.inf
        #: Tells them that one is, soon.
        self._telling: asyncio.TimerHandle | None = None
        self._confirmed: Channel | None = None
        self._plain: Channel | None = None
        name, logger = node.name, node.logger
        # What could not be sent while there was no connection can be once there is one.
        look = node.look_again
        self.taking = Link(
            options, f"{name}: consume", logger, self._set_up_taking, self._lost, look
        )
        self.giving = Link(options, f"{name}: publish", logger, self._set_up_giving, on_up=look)
        self.on(wire.PRESENCE, self._hear)
        self.on(wire.GOODBYE, self._goodbye)

    @classmethod
    def of(cls, node: Node, options: Options) -> Self:
        """The one that a node's source and executor share."""
        posts = _posts.setdefault(node, {})
        if options not in posts:
            posts[options] = cls(node, options)
        return posts[options]  # type: ignore[return-value]

    # open and close

    async def open(self) -> None:
        """Connect; only the first of its users does. Raises what will not pass by itself."""
        async with self._opening:
            self._users += 1
            if self._users > 1:
                return
            await self.giving.open()
            await self.taking.open()
            self.do(self._say_that_we_are_here())
            self.do(self._watch_confirms())

    async def close(self) -> None:
        """Disconnect; only the last of its users does."""
        async with self._opening:
            self._users -= 1
            if self._users:
                return
            self.tell(wire.letter(wire.GOODBYE, wire.Goodbye(self.node.id), persistent=False))
            if self._telling is not None:
                self._telling.cancel()
            for chore in list(self._chores):
                chore.cancel()
            if self._chores:
                await asyncio.wait(self._chores, timeout=5)
            await self.taking.close()
            await self.giving.close()
            _posts.get(self.node, {}).pop(self.options, None)

    async def each_time(self, setup: Setup) -> None:
        """Have this awaited with the present connection for taking, and with each later one."""
        self._setups.append(setup)
        connection = self.taking.connection
        if connection is not None:
            try:
                await setup(connection)
            except BrokerGone as error:
                self.taking.restart(str(error))

    def never_again(self, setup: Setup) -> None:
        if setup in self._setups:
            self._setups.remove(setup)

    @property
    def trouble(self) -> str | None:
        """Why this node can neither take nor give; None where it can."""
        blocked = self.blocked
        return (
            self.taking.trouble
            or self.giving.trouble
            or (f"the broker takes no messages: {blocked}" if blocked else None)
        )

    @property
    def blocked(self) -> str | None:
        connection = self.giving.connection
        return connection.blocked if connection is not None else None

    @property
    def sending(self) -> bool:
        """Whether what is sent now has good prospects."""
        return self._confirmed is not None and self.trouble is None

    # connections

    async def _set_up_giving(self, connection: Connection) -> None:
        self._confirmed = await connection.channel(confirms=True)
        self._plain = await connection.channel()
        for channel in (self._confirmed, self._plain):
            self.guard(channel, self.giving)
        connection.on_blocked = lambda why: self.node.look_again()

    async def _set_up_taking(self, connection: Connection) -> None:
        lost = await self.depth(connection, self.topology.subtasks(1)) is None
        channel = await connection.channel()
        self.guard(channel, self.taking)
        await declare(channel, self.options)
        await self._listen(channel)
        for setup in list(self._setups):
            await setup(connection)
        self.fleet.begin()
        self.announce(hello=True)
        if lost:
            self._tell_of_loss(self.topology.subtasks(1))

    async def depth(self, connection: Connection, queue: str) -> int | None:
        """How many messages wait in a queue; None where there is no such queue."""
        channel = await connection.channel()
        try:
            with _quiet("pika.channel"):
                found = await channel.depth(queue)
        except NoSuchQueue:  # which has closed the channel
            return None
        await channel.close()
        return found

    async def _listen(self, channel: Channel) -> None:
        """Hear what is said to all nodes. The queue goes with the connection."""
        queue = f"{self.topology.control}.{new_id()}"
        limit = {"x-max-length": _CONTROL_LENGTH}
        await channel.declare_queue(
            queue, durable=False, exclusive=True, auto_delete=True, arguments=limit
        )
        await channel.bind(queue, self.topology.control)
        await channel.consume(
            queue,
            prefetch=0,
            no_ack=True,
            on_message=self._on_control,
            on_cancel=lambda _, why: self.taking.restart(why),
        )

    def guard(self, channel: Channel, link: Link) -> None:
        """A channel that closes takes its connection with it: all of it is made anew."""
        channel.closed.add_done_callback(lambda closed: link.restart(str(closed.result())))

    def _lost(self, why: str) -> None:
        self.fleet.lose()

    # give

    async def send(
        self, letter: Letter, queue: str, *, exchange: str = "", limited: bool = True
    ) -> None:
        """Publish for good: returns once the broker has confirmed that a queue has it.

        Args:
            letter: what.
            queue: where to, or the routing key.
            exchange: through which.
            limited: whether `max_message_bytes` holds for it.

        Raises:
            BrokerGone: nobody knows whether it was stored: send it again, with the same id.
            Unroutable, Nacked, TooLarge: it was not stored.
        """
        async with self._window:
            channel = self._confirmed
            if channel is None:
                raise BrokerGone(self.giving.trouble or "there is no connection")
            # `_watch_confirms` cuts the connection where it does not come.
            await channel.publish(exchange, queue, letter.body, letter.properties, limited=limited)

    async def _watch_confirms(self) -> None:
        """Begin anew where a confirm does not come in time; a blocked broker's time is its own."""
        loop, patience = asyncio.get_running_loop(), self.options.publish_timeout
        blocked = 0.0
        while True:
            await asyncio.sleep(patience / 4)
            channel = self._confirmed
            if channel is None or channel.closed.done():
                continue
            if channel.connection.blocked:
                blocked = loop.time()
            oldest = channel.oldest_unconfirmed
            if oldest is not None and loop.time() - max(oldest, blocked) > patience:
                self.giving.restart(f"no confirm within {patience:g} s")

    def hint(self, letter: Letter, queue: str, *, exchange: str = "") -> None:
        """Publish what may be lost."""
        if self._plain is None or self.giving.trouble or self.blocked:
            return
        try:
            self._plain.publish(exchange, queue, letter.body, letter.properties, mandatory=False)
        except FossaError as error:
            self.node.logger.debug("not sent: %s", error)

    def tell(self, letter: Letter) -> None:
        """Publish to all nodes what may be lost."""
        self.hint(letter, "", exchange=self.topology.control)

    # control

    def on(self, kind: str, handler: Handler) -> None:
        """Have a function called with each control message of a kind."""
        self._handlers.setdefault(kind, []).append(handler)

    def _on_control(self, message: Message) -> None:
        kind = message.properties.type or ""
        handlers = self._handlers.get(kind)
        if not handlers:
            return
        try:
            content = wire.read(kind, message.body, message.properties)
        except BadMessage as error:
            self.node.logger.warning("a control message was not understood: %s", error)
            return
        for handler in handlers:
            handler(content)

    def announce(self, *, hello: bool = False) -> None:
        """Say that this node is there, and how it is."""
        mine = self.node.fleet()[0]
        known = {name: value for name, value in mine.items() if name not in ("last_seen", "this")}
        content = known | {"takes": self.takes, "hello": hello}
        self._told_idle = _idle(mine)
        if self._told_idle:
            self._idle_at = time.monotonic()
        self.tell(wire.letter(wire.PRESENCE, content, persistent=False))

    def tell_of_idleness(self) -> None:
        """The source has a slot and no task: others may hold some for want of one here."""
        if self._telling is None and not self._told_idle:
            self._telling = asyncio.get_running_loop().call_later(IDLE_FOR, self._tell_of_idleness)

    def several_together(self) -> None:
        """Subtasks are on their way that may wait for each other: idleness is told of once more."""
        self._told_idle = False
        if self.takes:
            self.tell_of_idleness()

    def idle_at(self, model: str) -> float:
        """When a node for a model, this one or another, last said that it has a slot free."""
        return max(self._idle_at, self.fleet.idle_at(model))

    def _tell_of_idleness(self) -> None:
        self._telling = None
        if not self._told_idle and _idle(self.node.status()):
            self.announce()

    async def _say_that_we_are_here(self) -> None:
        for look in itertools.count(1):
            await asyncio.sleep(PRESENCE_INTERVAL / LOOKS)
            if look % LOOKS == 0:
                self.announce()
            if self.blocked:
                # Nobody can say anything now: they are not gone for that.
                self.fleet.begin()
            if self.fleet.prune():
                self.node.look_again()

    def _hear(self, presence: Any) -> None:
        if self.fleet.hear(presence):
            self.node.look_again()
        if presence.hello and presence.id != self.node.id:
            self.announce()

    def _goodbye(self, goodbye: Any) -> None:
        if goodbye.id != self.node.id:
            self.fleet.leave(goodbye.id)
            self.node.look_again()

    def _tell_of_loss(self, queue: str) -> None:
        self.tell(wire.letter(wire.QUEUES_LOST, wire.QueuesLost(queue), persistent=False))

    # dead letters

    async def bury(self, message: Message, reason: str, detail: str) -> None:
        """Move a message that nobody should run to the dead letters, with the reason."""
        detail = wire.one_line(detail)
        why = {
            "fossa-reason": reason,
            "fossa-detail": detail,
            "fossa-queue": message.queue,
            "fossa-node": self.node.name,
            "fossa-at": repr(time.time()),
        }
        letter = Letter(message.body, carried(message.properties, why))
        dead = self.topology.dead
        try:
            # The broker took it once, however long it is.
            await self.send(letter, dead, exchange=dead, limited=False)
        except Unroutable as error:
            # It is made anew with the connection, on which the message comes again.
            self.taking.restart(f"the queue {dead} is not there")
            raise BrokerGone(str(error)) from error
        self.node.logger.warning("a message of %s is a dead letter now: %s", message.queue, detail)

    async def park(self, letter: Letter, model: str) -> None:
        """Move a message to where only nodes look that accept its model."""
        queue = self.topology.model(model)
        connection = await self.giving.up()
        channel = await connection.channel()
        await channel.declare_queue(queue, arguments=task_arguments(channel, self.options))
        await channel.close()
        await self.send(letter, queue)
        self.tell(wire.letter(wire.PARKED, wire.Parked(model), persistent=False))

    # small things

    def do(self, work: Any) -> "asyncio.Task[Any]":
        """A task of asyncio's that is ended when the post closes."""
        chore = asyncio.create_task(work)
        self._chores.add(chore)
        chore.add_done_callback(self._done)
        return chore

    def _done(self, chore: "asyncio.Task[Any]") -> None:
        self._chores.discard(chore)
        if not chore.cancelled() and (error := chore.exception()):
            self.node.logger.error("fossa-rabbitmq failed at a chore", exc_info=error)


def _idle(status: Mapping[str, Any]) -> bool:
    return bool(status["slots_free"] and not status["queued"])


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a logger from warning of what is expected."""
    theirs = logging.getLogger(name)
    before = theirs.level
    theirs.setLevel(logging.ERROR)
    try:
        yield
    finally:
        theirs.setLevel(before)


def again(letter: Letter) -> Letter:
    """The same message, marked as one that may have been delivered before."""
    properties = letter.properties
    properties.headers = {**(properties.headers or {}), wire.AGAIN_HEADER: True}
    return evolve(letter, properties=properties)
