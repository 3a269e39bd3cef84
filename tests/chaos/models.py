"""What the fleet runs: numbered work of a known duration that is written down in a journal."""

import random
import time

import ayeaye
from ayeaye.runtime.task_message import TaskPartition

from chaos import journal


def seconds_of(seed, number):
    """How long a number takes: mostly short, one in twenty up to 1.5 s."""
    chance = random.Random(f"{seed} {number}")
    return chance.uniform(0.5, 1.5) if chance.random() < 0.05 else chance.uniform(0.01, 0.15)


def result_of(number):
    """What a number comes to, wherever and however often it is done."""
    return {"number": number, "square": int(number.rpartition("-")[2]) ** 2}


class Whole(ayeaye.Model):
    """A task by itself."""

    def build(self):
        pass

    def work(self, number, path, seed):
        with journal.execution(path, number):
            time.sleep(seconds_of(seed, number))
        return result_of(number)


class Parent(ayeaye.PartitionedModel):
    """Numbered subtasks `<number>-<i>`; says in the journal which ones came back to it."""

    def __init__(self, number="", path="", seed=0, count=0):
        super().__init__()
        self.given = {"number": number, "path": path, "seed": seed, "count": count}
        self.run = None

    def build(self):
        pass

    def partition_slice(self, _count):
        self.run = journal.begin(self.given["path"], self.given["number"])
        for i in range(self.given["count"]):
            number = f"{self.given['number']}-{i}"
            yield TaskPartition(
                Parent, "part", {"number": number}, model_construction_kwargs=self.given
            )

    def part(self, number):
        with journal.execution(self.given["path"], number):
            time.sleep(seconds_of(self.given["seed"], number))
        return result_of(number)

    def partition_subtask_complete(self, task_message):
        value = task_message.return_value
        assert value == result_of(value["number"]), value
        self._write("told", subtask=value["number"])

    def partition_complete(self):
        self._write("end")

    def _write(self, what, **more):
        journal.write(self.given["path"], what, self.given["number"], self.run, **more)
