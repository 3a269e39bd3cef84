"""The private broker, the bad network and the fixtures that make them."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pika
import pytest
from pika.exceptions import AMQPError

from fossa_rabbitmq.testing import BrokerNotUp, PrivateBroker, Proxy

pytest_plugins = ("pytester",)

OWNER = """
import sys
from pathlib import Path
from fossa_rabbitmq.testing import PrivateBroker
broker = PrivateBroker(Path(sys.argv[1]))
broker.start()
print(broker.pid, broker._keeper.pid, flush=True)
sys.stdin.read()
"""


def channel(url):
    """A connection and a channel, with deadlines."""
    parameters = pika.URLParameters(url)
    parameters.socket_timeout = parameters.blocked_connection_timeout = 5
    parameters.stack_timeout = 5
    connection = pika.BlockingConnection(parameters)
    return connection, connection.channel()


def keep(url, name, body=b"a message"):
    """Put a persistent message into a durable quorum queue."""
    connection, ours = channel(url)
    ours.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    ours.confirm_delivery()
    ours.basic_publish("", name, body, pika.BasicProperties(delivery_mode=2), mandatory=True)
    connection.close()


def kept(url, name):
    connection, ours = channel(url)
    try:
        return ours.basic_get(name, auto_ack=True)[2]
    finally:
        connection.close()


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, timeout=20):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not come to pass in time"
        time.sleep(0.02)


def answers(port, timeout=1.0):
    """Whether a broker answers a new connection there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout) as connection:
            connection.settimeout(timeout)
            connection.sendall(b"AMQP\0\0\x09\x01")
            return connection.recv(1) == b"\x01"
    except OSError:
        return False


def test_a_broker_is_killed_restarted_and_paused(own_broker):
    pid = own_broker.pid
    keep(own_broker.url, "q")
    own_broker.wait_for_disk()
    own_broker.kill()
    assert not lives(pid)
    assert not own_broker.up
    with pytest.raises(AMQPError):
        channel(own_broker.url)
    own_broker.start()
    assert kept(own_broker.url, "q") == b"a message"
    keep(own_broker.url, "q", b"another")
    took = own_broker.restart()
    assert 0.1 < took < 60
    assert kept(own_broker.url, "q") == b"another"
    # It is paused here, as another broker would take seconds to start.
    assert answers(own_broker.port)
    own_broker.pause()
    assert own_broker.up
    assert not answers(own_broker.port, 0.3)
    own_broker.resume()
    assert answers(own_broker.port, 10)


def test_two_brokers_side_by_side_know_nothing_of_each_other(broker, tmp_path):
    with PrivateBroker(tmp_path / "second") as second:
        keep(second.url, "q")
        connection, ours = channel(broker.url)
        with pytest.raises(AMQPError, match="NOT_FOUND"):
            ours.queue_declare("q", passive=True)
        connection.close()
        assert second.ctl("list_queues", "name").split() == ["name", "q"]
        with pytest.raises(BrokerNotUp, match="rabbitmqctl list_nonsense on <PrivateBroker fossa-"):
            second.ctl("list_nonsense")


