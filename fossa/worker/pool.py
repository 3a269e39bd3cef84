"""A PartitionedModel's subtasks: streamed up to the governor, their outcomes streamed down.

`drive` stands in for the part of ayeaye's `PartitionedModel.go` that runs subtasks. It means the
same for one worker and for a hundred, fails the model when its `partition_slice` fails half-way,
and takes tuples wherever it takes a `TaskPartition`.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import msgspec
from ayeaye.connect_resolve import connector_resolver
from ayeaye.runtime.multiprocess import AbstractProcessPool
from ayeaye.runtime.task_message import TaskComplete, TaskFailed, TaskLogMessage, TaskPartition

from fossa.worker import messages
from fossa.worker.channel import Channel, ChannelClosed

#: Subtasks sent whose outcome has not come back, for each that may run at once.
WINDOW_PER_LANE = 32
#: The same, at the least: nodes far away are kept busy by some messages of `BATCH` subtasks.
MIN_WINDOW = 2048
#: Outcomes come back that the model has not taken yet: more, and no further subtasks are made.
MAX_UNTAKEN = 10_000
#: Bytes of arguments that are away, and of results that the model has not taken, likewise; but
#: each lane has two subtasks, however large.
MAX_BYTES = 64 * 1024 * 1024
#: Subtasks in one message, at the most.
BATCH = 256


class ContextCannotTravel(ValueError):
    """The model's resolver context has something in it that another process cannot be given."""


def drive(model: Any, parallelism: int) -> None:
    """Run a PartitionedModel's build and its subtasks: what ayeaye's `_build` does, on a node."""
    plea = model.partition_plea()
    if not 0 < plea.minimum <= plea.maximum:
        raise ValueError(
            f"partition_plea() of {type(model).__name__} returned {plea}: "
            "minimum must be above 0 and no more than maximum"
        )
    most = max(plea.minimum, min(plea.optimal, plea.maximum))
    limit = max(plea.minimum, min(most, parallelism))
    model.build()
    tasks = model.partition_slice(limit)
    if not isinstance(tasks, Iterable):
        raise TypeError(
            f"partition_slice() of {type(model).__name__} returned {type(tasks).__name__}: "
            "return a list or be a generator of (method name, keyword arguments) or TaskPartition"
        )
    total = len(tasks) if isinstance(tasks, list) else None
    done = 0
    for message in model.process_pool.run_subtasks(tasks, processes=limit, most=most):
        if isinstance(message, TaskComplete):
            model.partition_subtask_complete(task_message=message)
        elif isinstance(message, TaskFailed):
            model.partition_subtask_failed(task_message=message)
        elif isinstance(message, TaskLogMessage):
            model.log(message.msg, level=message.level)
            continue
        done += 1
        if total:
            model.log_progress(done / total)
    model.partition_complete()


def as_partition(task: Any, model_cls: type) -> TaskPartition:
    """A `TaskPartition` of whatever `partition_slice` may give."""
    if isinstance(task, TaskPartition):
        return task
    try:
        method, kwargs = task
        if isinstance(method, str) and (kwargs is None or isinstance(kwargs, dict)):
            return TaskPartition(
                model_cls=model_cls, method_name=method, method_kwargs=kwargs or {}
            )
    except (TypeError, ValueError):
        pass
    raise TypeError(
        f"partition_slice() of {model_cls.__name__} gave {task!r:.200}: "
        "give (method name, keyword arguments) or a TaskPartition"
    )


def context_to_travel(
    node_side: frozenset[str], node_callables: frozenset[int] = frozenset()
) -> dict[str, Any]:
    """The resolver's values that subtasks are given; what each node has of its own stays out."""
    foreign = [c for c in connector_resolver.unnamed_callables if id(c) not in node_callables]
    if foreign:
        raise ContextCannotTravel(
            f"a callable resolver ({foreign[0]!r:.100}) cannot travel to subtasks: name it in the "
            "RESOLVERS setting, so that every node has it, or resolve its values beforehand"
        )
    return {k: v for k, v in connector_resolver._attr.items() if k not in node_side}


