"""Running one attempt: the model is made, its method called, what comes of it described."""

import math
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import ayeaye
import msgspec
from ayeaye.connect_resolve import connector_resolver
from ayeaye.exception import SubTaskFailed

from fossa.interrupts import Cancelled, Interrupt, SoftTimeout
from fossa.reasons import Reason
from fossa.texts import encodable
from fossa.worker import messages
from fossa.worker.messages import Progressed, Run
from fossa.worker.pool import ContextRule, FossaPool, drive

#: Seconds between two progress messages of one attempt, at the least.
PROGRESS_INTERVAL = 0.1
#: Characters kept of a message, of a representation, and of each line of a traceback.
MAX_TEXT = 2000
#: Lines kept of a traceback.
MAX_TRACEBACK = 100


class Ending(msgspec.Struct, frozen=True):
    """How an attempt ended: the part of `messages.Done` that the model decides."""

    complete: bool
    reason: str
    message: str = ""
    error: str | None = None
    traceback: tuple[str, ...] = ()
    result: msgspec.Raw = msgspec.Raw(b"null")
    result_is_json: bool = True
    failed_subtask: str | None = None
    #: Why this process should not be used again; empty where it may.
    retire: str = ""


class Upward(Protocol):
    """Where an attempt's messages go."""

    def send(self, message: messages.Message) -> None: ...


class NodeSide:
    """What this node itself gives to the resolver of every model: callables and secrets."""

    def __init__(self, resolvers: dict[str, Callable[..., Any]], secrets: dict[str, str]) -> None:
        self._resolvers = tuple(resolvers.values())
        self._secrets = secrets

    def context_rule(self) -> ContextRule:
        return ContextRule(frozenset(self._secrets), frozenset(map(id, self._resolvers)))

    @contextmanager
    def resolving(self, context: dict[str, Any]) -> Iterator[None]:
        """The global resolver for one attempt: nothing of another's is in it, before or after."""
        outer = dict(vars(connector_resolver))
        connector_resolver.brutal_reset()
        try:
            connector_resolver.add(*self._resolvers)
            connector_resolver.add_secret(**self._secrets)
            connector_resolver.add(**context)
            yield
        finally:
            vars(connector_resolver).update(outer)


class Progresses:
    """Sends a model's progress, not too often, and the last of it always."""

    def __init__(self, channel: "Upward", number: int) -> None:
        self._channel = channel
        self._number = number
        self._sent_at = 0.0
        self._unsent: Progressed | None = None

    def __call__(self, position: Any, message: Any = None) -> None:
        if not isinstance(position, int | float) or math.isnan(position):
            return
        fraction = min(1.0, max(0.0, float(position)))
        self._unsent = Progressed(self._number, fraction, encodable(str(message or "")[:MAX_TEXT]))
        if time.monotonic() - self._sent_at >= PROGRESS_INTERVAL:
            self.flush()

    def flush(self) -> None:
        if self._unsent is not None:
            self._sent_at = time.monotonic()
            self._channel.send(self._unsent)
            self._unsent = None


