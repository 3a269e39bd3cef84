"""Calls to what plugins bring: each is timed, named, and has a deadline where it is awaited.

What a plugin raises, forgets or blocks is told with the plugin's name, and is no trouble of the
node's.
"""

import asyncio
import gc
import inspect
import logging
import time
from collections.abc import Generator
from contextvars import Context, ContextVar
from typing import Any

from attrs import define, field

from fossa.contracts import Component, Executor, Sink, Source
from fossa.errors import FossaError, PluginError

#: Seconds that a step may keep the event loop before somebody is told; one of `open`, which may
#: import what the component needs.
BLOCKED, BLOCKED_OPENING = 0.25, 2.0
#: Seconds between two warnings of one kind about one plugin, at the least.
AGAIN = 60.0
#: Seconds in which a component opens, and in which it closes.
OPEN_DEADLINE, CLOSE_DEADLINE = 60.0, 10.0
#: Seconds that a cancelled call has before it is left behind, and a source's `run`.
GIVE_UP, GIVE_UP_RUN = 1.0, 5.0
#: Seconds that tasks of plugins have to end by themselves once a node has stopped.
LEFT_PATIENCE = 1.0

#: Who starts tasks of asyncio's now: the node's id, and a plugin. It is inherited by these tasks.
OWNER: ContextVar[tuple[str, str] | None] = ContextVar("fossa_owner", default=None)


class Overrun(FossaError):
    """A component took longer than its deadline."""


class Guard:
    """One node's dealings with its plugins."""

    def __init__(self, node_id: str, logger: logging.Logger) -> None:
        self._node_id = node_id
        self.logger = logger
        self._told: dict[tuple[str, str], float] = {}

    def owner(self, title: str) -> tuple[str, str]:
        """What `OWNER` is while a plugin is called."""
        return self._node_id, title

    async def call(
        self, component: Component, verb: str, *arguments: Any, within: float | None
    ) -> Any:
        """Await a method of a component, in a task of its own.

        Args:
            component: whose.
            verb: the method's name.
            arguments: what it takes.
            within: seconds; None: until cancelled.

        Raises:
            Overrun: it took longer. It was cancelled; where it did not stop, it is run no further.
            PluginError: it is no coroutine function, or called `sys.exit`, or cancelled itself.
        """
        call = _Call(self, title_of(component), verb)
        running = asyncio.create_task(call.run(component, arguments))
        try:
            await asyncio.wait([running], timeout=within)
        except asyncio.CancelledError:
            await call.give_up(running, GIVE_UP if within else GIVE_UP_RUN)
            raise
        if not running.done():
            await call.give_up(running, GIVE_UP)
            raise Overrun(f"{call.title}: {verb}() took longer than {within:g} s")
        return running.result()

    def ask(self, component: Component, verb: str, *arguments: Any, otherwise: Any) -> Any:
        """What a method returns that is not awaited; something else where it raises."""
        try:
            return getattr(component, verb)(*arguments)
        except Exception as error:
            title = title_of(component)
            if self._is_news(title, verb):
                self.logger.exception("%s: %s() raised", title, verb)
            return otherwise(error) if callable(otherwise) else otherwise

    def number(self, component: Component, verb: str, model: str) -> int:
        """What a remote executor answers of its room; 0 where that is no number."""
        count = self.ask(component, verb, model, otherwise=0)
        if isinstance(count, int):
            return count
        self.odd(title_of(component), f"{verb}()", count, "a whole number")
        return 0

    def blocked(self, title: str, what: str, seconds: float) -> None:
        """Somebody kept the event loop for too long."""
        if self._is_news(title, what):
            self.logger.warning(
                "%s: %s blocked the node's event loop for %.2f s: nothing else went on meanwhile; "
                "what waits belongs into a thread", title, what, seconds,
            )  # fmt: skip

    def odd(self, title: str, what: str, result: Any, wanted: str) -> None:
        """Somebody returned something of a wrong type."""
        if inspect.iscoroutine(result):
            result.close()
        if self._is_news(title, f"{what} returned"):
            kind = type(result).__name__
            self.logger.warning("%s: %s returned a %s: it should be %s", title, what, kind, wanted)

    def _is_news(self, title: str, what: str) -> bool:
        """Whether nobody was told of it lately."""
        now = time.monotonic()
        if now - self._told.get((title, what), -AGAIN) < AGAIN:
            return False
        self._told[title, what] = now
        return True

    async def sweep(self) -> None:
        """End the tasks that plugins have left running, and name them."""
        if not (left := self._left()):
            return
        await asyncio.wait(left, timeout=LEFT_PATIENCE)
        for task, title in self._left().items():
            self.logger.warning(
                "%s left the task %r of %s running: it is cancelled. Cancel it in close(), or in "
                "fossa_node_stopped", title, task.get_name(), _coroutine_name(task),
            )  # fmt: skip
            task.cancel()
        if left := self._left():
            await asyncio.wait(left, timeout=GIVE_UP)
        if left := self._left():
            for task in left:
                _force(task)
            await asyncio.wait(left, timeout=GIVE_UP)

    def _left(self) -> dict["asyncio.Task[Any]", str]:
        """Tasks under way that a plugin started for this node, and which plugin."""
        owners = {task: owner_of(task) for task in asyncio.all_tasks()}
        return {t: o[1] for t, o in owners.items() if o is not None and o[0] == self._node_id}


