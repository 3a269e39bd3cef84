"""Real nodes of `ayeaye-fossa` 0.0.37: what we write, they read; and clusters of both versions.

The nodes come from the environment `.venv-0.0.37`, which `make test` makes.
"""

import asyncio
import contextlib
import json
import os

import legacy_node
import pika
import pytest
from legacy_support import LIMIT, LegacyNode, Wire, attempt, complete, failed
from node_support import Far

from fossa import BaseConfig, Fossa, Reason, Status, new_id, use
from fossa_rabbitmq.legacy import QUEUE, Repeats, Turn, decode_task, encode_subtask, turn_of, unread
from fossa_rabbitmq.legacy_replies import decode_reply, encode_reply
from fossa_rabbitmq.testing.broker import PrivateBroker, installed


@pytest.fixture(scope="module")
def lone_broker(tmp_path_factory):
    """A broker whose `fossa_task_queue` nobody else uses: its name cannot be another."""
    if not installed():
        text = "no RabbitMQ here: install rabbitmq-server (Debian)"
        pytest.fail(text, pytrace=False) if os.environ.get("CI") else pytest.skip(text)
    with PrivateBroker(tmp_path_factory.mktemp("broker")) as mine:
        yield mine


@pytest.fixture
def wire(lone_broker):
    with Wire(lone_broker.url) as client:
        yield client


@pytest.fixture
def legacy(lone_broker, tmp_path):
    """Starts nodes of 0.0.37; they are stopped after the test."""
    nodes = []

    def start(role="worker"):
        nodes.append(LegacyNode(tmp_path / f"legacy-{len(nodes)}", lone_broker.url, role))
        return nodes[-1].__enter__()

    yield start
    for node in nodes:
        node.__exit__()


def ask(wire, letter):
    """Publish a subtask and wait for its outcome."""
    wire.publish(QUEUE, letter.body, letter.properties)
    return decode_reply(*wire.take(wire.replies), LIMIT)


def test_a_node_of_0_0_37_runs_what_we_write(legacy, wire):
    legacy("worker")
    arguments = {
        "method_kwargs": {"number": 4},
        "partition_initialise_kwargs": {"offset": 1},
        "resolver_context": {"colour": "rosé"},
    }
    good = attempt(arguments=arguments, timeout=5.0, retries=2)
    reply = ask(wire, encode_subtask(good, wire.replies))
    assert turn_of(reply.correlation_id) == Turn(good.task.id, 1, 1)
    assert reply.outcome.result["square"] == 17
    assert reply.outcome.result["where"] == "a node of 0.0.37"
    coloured = ask(
        wire, encode_subtask(attempt(method="colour", arguments=arguments), wire.replies)
    )
    assert coloured.outcome.result == "rosé/4"
    plain = attempt("Greeting", "greet", arguments={"method_kwargs": {"name": "you"}})
    assert ask(wire, encode_subtask(plain, wire.replies)).outcome.result == "hello, you"
    bad = ask(wire, encode_subtask(attempt(method="broken"), wire.replies)).outcome
    assert (bad.reason, bad.error) == (Reason.EXCEPTION, "ValueError")


def test_a_parent_on_0_0_37_takes_what_we_reply(legacy, wire, tmp_path):
    node = legacy("parent")
    report = tmp_path / "report.json"
    task_id = node.submit("Tolerant", report=str(report), count=4)
    repeats, seen = Repeats(), []
    for _ in range(4 + 2):  # the two that fail come again
        body, properties = wire.take(QUEUE)
        task = decode_task(body, properties, LIMIT)
        seen.append(repeats.request(task, redelivered=False))
        number = task.request.method_kwargs["number"]
        outcome = complete(number * 10) if number % 2 == 0 else failed(Reason.SIGNAL, message="ow")
        letter = encode_reply(task, outcome, new_id())
        wire.publish(task.reply_to, letter.body, letter.properties)
    assert node.ended(task_id)["status"] == "complete"
    ow = ["<class 'fossa.signal'>", "ow"]
    assert json.loads(report.read_text())["done"] == [[0, 0], [1, ow], [2, 20], [3, ow]]
    assert len({request.idempotency_key for request in seen}) == 6


def test_a_parent_on_0_0_37_hears_that_its_task_was_refused(legacy, wire):
    node = legacy("parent")
    task_id = node.submit("Squares", count=1)
    for _ in range(2):
        _, properties = wire.take(QUEUE)
        letter = encode_reply(unread(properties), failed(Reason.REFUSED, message="not here"))
        wire.publish(properties.reply_to, letter.body, letter.properties)
    results = node.ended(task_id)["results"]
    assert results["type"] == "TaskFailed"
    assert results["payload"]["exception_class_name"].endswith("SubTaskFailed'>")


def test_the_queue_of_a_parent_that_is_gone_takes_no_reply(legacy, wire):
    node = legacy("parent")
    node.submit("Squares", count=1)
    task = decode_task(*wire.take(QUEUE), LIMIT)
    node.kill()
    letter = encode_reply(task, complete(1))
    wire.gone(task.reply_to)  # the broker notices the closed socket in its own time
    with pytest.raises(pika.exceptions.UnroutableError):
        wire.publish(task.reply_to, letter.body, letter.properties)


def test_what_a_node_of_0_0_37_runs_when_it_dies_is_lost(legacy, wire):
    """Why whoever sends it a subtask needs a deadline: it acknowledges before it runs."""
    node = legacy("worker")
    slow = attempt(
        arguments={"method_kwargs": {"number": 1}, "model_construction_kwargs": {"linger": 60}}
    )
    letter = encode_subtask(slow, wire.replies)
    wire.publish(QUEUE, letter.body, letter.properties)
    node.said("Submitted subtask_id")
    node.kill()
    assert wire.waiting(QUEUE) == wire.waiting(wire.replies) == 0


