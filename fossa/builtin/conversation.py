"""What is said between the node and one worker while attempts run in it."""

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from fossa.builtin.process import BootedWorker
from fossa.composition import Composition
from fossa.contracts import LiveAttempt, SubtaskRequest
from fossa.errors import NotBegun
from fossa.tasks import Attempt, LogLine, Outcome, Task
from fossa.worker import messages

#: Lines that are kept of what an attempt writes straight to file descriptors 1 and 2.
MAX_RAW_LINES = 1000


class Clock:
    """An attempt's time: at its timeout the model is asked to stop, then made to."""

    def __init__(self, composition: Composition, worker: BootedWorker, attempt: Attempt) -> None:
        self._composition = composition
        self._worker = worker
        self._timeout = attempt.task.timeout
        self._timer: asyncio.TimerHandle | None = None
        self.expired = False

    def start(self) -> None:
        if self._timeout is not None:
            self._later(self._timeout, self._ask)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def text(self, then: str) -> str:
        return f"it ran for longer than its timeout of {self._timeout:g} s {then}"

    def _later(self, delay: float, act: Callable[[], None]) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay, act)

    def _ask(self) -> None:
        self.expired = True
        self._worker.interrupt(signal.SIGUSR1)
        self._later(self._composition.INTERRUPT_GRACE, self._terminate)

    def _terminate(self) -> None:
        self._worker.terminate()
        self._later(self._composition.TERMINATE_GRACE, self._worker.kill)


class Member:
    """One attempt in a conversation."""

    def __init__(self, attempt: Attempt, live: LiveAttempt) -> None:
        self.attempt = attempt
        self.live = live
        self.clock: Clock
        self.raw_lines = 0
        #: The attempt's end; None where the process ended without one.
        self.done: asyncio.Future[messages.Done | None] = asyncio.get_running_loop().create_future()

    def release(self) -> None:
        """Whoever waited for its end waits no more."""
        self.live = _NOBODY


