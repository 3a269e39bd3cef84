"""The broker, the network and other nodes fail; every task still ends exactly once."""

import asyncio
import os
import uuid

import faults_models
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
from support import until

#: Seconds that the broker is gone for; `make chaos` has it gone for five minutes.
OUTAGE = float(os.environ.get("FAULTS_OUTAGE", "10"))
#: Seconds that it takes to start, at the least.
STARTING = 4.0
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


def outbox_of(node):
    """What a node has sent and has no outcome of."""
    return Post.of(node.governor, node.governor.composition.executors[-1]._options).outbox


def mute(proxy, link):
    """Make one link's connection half-open: the other does not notice."""
    transport = link.connection._stream._transport
    port = transport.get_extra_info("sockname")[1]
    (found,) = [x for x in proxy._links if x._near[1].get_extra_info("peername")[1] == port]
    found._mute = True


async def under_way(nodes, book, a, count=30, seconds=0.05, gate=(0, 1, 2, 3), begun=4):
    """A task whose subtasks run on two nodes; some of them wait for `book.open()`."""
    handle = await a.submit(**work(book, count, seconds=seconds, gate=list(gate)))
    gated = set(map(str, gate))
    await until(lambda: len(book.numbers("begin").keys() & gated) >= begun, 20)
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


@pytest.fixture
def tough(tough_broker):
    return tough_broker


@pytest.fixture
def prefix():
    return f"tough-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def tough_nodes(tough):
    async with some_nodes() as starter:
        yield starter


async def test_a_broker_that_is_killed_and_comes_back(tough_nodes, book, tough, prefix):
    a, b = await tough_nodes.pair(tough.url, prefix)
    handle = await under_way(tough_nodes, book, a)
    await asyncio.to_thread(tough.wait_for_disk)
    await asyncio.to_thread(tough.kill)
    await until(lambda: a.governor.not_ready() and b.governor.not_ready())
    book.open(0)
    await until(lambda: book.numbers("end")["0"])  # it goes on with what it has
    await asyncio.sleep(OUTAGE - STARTING)
    await asyncio.to_thread(tough.start)
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
        for node in (a, b):
            await until(lambda node=node: "takes no messages" in "".join(node.governor.not_ready()))
        await asyncio.sleep(2)  # long enough for everybody to be taken for gone
        local = await a.submit(**work(Book(book.path.with_name("local")), 10))
        book.open()
        assert (await outcome_of(local)).complete  # it goes on with what it can do by itself
        assert "takes no messages" in "".join(a.governor.not_ready())
    finally:
        await alarm(tough, False)
    await until(lambda: not a.governor.not_ready() and not b.governor.not_ready())
    await check(handle, book, 30)
    assert not book.repeated


async def test_what_a_node_could_not_say_during_an_alarm_it_says_later(
    tough_nodes, book, tough, prefix, monkeypatch
):
    """Else its parent's node would take for lost what runs there."""
    monkeypatch.setattr("fossa_rabbitmq.reports.INTERVAL", 1000)
    monkeypatch.setattr("fossa_rabbitmq.reports.REPEAT", 1000)
    monkeypatch.setattr("fossa_rabbitmq.post.PRESENCE_INTERVAL", 0.2)
    a = await tough_nodes.start("a", executor=plugin(tough.url, prefix), PLUGINS=[Far()])
    b = await tough_nodes.start("b", source=plugin(tough.url, prefix))
    await know_each_other(a, b)
    outbox = outbox_of(a)
    handle = await a.submit(**work(book, 1, gate=[0]))
    await book.has("begin", 1)
    await alarm(tough, True)
    try:
        await until(lambda: post_of(b).blocked, 20)
        monkeypatch.setattr("fossa_rabbitmq.reports.INTERVAL", 0.05)
        (source,) = b.governor.composition.sources
        source._guests.reports._report()
        await asyncio.sleep(0.3)
        assert [sent.begun for sent in outbox._sent.values()] == [False]
    finally:
        await alarm(tough, False)
    await until(lambda: [sent.begun for sent in outbox._sent.values()] == [True], 20)
    book.open()
    await check(handle, book, 1)


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
    """What is asked for again is run once, and every message about it is settled."""
    a = await nodes.start("a", executor=plugin(broker.url, fresh_prefix), PLUGINS=[Far()])
    b = await nodes.start("b", source=plugin(broker.url, fresh_prefix), SLOTS=5)
    await know_each_other(a, b)
    handle = await under_way(nodes, book, a)
    async with client(broker.url, fresh_prefix, a.governor.logger) as someone:
        await someone.delete(f"{fresh_prefix}.replies.{a.governor.id}")
        book.open(0)
        await until(lambda: "0" in book.numbers("told"))
        book.open()
        await check(handle, book, 30)
    assert not book.repeated
    await until(lambda: not held_by(b))


