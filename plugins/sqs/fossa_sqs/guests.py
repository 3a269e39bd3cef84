"""Tasks that came over SQS: admitted, kept, answered, settled."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fossa import (
    DeliveredTooOften,
    Delivery,
    FossaError,
    Lease,
    LeaseOver,
    LogLine,
    Node,
    NodeStopped,
    NodeStopping,
    NotAccepted,
    Outcome,
    QueueFull,
    Request,
    Reservation,
    TaskRefused,
    Watch,
)
from fossa.taskdocuments import BadDocument, read_task_document
from fossa_sqs.batches import changes, deletes
from fossa_sqs.client import Sqs, SqsRefused, SqsTrouble, insist
from fossa_sqs.letters import attributes_of, size_of, text
from fossa_sqs.message import CORRELATION, KEY, REPLY_TO, Held
from fossa_sqs.options import Options
from fossa_sqs.queue import Queue
from fossa_sqs.replies import refusal, reply_body

#: Renewals of a message's visibility in the time that it lasts.
RENEWALS = 3
#: Times that a dead letter or a reply is tried.
TRIES = 8
#: Seconds that a node which stops waits for what is being settled, or received.
SETTLING = 8

Work = Coroutine[Any, Any, None]


class HeldWatch(Watch):
    """Notes when a message's attempt begins."""

    def __init__(self, held: Held) -> None:
        self._held = held

    def begun(self, attempt: int) -> None:
        if self._held.begun is None:
            self._held.begun = time.monotonic()

    def log(self, lines: Sequence[LogLine]) -> None:
        pass

    def progress(self, fraction: float | None, message: str) -> None:
        pass


