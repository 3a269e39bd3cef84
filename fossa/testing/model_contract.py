"""What a model must hold to be run on many nodes: the same output, however it is run."""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from fossa.builtin.local import LocalExecutor
from fossa.contracts import Executor, LiveAttempt, Node
from fossa.embed import Fossa
from fossa.errors import FossaError
from fossa.tasks import Attempt, Delivery, LogLine, Origin, Outcome, Watch
from fossa.testing.components import SuiteConfig
from fossa.worker.loading import WORKER_MARK

#: Seconds by which a shuffled subtask is late, at the most.
LATE = 0.05
#: Seconds that the first outcome waits for a second, at the most.
HELD_BACK = 5.0
#: Workers that are killed while the model runs, and seconds into it, at the most.
KILLS, KILL_WITHIN = 3, 0.02
#: Seconds after which a model without subtasks is killed.
KILL_AFTER = 1.0


class ModelContract:
    """Subclass it in a class whose name begins with `Test`; set `models`, override `request`.

    Each test runs the model in another way and compares what comes of it with what comes of it
    where everything runs one after another in one process, as without Fossa.
    """

    #: Model classes that the run needs, its subtasks' included.
    models: ClassVar[Sequence[type]] = ()
    #: Further settings of the nodes, by name.
    settings: ClassVar[Mapping[str, Any]] = {}
    #: Seconds that one run may take.
    deadline: ClassVar[float] = 120.0
    #: Decides what is late and what is killed.
    seed: ClassVar[int] = 1

    def request(self, directory: Path) -> dict[str, Any]:
        """What to submit, as the arguments of `Request`. Write to `directory` only."""
        raise NotImplementedError(f"{type(self).__name__} should override request()")

    def output(self, directory: Path, outcome: Outcome) -> Any:
        """What came of it, to be compared by ==: read from `directory`, or the result."""
        return outcome.result

    @pytest.fixture(autouse=True)
    def _setting(self, no_leaks: None, tmp_path: Path) -> None:
        self.tmp_path = tmp_path

    # ways to run it

    def test_in_worker_processes(self) -> None:
        self.same("workers", SLOTS=2)

    def test_with_a_process_for_each_subtask(self) -> None:
        self.same("processes", SLOTS=3, ISOLATION="task")

    def test_on_two_nodes(self) -> None:
        self.same("two nodes", next_door=True)

    def test_in_another_order(self) -> None:
        self.same("another order", Shuffled(random.Random(self.seed)), SLOTS=4)

    def test_with_each_subtask_run_twice(self) -> None:
        """As it happens where a node dies after it ran one and before it could say so."""
        self.same("each subtask twice", Duplicated(), SLOTS=2)

    def test_with_workers_that_are_killed(self) -> None:
        self.same("killed workers", Killed(random.Random(self.seed)), SLOTS=2, CRASH_ATTEMPTS=20)

    # tools

    def same(self, way: str, executor: Executor | None = None, **settings: Any) -> None:
        """Run it in some way, and compare."""
        expected = self.run("serial", DEBUG=True)
        found = self.run(way, executor, **settings)
        assert found == expected, f"its output is another one with {way} than serially"

    def run(self, way: str, executor: Executor | None = None, **settings: Any) -> Any:
        """What comes of it; fails where it does not complete."""
        directory = self.tmp_path / way.replace(" ", "-")
        directory.mkdir()
        work = self._run(directory, executor, settings)
        outcome = asyncio.run(asyncio.wait_for(work, self.deadline))
        assert outcome.complete, f"{way}: {outcome.reason}: {outcome.message}"
        return self.output(directory, outcome)

    async def _run(
        self, directory: Path, executor: Executor | None, settings: dict[str, Any]
    ) -> Outcome:
        async with self._node(executor, **settings) as node:
            handle = await node.submit(**self.request(directory))
            return await handle.outcome()

    @asynccontextmanager
    async def _node(
        self, executor: Executor | None, *, next_door: bool = False, **settings: Any
    ) -> AsyncIterator[Fossa]:
        chosen = {**self.settings, "ACCEPTED_MODEL_CLASSES": self.models, **settings}
        executors: list[Any] = [executor or LocalExecutor()]
        async with AsyncExitStack() as stack:
            if next_door:
                other = Fossa(SuiteConfig, EXECUTORS=[LocalExecutor()], **chosen)
                executors.append(NextDoor(await stack.enter_async_context(other)))
                chosen["SLOTS"] = 1
            yield await stack.enter_async_context(Fossa(SuiteConfig, EXECUTORS=executors, **chosen))


