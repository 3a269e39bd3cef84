"""What a client does with RabbitMQ: it sends tasks, and sees to dead letters."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import msgspec
import pika
import pytest

from fossa.brokers import BrokerError, UnknownDeadLetter, connect
from fossa.errors import TaskRefused
from fossa.tasks import Outcome, Reason, Request, Status
from fossa_rabbitmq import wire
from fossa_rabbitmq.broker import RabbitBroker
from fossa_rabbitmq.connection import BrokerRefused, Connection
from fossa_rabbitmq.letters import AT, DETAIL, NODE, QUEUE, REASON
from fossa_rabbitmq.options import options
from fossa_rabbitmq.topology import declare

DEADLINE = 10.0
FOSSA = [sys.executable, "-m", "fossa"]
SECRET = "s3cr3t-of-ours"
NODE_NAME = wire.NodeName(id="0198f0e0-0000-7000-8000-000000000001", name="ada")


class Fleet:
    """Plays the nodes: the queues are there, and messages are taken, answered and given up."""

    def __init__(self, channel, names):
        self.channel = channel
        self.names = names

    async def take(self, queue=None):
        async with asyncio.timeout(DEADLINE):
            while (found := await self.channel.get(queue or self.names.ordinary)) is None:
                await asyncio.sleep(0.01)
        self.channel.ack(found.delivery_tag)
        return found

    async def publish(self, queue, body, exchange="", **properties):
        about = pika.BasicProperties(delivery_mode=2, **properties)
        async with asyncio.timeout(DEADLINE):
            await self.channel.publish(exchange, queue, body, about)

    async def answer(self, message, outcome, task_id=NODE_NAME.id):
        said = wire.TaskOutcome(task_id=task_id, node=NODE_NAME, outcome=wire.outcome(outcome))
        letter = wire.letter(wire.OUTCOME, said, correlation_id=message.properties.correlation_id)
        await self.channel.publish("", message.properties.reply_to, letter.body, letter.properties)

    async def give_up(self, body=b'{"model": "Nightly"}', headers=None, reason="bad_json", **about):
        """A message in the dead queue, as a node puts it there."""
        why = {
            "fossa-version": "1.0", REASON: reason, DETAIL: "it is not JSON", NODE: "ada",
            QUEUE: self.names.ordinary, AT: repr(1_790_000_000.25), **(headers or {}),
        }  # fmt: skip
        await self.publish(self.names.dead, body, self.names.dead, headers=why, **about)

    async def count(self, queue):
        return await self.channel.depth(queue)


@asynccontextmanager
async def fleet_at(url, prefix, **given):
    given = options(url=url, prefix=prefix, **given)
    connection = await Connection.dial(given, "tests", logging.getLogger("tests"))
    try:
        names = await declare(await connection.channel(), given)
        yield Fleet(await connection.channel(confirms=True), names)
    finally:
        await connection.close()


@pytest.fixture(params=["quorum", "classic"])
async def fleet(request, broker, fresh_prefix):
    async with fleet_at(broker.url, fresh_prefix, queue_type=request.param) as found:
        yield found


@pytest.fixture
async def client(broker, fresh_prefix):
    async with connect(broker.url, prefix=fresh_prefix) as found:
        yield found


@pytest.fixture
def fossa(broker, fresh_prefix):
    """Starts `fossa … --via`; awaiting what it returns gives the ended process."""
    url = broker.url
    env = {k: v for k, v in os.environ.items() if not k.startswith("FOSSA_")}

    async def call(*arguments, given=None, via=url):
        process = await asyncio.create_subprocess_exec(
            *FOSSA, *arguments, "--via-option", f"prefix={fresh_prefix}",
            env={**env, "FOSSA_VIA": via, "COLUMNS": "200"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(30):
            out, err = await process.communicate(given)
        ended = subprocess.CompletedProcess(
            arguments, process.returncode, out.decode(), err.decode()
        )
        assert "Traceback" not in ended.stderr
        return ended

    return call


COMPLETE = Outcome(status=Status.COMPLETE, reason=Reason.RETURNED, result_json=b"[42]", attempt=1)
FAILED = Outcome(
    status=Status.FAILED, reason=Reason.EXCEPTION, message="no luck", error="ValueError",
    traceback=("line 1",),
)  # fmt: skip


# tasks


async def test_a_task_goes_there_and_its_outcome_comes_back(fleet, client):
    sent = await client.submit(Request(model="Nightly", method_kwargs={"month": 3}, retries=2))
    message = await fleet.take()
    request, reply = wire.read_task(message.body, message.properties, 10_000)
    assert reply
    assert (request.model, request.method_kwargs, request.retries) == ("Nightly", {"month": 3}, 2)
    assert request.idempotency_key == sent.id
    assert sent.queue == fleet.names.ordinary
    assert message.properties.delivery_mode == 2
    await fleet.answer(message, COMPLETE)
    said = await client.outcome(sent, DEADLINE)
    assert (said.task_id, said.node, said.node_id) == (NODE_NAME.id, "ada", NODE_NAME.id)
    assert (said.outcome.status, said.outcome.result) == (Status.COMPLETE, [42])


@pytest.mark.parametrize(
    ("priority", "queue"), [(7, "urgent"), (0, "ordinary"), (-1, "background")]
)
async def test_the_priority_chooses_the_queue_and_the_key_is_the_message(
    fleet, client, priority, queue
):
    request = Request(model="Nightly", priority=priority, idempotency_key="k-1")
    sent = await client.submit(request, reply=False)
    message = await fleet.take(getattr(fleet.names, queue))
    assert sent.id == message.properties.message_id == "k-1"
    found, reply = wire.read_task(message.body, message.properties, 10_000)
    assert not reply
    assert message.properties.reply_to is None
    assert found.priority == priority


async def test_outcomes_find_their_submitters_in_any_order(fleet, client):
    sent = [await client.submit(Request(model="Nightly")) for _ in range(3)]
    messages = [await fleet.take() for _ in sent]
    waiting = [asyncio.ensure_future(client.outcome(one, DEADLINE)) for one in sent]
    for place in (2, 0, 1):
        told = msgspec.structs.replace(NODE_NAME, name=f"node-{place}")
        said = wire.TaskOutcome(task_id=None, node=told, outcome=wire.outcome(FAILED))
        about = messages[place].properties
        letter = wire.letter(wire.OUTCOME, said, correlation_id=about.correlation_id)
        await fleet.channel.publish("", about.reply_to, letter.body, letter.properties)
    replies = await asyncio.gather(*waiting)
    assert [reply.node for reply in replies] == ["node-0", "node-1", "node-2"]
    assert replies[0].outcome.message == "no luck"


async def test_the_first_tasks_may_be_submitted_all_at_once(fleet, client):
    sent = await asyncio.gather(*(client.submit(Request(model="Nightly")) for _ in range(3)))
    messages = [await fleet.take() for _ in sent]
    assert len({message.properties.reply_to for message in messages}) == 1
    for message in messages:
        await fleet.answer(message, COMPLETE)
    replies = [await client.outcome(one, DEADLINE) for one in sent]
    assert [reply.outcome.result for reply in replies] == [[42]] * 3


async def test_a_reply_that_no_node_writes_is_told(fleet, client):
    sent = await client.submit(Request(model="Nightly"))
    about = (await fleet.take()).properties
    letter = wire.letter(wire.OUTCOME, b'{"task_id": 3}', correlation_id=about.correlation_id)
    await fleet.channel.publish("", about.reply_to, letter.body, letter.properties)
    with pytest.raises(BrokerError, match="reply cannot be read"):
        await client.outcome(sent, DEADLINE)


async def test_without_a_reply_the_wait_ends_in_time(fleet, client):
    sent = await client.submit(Request(model="Nightly"))
    with pytest.raises(TimeoutError):
        await client.outcome(sent, 0.05)


async def test_who_leaves_takes_no_reply_along(fleet, client):
    """Whoever waits beside them gets it, or they do where they ask again."""
    sent = await client.submit(Request(model="Nightly"))
    message = await fleet.take()
    beside = asyncio.ensure_future(client.outcome(sent, DEADLINE))
    with pytest.raises(TimeoutError):
        await client.outcome(sent, 0.05)
    again = asyncio.ensure_future(client.outcome(sent, DEADLINE))
    await asyncio.sleep(0)
    await fleet.answer(message, COMPLETE)
    assert [r.outcome.result for r in await asyncio.gather(beside, again)] == [[42]] * 2
    with pytest.raises(BrokerError, match="given out once"):
        await client.outcome(sent, DEADLINE)


async def test_a_connection_that_breaks_ends_the_wait_and_says_what_becomes_of_the_task(
    broker, fleet, fresh_prefix, proxy
):
    async with connect(proxy.url, prefix=fresh_prefix) as client:
        sent = await client.submit(Request(model="Nightly"))
        waiting = asyncio.ensure_future(client.outcome(sent, DEADLINE))
        await asyncio.sleep(0)
        proxy.cut()
        with pytest.raises(BrokerError, match="the task goes on without us"):
            await waiting
    assert (await fleet.take()).properties.message_id == sent.id


async def test_where_no_node_ever_was_the_task_is_not_sent(client, fresh_prefix):
    with pytest.raises(BrokerError, match=rf"ever declared the queue {fresh_prefix}\.tasks"):
        await client.submit(Request(model="Nightly"))
    with pytest.raises(BrokerError, match=rf"no queue {fresh_prefix}\.dead"):
        await client.dead_letters()


async def test_arguments_that_are_no_json_are_refused_before_anything_is_sent(fleet, client):
    with pytest.raises(TaskRefused, match="not JSON"):
        await client.submit(Request(model="Nightly", method_kwargs={"x": object()}))
    assert await fleet.count(fleet.names.ordinary) == 0


async def test_a_wrong_password_is_told_without_the_password(broker):
    wrong = broker.url.replace(":guest@", f":{SECRET}@")
    client = connect(wrong)
    assert SECRET not in repr(client)
    with pytest.raises(BrokerRefused) as told:
        async with client:
            pass
    assert SECRET not in str(told.value)


@pytest.mark.parametrize("given", [{"prefx": "x"}, {"url": f"amqp://u:{SECRET}@host:0/"}])
def test_wrong_options_are_told_at_once(given):
    with pytest.raises(BrokerError, match=r"cannot be used so: (prefx|url)") as told:
        RabbitBroker(**{"url": "amqp://host/", **given})
    assert SECRET not in str(told.value)


# dead letters


async def test_a_letter_says_what_the_node_said(fleet, client):
    await fleet.give_up(message_id="m-1", headers={"by": b"\xff", "many": [1, {"a": None}]})
    [letter] = await client.dead_letters()
    assert (letter.id, letter.reason, letter.detail) == ("m-1", "bad_json", "it is not JSON")
    assert (letter.queue, letter.node) == (fleet.names.ordinary, "ada")
    assert (letter.at, letter.model, letter.size) == (1_790_000_000.25, "Nightly", 20)
    assert letter.body == b""
    assert json.loads(json.dumps(letter.headers))["many"] == [1, {"a": None}]
    assert (await client.dead_letter("m-1")).body == b'{"model": "Nightly"}'
    with pytest.raises(UnknownDeadLetter, match="m-2"):
        await client.dead_letter("m-2")


@pytest.mark.parametrize("at", ["nan", "-1", "1e30", "soon", 12, None, ["now"]])
async def test_a_letter_with_odd_headers_is_shown_all_the_same(fleet, client, fossa, at):
    odd = {AT: at, DETAIL: 7, NODE: None, QUEUE: {"a": 1}, "x-death": "no list"}
    await fleet.give_up(message_id="m-1", body=b"[" * 5000, headers=odd)
    [letter] = await client.dead_letters()
    assert letter.at == (12.0 if at == 12 else None)
    assert (letter.detail, letter.node, letter.model) == ("7", "", None)
    with pytest.raises(BrokerError, match="1 stay where they are: m-1"):
        await client.retry(None)
    assert (await fossa("dlq", "list")).returncode == 0
    assert await client.drop(["m-1"]) == 1


async def test_a_letter_says_what_the_broker_said(fleet, client):
    batch = b'{"subtasks": [{"model": "B"}, {"model": "A"}, {"model": "B"}]}'
    await fleet.publish(fleet.names.first_level, batch, message_id="m-1")
    found = await fleet.channel.get(fleet.names.first_level)
    fleet.channel.nack(found.delivery_tag, requeue=False)
    async with asyncio.timeout(DEADLINE):
        while not (letters := await client.dead_letters()):
            await asyncio.sleep(0.02)
    assert letters[0].reason == "rejected"
    assert letters[0].queue == fleet.names.first_level
    assert letters[0].model == "A, B"
    assert letters[0].at == pytest.approx(time.time(), abs=60)


async def test_listing_takes_nothing_away_and_never_holds_anything_back(fleet, client):
    for number in range(25):
        await fleet.give_up(body=b"%d" % number, message_id=f"m-{number}")
    for _ in range(5):
        assert len(await client.dead_letters(limit=20)) == 20
    await _settled(fleet, 25)
    ids = {letter.id for letter in await client.dead_letters(limit=100)}
    assert ids == {f"m-{number}" for number in range(25)}


async def test_what_is_interrupted_leaves_all_of_them_there(
    broker, fleet, fresh_prefix, monkeypatch
):
    for number in range(5):
        await fleet.give_up(message_id=f"m-{number}")
    async with connect(broker.url, prefix=fresh_prefix) as client:
        reached = asyncio.Event()

        async def stuck(*_):
            reached.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(client, "_send_back", stuck)
        retrying = asyncio.ensure_future(client.retry(["m-4"]))
        async with asyncio.timeout(DEADLINE):
            await reached.wait()
        await _settled(fleet, 0)
        retrying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await retrying
        await _settled(fleet, 5)


async def test_a_letter_that_dies_again_at_once_is_not_sent_back_for_ever(
    broker, fleet, client, monkeypatch
):
    """A node that still cannot use it may be quicker than we are."""
    for number in range(3):
        await fleet.give_up(message_id=f"m-{number}")
    await _settled(fleet, 3)
    send_back = client._send_back

    async def and_dies(message):
        await send_back(message)
        await fleet.give_up(message_id=message.properties.message_id)

    monkeypatch.setattr(client, "_send_back", and_dies)
    async with asyncio.timeout(DEADLINE):
        assert 3 <= await client.retry(None) <= 6
    await _settled(fleet, 3)


async def test_copies_of_a_letter_all_go_back(fleet, client):
    for _ in range(4):
        await fleet.give_up(body=b"the same")
    await _settled(fleet, 4)
    assert await client.retry(None) == 4


async def test_a_message_without_an_id_has_one_that_stays(fleet, client):
    await fleet.give_up(body=b"{", correlation_id="1")
    await fleet.give_up(body=b"{", correlation_id="2")
    first = {letter.id for letter in await client.dead_letters()}
    assert first == {letter.id for letter in await client.dead_letters()}
    assert len(first) == 2
    assert await client.drop([first.pop()]) == 1
    assert [letter.id for letter in await client.dead_letters()] == list(first)


async def test_a_retry_goes_back_as_if_it_were_new(fleet, client):
    await fleet.give_up(
        message_id="m-1", correlation_id="c-1", reply_to="nobody", type=wire.TASK, app_id="app",
        user_id="guest", headers={"x-delivery-count": 7, "mine": "kept", "CC": ["other"]},
    )  # fmt: skip
    await fleet.give_up(message_id="m-2")
    assert await client.retry(["m-1"]) == 1
    message = await fleet.take()
    said = message.properties
    assert said.headers.pop("x-delivery-count", 0) == 0  # quorum queues tell it
    assert said.headers == {"fossa-version": "1.0", "mine": "kept"}
    assert (said.message_id, said.correlation_id, said.type) == ("m-1", "c-1", wire.TASK)
    assert (said.reply_to, said.app_id, said.user_id) == ("nobody", "app", None)
    assert message.body == b'{"model": "Nightly"}'
    assert [letter.id for letter in await client.dead_letters()] == ["m-2"]


async def test_a_retry_of_what_the_broker_gave_up_starts_its_count_afresh(broker, fresh_prefix):
    async with (
        fleet_at(broker.url, fresh_prefix, delivery_limit=2) as fleet,
        connect(broker.url, prefix=fresh_prefix) as client,
    ):
        await fleet.publish(fleet.names.ordinary, b'{"model": "Nightly"}', message_id="m-1")
        for _ in range(2):
            async with asyncio.timeout(DEADLINE):
                while not (letters := await client.dead_letters()):
                    if found := await fleet.channel.get(fleet.names.ordinary):
                        fleet.channel.nack(found.delivery_tag)
            assert [letter.reason for letter in letters] == ["delivery_limit"]
            assert await client.retry(None) == 1
        found = await fleet.take()
        assert not found.redelivered
        assert found.properties.headers.get("x-delivery-count", 0) == 0
        assert "x-death" not in found.properties.headers


async def test_a_task_that_crashed_is_another_task_when_it_is_tried_again(fleet, client):
    """A node has it in its ledger with an outcome: by the same id it would only get that."""
    await fleet.give_up(message_id="m-1", reason="crashed")
    assert await client.retry(None) == 1
    message = await fleet.take()
    assert message.properties.message_id == "m-1.retry-1"
    kept = {k: v for k, v in message.properties.headers.items() if k == "fossa-retried"}
    await fleet.give_up(message_id=message.properties.message_id, reason="crashed", headers=kept)
    assert await client.retry(["m-1.retry-1"]) == 1
    assert (await fleet.take()).properties.message_id == "m-1.retry-2"


async def test_long_names_go_into_no_frame(fleet, client):
    """AMQP has room for 255 bytes in a name."""
    await fleet.give_up(message_id="m" * 250, reason="crashed")
    assert await client.retry(None) == 1
    new_id = (await fleet.take()).properties.message_id
    assert new_id.endswith(".retry-1")
    await fleet.give_up(message_id="m-2", headers={QUEUE: "q" * 300})
    with pytest.raises(BrokerError, match="which queue it came from"):
        await client.retry(None)
    with pytest.raises(TaskRefused, match="idempotency_key"):
        await client.submit(Request(model="Nightly", idempotency_key="é" * 128))


async def test_what_cannot_go_back_stays_and_is_told_of(fleet, client):
    await fleet.give_up(message_id="m-1", headers={QUEUE: "gone-for-good"})
    await fleet.give_up(message_id="m-2")
    await fleet.give_up(message_id="m-3", headers={QUEUE: None})
    with pytest.raises(BrokerError, match="1 sent back; 2 stay") as told:
        await client.retry(None)
    assert "gone-for-good" in str(told.value)
    assert "which queue it came from" in str(told.value)
    assert {letter.id for letter in await client.dead_letters()} == {"m-1", "m-3"}
    assert (await fleet.take()).properties.message_id == "m-2"


async def test_a_retry_that_is_killed_between_loses_nothing(broker, fleet, fresh_prefix):
    """Sent and confirmed, but not yet removed: the worst moment."""
    for number in range(3):
        await fleet.give_up(message_id=f"m-{number}")
    program = f"""
