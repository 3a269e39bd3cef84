"""Subtasks spread over nodes: each node here has a governor, slots and workers of its own."""

import asyncio
import gc
import time
from pathlib import Path

import far_models
import pytest
from node_support import PATIENCE, Far, eventually, everything, outcome, page, texts

from fossa import Limits, Reason, Status
from fossa_rabbitmq import reports
from fossa_rabbitmq.outbox import Outbox


async def two(start_node, **settings):
    """Two nodes with a slot each; the first has all its subtasks run by the other."""
    b = await start_node("b", alone=True, **settings)
    return await start_node("a", SOURCES=[], PLUGINS=[Far()], **settings), b


async def sent(node, *subtasks):
    """Have a node run subtasks; returns their records in the order in which they were made."""
    arguments = {"subtasks": [list(subtask) for subtask in subtasks]}
    handle = await node.submit("Sends", model_construction_kwargs=arguments)
    assert (await handle.outcome(PATIENCE)).complete
    return list(reversed(await page(node, parent_id=handle.id)))


async def runs(node, model, method="go"):
    """The record of a task that the node runs."""

    def found():
        records = node.governor.running()
        return [r for r in records if (r.task.model, r.task.method) == (model, method)]

    return (await eventually(found))[0]


async def cancelled(node, task_id):
    """How long a task takes from now until the node knows that it was cancelled."""
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE):
        ended = await node.governor.outcome(task_id)
    assert ended.status is Status.CANCELLED
    return time.monotonic() - began


# spread


async def test_subtasks_are_spread_and_seen_where_they_ran(start_node):
    nodes = [await start_node(name) for name in "abc"]
    handle = await nodes[0].submit("Naps", model_construction_kwargs={"count": 100})
    assert (await handle.outcome(PATIENCE)).complete
    everything = {r.task.id: r for r in await handle.subtasks(limit=200)}
    assert len(everything) == 100
    assert all(r.status is Status.COMPLETE for r in everything.values())
    elsewhere = [{r.task.id: r for r in await page(node)} for node in nodes[1:]]
    for ran in elsewhere:
        assert len(ran) > 3
        assert ran.keys() < everything.keys()
        for task_id, record in ran.items():
            mine = everything[task_id]
            assert record.task.parent_id == record.task.root_id == handle.id
            assert record.task.depth == 1
            assert record.task.key == mine.task.key
            assert record.task.arguments == mine.task.arguments
            assert record.outcome.result == mine.outcome.result
    assert not elsewhere[0].keys() & elsewhere[1].keys()
    for name, ran in zip("bc", elsewhere, strict=True):
        assert {everything[task_id].outcome.node for task_id in ran} == {name}
        assert {record.outcome.node for record in ran.values()} == {None}
    stayed = everything.keys() - elsewhere[0].keys() - elsewhere[1].keys()
    assert {everything[task_id].outcome.node for task_id in stayed} <= {None}


@pytest.mark.parametrize("kind", ["list", "generator", "partitions"])
async def test_what_they_return_is_added_up(start_node, kind):
    a, b = await start_node("a"), await start_node("b")
    handle = await a.submit("Squares", model_construction_kwargs={"count": 300, "kind": kind})
    assert (await handle.outcome(PATIENCE)).complete
    assert f"sum is {sum(i * i for i in range(300))}" in await texts(a, handle.id)
    progress = (await handle.record()).progress
    assert (progress.subtasks, progress.subtasks_done, progress.subtasks_failed) == (300, 300, 0)
    assert b.governor.status()["running"] == 0


async def test_each_subtask_runs_once(start_node, tmp_path):
    a, _ = await start_node("a"), await start_node("b")
    journal = tmp_path / "journal"
    arguments = {"journal": str(journal), "count": 60, "fail_at": 7, "handle": True}
    handle = await a.submit("Journal", model_construction_kwargs=arguments)
    assert (await handle.outcome(PATIENCE)).complete
    assert sorted(map(int, journal.read_text().split())) == list(range(60))
    assert "failures: 1" in await texts(a, handle.id)