class Runner:
    """Runs attempts, one at a time, with what the boot message gave."""

    def __init__(
        self,
        channel: "Upward",
        models: dict[str, type],
        node_side: NodeSide,
        logger: Any,
        max_result_bytes: int,
        pool: Callable[..., Any] = FossaPool,
    ) -> None:
        self._pool = pool
        self._channel = channel
        self._models = models
        self._node_side = node_side
        self._logger = logger
        self._max_result_bytes = max_result_bytes

    def run(self, run: Run) -> Ending:
        """The attempt, to its end. Only an exit or a signal keeps it from returning."""
        progress = Progresses(self._channel, run.number)
        try:
            with memory_limited(run.memory):
                value = self._call(run, progress)
            done = self._returned(run, value)
        except SystemExit as error:
            text = f"the model called sys.exit({error.code!r})"
            done = failed(Reason.EXIT, text, error, retire="the model called sys.exit")
        except SoftTimeout as error:
            done = failed(Reason.SOFT_TIMEOUT, str(error), error, retire="interrupted")
        except Cancelled as error:
            done = failed(Reason.CANCELLED, str(error), error, retire="interrupted")
        except SubTaskFailed as error:
            done = subtask_failed(error)
        except MemoryError as error:
            text = describe(error) or "the memory limit was reached"
            done = failed(Reason.OUT_OF_MEMORY, text, error, retire="out of memory")
        except BaseException as error:
            retire = "" if isinstance(error, Exception) else "an odd exception"
            done = failed(Reason.EXCEPTION, describe(error), error, retire=retire)
        progress.flush()
        return done

    def _call(self, run: Run, progress: Progresses) -> Any:
        model_cls = self._models.get(run.model)
        if model_cls is None:
            raise LookupError(f"this worker could not import {run.model}: see the node's log")
        arguments = msgspec.json.decode(run.arguments)
        with self._node_side.resolving(arguments.get("resolver_context", {})):
            model = model_cls(**arguments.get("model_construction_kwargs", {}))
            try:
                self._prepare(model, run, arguments, progress)
                return getattr(model, run.method)(**arguments.get("method_kwargs", {}))
            finally:
                model.close_datasets()

    def _prepare(
        self, model: Any, run: Run, arguments: dict[str, Any], progress: Progresses
    ) -> None:
        """Connect a new model to its node: log, progress, and the pool for its subtasks."""
        model.log_to_stdout = False
        model.set_logger(self._logger)
        model.start_build_time = time.time()
        said = model.log_progress

        def log_progress(position_pc: Any, msg: Any = None) -> None:
            progress(position_pc, msg)
            if position_pc is not None:
                said(position_pc, msg)

        model.log_progress = log_progress
        if isinstance(model, ayeaye.PartitionedModel):
            context = self._node_side.context_rule()
            model.runtime.max_concurrent_tasks = run.parallelism
            model.runtime.worker_id = run.lane
            model.runtime.total_workers = run.total_lanes
            model.process_pool = self._pool(
                self._channel, run.number, type(model), run.parallelism, context
            )
            model._build = lambda: drive(model, run.parallelism)
            model.partition_initialise(**arguments.get("partition_initialise_kwargs", {}))

    def _returned(self, run: Run, value: Any) -> Ending:
        if run.method == "go" and value is False:
            text = "go() returned False: a pre- or post-build check failed"
            return Ending(False, Reason.CHECK_FAILED, text)
        is_json = True
        try:
            result = messages.encode_json(value) if messages.is_plain(value) else b""
        except (TypeError, ValueError, OverflowError, RecursionError):
            result = b""
        if not result:
            is_json = False
            result = messages.encode_json(represent(value))
        if len(result) > self._max_result_bytes:
            text = (
                f"the return value takes {len(result)} bytes of JSON and MAX_RESULT_BYTES is "
                f"{self._max_result_bytes}: write it to a dataset and return where it is"
            )
            return Ending(False, Reason.RESULT_TOO_LARGE, text)
        return Ending(True, Reason.RETURNED, result=msgspec.Raw(result), result_is_json=is_json)


def represent(value: Any) -> dict[str, str]:
    """What stands in for a return value that is not JSON."""
    return {"type": qualified_name(type(value)), "repr": shown(repr, value)}


def failed(reason: Reason, text: str, error: BaseException, retire: str = "") -> Ending:
    """The end of an attempt whose model raised."""
    cut = [] if isinstance(error, Interrupt) else format_traceback(error)
    name, lines = qualified_name(type(error)), tuple(map(encodable, cut))
    return Ending(False, reason, text, name, lines, retire=retire)


def subtask_failed(error: SubTaskFailed) -> Ending:
    """The end of a parent that did not handle a subtask's failure."""
    message = error.task_fail_message
    first = message.traceback[0] if message.traceback else ""
    text = (
        f"subtask {message.model_class_name}.{message.method_name} failed: "
        f"{message.exception_class_name}: {first}"
    )
    return Ending(
        False,
        Reason.SUBTASK_FAILED,
        text[:MAX_TEXT],
        qualified_name(type(error)),
        failed_subtask=message.task_id,
    )


def qualified_name(cls: type) -> str:
    return (
        cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    )


def describe(error: BaseException) -> str:
    """An exception's message, even if asking for it raises."""
    return shown(str, error)


def shown(how: Callable[[Any], str], value: Any) -> str:
    """`how(value)`, cut to size, or what went wrong with it."""
    try:
        text = how(value)
    except BaseException as error:
        return f"<{how.__name__}() of a {type(value).__name__} raised {type(error).__name__}>"
    text = encodable(text)
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"


def format_traceback(error: BaseException) -> list[str]:
    """The frames of the model's own code, a line an item, the innermost last."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename != __file__]
    lines = [f'File "{f.filename}", line {f.lineno}, in {f.name}: {f.line}' for f in own]
    return [line[:MAX_TEXT] for line in lines[-MAX_TRACEBACK:]]


@contextmanager
def memory_limited(limit: int | None) -> Iterator[None]:
    """No more than so many bytes of data for this process; what asks for more gets MemoryError."""
    if limit is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def leftovers(own: set[threading.Thread], *, reap: bool = False) -> str:
    """What a model left running in this process, besides its `own` threads; empty for nothing.

    A child that has ended and was not waited for hides those that run, unless it may be reaped.
    """
    others = [t for t in threading.enumerate() if t not in own and t.is_alive()]
    if others:
        return f"the model left a thread running: {others[0].name}"
    how = os.WEXITED | os.WNOHANG | (0 if reap else os.WNOWAIT)
    try:
        while (ended := os.waitid(os.P_ALL, 0, how)) is not None and reap:
            pass
        if ended is None:
            return "the model left a process running"
    except ChildProcessError:
        pass
    return ""


def resident_bytes() -> int:
    """Resident memory of this process."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