import asyncio, os, signal
from fossa_rabbitmq.broker import RabbitBroker
from fossa_rabbitmq.channel import Channel
Channel.ack = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
async def main():
    async with RabbitBroker({broker.url!r}, prefix={fresh_prefix!r}) as client:
        await client.retry(None)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    async with asyncio.timeout(30):
        assert await process.wait() == -signal.SIGKILL
    await _settled(fleet, 3)
    assert await fleet.count(fleet.names.ordinary) == 1
    again = (await fleet.take()).properties.message_id
    assert again in {"m-0", "m-1", "m-2"}


async def test_drop_forgets_what_is_named_and_nothing_else(fleet, client):
    for name in ("a", "b", "b", "c"):
        await fleet.give_up(message_id=name)
    with pytest.raises(UnknownDeadLetter, match=r"no dead letter x .*2 others"):
        await client.drop(["b", "x"])
    assert {letter.id for letter in await client.dead_letters()} == {"a", "c"}
    assert await client.drop(None) == 2
    assert await client.dead_letters() == []


async def _settled(fleet, count):
    """The broker takes note of a dead client in its own time."""
    async with asyncio.timeout(DEADLINE):
        while await fleet.count(fleet.names.dead) != count:
            await asyncio.sleep(0.02)


# the commands


async def test_submit_via_prints_the_message_id(fleet, fossa):
    ended = await fossa("submit", "Nightly", "--arg", "month=3", "--key", "k-1")
    assert (ended.returncode, ended.stdout) == (0, "k-1\n")
    message = await fleet.take()
    assert json.loads(message.body)["method_kwargs"] == {"month": 3}


