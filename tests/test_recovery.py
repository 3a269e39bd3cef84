"""A node that is killed loses nothing: what its next boot finds, and what it does with it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import models
from fossa import Fossa, Reason, Status
from fossa.errors import LedgerError, StateDirInUse
from fossa.tasks import Delivery, Request
from support import TestConfig, running, texts, until

NODE = """
import asyncio, json, sys
sys.path.insert(0, {tests!r})
from support import TestConfig
from fossa import Fossa

async def main():
    async with Fossa(TestConfig, LEDGER="sqlite", STATE_DIR={state!r}, SLOTS=1) as node:
        ids = [(await node.submit(**s)).id for s in json.loads({submissions!r})]
        print(json.dumps(ids), flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


class Durable(TestConfig):
    LEDGER = "sqlite"
    SLOTS = 1


def node_that_will_be_killed(state, submissions):
    """Start a node in a process of its own; returns the process and the tasks' ids."""
    code = NODE.format(
        tests=str(Path(__file__).parent), state=str(state), submissions=json.dumps(submissions)
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    return process, json.loads(process.stdout.readline())


async def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdout.close()


def journal_task(journal, **kwargs):
    return {"model": "Journal", "model_construction_kwargs": {"journal": str(journal), **kwargs}}


async def test_after_kill_9_everything_is_taken_up(tmp_path):
    state, journal = tmp_path / "state", tmp_path / "journal"
    process, (done, parent, queued) = node_that_will_be_killed(
        state,
        [
            {"model": "Echo", "method": "say", "method_kwargs": {"what": 1}},
            journal_task(journal, wait_at=3, count=6),
            {"model": "Nothing"},
        ],
    )
    await until(lambda: journal.exists() and "3" in journal.read_text().split())
    await asyncio.sleep(0.3)  # what the first three subtasks came to has to reach the ledger
    await kill(process)
    journal.with_suffix(".go").touch()
    async with running(Durable, STATE_DIR=state) as node:
        assert (await (await node.task(done)).outcome(5)).result == {"greeting": "hello", "what": 1}
        handle = await node.task(parent)
        assert (await handle.outcome(30)).complete
        assert (await handle.record()).attempts == 2
        assert (await (await node.task(queued)).outcome(30)).complete
        ran = journal.read_text().split()
        assert [ran.count(str(i)) for i in (0, 1, 2)] == [1, 1, 1]
        assert {str(i) for i in range(6)} == set(ran)
        ended = await handle.subtasks(limit=200)
        assert all(s.status.final for s in ended)
        assert "failures: 0" in texts(await handle.logs())


async def test_a_task_under_which_the_node_dies_again_and_again_is_lost(tmp_path):
    journal = tmp_path / "journal"
    submissions = [journal_task(journal, wait_at=0, count=1)]
    ids = []
    for _ in range(3):
        process, new = node_that_will_be_killed(tmp_path / "state", submissions)
        ids += new
        submissions = []
        seen = journal.read_text() if journal.exists() else ""
        await until(lambda seen=seen: journal.exists() and journal.read_text() != seen)
        await asyncio.sleep(0.2)
        await kill(process)
    async with running(Durable, STATE_DIR=tmp_path / "state") as node:
        ended = await (await node.task(ids[0])).outcome(10)
        assert (ended.status, ended.reason) == (Status.FAILED, Reason.LOST_NODE)
        assert "3 times" in ended.message


async def test_what_a_killed_nodes_models_started_is_ended(tmp_path):
    pids = tmp_path / "pids"
    process, _ = node_that_will_be_killed(
        tmp_path / "state",
        [{"model": "Stubborn", "method": "ignore", "method_kwargs": {"pid_file": str(pids)}}],
    )
    await until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    await kill(process)
    worker, child = (int(p) for p in pids.read_text().split())
    await until(lambda: not Path(f"/proc/{worker}").exists())
    async with running(Durable, STATE_DIR=tmp_path / "state", CRASH_ATTEMPTS=1):
        await until(lambda: not Path(f"/proc/{child}").exists())


async def test_a_second_node_on_the_same_directory_is_refused(tmp_path):
    async with running(Durable, STATE_DIR=tmp_path):
        with pytest.raises(StateDirInUse, match=f"in use by another node .process {os.getpid()}"):
            await Fossa(Durable, STATE_DIR=tmp_path).start()
    async with running(Durable, STATE_DIR=tmp_path):
        pass


async def test_a_ledger_of_a_newer_fossa_is_left_alone(tmp_path):
    import sqlite3

    connection = sqlite3.connect(tmp_path / "ledger.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LedgerError, match="a newer Fossa wrote it"):
        await Fossa(Durable, STATE_DIR=tmp_path).start()


async def test_a_ledger_that_is_no_database_is_named(tmp_path):
    (tmp_path / "ledger.sqlite").write_bytes(b"this is not SQLite" * 100)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite cannot be opened"):
        await Fossa(Durable, STATE_DIR=tmp_path).start()


async def test_a_restart_in_good_order_keeps_queued_tasks(tmp_path):
    async with running(Durable, STATE_DIR=tmp_path, DRAIN_TIMEOUT=5) as node:
        blocker = await node.submit("Echo", "sleep", method_kwargs={"seconds": 0.4})
        queued = await node.submit("Nothing")
    async with running(Durable, STATE_DIR=tmp_path) as node:
        assert (await (await node.task(blocker.id)).outcome(5)).complete
        handle = await node.task(queued.id)
        assert (await handle.outcome(10)).complete
        assert (await handle.record()).attempts == 1


async def test_one_key_is_one_task_however_often_and_close_together(tmp_path):
    async with running(Durable, STATE_DIR=tmp_path) as node:
        handles = await asyncio.gather(
            *(node.submit("Nothing", idempotency_key="nightly") for _ in range(20))
        )
        assert len({h.id for h in handles}) == 1
        await handles[0].outcome(10)
    async with running(Durable, STATE_DIR=tmp_path) as node:
        assert (await node.submit("Nothing", idempotency_key="nightly")).id == handles[0].id


async def test_a_retry_does_only_what_failed(tmp_path):
    journal = tmp_path / "journal"
    request = journal_task(journal, fail_at=4, count=5)
    async with running(Durable, STATE_DIR=tmp_path / "state") as node:
        handle = await node.submit(**request)
        assert (await handle.outcome(30)).reason is Reason.SUBTASK_FAILED
        again = await node.governor.retry(handle.id)
        assert again.retry_of == handle.id
        await node.governor.outcome(again.id)
        ran = journal.read_text().split()
        assert [ran.count(str(i)) for i in range(5)] == [1, 1, 1, 1, 2]


async def test_what_a_retry_need_not_repeat_and_is_kept_no_more_is_done_again(
    tmp_path, monkeypatch
):
    journal = tmp_path / "journal"
    request = journal_task(journal, fail_at=4, count=5, handle=True)
    async with running(Durable, STATE_DIR=tmp_path / "state") as node:
        handle = await node.submit(**request)
        assert (await handle.outcome(30)).complete
        kept, ledger = {r.task.id for r in await handle.subtasks()}, node.governor._ledger
        get = ledger.get

        async def retention_was_there(task_id):
            return None if task_id in kept else await get(task_id)

        monkeypatch.setattr(ledger, "get", retention_was_there)
        again = await node.governor.retry(handle.id)
        async with asyncio.timeout(30):
            assert (await node.governor.outcome(again.id)).complete
        ran = journal.read_text().split()
        assert [ran.count(str(i)) for i in range(5)] == [2, 2, 2, 2, 2]


async def test_a_task_whose_model_is_accepted_no_more_fails_and_holds_nobody_up(tmp_path):
    journal = tmp_path / "journal"
    process, (begun, queued) = node_that_will_be_killed(
        tmp_path / "state", [journal_task(journal, wait_at=1, count=3)] * 2
    )
    await until(lambda: journal.exists() and "1" in journal.read_text().split())
    await kill(process)
    others = [models.Echo]
    async with running(
        Durable, STATE_DIR=tmp_path / "state", ACCEPTED_MODEL_CLASSES=others
    ) as node:
        for task_id in (begun, queued):
            outcome = await (await node.task(task_id)).outcome(10)
            assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.REFUSED)
            assert "Journal is no model of this node any more" in outcome.message
        said = await node.submit("Echo", "say", method_kwargs={"what": 1})
        assert (await said.outcome(10)).complete
        assert node.governor.status()["slots_free"] == 1


async def test_a_delivery_is_settled_last_and_given_back_at_a_stop(tmp_path):
    events = []

    def delivery(name, model, **request):
        async def ack(outcome):
            record = await node.governor.record(task_ids[name])
            events.append((name, "ack", outcome.status, record.status))

        async def give_back():
            events.append((name, "give back"))

        return Delivery(
            request=Request(model=model, **request), source="test", ack=ack, give_back=give_back
        )

    task_ids = {}
    async with running(Durable, STATE_DIR=tmp_path, DRAIN_TIMEOUT=0.2) as node:
        task, _ = await node.governor.admit(delivery("short", "Nothing"))
        task_ids["short"] = task.id
        await node.governor.outcome(task.id)
        slow = delivery("slow", "Echo", method="sleep", method_kwargs={"seconds": 30})
        await node.governor.admit(slow)
        await node.governor.admit(delivery("queued", "Nothing"))
        await until(lambda: events)
    assert events[0] == ("short", "ack", Status.COMPLETE, Status.COMPLETE)
    assert set(events[1:]) == {("slow", "give back"), ("queued", "give back")}


async def test_a_redelivery_is_settled_with_the_one_outcome(tmp_path):
    acked = []

    def delivery(name):
        async def ack(outcome):
            acked.append((name, outcome.status))

        request = Request(
            model="Echo", method="sleep", method_kwargs={"seconds": 0.3}, idempotency_key="m-1"
        )
        return Delivery(request=request, source="test", ack=ack)

    async with running(Durable, STATE_DIR=tmp_path) as node:
        first, new = await node.governor.admit(delivery("first"))
        assert new
        again, new = await node.governor.admit(delivery("again"))
        assert (again.id, new) == (first.id, False)
        await until(lambda: acked)
        assert acked == [("again", Status.COMPLETE)]
        await node.governor.admit(delivery("late"))
        await until(lambda: len(acked) == 2)
        assert acked[1] == ("late", Status.COMPLETE)
