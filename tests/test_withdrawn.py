"""Tasks that their source takes back, and that come again: no delivery is left unsettled."""

import asyncio

import pytest

import models
from fossa import (
    DeliveredTooOften,
    Delivery,
    NodeStopped,
    NotAccepted,
    Origin,
    Request,
    new_id,
)
from support import outcome, running, until


class Comings:
    """One subtask of another node, as its source delivers it again and again."""

    def __init__(self, node):
        self.node, self.id = node, new_id()
        self.settled = []

    def delivery(self, number, last=""):
        async def ack(outcome):
            self.settled.append((number, str(outcome.status)))

        async def give_back():
            self.settled.append((number, "back"))

        parent = new_id()
        return Delivery(
            request=Request(model="Echo", method="say", method_kwargs={"what": number}),
            origin=Origin(task_id=self.id, parent_id=parent, root_id=parent, depth=1, key="k"),
            source="test",
            redelivers=True,
            again=number > 1,
            last=last,
            ack=ack,
            give_back=give_back,
        )

    async def come(self, number, last=""):
        await self.node.governor.admit(self.delivery(number, last))

    async def withdraw(self):
        return await self.node.governor.withdraw(self.id)


@pytest.fixture
async def busy(tmp_path):
    """A node whose one slot is taken, with its ledger on a disk; and what frees the slot."""
    async with running(SLOTS=1, LEDGER="sqlite", STATE_DIR=str(tmp_path)) as node:
        long = await node.submit(models.Echo, "sleep", method_kwargs={"seconds": 60})
        await until(lambda: node.governor.status()["running"] == 1)
        yield node, long


async def test_one_that_was_withdrawn_and_comes_again_runs(busy):
    node, long = busy
    comings = Comings(node)
    await comings.come(1)
    assert await comings.withdraw()
    await comings.come(2)
    await long.cancel()
    await until(lambda: comings.settled)
    assert comings.settled == [(2, "complete")]
    record = await node.governor.record(comings.id)
    assert record.outcome is not None and record.outcome.complete


async def test_one_that_is_withdrawn_while_it_comes_again_is_settled(busy, caplog):
    """As soon as the node knows of it: its admission has not come to its end by then."""
    node, long = busy
    owed = []
    for _ in range(20):
        comings = Comings(node)
        await comings.come(1)
        assert await comings.withdraw()
        coming = asyncio.create_task(comings.come(2))
        while comings.id not in node.governor._live:
            await asyncio.sleep(0)
        # Withdrawn, its source has it; otherwise the node owes its source an end.
        if not await comings.withdraw():
            owed.append(comings)
        await coming
        if comings.id in node.governor._live:
            owed.append(comings)
    await long.cancel()
    assert (await outcome(node, models.Nothing)).complete
    for comings in owed:
        await until(lambda: comings.settled)  # noqa: B023 - called at once
    assert node.governor.status()["queued"] == 0
    assert "failed at a chore" not in caplog.text


async def test_a_last_delivery_is_refused_where_the_task_is_unknown_and_its_twin_is_not(busy):
    node, long = busy
    comings = Comings(node)
    ends = await asyncio.gather(
        comings.come(2, "so often"), comings.come(3), return_exceptions=True
    )
    assert [type(end) for end in ends] == [DeliveredTooOften, type(None)]
    assert str(ends[0]) == "so often"
    await comings.come(4, "so often")  # what is known is not refused
    await long.cancel()
    await until(lambda: (4, "complete") in comings.settled)
    await comings.come(5, "so often")
    await until(lambda: (5, "complete") in comings.settled)


async def test_only_what_is_surely_new_and_comes_again_is_admitted_at_once(busy):
    node, long = busy
    comings, often = Comings(node), Comings(node)
    admit_now = node.governor.admit_now
    assert admit_now(comings.delivery(1)).id == comings.id
    for known in (1, 2):
        assert admit_now(comings.delivery(known)) is None
    with pytest.raises(DeliveredTooOften, match="so often"):
        admit_now(often.delivery(1, "so often"))
    request = Request(model="Echo", method="say", method_kwargs={"what": 1})
    # A source that does not have it any more waits until the ledger has it.
    assert admit_now(Delivery(request=request, source="test")) is None
    assert node.governor.status()["queued"] == 1
    await comings.come(2)
    await long.cancel()
    await until(lambda: comings.settled)
    assert comings.settled == [(2, "complete")]
    with pytest.raises(NotAccepted):
        admit_now(Delivery(request=Request(model="Unknown"), source="test", redelivers=True))
    await node.stop()
    with pytest.raises(NodeStopped):
        admit_now(often.delivery(1))


async def test_what_is_being_looked_up_when_a_stop_begins_is_given_back_at_once(busy, monkeypatch):
    node, long = busy
    comings, ledger = Comings(node), node.governor._ledger
    get, asked, read = ledger.get, asyncio.Event(), asyncio.Event()

    async def slow(task_id):
        asked.set()
        await read.wait()
        return await get(task_id)

    monkeypatch.setattr(ledger, "get", slow)
    coming = asyncio.create_task(comings.come(2))
    await asked.wait()
    stopping = asyncio.create_task(node.stop(timeout=10))
    await until(lambda: node.governor.status()["state"] == "stopping")
    read.set()
    await until(lambda: comings.settled == [(2, "back")], 5)
    await coming
    await long.cancel()
    await stopping
