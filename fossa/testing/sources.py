"""What a source must hold."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
from attrs import frozen

from fossa.contracts import Reservation, Source
from fossa.embed import Fossa
from fossa.node import RunningNode
from fossa.tasks import Delivery, Outcome, Request, Task
from fossa.testing.components import PATIENCE, ComponentContract, eventually, stopped
from fossa.testing.doubles import MemoryExecutor


@frozen
class Admission:
    """One call to `Node.admit`, or `admit_now`, that went well."""

    delivery: Delivery
    reservation: Reservation | None
    task: Task


class WatchedNode:
    """A running node, its source, and what the source asked of the node."""

    def __init__(self, node: Fossa, source: Any) -> None:
        self.node: RunningNode = node.governor
        self.source = source
        #: What was admitted, in order.
        self.admissions: list[Admission] = []
        #: How often the source asked for a slot.
        self.reserves = 0
        #: How many of its looks for a free slot go on.
        self.looks = 0
        self._watch()
        self.running = asyncio.create_task(source.run(self.node))

    def _watch(self) -> None:
        node, admit, admit_now = self.node, self.node.admit, self.node.admit_now
        reserve, slot_free = self.node.reserve, self.node.slot_free

        async def watched_admit(
            delivery: Delivery, reservation: Reservation | None = None
        ) -> tuple[Task, bool]:
            task, new = await admit(delivery, reservation)
            self.admissions.append(Admission(delivery, reservation, task))
            return task, new

        def watched_admit_now(
            delivery: Delivery, reservation: Reservation | None = None
        ) -> Task | None:
            task = admit_now(delivery, reservation)
            if task is not None:
                self.admissions.append(Admission(delivery, reservation, task))
            return task

        async def watched_reserve() -> Any:
            self.reserves += 1
            return await reserve()

        async def watched_slot_free(free: bool = True) -> None:
            self.looks += free
            try:
                await slot_free(free)
            finally:
                self.looks -= free

        node.admit = watched_admit  # type: ignore[method-assign]
        node.admit_now = watched_admit_now  # type: ignore[method-assign]
        node.reserve = watched_reserve  # type: ignore[method-assign]
        node.slot_free = watched_slot_free  # type: ignore[method-assign]

    async def wants_a_slot(self) -> None:
        """Returns once the source asks for a slot, or waits for one that it could ask for."""
        await eventually(lambda: self.reserves or self.looks)

    async def admitted(self, count: int = 1) -> Admission:
        """The newest admission, once there are so many."""
        await eventually(lambda: len(self.admissions) >= count or self.running.done())
        assert not self.running.done(), "run() ended"
        return self.admissions[-1]

    async def outcome(self, admission: Admission) -> Outcome:
        return await self.node.outcome(admission.task.id)

    async def all_slots_free(self) -> None:
        """Returns once nothing holds a slot or keeps one reserved."""
        await eventually(lambda: self.node.status()["slots_free"] == self.node.status()["slots"])


class SourceContract(ComponentContract):
    """Subclass it, say whether it takes, and override `make` and `send`; `left` if it takes."""

    #: True: it fetches messages when it likes. False: it is given requests, and answers them.
    takes: ClassVar[bool]

    def make(self) -> Source:
        raise NotImplementedError(f"{type(self).__name__} should override make()")

    async def send(self, source: Any, request: Request) -> str | None:
        """Have a request arrive at the source.

        Returns:
            What the sender is told where the request is refused; None where the source takes, or
            where it was not refused.
        """
        raise NotImplementedError(f"{type(self).__name__} should override send()")

    async def left(self, source: Any) -> int | None:
        """Messages that nobody has, now: unfetched or given back. None: a test cannot tell."""
        return None

    # tools

    @asynccontextmanager
    async def running(self, **settings: Any) -> AsyncIterator[WatchedNode]:
        """A node with the source running beside it."""
        source = self.named()
        async with self.node(**settings) as node:
            try:
                await source.open(node.governor)
                watched = WatchedNode(node, source)
                try:
                    await eventually(lambda: source.ready() is None)
                    yield watched
                finally:
                    await stopped(watched.running, self.promptly)
            finally:
                await source.close()

    def only_if(self, takes: bool) -> None:
        if self.takes is not takes:
            pytest.skip("it takes messages" if self.takes else "it is given requests")

    def echo(self, value: str = "x") -> Request:
        return Request(model="Answers", method="echo", method_kwargs={"value": value})

    async def _is_left(self, source: Any, wanted: int) -> None:
        """Returns once so many messages are left, where that can be told."""
        async with asyncio.timeout(PATIENCE):
            while await self.left(source) not in (None, wanted):
                await asyncio.sleep(0.01)

    # the contract

    def test_it_says_whether_it_takes(self) -> None:
        assert isinstance(self.takes, bool)

    def test_what_is_sent_becomes_a_task(self) -> None:
        async def sent() -> None:
            async with self.running() as watched:
                assert await self.send(watched.source, self.echo("“ñ” \N{SNOWMAN}")) is None
                admission = await watched.admitted()
                assert admission.delivery.source == watched.source.name
                assert admission.task.source == watched.source.name
                outcome = await watched.outcome(admission)
                assert outcome.result == {"value": "“ñ” \N{SNOWMAN}"}
                await watched.all_slots_free()
                await self._is_left(watched.source, 0)

        self.within(sent())

    def test_a_request_keeps_all_that_it_says(self) -> None:
        request = Request(
            model="Answers",
            method="echo",
            method_kwargs={"value": [1, None]},
            model_construction_kwargs={"greeting": "hi"},
            resolver_context={"place": "here"},
        )

        async def kept() -> None:
            async with self.running() as watched:
                await self.send(watched.source, request)
                task = (await watched.admitted()).task
                assert (task.model, task.method) == ("Answers", "echo")
                for name in ("method_kwargs", "model_construction_kwargs", "resolver_context"):
                    assert task.arguments_of(name) == getattr(request, name)

        self.within(kept())

    def test_many_are_sent_and_none_is_lost(self) -> None:
        async def many() -> None:
            async with self.running() as watched:
                for number in range(30):
                    await self.send(watched.source, self.echo(str(number)))
                await watched.admitted(30)
                arguments = [a.task.arguments_of("method_kwargs") for a in watched.admissions]
                assert sorted(int(a["value"]) for a in arguments) == list(range(30))

        self.within(many())

    def test_a_refused_request_stops_nothing(self) -> None:
        async def refused() -> None:
            async with self.running() as watched:
                for request in (
                    Request(model="NoSuchModel"),
                    Request(model="Answers", method="__init__"),
                ):
                    told = await self.send(watched.source, request)
                    assert self.takes or told, "the sender should be told why it was refused"
                assert await self.send(watched.source, self.echo()) is None
                assert (await watched.outcome(await watched.admitted())).complete
                assert len(watched.admissions) == 1
                await watched.all_slots_free()

        self.within(refused())

    def test_it_asks_for_a_slot_before_it_fetches(self) -> None:
        self.only_if(takes=True)

        async def before() -> None:
            async with self.running(SLOTS=1) as watched:
                held = await watched.node.reserve()
                watched.reserves = 0
                await self.send(watched.source, self.echo())
                await watched.wants_a_slot()
                await asyncio.sleep(0.2)
                assert not watched.admissions, "it admitted a task that it had no slot for"
                await self._is_left(watched.source, 1)
                held.release()
                admission = await watched.admitted()
                assert admission.reservation is not None, "it did not pass its reservation on"
                await watched.all_slots_free()

        self.within(before())

    def test_a_refusal_for_want_of_room_is_told(self) -> None:
        self.only_if(takes=False)

        async def told() -> None:
            async with self.running(SLOTS=1, MAX_QUEUED_TASKS=0) as watched:
                held = await watched.node.reserve()
                assert await self.send(watched.source, self.echo())
                held.release()
                assert await self.send(watched.source, self.echo()) is None

        self.within(told())

    def test_it_stops_promptly_when_cancelled(self) -> None:
        async def stops() -> None:
            async with self.running() as watched:
                await self.send(watched.source, self.echo())
                await watched.outcome(await watched.admitted())
                await stopped(watched.running, self.promptly)
                await watched.all_slots_free()

        self.within(stops())

    def test_it_stops_while_it_waits_for_a_slot(self) -> None:
        self.only_if(takes=True)

        async def stops() -> None:
            async with self.running(SLOTS=1) as watched:
                held = await watched.node.reserve()
                await self.send(watched.source, self.echo())
                await watched.wants_a_slot()
                await stopped(watched.running, self.promptly)
                held.release()
                await watched.all_slots_free()
                assert not watched.admissions
                await self._is_left(watched.source, 1)

        self.within(stops())

    def test_what_a_stopping_node_leaves_is_given_back(self) -> None:
        self.only_if(takes=True)

        async def given_back() -> None:
            async with self.running(EXECUTORS=[MemoryExecutor(hold=True)]) as watched:
                await self.send(watched.source, self.echo())
                await watched.admitted()
                await stopped(watched.running, self.promptly)
                await watched.node.stop(0)
                await self._is_left(watched.source, 1)

        self.within(given_back())
