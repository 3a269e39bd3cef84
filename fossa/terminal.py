"""Progress bars and tables for people at a terminal; plain lines where there is no terminal."""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Self

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from fossa.tasks import Outcome, Progress, Status

#: Seconds between two plain lines about the same task.
PLAIN_INTERVAL = 5.0
#: Columns of output that goes to no terminal: nothing in it is folded.
PLAIN_WIDTH = 200

_STYLES = {
    Status.QUEUED: "dim",
    Status.RUNNING: "cyan",
    Status.COMPLETE: "green",
    Status.FAILED: "bold red",
    Status.CANCELLED: "yellow",
}


def console(*, stderr: bool = False) -> Console:
    """A console for standard output or error, without control characters unless on a terminal."""
    found = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if found.is_terminal:
        return found
    return Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH, color_system=None)


def duration(seconds: float | None) -> str:
    """Seconds as people read them: 0.21 s, 12 s, 3:05, 2:03:05; empty for None."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def subtasks_done(progress: Progress, status: Status | str) -> str:
    """How many of its subtasks a task has behind it; empty where it makes none."""
    if not progress.subtasks and not progress.subtasks_total:
        return ""
    more = "" if Status(status).final else "+"
    total = progress.subtasks_total or f"{progress.subtasks}{more}"
    failed = f", {progress.subtasks_failed} failed" if progress.subtasks_failed else ""
    return f"{progress.subtasks_done}/{total} subtasks{failed}"


def styled(status: Status | str) -> str:
    """A status in its colour."""
    return f"[{_STYLES[Status(status)]}]{Status(status)}[/]"


class TaskBars:
    """A bar for each task, with subtasks done and the estimated time left.

    Where the console is no terminal, a line for each task now and then, and one at its end.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: dict[str, TaskID] = {}
        self._told: dict[str, float] = {}
        self._ended: set[str] = set()
        self._rich = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[status]}"),
            TextColumn("{task.fields[subtasks]}"),
            TextColumn("{task.fields[when]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._rich.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._rich.stop()

    def show(
        self, name: str, status: Status, progress: Progress, outcome: Outcome | None = None
    ) -> None:
        """How the task of that name stands now, and its outcome once it has ended."""
        if outcome is not None and outcome.started is not None:
            when = f"in {duration(outcome.finished - outcome.started)}"
        else:
            when = "" if progress.eta is None else f"{duration(progress.eta)} left"
        if self._console.is_terminal:
            self._show_bar(name, status, progress, when)
        else:
            self._tell(name, status, progress, when)

    def _show_bar(self, name: str, status: Status, progress: Progress, when: str) -> None:
        fraction = 1.0 if status is Status.COMPLETE else progress.fraction
        if name not in self._bars:
            self._bars[name] = self._rich.add_task(
                escape(name), total=None, status="", subtasks="", when=""
            )
        self._rich.update(
            self._bars[name],
            total=None if fraction is None and not status.final else 1.0,
            completed=fraction or 0.0,
            status=styled(status),
            subtasks=subtasks_done(progress, status),
            when=when,
        )

    def _tell(self, name: str, status: Status, progress: Progress, when: str) -> None:
        now = time.monotonic()
        if name in self._ended or (
            not status.final and now - self._told.get(name, float("-inf")) < PLAIN_INTERVAL
        ):
            return
        self._told[name] = now
        if status.final:
            self._ended.add(name)
        facts = [subtasks_done(progress, status), when]
        if progress.fraction is not None and not status.final:
            facts.insert(0, f"{progress.fraction:.0%}")
        told = ", ".join(fact for fact in facts if fact)
        self._console.print(f"{name}: {status}{f' ({told})' if told else ''}", markup=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """A table; the first column is never folded, and numbers stand to the right."""
    found = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[place], int | float) for row in rows)
        found.add_column(name, justify="right" if numbers else "left", no_wrap=place == 0)
    for row in rows:
        found.add_row(*map(_cell, row))
    return found


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def task_row(document: Mapping[str, Any]) -> list[str]:
    """One task of the API as the cells of a table: see `TASK_COLUMNS`."""
    progress = msgspec.convert(document["progress"], Progress)
    outcome = document["outcome"] or {}
    said = outcome.get("message") or subtasks_done(progress, document["status"]) or progress.message
    return [
        document["id"],
        escape(f"{document['model']}.{document['method']}"),
        styled(document["status"]),
        local_time(document["accepted"]),
        escape(said.splitlines()[0][:80]) if said else "",
    ]


TASK_COLUMNS = ("id", "task", "status", "accepted", "")


def local_time(moment: str | None) -> str:
    """A moment of the API on the clock of this computer; empty for None."""
    if moment is None:
        return ""
    return datetime.fromisoformat(moment).astimezone().strftime("%d %b %H:%M:%S")


def facts(rows: Mapping[str, Any]) -> Table:
    """Names and values, a pair a line; those without a value are left out."""
    found = Table.grid(padding=(0, 2, 0, 0))
    found.add_column(style="dim", no_wrap=True)
    found.add_column(overflow="fold")
    for name, value in rows.items():
        if value not in (None, "", []):
            found.add_row(name, str(value))
    return found


def node_facts(node: Mapping[str, Any]) -> Table:
    """A node of the API in a few lines."""
    return facts(
        {
            "node": f"{escape(node['name'])} ({node['state']}, process {node['pid']})",
            "models": escape(", ".join(node["models"])) or "none",
            "slots": f"{node['slots_free']} of {node['slots']} free",
            "queued": f"{node['queued']} tasks, {node['queued_subtasks']} subtasks",
            "state": escape(node["state_dir"]) or "in memory only",
            "not ready": escape("; ".join(node["not_ready"])),
        }
    )


def task_facts(document: Mapping[str, Any]) -> Table:
    """A task of the API with its outcome."""
    outcome = document["outcome"] or {}
    return facts(
        {
            "task": document["id"],
            "model": escape(f"{document['model']}.{document['method']}"),
            "status": styled(document["status"]),
            "attempts": document["attempts"],
            "parent": document["parent_id"],
            "accepted": local_time(document["accepted"]),
            "started": local_time(document["started"]),
            "finished": local_time(document["finished"]),
            "subtasks": subtasks_done(
                msgspec.convert(document["progress"], Progress), document["status"]
            ),
            "reason": outcome.get("reason"),
            "message": escape(outcome.get("message") or ""),
            "error": outcome.get("error"),
            "traceback": escape("\n".join(outcome.get("traceback", ()))),
            "result": escape(_shown_result(outcome)),
        }
    )


def _shown_result(outcome: Mapping[str, Any]) -> str:
    result = outcome.get("result")
    return "" if result is None else json.dumps(result)
