"""Nodes of `ayeaye-fossa` 0.0.37 for tests, and a client that looks at what they say.

Run as a program it records their messages anew: `python legacy_support.py URL DIRECTORY SCRIPT`,
with a broker that nobody else uses, a directory for logs, and a copy of `legacy_node.py` at a path
that tracebacks may show. FOSSA_LEGACY_PYTHON names another interpreter than that of `make legacy`.
"""

import contextlib
import functools
import http
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pika
import pytest

from fossa import Attempt, Outcome, Reason, Status, Task, new_id
from fossa.testing import free_port
from fossa_rabbitmq.legacy import QUEUE

HERE = Path(__file__).parent
RECORDED = HERE / "recorded" / "0.0.37"
ENVIRONMENT = HERE.parents[2] / ".venv-0.0.37"
#: Seconds. A node of 0.0.37 looks for tasks every 5, and sees after 3 more that all are done.
PATIENCE = 45
#: Bytes of a message.
LIMIT = 1_000_000


def attempt(model="Squares", method="square", number=1, arguments=None, **values):
    """An attempt of a task with such arguments; by default `square(3)`."""
    encoded = json.dumps({"method_kwargs": {"number": 3}} if arguments is None else arguments)
    task = Task(id=new_id(), model=model, method=method, arguments=encoded.encode(), **values)
    return Attempt(task=task, number=number)


def complete(value=None):
    result = json.dumps(value).encode()
    return Outcome(status=Status.COMPLETE, reason=Reason.RETURNED, result_json=result)


def failed(reason=Reason.EXCEPTION, **values):
    status = Status.CANCELLED if reason is Reason.CANCELLED else Status.FAILED
    return Outcome(status=status, reason=reason, **values)


def interpreter():
    """The Python that has 0.0.37. Where it is missing: a skip on a laptop, a failure in CI."""
    found = os.environ.get("FOSSA_LEGACY_PYTHON") or ENVIRONMENT / "bin" / "python"
    if Path(found).exists():
        return str(found)
    text = f"no ayeaye-fossa 0.0.37 in {ENVIRONMENT}: run `make legacy`"
    if os.environ.get("CI"):
        pytest.fail(text, pytrace=False)
    return pytest.skip(text)


class LegacyNode:
    """A node of 0.0.37, with all of its processes, while the context lasts.

    With the role `new` it is one of this version, in a process that can be killed.
    """

    def __init__(self, directory, url, role="worker", script=HERE / "legacy_node.py"):
        self.directory = Path(directory)
        self.log = self.directory / "legacy.log"
        python = sys.executable if role == "new" else interpreter()
        self._command = [python, "-u", str(script), str(free_port()), url, role]
        self._role = role
        self._process = None

    def __enter__(self):
        self.directory.mkdir(parents=True, exist_ok=True)
        # Its sockets are there, whose paths may have a hundred characters.
        self._scratch = tempfile.TemporaryDirectory(prefix="legacy-")
        environment = {**os.environ, "HOME": str(self.directory), "TMPDIR": self._scratch.name}
        environment.pop("FOSSA_HTTP_PORT", None)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _until(self._is_up, "the node of 0.0.37 is up", self._words)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        """End it: where it is asked to stop, a node of 0.0.37 takes its time."""
        self.kill()
        self._scratch.cleanup()

    def kill(self):
        """End all of its processes at once, as a power cut does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def submit(self, model, **construction):
        """Ask for `go()` over HTTP; returns the task's id."""
        document = {"model_class": model, "model_construction_kwargs": construction}
        body = json.dumps(document).encode()
        # It answers before its processes do: until then it is at full capacity.
        asked = functools.partial(self._if, http.HTTPStatus.SERVICE_UNAVAILABLE, "task", body)
        return _until(asked, "a task is taken", self._words)["task_id"]

    def ended(self, task_id):
        """What it says of a task, once that has ended."""
        return _until(lambda: self._over(task_id), f"task {task_id} ends", self._words)

    def said(self, words):
        """Waits until its log has some words."""
        _until(lambda: words in self._words(), f"the log has {words!r}", self._words)

    def _over(self, task_id):
        # It has given the id away before it knows the task.
        document = self._if(http.HTTPStatus.NOT_FOUND, f"task/{task_id}")
        return document if document and document["status"] != "running" else None

    def _if(self, not_yet, path, body=None):
        """What it answers; None where that is this status."""
        try:
            return self._http(path, body)
        except urllib.error.HTTPError as error:
            with error:
                if error.code != not_yet:
                    raise
            return None

    def _is_up(self):
        assert self._process.poll() is None, self._words()
        looks = self._role != "worker" or "waiting for messages" in self._words()
        try:
            return looks and self._http("")
        except OSError:
            return False

    def _http(self, path, body=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._command[3]}/api/0.01/{path}",
            body,
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def _words(self):
        return self.log.read_text(errors="replace")[-4000:]


