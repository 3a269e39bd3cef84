"""Brokers by the scheme of their URLs, and the commands that go through them."""

import json

import pytest
from click.testing import CliRunner

from fossa import Request
from fossa.brokers import BrokerError, connect, content_id, safe_url
from fossa.cli import main
from fossa.errors import PluginError

SECRET = "hunter2-and-more"
VIA = f"memo://etl:{SECRET}@somewhere/"

#: A broker for the tests: what it is told goes into a file, what it says comes from there.
PLUGIN = """
import attrs
from pathlib import Path
from fossa.brokers import Broker, BrokerError, DeadLetter, Reply, Submitted, UnknownDeadLetter
from fossa.tasks import Outcome

LETTERS = [
    DeadLetter(
        id=f"m-{n}", reason="bad_json", detail="[bold]no[/bold] JSON", queue="tasks", node="ada",
        at=1_790_000_000.0 + n, model="Nightly", size=3, headers={"a": 1}, body=b"{x\\x1b",
    )
    for n in range(3)
]


class Memo(Broker):
    def __init__(self, url, **options):
        self.options = options
        self.open_now = False

    def _tell(self, *words):
        assert self.open_now
        with open("told", "a") as told:
            print(*words, file=told)

    async def open(self):
        self.open_now = True
        if self.options.get("down"):
            raise BrokerError("nobody is there")

    async def close(self):
        self._tell("closed", self.options)

    async def submit(self, request, *, reply=True, timeout=30.0):
        self._tell("submit", request.model, request.priority, reply)
        if request.model == "Interrupt":
            raise KeyboardInterrupt
        return Submitted(id=request.idempotency_key or "m-1", queue="tasks")

    async def outcome(self, submitted, timeout=None):
        if submitted.id == "interrupt":
            raise KeyboardInterrupt
        failed = submitted.id == "fail"
        outcome = Outcome(
            status="failed" if failed else "complete",
            reason="refused" if failed else "returned",
            message="no such model" if failed else "",
            result_json=b"[7]",
        )
        task_id = None if failed else "t-1"
        return Reply(task_id=task_id, node="ada", node_id="n-1", outcome=outcome)

    async def dead_letters(self, limit=100):
        return LETTERS[:limit] if not self.options.get("empty") else []

    async def dead_letter(self, letter_id):
        for letter in LETTERS:
            if letter.id == letter_id:
                return letter
        raise UnknownDeadLetter(f"no dead letter {letter_id}")

    async def retry(self, ids):
        self._tell("retry", sorted(ids) if ids else ids)
        return len(ids) if ids else 3

    async def drop(self, ids):
        self._tell("drop", sorted(ids) if ids else ids)
        return len(ids) if ids else 3
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory to work in, with the broker `memo://` installed."""
    (tmp_path / "memo_broker.py").write_text(PLUGIN)
    about = tmp_path / "memo-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: memo\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[fossa.brokers]\nmemo = memo_broker:Memo\nbroken = memo_broker:Missing\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("FOSSA_URL", "FOSSA_TOKEN", "FOSSA_VIA"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def fossa(place):
    """Runs `fossa` in this process."""

    def call(*arguments, given=None, via=VIA):
        env = {"FOSSA_VIA": via, "COLUMNS": "200", "TZ": "UTC"}
        ended = CliRunner().invoke(main, list(arguments), input=given, env=env)
        assert ended.exception is None or isinstance(ended.exception, SystemExit)
        assert SECRET not in ended.output
        return ended

    return call


def told(place):
    return (place / "told").read_text().splitlines()


# by scheme


async def test_a_broker_is_found_by_the_scheme_of_its_url(place):
    async with connect(VIA, prefix="etl") as broker:
        assert type(broker).__name__ == "Memo"
        assert (await broker.submit(Request(model="Nightly"))).queue == "tasks"
    assert told(place)[-1] == "closed {'prefix': 'etl'}"


