"""Two nodes that share the subtasks of a model over RabbitMQ.

A RabbitMQ has to run on this computer (on Debian: `apt-get install rabbitmq-server`), or
RABBITMQ_URL says where there is one. With `pip install fossa-rabbitmq`, start one node in each of
two terminals::

    FOSSA_HTTP_PORT=2345 python rabbit_mq.py
    FOSSA_HTTP_PORT=2344 python rabbit_mq.py

and from a third, give a task to either::

    curl --header "Content-Type: application/json" --data '{"model": "CountPrimes"}' \\
        http://127.0.0.1:2345/api/1/tasks

The pages at http://127.0.0.1:2345/ and http://127.0.0.1:2344/ show the subtasks that each of the
two has run; the page of the task, where you posted it, shows all of them. `fossa nodes` lists the
nodes. It is the same with more nodes, and on more computers.
"""

import os
import socket
from itertools import pairwise

import ayeaye

from fossa import BaseConfig, env, run_fossa, use


class CountPrimes(ayeaye.PartitionedModel):
    """How many primes are there below a number? A subtask looks at a part of the numbers."""

    def build(self):
        """Nothing to prepare: the subtasks are the work."""

    def partition_initialise(self, below=400_000, parts=40):
        """What to cut up comes with the task: `partition_initialise_kwargs`."""
        super().partition_initialise()
        self.below, self.parts = below, parts

    def partition_slice(self, partition_count):
        """Cut the numbers into parts: a method and its arguments for each subtask."""
        bounds = [self.below * part // self.parts for part in range(self.parts + 1)]
        for first, end in pairwise(bounds):
            yield "count", {"first": first, "end": end}

    def count(self, first, end):
        """The subtask: runs in some worker process of some node."""
        found = sum(is_prime(number) for number in range(first, end))
        self.log(f"{found} primes from {first} up to {end}")
        return found

    def partition_subtask_complete(self, task_message):
        """Runs in the parent, once for each subtask that is complete."""
        self.stats["primes"] += task_message.return_value

    def partition_complete(self):
        """Runs in the parent, once all subtasks are."""
        self.log(f"There are {self.stats['primes']} primes below {self.below}")


def is_prime(number):
    """By trial division, which keeps a CPU busy."""
    if number < 4:
        return number > 1
    return number % 2 != 0 and all(number % odd for odd in range(3, int(number**0.5) + 1, 2))


RABBITMQ = use("rabbitmq", url=env("RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672/"))


class FossaConfig(BaseConfig):
    """A node that takes subtasks from RabbitMQ, and sends its own there."""

    ACCEPTED_MODEL_CLASSES = [CountPrimes]
    SOURCES = ["http", RABBITMQ]
    EXECUTORS = ["local", RABBITMQ]
    #: The nodes of a fleet are easier told apart by names of their own.
    NODE_NAME = f"{socket.gethostname()}-{os.environ.get('FOSSA_HTTP_PORT', '2345')}"


run_fossa(FossaConfig)
