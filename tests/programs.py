"""Programs run as their users run them: in a process of their own, over their standard streams."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"
FOSSA = [sys.executable, "-m", "fossa"]
#: Seconds that anything at all may take.
DEADLINE = 60.0
UP = re.compile(r"is up at (http://\S+), process (\d+)")


def environment(tmp_path, **extra):
    """A user's environment: nothing of Fossa's but a port that is free and a state directory."""
    mine = {k: v for k, v in os.environ.items() if not k.startswith("FOSSA_")}
    state = {"FOSSA_STATE_DIR": str(tmp_path / "state"), "FOSSA_HTTP_PORT": "0"}
    return {**mine, **state, "PYTHONUNBUFFERED": "1", **extra}


class Program:
    """A running program. Every wait has a deadline."""

    def __init__(self, command, **options):
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )
        self.seen = []
        self._lines = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def line(self, pattern):
        """The match in the first line that has one, from where the last call left off."""
        end = time.monotonic() + DEADLINE
        while True:
            line = self._lines.get(timeout=max(0.01, end - time.monotonic()))
            assert line is not None, f"it ended without {pattern!r}:\n{self.text}"
            self.seen.append(line)
            if match := re.search(pattern, line):
                return match

    @property
    def text(self):
        return "".join(self.seen)

    def signal(self, number):
        self.process.send_signal(number)

    def end(self):
        """Its exit status, once it has ended; all that it wrote is then in `text`."""
        status = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        while (line := self._lines.get(timeout=DEADLINE)) is not None:
            self.seen.append(line)
        self._lines.put(None)
        return status

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        self.process.stdin.close()
        self.process.stdout.close()


@contextmanager
def program(command, **options):
    running = Program(command, **options)
    try:
        yield running
    finally:
        running.close()


@contextmanager
def node(command, **options):
    """A stand-alone node and the URL at which it answers."""
    with program(command, **options) as running:
        found = running.line(UP)
        assert int(found[2]) == running.process.pid
        yield running, found[1]


def stop(running):
    """Ask a program to stop; returns its exit status."""
    running.signal(signal.SIGTERM)
    return running.end()


def run(command, **options):
    """A program from its beginning to its end."""
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        **options,
    )
