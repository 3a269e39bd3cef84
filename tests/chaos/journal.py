"""What was done, by those who did it: a line for each begin and end of an execution.

A line is one write to a file opened for appending, so that neither two processes nor a SIGKILL can
tear one.
"""

import json
import os
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

from attrs import define, field


def write(path, what, number, run, **more):
    line = {
        "what": what,
        "number": number,
        "run": run,
        "node": os.environ.get("CHAOS_NODE", "nobody"),
        "pid": os.getpid(),
        "at": time.time(),
        **more,
    }
    with Path(path).open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


def begin(path, number):
    """Returns the id of the execution."""
    run = uuid.uuid4().hex[:12]
    write(path, "begin", number, run)
    return run


@contextmanager
def execution(path, number):
    """The begin and, unless it is interrupted, the end of one execution."""
    run = begin(path, number)
    yield
    write(path, "end", number, run)


@define(kw_only=True)
class Run:
    """One execution of a number, as far as the journal knows."""

    number: str
    run: str
    #: The name of the node.
    node: str
    pid: int
    #: Seconds since the epoch.
    began: float
    ended: float | None = None
    #: For a parent: the numbers of which it was told that they are complete.
    told: list = field(factory=list)


class Journal:
    """Reads what has been written so far; `look` goes on where it left off."""

    def __init__(self, path):
        self.path = Path(path)
        #: In the order in which they began.
        self.runs = {}
        self._position = 0

    def look(self):
        if not self.path.exists():
            return self
        with self.path.open("rb") as file:
            file.seek(self._position)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._position += len(whole)
        for line in whole.splitlines():
            self._take(json.loads(line))
        return self

    def _take(self, line):
        what, run = line["what"], line["run"]
        if what == "begin":
            self.runs[run] = Run(
                number=line["number"],
                run=run,
                node=line["node"],
                pid=line["pid"],
                began=line["at"],
            )
        elif what == "told":
            self.runs[run].told.append(line["subtask"])
        else:
            self.runs[run].ended = line["at"]

    def under_way(self):
        """Executions that have begun and not ended: some of them never will."""
        return [run for run in self.runs.values() if run.ended is None]

    def of(self, number):
        """The executions of a number, in the order in which they began."""
        return [run for run in self.runs.values() if run.number == number]
