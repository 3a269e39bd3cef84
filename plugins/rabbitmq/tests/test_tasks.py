"""Whole tasks from a client that knows nothing but the page of the wire, and what cannot be one."""

import asyncio
import json
import struct
import time

import far_models
import pika
import pytest
from node_support import PATIENCE, Far, eventually, page

from fossa import Reason, Sink, Status
from fossa.brokers import connect
from fossa_rabbitmq.intake import LOOK_INTERVAL

ECHO = {"model": "Echo", "method": "say", "method_kwargs": {"what": 1}}


class Heard(Sink):
    """Keeps what it was told, in order."""

    required = True

    def __init__(self):
        self.ends = []

    async def take(self, task, outcome):
        self.ends.append((task, outcome))

    def results(self):
        return [outcome.result for _, outcome in self.ends]


def echo(what, **more):
    return {**ECHO, "method_kwargs": {"what": what}, **more}


def gate(tmp_path, name="go"):
    """A task that runs until its gate opens, and the gate."""
    path = tmp_path / name
    return {"model": "Talks", "method": "talk", "method_kwargs": {"go": str(path)}}, path


async def runs_one(node):
    await eventually(lambda: node.governor.status()["running"] == 1)


# tasks and replies


async def test_a_task_is_answered_and_the_sinks_get_it(start_node, client):
    heard = Heard()
    node = await start_node("a", SINKS=[heard])
    task = {
        "model": "Echo",
        "method": "say",
        "method_kwargs": {"what": ["ñ", None, 1.5]},
        "model_construction_kwargs": {"greeting": "hi"},
    }
    reply = await client.ask(task, correlation_id="“c” 1", message_id="m-1")
    assert reply["node"] == {"id": node.governor.id, "name": "a"}
    assert (reply["outcome"]["status"], reply["outcome"]["reason"]) == ("complete", "returned")
    assert reply["outcome"]["result"] == {"greeting": "hi", "what": ["ñ", None, 1.5]}
    assert reply["outcome"]["attempt"] == 1
    assert reply["outcome"]["started"] <= reply["outcome"]["finished"] <= time.time()
    (properties, _), = client.replies["“c” 1"]  # fmt: skip
    assert (properties.type, properties.content_type) == ("fossa.outcome", "application/json")
    assert properties.delivery_mode == 2
    assert properties.headers["fossa-version"] == "1.0"
    (done, outcome), = heard.ends  # fmt: skip
    assert (done.id, done.idempotency_key) == (reply["task_id"], "m-1")
    assert outcome.result == reply["outcome"]["result"]
    record = await node.governor.record(reply["task_id"])
    assert record.status is Status.COMPLETE


async def test_how_a_task_fails_is_told(start_node, client):
    node = await start_node("a")
    failed = (await client.ask({"model": "Fails"}))["outcome"]
    assert (failed["status"], failed["error"]) == ("failed", "ValueError")
    assert failed["message"] == "no such luck"
    assert any("no such luck" in line for line in failed["traceback"])
    late = await client.ask(
        {"model": "Echo", "method": "sleep", "method_kwargs": {"seconds": 20}, "timeout": 0.2},
        correlation_id="2",
    )
    assert late["outcome"]["reason"] == "soft_timeout"
    await client.send({"model": "Echo", "method": "sleep", "method_kwargs": {"seconds": 20}},
                      correlation_id="3")  # fmt: skip
    await runs_one(node)
    await node.governor.cancel(node.governor.running()[0].task.id, "by a test")
    cancelled = (await client.reply("3"))["outcome"]
    assert (cancelled["status"], cancelled["message"]) == ("cancelled", "by a test")
    described = await client.ask({"model": "Returns", "method": "an_object"}, correlation_id="4")
    assert described["outcome"]["result_is_json"] is False


async def test_no_reply_where_none_is_wanted(start_node, client):
    heard = Heard()
    await start_node("a", SINKS=[heard])
    await client.send(echo(1, reply=False), correlation_id="none")
    await client.send(echo(2, reply=False), correlation_id=None, reply_to=None)
    await client.ask(echo(3))
    await eventually(lambda: len(heard.ends) == 3)
    assert sorted(result["what"] for result in heard.results()) == [1, 2, 3]
    assert client.replies.keys() == {"1"}


