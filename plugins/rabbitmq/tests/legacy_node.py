"""The models of the tests with `ayeaye-fossa` 0.0.37, and a node of that version or of this one.

Nodes of both versions accept the same models: this file is imported by the one and run by the
other's interpreter, `python legacy_node.py HTTP_PORT AMQP_URL ROLE`. With the role `parent` it
makes subtasks and takes none from the queue; with `worker` it does both; with `new` it takes some,
as a node of this version.
"""

import json
import os
import sys
import time
from pathlib import Path

import ayeaye
from ayeaye.runtime.task_message import TaskPartition


class Greeting(ayeaye.Model):
    """A plain model: a subtask of `Errands`, or a task of its own."""

    def __init__(self, word="hello"):
        super().__init__()
        self.word = word

    def build(self):
        pass

    def greet(self, name):
        self.log(f"{self.word} to {name}")
        return f"{self.word}, {name}"


class Unwilling(ayeaye.Model):
    """Its check says no, and `go` returns False."""

    def pre_build_check(self):
        return False

    def build(self):
        raise AssertionError("the check has failed")


class Squares(ayeaye.PartitionedModel):
    """As many subtasks as it is asked for; writes what they returned, and where they ran."""

    def __init__(self, report=None, count=6, linger=0.0, awkward=None):
        super().__init__()
        self.report = report
        self.count = count
        self.linger = linger
        self.awkward = awkward
        self.offset = 0
        self.done = []

    def build(self):
        pass

    def partition_initialise(self, offset=0):
        super().partition_initialise()
        self.offset = offset

    def partition_slice(self, _partition_count):
        method = self.awkward or "square"
        return [
            TaskPartition(
                model_cls=type(self),
                method_name=method,
                method_kwargs={"number": n},
                model_construction_kwargs={"linger": self.linger},
                partition_initialise_kwargs={"offset": 100},
                additional_context={"colour": f"n\u00e4vy {n}"},
            )
            for n in range(self.count)
        ]

    def square(self, number):
        time.sleep(self.linger)
        return {"square": number * number + self.offset, "where": where(), "pid": os.getpid()}

    def colour(self, number):
        """What the resolver's context makes of a template."""
        return ayeaye.connector_resolver.resolve(f"{{colour}}/{number}")

    def broken(self, number):
        raise ValueError(f"no square of {number} t\u00f6day")

    def not_json(self, number):
        return {number, number + 1}

    def not_finite(self, number):
        return [float("nan"), float("inf"), number]

    def partition_subtask_complete(self, task_message):
        self.done.append([task_message.method_kwargs["number"], task_message.return_value])

    def partition_complete(self):
        if self.report:
            with open(self.report + ".part", "w") as report:
                json.dump({"where": where(), "done": sorted(self.done)}, report)
            Path(self.report + ".part").rename(self.report)


class Tolerant(Squares):
    """Notes the failures of its subtasks, every second one of which fails."""

    def partition_slice(self, _partition_count):
        return [
            TaskPartition(
                model_cls=Squares,
                method_name="broken" if n % 2 else "square",
                method_kwargs={"number": n},
            )
            for n in range(self.count)
        ]

    def partition_subtask_failed(self, task_message):
        failure = [task_message.exception_class_name, task_message.traceback[0]]
        self.done.append([task_message.method_kwargs["number"], failure])


class Errands(Squares):
    """Its subtasks are a plain model's."""

    def partition_slice(self, _partition_count):
        return [
            TaskPartition(
                model_cls=Greeting,
                method_name="greet",
                method_kwargs={"name": f"number {n}"},
                model_construction_kwargs={"word": "good day"},
            )
            for n in range(self.count)
        ]

    def partition_subtask_complete(self, task_message):
        self.done.append([task_message.method_kwargs["name"], task_message.return_value])


MODELS = [Greeting, Unwilling, Squares, Tolerant, Errands]


def where():
    """Which node this process belongs to."""
    return os.environ.get("LEGACY_NODE", "a node of this version")


def main(port, url, role):
    (new if role == "new" else old)(port, url, role)


def new(port, url, role):
    from fossa import BaseConfig, run_fossa, use

    class NewConfig(BaseConfig):
        HTTP_PORT = port
        ACCEPTED_MODEL_CLASSES = MODELS
        SOURCES = ("http", use("rabbitmq", url=url, wire="0.0.37"))
        SINKS = ()
        STATE_DIR = Path(os.environ["HOME"]) / "state"

    run_fossa(NewConfig)


def old(port, url, role):
    from fossa.control.rabbit_mq.message_exchange import RabbitMx
    from fossa.control.rabbit_mq.process import RabbitMqProcessor

    from fossa import BaseConfig, run_fossa

    class LegacyConfig(BaseConfig):
        HTTP_PORT = port
        ACCEPTED_MODEL_CLASSES = MODELS
        ISOLATED_PROCESSOR = RabbitMqProcessor(broker_url=url)
        MESSAGE_BROKER_MANAGERS = [RabbitMx(broker_url=url)] if role == "worker" else []

    os.environ["LEGACY_NODE"] = "a node of 0.0.37"
    run_fossa(LegacyConfig)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