class Conversation:
    """What is said with one worker while attempts of one tenure run in it, one after another."""

    def __init__(
        self, composition: Composition, isolation: str, do: Callable[[Any], object]
    ) -> None:
        self._composition = composition
        self._do = do
        self.isolation = isolation
        #: Whether further attempts may join.
        self.open = True
        self.worker: BootedWorker
        #: Finds it a worker, and sees it through.
        self.holding: asyncio.Task[Any]
        #: Attempts whose end has not come, by number, in the order in which they run.
        self.members: dict[int, Member] = {}
        self.joined = 0
        self.rss = 0
        #: Why the worker should not be used again; empty where it may.
        self.retire = ""
        self.over = asyncio.Event()
        self._fewer = asyncio.Event()
        self._outcomes: list[messages.SubtaskOutcome] = []

    def join(self, attempt: Attempt, live: LiveAttempt) -> Member:
        member = self.members[self.joined] = Member(attempt, live)
        self.joined += 1
        return member

    def begin(self, worker: BootedWorker) -> None:
        """Give the worker everything that has joined."""
        self.worker = worker
        worker.on_message, worker.on_output = self._on_message, self._on_output
        worker.on_end = self._on_end
        for member in self.members.values():
            member.clock = Clock(self._composition, worker, member.attempt)
        if not self.members:
            self.over.set()
        elif worker.ended:
            self._on_end()
        else:
            worker.send(messages.Runs([_run(n, m.attempt) for n, m in self.members.items()]))
            if len(self.members) == 1:
                self._sole().clock.start()

    def fail(self, error: BaseException) -> None:
        """There is no worker to be had."""
        for member in self.members.values():
            if not member.done.done():
                member.done.set_exception(error)
        self.members.clear()
        self._changed()

    def cut_off(self) -> None:
        """An attempt was cancelled: the process goes, whatever it does."""
        if hasattr(self, "worker") and self.members:
            self.retire = self.retire or "its attempt was cut off"
            self.worker.kill()

    async def alone(self, member: Member) -> None:
        """Returns once no other attempt is in the worker with this one; that takes milliseconds."""
        if self.open:
            self.members = {n: m for n, m in self.members.items() if m is not member}
        while member in self.members.values() and len(self.members) > 1:
            self._fewer.clear()
            await self._fewer.wait()

    def _sole(self) -> Member:
        return next(iter(self.members.values()))

    def _changed(self) -> None:
        self._fewer.set()
        if not self.members:
            self.over.set()

    # from the worker

    def _on_message(self, message: messages.FromWorker) -> None:  # noqa: C901 - one case each
        match message:
            case messages.Dones(dones=dones):
                self.worker.drain_output()
                for done in dones:
                    self._on_done(done)
                self._changed()
            case messages.Log(number=number, time=at, level=level, stream=stream, text=text):
                self._log(self.members[number], at, level, stream, text)
            case messages.Subtasks(run=run, subtasks=subtasks):
                self.members[run].live.subtasks([self._request(s) for s in subtasks])
            case messages.Progressed(number=number, fraction=fraction, message=text):
                self.members[number].live.progress(fraction, text)
            case messages.Planned(run=run, total=total, limit=limit, most=most):
                self.members[run].live.planned(total, limit, most)
            case messages.Rest(run=run):
                self.members[run].live.rest()
            case messages.Wake(run=run):
                self._do(self._wake(self.members[run]))
            case messages.GivenBack(numbers=numbers):
                for number in numbers:
                    self._not_begun(self.members.pop(number), "it would have had to wait")
                self._changed()
                if len(self.members) == 1:
                    self._sole().clock.start()
            case _:
                raise ValueError(f"{type(message).__name__} in the middle of an attempt")

    def _on_done(self, done: messages.Done) -> None:
        member = self.members.pop(done.number)
        member.clock.stop()
        self.rss = done.rss or self.rss
        self.retire = self.retire or done.retire
        if not member.done.done():
            member.done.set_result(done)

    def _not_begun(self, member: Member, why: str, *, suspect: bool = False) -> None:
        member.clock.stop()
        if not member.done.done():
            member.done.set_exception(NotBegun(why, suspect=suspect))

    def _on_output(self, text: str) -> None:
        if not self.members:
            return
        member = self._sole()
        member.raw_lines += 1
        if member.raw_lines <= MAX_RAW_LINES:
            self._log(member, time.time(), "INFO", "stdout", text[:8192])

    def _on_end(self) -> None:
        """The process is gone. Of several attempts nobody knows which one it died of."""
        members, self.members = list(self.members.values()), {}
        if len(members) == 1:
            members[0].clock.stop()
            if not members[0].done.done():
                members[0].done.set_result(None)
        else:
            for member in members:
                self._not_begun(member, "its process died", suspect=True)
        self._changed()

    def _log(self, member: Member, at: float, level: str, stream: str, text: str) -> None:
        number = member.attempt.number
        line = LogLine(time=at, level=level, stream=stream, text=text, attempt=number)
        member.live.log([line])

    # subtasks

    def _request(self, subtask: messages.Subtask) -> SubtaskRequest:
        def deliver(task: Task, outcome: Outcome) -> None:
            self._deliver(subtask.number, task, outcome)

        return SubtaskRequest(subtask.model, subtask.method, bytes(subtask.arguments), deliver)

    def _deliver(self, number: int, task: Task, outcome: Outcome) -> None:
        """Outcomes that are delivered in one go of the loop travel in one message."""
        if not self._outcomes:
            asyncio.get_running_loop().call_soon(self._send_outcomes)
        self._outcomes.append(
            messages.SubtaskOutcome(
                number=number,
                task_id=task.id,
                complete=outcome.complete,
                error=outcome.error or outcome.reason,
                message=outcome.message,
                traceback=outcome.traceback,
                result=msgspec.Raw(outcome.result_json),
            )
        )

    def _send_outcomes(self) -> None:
        if self._outcomes:
            outcomes, self._outcomes = self._outcomes, []
            self.worker.send(messages.SubtaskOutcomes(outcomes))

    async def _wake(self, member: Member) -> None:
        await member.live.wake()
        self._send_outcomes()
        self.worker.send(messages.Awake())


class _Nobody(LiveAttempt):
    """Stands in for an attempt that was cancelled: what it still says goes nowhere."""

    def log(self, lines: Sequence[LogLine]) -> None: ...
    def progress(self, fraction: float, message: str) -> None: ...
    def subtasks(self, requests: Sequence[SubtaskRequest]) -> None: ...
    def planned(self, total: int | None, limit: int, most: int) -> None: ...
    def rest(self) -> None: ...
    async def wake(self) -> None: ...


_NOBODY = _Nobody()


def _run(number: int, attempt: Attempt) -> messages.Run:
    task = attempt.task
    return messages.Run(
        number=number,
        task_id=task.id,
        model=task.model,
        method=task.method,
        arguments=msgspec.Raw(task.arguments),
        attempt=attempt.number,
        parallelism=attempt.parallelism,
        lane=attempt.lane,
        total_lanes=attempt.lanes,
        memory=attempt.memory,
    )
