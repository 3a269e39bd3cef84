"""The inline executor, for debugging: models run in the node's own process, one at a time.

Breakpoints and `pdb` work, for nothing is between them and the model: no other process, no
captured output. What needs a process of its own is not there: an attempt cannot be cancelled, has
no memory limit, and its subtasks run one after another as part of it.
"""

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from fossa.contracts import Executor, LiveAttempt, Node
from fossa.tasks import Attempt, LogLine, Outcome, Reason, Status


class InlineExecutor(Executor):
    """Runs attempts in a thread of this process."""

    async def open(self, node: Node) -> None:
        self._composition = node.composition
        self._one_at_a_time = asyncio.Lock()

    async def run(self, attempt: Attempt, live: LiveAttempt) -> Outcome:
        async with self._one_at_a_time:
            loop = asyncio.get_running_loop()
            ended: asyncio.Future[Outcome] = loop.create_future()

            def run() -> None:
                outcome = _run(self._composition, attempt, Upward(loop, attempt, live))
                loop.call_soon_threadsafe(_resolve, ended, outcome)

            threading.Thread(target=run, name="fossa-inline", daemon=True).start()
            return await asyncio.shield(ended)


def _resolve(future: "asyncio.Future[Outcome]", outcome: Outcome) -> None:
    if not future.done():
        future.set_result(outcome)


def _run(composition: Any, attempt: Attempt, upward: "Upward") -> Outcome:
    """In the thread: the attempt, by the same code that a worker process runs it by."""
    from fossa.worker.messages import Run
    from fossa.worker.run import NodeSide, Runner

    node_side = NodeSide(
        {str(i): r for i, r in enumerate(composition.RESOLVERS)}, dict(composition.secrets)
    )
    models = {name: model.cls for name, model in composition.models.items()}

    def pool(_channel: Any, _run: int, cls: type, _parallelism: int, rule: Any) -> InlinePool:
        return InlinePool(runner, cls, rule)

    runner = Runner(upward, models, node_side, upward, composition.MAX_RESULT_BYTES, pool)
    run = Run(0, attempt.task.id, attempt.task.model, attempt.task.method,
              msgspec.Raw(attempt.task.arguments), attempt.number, 1)  # fmt: skip
    ending = runner.run(run)
    return Outcome(
        status=Status.COMPLETE if ending.complete else Status.FAILED,
        reason=Reason(ending.reason),
        message=ending.message,
        error=ending.error,
        traceback=ending.traceback,
        result_json=bytes(ending.result),
        result_is_json=ending.result_is_json,
        attempt=attempt.number,
        started=attempt.started,
        finished=time.time(),
    )


class Upward:
    """What the attempt says, from its thread to the node's loop; log lines to the terminal too."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, attempt: Attempt, live: LiveAttempt
    ) -> None:
        self._loop = loop
        self._attempt = attempt
        self._live = live

    def send(self, message: Any) -> None:
        """A worker's message; only progress is left to be sent where nothing is remote."""
        from fossa.worker.messages import Progressed

        if isinstance(message, Progressed):
            self._loop.call_soon_threadsafe(self._live.progress, message.fraction, message.message)

    def write(self, msg: str) -> None:
        """Ayeaye's external logger."""
        print(msg, flush=True)
        line = LogLine(
            time=time.time(),
            level=msg[20:30].strip() or "INFO",
            stream="model",
            text=msg[30:],
            attempt=self._attempt.number,
        )
        self._loop.call_soon_threadsafe(self._live.log, [line])


class InlinePool:
    """Subtasks, one after another, in the parent's own thread."""

    def __init__(self, runner: Any, model_cls: type, context_rule: Any) -> None:
        self._runner = runner
        self._model_cls = model_cls
        self._context = context_rule

    def run_subtasks(
        self,
        sub_tasks: Iterable[Any],
        context_kwargs: dict[str, Any] | None = None,
        processes: int | None = None,
        most: int | None = None,
    ) -> Iterator[Any]:
        """Yield a TaskComplete or TaskFailed for each subtask, in order."""
        from fossa.worker.messages import Run, SubtaskOutcome
        from fossa.worker.pool import as_partition, as_task_message, encode_arguments

        context = self._context() if context_kwargs is None else context_kwargs
        for number, task in enumerate(sub_tasks):
            partition = as_partition(task, self._model_cls)
            arguments = msgspec.Raw(encode_arguments(partition, context))
            name = partition.model_cls.__name__
            ending = self._runner.run(Run(number, "", name, partition.method_name, arguments, 1, 1))
            outcome = SubtaskOutcome(
                number, "", ending.complete, ending.error or ending.reason, ending.message,
                ending.traceback, ending.result,
            )  # fmt: skip
            yield as_task_message(partition, context, outcome)
