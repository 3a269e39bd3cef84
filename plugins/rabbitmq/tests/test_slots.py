"""A slot before a message: what a busy node leaves to others, and how soon they begin it."""

import asyncio
import statistics
import time
from uuid import uuid4

import pytest
from node_support import PATIENCE, eventually, page

from fossa_rabbitmq.intake import Intake

TRIALS = 20
#: What is promised, in seconds, for half of the trials at least; and what a busy computer of two
#: processors may make of it at the worst.
PROMISED, WORST = 0.1, 1.0
ECHO = {"model": "Echo", "method": "say"}


class Gated:
    """Tasks that run until they are let."""

    def __init__(self, directory):
        self._directory = directory
        self._count = 0

    def task(self):
        """A task's document, and its gate: a path to `touch`."""
        self._count += 1
        gate = self._directory / f"gate-{self._count}"
        return {"model": "Talks", "method": "talk", "method_kwargs": {"go": str(gate)}}, gate


@pytest.fixture
def gated(tmp_path):
    return Gated(tmp_path)


def running(node):
    return node.governor.status()["running"]


async def occupied(client, node, gated):
    """A node's slots are taken, one after the other; returns the gates."""
    gates = []
    for number in range(node.governor.status()["slots"]):
        task, gate = gated.task()
        await client.send(task, correlation_id="gated")
        await eventually(lambda number=number: running(node) == number + 1)
        gates.append(gate)
    return gates


async def send(client, correlation_id, queue="tasks"):
    """A task of its own: without an id, messages that are alike are one."""
    await client.send(ECHO, correlation_id=correlation_id, queue=queue, message_id=str(uuid4()))


async def ready(client, queue, count):
    """Returns once so many messages wait in a queue, held by nobody."""
    async with asyncio.timeout(PATIENCE):
        while await client.ready(queue) != count:
            await asyncio.sleep(0.005)


def told(record_property, name, seconds):
    """The figures of a test, in its report (`-rP`, or `--junit-xml`)."""
    figures = (statistics.median(seconds) * 1000, max(seconds) * 1000)
    record_property(name, "p50 {:.1f} ms, max {:.1f} ms".format(*figures))
    print(f"{name}: p50 {figures[0]:.1f} ms, max {figures[1]:.1f} ms of {len(seconds)}")


async def test_a_busy_node_holds_no_message_that_it_does_not_run(start_node, client, gated):
    """What the broker has delivered and got no acknowledgement of is what it was sent, less what
    is ready there."""
    node = await start_node("a", SLOTS=2)
    gates = await occupied(client, node, gated)
    for sent in range(1, 7):
        await send(client, "other")
        await ready(client, "tasks", sent)  # of sent + 2: the two that run are held
        await send(client, "other", "tasks.urgent")
        await ready(client, "tasks.urgent", sent)
    assert running(node) == 2
    assert node.governor.status()["queued"] == 0
    gates[0].touch()
    await client.reply("other", 12)
    assert running(node) == 1
    gates[1].touch()
    await client.reply("gated", 2)
    await node.stop()
    assert await client.ready("tasks") == await client.ready("tasks.urgent") == 0


async def test_a_task_begins_on_the_free_node_at_once(start_node, client, gated, record_property):
    busy = await start_node("busy")
    (gate,) = await occupied(client, busy, gated)
    free = await start_node("free")
    await client.ask(ECHO, correlation_id="its worker is there")
    waited = []
    for number in range(TRIALS):
        sent = time.time()
        reply = await client.ask(ECHO, correlation_id=f"trial {number}")
        waited.append(reply["outcome"]["started"] - sent)
        assert reply["node"]["name"] == "free"
    assert len(await page(free)) == TRIALS + 1
    assert running(busy) == 1
    gate.touch()
    told(record_property, "begun on the free node", waited)
    assert statistics.median(waited) < PROMISED
    assert max(waited) < WORST


