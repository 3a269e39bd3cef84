"""When a node receives, and how many messages: a slot first, ahead only what takes milliseconds."""

import asyncio
import contextlib
from typing import Any

from fossa import FossaError, Node, Reservation
from fossa_sqs.client import Sqs, SqsRefused, SqsTrouble, pause
from fossa_sqs.guests import Guests
from fossa_sqs.message import SYSTEM, Held
from fossa_sqs.options import Options
from fossa_sqs.pace import Pace
from fossa_sqs.queue import Queue

#: Messages of one receive, at the most: SQS's own limit.
MOST = 10
#: Seconds that a receive under way is awaited when the node stops: it may have messages.
LAST_CALL = 0.25
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
            await asyncio.gather(watching, return_exceptions=True)

    # one message for one slot

    async def _fetch(self) -> None:
        reservation = await self._node.reserve()
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
        """Wait for messages while a slot is free: none is kept meanwhile."""
        polling = asyncio.create_task(self._receive(1, self._options.poll))
        busy = asyncio.create_task(self._node.slot_free(False))
        try:
            await asyncio.wait([polling, busy], return_when=asyncio.FIRST_COMPLETED)
        finally:
            busy.cancel()
            found = await self._last_call(polling)
        for held in found:
            await self._begin(held)

    async def _last_call(self, polling: "asyncio.Task[list[Held]]") -> list[Held]:
        """What a receive has to give, or nothing where it has not answered in a moment."""
        try:
            async with asyncio.timeout(0 if polling.done() else LAST_CALL):
                return await asyncio.shield(polling)
        except TimeoutError:
            if polling.done() and not polling.cancelled():
                return polling.result()
            polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await polling
            return []
        except asyncio.CancelledError:
            self._guests.do(self._return(polling))
            raise

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
            self._settled.clear()
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
        self._pace.learn(held.begun)

    def _refused(self, error: FossaError) -> None:
        self._pace.forget()
        self._settled.set()

    # receiving

    async def _receive(self, most: int, wait: int) -> list[Held]:
        """Messages, or none; where SQS is in trouble, none after a pause. Cancelled, none is lost."""
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
