import asyncio
import threading
import time

import pytest

from fossa.one_thread import OneThread


@pytest.fixture
def thread():
    thread = OneThread("one-thread-of-a-test")
    yield thread
    thread.close()


async def test_one_thread_does_everything_in_order(thread):
    done = []

    def work(n):
        time.sleep(0.02 if n == 0 else 0)
        done.append(n)
        return n, threading.current_thread().name

    results = await asyncio.gather(*(thread.run(lambda n=n: work(n)) for n in range(5)))
    assert results == [(n, "one-thread-of-a-test") for n in range(5)]
    assert done == [0, 1, 2, 3, 4]


async def test_what_is_raised_there_is_raised_here_and_the_thread_goes_on(thread):
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 / 0)
    with pytest.raises(SystemExit):
        await thread.run(lambda: exec("raise SystemExit"))
    assert await thread.run(lambda: "still there") == "still there"


async def test_what_is_cancelled_before_its_turn_is_not_done(thread):
    done = []
    first = thread.run(lambda: (time.sleep(0.2), done.append("first")))
    second = thread.run(lambda: done.append("second"))
    second.cancel()
    third = thread.run(lambda: done.append("third"))
    await asyncio.gather(first, third)
    assert done == ["first", "third"]


async def test_what_is_cancelled_during_its_turn_ends_all_the_same(thread):
    done = []
    work = thread.run(lambda: (time.sleep(0.2), done.append("first")))
    await asyncio.sleep(0.05)
    work.cancel()
    await thread.run(lambda: done.append("second"))
    assert done == ["first", "second"]


async def test_closed_it_has_done_what_it_took_and_takes_nothing_more():
    thread, done = OneThread("closing"), []
    work = thread.run(lambda: (time.sleep(0.2), done.append("done")))
    thread.close()
    assert done == ["done"]
    assert not any(t.name == "closing" for t in threading.enumerate())
    await work
    with pytest.raises(RuntimeError, match="the thread closing is closed"):
        thread.run(print)
    thread.close()


def test_a_loop_that_has_gone_hurts_nobody():
    thread, done = OneThread("left-alone"), []

    async def leave():
        thread.run(lambda: (time.sleep(0.2), done.append("done")))

    asyncio.run(leave())
    thread.close()
    assert done == ["done"]
