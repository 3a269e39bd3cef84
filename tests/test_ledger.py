"""The ledger: group commit, pages, retention, faults of the file below it."""

import asyncio
import sqlite3
import time

import pytest
from attrs import evolve
from msgspec.json import encode

from fossa.errors import LedgerError
from fossa.ledger import KEYS_PAGE, Ledger
from fossa.ledger_rows import LARGE, MIGRATIONS, StateRow
from fossa.seen import Seen
from fossa.tasks import LogLine, Outcome, Reason, Status, Task, new_id


@pytest.fixture(params=["file", "memory"])
async def ledger(request, tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite" if request.param == "file" else None)
    await ledger.open()
    yield ledger
    await ledger.close()


def state(status=Status.QUEUED, result=b"null", finished=None):
    row = StateRow()
    row.status = status
    if status.final:
        row.attempts, row.started = 1, time.time()
        row.outcome = Outcome(
            status=status,
            reason=Reason.RETURNED if status is Status.COMPLETE else Reason.EXCEPTION,
            message="" if status is Status.COMPLETE else "oh",
            result_json=result,
            finished=finished or time.time(),
            attempt=1,
        )
    return row


def task(**values):
    return Task(id=new_id(), model="M", accepted=time.time(), **values)


async def put(ledger, *tasks, **kwargs):
    for each in tasks:
        ledger.insert(each, state(**kwargs))
    await ledger.committed()


async def test_a_text_that_utf_8_cannot_carry_is_kept_with_an_escape(ledger):
    given = task()
    await put(ledger, given)
    line = LogLine(time=1.0, level="INFO", stream="model", text="odd \udc80\0", attempt=1)
    ledger.log(given.id, 1, [line])
    async with asyncio.timeout(10):
        await ledger.committed()
    assert [kept.text for _, kept in await ledger.logs(given.id, 0, 10)] == ["odd \\udc80\u2400"]


async def test_a_row_that_cannot_be_written_is_a_trouble_that_is_told(ledger):
    given = task()
    ledger.insert(given, state(Status.FAILED))
    odd = state(Status.FAILED)
    odd.outcome = evolve(odd.outcome, message="odd \udc80")
    ledger.insert(given, odd)
    async with asyncio.timeout(10):
        while ledger.trouble is None:
            await asyncio.sleep(0.01)
    assert "UnicodeEncodeError" in ledger.trouble
    ledger.insert(given, state())
    async with asyncio.timeout(10):
        await ledger.committed()
    assert ledger.trouble is None


async def test_what_is_committed_can_be_read(ledger):
    given = task(
        arguments=b'{"method_kwargs":{"a":[1,null,"\xc3\xa9","\\u0000"]}}',
        idempotency_key="k",
        timeout=1.5,
        priority=-3,
        retries=2,
    )
    await put(ledger, given, status=Status.COMPLETE, result=b'["a", {"b": 1e300}]')
    record = await ledger.get(given.id)
    assert record.task == given
    assert record.outcome.result == ["a", {"b": 1e300}]
    assert (await ledger.by_idempotency_key("k")).task.id == given.id
    assert await ledger.get("nothing") is None


async def test_a_task_that_comes_once_more_is_the_same_row(ledger):
    given, other = task(), task()
    await put(ledger, given, status=Status.CANCELLED)
    await put(ledger, given, other, status=Status.COMPLETE, result=b"7")
    assert ledger.trouble is None
    assert (await ledger.get(given.id)).outcome.result == 7
    assert [r.task.id for r in await ledger.page()] == [other.id, given.id]


@pytest.mark.parametrize("size", [10, LARGE, 300_000])
async def test_rows_of_every_size(ledger, size):
    text = "\u00e9" * size
    one = task(arguments=encode({"method_kwargs": {"a": text}}), idempotency_key="k")
    two = task(timeout=2.5, redelivered=True)
    rows = {one: state(), two: state()}
    for given, row in rows.items():
        ledger.insert(given, row)
    await ledger.committed()
    assert (await ledger.get(one.id)).task == one
    ended = state(Status.COMPLETE, result=encode({"b": [text, None, 1.5]}))
    for given in rows:
        ledger.update(given.id, ended)
    await ledger.committed()
    for record in await ledger.page():
        assert record.task in rows
        assert (record.status, record.attempts) == (Status.COMPLETE, 1)
        assert record.outcome == ended.outcome
    found = await ledger.by_idempotency_key("k")
    assert found.outcome.result == {"b": [text, None, 1.5]}


async def test_results_of_every_json_type(ledger):
    for result in (b"null", b'"text"', b"12345678901234567890123", b"true", b"[]", b'"\\u0000"'):
        given = task()
        await put(ledger, given, status=Status.COMPLETE, result=result)
        assert (await ledger.get(given.id)).outcome.result_json == result


async def test_writes_of_one_moment_are_one_commit(ledger):
    commits = 0
    commit = ledger._commit

    def counted(documents):
        nonlocal commits
        commits += 1
        commit(documents)

    ledger._commit = counted
    await asyncio.gather(*(put(ledger, task()) for _ in range(500)))
    assert commits <= 3
    assert len(await ledger.page(limit=1000)) == 500


async def test_a_change_before_its_insert_is_committed_is_part_of_it(ledger):
    given, row = task(), state()
    ledger.insert(given, row)
    row.status = Status.RUNNING
    ledger.update(given.id, row)
    await ledger.committed()
    assert (await ledger.get(given.id)).status is Status.RUNNING
    row.attempts = 7
    ledger.update(given.id, row)
    await ledger.committed()
    assert (await ledger.get(given.id)).attempts == 7


async def test_pages(ledger):
    tasks = [task() for _ in range(25)]
    await put(ledger, *tasks)
    await put(ledger, task(parent_id=tasks[0].id, key="k"), status=Status.FAILED)
    seen, before = [], None
    while page := await ledger.page(before=before, limit=10):
        seen += [r.task.id for r in page]
        before = page[-1].seq
    assert seen == [t.id for t in reversed(tasks)]
    assert len(await ledger.page(parent_id=tasks[0].id)) == 1
    assert len(await ledger.page(parent_id=tasks[0].id, status="complete")) == 0
    assert len(await ledger.page(status="queued", model="M", limit=100)) == 25
    assert await ledger.page(model="N") == []


async def test_large_tasks_keep_their_place_among_small_ones(ledger):
    large = encode({"method_kwargs": {"a": "x" * LARGE}})
    tasks = [task(arguments=large if i % 3 == 1 else b"{}") for i in range(10)]
    await put(ledger, *tasks)
    assert [r.task.id for r in reversed(await ledger.page())] == [t.id for t in tasks]


async def test_a_key_is_found_on_its_way_into_the_ledger(ledger):
    await ledger._remembering
    given = task(idempotency_key="k")
    ledger.insert(given, state())
    assert (await ledger.by_idempotency_key("k")).task.id == given.id


async def test_a_key_that_is_new_is_not_looked_for(ledger, monkeypatch):
    await put(ledger, task(idempotency_key="k"))
    await ledger._remembering
    looked = []
    monkeypatch.setattr(ledger, "_look_up", lambda column, value: looked.append(value))
    assert await ledger.by_idempotency_key("another") is None
    assert looked == []


@pytest.mark.parametrize("count", [0, 1, KEYS_PAGE, KEYS_PAGE + 1])
async def test_keys_of_earlier_boots_are_found(tmp_path, count, monkeypatch):
    earlier = Ledger(tmp_path / "ledger.sqlite")
    await earlier.open()
    await put(earlier, task(), *(task(idempotency_key=f"k-{i}") for i in range(count)))
    await earlier.close()

    later = Ledger(tmp_path / "ledger.sqlite")
    reading, read = asyncio.Event(), later._read

    async def slowly(sql, values):
        if "LIMIT" in sql:
            await reading.wait()
        return await read(sql, values)

    monkeypatch.setattr(later, "_read", slowly)
    await later.open()
    # Before they are known, and afterwards.
    assert await later.by_idempotency_key("new") is None
    for i in (0, count - 1) if count else ():
        assert (await later.by_idempotency_key(f"k-{i}")).task.idempotency_key == f"k-{i}"
    reading.set()
    await later._remembering
    assert await later.by_idempotency_key("new") is None
    for i in (0, count - 1) if count else ():
        assert (await later.by_idempotency_key(f"k-{i}")).task.idempotency_key == f"k-{i}"
    await later.close()


async def test_it_closes_while_it_reads_the_keys(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    monkeypatch.setattr(ledger, "_read", lambda sql, values: asyncio.sleep(60))
    await ledger.open()
    async with asyncio.timeout(5):
        await ledger.close()


def test_the_filter_of_keys_forgets_none_and_takes_few_for_known():
    seen = Seen()
    for i in range(20_000):
        seen.add(f"key-{i}")
    assert all(f"key-{i}" in seen for i in range(20_000))
    assert sum(f"another-{i}" in seen for i in range(20_000)) < 100


@pytest.mark.parametrize(
    "query", [{}, {"status": "complete"}, {"model": "M"}, {"parent_id": "x"}, {"before": 9}]
)
async def test_a_page_is_found_by_an_index(tmp_path, query):
    """The cost of a page does not depend on how many tasks there are."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    await ledger.open()
    await ledger._remembering
    asked = []
    read = ledger._read

    async def spy(sql, values):
        asked.append((sql, values))
        return await read(sql, values)

    ledger._read = spy
    await ledger.page(**query)
    ((sql, values),) = asked
    connection = sqlite3.connect(tmp_path / "ledger.sqlite")
    plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values))
    connection.close()
    await ledger.close()
    assert "USING INDEX" in plan
    assert "TEMP B-TREE" not in plan


async def test_logs(ledger):
    given = task()
    lines = [
        LogLine(time=float(i), level="INFO", stream="model", text=f"line {i}\0") for i in range(5)
    ]
    ledger.log(given.id, 1, lines[:3])
    ledger.log(given.id, 4, lines[3:])
    await ledger.committed()
    assert [line.text for _, line in await ledger.logs(given.id, 2, 2)] == ["line 2␀", "line 3␀"]
    assert await ledger.last_log_position(given.id) == 5
    assert await ledger.last_log_position("nothing") == 0


async def test_retention_by_age_and_by_count(ledger):
    old = [task() for _ in range(5)]
    await put(ledger, *old, status=Status.COMPLETE, finished=time.time() - 100)
    ledger.log(old[0].id, 1, [LogLine(time=1.0, level="INFO", stream="model", text="x")])
    kept = [task() for _ in range(5)]
    await put(ledger, *kept, status=Status.COMPLETE)
    running = task()
    await put(ledger, running, status=Status.RUNNING)
    orphan = task(parent_id=running.id, root_id=running.id, key="k")
    await put(ledger, orphan, status=Status.COMPLETE, finished=time.time() - 100)
    assert await ledger.prune(None, 50) == 5
    assert await ledger.logs(old[0].id, 0, 10) == []
    assert await ledger.get(orphan.id) is not None, "its root still runs"
    assert await ledger.prune(2, None) == 5
    assert await ledger.get(running.id) is not None
    assert await ledger.prune(None, None) == 0


async def test_a_commit_that_fails_is_tried_again_and_told_meanwhile(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    await ledger.open()
    commit, failures = ledger._commit, [sqlite3.OperationalError("disk I/O error")] * 2

    def failing(documents):
        if failures:
            raise failures.pop()
        commit(documents)

    ledger._commit = failing
    given = task()
    waiting = asyncio.create_task(put(ledger, given))
    async with asyncio.timeout(5):
        while ledger.trouble is None:
            await asyncio.sleep(0.001)
        await waiting
    assert ledger.trouble is None
    assert await ledger.get(given.id) is not None
    await ledger.close()


async def test_a_ledger_that_cannot_be_written_at_its_end_says_so(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    await ledger.open()

    def failing(documents):
        raise sqlite3.OperationalError("disk is full")

    ledger._commit = failing
    waiting = asyncio.create_task(put(ledger, task()))
    await asyncio.sleep(0)
    await ledger.close()
    with pytest.raises(LedgerError, match="disk is full"):
        await waiting


async def test_every_schema_version_can_be_taken_up(tmp_path):
    for version in range(len(MIGRATIONS) + 1):
        path = tmp_path / f"{version}.sqlite"
        connection = sqlite3.connect(path)
        for number, script in enumerate(MIGRATIONS[:version], 1):
            connection.executescript(f"{script}; PRAGMA user_version = {number};")
        connection.close()
        ledger = Ledger(path)
        await ledger.open()
        await put(ledger, task())
        assert len(await ledger.page()) == 1
        await ledger.close()


class Told:
    """A connection that tells what happens to it, and when."""

    def __init__(self, connection):
        self.connection, self.told = connection, []

    def execute(self, *statement):
        time.sleep(0.3)
        self.told.append("read")
        return self.connection.execute(*statement)

    def close(self):
        self.told.append("closed")
        self.connection.close()


async def test_one_in_memory_is_closed_after_a_read_that_nobody_waits_for_any_more():
    """Where SQLite's connection goes while another thread reads with it, the process may go too."""
    ledger = Ledger(None)
    await ledger.open()
    ledger._reader = ledger._writer = connection = Told(ledger._writer)
    reading = asyncio.create_task(ledger._read("SELECT 1", ()))
    await asyncio.sleep(0.1)
    reading.cancel()
    await ledger.close()
    assert connection.told[:2] == ["read", "closed"]
