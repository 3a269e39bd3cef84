import asyncio
import logging
import math
import uuid

import pika
import pytest

from fossa_rabbitmq.connection import Connection, Mismatch
from fossa_rabbitmq.options import options
from fossa_rabbitmq.topology import (
    Topology,
    ack_timeout,
    declare,
    declare_control,
    declare_replies,
    version_of,
    warnings,
)

LOGGER = logging.getLogger("fossa.test")


@pytest.fixture
async def connection(broker, fresh_prefix):
    given = options(url=broker.url, prefix=fresh_prefix)
    connection = await Connection.dial(given, "test", LOGGER)
    yield connection
    await connection.close()


def of(connection, **changes):
    given = connection.options
    return options(**({"url": given.url, "prefix": given.prefix} | changes))


async def arrived(channel, queue):
    """The next message of a queue, or a failure after 10 s."""
    async with asyncio.timeout(10):
        while (message := await channel.get(queue)) is None:
            await asyncio.sleep(0.02)
    return message


def test_names_and_order():
    names = Topology(options(url="amqp://h", prefix="p"))
    assert [names.tasks(p) for p in (5, 0, -1)] == [
        "p.tasks.urgent",
        "p.tasks",
        "p.tasks.background",
    ]
    assert [names.subtasks(d) for d in (1, 2, 7)] == ["p.subtasks", "p.nested", "p.nested"]
    assert names.levels == [
        "p.nested", "p.subtasks", "p.tasks.urgent", "p.tasks", "p.tasks.background",
    ]  # fmt: skip
    assert (names.dead, names.control, names.replies("b1")) == (
        "p.dead",
        "p.control",
        "p.replies.b1",
    )


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_declaring_twice_is_harmless(connection, queue_type):
    channel = await connection.channel()
    for _ in range(2):
        names = await declare(channel, of(connection, queue_type=queue_type))
    for queue in (*names.levels, names.dead):
        assert await channel.depth(queue) == 0


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_what_is_refused_gets_to_the_dead_letters(connection, queue_type):
    channel = await connection.channel(confirms=True)
    names = await declare(channel, of(connection, queue_type=queue_type))
    properties = pika.BasicProperties(message_id="m1", delivery_mode=2)
    await channel.publish("", names.ordinary, b"poison", properties)
    channel.nack((await arrived(channel, names.ordinary)).delivery_tag, requeue=False)
    dead = await arrived(channel, names.dead)
    assert (dead.body, dead.properties.message_id) == (b"poison", "m1")
    assert dead.properties.headers["x-first-death-queue"] == names.ordinary


async def test_too_many_deliveries_end_in_the_dead_letters(connection):
    channel = await connection.channel(confirms=True)
    names = await declare(channel, of(connection, delivery_limit=2))
    await channel.publish("", names.nested, b"kills", pika.BasicProperties(message_id="m2"))
    for _ in range(3):
        channel.nack((await arrived(channel, names.nested)).delivery_tag)
    dead = await arrived(channel, names.dead)
    assert dead.properties.headers["x-first-death-reason"] == "delivery_limit"


async def test_a_queue_of_another_kind_is_named_with_what_to_do(connection):
    await declare(await connection.channel(), of(connection, queue_type="classic"))
    channel = await connection.channel()
    with pytest.raises(Mismatch) as caught:
        await declare(channel, of(connection, queue_type="quorum"))
    text = str(caught.value)
    prefix = connection.options.prefix
    assert f"the queue {prefix}." in text
    assert "'classic'" in text and "'quorum'" in text
    assert "rabbitmqctl delete_queue" in text and f"prefix= (now '{prefix}')" in text
    assert "guest:guest" not in text
    assert channel.closed.done()


async def test_another_delivery_limit_is_a_mismatch(connection):
    await declare(await connection.channel(), of(connection, delivery_limit=5))
    with pytest.raises(Mismatch, match=r"x-delivery-limit .*5.* and this node needs .*6"):
        await declare(await connection.channel(), of(connection, delivery_limit=6))


async def test_an_exchange_of_another_kind_is_a_mismatch(connection, fresh_prefix):
    await (await connection.channel()).declare_exchange(f"{fresh_prefix}.control", "topic")
    with pytest.raises(Mismatch, match=rf"the exchange {fresh_prefix}\.control exists with type"):
        await declare(await connection.channel(), of(connection))


async def test_a_nodes_own_queues(connection, broker):
    channel = await connection.channel(confirms=True)
    given = of(connection)
    names = await declare(channel, given)
    boot = uuid.uuid4().hex
    replies = await declare_replies(channel, given, boot)
    control = await declare_control(channel, given, boot)
    await channel.publish(names.control, "", b"hello", pika.BasicProperties(message_id="h"))
    await channel.publish("", replies, b"done", pika.BasicProperties(message_id="r"))
    assert (await arrived(channel, control)).body == b"hello"
    await connection.close()

    other = await Connection.dial(given, "test", LOGGER)
    channel = await other.channel()
    assert await channel.depth(replies) == 1
    await channel.delete_queue(replies)
    await other.close()


@pytest.mark.parametrize(
    ("version", "changes", "seconds"),
    [
        ((3, 10, 8), {}, 1800),
        ((3, 10, 8), {"consumer_timeout": 7200}, 7200),
        ((3, 8, 9), {}, math.inf),
        ((4, 3, 0), {}, 1800),
        ((4, 3, 0), {"queue_type": "classic"}, math.inf),
    ],
)
def test_how_long_a_broker_waits(version, changes, seconds):
    assert ack_timeout(version, options(url="amqp://h", **changes)) == seconds


@pytest.mark.parametrize(
    ("said", "version"),
    [("3.10.8", (3, 10, 8)), (b"4.1.0-rc.1", (4, 1, 0)), ("4.2", (4, 2, 0)), ("?", (0, 0, 0))],
)
def test_versions(said, version):
    assert version_of({"version": said}) == version


def test_a_model_that_takes_longer_than_the_broker_waits():
    given = options(url="amqp://me:s3cret@h")
    (said,) = warnings({"version": "3.10.8"}, given, {"Long": 3600, "Short": 60})
    assert said.startswith("Long may take 3600 s and amqp://me@h:5672/ waits 1800 s")
    assert "rabbitmq.conf" in said
    (newer,) = warnings({"version": "3.13.1"}, given, {"Long": 3600})
    assert "Give consumer_timeout= in seconds" in newer
    declared = options(url="amqp://h", consumer_timeout=4000)
    assert warnings({"version": "3.13.1"}, declared, {"Long": 3600}) == []


def test_a_broker_that_is_too_old_for_safe_dead_letters():
    (said,) = warnings({"version": "3.9.1"}, options(url="amqp://h"), {})
    assert "RabbitMQ 3.9.1" in said
