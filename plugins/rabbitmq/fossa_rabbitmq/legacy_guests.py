"""Subtasks that came on the wire of 0.0.37: run, and answered as their parents understand it.

Their parents are models on nodes of that version, and on nodes of this one; `legacy` tells them
apart. On this node they are tasks of their own: the wire does not say whose they are.
"""

import time

import attrs

from fossa import Outcome, Reason, Request, Reservation, Status, Watch
from fossa_rabbitmq import wire
from fossa_rabbitmq.connection import TooLarge, Unroutable
from fossa_rabbitmq.guests import Guests, Settling
from fossa_rabbitmq.held import Held, TaskWatch
from fossa_rabbitmq.legacy import SUBTASK, LegacyTask, Repeats, decode_task, turn_of, unread
from fossa_rabbitmq.legacy_replies import encode_reply
from fossa_rabbitmq.message import Message
from fossa_rabbitmq.post import Post
from fossa_rabbitmq.reports import GuestWatch
from fossa_rabbitmq.wire import BadMessage


class LegacyGuests(Guests):
    """What this node holds of the queue of 0.0.37."""

    def __init__(self, post: Post, source: str) -> None:
        super().__init__(post, source)
        self._repeats = Repeats()

    def _take_now(self, held: Held, reservation: Reservation | None) -> bool:
        return False

    async def _read(self, held: Held, reservation: Reservation | None) -> None:
        message = held.message
        asked = decode_task(message.body, message.properties, self._limit)
        node_id = self._parent_node(message)
        task_id = _subtask_id(message)
        if await self._comes_home(asked):
            self.let_go(held)
        elif node_id is not None and self.post.fleet.has_left(node_id):
            self.node.logger.info("a subtask of a node that has gone is dropped")
            self.let_go(held)
        elif task_id is not None and self.was_cancelled(task_id):
            await self._answer(message, asked, _ended_now(Reason.CANCELLED, "cancelled"))
            self.let_go(held)
        else:
            await self._run(held, asked, task_id, reservation)

    async def _comes_home(self, asked: LegacyTask) -> bool:
        """Whether this node's own model made it: then it needs no answer over the wire."""
        outbox = self.post.outbox
        if outbox is None or not asked.ours or asked.reply_to != outbox.replies:
            return False
        await outbox.come_home([asked.correlation_id or ""])
        return True

    async def _run(
        self, held: Held, asked: LegacyTask, task_id: str | None, reservation: Reservation | None
    ) -> None:
        request = self._repeats.request(asked, redelivered=held.message.redelivered)
        watch = TaskWatch(held) if task_id is None else self.reports.watch(task_id, held)

        def settle(outcome: Outcome) -> Settling:
            return self._settle(held, asked, watch, outcome)

        delivery = self._delivery(held, request, settle, watch)
        await self._admit(held, delivery, reservation, settle)
        if task_id is not None and self.was_cancelled(task_id):
            for here in held.task_ids:
                await self._cancel_here(here, "its parent was cancelled")

    async def _settle(self, held: Held, asked: LegacyTask, watch: Watch, outcome: Outcome) -> None:
        """The outcome is recorded: tell the parent, then the broker."""
        held.ended(outcome)
        message = held.message
        if isinstance(watch, GuestWatch):
            await self._tell_the_rest(message, watch)
        here = held.task_ids[0] if held.task_ids else None
        await self._answer(message, asked, outcome, here)
        if message.channel.closed.done():
            return
        if outcome.reason.crash and not asked.reply_to:
            await self.post.bury(message, "crashed", f"{outcome.reason}: {outcome.message}")
        self.let_go(held)

    # answers

    async def _answer(
        self, message: Message, asked: LegacyTask, outcome: Outcome, here: str | None = None
    ) -> None:
        """Tell whoever waits for it, once: a parent on 0.0.37 takes a second one for another."""
        if not asked.reply_to:
            return
        try:
            await self.send(encode_reply(asked, outcome, here), asked.reply_to, message)
        except Unroutable:
            self.node.logger.info("the parent of a subtask has gone: nobody waits for its outcome")
        except TooLarge as error:
            # What was asked for is in the reply too, and may be what is too large.
            plain = attrs.evolve(asked, request=_named(asked.request))
            await self._answer(message, plain, _too_large(outcome, str(error)), here)

    async def _tell_the_rest(self, message: Message, watch: GuestWatch) -> None:
        """What a subtask wrote last: a reply has no room for it."""
        task_id, queue = _subtask_id(message), message.properties.reply_to
        lines = wire.lines(watch.lines_left())
        if task_id is None:
            return
        self.reports.end(task_id)
        if lines and queue:
            content = wire.Events(self.post.me, [wire.Event(id=task_id, lines=lines)])
            try:
                await self.send(wire.letter(wire.EVENTS, content), queue, message)
            except (Unroutable, TooLarge) as error:
                self.node.logger.debug("the last lines of a subtask are only here: %s", error)

    async def bury(self, held: Held, reason: str, detail: str) -> None:
        """Tell the sender that it was refused; what nobody could read is a dead letter too."""
        message = held.message
        asked = self._whom(message)
        if asked is not None:
            await self._answer(message, asked, _ended_now(Reason.REFUSED, detail))
        if asked is None or not asked.reply_to or reason not in ("refused", "not_accepted"):
            await self.post.bury(message, reason, detail)
        self.let_go(held)

    def _whom(self, message: Message) -> LegacyTask | None:
        try:
            return decode_task(message.body, message.properties, self._limit)
        except BadMessage:
            return unread(message.properties)

    async def _not_accepted(self, held: Held, model: object, text: str) -> None:
        """At once: left in the queue, it would end the node of 0.0.37 that takes it."""
        await self.bury(held, "not_accepted", text)

    # whose they are

    def _ids_here(self, task_id: str) -> list[str]:
        return [i for h in self.held if _subtask_id(h.message) == task_id for i in h.task_ids]

    def _parent_node(self, message: Message) -> str | None:
        """The node of this version whose model made it; None: one of 0.0.37, or nobody knows."""
        said = message.properties
        queue = said.reply_to if said.type == SUBTASK else None
        return self.post.topology.boot_of(queue) if isinstance(queue, str) else None

    def drop_orphans(self) -> None:
        since = self.post.fleet.since
        if since is None:
            return
        for held in self.held:
            node_id = self._parent_node(held.message)
            if node_id is not None and self._is_orphan(held, node_id, since):
                for task_id in held.task_ids:
                    self.do(self._cancel_here(task_id, "the node of its parent is gone"))


def _subtask_id(message: Message) -> str | None:
    """A subtask's id on its parent's node, if that is of this version."""
    said = message.properties
    if said.type != SUBTASK or not isinstance(said.correlation_id, str):
        return None
    turn = turn_of(said.correlation_id)
    return turn.task_id if turn is not None else None


def _ended_now(reason: Reason, text: str) -> Outcome:
    status = Status.CANCELLED if reason is Reason.CANCELLED else Status.FAILED
    return Outcome(status=status, reason=reason, message=text, finished=time.time())


def _too_large(outcome: Outcome, text: str) -> Outcome:
    return Outcome(
        status=Status.FAILED,
        reason=Reason.RESULT_TOO_LARGE,
        message=text,
        attempt=outcome.attempt,
        started=outcome.started,
        finished=outcome.finished,
    )


def _named(request: Request) -> Request:
    """What a request is for, without its arguments."""
    return Request(model=f"{request.model:.200}", method=f"{request.method:.200}")