class Wire:
    """A client of the broker that plays the part of a parent, or of a worker."""

    def __init__(self, url):
        parameters = pika.URLParameters(url)
        parameters.socket_timeout = parameters.blocked_connection_timeout = 10
        self._connection = pika.BlockingConnection(parameters)
        self.channel = self._connection.channel()
        self.channel.confirm_delivery()
        self.channel.queue_declare(QUEUE, durable=True)
        self.channel.queue_purge(QUEUE)
        self.replies = self.channel.queue_declare("", exclusive=True).method.queue

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._connection.close()

    def publish(self, queue, body, properties):
        """Raises `pika.exceptions.UnroutableError` where there is no such queue."""
        self.channel.basic_publish("", queue, body, properties, mandatory=True)

    def take(self, queue):
        """The next message of a queue as (body, properties), settled; waits for it."""
        return _until(lambda: self._get(queue), f"there is a message in {queue}")

    def waiting(self, queue):
        """How many messages wait in a queue."""
        return self.channel.queue_declare(queue, passive=True).method.message_count

    def gone(self, queue):
        """Waits until a queue that somebody else owns is no more."""
        _until(lambda: not self._exists(queue), f"the queue {queue} is gone")

    def _exists(self, queue):
        channel = self._connection.channel()
        try:
            channel.queue_declare(queue, passive=True)
        except pika.exceptions.ChannelClosedByBroker as closed:
            return closed.reply_code != 404
        channel.close()
        return True

    def _get(self, queue):
        method, properties, body = self.channel.basic_get(queue, auto_ack=True)
        self._connection.process_data_events()
        return (body, properties) if method else None


def recorded(name):
    """A recorded message as (body, properties)."""
    document = json.loads((RECORDED / f"{name}.json").read_text())
    return document["body"].encode(), pika.BasicProperties(**document["properties"])


def _until(found, what, more=lambda: ""):
    deadline = time.monotonic() + PATIENCE
    while not (value := found()):
        assert time.monotonic() < deadline, f"in {PATIENCE} s not so: {what}\n{more()}"
        time.sleep(0.05)
    return value


# recording

_TASK = {
    "model_class": "Squares",
    "method": "square",
    "method_kwargs": {"number": 3},
    "resolver_context": {},
}
#: What a node is asked for to record its reply.
_ASKED = {
    "complete": {},
    "complete-plain-model": {
        "model_class": "Greeting",
        "method": "greet",
        "method_kwargs": {"name": "x"},
    },
    "complete-with-context": {"method": "colour", "resolver_context": {"colour": "n\u00e4vy"}},
    "complete-not-finite": {"method": "not_finite"},
    "complete-go": {"model_class": "Greeting", "method": "go", "method_kwargs": {}},
    "complete-check-failed": {"model_class": "Unwilling", "method": "go", "method_kwargs": {}},
    "failed": {"method": "broken"},
    "failed-not-json": {"method": "not_json"},
    "failed-no-such-method": {"method": "nope"},
    "failed-null-arguments": {"method_kwargs": None},
    "failed-subtask": {
        "method": "go",
        "method_kwargs": {},
        "model_construction_kwargs": {"awkward": "broken", "count": 1},
    },
}


def _record(url, directory, script):
    RECORDED.mkdir(parents=True, exist_ok=True)
    with LegacyNode(directory / "worker", url, "worker", script), Wire(url) as wire:
        for name, change in _ASKED.items():
            properties = pika.BasicProperties(correlation_id=f"asked:{name}", reply_to=wire.replies)
            wire.publish(QUEUE, json.dumps(_TASK | change).encode(), properties)
            _write(f"reply-{name}", *wire.take(wire.replies))
    with LegacyNode(directory / "parent", url, "parent", script) as node, Wire(url) as wire:
        for model in ("Squares", "Errands"):
            node.submit(model, count=1)
            task, properties = wire.take(QUEUE)
            _write(f"task-{model.lower()}", task, properties)
            failure, _ = recorded("reply-failed")
            wire.publish(
                properties.reply_to,
                failure,
                pika.BasicProperties(correlation_id=properties.correlation_id),
            )
            _write(f"task-{model.lower()}-again", *wire.take(QUEUE))


def _write(name, body, properties):
    said = {k: v for k, v in vars(properties).items() if v is not None}
    document = {"properties": said, "body": body.decode()}
    text = json.dumps(document, indent=1, ensure_ascii=False)
    (RECORDED / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    _record(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
