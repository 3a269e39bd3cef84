"""Outcomes as signed requests, to a receiver that may be down, slow, elsewhere or hostile."""

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fossa import ConfigError, FossaError, use
from fossa.builtin.webhook import WebhookSink, is_public
from fossa.composition import compose
from fossa.tasks import Outcome, Reason, Status, Task
from fossa.testing import SinkContract
from support import TestConfig, outcome, running, until

SECRET = "a secret of some length"


class Receiver:
    """A server that keeps what it is sent, and answers as it is told to."""

    def __init__(self):
        self.requests = []
        #: What it answers next: (status, headers), or seconds to wait; 200 when there are no more.
        self.answers = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append((self.path, dict(self.headers), body))
                answer = receiver.answers.pop(0) if receiver.answers else (200, {})
                if isinstance(answer, float):
                    receiver.let_go.wait(answer)
                    answer = (200, {})
                status, headers = answer
                self.send_response(status)
                for name, value in {"Content-Length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.let_go = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook?key=in-the-url"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self):
        self.let_go.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def documents(self):
        return [json.loads(body) for _, _, body in self.requests]


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


def hook(receiver, **options):
    return WebhookSink(receiver.url, **{"allow_private": True, "timeout": 2.0, **options})


class Opened:
    """A sink by itself, open."""

    def __init__(self, sink):
        self.sink = sink

    async def __aenter__(self):
        self.node = await running(SINKS=[]).__aenter__()
        await self.sink.open(self.node.governor)
        return self.sink

    async def __aexit__(self, *_):
        await self.sink.close()
        await self.node.stop()


def ended(status=Status.COMPLETE, **values):
    reason = Reason.RETURNED if status is Status.COMPLETE else Reason.EXCEPTION
    return Outcome(status=status, reason=reason, started=1.0, finished=2.0, **values)


TASK = Task(id="01a20b95-9e10-745d-a811-fd4bc19248f5", model="Nightly", accepted=0.5)


class TestWebhookSink(SinkContract):
    @pytest.fixture(autouse=True)
    def _receiver(self, receiver):
        self.receiver = receiver

    def make(self):
        return hook(self.receiver)

    async def read(self):
        return [document["task_id"] for document in self.receiver.documents]


async def test_each_outcome_of_a_node_is_posted(receiver):
    sink = use("webhook", url=receiver.url, secret=SECRET, allow_private=True)
    async with running(SINKS=[sink]) as node:
        await outcome(node, "Echo", "say", method_kwargs={"what": "ünïcode"})
        await outcome(node, "Fails")
        await until(lambda: len(receiver.requests) == 2)
    first, second = receiver.documents
    assert (first["model"], first["status"]) == ("Echo", "complete")
    assert first["result"]["what"] == "ünïcode"
    assert (second["status"], second["error"]) == ("failed", "ValueError")
    for path, headers, body in receiver.requests:
        assert path == "/hook?key=in-the-url"
        assert headers["Content-Type"] == "application/json"
        document = json.loads(body)
        assert headers["webhook-id"] == document["task_id"]
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        digest = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
        assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


async def test_a_secret_may_be_written_as_its_standard_says(receiver):
    # The example of https://www.standardwebhooks.com, checked with its own libraries' secret.
    key = b"0123456789abcdef0123456789abcdef"
    secret = "whsec_" + base64.b64encode(key).decode()
    async with Opened(hook(receiver, secret=secret)) as sink:
        await sink.take(TASK, ended())
    _, headers, body = receiver.requests[0]
    signed = f"{TASK.id}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


async def test_nothing_is_signed_without_a_secret(receiver):
    async with Opened(hook(receiver, headers={"Authorization": "Bearer x"})) as sink:
        await sink.take(TASK, ended())
    _, headers, _ = receiver.requests[0]
    assert "webhook-signature" not in headers
    assert headers["Authorization"] == "Bearer x"


async def test_only_the_statuses_that_are_asked_for(receiver):
    async with Opened(hook(receiver, on=["failed", "cancelled"])) as sink:
        for status in (Status.COMPLETE, Status.FAILED, Status.CANCELLED):
            await sink.take(TASK, ended(status))
    assert [document["status"] for document in receiver.documents] == ["failed", "cancelled"]


@pytest.mark.parametrize("answer", [(503, {}), (429, {"Retry-After": "0"}), (500, {}), 30.0])
async def test_what_may_pass_is_tried_again(receiver, monkeypatch, answer):
    monkeypatch.setattr("fossa.builtin.webhook.FIRST_DELAY", 0.01)
    receiver.answers = [answer, answer]
    async with Opened(hook(receiver, timeout=0.3)) as sink:
        await sink.take(TASK, ended())
    assert len(receiver.requests) == 3
    assert len({headers["webhook-id"] for _, headers, _ in receiver.requests}) == 1


