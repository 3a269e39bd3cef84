"""The broker, the network and other nodes fail; every task still ends exactly once."""

import asyncio
import os
import uuid

import pytest
from faults_support import (
    Book,
    Far,
    check,
    client,
    know_each_other,
    outcome_of,
    plugin,
    some_nodes,
    until_async,
    work,
)

from fossa_rabbitmq.post import Post
from fossa_rabbitmq.testing import PrivateBroker
from fossa_rabbitmq.testing.fixtures import demand_rabbitmq
from support import until

#: Seconds that the broker is gone for, beyond what it takes to start.
OUTAGE = float(os.environ.get("FAULTS_OUTAGE", "0.5"))
PATIENCE = (
    "application:set_env(rabbit, consumer_timeout, {timeout}), "
    "application:set_env(rabbit, channel_tick_interval, {tick})."
)


@pytest.fixture
async def nodes(broker, fresh_prefix):
    """Starts nodes; they stop while the queues still exist."""
    async with some_nodes() as starter:
        yield starter


@pytest.fixture
def book(tmp_path):
    return Book(tmp_path / "journal")


def post_of(node):
    """A node's two links."""
    (component,) = node.governor.composition.sources
    return Post.of(node.governor, component._options)


def mute(proxy, link):
    """Make one link's connection half-open: the other does not notice."""
    transport = link.connection._stream._transport
    port = transport.get_extra_info("sockname")[1]
    (found,) = [x for x in proxy._links if x._near[1].get_extra_info("peername")[1] == port]
    found._mute = True


async def under_way(nodes, book, a, count=30, seconds=0.05, gate=(0, 1, 2, 3), begun=4):
    """A task whose subtasks run on two nodes; some of them wait for `book.open()`."""
    handle = await a.submit(**work(book, count, seconds=seconds, gate=list(gate)))
    await book.has("begin", begun)
    return handle


# the network


async def test_without_a_fault(nodes, book, broker, fresh_prefix):
    a, b = await nodes.pair(broker.url, fresh_prefix)
    handle = await under_way(nodes, book, a)
    book.open()
    await check(handle, book, 30)
    assert not book.repeated


async def test_connections_that_are_reset(nodes, book, proxy, fresh_prefix):
    a, b = await nodes.pair(proxy.url, fresh_prefix)
    handle = await under_way(nodes, book, a)
    assert proxy.cut() >= 4
    await until(lambda: "not connected" in "".join(a.governor.not_ready()))
    await until(lambda: not a.governor.not_ready() and not b.governor.not_ready())
    book.open()
    await check(handle, book, 30)


async def test_a_broker_that_is_gone_for_an_instant(nodes, book, proxy, fresh_prefix):
    a, b = await nodes.pair(proxy.url, fresh_prefix)
    handle = await under_way(nodes, book, a)
    proxy.refuse()
    proxy.cut()
    await asyncio.sleep(0.1)
    proxy.refuse(False)
    book.open()
    await check(handle, book, 30)


@pytest.mark.parametrize("side", ["giving", "taking"])
@pytest.mark.parametrize("who", ["parent", "runner"])
async def test_a_half_open_connection(nodes, book, proxy, fresh_prefix, side, who):
    a, b = await nodes.pair(proxy.url, fresh_prefix)
    handle = await under_way(nodes, book, a)
    node = a if who == "parent" else b
    mute(proxy, getattr(post_of(node), side))
    book.open()
    await check(handle, book, 30)


# the broker: one for all tests that hurt it


@pytest.fixture(scope="module")
def tough(tmp_path_factory):
    """A broker that survives what is done to it."""
    demand_rabbitmq()
    with PrivateBroker(tmp_path_factory.mktemp("tough")) as mine:
        yield mine


@pytest.fixture
def prefix():
    return f"tough-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def tough_nodes(tough):
    async with some_nodes() as starter:
        yield starter


async def test_a_broker_that_is_killed_and_comes_back(nodes, book, own_broker, prefix):
    a, b = await nodes.pair(own_broker.url, prefix)
    handle = await under_way(nodes, book, a)
    await asyncio.to_thread(own_broker.wait_for_disk)
    await asyncio.to_thread(own_broker.kill)
    await until(lambda: a.governor.not_ready() and b.governor.not_ready())
    book.open(0)
    await until(lambda: book.numbers("end")["0"])  # it goes on with what it has
    await asyncio.sleep(OUTAGE)
    await asyncio.to_thread(own_broker.start)
    await until(lambda: not a.governor.not_ready() and not b.governor.not_ready(), 30)
    book.open()
    await check(handle, book, 30)


