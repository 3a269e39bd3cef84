"""A thread that does one thing after another for an event loop."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class OneThread:
    """What `loop.run_in_executor` does with one worker, and less for each call.

    That takes a second future with a lock, and two more turns of the loop: where a node commits
    tasks one by one, they show in what it can do beside.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def run(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """Do this after what came before it, unless the future is cancelled by then.

        Raises:
            RuntimeError: it is closed.
        """
        if self._closed:
            raise RuntimeError(f"the thread {self._name} is closed")
        if self._thread is None:
            self._thread = threading.Thread(target=self._do_all, name=self._name, daemon=True)
            self._thread.start()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((work, done))
        return done

    def close(self) -> None:
        """Take no more; returns once everything taken is done."""
        self._closed = True
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()

    def _do_all(self) -> None:
        while (job := self._jobs.get()) is not None:
            _do(*job)
            job = None  # what it holds may be large, and the next may be long in coming


_Job = tuple[Callable[[], Any], "asyncio.Future[Any]"]


def _do(work: Callable[[], Any], done: "asyncio.Future[Any]") -> None:
    if done.cancelled():
        return
    result: Any = None
    failed: BaseException | None = None
    try:
        result = work()
    except BaseException as error:
        failed = error
    # The loop may be closed by now: nobody waits any more.
    with contextlib.suppress(RuntimeError):
        done.get_loop().call_soon_threadsafe(_tell, done, result, failed)


def _tell(done: "asyncio.Future[Any]", result: Any, failed: BaseException | None) -> None:
    if done.done():
        return
    if failed is None:
        done.set_result(result)
    else:
        done.set_exception(failed)
