"""The command `fossa` against a running node, as a user types it."""

import json
import os
import pty
import re
import signal
import subprocess

import pytest

from fossa import Client
from fossa.testing import free_port
from http_support import HttpConfig
from programs import DEADLINE, FOSSA, program, run


@pytest.fixture
def url(fossa_node):
    return fossa_node(HttpConfig, NODE_NAME="ada").node.composition.sources[0].url


@pytest.fixture
def env(url):
    mine = {k: v for k, v in os.environ.items() if not k.startswith("FOSSA_")}
    return {**mine, "FOSSA_URL": url, "TERM": "xterm"}


@pytest.fixture
def fossa(env):
    """Runs `fossa` with some arguments."""

    def call(*arguments, **options):
        ended = run([*FOSSA, *arguments], env=env, **options)
        assert "Traceback" not in ended.stderr
        return ended

    return call


# submit


def test_submit_prints_the_id(fossa, url):
    ended = fossa("submit", "Nothing")
    assert ended.returncode == 0
    assert Client(url).task(ended.stdout.strip()).outcome(timeout=20).complete


def test_submit_waits_and_prints_what_the_method_returned(fossa):
    words = '{"a": [1, null]}'
    ended = fossa("submit", "Echo", "--method", "say", "--arg", f"what={words}", "--wait")
    assert ended.returncode == 0
    assert json.loads(ended.stdout.splitlines()[-1])["what"] == {"a": [1, None]}


def test_submit_leaves_with_1_where_the_task_failed(fossa):
    ended = fossa("submit", "Fails", "--wait")
    assert ended.returncode == 1
    assert "failed (exception)" in ended.stdout
    assert "models.py" in ended.stdout


def test_submit_sends_every_option(fossa, url):
    options = ["--timeout", "5", "--retries", "2", "--priority", "7", "--key", "k"]
    context = ["--context", "place=here"]
    ended = fossa("submit", "Nothing", *options, *context, "--json")
    sent = json.loads(ended.stdout)
    assert (sent["timeout"], sent["retries"], sent["priority"]) == (5, 2, 7)
    assert sent["arguments"] == {"resolver_context": {"place": "here"}}
    assert fossa("submit", "Nothing", "--key", "k").stdout.strip() == sent["id"]


def test_submit_takes_a_request_as_json_and_options_on_top(fossa):
    request = json.dumps({"model": "Echo", "method": "say", "method_kwargs": {"what": 1}})
    ended = fossa("submit", "--request", "-", "--priority", "3", "--json", input=request)
    sent = json.loads(ended.stdout)
    assert (sent["model"], sent["method"], sent["priority"]) == ("Echo", "say", 3)


@pytest.mark.parametrize(
    ("arguments", "given", "said"),
    [
        (["Unheard"], None, "Unheard"),
        (["Echo", "--arg", "what=text"], None, """--arg what='"text"'"""),
        (["Echo", "--arg", "what"], None, "NAME=VALUE"),
        (["--request", "-"], "{", "--request is not JSON"),
        (["--request", "-"], "[]", "no JSON object"),
        ([], None, "fossa submit MODEL"),
        (["Echo", "--url", "nonsense"], None, "no address of a node"),
    ],
)
def test_a_refusal_is_one_line_and_exit_status_2(fossa, arguments, given, said):
    ended = fossa("submit", *arguments, input=given)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert ended.stderr.startswith("fossa: ")
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""


@pytest.mark.parametrize("command", ["status", "submit Nothing", "logs x", "cancel x", "retry x"])
def test_no_node_is_told_with_the_next_step(fossa, command):
    ended = fossa(*command.split(), "--url", f"http://127.0.0.1:{free_port()}")
    assert ended.returncode == 2
    assert "Start one (fossa run --help)" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_ctrl_c_while_waiting_leaves_the_task_alone_and_says_so(url, env):
    command = [*FOSSA, "submit", "Echo", "--method", "sleep", "--arg", "seconds=60", "--wait"]
    with program(command, env=env) as running:
        running.line("Echo: running")
        running.signal(signal.SIGINT)
        assert running.end() == 2
    task_id = re.search("fossa cancel (\\S+)", running.text)[1]
    task = Client(url).task(task_id)
    assert task.status() == "running"
    task.cancel()


def test_a_token_comes_from_the_environment_or_an_option(fossa_node, fossa, env):
    token = "a-token-of-some-length"
    guarded = fossa_node(HttpConfig, HTTP_TOKEN=token).node.composition.sources[0].url
    assert fossa("status", "--url", guarded).returncode == 2
    assert "token" in fossa("status", "--url", guarded).stderr
    assert fossa("status", "--url", guarded, "--token", token).returncode == 0
    env["FOSSA_TOKEN"] = token
    assert fossa("status", "--url", guarded).returncode == 0


