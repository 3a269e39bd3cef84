"""Subtasks that other nodes run: sent, watched, and their outcomes."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from attrs import define, field

from fossa import Attempt, LiveAttempt, NotBegun, Outcome, Reason, Status, new_id
from fossa_rabbitmq import wire
from fossa_rabbitmq.connection import (
    BrokerGone,
    Connection,
    Message,
    Nacked,
    TooLarge,
    Unroutable,
)
from fossa_rabbitmq.post import Post, again
from fossa_rabbitmq.reports import REPEAT
from fossa_rabbitmq.topology import declare_replies
from fossa_rabbitmq.wire import BadMessage, Letter

#: Bytes of one message with several subtasks, roughly: more subtasks go into the next.
LETTER_BYTES = 256 * 1024
#: Seconds after which somebody says that they have what is in no queue, or it is lost.
LOST_AFTER = 5.0
#: Seconds between two looks for what is lost while nothing seems to be wrong.
LOOK_INTERVAL = 30.0
#: Seconds after which a node that has not spoken of a subtask again has it no more.
SILENT_AFTER = 3 * REPEAT
#: Seconds in which what has come home is back in this node's queue.
HOME_WITHIN = 1.0
#: Subtasks that are remembered for having been let go of.
REMEMBERED = 10_000
#: Replies that the broker may send ahead.
_PREFETCH = 200
#: Seconds that a cancelled attempt gets to end on its node, beyond what the config allows there.
_CANCEL_MARGIN = 5.0
#: …where it is not known to have begun.
_CANCEL_UNBEGUN = 1.0


@define(eq=False)
class Sent:
    """One attempt that another node is to run."""

    attempt: Attempt
    live: LiveAttempt
    outcome: "asyncio.Future[Outcome]"
    #: Done once nobody waits for that any more.
    gone: "asyncio.Future[None]"
    #: The message that it is in.
    parcel: "Parcel | None" = None
    #: The node that has said that it runs it, or is about to.
    holder: str | None = None
    #: When it said so last, of the monotonic clock.
    heard: float = 0.0

    @property
    def begun(self) -> bool:
        return self.holder is not None


@define(eq=False)
class Parcel:
    """The attempts that travel in one message."""

    queue: str
    letter: Letter
    sents: list[Sent]
    #: It is not known to be with the broker yet.
    sending: bool = True
    #: When it was published last, of the monotonic clock.
    sent: float = 0.0


@define
class _Share:
    """Attempts that were begun together and have not been sent yet."""

    sents: list[Sent] = field(factory=list)


class Outbox:
    """What this node has sent and has no outcome of."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._sent: dict[str, Sent] = {}
        self._shares: dict[int, _Share] = {}
        self._cancelled: list[str] = []
        #: What nodes have let go of: wherever it is sent to now, it may have been before.
        self._returned: dict[str, None] = {}
        self._grace = post.node.composition.INTERRUPT_GRACE
        self._grace += post.node.composition.TERMINATE_GRACE + _CANCEL_MARGIN
        self.replies = post.topology.replies(post.node.id)

    async def open(self) -> None:
        self._post.outbox = self
        self._post.on(wire.QUEUES_LOST, self._queue_lost)
        self._post.on(wire.GOODBYE, self._let_go)
        await self._post.each_time(self._set_up)

    async def close(self) -> None:
        self._post.never_again(self._set_up)
        self._post.outbox = None
        for sent in list(self._sent.values()):
            sent.outcome.cancel()
        connection = self._post.taking.connection
        if connection is not None:
            try:
                channel = await connection.channel()
                await channel.delete_queue(self.replies)
            except BrokerGone as error:
                self._post.node.logger.debug("%s was not deleted: %s", self.replies, error)

    async def _set_up(self, connection: Connection) -> None:
        """Wait for replies: in a queue that is still there after a lost connection."""
        lost = await self._post.depth(connection, self.replies) is None
        channel = await connection.channel()
        self._post.guard(channel, self._post.taking)
        await declare_replies(channel, self._post.options, self._post.node.id)
        await channel.consume(
            self.replies,
            prefetch=_PREFETCH,
            on_message=self._on_reply,
            on_cancel=self._on_cancel,
        )
        if lost:
            self.send_again("the queue for replies was lost", begun=True)
        self._post.do(self._look_for_lost(connection))

    def _on_cancel(self, tag: str, why: str) -> None:
        """Its queue was deleted: by somebody, or by this node as it closes."""
        if self._post.outbox is self:
            self._post.taking.restart(why)

    async def _look_for_lost(self, connection: Connection) -> None:
        """Send again what is in no queue and with no node.

        With what was published before a lost connection: nobody may have heard that its queue was
        lost, and made anew, meanwhile. And a queue may be emptied by somebody at any time.
        """
        suspects = self._parcels(begun=False)
        while not connection.closed.done():
            try:
                suspects = await self._send_lost(connection, suspects)
                if not suspects:
                    await asyncio.sleep(LOOK_INTERVAL)
                suspects = list({*suspects, *self._unheard_of()})
            except BrokerGone:
                return  # the next connection looks again

    def _unheard_of(self) -> list[Parcel]:
        """What was published a while ago, and no node has said that it has any of it."""
        if not self._post.sending:
            return []
        self._let_go_of_silent()
        long_ago = time.monotonic() - LOOK_INTERVAL
        return [
            parcel
            for parcel in self._parcels(begun=False)
            if parcel.sent < long_ago and not any(sent.begun for sent in parcel.sents)
        ]

    def _let_go_of_silent(self) -> None:
        """Of what another node still has it speaks: the rest it has given to somebody else."""
        silent = time.monotonic() - SILENT_AFTER
        since = self._post.fleet.since
        if since is None or since > silent:
            return  # nobody could be heard for so long
        for sent in self._sent.values():
            if sent.heard < silent:
                sent.holder = None

    async def _send_lost(self, connection: Connection, suspects: list[Parcel]) -> list[Parcel]:
        """Send again those of them that are lost; which ones may still be in a queue."""
        empty = await self._in_no_queue(connection, suspects)
        await asyncio.sleep(LOST_AFTER)
        # It may have been on its way back into its queue, from a node that had no slot for it.
        lost = await self._in_no_queue(connection, self._still(empty))
        self._send_parcels_again(self._still(lost), "they are in no queue, and with no node")
        return self._still(suspects)

    def _still(self, parcels: list[Parcel]) -> list[Parcel]:
        """Those that nobody is known to have, and that are not being sent, now."""
        return [parcel for parcel in self._parcels(begun=False) if parcel in parcels]

    async def _in_no_queue(self, connection: Connection, parcels: list[Parcel]) -> list[Parcel]:
        places = {id(parcel): self._places(parcel) for parcel in parcels}
        asked = set[str]().union(*places.values())
        full = {queue for queue in asked if await self._post.depth(connection, queue)}
        return [parcel for parcel in parcels if not places[id(parcel)] & full]

    def _places(self, parcel: Parcel) -> set[str]:
        """The queues that it may be in: nodes move what they do not accept to its model's."""
        models = {sent.attempt.task.model for sent in parcel.sents}
        return {parcel.queue, *map(self._post.topology.model, models)}

    # send

    async def run(self, attempt: Attempt, live: LiveAttempt) -> Outcome:
        """Have another node run it."""
        loop = asyncio.get_running_loop()
        sent = Sent(attempt, live, loop.create_future(), loop.create_future())
        self._sent[attempt.task.id] = sent
        share = self._shares.get(attempt.tenure)
        if share is None:
            share = self._shares[attempt.tenure] = _Share()
            loop.call_soon(self._dispatch, attempt.tenure)
        share.sents.append(sent)
        try:
            return await sent.outcome
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # That has cancelled the future too: another one is for what is said from now on.
                sent.outcome = loop.create_future()
                await self._cancel(sent)
            raise
        finally:
            self._forget(sent)

    def _forget(self, sent: Sent) -> None:
        if self._sent.get(sent.attempt.task.id) is sent:
            del self._sent[sent.attempt.task.id]
        sent.parcel = None  # it knows this one: both would be garbage for Python to find
        sent.holder = None
        sent.gone.set_result(None)
        if not sent.outcome.done():
            sent.outcome.cancel()

    def _dispatch(self, tenure: int) -> None:
        """Send what was begun together in one message; what that has no room for is sent later."""
        waiting = [s for s in self._shares.pop(tenure).sents if not s.outcome.done()]
        if not self._post.sending:
            for sent in waiting:
                fail(sent, NotBegun("there is no connection to the broker", near=True))
            return
        letter: list[Sent] = []
        size = 0
        for sent in waiting:
            size += len(sent.attempt.task.arguments) + 400
            if letter and size > LETTER_BYTES:
                # Not in a message of its own: those of one lane are not run in two places at once.
                fail(sent, NotBegun("its message is full"))
            else:
                letter.append(sent)
        if letter:
            self._send_off(letter)

    def _send_off(self, sents: list[Sent]) -> None:
        content = wire.Subtasks(self._post.me, [wire.subtask(s.attempt) for s in sents])
        message_id = new_id()
        letter = wire.letter(
            wire.SUBTASKS,
            content,
            message_id=message_id,
            correlation_id=message_id,
            reply_to=self.replies,
        )
        queue = self._post.topology.subtasks(sents[0].attempt.task.depth)
        if any(sent.attempt.task.id in self._returned for sent in sents):
            letter = again(letter)
        parcel = Parcel(queue, letter, sents)
        for sent in sents:
            sent.parcel = parcel
        if len(sents) > 1:
            self._post.several_together()
        self._post.do(self._send(parcel))

    async def _send(self, parcel: Parcel) -> None:
        """Publish a parcel until it is safe, or nobody waits for it any more."""
        parcel.sending = True
        pause = 0.05
        try:
            while any(not s.outcome.done() for s in parcel.sents):
                try:
                    await self._post.send(parcel.letter, parcel.queue)
                    parcel.sent = time.monotonic()
                    return
                except TooLarge as error:
                    for sent in parcel.sents:
                        end(sent, failed(sent, str(error)))
                    return
                except Unroutable:
                    self._queue_lost(wire.QueuesLost(parcel.queue))
                    self._post.taking.restart(f"the queue {parcel.queue} is not there")
                except (BrokerGone, Nacked):
                    parcel.letter = again(parcel.letter)
                await asyncio.sleep(pause)
                pause = min(1.0, 2 * pause)
                await self._post.giving.up()
        finally:
            parcel.sending = False

    def _queue_lost(self, lost: wire.QueuesLost) -> None:
        if lost.queue in (self._post.topology.first_level, self._post.topology.nested):
            self.send_again("a queue was lost")

    def send_again(self, why: str, *, begun: bool = False) -> None:
        """Send what may have been lost; what other nodes have begun only where that is asked."""
        self._send_parcels_again(self._parcels(begun=begun), why)

    def _parcels(self, *, begun: bool) -> list[Parcel]:
        """What the broker was given; what other nodes have begun only where that is asked."""
        parcels = {
            id(s.parcel): s.parcel
            for s in self._sent.values()
            if s.parcel is not None and (begun or not s.begun)
        }
        return [parcel for parcel in parcels.values() if not parcel.sending]

    def _send_parcels_again(self, parcels: list[Parcel], why: str) -> None:
        if parcels:
            self._post.node.logger.warning("%d messages are sent again: %s", len(parcels), why)
        for parcel in parcels:
            parcel.letter, parcel.sending = again(parcel.letter), True
            self._post.do(self._send(parcel))

    # outcomes

    def _on_reply(self, message: Message) -> None:
        try:
            self._read(message)
        except BadMessage as error:
            self._post.node.logger.warning("a reply was not understood: %s", error)
        finally:
            message.channel.ack(message.delivery_tag)

    def _read(self, message: Message) -> None:
        kind = message.properties.type or ""
        if kind == wire.OUTCOMES:
            self._read_outcomes(message)
        elif kind == wire.EVENTS:
            content = wire.read(kind, message.body, message.properties)
            for item in content.events:
                self._happened(item, content.node.id)
        elif kind == wire.OUTCOME:
            self._refused(message)
        elif kind == wire.DROPPED:
            self._dropped(message)
        else:
            raise BadMessage("bad_message", f"a message of type {kind!r:.50} is no reply")

    def _read_outcomes(self, message: Message) -> None:
        try:
            content = wire.read(wire.OUTCOMES, message.body, message.properties)
        except BadMessage as error:
            # Whoever waits for one of them would wait for ever.
            self._post.node.logger.warning("a reply was not understood: %s", error)
            for item, outcome in wire.each_outcome(message.body, error):
                self._ended(item, outcome)
        else:
            for item in content.outcomes:
                self._ended(item, wire.outcome_of(item.outcome, content.node.name))

    def _ended(self, item: Any, outcome: Outcome) -> None:
        sent = self._sent.get(item.id)
        if sent is None or item.attempt != sent.attempt.number:
            return
        if getattr(item, "lines", ()):
            sent.live.log(wire.lines_of(item))
        if getattr(item, "fraction", None) is not None:
            sent.live.progress(item.fraction, item.message)
        self._returned.pop(item.id, None)
        end(sent, outcome)

    def _happened(self, item: wire.Event, node_id: str) -> None:
        sent = self._sent.get(item.id)
        if sent is None:
            return
        sent.holder, sent.heard = node_id, time.monotonic()
        if item.lines:
            sent.live.log(wire.lines_of(item))
        if item.fraction is not None:
            sent.live.progress(item.fraction, item.message)

    def _let_go(self, goodbye: wire.Goodbye) -> None:
        """A node has stopped: what it had begun is in a queue again."""
        for sent in self._sent.values():
            if sent.holder == goodbye.id:
                sent.holder = None

    def _refused(self, message: Message) -> None:
        """A whole parcel came to nothing: a node could not read it."""
        outcome = wire.outcome_of(wire.read(wire.OUTCOME, message.body, message.properties).outcome)
        for sent in list(self._sent.values()):
            parcel = sent.parcel
            if parcel and parcel.letter.properties.message_id == message.properties.correlation_id:
                end(sent, outcome)

    def _dropped(self, message: Message) -> None:
        """A node let go of some: somebody has to run them after all."""
        content = wire.read(wire.DROPPED, message.body, message.properties)
        about = message.properties.correlation_id
        dropped = [
            sent
            for task_id in content.ids
            if (sent := self._sent.get(task_id))
            and sent.parcel is not None
            and sent.parcel.letter.properties.message_id == about
        ]
        if dropped and not content.handed_back:
            text = "node %s took this one for gone: %d subtasks are sent again"
            self._post.node.logger.warning(text, content.node.name, len(dropped))
        for sent in dropped:
            self._returned[sent.attempt.task.id] = None
            fail(sent, NotBegun(f"node {content.node.name} let go of it"))
        while len(self._returned) > REMEMBERED:
            del self._returned[next(iter(self._returned))]

    async def come_home(self, subtask_ids: Sequence[str]) -> None:
        """This node's own source has taken them, whose ids are as on the wire: they run here.

        Returns once they are in this node's queue.
        """
        for sent in (home := [self._sent[i] for i in subtask_ids if i in self._sent]):
            fail(sent, NotBegun("this node took it itself", near=True))
        if home:
            await asyncio.wait([sent.gone for sent in home], timeout=HOME_WITHIN)

    # cancel

    async def _cancel(self, sent: Sent) -> None:
        """Tell the node that runs it, and give that a while to end it."""
        if sent.outcome.done():
            return
        if not self._cancelled:
            asyncio.get_running_loop().call_soon(self._tell_of_cancelled)
        self._cancelled.append(sent.attempt.task.id)
        patience = self._grace if sent.begun else _CANCEL_UNBEGUN
        await asyncio.wait([sent.outcome], timeout=patience)

    def _tell_of_cancelled(self) -> None:
        ids, self._cancelled = self._cancelled, []
        self._post.tell(wire.letter(wire.CANCEL, wire.Cancel(ids), persistent=False))


def end(sent: Sent, outcome: Outcome) -> None:
    if not sent.outcome.done():
        sent.outcome.set_result(outcome)


def fail(sent: Sent, error: Exception) -> None:
    if not sent.outcome.done():
        sent.outcome.set_exception(error)
        sent.outcome.exception()


def failed(sent: Sent, text: str) -> Outcome:
    return Outcome(
        status=Status.FAILED,
        reason=Reason.EXECUTOR,
        message=text,
        attempt=sent.attempt.number,
        started=sent.attempt.started,
    )
