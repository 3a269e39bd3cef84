"""What a config may rely on: limits of the broker are told, priorities and queue types hold."""

import asyncio
import contextlib
import re
import sys
import time

import pytest
from node_support import PATIENCE, Far, eventually, page

from fossa import FossaError, Limits, Reason, Request, Status
from fossa.brokers import connect
from programs import EXAMPLES, environment, program

#: Seconds for which a model of the tests says that it may run.
LONG = 7200


# what will not pass


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("guest:guest@", "guest:hunter2@"), "check the user and password"),
        ((r"/[^/]*$", "/no-such"), "check the virtual host"),
    ],
)
async def test_a_refusal_is_the_end_of_a_start(start_node, wrong, said, caplog):
    url = re.sub(*wrong, start_node.options["url"])
    start_node.options["url"] = url
    began = time.monotonic()
    with pytest.raises(FossaError, match=said) as caught:
        await start_node("a", alone=True)
    assert time.monotonic() - began < PATIENCE
    assert "hunter2" not in str(caught.value) + caplog.text


@pytest.mark.slow
def test_a_refusal_is_one_line_of_a_program(broker, tmp_path):
    url = broker.url.replace("guest:guest", "guest:hunter2")
    mine = environment(tmp_path, RABBITMQ_URL=url)
    with program([sys.executable, EXAMPLES / "rabbit_mq.py"], env=mine) as running:
        assert running.end() not in (0, None)
    said = [line for line in running.text.splitlines() if "check the user and password" in line]
    assert len(said) == 1, running.text
    assert "Traceback" not in running.text
    assert "hunter2" not in running.text


# tasks that are longer than the broker waits


async def test_a_broker_that_cannot_wait_so_long_is_told_of(start_node, caplog):
    limits = {"Echo": Limits(timeout=LONG)}
    node = await start_node("a", LIMITS=limits)
    (why,) = node.governor.not_ready()
    assert f"Echo may take {LONG} s" in why
    assert "waits 1800 s for an acknowledgement" in why
    told = [r for r in caplog.records if r.getMessage() in why]
    assert [r.levelname for r in told] == ["WARNING"]


async def test_a_broker_that_waits_as_long_is_not_told_of(start_node, caplog):
    start_node.options["consumer_timeout"] = LONG + 1
    node = await start_node("a", LIMITS={"Echo": Limits(timeout=LONG)})
    assert node.governor.not_ready() == []
    assert "may take" not in caplog.text


# what is too large


async def test_a_subtask_that_no_message_can_carry_fails_by_itself(start_node):
    start_node.options["max_message_bytes"] = 20_000
    b = await start_node("b", alone=True)
    a = await start_node("a", SOURCES=[], PLUGINS=[Far()])
    subtasks = [["Echo", "say", {"what": what}] for what in (1, "x" * 30_000, 2)]
    handle = await a.submit("Sends", model_construction_kwargs={"subtasks": subtasks})
    assert (await handle.outcome(PATIENCE)).complete
    first, large, last = (r.outcome for r in reversed(await page(a, parent_id=handle.id)))
    assert (first.result["what"], last.result["what"]) == (1, 2)
    assert (large.status, large.reason) == (Status.FAILED, Reason.EXECUTOR)
    assert re.search(r"\b30\d\d\d bytes.* 20000 bytes \(max_message_bytes\)", large.message)
    assert len(await page(b)) == 2


async def test_a_result_that_no_message_can_carry_fails_its_subtask(start_node):
    start_node.options["max_message_bytes"] = 20_000
    await start_node("b", alone=True)
    a = await start_node("a", SOURCES=[], PLUGINS=[Far()])
    subtasks = [["Talks", "large", {"size": 30_000}], ["Echo", "say", {"what": 2}]]
    handle = await a.submit("Sends", model_construction_kwargs={"subtasks": subtasks})
    assert (await handle.outcome(PATIENCE)).complete
    large, last = (r.outcome for r in reversed(await page(a, parent_id=handle.id)))
    assert last.result["what"] == 2
    assert large.reason is Reason.RESULT_TOO_LARGE
    assert re.search(r"\b30\d\d\d bytes.* 20000 bytes \(max_message_bytes\)", large.message)


async def test_a_task_that_no_message_can_carry_is_not_sent(start_node, client):
    node = await start_node("a")
    given = {"url": start_node.options["url"], "prefix": client.prefix, "max_message_bytes": 20_000}
    task = Request(model="Echo", method="say", method_kwargs={"what": "x" * 30_000})
    async with connect(**given) as broker:
        with pytest.raises(FossaError, match="20000 bytes") as caught:
            await broker.submit(task, reply=False)
    assert re.search(r"\b30\d\d\d bytes", str(caught.value))
    assert await client.ready("tasks") == await client.ready("dead") == 0
    assert await page(node) == []


# confirms


