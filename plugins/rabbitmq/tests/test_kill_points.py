"""A node is killed at each step of a delivery; somebody finishes it, and it ends exactly once."""

import asyncio
import json
import signal
import sqlite3
import sys
from collections import Counter
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from faults_support import (
    Book,
    Far,
    FaultsConfig,
    check,
    client,
    outcome_of,
    plugin,
    some_nodes,
    until_async,
    work,
)
from kill_node import POINTS

from fossa import Fossa, Status
from fossa.state_dir import StateDir
from fossa_rabbitmq.guests import Guests
from fossa_rabbitmq.outbox import Outbox
from support import until

PROGRAM = Path(__file__).with_name("kill_node.py")
#: Seconds within which a node is up, and is dead.
PATIENCE = 30
#: Killed by the test, while the model runs.
RUNNING = "running"
ALL = [*POINTS, RUNNING]
#: Where it is killed after the model began, and before its outcome is safe.
BEGUN = {RUNNING, "ended"}
#: Where it may have begun: what will be delivered again begins on its way into the ledger.
BEGINNING = {"admitted", "recorded"}
#: Where the outcome is in its ledger.
RECORDED = {"outcome_recorded", "replied", "reply_confirmed", "settled"}
#: Where its reply is with the broker, and the message is not settled: there will be another.
TWO_REPLIES = {"replied", "reply_confirmed"}


@pytest.fixture
async def nodes(broker, fresh_prefix):
    """Starts nodes in this process; they stop while the queues still exist."""
    async with some_nodes() as starter:
        yield starter


@pytest.fixture
def book(tmp_path):
    return Book(tmp_path / "journal")


@asynccontextmanager
async def victim(broker, prefix, state, **given):
    """A node in a process of its own, once it is up."""
    said = json.dumps({"url": broker.url, "prefix": prefix, "state": str(state), **given})
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), said, stdout=asyncio.subprocess.PIPE
    )
    try:
        line = await asyncio.wait_for(process.stdout.readline(), PATIENCE)
        assert line == b"up\n", line
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.wait_for(process.wait(), PATIENCE)


def in_ledger(state):
    """How the tasks are in the ledger of a node that runs: it may begin one before it is there."""
    with closing(sqlite3.connect(StateDir(state).ledger_path, timeout=10)) as ledger:
        return [status for (status,) in ledger.execute("SELECT status FROM tasks")]


async def killed(process):
    assert await asyncio.wait_for(process.wait(), PATIENCE) == -signal.SIGKILL


async def killed_under_a_task(process, someone, book, state):
    """It runs, and is in the ledger of the node, when that is killed."""
    await someone.submit(1, book, gate=True)
    await book.has("begin", 1)
    await until(lambda: in_ledger(state) == ["running"])
    process.kill()
    await killed(process)


@pytest.fixture
def taken(monkeypatch):
    """Whether the broker said "redelivered", for each message that a node of this process took."""
    taken = []
    take = Guests.take

    def noting(guests, held, reservation):
        taken.append(held.message.redelivered)
        take(guests, held, reservation)

    monkeypatch.setattr(Guests, "take", noting)
    return taken


@pytest.fixture
def told(monkeypatch):
    """The outcomes that the parent's node was told of, later ones with them."""
    told = []
    ended = Outbox._ended

    def noting(outbox, item, outcome):
        told.append((item.id, item.attempt, outcome.status, outcome.result_json))
        ended(outbox, item, outcome)

    monkeypatch.setattr(Outbox, "_ended", noting)
    return told


@pytest.mark.parametrize("point", ALL)
async def test_a_task_whose_node_is_killed_and_started_again(
    point, nodes, book, broker, fresh_prefix, tmp_path, taken
):
    state = tmp_path / "state"
    rabbit = plugin(broker.url, fresh_prefix)
    async with (
        victim(broker, fresh_prefix, state, point=point) as process,
        client(broker.url, fresh_prefix, None) as someone,
    ):
        await someone.submit(7, book, gate=point == RUNNING)
        if point == RUNNING:
            await book.has("begin", 1)
            process.kill()
        await killed(process)
        book.open()
        again = await nodes.start("again", source=rabbit, STATE_DIR=state, LEDGER="sqlite")
        replies = await replies_to(someone, 2 if point in TWO_REPLIES else 1)
        assert all(reply == replies[0] for reply in replies)
        assert replies[0]["outcome"]["result"] == {"number": 7}
        await empty(someone, fresh_prefix)
    # The outcome that was recorded is the answer: nothing is repeated for it.
    begun = {1, 2} if point in BEGINNING else {2} if point in BEGUN else {1}
    assert len(book.lines("begin")) in begun
    assert taken == ([] if point == "settled" else [True])
    (record,) = await again.governor.page()
    assert (record.status, record.task.id) == (Status.COMPLETE, replies[0]["task_id"])


async def replies_to(someone, count):
    await until(lambda: len(someone.replies) >= count)
    replies = []
    for correlation_id, reply in someone.replies:
        assert correlation_id == someone.replies[0][0]
        del reply["node"]
        replies.append(reply)
    assert len(replies) == count
    return replies