class Guests:
    """What this node holds of a queue's, and how each is settled."""

    def __init__(self, node: Node, sqs: Sqs, queue: Queue, options: Options, source: str) -> None:
        self.node, self.sqs, self.queue, self.options = node, sqs, queue, options
        self.source = source
        self.held: set[Held] = set()
        #: Called with why the node took a message not.
        self.on_refused: Callable[[FossaError], None] = lambda error: None
        #: Called with a message that has been settled.
        self.on_settled: Callable[[Held], None] = lambda held: None
        self._deletes = deletes(sqs, queue.url)
        self._changes = changes(sqs, queue.url)
        self._twins: dict[str, set[Held]] = {}
        self._at_work: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait, for a while, for what is being settled."""
        if self._at_work:
            await asyncio.wait(self._at_work, timeout=SETTLING)
        await self._deletes.close()
        await self._changes.close()
        for task in self._at_work:
            task.cancel()

    def do(self, work: Work) -> "asyncio.Task[None]":
        """Work that is awaited before the client is closed."""
        task = asyncio.create_task(work)
        self._at_work.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._at_work.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.node.logger.error("a message of %s could not be settled: %s", self._name, error)

    @property
    def _name(self) -> str:
        return self.queue.name

    # taking

    def take(self, held: Held, reservation: Reservation | None) -> None:
        """Do with a message what it asks for."""
        self.held.add(held)
        self.do(self._take(held, reservation))

    async def _take(self, held: Held, reservation: Reservation | None) -> None:
        try:
            await self._admit(held, self._read(held), reservation)
        except BadDocument as error:
            await self.bury(held, error.reason, str(error))
        except NotAccepted as error:
            await self._not_accepted(held, str(error))
        except (NodeStopping, NodeStopped, QueueFull) as error:
            self.on_refused(error)
            await self.give_back(held)
        except DeliveredTooOften as error:
            await self.bury(held, "received_too_often", str(error))
        except TaskRefused as error:
            await self.bury(held, "refused", str(error))
        except FossaError as error:
            self.on_refused(error)
            self.node.logger.info("a message goes back to %s: %s", self._name, error)
            await self.give_back(held)
        except Exception as error:
            self.node.logger.exception("a message of %s could not be dealt with", self._name)
            await self.bury(held, "error", f"the node failed at it: {error!r}")
        finally:
            if reservation is not None:
                reservation.release()

    def _too_often(self, held: Held) -> str:
        """Why it is received no more, where that is so."""
        if held.receives <= self.options.max_receives:
            return ""
        return (
            f"it was received {held.receives} times and max_receives is "
            f"{self.options.max_receives}: it ends its nodes, or none of them accepts it"
        )

    def _read(self, held: Held) -> Request:
        reply_to = held.text(REPLY_TO)
        if reply_to is not None and reply_to not in self.options.reply_queues:
            raise BadDocument(
                "reply_to", f"reply_to is {reply_to!r:.200}: it is not among reply_queues"
            )
        key = held.text(KEY) or held.id
        request, reply = read_task_document(
            held.body, limit=self.options.max_message_bytes, key=key
        )
        held.wants_reply = reply
        return request

    async def _admit(self, held: Held, request: Request, reservation: Reservation | None) -> None:
        """Have the node run the one task of a message, and then settle that."""

        async def ack(outcome: Outcome) -> None:
            held.took = time.monotonic() - held.begun if held.begun is not None else None
            twins = self._twins.pop(held.task_id or "", set()) | {held}
            work = [self.do(self._settle(one, outcome)) for one in twins]
            await asyncio.shield(asyncio.gather(*work))

        async def give_back() -> None:
            twins = self._twins.pop(held.task_id or "", set()) | {held}
            await asyncio.shield(asyncio.gather(*(self.do(self.give_back(o)) for o in twins)))

        async def reject(outcome: Outcome, why: str) -> None:
            # Sent back by somebody, it is offered to the sinks again, and the model runs no more.
            await asyncio.shield(self.do(self._bury(held, "sink_refused", why)))
            await ack(outcome)

        delivery = Delivery(
            request=request,
            source=self.source,
            redelivers=True,
            again=held.receives > 1,
            last=self._too_often(held),
            watch=HeldWatch(held),
            ack=ack,
            give_back=give_back,
            reject=reject,
            lease=self._lease(held),
        )
        task, _ = await self.node.admit(delivery, reservation)
        held.task_id = task.id
        if not held.over:
            self._twins.setdefault(task.id, set()).add(held)

    def _lease(self, held: Held) -> Lease:
        return Lease(
            every=self.options.visibility_timeout / RENEWALS, renew=lambda: self._renew(held)
        )

    async def _renew(self, held: Held) -> None:
        seconds = min(self.options.visibility_timeout, held.seconds_left())
        if seconds <= self.options.visibility_timeout / RENEWALS:
            raise LeaseOver("SQS keeps a message for one receiver for no more than 12 hours")
        try:
            await self._changes.add(ReceiptHandle=held.handle, VisibilityTimeout=seconds)
        except SqsRefused as error:
            if not error.gone:
                raise
            raise LeaseOver(f"the message is not this node's any more: {error}") from None

    # settling

    def let_go(self, held: Held) -> None:
        held.over = True
        self.held.discard(held)
        twins = self._twins.get(held.task_id or "")
        if twins is not None:
            twins.discard(held)
            if not twins:
                del self._twins[held.task_id or ""]
        self.on_settled(held)

    async def _settle(self, held: Held, outcome: Outcome) -> None:
        """The outcome is recorded: tell the sender, then SQS."""
        await self._reply(held, held.task_id, outcome)
        if outcome.reason.crash:
            detail = f"{outcome.reason} {outcome.attempt} times: {outcome.message}"
            await self._bury(held, "crashed", detail)
        await self._delete(held)

    async def _delete(self, held: Held) -> None:
        """Where that fails the message comes again, and is answered from the ledger."""
        try:
            await self._deletes.add(ReceiptHandle=held.handle)
        except (SqsRefused, SqsTrouble) as error:
            self.node.logger.warning("message %s of %s comes again: %s", held.id, self._name, error)
        finally:
            self.let_go(held)

    async def give_back(self, held: Held, after: float = 0) -> None:
        """SQS may hand it to somebody else, in so many seconds."""
        if held.over:
            return
        try:
            await self._changes.add(ReceiptHandle=held.handle, VisibilityTimeout=int(after))
        except (SqsRefused, SqsTrouble) as error:
            self.node.logger.info("message %s of %s comes late: %s", held.id, self._name, error)
        finally:
            self.let_go(held)

    async def _not_accepted(self, held: Held, why: str) -> None:
        """A model for another node, or for none."""
        if self.options.not_accepted == "leave" and held.receives < self.options.max_receives:
            await self.give_back(held, self.options.leave_pause)
        else:
            await self.bury(held, "not_accepted", why)

    async def bury(self, held: Held, reason: str, detail: str) -> None:
        """To the dead letters with it; and its sender, if there is one, is told."""
        await self._bury(held, reason, detail)
        await self._reply(held, None, refusal(detail))
        await self._delete(held)

    async def _bury(self, held: Held, reason: str, detail: str) -> None:
        self.node.logger.warning(
            "message %s of %s is a dead letter: %s: %s", held.id, self._name, reason, detail
        )
        url = self.queue.dead_url
        if url is None:
            self.node.logger.error("message %s of %s is deleted: %s", held.id, self._name, detail)
            return
        attributes = attributes_of(held, reason, detail, self._name, self.node.name)
        body = str(held.raw.get("Body", "")) or " "
        if size_of(body, attributes) > self.queue.limit:
            attributes = {name: v for name, v in attributes.items() if name.startswith("fossa-")}
        # A letter that is there twice is better than none: the message goes after it.
        await self.send(url, body, attributes, self.queue.fifo, held.group, f"dead-{held.id}")

    async def _reply(self, held: Held, task_id: str | None, outcome: Outcome) -> None:
        """Tell the sender of a message, where it says how, and where that is allowed."""
        url = held.text(REPLY_TO)
        if url is None or not held.wants_reply or url not in self.options.reply_queues:
            return
        body = reply_body(self.node, task_id, outcome, self.queue.limit)
        attributes = {CORRELATION: text(held.text(CORRELATION) or held.text(KEY) or held.id)}
        try:
            fifo = url.endswith(".fifo")
            await self.send(url, body, attributes, fifo, "fossa", f"reply-{held.id}")
        except (SqsTrouble, SqsRefused) as error:
            self.node.logger.warning("the sender of %s gets no reply: %s", held.id, error)

    async def send(
        self,
        url: str,
        body: str,
        attributes: dict[str, Any],
        fifo: bool,
        group: str | None,
        once: str,
    ) -> None:
        """Send a message. `group` and `once` (the deduplication id) are for FIFO queues."""
        more: dict[str, Any] = {}
        if fifo:
            more = {"MessageGroupId": group or "fossa", "MessageDeduplicationId": once}
        await insist(
            lambda: self.sqs.call(
                "send_message",
                QueueUrl=url,
                MessageBody=body,
                MessageAttributes=attributes,
                **more,
            ),
            TRIES,
        )

    # what waits here for too long

    async def give_back_stale(self, older_than: float) -> bool:
        """Hand back what arrived so many seconds ago and has not begun; whether there was any."""
        limit = time.monotonic() - older_than
        stale = [h for h in self.held if h.begun is None and h.arrived < limit and h.task_id]
        given = False
        for held in stale:
            if held.task_id and not held.over and await self.node.withdraw(held.task_id):
                given = True
                for one in self._twins.pop(held.task_id, set()) | {held}:
                    await self.give_back(one)
        return given