@contextlib.asynccontextmanager
async def unconfirmed(start_node, proxy, client, go, **options):
    """A node that has sent a reply whose confirm does not come, until this is left."""
    start_node.options |= {"url": proxy.url, "heartbeat": 60, **options}
    node = await start_node("a")
    await client.send({"model": "Talks", "method": "talk", "method_kwargs": {"go": str(go)}})
    await eventually(lambda: node.governor.status()["running"])
    proxy.hold()
    go.touch()
    yield node
    proxy.hold(False)


async def test_a_reply_whose_confirm_does_not_come_is_sent_again(
    start_node, proxy, client, caplog, tmp_path
):
    go = tmp_path / "go"
    async with unconfirmed(start_node, proxy, client, go, publish_timeout=1.0) as node:
        await eventually(lambda: "no confirm within 1 s" in caplog.text)
    assert (await client.reply())["outcome"]["status"] == "complete"
    await eventually(lambda: not node.governor.not_ready())


async def test_a_reply_that_nobody_waits_for_any_more_is_sent_all_the_same(
    start_node, proxy, client, caplog, tmp_path, monkeypatch
):
    monkeypatch.setattr("fossa.deliveries.SETTLE_DEADLINE", 0.3)
    go = tmp_path / "go"
    async with unconfirmed(start_node, proxy, client, go, publish_timeout=60.0) as node:
        await eventually(lambda: "its delivery could not be settled" in caplog.text)
    assert (await client.reply())["outcome"]["status"] == "complete"
    await node.stop()
    assert await client.ready("tasks") == await client.ready("dead") == 0


@pytest.mark.slow
async def test_the_time_of_a_blocked_broker_is_not_ours(start_node, tough_broker, caplog, tmp_path):
    start_node.options |= {"url": tough_broker.url, "publish_timeout": 0.5}
    b = await start_node("b", alone=True)
    a = await start_node("a", SOURCES=[], PLUGINS=[Far()])
    go = tmp_path / "go"
    subtasks = [["Talks", "talk", {"go": str(go)}]]
    handle = await a.submit("Sends", model_construction_kwargs={"subtasks": subtasks})
    await eventually(lambda: b.governor.status()["running"])
    limit = "set_vm_memory_high_watermark"
    await asyncio.to_thread(tough_broker.ctl, limit, "0.00001")
    go.touch()
    await eventually(lambda: any("takes no messages" in why for why in b.governor.not_ready()))
    await asyncio.sleep(1)
    await asyncio.to_thread(tough_broker.ctl, limit, "0.9")
    assert (await handle.outcome(PATIENCE)).complete
    assert "no confirm within" not in caplog.text


# priorities, and queues of the other type


async def test_the_subtasks_of_an_urgent_task_go_first_to_other_nodes_too(start_node):
    b = await start_node("b", alone=True)
    a = await start_node("a", SOURCES=[], PLUGINS=[Far()])
    naps = {"count": 30, "seconds": 0.1}
    usual = await a.submit("Naps", model_construction_kwargs=naps)
    await eventually(lambda: b.governor.status()["running"])
    urgent = await a.submit("Naps", model_construction_kwargs=naps | {"count": 4}, priority=50)
    assert (await urgent.outcome(PATIENCE)).complete
    assert (await usual.progress()).subtasks_done < 20
    there = [r.task.priority for r in await page(b) if r.task.parent_id == urgent.id]
    assert there == [50] * 4
    await usual.cancel()
    assert (await usual.outcome(PATIENCE)).status is Status.CANCELLED


async def test_nodes_share_classic_queues_likewise(start_node, client):
    start_node.options["queue_type"] = "classic"
    a, b = await start_node("a"), await start_node("b")
    handle = await a.submit("Naps", model_construction_kwargs={"count": 30})
    assert (await handle.outcome(PATIENCE)).complete
    assert {r.outcome.node for r in await handle.subtasks(limit=50)} == {None, "b"}
    assert (await client.ask({"model": "Echo", "method": "say"}))["outcome"]["status"] == "complete"
    assert await page(b)


# a processor that is busy


async def test_heartbeats_are_served_while_models_burn_cpu(start_node, caplog):
    start_node.options["heartbeat"] = 1
    b = await start_node("b", alone=True, SLOTS=3)
    a = await start_node("a", SOURCES=[], PLUGINS=[Far()])
    subtasks = [["Burns", "go", {}]] * 3
    handle = await a.submit("Sends", model_construction_kwargs={"subtasks": subtasks})
    assert (await handle.outcome(PATIENCE + 10)).complete
    records = await page(a, parent_id=handle.id)
    assert [r.status for r in records] == [Status.COMPLETE] * 3
    # Several times as long as the broker waits for a silent client.
    assert min(r.outcome.finished - r.outcome.started for r in records) > 2.9
    assert len(await page(b)) == 3
    assert "not connected" not in caplog.text
