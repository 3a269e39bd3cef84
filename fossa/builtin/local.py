"""The local executor: attempts run in worker processes of this node."""

import asyncio
import contextlib
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from fossa.builtin.process import BootedWorker
from fossa.contracts import Executor, LiveAttempt, Node, SubtaskRequest
from fossa.errors import ExecutorError
from fossa.tasks import Attempt, LogLine, Outcome, Reason, Status, Task
from fossa.worker import messages
from fossa.worker.loading import main_of_this_process, reference_to

#: Seconds between two attempts to start a worker where the last one failed.
RESTART_DELAY = 1.0


class LocalExecutor(Executor):
    """Long-lived worker processes, each running one attempt at a time."""

    def __init__(self) -> None:
        self._idle: deque[BootedWorker] = deque()
        self._all: set[BootedWorker] = set()
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
        if composition.ISOLATION == "worker":
            for _ in range(self._keep):
                self._do(self._start_spare())

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

    def ready(self) -> str | None:
        return self._trouble

    # attempts

    async def run(self, attempt: Attempt, live: LiveAttempt) -> Outcome:
        worker = await self._take_worker()
        conversation = Conversation(worker, attempt, live, self._do)
        clock = Clock(self, worker, attempt)
        try:
            clock.start()
            conversation.begin()
            done = await conversation.done
        except asyncio.CancelledError:
            await self._stop(worker, conversation)
            self._put_back(worker, attempt, conversation)
            raise
        finally:
            clock.stop()
        self._put_back(worker, attempt, conversation)
        return self._outcome(done, worker, clock)

    def _outcome(
        self, done: messages.Done | None, worker: BootedWorker, clock: "Clock"
    ) -> Outcome:
        finished = time.time()
        if done is None:
            reason, text = worker.cause_of_end()
            if clock.expired:
                reason, text = Reason.HARD_TIMEOUT, clock.text("and did not stop when asked to")
            return Outcome(status=Status.FAILED, reason=reason, message=text, finished=finished)
        reason, text = Reason(done.reason), done.message
        if reason is Reason.SOFT_TIMEOUT:
            text = clock.text("and stopped when asked to")
        return Outcome(
            status=Status.COMPLETE if done.complete else Status.FAILED,
            reason=reason,
            message=text,
            error=done.error,
            traceback=done.traceback,
            result_json=bytes(done.result),
            result_is_json=done.result_is_json,
            failed_subtask=done.failed_subtask,
            finished=finished,
        )

    async def _stop(self, worker: BootedWorker, conversation: "Conversation") -> None:
        """End a cancelled attempt: ask the model, then the process, then the kernel."""
        config = self._composition
        try:
            for act, patience in (
                (lambda: worker.interrupt(signal.SIGUSR2), config.INTERRUPT_GRACE),
                (worker.terminate, config.TERMINATE_GRACE),
                (worker.kill, 5.0),
            ):
                if self._closing or conversation.done.done():
                    break
                act()
                await asyncio.wait([conversation.done], timeout=patience)
        finally:
            worker.kill()

    # workers

    async def _take_worker(self) -> BootedWorker:
        while self._idle:
            worker = self._idle.pop()
            if not worker.ended:
                return worker
        return await self._new_worker()

    async def _new_worker(self) -> BootedWorker:
        worker = BootedWorker()
        try:
            problems = await worker.boot(self._mark, self._boot)
        except (OSError, RuntimeError, TimeoutError) as error:
            self._trouble = f"a worker process cannot be started: {error}"
            raise ExecutorError(self._trouble) from error
        self._trouble = "; ".join(problems) or None
        if self._trouble:
            self._logger.error("workers cannot have every model: %s", self._trouble)
        self._all.add(worker)
        self._rest(worker)
        return worker

    def _rest(self, worker: BootedWorker) -> None:
        """Between attempts: only its end matters."""
        worker.on_message = worker.on_output = _ignore

        def on_end() -> None:
            self._all.discard(worker)
            with contextlib.suppress(ValueError):
                self._idle.remove(worker)

        worker.on_end = on_end

    def _put_back(
        self, worker: BootedWorker, attempt: Attempt, conversation: "Conversation"
    ) -> None:
        self._rest(worker)
        if worker.ended:
            self._all.discard(worker)
        elif why := self._why_retire(worker, attempt, conversation):
            if why != "spare":
                self._logger.debug("worker %d is replaced: %s", worker.pid, why)
            worker.kill()
        else:
            self._idle.append(worker)
        if len(self._all) - len(self._retired()) < self._keep and not self._closing:
            self._do(self._start_spare())

    def _retired(self) -> set[BootedWorker]:
        return {w for w in self._all if w.ended}

    def _why_retire(
        self, worker: BootedWorker, attempt: Attempt, conversation: "Conversation"
    ) -> str:
        done = conversation.done.result() if conversation.done.done() else None
        worker.tasks_run += 1
        if done is None or done.retire:
            return done.retire if done else "its attempt was cut off"
        worker.first_rss = worker.first_rss or done.rss
        if attempt.isolation == "task":
            return "the attempt had it to itself"
        if worker.tasks_run >= self._composition.WORKER_MAX_TASKS:
            return "it ran WORKER_MAX_TASKS"
        if done.rss - worker.first_rss > self._composition.worker_max_growth:
            return f"it grew to {done.rss} bytes"
        return "spare" if len(self._idle) >= self._keep else ""

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