async def test_a_task_that_waits_begins_on_the_node_that_is_free_first(
    start_node, client, gated, record_property
):
    busy = await start_node("busy")
    (last,) = await occupied(client, busy, gated)
    other = await start_node("other")
    waited = []
    for number in range(TRIALS // 2):
        (gate,) = await occupied(client, other, gated)
        await client.send(ECHO, correlation_id=f"trial {number}")
        await ready(client, "tasks", 1)
        await asyncio.sleep(0.1)  # tasks that are soon over would be streamed
        gate.touch()
        reply = await client.reply(f"trial {number}")
        (_, ended) = (await client.do(client._wait, "gated", number + 1))[-1]
        waited.append(reply["outcome"]["started"] - ended["outcome"]["finished"])
        assert reply["node"]["name"] == "other"
    last.touch()
    told(record_property, "begun once a slot was free", waited)
    assert statistics.median(waited) < PROMISED
    assert max(waited) < WORST


# short tasks


def streams(node):
    """The queues that a node streams."""
    (source,) = node.composition.sources
    return [level.queue for level in source._intake._levels if level.streaming]


async def streaming(client, node, prefix):
    """A node has seen that its tasks are short."""
    async with asyncio.timeout(PATIENCE):
        while streams(node) != [f"{prefix}.tasks"]:
            await send(client, "training")
            await client.reply("training", len(client.replies["training"]) + 1)


async def test_what_is_deeper_is_found_while_messages_of_one_queue_are_fetched(start_node, client):
    """It is looked for a few times a second, not before each of them."""
    await start_node("a")
    nap = {"model": "Naps", "method": "nap", "method_kwargs": {"number": 0, "seconds": 0.05}}
    for _ in range(40):
        await client.send(nap, correlation_id="nap", message_id=str(uuid4()))
    await client.reply("nap", 10)
    sent = time.time()
    await send(client, "urgent", "tasks.urgent")
    reply = await client.reply("urgent")
    assert reply["outcome"]["started"] - sent < WORST
    assert len(client.replies["nap"]) < 30
    await client.reply("nap", 40)


async def test_short_tasks_are_streamed_and_spread(start_node, client):
    nodes = [await start_node(name) for name in "ab"]
    for _ in range(400):
        await send(client, "short")
    await client.reply("short", 400)
    ran = [len(await page(node)) for node in nodes]
    assert sum(ran) == 400
    assert all(ran)
    ids = {reply["task_id"] for _, reply in client.replies["short"]}
    assert len(ids) == len(client.replies["short"]) == 400


def listens(node):
    """Whether a node listens to queues that it does not stream."""
    (source,) = node.governor.composition.sources
    return any(level.tag for level in source._intake._levels if not level.streaming)


async def test_a_queue_whose_stream_ends_while_others_are_listened_to_is_not_forgotten(
    start_node, client, gated, fresh_prefix, monkeypatch
):
    open_all, ended = Intake._open_all, []

    async def and_end_the_stream(intake, channel, levels):
        await open_all(intake, channel, levels)
        for level in [level for level in intake._levels if level.streaming]:
            async with intake._changing:
                await intake._end_consumer(level)
                level.streaming = False
            level.forget()
            intake._stirred.set()
            ended.append(level)

    a = await start_node("a")
    await streaming(client, a, fresh_prefix)
    # However long the long one takes here: the stream is to end below, not before.
    monkeypatch.setattr("fossa_rabbitmq.levels.STREAM_NOT_ABOVE", 60)
    monkeypatch.setattr(Intake, "_open_all", and_end_the_stream)
    task, gate = gated.task()  # a long one: then it listens anew
    await client.send(task, correlation_id="long")
    await eventually(lambda: running(a) == 1 and not listens(a))
    gate.touch()
    await client.reply("long")
    await eventually(lambda: ended)
    await send(client, "afterwards")
    await client.reply("afterwards")


async def test_what_a_stream_brought_behind_a_long_task_goes_to_the_free_node(
    start_node, client, gated, fresh_prefix, record_property
):
    a = await start_node("a")
    await streaming(client, a, fresh_prefix)
    task, gate = gated.task()
    await client.send(task, correlation_id="long")
    await eventually(lambda: running(a) == 1 and len(a.governor.running()) == 1)
    await client.send(ECHO, correlation_id="behind")
    await eventually(lambda: a.governor.status()["queued"] == 1)  # brought ahead: it waits there
    b = await start_node("b")
    assert (await client.reply("behind"))["node"]["name"] == "b"
    assert "long" not in client.replies
    assert streams(a) == []
    # What comes now never waits behind the long one.
    waited = []
    for number in range(5):
        sent = time.time()
        reply = await client.ask(ECHO, correlation_id=f"later {number}")
        waited.append(reply["outcome"]["started"] - sent)
        assert reply["node"]["name"] == "b"
    told(record_property, "begun on the free node", waited)
    assert statistics.median(waited) < PROMISED
    gate.touch()
    assert (await client.reply("long"))["node"]["name"] == "a"
    assert len(await page(b)) == 6


async def test_a_node_that_has_just_become_free_gets_what_a_stream_holds_elsewhere(
    start_node, client, gated, fresh_prefix, record_property
):
    """It was busy when it was last heard of: it says at once that it is not any more."""
    b = await start_node("b")
    (gate,) = await occupied(client, b, gated)
    a = await start_node("a")
    await streaming(client, a, fresh_prefix)
    task, long = gated.task()
    await client.send(task, correlation_id="long")
    await eventually(lambda: running(a) == 1)
    await send(client, "behind")
    await eventually(lambda: a.governor.status()["queued"] == 1)
    gate.touch()
    reply = await client.reply("behind")
    ended = await client.reply("gated")
    assert reply["node"]["name"] == "b"
    waited = reply["outcome"]["started"] - ended["outcome"]["finished"]
    told(record_property, "handed to the node that became free", [waited])
    assert waited < WORST
    long.touch()
    await client.reply("long")


async def test_long_tasks_behind_short_ones_begin_on_whichever_node_is_free(
    start_node, client, gated, fresh_prefix
):
    a, b = await start_node("a"), await start_node("b")
    for node in (a, b):
        await streaming(client, node, fresh_prefix)
    gates = []
    for _ in range(2):
        task, gate = gated.task()
        gates.append(gate)
        for _ in range(20):
            await send(client, "short")
        await client.send(task, correlation_id="long")
    await eventually(lambda: [talking(node) for node in (a, b)] == [1, 1])
    for gate in gates:
        gate.touch()
    await client.reply("long", 2)
    await client.reply("short", 40)
    assert {reply["node"]["name"] for _, reply in client.replies["long"]} == {"a", "b"}


def talking(node):
    return [record.task.model for record in node.governor.running()].count("Talks")