def encode_arguments(partition: TaskPartition, context: dict[str, Any]) -> bytes:
    """The JSON that travels with a subtask; what is empty is left out."""
    parts = {
        "method_kwargs": partition.method_kwargs,
        "model_construction_kwargs": partition.model_construction_kwargs,
        "partition_initialise_kwargs": partition.partition_initialise_kwargs,
        "resolver_context": {**context, **(partition.additional_context or {})},
    }
    try:
        return messages.encode_json({k: v for k, v in parts.items() if v})
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(
            f"a subtask of {partition.model_cls.__name__}.{partition.method_name} has arguments "
            f"that are not JSON: {error}"
        ) from None


class FossaPool(AbstractProcessPool):
    """Ayeaye's pool contract over the worker's channel."""

    def __init__(
        self,
        channel: Channel,
        run: int,
        model_cls: type,
        parallelism: int,
        context: "ContextRule",
    ) -> None:
        self._channel = channel
        self._run = run
        self._model_cls = model_cls
        self._parallelism = parallelism
        self._context = context
        self._number = 0

    def run_subtasks(
        self,
        sub_tasks: Iterable[Any],
        context_kwargs: dict[str, Any] | None = None,
        processes: int | None = None,
        most: int | None = None,
    ) -> Iterator[Any]:
        """Yield a TaskComplete or TaskFailed for each subtask, as they end, in any order.

        `processes` of them run at once, and up to `most` where nodes join meanwhile.
        """
        limit = processes or self._parallelism
        context = self._context() if context_kwargs is None else context_kwargs
        total = len(sub_tasks) if isinstance(sub_tasks, list) else None
        self._channel.send(messages.Planned(self._run, total, limit, most or limit))
        run = _Run(
            self._channel, self._run, self._model_cls, sub_tasks, context, limit, self._number
        )
        try:
            yield from run.outcomes()
        finally:
            self._number = run.number


class ContextRule:
    """What of the resolver's context travels to subtasks; bound to one task."""

    def __init__(self, node_side: frozenset[str], node_callables: frozenset[int]) -> None:
        self._node_side = node_side
        self._node_callables = node_callables

    def __call__(self) -> dict[str, Any]:
        return context_to_travel(self._node_side, self._node_callables)


