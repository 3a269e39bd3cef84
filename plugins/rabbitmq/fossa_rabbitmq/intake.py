"""Takes messages as the slots allow: a slot before a fetch, and short ones in a stream.

A node is in one of two states. While it has a slot free and every queue is empty it *listens*: a
consumer on each queue, so that whatever comes starts at once. Otherwise it *fetches*: for each slot
that becomes free one message, from the deepest queue that has some. What comes while no slot is
free goes back soon. The queues whose messages take milliseconds are *streamed* instead: a
consumer brings some work ahead; what waits here nevertheless, for as long as another node might
have begun it, goes back. `docs/decisions/0009-slot-before-fetch.md` has the why.
"""

import asyncio
import contextlib
import time
from functools import partial

from fossa import FossaError, Node, NodeStopping, Reservation
from fossa_rabbitmq import wire
from fossa_rabbitmq.connection import BrokerGone, Channel, Connection, Message, NoSuchQueue
from fossa_rabbitmq.guests import Guests
from fossa_rabbitmq.held import Held
from fossa_rabbitmq.levels import Level
from fossa_rabbitmq.post import Post

#: Seconds that a message which came without a slot may wait for one.
SLOT_PATIENCE = 0.02
#: Seconds between two looks at what waits here too long, and how long that is.
WATCH_INTERVAL, STALE = 0.05, 0.04
#: Seconds between two looks where nothing waits.
ORPHANS_INTERVAL = 1.0
#: Seconds between two looks at what is deeper than the queue that messages are fetched from.
LOOK_INTERVAL = 0.2
#: Seconds after which it looks again for what another node got.
LOST_RACE = 0.005
#: Seconds for which a node that has no slot free goes on listening: short tasks are soon over.
LINGER = 0.005