async def empty(someone, prefix):
    """Nothing waits in any queue, and nobody holds anything of them."""
    for queue in ("tasks", "subtasks", "dead"):
        assert await someone.depth(f"{prefix}.{queue}") == 0


@pytest.mark.parametrize("point", ALL)
async def test_a_subtask_whose_node_is_killed_and_another_is_there(
    point, nodes, book, broker, fresh_prefix, tmp_path, taken, told
):
    rabbit = plugin(broker.url, fresh_prefix)
    async with victim(broker, fresh_prefix, tmp_path / "state", point=point) as process:
        a = await nodes.start("a", executor=rabbit, PLUGINS=[Far()])
        await until(lambda: len(a.governor.fleet()) == 2)
        handle = await a.submit(**work(book, 1, gate=[0]))
        if point not in ("received", "admitted", "recorded", "started"):
            await book.has("begin", 1)
        if point == RUNNING:
            process.kill()
        book.open()
        await killed(process)
        await nodes.start("b", source=rabbit)
        await check(handle, book, 1)
        await until(lambda: len(told) == (2 if point in TWO_REPLIES else 1))
    # What the dead node had recorded is of no use to another one.
    unanswered = point == "outcome_recorded"
    twice = point in BEGUN | TWO_REPLIES or unanswered
    assert len(book.lines("begin")) in ({1, 2} if point in BEGINNING else {2} if twice else {1})
    assert taken == ([] if point == "settled" else [True])
    assert len(set(told)) == 1


async def test_what_its_source_will_deliver_again_does_not_look_as_if_it_ran(
    nodes, book, broker, fresh_prefix, tmp_path
):
    rabbit = plugin(broker.url, fresh_prefix)
    durable = {"STATE_DIR": tmp_path / "state", "LEDGER": "sqlite"}
    async with (
        victim(broker, fresh_prefix, durable["STATE_DIR"]) as process,
        client(broker.url, fresh_prefix, None) as someone,
    ):
        await killed_under_a_task(process, someone, book, durable["STATE_DIR"])
        async with Fossa(FaultsConfig, SOURCES=[], **durable) as alone:
            await until_async(lambda: alone.governor.page(status="queued"))
            (record,) = await alone.governor.page()
            assert record.attempts == 1
            assert record.progress.message == "the node died: its source delivers it again"
            lines = await alone.governor.logs(record.task.id)
            assert [line.level for _, line in lines] == ["WARNING"]
        book.open()
        again = await nodes.start("again", source=rabbit, **durable)
        await replies_to(someone, 1)
        (ended,) = await again.governor.page()
        assert (ended.task.id, ended.attempts) == (record.task.id, 2)
        assert ended.outcome.complete


# what is delivered no more: the broker would bury it, and whoever waits for it would wait for ever


@asynccontextmanager
async def delivered_once(broker, prefix, state, **given):
    """A victim, and the options of nodes after it: each message is delivered again once."""
    limit = {"delivery_limit": 1}
    async with victim(broker, prefix, state, rabbit=limit, **given) as process:
        yield process, plugin(broker.url, prefix, **limit)


async def test_a_task_that_is_delivered_no_more_is_answered(
    nodes, book, broker, fresh_prefix, tmp_path
):
    async with (
        delivered_once(broker, fresh_prefix, tmp_path / "state") as (process, rabbit),
        client(broker.url, fresh_prefix, None) as someone,
    ):
        await someone.submit(1, book, gate=True)
        await book.has("begin", 1)
        process.kill()
        await killed(process)
        other = await nodes.start("other", source=rabbit)
        (reply,) = await replies_to(someone, 1)
        assert reply["outcome"]["status"] == "failed"
        assert "delivered 2 times and delivery_limit is 1" in reply["outcome"]["message"]
        assert await someone.depth(f"{fresh_prefix}.dead") == 1
        assert await other.governor.page() == []
    assert len(book.lines("begin")) == 1


async def test_a_task_that_is_delivered_no_more_to_the_node_that_died_under_it(
    nodes, book, broker, fresh_prefix, tmp_path
):
    durable = {"STATE_DIR": tmp_path / "state", "LEDGER": "sqlite"}
    async with (
        delivered_once(broker, fresh_prefix, durable["STATE_DIR"]) as (process, rabbit),
        client(broker.url, fresh_prefix, None) as someone,
    ):
        await killed_under_a_task(process, someone, book, durable["STATE_DIR"])
        again = await nodes.start("again", source=rabbit, **durable)
        (reply,) = await replies_to(someone, 1)
        assert reply["outcome"]["reason"] == "lost_node"
        (record,) = await again.governor.page()
        assert (record.attempts, record.outcome.reason) == (1, "lost_node")
        assert "delivered 2 times" in record.outcome.message

        async def buried():
            return await someone.depth(f"{fresh_prefix}.dead") == 1

        await until_async(buried)
    assert len(book.lines("begin")) == 1


