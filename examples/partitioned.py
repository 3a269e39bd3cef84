"""A model that cuts its work into subtasks, which run on all of the node's slots at once.

    python partitioned.py

and then, from another terminal::

    fossa submit SimpleExampleEtl --wait
    fossa submit PartitionedExampleEtl --wait
    echo '{"model": "PartitionedExampleEtl", "partition_initialise_kwargs": {"parts": 100}}' |
        fossa submit --request - --wait
"""

import time

import ayeaye

from fossa import BaseConfig, run_fossa


class SimpleExampleEtl(ayeaye.Model):
    """One task: it counts to ten and says how far it has come."""

    def build(self):
        for number in range(1, 11):
            time.sleep(0.1)
            self.log_progress(number / 10, f"counted to {number}")
        self.log("All ten are counted")


class PartitionedExampleEtl(ayeaye.PartitionedModel):
    """A parent and its subtasks: each squares a number, the parent adds the squares up."""

    def build(self):
        """Nothing to prepare: the subtasks are the work."""

    def partition_initialise(self, parts=20):
        """What to cut the work up by comes with the task: `partition_initialise_kwargs`."""
        super().partition_initialise()
        self.parts = parts

    def partition_slice(self, partition_count):
        """Cut the work up: a method and its arguments for each subtask."""
        for number in range(self.parts):
            yield "square", {"number": number}

    def square(self, number):
        """A subtask: runs in some worker process, on any slot."""
        time.sleep(0.1)
        return number * number

    def partition_subtask_complete(self, task_message):
        """Runs in the parent, once for each subtask that is complete."""
        self.stats["sum of squares"] += task_message.return_value

    def partition_complete(self):
        """Runs in the parent, once all subtasks are."""
        self.log(f"The sum of squares is {self.stats['sum of squares']}")


class FossaConfig(BaseConfig):
    """A node for both."""

    ACCEPTED_MODEL_CLASSES = [SimpleExampleEtl, PartitionedExampleEtl]


run_fossa(FossaConfig)
