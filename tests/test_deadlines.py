"""One deadline for many awaits: `fossa.deadlines`."""

import asyncio
import contextlib

import pytest

from fossa.deadlines import Deadline


async def test_what_is_in_time_is_awaited():
    deadline = Deadline(5)
    done = []

    async def work():
        await asyncio.sleep(0.01)
        done.append(1)

    await asyncio.gather(*(deadline.keep(work()) for _ in range(10)))
    assert len(done) == 10


async def test_what_takes_too_long_is_cancelled_and_nothing_else():
    deadline, ended = Deadline(0.1), []

    async def hangs(name):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append(name)
            raise

    async def later(name, after):
        await asyncio.sleep(after)
        await deadline.keep(hangs(name))

    async def in_time():
        await asyncio.sleep(0.05)
        await deadline.keep(asyncio.sleep(0.08))

    async with asyncio.timeout(5):
        ends = await asyncio.gather(
            later("a", 0), in_time(), later("b", 0.05), return_exceptions=True
        )
    assert ended == ["a", "b"]
    assert [type(end) for end in ends] == [TimeoutError, type(None), TimeoutError]
    # Whoever was cancelled by it may go on awaiting.
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await deadline.keep(hangs("c"))


async def test_what_the_work_raises_is_raised():
    async def fails():
        raise ValueError("oh")

    with pytest.raises(ValueError, match="oh"):
        await Deadline(5).keep(fails())


@pytest.mark.parametrize("before", [False, True])
async def test_a_task_that_is_cancelled_stays_so(before):
    """Also one that was cancelled earlier, and has gone on: it is told of the deadline only."""
    deadline = Deadline(0.1 if before else 60)

    async def waits():
        if before:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
        await deadline.keep(asyncio.sleep(60))

    task = asyncio.create_task(waits())
    await asyncio.sleep(0.02)
    task.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(TimeoutError if before else asyncio.CancelledError):
            await task


async def test_work_that_answers_its_cancelling_otherwise_leaves_no_trace():
    async def shrugs():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    async with asyncio.timeout(5):
        await Deadline(0.1).keep(shrugs())
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0.01)


async def test_futures_that_are_late_fail_in_their_order():
    deadline, loop = Deadline(0.1), asyncio.get_running_loop()
    late, done, failed = (loop.create_future() for _ in range(3))
    loop.call_later(0.02, done.set_result, "result")
    loop.call_later(0.02, failed.set_exception, ValueError("oh"))

    async def later():
        await asyncio.sleep(0.06)
        began = loop.time()
        with pytest.raises(TimeoutError):
            await deadline.wait(loop.create_future())
        return loop.time() - began

    async with asyncio.timeout(5):
        second = asyncio.create_task(later())
        assert await deadline.wait(done) == "result"
        with pytest.raises(ValueError, match="oh"):
            await deadline.wait(failed)
        with pytest.raises(TimeoutError):
            await deadline.wait(late)
        assert isinstance(late.exception(), TimeoutError)
        assert 0.09 < await second < 2
    assert not deadline._waiting


async def test_a_future_whose_awaiter_is_cancelled_is_watched_no_more():
    deadline = Deadline(0.05)
    future = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(deadline.wait(future))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert future.cancelled()
    assert not deadline._waiting