class Conversation:
    """What is said between the governor and one worker during one attempt."""

    def __init__(
        self,
        worker: BootedWorker,
        attempt: Attempt,
        live: LiveAttempt,
        do: Callable[[Any], None],
    ) -> None:
        self._worker = worker
        self._attempt = attempt
        self._live = live
        self._do = do
        self._outcomes: list[messages.SubtaskOutcome] = []
        self._raw_lines = 0
        #: The attempt's last message; None where the process ended without one.
        self.done: asyncio.Future[messages.Done | None] = (
            asyncio.get_running_loop().create_future()
        )

    def begin(self) -> None:
        worker, attempt = self._worker, self._attempt
        worker.on_message, worker.on_output = self._on_message, self._on_output
        worker.on_end = self._on_end
        if worker.ended:
            self._on_end()
            return
        worker.send(
            messages.Run(
                task_id=attempt.task.id,
                model=attempt.task.model,
                method=attempt.task.method,
                arguments=msgspec.Raw(attempt.task.arguments),
                attempt=attempt.number,
                parallelism=attempt.parallelism,
                lane=attempt.lane,
                total_lanes=attempt.lanes,
                memory=attempt.memory,
            )
        )

    def _on_message(self, message: messages.FromWorker) -> None:
        match message:
            case messages.Done():
                self._worker.drain_output()
                if not self.done.done():
                    self.done.set_result(message)
            case messages.Log(time=at, level=level, stream=stream, text=text):
                self._log(at, level, stream, text)
            case messages.Subtasks(subtasks=subtasks):
                self._live.subtasks([self._request(s) for s in subtasks])
            case messages.Progressed(fraction=fraction, message=text):
                self._live.progress(fraction, text)
            case messages.Planned(total=total, limit=limit):
                self._live.planned(total, limit)
            case messages.Rest():
                self._live.rest()
            case messages.Wake():
                self._do(self._wake())
            case _:
                raise ValueError(f"{type(message).__name__} in the middle of an attempt")

    def _on_output(self, text: str) -> None:
        self._raw_lines += 1
        if self._raw_lines <= 1000:
            self._log(time.time(), "INFO", "stdout", text[:8192])

    def _on_end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _log(self, at: float, level: str, stream: str, text: str) -> None:
        line = LogLine(
            time=at, level=level, stream=stream, text=text, attempt=self._attempt.number
        )
        self._live.log([line])

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
            self._worker.send(messages.SubtaskOutcomes(outcomes))

    async def _wake(self) -> None:
        await self._live.wake()
        self._send_outcomes()
        self._worker.send(messages.Awake())


def _ignore(_: object) -> None:
    return None
