"""The subtasks that another node sent in one message, and what is said of them."""

import asyncio
from typing import TYPE_CHECKING

from fossa import (
    Delivery,
    FossaError,
    NodeStopping,
    NotAccepted,
    Outcome,
    QueueFull,
    Reason,
    Reservation,
    Status,
    TaskRefused,
    new_id,
)
from fossa_rabbitmq import wire
from fossa_rabbitmq.connection import TooLarge, Unroutable
from fossa_rabbitmq.held import Held
from fossa_rabbitmq.reports import GuestWatch
from fossa_rabbitmq.wire import BadMessage

if TYPE_CHECKING:
    from fossa_rabbitmq.guests import Guests

#: Seconds for which outcomes of subtasks that came together wait for each other.
GATHER = 0.5
#: Seconds after which subtasks that came together should all have ended.
LATE = 0.75
#: Bytes of outcomes that go into one message, roughly.
LETTER_BYTES = 256 * 1024


class GuestParcel:
    """The subtasks of one message, and their outcomes on the way back."""

    def __init__(self, guests: "Guests", held: Held, content: wire.Subtasks) -> None:
        self._guests = guests
        self._post = guests.post
        self.held = held
        self.content = content
        #: Its parent's node is gone, as far as is known here: what is not run yet is not run here.
        self.orphaned = False
        # Of a node that nobody has heard of, it may be one of this node's own, from before it died.
        self._again = held.again or not self._post.fleet.has(content.node.id)
        self._waiting: dict[str, wire.Subtask] = {s.id: s for s in content.subtasks}
        self._left: list[wire.Subtask] = []
        #: By model: those that this node does not accept, and why.
        self._unaccepted: dict[str, list[tuple[wire.Subtask, str]]] = {}
        #: Messages on their way to the parent's node.
        self._telling = 0
        self._ready: list[tuple[wire.SubtaskOutcome, asyncio.Future[None]]] = []
        self._flush: asyncio.TimerHandle | None = None

    def running(self) -> list[str]:
        return list(self._waiting)

    @property
    def model(self) -> str:
        """Of all of them, where a node of ours has sent them: what travels together is alike."""
        return self.content.subtasks[0].model

    @property
    def waiting(self) -> bool:
        """Whether any of them may be waiting for another one."""
        return len(self._waiting) > 1

    async def drop(self) -> None:
        """Let go of what has not ended: the node of its parent seems to be gone."""
        if self.orphaned:
            return
        self.orphaned = True
        await asyncio.gather(*map(self._drop, self.running()))

    async def _drop(self, task_id: str) -> None:
        # What is another message's stays that one's, which is dropped itself.
        here = self._guests.parcels.get(task_id) is self
        if not here or await self._guests.node.withdraw(task_id, begun=True):
            self.leave(task_id)

    async def admit(self, reservation: Reservation | None) -> None:
        for subtask in self.content.subtasks:
            before = self._guests.parcels.get(subtask.id)
            self._guests.parcels[subtask.id] = self
            if before is not None:
                before.supersede(subtask.id)
        first, *others = self.content.subtasks
        if others:
            asyncio.get_running_loop().call_later(LATE, self._ask_for_idle)
        await self._admit(first, reservation)
        if self._again:  # they are looked up in the ledger, which does that for many at once
            await asyncio.gather(*(self._admit(subtask, None) for subtask in others))
        else:
            for subtask in others:
                await self._admit(subtask, None)

    def _ask_for_idle(self) -> None:
        """They should have ended: who has nothing to do may have said so before they came."""
        if self.waiting and not self.held.over:
            self._post.announce(hello=True)

    def supersede(self, task_id: str) -> None:
        """One of them has come again: the later message is settled with its outcome."""
        self._waiting.pop(task_id, None)
        self._settle()

    async def _admit(self, subtask: wire.Subtask, reservation: Reservation | None) -> None:
        if subtask.id not in self._waiting:
            return  # it has come again in a message that was read meanwhile
        if self._guests.was_cancelled(subtask.id):
            gone = wire.OutcomeDocument(Status.CANCELLED, Reason.CANCELLED, "cancelled")
            self.answer(subtask, gone)
            return
        try:
            delivery = self._delivery(subtask)
            await self._guests.node.admit(delivery, reservation)
        except NotAccepted as error:
            alike = self._unaccepted.setdefault(subtask.model, [])
            alike.append((subtask, str(error)))
            if len(alike) == 1:
                self._guests.do(self._not_accepted(subtask.model))
        except (NodeStopping, QueueFull) as error:
            self._guests.on_refused(error)
            self.leave(subtask.id)
        except (TaskRefused, BadMessage) as error:
            self.answer(subtask, wire.refusal(str(error)))
        except FossaError as error:
            self._guests.node.logger.info("subtask %s is handed on: %s", subtask.id, error)
            self.leave(subtask.id)

    def _delivery(self, subtask: wire.Subtask) -> Delivery:
        watch = self._guests.reports.watch(subtask.id, self.held)

        async def ack(outcome: Outcome) -> None:
            self.held.ended(outcome)
            await self.answer(subtask, wire.outcome(outcome), watch)

        async def give_back() -> None:
            self.leave(subtask.id)

        return Delivery(
            request=wire.request_of(subtask),
            origin=wire.origin_of(subtask),
            source=self._guests.source,
            redelivers=True,
            again=self._again,
            last=self._guests.too_often(self.held),
            watch=watch,
            ack=ack,
            give_back=give_back,
        )

    async def _not_accepted(self, model: str) -> None:
        """In one message again: those of one lane are not run in two places at once."""
        elsewhere = await self._guests.elsewhere(model)
        unaccepted = self._unaccepted.pop(model)
        if not elsewhere:
            for subtask, text in unaccepted:
                self.answer(subtask, wire.refusal(f"{text}; nor does another node here"))
            return
        subtasks = [subtask for subtask, _ in unaccepted]
        try:
            await self._post.park(self._letter(subtasks), model)
        except FossaError as error:
            self._guests.node.logger.info("%d subtasks are handed on: %s", len(subtasks), error)
            for subtask in subtasks:
                self.leave(subtask.id)
        else:
            for subtask in subtasks:
                self._gone(subtask.id)
            self._settle()

    def _letter(self, subtasks: list[wire.Subtask]) -> wire.Letter:
        """A message like the one that came, with some of its subtasks."""
        properties = self.held.message.properties
        return wire.letter(
            wire.SUBTASKS,
            wire.Subtasks(self.content.node, subtasks),
            headers={wire.AGAIN_HEADER: True},
            message_id=new_id(),
            correlation_id=properties.correlation_id,
            reply_to=properties.reply_to,
        )

    # the way back

    def leave(self, task_id: str) -> None:
        """One of them is for another node; those that have begun go on here."""
        subtask = self._waiting.get(task_id)
        if subtask is None:
            return
        if not self._left:  # others may leave at the same time
            asyncio.get_running_loop().call_soon(self._let_left_go)
        self._left.append(subtask)
        self._gone(task_id)

    def _let_left_go(self) -> None:
        left, self._left = self._left, []
        if self.held.over:
            return
        if len(left) == len(self.content.subtasks) and not self.orphaned:
            self._guests.hand_back(self.held)
            self._guests.held.discard(self.held)
        else:
            self._telling += 1
            self._settle()
            self._guests.do(self._tell_dropped(left))

    async def _tell_dropped(self, left: list[wire.Subtask]) -> None:
        """They are not run here. A parent's node that is there has them run by somebody else.

        Nobody else can: those of one lane are not run in two places at once.
        """
        ids = [subtask.id for subtask in left]
        content = wire.Dropped(self._post.me, ids, handed_back=not self.orphaned)
        about = self.held.message.properties.correlation_id
        letter = wire.letter(wire.DROPPED, content, message_id=new_id(), correlation_id=about)
        await self._tell_parent(letter)
        self._telling -= 1
        self._settle()

    def _gone(self, task_id: str) -> None:
        self._waiting.pop(task_id, None)
        if self._guests.parcels.get(task_id) is self:
            del self._guests.parcels[task_id]
            self._guests.reports.end(task_id)

    def answer(
        self,
        subtask: wire.Subtask,
        outcome: wire.OutcomeDocument,
        watch: GuestWatch | None = None,
    ) -> "asyncio.Future[None]":
        """Say how one has ended; done once the parent's node cannot miss it."""
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        item = wire.SubtaskOutcome(subtask.id, subtask.attempt, outcome)
        if watch is not None:
            watch.add_to(item)
        self._ready.append((item, told))
        self._gone(subtask.id)
        if not self._waiting:
            self._flush_now()
        elif self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(GATHER, self._flush_now)
        return told

    def _flush_now(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        ready, self._ready = self._ready, []
        if ready:
            self._telling += 1
            self._guests.do(self._tell(ready))

    async def _tell(self, ready: "list[tuple[wire.SubtaskOutcome, asyncio.Future[None]]]") -> None:
        await self._send([item for item, _ in ready])
        for _, told in ready:
            if not told.done():
                told.set_result(None)
        self._telling -= 1
        self._settle()

    async def _send(self, items: list[wire.SubtaskOutcome]) -> None:
        part: list[wire.SubtaskOutcome] = []
        size = 0
        for item in items:
            size += _size(item)
            if part and size > LETTER_BYTES:
                await self._send_part(part)
                part, size = [], 0
            part.append(item)
        if part:
            await self._send_part(part)

    async def _send_part(self, items: list[wire.SubtaskOutcome]) -> None:
        content = wire.Outcomes(self._post.me, items)
        letter = wire.letter(wire.OUTCOMES, content, message_id=new_id())
        try:
            await self._tell_parent(letter)
        except TooLarge as error:
            if len(items) == 1:
                items[0].outcome = wire.too_large(items[0].outcome, str(error))
                items[0].lines, items[0].message = [], ""
            for item in items:
                await self._send_part([item])

    async def _tell_parent(self, letter: wire.Letter) -> None:
        """Tell the parent's node. Where its queue is gone so is it, or it asks again."""
        queue = self.held.message.properties.reply_to or ""
        try:
            await self._guests.insist(lambda: self._post.send(letter, queue))
        except Unroutable:
            self._guests.node.logger.info("nobody waits for subtasks at %s any more", queue)

    def _settle(self) -> None:
        """Once nothing of the message is left here, the broker may forget it."""
        if not self._waiting:  # there is nothing to wait for with the outcomes
            self._flush_now()
        if not (self._waiting or self._ready or self._left or self._telling or self.held.over):
            self._guests.let_go(self.held)


def _size(item: wire.SubtaskOutcome) -> int:
    """Bytes that an outcome takes, roughly."""
    return len(bytes(item.outcome.result)) + sum(len(line.text) for line in item.lines) + 200
