"""Fossa inside somebody else's program: `Fossa` for asyncio hosts, a thread for everybody else.

Nothing here touches signals, logging set-up, the working directory or anything else that is the
host's.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

from fossa.composition import Composition, compose
from fossa.config import BaseConfig
from fossa.errors import FossaError, NodeStopped
from fossa.tasks import Delivery, LogLine, Outcome, Progress, Record, Request, Status
from fossa.worker.loading import stop_if_importing

if TYPE_CHECKING:
    from aiohttp import web

    from fossa.node import RunningNode

T = TypeVar("T")
#: Log lines that are read from the ledger in one go.
_PAGE = 1000


class TaskHandle:
    """A submitted task."""

    def __init__(self, governor: "RunningNode", task_id: str) -> None:
        self._governor = governor
        self.id = task_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    async def record(self) -> Record:
        """Everything that is known of it now."""
        return await self._governor.record(self.id)

    async def status(self) -> Status:
        return (await self.record()).status

    async def progress(self) -> Progress:
        return (await self.record()).progress

    async def outcome(self, timeout: float | None = None) -> Outcome:
        """How it ended, once it has. Raises TimeoutError after `timeout` seconds."""
        return await asyncio.wait_for(self._governor.outcome(self.id), timeout)

    async def logs(self, after: int = 0) -> list[LogLine]:
        """What it has written so far; of a running task, call again for more."""
        lines: list[LogLine] = []
        while page := await self._governor.logs(self.id, after, _PAGE):
            lines += [line for _, line in page]
            after = page[-1][0]
        return lines

    async def subtasks(self, **query: Any) -> list[Record]:
        """Its subtasks, newest first: `status`, `before` (a record's seq), `limit` (50)."""
        return await self._governor.page(parent_id=self.id, **query)

    async def cancel(self, why: str = "cancelled by request") -> None:
        """Ask it, and its subtasks, to stop."""
        await self._governor.cancel(self.id, why)


class Fossa:
    """A node in this process: `async with Fossa(Config) as node`.

    Args:
        config: a subclass of `BaseConfig`.
        settings: settings that win over the class and the environment.
    """

    def __init__(
        self, config: type[BaseConfig], *, stand_alone: bool = False, **settings: Any
    ) -> None:
        stop_if_importing()
        self.composition: Composition = compose(config, stand_alone=stand_alone, **settings)
        self._governor: RunningNode | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open everything; returns once the node takes tasks."""
        from fossa.node import RunningNode

        if self._governor is not None:
            raise FossaError("this node was started already: make another Fossa(…)")
        self._governor = RunningNode(self.composition)
        await self._governor.start()

    async def stop(self, timeout: float | None = None) -> None:
        """Drain for up to `timeout` seconds (None: DRAIN_TIMEOUT), then close everything."""
        await self.governor.stop(timeout)

    @property
    def governor(self) -> "RunningNode":
        """The running node. Raises `NodeStopped` before `start`."""
        if self._governor is None:
            raise NodeStopped
        return self._governor

    async def submit(self, model: type | str, method: str = "go", **options: Any) -> TaskHandle:
        """Submit a task; returns once it is durable.

        Args:
            model: an accepted model class, or its name.
            method: a public method of it.
            options: method_kwargs, model_construction_kwargs, partition_initialise_kwargs,
                resolver_context (dicts of JSON values), idempotency_key, timeout (seconds),
                retries, priority.

        Raises:
            TaskRefused: it was not admitted, and why.
        """
        name = model if isinstance(model, str) else getattr(model, "__name__", model)
        request = Request(model=name, method=method, **options)
        task, _ = await self.governor.admit(Delivery(request=request, source="embed"))
        return TaskHandle(self.governor, task.id)

    async def task(self, task_id: str) -> TaskHandle:
        """The handle of a task by its id. Raises `UnknownTask`."""
        await self.governor.record(task_id)
        return TaskHandle(self.governor, task_id)

    def admin_app(self) -> "web.Application":
        """The node's pages and API, to be mounted in an aiohttp application of the host's."""
        from fossa.admin.app import admin_app

        return admin_app(self.governor)

    @contextmanager
    def in_thread(self) -> "Iterator[ThreadedFossa]":
        """The node on an event loop in a thread of its own, for a host that has none."""
        threaded = ThreadedFossa(self)
        threaded.start()
        try:
            yield threaded
        finally:
            threaded.stop()


class ThreadedTaskHandle:
    """A submitted task, seen from any thread."""

    def __init__(self, node: "ThreadedFossa", handle: TaskHandle) -> None:
        self._node = node
        self._handle = handle
        self.id = handle.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    @property
    def status(self) -> Status:
        return self._node.call(self._handle.status())

    @property
    def progress(self) -> Progress:
        return self._node.call(self._handle.progress())

    def record(self) -> Record:
        return self._node.call(self._handle.record())

    def outcome(self, timeout: float | None = None) -> Outcome:
        """How it ended, once it has. Raises TimeoutError after `timeout` seconds."""
        return self._node.call(self._handle.outcome(timeout))

    def logs(self, after: int = 0) -> list[LogLine]:
        return self._node.call(self._handle.logs(after))

    def subtasks(self, **query: Any) -> list[Record]:
        return self._node.call(self._handle.subtasks(**query))

    def cancel(self, why: str = "cancelled by request") -> None:
        self._node.call(self._handle.cancel(why))


class ThreadedFossa:
    """A node in a thread of this process. Its methods may be called from any other thread."""

    def __init__(self, node: Fossa) -> None:
        self.node = node
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Returns once the node takes tasks."""
        started = threading.Event()

        def run() -> None:
            with asyncio.Runner() as runner:
                self._loop = runner.get_loop()
                self._loop.call_soon(started.set)
                runner.run(self._until_stopped())

        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=run, name="fossa-node", daemon=True)
        self._thread.start()
        started.wait()
        try:
            self.call(self.node.start())
        except BaseException:
            self._end()
            raise

    async def _until_stopped(self) -> None:
        await self._stopping.wait()

    def stop(self, timeout: float | None = None) -> None:
        """Drain, close, and end the thread."""
        try:
            self.call(self.node.stop(timeout))
        finally:
            self._end()

    def _end(self) -> None:
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
            self._loop = None

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the node's loop and return what it returns."""
        if self._loop is None or threading.current_thread() is self._thread:
            work.close()
            if self._loop is None:
                raise NodeStopped
            raise FossaError("call this from another thread: the node's own must not wait")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def submit(self, model: type | str, method: str = "go", **options: Any) -> ThreadedTaskHandle:
        """As `Fossa.submit`."""
        return ThreadedTaskHandle(self, self.call(self.node.submit(model, method, **options)))

    def task(self, task_id: str) -> ThreadedTaskHandle:
        """The handle of a task by its id. Raises `UnknownTask`."""
        return ThreadedTaskHandle(self, self.call(self.node.task(task_id)))

    def status(self) -> dict[str, Any]:
        """The node in numbers and names."""

        async def status() -> dict[str, Any]:
            return self.node.governor.status()

        return self.call(status())
