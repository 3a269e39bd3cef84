"""The base class of external loggers, where `ayeaye-fossa` 0.0.37 has it."""

from abc import ABC, abstractmethod


class AbstractExternalLogger(ABC):
    """What may be in EXTERNAL_LOGGERS. Any object with such a `write` may be, too."""

    @abstractmethod
    def write(self, msg: str, level: str = "INFO") -> bool:
        """Take one line of the node's log.

        Args:
            msg: the line, without a date; with the traceback where there is one.
            level: DEBUG, INFO, WARNING, ERROR or CRITICAL.

        Returns:
            Whether it was taken: where that is False, the node says so once.
        """
