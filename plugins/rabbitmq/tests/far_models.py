"""Models that the tests run on several nodes. Importable, so that worker processes find them."""

import time
from pathlib import Path

import ayeaye
from ayeaye.runtime.task_message import TaskPartition

import models


class Sends(ayeaye.PartitionedModel):
    """Makes the subtasks that it is told to, and goes on where they fail."""

    def __init__(self, subtasks):
        super().__init__()
        self.subtasks = subtasks
        self.failures = 0

    def build(self):
        pass

    def partition_slice(self, _count):
        for model, method, arguments, *construction in self.subtasks:
            found = getattr(models, model, None) or globals()[model]
            keep = construction[0] if construction else {}
            yield TaskPartition(found, method, arguments, model_construction_kwargs=keep)

    def partition_subtask_failed(self, task_message):
        self.failures += 1


class Naps(ayeaye.PartitionedModel):
    """Subtasks that take a while and no processor."""

    def __init__(self, count=10, seconds=0.02):
        super().__init__()
        self.count = count
        self.seconds = seconds

    def build(self):
        pass

    def partition_slice(self, _count):
        return [("nap", {"number": i, "seconds": self.seconds}) for i in range(self.count)]

    def nap(self, number, seconds):
        time.sleep(seconds)
        return number


class Gates(Naps):
    """One of them runs until it is let: what has its number."""

    def __init__(self, count=10, seconds=0.02, number=0, gate=""):
        super().__init__(count, seconds)
        self.number = number
        self.gate = gate

    def partition_slice(self, _count):
        return [
            ("nap", {"number": i, "seconds": self.seconds, "gate": self._gate_of(i)})
            for i in range(self.count)
        ]

    def _gate_of(self, number):
        return self.gate if number == self.number else ""

    def nap(self, number, seconds, gate):
        while gate and not Path(gate).exists():
            time.sleep(0.01)
        return super().nap(number, seconds)


class Crowd(ayeaye.PartitionedModel):
    """Each subtask tells how many of them ran at once, whatever the nodes."""

    def __init__(self, directory="", at_most=2, count=10):
        super().__init__()
        self.directory = directory
        self.at_most = at_most
        self.count = count

    def build(self):
        pass

    def partition_plea(self):
        return self.PartitionOption(minimum=1, maximum=self.at_most, optimal=self.at_most)

    def partition_slice(self, _count):
        return [
            ("count_all", {"number": n, "directory": self.directory}) for n in range(self.count)
        ]

    def count_all(self, number, directory):
        mine = Path(directory) / str(number)
        mine.touch()
        time.sleep(0.06)
        running = len(list(Path(directory).iterdir()))
        mine.unlink()
        return running


class Talks(ayeaye.Model):
    """Says something, and ends when it is let."""

    def build(self):
        pass

    def talk(self, go):
        self.log("begun")
        self.log_progress(0.5, "half of it")
        while not Path(go).exists():
            time.sleep(0.01)
        self.log("and done")
        return "said"

    def much(self, lines):
        for number in range(lines):
            self.log(f"line {number} " + "x" * 2000)

    def odd(self):
        self.log("a lone surrogate: \udc80")
        self.log_progress(7.5, "more than all of it")
        time.sleep(0.5)
        return "\udc80"

    def long_name(self):
        raise type("X" * 5000, (Exception,), {})("y" * 3_000_000)

    def large(self, size):
        return "x" * size


class Burns(ayeaye.Model):
    """Keeps a processor busy for three seconds."""

    def build(self):
        end = time.monotonic() + 3
        while time.monotonic() < end:
            sum(range(10_000))


class Unmoved(ayeaye.Model):
    """Cannot be interrupted, and ends by itself."""

    def build(self):
        pass

    def hold(self, begun, seconds):
        Path(begun).touch()
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                time.sleep(left)
            except BaseException:
                continue


class OnlyThere(ayeaye.Model):
    """For a node that others do not resemble."""

    def build(self):
        pass

    def echo(self, value):
        return value


ALL = [*models.ALL, Sends, Naps, Gates, Crowd, Talks, Burns, Unmoved]
