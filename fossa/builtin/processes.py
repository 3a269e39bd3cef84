"""What executors share whose attempts run in worker processes of this node."""

import asyncio
import contextlib
import signal
import time
from abc import abstractmethod
from functools import partial
from typing import Any, Protocol

from fossa.builtin.conversation import Conversation, Member
from fossa.builtin.process import BootedWorker
from fossa.contracts import Executor, LiveAttempt, Node
from fossa.tasks import Attempt, Outcome, Reason, Status
from fossa.worker import messages


class Staff(Protocol):
    """Where workers come from, and where they go."""

    @property
    def trouble(self) -> str | None:
        """Why there are none, or not for every model; None where there are."""

    async def take(self, attempt: Attempt, /) -> BootedWorker:
        """A worker for one conversation, which the attempt begins. Raises ExecutorError."""

    def put_back(self, worker: BootedWorker, conversation: Conversation) -> None:
        """A conversation is over."""

    async def close(self) -> None:
        """End them all; returns once their processes are gone."""


class ProcessExecutor(Executor):
    """Runs attempts in worker processes; which, subclasses say."""

    def __init__(self) -> None:
        self._conversations: dict[int, Conversation] = {}
        self._chores: set[asyncio.Task[Any]] = set()
        self._closing = False

    @abstractmethod
    async def staff(self, node: Node) -> Staff:
        """Where this executor's workers come from."""

    async def open(self, node: Node) -> None:
        self._composition = node.composition
        self._workers = await self.staff(node)

    async def close(self) -> None:
        self._closing = True
        if hasattr(self, "_workers"):
            await self._workers.close()
        if self._chores:
            await asyncio.wait(self._chores, timeout=5)

    def ready(self) -> str | None:
        return self._workers.trouble

    # attempts

    async def run(self, attempt: Attempt, live: LiveAttempt) -> Outcome:
        conversation = self._conversations.get(attempt.tenure)
        if conversation is None or not conversation.open:
            conversation = Conversation(self._composition, attempt.isolation, self._do)
            self._conversations[attempt.tenure] = conversation
            conversation.holding = self._do(self._hold(attempt, conversation))
        member = conversation.join(attempt, live)
        try:
            done = await member.done
        except asyncio.CancelledError:
            await self._stop(conversation, member)
            raise
        return self._outcome(done, conversation.worker, member)

    async def _hold(self, attempt: Attempt, conversation: Conversation) -> None:
        """Find a worker for those who have joined, and see it through to the last of them."""
        try:
            worker = await self._workers.take(attempt)
        except BaseException as error:
            conversation.fail(error)
            return
        finally:
            conversation.open = False
            self._conversations.pop(attempt.tenure, None)
        try:
            conversation.begin(worker)
            await conversation.over.wait()
        finally:
            self._workers.put_back(worker, conversation)

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
        if done.reason == Reason.SOFT_TIMEOUT and clock.expired:
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
            self.unwanted(conversation)

    def unwanted(self, conversation: Conversation) -> None:
        """An attempt was cancelled, before there was a worker or after."""

    def _do(self, work: Any) -> "asyncio.Task[Any]":
        chore = asyncio.create_task(work)
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)
        return chore


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