async def test_a_reply_that_nobody_waits_for_stops_nothing(start_node, client):
    heard = Heard()
    await start_node("a", SINKS=[heard])
    await client.send(echo(1), reply_to="no-such-queue", correlation_id="x")
    assert (await client.ask(echo(2)))["outcome"]["result"]["what"] == 2
    assert [result["what"] for result in heard.results()] == [1, 2]


async def test_priorities_are_served_in_order(start_node, client, tmp_path):
    heard = Heard()
    node = await start_node("a", SINKS=[heard])
    first, go = gate(tmp_path)
    await client.send(first, correlation_id="first")
    await runs_one(node)
    # What comes while it still listens waits here for a moment, and may get the next slot.
    (source,) = node.governor.composition.sources
    await eventually(lambda: not source._intake._channel._consumers)
    for number in range(2):
        for queue in ("tasks.background", "tasks", "tasks.urgent"):
            await client.send(echo(f"{queue} {number}"), queue=queue, correlation_id="other")
    await asyncio.sleep(LOOK_INTERVAL)  # what is there for so long is seen
    go.touch()
    await client.reply("other", 6)
    assert [result["what"] for result in heard.results()[1:]] == [
        "tasks.urgent 0", "tasks.urgent 1", "tasks 0", "tasks 1",
        "tasks.background 0", "tasks.background 1",
    ]  # fmt: skip


# once


async def test_messages_with_one_id_are_one_task(start_node, client, tmp_path):
    node = await start_node("a", SLOTS=3)
    task, go = gate(tmp_path)
    for correlation_id in ("x", "y"):
        await client.send(task, message_id="m-1", correlation_id=correlation_id)
    await client.send(task, message_id="m-2", correlation_id="z")
    await eventually(lambda: node.governor.status()["running"] == 2)
    go.touch()
    x, y, z = [await client.reply(name) for name in "xyz"]
    assert x["task_id"] == y["task_id"] != z["task_id"]
    assert x["outcome"] == y["outcome"]
    # It has ended: what comes now is answered from the ledger.
    later = await client.ask(task, message_id="m-1", correlation_id="later")
    assert (later["task_id"], later["outcome"]) == (x["task_id"], x["outcome"])
    assert len(await page(node)) == 2


async def test_what_is_redelivered_when_it_is_done_is_answered_from_the_ledger(
    start_node, client, proxy, tmp_path
):
    """Its node loses the broker while it runs, and is back when it has long ended."""
    journal = tmp_path / "journal"
    start_node.options.update(url=proxy.url, max_backoff=0.2)
    node = await start_node("a")
    task, go = gate(tmp_path)
    await client.send(task, message_id="m-1")
    await client.send(
        {"model": "Fails", "method": "until",
         "method_kwargs": {"journal": str(journal), "times": 9}},
        message_id="m-2", correlation_id="2",
    )  # fmt: skip
    await runs_one(node)
    (running,) = node.governor.running()
    proxy.refuse()
    proxy.cut()
    await eventually(node.governor.not_ready)
    go.touch()
    async with asyncio.timeout(5):
        assert (await node.governor.outcome(running.task.id)).result == "said"
    proxy.refuse(False)
    reply = await client.reply("1")
    assert (reply["task_id"], reply["outcome"]["result"]) == (running.task.id, "said")
    assert (await client.reply("2"))["outcome"]["error"] == "ValueError"
    assert [r.attempts for r in await page(node)] == [1, 1]
    assert journal.read_text() == "x"
    assert await client.ready("tasks") == 0
    assert [len(client.replies[name]) for name in "12"] == [1, 1]


# models that not every node accepts


async def test_a_task_goes_to_the_node_that_accepts_its_model(start_node, client):
    most = [m for m in far_models.ALL if m.__name__ != "Echo"]
    a = await start_node("a", ACCEPTED_MODEL_CLASSES=most)
    b = await start_node("b", SOURCES=[])  # it accepts everything, and takes nothing yet
    c = await start_node("c", ACCEPTED_MODEL_CLASSES=[*far_models.ALL, far_models.OnlyThere])
    for number in range(6):
        await client.send(
            {"model": "OnlyThere", "method": "echo", "method_kwargs": {"value": number}},
            correlation_id="there", message_id=f"m-{number}", queue="tasks.urgent",
        )  # fmt: skip
    await client.reply("there", 6)
    assert sorted(r["outcome"]["result"] for _, r in client.replies["there"]) == list(range(6))
    assert {r["node"]["name"] for _, r in client.replies["there"]} == {"c"}
    assert len(await page(c)) == 6
    assert await page(a) == await page(b) == []
    await client.delete("model.OnlyThere")