def held_by(node):
    """Messages that a node has not settled."""
    (source,) = node.governor.composition.sources
    return source._guests.held


async def test_a_parent_that_is_away_for_longer_than_its_queue_for_replies(
    nodes, book, broker, proxy, fresh_prefix, monkeypatch
):
    monkeypatch.setattr("fossa_rabbitmq.topology.REPLIES_EXPIRE", 1)
    a, b = await nodes.pair(proxy.url, fresh_prefix, broker.url)
    handle = await under_way(nodes, book, a)
    proxy.refuse()
    proxy.cut()
    async with client(broker.url, fresh_prefix, a.governor.logger) as someone:
        replies = f"{fresh_prefix}.replies.{a.governor.id}"
        # To ask whether it is still there is to use it.
        await until_async(lambda: someone.lacks(replies), pause=1.5)
    book.open()
    await until(lambda: book.numbers("end").keys() >= {"0", "1", "2", "3"})
    proxy.refuse(False)
    await check(handle, book, 30)
    assert not book.repeated


async def test_a_parent_that_nobody_hears_for_a_while(
    nodes, book, broker, proxy, fresh_prefix, monkeypatch
):
    """What was stopped because nobody seemed to wait for it is run again."""
    monkeypatch.setattr("fossa_rabbitmq.post.PRESENCE_INTERVAL", 0.2)
    monkeypatch.setattr("fossa_rabbitmq.fleet.GONE_AFTER", 1.0)
    a, b = await nodes.pair(proxy.url, fresh_prefix, broker.url)
    handle = await under_way(nodes, book, a)
    guests = {record.task.id for record in b.governor.running()}
    proxy.refuse()
    proxy.cut()
    await until(lambda: not b.governor.running())
    proxy.refuse(False)
    await until(lambda: len(b.governor.running()) == 2)
    book.open()
    await check(handle, book, 30)
    assert len(book.repeated) == len(guests) == 2


async def test_what_was_made_while_the_broker_was_away_is_sent_once_it_is_back(
    nodes, book, broker, proxy, fresh_prefix, monkeypatch
):
    """Also where nothing else happens on its node, whose slots are taken for long."""
    monkeypatch.setattr("fossa_rabbitmq.post.PRESENCE_INTERVAL", 0.2)
    a, b = await nodes.pair(proxy.url, fresh_prefix, broker.url)
    # Nothing that is heard of the other is news.
    await until(lambda: all(node["state"] == "running" for node in a.governor.fleet()))
    proxy.refuse()
    proxy.cut()
    await until(lambda: post_of(a).trouble)
    handle = await a.submit(**work(book, 6, gate=list(range(6))))
    await until(lambda: len(book.numbers("begin")) == 2)
    proxy.refuse(False)
    await until(lambda: len(b.governor.running()) == 2)
    book.open()
    await check(handle, book, 6)
    assert not book.repeated


async def test_a_node_that_stops_while_the_broker_is_away(nodes, book, proxy, fresh_prefix):
    """It leaves nothing behind: nobody can tell it how its subtasks on other nodes end."""
    a, b = await nodes.pair(proxy.url, fresh_prefix)
    await under_way(nodes, book, a)
    proxy.refuse()
    proxy.cut()
    attempts = [live.runner for live in a.governor._live.values() if live.runner is not None]
    assert len(attempts) > 4
    await asyncio.wait_for(a.stop(timeout=0.2), 10)
    assert all(attempt.done() for attempt in attempts)


async def test_a_consumer_that_the_broker_loses_patience_with(
    tough_nodes, book, tough, prefix, patience, caplog
):
    a, b = await tough_nodes.pair(tough.url, prefix, SLOTS=2)
    handle = await under_way(tough_nodes, book, a)
    await until(lambda: "acknowledgement on channel" in caplog.text, 20)
    await until(lambda: not a.governor.not_ready() and not b.governor.not_ready())
    book.open()
    await check(handle, book, 30)


