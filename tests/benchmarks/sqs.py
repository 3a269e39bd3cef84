"""The SQS source beside a bare loop of receives and deletes, on the same server, in turns."""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from aiobotocore.session import get_session
from workloads import Work

from fossa import BaseConfig, Fossa, Sink, use

sys.path.insert(0, str(Path(__file__).parents[2] / "plugins/sqs/tests"))
from sqs_support import REGION, Queues, Server

BODY = json.dumps({"model": "Work", "method": "noop", "method_kwargs": {"i": 1}})


class Config(BaseConfig):
    ACCEPTED_MODEL_CLASSES = (Work,)
    SINKS = ()
    SLOTS = 2


async def tasks_from_sqs(bench):
    """Add the row to a bench: tasks a second."""
    count = max(100, int(300 * bench.scale))
    row = bench.row("S1 tasks from SQS / bare receive and delete", "a second", 0.8)
    os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    with Server() as server:
        queues = Queues(server.url)
        for turn in range(bench.rounds):
            took = {}
            # Who goes first takes turns: the server gets slower as it gets older.
            for side in (_bare, _fossa) if turn % 2 else (_fossa, _bare):
                url = await asyncio.to_thread(_filled, queues, count)
                took[side] = await side(queues, url, count)
            row.add(count / took[_fossa], count / took[_bare])


def _filled(queues, count):
    url = queues.make()
    for start in range(0, count, 10):
        entries = [
            {"Id": str(i), "MessageBody": BODY} for i in range(start, min(count, start + 10))
        ]
        queues.client.send_message_batch(QueueUrl=url, Entries=entries)
    return url


async def _bare(queues, url, count):
    session = get_session()
    async with session.create_client(
        "sqs", region_name=REGION, endpoint_url=queues.endpoint
    ) as sqs:
        began, done = time.perf_counter(), 0
        while done < count:
            answer = await sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)
            got = answer.get("Messages", [])
            for message in got:
                json.loads(message["Body"])
            entries = [
                {"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(got)
            ]
            if entries:
                await sqs.delete_message_batch(QueueUrl=url, Entries=entries)
            done += len(got)
        return time.perf_counter() - began


class Counting(Sink):
    """Knows when the last of so many outcomes came."""

    def __init__(self, count):
        self._left = count
        self.all = asyncio.Event()

    async def take(self, task, outcome):
        assert outcome.complete, outcome
        self._left -= 1
        if not self._left:
            self.all.set()


async def _fossa(queues, url, count):
    """From the source's first receive to the last delete, with the start of the workers."""
    name = url.rpartition("/")[2]
    source = use("sqs", queue=name, region=REGION, endpoint_url=queues.endpoint)
    sink = Counting(count)
    async with Fossa(Config, LEDGER=None, SOURCES=(source,), SINKS=(sink,)):
        began = time.perf_counter()
        await asyncio.wait_for(sink.all.wait(), 120)
        while await asyncio.to_thread(queues.counts, url) != (0, 0):
            await asyncio.sleep(0.005)
        return time.perf_counter() - began
