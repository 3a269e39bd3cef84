import asyncio
import logging
import time

import pika
import pytest

from fossa.testing import free_port
from fossa_rabbitmq import link as link_module
from fossa_rabbitmq.connection import BrokerGone, BrokerRefused, Mismatch
from fossa_rabbitmq.link import Link
from fossa_rabbitmq.options import options

LOGGER = logging.getLogger("fossa.test")
DEADLINE = 40.0


class Kept:
    """A link, with what became of it."""

    def __init__(self, url, setup=None, **changes):
        self.options = options(url=url, **{"max_backoff": 0.3} | changes)
        self.connections = []
        self.losses = asyncio.Queue()
        self.setup = setup or self.plain
        self.link = Link(
            self.options, "node: test", LOGGER, self.set_up, on_lost=self.losses.put_nowait
        )

    async def set_up(self, connection):
        self.connections.append(connection)
        await self.setup(connection)

    async def plain(self, connection):
        self.channel = await connection.channel(confirms=True)

    async def lost(self):
        async with asyncio.timeout(DEADLINE):
            return await self.losses.get()

    async def up(self):
        async with asyncio.timeout(DEADLINE):
            return await self.link.up()

    async def __aenter__(self):
        await self.link.open()
        return self

    async def __aexit__(self, *_):
        await self.link.close()


def lines(caplog, level):
    return [
        r.getMessage() for r in caplog.records if r.levelname == level and r.name == LOGGER.name
    ]


async def eventually(found):
    async with asyncio.timeout(DEADLINE):
        while not found():
            await asyncio.sleep(0.02)


@pytest.fixture(autouse=True)
def _all_levels(caplog):
    caplog.set_level(logging.INFO, LOGGER.name)


async def test_it_sets_up_anew_after_a_cut(proxy, caplog):
    async with Kept(proxy.url) as kept:
        first = await kept.up()
        assert kept.link.trouble is None
        proxy.cut()
        assert "reset" in await kept.lost()
        assert kept.link.connection is None
        assert kept.link.trouble.startswith(
            f"not connected to amqp://guest@127.0.0.1:{proxy.port}/:"
        )
        second = await kept.up()
        assert (second is first, kept.connections) == (False, [first, second])
        assert (kept.link.trouble, kept.link.connection) == (None, second)
        await eventually(lambda: lines(caplog, "INFO"))
    (lost,) = lines(caplog, "WARNING")
    (back,) = lines(caplog, "INFO")
    assert "not connected to amqp://guest@127" in lost
    assert "again after 0." in back
    assert kept.losses.empty()


async def test_many_tries_are_one_line(proxy, caplog):
    async with Kept(proxy.url, max_backoff=0.1) as kept:
        proxy.refuse()
        proxy.cut()
        await kept.lost()
        waiting = asyncio.create_task(kept.link.up())
        await asyncio.sleep(0.6)
        assert not waiting.done()
        assert len(lines(caplog, "WARNING")) == 1
        proxy.refuse(False)
        async with asyncio.timeout(DEADLINE):
            await waiting


async def test_a_broker_that_is_away_at_the_start(caplog):
    port = free_port()
    async with Kept(f"amqp://me:s3cret@127.0.0.1:{port}", max_backoff=60) as kept:
        assert kept.link.connection is None
        said = f"not connected to amqp://me@127.0.0.1:{port}/: connection refused; trying again "
        assert kept.link.trouble.startswith(said)
        await eventually(lambda: kept.link.trouble.endswith(" s"))
    assert lines(caplog, "WARNING") == [said.split(";", maxsplit=1)[0]]
    assert "s3cret" not in caplog.text
    assert kept.losses.empty()
    with pytest.raises(BrokerGone):
        await kept.up()


@pytest.mark.slow
async def test_a_broker_that_is_killed_and_comes_back(tough_broker, caplog):
    async with Kept(tough_broker.url) as kept:

        async def declares(connection):
            channel = await connection.channel(confirms=True)
            await channel.declare_queue("kept", arguments={"x-queue-type": "quorum"})
            kept.channel = channel

        kept.setup = declares
        kept.link.restart("set up with a queue")
        await kept.lost()
        await kept.up()
        message = pika.BasicProperties(message_id="1", delivery_mode=2)
        await kept.channel.publish("", "kept", b"x", message)
        await asyncio.to_thread(tough_broker.wait_for_disk)
        tough_broker.kill()
        await kept.lost()
        await asyncio.to_thread(tough_broker.start)
        await kept.up()
        async with asyncio.timeout(DEADLINE):
            while (found := await kept.channel.get("kept")) is None:
                await asyncio.sleep(0.05)
        assert found.body == b"x"
    assert len(lines(caplog, "WARNING")) == 2