# poison


class Raw(pika.BasicProperties):
    """Properties as bytes."""

    def __init__(self, flags, said):
        super().__init__()
        self.said = struct.pack(">H", flags) + said

    def encode(self):
        return [self.said]


def short(text):
    return bytes([len(text)]) + text


def headers_and_reply(table, client):
    """A message with a table of headers and a queue for the reply."""
    flags = pika.BasicProperties.FLAG_HEADERS | pika.BasicProperties.FLAG_REPLY_TO
    said = struct.pack(">I", len(table)) + table + short(client.queue.encode())
    return Raw(flags, said)


SOMEBODY = {
    "name": "odd", "id": "019a4b3a-0e7f-7c11-8f0a-5b8a4d2c9e10", "booted": 1.5, "versions": {},
    "models": ["Echo"], "slots": 4, "slots_free": 4, "running": 0, "queued": 0, "state": "running",
}  # fmt: skip
LIST = [
    # what, body, properties, reason, what the reply's message has in it (None: there is none)
    ("bad JSON", b"{", {}, "bad_json", "truncated"),
    ("no UTF-8", b'{"model": "\xff"}', {}, "bad_json", "utf-8"),
    ("nothing", b"", {}, "bad_json", "not JSON"),
    ("deep", b"[" * 500_000, {}, "bad_message", "array"),
    ("no object", [ECHO], {}, "bad_message", "array"),
    ("wrong type", {"model": "Echo", "timeout": "1"}, {}, "bad_message", "$.timeout"),
    ("wrong types", {"model": 5, "method": []}, {}, "bad_message", "Expected"),
    ("unknown field", {**ECHO, "colour": "red"}, {}, "bad_message", "colour"),
    ("unknown kind", ECHO, {"type": "fossa.nonsense"}, "bad_message", "fossa.nonsense"),
    ("subtasks", {"node": 1}, {"type": "fossa.subtasks"}, "bad_message", "$.node"),
    ("no queue", b"{", {"reply_to": "no-such-queue"}, "bad_json", None),
    ("no reply_to", ECHO, {"reply_to": None}, "no_reply_to", None),
    ("a newer wire", ECHO, {"headers": {"fossa-version": "2.0"}}, "version", "2.0"),
    ("no version", ECHO, {"headers": {"fossa-version": 7}}, "version", "like 1.0"),
    ("20 MB", b'{"model": "' + b"x" * 20_000_000, {}, "too_large", "20000011 bytes"),
    ("model", {"model": "Ecko"}, {}, "not_accepted", "did you mean 'Echo'?"),
    ("method", {"model": "Echo", "method": "_secret"}, {}, "not_accepted", "_secret"),
    ("constructor", {"model": "Echo", "method": "__init__"}, {}, "not_accepted", "__init__"),
    ("number", {**ECHO, "retries": -1}, {}, "refused", "retries is -1"),
    ("id", ECHO, {"message_id": "m 1"}, "refused", "visible ASCII"),
]


async def test_what_cannot_be_run_is_a_dead_letter_and_the_queue_flows_on(start_node, client):
    node = await start_node("a", SLOTS=2)
    before = time.time()
    for what, body, properties, reason, told in LIST:
        await client.send(body, **{"correlation_id": what, **properties})
        headers, said, letter = await client.dead()
        assert headers["fossa-reason"] == reason, what
        assert headers["fossa-detail"].isprintable()
        assert told is None or told in headers["fossa-detail"], what
        assert (headers["fossa-queue"], headers["fossa-node"]) == (f"{client.prefix}.tasks", "a")
        assert before - 1 <= float(headers["fossa-at"]) <= time.time() + 1
        assert letter == (body if isinstance(body, bytes) else json.dumps(body).encode())
        assert said.correlation_id == what
        assert said.type == properties.get("type")
        if told is not None:
            reply = await client.reply(what)
            assert (reply["task_id"], reply["node"]["name"]) == (None, "a")
            assert (reply["outcome"]["status"], reply["outcome"]["reason"]) == ("failed", "refused")
            assert told in reply["outcome"]["message"]
        assert (await client.ask(ECHO, correlation_id=f"after {what}"))["outcome"]["result"]
    await nothing_is_left(node, client)


