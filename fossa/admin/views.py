"""What the pages show of nodes and tasks, in the words and units that people read."""

import time
from datetime import UTC, datetime
from typing import Any

from fossa.documents import ran_on
from fossa.tasks import Record

#: Rows of the table of nodes.
MAX_NODES = 100


def node_view(status: dict[str, Any]) -> dict[str, Any]:
    """The node's status with what is computed from it."""
    return {
        **status,
        "slots_used": status["slots"] - status["slots_free"],
        "up": duration(time.time() - status["booted"]),
    }


def fleet_view(nodes: list[dict[str, Any]]) -> dict[str, Any]:
    """The nodes that work together, in a table and in sum; no rows where there is only one."""
    used = sum(node["slots"] - node["slots_free"] for node in nodes)
    return {
        "rows": [_fleet_row(node) for node in nodes[:MAX_NODES]] if len(nodes) > 1 else [],
        "count": len(nodes),
        "slots": sum(node["slots"] for node in nodes),
        "slots_used": used,
        "running": sum(node["running"] for node in nodes),
        "queued": sum(node["queued"] for node in nodes),
    }


def _fleet_row(node: dict[str, Any]) -> dict[str, Any]:
    url = str(node.get("url") or "")
    return {
        **node,
        # It comes from elsewhere: a link must not be a script.
        "url": url if url.startswith(("http://", "https://")) else "",
        "slots_used": node["slots"] - node["slots_free"],
        "up": duration(time.time() - node["booted"]),
        "seen": "now" if node["this"] else ago(node["last_seen"]),
        "version": node["versions"].get("fossa", ""),
    }


def task_view(record: Record, here: str) -> dict[str, Any]:
    """One row of a table, or the head of a task's page; `here` is the name of this node."""
    task, outcome, progress = record.task, record.outcome, record.progress
    return {
        "id": task.id,
        "name": task.model if task.method == "go" else f"{task.model}.{task.method}",
        "status": "waiting" if record.waiting else str(record.status),
        "reason": outcome.reason.replace("_", " ") if outcome and not outcome.complete else "",
        "message": outcome.message if outcome else progress.message,
        "percent": None if progress.fraction is None else round(100 * progress.fraction, 1),
        "eta": None if progress.eta is None or progress.fraction == 1 else duration(progress.eta),
        "subtasks": subtask_counts(record),
        "took": duration(_seconds(record)) if record.started else "",
        "accepted": clock(task.accepted),
        "started": clock(record.started),
        "finished": clock(outcome.finished if outcome else None),
        "accepted_ago": ago(task.accepted),
        "finished_ago": ago(outcome.finished) if outcome else "",
        "ended": outcome is not None,
        "node": ran_on(record, here) or "",
    }


def subtask_counts(record: Record) -> str:
    """Such as "12 of 40 done, 1 failed"."""
    progress = record.progress
    if not progress.subtasks:
        return ""
    total = progress.subtasks_total or progress.subtasks
    more = "" if progress.subtasks_total or record.outcome else "+"
    failed = f", {progress.subtasks_failed:,} failed" if progress.subtasks_failed else ""
    return f"{progress.subtasks_done:,} of {total:,}{more} done{failed}"


def duration(seconds: float) -> str:
    """Seconds as people say them: "12 ms", "3.2 s", "4 min 05 s", "2 h 10 min", "3 d 4 h"."""
    seconds = max(0.0, seconds)
    if seconds < 0.0005:
        return "< 1 ms"
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24} d {hours % 24} h"


def ago(moment: float) -> str:
    """How long ago a moment in seconds since the epoch was, in whole units."""
    seconds = max(0.0, time.time() - moment)
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago" if seconds >= 1 else "just now"


def clock(seconds: float | None) -> str:
    """A moment in UTC, to the second."""
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _seconds(record: Record) -> float:
    end = record.outcome.finished if record.outcome else time.time()
    return end - (record.started or end)
