"""The node's durable record of tasks, attempts, subtasks and log lines: SQLite, group commit.

Writes that come while a commit is under way form the next one: a batch costs two or three SQL
statements and one sync, however many tasks are in it. Reads have a connection of their own and see
only what was committed.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fossa.errors import LedgerError
from fossa.ledger_rows import COLUMNS, MIGRATIONS, SELECT, Batch, StateRow, encode, record
from fossa.one_thread import OneThread
from fossa.seen import Seen
from fossa.tasks import LogLine, Record, Task
from fossa.texts import encodable

#: Idempotency keys that are read at once when the ledger is opened.
KEYS_PAGE = 1000
#: Rows that one pass of retention deletes at the most, so that a pass stays short.
PRUNE_BATCH = 500


class Ledger:
    """One node's ledger. `path` None keeps it in memory, for as long as the node runs."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._write_thread = OneThread("fossa-ledger-write")
        # One in memory has one connection, which no two threads may use at once.
        self._read_thread = OneThread("fossa-ledger-read") if path else self._write_thread
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
        try:
            await self._write_thread.run(self._open_writer)
            await self._read_thread.run(self._open_reader)
        except BaseException:
            self._write_thread.close()
            self._read_thread.close()
            raise
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
        threads = {self._read_thread: self._reader, self._write_thread: self._writer}
        for thread, connection in threads.items():
            if connection:
                await thread.run(connection.close)
            thread.close()

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
            text = encodable(line.text.replace("\0", "\N{SYMBOL FOR NULL}"))
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
        delay = 0.05
        while not (self._closing and not self._has_work()):
            await self._wake.wait()
            self._wake.clear()
            if not self._has_work():
                continue
            batch = self._take()
            self._going = batch.deletes
            try:
                statements = batch.statements()
                await self._write_thread.run(partial(self._commit, statements))
            except Exception as error:
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

    def _take(self) -> Batch:
        taken = Batch(
            self._inserts, self._updates, self._deletes, self._paid, self._logs, self._waiters
        )
        self._inserts, self._updates, self._deletes, self._paid = {}, {}, set(), set()
        self._logs, self._waiters = [], []
        return taken

    def _put_back(self, batch: Batch) -> None:
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
            values = encode(list(asked)).decode()
            sql = f"{SELECT} WHERE {column} IN (SELECT value FROM json_each(?))"
            try:
                rows = await self._read(sql, (values,))
            except LedgerError as error:
                for future in asked.values():
                    future.set_exception(error)
                    future.exception()
                return
        position = 1 + COLUMNS.index(column)
        found = {row[position]: row for row in rows}
        for value, future in asked.items():
            future.set_result(record(found[value]) if value in found else None)

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
        sql = f"{SELECT} WHERE {' AND '.join(where)} ORDER BY seq DESC LIMIT ?"
        return [record(row) for row in await self._read(sql, (*values, limit))]

    async def unfinished(self) -> list[tuple[Record, int]]:
        """Every task without an outcome, oldest first, with its number of crashes."""
        sql = f"{SELECT} WHERE status IN ('queued', 'running') ORDER BY seq"
        rows = await self._read(sql, ())
        return [(record(row), row[1 + COLUMNS.index("crashes")]) for row in rows]

    async def owed(self, after: int, limit: int) -> list[Record]:
        """Tasks whose outcome a required sink has not taken, oldest first, past a `seq`.

        Without those that their source hands over again.
        """
        sql = f"{SELECT} WHERE owed AND seq > ? AND NOT redelivered ORDER BY seq LIMIT ?"
        return [record(row) for row in await self._read(sql, (after, limit))]

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
        return await self._write_thread.run(lambda: self._prune(keep, max_age))

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
        document = encode(ids).decode()
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
            return await self._read_thread.run(read)
        except (sqlite3.Error, RuntimeError) as error:
            raise LedgerError(f"the ledger at {self._where()} cannot be read: {error}") from error

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