def test_nothing_of_a_broker_outlives_its_owner(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        pids = [int(p) for p in owner.stdout.readline().split()]
        assert all(lives(p) for p in pids)
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
    wait_until(lambda: not any(lives(p) for p in pids))
    wait_until(lambda: not programs_in(tmp_path))


def programs_in(directory):
    """Processes that have the directory for their home, as all of a broker's have."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"HOME={directory}\0".encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


def test_why_a_broker_does_not_come_up_is_said(tmp_path):
    broker = PrivateBroker(tmp_path, config="no_such_setting = 1")
    with pytest.raises(BrokerNotUp, match="no_such_setting"):
        broker.start()
    assert not programs_in(tmp_path)
    with pytest.raises(BrokerNotUp, match=r"is not up: call start\(\)"):
        broker.pause()


class Echo:
    """Something to stand in front of: it sends back what it gets."""

    async def __aenter__(self):
        self.ended = 0
        self.writers = []
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader, writer):
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        self.ended += 1
        writer.close()

    async def __aexit__(self, *_):
        self._server.close()
        for writer in self.writers:
            writer.close()
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def through():
    """An echo, a proxy before it, and a connection through that."""
    async with Echo() as echo, Proxy(echo.port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        try:
            yield proxy, reader, writer, echo
        finally:
            writer.transport.abort()
            await asyncio.sleep(0.02)


async def said(reader, writer, data=b"hello"):
    writer.write(data)
    async with asyncio.timeout(5):
        return await reader.readexactly(len(data))


async def hears_nothing(reader, seconds=0.2):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await reader.read(1)
    return True


async def test_a_proxy_passes_everything_and_both_ends():
    async with through() as (proxy, reader, writer, echo):
        big = os.urandom(3 << 20)
        assert (await asyncio.gather(said(reader, writer, big)))[0] == big
        assert proxy.connections == 1
        writer.write_eof()
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        assert echo.ended == 1


async def test_a_cut_is_a_reset_at_both_ends():
    async with through() as (proxy, reader, writer, echo):
        await said(reader, writer)
        assert proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 5)
        new_reader, new = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await said(new_reader, new) == b"hello"
        assert echo.ended == 1
        new.transport.abort()


async def test_into_a_black_hole_everything_goes_but_the_sockets():
    async with through() as (proxy, reader, writer, echo):
        await said(reader, writer)
        proxy.blackhole()
        writer.write(b"lost")
        assert await hears_nothing(reader)
        other_reader, other = await asyncio.open_connection("127.0.0.1", proxy.port)
        other.write(b"lost too")
        assert await hears_nothing(other_reader)
        proxy.blackhole(False)
        writer.write(b"after the gap")
        assert await hears_nothing(reader)
        assert echo.ended == 0
        other.transport.abort()
        new_reader, new = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await said(new_reader, new) == b"hello"
        new.transport.abort()


async def test_what_is_held_arrives_later():
    async with through() as (proxy, reader, writer, _):
        proxy.hold()
        writer.write(b"patience")
        assert await hears_nothing(reader)
        proxy.hold(False)
        assert await asyncio.wait_for(reader.readexactly(8), 5) == b"patience"


async def test_refused_connections_are_reset_and_the_others_go_on():
    async with through() as (proxy, reader, writer, _):
        await said(reader, writer)
        proxy.refuse()
        with pytest.raises(ConnectionError):
            await said(*await asyncio.open_connection("127.0.0.1", proxy.port))
        assert await said(reader, writer) == b"hello"


async def test_a_delay_counts_in_each_direction():
    async with through() as (proxy, reader, writer, _):
        proxy.delay(0.1)
        began = time.monotonic()
        await said(reader, writer)
        assert time.monotonic() - began >= 0.2


async def test_a_proxy_before_a_broker_has_its_url(proxy, fresh_prefix):
    name = f"{fresh_prefix}.tasks"
    await asyncio.to_thread(keep, proxy.url, name)
    assert await asyncio.to_thread(kept, proxy.url, name) == b"a message"


def test_queues_with_a_fresh_prefix_are_deleted(pytester, broker):
    pytester.makeconftest(
        "from fossa_rabbitmq.testing.fixtures import broker, fresh_prefix\n"
        "import os\nfrom pathlib import Path\nimport pytest\n"
    )
    pytester.makepyfile(
        """
        import pika
        from pathlib import Path

        def test_it(broker, fresh_prefix):
            connection = pika.BlockingConnection(pika.URLParameters(broker.url))
            connection.channel().queue_declare(f"{fresh_prefix}.subtasks")
            connection.close()
            Path("prefix").write_text(fresh_prefix)
        """
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RABBITMQ_URL", broker.url)
        pytester.runpytest_subprocess("-p", "no:randomly").assert_outcomes(passed=1)
    name = (pytester.path / "prefix").read_text()
    connection, ours = channel(broker.url)
    with pytest.raises(AMQPError, match="NOT_FOUND"):
        ours.queue_declare(f"{name}.subtasks", passive=True)
    connection.close()


@pytest.mark.parametrize(("ci", "becomes"), [("", "skipped"), ("true", "errors")])
def test_without_any_rabbitmq_a_laptop_skips_and_ci_fails(pytester, ci, becomes):
    pytester.makeconftest("from fossa_rabbitmq.testing.fixtures import own_broker")
    pytester.makepyfile("def test_it(own_broker): pass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CI", ci)
        patch.setenv("PATH", "")
        done = pytester.runpytest_subprocess("-p", "no:randomly", "-rs")
    done.assert_outcomes(**{becomes: 1})
    done.stdout.fnmatch_lines(["*no RabbitMQ here: install rabbitmq-server*"])