async def test_a_broker_that_has_an_alarm(tough_nodes, book, tough, prefix, monkeypatch):
    monkeypatch.setattr("fossa_rabbitmq.post.PRESENCE_INTERVAL", 0.2)
    monkeypatch.setattr("fossa_rabbitmq.fleet.GONE_AFTER", 1.0)
    a, b = await tough_nodes.pair(tough.url, prefix)
    handle = await under_way(tough_nodes, book, a)
    await alarm(tough, True)
    try:
        await until(lambda: "takes no messages" in "".join(a.governor.not_ready()))
        await asyncio.sleep(2)  # long enough for everybody to be taken for gone
        local = await a.submit(**work(Book(book.path.with_name("local")), 10))
        book.open(0)
    finally:
        await alarm(tough, False)
    await until(lambda: not a.governor.not_ready() and not b.governor.not_ready())
    book.open()
    await check(handle, book, 30)
    assert (await outcome_of(local)).complete


async def alarm(broker, on):
    level = "0.00001" if on else "0.4"
    await asyncio.to_thread(broker.ctl, "set_vm_memory_high_watermark", level)


async def test_a_task_queue_that_is_deleted(nodes, book, broker, fresh_prefix):
    a, b = await nodes.pair(broker.url, fresh_prefix)
    handle = await under_way(nodes, book, a, count=60)
    async with client(broker.url, fresh_prefix, a.governor.logger) as someone:
        await someone.delete(f"{fresh_prefix}.subtasks")
        book.open()
        await check(handle, book, 60)


async def test_a_task_queue_that_is_deleted_with_messages_in_it(nodes, book, broker, fresh_prefix):
    a = await nodes.start("a", executor=plugin(broker.url, fresh_prefix), PLUGINS=[Far()])
    b = await nodes.start("b", source=plugin(broker.url, fresh_prefix), SLOTS=1)
    await know_each_other(a, b)
    handle = await under_way(nodes, book, a, gate=range(30), begun=1)
    async with client(broker.url, fresh_prefix, a.governor.logger) as someone:
        await until_async(lambda: someone.depth(f"{fresh_prefix}.subtasks"))
        await someone.delete(f"{fresh_prefix}.subtasks")
        book.open()
        await check(handle, book, 30)


async def test_a_reply_queue_that_is_deleted(nodes, book, broker, fresh_prefix):
    a, b = await nodes.pair(broker.url, fresh_prefix)
    handle = await under_way(nodes, book, a)
    async with client(broker.url, fresh_prefix, a.governor.logger) as someone:
        await someone.delete(f"{fresh_prefix}.replies.{a.governor.id}")
        book.open()
        await check(handle, book, 30)


async def test_a_reply_queue_that_is_deleted_while_its_node_is_away(
    nodes, book, broker, proxy, fresh_prefix
):
    a, b = await nodes.pair(proxy.url, fresh_prefix, broker.url)
    handle = await under_way(nodes, book, a)
    proxy.refuse()
    proxy.cut()
    async with client(broker.url, fresh_prefix, a.governor.logger) as someone:
        await someone.delete(f"{fresh_prefix}.replies.{a.governor.id}")
    book.open()
    await until(lambda: book.numbers("end").keys() >= {"0", "1", "2", "3"})
    proxy.refuse(False)
    await check(handle, book, 30)


async def test_a_parent_that_nobody_hears_for_a_while(
    nodes, book, broker, proxy, fresh_prefix, monkeypatch
):
    monkeypatch.setattr("fossa_rabbitmq.post.PRESENCE_INTERVAL", 0.2)
    monkeypatch.setattr("fossa_rabbitmq.fleet.GONE_AFTER", 1.0)
    a, b = await nodes.pair(proxy.url, fresh_prefix, broker.url)
    handle = await under_way(nodes, book, a)
    proxy.refuse()
    proxy.cut()
    await until(lambda: len(b.governor.fleet()) == 1)
    await asyncio.sleep(0.5)
    proxy.refuse(False)
    book.open()
    await check(handle, book, 30)


async def test_a_consumer_that_the_broker_loses_patience_with(
    tough_nodes, book, tough, prefix, patience
):
    a, b = await tough_nodes.pair(tough.url, prefix, SLOTS=2)
    handle = await under_way(tough_nodes, book, a)
    await asyncio.sleep(4)
    book.open()
    await check(handle, book, 30)


@pytest.fixture
def patience(tough):
    """The broker waits for an acknowledgement for a second only."""
    tough.ctl("eval", PATIENCE.format(timeout=1000, tick=500))
    yield
    tough.ctl("eval", PATIENCE.format(timeout=1_800_000, tick=60_000))
