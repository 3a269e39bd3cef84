"""A task as a row of the ledger: the schema, what a commit does in SQL, a record back.

A batch reaches SQLite as one JSON document (`json_each`), because each statement that a thread
steps through gives up the interpreter's lock, and getting it back from a busy event loop takes
milliseconds. What comes alone is written by itself, which is cheaper then.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from attrs import define

from fossa.tasks import Outcome, Progress, Reason, Record, Status, Task

#: One entry a schema version: what takes a ledger from the version before it to this one.
MIGRATIONS = (
    """
    CREATE TABLE tasks (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        model TEXT NOT NULL,
        method TEXT NOT NULL,
        arguments TEXT NOT NULL,
        parent_id TEXT,
        root_id TEXT NOT NULL,
        depth INTEGER NOT NULL,
        key TEXT,
        idempotency_key TEXT,
        retry_of TEXT,
        priority INTEGER NOT NULL,
        timeout REAL,
        retries INTEGER NOT NULL,
        source TEXT NOT NULL,
        accepted REAL NOT NULL,
        status TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        started REAL,
        finished REAL,
        crashes INTEGER NOT NULL,
        outcome TEXT,
        result TEXT,
        progress TEXT
    );
    CREATE UNIQUE INDEX tasks_idempotency ON tasks(idempotency_key)
        WHERE idempotency_key IS NOT NULL;
    CREATE INDEX tasks_subtasks ON tasks(parent_id, seq) WHERE parent_id IS NOT NULL;
    CREATE INDEX tasks_top ON tasks(seq) WHERE parent_id IS NULL;
    CREATE INDEX tasks_top_status ON tasks(status, seq) WHERE parent_id IS NULL;
    CREATE INDEX tasks_top_model ON tasks(model, seq) WHERE parent_id IS NULL;
    CREATE INDEX tasks_unfinished ON tasks(seq) WHERE status IN ('queued', 'running');
    CREATE INDEX tasks_finished ON tasks(finished) WHERE finished IS NOT NULL;
    CREATE TABLE logs (
        task_id TEXT NOT NULL,
        n INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        time REAL NOT NULL,
        level TEXT NOT NULL,
        stream TEXT NOT NULL,
        text TEXT NOT NULL,
        PRIMARY KEY (task_id, n)
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE tasks ADD COLUMN redelivered INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE tasks ADD COLUMN listed INTEGER NOT NULL DEFAULT 0;
    UPDATE tasks SET listed = parent_id IS NULL;
    DROP INDEX tasks_top;
    DROP INDEX tasks_top_status;
    DROP INDEX tasks_top_model;
    CREATE INDEX tasks_top ON tasks(seq) WHERE listed;
    CREATE INDEX tasks_top_status ON tasks(status, seq) WHERE listed;
    CREATE INDEX tasks_top_model ON tasks(model, seq) WHERE listed;
    """,
    """
    ALTER TABLE tasks ADD COLUMN owed INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX tasks_owed ON tasks(seq) WHERE owed;
    """,
)

_TASK_FIELDS = (
    "id", "model", "method", "arguments", "parent_id", "root_id", "depth", "key",
    "idempotency_key", "retry_of", "priority", "timeout", "retries", "source", "accepted",
    "redelivered",
)  # fmt: skip
_STATE_FIELDS = (
    "status", "attempts", "started", "finished", "crashes", "outcome", "result", "progress",
    "owed",
)  # fmt: skip
COLUMNS = (*_TASK_FIELDS, *_STATE_FIELDS)
#: Columns that hold JSON; the rest are plain values.
_JSON = {"arguments", "outcome", "result", "progress"}


def _extract(position: int, column: str) -> str:
    return f"value {'->' if column in _JSON else '->>'} {position}"


_WRITTEN = (*COLUMNS, "listed")
_INTO = f"INSERT INTO tasks ({', '.join(_WRITTEN)}) "
#: A subtask of an earlier boot may come back to where it was made.
_ALREADY = (
    f" ON CONFLICT (id) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in _STATE_FIELDS)}"
)
_INSERT = (
    f"{_INTO} SELECT {', '.join(_extract(i, c) for i, c in enumerate(_WRITTEN))} "
    f"FROM json_each(?) WHERE 1 {_ALREADY}"
)
#: SQLite reads a row's JSON once for each of its columns: a large row is written by itself.
_INSERT_ONE = f"{_INTO} VALUES ({', '.join('?' * len(_WRITTEN))}) {_ALREADY}"
_UPDATE_ONE = f"UPDATE tasks SET {', '.join(f'{c} = ?' for c in _STATE_FIELDS)} WHERE id = ?"
_DELETE = "DELETE FROM tasks WHERE id IN (SELECT value FROM json_each(?))"
_DELETE_LOGS = "DELETE FROM logs WHERE task_id IN (SELECT value FROM json_each(?))"
_UPDATE = (
    f"UPDATE tasks SET {', '.join(f'{c} = new.{c}' for c in _STATE_FIELDS)} FROM (SELECT "
    f"value ->> 0 AS id, "
    f"{', '.join(f'{_extract(i + 1, c)} AS {c}' for i, c in enumerate(_STATE_FIELDS))} "
    "FROM json_each(?)) AS new WHERE tasks.id = new.id"
)
_PAY = "UPDATE tasks SET owed = 0 WHERE id IN (SELECT value FROM json_each(?))"
_LOG = (
    "INSERT OR IGNORE INTO logs (task_id, n, attempt, time, level, stream, text) SELECT "
    f"{', '.join(f'value ->> {i}' for i in range(7))} FROM json_each(?)"
)
SELECT = f"SELECT seq, {', '.join(COLUMNS)} FROM tasks"
#: Bytes of arguments and result from which on a row is large.
LARGE = 4096

_NULL = msgspec.Raw(b"null")
encode = msgspec.json.Encoder().encode


class StateRow:
    """What of a task changes, as it will be written."""

    __slots__ = ("attempts", "crashes", "outcome", "owed", "progress", "started", "status")

    def __init__(self) -> None:
        self.status: Status = Status.QUEUED
        self.attempts = 0
        self.crashes = 0
        self.started: float | None = None
        self.outcome: Outcome | None = None
        self.progress: Progress | None = None
        #: A required sink has not taken the outcome yet.
        self.owed = False

    @property
    def size(self) -> int:
        """Bytes of its result."""
        return len(self.outcome.result_json) if self.outcome else 0

    def columns(self) -> list[Any]:
        outcome = self.outcome
        return [
            self.status,
            self.attempts,
            self.started,
            outcome.finished if outcome else None,
            self.crashes,
            _outcome_document(outcome) if outcome else None,
            msgspec.Raw(outcome.result_json) if outcome else _NULL,
            self.progress,
            self.owed,
        ]


@define
class Batch:
    """What one commit takes."""

    inserts: dict[str, tuple[Task, StateRow]]
    updates: dict[str, StateRow]
    deletes: set[str]
    paid: set[str]
    logs: list[tuple[Any, ...]]
    waiters: list[asyncio.Future[None]]

    def statements(self) -> list[tuple[str, list[Any]]]:
        """What it does: most statements take all of their rows from one JSON document."""
        statements: list[tuple[str, list[Any]]] = []
        if self.deletes:
            ids = encode(list(self.deletes))
            statements += [(_DELETE, [ids]), (_DELETE_LOGS, [ids])]
        statements += self._insertions()
        changed = []
        alone = len(self.updates) == 1
        for task_id, state in self.updates.items():
            if alone or state.size > LARGE:
                statements.append(
                    (_UPDATE_ONE, [*_values(_STATE_FIELDS, state.columns()), task_id])
                )
            else:
                changed.append([task_id, *state.columns()])
        if changed:
            statements.append((_UPDATE, [encode(changed)]))
        if self.paid:
            statements.append((_PAY, [encode(list(self.paid))]))
        if self.logs:
            statements.append((_LOG, [encode(self.logs)]))
        return statements

    def _insertions(self) -> list[tuple[str, list[Any]]]:
        """In the order in which the tasks came: their positions in the ledger tell it."""
        statements, rows = list[tuple[str, list[Any]]](), list[list[Any]]()
        alone = len(self.inserts) == 1
        for task, state in self.inserts.values():
            listed = task.parent_id is None or task.redelivered
            row = [*_task_columns(task), *state.columns(), listed]
            if not alone and len(task.arguments) + state.size <= LARGE:
                rows.append(row)
                continue
            if rows:
                statements.append((_INSERT, [encode(rows)]))
                rows = []
            statements.append((_INSERT_ONE, _values(_WRITTEN, row)))
        if rows:
            statements.append((_INSERT, [encode(rows)]))
        return statements


def _values(columns: Sequence[str], row: Sequence[Any]) -> list[Any]:
    """A row as a statement with a place for each column takes it; bytes are JSON."""
    return [encode(v) if c in _JSON else v for c, v in zip(columns, row, strict=True)]


def _task_columns(task: Task) -> list[Any]:
    return [
        task.id, task.model, task.method, msgspec.Raw(task.arguments), task.parent_id,
        task.root_id, task.depth, task.key, task.idempotency_key, task.retry_of, task.priority,
        task.timeout, task.retries, task.source, task.accepted, task.redelivered,
    ]  # fmt: skip


def _outcome_document(outcome: Outcome) -> dict[str, Any]:
    document: dict[str, Any] = {"reason": outcome.reason, "attempt": outcome.attempt}
    if outcome.started is not None:
        document["started"] = outcome.started
    if outcome.node is not None:
        document["node"] = outcome.node
    if not outcome.complete or not outcome.result_is_json:
        document |= {
            "message": outcome.message,
            "error": outcome.error,
            "traceback": outcome.traceback,
            "result_is_json": outcome.result_is_json,
            "failed_subtask": outcome.failed_subtask,
        }
    return document


def record(row: Sequence[Any]) -> Record:
    seq, *values = row
    column = dict(zip(COLUMNS, values, strict=True))
    task_values = {name: column[name] for name in _TASK_FIELDS}
    task_values["arguments"] = column["arguments"].encode()
    task_values["redelivered"] = bool(column["redelivered"])
    progress = column["progress"]
    return Record(
        task=Task(**task_values),
        status=Status(column["status"]),
        attempts=column["attempts"],
        started=column["started"],
        outcome=_outcome(column),
        progress=Progress(**msgspec.json.decode(progress)) if progress != "null" else Progress(),
        owed=bool(column["owed"]),
        seq=seq,
    )


def _outcome(column: dict[str, Any]) -> Outcome | None:
    if column["finished"] is None:
        return None
    document = msgspec.json.decode(column["outcome"])
    document["traceback"] = tuple(document.get("traceback", ()))
    document["reason"] = Reason(document["reason"])
    return Outcome(
        status=Status(column["status"]),
        finished=column["finished"],
        result_json=column["result"].encode(),
        **document,
    )
