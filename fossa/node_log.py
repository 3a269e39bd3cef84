"""The node's own log: a logger of its own, so that two nodes in a process do not mix."""

import asyncio
import logging
import queue
import threading
from typing import Any

from fossa.composition import Composition

#: Lines that wait for one external logger, at the most; what comes then is not given to it.
MAX_WAITING = 1000
#: Seconds that an external logger has for what waits when the node stops.
CLOSE_DEADLINE = 5.0


class NodeLog:
    """A logger below `fossa.node`, and the external loggers of the config attached to it.

    Nothing is configured but this one logger: where its lines go is the host's business.
    """

    def __init__(self, node_id: str, composition: Composition) -> None:
        self.logger = logging.getLogger(f"fossa.node.{node_id}")
        self._handlers = [_External(e) for e in composition.EXTERNAL_LOGGERS]
        if self._handlers:
            self.logger.setLevel(logging.INFO)
        for handler in self._handlers:
            self.logger.addHandler(handler)

    async def close(self) -> None:
        """Let the external loggers write what waits, within a deadline."""
        for handler in self._handlers:
            self.logger.removeHandler(handler)
        logging.Logger.manager.loggerDict.pop(self.logger.name, None)
        await asyncio.gather(*(handler.finish() for handler in self._handlers))


class _External(logging.Handler):
    """Hands lines to an object with `write(msg, level)`, in a thread: many talk to a network.

    What it raises hurts nobody. That it fails, or is too slow, is told once on `fossa.external`,
    until it works again.
    """

    def __init__(self, external: Any) -> None:
        super().__init__()
        self._external = external
        self._name = type(external).__name__
        self._waiting: queue.Queue[tuple[str, str] | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._failing = ""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._waiting.put_nowait((self.format(record), record.levelname))
        except queue.Full:
            self._failed("it is too slow: it does not get every line")
        except Exception:
            self.handleError(record)
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._work, name=f"fossa-log-{self._name}", daemon=True
            )
            self._thread.start()

    def _work(self) -> None:
        while (line := self._waiting.get()) is not None:
            self._write(*line)

    def _write(self, message: str, level: str) -> None:
        try:
            # By keyword, as `ayeaye-fossa` 0.0.37 does. It takes False for "could not be written".
            written = self._external.write(msg=message, level=level)
        except Exception as error:
            self._failed(f"write() raised {type(error).__name__}: {error}")
        else:
            if written is False:
                self._failed("write() returned False")
            else:
                self._failing = ""

    def _failed(self, why: str) -> None:
        if not self._failing:
            text = "the external logger %s does not take the node's log: %s"
            logging.getLogger("fossa.external").warning(text, self._name, why)
        self._failing = why

    async def finish(self) -> None:
        if self._thread is None:
            return
        if await asyncio.to_thread(self._joined, self._thread):
            self._thread = None
        else:
            self._failed(f"it did not write what waited within {CLOSE_DEADLINE:g} s")
        self.close()

    def _joined(self, thread: threading.Thread) -> bool:
        try:
            self._waiting.put(None, timeout=CLOSE_DEADLINE)
        except queue.Full:
            return False
        thread.join(CLOSE_DEADLINE)
        return not thread.is_alive()