async def test_a_dead_letter_whose_queue_somebody_has_deleted(start_node, client):
    """It is made anew, and nothing is held for want of it."""
    node = await start_node("a")
    await client.delete("dead")
    await client.send(b"{")
    async with asyncio.timeout(PATIENCE):
        while not await client.do(there, client, f"{client.prefix}.dead"):
            await asyncio.sleep(0.05)
    headers, _, letter = await client.dead()
    assert (headers["fossa-reason"], letter) == ("bad_json", b"{")
    assert (await client.ask(ECHO, correlation_id="after"))["outcome"]["result"]
    await nothing_is_left(node, client)


def there(client, queue):
    """Whether there is such a queue: a question that ends the channel it is asked on."""
    try:
        client._connection.channel().queue_declare(queue, passive=True)
    except pika.exceptions.ChannelClosedByBroker:
        return False
    return True


async def nothing_is_left(node, client):
    """No message waits, or was held: it would be back once its node is gone."""
    await node.stop()
    for queue in ("tasks", "tasks.urgent", "tasks.background", "subtasks", "nested", "dead"):
        assert await client.ready(queue) == 0


NESTED = b"V"
for _ in range(3000):
    NESTED = b"A" + struct.pack(">I", len(NESTED)) + NESTED
HEADERS = {
    "year 60000": b"\x01xT" + struct.pack(">Q", 1_831_000_000_000),
    "deep": b"\x01x" + NESTED,
    "version as bytes": b"\x0dfossa-versionx" + struct.pack(">I", 2) + b"\xff\xfe",
}


@pytest.mark.parametrize("what", HEADERS)
async def test_headers_that_end_a_client_of_pika_do_not_end_a_node(
    start_node, client, what, caplog
):
    await start_node("a")
    properties = headers_and_reply(HEADERS[what], client)
    await client.do(client._channel.basic_publish, "", f"{client.prefix}.tasks", b"{}", properties)
    headers, _, body = await client.dead()
    assert headers["fossa-reason"] in ("bad_message", "version")
    assert body == b"{}"
    assert (await client.reply(None))["outcome"]["reason"] == "refused"
    assert (await client.ask(ECHO))["outcome"]["status"] == "complete"
    assert "not connected" not in caplog.text


@pytest.mark.parametrize("name", ["reply_to", "message_id", "correlation_id", "type"])
async def test_properties_that_are_no_text(start_node, client, name):
    await start_node("a")
    properties = {"reply_to": client.queue, "correlation_id": "x", name: b"\xff\xfe"}
    await client.send(ECHO, **properties)
    headers, said, _ = await client.dead()
    assert (headers["fossa-reason"], name in headers["fossa-detail"]) == ("bad_message", True)
    assert getattr(said, name) == b"\xff\xfe"
    if name != "reply_to":
        refused = await client.reply(properties["correlation_id"])
        assert refused["outcome"]["reason"] == "refused"
    assert (await client.ask(ECHO))["outcome"]["status"] == "complete"


async def test_what_a_node_itself_fails_at_neither_stays_nor_comes_back(
    start_node, client, monkeypatch, caplog
):
    node = await start_node("a")

    def admit_now(delivery, reservation=None):
        raise ZeroDivisionError("a bug")

    async def admit(delivery, reservation=None):
        admit_now(delivery)

    with monkeypatch.context() as bug:
        bug.setattr(node.governor, "admit_now", admit_now)
        bug.setattr(node.governor, "admit", admit)
        await client.send(ECHO)
        headers, _, _ = await client.dead()
    assert headers["fossa-reason"] == "error"
    assert "ZeroDivisionError" in headers["fossa-detail"]
    assert "Traceback" in caplog.text
    assert (await client.reply())["outcome"]["reason"] == "refused"
    assert (await client.ask(ECHO, correlation_id="2"))["outcome"]["status"] == "complete"
    await nothing_is_left(node, client)