async def test_a_task_that_is_delivered_no_more_and_has_ended_is_answered_from_the_ledger(
    nodes, book, broker, fresh_prefix, tmp_path
):
    state, point = tmp_path / "state", {"point": "outcome_recorded"}
    async with (
        delivered_once(broker, fresh_prefix, state, **point) as (process, rabbit),
        client(broker.url, fresh_prefix, None) as someone,
    ):
        await someone.submit(1, book)
        await killed(process)
        await nodes.start("again", source=rabbit, STATE_DIR=state, LEDGER="sqlite")
        (reply,) = await replies_to(someone, 1)
        assert reply["outcome"]["status"] == "complete"
        await empty(someone, fresh_prefix)


async def test_a_parent_hears_of_a_subtask_that_is_delivered_no_more(
    nodes, book, broker, fresh_prefix, tmp_path
):
    async with delivered_once(broker, fresh_prefix, tmp_path / "state") as (process, rabbit):
        a = await nodes.start("a", executor=rabbit, PLUGINS=[Far()])
        await until(lambda: len(a.governor.fleet()) == 2)
        handle = await a.submit(**work(book, 1, gate=[0]))
        await book.has("begin", 1)
        process.kill()
        await killed(process)
        await nodes.start("b", source=rabbit)
        assert not (await outcome_of(handle)).complete
        (record,) = await handle.subtasks()
        assert "delivered 2 times and delivery_limit is 1" in record.outcome.message
    assert len(book.lines("begin")) == 1


# the node of a parent


async def test_a_parent_whose_node_is_killed_and_that_came_over_rabbitmq(
    nodes, book, broker, fresh_prefix, tmp_path, quick_presence
):
    """It runs anew on another node, once the subtasks of the dead one's have left the slots."""
    rabbit = plugin(broker.url, fresh_prefix)
    given = {"presence": quick_presence, "executor": True}
    async with victim(broker, fresh_prefix, tmp_path / "state", **given) as process:
        # So that its model makes subtasks for more than its own slots.
        other = await nodes.start("other", executor=rabbit)
        await until(lambda: len(other.governor.fleet()) == 2)
        async with client(broker.url, fresh_prefix, None) as someone:
            await someone.publish(f"{fresh_prefix}.tasks", work(book, 6, gate=[0, 1, 2, 3]), 1)
            await book.has("begin", 2)
            b = await nodes.start("b", source=rabbit, executor=rabbit)
            await until(lambda: len(b.governor.running()) == 2)
            orphans = {record.task.id for record in b.governor.running()}
            process.kill()
            await killed(process)
            await until(lambda: not orphans & {r.task.id for r in b.governor.running()})
            book.open()
            replies = await replies_to(someone, 1)
            assert replies[0]["outcome"]["status"] == "complete"
            await empty(someone, fresh_prefix)
    assert book.numbers("told") == {str(number): 1 for number in range(6)}
    assert len(book.lines("whole")) == 1
    assert max(book.numbers("begin").values()) == 2


async def test_a_parent_whose_node_is_killed_and_started_again(
    nodes, book, broker, fresh_prefix, tmp_path, quick_presence
):
    """It came over HTTP: its node takes it up, and does not repeat what was complete."""
    rabbit = plugin(broker.url, fresh_prefix)
    given = {
        "presence": quick_presence,
        "executor": True,
        "submit": work(book, 8, seconds=0.2, gate=[4, 5, 6, 7]),
    }
    b = await nodes.start("b", source=rabbit, executor=rabbit, SLOTS=1)
    state = tmp_path / "state"
    async with victim(broker, fresh_prefix, state, **given) as process:
        await until(lambda: book.numbers("told").keys() >= {"0", "1", "2", "3"})
        await until(lambda: len(book.numbers("begin").keys() & set("4567")) == 3)
        await until(b.governor.running)
        repeated = book.numbers("begin").keys() & set("4567")
        (orphan,) = [record.task.id for record in b.governor.running()]
        process.kill()
        await killed(process)
    told = book.numbers("told")
    a = await nodes.start("a", source=rabbit, executor=rabbit, STATE_DIR=state, LEDGER="sqlite")
    await until(lambda: orphan not in {r.task.id for r in b.governor.running()})
    book.open()
    (record,) = await a.governor.page()
    handle = await a.task(record.task.id)
    assert (await outcome_of(handle)).complete
    assert (await handle.record()).attempts == 2
    assert book.repeated == repeated
    assert book.numbers("told") == told + Counter({str(n): 1 for n in range(8)})
    assert len(book.lines("whole")) == 1


@pytest.fixture
def quick_presence(monkeypatch):
    """Nodes take each other for gone after a second instead of twelve; seconds between signs."""
    monkeypatch.setattr("fossa_rabbitmq.post.PRESENCE_INTERVAL", 0.2)
    monkeypatch.setattr("fossa_rabbitmq.fleet.GONE_AFTER", 1.0)
    return 0.2
