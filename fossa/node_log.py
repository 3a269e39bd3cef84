"""The node's own log: a logger of its own, so that two nodes in a process do not mix."""

import logging
from typing import Any

from fossa.composition import Composition


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

    def close(self) -> None:
        for handler in self._handlers:
            self.logger.removeHandler(handler)
        logging.Logger.manager.loggerDict.pop(self.logger.name, None)


class _External(logging.Handler):
    """Hands lines to an object with `write(msg, level)`; what it raises hurts nobody."""

    def __init__(self, external: Any) -> None:
        super().__init__()
        self._external = external

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._external.write(msg=self.format(record), level=record.levelname)
        except Exception:
            self.handleError(record)
