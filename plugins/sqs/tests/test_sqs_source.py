"""Messages, good and bad, through a node; and a network that loses, delays and refuses."""

import asyncio
import json
import time
from uuid import uuid4

import pytest
from aiohttp import ClientSession, web
from sqs_support import Word, emptied, running, say, source, until

from fossa import ConfigError, FossaError, LeaseOver, settling
from fossa.testing import MemorySink
from fossa_sqs.message import Held
from fossa_sqs.source import SqsSource


def reason(letter):
    return letter["MessageAttributes"]["fossa-reason"]["StringValue"]


BAD = {
    "bad_json": "{no json",
    "bad_message": {"model": 7},
    "not_accepted": {"model": "Unknown"},
    "refused": {"model": "Word", "method": "say", "method_kwargs": {"word": "x"}, "timeout": -1},
    "too_large": say("x" * 3000),
    "reply_to": say("x"),
}


@pytest.mark.parametrize("why", BAD)
async def test_a_bad_message_is_a_dead_letter_and_the_queue_flows_on(queues, why):
    url = queues.make()
    more = {"reply_to": "http://127.0.0.1:1/0/elsewhere"} if why == "reply_to" else {}
    lost = queues.send(url, BAD[why], **more)
    queues.send(url, say("after"))
    options = {"not_accepted": "dead_letter", "max_message_bytes": 2000}
    async with running(source(queues, url, **options)) as node:
        await emptied(queues, url)
        [record] = await node.governor.page()
        assert record.outcome.result == "after"
    [letter] = queues.take_all(queues.dead(url))
    assert reason(letter) == why
    assert json.loads(letter["MessageAttributes"]["fossa-origin"]["StringValue"])["id"] == lost
    assert letter["MessageAttributes"]["fossa-detail"]["StringValue"]


async def test_an_unknown_field_is_a_mistake(queues):
    url = queues.make()
    queues.send(url, say("x", priorty=1))
    async with running(source(queues, url)):
        await emptied(queues, url)
    [letter] = queues.take_all(queues.dead(url))
    assert "priorty" in letter["MessageAttributes"]["fossa-detail"]["StringValue"]


async def test_without_dead_letters_what_is_bad_is_deleted_and_logged(queues, caplog):
    url = queues.make(dead=False)
    queues.send(url, "{")
    async with running(source(queues, url, dead_letters=False)):
        await emptied(queues, url)
    assert "is deleted" in caplog.text


async def test_a_model_for_another_node_is_left_to_it(queues):
    url = queues.make(receives=1000)
    queues.send(url, {"model": "Elsewhere", "method": "say", "method_kwargs": {"word": "here"}})

    class Elsewhere(Word):
        pass

    async with (
        running(source(queues, url, leave_pause=0, max_receives=1000)),
        running(
            source(queues, url, leave_pause=0, max_receives=1000),
            ACCEPTED_MODEL_CLASSES=(Elsewhere,),
        ) as other,
    ):
        await until(lambda: queues.counts(url) == (0, 0))
        [record] = await other.governor.page()
        assert record.outcome.result == "here"
    assert not queues.take_all(queues.dead(url))


async def test_a_model_that_no_node_accepts_is_left_so_often(queues):
    url = queues.make()
    queues.send(url, {"model": "Unknown"})
    async with running(source(queues, url, leave_pause=0, max_receives=3)):
        await emptied(queues, url)
    [letter] = queues.take_all(queues.dead(url))
    assert reason(letter) == "not_accepted"


async def test_a_task_that_kills_its_worker_is_a_dead_letter(queues):
    url = queues.make()
    queues.send(url, {"model": "Word", "method": "die"})
    queues.send(url, say("after"))
    async with running(source(queues, url), inline=False, CRASH_ATTEMPTS=2) as node:
        await emptied(queues, url)
        ended = {r.task.method: r.outcome.reason for r in await node.governor.page()}
    assert (ended["say"], ended["die"].crash) == ("returned", True), ended
    [letter] = queues.take_all(queues.dead(url))
    assert reason(letter) == "crashed"


async def test_a_task_that_ends_node_after_node_is_a_dead_letter(queues):
    url, replies = queues.make(), queues.make(dead=False)
    queues.send(url, {"model": "Word", "method": "die"}, reply_to=replies)
    for _ in range(3):  # nodes that took it and died
        queues.take_one(url)
    async with running(source(queues, url, max_receives=3, reply_queues=[replies])) as node:
        await emptied(queues, url)
        assert await node.governor.page() == []
    [letter] = queues.take_all(queues.dead(url))
    assert reason(letter) == "received_too_often"
    assert "received 4 times" in letter["MessageAttributes"]["fossa-detail"]["StringValue"]
    [reply] = queues.take_all(replies)
    assert json.loads(reply["Body"])["outcome"]["status"] == "failed"


