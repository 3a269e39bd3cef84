"""What the nodes of the fault tests run: work that is written down in a journal."""

import os
import time
from pathlib import Path

import ayeaye
from ayeaye.runtime.task_message import TaskPartition


def note(journal, what, number):
    """One line, whole also where others write at the same time."""
    line = f"{what} {number} {os.environ.get('FAULTS_NODE', '-')} {os.getpid()}\n"
    with Path(journal).open("ab", buffering=0) as file:
        file.write(line.encode())


def wait_for_gate(journal, number):
    """Wait for a file: one for this number, or one for all."""
    path = Path(journal)
    while not (path.with_suffix(".go").exists() or path.with_suffix(f".{number}").exists()):
        time.sleep(0.01)


class Single(ayeaye.Model):
    """A task by itself."""

    def build(self):
        pass

    def work(self, journal, number=0, seconds=0.0, gate=False, spin=False):
        note(journal, "begin", number)
        until = time.monotonic() + seconds
        while spin and time.monotonic() < until:
            pass
        time.sleep(max(0.0, until - time.monotonic()))
        if gate:
            wait_for_gate(journal, number)
        note(journal, "end", number)
        return {"number": number}


class Work(ayeaye.PartitionedModel):
    """Numbered subtasks; notes each that came back to it, and adds them up."""

    def __init__(self, journal="", count=10, seconds=0.0, gate=()):
        super().__init__()
        self.journal = journal
        self.count = count
        self.seconds = seconds
        #: Numbers that wait for their gate.
        self.gate = list(gate)

    def build(self):
        pass

    def partition_slice(self, _count):
        for number in range(self.count):
            given = {"number": number, "seconds": self.seconds, "gate": number in self.gate}
            yield TaskPartition(
                Work, "part", given, model_construction_kwargs={"journal": self.journal}
            )

    def part(self, number, seconds, gate):
        note(self.journal, "begin", number)
        time.sleep(seconds)
        if gate:
            wait_for_gate(self.journal, number)
        note(self.journal, "end", number)
        return number

    def partition_subtask_complete(self, task_message):
        note(self.journal, "told", task_message.return_value)
        self.stats["sum"] += task_message.return_value

    def partition_complete(self):
        assert self.stats["sum"] == sum(range(self.count)), self.stats["sum"]
        note(self.journal, "whole", "-")


class Limited(Single):
    """The config says how long it may take."""


ALL = [Single, Work, Limited]
