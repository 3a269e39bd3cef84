"""A node that stops: it takes nothing, finishes what it can, and others have the rest at once."""

import asyncio
import time
from uuid import uuid4

import pytest
from node_support import PATIENCE, Far, eventually, page

ECHO = {"model": "Echo", "method": "say"}
#: Seconds in which what was handed back has begun elsewhere: a promise, with a generous factor.
AT_ONCE = 2.0


@pytest.fixture
def gate(tmp_path):
    return tmp_path / "go"


def gated(gate):
    """A task that runs until its gate is there."""
    return {"model": "Talks", "method": "talk", "method_kwargs": {"go": str(gate)}}


def running(node):
    return node.governor.status()["running"]


def state(node):
    return node.governor.status()["state"]


async def stopping(node, timeout=None):
    """Begin to stop a node; returns the task that ends when it has."""
    task = asyncio.create_task(node.stop(timeout))
    await eventually(lambda: state(node) != "running")
    return task


async def stopped(task):
    async with asyncio.timeout(PATIENCE):
        await task


async def at_rest(client, queue, count):
    """Returns once so many messages have waited in a queue for a while, held by nobody."""
    since = time.monotonic()
    async with asyncio.timeout(PATIENCE):
        while time.monotonic() - since < 0.2:
            if await client.ready(queue) != count:
                since = time.monotonic()
            await asyncio.sleep(0.01)


async def echoes(client, count, correlation_id="echo"):
    for _ in range(count):
        await client.send(ECHO, correlation_id=correlation_id, message_id=str(uuid4()))


async def test_it_fetches_nothing_and_finishes_what_it_runs(start_node, client, gate):
    a = await start_node("a", SLOTS=2)
    await client.send(gated(gate), correlation_id="gated")
    await eventually(lambda: running(a) == 1)
    end = await stopping(a)
    await echoes(client, 3)
    await at_rest(client, "tasks", 3)
    assert (state(a), running(a)) == ("stopping", 1)
    assert len(await page(a)) == 1
    gate.touch()
    reply = await client.reply("gated")
    assert (reply["node"]["name"], reply["outcome"]["result"]) == ("a", "said")
    await stopped(end)
    assert await client.ready("tasks") == 3  # what it ran was acknowledged
    b = await start_node("b")
    await client.reply("echo", 3)
    assert len(await page(b)) == 3
    assert len(client.replies["gated"]) == 1
    assert await client.ready("dead") == 0


async def test_what_comes_while_it_stops_is_not_delivered_again_and_again(start_node, client, gate):
    """Each time would count: too many, and the broker takes the message for poison."""
    a = await start_node("a", SLOTS=2)
    await client.send(gated(gate), correlation_id="gated")
    await eventually(lambda: running(a) == 1)
    end = await stopping(a)
    await echoes(client, 1)
    await at_rest(client, "tasks", 1)
    properties, _ = await client.do(client.take, "tasks")
    assert properties.headers.get("x-delivery-count", 0) <= 2
    gate.touch()
    await stopped(end)


async def test_a_stream_of_short_tasks_flows_past_a_node_that_stops(start_node, client):
    nodes = [await start_node(name) for name in "ab"]
    sending = asyncio.create_task(echoes(client, 400))
    await eventually(lambda: len(client.replies["echo"]) > 0 or sending.done())
    await eventually(lambda: nodes[0].governor.status()["running"] or sending.done())
    await stopped(await stopping(nodes[0]))
    await sending
    await client.reply("echo", 400)
    assert len({reply["task_id"] for _, reply in client.replies["echo"]}) == 400
    assert await client.ready("dead") == await client.ready("tasks") == 0


@pytest.mark.parametrize("subtask", [False, True], ids=["task", "subtask"])
async def test_handing_back_is_no_reason_to_give_a_task_up(start_node, client, gate, subtask):
    """What the broker would deliver for the last time goes back as a message of its own."""
    start_node.options["delivery_limit"] = 1
    a = await start_node("a", alone=True)
    if subtask:
        parent = await start_node("parent", SOURCES=[], PLUGINS=[Far()])
        arguments = {"subtasks": [["Talks", "talk", {"go": str(gate)}]]}
        handle = await parent.submit("Sends", model_construction_kwargs=arguments)
    else:
        await client.send(gated(gate), correlation_id="gated")
    await eventually(lambda: running(a) == 1)
    await stopped(await stopping(a, 0.1))
    b = await start_node("b")
    await eventually(lambda: running(b) == 1)
    gate.touch()
    if subtask:
        assert (await handle.outcome(PATIENCE)).complete
    else:
        assert (await client.reply("gated"))["outcome"]["status"] == "complete"
    assert await client.ready("dead") == 0


async def test_what_does_not_end_in_time_runs_elsewhere_at_once(start_node, client, gate):
    a = await start_node("a", SLOTS=2)
    await client.send(gated(gate), correlation_id="gated")
    await client.send(
        {"model": "Stubborn", "method": "ignore",
         "method_kwargs": {"pid_file": str(gate.with_name("pid"))}, "timeout": 30, "reply": False},
        correlation_id="stubborn",
    )  # fmt: skip
    await eventually(lambda: running(a) == 2)
    b = await start_node("b")
    began = time.time()
    end = await stopping(a, 0.3)
    await eventually(lambda: running(b) == 1)
    waited = time.time() - began - 0.3
    assert waited < AT_ONCE
    await stopped(end)
    gate.touch()
    for record in b.governor.running():
        if record.task.model == "Stubborn":
            await b.governor.cancel(record.task.id)
    reply = await client.reply("gated")
    assert (reply["node"]["name"], reply["outcome"]["result"]) == ("b", "said")
    assert reply["outcome"]["attempt"] == 1
    await eventually(lambda: running(b) == 0 or b.governor.running()[0].task.model == "Stubborn")
    for record in b.governor.running():
        await b.governor.cancel(record.task.id)
    await at_rest(client, "tasks", 0)
    assert len(client.replies["gated"]) == 1


