"""The suites that any source and any executor has to pass, over a real broker."""

import asyncio
import json
from contextlib import asynccontextmanager

import pika
import pytest

from fossa import Fossa, use
from fossa.testing import ExecutorContract, SourceContract
from fossa.testing.components import SuiteConfig
from fossa_rabbitmq.executor import RabbitExecutor
from fossa_rabbitmq.source import RabbitSource

#: Of a request, what a message says.
FIELDS = ("model", "method", "method_kwargs", "model_construction_kwargs", "resolver_context")


class OnTheBroker:
    """Where the components of a suite find their broker."""

    @pytest.fixture(autouse=True)
    def _broker(self, broker, fresh_prefix):
        self.options = {"url": broker.url, "prefix": fresh_prefix}

    def refused(self):
        return self.options | {"url": self.options["url"].replace("guest:guest", "guest:wrong")}

    async def do(self, act):
        """Something done with a channel of pika's own, on a connection of its own."""
        return await asyncio.to_thread(self._do, act)

    def _do(self, act):
        connection = pika.BlockingConnection(pika.URLParameters(self.options["url"]))
        try:
            return act(connection.channel())
        finally:
            connection.close()


class TestRabbitSource(OnTheBroker, SourceContract):
    takes = True

    def make(self):
        return RabbitSource(**self.options)

    def broken(self):
        return RabbitSource(**self.refused())

    async def send(self, source, request):
        said = {name: getattr(request, name) for name in FIELDS}
        document = {name: value for name, value in said.items() if value is not None}
        body = json.dumps(document | {"reply": False}).encode()
        queue = f"{self.options['prefix']}.tasks"

        def publish(channel):
            channel.confirm_delivery()
            channel.basic_publish("", queue, body, mandatory=True)

        await self.do(publish)

    async def left(self, source):
        queue = f"{self.options['prefix']}.tasks"
        return await self.do(
            lambda channel: channel.queue_declare(queue, passive=True).method.message_count
        )


class TestRabbitExecutor(OnTheBroker, ExecutorContract):
    """What it is given runs on another node, which is there as long as the suite's own."""

    lacks = {"subtasks": "what an attempt makes goes to the node that runs it"}

    def make(self):
        return RabbitExecutor(**self.options)

    def broken(self):
        return RabbitExecutor(**self.refused())

    @asynccontextmanager
    async def node(self, **settings):
        runner = {
            "NODE_NAME": "runner",
            "SOURCES": [use("rabbitmq", **self.options)],
            "EXECUTORS": ["local"],
            "CRASH_ATTEMPTS": 1,
        }
        async with Fossa(SuiteConfig, **runner), super().node(**settings) as node:
            yield node
