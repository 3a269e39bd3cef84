"""The local executor: attempts run in worker processes of this node."""

import asyncio
import contextlib
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from fossa.builtin.process import BootedWorker, WorkerProcess
from fossa.contracts import Executor, LiveAttempt, Node, SubtaskRequest
from fossa.errors import ExecutorError, NotBegun
from fossa.tasks import Attempt, LogLine, Outcome, Reason, Status, Task
from fossa.worker import messages
from fossa.worker.loading import main_of_this_process, reference_to

#: Seconds between two attempts to start a worker where the last one failed.
RESTART_DELAY = 1.0
#: Lines that are kept of what an attempt writes straight to file descriptors 1 and 2.
MAX_RAW_LINES = 1000


class LocalExecutor(Executor):
    """Long-lived worker processes, each running one attempt at a time."""

    chunk = 64

    def __init__(self) -> None:
        self._conversations: dict[int, Conversation] = {}
        self._idle: deque[BootedWorker] = deque()
        self._all: set[WorkerProcess] = set()
        self._chores: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._trouble: str | None = None

    async def open(self, node: Node) -> None:
        self._node = node
        self._composition = composition = node.composition
        self._mark = str(composition.state_dir or node.id)
        self._logger = node.logger
        self._boot = boot_message(composition)
        self._keep = composition.slots
        #: Whether each attempt has a process of its own anyway.
        self._fresh_only = composition.ISOLATION == "task"
        for _ in range(self._keep):
            self._keep_enough()

    async def close(self) -> None:
        self._closing = True
        for worker in list(self._all):
            worker.kill()
        for chore in list(self._chores):
            chore.cancel()
        if self._chores:
            await asyncio.wait(self._chores, timeout=5)
        deadline = time.monotonic() + 5
        while self._all and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0)  # for the transports' own last callbacks

    def ready(self) -> str | None:
        return self._trouble

    # attempts

    async def run(self, attempt: Attempt, live: LiveAttempt) -> Outcome:
        conversation = self._conversations.get(attempt.tenure)
        if conversation is None or not conversation.open:
            conversation = Conversation(self, attempt.isolation)
            self._conversations[attempt.tenure] = conversation
            self._do(self._hold(attempt.tenure, conversation))
        member = conversation.join(attempt, live)
        try:
            done = await member.done
        except asyncio.CancelledError:
            await self._stop(conversation, member)
            raise
        return self._outcome(done, conversation.worker, member)

    async def _hold(self, tenure: int, conversation: "Conversation") -> None:
        """Find a worker for those who have joined, and see it through to the last of them."""
        try:
            worker = await self._take_worker()
        except BaseException as error:
            conversation.fail(error)
            return
        finally:
            conversation.open = False
            self._conversations.pop(tenure, None)
        try:
            conversation.begin(worker)
            await conversation.over.wait()
        finally:
            self._put_back(worker, conversation)

    def _outcome(
        self, done: messages.Done | None, worker: BootedWorker, member: "Member"
    ) -> Outcome:
        attempt, clock = member.attempt, member.clock
        if done is None:
            reason, text = worker.cause_of_end()
            if clock.expired:
                reason, text = Reason.HARD_TIMEOUT, clock.text("and did not stop when asked to")
            return Outcome(
                status=Status.FAILED,
                reason=reason,
                message=text,
                attempt=attempt.number,
                started=attempt.started,
                finished=time.time(),
            )
        text = done.message
        if done.reason == Reason.SOFT_TIMEOUT:
            text = clock.text("and stopped when asked to")
        return Outcome(
            status=Status.COMPLETE if done.complete else Status.FAILED,
            reason=Reason(done.reason),
            message=text,
            error=done.error,
            traceback=done.traceback,
            result_json=bytes(done.result),
            result_is_json=done.result_is_json,
            failed_subtask=done.failed_subtask,
            attempt=attempt.number,
            started=done.started,
            finished=done.finished,
        )

    async def _stop(self, conversation: "Conversation", member: "Member") -> None:
        """End a cancelled attempt: ask the model, then the process, then the kernel."""
        config = self._composition
        member.release()
        try:
            await conversation.alone(member)
            if member not in conversation.members.values():
                return
            worker = conversation.worker
            for act, patience in (
                (partial(worker.interrupt, signal.SIGUSR2), config.INTERRUPT_GRACE),
                (worker.terminate, config.TERMINATE_GRACE),
                (worker.kill, 5.0),
            ):
                if self._closing or conversation.over.is_set():
                    break
                act()
                await _wait(conversation.over, patience)
        finally:
            conversation.cut_off()

    # workers

    async def _take_worker(self) -> BootedWorker:
        while self._idle:
            worker = self._idle.pop()
            if not worker.ended:
                return worker
        return await self._new_worker()

    async def _new_worker(self) -> BootedWorker:
        worker = BootedWorker(self._all)
        try:
            problems = await worker.boot(self._mark, self._boot)
        except (OSError, RuntimeError, TimeoutError) as error:
            self._trouble = f"a worker process cannot be started: {error}"
            raise ExecutorError(self._trouble) from error
        self._trouble = "; ".join(problems) or None
        if self._trouble:
            self._logger.error("workers cannot have every model: %s", self._trouble)
        self._rest(worker)
        return worker

    def _rest(self, worker: BootedWorker) -> None:
        """Between attempts: only its end matters."""
        worker.on_message = worker.on_output = _ignore

        def on_end() -> None:
            with contextlib.suppress(ValueError):
                self._idle.remove(worker)

        worker.on_end = on_end

    def _put_back(self, worker: BootedWorker, conversation: "Conversation") -> None:
        self._rest(worker)
        if not worker.ended:
            if why := self._why_retire(worker, conversation):
                self._logger.debug("worker %d is ended: %s", worker.pid, why)
                worker.kill()
            else:
                self._idle.append(worker)
        self._keep_enough()

    def _keep_enough(self) -> None:
        """Have a worker ready for each slot."""
        usable = sum(not (w.retired or w.ended) for w in self._all)
        if usable < self._keep and not self._closing and not self._fresh_only:
            self._do(self._start_spare())

    def _why_retire(self, worker: BootedWorker, conversation: "Conversation") -> str:
        worker.tasks_run += conversation.joined
        worker.first_rss = worker.first_rss or conversation.rss
        if conversation.retire:
            return conversation.retire
        if conversation.isolation == "task":
            return "the attempt had it to itself"
        if worker.tasks_run >= self._composition.WORKER_MAX_TASKS:
            return "it ran WORKER_MAX_TASKS"
        if conversation.rss - worker.first_rss > self._composition.worker_max_growth:
            return f"it grew to {conversation.rss} bytes"
        return "there are enough" if len(self._idle) >= self._keep else ""

    async def _start_spare(self) -> None:
        try:
            worker = await self._new_worker()
        except ExecutorError as error:
            self._logger.error("%s", error)
            return
        if self._closing:
            worker.kill()
        else:
            self._idle.append(worker)

    def _do(self, work: Any) -> None:
        chore = asyncio.create_task(work)
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)


