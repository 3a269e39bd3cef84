"""When a node receives, and how many messages: a slot first, ahead only what takes milliseconds."""

import asyncio
import contextlib
from typing import Any

from fossa import FossaError, Node, Reservation
from fossa_sqs.client import Sqs, SqsRefused, SqsTrouble, pause
from fossa_sqs.guests import SETTLING, Guests
from fossa_sqs.message import SYSTEM, Held
from fossa_sqs.options import Options
from fossa_sqs.pace import Pace
from fossa_sqs.queue import Queue

#: Messages of one receive, at the most: SQS's own limit.
MOST = 10
#: Seconds that a receive under way is awaited when the node stops: it may have messages. No more,
#: for a node that stops waits so long, at the most, for what is being settled.
LAST_CALL = SETTLING - 1
#: Seconds after which what has not begun goes back, and how often that is looked for.
STALE, WATCH_INTERVAL = 0.5, 0.1


class Intake:
    """Receives from one queue until it is cancelled."""

    def __init__(
        self, node: Node, sqs: Sqs, queue: Queue, options: Options, guests: Guests
    ) -> None:
        self._node, self._sqs, self._queue, self._options = node, sqs, queue, options
        self._guests = guests
        self._pace = Pace(slots=node.composition.slots)
        self._failures = 0
        self._settled = asyncio.Event()
        self._polling: asyncio.Task[None] | None = None
        guests.on_settled = self._learn
        guests.on_refused = self._refused
        #: Why nothing can be received now; None: it can.
        self.trouble: str | None = None

    async def run(self) -> None:
        watching = asyncio.create_task(self._watch())
        try:
            while True:
                if self._pace.short and not self._queue.fifo:
                    await self._stream()
                else:
                    await self._fetch()
        finally:
            watching.cancel()
            if self._polling is not None:
                self._polling.cancel()  # what it still brings goes back
            await asyncio.gather(watching, return_exceptions=True)

    # one message for one slot

    async def _fetch(self) -> None:
        reservation = await self._node.reserve()
        self._settled.clear()
        try:
            found = await self._receive(1, 0)
            if found:
                self._guests.take(found[0], reservation)
                return
        except BaseException:
            reservation.release()
            raise
        reservation.release()
        await self._listen()

    async def _listen(self) -> None:
        """Wait for messages while a slot is free; none is kept meanwhile.

        A receive that SQS has begun is seen through: whoever hangs up may lose what it was about to
        bring, for as long as that is hidden. So it goes on while the node is busy, or looks again
        because something was settled (a FIFO queue has the next of that group now).
        """
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        waits = [
            asyncio.create_task(self._node.slot_free(False)),
            asyncio.create_task(self._settled.wait()),
        ]
        try:
            await asyncio.wait([self._polling, *waits], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _poll(self) -> None:
        for held in await self._receive(1, self._options.poll):
            await self._begin(held)

    async def _return(self, polling: "asyncio.Task[list[Held]]") -> None:
        """Nobody takes what this receive brings: it goes back at once."""
        await asyncio.wait([polling], timeout=LAST_CALL)
        polling.cancel()
        with contextlib.suppress(asyncio.CancelledError, FossaError):
            for held in await polling:
                await self._guests.give_back(held)

    async def _begin(self, held: Held) -> None:
        reservation = self._node.reserve_now()
        if reservation is None:
            await self._guests.give_back(held)
        else:
            self._guests.take(held, reservation)

    # many short ones

    async def _stream(self) -> None:
        """Keep some milliseconds of work here, where each message takes few of them."""
        if len(self._guests.held) > self._pace.ahead // 2:
            self._settled.clear()
            await self._settled.wait()
            return
        reservation: Reservation | None = None
        if not self._guests.held:
            reservation = await self._node.reserve()
        self._settled.clear()
        try:
            found = await self._receive(MOST, 0)
        finally:
            if reservation is not None:
                reservation.release()
        for held in found:
            self._guests.take(held, self._node.reserve_now())
        if not found and not self._guests.held:
            await self._listen()
        elif not found:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await self._settled.wait()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            try:
                if await self._guests.give_back_stale(STALE):
                    self._pace.forget()
                    self._settled.set()
            except FossaError as error:
                self._node.logger.info("nothing goes back to %s: %s", self._queue.name, error)

    def _learn(self, held: Held) -> None:
        self._settled.set()
        self._pace.learn(held.took)

    def _refused(self, error: FossaError) -> None:
        self._pace.forget()
        self._settled.set()

    # receiving

    async def _receive(self, most: int, wait: int) -> list[Held]:
        """Messages, or none; none after a pause where SQS is in trouble. Cancelled: loses none."""
        polling = asyncio.create_task(self._ask(most, wait))
        try:
            found = await asyncio.shield(polling)
        except asyncio.CancelledError:
            self._guests.do(self._return(polling))
            raise
        except (SqsTrouble, SqsRefused) as error:
            await self._trouble(error)
            return []
        if self.trouble is not None:
            self._node.logger.info("messages come again from %s", self._queue.name)
        self._failures, self.trouble = 0, None
        return found

    async def _ask(self, most: int, wait: int) -> list[Held]:
        answer: Any = await self._sqs.call(
            "receive_message",
            wait=wait,
            QueueUrl=self._queue.url,
            MaxNumberOfMessages=most,
            WaitTimeSeconds=wait,
            VisibilityTimeout=self._options.visibility_timeout,
            MessageSystemAttributeNames=list(SYSTEM),
            MessageAttributeNames=["All"],
        )
        return [Held(raw) for raw in answer.get("Messages") or ()]

    async def _trouble(self, error: FossaError) -> None:
        if self.trouble is None:
            self._node.logger.warning("no messages from %s: %s", self._queue.name, error)
        self.trouble = f"no messages from {self._queue.name}: {error}"
        self._failures += 1
        await asyncio.sleep(pause(self._failures - 1))
