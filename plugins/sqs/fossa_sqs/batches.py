"""Deletes, and changes of visibility, several in a call."""

import asyncio
from typing import Any

from attrs import frozen

from fossa_sqs.client import Sqs, SqsRefused, SqsTrouble, insist

#: Entries of a call, at the most: SQS's own limit.
MOST = 10
#: Seconds that the first entry waits for others.
GATHER = 0.02
#: Times that an entry is tried by itself.
TRIES = 6


@frozen(eq=False)
class _Entry:
    values: dict[str, Any]
    done: "asyncio.Future[None]"


class Batch:
    """Calls one operation of SQS for many messages at once; each is told how its own went."""

    def __init__(self, sqs: Sqs, url: str, batched: str, single: str) -> None:
        self._sqs, self._url = sqs, url
        self._batched, self._single = batched, single
        self._entries: list[_Entry] = []
        self._at_work: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def add(self, **values: Any) -> None:
        """Returns once SQS has done it. Raises SqsTrouble, SqsRefused."""
        entry = _Entry(values, asyncio.get_running_loop().create_future())
        self._entries.append(entry)
        if len(self._entries) >= MOST:
            self._send()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER, self._send)
        await entry.done

    async def close(self) -> None:
        """Send what waits, and see it through, for a while."""
        self._send()
        if self._at_work:
            _, late = await asyncio.wait(self._at_work, timeout=5)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        entries, self._entries = self._entries, []
        if entries:
            self._work(self._all(entries))

    def _work(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)

    async def _all(self, entries: list[_Entry]) -> None:
        try:
            answer = await self._call(entries)
            well = {int(one["Id"]) for one in answer.get("Successful", [])}
        except (SqsTrouble, SqsRefused):
            well = set()  # each will hear why
        for number, entry in enumerate(entries):
            if number in well:
                _tell(entry.done, None)
        # An answer of 200 may hold failures, and may leave some out.
        rest = [entry for number, entry in enumerate(entries) if number not in well]
        await asyncio.gather(*(self._one(entry) for entry in rest))

    async def _call(self, entries: list[_Entry]) -> Any:
        said = [{"Id": str(number), **entry.values} for number, entry in enumerate(entries)]
        return await self._sqs.call(self._batched, QueueUrl=self._url, Entries=said)

    async def _one(self, entry: _Entry) -> None:
        def act() -> Any:
            return self._sqs.call(self._single, QueueUrl=self._url, **entry.values)

        try:
            await insist(act, TRIES)
        except (SqsTrouble, SqsRefused) as error:
            _tell(entry.done, error)
        except BaseException:
            entry.done.cancel()
            raise
        else:
            _tell(entry.done, None)


def _tell(done: "asyncio.Future[None]", error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
        done.exception()  # it is no leak where nobody waits any more


def deletes(sqs: Sqs, url: str) -> Batch:
    return Batch(sqs, url, "delete_message_batch", "delete_message")


def changes(sqs: Sqs, url: str) -> Batch:
    return Batch(sqs, url, "change_message_visibility_batch", "change_message_visibility")
