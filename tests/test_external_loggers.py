"""EXTERNAL_LOGGERS: what they are given, and what they cannot do to a node."""

import threading
import time

import pytest

from fossa import node_log
from fossa.testing import MemoryExecutor
from fossa.tools.logging import AbstractExternalLogger
from support import outcome, running, until


class Kept(AbstractExternalLogger):
    """As it would be written for 0.0.37: called by keyword, in a level that is text."""

    def __init__(self):
        self.lines = []
        self.threads = set()

    def write(self, msg, level="INFO"):
        self.lines.append((level, msg))
        self.threads.add(threading.current_thread())
        return True


class Ducks:
    """Any object with the method will do, and none has to return anything."""

    def __init__(self):
        self.lines = []

    def write(self, **given):
        self.lines.append(given)


def node(*loggers, **settings):
    given = {"EXECUTORS": [MemoryExecutor()], "SINKS": ["log"], **settings}
    return running(EXTERNAL_LOGGERS=loggers, **given)


def told(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "fossa.external"]


async def test_they_get_each_line_of_the_node_as_0_0_37_gives_it(caplog):
    first, second = Kept(), Ducks()
    async with node(first, second) as running_node:
        assert (await outcome(running_node, "Nothing")).complete
        running_node.governor.logger.warning("100 %% of %s", "it")
        try:
            raise ValueError("trouble")
        except ValueError:
            running_node.governor.logger.exception("it failed")
    levels = [level for level, _ in first.lines]
    assert levels == ["INFO", "WARNING", "ERROR"]
    assert first.lines[0][1].startswith("Nothing.go ")
    assert first.lines[1][1] == "100 % of it"
    assert first.lines[2][1].startswith("it failed\nTraceback")
    assert first.lines[2][1].endswith("ValueError: trouble")
    assert second.lines == [{"msg": text, "level": level} for level, text in first.lines]
    assert told(caplog) == []


async def test_nothing_below_info_is_given_to_them():
    logger = Kept()
    async with node(logger) as running_node:
        running_node.governor.logger.debug("a detail")
        running_node.governor.logger.info("a fact")
    assert logger.lines == [("INFO", "a fact")]


async def test_one_that_blocks_holds_up_neither_the_node_nor_the_others():
    class Blocks(Kept):
        def write(self, msg, level="INFO"):
            go_on.wait(30)
            return super().write(msg, level)

    go_on, blocks, other = threading.Event(), Blocks(), Kept()
    async with node(blocks, other) as running_node:
        assert (await outcome(running_node, "Nothing")).complete
        await until(lambda: other.lines)
        assert blocks.lines == []
        go_on.set()
    assert blocks.lines == other.lines
    assert threading.current_thread() not in blocks.threads


@pytest.mark.parametrize("fails", ["raises", "returns False"])
async def test_one_that_fails_is_told_once(caplog, fails):
    class Fails(Kept):
        works = False

        def write(self, msg, level="INFO"):
            super().write(msg, level)
            if fails == "raises" and not self.works:
                raise ConnectionError("no network")
            return self.works

    logger = Fails()
    async with node(logger) as running_node:
        for works in (False, False, True, False):
            count = len(logger.lines)
            running_node.governor.logger.info("a line")
            await until(lambda count=count: len(logger.lines) > count)
            await until(lambda: logger_is_idle(running_node))
            logger.works = works
    why = "write() raised ConnectionError: no network" if fails == "raises" else "write() returned"
    assert len(told(caplog)) == 1
    assert why in told(caplog)[0]
    assert "external logger Fails does not take" in told(caplog)[0]


def logger_is_idle(running_node):
    [handler] = running_node.governor._log._handlers
    return handler._waiting.empty()


async def test_one_that_is_too_slow_does_not_get_every_line(caplog, monkeypatch):
    monkeypatch.setattr(node_log, "MAX_WAITING", 5)
    monkeypatch.setattr(node_log, "CLOSE_DEADLINE", 0.1)

    class Slow(Kept):
        def write(self, msg, level="INFO"):
            go_on.wait(30)
            return super().write(msg, level)

    go_on, slow = threading.Event(), Slow()
    async with node(slow) as running_node:
        for number in range(20):
            running_node.governor.logger.info("line %d", number)
        began = time.monotonic()
        await running_node.stop()
    assert time.monotonic() - began < 2
    assert "it is too slow: it does not get every line" in told(caplog)[0]
    go_on.set()
    # What is left of it ends once it has written what had been given to it.
    await until(lambda: len(slow.lines) >= 5)
    assert len(slow.lines) < 10
    running_node.governor._log._handlers[0]._waiting.put(None)


def test_the_base_class_wants_its_method():
    class Nothing(AbstractExternalLogger):
        """Lacks `write`."""

    with pytest.raises(TypeError, match="write"):
        Nothing()