class Intake:
    """Everything that a source takes from its queues, on one channel after the other."""

    def __init__(self, post: Post, guests: Guests) -> None:
        self._post = post
        self._node: Node = post.node
        self._slots: int = post.node.composition.slots
        self._guests = guests
        # Nodes of 0.0.37 do not say when they are idle: what waited here might have begun there.
        streams = not post.topology.legacy
        self._levels = [Level(queue, streams) for queue in post.topology.levels]
        self._channel: Channel | None = None
        self._up = asyncio.Event()
        #: The queue that had a message last: it is taken to have another.
        self._had_one: Level | None = None
        #: When what is deeper than that was last looked at.
        self._looked = 0.0
        #: Something arrived or was settled: look at what the consumers may still bring.
        self._stirred = asyncio.Event()
        #: A message waits for a slot, or a stream should begin or end: there is something to watch.
        self._astir = asyncio.Event()
        self._stopped = False
        #: Held by whoever opens or closes consumers: listening and streaming share them.
        self._changing = asyncio.Lock()
        guests.on_refused = self._refused
        if not post.topology.legacy:
            post.on(wire.PARKED, self._parked)
            post.on(wire.PRESENCE, self._presence)

    async def set_up(self, connection: Connection) -> None:
        """Begin anew on a connection."""
        channel = await connection.channel()
        await self._find_parked(connection)
        for level in self._levels:
            level.tag, level.streaming = None, False
        self._post.guard(channel, self._post.taking)
        channel.closed.add_done_callback(lambda _: self._lose(channel))
        self._channel = channel
        self._up.set()

    def _lose(self, channel: Channel) -> None:
        if self._channel is channel:
            self._channel = None
            self._up.clear()
        self._stirred.set()
        self._guests.lose(channel)

    @property
    def trouble(self) -> str | None:
        return None if self._channel is not None else "it takes no messages: it has no channel"

    async def run(self) -> None:
        """Take messages until cancelled."""
        watch = asyncio.create_task(self._watch())
        try:
            while True:
                await self._up.wait()
                try:
                    await self._turn()
                except (BrokerGone, NoSuchQueue):
                    await asyncio.sleep(0.05)
        finally:
            watch.cancel()
            await asyncio.wait([watch])

    async def stop(self) -> None:
        """Take nothing more; what is held is settled as before."""
        self._stopped = True
        # A queue that was deleted meanwhile has no consumer to cancel either.
        with contextlib.suppress(BrokerGone, NoSuchQueue):
            await self._close(self._levels)

    # one turn

    async def _turn(self) -> None:
        channel = self._channel
        if channel is None:
            return
        await self._node.slot_free()
        if not await self._fetch(channel):
            await self._listen(channel)

    async def _fetch(self, channel: Channel) -> bool:
        """Take one message for a free slot; False where all queues are empty."""
        guessed = self._had_one is not None
        level = await self._deepest(channel)
        if level is None:
            return False
        reservation = self._node.reserve_now()
        if reservation is None:
            return True
        try:
            message = await channel.get(level.queue)
        except BaseException:
            reservation.release()
            raise
        if message is None:
            reservation.release()
            self._had_one = None
            if not guessed:  # somebody else was faster
                await asyncio.sleep(LOST_RACE)
            return True
        self._guests.take(self._held(message, level), reservation)
        return True

    async def _deepest(self, channel: Channel) -> Level | None:
        """The queue to fetch from: the deepest that has something; None: all are empty."""
        levels = [level for level in self._levels if not level.streaming]
        if self._had_one not in levels:
            self._had_one = None
        elif time.monotonic() < self._looked + LOOK_INTERVAL:
            return self._had_one
        if self._had_one is not None:
            levels = levels[: levels.index(self._had_one)]
        depths = await asyncio.gather(*(channel.depth(level.queue) for level in levels))
        found = (level for level, depth in zip(levels, depths, strict=True) if depth)
        self._had_one, self._looked = next(found, self._had_one), time.monotonic()
        return self._had_one

    async def _listen(self, channel: Channel) -> None:
        """Wait for whatever comes, while there is a slot for it."""
        listening = [level for level in self._levels if not level.streaming]
        try:
            await self._open_all(channel, listening)
            while not channel.closed.done() and not self._stopped:
                self._post.tell_of_idleness()
                self._stirred.clear()
                # A stream may have ended while the consumers were opened.
                if self._unheard(listening):
                    return
                await self._stir_or_busy()
                if not await self._slot_soon() or self._saturated(listening):
                    return
        finally:
            # What is raised here would hide that this is cancelled.
            with contextlib.suppress(BrokerGone, NoSuchQueue):
                await self._close(listening, streams=False)

    async def _stir_or_busy(self) -> None:
        """Returns once no slot is free, or something has happened."""
        busy = asyncio.ensure_future(self._node.slot_free(False))
        stirred = asyncio.ensure_future(self._stirred.wait())
        try:
            await asyncio.wait([busy, stirred], return_when=asyncio.FIRST_COMPLETED)
        finally:
            busy.cancel()
            stirred.cancel()

    async def _slot_soon(self) -> bool:
        # Not wait_for: until Python 3.12 it may swallow that this is cancelled.
        try:
            async with asyncio.timeout(LINGER):
                await self._node.slot_free()
        except TimeoutError:
            return False
        return True

    def _saturated(self, levels: list[Level]) -> bool:
        """Whether a consumer brings no more although a slot is free."""
        return any(level.unsettled >= self._slots for level in levels)

    def _unheard(self, levels: list[Level]) -> bool:
        """Whether there is a queue that nobody listens to: a new one, or one whose stream ended."""
        return any(not level.streaming and level not in levels for level in self._levels)

    # consumers

    async def _open_all(self, channel: Channel, levels: list[Level]) -> None:
        """Listen to those of the queues that are not streamed by now."""
        for level in levels:
            async with self._changing:
                if not level.streaming:
                    await self._open(channel, level, self._slots)

    async def _open(self, channel: Channel, level: Level, prefetch: int) -> None:
        level.unsettled = 0
        level.consumers += 1
        level.tag = await channel.consume(
            level.queue,
            prefetch=prefetch,
            on_message=partial(self._on_message, level),
            on_cancel=self._on_cancel,
        )

    async def _close(self, levels: list[Level], *, streams: bool = True) -> None:
        """End the consumers of these queues; `streams` False: but for those that stream by now."""
        for level in levels:
            async with self._changing:
                if streams or not level.streaming:
                    await self._end_consumer(level)

    async def _end_consumer(self, level: Level) -> None:
        tag, level.tag = level.tag, None
        if tag is not None and self._channel is not None and not self._channel.closed.done():
            await self._channel.cancel(tag)

    def _on_cancel(self, tag: str, why: str) -> None:
        """The broker ended a consumer: the queue was deleted, or its leader went."""
        self._post.taking.restart(f"the broker cancelled a consumer: {why}")

    def _on_message(self, level: Level, message: Message) -> None:
        held = self._held(message, level)
        if level.streaming and not self._stopped:
            self._take_ahead(held)
            return
        level.unsettled += 1
        self._stirred.set()
        reservation = self._node.reserve_now()
        if reservation is not None:
            self._guests.take(held, reservation)
        else:
            self._guests.do(self._wait_for_slot(held))

    def _take_ahead(self, held: Held) -> None:
        """Take a message that may have to wait here for a slot."""
        self._guests.take(held, None)
        self._astir.set()

    async def _wait_for_slot(self, held: Held) -> None:
        """It came just as the last slot went: a slot soon, or back with it."""
        reservation: Reservation | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SLOT_PATIENCE):
                while reservation is None:
                    await self._node.slot_free()
                    reservation = self._node.reserve_now()
        if reservation is None:
            self._guests.hand_back(held)
        else:
            self._guests.take(held, reservation)

    def _held(self, message: Message, level: Level) -> Held:
        consumer = level.consumers if message.consumer_tag else 0

        def learn(seconds: float) -> None:
            level.learn(seconds)
            if level.short is not level.streaming:
                self._astir.set()
            if consumer == level.consumers:
                level.unsettled -= 1

        return Held(message, learn)

    # streams, and what waits too long

    async def _watch(self) -> None:
        while True:
            if not self._attentive:
                self._astir.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ORPHANS_INTERVAL):
                        await self._astir.wait()
            await asyncio.sleep(WATCH_INTERVAL)
            self._guests.drop_orphans()
            channel = self._channel
            if channel is None:
                continue
            try:
                if self._stopped:
                    await self._close(self._levels)
                    continue
                await self._begin_streams(channel)
                await self._end_streams()
                await self._guests.hand_on(STALE)
                await self._fetch_deeper(channel)
            except (BrokerGone, NoSuchQueue):
                continue

    @property
    def _attentive(self) -> bool:
        """Whether something may be waiting here too long, or be about to be streamed or not."""
        held = self._guests.held
        return (
            any(one.begun is None for one in held)
            or any(level.short is not level.streaming for level in self._levels)
            or (bool(held) and any(level.streaming for level in self._levels))
            or bool(self._guests.behind)
        )

    async def _begin_streams(self, channel: Channel) -> None:
        for level in self._levels:
            if level.short and not level.streaming and not self._stopped:
                async with self._changing:
                    await self._end_consumer(level)
                    level.streaming = True
                    await self._open(channel, level, level.ahead(self._slots))

    async def _end_streams(self) -> None:
        """A stream ends where its messages are short no more, or wait here for too long."""
        stale = self._post.fleet.idle and await self._guests.give_back_stale(STALE)
        for level in self._levels:
            if level.streaming and (stale or not level.short):
                async with self._changing:
                    await self._end_consumer(level)
                    level.streaming = False
                level.forget()
                self._stirred.set()

    async def _fetch_deeper(self, channel: Channel) -> None:
        """While a stream keeps the slots busy, look for what should be run before it."""
        streaming = [i for i, level in enumerate(self._levels) if level.streaming]
        for level in self._levels[: streaming[-1] if streaming else 0]:
            if not level.streaming and level.tag is None and not self._stopped:
                message = await channel.depth(level.queue) and await channel.get(level.queue)
                if message:
                    self._take_ahead(self._held(message, level))

    def _presence(self, presence: wire.Presence) -> None:
        """A node may have become idle: it gets what waits here behind others."""
        if self._guests.behind:
            self._astir.set()
            self._guests.do(self._guests.hand_on(STALE))

    def _refused(self, error: FossaError) -> None:
        """The node takes nothing now: bring nothing ahead."""
        if isinstance(error, NodeStopping):
            self._stopped = True
        for level in self._levels:
            level.forget()
        self._stirred.set()
        self._astir.set()

    # models that not every node accepts

    async def _find_parked(self, connection: Connection) -> None:
        if self._post.topology.legacy:
            return
        shared = set(self._post.topology.levels)
        known = {level.queue for level in self._levels}
        for model in self._node.composition.models:
            queue = self._post.topology.model(model)
            there = await self._post.depth(connection, queue) is not None
            if there and queue not in known:
                self._add(queue)
            elif not there and queue not in shared:
                self._levels = [level for level in self._levels if level.queue != queue]

    def _parked(self, parked: wire.Parked) -> None:
        queue = self._post.topology.model(parked.model)
        if parked.model in self._node.composition.models:
            if all(level.queue != queue for level in self._levels):
                self._add(queue)
            self._stirred.set()

    def _add(self, queue: str) -> None:
        """Look there too: after subtasks, before new tasks."""
        self._levels.insert(2, Level(queue))
