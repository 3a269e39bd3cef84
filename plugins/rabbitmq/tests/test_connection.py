import asyncio
import contextlib
import logging
import socket
import subprocess
import time

import pika
import pytest

from fossa import use
from fossa.testing import free_port
from fossa_rabbitmq.connection import (
    BrokerGone,
    BrokerRefused,
    ChannelClosed,
    Connection,
    Mismatch,
    Nacked,
    NoSuchQueue,
    TooLarge,
    Unroutable,
)
from fossa_rabbitmq.options import options
from fossa_rabbitmq.testing import PrivateBroker, Tls
from support import running, until

LOGGER = logging.getLogger("fossa.test")
DEADLINE = 15.0


@contextlib.asynccontextmanager
async def dialled(url, **changes):
    connection = await Connection.dial(options(url=url, **changes), "test", LOGGER)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def connection(broker):
    async with dialled(broker.url) as connection:
        yield connection


@pytest.fixture
async def channel(connection):
    return await connection.channel(confirms=True)


@pytest.fixture
async def queue(channel, fresh_prefix):
    """A queue that is deleted with the prefix."""
    name = f"{fresh_prefix}.tasks"
    await channel.declare_queue(name, arguments={"x-queue-type": "quorum"})
    return name


def named(number):
    return pika.BasicProperties(message_id=str(number), delivery_mode=2)


def ignore(*_):
    """For consumers that are not cancelled."""


async def within(awaitable, seconds=DEADLINE):
    async with asyncio.timeout(seconds):
        return await awaitable


async def ready(channel, queue, count):
    """Returns once a queue holds so many messages."""
    async with asyncio.timeout(DEADLINE):
        while await channel.depth(queue) != count:
            await asyncio.sleep(0.02)


class Taker:
    """Collects messages, and tells when there are enough."""

    def __init__(self, enough=1):
        self.messages = []
        self.enough = enough
        self.done = asyncio.Event()

    def __call__(self, message):
        self.messages.append(message)
        if len(self.messages) >= self.enough:
            self.done.set()


# connecting


async def test_it_learns_who_the_broker_is_and_says_who_we_are(tough_broker):
    given = options(url=tough_broker.url)
    connection = await Connection.dial(given, "node-1: publish", LOGGER)
    assert connection.server["product"] == "RabbitMQ"
    said = await asyncio.to_thread(tough_broker.ctl, "list_connections", "client_properties")
    assert '"Fossa"' in said and "node-1: publish" in said
    await connection.close()
    assert await within(connection.closed) == "this node closed the connection"


@pytest.mark.parametrize(
    ("login", "vhost", "said"),
    [
        ("guest:s3cret", "", "check the user and password in the url: ACCESS_REFUSED"),
        ("nobody:s3cret", "", "check the user and password in the url: ACCESS_REFUSED"),
        ("guest:guest", "nowhere", "check the virtual host in the url: NOT_ALLOWED"),
    ],
)
async def test_what_will_not_pass_is_refused(broker, login, vhost, said):
    url = f"amqp://{login}@127.0.0.1:{broker.port}/{vhost}"
    with pytest.raises(BrokerRefused) as caught:
        await Connection.dial(options(url=url), "test", LOGGER)
    assert said in str(caught.value)
    assert f"@127.0.0.1:{broker.port}/{vhost}" in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_nothing_listens():
    port = free_port()
    with pytest.raises(BrokerGone, match="connection refused"):
        await Connection.dial(options(url=f"amqp://127.0.0.1:{port}"), "test", LOGGER)


async def test_no_such_host():
    with pytest.raises(BrokerGone, match=r"amqp://guest@nowhere\.invalid:5672/: "):
        await Connection.dial(options(url="amqp://nowhere.invalid"), "test", LOGGER)


async def test_a_black_hole_is_given_up_in_time():
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        began = time.monotonic()
        given = options(url=f"amqp://127.0.0.1:{port}", connect_timeout=0.3)
        with pytest.raises(BrokerGone, match=r"no answer within 0\.3 s"):
            await Connection.dial(given, "test", LOGGER)
        assert time.monotonic() - began < 2


