"""A node on the broker, in a process of its own; as a submitter, of its own partitioned models.

    python fossa_node.py '{"rabbitmq": {"url": …}, "source": true, "executor": true, "SLOTS": 1}'

What is in capitals are settings, `rabbitmq` the options of its source and executor. It answers
commands as `talking.py` says.
"""

import asyncio
import gc
import json
import sys
import time
from pathlib import Path

from talking import say, talk
from workloads import Ping, Stream, Work

from fossa import BaseConfig, Fossa, hookimpl, use
from fossa.standalone import collect_less

#: Seconds between two lines about how far a long workload has come.
TELL_INTERVAL = 2.0


class ToTheBroker:
    """Every subtask goes over the broker: this node takes none from it, and runs none."""

    @hookimpl
    def fossa_choose_executor(self, task):
        return "rabbitmq" if task.parent_id else "local"


class Config(BaseConfig):
    ACCEPTED_MODEL_CLASSES = (Work, Stream, Ping)
    SOURCES = ()
    EXECUTORS = ("local",)
    SINKS = ()
    MAX_QUEUED_TASKS = 1_000_000


def settings(rabbitmq, source, executor, **given):
    rabbit = use("rabbitmq", **rabbitmq)
    if source:
        given["SOURCES"] = (rabbit,)
    if executor:
        given |= {"EXECUTORS": ("local", rabbit), "PLUGINS": () if source else (ToTheBroker(),)}
    return given


async def run(node, model, **construction):
    journal = Path(node.composition.state_dir) / "journal.json"
    handle = await node.submit(
        model, model_construction_kwargs={"journal": str(journal), **construction}
    )
    telling = asyncio.create_task(tell_how_far(handle))
    outcome = await handle.outcome()
    telling.cancel()
    assert outcome.complete, outcome
    return json.loads(journal.read_text())


async def tell_how_far(handle):
    while True:
        await asyncio.sleep(TELL_INTERVAL)
        say(done=(await handle.record()).progress.subtasks_done)


async def answer(node, work, count, one_by_one=False):
    gc.collect()
    began = time.perf_counter()
    model = Ping if one_by_one else Stream
    found = await run(node, model, work=work, count=count)
    return {"seconds": time.perf_counter() - began, **found}


def main():
    with asyncio.Runner() as runner:
        node = Fossa(Config, **settings(**json.loads(sys.argv[1])))
        runner.run(node.start())
        collect_less()
        try:
            talk_beside(runner, node)
        finally:
            runner.run(node.stop())


def talk_beside(runner, node):
    """Read commands in a thread: the node's loop runs on meanwhile."""
    loop = runner.get_loop()

    def ask(**command):
        return asyncio.run_coroutine_threadsafe(answer(node, **command), loop).result()

    runner.run(asyncio.to_thread(talk, ask))


if __name__ == "__main__":
    main()