async def test_a_task_that_comes_again_while_it_runs(
    tough_nodes, book, tough, prefix, patience, caplog
):
    """The broker loses patience with a long task: the node adopts what is delivered again."""
    node = await tough_nodes.start("a", source=plugin(tough.url, prefix), SLOTS=2)
    async with client(tough.url, prefix, node.governor.logger) as someone:
        await someone.submit(1, book, gate=True)
        await until(lambda: "acknowledgement on channel" in caplog.text, 20)
        await until(lambda: [h for h in held_by(node) if h.message.redelivered and h.task_ids])
        book.open()
        assert (await someone.reply(1))["outcome"]["result"] == {"number": 1}
        await until(lambda: not held_by(node))
        assert await someone.depth(f"{prefix}.tasks") == 0
    assert len(book.lines("begin")) == 1


async def test_a_task_whose_last_delivery_is_lost(nodes, book, broker, proxy, fresh_prefix):
    """The broker buries its message: only the node that runs it can say how it ended."""
    once = plugin(proxy.url, fresh_prefix, delivery_limit=1)
    node = await nodes.start("a", source=once)
    async with client(broker.url, fresh_prefix, node.governor.logger) as someone:
        await someone.submit(1, book, gate=True)
        await book.has("begin", 1)
        proxy.cut()
        await until(lambda: [h for h in held_by(node) if h.deliveries == 1 and h.task_ids], 20)
        proxy.cut()
        await until_async(lambda: holds(someone, f"{fresh_prefix}.dead"), 20)
        assert not held_by(node)
        book.open()
        assert (await someone.reply(1))["outcome"]["result"] == {"number": 1}
    assert len(book.lines("begin")) == 1


async def holds(someone, queue):
    return await someone.depth(queue) > 0


async def test_subtasks_in_a_queue_that_somebody_empties(
    nodes, book, broker, fresh_prefix, monkeypatch
):
    monkeypatch.setattr("fossa_rabbitmq.outbox.LOOK_INTERVAL", 1.0)
    monkeypatch.setattr("fossa_rabbitmq.outbox.LOST_AFTER", 1.0)
    a = await nodes.start("a", executor=plugin(broker.url, fresh_prefix), PLUGINS=[Far()])
    b = await nodes.start("b", source=plugin(broker.url, fresh_prefix), SLOTS=1)
    await know_each_other(a, b)
    queue = f"{fresh_prefix}.subtasks"
    async with client(broker.url, fresh_prefix, a.governor.logger) as someone:
        handle = await a.submit(**work(book, 4, gate=[0, 1, 2, 3]))
        await book.has("begin", 1)
        await until_async(lambda: holds(someone, queue))
        await someone.purge(queue)
        # What b runs is none of those that are lost, however long it takes.
        await until_async(lambda: holds(someone, queue), 20)
        book.open()
        await check(handle, book, 4)
    assert not book.repeated


async def test_a_subtask_that_is_lost_after_a_stopping_node_had_it(
    nodes, book, broker, fresh_prefix, monkeypatch
):
    monkeypatch.setattr("fossa_rabbitmq.outbox.LOOK_INTERVAL", 1.0)
    monkeypatch.setattr("fossa_rabbitmq.outbox.LOST_AFTER", 1.0)
    source = plugin(broker.url, fresh_prefix)
    a = await nodes.start("a", executor=source, PLUGINS=[Far()])
    b = await nodes.start("b", source=source)
    await know_each_other(a, b)
    outbox = outbox_of(a)
    async with client(broker.url, fresh_prefix, a.governor.logger) as someone:
        handle = await a.submit(**work(book, 1, gate=[0]))
        await book.has("begin", 1)
        await until(lambda: [sent.begun for sent in outbox._sent.values()] == [True])
        await b.stop(timeout=0.1)
        await until_async(lambda: holds(someone, f"{fresh_prefix}.subtasks"))
        await someone.purge(f"{fresh_prefix}.subtasks")
        await nodes.start("c", source=source)
        book.open()
        await check(handle, book, 1)
    assert len(book.lines("begin")) == 2


