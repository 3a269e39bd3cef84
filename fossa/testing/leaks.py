"""What a test leaves behind: asyncio tasks, threads, file descriptors, child processes."""

import asyncio
import contextlib
import gc
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

#: Seconds that what is on its way out has to be gone.
PATIENCE = 3.0
#: Seconds that the tasks of an event loop have to end when it is closed.
LOOP_PATIENCE = 0.5
#: Processes that a longer-lived fixture ends; see `outlives`.
_outliving: set[int] = set()


def outlives(pid: int) -> None:
    """A process that is started during a test outlives it: it and its children are no leak.

    For a server that several tests share, where one of them restarts it.
    """
    _outliving.add(pid)


class LeakGuard:
    """A context manager: once it is left, `left` names what was not there when it was entered.

    Asyncio tasks are looked at when an event loop is closed by `asyncio.run` or `asyncio.Runner`,
    in whatever thread, for that is when they would otherwise be cancelled without a word.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._tasks: list[str] = []
        #: What was left, a line for each; empty where nothing was.
        self.left: list[str] = []

    def __enter__(self) -> Self:
        self._threads = set(threading.enumerate())
        self._files = open_files()
        self._children = children()
        self._close = close = asyncio.Runner.close

        def watched(runner: asyncio.Runner) -> None:
            self._tasks += unfinished_tasks(runner)
            close(runner)

        asyncio.Runner.close = watched  # type: ignore[method-assign, assignment]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.Runner.close = self._close  # type: ignore[method-assign]
        deadline = time.monotonic() + self._patience
        while (left := self._look()) and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.01)
        self.left = self._tasks + left

    def _look(self) -> list[str]:
        return [*self._new_threads(), *self._new_files(), *self._new_children()]

    def _new_threads(self) -> list[str]:
        new = set(threading.enumerate()) - self._threads
        return [f"the thread {thread.name!r}" for thread in new if thread.is_alive()]

    def _new_files(self) -> list[str]:
        """A descriptor that was replaced by another is no leak: more must be open than before."""
        now = open_files()
        if len(now) <= len(self._files):
            return []
        new = now.items() - self._files.items()
        return [f"the file descriptor {number}: {target}" for number, target in sorted(new)]

    def _new_children(self) -> list[str]:
        """Those that the test, or what it started, has started.

        What a child from before the test does, such as a server that serves many tests, is its own.
        """
        others = {pid for pid, _ in self._children} | _outliving
        new = [
            (pid, command)
            for (pid, since), command in children().items()
            if (pid, since) not in self._children and others.isdisjoint(_with_parents(pid))
        ]
        return [f"the child process {pid}: {command}" for pid, command in sorted(new)]


def unfinished_tasks(runner: asyncio.Runner) -> list[str]:
    """The tasks of a loop that is about to be closed, once they had a moment to end."""
    loop = getattr(runner, "_loop", None)
    if loop is None or loop.is_closed() or not asyncio.all_tasks(loop):
        return []
    loop.run_until_complete(asyncio.wait(asyncio.all_tasks(loop), timeout=LOOP_PATIENCE))
    return [_task(task) for task in asyncio.all_tasks(loop)]


def _task(task: "asyncio.Task[Any]") -> str:
    name = getattr(task.get_coro(), "__qualname__", "?")
    return f"the asyncio task {task.get_name()!r} of {name}"


def open_files() -> dict[int, str]:
    """This process's file descriptors, and what each leads to where the system says so."""
    directory = Path("/proc/self/fd" if sys.platform == "linux" else "/dev/fd")
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", 0)
    found = {}
    for entry in list(directory.iterdir()):
        # The descriptor that lists the directory is closed by now.
        with contextlib.suppress(FileNotFoundError):
            target = str(entry.readlink()) if sys.platform == "linux" else ""
            if int(entry.name) != getattr(tracker, "_fd", None):
                found[int(entry.name)] = target
    return found


def children() -> dict[tuple[int, float], str]:
    """Child processes and theirs, by pid and start, with their command lines."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            command = _command(process)
            # One helper for the whole process, which stays until it ends.
            if "multiprocessing.resource_tracker" not in command:
                found[process.pid, process.create_time()] = command
    return found


def _with_parents(pid: int) -> set[int]:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return {pid, *(parent.pid for parent in process.parents())}
    return set()


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:200] or process.name()
    except (psutil.ZombieProcess, psutil.AccessDenied):
        return f"{process.name()} (a zombie: nobody waited for it)"
