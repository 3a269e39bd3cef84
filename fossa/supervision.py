"""Keeps sources running."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fossa.errors import FossaError
from fossa.guarding import Guard

if TYPE_CHECKING:
    from fossa.contracts import Node, Source

#: Seconds before a source that failed is run again: the first time, and at the most.
FIRST_DELAY, MAX_DELAY = 0.5, 30.0


class Supervisor:
    """Runs one source until cancelled; one that fails or returns is run again after a while."""

    def __init__(
        self,
        source: "Source",
        node: "Node",
        guard: Guard,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._source, self._node, self._guard = source, node, guard
        self._now, self._sleep = now, sleep
        self._logger: logging.Logger = guard.logger
        #: Why it does not run; empty where it does.
        self.trouble = ""

    async def run(self) -> None:
        delay = FIRST_DELAY
        while True:
            began = self._now()
            self.trouble = await self._run_once(delay)
            if self._now() - began > MAX_DELAY:
                delay = FIRST_DELAY
            await self._sleep(delay * random.uniform(0.5, 1.0))
            self.trouble = ""
            delay = min(MAX_DELAY, delay * 2)

    async def _run_once(self, delay: float) -> str:
        """Returns how it ended."""
        name = self._source.name
        try:
            await self._guard.call(self._source, "run", self._node, within=None)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            self._logger.error(
                "source %s failed; it is run again in %.1f s: %s", name, delay, said,
                exc_info=None if isinstance(error, FossaError) else error,
            )  # fmt: skip
            return f"{name}: its run() failed and is run again: {said}"
        self._logger.warning("source %s returned; it is run again in %.1f s", name, delay)
        return f"{name}: its run() returned and is run again"
