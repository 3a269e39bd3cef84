"""Sinks that must have each outcome, and deliveries that are kept until they are settled."""

import asyncio

import pytest

import models
from fossa import Delivery, Lease, LeaseOver, Reason, Request, Status, settling
from fossa.testing import MemorySink
from support import outcome, running, until


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """A sink that fails is tried again soon."""
    monkeypatch.setattr(settling, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(settling, "OFFER_INTERVAL", 0.05)


class Settled:
    """A delivery of a request, and what became of it, in order."""

    def __init__(self, model="Echo", method="say", kwargs=None, **options):
        self.said = []
        self.changed = asyncio.Event()
        self.rejects = options.pop("rejects", False)
        request = Request(
            model=model,
            method=method,
            method_kwargs={"what": 1} if kwargs is None else kwargs,
            idempotency_key=options.pop("key", None),
        )
        self.delivery = Delivery(
            request=request,
            source="test",
            ack=self._ack,
            give_back=self._give_back,
            reject=self._reject if self.rejects else None,
            **options,
        )

    def _say(self, *what):
        self.said.append(what)
        self.changed.set()

    async def _ack(self, outcome):
        self._say("ack", outcome.status)

    async def _give_back(self):
        self._say("give_back")

    async def _reject(self, outcome, why):
        self._say("reject", outcome.status, why)

    async def end(self):
        async with asyncio.timeout(10):
            await self.changed.wait()
        return self.said


# required sinks


async def test_a_required_sink_has_the_outcome_before_the_delivery_is_settled():
    sink = MemorySink(required=True, failures=2)
    async with running(SINKS=[sink]) as node:
        settled = Settled()
        await node.governor.admit(settled.delivery)
        assert await settled.end() == [("ack", Status.COMPLETE)]
        assert len(sink.taken) == 1


async def test_what_a_required_sink_would_not_take_is_the_sources_concern():
    sink = MemorySink(required=True, failures=settling.TRIES)
    async with running(SINKS=[sink]) as node:
        settled = Settled(rejects=True, redelivers=True, key="k")
        task, _ = await node.governor.admit(settled.delivery)
        [(what, status, why)] = await settled.end()
        assert (what, status) == ("reject", Status.COMPLETE)
        assert "MemorySink: it does not take outcomes: ConnectionError: this sink was told" in why
        assert (await node.governor.record(task.id)).owed
        # Its source delivers it again: the sink is offered the outcome, the model does not run.
        again = Settled(rejects=True, redelivers=True, key="k")
        assert await node.governor.admit(again.delivery) == (task, False)
        assert await again.end() == [("ack", Status.COMPLETE)]
        assert [taken.task.id for taken in sink.taken] == [task.id]
        assert (await node.governor.record(task.id)).attempts == 1


async def test_a_source_that_only_gives_back_gets_it_back():
    sink = MemorySink(required=True, failures=10**9)
    async with running(SINKS=[sink]) as node:
        settled = Settled(redelivers=True, key="k")
        await node.governor.admit(settled.delivery)
        assert await settled.end() == [("give_back",)]


async def test_what_nobody_redelivers_is_offered_until_it_is_taken():
    sink = MemorySink(required=True, failures=settling.TRIES + 3)
    async with running(SINKS=[sink]) as node:
        settled = Settled()
        task, _ = await node.governor.admit(settled.delivery)
        await until(node.governor.not_ready)
        assert "MemorySink: it does not take outcomes" in node.governor.not_ready()[0]
        assert await settled.end() == [("ack", Status.COMPLETE)]
        assert [taken.task.id for taken in sink.taken] == [task.id]
        assert not node.governor.not_ready()
        await node.governor._ledger.committed()
        assert not (await node.governor.record(task.id)).owed


async def test_what_is_owed_outlives_the_node(tmp_path):
    settings = {"LEDGER": "sqlite", "STATE_DIR": tmp_path}
    refuses, takes = (MemorySink(required=True, failures=n) for n in (10**9, 0))
    async with running(SINKS=[refuses], **settings) as node:
        task = (await node.submit("Echo", "say", method_kwargs={"what": 7})).id
        await until(node.governor.not_ready)
    async with running(SINKS=[takes], **settings) as node:
        await until(lambda: takes.taken)
    [taken] = takes.taken
    assert (taken.task.id, taken.outcome.result["what"]) == (task, 7)
    more = MemorySink(required=True)
    async with running(SINKS=[more], **settings) as node:
        await outcome(node, "Echo", "say", method_kwargs={"what": 8})
        assert [taken.outcome.result["what"] for taken in more.taken] == [8]


async def test_a_sink_that_fails_is_not_given_ever_more():
    class Stuck(MemorySink):
        at_once = most = 0

        async def take(self, task, outcome):
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            try:
                await asyncio.sleep(0.05)
                raise ConnectionError("down")
            finally:
                self.at_once -= 1

    sink = Stuck(required=True)
    async with running(SINKS=[sink]) as node:
        handles = [await node.submit("Echo", "say", method_kwargs={"what": 1}) for _ in range(200)]
        for handle in handles:
            assert (await handle.outcome(20)).complete
        assert 0 < sink.most <= settling.AT_ONCE


async def test_the_outcomes_of_subtasks_are_their_parents():
    sink = MemorySink(required=True)
    async with running(SINKS=[sink], ACCEPTED_MODEL_CLASSES=models.ALL) as node:
        assert (await outcome(node, "Squares", model_construction_kwargs={"count": 3})).complete
        await until(lambda: sink.taken)
    assert [taken.task.depth for taken in sink.taken] == [0]


# best-effort sinks


async def test_a_best_effort_sink_holds_nothing_up(caplog):
    class Waits(MemorySink):
        async def take(self, task, outcome):
            await go_on.wait()
            await super().take(task, outcome)

    go_on, sink = asyncio.Event(), Waits()
    async with running(SINKS=[sink]) as node:
        settled = Settled()
        task, _ = await node.governor.admit(settled.delivery)
        assert await settled.end() == [("ack", Status.COMPLETE)]
        assert sink.taken == []
        assert not (await node.governor.record(task.id)).owed
        go_on.set()
    assert [taken.task.id for taken in sink.taken] == [task.id]


async def test_what_a_best_effort_sink_does_not_take_is_logged_and_left(caplog):
    sink, other = MemorySink(failures=1), MemorySink()
    other.name = "other"
    async with running(SINKS=[sink, other]) as node:
        settled = Settled()
        first, _ = await node.governor.admit(settled.delivery)
        assert await settled.end() == [("ack", Status.COMPLETE)]
        second = await node.submit("Echo", "say", method_kwargs={"what": 2})
        await until(lambda: len(other.taken) == 2)
        await until(lambda: sink.taken)
        assert node.governor.not_ready() == []
    assert [taken.task.id for taken in sink.taken] == [second.id]
    assert f"sink MemorySink did not take the outcome of {first.id}" in caplog.text
    assert "ConnectionError: this sink was told to fail" in caplog.text


async def test_a_best_effort_sink_that_is_too_slow_loses_the_oldest(monkeypatch, caplog):
    monkeypatch.setattr(settling, "MAX_WAITING", 2)

    class Waits(MemorySink):
        begun = 0

        async def take(self, task, outcome):
            self.begun += 1
            await go_on.wait()
            await super().take(task, outcome)

    go_on, sink = asyncio.Event(), Waits()
    async with running(SINKS=[sink], SLOTS=1) as node:
        ids = []
        for number in range(5):
            handle = await node.submit("Echo", "say", method_kwargs={"what": number})
            assert (await handle.outcome(20)).complete
            ids.append(handle.id)
            await until(lambda: sink.begun)
        go_on.set()
        await until(lambda: len(sink.taken) == 3)
    assert [taken.task.id for taken in sink.taken] == [ids[0], *ids[3:]]
    for lost in ids[1:3]:
        assert f"sink Waits is too slow: it did not get the outcome of {lost}" in caplog.text


async def test_a_sink_that_took_it_and_could_not_say_so_gets_it_again():
    class Deaf(MemorySink):
        async def take(self, task, outcome):
            await super().take(task, outcome)
            if len(self.taken) == 1:
                raise ConnectionResetError("the answer was lost")

    sink = Deaf(required=True)
    async with running(SINKS=[sink]) as node:
        settled = Settled()
        task, _ = await node.governor.admit(settled.delivery)
        assert await settled.end() == [("ack", Status.COMPLETE)]
    assert [taken.task.id for taken in sink.taken] == [task.id, task.id]
    assert sink.taken[0] == sink.taken[1]


async def test_every_required_sink_has_to_take_it():
    takes, refuses = MemorySink(required=True), MemorySink(required=True, failures=10**9)
    takes.name, refuses.name = "takes", "refuses"
    async with running(SINKS=[takes, refuses]) as node:
        settled = Settled(rejects=True)
        await node.governor.admit(settled.delivery)
        [(what, _, why)] = await settled.end()
        assert what == "reject"
        assert why.startswith("refuses: it does not take outcomes")
        assert len(takes.taken) == 1


# leases


async def test_a_lease_is_renewed_until_the_delivery_is_settled():
    renewed = []

    async def renew():
        renewed.append(1)
        if len(renewed) == 2:
            raise ConnectionError("once in a while that happens")

    async with running() as node:
        lease = Lease(every=0.05, renew=renew)
        settled = Settled(method="sleep", kwargs={"seconds": 0.5}, lease=lease)
        await node.governor.admit(settled.delivery)
        assert await settled.end() == [("ack", Status.COMPLETE)]
        count = len(renewed)
        assert count > 2
        await asyncio.sleep(0.2)
        assert len(renewed) == count


async def test_a_lease_that_is_over_fails_the_task():
    async def renew():
        raise LeaseOver("the queue keeps a message for 12 h")

    async with running() as node:
        lease = Lease(every=0.05, renew=renew)
        settled = Settled(method="sleep", kwargs={"seconds": 60}, lease=lease)
        task, _ = await node.governor.admit(settled.delivery)
        ended = await node.governor.outcome(task.id)
        assert (ended.status, ended.reason) == (Status.FAILED, Reason.LEASE_OVER)
        assert ended.message == "the queue keeps a message for 12 h"
        assert await settled.end() == [("ack", Status.FAILED)]


async def test_a_stopping_node_renews_nothing_that_it_gave_back():
    renewed = []

    async def renew():
        renewed.append(1)

    async with running(SLOTS=1) as node:
        first = Settled(method="sleep", kwargs={"seconds": 60})
        await node.governor.admit(first.delivery)
        second = Settled(lease=Lease(every=0.02, renew=renew))
        await node.governor.admit(second.delivery)
        await until(lambda: renewed)
        await node.stop(0.1)
        assert second.said == [("give_back",)]
        count = len(renewed)
        await asyncio.sleep(0.1)
        assert len(renewed) == count
