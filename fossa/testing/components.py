"""What sources, executors and sinks have in common."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from fossa.config import BaseConfig
from fossa.embed import Fossa
from fossa.errors import FossaError
from fossa.testing import models
from fossa.testing.doubles import MemoryExecutor

T = TypeVar("T")
#: Seconds in which what should come to pass has done so.
PATIENCE = 10.0


class SuiteConfig(BaseConfig):
    """A node that keeps nothing and is given nothing, with the suites' models."""

    ACCEPTED_MODEL_CLASSES = models.ALL
    NODE_NAME = "suite"
    SLOTS = 2
    LEDGER = None
    SOURCES = ()
    SINKS = ()
    PLUGINS = ()
    DRAIN_TIMEOUT = 5.0
    INTERRUPT_GRACE = 0.5
    TERMINATE_GRACE = 0.5
    RETRY_DELAY = 0.02


class ComponentContract:
    """Base of the suites. Subclass one of those, in a class whose name begins with `Test`."""

    #: Settings of the suite's node that the component reads, by name.
    settings: ClassVar[Mapping[str, Any]] = {}
    #: Seconds that a test may take.
    deadline: ClassVar[float] = 60.0
    #: Seconds in which whatever is asked to stop should have stopped.
    promptly: ClassVar[float] = 5.0

    tmp_path: Path

    def make(self) -> Any:
        """A new component, not opened. Override it. May read `self.tmp_path`."""
        raise NotImplementedError(f"{type(self).__name__} should override make()")

    def broken(self) -> Any:
        """A component whose `open` fails; None where it cannot fail."""
        return None

    @pytest.fixture(autouse=True)
    def _setting(self, no_leaks: None, tmp_path: Path) -> None:
        self.tmp_path = tmp_path

    # tools

    def within(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a test's coroutine on a loop of its own, with a deadline."""
        return asyncio.run(asyncio.wait_for(work, self.deadline))

    def named(self) -> Any:
        """What `make` made, with a name as a node would give it."""
        component = self.make()
        component.name = component.name or type(component).__name__
        return component

    @asynccontextmanager
    async def node(self, **settings: Any) -> AsyncIterator[Fossa]:
        """A running node that has nothing of the component under test."""
        chosen = {"EXECUTORS": [MemoryExecutor()], **self.settings, **settings}
        async with Fossa(SuiteConfig, **chosen) as node:
            yield node

    @asynccontextmanager
    async def opened(self, **settings: Any) -> AsyncIterator[Any]:
        """The component, opened by a running node."""
        component = self.named()
        async with self.node(**settings) as node:
            try:
                await component.open(node.governor)
                yield component
            finally:
                await component.close()

    # what every component holds

    def test_its_constructor_does_nothing(self) -> None:
        self.make()
        threads = threading.active_count()
        with _watched() as seen:
            self.make()
        assert not seen, f"its constructor did {', '.join(seen)}: that belongs into open()"
        assert threading.active_count() == threads

    def test_it_opens_and_closes(self) -> None:
        async def opened_and_closed() -> None:
            async with self.opened():
                pass

        self.within(opened_and_closed())

    def test_closing_it_twice_is_harmless(self) -> None:
        async def closed_twice() -> None:
            async with self.opened() as component:
                await component.close()

        self.within(closed_twice())

    def test_it_closes_where_it_was_never_opened(self) -> None:
        self.within(self.make().close())

    def test_it_closes_after_an_open_that_failed(self) -> None:
        component = self.broken()
        if component is None:
            pytest.skip("broken() gives none: its open() cannot fail")

        async def failed() -> None:
            async with self.node() as node:
                with pytest.raises(FossaError, match=r"\S"):
                    await component.open(node.governor)
                await component.close()

        self.within(failed())

    def test_two_of_it_do_not_disturb_each_other(self) -> None:
        async def two() -> None:
            async with self.opened(), self.opened():
                pass

        self.within(two())

    def test_it_says_whether_it_is_ready(self) -> None:
        async def ready() -> None:
            async with self.opened() as component:
                await eventually(lambda: component.ready() is None)

        self.within(ready())


async def eventually(condition: Callable[[], object]) -> None:
    """Returns once a condition holds that nothing announces."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


async def stopped(running: "asyncio.Task[Any]", seconds: float) -> None:
    """Cancel a task and see that it ends in time."""
    running.cancel()
    done, _ = await asyncio.wait([running], timeout=seconds)
    assert done, f"it was cancelled and had not ended {seconds} s later"


#: What a constructor leaves to `open`, by the names of Python's audit events.
_DOINGS = {"_thread", "open", "os", "pty", "shutil", "socket", "sqlite3", "subprocess", "tempfile"}
_seen: list[str] | None = None
_installed = False


@contextmanager
def _watched() -> Iterator[list[str]]:
    """What this thread does meanwhile that is more than computing."""
    global _seen, _installed
    if not _installed:
        # An audit hook cannot be taken out again: one is enough.
        sys.addaudithook(_audit)
        _installed = True
    seen = _seen = []
    try:
        yield seen
    finally:
        _seen = None


def _audit(event: str, _arguments: object) -> None:
    if _seen is not None and event.partition(".")[0] in _DOINGS:
        _seen.append(event)