async def test_a_task_that_is_received_too_often_and_has_ended_is_answered_from_the_ledger(
    queues, tmp_path
):
    """Its nodes could not delete it, or answer: that it ran is no reason to say that it failed."""
    url, replies = queues.make(), queues.make(dead=False)
    known = {"idempotency_key": "k-1", "reply_to": replies}
    options = {"max_receives": 3, "reply_queues": [replies]}
    durable = {"STATE_DIR": tmp_path, "LEDGER": "sqlite"}
    queues.send(url, say("once"), **known)
    async with running(source(queues, url, **options), **durable):
        await emptied(queues, url)
    queues.take_all(replies)
    queues.send(url, say("once"), **known)
    for _ in range(3):
        queues.take_one(url)
    async with running(source(queues, url, **options), **durable) as again:
        await emptied(queues, url)
        assert len(await again.governor.page()) == 1
    assert not queues.take_all(queues.dead(url))
    [reply] = queues.take_all(replies)
    assert json.loads(reply["Body"])["outcome"]["result"] == "once"


async def test_an_outcome_that_a_required_sink_refuses_is_a_dead_letter(queues, monkeypatch):
    monkeypatch.setattr(settling, "FIRST_DELAY", 0.01)
    url, replies = queues.make(), queues.make(dead=False)
    sink = MemorySink(required=True, failures=settling.TRIES)
    queues.send(url, say("hello"), reply_to=replies)
    async with running(source(queues, url, reply_queues=[replies]), SINKS=[sink]):
        await emptied(queues, url)
    [letter] = queues.take_all(queues.dead(url))
    assert reason(letter) == "sink_refused"
    [reply] = queues.take_all(replies)
    assert json.loads(reply["Body"])["outcome"]["result"] == "hello"


async def test_what_waits_here_for_a_slot_goes_back_for_other_nodes(queues):
    url = queues.make()
    async with running(source(queues, url), inline=False, SLOTS=1) as a:
        for number in range(30):  # from now on it receives some milliseconds of work ahead
            queues.send(url, say(number))
        await emptied(queues, url)
        for word in [{"model": "Word", "method": "sleep", "method_kwargs": {"seconds": 6}},
                     *map(say, "abcdefgh")]:  # fmt: skip
            queues.send(url, word)
        async with running(source(queues, url), inline=False, SLOTS=1) as b:
            async with asyncio.timeout(10):
                while len(await b.governor.page()) < 7:
                    await asyncio.sleep(0.05)
            assert a.governor.status()["running"] == 1
        await emptied(queues, url)


async def test_what_a_receive_brings_to_a_node_that_stops_goes_back_at_once(queues):
    url = queues.make()
    async with Faults(queues.endpoint) as faults:
        async with running(source(queues, url, endpoint_url=faults.url, poll=3)) as node:
            await until(lambda: faults.under_way == "ReceiveMessage")
            await asyncio.sleep(0.3)  # it is the long one
            stopping = asyncio.create_task(node.stop())
            await until(lambda: node.governor.status()["state"] != "running")
            queues.send(url, say("late"))
            await stopping
        assert "late" not in Word.said
        assert queues.counts(url) == (1, 0)


async def test_the_sender_gets_a_reply(queues):
    url, replies = queues.make(), queues.make(dead=False)
    more = {"reply_to": replies, "correlation_id": "c-1"}
    queues.send(url, say("hello"), **more)
    async with running(source(queues, url, reply_queues=[replies])):
        await emptied(queues, url)
    [reply] = queues.take_all(replies)
    said = json.loads(reply["Body"])
    assert (said["outcome"]["status"], said["outcome"]["result"]) == ("complete", "hello")
    assert reply["MessageAttributes"]["correlation_id"]["StringValue"] == "c-1"


async def test_one_key_is_one_task(queues):
    url = queues.make()
    for _ in range(3):
        queues.send(url, say("once"), idempotency_key="k-1")
    async with running(source(queues, url)) as node:
        await emptied(queues, url)
        assert len(await node.governor.page()) == 1


async def test_a_group_runs_in_order(queues):
    url = queues.make(fifo=True)
    Word.said.clear()
    for number in range(5):
        queues.send(url, say(number))
    async with running(source(queues, url, poll=1)):
        await emptied(queues, url)
    assert Word.said == [0, 1, 2, 3, 4]


async def test_a_long_task_keeps_its_message(queues):
    url = queues.make()
    queues.send(url, {"model": "Word", "method": "sleep", "method_kwargs": {"seconds": 5}})
    async with running(source(queues, url, visibility_timeout=3), inline=False) as node:
        await emptied(queues, url)
        [record] = await node.governor.page()
        assert (record.attempts, record.outcome.result) == (1, 5)
    assert not queues.take_all(queues.dead(url))


async def test_twelve_hours_are_the_end(queues):
    url = queues.make()
    given = source(queues, url)
    async with running(given):
        held = Held({"MessageId": "1", "ReceiptHandle": "h"}, arrived=time.monotonic() - 12 * 3600)
        with pytest.raises(LeaseOver, match="12 hours"):
            await given._guests._lease(held).renew()


# a faulty network


