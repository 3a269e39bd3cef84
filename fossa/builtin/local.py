"""The local executor: attempts run in worker processes of this node."""

import asyncio
import contextlib
import signal
import sys
import time
from collections import deque
from functools import partial
from typing import Any

from fossa.builtin.conversation import Conversation, Member
from fossa.builtin.process import BootedWorker, WorkerProcess
from fossa.contracts import Executor, LiveAttempt, Node
from fossa.errors import ExecutorError
from fossa.tasks import Attempt, Outcome, Reason, Status
from fossa.worker import messages
from fossa.worker.loading import main_of_this_process, reference_to


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
            conversation = Conversation(self._composition, attempt.isolation, self._do)
            self._conversations[attempt.tenure] = conversation
            self._do(self._hold(attempt.tenure, conversation))
        member = conversation.join(attempt, live)
        try:
            done = await member.done
        except asyncio.CancelledError:
            await self._stop(conversation, member)
            raise
        return self._outcome(done, conversation.worker, member)

    async def _hold(self, tenure: int, conversation: Conversation) -> None:
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

    def _outcome(self, done: messages.Done | None, worker: BootedWorker, member: Member) -> Outcome:
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

    async def _stop(self, conversation: Conversation, member: Member) -> None:
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

    def _put_back(self, worker: BootedWorker, conversation: Conversation) -> None:
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

    def _why_retire(self, worker: BootedWorker, conversation: Conversation) -> str:
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


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


def _ignore(_: object) -> None:
    return None