def boot_message(composition: Any) -> messages.Boot:
    """What every worker of a node is told first."""
    main_file, main_module = main_of_this_process()
    resolvers = composition.RESOLVERS
    return messages.Boot(
        path=[p or "." for p in sys.path],
        models=[reference_to(m.cls, m.name) for m in composition.models.values()],
        resolvers=[reference_to(r, f"resolver {i}") for i, r in enumerate(resolvers)],
        secrets=dict(composition.secrets),
        main_file=main_file,
        main_module=main_module,
        max_result_bytes=composition.MAX_RESULT_BYTES,
        max_log_lines=composition.MAX_LOG_LINES,
        max_log_bytes=composition.MAX_LOG_BYTES,
    )


class Clock:
    """An attempt's time: at its timeout the model is asked to stop, then made to."""

    def __init__(self, executor: LocalExecutor, worker: BootedWorker, attempt: Attempt) -> None:
        self._composition = executor._composition
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

    def __init__(self, executor: LocalExecutor, isolation: str) -> None:
        self._executor = executor
        self.isolation = isolation
        #: Whether further attempts may join.
        self.open = True
        self.worker: BootedWorker
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
            member.clock = Clock(self._executor, worker, member.attempt)
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
            case messages.Planned(run=run, total=total, limit=limit):
                self.members[run].live.planned(total, limit)
            case messages.Rest(run=run):
                self.members[run].live.rest()
            case messages.Wake(run=run):
                self._executor._do(self._wake(self.members[run]))
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
    def planned(self, total: int | None, limit: int) -> None: ...
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


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


def _ignore(_: object) -> None:
    return None
