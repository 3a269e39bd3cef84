"""The work that every figure is about: the same functions for Fossa and for what it is held to.

Its names are those of the workloads' methods; `kwargs_of` says what each one is called with.
"""

import hashlib
import json
import threading
import time
from pathlib import Path

import ayeaye

#: About 100 ms of one core.
MD5_ROUNDS = 240_000
#: About 100 kB of JSON.
ROWS = [
    {
        "id": i,
        "name": f"customer-{i:06d}",
        "amount": i * 1.25,
        "tags": ["a", "b", "c"],
        "note": "lorem ipsum dolor sit amet con",
    }
    for i in range(804)
]


class Noop(ayeaye.Model):
    def build(self):
        pass


def noop(i):
    """Run a model that does nothing."""
    model = Noop()
    model.log_to_stdout = False
    return {"i": i, "ok": model.go()}


def cpu(i):
    """Burn a fixed amount of one core; tells how much it was, in seconds."""
    began = time.process_time()
    digest = b"x"
    for _ in range(MD5_ROUNDS):
        digest = hashlib.md5(digest).digest()
    return {"i": i, "cpu": time.process_time() - began}


def fat(i, rows):
    """Give back as much as was given."""
    return {"i": i, "rows": rows}


WORK = {"noop": noop, "cpu": cpu, "fat": fat}


def kwargs_of(work, i):
    return {"i": i, "rows": ROWS} if work == "fat" else {"i": i}


def check(work, results):
    """Every result is there once, and is what the work returns."""
    assert sorted(r["i"] for r in results) == list(range(len(results)))
    for result in results:
        assert work != "noop" or result["ok"] is True
        assert work != "fat" or len(result["rows"]) == len(ROWS)


class Work(ayeaye.Model):
    """The same, as methods of a model."""

    def build(self):
        pass

    def noop(self, i):
        return noop(i)

    def cpu(self, i):
        return cpu(i)

    def fat(self, i, rows):
        return fat(i, rows)


class Fan(ayeaye.PartitionedModel):
    """The no-ops as subtasks of one parent."""

    def __init__(self, count=5000):
        super().__init__()
        self.count = count

    def build(self):
        pass

    def partition_slice(self, _count):
        return [("noop", {"i": i}) for i in range(self.count)]

    def noop(self, i):
        return noop(i)


class Stream(ayeaye.PartitionedModel):
    """As many subtasks as are asked for, from a generator; what was seen of them goes to a file."""

    def __init__(self, work="noop", count=0, journal=None):
        super().__init__()
        self.work, self.count, self.journal = work, count, journal
        self.seen = self.total = self.burnt = 0
        self.marks = []

    def build(self):
        pass

    def partition_slice(self, _count):
        for i in range(self.count):
            yield self.work, kwargs_of(self.work, i)

    def partition_subtask_complete(self, task_message):
        result = task_message.return_value
        if self.seen % max(1, self.count // 10) == 0:
            self.marks.append(time.perf_counter())
        self.seen += 1
        self.total += result["i"]
        self.burnt += result.get("cpu", 0.0)

    def partition_complete(self):
        assert (self.seen, self.total) == (self.count, self.count * (self.count - 1) // 2)
        self.marks.append(time.perf_counter())
        self.note(cpu=self.burnt, marks=self.marks)

    def note(self, **found):
        Path(self.journal).write_text(json.dumps(found))

    def noop(self, i):
        return noop(i)

    def cpu(self, i):
        return cpu(i)


class Ping(Stream):
    """Subtasks one after another: each is made once the former's outcome has come back."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.back = threading.Event()
        self.took = []

    def partition_slice(self, _count):
        for i in range(self.count):
            self.back.clear()
            self.began = time.perf_counter()
            yield "noop", {"i": i}
            assert self.back.wait(60), f"subtask {i} has not come back in a minute"

    def partition_subtask_complete(self, task_message):
        self.took.append(time.perf_counter() - self.began)
        self.back.set()

    def partition_complete(self):
        assert len(self.took) == self.count
        self.note(took=self.took)
