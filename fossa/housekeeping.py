"""What a node does now and then: forget the tasks that it need not remember."""

import asyncio
import logging
import sqlite3

from fossa.composition import Composition
from fossa.errors import FossaError
from fossa.ledger import PRUNE_BATCH, Ledger

#: Seconds between two looks at the ledger's retention.
INTERVAL = 30.0
#: Seconds between two batches, so that a long clean-up leaves the ledger to the tasks.
PAUSE = 0.2


async def housekeep(ledger: Ledger, composition: Composition, logger: logging.Logger) -> None:
    """Keep the ledger within RETAIN_TASKS and RETAIN_DAYS, until cancelled."""
    days = composition.RETAIN_DAYS
    max_age = None if days is None else days * 86_400
    while True:
        await asyncio.sleep(INTERVAL)
        try:
            while await ledger.prune(composition.RETAIN_TASKS, max_age) == PRUNE_BATCH:
                await asyncio.sleep(PAUSE)
        except (FossaError, sqlite3.Error):
            logger.exception("the ledger could not be pruned")