class _Run:
    """One call of `run_subtasks`.

    Three threads meet here. The *feeder* pulls subtasks out of the model's generator, which may
    block until an outcome was taken (a generator that waits for its own subtasks does). The
    *reader* takes outcomes off the channel, so that the window opens even while the model is busy.
    The model's own thread takes them from the reader.
    """

    def __init__(
        self,
        channel: Channel,
        run: int,
        model_cls: type,
        sub_tasks: Iterable[Any],
        context: dict[str, Any],
        limit: int,
        number: int,
    ) -> None:
        self.number = number
        self._channel = channel
        self._run = run
        self._model_cls = model_cls
        self._sub_tasks = sub_tasks
        self._context = context
        self._window = max(MIN_WINDOW, limit * WINDOW_PER_LANE)
        self._least = 2 * limit
        self._changed = threading.Condition()
        self._sent = self._received = self._taken = 0
        self._fed = self._stopped = False
        self._bytes_away = self._bytes_untaken = 0
        #: Subtasks that are away or not taken, with the size of their arguments.
        self._pending: dict[int, tuple[TaskPartition, int]] = {}
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def outcomes(self) -> Iterator[Any]:
        feeder = threading.Thread(target=self._feed, name="fossa-feeder", daemon=True)
        reader = threading.Thread(target=self._read, name="fossa-reader", daemon=True)
        self._channel.send(messages.Rest(self._run))
        feeder.start()
        reader.start()
        try:
            yield from self._take()
        finally:
            with self._changed:
                self._stopped = True
                self._changed.notify_all()
            # A feeder that is inside the model's generator cannot be stopped: it is left behind.
            feeder.join(timeout=0.5)
            self._channel.send(messages.Wake(self._run))
            reader.join()

    def _take(self) -> Iterator[Any]:
        """Yield what comes back until everything that was fed has come back."""
        while True:
            with self._changed:
                if self._fed and self._taken == self._sent:
                    return
            item = self._inbox.get()
            if item is None:
                continue
            if isinstance(item, BaseException):
                raise item
            with self._changed:
                self._taken += 1
                self._bytes_untaken -= len(item.result)
                self._changed.notify_all()
            partition, _ = self._pending.pop(item.number)
            yield as_task_message(partition, self._context, item)

    def _feed(self) -> None:
        try:
            tasks = iter(self._sub_tasks)
            if isinstance(self._sub_tasks, list):
                while batch := list(islice(tasks, BATCH)):
                    if not self._send(batch):
                        return
            else:
                # One by one: a generator may take its time between two, or wait for the first.
                for task in tasks:
                    if not self._send([task]):
                        return
            with self._changed:
                self._fed = True
            self._inbox.put(None)
        except BaseException as error:
            self._inbox.put(error)

    def _send(self, batch: list[Any]) -> bool:
        """Send a batch once the window has room; False if the run was given up meanwhile."""
        subtasks = []
        with self._changed:
            self._changed.wait_for(self._has_room)
            if self._stopped:
                return False
            for task in batch:
                partition = as_partition(task, self._model_cls)
                arguments = encode_arguments(partition, self._context)
                self._pending[self.number] = partition, len(arguments)
                self._bytes_away += len(arguments)
                subtasks.append(
                    messages.Subtask(
                        self.number,
                        partition.model_cls.__name__,
                        partition.method_name,
                        msgspec.Raw(arguments),
                    )
                )
                self.number += 1
            self._sent += len(batch)
        self._channel.send(messages.Subtasks(self._run, subtasks))
        return True

    def _has_room(self) -> bool:
        away, untaken = self._sent - self._received, self._received - self._taken
        if self._stopped or away + untaken < self._least:
            return True
        room = away < self._window and untaken < MAX_UNTAKEN
        return room and self._bytes_away < MAX_BYTES and self._bytes_untaken < MAX_BYTES

    def _read(self) -> None:
        """Read until the governor has said that the model has its slot again."""
        try:
            while not isinstance(message := self._channel.receive(), messages.Awake):
                assert isinstance(message, messages.SubtaskOutcomes), message
                with self._changed:
                    self._received += len(message.outcomes)
                    for outcome in message.outcomes:
                        self._bytes_away -= self._pending[outcome.number][1]
                        self._bytes_untaken += len(outcome.result)
                    self._changed.notify_all()
                for outcome in message.outcomes:
                    self._inbox.put(outcome)
        except (ChannelClosed, OSError) as error:
            self._inbox.put(error)


def as_task_message(
    partition: TaskPartition, context: dict[str, Any], outcome: messages.SubtaskOutcome
) -> TaskComplete | TaskFailed:
    """An outcome as ayeaye's models are told of it."""
    if outcome.complete:
        return TaskComplete(
            model_cls_name=partition.model_cls.__name__,
            method_name=partition.method_name,
            method_kwargs=partition.method_kwargs,
            return_value=msgspec.json.decode(outcome.result),
        )
    return TaskFailed(
        model_class_name=partition.model_cls.__name__,
        model_construction_kwargs=partition.model_construction_kwargs,
        partition_initialise_kwargs=partition.partition_initialise_kwargs,
        method_name=partition.method_name,
        method_kwargs=partition.method_kwargs,
        resolver_context={**context, **(partition.additional_context or {})},
        exception_class_name=outcome.error or "",
        traceback=[outcome.message, *outcome.traceback],
        task_id=outcome.task_id,
    )