# clusters of both versions

OLD, NEW = "a node of 0.0.37", "a node of this version"


@pytest.fixture
async def ours(lone_broker, wire, tmp_path):
    """Starts nodes of this version in the cluster.

    `takes` and `sends` say what they do there; with `far` all their subtasks go there.
    """
    async with contextlib.AsyncExitStack() as stack:
        rabbit = use("rabbitmq", url=lone_broker.url, wire="0.0.37")

        async def start(*, takes=True, sends=True, far=False, **settings):
            class Config(BaseConfig):
                ACCEPTED_MODEL_CLASSES = legacy_node.MODELS
                SOURCES = (rabbit,) if takes else ()
                EXECUTORS = ("local", rabbit) if sends else ("local",)
                SINKS = ()
                PLUGINS = (Far(),) if far else ()
                STATE_DIR = tmp_path / new_id()
                SLOTS = 2

            return await stack.enter_async_context(Fossa(Config, **settings))

        yield start


async def started(legacy, role):
    return await asyncio.to_thread(legacy, role)


async def run(node, model, report, **construction):
    """Run a model on a node of this version; returns its outcome, and what it wrote."""
    arguments = {"report": str(report)} | construction
    handle = await node.submit(model, model_construction_kwargs=arguments)
    outcome = await handle.outcome(60)
    return outcome, read(report)


async def run_there(node, model, report, **construction):
    """The same on a node of 0.0.37; returns what it says of the task, and what the model wrote."""
    task_id = await asyncio.to_thread(node.submit, model, report=str(report), **construction)
    return await asyncio.to_thread(node.ended, task_id), read(report)


def read(report):
    return json.loads(report.read_text()) if report.exists() else None


def squares(report):
    return [[number, value["square"]] for number, value in report["done"]]


def places(report):
    return {value["where"] for _, value in report["done"]}


async def test_nodes_of_0_0_37_run_our_subtasks(legacy, ours, tmp_path):
    await started(legacy, "worker")
    node = await ours(takes=False, far=True)
    outcome, report = await run(node, "Squares", tmp_path / "report", count=6)
    assert outcome.status is Status.COMPLETE, outcome
    assert squares(report) == [[n, n * n + 100] for n in range(6)]
    assert (report["where"], places(report)) == (NEW, {OLD})
    (task,) = await node.governor.page()
    subtasks = await node.governor.page(parent_id=task.task.id)
    # Nodes of 0.0.37 do not say who they are.
    assert {record.outcome.node for record in subtasks} == {""}


async def test_failures_on_nodes_of_0_0_37_reach_our_parents(legacy, ours, tmp_path):
    await started(legacy, "worker")
    node = await ours(takes=False, far=True)
    _, report = await run(node, "Tolerant", tmp_path / "report", count=4)
    assert [report["done"][n][1] for n in (1, 3)] == [
        ["ValueError", "no square of 1 töday"],
        ["ValueError", "no square of 3 töday"],
    ]
    outcome, _ = await run(node, "Squares", tmp_path / "none", count=1, awkward="broken")
    assert outcome.reason is Reason.SUBTASK_FAILED


async def test_our_nodes_run_subtasks_of_nodes_of_0_0_37(legacy, ours, tmp_path):
    node = await started(legacy, "parent")
    await ours(sends=False)
    document, report = await run_there(node, "Squares", tmp_path / "report", count=6)
    assert document["status"] == "complete"
    assert squares(report) == [[n, n * n + 100] for n in range(6)]
    assert (report["where"], places(report)) == (OLD, {NEW})
    _, errands = await run_there(node, "Errands", tmp_path / "errands", count=2)
    assert errands["done"] == [
        ["number 0", "good day, number 0"],
        ["number 1", "good day, number 1"],
    ]


async def test_failures_on_our_nodes_reach_parents_on_0_0_37(legacy, ours, tmp_path):
    node = await started(legacy, "parent")
    await ours(sends=False)
    _, report = await run_there(node, "Tolerant", tmp_path / "report", count=2)
    assert report["done"][1] == [1, ["<class 'ValueError'>", "no square of 1 töday"]]
    document, _ = await run_there(node, "Squares", tmp_path / "none", count=1, awkward="broken")
    assert document["results"]["payload"]["exception_class_name"].endswith("SubTaskFailed'>")


async def test_a_cluster_of_both_versions_shares_the_work_of_either(legacy, ours, tmp_path):
    old = await started(legacy, "worker")
    new = await ours(SLOTS=1)
    both = await asyncio.gather(
        run(new, "Squares", tmp_path / "new", count=16, linger=1.0),
        run_there(old, "Squares", tmp_path / "old", count=16, linger=1.0),
    )
    for _, report in both:
        assert squares(report) == [[n, n * n + 100] for n in range(16)]
        assert places(report) == {OLD, NEW}


async def test_a_message_that_would_stop_nodes_of_0_0_37_is_taken_away(
    legacy, ours, wire, tmp_path
):
    """They deliver themselves what they cannot read for ever, and everything behind it waits."""
    node = await started(legacy, "parent")
    properties = pika.BasicProperties(reply_to=wire.replies, correlation_id="poison")
    await asyncio.to_thread(wire.publish, QUEUE, b"{nope", properties)
    await ours(sends=False)
    document, _ = await run_there(node, "Squares", tmp_path / "report", count=2)
    assert document["status"] == "complete"
    reply = decode_reply(*await asyncio.to_thread(wire.take, wire.replies), LIMIT)
    assert (reply.correlation_id, reply.outcome.status) == ("poison", Status.FAILED)
