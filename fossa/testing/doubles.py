"""Stand-ins for what a test has no server for: a source, an executor, a sink, a live attempt."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import Any

import msgspec
from attrs import frozen

from fossa.contracts import Executor, LiveAttempt, Node, Reservation, Sink, Source, SubtaskRequest
from fossa.errors import TaskRefused
from fossa.tasks import Attempt, Delivery, LogLine, Outcome, Reason, Request, Status, Task, new_id


class Message:
    """A request on its way through a `MemorySource`."""

    def __init__(self, request: Request) -> None:
        self.request = request
        #: The task that was admitted; a TaskRefused where it was not.
        self.admitted: Future[Task] = Future()
        #: The outcome with which it was acknowledged; a TaskRefused where it was not admitted.
        self.settled: Future[Outcome] = Future()
        #: How often a stopping node gave it back.
        self.given_back = 0

    def refuse(self, error: TaskRefused) -> None:
        self.admitted.set_exception(error)
        self.settled.set_exception(error)


class MemorySource(Source):
    """Takes what a test pushes, as a queue's source takes messages: a slot first, settled last."""

    def __init__(self) -> None:
        #: Messages that nobody has fetched, the oldest first.
        self.waiting: deque[Message] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    def push(self, model: str, method: str = "go", **request: Any) -> Message:
        """Queue a request; from any thread, before or after the node starts."""
        message = Message(Request(model=model, method=method, **request))
        self.waiting.append(message)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._arrived.set)
        return message

    async def open(self, node: Node) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()

    async def run(self, node: Node) -> None:
        while True:
            self._arrived.clear()
            if not self.waiting:
                await self._arrived.wait()
                continue
            reservation = await node.reserve()
            try:
                await self._fetch(node, reservation)
            finally:
                reservation.release()

    async def _fetch(self, node: Node, reservation: Reservation) -> None:
        message = self.waiting.popleft()
        delivery = self._delivery(message)
        try:
            task, _ = await node.admit(delivery, reservation)
        except TaskRefused as error:
            message.refuse(error)
        except BaseException:
            self.waiting.appendleft(message)
            raise
        else:
            if not message.admitted.done():
                message.admitted.set_result(task)

    def _delivery(self, message: Message) -> Delivery:
        async def ack(outcome: Outcome) -> None:
            message.settled.set_result(outcome)

        async def give_back() -> None:
            message.given_back += 1
            self.waiting.appendleft(message)

        return Delivery(request=message.request, source=self.name, ack=ack, give_back=give_back)

    async def close(self) -> None:
        self._loop = None


class MemoryExecutor(Executor):
    """Runs no model: each attempt is complete at once, and returns its method's arguments.

    With `hold` an attempt lasts until `release` is called, or it is cancelled.
    """

    def __init__(self, hold: bool = False) -> None:
        self._hold = hold
        #: Every attempt that it was given.
        self.attempts: list[Attempt] = []

    async def open(self, node: Node) -> None:
        self._released = asyncio.Event()

    def release(self) -> None:
        self._released.set()

    async def run(self, attempt: Attempt, live: LiveAttempt) -> Outcome:
        self.attempts.append(attempt)
        if self._hold:
            await self._released.wait()
        return Outcome(
            status=Status.COMPLETE,
            reason=Reason.RETURNED,
            result_json=msgspec.json.encode(attempt.task.arguments_of("method_kwargs")),
            attempt=attempt.number,
            started=attempt.started,
            finished=time.time(),
        )


@frozen
class Taken:
    """One outcome as a `MemorySink` took it."""

    task: Task
    outcome: Outcome


class MemorySink(Sink):
    """Keeps the outcomes that it takes.

    Args:
        required: whether a task is settled only once this sink took its outcome.
        failures: how many of the first takes raise.
    """

    def __init__(self, required: bool = False, failures: int = 0) -> None:
        self.required = required
        self._failures = failures
        #: What it took, in order.
        self.taken: list[Taken] = []

    async def take(self, task: Task, outcome: Outcome) -> None:
        if self._failures > 0:
            self._failures -= 1
            raise ConnectionError("this sink was told to fail")
        self.taken.append(Taken(task, outcome))


#: What runs a subtask for a `RecordingLiveAttempt`.
RunSubtask = Callable[[SubtaskRequest], Awaitable[Outcome]]


class RecordingLiveAttempt(LiveAttempt):
    """Keeps what an executor says of an attempt.

    Args:
        run_subtask: awaited for each subtask; its outcome is delivered. None: there should be none.
    """

    def __init__(self, run_subtask: RunSubtask | None = None) -> None:
        self._run_subtask = run_subtask
        self._running: set[asyncio.Task[None]] = set()
        #: What the attempt wrote.
        self.lines: list[LogLine] = []
        #: (fraction, message) as the model said it.
        self.progressed: list[tuple[float, str]] = []
        #: (total, limit) for each time that the model began to make subtasks.
        self.plans: list[tuple[int | None, int]] = []
        #: The subtasks that it made.
        self.requests: list[SubtaskRequest] = []
        #: "rest" and "wake", as they came.
        self.slot_calls: list[str] = []

    def log(self, lines: Sequence[LogLine]) -> None:
        self.lines += lines

    def progress(self, fraction: float, message: str) -> None:
        self.progressed.append((fraction, message))

    def planned(self, total: int | None, limit: int, most: int) -> None:
        self.plans.append((total, limit))

    def subtasks(self, requests: Sequence[SubtaskRequest]) -> None:
        self.requests += requests
        for request in requests:
            running = asyncio.ensure_future(self._answer(request))
            self._running.add(running)
            running.add_done_callback(self._running.discard)

    async def _answer(self, request: SubtaskRequest) -> None:
        assert self._run_subtask is not None, f"it made a subtask: {request.method}"
        outcome = await self._run_subtask(request)
        task = Task(
            id=new_id(), model=request.model, method=request.method, arguments=request.arguments
        )
        request.deliver(task, outcome)

    def rest(self) -> None:
        self.slot_calls.append("rest")

    async def wake(self) -> None:
        self.slot_calls.append("wake")