async def test_parents_on_both_nodes_with_a_slot_each(start_node):
    """Depth 3: every parent waits without a slot, so there is one for its subtasks."""
    a, b = await start_node("a"), await start_node("b")
    handles = [
        await node.submit("Nested", model_construction_kwargs={"depth": 3}) for node in (a, b, a, b)
    ]
    for handle in handles:
        assert (await handle.outcome(PATIENCE)).complete
    depths = {r.task.depth for node in (a, b) for r in await everything(node)}
    assert depths == {0, 1, 2, 3}


async def test_a_parent_that_runs_elsewhere_spreads_its_own(start_node):
    a, b = await two(start_node)
    (record,) = await sent(a, ("Squares", "go", {}))
    assert record.outcome.complete
    found = {r.task.depth: r for r in await everything(b)}
    assert found.keys() == {1, 2}
    assert found[2].task.parent_id == record.task.id
    assert found[2].task.root_id == record.task.root_id


async def test_a_node_that_is_alone_runs_its_own_subtasks(start_node):
    a = await start_node("a")
    done = await outcome(a, "Squares", model_construction_kwargs={"count": 30})
    assert done.complete, done
    assert len(await everything(a)) == 31


# what is told meanwhile


async def test_a_node_that_takes_its_own_subtasks_leaves_others_theirs(start_node):
    a, b = await start_node("a", PLUGINS=[Far()], SLOTS=1), await start_node("b", SLOTS=1)
    await start_node.heard()
    handle = await a.submit("Naps", model_construction_kwargs={"count": 30, "seconds": 0.05})
    assert (await handle.outcome(PATIENCE)).complete
    assert len(await page(b)) > 5


async def test_a_node_that_joins_while_a_parent_runs_gets_its_subtasks(start_node):
    a = await start_node("a")
    handle = await a.submit("Naps", model_construction_kwargs={"count": 150, "seconds": 0.05})
    await eventually(a.governor.running)
    b = await start_node("b")
    assert (await handle.outcome(PATIENCE)).complete
    assert len(await page(b)) > 5


async def test_a_node_that_joins_gives_a_model_no_more_than_it_asked_for(start_node, tmp_path):
    kwargs = {"directory": str(tmp_path), "at_most": 2, "count": 40}
    a = await start_node("a", SLOTS=1)
    handle = await a.submit("Crowd", model_construction_kwargs=kwargs)
    await eventually(a.governor.running)
    b, c = [await start_node(name) for name in "bc"]
    assert (await handle.outcome(PATIENCE)).complete
    assert len(await page(b)) + len(await page(c)) > 5
    peaks = [r.outcome.result for r in await handle.subtasks(limit=100)]
    assert max(peaks) == 2


async def test_a_subtask_elsewhere_is_heard_while_it_runs(start_node, tmp_path):
    a, b = await two(start_node)
    go = tmp_path / "go"
    arguments = {"subtasks": [["Talks", "talk", {"go": str(go)}]]}
    handle = await a.submit("Sends", model_construction_kwargs=arguments)
    subtask = (await runs(b, "Talks", "talk")).task.id

    async def heard():
        async with asyncio.timeout(PATIENCE):
            while "begun" not in await texts(a, subtask):
                await asyncio.sleep(0.01)

    await heard()
    record = await a.governor.record(subtask)
    assert (record.progress.fraction, record.progress.message) == (0.5, "half of it")
    go.touch()
    assert (await handle.outcome(PATIENCE)).complete
    said = await texts(a, subtask)
    assert said == await texts(b, subtask)
    assert (said[0], said[-1]) == ("begun", "and done")