async def test_what_does_not_pass_is_told(receiver, monkeypatch):
    monkeypatch.setattr("fossa.builtin.webhook.FIRST_DELAY", 0.01)
    receiver.answers = [(503, {})] * 9
    async with Opened(hook(receiver)) as sink:
        with pytest.raises(FossaError) as raised:
            await sink.take(TASK, ended())
    assert str(raised.value) == f"http://127.0.0.1:{receiver.port} did not take it: it answered 503"
    assert len(receiver.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 410])
async def test_what_is_refused_is_not_tried_again(receiver, status):
    receiver.answers = [(status, {})]
    async with Opened(hook(receiver)) as sink:
        with pytest.raises(FossaError, match=f"answered {status}: it will not take"):
            await sink.take(TASK, ended())
    assert len(receiver.requests) == 1


async def test_redirects_are_not_followed(receiver):
    receiver.answers = [(302, {"Location": "/elsewhere"})]
    async with Opened(hook(receiver)) as sink:
        with pytest.raises(FossaError, match="a redirect, and these are not followed") as raised:
            await sink.take(TASK, ended())
    assert len(receiver.requests) == 1
    assert "in-the-url" not in str(raised.value)


async def test_a_receiver_that_is_not_there(receiver):
    receiver.close()
    async with Opened(hook(receiver, tries=1)) as sink:
        with pytest.raises(FossaError, match="did not take it: Cannot connect to host"):
            await sink.take(TASK, ended())


async def test_a_result_that_is_too_long_is_left_out(receiver):
    async with Opened(hook(receiver)) as sink:
        await sink.take(TASK, ended(result_json=json.dumps("x" * (1 << 20)).encode()))
    [document] = receiver.documents
    assert (document["result"], document["result_left_out"]) == (None, True)


async def test_a_required_hook_holds_the_task_until_it_took_it(receiver):
    receiver.answers = [(500, {})]
    sink = hook(receiver, required=True, tries=1)
    async with running(SINKS=[sink]) as node:
        await outcome(node, "Echo", "say", method_kwargs={"what": 1})
        await until(lambda: len(receiver.requests) == 2)
        await until(lambda: not node.governor.not_ready())


# where it may not go


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]",
     "0.0.0.0", "127.1", "2130706433", "0x7f000001", "[fd00::1]", "[64:ff9b::7f00:1]"],
)  # fmt: skip
async def test_private_addresses_are_refused(receiver, host):
    url = f"http://{host}:{receiver.port}/"
    try:
        sink = WebhookSink(url, timeout=2.0, tries=1)
    except ConfigError as error:
        said = str(error)
    else:
        async with Opened(sink):
            with pytest.raises(FossaError) as raised:
                await sink.take(TASK, ended())
        said = str(raised.value)
    # Of an address that is written in an odd way, aiohttp will have nothing.
    odd = "is not a canonical IPv4 address" in said
    assert odd or "no public address: set allow_private=True" in said
    assert receiver.requests == []


@pytest.mark.parametrize(
    ("address", "public"),
    [("1.1.1.1", True), ("2606:4700::1111", True), ("192.168.0.1", False), ("224.0.0.1", False),
     ("100.64.0.1", False), ("2002:7f00:1::", False), ("fe80::1%eth0", False),
     ("64:ff9b::101:101", True), ("0.0.0.0", False), ("::", False), ("169.254.169.254", False),
     ("::ffff:169.254.169.254", False), ("::ffff:10.0.0.1", False), ("::ffff:1.1.1.1", True),
     ("255.255.255.255", False), ("ff02::1", False), ("fd00:ec2::254", False)],
)  # fmt: skip
def test_which_addresses_are_public(address, public):
    assert is_public(address) is public


class Names:
    """Has names lead to these addresses, one lookup after another; no packet leaves."""

    def __init__(self, monkeypatch, *lookups):
        self.lookups, self.asked, self.reached = list(lookups), [], []
        monkeypatch.setattr("aiohttp.ThreadedResolver.resolve", self._resolve)
        monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", self._connect)

    async def _resolve(self, host, port=0, family=0):
        self.asked.append(host)
        return [
            {"hostname": host, "host": address, "port": port, "family": socket.AF_INET,
             "proto": 0, "flags": socket.AI_NUMERICHOST}
            for address in self.lookups.pop(0)
        ]  # fmt: skip

    async def _connect(self, addr_infos, **_):
        self.reached += [info[4][0] for info in addr_infos]
        raise ConnectionRefusedError("nobody is there")


