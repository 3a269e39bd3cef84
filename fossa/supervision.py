"""Keeps sources running."""

import asyncio
import logging
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fossa.contracts import Node, Source

#: Seconds before a source that failed is run again: the first time, and at the most.
FIRST_DELAY, MAX_DELAY = 0.5, 30.0


async def supervise(source: "Source", node: "Node", logger: logging.Logger) -> None:
    """Run a source until cancelled; one that fails or returns is run again after a while."""
    delay = FIRST_DELAY
    while True:
        began = asyncio.get_running_loop().time()
        try:
            await source.run(node)
            logger.warning("source %s returned; it is run again", source.name)
        except Exception:
            logger.exception("source %s failed; it is run again in %.1f s", source.name, delay)
        if asyncio.get_running_loop().time() - began > MAX_DELAY:
            delay = FIRST_DELAY
        await asyncio.sleep(delay * random.uniform(0.5, 1.0))
        delay = min(MAX_DELAY, delay * 2)