async def test_cancelled_while_connecting_leaves_nothing():
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        url = f"amqp://127.0.0.1:{port}"
        dialling = asyncio.create_task(Connection.dial(options(url=url), "test", LOGGER))
        await asyncio.sleep(0.05)
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(dialling)


async def test_one_that_hangs_up_at_once_may_come_back(proxy):
    """A load balancer without a broker behind it. It is no matter of passwords."""
    proxy.refuse()
    with pytest.raises(BrokerGone):
        await Connection.dial(options(url=proxy.url), "test", LOGGER)


@pytest.mark.parametrize(
    ("answer", "said"),
    [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP"), (b"AMQP\x01\x01\x00\x0a", "AMQP")],
)
async def test_what_is_no_broker_is_refused(answer, said):
    async def serve(reader, writer):
        await reader.read(8)
        writer.write(answer)
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"amqp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(BrokerRefused, match="no AMQP 0-9-1 broker") as caught:
        await Connection.dial(options(url=url), "test", LOGGER)
    assert said in str(caught.value)
    server.close()
    await asyncio.sleep(0)


async def test_nonsense_in_the_middle_ends_the_connection_only():
    """A frame that is none: pika raises out of the bytes that it is given."""

    async def serve(reader, writer):
        await reader.read(8)
        writer.write(b"\x01\x00\x00\x00\x00\x00\x04\xff\xff\xff\xff\xce")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"amqp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(BrokerRefused, match="no AMQP 0-9-1 broker: it could not be understood"):
        await within(Connection.dial(options(url=url), "test", LOGGER))
    server.close()
    await asyncio.sleep(0)


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A CA, what it signed for the broker (localhost) and for a client, and another CA."""
    at = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=at, check=True, capture_output=True, timeout=60)

    def authority(name):
        openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.pem",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip

    def signed(name, names):
        openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.csr",
        )  # fmt: skip
        (at / f"{name}.ext").write_text(f"subjectAltName={names}\nkeyUsage=digitalSignature\n")
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem",
        )  # fmt: skip

    authority("ca")
    authority("other")
    signed("broker", "DNS:localhost")
    signed("client", "DNS:client")
    return at


@pytest.fixture(scope="module")
def tls_broker(tmp_path_factory, certificates):
    """Demands a certificate of clients."""
    at = certificates
    files = Tls(ca=at / "ca.pem", certificate=at / "broker.pem", key=at / "broker.key", demand=True)
    with PrivateBroker(tmp_path_factory.mktemp("tls"), tls=files) as broker:
        yield broker


def tls(at, **changes):
    given = {"ca": at / "ca.pem", "certificate": at / "client.pem", "key": at / "client.key"}
    return given | changes


async def test_tls_with_both_certificates(tls_broker, certificates):
    async with dialled(tls_broker.tls_url, **tls(certificates)) as connection:
        channel = await connection.channel(confirms=True)
        await channel.declare_queue("tls", exclusive=True, durable=False)
        body = bytes(range(256)) * 4000
        await within(channel.publish("", "tls", body, named(1)))
        assert (await channel.get("tls")).body == body


async def test_tls_with_the_name_of_the_certificate(tls_broker, certificates):
    url = f"amqps://guest:guest@127.0.0.1:{tls_broker.tls_port}/"
    given = tls(certificates, server_name="localhost")
    async with dialled(url, **given) as connection:
        assert connection.server["product"] == "RabbitMQ"
    with pytest.raises(BrokerRefused, match=r"not valid for '127\.0\.0\.1'.*server_name"):
        await Connection.dial(options(url=url, **tls(certificates)), "test", LOGGER)


async def test_tls_without_the_certificate_that_the_broker_demands(tls_broker, certificates):
    """With TLS 1.3 its complaint may be lost: then all that we see is that it hangs up."""
    given = tls(certificates, certificate=None, key=None)
    with pytest.raises((BrokerRefused, BrokerGone), match="certificate") as caught:
        await Connection.dial(options(url=tls_broker.tls_url, **given), "test", LOGGER)
    assert "certificate=" in str(caught.value) or "TLS failed" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ca": None}, "TLS failed: self.signed certificate in certificate chain"),
        ({"ca": "other.pem"}, "TLS failed"),
        ({"ca": "missing.pem"}, "cannot use the certificates .*missing.pem.*: no such file"),
        ({"key": "broker.key"}, "cannot use the certificates .*broker.key: key values mismatch"),
    ],
)
async def test_tls_that_cannot_work_is_refused(tls_broker, certificates, changes, said):
    changes = {k: v and certificates / v for k, v in changes.items()}
    given = options(url=tls_broker.tls_url, **tls(certificates, **changes))
    with pytest.raises(BrokerRefused, match=said):
        await Connection.dial(given, "test", LOGGER)


async def test_nodes_work_together_over_tls(tls_broker, certificates):
    rabbit = use("rabbitmq", url=tls_broker.tls_url, **tls(certificates))
    both = {"SOURCES": [rabbit], "EXECUTORS": ["local", rabbit], "SLOTS": 1}
    async with running(NODE_NAME="a", **both) as a, running(NODE_NAME="b", **both) as b:
        await until(lambda: len(a.governor.fleet()) == len(b.governor.fleet()) == 2)
        handle = await a.submit("Squares", model_construction_kwargs={"count": 20})
        assert (await handle.outcome(DEADLINE)).complete
        assert a.governor.not_ready() == b.governor.not_ready() == []


@pytest.mark.parametrize("changes", [{"ca": "other.pem"}, {"server_name": "elsewhere"}])
async def test_what_tls_refuses_is_the_end_of_a_start(tls_broker, certificates, changes, caplog):
    given = {k: certificates / v if k == "ca" else v for k, v in changes.items()}
    rabbit = use("rabbitmq", url=tls_broker.tls_url, **tls(certificates, **given))
    began = time.monotonic()
    with pytest.raises(BrokerRefused, match="TLS failed") as caught:
        async with running(SOURCES=[rabbit]):
            pass
    assert time.monotonic() - began < 3
    assert str(caught.value).count("\n") == 0
    assert "guest:guest" not in str(caught.value) + caplog.text


async def test_tls_and_plain_mixed_up(tls_broker, certificates):
    plain = options(url=f"amqp://localhost:{tls_broker.tls_port}")
    with pytest.raises(BrokerRefused, match="begin with amqps://"):
        await Connection.dial(plain, "test", LOGGER)
    encrypted = options(url=f"amqps://localhost:{tls_broker.port}", **tls(certificates))
    with pytest.raises(BrokerRefused, match="TLS failed"):
        await Connection.dial(encrypted, "test", LOGGER)


# publishing


async def test_confirmed_means_stored(channel, queue):
    await asyncio.gather(*(channel.publish("", queue, b"x", named(n)) for n in range(100)))
    assert channel.unconfirmed == 0
    await ready(channel, queue, 100)


async def test_each_unroutable_message_is_told_apart(channel, queue):
    """The broker acknowledges what it could not route, many at once."""
    futures = [
        channel.publish("", queue if n % 3 else "nowhere", b"x", named(n)) for n in range(600)
    ]
    results = await within(asyncio.gather(*futures, return_exceptions=True))
    returned = [n for n, result in enumerate(results) if isinstance(result, Unroutable)]
    assert returned == list(range(0, 600, 3))
    assert "nowhere" in str(results[0])
    await ready(channel, queue, 400)


async def test_too_large_is_refused_before_it_is_sent(broker, fresh_prefix):
    async with dialled(broker.url, max_message_bytes=1000) as connection:
        channel = await connection.channel(confirms=True)
        with pytest.raises(TooLarge, match=r"1001 bytes.* 1000 bytes \(max_message_bytes\)"):
            channel.publish("", "anywhere", b"x" * 1001, named(1))
        assert not channel.closed.done()


async def test_a_full_queue_refuses(channel, fresh_prefix):
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    name = f"{fresh_prefix}.subtasks"
    await channel.declare_queue(name, arguments=arguments)
    published = (channel.publish("", name, b"x", named(n)) for n in range(10))
    results = await within(asyncio.gather(*published, return_exceptions=True))
    assert results[0] is None
    assert isinstance(results[-1], Nacked)


async def test_without_confirms_it_is_done_at_once(connection, queue):
    channel = await connection.channel()
    published = channel.publish("", queue, b"x", named(1))
    assert published.done() and published.result() is None
    await ready(channel, queue, 1)


async def test_none_is_left_hanging_when_the_connection_is_cut(proxy, queue):
    async with dialled(proxy.url) as connection:
        channel = await connection.channel(confirms=True)
        first = [channel.publish("", queue, b"x" * 500, named(n)) for n in range(1500)]
        await within(first[700])
        proxy.hold()
        later = [channel.publish("", queue, b"x" * 500, named(n)) for n in range(1500, 3000)]
        asked = asyncio.create_task(channel.depth(queue))
        await asyncio.sleep(0)
        proxy.cut()
        results = await within(asyncio.gather(*first, *later, return_exceptions=True))
        assert results[700] is None
        assert {type(r) for r in results} <= {type(None), ChannelClosed}
        assert {type(r) for r in results[1500:]} == {ChannelClosed}
        with pytest.raises(ChannelClosed):
            await within(asked)
        assert "reset" in await within(connection.closed)
        proxy.hold(False)


# a channel's end


async def test_an_unknown_tag_closes_its_channel_only(connection, channel, queue):
    other = await connection.channel()
    await within(channel.publish("", queue, b"x", named(1)))
    message = await other.get(queue)
    other.ack(message.delivery_tag + 7)
    closed = await within(other.closed)
    assert (closed.code, message.channel.closed.done()) == (406, True)
    assert "unknown delivery tag" in closed.text
    with pytest.raises(ChannelClosed):
        other.ack(message.delivery_tag)
    with pytest.raises(ChannelClosed):
        await other.depth(queue)
    await ready(channel, queue, 1)


async def test_publishing_to_no_exchange_fails_what_is_in_flight(channel):
    results = await within(
        asyncio.gather(
            *(channel.publish("no-exchange", "x", b"x", named(n)) for n in range(5)),
            return_exceptions=True,
        )
    )
    assert {type(r) for r in results} == {ChannelClosed}
    assert results[0].code == 404


@pytest.mark.parametrize("what", ["declare", "consume", "get", "purge", "bind"])
async def test_no_such_queue(connection, what):
    channel = await connection.channel()
    asked = {
        "declare": lambda: channel.depth("nowhere"),
        "consume": lambda: channel.consume(
            "nowhere", prefetch=1, on_message=ignore, on_cancel=ignore
        ),
        "get": lambda: channel.get("nowhere"),
        "purge": lambda: channel.purge("nowhere"),
        "bind": lambda: channel.bind("nowhere", "amq.fanout"),
    }
    with pytest.raises(NoSuchQueue, match="nowhere"):
        await within(asked[what]())


async def test_a_different_queue_is_a_mismatch(connection, queue):
    channel = await connection.channel()
    with pytest.raises(Mismatch) as caught:
        await channel.declare_queue(queue, arguments={"x-queue-type": "classic"})
    assert f"the queue {queue} exists with x-queue-type 'quorum'" in str(caught.value)
    assert "this node needs 'classic'" in str(caught.value)


async def test_closing_a_channel_hands_its_messages_back(connection, channel, queue):
    await within(channel.publish("", queue, b"x", named(1)))
    other = await connection.channel()
    assert (await other.get(queue)).body == b"x"
    await within(other.close())
    await within(other.close())
    await ready(channel, queue, 1)


# taking


async def test_prefetch_limits_what_is_unsettled(connection, channel, queue):
    await asyncio.gather(*(channel.publish("", queue, b"x", named(n)) for n in range(10)))
    taker = Taker(3)
    other = await connection.channel()
    await other.consume(queue, prefetch=3, on_message=taker, on_cancel=ignore)
    await within(taker.done.wait())
    await ready(channel, queue, 7)
    message = taker.messages[0]
    assert (message.queue, message.routing_key, message.redelivered) == (queue, queue, False)
    assert message.properties.message_id == "0"
    taker.enough, taker.done = 6, asyncio.Event()
    other.ack(taker.messages[2].delivery_tag, multiple=True)
    await within(taker.done.wait())


async def test_each_consumer_of_a_channel_has_its_own_prefetch(connection, channel, fresh_prefix):
    other = await connection.channel()
    takers = []
    for number, prefetch in enumerate((2, 2, 5, 2)):
        queue = f"{fresh_prefix}.{number}"
        await channel.declare_queue(queue, arguments={"x-queue-type": "quorum"})
        await asyncio.gather(*(channel.publish("", queue, b"x", named(n)) for n in range(8)))
        takers.append(Taker(prefetch))
        await other.consume(queue, prefetch=prefetch, on_message=takers[-1], on_cancel=ignore)
    for taker in takers:
        await within(taker.done.wait())
    for number, taker in enumerate(takers):
        left = 8 - len(taker.messages)
        await ready(channel, f"{fresh_prefix}.{number}", left)
    assert [len(taker.messages) for taker in takers] == [2, 2, 5, 2]


async def test_what_is_on_its_way_to_a_cancelled_consumer_arrives(proxy, channel, queue):
    """Pika would reject it, and that counts as a delivery."""
    async with dialled(proxy.url) as connection:
        other = await connection.channel()
        taker = Taker()
        tag = await other.consume(queue, prefetch=400, on_message=taker, on_cancel=ignore)
        proxy.hold()
        await asyncio.gather(*(channel.publish("", queue, b"x", named(n)) for n in range(300)))
        await ready(channel, queue, 0)
        cancelling = asyncio.create_task(other.cancel(tag))
        await asyncio.sleep(0.1)
        assert not taker.messages
        proxy.hold(False)
        await within(cancelling)
        assert [m.properties.message_id for m in taker.messages] == [str(n) for n in range(300)]
        await within(channel.publish("", queue, b"x", named(300)))
        await ready(channel, queue, 1)
        other.ack(taker.messages[-1].delivery_tag, multiple=True)
        await within(other.cancel(tag))
        assert len(taker.messages) == 300


async def test_a_deleted_queue_cancels_its_consumer(connection, channel, queue):
    cancelled = asyncio.get_running_loop().create_future()
    other = await connection.channel()
    tag = await other.consume(
        queue, prefetch=1, on_message=ignore, on_cancel=lambda *said: cancelled.set_result(said)
    )
    await channel.delete_queue(queue)
    assert await within(cancelled) == (
        tag, f"the broker stopped the consumer of {queue}: was the queue deleted?",
    )  # fmt: skip
    assert not other.closed.done()
    await within(other.cancel(tag))


async def test_a_handler_that_raises_hurts_nobody(connection, channel, queue, caplog):
    taker = Taker(2)

    def handle(message):
        taker(message)
        raise ValueError("a bug")

    await channel.consume(queue, prefetch=10, on_message=handle, on_cancel=ignore)
    await asyncio.gather(*(channel.publish("", queue, b"x", named(n)) for n in range(2)))
    await within(taker.done.wait())
    assert not connection.closed.done()
    assert caplog.text.count("ValueError: a bug") == 2


async def test_getting_one_by_one(channel, queue):
    assert await channel.get(queue) is None
    await within(channel.publish("", queue, b"a", named(1)))
    first, second = await asyncio.gather(channel.get(queue), channel.get(queue))
    assert (first.body, second) == (b"a", None)
    channel.nack(first.delivery_tag)
    async with asyncio.timeout(DEADLINE):
        while (again := await channel.get(queue)) is None:
            await asyncio.sleep(0.01)
    assert again.redelivered


async def test_the_lengths_of_several_queues_at_once(connection, channel, fresh_prefix):
    queues = [f"{fresh_prefix}.{number}" for number in range(3)]
    for count, queue in enumerate(queues):
        await channel.declare_queue(queue, arguments={"x-queue-type": "quorum"})
        await asyncio.gather(*(channel.publish("", queue, b"x", named(n)) for n in range(count)))
    other = await connection.channel()
    measured = (other.depth(queue) for queue in (*queues, *reversed(queues)))
    assert await within(asyncio.gather(*measured)) == [0, 1, 2, 2, 1, 0]
    with pytest.raises(NoSuchQueue, match="nowhere"):
        await within(other.depth("nowhere"))


async def test_a_get_that_nobody_waits_for_gives_the_message_back(connection, channel, queue):
    await within(channel.publish("", queue, b"a", named(1)))
    other = await connection.channel()
    getting = asyncio.create_task(other.get(queue))
    await asyncio.sleep(0)
    getting.cancel()
    await asyncio.wait([getting])
    assert await within(other.depth(queue)) == 0
    await ready(channel, queue, 1)


async def test_large_bodies_pass_unharmed(channel, queue):
    body = bytes(range(256)) * 20_000
    await within(channel.publish("", queue, body, named(1)))
    assert (await channel.get(queue)).body == body


# a broker that is silent, or says it is busy


async def test_a_half_open_connection_is_noticed_within_two_heartbeats(proxy):
    async with dialled(proxy.url, heartbeat=1) as connection:
        await asyncio.sleep(2.5)
        assert not connection.closed.done()
        proxy.blackhole()
        began = time.monotonic()
        assert await within(connection.closed) == "the broker was silent for 1.5 s"
        assert time.monotonic() - began < 2.0


async def test_an_answer_that_does_not_come_ends_the_connection(proxy):
    async with dialled(proxy.url, connect_timeout=0.5) as connection:
        channel = await connection.channel()
        proxy.blackhole()
        with pytest.raises(BrokerGone, match=r"did not declare the queue x within 0\.5 s"):
            await within(channel.declare_queue("x"))
        assert "did not declare" in await within(connection.closed)
        with pytest.raises(BrokerGone):
            await connection.channel()


async def test_a_memory_alarm_blocks_and_unblocks(tough_broker):
    async with dialled(tough_broker.url) as connection:
        channel = await connection.channel(confirms=True)
        said = asyncio.Queue()
        connection.on_blocked = said.put_nowait
        await channel.declare_queue("q")
        limit = ("set_vm_memory_high_watermark", "0.00001")
        await asyncio.to_thread(tough_broker.ctl, *limit)
        published = channel.publish("", "q", b"x", named(1))
        assert await within(said.get()) == connection.blocked
        assert "low on memory" in connection.blocked
        assert not published.done()

        async with dialled(tough_broker.url) as other:
            late = await other.channel(confirms=True)
            hanging = late.publish("", "q", b"x", named(2))
            async with asyncio.timeout(DEADLINE):
                while other.blocked is None:
                    await asyncio.sleep(0.01)
            began = time.monotonic()
            await other.close()
            assert time.monotonic() - began < 1
            with pytest.raises(ChannelClosed):
                await within(hanging)

        await asyncio.to_thread(tough_broker.ctl, "set_vm_memory_high_watermark", "0.9")
        assert await within(said.get()) is None
        assert connection.blocked is None
        await within(published)


async def test_closing_does_not_wait_for_a_broker_that_hangs(tough_broker):
    connection = await Connection.dial(options(url=tough_broker.url), "test", LOGGER)
    channel = await connection.channel()
    tough_broker.pause()
    asked = asyncio.create_task(channel.declare_queue("x"))
    await asyncio.sleep(0)
    began = time.monotonic()
    await connection.close()
    assert time.monotonic() - began < 4
    with pytest.raises(ChannelClosed):
        await within(asked)
    await connection.close()
    tough_broker.resume()


async def test_a_user_without_rights_is_refused(tough_broker):
    for words in (["add_user", "weak", "pw"], ["set_permissions", "weak", "^$", ".*", ".*"]):
        await asyncio.to_thread(tough_broker.ctl, *words)
    async with dialled(f"amqp://weak:pw@127.0.0.1:{tough_broker.port}/") as connection:
        channel = await connection.channel()
        with pytest.raises(BrokerRefused, match="does not let us declare the queue x"):
            await channel.declare_queue("x")


async def test_a_broker_that_stops_says_why(own_broker):
    async with dialled(own_broker.url) as connection:
        await asyncio.to_thread(own_broker.stop)
        assert "CONNECTION_FORCED" in await within(connection.closed)
