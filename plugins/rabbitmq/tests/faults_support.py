"""Nodes over a broker that is about to be hurt, and the accounts afterwards."""

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager

import faults_models
import pika

from fossa import Fossa, Status, hookimpl, use
from fossa_rabbitmq.connection import Connection, NoSuchQueue
from fossa_rabbitmq.options import options
from support import TestConfig, until

#: How quick the nodes are to see that something is wrong.
QUICK = {"heartbeat": 2, "connect_timeout": 3.0, "publish_timeout": 2.0, "max_backoff": 0.3}


class Far:
    """Sends every subtask to another node."""

    @hookimpl
    def fossa_choose_executor(self, task, executors):
        return "rabbitmq" if task.depth else None


class FaultsConfig(TestConfig):
    ACCEPTED_MODEL_CLASSES = faults_models.ALL
    SLOTS = 2
    # A death of a node is no fault of the task.
    CRASH_ATTEMPTS = 10


def plugin(url, prefix, **given):
    return use("rabbitmq", url=url, prefix=prefix, **{**QUICK, **given})


class Nodes:
    """Starts nodes in this process; all are stopped at the end."""

    def __init__(self, stack):
        self._stack = stack
        self.all = []

    async def start(self, name, *, source=None, executor=None, **settings):
        """With a source, an executor, or both: each as `plugin` makes it."""
        sources = [source] if source is not None else []
        executors = ["local", *([executor] if executor is not None else [])]
        node = Fossa(FaultsConfig, NODE_NAME=name, SOURCES=sources, EXECUTORS=executors, **settings)
        await self._stack.enter_async_context(node)
        self.all.append(node)
        return node

    async def pair(self, url, prefix, url_b=None, *, far=False, **settings):
        """A parent's node `a` and another `b`, which know of each other."""
        mine, other = plugin(url, prefix), plugin(url_b or url, prefix)
        plugins = [Far()] if far else []
        a = await self.start("a", source=mine, executor=mine, PLUGINS=plugins, **settings)
        b = await self.start("b", source=other, executor=other, **settings)
        await know_each_other(a, b)
        return a, b


@asynccontextmanager
async def some_nodes():
    async with AsyncExitStack() as stack:
        yield Nodes(stack)


async def know_each_other(*nodes, timeout=15):
    def known():
        return all(len(node.governor.fleet()) >= len(nodes) for node in nodes)

    await until(known, timeout)


async def until_async(condition, timeout=10, pause=0.05):
    """Like `until`, where looking takes an await."""
    async with asyncio.timeout(timeout):
        while not await condition():
            await asyncio.sleep(pause)


class Book:
    """A journal, read."""

    def __init__(self, path):
        self.path = path

    def __str__(self):
        return str(self.path)

    def lines(self, what):
        text = self.path.read_text() if self.path.exists() else ""
        return [line.split()[1:] for line in text.splitlines() if line.startswith(f"{what} ")]

    def numbers(self, what):
        """How often each number begins, ends, …."""
        return Counter(fields[0] for fields in self.lines(what))

    def open(self, number=None):
        """Let what waits at its gate go on: one number, or all."""
        self.path.with_suffix(".go" if number is None else f".{number}").touch()

    async def has(self, what, count, timeout=20):
        """Returns once there are so many different numbers."""
        await until(lambda: len(self.numbers(what)) >= count, timeout)

    @property
    def repeated(self):
        """Numbers that were begun more than once."""
        return {number for number, times in self.numbers("begin").items() if times > 1}


def work(book, count, **given):
    """A `Work` to submit."""
    return {"model": "Work", "model_construction_kwargs": {"journal": str(book), "count": count,
                                                           **given}}  # fmt: skip


async def outcome_of(handle, timeout=40):
    """How it ended; with what the nodes know where it does not."""
    try:
        return await handle.outcome(timeout)
    except TimeoutError:
        record = await handle.record()
        open_ones = [r for r in await handle.subtasks(limit=500) if not r.status.final]
        raise AssertionError(f"it does not end: {record.progress}, {open_ones[:3]}") from None


async def check(handle, book, count, timeout=40):
    """The task is complete, and each of its subtasks exactly once in its node's ledger."""
    ended = await outcome_of(handle, timeout)
    assert ended.complete, ended
    records = await handle.subtasks(limit=count + 10)
    assert [r.status for r in records] == [Status.COMPLETE] * count
    assert sorted(r.outcome.result for r in records) == list(range(count))
    expected = Counter(str(number) for number in range(count))
    assert book.numbers("told") == expected
    assert book.numbers("end").keys() == expected.keys()
    assert len(book.lines("whole")) == 1


class Client:
    """Somebody who submits whole tasks over the broker and waits for replies."""

    def __init__(self, connection, channel, queue, prefix):
        self._connection, self._channel, self._prefix = connection, channel, prefix
        self.queue = queue
        self.replies = []

    async def submit(self, number, book, *, message_id=None, headers=None, **given):
        body = {"model": "Single", "method": "work",
                "method_kwargs": {"journal": str(book), "number": number, **given}}  # fmt: skip
        await self.publish(f"{self._prefix}.tasks", body, number, message_id, headers)

    async def publish(self, queue, body, number, message_id=None, headers=None):
        properties = pika.BasicProperties(
            message_id=message_id or f"message-{number}",
            correlation_id=str(number),
            reply_to=self.queue,
            delivery_mode=2,
            headers=headers,
        )
        sent = self._channel.publish("", queue, json.dumps(body).encode(), properties)
        await asyncio.wait_for(sent, 10)

    def _take(self, message):
        self.replies.append((message.properties.correlation_id, json.loads(message.body)))

    async def reply(self, number, timeout=30):
        """The only reply about a number."""
        await until(lambda: any(n == str(number) for n, _ in self.replies), timeout)
        found = [body for n, body in self.replies if n == str(number)]
        assert len(found) == 1, found
        return found[0]

    async def depth(self, queue):
        """Messages that wait in a queue."""
        return await self._channel.depth(queue)

    async def lacks(self, queue):
        """Whether there is no queue of that name; asked on a channel that does not survive it."""
        channel = await self._connection.channel()
        try:
            await channel.depth(queue)
        except NoSuchQueue:
            return True
        await channel.close()
        return False

    async def purge(self, queue):
        """Throw away all that waits in a queue; there is something."""
        while message := await self._channel.get(queue):
            self._channel.ack(message.delivery_tag)

    async def delete(self, queue):
        await self._channel.delete_queue(queue)

    async def close(self):
        await self._channel.delete_queue(self.queue)
        await self._connection.close()


@asynccontextmanager
async def client(url, prefix, logger):
    """A client with a queue for its replies; the task queues exist already."""
    connection = await Connection.dial(options(url=url), "test", logger)
    channel = await connection.channel(confirms=True)
    queue = f"{prefix}.client"
    await channel.declare_queue(queue)
    mine = Client(connection, channel, queue, prefix)
    await channel.consume(
        queue, prefetch=0, on_message=mine._take, on_cancel=lambda *_: None, no_ack=True
    )
    try:
        yield mine
    finally:
        await mine.close()
