"""Nodes on one broker, and a client of it that knows nothing of Fossa but the documented JSON."""

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

import far_models
import pika
import pytest

from fossa import Fossa, hookimpl, use
from support import TestConfig

#: Seconds in which what should come to pass has done so.
PATIENCE = 20


class Far:
    """Sends the subtasks that its node makes to other nodes."""

    @hookimpl
    def fossa_choose_executor(self, task, executors):
        return "rabbitmq" if task.depth else None


class NodeStarter:
    """Starts nodes that know each other: `a = await start("a", SLOTS=2)`.

    Args:
        options: of the broker, as in `use("rabbitmq", …)`.
    """

    def __init__(self, stack, **options):
        self.stack = stack
        self.options = options
        self.nodes = []

    async def __call__(self, name, *, alone=False, **settings):
        """Returns once every node has heard of it, unless it is to be `alone`."""
        rabbit = use("rabbitmq", **self.options)
        chosen = {
            "SLOTS": 1,
            "SOURCES": [rabbit],
            "EXECUTORS": ["local", rabbit],
            "ACCEPTED_MODEL_CLASSES": far_models.ALL,
        } | settings
        node = await self.stack.enter_async_context(Fossa(TestConfig, NODE_NAME=name, **chosen))
        self.nodes.append(node)
        if not alone:
            await self.heard()
        return node

    async def heard(self):
        """Returns once all of them know of each other."""
        up = [n for n in self.nodes if n.governor.status()["state"] == "running"]
        await eventually(lambda: all(len(n.governor.fleet()) >= len(up) for n in up))


@pytest.fixture
async def start_node(broker, fresh_prefix):
    """Starts nodes on the broker; they are stopped after the test, the last one first."""
    async with AsyncExitStack() as stack:
        yield NodeStarter(stack, url=broker.url, prefix=fresh_prefix)


@pytest.fixture
async def client(broker, fresh_prefix):
    """A client of the broker, with a queue for replies."""
    async with Client.connected(broker.url, fresh_prefix) as client:
        yield client


class Client:
    """pika as it comes, in a thread of its own."""

    def __init__(self, url, prefix):
        self.prefix = prefix
        self.replies = defaultdict(list)
        self._url = url
        self._thread = ThreadPoolExecutor(1)

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(cls, url, prefix):
        client = cls(url, prefix)
        await client.do(client._connect)
        try:
            yield client
        finally:
            await client.do(client._connection.close)
            client._thread.shutdown()

    async def do(self, work, *arguments):
        """Something of pika's, in the thread that pika may be used in."""
        # Not wait_for: until Python 3.12 it may swallow a cancellation, and a caller's deadline.
        async with asyncio.timeout(PATIENCE + 10):
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def _connect(self):
        parameters = pika.URLParameters(self._url)
        parameters.socket_timeout = parameters.blocked_connection_timeout = 10
        self._connection = pika.BlockingConnection(parameters)
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()
        self.queue = self._channel.queue_declare("", exclusive=True).method.queue
        self._channel.basic_consume(self.queue, self._on_reply, auto_ack=True)

    def _on_reply(self, channel, method, properties, body):
        self.replies[properties.correlation_id].append((properties, json.loads(body)))

    # tasks

    async def send(self, document, *, queue="tasks", correlation_id="1", **properties):
        """Publish a document, or bytes as they are."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        said = {"reply_to": self.queue, "correlation_id": correlation_id} | properties
        said = {name: value for name, value in said.items() if value is not None}
        await self.do(self._publish, f"{self.prefix}.{queue}", body, said)

    def _publish(self, queue, body, said):
        properties = pika.BasicProperties(delivery_mode=2, **said)
        self._channel.basic_publish("", queue, body, properties, mandatory=True)

    async def ask(self, document, *, correlation_id="1", **properties):
        """Send a task; returns the reply's document."""
        await self.send(document, correlation_id=correlation_id, **properties)
        return await self.reply(correlation_id)

    async def reply(self, correlation_id="1", count=1):
        """The newest reply to a message, once there are so many."""
        return (await self.do(self._wait, correlation_id, count))[-1][1]

    def _wait(self, correlation_id, count):
        deadline = time.monotonic() + PATIENCE
        while len(self.replies[correlation_id]) < count:
            assert time.monotonic() < deadline, f"no reply to {correlation_id}"
            self._connection.process_data_events(0.1)
        return self.replies[correlation_id]

    # queues

    async def ready(self, queue):
        """How many messages wait in a queue that nobody holds."""
        return await self.do(self._ready, f"{self.prefix}.{queue}")

    def _ready(self, queue):
        return self._channel.queue_declare(queue, passive=True).method.message_count

    async def dead(self):
        """The next dead letter: (headers, properties, body)."""
        properties, body = await self.do(self.take, "dead")
        return properties.headers, properties, body

    def take(self, queue):
        """The next message of a queue: (properties, body)."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = self._channel.basic_get(f"{self.prefix}.{queue}", auto_ack=True)
            if found[0] is not None:
                return found[1:]
            assert time.monotonic() < deadline, f"nothing in {queue}"
            time.sleep(0.02)

    async def delete(self, queue):
        await self.do(self._channel.queue_delete, f"{self.prefix}.{queue}")


async def eventually(condition, timeout=PATIENCE):
    """Wait for a condition that nothing announces; returns what it returned."""
    async with asyncio.timeout(timeout):
        while not (value := condition()):
            await asyncio.sleep(0.01)
        return value


async def outcome(node, model, method="go", **options):
    """Submit and wait."""
    handle = await node.submit(model, method, **options)
    return await handle.outcome(PATIENCE)


async def page(node, **query):
    """What a node was given, newest first; or, with `parent_id`, the subtasks of a task."""
    return await node.governor.page(limit=10_000, **query)


async def everything(node):
    """What a node was given, and all that came of it there."""
    found, more = [], await page(node)
    while more:
        found += more
        more = [child for record in more for child in await page(node, parent_id=record.task.id)]
    return found


async def texts(node, task_id):
    return [line.text for _, line in await node.governor.logs(task_id)]