async def test_a_subtask_elsewhere_that_is_soon_over_is_told_of_once(start_node, monkeypatch):
    """Its outcome says it all."""
    told = []
    monkeypatch.setattr(Outbox, "_happened", lambda _, item, __: told.append(item))
    # Long against a nap, however busy the computer is, and short against all of them.
    monkeypatch.setattr(reports, "INTERVAL", 1.0)
    a, b = await two(start_node)
    naps = {"count": 25, "seconds": 0.06}
    assert (await (await a.submit("Naps", model_construction_kwargs=naps)).outcome()).complete
    assert len(await page(b)) == 25
    assert told == []


async def test_what_is_elsewhere_is_told_of_again_and_again(start_node, monkeypatch, tmp_path):
    """A report may be lost, and a subtask that nobody speaks of is sent again."""
    told = []
    monkeypatch.setattr(Outbox, "_happened", lambda _, item, __: told.append(item))
    monkeypatch.setattr(reports, "REPEAT", 0.5)
    a, b = await two(start_node)
    go = tmp_path / "go"
    arguments = {"subtasks": [["Talks", "talk", {"go": str(go)}]]}
    handle = await a.submit("Sends", model_construction_kwargs=arguments)
    subtask = (await runs(b, "Talks", "talk")).task.id
    await eventually(lambda: sum(not item.lines for item in told) >= 3)
    assert {item.id for item in told} == {subtask}
    go.touch()
    assert (await handle.outcome(PATIENCE)).complete


async def test_what_no_message_can_carry_ends_nothing(start_node):
    a, b = await two(start_node)
    odd, failed, fine = await sent(
        a, ("Talks", "odd", {}), ("Talks", "long_name", {}), ("Echo", "say", {"what": 1})
    )
    assert odd.outcome.complete
    assert "a lone surrogate: \\udc80" in await texts(a, odd.task.id)
    assert failed.outcome.reason is Reason.EXCEPTION
    assert failed.outcome.error.startswith("far_models.XXX")
    assert failed.outcome.message.startswith("yyy")
    assert fine.outcome.complete
    assert len(await page(b)) == 3


async def test_a_subtask_that_writes_much_is_not_lost(start_node):
    a, b = await two(start_node, MAX_LOG_LINES=100_000)
    (record,) = await sent(a, ("Talks", "much", {"lines": 5000}))
    assert record.outcome.complete
    said = [line.text for _, line in await a.governor.logs(record.task.id, limit=10_000)]
    assert said[0].startswith("line 0 ")
    # How much was kept back depends on how many reports there were while it ran.
    assert len(said) == 5000 or any("more lines are on node b" in text for text in said)


# how they end


async def test_failures_elsewhere_are_told(start_node):
    a, b = await two(start_node, CRASH_ATTEMPTS=2)
    fails, dies, exits, large, thing = await sent(
        a,
        ("Fails", "go", {}),
        ("Dies", "by_signal", {"number": 9}),
        ("Dies", "os_exit", {"status": 3}),
        ("Returns", "huge", {"size": 50_000_000}),
        ("Returns", "an_object", {}),
    )
    assert (fails.outcome.reason, fails.outcome.error) == (Reason.EXCEPTION, "ValueError")
    assert any("no such luck" in line for line in fails.outcome.traceback)
    assert (dies.outcome.reason, dies.outcome.attempt) == (Reason.SIGNAL, 2)
    assert exits.outcome.reason is Reason.EXIT
    assert large.outcome.reason is Reason.RESULT_TOO_LARGE
    assert thing.outcome.complete
    assert not thing.outcome.result_is_json
    assert len(await page(b)) == 5


async def test_a_subtask_elsewhere_has_its_timeout(start_node):
    a, b = await two(start_node, LIMITS={"Echo": Limits(timeout=0.3)})
    (record,) = await sent(a, ("Echo", "sleep", {"seconds": 20}))
    assert record.outcome.reason is Reason.SOFT_TIMEOUT
    assert "0.3 s" in record.outcome.message
    assert len(await page(b)) == 1