async def test_a_broker_that_does_not_open_is_closed(place):
    with pytest.raises(BrokerError, match="nobody is there"):
        async with connect(VIA, down=True):
            raise AssertionError("it is not open")
    assert told(place) == ["closed {'down': True}"]


def test_an_unknown_scheme_names_those_that_are_there(place):
    with pytest.raises(PluginError, match=r"nothing is installed for smtp://.*memo://") as told:
        connect(f"smtp://etl:{SECRET}@host/")
    assert SECRET not in str(told.value)


def test_a_scheme_that_we_know_names_what_to_install(place, monkeypatch):
    monkeypatch.setattr("fossa.brokers.installed", lambda group: ["memo"])
    with pytest.raises(PluginError, match="pip install fossa-rabbitmq"):
        connect("amqps://host/")


def test_a_broker_that_cannot_be_loaded_says_why(place):
    with pytest.raises(PluginError, match="Missing"):
        connect("broken://host/")


@pytest.mark.parametrize("url", [f"etl:{SECRET}@host", f"//etl:{SECRET}@host/", "", "amqp://[/"])
def test_a_url_without_a_scheme_is_told_without_its_password(url):
    with pytest.raises(BrokerError, match="like amqp://") as told:
        connect(url)
    assert SECRET not in str(told.value)


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        (f"amqp://etl:{SECRET}@host:1/v", "amqp://etl@host:1/v"),
        (f"amqp://etl:{SECRET}@odd@host", "amqp://etl@host"),
        (f"etl:{SECRET}@host", "etl@host"),
        ("amqp://host/", "amqp://host/"),
    ],
)
def test_a_url_is_shown_without_its_password(url, safe):
    assert safe_url(url) == safe


def test_an_id_made_of_content_tells_contents_apart():
    assert content_id(b"a", b"b") == content_id(b"a", b"b")
    assert len({content_id(b"a", b"b"), content_id(b"ab"), content_id(b"a", b"c")}) == 3


# submit


def test_submit_sends_through_the_broker_and_prints_the_id(fossa, place):
    ended = fossa("submit", "Nightly", "--priority", "7", "--via-option", "prefix=etl")
    assert (ended.exit_code, ended.stdout) == (0, "m-1\n")
    assert told(place) == ["submit Nightly 7 False", "closed {'prefix': 'etl'}"]
    document = json.loads(fossa("submit", "Nightly", "--key", "k", "--json").stdout)
    assert document == {"message_id": "k", "queue": "tasks"}


def test_options_that_look_like_numbers_are_numbers(fossa, place):
    options = ["--via-option", "heartbeat=5", "--via-option", "connect_timeout=2.5"]
    assert fossa("submit", "Nightly", *options).exit_code == 0
    assert told(place)[-1] == "closed {'heartbeat': 5, 'connect_timeout': 2.5}"


def test_submit_waits_and_leaves_with_the_outcome(fossa):
    ended = fossa("submit", "Nightly", "--wait")
    assert ended.exit_code == 0
    assert ended.stdout == "task t-1 on ada complete (returned)\n[7]\n"
    assert ended.stderr == "Nightly: sent to tasks as m-1\n"
    ended = fossa("submit", "Nightly", "--wait", "--key", "fail")
    assert ended.exit_code == 1
    assert ended.stdout == "message fail on ada failed (refused): no such model\n"


def test_submit_waits_for_the_whole_outcome_as_json(fossa):
    document = json.loads(fossa("submit", "Nightly", "--wait", "--json").stdout)
    assert document["task_id"] == "t-1"
    assert document["node"] == {"name": "ada", "id": "n-1"}
    assert set(document["outcome"]) == {
        "status", "reason", "message", "error", "traceback", "failed_subtask", "attempt",
        "result", "result_is_json",
    }  # fmt: skip
    assert document["outcome"]["result"] == [7]


def test_ctrl_c_says_what_becomes_of_the_task(fossa):
    ended = fossa("submit", "Nightly", "--wait", "--key", "interrupt")
    assert ended.exit_code == 2
    assert "the task goes on without you, as message interrupt of tasks" in ended.stderr
    ended = fossa("submit", "Interrupt", "--wait")
    assert ended.exit_code == 2
    assert "had not confirmed the task yet" in ended.stderr