# on a terminal and off


def on_a_terminal(command, env):
    """What a program writes to a terminal that it runs on, and its exit status."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    finally:
        os.close(theirs)
    written = b""
    with open(ours, "rb", buffering=0) as terminal:
        while True:
            try:
                chunk = terminal.read(4096)
            except OSError:  # Linux says so of a terminal that nobody writes to any more
                break
            if not chunk:
                break
            written += chunk
    return written.decode(), process.wait(DEADLINE)


def test_submit_shows_a_bar_on_a_terminal(env):
    written, status = on_a_terminal([*FOSSA, "submit", "Squares", "--wait"], env)
    assert status == 0
    assert "\x1b[" in written
    assert "━" in written
    subtasks = Client(env["FOSSA_URL"]).tasks(model="Squares", limit=100)
    done = max(task.progress().subtasks for task in subtasks)
    assert f"{done}/{done} subtasks" in written


@pytest.mark.parametrize("arguments", [["submit", "Squares", "--wait"], ["status"]])
def test_there_are_no_control_characters_where_there_is_no_terminal(fossa, arguments):
    ended = fossa(*arguments)
    assert ended.returncode == 0
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", ended.stdout + ended.stderr)


# look and order


def test_status_shows_the_node_and_its_tasks(fossa, url):
    assert "No tasks yet" in fossa("status").stdout
    slow = Client(url).submit("Echo", "sleep", method_kwargs={"seconds": 60})
    failed = Client(url).submit("Fails")
    outcome = failed.outcome(timeout=20)
    next(iter(slow.watch()))
    shown = fossa("status").stdout
    assert "ada (running" in shown
    assert shown.count(slow.id) == 2  # running, and recent
    line = next(line for line in shown.splitlines() if failed.id in line)
    assert "Fails.go" in line
    assert outcome.message in line
    slow.cancel()


def test_status_as_json_is_what_the_api_says(fossa, url):
    task = Client(url).submit("Nothing")
    task.outcome(timeout=20)
    shown = json.loads(fossa("status", "--json").stdout)
    assert shown["node"]["name"] == "ada"
    assert shown["recent"][0] == task.document()
    assert json.loads(fossa("status", task.id, "--json").stdout) == task.document()


def test_status_of_a_task_shows_how_it_ended(fossa, url):
    task = Client(url).submit("Fails")
    outcome = task.outcome(timeout=20)
    shown = fossa("status", task.id).stdout
    assert outcome.message in shown
    assert "models.py" in shown


def test_what_looks_like_markup_is_shown_as_it_is(fossa, url):
    task = Client(url).submit("Echo", "say", method_kwargs={"what": "[red]no[/red] [/]"})
    task.outcome(timeout=20)
    assert "[red]no[/red] [/]" in fossa("status", task.id).stdout


def test_logs_follow_a_task_to_its_end(fossa, url):
    task = Client(url).submit("Writes")
    shown = fossa("logs", task.id, "--follow").stdout.splitlines()
    assert [line.split(None, 2)[2:] for line in shown] == [
        [line.text.strip()] if line.text.strip() else [] for line in task.logs()
    ]
    assert fossa("logs", task.id).stdout.splitlines() == shown


def test_cancel_and_retry(fossa, url):
    task = Client(url).submit("Echo", "sleep", method_kwargs={"seconds": 60})
    assert fossa("cancel", task.id).returncode == 0
    assert task.outcome(timeout=20).status == "cancelled"
    late = fossa("cancel", task.id)
    assert late.returncode == 2
    assert "cancelled already" in late.stderr
    again = fossa("retry", task.id).stdout.strip()
    assert Client(url).task(again).document()["retry_of"] == task.id
    assert fossa("cancel", again).returncode == 0


def test_retry_waits(fossa, url):
    task = Client(url).submit("Fails")
    task.outcome(timeout=20)
    assert fossa("retry", task.id, "--wait").returncode == 1


@pytest.mark.parametrize("command", ["status", "logs", "cancel", "retry"])
def test_an_unknown_task_is_told(fossa, command):
    ended = fossa(command, "nonsense")
    assert ended.returncode == 2
    assert ended.stderr == "fossa: this node knows no task 'nonsense'\n"


# help


@pytest.mark.parametrize("command", ["run", "submit", "status", "logs", "cancel", "retry"])
def test_each_commands_help_has_an_example(command):
    shown = run([*FOSSA, command, "--help"]).stdout
    assert re.search(f"Examples?:\n +fossa {command}|\n +fossa {command} ", shown)


def test_version():
    assert re.fullmatch(r"fossa \S+, ayeaye \S+, Python 3\.\S+\n", run([*FOSSA, "version"]).stdout)