async def test_a_task_that_kills_its_worker_each_time(start_node, client):
    node = await start_node("a", CRASH_ATTEMPTS=2)
    poison = {"model": "Dies", "method": "by_signal", "method_kwargs": {"number": 9}}
    await client.send(poison, correlation_id="poison", message_id="m-1")
    await client.send(ECHO, correlation_id="behind it")
    headers, said, body = await client.dead()
    assert headers["fossa-reason"] == "crashed"
    assert "signal 2 times" in headers["fossa-detail"]
    assert (said.message_id, json.loads(body)) == ("m-1", poison)
    failed = await client.reply("poison")
    assert (failed["outcome"]["reason"], failed["outcome"]["attempt"]) == ("signal", 2)
    assert (await client.reply("behind it"))["outcome"]["status"] == "complete"
    record = await node.governor.record(failed["task_id"])
    assert (record.status, record.outcome.reason) == (Status.FAILED, Reason.SIGNAL)
    await nothing_is_left(node, client)


async def test_a_dead_letter_lives_again(start_node, client, broker, tmp_path):
    """It is looked at, sent back, and run by a real node; another is dropped."""
    await start_node("a", CRASH_ATTEMPTS=1)
    journal = str(tmp_path / "journal")
    once = {"model": "Dies", "method": "die_once", "method_kwargs": {"journal": journal}}
    assert (await client.ask(once, message_id="m-1"))["outcome"]["reason"] == "signal"
    await client.send(b"{", message_id="m-2", reply_to=None)

    async def letters(fossa, count):
        async with asyncio.timeout(8):
            while len(found := await fossa.dead_letters()) < count:
                await asyncio.sleep(0.02)
        return {letter.id: letter for letter in found}

    async with connect(broker.url, prefix=client.prefix) as fossa:
        found = await letters(fossa, 2)
        assert {i: letter.reason for i, letter in found.items()} == {
            "m-1": "crashed",
            "m-2": "bad_json",
        }
        assert (found["m-1"].model, found["m-1"].node) == ("Dies", "a")
        assert json.loads((await fossa.dead_letter("m-1")).body) == once
        assert await fossa.retry(["m-1"]) == 1
        assert (await client.reply("1", 2))["outcome"]["result"] == "survived"
        assert await fossa.drop(["m-2"]) == 1
        assert await fossa.dead_letters() == []


async def test_a_subtask_that_is_poison_does_not_harm_its_siblings(start_node, client):
    b = await start_node("b", alone=True, CRASH_ATTEMPTS=2)
    a = await start_node("a", SOURCES=[], PLUGINS=[Far()])
    subtasks = [["Echo", "say", {"what": 1}], ["Dies", "by_signal", {"number": 9}],
                ["Echo", "say", {"what": 2}]]  # fmt: skip
    handle = await a.submit("Sends", model_construction_kwargs={"subtasks": subtasks})
    assert (await handle.outcome(8)).complete
    ends = [r.outcome for r in reversed(await page(a, parent_id=handle.id))]
    assert [end.reason for end in ends] == [Reason.RETURNED, Reason.SIGNAL, Reason.RETURNED]
    assert len(await page(b)) == 3
    assert await client.ready("dead") == 0


async def test_another_node_that_talks_nonsense_fails_its_own_subtasks_only(start_node, client):
    a = await start_node("a", SOURCES=[], PLUGINS=[Far()])
    here = (json.dumps(SOMEBODY).encode(), pika.BasicProperties(type="fossa.presence"))
    await client.do(client._channel.basic_publish, f"{client.prefix}.control", "", *here)
    await eventually(lambda: len(a.governor.fleet()) == 2)
    subtasks = [["Echo", "say", {"what": number}] for number in range(3)]
    handle = await a.submit("Sends", model_construction_kwargs={"subtasks": subtasks})
    ends = [
        {"status": "complete", "reason": "returned", "result": 7},
        {"status": "running", "reason": "returned"},
        {"status": "complete", "reason": "returned", "result": 9},
    ]
    while ends:
        properties, body = await client.do(client.take, "subtasks")
        items = [
            {"id": subtask["id"], "attempt": 1, "outcome": ends.pop(0)}
            for subtask in json.loads(body)["subtasks"]
        ]
        answer = {"node": json.loads(body)["node"], "outcomes": [*items, {"nobody": 1}]}
        await client.do(
            client._publish,
            properties.reply_to,
            json.dumps(answer).encode(),
            {"type": "fossa.outcomes"},
        )
    assert (await handle.outcome(8)).complete
    found = [r.outcome for r in reversed(await page(a, parent_id=handle.id))]
    assert [end.reason for end in found] == [Reason.RETURNED, Reason.PROTOCOL, Reason.RETURNED]
    assert "running" in found[1].message
    assert [found[0].result, found[2].result] == [7, 9]