@pytest.mark.parametrize(("outcome", "status"), [(COMPLETE, 0), (FAILED, 1)])
async def test_submit_via_waits_and_leaves_with_the_outcome(fleet, fossa, outcome, status):
    running = asyncio.ensure_future(fossa("submit", "Nightly", "--wait"))
    await fleet.answer(await fleet.take(), outcome)
    ended = await running
    assert ended.returncode == status
    assert f"task {NODE_NAME.id} on ada {outcome.status} ({outcome.reason})" in ended.stdout
    assert f"Nightly: sent to {fleet.names.ordinary} as " in ended.stderr
    running = asyncio.ensure_future(fossa("submit", "Nightly", "--wait", "--json"))
    await fleet.answer(await fleet.take(), outcome)
    document = json.loads((await running).stdout)
    assert document["node"] == {"name": "ada", "id": NODE_NAME.id}
    assert document["outcome"]["status"] == outcome.status
    assert document["outcome"]["result"] == outcome.result


async def test_a_refusal_is_one_line_without_the_password(broker, fossa):
    wrong = broker.url.replace(":guest@", f":{SECRET}@")
    for arguments in (["submit", "Nightly"], ["dlq", "list"]):
        ended = await fossa(*arguments, via=wrong)
        assert ended.returncode == 2
        assert ended.stderr.startswith("fossa: ")
        assert ended.stderr.count("\n") == 1
        assert SECRET not in ended.stderr + ended.stdout


