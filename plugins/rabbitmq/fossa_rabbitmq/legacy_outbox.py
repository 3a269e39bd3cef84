"""Subtasks that nodes of 0.0.37 run, and those of this version that share their queue.

A node of 0.0.37 counts no retries, acknowledges before it runs, and says nothing of itself. So the
retries are counted here, and a subtask that nobody answers for too long is sent again.
"""

import asyncio
import random
import time
from collections.abc import Sequence

import attrs
from attrs import define

from fossa import LogLine, Outcome, Reason, Status
from fossa_rabbitmq import wire
from fossa_rabbitmq.connection import BrokerGone, ChannelClosed, Connection, Message, NoSuchQueue
from fossa_rabbitmq.legacy import QUEUE, Turn, encode_subtask, text_property, turn_of
from fossa_rabbitmq.legacy_replies import Reply, decode_reply
from fossa_rabbitmq.outbox import Outbox, Parcel, Sent, end, failed
from fossa_rabbitmq.post import Post
from fossa_rabbitmq.wire import BadMessage

#: Seconds between two looks for subtasks that are overdue.
LOOK_INTERVAL = 1.0


@define(eq=False)
class Wait:
    """One attempt without an outcome, and how often it was sent."""

    sent: Sent
    turn: int = 1
    #: Turns in which the model failed on a node of 0.0.37.
    failures: int = 0
    #: Turns that nobody answered.
    lost: int = 0
    #: When it was surely out of the queue, of the monotonic clock; None: it may still be in it.
    taken: float | None = None

    def next_turn(self) -> None:
        self.turn += 1
        self.taken = self.sent.holder = self.sent.parcel = None

    @property
    def out_of_sight(self) -> bool:
        """Whether it may be on a node of 0.0.37, which nobody would hear the end of."""
        parcel = self.sent.parcel
        return parcel is not None and not parcel.sending and self.sent.holder is None