@define(eq=False)
class _Call:
    """One call to a component, driven step by step: each step is timed, and any may be the last."""

    guard: Guard
    title: str
    verb: str
    #: Nobody waits for it any more.
    _abandoned: bool = field(default=False, init=False)

    async def run(self, component: Component, arguments: tuple[Any, ...]) -> Any:
        OWNER.set(self.guard.owner(self.title))
        try:
            work = getattr(component, self.verb)(*arguments)
            if not inspect.isawaitable(work):
                kind = type(work).__name__
                raise PluginError(
                    f"{self.title}: {self.verb}() returned a {kind}: it should be an async function"
                )
            return await (_Steps(self, work) if inspect.iscoroutine(work) else work)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise PluginError(f"{self.title}: {self.verb}() was cancelled from within") from None
        except SystemExit as error:
            raise PluginError(f"{self.title}: {self.verb}() called sys.exit({error})") from error

    async def give_up(self, running: "asyncio.Task[Any]", patience: float) -> None:
        """Cancel it; where it will not stop, go no further with it."""
        running.cancel()
        await asyncio.wait([running], timeout=patience)
        if not running.done():
            self.guard.logger.warning(
                "%s: %s() did not stop when it was cancelled: it is left where it was",
                self.title, self.verb,
            )  # fmt: skip
            self._abandoned = True
            running.cancel()
            await asyncio.wait([running], timeout=patience)
        if running.done() and not running.cancelled():
            running.exception()

    def after(self, seconds: float) -> None:
        """A step is over."""
        if seconds > (BLOCKED_OPENING if self.verb == "open" else BLOCKED):
            self.guard.blocked(self.title, f"{self.verb}()", seconds)

    @property
    def abandoned(self) -> bool:
        return self._abandoned


class _Steps:
    """Awaits a coroutine, and sees how long each of its steps takes."""

    def __init__(self, call: _Call, work: Any) -> None:
        self._call, self._work = call, work

    def __await__(self) -> Generator[Any, Any, Any]:
        step, value = self._work.send, None
        while True:
            began = time.perf_counter()
            try:
                awaited = step(value)
            except StopIteration as end:
                return end.value
            finally:
                self._call.after(time.perf_counter() - began)
            try:
                value = yield awaited
                step = self._work.send
            except BaseException as error:
                if self._call.abandoned or isinstance(error, GeneratorExit):
                    _close(self._work)
                    raise
                step, value = self._work.throw, error


def title_of(component: Component) -> str:
    """A component as messages call it."""
    for contract in (Source, Executor, Sink):
        if isinstance(component, contract):
            return f"{contract.__name__.lower()} {component.name}"
    return component.name


def owner_of(task: "asyncio.Task[Any]") -> tuple[str, str] | None:
    """Which node's plugin started a task; None: none did."""
    if hasattr(task, "get_context"):
        context: Context | None = task.get_context()
    else:  # Python 3.11
        found = (thing for thing in gc.get_referents(task) if isinstance(thing, Context))
        context = next(found, None)
    return context.get(OWNER) if context is not None else None


def _coroutine_name(task: "asyncio.Task[Any]") -> str:
    return getattr(task.get_coro(), "__qualname__", "?")


def _force(task: "asyncio.Task[Any]") -> None:
    """End a task that will not be cancelled: an event loop that is closed would wait for it."""
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    _close(task.get_coro())
    task.cancel()


def _close(work: Any) -> None:
    """End a coroutine where it stands; what it says to that is of no interest."""
    try:
        work.close()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