async def test_what_will_not_pass_stops_the_start(broker):
    refused = Kept(f"amqp://guest:wrong@127.0.0.1:{broker.port}/")
    with pytest.raises(BrokerRefused, match="check the user and password"):
        await refused.link.open()
    await refused.link.close()

    async def wrong(connection):
        raise Mismatch("the queue x is another")

    unfit = Kept(broker.url, setup=wrong)
    with pytest.raises(Mismatch):
        await unfit.link.open()
    assert unfit.connections[0].closed.done()
    await unfit.link.close()


async def test_a_refusal_while_it_reconnects_is_told_once(broker, caplog, monkeypatch):
    monkeypatch.setattr(link_module, "_REFUSED_PAUSE", 0.1)
    async with Kept(broker.url) as kept:

        async def refuses(connection):
            raise Mismatch("the queue x is another")

        kept.setup = refuses
        kept.link.restart("a test")
        await kept.lost()
        await eventually(lambda: len(kept.connections) >= 4)
        assert "the queue x is another; trying again" in kept.link.trouble
        assert all(c.closed.done() for c in kept.connections[:-1])
        kept.setup = kept.plain
        await kept.up()
    (told,) = lines(caplog, "ERROR")
    assert told.endswith("the queue x is another. Trying again once a minute")


async def test_after_a_refusal_it_waits_a_minute(broker):
    async with Kept(broker.url) as kept:

        async def raises(connection):
            raise ZeroDivisionError("a bug")

        kept.setup = raises
        kept.link.restart("a test")
        await kept.lost()
        await eventually(lambda: "a bug" in kept.link.trouble and kept.link.trouble.endswith(" s"))
        seconds = int(kept.link.trouble.split()[-2])
        assert 25 <= seconds <= 60
        assert len(kept.connections) == 2


async def test_a_channel_that_dies_during_the_setup_is_tried_again(broker):
    calls = []

    async def stumbles(connection):
        calls.append(connection)
        channel = await connection.channel()
        if len(calls) < 3:
            channel.ack(7)
            await channel.depth("x")

    async with Kept(broker.url, setup=stumbles) as kept:
        await kept.up()
        assert [c.closed.done() for c in calls] == [True, True, False]


async def test_restart_during_the_setup(broker):
    async def restarts(connection):
        if len(kept.connections) < 2:
            kept.link.restart("the consumer was cancelled")
        await connection.channel()

    kept = Kept(broker.url, setup=restarts)
    await kept.link.open()
    assert "the consumer was cancelled" in kept.link.trouble
    assert await kept.up() is kept.connections[1]
    await kept.link.close()


async def test_a_listener_that_raises_hurts_nobody(proxy, caplog):
    async with Kept(proxy.url) as kept:
        kept.link._on_lost = lambda why: 1 / 0
        proxy.cut()
        await eventually(lambda: len(kept.connections) == 2)
        await kept.up()
    assert "ZeroDivisionError" in caplog.text


async def test_closing_ends_whatever_it_was_doing(proxy):
    kept = Kept(proxy.url, connect_timeout=20)
    await kept.link.open()
    proxy.blackhole()
    kept.link.restart("so that it connects into a black hole")
    await kept.lost()
    await eventually(lambda: kept.link.trouble.endswith("now"))
    began = time.monotonic()
    await kept.link.close()
    assert time.monotonic() - began < 4
    with pytest.raises(BrokerGone):
        await kept.up()


async def test_waiting_for_a_link_that_is_closed_ends():
    port = free_port()
    kept = Kept(f"amqp://127.0.0.1:{port}")
    await kept.link.open()
    waiting = asyncio.create_task(kept.link.up())
    await asyncio.sleep(0)
    await kept.link.close()
    with pytest.raises(BrokerGone):
        async with asyncio.timeout(5):
            await waiting


async def test_the_loop_is_never_held(proxy):
    """While connections come and go: the longest pause of the loop."""
    async with Kept(proxy.url) as kept:
        loop = asyncio.get_running_loop()
        longest = 0.0
        for _ in range(3):
            await kept.up()
            proxy.cut()
            last = loop.time()
            while kept.losses.empty() or kept.link.connection is None:
                await asyncio.sleep(0)
                longest, last = max(longest, loop.time() - last), loop.time()
            await kept.lost()
        assert longest < 0.25