def test_a_url_with_the_command_itself_wins_over_the_environment(fossa, place):
    ended = fossa("submit", "Nightly", "--url", "http://127.0.0.1:1")
    assert "no node answered at http://127.0.0.1:1" in ended.stderr
    assert not (place / "told").exists()
    both = fossa("submit", "Nightly", "--url", "http://127.0.0.1:1", "--via", VIA)
    assert both.exit_code == 2
    assert "give one of them" in both.stderr


@pytest.mark.parametrize(
    ("arguments", "given", "said"),
    [
        (["submit", "--request", "-"], '{"model": "X", "modle": 1}', "'modle' is no member"),
        (["submit", "X", "--via-option", "down=yes"], None, "nobody is there"),
        (["submit", "X", "--via-option", "prefix"], None, "NAME=VALUE"),
        (["submit", "X", "--via", f"smtp://a:{SECRET}@b/"], None, "nothing is installed"),
        (["dlq", "show", "m-9"], None, "no dead letter m-9"),
        (["dlq", "retry"], None, "or say --all"),
        (["dlq", "drop", "m-1", "--all"], None, "or say --all"),
    ],
)
def test_a_refusal_is_one_line_and_exit_status_2(fossa, arguments, given, said):
    ended = fossa(*arguments, given=given)
    assert ended.exit_code == 2
    assert said in ended.stderr
    assert ended.stderr.startswith("fossa: ")
    assert ended.stderr.count("\n") == 1


def test_without_a_broker_the_next_step_is_told(fossa):
    ended = fossa("dlq", "list", via=None)
    assert ended.exit_code == 2
    assert "FOSSA_VIA" in ended.stderr


# dead letters


def test_list_shows_a_table(fossa):
    ended = fossa("dlq", "list", "--limit", "2")
    assert ended.exit_code == 0
    lines = ended.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["m-0", "m-1"]
    assert "[bold]no[/bold] JSON" in lines[2]
    assert "--limit" in lines[4]
    assert fossa("dlq", "list", "--via-option", "empty=1").stdout == "There are no dead letters.\n"


def test_list_as_json_has_everything_but_the_bodies(fossa):
    documents = json.loads(fossa("dlq", "list", "--json").stdout)
    assert [d["id"] for d in documents] == ["m-0", "m-1", "m-2"]
    assert documents[0] == {
        "id": "m-0", "reason": "bad_json", "detail": "[bold]no[/bold] JSON", "queue": "tasks",
        "node": "ada", "at": "2026-09-21T14:13:20.000000+00:00", "model": "Nightly", "size": 3,
        "headers": {"a": 1},
    }  # fmt: skip


def test_show_has_the_headers_and_a_harmless_body(fossa):
    ended = fossa("dlq", "show", "m-1")
    assert "header a" in ended.stdout
    assert ended.stdout.endswith("\n{x\ufffd\n")
    assert json.loads(fossa("dlq", "show", "m-1", "--json").stdout)["body"] == "{x\x1b"


def test_retry_and_drop_say_how_many(fossa, place):
    assert fossa("dlq", "retry", "m-2", "m-1").stdout == "2 dead letters sent back\n"
    assert fossa("dlq", "retry", "--all").stdout == "3 dead letters sent back\n"
    assert fossa("dlq", "drop", "m-1", "--yes").stdout == "1 dead letter deleted\n"
    assert [line for line in told(place) if "closed" not in line] == [
        "retry ['m-1', 'm-2']", "retry None", "drop ['m-1']",
    ]  # fmt: skip


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("n\n", 1), ("", 1)])
def test_drop_asks_first(fossa, place, answer, status):
    ended = fossa("dlq", "drop", "--all", given=answer)
    assert ended.exit_code == status
    assert "Delete every dead letter?" in ended.stderr
    assert (place / "told").exists() == (status == 0)