class LegacyOutbox(Outbox):
    """What this node has sent to the queue of 0.0.37 and has no outcome of."""

    def __init__(self, post: Post) -> None:
        super().__init__(post)
        self._waits: dict[str, Wait] = {}
        self._looking: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await super().open()
        self._warn_of_endless_waits()
        self._looking = self._post.do(self._look())

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await super().close()

    def _warn_of_endless_waits(self) -> None:
        config = self._post.node.composition
        endless = [
            name
            for name, model in config.models.items()
            if model.limits.timeout is None and config.TIMEOUT is None
        ]
        if endless:
            self._post.node.logger.warning(
                "%s: where a node of 0.0.37 dies with a subtask of a model without a timeout, its "
                "parent waits for ever. Give these models one, in LIMITS or as TIMEOUT: %s",
                self._post.options.safe_url,
                ", ".join(endless),
            )

    async def _look_for_lost(self, connection: Connection) -> None:
        """Nodes of 0.0.37 do not say that they have begun: a deadline finds what is lost."""

    # send

    def _send_off(self, sents: list[Sent], *, repeated: bool = False) -> None:
        for sent in sents:
            wait = self._waits[sent.attempt.task.id] = Wait(sent)
            self._send_turn(wait)

    def _send_turn(self, wait: Wait) -> None:
        sent = wait.sent
        if sent.outcome.done():
            return
        letter = encode_subtask(sent.attempt, self.replies, wait.turn)
        sent.parcel = Parcel(QUEUE, letter, [sent])
        self._post.do(self._send(sent.parcel))

    def _again(self, wait: Wait, why: str, delay: float = 0.0) -> None:
        """Send it once more; what comes of the earlier turn is taken where it is a result."""
        wait.next_turn()
        attempt = wait.sent.attempt
        text = f"turn {wait.turn - 1} on another node: {why}; the next begins in {delay:.1f} s"
        line = LogLine(
            time=time.time(), level="WARNING", stream="node", text=text, attempt=attempt.number
        )
        wait.sent.live.log([line])
        asyncio.get_running_loop().call_later(delay, self._send_turn, wait)

    def _forget(self, sent: Sent) -> None:
        super()._forget(sent)
        wait = self._waits.get(sent.attempt.task.id)
        if wait is not None and wait.sent is sent:
            del self._waits[sent.attempt.task.id]

    async def come_home(self, subtask_ids: Sequence[str]) -> None:
        """On this wire they are correlation ids. Nobody waits for a turn that is not the last."""
        for correlation_id in subtask_ids:
            turn = turn_of(correlation_id)
            wait = self._awaited(turn)
            if wait is not None and turn is not None and turn.turn == wait.turn:
                await super().come_home([turn.task_id])

    # replies

    def _read(self, message: Message) -> None:
        if message.properties.type == wire.EVENTS:
            super()._read(message)
            return
        turn = turn_of(text_property(message.properties, "correlation_id") or "")
        wait = self._awaited(turn)
        if turn is None or wait is None:
            return
        try:
            reply = decode_reply(
                message.body, message.properties, self._post.options.max_message_bytes
            )
        except BadMessage as error:
            end(wait.sent, failed(wait.sent, f"its reply cannot be read: {error}"))
        else:
            self._answered(wait, turn, reply)

    def _awaited(self, turn: Turn | None) -> Wait | None:
        """The attempt that somebody speaks of; None: it has ended, or never was."""
        wait = self._waits.get(turn.task_id) if turn is not None else None
        if wait is None or turn is None or turn.attempt != wait.sent.attempt.number:
            return None
        return wait

    def _answered(self, wait: Wait, turn: Turn, reply: Reply) -> None:
        outcome = reply.outcome
        if not outcome.complete and not reply.counted:
            if turn.turn != wait.turn:
                return
            wait.failures += 1
            if wait.failures <= wait.sent.attempt.task.retries:
                why = f"{outcome.reason}: {outcome.message}"
                self._again(wait, why, self._retry_delay(wait.failures))
                return
        attempt = wait.sent.attempt
        dated = attrs.evolve(
            outcome, attempt=attempt.number, started=attempt.started, finished=time.time()
        )
        end(wait.sent, dated)

    def _retry_delay(self, failures: int) -> float:
        """As between attempts here: it doubles each time, less up to half of it by chance."""
        config = self._post.node.composition
        delay = min(config.RETRY_MAX_DELAY, config.RETRY_DELAY * 2.0 ** min(failures - 1, 60))
        return float(delay * random.uniform(0.5, 1.0))

    # what is overdue

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            timed = [w for w in self._waits.values() if w.sent.attempt.task.timeout is not None]
            self._let_go_of_lost_nodes(timed)
            await self._see_what_was_taken([w for w in timed if w.out_of_sight and not w.taken])
            now = time.monotonic()
            for wait in timed:
                if wait.out_of_sight and wait.taken and now > wait.taken + self._patience(wait):
                    self._overdue(wait)

    def _patience(self, wait: Wait) -> float:
        """Seconds that a node may take for it: a node of this version ends it by then."""
        return float(self._grace + (wait.sent.attempt.task.timeout or 0.0))

    def _let_go_of_lost_nodes(self, waits: list[Wait]) -> None:
        """The broker gives to another node what a node of this version had when it died."""
        for wait in waits:
            holder = wait.sent.holder
            if holder is not None and not self._post.fleet.has(holder):
                wait.taken = wait.sent.holder = None

    async def _see_what_was_taken(self, waits: list[Wait]) -> None:
        """Once the queue is empty, all is out of it that was in it before."""
        if waits and await self._queue_is_empty():
            now = time.monotonic()
            for wait in waits:
                wait.taken = now

    async def _queue_is_empty(self) -> bool:
        connection = self._post.taking.connection
        if connection is None:
            return False
        try:
            channel = await connection.channel()
            count = await channel.depth(QUEUE)
            await channel.close()
        except (BrokerGone, ChannelClosed, NoSuchQueue):
            return False
        return count == 0

    def _overdue(self, wait: Wait) -> None:
        if wait.sent.outcome.done():
            return
        wait.lost += 1
        seconds = self._patience(wait)
        why = f"no reply for {seconds:g} s, its timeout and what a node may take beyond"
        if wait.lost < self._post.node.composition.CRASH_ATTEMPTS:
            self._post.node.logger.warning("subtask %s: %s", wait.sent.attempt.task.id, why)
            self._again(wait, why)
        else:
            end(wait.sent, self._lost(wait, why))

    def _lost(self, wait: Wait, why: str) -> Outcome:
        text = f"{why}, {wait.lost} times: the nodes that took it died, or run it for longer"
        return Outcome(
            status=Status.FAILED,
            reason=Reason.LOST_NODE,
            message=text,
            attempt=wait.sent.attempt.number,
            started=wait.sent.attempt.started,
            finished=time.time(),
        )