class Faults:
    """A proxy before the server: `plan` says what befalls an operation, and how often."""

    def __init__(self, target):
        self.target = target
        self.plan = {}
        self.seen = []
        #: The operation that the server has not answered yet.
        self.under_way = None

    def next(self, operation):
        kind, left = self.plan.get(operation, (None, 0))
        if left:
            self.plan[operation] = (kind, left - 1)
        return kind if left else None

    async def handle(self, request):
        operation = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        kind, body = self.next(operation), await request.read()
        self.seen.append((operation, kind))
        if kind in ("ThrottlingException", "ExpiredTokenException"):
            said = {"__type": f"com.amazon.coral#{kind}", "message": "as planned"}
            return web.json_response(said, status=400)
        if kind == "500":
            return web.Response(status=500, text="broken")
        if kind == "reset":
            request.transport.abort()
            return web.Response()
        if kind == "failed":
            entries = json.loads(body)["Entries"]
            failed = [
                {"Id": e["Id"], "SenderFault": False, "Code": "InternalError"} for e in entries
            ]
            return web.json_response({"Successful": [], "Failed": failed})
        headers = {k: v for k, v in request.headers.items() if k.lower() != "content-length"}
        self.under_way = operation
        async with self.session.post(self.target + request.path, data=body, headers=headers) as got:
            answer = await got.read()
        self.under_way = None
        if kind == "lost":
            request.transport.abort()
            return web.Response()
        return web.Response(
            status=got.status, body=answer, headers={"Content-Type": got.headers["Content-Type"]}
        )

    async def __aenter__(self):
        self.session = ClientSession()
        app = web.Application(client_max_size=1 << 22)
        app.router.add_route("*", "/{path:.*}", self.handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_):
        await self.session.close()
        await self._runner.cleanup()


KINDS = ["ThrottlingException", "ExpiredTokenException", "500", "reset"]
OPERATIONS = ["ReceiveMessage", "DeleteMessageBatch", "GetQueueAttributes"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_fault_passes_and_each_message_runs_once(queues, kind, operation):
    url = queues.make()
    Word.said.clear()
    for number in range(3):
        queues.send(url, say(number))
    async with Faults(queues.endpoint) as faults:
        faults.plan[operation] = (kind, 2)
        async with running(source(queues, url, endpoint_url=faults.url)):
            await emptied(queues, url)
        assert (operation, kind) in faults.seen
    assert sorted(Word.said) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["lost", "failed"])
async def test_a_delete_that_fails_or_whose_answer_is_lost(queues, kind):
    url = queues.make()
    Word.said.clear()
    queues.send(url, say("once"))
    async with Faults(queues.endpoint) as faults:
        faults.plan["DeleteMessageBatch"] = (kind, 1)
        async with running(source(queues, url, endpoint_url=faults.url)):
            await emptied(queues, url)
        assert ("DeleteMessageBatch", kind) in faults.seen
    assert Word.said == ["once"]


async def test_what_could_not_be_deleted_is_answered_from_the_ledger(queues):
    url = queues.make()
    Word.said.clear()
    queues.send(url, say("once"))
    async with Faults(queues.endpoint) as faults:
        faults.plan |= {"DeleteMessageBatch": ("500", 1), "DeleteMessage": ("500", 6)}
        given = source(queues, url, endpoint_url=faults.url, visibility_timeout=6)
        async with running(given):
            await emptied(queues, url)
        assert faults.plan["DeleteMessage"] == ("500", 0)
    assert Word.said == ["once"]


# what is wrong of a config


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "queue is missing"),
        ({"queue": 7}, "queue is 7"),
        ({"queue": "q", "regoin": "x"}, "did you mean region"),
        ({"queue": "q", "region": "mars"}, "region is 'mars'"),
        ({"queue": "q", "visibility_timeout": 1}, "visibility_timeout is 1"),
        ({"queue": "q", "reply_queues": "http://x/q"}, "a list of queues' URLs"),
        ({"queue": "q", "endpoint_url": "http://me:secret@x"}, "with no user and password"),
        ({"queue": "q", "not_accepted": "drop"}, "'leave' or 'dead_letter'"),
    ],
)
def test_an_option_that_is_wrong_is_named(options, says):
    with pytest.raises(ConfigError, match=says) as raised:
        SqsSource(**options)
    assert "secret" not in str(raised.value)


async def _start(*sources):
    async with running(*sources):
        pass


async def test_no_queue(queues):
    with pytest.raises(FossaError, match="there is no queue missing"):
        await _start(source(queues, "missing"))


async def test_no_dead_letter_queue(queues):
    with pytest.raises(FossaError, match="has no dead-letter queue"):
        await _start(source(queues, queues.make(dead=False)))


async def test_no_region(queues):
    with pytest.raises(FossaError, match="region is missing"):
        await _start(source(queues, f"q-{uuid4().hex}", region=None))


async def test_no_credentials(queues, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(FossaError, match="there are no credentials"):
        await _start(source(queues, "q"))
