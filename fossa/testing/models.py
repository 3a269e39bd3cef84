"""The Aye-Aye models that the contract suites run."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ayeaye


class Answers(ayeaye.Model):
    """Returns something."""

    def __init__(self, greeting: str = "hello") -> None:
        super().__init__()
        self.greeting = greeting

    def build(self) -> None:
        """Nothing: `go` returns True."""

    def echo(self, value: Any = None) -> dict[str, Any]:
        return {"greeting": self.greeting, "value": value}

    def thing(self) -> object:
        return object()

    def large(self, size: int) -> str:
        return "x" * size


class Says(ayeaye.Model):
    """Writes, and tells its progress."""

    def build(self) -> None:
        self.log("by log")
        self.log("by log, a warning", "WARNING")
        print("by print")  # noqa: T201 - it is what is tested

    def steps(self) -> None:
        for step in range(1, 5):
            self.log_progress(step / 4, f"step {step}")


class Breaks(ayeaye.Model):
    """Fails, in every way that leaves the process alive."""

    def build(self) -> None:
        raise ValueError("no such luck — “ñ” \N{SNOWMAN}")

    def unspeakable(self) -> None:
        raise _Unspeakable


class _Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even that")


class Refuses(ayeaye.Model):
    """Does not pass its own check."""

    def pre_build_check(self) -> bool:
        return False

    def build(self) -> None:
        """Never called."""


class Dies(ayeaye.Model):
    """Ends its process."""

    def build(self) -> None:
        os._exit(0)

    def killed(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)


class Lasts(ayeaye.Model):
    """Writes to a journal for as long as it runs."""

    def build(self) -> None:
        """Nothing."""

    def beat(self, journal: str, seconds: float = 60.0) -> str:
        end = time.monotonic() + seconds
        with Path(journal).open("ab", buffering=0) as file:
            while time.monotonic() < end:
                file.write(b".")
                time.sleep(0.01)
        return "done"

    def stubborn(self, journal: str) -> None:
        """Goes on when it is asked to stop."""
        while True:
            try:
                self.beat(journal)
            except BaseException:  # noqa: S112 - that is the point
                continue


class Squares(ayeaye.PartitionedModel):
    """Adds up what its subtasks return."""

    def __init__(self, count: int = 8) -> None:
        super().__init__()
        self.count = count
        self.total = 0

    def build(self) -> None:
        """Its subtasks do it."""

    def partition_slice(self, _partitions: int) -> Iterator[tuple[str, dict[str, int]]]:
        for number in range(self.count):
            yield "square", {"number": number}

    def square(self, number: int) -> int:
        return number * number

    def partition_subtask_complete(self, task_message: Any) -> None:
        self.total += task_message.return_value

    def partition_complete(self) -> None:
        self.log(f"the sum is {self.total}")


ALL = (Answers, Says, Breaks, Refuses, Dies, Lasts, Squares)
