"""What a ledger must hold."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fossa.errors import LedgerError
from fossa.ledger import Ledger
from fossa.ledger_rows import StateRow
from fossa.tasks import LogLine, Outcome, Progress, Reason, Status, Task, new_id


class LedgerContract:
    """Subclass it, say whether it is durable, and override `make`."""

    #: Whether a ledger that is made again has what the one before it had.
    durable: ClassVar[bool]
    #: Seconds that a test may take.
    deadline: ClassVar[float] = 60.0

    tmp_path: Path

    def make(self) -> Ledger:
        """A new ledger, not opened: on the same `self.tmp_path`, the same one."""
        raise NotImplementedError(f"{type(self).__name__} should override make()")

    @pytest.fixture(autouse=True)
    def _setting(self, no_leaks: None, tmp_path: Path) -> None:
        self.tmp_path = tmp_path

    # tools

    def within(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run(asyncio.wait_for(work, self.deadline))

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Ledger]:
        ledger = self.make()
        try:
            await ledger.open()
            yield ledger
        finally:
            await ledger.close()

    def task(self, **values: Any) -> Task:
        return Task(id=new_id(), **{"model": "Answers", "accepted": time.time(), **values})

    def subtask(self, parent: Task, key: str) -> Task:
        return self.task(parent_id=parent.id, root_id=parent.root_id, depth=1, key=key)

    def ended(
        self, status: Status = Status.COMPLETE, reason: Reason = Reason.RETURNED, **values: Any
    ) -> StateRow:
        row = StateRow()
        row.status, row.attempts, row.started = status, 1, time.time() - 1
        row.outcome = Outcome(
            status=status, reason=reason, **{"attempt": 1, "finished": time.time(), **values}
        )
        return row

    async def keep(self, ledger: Ledger, *tasks: Task, row: StateRow | None = None) -> None:
        """Record new tasks, in this order, and wait until that is durable."""
        for task in tasks:
            ledger.insert(task, row or StateRow())
        await ledger.committed()

    # tasks

    def test_what_is_recorded_is_found_as_it_was(self) -> None:
        task = self.task(
            method="echo",
            arguments='{"method_kwargs":{"text":"“ñ” \N{SNOWMAN}"}}'.encode(),
            idempotency_key="key-1",
            retry_of=new_id(),
            priority=-3,
            timeout=1.5,
            retries=4,
            source="somewhere",
        )

        async def found() -> None:
            async with self.opened() as ledger:
                await self.keep(ledger, task)
                record = await ledger.get(task.id)
                assert record is not None
                assert record.task == task
                assert (record.status, record.attempts, record.outcome) == (Status.QUEUED, 0, None)
                assert await ledger.get(new_id()) is None

        self.within(found())

    @pytest.mark.parametrize(
        "outcome",
        [
            {"result_json": b'{"a":[1,null]}'},
            {"result_json": b'{"repr":"<x>"}', "result_is_json": False, "message": "described"},
            {"status": Status.FAILED, "reason": Reason.EXCEPTION, "error": "ValueError",
             "message": "nul \x00 “ñ”\n", "traceback": ("one", "two")},
            {"status": Status.FAILED, "reason": Reason.SUBTASK_FAILED, "failed_subtask": "id-1"},
            {"status": Status.CANCELLED, "reason": Reason.CANCELLED, "attempt": 0},
            {"node": "elsewhere"},
            {"node": ""},
        ],
        ids=["result", "described", "failed", "subtask", "cancelled", "elsewhere", "somewhere"],
    )  # fmt: skip
    def test_an_outcome_is_found_as_it_was(self, outcome: dict[str, Any]) -> None:
        row = self.ended(**outcome)
        row.progress = Progress(fraction=0.5, message="half-way", subtasks=2, subtasks_done=1)

        async def found() -> None:
            task = self.task()
            async with self.opened() as ledger:
                await self.keep(ledger, task)
                ledger.update(task.id, row)
                await ledger.committed()
                record = await ledger.get(task.id)
                assert record is not None
                assert record.outcome == row.outcome
                assert (record.status, record.attempts) == (row.status, 1)
                assert record.started == row.started
                assert record.progress == row.progress

        self.within(found())

    def test_an_idempotency_key_finds_its_task(self) -> None:
        async def found() -> None:
            task = self.task(idempotency_key="key-1")
            async with self.opened() as ledger:
                await self.keep(ledger, task, self.task(), self.task())
                record = await ledger.by_idempotency_key("key-1")
                assert record is not None
                assert record.task.id == task.id
                assert await ledger.by_idempotency_key("key-2") is None

        self.within(found())

    def test_many_writers_at_once_are_all_heard(self) -> None:
        async def heard() -> None:
            async with self.opened() as ledger:
                tasks = [self.task() for _ in range(500)]
                await asyncio.gather(*(self.keep(ledger, task) for task in tasks))
                page = await ledger.page(limit=1000)
                assert {record.task.id for record in page} == {task.id for task in tasks}

        self.within(heard())

    # pages

    def test_pages_are_the_newest_first_and_follow_each_other(self) -> None:
        async def pages() -> None:
            async with self.opened() as ledger:
                tasks = [self.task() for _ in range(7)]
                await self.keep(ledger, *tasks)
                seen: list[str] = []
                before: int | None = None
                while page := await ledger.page(limit=3, before=before):
                    seen += [record.task.id for record in page]
                    before = page[-1].seq
                assert seen == [task.id for task in reversed(tasks)]

        self.within(pages())

    def test_pages_are_filtered(self) -> None:
        async def filtered() -> None:
            async with self.opened() as ledger:
                parent, other = self.task(), self.task(model="Other")
                child = self.subtask(parent, "a")
                await self.keep(ledger, parent, other, child)
                ledger.update(parent.id, self.ended())
                await ledger.committed()
                for query, wanted in (
                    ({}, [other, parent]),
                    ({"parent_id": parent.id}, [child]),
                    ({"model": "Other"}, [other]),
                    ({"status": "complete"}, [parent]),
                    ({"status": "complete", "model": "Other"}, []),
                    ({"parent_id": parent.id, "status": "failed"}, []),
                ):
                    page = await ledger.page(**query)  # type: ignore[arg-type]
                    assert [record.task for record in page] == wanted, query

        self.within(filtered())

    # what a boot asks

    def test_tasks_without_an_outcome_are_found_the_oldest_first(self) -> None:
        async def unfinished() -> None:
            async with self.opened() as ledger:
                first, done, second = self.task(), self.task(), self.task()
                await self.keep(ledger, first, done, second)
                running = StateRow()
                running.status, running.attempts, running.crashes = Status.RUNNING, 2, 1
                ledger.update(done.id, self.ended())
                ledger.update(second.id, running)
                await ledger.committed()
                found = [(r.task.id, r.attempts, n) for r, n in await ledger.unfinished()]
                assert found == [(first.id, 0, 0), (second.id, 2, 1)]

        self.within(unfinished())

    def test_complete_subtasks_are_found_by_their_key(self) -> None:
        async def complete() -> None:
            async with self.opened() as ledger:
                parent, other = self.task(), self.task()
                await self.keep(ledger, parent, other)
                good = [self.subtask(parent, key) for key in ("a", "a", "b")]
                bad = self.subtask(parent, "c")
                await self.keep(ledger, *good, self.subtask(other, "d"), row=self.ended())
                await self.keep(ledger, bad, row=self.ended(Status.FAILED, Reason.EXCEPTION))
                found = await ledger.complete_subtasks([parent.id])
                assert {k: sorted(v) for k, v in found.items()} == {
                    "a": sorted([good[0].id, good[1].id]),
                    "b": [good[2].id],
                }

        self.within(complete())

    # logs

    def test_log_lines_are_read_from_a_position(self) -> None:
        lines = [
            LogLine(time=float(n), level="INFO", stream="model", text=f"“ñ”\n {n}", attempt=2)
            for n in range(5)
        ]

        async def read() -> None:
            task = self.task()
            async with self.opened() as ledger:
                await self.keep(ledger, task)
                ledger.log(task.id, 1, lines[:3])
                ledger.log(task.id, 4, lines[3:])
                await ledger.committed()
                assert await ledger.logs(task.id, 0, 100) == list(enumerate(lines, 1))
                assert await ledger.logs(task.id, 2, 2) == [(3, lines[2]), (4, lines[3])]
                assert await ledger.last_log_position(task.id) == 5
                assert await ledger.last_log_position(new_id()) == 0

        self.within(read())

    # retention

    def test_the_oldest_ended_tasks_are_forgotten_by_count(self) -> None:
        async def by_count() -> None:
            async with self.opened() as ledger:
                waiting = self.task()
                tasks = [self.task() for _ in range(5)]
                await self.keep(ledger, waiting)
                await self.keep(ledger, *tasks, row=self.ended())
                assert await ledger.prune(2, None) == 3
                left = {record.task.id for record in await ledger.page()}
                assert left == {waiting.id, tasks[3].id, tasks[4].id}

        self.within(by_count())

    def test_ended_tasks_are_forgotten_by_age_with_their_logs(self) -> None:
        line = LogLine(time=1.0, level="INFO", stream="model", text="x")

        async def by_age() -> None:
            async with self.opened() as ledger:
                old, new = self.task(), self.task()
                await self.keep(ledger, old, row=self.ended(finished=time.time() - 100))
                await self.keep(ledger, new, row=self.ended())
                ledger.log(old.id, 1, [line])
                await ledger.committed()
                assert await ledger.prune(None, 50) == 1
                assert await ledger.get(old.id) is None
                assert await ledger.logs(old.id, 0, 10) == []
                assert await ledger.get(new.id) is not None
                assert await ledger.prune(None, None) == 0

        self.within(by_age())

    def test_subtasks_stay_while_their_parent_may_ask_for_them(self) -> None:
        async def stay() -> None:
            async with self.opened() as ledger:
                parent = self.task()
                await self.keep(ledger, parent)
                old = self.ended(finished=time.time() - 100)
                await self.keep(ledger, self.subtask(parent, "a"), row=old)
                assert await ledger.prune(0, 50) == 0
                ledger.update(parent.id, old)
                await ledger.committed()
                assert await ledger.prune(0, 50) == 2

        self.within(stay())

    # opening and closing

    def test_it_keeps_what_it_was_told_before_it_was_closed(self) -> None:
        if not self.durable:
            pytest.skip("it is not durable")

        async def kept() -> None:
            task, row = self.task(idempotency_key="key-1"), self.ended()
            async with self.opened() as ledger:
                await self.keep(ledger, task)
                ledger.update(task.id, row)
                ledger.log(task.id, 1, [LogLine(time=1.0, level="INFO", stream="model", text="x")])
            async with self.opened() as again:
                record = await again.get(task.id)
                assert record is not None
                assert (record.task, record.outcome) == (task, row.outcome)
                assert len(await again.logs(task.id, 0, 10)) == 1

        self.within(kept())

    def test_it_promises_nothing_once_it_is_closed(self) -> None:
        async def promises() -> None:
            async with self.opened() as ledger:
                await self.keep(ledger, self.task())
            with pytest.raises(LedgerError, match="closed"):
                await ledger.committed()

        self.within(promises())

    def test_it_closes_where_it_was_never_opened(self) -> None:
        self.within(self.make().close())
