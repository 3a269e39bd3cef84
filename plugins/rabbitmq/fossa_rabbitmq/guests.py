"""Tasks that came over RabbitMQ: admitted, watched, answered, settled."""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fossa import (
    DeliveredTooOften,
    Delivery,
    FossaError,
    NodeStopped,
    NodeStopping,
    NotAccepted,
    Outcome,
    QueueFull,
    Request,
    Reservation,
    Task,
    TaskRefused,
    TooLate,
    UnknownTask,
    Watch,
    new_id,
)
from fossa_rabbitmq import wire
from fossa_rabbitmq.connection import (
    BrokerGone,
    Channel,
    Message,
    Nacked,
    TooLarge,
    Unroutable,
)
from fossa_rabbitmq.held import Held, TaskWatch
from fossa_rabbitmq.parcels import GuestParcel
from fossa_rabbitmq.post import Post, again
from fossa_rabbitmq.properties import carried
from fossa_rabbitmq.reports import Reports
from fossa_rabbitmq.wire import BadMessage

#: Cancelled subtasks that are remembered, should their message still come.
REMEMBERED = 10_000
#: Seconds after which a subtask is dropped whose parent's node nobody has heard of.
ORPHAN_AFTER = 30.0

Settling = Coroutine[Any, Any, None]
Settle = Callable[[Outcome], Settling]


