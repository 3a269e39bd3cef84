"""Outcomes published to RabbitMQ."""

import asyncio
import json
import time

import pika
import pytest
from node_support import eventually

from fossa import ConfigError, FossaError, Outcome, Reason, Status, Task, new_id, use
from fossa.testing import SinkContract
from fossa_rabbitmq.sink import RabbitSink
from support import TestConfig, outcome, running


def taken_from(url, queue):
    """Everything that is in a queue: (properties, document)."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        channel = connection.channel()
        found = []
        while True:
            method, properties, body = channel.basic_get(queue, auto_ack=True)
            if method is None:
                return found
            found.append((properties, json.loads(body)))
    finally:
        connection.close()


def work(url, act):
    """Something done with a channel of pika's own."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        return act(connection.channel())
    finally:
        connection.close()


class TestRabbitSink(SinkContract):
    @pytest.fixture(autouse=True)
    def _broker(self, broker, fresh_prefix):
        self.url, self.prefix = broker.url, fresh_prefix
        yield
        work(self.url, lambda channel: channel.queue_delete(f"{self.prefix}.outcomes"))

    def make(self):
        return RabbitSink(url=self.url, prefix=self.prefix, queue_type="classic")

    def broken(self):
        return RabbitSink(url=self.url.replace("guest", "nobody"), prefix=self.prefix)

    async def read(self):
        found = await asyncio.to_thread(taken_from, self.url, f"{self.prefix}.outcomes")
        return [document["task_id"] for _, document in found]


@pytest.fixture
def queue(broker, fresh_prefix):
    name = f"{fresh_prefix}.outcomes"
    yield name
    work(broker.url, lambda channel: channel.queue_delete(name))


async def test_the_outcomes_of_a_node_are_published(broker, fresh_prefix, queue):
    sink = use("rabbitmq", url=broker.url, prefix=fresh_prefix, required=True)
    async with running(TestConfig, SINKS=[sink]) as node:
        await outcome(node, "Echo", "say", method_kwargs={"what": 1})
        await outcome(node, "Fails")
        await eventually(lambda: not node.governor._settling)
    (one, done), (_, failed) = await asyncio.to_thread(taken_from, broker.url, queue)
    assert (done["model"], done["status"], done["result"]["what"]) == ("Echo", "complete", 1)
    assert (failed["status"], failed["error"]) == ("failed", "ValueError")
    assert (one.type, one.message_id, one.delivery_mode) == ("fossa.ended", done["task_id"], 2)
    assert one.content_type == "application/json"


async def test_an_exchange_gets_them_by_model_and_status(broker, fresh_prefix):
    exchange, queue = f"{fresh_prefix}.events", f"{fresh_prefix}.failures"

    def declared(channel):
        channel.exchange_declare(exchange, "topic")
        channel.queue_declare(queue)
        channel.queue_bind(queue, exchange, "*.failed")

    work(broker.url, declared)
    try:
        sink = RabbitSink(url=broker.url, exchange=exchange)
        async with running(TestConfig, SINKS=[sink]) as node:
            await outcome(node, "Fails")
            await outcome(node, "Echo", "say")
        [(_, document)] = await asyncio.to_thread(taken_from, broker.url, queue)
        assert document["model"] == "Fails"
    finally:
        work(
            broker.url,
            lambda channel: (channel.exchange_delete(exchange), channel.queue_delete(queue)),
        )


async def test_an_exchange_that_is_not_there_is_told_at_the_start(broker, fresh_prefix):
    with pytest.raises(FossaError, match="cannot find the exchange no-such"):
        async with running(SINKS=[RabbitSink(url=broker.url, exchange="no-such")]):
            pass


async def test_a_broker_that_was_away_gets_them_afterwards(proxy, broker, fresh_prefix, queue):
    options = {"prefix": fresh_prefix, "max_backoff": 0.3, "required": True}
    sink = RabbitSink(url=proxy.url, **options)
    async with running(SINKS=[sink]) as node:
        proxy.refuse()
        proxy.cut()
        await eventually(lambda: "not connected" in "".join(node.governor.not_ready()))
        await outcome(node, "Echo", "say")
        proxy.refuse(False)
        await eventually(lambda: not node.governor._settling)
    assert len(await asyncio.to_thread(taken_from, broker.url, queue)) == 1


async def test_a_result_that_no_message_can_carry_is_left_out(broker, fresh_prefix, queue):
    sink = RabbitSink(url=broker.url, prefix=fresh_prefix, max_message_bytes=2000)
    task = Task(id=new_id(), model="Big", accepted=time.time())
    ended = Outcome(
        status=Status.COMPLETE, reason=Reason.RETURNED, result_json=json.dumps("x" * 5000).encode()
    )
    async with running(SINKS=[sink]):
        await sink.take(task, ended)
    [(_, document)] = await asyncio.to_thread(taken_from, broker.url, queue)
    assert (document["result"], document["result_left_out"]) == (None, True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "url is missing"),
        ({"url": "amqp://h/", "queue": "q", "exchange": "e"}, "give one of them"),
        ({"url": "amqp://h/", "routing_key": "k"}, "routing_key is for an exchange"),
        ({"url": "amqp://h/", "queue": "x" * 256}, "queue is 'xxx"),
        ({"url": "amqp://h/", "exchange": ""}, "exchange is ''"),
        ({"url": "amqp://h/", "wire": "0.0.37"}, "wire is for sources and executors"),
        ({"url": "amqp://h/", "quue": "q"}, "quue is no option"),
    ],
)
def test_wrong_options_are_told(given, said):
    with pytest.raises(ConfigError) as raised:
        RabbitSink(**given)
    assert said in str(raised.value)