async def test_a_subtask_elsewhere_is_retried_there(start_node, tmp_path):
    a, b = await two(start_node, LIMITS={"Fails": Limits(retries=2)})
    journal = str(tmp_path / "journal")
    (record,) = await sent(a, ("Fails", "until", {"journal": journal, "times": 2}))
    assert (record.outcome.complete, record.outcome.attempt) == (True, 3)
    assert record.attempts == 1
    assert [r.attempts for r in await page(b)] == [3]


async def test_a_failed_subtask_elsewhere_fails_its_parent(start_node, tmp_path):
    a, _ = await two(start_node)
    arguments = {"journal": str(tmp_path / "journal"), "fail_at": 3}
    done = await outcome(a, "Journal", model_construction_kwargs=arguments)
    assert (done.status, done.reason) == (Status.FAILED, Reason.SUBTASK_FAILED)
    assert "3 is not to be" in (await a.governor.record(done.failed_subtask)).outcome.message


async def test_cancelling_a_parent_cancels_its_subtasks_elsewhere(start_node, tmp_path):
    a, b = await two(start_node)
    arguments = {"journal": str(tmp_path / "journal"), "count": 8, "wait_at": 2}
    handle = await a.submit("Journal", model_construction_kwargs=arguments)
    await eventually(lambda: Path(arguments["journal"]).exists())
    await eventually(lambda: "2" in Path(arguments["journal"]).read_text().split())
    subtask = (await runs(b, "Journal", "note")).task.id
    await handle.cancel()
    assert await cancelled(b, subtask) < 2
    assert (await handle.outcome(PATIENCE)).status is Status.CANCELLED
    await eventually(lambda: b.governor.status()["running"] == 0)
    assert all(r.outcome is not None for r in await page(b))
    assert await cancelled(a, subtask) < 2


async def test_a_cancel_reaches_the_subtasks_of_subtasks(start_node, tmp_path):
    nodes = [await start_node(name, alone=True, PLUGINS=[Far()]) for name in "bc"]
    a = await start_node("a", SOURCES=[], PLUGINS=[Far()])
    talks = ["Talks", "talk", {"go": str(tmp_path / "never")}]
    arguments = {"subtasks": [["Sends", "go", {}, {"subtasks": [talks]}]]}
    handle = await a.submit("Sends", model_construction_kwargs=arguments)

    def talking():
        """The node that made the subtask has it too, by the same id."""
        running = [r.task for node in nodes for r in node.governor.running()]
        return [t for t in running if t.model == "Talks"] if len(running) == 3 else []

    task, _ = await eventually(talking)
    assert (task.depth, task.root_id) == (2, handle.id)
    await handle.cancel()
    for node in nodes:
        assert await cancelled(node, task.id) < 2
    await eventually(lambda: all(n.governor.status()["running"] == 0 for n in nodes))


# who runs them


async def test_subtasks_go_to_the_node_that_accepts_their_model(start_node, client):
    """Two of three nodes lack the model: nothing is refused, nothing is lost."""
    most = [m for m in far_models.ALL if m.__name__ not in ("Echo",)]
    a = await start_node("a", SOURCES=[], PLUGINS=[Far()])
    await start_node("b", ACCEPTED_MODEL_CLASSES=most)
    c = await start_node("c")
    records = await sent(a, *[("Echo", "say", {"what": n}) for n in range(12)])
    assert [r.outcome.result["what"] for r in records] == list(range(12))
    assert {r.task.model for r in await page(c)} == {"Echo"}
    await client.delete("model.Echo")


# memory


async def test_subtasks_that_have_ended_are_no_garbage(start_node):
    """Their memory is free at once: Python looks for what refers to itself only now and then."""
    await start_node("b", alone=True)
    a = await start_node("a", SOURCES=[], PLUGINS=[Far()])
    gc.collect()
    gc.disable()
    try:
        handle = await a.submit("Naps", model_construction_kwargs={"count": 300, "seconds": 0})
        assert (await handle.outcome(PATIENCE)).complete
        await asyncio.sleep(0.1)
        assert gc.collect() < 300
    finally:
        gc.enable()