async def test_the_address_that_was_checked_is_the_one_that_is_reached(monkeypatch):
    # It leads to a public address when it is looked up, and to this computer from then on.
    names = Names(monkeypatch, ["1.1.1.1"], ["127.0.0.1"], ["127.0.0.1"])
    async with Opened(WebhookSink("http://rebinding.example/", tries=1)) as sink:
        with pytest.raises(FossaError, match="did not take it: Cannot connect"):
            await sink.take(TASK, ended())
        assert names.asked == ["rebinding.example"]
        assert names.reached == ["1.1.1.1"]
        sink._session.connector.clear_dns_cache()
        with pytest.raises(FossaError, match=r"rebinding\.example is at 127\.0\.0\.1, which is no"):
            await sink.take(TASK, ended())
    assert names.reached == ["1.1.1.1"]


async def test_of_several_addresses_only_public_ones_are_reached(monkeypatch):
    mixed = ["10.0.0.1", "1.1.1.1", "169.254.169.254", "::ffff:127.0.0.1"]
    names = Names(monkeypatch, mixed)
    async with Opened(WebhookSink("https://mixed.example/", tries=1)) as sink:
        with pytest.raises(FossaError, match="did not take it"):
            await sink.take(TASK, ended())
    assert names.reached == ["1.1.1.1"]


async def test_no_proxy_of_the_environment_is_asked(receiver, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{receiver.port}")
    names = Names(monkeypatch, ["1.1.1.1"])
    async with Opened(WebhookSink("http://public.example/", tries=1)) as sink:
        with pytest.raises(FossaError):
            await sink.take(TASK, ended())
    assert (names.reached, receiver.requests) == (["1.1.1.1"], [])


async def test_tries_are_ever_further_apart(receiver, monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr("fossa.builtin.webhook.random.uniform", lambda low, high: high)
    async with Opened(hook(receiver, tries=7)) as sink:
        receiver.answers = [(503, {})] * 4 + [
            (429, {"Retry-After": "3"}),
            (429, {"Retry-After": "9"}),
        ]
        sink._sleep = sleep
        await sink.take(TASK, ended())
    assert slept == [0.5, 1, 2, 4, 5, 5]


# options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": 5}, "url is of type int"),
        ({"url": "ftp://example.com"}, "url has no http:// or https:// with a host"),
        ({"url": "https:///x"}, "url has no http:// or https:// with a host"),
        ({"url": "https://example.com:99999/"}, "url has a mistake"),
        ({"url": "https://u:pass-word@example.com/"}, "url has a user or a password in it"),
        ({"secret": "short"}, "secret is shorter than 16 bytes"),
        ({"secret": "whsec_*"}, "secret begins with whsec_ and is not base64"),
        ({"secret": b"x" * 20}, "secret is of type bytes"),
        ({"on": "failed"}, "on is 'failed': it should be a list of complete, failed, cancelled"),
        ({"on": []}, "on is []"),
        ({"on": [["x"]]}, "on is [['x']]"),
        ({"headers": {"X": "a\r\nB: c"}}, "headers has 'X', of which name or value"),
        ({"headers": ["x"]}, "headers is of type list"),
        ({"timeout": 0}, "timeout is 0: it should be a number from 0.1 to 300"),
        ({"tries": 1.5}, "tries is 1.5: it should be a whole number from 1 to 20"),
    ],
)
def test_wrong_options_are_told(options, said):
    given = {"url": "https://example.com/", **options}
    with pytest.raises(ConfigError) as raised:
        WebhookSink(**given)
    assert said in str(raised.value)
    assert "pass-word" not in str(raised.value)


def test_its_mistakes_are_among_the_configs():
    with pytest.raises(ConfigError, match="url is of type int"):
        compose(TestConfig, SINKS=[use("webhook", url=5)])


def test_a_secret_is_in_no_repr():
    sink = use("webhook", url="https://example.com/", secret=SECRET)
    composition = compose(TestConfig, SINKS=[sink])
    assert SECRET not in repr(composition)
    assert SECRET not in repr(composition.sinks)


async def test_closing_ends_what_is_under_way(receiver):
    receiver.answers = [30.0]
    opened = Opened(hook(receiver, timeout=20.0))
    async with opened as sink:
        taking = asyncio.create_task(sink.take(TASK, ended()))
        await until(lambda: receiver.requests)
        taking.cancel()
        await asyncio.wait([taking], timeout=5)
        assert taking.cancelled()