async def test_a_node_that_stops_without_patience(start_node, client, gate):
    a, b = await start_node("a"), await start_node("b", SOURCES=[])
    await client.send(gated(gate), correlation_id="gated")
    await eventually(lambda: running(a) == 1)
    await stopped(await stopping(a, 0))
    await at_rest(client, "tasks", 1)
    assert await page(b) == []


async def test_a_subtask_that_does_not_end_in_time_runs_on_a_third_node(start_node, gate):
    b = await start_node("b", alone=True)
    a = await start_node("a", SOURCES=[], PLUGINS=[Far()])
    subtasks = [["Talks", "talk", {"go": str(gate)}], ["Echo", "say", {"what": 1}]]
    handle = await a.submit("Sends", model_construction_kwargs={"subtasks": subtasks})
    await eventually(lambda: running(b) == 1)
    c = await start_node("c")
    end = await stopping(b, 0.2)
    await eventually(lambda: any(r.task.model == "Talks" for r in c.governor.running()))
    gate.touch()
    await stopped(end)
    assert (await handle.outcome(PATIENCE)).complete
    done = await page(a, parent_id=handle.id)
    assert [r.outcome.reason for r in done] == ["returned"] * 2
    assert {r.attempts for r in done} == {1}


async def test_subtasks_in_one_message_that_are_partly_done(start_node):
    """What has ended is told, and the rest is passed on in a message of its own."""
    b = await start_node("b", alone=True)
    a = await start_node("a", SOURCES=[], PLUGINS=[Far()])
    arguments = {"count": 300, "seconds": 0.005}
    handle = await a.submit("Naps", model_construction_kwargs=arguments)

    async def some_ended():
        async with asyncio.timeout(PATIENCE):
            while (await handle.progress()).subtasks_done < 60:
                await asyncio.sleep(0.005)

    await some_ended()
    c = await start_node("c")
    await stopped(await stopping(b, 0.05))
    assert (await handle.outcome(PATIENCE)).complete
    done = await handle.subtasks(limit=400)
    assert sorted(r.outcome.result for r in done) == list(range(300))
    assert len(await page(c)) > 10


async def test_a_parent_that_does_not_end_in_time_is_done_elsewhere(start_node, client, tmp_path):
    """It came by RabbitMQ: its subtasks are stopped, and made again by the other node."""
    b = await start_node("b", SLOTS=1)
    await client.send(gated(tmp_path / "busy"), correlation_id="busy")
    await eventually(lambda: running(b) == 1)
    a = await start_node("a", PLUGINS=[Far()])
    await start_node.heard()
    go = tmp_path / "go"
    task = {
        "model": "Sends",
        "model_construction_kwargs": {"subtasks": [["Talks", "talk", {"go": str(go)}]]},
    }
    await client.send(task, correlation_id="parent")
    await eventually(lambda: any(r.task.model == "Talks" for r in a.governor.running()))
    c = await start_node("c")
    end = await stopping(a, 0.2)
    await eventually(lambda: any(r.task.model == "Talks" for r in c.governor.running()))
    go.touch()
    await stopped(end)
    reply = await client.reply("parent")
    assert (reply["node"]["name"], reply["outcome"]["status"]) == ("c", "complete")
    (tmp_path / "busy").touch()
    await client.reply("busy")
    await at_rest(client, "subtasks", 0)
    assert len(await page(b)) == 1  # nobody ran what the parent's first attempt had made


async def test_it_keeps_its_connections_until_the_last_task_is_settled(
    start_node, client, gate, caplog
):
    """A drain that is longer than the broker's patience with a silent client."""
    start_node.options["heartbeat"] = 1
    a = await start_node("a")
    await client.send(gated(gate), correlation_id="gated")
    await eventually(lambda: running(a) == 1)
    end = await stopping(a, 8)
    await asyncio.sleep(3.5)
    gate.touch()
    assert (await client.reply("gated"))["outcome"]["result"] == "said"
    await stopped(end)
    assert await client.ready("tasks") == 0
    assert "not connected" not in caplog.text
    assert len(client.replies["gated"]) == 1


async def test_what_runs_at_the_stop_is_not_lost_with_a_broker_that_is_away(
    start_node, client, proxy, gate
):
    """It cannot tell anybody: the broker delivers it again, to the next node."""
    start_node.options.update(url=proxy.url, max_backoff=0.2)
    a = await start_node("a")
    await client.send(gated(gate), correlation_id="gated", message_id="m-1")
    await eventually(lambda: running(a) == 1)
    proxy.refuse()
    proxy.cut()
    await eventually(a.governor.not_ready)
    end = await stopping(a)
    gate.touch()
    await stopped(end)
    proxy.refuse(False)
    await start_node("b")
    assert (await client.reply("gated"))["node"]["name"] == "b"
