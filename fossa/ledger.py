"""The node's durable record of tasks, attempts, subtasks and log lines: SQLite, group commit.

Writes that come while a commit is under way form the next one: a batch costs two or three SQL
statements and one sync, however many tasks are in it. A batch reaches SQLite as one JSON document
(`json_each`), because each statement that a thread steps through gives up the interpreter's lock,
and getting it back from a busy event loop takes milliseconds. Reads have a connection of their own
and see only what was committed.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from attrs import define

from fossa.errors import LedgerError
from fossa.seen import Seen
from fossa.tasks import LogLine, Outcome, Progress, Reason, Record, Status, Task

T = TypeVar("T")

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
_COLUMNS = (*_TASK_FIELDS, *_STATE_FIELDS)
#: Columns that hold JSON; the rest are plain values.
_JSON = {"arguments", "outcome", "result", "progress"}


def _extract(position: int, column: str) -> str:
    return f"value {'->' if column in _JSON else '->>'} {position}"


_WRITTEN = (*_COLUMNS, "listed")
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
_SELECT = f"SELECT seq, {', '.join(_COLUMNS)} FROM tasks"
#: Bytes of arguments and result from which on a row is large.
LARGE = 4096
#: Rows that one commit may take at the most: what comes later waits for the next.
MAX_BATCH = 2000
#: Idempotency keys that are read at once when the ledger is opened.
KEYS_PAGE = 1000
#: Rows that one pass of retention deletes at the most, so that a pass stays short.
PRUNE_BATCH = 500

_NULL = msgspec.Raw(b"null")
_encode = msgspec.json.Encoder().encode


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
class _Batch:
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
            ids = _encode(list(self.deletes))
            statements += [(_DELETE, [ids]), (_DELETE_LOGS, [ids])]
        statements += self._insertions()
        changed = []
        for task_id, state in self.updates.items():
            if state.size > LARGE:
                statements.append(
                    (_UPDATE_ONE, [*_values(_STATE_FIELDS, state.columns()), task_id])
                )
            else:
                changed.append([task_id, *state.columns()])
        if changed:
            statements.append((_UPDATE, [_encode(changed)]))
        if self.paid:
            statements.append((_PAY, [_encode(list(self.paid))]))
        if self.logs:
            statements.append((_LOG, [_encode(self.logs)]))
        return statements

    def _insertions(self) -> list[tuple[str, list[Any]]]:
        """In the order in which the tasks came: their positions in the ledger tell it."""
        statements, rows = list[tuple[str, list[Any]]](), list[list[Any]]()
        for task, state in self.inserts.values():
            listed = task.parent_id is None or task.redelivered
            row = [*_task_columns(task), *state.columns(), listed]
            if len(task.arguments) + state.size <= LARGE:
                rows.append(row)
                continue
            if rows:
                statements.append((_INSERT, [_encode(rows)]))
                rows = []
            statements.append((_INSERT_ONE, _values(_WRITTEN, row)))
        if rows:
            statements.append((_INSERT, [_encode(rows)]))
        return statements


class Ledger:
    """One node's ledger. `path` None keeps it in memory, for as long as the node runs."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="fossa-ledger-write")
        # One in memory has one connection, which no two threads may use at once.
        self._read_thread = (
            ThreadPoolExecutor(1, thread_name_prefix="fossa-ledger-read")
            if path
            else self._write_thread
        )
        self._inserts: dict[str, tuple[Task, StateRow]] = {}
        self._updates: dict[str, StateRow] = {}
        self._deletes: set[str] = set()
        #: What the commit under way deletes.
        self._going: set[str] = set()
        self._paid: set[str] = set()
        self._logs: list[tuple[Any, ...]] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._committer: asyncio.Task[None] | None = None
        self._closing = False
        #: By column and value: who waits for a record.
        self._asked: dict[str, dict[str, asyncio.Future[Record | None]]] = {}
        self._reading: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()
        #: Idempotency keys that there may be, and whether those of earlier boots are among them.
        self._seen, self._all_seen = Seen(), False
        self._remembering: asyncio.Task[None] | None = None
        #: Why the last commit failed; None where it did not.
        self.trouble: str | None = None

    async def open(self) -> None:
        """Open, or make, the ledger and bring its schema up to date."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._write_thread, self._open_writer)
        await loop.run_in_executor(self._read_thread, self._open_reader)
        self._committer = asyncio.create_task(self._commit_for_ever(), name="fossa-ledger")
        self._remembering = asyncio.create_task(self._remember_keys(), name="fossa-ledger-keys")

    async def close(self) -> None:
        """Commit what is left, then let go of the file."""
        self._closing = True
        self._wake.set()
        if self._remembering:
            self._remembering.cancel()
            await asyncio.wait([self._remembering])
        if self._committer:
            await self._committer
        loop = asyncio.get_running_loop()
        threads = {self._read_thread: self._reader, self._write_thread: self._writer}
        for thread, connection in threads.items():
            if connection:
                await loop.run_in_executor(thread, connection.close)
            thread.shutdown(wait=True)

    # writing

    def insert(self, task: Task, state: StateRow) -> None:
        """Record a new task with the next commit."""
        self._inserts[task.id] = (task, state)
        if task.idempotency_key is not None:
            self._seen.add(task.idempotency_key)
        self._wake.set()

    def update(self, task_id: str, state: StateRow) -> None:
        """Record the state that a task has by the time of the next commit."""
        if task_id not in self._inserts:
            self._updates[task_id] = state
            self._wake.set()

    def paid(self, task_id: str) -> None:
        """Every required sink has the outcome of a task, from the next commit on."""
        self._paid.add(task_id)
        self._wake.set()

    def forget(self, task_id: str) -> None:
        """Have no record of a task any more, from the next commit on."""
        self._inserts.pop(task_id, None)
        self._updates.pop(task_id, None)
        self._deletes.add(task_id)
        self._wake.set()

    def log(self, task_id: str, first: int, lines: Sequence[LogLine]) -> None:
        """Record lines of a task; `first` is the position of the first of them, from 1."""
        for n, line in enumerate(lines, first):
            # SQLite takes a NUL for the end of a text.
            text = line.text.replace("\0", "\N{SYMBOL FOR NULL}")
            row = (task_id, n, line.attempt, line.time, line.level, line.stream, text)
            self._logs.append(row)
        self._wake.set()

    def committed(self) -> asyncio.Future[None]:
        """A future that is done once everything recorded up to now is durable."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._closing and (self._committer is None or self._committer.done()):
            future.set_exception(LedgerError("the ledger is closed"))
            return future
        self._waiters.append(future)
        self._wake.set()
        return future

    async def _commit_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        delay = 0.05
        while not (self._closing and not self._has_work()):
            await self._wake.wait()
            self._wake.clear()
            if not self._has_work():
                continue
            batch = self._take()
            statements = batch.statements()
            self._going = batch.deletes
            try:
                await loop.run_in_executor(self._write_thread, self._commit, statements)
            except sqlite3.Error as error:
                self.trouble = f"{type(error).__name__}: {error}"
                self._put_back(batch)
                if self._closing:
                    self._fail_waiters(error)
                    return
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
                self._wake.set()
                continue
            self.trouble, delay, self._going = None, 0.05, set()
            for waiter in batch.waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _has_work(self) -> bool:
        written = (self._inserts, self._updates, self._deletes, self._paid, self._logs)
        return any(written) or bool(self._waiters)

    def _take(self) -> "_Batch":
        taken = _Batch(
            self._inserts, self._updates, self._deletes, self._paid, self._logs, self._waiters
        )
        self._inserts, self._updates, self._deletes, self._paid = {}, {}, set(), set()
        self._logs, self._waiters = [], []
        return taken

    def _put_back(self, batch: "_Batch") -> None:
        """A commit failed: its rows come before those that came since."""
        gone = self._deletes - self._inserts.keys()
        inserts = {k: v for k, v in batch.inserts.items() if k not in gone}
        updates = {k: v for k, v in batch.updates.items() if k not in gone}
        self._deletes |= batch.deletes
        self._paid |= batch.paid
        self._inserts = inserts | self._inserts
        later = {k: v for k, v in self._updates.items() if k not in self._inserts}
        self._updates = updates | later
        self._logs = batch.logs + self._logs
        self._waiters = batch.waiters + self._waiters

    def _fail_waiters(self, error: Exception) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(LedgerError(f"the ledger could not be written: {error}"))
        self._waiters = []

    def _commit(self, statements: Sequence[tuple[str, list[Any]]]) -> None:
        """In the writing thread: one transaction."""
        writer = self._writer
        assert writer is not None
        writer.execute("BEGIN IMMEDIATE")
        try:
            for statement, values in statements:
                writer.execute(statement, [v.decode() if type(v) is bytes else v for v in values])
            writer.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                writer.execute("ROLLBACK")
            raise

    # reading

    async def get(self, task_id: str) -> Record | None:
        """The record of one task; none once it is forgotten."""
        if task_id in self._deletes or task_id in self._going:
            await self.committed()
        return await self._look_up("id", task_id)

    def is_new(self, key: str) -> bool:
        """Whether surely no task was submitted with this key."""
        return self._all_seen and key not in self._seen

    async def by_idempotency_key(self, key: str) -> Record | None:
        """The record of the task that was submitted with this key."""
        if self.is_new(key):
            return None
        await self.committed()  # it may be on its way
        return await self._look_up("idempotency_key", key)

    async def _remember_keys(self) -> None:
        """Learn which keys earlier boots have left. Until that is done each one is looked up."""
        sql = (
            "SELECT idempotency_key FROM tasks WHERE idempotency_key > ? "
            "ORDER BY idempotency_key LIMIT ?"
        )
        keys = [("",)]
        while keys:
            try:
                keys = await self._read(sql, (keys[-1][0], KEYS_PAGE))
            except LedgerError:
                return
            for (key,) in keys:
                self._seen.add(key)
        self._all_seen = True

    async def crashes(self, task_id: str) -> int:
        """How often the process or the node died under a task."""
        rows = await self._read("SELECT crashes FROM tasks WHERE id = ?", (task_id,))
        return rows[0][0] if rows else 0

    async def _look_up(self, column: str, value: str) -> Record | None:
        """One record by a unique column. What is asked for while a read is under way shares one."""
        asked = self._asked.setdefault(column, {})
        if value not in asked:
            asked[value] = asyncio.get_running_loop().create_future()
            if len(asked) == 1:
                reading = asyncio.create_task(self._answer(column))
                self._reading.add(reading)
                reading.add_done_callback(self._reading.discard)
        return await asyncio.shield(asked[value])

    async def _answer(self, column: str) -> None:
        """Answer everybody who asks until the read begins."""
        async with self._lock:
            asked = self._asked.pop(column)
            values = _encode(list(asked)).decode()
            sql = f"{_SELECT} WHERE {column} IN (SELECT value FROM json_each(?))"
            try:
                rows = await self._read(sql, (values,))
            except LedgerError as error:
                for future in asked.values():
                    future.set_exception(error)
                    future.exception()
                return
        position = 1 + _COLUMNS.index(column)
        found = {row[position]: row for row in rows}
        for value, future in asked.items():
            future.set_result(_record(found[value]) if value in found else None)

    async def page(
        self,
        *,
        parent_id: str | None = None,
        status: str | None = None,
        model: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> list[Record]:
        """Records, newest first: what this node was given, or the subtasks of `parent_id`.

        `before` is the `seq` of the last record of the page before. The cost does not depend on
        how many tasks there are.
        """
        where, values = ["listed"], list[Any]()
        if parent_id is not None:
            where, values = ["parent_id = ?"], [parent_id]
        for column, value in (("status", status), ("model", model)):
            if value is not None:
                where.append(f"{column} = ?")
                values.append(value)
        if before is not None:
            where.append("seq < ?")
            values.append(before)
        sql = f"{_SELECT} WHERE {' AND '.join(where)} ORDER BY seq DESC LIMIT ?"
        return [_record(row) for row in await self._read(sql, (*values, limit))]

    async def unfinished(self) -> list[tuple[Record, int]]:
        """Every task without an outcome, oldest first, with its number of crashes."""
        sql = f"{_SELECT} WHERE status IN ('queued', 'running') ORDER BY seq"
        rows = await self._read(sql, ())
        return [(_record(row), row[1 + _COLUMNS.index("crashes")]) for row in rows]

    async def owed(self, after: int, limit: int) -> list[Record]:
        """Tasks whose outcome a required sink has not taken, oldest first, past a `seq`.

        Without those that their source hands over again.
        """
        sql = f"{_SELECT} WHERE owed AND seq > ? AND NOT redelivered ORDER BY seq LIMIT ?"
        return [_record(row) for row in await self._read(sql, (after, limit))]

    async def complete_subtasks(self, parent_ids: Iterable[str]) -> dict[str, list[str]]:
        """Ids of the subtasks of these parents that are complete, by their key."""
        ids = tuple(parent_ids)
        marks = ", ".join("?" * len(ids))
        sql = f"SELECT key, id FROM tasks WHERE parent_id IN ({marks}) AND status = 'complete'"
        found: dict[str, list[str]] = {}
        for key, task_id in await self._read(sql, ids):
            found.setdefault(key, []).append(task_id)
        return found

    async def logs(self, task_id: str, after: int, limit: int) -> list[tuple[int, LogLine]]:
        """Lines of a task past a position, oldest first, with their positions."""
        sql = (
            "SELECT n, attempt, time, level, stream, text FROM logs "
            "WHERE task_id = ? AND n > ? ORDER BY n LIMIT ?"
        )
        return [
            (n, LogLine(attempt=attempt, time=when, level=level, stream=stream, text=text))
            for n, attempt, when, level, stream, text in await self._read(
                sql, (task_id, after, limit)
            )
        ]

    async def last_log_position(self, task_id: str) -> int:
        """Position of a task's newest line; 0 where it has none."""
        rows = await self._read("SELECT max(n) FROM logs WHERE task_id = ?", (task_id,))
        return rows[0][0] or 0

    async def prune(self, keep: int | None, max_age: float | None) -> int:
        """Forget the oldest ended tasks beyond a count or an age in seconds; how many went.

        A subtask goes no earlier than its parent ended: what a parent may still ask for stays.
        """
        return await self._in_writer(lambda: self._prune(keep, max_age))

    def _prune(self, keep: int | None, max_age: float | None) -> int:
        writer = self._writer
        assert writer is not None
        bounds, values = [], list[Any]()
        if max_age is not None:
            bounds.append("finished < ?")
            values.append(time.time() - max_age)
        if keep is not None:
            bounds.append("seq <= (SELECT max(seq) FROM tasks) - ?")
            values.append(keep)
        if not bounds:
            return 0
        doomed = (
            "SELECT id FROM tasks AS t WHERE finished IS NOT NULL AND NOT owed AND "
            f"({' OR '.join(bounds)}) AND NOT EXISTS (SELECT 1 FROM tasks AS r WHERE "
            "r.id = t.root_id AND r.finished IS NULL) ORDER BY finished LIMIT ?"
        )
        ids = [row[0] for row in writer.execute(doomed, (*values, PRUNE_BATCH))]
        document = _encode(ids).decode()
        writer.execute("BEGIN IMMEDIATE")
        for table, column in (("logs", "task_id"), ("tasks", "id")):
            sql = f"DELETE FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))"
            writer.execute(sql, (document,))
        writer.execute("COMMIT")
        return len(ids)

    async def _read(self, sql: str, values: Sequence[Any]) -> list[Any]:
        def read() -> list[Any]:
            assert self._reader is not None
            return self._reader.execute(sql, values).fetchall()

        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._read_thread, read)
        except (sqlite3.Error, RuntimeError) as error:
            raise LedgerError(f"the ledger at {self._where()} cannot be read: {error}") from error

    async def _in_writer(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._write_thread, work)

    # opening

    def _where(self) -> str:
        return str(self._path) if self._path else "memory"

    def _connect(self) -> sqlite3.Connection:
        name = str(self._path) if self._path else ":memory:"
        return sqlite3.connect(name, isolation_level=None, check_same_thread=False, timeout=10)

    def _open_writer(self) -> None:
        if sqlite3.sqlite_version_info < (3, 38):
            raise LedgerError(
                f"SQLite {sqlite3.sqlite_version} is too old: the ledger needs 3.38 or newer"
            )
        try:
            self._writer = self._connect()
            self._writer.execute("PRAGMA journal_mode = WAL")
            self._writer.execute("PRAGMA synchronous = FULL")
            self._migrate(self._writer)
        except (sqlite3.Error, LedgerError) as error:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            if isinstance(error, LedgerError):
                raise
            raise LedgerError(
                f"the ledger at {self._where()} cannot be opened: {error}. Move the file away to "
                "begin a new one, or name another STATE_DIR"
            ) from error

    def _open_reader(self) -> None:
        self._reader = self._connect() if self._path else self._writer

    def _migrate(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise LedgerError(
                f"the ledger at {self._where()} has schema version {version} and this Fossa knows "
                f"up to {len(MIGRATIONS)}: a newer Fossa wrote it; upgrade, or name another "
                "STATE_DIR"
            )
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            connection.executescript(f"BEGIN; {script}; PRAGMA user_version = {number}; COMMIT;")


def _values(columns: Sequence[str], row: Sequence[Any]) -> list[Any]:
    """A row as a statement with a place for each column takes it; bytes are JSON."""
    return [_encode(v) if c in _JSON else v for c, v in zip(columns, row, strict=True)]


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


def _record(row: Sequence[Any]) -> Record:
    seq, *values = row
    column = dict(zip(_COLUMNS, values, strict=True))
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