async def one_that_parks(nodes, broker, prefix):
    """A parent's node, one for its subtasks, and one that moves them to their model's queue."""
    source = plugin(broker.url, prefix)
    a = await nodes.start("a", executor=source, PLUGINS=[Far()])
    b = await nodes.start("b", source=source, SLOTS=1)
    others = [faults_models.Single]
    c = await nodes.start("c", source=source, ACCEPTED_MODEL_CLASSES=others)
    await know_each_other(a, b, c)
    return a, b, c


async def test_a_subtask_that_waits_for_long_in_its_models_queue_is_not_lost(
    nodes, book, broker, fresh_prefix, monkeypatch, caplog
):
    monkeypatch.setattr("fossa_rabbitmq.outbox.LOOK_INTERVAL", 0.5)
    monkeypatch.setattr("fossa_rabbitmq.outbox.LOST_AFTER", 0.5)
    a, _, c = await one_that_parks(nodes, broker, fresh_prefix)
    # Until then it waits for others to be heard, and says that it has what it does not accept.
    await until(lambda: not post_of(c).fleet.settled)
    async with client(broker.url, fresh_prefix, a.governor.logger) as someone:
        handle = await a.submit(**work(book, 2, gate=[0, 1]))
        await until_async(lambda: parked(someone, f"{fresh_prefix}.model.Work"), 20)
        await asyncio.sleep(3)
        assert await someone.depth(f"{fresh_prefix}.model.Work") == 1
    assert len(book.lines("begin")) == 1
    assert "sent again" not in caplog.text
    book.open()
    await check(handle, book, 2)
    assert not book.repeated


async def test_a_subtask_that_is_lost_after_a_node_that_lives_on_had_it(
    nodes, book, broker, fresh_prefix, monkeypatch
):
    monkeypatch.setattr("fossa_rabbitmq.outbox.LOOK_INTERVAL", 0.5)
    monkeypatch.setattr("fossa_rabbitmq.outbox.LOST_AFTER", 0.5)
    monkeypatch.setattr("fossa_rabbitmq.outbox.SILENT_AFTER", 1.5)
    monkeypatch.setattr("fossa_rabbitmq.reports.REPEAT", 0.3)
    monkeypatch.setattr("fossa_rabbitmq.fleet.SETTLED_AFTER", 3.0)
    a, b, c = await one_that_parks(nodes, broker, fresh_prefix)
    outbox, queue = outbox_of(a), f"{fresh_prefix}.model.Work"
    async with client(broker.url, fresh_prefix, a.governor.logger) as someone:
        handle = await a.submit(**work(book, 2, gate=[0, 1]))
        # It says that it has what it does not accept, until it knows of everybody else.
        holders = {b.governor.id, c.governor.id}
        await until(lambda: {sent.holder for sent in outbox._sent.values()} == holders)
        await until_async(lambda: parked(someone, queue), 20)
        await someone.purge(queue)
        await until_async(lambda: holds(someone, queue), 20)
        book.open()
        await check(handle, book, 2)
    assert not book.repeated


async def parked(someone, queue):
    return not await someone.lacks(queue) and await holds(someone, queue)


async def test_a_subtask_that_waits_for_long_with_another_node_is_not_lost(
    nodes, book, broker, fresh_prefix, monkeypatch, caplog
):
    monkeypatch.setattr("fossa_rabbitmq.outbox.LOOK_INTERVAL", 0.5)
    monkeypatch.setattr("fossa_rabbitmq.outbox.LOST_AFTER", 0.5)
    # The other node takes messages ahead of its slot: they seem to be short.
    monkeypatch.setattr("fossa_rabbitmq.levels.Level.short", True)
    a = await nodes.start("a", executor=plugin(broker.url, fresh_prefix), PLUGINS=[Far()])
    b = await nodes.start("b", source=plugin(broker.url, fresh_prefix), SLOTS=1)
    await know_each_other(a, b)
    handle = await a.submit(**work(book, 2, gate=[0, 1]))
    await until(lambda: len(held_by(b)) == 2)
    await asyncio.sleep(3)
    assert len(book.lines("begin")) == 1
    assert "sent again" not in caplog.text
    book.open()
    await check(handle, book, 2)
    assert not book.repeated


@pytest.fixture
def patience(tough):
    """The broker waits for an acknowledgement for a second only."""
    tough.ctl("eval", PATIENCE.format(timeout=1000, tick=500))
    yield
    tough.ctl("eval", PATIENCE.format(timeout=1_800_000, tick=60_000))