async def test_dlq_from_end_to_end(fleet, fossa):
    assert "no dead letters" in (await fossa("dlq", "list")).stdout
    await fleet.give_up(message_id="m-1", body=b'{"model": "Nightly", "x": [1]}')
    await fleet.give_up(message_id="m-2", body=b"\x1b[31m{")
    listed = await fossa("dlq", "list")
    assert "m-1" in listed.stdout and "bad_json" in listed.stdout and "Nightly" in listed.stdout
    documents = json.loads((await fossa("dlq", "list", "--json")).stdout)
    assert [d["id"] for d in documents] == ["m-1", "m-2"]
    assert documents[0]["at"].startswith("2026-09-21T")
    shown = await fossa("dlq", "show", "m-1")
    assert "it is not JSON" in shown.stdout
    assert '"x": [' in shown.stdout
    assert json.loads((await fossa("dlq", "show", "m-1", "--json")).stdout)["body"]["x"] == [1]
    assert "\x1b" not in (await fossa("dlq", "show", "m-2")).stdout
    assert (await fossa("dlq", "retry", "m-1")).stdout == "1 dead letter sent back\n"
    assert (await fleet.take()).properties.message_id == "m-1"
    unsure = await fossa("dlq", "drop", "--all", given=b"n\n")
    assert unsure.returncode == 1
    assert await fleet.count(fleet.names.dead) == 1
    assert (await fossa("dlq", "drop", "--all", "--yes")).stdout == "1 dead letter deleted\n"
    gone = await fossa("dlq", "show", "m-2")
    assert gone.returncode == 2
    assert "fossa dlq list" in gone.stderr
