"""Settles deliveries, and keeps them for this node until then."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from fossa.deadlines import Deadline
from fossa.errors import LeaseOver
from fossa.tasks import Delivery, Lease, Outcome

#: Seconds that a source may take to settle a delivery, or to give it back.
SETTLE_DEADLINE = 10.0


class Deliveries:
    """A node's deliveries that have a lease, and how each is settled."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._deadline = Deadline(SETTLE_DEADLINE)
        self._leases: dict[Delivery, asyncio.Task[None]] = {}

    def keep(self, delivery: Delivery, over: Callable[[str], None]) -> None:
        """Renew its lease, if it has one, until it is settled; `over` is told why that ended."""
        if delivery.lease is not None and delivery not in self._leases:
            self._leases[delivery] = asyncio.create_task(self._renew(delivery.lease, over))

    async def _renew(self, lease: Lease, over: Callable[[str], None]) -> None:
        while True:
            await asyncio.sleep(lease.every)
            try:
                async with asyncio.timeout(max(lease.every, SETTLE_DEADLINE)):
                    await lease.renew()
            except LeaseOver as error:
                over(str(error))
                return
            except Exception:
                self._logger.exception("a delivery could not be kept; it is tried again")

    def let_go(self, delivery: Delivery | None) -> None:
        """Renew its lease no more."""
        renewing = self._leases.pop(delivery, None) if delivery is not None else None
        if renewing is not None:
            renewing.cancel()

    async def acknowledge(self, task_id: str, delivery: Delivery | None, outcome: Outcome) -> None:
        """Its task has ended, and whoever must know of it does."""
        if delivery is not None and delivery.ack is not None:
            await self._try(delivery.ack(outcome), task_id, "its delivery could not be settled")
        self.let_go(delivery)

    async def give_back(self, task_id: str, delivery: Delivery | None) -> None:
        """Somebody else should take it."""
        self.let_go(delivery)
        if delivery is not None and delivery.give_back is not None:
            await self._try(delivery.give_back(), task_id, "it could not be given back")

    async def reject(
        self, task_id: str, delivery: Delivery | None, outcome: Outcome, why: str
    ) -> bool:
        """A required sink would not take its outcome; whether that is the source's concern now."""
        if delivery is None:
            return False
        if delivery.reject is not None:
            work = delivery.reject(outcome, why)
            await self._try(work, task_id, "its delivery could not be rejected")
            self.let_go(delivery)
        elif delivery.redelivers:
            await self.give_back(task_id, delivery)
        else:
            return False
        return True

    async def _try(self, work: Awaitable[None], task_id: str, failed: str) -> None:
        try:
            await self._deadline.keep(work)
        except Exception:
            self._logger.exception("task %s: %s", task_id, failed)

    async def close(self) -> None:
        """Keep nothing any more."""
        renewing = list(self._leases.values())
        self._leases.clear()
        for task in renewing:
            task.cancel()
        if renewing:
            await asyncio.wait(renewing, timeout=5)