class Guests:
    """What this node holds of the broker's, and how it answers."""

    def __init__(self, post: Post, source: str) -> None:
        self.post = post
        self.node = post.node
        self.source = source
        self._limit: int = post.options.max_message_bytes
        counted = post.options.queue_type == "quorum" and not post.options.legacy
        self._delivery_limit: float = post.options.delivery_limit if counted else math.inf
        #: Called with why the node took a message not.
        self.on_refused: Callable[[FossaError], None] = lambda error: None
        self.held: set[Held] = set()
        self.parcels: dict[str, GuestParcel] = {}
        #: By id of a whole task: the messages that ask for it, and what settles each.
        self._twins: dict[str, dict[Held, Settle]] = {}
        self._cancelled: dict[str, None] = {}
        #: The queue to which the last reply could not be sent.
        self._unheard = ""
        self._at_work: set[asyncio.Task[None]] = set()
        self.reports = Reports(post)
        post.on(wire.CANCEL, self._cancel)
        post.on(wire.GOODBYE, lambda _: self.drop_orphans())

    async def close(self) -> None:
        """Wait for what is being answered: no connection may go before that."""
        if self._at_work:
            await asyncio.wait(self._at_work, timeout=10)
        self.reports.close()

    def take(self, held: Held, reservation: Reservation | None) -> None:
        """Do with a message what it asks for."""
        self.held.add(held)
        if not self._take_now(held, reservation):
            self.do(self._take(held, reservation))

    def _take_now(self, held: Held, reservation: Reservation | None) -> bool:
        """Do so without waiting, where that is possible: with a new whole task, as a rule."""
        if held.message.properties.type == wire.SUBTASKS:
            return False
        try:
            delivery, settle = self._read_task(held)
            task = self.node.admit_now(delivery, reservation)
        except Exception:  # whatever it is: `_take` comes to it again, and deals with it
            return False
        if task is None:
            return False
        self._admitted(held, task, settle)
        if reservation is not None:
            reservation.release()
        return True

    def do(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Work that is awaited before the connections are closed."""
        task = asyncio.create_task(work)
        self._at_work.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._at_work.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, BrokerGone):
            self.node.logger.error("a message could not be dealt with", exc_info=error)

    async def _take(self, held: Held, reservation: Reservation | None) -> None:
        message = held.message
        try:
            await self._read(held, reservation)
        except BadMessage as error:
            await self.bury(held, error.reason, str(error))
        except FossaError as error:
            self.on_refused(error)
            self.node.logger.info("a message goes back to %s: %s", message.queue, error)
            self.hand_back(held)
        except Exception as error:
            # Nobody knows what this is: it must neither stay here for ever nor come back for ever.
            self.node.logger.exception("a message of %s could not be dealt with", message.queue)
            await self.bury(held, "error", f"the node failed at it: {error!r}")
        finally:
            if reservation is not None:
                reservation.release()
            if held.over:
                self.held.discard(held)

    async def _read(self, held: Held, reservation: Reservation | None) -> None:
        if held.message.properties.type == wire.SUBTASKS:
            await self._take_parcel(held, reservation)
        else:
            await self._take_task(held, reservation)

    async def bury(self, held: Held, reason: str, detail: str) -> None:
        """To the dead letters with it; and its sender, if there is one, is told."""
        await self._bury(held.message, reason, detail)
        await self.reply(held.message, None, wire.refusal(detail))
        self.let_go(held)

    async def _bury(self, message: Message, reason: str, detail: str) -> None:
        await self.insist(lambda: self.post.bury(message, reason, detail), message)

    def let_go(self, held: Held) -> None:
        held.ack()
        self.held.discard(held)
        if len(held.task_ids) > 1:
            self.post.tell_of_idleness()

    def too_often(self, held: Held) -> str:
        """Why it is delivered no more, where that is so: the broker buries what comes back."""
        if held.deliveries < self._delivery_limit:
            return ""
        return (
            f"it was delivered {held.deliveries + 1} times and delivery_limit is "
            f"{self._delivery_limit}: it ends its nodes, or none of them keeps it"
        )

    def hand_back(self, held: Held) -> None:
        """It is for another node: the same message, or where that would be its last time, anew."""
        if held.deliveries + 1 < self._delivery_limit:
            held.give_back()
        else:
            self.do(held.pass_on(lambda: self._send_anew(held.message)))

    async def _send_anew(self, message: Message) -> None:
        letter = again(wire.Letter(message.body, carried(message.properties)))
        await self.post.send(letter, message.queue, limited=False)

    # whole tasks

    async def _take_task(self, held: Held, reservation: Reservation | None) -> None:
        delivery, settle = self._read_task(held)
        await self._admit(held, delivery, reservation, settle)

    def _read_task(self, held: Held) -> tuple[Delivery, Settle]:
        message = held.message
        kind = message.properties.type
        if kind not in (None, "", wire.TASK):
            raise BadMessage("bad_message", f"the property type is {kind!r:.50}: not fossa.task")
        limit = self._limit
        request, wants_reply = wire.read_task(message.body, message.properties, limit)

        def settle(outcome: Outcome) -> Settling:
            return self._settle_task(held, outcome, wants_reply)

        return self._delivery(held, request, settle, TaskWatch(held)), settle

    def _delivery(self, held: Held, request: Request, settle: Settle, watch: Watch) -> Delivery:
        """The one task of a message, which is settled so once that has ended."""

        async def ack(outcome: Outcome) -> None:
            await self._acknowledge(held, settle, outcome)

        async def give_back() -> None:
            self._give_back(held)

        async def reject(outcome: Outcome, why: str) -> None:
            # Sent back by somebody, it is offered to the sinks again, and the model runs no more.
            await asyncio.shield(self.do(self._bury(held.message, "sink_refused", why)))
            await ack(outcome)

        return Delivery(
            request=request,
            source=self.source,
            redelivers=True,
            again=True,
            last=self.too_often(held),
            watch=watch,
            ack=ack,
            give_back=give_back,
            reject=reject,
        )

    async def _admit(
        self, held: Held, delivery: Delivery, reservation: Reservation | None, settle: Settle
    ) -> None:
        """Have the node run the one task of a message, and then settle that."""
        held.task_ids = []
        try:
            task, _ = await self.node.admit(delivery, reservation)
        except (NodeStopping, NodeStopped, QueueFull):
            raise
        except NotAccepted as error:
            await self._not_accepted(held, delivery.request.model, str(error))
        except DeliveredTooOften as error:
            await self.bury(held, "delivery_limit", str(error))
        except TaskRefused as error:
            await self.bury(held, "refused", str(error))
        else:
            self._admitted(held, task, settle)

    def _admitted(self, held: Held, task: Task, settle: Settle) -> None:
        held.task_ids = [task.id]
        if not held.over:
            self._twins.setdefault(task.id, {})[held] = settle

    async def _acknowledge(self, held: Held, settle: Settle, outcome: Outcome) -> None:
        """Settle a message, and every other one of the same task."""
        twins = self._twins.pop(held.task_ids[0], {}) if held.task_ids else {}
        twins.pop(held, None)
        for other in twins.values():
            self.do(other(outcome))
        try:
            await settle(outcome)
        except asyncio.CancelledError:
            # Whoever waited for it waits no more: it is done all the same.
            self.do(settle(outcome))
            raise

    def _give_back(self, held: Held) -> None:
        """The broker may have a whole task again, and every other message of the same task."""
        task_id = held.task_ids[0] if held.task_ids else ""
        for one in {held, *self._twins.pop(task_id, ())}:
            self.hand_back(one)
            self.held.discard(one)

    async def _settle_task(self, held: Held, outcome: Outcome, wants_reply: bool) -> None:
        """The outcome is recorded: tell the sender, then the broker."""
        held.ended(outcome)
        if wants_reply:
            task_id = held.task_ids[0] if held.task_ids else None
            last = bool(self.too_often(held))
            await self.reply(held.message, task_id, wire.outcome(outcome), last=last)
        if held.message.channel.closed.done():
            return
        if outcome.reason.crash:
            detail = f"{outcome.reason} {outcome.attempt} times: {outcome.message}"
            await self._bury(held.message, "crashed", detail)
        self.let_go(held)

    async def reply(
        self,
        message: Message,
        task_id: str | None,
        outcome: wire.OutcomeDocument,
        *,
        last: bool = False,
    ) -> None:
        """Tell the sender of a message, where it says how.

        Also where it is held no more, if its `last` delivery is lost: the broker buries it then.
        """
        queue = message.properties.reply_to
        if not queue:
            return
        content = wire.TaskOutcome(task_id=task_id, node=self.post.me, outcome=outcome)
        letter = wire.letter(
            wire.OUTCOME,
            content,
            message_id=new_id(),
            correlation_id=message.properties.correlation_id,
        )
        try:
            await self.send(letter, queue, None if last else message)
        except Unroutable:
            if queue != self._unheard:  # a client that went away left many, as a rule
                self.node.logger.warning("nobody waits for replies at %s any more", queue)
            self._unheard = queue
        except TooLarge as error:
            await self.reply(message, task_id, wire.too_large(outcome, str(error)), last=last)

    async def send(self, letter: wire.Letter, queue: str, message: Message | None) -> None:
        """Send an answer; to a message, for as long as that is held.

        Where it is not any more, whoever has it next answers from the ledger.
        """
        await self.insist(lambda: self.post.send(letter, queue), message)

    async def insist(
        self, act: Callable[[], Coroutine[Any, Any, None]], message: Message | None = None
    ) -> None:
        """Do what needs the broker, however often it goes away; of a message, while it is held."""
        while message is None or not message.channel.closed.done():
            try:
                await act()
                return
            except (BrokerGone, Nacked):
                await asyncio.sleep(0.1)
                await self.post.giving.up()

    async def _not_accepted(self, held: Held, model: object, text: str) -> None:
        """A model for another node: it goes where only nodes look that accept it."""
        if await self.elsewhere(model):
            message = held.message
            letter = wire.Letter(message.body, carried(message.properties))
            await self.post.park(letter, str(model))
            self.let_go(held)
        else:
            await self.bury(held, "not_accepted", f"{text}; nor does another node here")

    async def elsewhere(self, model: object) -> bool:
        """Whether another node accepts a model that is unknown here.

        What is known here and refused nevertheless (there is no such method) would be there too.
        """
        if not isinstance(model, str) or model in self.node.composition.models:
            return False
        await asyncio.sleep(self.post.fleet.settled)
        return self.post.fleet.slots(model) > 0

    # subtasks of other nodes

    async def _take_parcel(self, held: Held, reservation: Reservation | None) -> None:
        message = held.message
        if not message.properties.reply_to:
            raise BadMessage("no_reply_to", "the property reply_to is missing")
        if len(message.body) > self._limit:
            size = len(message.body)
            text = f"the body has {size} bytes and the limit is {self._limit}"
            raise BadMessage("too_large", text)
        content = wire.read(wire.SUBTASKS, message.body, message.properties)
        ids = [subtask.id for subtask in content.subtasks]
        if content.node.id == self.node.id:
            # The slot is kept until they are in the queue for it: else the next would be fetched,
            # and the next, and other nodes had none.
            if self.post.outbox is not None:
                await self.post.outbox.come_home(ids)
            self.let_go(held)
        elif self.post.fleet.has_left(content.node.id):
            self.node.logger.info("%d subtasks of a node that has gone are dropped", len(ids))
            await GuestParcel(self, held, content).drop()
        else:
            held.task_ids = ids
            if len(ids) > 1:
                self.post.several_together()
            await GuestParcel(self, held, content).admit(reservation)

    def _cancel(self, cancel: wire.Cancel) -> None:
        for task_id in cancel.ids:
            self._cancelled[task_id] = None
            for here in self._ids_here(task_id):
                self.do(self._cancel_here(here, "its parent was cancelled"))
        while len(self._cancelled) > REMEMBERED:
            del self._cancelled[next(iter(self._cancelled))]

    def _ids_here(self, task_id: str) -> list[str]:
        """What this node calls the attempts that it has of a parent's subtask."""
        return [task_id] if task_id in self.parcels else []

    async def _cancel_here(self, task_id: str, why: str) -> None:
        try:
            await self.node.cancel(task_id, why)
        except (TooLate, UnknownTask):
            return

    def was_cancelled(self, task_id: str) -> bool:
        return task_id in self._cancelled

    def drop_orphans(self) -> None:
        """Stop subtasks whose parent's node is gone: nobody waits for them."""
        fleet = self.post.fleet
        if fleet.since is None:
            return
        for parcel in set(self.parcels.values()):
            if self._is_orphan(parcel.held, parcel.content.node.id, fleet.since):
                self.do(parcel.drop())

    def _is_orphan(self, held: Held, node_id: str, since: float) -> bool:
        """Whether the node of a message's parent has gone, listening `since` a while ago."""
        fleet, long_ago = self.post.fleet, time.monotonic() - ORPHAN_AFTER
        unheard = since < long_ago and held.arrived < long_ago
        return fleet.has_left(node_id) or (unheard and not fleet.has(node_id))

    def lose(self, channel: Channel) -> None:
        """Everything that came on a channel is the broker's again."""
        for held in [h for h in self.held if h.message.channel is channel]:
            held.over = True
            self.held.discard(held)

    # what waits here for too long

    async def give_back_stale(self, older_than: float) -> bool:
        """Hand back what arrived so many seconds ago and has not begun; whether there was any."""
        limit = time.monotonic() - older_than
        stale = [h for h in self.held if h.begun is None and h.arrived < limit and h.task_ids]
        given = False
        for held in stale:
            given = await self._withdraw(held) or given
        return given

    @property
    def behind(self) -> list[Held]:
        """Messages with subtasks behind others, since which a node has become idle."""
        if not self.post.sending:
            return []  # nobody could be told of what is handed back
        several = [parcel for h in self.held if len(h.task_ids) > 1 and (parcel := self._parcel(h))]
        idle_at = self.post.idle_at
        return [p.held for p in several if p.waiting and p.held.arrived < idle_at(p.model)]

    async def hand_on(self, older_than: float) -> None:
        """Hand on what arrived so many seconds ago and waits for others of its message."""
        limit = time.monotonic() - older_than
        for held in self.behind:
            if held.arrived < limit:
                await self._withdraw(held)

    def _parcel(self, held: Held) -> GuestParcel | None:
        """What is left of a message with subtasks."""
        found = (self.parcels.get(task_id) for task_id in held.task_ids)
        return next((parcel for parcel in found if parcel and parcel.held is held), None)

    async def _withdraw(self, held: Held) -> bool:
        parcel = self._parcel(held)
        if parcel is None and held.message.properties.type == wire.SUBTASKS:
            return False  # all of them are another message's by now
        # What is no more in this message may have come again in another one.
        here = held.task_ids if parcel is None else parcel.running()
        withdrawn = [task_id for task_id in here if await self.node.withdraw(task_id)]
        if not withdrawn:
            return False
        if parcel is None:
            self._give_back(held)
        else:
            for task_id in withdrawn:
                parcel.leave(task_id)
        return True
