"""Tasks, outcomes and nodes as JSON documents: one shape for the API, the sinks and the client."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from fossa.tasks import LogLine, Outcome, Record, Task


def moment(seconds: float | None) -> str | None:
    """Seconds since the epoch as RFC 3339 text in UTC, to the microsecond."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def ran_on(record: Record, here: str) -> str | None:
    """Name of the node that ran a task, where `here` is this one's; None: nobody did, or who knows.

    Until it has ended only its own node knows who runs it.
    """
    outcome = record.outcome
    if outcome is None or outcome.started is None:
        return None
    return here if outcome.node is None else outcome.node or None


def task_document(record: Record, here: str) -> dict[str, Any]:
    """A task with everything that is known of it; `here` is the name of the node that says so."""
    task = record.task
    return {
        "id": task.id,
        "model": task.model,
        "method": task.method,
        "status": record.status,
        "waiting": record.waiting,
        "parent_id": task.parent_id,
        "root_id": task.root_id,
        "retry_of": task.retry_of,
        "arguments": msgspec.Raw(task.arguments),
        "idempotency_key": task.idempotency_key,
        "priority": task.priority,
        "timeout": task.timeout,
        "retries": task.retries,
        "source": task.source,
        "accepted": moment(task.accepted),
        "started": moment(record.started),
        "finished": moment(record.outcome.finished) if record.outcome else None,
        "attempts": record.attempts,
        "node": ran_on(record, here),
        "progress": record.progress,
        "outcome": _outcome(record.outcome) if record.outcome else None,
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "status": outcome.status,
        "reason": outcome.reason,
        "message": outcome.message,
        "error": outcome.error,
        "traceback": list(outcome.traceback),
        "failed_subtask": outcome.failed_subtask,
        "attempt": outcome.attempt,
        "result": msgspec.Raw(outcome.result_json),
        "result_is_json": outcome.result_is_json,
    }


def outcome_document(task: Task, outcome: Outcome) -> dict[str, Any]:
    """A task and its outcome, as the sinks write them."""
    return {
        "task_id": task.id,
        "model": task.model,
        "method": task.method,
        "source": task.source,
        "accepted": moment(task.accepted),
        "started": moment(outcome.started),
        "finished": moment(outcome.finished),
        **_outcome(outcome),
    }


def log_document(position: int, line: LogLine) -> dict[str, Any]:
    return {
        "position": position,
        "time": moment(line.time),
        "level": line.level,
        "stream": line.stream,
        "attempt": line.attempt,
        "text": line.text,
    }
