"""Models that may be run on many nodes, and those that may not: the suite can tell."""

import json
import os
import time
from pathlib import Path

import ayeaye
import pytest
from ayeaye.runtime.task_message import TaskPartition

from fossa.testing import ModelContract


class Summing(ayeaye.PartitionedModel):
    """Each subtask writes its own file; what they return is put together in order."""

    def __init__(self, directory="", count=12):
        super().__init__()
        self.directory = directory
        self.count = count
        self.found = {}

    def build(self):
        pass

    def partition_slice(self, _count):
        for number in range(self.count):
            yield TaskPartition(
                type(self),
                "part",
                {"number": number},
                model_construction_kwargs={"directory": self.directory},
            )

    def part(self, number):
        time.sleep(0.03)
        file = Path(self.directory) / f"{number}.json"
        beside = file.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(number * number))
        beside.replace(file)
        return number

    def partition_subtask_complete(self, task_message):
        self.found[task_message.return_value] = True

    def partition_complete(self):
        whole = [json.loads((Path(self.directory) / f"{n}.json").read_text()) for n in self.found]
        (Path(self.directory) / "sum.json").write_text(json.dumps(sum(whole)))


class Appending(Summing):
    """All subtasks add to one file: run twice, it has them twice."""

    def part(self, number):
        with (Path(self.directory) / "lines").open("a") as file:
            file.write(f"{number}\n")
        return number

    def partition_complete(self):
        pass


class InOrder(Summing):
    """Relies on subtasks coming back in the order in which they were made."""

    def partition_complete(self):
        (Path(self.directory) / "order.json").write_text(json.dumps(list(self.found)))


class Remembering(Summing):
    """Relies on subtasks sharing a process."""

    seen = []

    def part(self, number):
        type(self).seen.append(number)
        return len(self.seen)

    def partition_complete(self):
        (Path(self.directory) / "most.json").write_text(json.dumps(max(self.found)))
        type(self).seen.clear()


class Sharing(Summing):
    """Relies on subtasks sharing their parent's process."""

    seen = []

    def part(self, number):
        type(self).seen.append(number)
        return number

    def partition_complete(self):
        (Path(self.directory) / "count.json").write_text(json.dumps(len(self.seen)))
        type(self).seen.clear()


class Once(Summing):
    """Relies on each subtask being begun once only."""

    def part(self, number):
        (Path(self.directory) / f"{number}.begun").touch(exist_ok=False)
        time.sleep(0.1)
        return super().part(number)


class Contract(ModelContract):
    models = (Summing, Appending, InOrder, Remembering, Sharing, Once)
    model = Summing

    def request(self, directory):
        return {
            "model": self.model,
            "model_construction_kwargs": {"directory": str(directory)},
        }

    def output(self, directory, outcome):
        return {f.name: sorted(f.read_text().split()) for f in directory.glob("*.json")} | {
            f.name: sorted(f.read_text().split()) for f in directory.glob("lines")
        }


class TestSumming(Contract):
    """A model that is safe passes all of it."""


def suite(model, tmp_path):
    contract = Contract()
    contract.model, contract.tmp_path = model, tmp_path
    return contract


@pytest.mark.parametrize(
    ("model", "way"),
    [
        (Appending, "test_with_each_subtask_run_twice"),
        (InOrder, "test_in_another_order"),
        (Remembering, "test_with_a_process_for_each_subtask"),
        (Sharing, "test_in_worker_processes"),
        (Remembering, "test_on_two_nodes"),
    ],
)
def test_a_model_that_is_not_safe_is_found(model, way, tmp_path):
    with pytest.raises(AssertionError, match="its output is another one with"):
        getattr(suite(model, tmp_path), way)()


def test_a_model_that_cannot_be_begun_again_is_found(tmp_path):
    with pytest.raises(AssertionError, match=r"killed workers: subtask_failed: .*FileExistsError"):
        suite(Once, tmp_path).test_with_workers_that_are_killed()


def test_two_nodes_really_share_the_work(tmp_path, monkeypatch):
    from fossa.testing import model_contract

    class Watched(model_contract.NextDoor):
        async def run(self, attempt, live):
            outcome = await super().run(attempt, live)
            ran_there.append((await self._other.governor.record(attempt.task.id)).task.method)
            return outcome

    ran_there = []
    monkeypatch.setattr(model_contract, "NextDoor", Watched)
    suite(Summing, tmp_path).test_on_two_nodes()
    assert 0 < len(ran_there) < 12
    assert set(ran_there) == {"part"}


def test_workers_are_really_killed(tmp_path):
    class Counting(Contract):
        def output(self, directory, outcome):
            return outcome

    from fossa.testing import model_contract

    killed = model_contract.Killed(model_contract.random.Random(1))
    contract = Counting()
    contract.tmp_path = tmp_path
    assert contract.run("killed", killed, SLOTS=2, CRASH_ATTEMPTS=20).complete
    assert killed._left == 0
