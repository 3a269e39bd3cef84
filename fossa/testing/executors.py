"""What an executor must hold."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, ClassVar

import msgspec
import pytest

from fossa.contracts import Executor, LiveAttempt, SubtaskRequest
from fossa.tasks import Attempt, Outcome, Reason, Status, Task, new_id
from fossa.testing.components import ComponentContract, eventually, stopped
from fossa.testing.doubles import RecordingLiveAttempt

#: What an executor may lack, and say so in `lacks`.
CAPABILITIES = {
    "crash": "an attempt that ends its process is an outcome",
    "cancel": "a cancelled attempt is ended for good",
    "timeout": "an attempt that runs for too long is ended",
    "output": "what a model prints reaches the log",
    "subtasks": "subtasks go to the node, which may run them elsewhere",
    "limits": "a return value that is too large is refused",
}


class ExecutorContract(ComponentContract):
    """Subclass it and override `make`. The node's settings and models are in `settings`."""

    #: What it cannot do, by the names in `CAPABILITIES`, each with the reason.
    lacks: ClassVar[Mapping[str, str]] = {}

    def make(self) -> Executor:
        raise NotImplementedError(f"{type(self).__name__} should override make()")

    # tools

    _tenures = count(1)

    def needs(self, capability: str) -> None:
        """Skip a test of what this executor says that it lacks."""
        assert capability in CAPABILITIES
        if capability in self.lacks:
            pytest.skip(f"it lacks {capability!r}: {self.lacks[capability]}")

    def attempt(
        self,
        model: str,
        method: str = "go",
        *,
        timeout: float | None = None,
        **arguments: Any,
    ) -> Attempt:
        """An attempt as a node would make it; `arguments` as in a `Request`."""
        task = Task(
            id=new_id(),
            model=model,
            method=method,
            arguments=msgspec.json.encode(arguments),
            timeout=timeout,
        )
        return self._begun(task)

    def _begun(self, task: Task) -> Attempt:
        return Attempt(task=task, started=time.time(), parallelism=2, tenure=next(self._tenures))

    async def ends(
        self, executor: Executor, attempt: Attempt, live: LiveAttempt | None = None
    ) -> Outcome:
        """Run an attempt and check what holds of every outcome."""
        before = time.time()
        outcome = await executor.run(attempt, live or RecordingLiveAttempt())
        assert outcome.attempt == attempt.number
        assert outcome.started is not None
        assert before - 1 <= outcome.started <= outcome.finished <= time.time() + 1
        assert outcome.complete == (outcome.status is Status.COMPLETE)
        assert outcome.complete == (outcome.reason is Reason.RETURNED)
        assert not outcome.reason.crash or not outcome.complete
        return outcome

    def outcome(self, model: str, method: str = "go", **options: Any) -> Outcome:
        """The outcome of one attempt by an executor that then runs another to show that it can."""

        async def one() -> Outcome:
            async with self.opened() as executor:
                outcome = await self.ends(executor, self.attempt(model, method, **options))
                again = await self.ends(executor, self.attempt("Answers", "echo"))
                assert again.complete, again
                return outcome

        return self.within(one())

    @asynccontextmanager
    async def beating(
        self, executor: Executor, method: str = "beat"
    ) -> "AsyncIterator[asyncio.Task[Outcome]]":
        """An attempt that is known to run: its journal grows until it is ended."""
        self.journal = self.tmp_path / f"{new_id()}.journal"
        attempt = self.attempt("Lasts", method, method_kwargs={"journal": str(self.journal)})
        running = asyncio.ensure_future(executor.run(attempt, RecordingLiveAttempt()))
        await eventually(lambda: self.journal.exists() and self.journal.stat().st_size)
        try:
            yield running
        finally:
            await stopped(running, self.promptly)

    async def beats(self) -> bool:
        """Whether the attempt still writes to its journal."""
        size = self.journal.stat().st_size
        await asyncio.sleep(0.2)
        return self.journal.stat().st_size > size

    # how attempts end

    def test_it_lacks_only_what_there_is(self) -> None:
        assert set(self.lacks) <= set(CAPABILITIES)
        assert all(self.lacks.values()), "say why it lacks what it lacks"

    def test_what_a_method_returns_is_the_result(self) -> None:
        value = {"deep": [1, 2.5, None, True, "“ñ” \N{SNOWMAN}\n"]}
        outcome = self.outcome(
            "Answers",
            "echo",
            method_kwargs={"value": value},
            model_construction_kwargs={"greeting": "hi"},
        )
        assert outcome.result == {"greeting": "hi", "value": value}
        assert outcome.result_is_json

    def test_a_result_that_is_not_json_is_described(self) -> None:
        outcome = self.outcome("Answers", "thing")
        assert outcome.complete
        assert not outcome.result_is_json
        assert outcome.result

    def test_a_result_that_is_too_large_is_refused(self) -> None:
        self.needs("limits")
        outcome = self.outcome("Answers", "large", method_kwargs={"size": 2 << 20})
        assert outcome.reason is Reason.RESULT_TOO_LARGE
        assert len(outcome.result_json) < 1 << 20

    def test_an_exception_is_an_outcome(self) -> None:
        outcome = self.outcome("Breaks")
        assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.EXCEPTION)
        assert outcome.error == "ValueError"
        assert outcome.message == "no such luck — “ñ” \N{SNOWMAN}"
        assert any("no such luck" in line for line in outcome.traceback)

    def test_an_exception_that_cannot_be_told_is_an_outcome(self) -> None:
        outcome = self.outcome("Breaks", "unspeakable")
        assert outcome.reason is Reason.EXCEPTION
        assert outcome.error
        assert outcome.error.endswith("_Unspeakable")

    def test_a_failed_check_is_an_outcome(self) -> None:
        assert self.outcome("Refuses").reason is Reason.CHECK_FAILED

    def test_a_process_that_exits_is_an_outcome(self) -> None:
        self.needs("crash")
        outcome = self.outcome("Dies")
        assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.EXIT)
        assert outcome.message

    def test_a_process_that_is_killed_is_a_crash(self) -> None:
        self.needs("crash")
        outcome = self.outcome("Dies", "killed")
        assert outcome.reason is Reason.SIGNAL
        assert outcome.reason.crash
        assert "SIGKILL" in outcome.message

    # how they are stopped

    def test_a_cancelled_attempt_is_ended_for_good(self) -> None:
        self.needs("cancel")

        async def cancelled() -> None:
            async with self.opened() as executor:
                async with self.beating(executor) as running:
                    assert await self.beats()
                    await stopped(running, self.promptly)
                    assert running.cancelled(), "it should let the CancelledError out"
                    assert not await self.beats(), "the attempt goes on"
                assert (await self.ends(executor, self.attempt("Answers", "echo"))).complete

        self.within(cancelled())

    def test_an_attempt_that_will_not_stop_is_made_to(self) -> None:
        self.needs("cancel")

        async def made_to() -> None:
            async with self.opened() as executor, self.beating(executor, "stubborn") as running:
                await stopped(running, self.promptly)
                assert not await self.beats(), "the attempt goes on"

        self.within(made_to())

    def test_an_attempt_is_cancelled_at_any_moment(self) -> None:
        self.needs("cancel")

        async def at_any_moment() -> None:
            async with self.opened() as executor:
                for ticks in range(6):
                    attempt = self.attempt("Answers", "echo")
                    running = asyncio.ensure_future(executor.run(attempt, RecordingLiveAttempt()))
                    for _ in range(ticks):
                        await asyncio.sleep(0)
                    await stopped(running, self.promptly)
                assert (await self.ends(executor, self.attempt("Answers", "echo"))).complete

        self.within(at_any_moment())

    def test_closing_it_ends_what_it_is_still_cancelling(self) -> None:
        self.needs("cancel")

        async def closed() -> None:
            async with self.opened() as executor, self.beating(executor, "stubborn") as running:
                running.cancel()
                await asyncio.wait_for(executor.close(), self.promptly)
                async with asyncio.timeout(self.promptly):
                    while await self.beats():
                        assert executor.remote, "the attempt goes on"

        self.within(closed())

    @pytest.mark.parametrize(
        ("method", "reason"),
        [("beat", Reason.SOFT_TIMEOUT), ("stubborn", Reason.HARD_TIMEOUT)],
    )
    def test_an_attempt_that_runs_for_too_long_is_ended(self, method: str, reason: Reason) -> None:
        self.needs("timeout")
        self.journal = self.tmp_path / "journal"
        arguments = {"journal": str(self.journal)}
        outcome = self.outcome("Lasts", method, timeout=0.5, method_kwargs=arguments)
        assert outcome.reason is reason
        assert "0.5" in outcome.message
        assert not asyncio.run(self.beats()), "the attempt goes on"

    # what they say

    def test_what_a_model_logs_is_told(self) -> None:
        live = self._told("Says")
        lines = [(line.level, line.text) for line in live.lines if line.stream == "model"]
        assert ("INFO", "by log") in lines
        assert ("WARNING", "by log, a warning") in lines
        assert lines.index(("INFO", "by log")) < lines.index(("WARNING", "by log, a warning"))
        assert all(line.attempt == 1 and line.time > 0 for line in live.lines)

    def test_what_a_model_prints_is_told(self) -> None:
        self.needs("output")
        printed = [line.text for line in self._told("Says").lines if line.stream == "stdout"]
        assert printed == ["by print"]

    def test_progress_is_told(self) -> None:
        progressed = self._told("Says", "steps").progressed
        assert progressed[-1] == (1.0, "step 4")
        assert progressed == sorted(progressed)

    def _told(self, model: str, method: str = "go") -> RecordingLiveAttempt:
        """What an attempt said by the time that its outcome was there, and the loop had turned."""
        live = RecordingLiveAttempt()

        async def told() -> None:
            async with self.opened() as executor:
                outcome = await self.ends(executor, self.attempt(model, method), live)
                assert outcome.complete, outcome
                await asyncio.sleep(0)

        self.within(told())
        return live

    def test_several_attempts_at_once_keep_apart(self) -> None:
        async def several() -> None:
            async with self.opened() as executor:
                attempts = [
                    self.attempt("Answers", "echo", method_kwargs={"value": n}) for n in range(6)
                ]
                outcomes = await asyncio.gather(*(self.ends(executor, a) for a in attempts))
                assert [o.result["value"] for o in outcomes] == list(range(6))

        self.within(several())

    # subtasks

    def test_a_partitioned_model_gets_the_outcomes_of_its_subtasks(self) -> None:
        async def partitioned() -> RecordingLiveAttempt:
            async with self.opened() as executor:
                live = RecordingLiveAttempt(lambda request: self._subtask(executor, request))
                outcome = await self.ends(executor, self.attempt("Squares"), live)
                assert outcome.complete, outcome
                return live

        live = self.within(partitioned())
        assert "the sum is 140" in [line.text for line in live.lines]
        if "subtasks" not in self.lacks:
            assert len(live.requests) == 8
            assert live.plans
            assert live.slot_calls.count("rest") == live.slot_calls.count("wake") > 0

    def test_a_failed_subtask_fails_its_parent(self) -> None:
        self.needs("subtasks")

        async def fail(_request: SubtaskRequest) -> Outcome:
            return Outcome(
                status=Status.FAILED, reason=Reason.EXCEPTION, error="ValueError", message="no"
            )

        async def failed() -> None:
            async with self.opened() as executor:
                live = RecordingLiveAttempt(fail)
                outcome = await self.ends(executor, self.attempt("Squares"), live)
                assert outcome.reason is Reason.SUBTASK_FAILED, outcome

        self.within(failed())

    async def _subtask(self, executor: Executor, request: SubtaskRequest) -> Outcome:
        task = Task(
            id=new_id(),
            model=request.model,
            method=request.method,
            arguments=request.arguments,
            parent_id=new_id(),
            depth=1,
        )
        return await self.ends(executor, self._begun(task))
