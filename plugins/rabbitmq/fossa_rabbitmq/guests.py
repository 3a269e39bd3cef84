"""Tasks that came over RabbitMQ: admitted, watched, answered, settled."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from attrs import define, field

from fossa import (
    Delivery,
    FossaError,
    LogLine,
    NodeStopped,
    NodeStopping,
    NotAccepted,
    Outcome,
    QueueFull,
    Reason,
    Request,
    Reservation,
    Status,
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
    ChannelClosed,
    Message,
    Nacked,
    TooLarge,
    Unroutable,
)
from fossa_rabbitmq.post import Post
from fossa_rabbitmq.reports import Reports
from fossa_rabbitmq.wire import BadMessage

#: Seconds for which outcomes of subtasks that came together wait for each other.
GATHER = 0.005
#: Bytes of outcomes that go into one message, roughly.
LETTER_BYTES = 256 * 1024
#: Cancelled subtasks that are remembered, should their message still come.
REMEMBERED = 10_000
#: Seconds after which a subtask is dropped whose parent's node nobody has heard of.
ORPHAN_AFTER = 30.0

Settling = Coroutine[Any, Any, None]


@define(eq=False)
class Held:
    """One message from its delivery until it is settled, with the tasks that are in it."""

    message: Message
    #: Told for how many seconds in all its tasks ran.
    learn: Callable[[float], None]
    arrived: float = field(factory=time.monotonic)
    #: When the first attempt of it began.
    begun: float | None = None
    #: Seconds for which its attempts ran, in all.
    ran: float = 0.0
    task_ids: list[str] = field(factory=list)
    #: It is settled, or the broker has it again.
    over: bool = False

    @property
    def again(self) -> bool:
        headers = self.message.properties.headers or {}
        return self.message.redelivered or bool(headers.get(wire.AGAIN_HEADER))

    def began(self) -> None:
        if self.begun is None:
            self.begun = time.monotonic()

    def ended(self, outcome: Outcome) -> None:
        """One of its tasks has ended."""
        if outcome.started is not None:
            self.ran += max(0.0, outcome.finished - outcome.started)

    def ack(self) -> None:
        """Settle it. Where its channel has gone the broker delivers it again, to be answered."""
        if self.over:
            return
        self.over = True
        if self.begun is not None:
            self.learn(self.ran)
        self._settle(self.message.channel.ack, self.message.delivery_tag)

    def give_back(self) -> None:
        if not self.over:
            self.over = True
            self._settle(self.message.channel.nack, self.message.delivery_tag)

    def _settle(self, act: Callable[[int], None], tag: int) -> None:
        try:
            act(tag)
        except ChannelClosed:
            return


class Guests:
    """What this node holds of the broker's, and how it answers."""

    def __init__(self, post: Post, source: str) -> None:
        self._post = post
        self._node = post.node
        self._source = source
        self._limit: int = post.options.max_message_bytes
        #: Called with why the node took a message not.
        self.on_refused: Callable[[FossaError], None] = lambda error: None
        self.held: set[Held] = set()
        self._parcels: dict[str, _Parcel] = {}
        #: By id of a whole task: the messages that ask for it, and what settles each.
        self._twins: dict[str, dict[Held, Callable[[Outcome], Settling]]] = {}
        self._cancelled: dict[str, None] = {}
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
        self.do(self._take(held, reservation))

    def do(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Work that is awaited before the connections are closed."""
        task = asyncio.create_task(work)
        self._at_work.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._at_work.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._node.logger.error("a message could not be dealt with", exc_info=error)

    async def _take(self, held: Held, reservation: Reservation | None) -> None:
        message = held.message
        try:
            await self._read(held, reservation)
        except BadMessage as error:
            await self.bury(held, error.reason, str(error))
        except FossaError as error:
            self.on_refused(error)
            self._node.logger.info("a message goes back to %s: %s", message.queue, error)
            held.give_back()
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
        await self._insist(message, lambda: self._post.bury(message, reason, detail))

    def let_go(self, held: Held) -> None:
        held.ack()
        self.held.discard(held)

    # whole tasks

    async def _take_task(self, held: Held, reservation: Reservation | None) -> None:
        message = held.message
        kind = message.properties.type
        if kind not in (None, "", wire.TASK):
            raise BadMessage("bad_message", f"the property type is {kind!r:.50}: not fossa.task")
        limit = self._limit
        request, wants_reply = wire.read_task(message.body, message.properties, limit)

        def settle(outcome: Outcome) -> Settling:
            return self._settle_task(held, outcome, wants_reply)

        await self._admit(held, request, reservation, settle, TaskWatch(held))

    async def _admit(
        self,
        held: Held,
        request: Request,
        reservation: Reservation | None,
        settle: Callable[[Outcome], Settling],
        watch: Watch,
    ) -> None:
        """Have the node run the one task of a message, and then settle that."""
        held.task_ids = []

        async def ack(outcome: Outcome) -> None:
            twins = self._twins.pop(held.task_ids[0], {held: settle})
            work = [self.do(settle(outcome)) for settle in twins.values()]
            await asyncio.shield(asyncio.gather(*work))

        async def give_back() -> None:
            self._give_back(held)

        delivery = Delivery(
            request=request,
            source=self._source,
            redelivers=True,
            again=True,
            watch=watch,
            ack=ack,
            give_back=give_back,
        )
        try:
            task, _ = await self._node.admit(delivery, reservation)
        except (NodeStopping, NodeStopped, QueueFull):
            raise
        except NotAccepted as error:
            await self._not_accepted(held, request.model, str(error))
        except TaskRefused as error:
            await self.bury(held, "refused", str(error))
        else:
            held.task_ids = [task.id]
            self._twins.setdefault(task.id, {})[held] = settle

    def _give_back(self, held: Held) -> None:
        """The broker may have a whole task again, and every other message of the same task."""
        task_id = held.task_ids[0] if held.task_ids else ""
        for one in {held, *self._twins.pop(task_id, ())}:
            one.give_back()
            self.held.discard(one)

    async def _settle_task(self, held: Held, outcome: Outcome, wants_reply: bool) -> None:
        """The outcome is recorded: tell the sender, then the broker."""
        held.ended(outcome)
        if wants_reply:
            task_id = held.task_ids[0] if held.task_ids else None
            await self.reply(held.message, task_id, wire.outcome(outcome))
        if held.message.channel.closed.done():
            return
        if outcome.reason.crash:
            detail = f"{outcome.reason} {outcome.attempt} times: {outcome.message}"
            await self._bury(held.message, "crashed", detail)
        self.let_go(held)

    async def reply(
        self, message: Message, task_id: str | None, outcome: wire.OutcomeDocument
    ) -> None:
        """Tell the sender of a message, where it says how."""
        queue = message.properties.reply_to
        if not queue:
            return
        content = wire.TaskOutcome(task_id=task_id, node=self._post.me, outcome=outcome)
        letter = wire.letter(
            wire.OUTCOME,
            content,
            message_id=new_id(),
            correlation_id=message.properties.correlation_id,
        )
        try:
            await self.send(letter, queue, message)
        except Unroutable:
            self._node.logger.warning("nobody waits for a reply at %s any more", queue)
        except TooLarge as error:
            await self.reply(message, task_id, too_large(outcome, str(error)))

    async def send(self, letter: wire.Letter, queue: str, message: Message) -> None:
        """Send an answer to a message, for as long as that is held.

        Where it is not any more, whoever has it next answers from the ledger.
        """
        await self._insist(message, lambda: self._post.send(letter, queue))

    async def _insist(self, message: Message, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do what needs the broker, however often it goes away, while a message is held."""
        while not message.channel.closed.done():
            try:
                await act()
                return
            except (BrokerGone, Nacked):
                await asyncio.sleep(0.1)
                await self._post.giving.up()

    async def _not_accepted(self, held: Held, model: object, text: str) -> None:
        """A model for another node: it goes where only nodes look that accept it."""
        if await self._elsewhere(model):
            message = held.message
            letter = wire.Letter(message.body, message.properties)
            await self._post.park(letter, str(model))
            self.let_go(held)
        else:
            await self.bury(held, "not_accepted", f"{text}; nor does another node here")

    async def _elsewhere(self, model: object) -> bool:
        """Whether another node accepts a model that is unknown here.

        What is known here and refused nevertheless (there is no such method) would be there too.
        """
        if not isinstance(model, str) or model in self._node.composition.models:
            return False
        await asyncio.sleep(self._post.fleet.settled)
        return self._post.fleet.slots(model) > 0

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
        if content.node.id == self._node.id:
            if reservation is not None:
                reservation.release()
            if self._post.outbox is not None:
                self._post.outbox.come_home(ids)
            self.let_go(held)
        elif self._post.fleet.has_left(content.node.id):
            self._node.logger.info("%d subtasks of a node that has gone are dropped", len(ids))
            self.let_go(held)
        else:
            held.task_ids = ids
            await _Parcel(self, held, content).admit(reservation)

    def _cancel(self, cancel: wire.Cancel) -> None:
        for task_id in cancel.ids:
            self._cancelled[task_id] = None
            for here in self._ids_here(task_id):
                self.do(self._cancel_here(here, "its parent was cancelled"))
        while len(self._cancelled) > REMEMBERED:
            del self._cancelled[next(iter(self._cancelled))]

    def _ids_here(self, task_id: str) -> list[str]:
        """What this node calls the attempts that it has of a parent's subtask."""
        return [task_id] if task_id in self._parcels else []

    async def _cancel_here(self, task_id: str, why: str) -> None:
        try:
            await self._node.cancel(task_id, why)
        except (TooLate, UnknownTask):
            return

    def was_cancelled(self, task_id: str) -> bool:
        return task_id in self._cancelled

    def drop_orphans(self) -> None:
        """Stop subtasks whose parent's node is gone: nobody waits for them."""
        fleet = self._post.fleet
        if fleet.since is None:
            return
        for parcel in set(self._parcels.values()):
            if self._is_orphan(parcel.held, parcel.content.node.id, fleet.since):
                parcel.orphaned = True
                for task_id in parcel.running():
                    self.do(self._cancel_here(task_id, "the node of its parent is gone"))

    def _is_orphan(self, held: Held, node_id: str, since: float) -> bool:
        """Whether the node of a message's parent has gone, listening `since` a while ago."""
        fleet, long_ago = self._post.fleet, time.monotonic() - ORPHAN_AFTER
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

    async def _withdraw(self, held: Held) -> bool:
        parcel = next((p for i in held.task_ids if (p := self._parcels.get(i))), None)
        if parcel is not None and parcel.settled:
            return False
        withdrawn = [task_id for task_id in held.task_ids if await self._node.withdraw(task_id)]
        if not withdrawn:
            return False
        if parcel is None:
            self._give_back(held)
        else:
            for task_id in withdrawn:
                parcel.leave(task_id)
        return True


class TaskWatch(Watch):
    """Sees a whole task begin. Its sender is not told of more than the outcome."""

    __slots__ = ("_held",)

    def __init__(self, held: Held) -> None:
        self._held = held

    def begun(self, attempt: int) -> None:
        self._held.began()

    def log(self, lines: Sequence[LogLine]) -> None:
        pass

    def progress(self, fraction: float | None, message: str) -> None:
        pass


class _Parcel:
    """The subtasks of one message, and their outcomes on the way back."""

    def __init__(self, guests: Guests, held: Held, content: wire.Subtasks) -> None:
        self._guests = guests
        self._post = guests._post
        self.held = held
        self.content = content
        #: Its parent's node is gone: nobody is told of outcomes.
        self.orphaned = False
        self.settled = 0
        self._waiting: dict[str, wire.Subtask] = {s.id: s for s in content.subtasks}
        self._left: list[wire.Subtask] = []
        self._ready: list[tuple[wire.SubtaskOutcome, asyncio.Future[None]]] = []
        self._flush: asyncio.TimerHandle | None = None

    def running(self) -> list[str]:
        return list(self._waiting)

    async def admit(self, reservation: Reservation | None) -> None:
        for subtask in self.content.subtasks:
            self._guests._parcels[subtask.id] = self
        first, *others = self.content.subtasks
        await asyncio.gather(
            self._admit(first, reservation), *(self._admit(s, None) for s in others)
        )

    async def _admit(self, subtask: wire.Subtask, reservation: Reservation | None) -> None:
        if self._guests.was_cancelled(subtask.id):
            gone = wire.OutcomeDocument(Status.CANCELLED, Reason.CANCELLED, "cancelled")
            self.answer(subtask, gone)
            return
        try:
            delivery = self._delivery(subtask)
            await self._guests._node.admit(delivery, reservation)
        except NotAccepted as error:
            await self._not_accepted(subtask, str(error))
        except (NodeStopping, QueueFull) as error:
            self._guests.on_refused(error)
            self.leave(subtask.id)
        except (TaskRefused, BadMessage) as error:
            self.answer(subtask, wire.refusal(str(error)))
        except FossaError as error:
            self._guests._node.logger.info("subtask %s is handed on: %s", subtask.id, error)
            self.leave(subtask.id)

    def _delivery(self, subtask: wire.Subtask) -> Delivery:
        watch = self._guests.reports.watch(subtask.id, self.held)

        async def ack(outcome: Outcome) -> None:
            self.held.ended(outcome)
            lines = watch.lines_left()
            await self.answer(subtask, wire.outcome(outcome), lines)

        async def give_back() -> None:
            self.leave(subtask.id)

        return Delivery(
            request=wire.request_of(subtask),
            origin=wire.origin_of(subtask),
            source=self._guests._source,
            redelivers=True,
            again=self.held.again,
            watch=watch,
            ack=ack,
            give_back=give_back,
        )

    async def _not_accepted(self, subtask: wire.Subtask, text: str) -> None:
        if not await self._guests._elsewhere(subtask.model):
            self.answer(subtask, wire.refusal(f"{text}; nor does another node here"))
            return
        await self._post.park(self._letter([subtask]), subtask.model)
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
        """One of them is for another node."""
        subtask = self._waiting.get(task_id)
        if subtask is not None:
            self._left.append(subtask)
            self._gone(task_id)
            self._settle()

    def _gone(self, task_id: str) -> None:
        self._waiting.pop(task_id, None)
        self._guests._parcels.pop(task_id, None)
        self._guests.reports.end(task_id)

    def answer(
        self,
        subtask: wire.Subtask,
        outcome: wire.OutcomeDocument,
        lines: Sequence[LogLine] = (),
    ) -> "asyncio.Future[None]":
        """Say how one has ended; done once the parent's node cannot miss it."""
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        item = wire.SubtaskOutcome(subtask.id, subtask.attempt, outcome, wire.lines(lines))
        self._ready.append((item, told))
        self.settled += 1
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
            self._guests.do(self._tell(ready))

    async def _tell(self, ready: "list[tuple[wire.SubtaskOutcome, asyncio.Future[None]]]") -> None:
        await self._send([item for item, _ in ready])
        for _, told in ready:
            if not told.done():
                told.set_result(None)
        self._settle()

    async def _send(self, items: list[wire.SubtaskOutcome]) -> None:
        if self.orphaned:
            return
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
        queue = self.held.message.properties.reply_to
        content = wire.Outcomes(self._post.me, items)
        letter = wire.letter(wire.OUTCOMES, content, message_id=new_id())
        try:
            await self._guests.send(letter, queue or "", self.held.message)
        except Unroutable:
            self.orphaned = True
        except TooLarge as error:
            if len(items) == 1:
                items[0].outcome, items[0].lines = too_large(items[0].outcome, str(error)), []
            for item in items:
                await self._send_part([item])

    def _settle(self) -> None:
        """Once nothing of the message is left here, the broker may forget it."""
        if self._waiting or self._ready or self.held.over:
            return
        if not self._left:
            self._guests.let_go(self.held)
        elif len(self._left) == len(self.content.subtasks):
            self.held.give_back()
            self._guests.held.discard(self.held)
        else:
            left, self._left = self._left, []
            self._guests.do(self._pass_on(left))

    async def _pass_on(self, left: list[wire.Subtask]) -> None:
        """Some have ended, some are for another node: these in a message of their own."""
        try:
            await self._post.send(self._letter(left), self.held.message.queue)
        except (BrokerGone, Nacked, Unroutable):
            self.held.give_back()
            self._guests.held.discard(self.held)
        else:
            self._guests.let_go(self.held)


def _size(item: wire.SubtaskOutcome) -> int:
    """Bytes that an outcome takes, roughly."""
    return len(bytes(item.outcome.result)) + sum(len(line.text) for line in item.lines) + 200


def too_large(outcome: wire.OutcomeDocument, text: str) -> wire.OutcomeDocument:
    """The outcome of a task whose result does not fit into a message."""
    return wire.OutcomeDocument(
        status=Status.FAILED,
        reason=Reason.RESULT_TOO_LARGE,
        message=text,
        attempt=outcome.attempt,
        started=outcome.started,
        finished=outcome.finished,
    )
