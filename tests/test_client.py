"""`fossa.Client` against a running node, and against what is none."""

import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest
from attrs import evolve

import models
from fossa import Client, Status
from fossa.errors import FossaError, NodeUnreachable, TaskRefused, TooLate, UnknownTask
from fossa.testing import free_port
from http_support import HttpConfig


@pytest.fixture
def node(fossa_node):
    return fossa_node(HttpConfig)


@pytest.fixture
def client(node):
    return Client(node.node.composition.sources[0].url, deadline=20)


# tasks


def test_an_outcome_is_the_one_that_the_node_has(client, node):
    task = client.submit(models.Echo, "say", method_kwargs={"what": [1, "two", None]})
    outcome = task.outcome(timeout=20)
    there = node.task(task.id).outcome(timeout=20)
    assert outcome.finished == pytest.approx(there.finished, abs=1e-5)
    assert outcome.node == client.node()["name"]
    mine = {"started": outcome.started, "finished": outcome.finished, "node": outcome.node}
    assert outcome == evolve(there, **mine)
    assert outcome.result["what"] == [1, "two", None]
    assert task.status() is Status.COMPLETE


def test_a_failure_comes_with_its_reason_and_traceback(client):
    outcome = client.submit("Fails").outcome(timeout=20)
    assert (outcome.status, outcome.reason) == ("failed", "exception")
    assert any("models.py" in line for line in outcome.traceback)


def test_progress_and_subtasks(client):
    task = client.submit("Squares")
    assert task.outcome(timeout=20).complete
    progress = task.progress()
    assert progress.subtasks == progress.subtasks_done > 0
    subtasks = task.subtasks(limit=1)
    assert [s["parent_id"] for s in subtasks] == [task.id]


def test_logs_are_those_of_the_node_and_may_be_followed(client, node):
    task = client.submit("Writes")
    followed = [line for _, line in task.lines(follow=True)]
    assert followed
    assert followed == task.logs()
    there = [evolve(line, time=0.0) for line in node.task(task.id).logs()]
    assert [evolve(line, time=0.0) for line in followed] == there
    positions = [position for position, _ in task.lines()]
    assert task.logs(after=positions[-2]) == followed[-1:]


def test_more_lines_than_fit_a_page_all_come(client):
    task = client.submit("Writes", "many", method_kwargs={"count": 2500})
    assert len([1 for _, line in task.lines(follow=True) if line.stream != "node"]) == 2500


def test_cancel_then_retry(client):
    task = client.submit("Echo", "sleep", method_kwargs={"seconds": 60})
    task.cancel()
    assert task.outcome(timeout=20).status is Status.CANCELLED
    with pytest.raises(TooLate, match="cancelled already"):
        task.cancel()
    again = task.retry()
    assert again.document()["retry_of"] == task.id
    again.cancel()


def test_an_outcome_that_does_not_come_in_time_is_a_timeout(client):
    task = client.submit("Echo", "sleep", method_kwargs={"seconds": 60})
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"not ended within 0\.2 s"):
        task.outcome(timeout=0.2)
    assert time.monotonic() - began < 5
    task.cancel()


def test_the_same_key_is_the_same_task(client):
    tasks = [client.submit("Nothing", idempotency_key="once") for _ in range(2)]
    assert tasks[0].id == tasks[1].id


def test_the_node_and_its_tasks(client, node):
    task = client.submit("Nothing")
    assert client.node()["id"] == node.node.governor.id
    assert client.tasks(limit=1)[0].id == task.id
    assert client.task(task.id).outcome(timeout=20).complete


# refusals


@pytest.mark.parametrize(
    ("model", "method", "options", "status", "said"),
    [
        ("Unheard", "go", {}, 412, "Unheard"),
        ("Echo", "set_logger", {}, 412, "set_logger"),
        ("Echo", "say", {"method_kwargs": [1]}, 400, "method_kwargs"),
        ("Echo", "say", {"colour": "red"}, 400, "colour"),
    ],
)
def test_a_refusal_says_what_the_node_said(client, model, method, options, status, said):
    with pytest.raises(TaskRefused, match=said) as refused:
        client.submit(model, method, **options)
    assert refused.value.status == status


def test_arguments_that_are_no_json_are_refused_before_they_are_sent(client):
    with pytest.raises(TaskRefused, match="not JSON"):
        client.submit("Echo", "say", method_kwargs={"what": object()})


@pytest.mark.parametrize("task_id", ["nonsense", "../node", "a b?c"])
def test_an_unknown_task_is_unknown(client, task_id):
    with pytest.raises(UnknownTask):
        client.task(task_id)


def test_a_token_is_asked_for_and_taken(fossa_node):
    token = "a-token-of-some-length"
    url = fossa_node(HttpConfig, HTTP_TOKEN=token).node.composition.sources[0].url
    assert Client(url, token).submit("Nothing").outcome(timeout=20).complete
    with pytest.raises(FossaError, match="token"):
        Client(url).node()
    with pytest.raises(TaskRefused, match="token"):
        Client(url, "not-the-right-token").submit("Nothing")
    assert token not in repr(Client(url, token))


# what is no node


def test_nobody_there():
    with pytest.raises(NodeUnreachable, match=r"Start one \(fossa run --help\)"):
        Client(f"http://127.0.0.1:{free_port()}").node()


@pytest.mark.parametrize("url", ["etl1:2345", "ftp://etl1", "http://", "http://etl1:port", ""])
def test_an_address_that_is_none(url):
    with pytest.raises(NodeUnreachable, match="no address of a node"):
        Client(url)


@contextmanager
def answering(answer):
    """A server whose every connection is given to `answer` in a thread."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections = []

        def serve():
            while not done.is_set():
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connections.append(connection)
                with connection:
                    connection.recv(65536)
                    with suppress(OSError):
                        answer(connection, done)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            done.set()
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def silence(_, done):
    done.wait(10)


def drip_the_head(connection, done):
    """One byte of a head that never ends, often enough for a timeout of each read."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not done.wait(0.02):
        connection.sendall(b"a")


def drip_the_body(connection, done):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not done.wait(0.02):
        connection.sendall(b" ")


def drip_then_silence(connection, done):
    """A timeout that began afresh with each byte would end at nearly twice the deadline."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    end = time.monotonic() + 0.8
    while time.monotonic() < end and not done.wait(0.02):
        connection.sendall(b" ")
    done.wait(10)


def test_a_deadline_is_for_the_whole_request_and_not_for_each_byte():
    with answering(drip_then_silence) as url:
        began = time.monotonic()
        with pytest.raises(NodeUnreachable, match="did not answer in time"):
            Client(url, deadline=1.0).node()
        assert 0.9 < time.monotonic() - began < 1.5


@pytest.mark.parametrize("answer", [silence, drip_the_head, drip_the_body])
def test_every_request_has_a_deadline(answer):
    with answering(answer) as url:
        began = time.monotonic()
        with pytest.raises(NodeUnreachable, match="did not answer in time"):
            Client(url, deadline=0.3).node()
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\n<html>",
        b'HTTP/1.1 500 No\r\nContent-Length: 13\r\n\r\n{"error": []}',
    ],
)
def test_another_kind_of_server_is_no_node(answer):
    answered = answering(lambda connection, _: connection.sendall(answer))
    with answered as url, pytest.raises(NodeUnreachable, match="is no Fossa node"):
        Client(url).node()


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\n"])
def test_a_server_that_speaks_no_http_or_breaks_off(answer):
    answered = answering(lambda connection, _: connection.sendall(answer))
    with answered as url, pytest.raises(NodeUnreachable):
        Client(url).node()