class Shuffled(LocalExecutor):
    """Each subtask begins late, by chance; the first to end is not the first to be heard of."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self._ended = 0
        self._second = asyncio.Event()

    async def run(self, attempt: Attempt, live: LiveAttempt) -> Outcome:
        if not attempt.task.depth:
            return await super().run(attempt, live)
        await asyncio.sleep(self._chance.uniform(0, LATE))
        outcome = await super().run(attempt, live)
        self._ended += 1
        if self._ended > 1:
            self._second.set()
            return outcome
        with contextlib.suppress(
            TimeoutError
        ):  # there may be no second before this one is heard of
            async with asyncio.timeout(HELD_BACK):
                await self._second.wait()
        await asyncio.sleep(LATE)
        return outcome


class Duplicated(LocalExecutor):
    """Each subtask runs twice; what counts is the second."""

    async def run(self, attempt: Attempt, live: LiveAttempt) -> Outcome:
        outcome = await super().run(attempt, live)
        return await super().run(attempt, live) if attempt.task.depth else outcome


class Killed(LocalExecutor):
    """Now and then a worker is killed, whatever it runs: one that works, and does not just start.

    Between two kills a subtask has come to its end.
    """

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self._left = KILLS
        self._at_work = asyncio.Event()

    async def open(self, node: Node) -> None:
        self._mark = str(node.composition.state_dir or node.id)
        await super().open(node)

    async def run(self, attempt: Attempt, live: LiveAttempt) -> Outcome:
        running = asyncio.ensure_future(super().run(attempt, live))
        try:
            if self._left and (attempt.task.depth or attempt.number == 1):
                await self._kill_soon(running, None if attempt.task.depth else KILL_AFTER)
            outcome = await running
            if attempt.task.depth:
                self._at_work.set()
            return outcome
        except asyncio.CancelledError:
            running.cancel()
            await asyncio.wait([running])
            raise

    async def _kill_soon(self, running: "asyncio.Future[Outcome]", after: float | None) -> None:
        """Kill one of the workers while an attempt is under way."""
        at_work = asyncio.ensure_future(self._at_work.wait())
        futures = (running, at_work)
        await asyncio.wait(futures, timeout=after, return_when=asyncio.FIRST_COMPLETED)
        at_work.cancel()
        await asyncio.wait([running], timeout=self._chance.uniform(0, KILL_WITHIN))
        workers = [process for process in psutil.Process().children() if self._is_mine(process)]
        due = self._at_work.is_set() or after is not None
        if workers and due and self._left and not running.done():
            self._at_work.clear()
            self._left -= 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._chance.choice(workers).pid, signal.SIGKILL)

    def _is_mine(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return process.environ().get(WORKER_MARK) == self._mark
        return False


class NextDoor(Executor):
    """Has each attempt run by another node in this process, as by one on another computer."""

    remote = True

    def __init__(self, other: Fossa) -> None:
        self._other = other
        self.name = "next-door"

    def room(self, model: str) -> int:
        return self.far_slots(model) + 1

    def far_slots(self, model: str) -> int:
        return int(self._other.composition.slots)

    async def run(self, attempt: Attempt, live: LiveAttempt) -> Outcome:
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        async def ack(outcome: Outcome) -> None:
            if not ended.done():
                ended.set_result(outcome)

        delivery = Delivery(
            request=self._other.governor.request_for(attempt.task),
            origin=_origin(attempt),
            source=self.name,
            redelivers=True,
            watch=_Relay(live),
            ack=ack,
        )
        await self._other.governor.admit(delivery)
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            with contextlib.suppress(FossaError):
                await self._other.governor.cancel(attempt.task.id)
            raise


def _origin(attempt: Attempt) -> Origin:
    task = attempt.task
    assert task.parent_id is not None
    return Origin(
        task_id=task.id,
        parent_id=task.parent_id,
        root_id=task.root_id,
        depth=task.depth,
        key=task.key or "",
        lane=attempt.lane,
        lanes=attempt.lanes,
    )


class _Relay(Watch):
    """Passes on what the other node's attempt says."""

    def __init__(self, live: LiveAttempt) -> None:
        self._live = live

    def begun(self, attempt: int) -> None:
        """It is under way over there; here it has been since it was sent."""

    def log(self, lines: Sequence[LogLine]) -> None:
        self._live.log(lines)

    def progress(self, fraction: float | None, message: str) -> None:
        if fraction is not None:
            self._live.progress(fraction, message)
