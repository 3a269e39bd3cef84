"""Everything that a model writes becomes log lines: its own log, print, logging, warnings."""

import io
import logging
import os
import sys
import time
import warnings
from typing import Any

from fossa.texts import encodable
from fossa.worker.channel import Channel
from fossa.worker.messages import Boot, Log
from fossa.worker.redaction import Redaction

#: A longer line is cut; bytes.
MAX_LINE = 8192
#: Where ayeaye's formatted log message has its level: "2026-11-23 20:00:00 INFO      text".
_LEVEL, _TEXT = slice(20, 30), slice(30, None)


class Capture:
    """Sends the lines of the attempt that runs now, no more than its share of them."""

    def __init__(self, channel: Channel, boot: Boot, redact: Redaction) -> None:
        self._channel = channel
        self._redact = redact
        self._max_lines = boot.max_log_lines
        self._max_bytes = boot.max_log_bytes
        self._number: int | None = None
        self._lines = self._bytes = self._dropped = 0

    def install(self) -> None:
        """Take over this process's standard streams, root logger and warnings."""
        sys.stdout = _Stream(self, "stdout", "INFO")
        sys.stderr = _Stream(self, "stderr", "WARNING")
        root = logging.getLogger()
        root.handlers[:] = [_Handler(self)]
        if root.level in (logging.NOTSET, logging.WARNING):
            root.setLevel(logging.INFO)
        warnings.showwarning = self._showwarning  # type: ignore[assignment]

    def begin(self, number: int) -> None:
        """An attempt begins: its share is whole."""
        self._number = number
        self._lines = self._bytes = self._dropped = 0

    def end(self) -> None:
        """An attempt is over: send what is unfinished, and say what was dropped."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _Stream):
                stream.finish()
        if self._dropped and self._number is not None:
            text = f"{self._dropped} more lines were dropped: MAX_LOG_LINES or MAX_LOG_BYTES"
            self._channel.send(Log(self._number, time.time(), "WARNING", "node", text))
        self._number = None

    def line(self, level: str, stream: str, text: str) -> None:
        """Send one line of the attempt that runs now; between attempts it goes nowhere."""
        number = self._number
        if number is None:
            return
        self._lines += 1
        self._bytes += len(text)
        if self._lines > self._max_lines or self._bytes > self._max_bytes:
            self._dropped += 1
            return
        text = self._redact(text)
        if len(text) > MAX_LINE:
            text = text[:MAX_LINE] + "…"
        self._channel.send(Log(number, time.time(), level, stream, encodable(text)))

    def write(self, msg: str) -> None:
        """Ayeaye's external logger: takes a message that `Model.log` has formatted."""
        level = msg[_LEVEL].strip()
        text = msg[_TEXT] if level else msg
        for line in text.splitlines() or [""]:
            self.line(level or "INFO", "model", line)

    def _showwarning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        *_: Any,
    ) -> None:
        text = f"{category.__name__}: {message} ({os.path.basename(filename)}:{lineno})"
        self.line("WARNING", "warnings", text)


class _Stream(io.TextIOBase):
    """A text stream that makes a log line of each line written to it."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, capture: Capture, name: str, level: str) -> None:
        self._capture = capture
        self._name = name
        self._level = level
        self._rest = ""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1 if self._name == "stdout" else 2

    @property
    def buffer(self) -> Any:
        """The process's own stream, for what writes bytes: the node reads that too."""
        return (sys.__stdout__ if self._name == "stdout" else sys.__stderr__).buffer  # type: ignore[union-attr]

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._capture.line(self._level, self._name, line)
        if len(self._rest) > MAX_LINE:
            self.finish()
        return len(text)

    def finish(self) -> None:
        """Send a last line that has no line end."""
        if self._rest:
            rest, self._rest = self._rest, ""
            self._capture.line(self._level, self._name, rest)


class _Handler(logging.Handler):
    """The root logger's handler."""

    def __init__(self, capture: Capture) -> None:
        super().__init__()
        self._capture = capture

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = f"{record.name}: {self.format(record)}"
        except Exception as error:
            text = f"{record.name}: a log record that cannot be formatted: {error!r}"
        for line in text.splitlines():
            self._capture.line(record.levelname, "logging", line)
