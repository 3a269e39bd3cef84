"""Talk to a node from another Python program, over HTTP and without an event loop.

    from fossa import Client

    task = Client("http://127.0.0.1:2345").submit("NothingEtl")
    print(task.outcome(timeout=60).status)

Every request has a deadline, whatever the node or the network between does.
"""

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from io import BufferedReader, RawIOBase
from socket import socket
from typing import Any, TypeVar
from urllib.parse import SplitResult, quote, urlencode, urlsplit

import msgspec

from fossa.errors import FossaError, NodeUnreachable, TaskRefused, TooLate, UnknownTask
from fossa.tasks import LogLine, Outcome, Progress, Reason, Status

#: Where a node answers unless its config says otherwise.
DEFAULT_URL = "http://127.0.0.1:2345"
#: Seconds that a request may take, unless the client is told otherwise.
DEADLINE = 30.0
#: Seconds for which the node is asked to hold back an answer that is not there yet.
WAIT = 20.0
#: Log lines that are fetched in one go.
_PAGE = 1000

T = TypeVar("T")


class _Outcome(msgspec.Struct):
    """An outcome as the API writes it; what a later version adds is ignored."""

    status: Status
    reason: Reason
    message: str
    error: str | None
    traceback: tuple[str, ...]
    failed_subtask: str | None
    attempt: int
    result: msgspec.Raw
    result_is_json: bool


class _Task(msgspec.Struct):
    """What the client needs of a task as the API writes it."""

    id: str
    status: Status
    progress: Progress
    started: datetime | None = None
    finished: datetime | None = None
    node: str | None = None
    outcome: _Outcome | None = None

    def value(self) -> Outcome | None:
        """The outcome as everybody else in Fossa has it, but for times.

        They are to the microsecond, and it began when the task's first attempt did.
        """
        found = self.outcome
        if found is None:
            return None
        return Outcome(
            status=found.status,
            reason=found.reason,
            message=found.message,
            error=found.error,
            traceback=found.traceback,
            result_json=bytes(found.result),
            result_is_json=found.result_is_json,
            failed_subtask=found.failed_subtask,
            attempt=found.attempt,
            started=self.started.timestamp() if self.started else None,
            finished=self.finished.timestamp() if self.finished else 0.0,
            node=self.node or "",
        )


class _Line(msgspec.Struct):
    """A log line as the API writes it."""

    position: int
    time: datetime
    level: str
    stream: str
    text: str
    attempt: int

    def value(self) -> LogLine:
        return LogLine(
            time=self.time.timestamp(),
            level=self.level,
            stream=self.stream,
            text=self.text,
            attempt=self.attempt,
        )


class _Lines(msgspec.Struct):
    lines: list[_Line]


class Client:
    """A node somewhere. Holds no connection; may be shared by threads and survives a fork.

    Args:
        url: where the node answers; with a path if its pages are mounted below one.
        token: the node's HTTP_TOKEN, where it has one.
        deadline: seconds that any one request may take.
    """

    def __init__(
        self, url: str = DEFAULT_URL, token: str | None = None, *, deadline: float = DEADLINE
    ) -> None:
        self.url = url.rstrip("/")
        self._parts = _checked(self.url)
        self._token = token
        self._deadline = deadline

    def __repr__(self) -> str:
        return f"<Client of {self.url}>"

    def submit(self, model: type | str, method: str = "go", **options: Any) -> "RemoteTask":
        """Submit a task; returns once the node has recorded it.

        Args:
            model: an accepted model class, or its name.
            method: a public method of it.
            options: as of `Fossa.submit`.

        Raises:
            TaskRefused: the node did not admit it, and why.
            NodeUnreachable: no node answered. The task may have been admitted all the same: with
                an `idempotency_key` it is safe to submit again.
        """
        name = model if isinstance(model, str) else model.__name__
        document = self.call("POST", "/tasks", body={"model": name, "method": method, **options})
        return RemoteTask(self, document["id"])

    def task(self, task_id: str) -> "RemoteTask":
        """The handle of a task by its id. Raises `UnknownTask`."""
        task = RemoteTask(self, task_id)
        task.document()
        return task

    def tasks(self, **query: Any) -> "list[RemoteTask]":
        """Tasks of the node, newest first: `status`, `model`, `before` (an id's page), `limit`."""
        page = self.call("GET", "/tasks", query=query)
        return [RemoteTask(self, document["id"]) for document in page["tasks"]]

    def node(self) -> dict[str, Any]:
        """The node in numbers and names."""
        document: dict[str, Any] = self.call("GET", "/node")
        return document

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that it knows of, itself first, each in numbers and names.

        Moments (`booted`, `last_seen`) are in seconds since the epoch; `this` is true of the node
        that answers.
        """
        documents: list[dict[str, Any]] = self.call("GET", "/nodes")["nodes"]
        return documents

    def call(
        self,
        verb: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        deadline: float | None = None,
    ) -> Any:
        """Any operation of the API by its verb and path, for what has no method here.

        Args:
            verb: "GET" or "POST".
            path: below `/api/1`, such as "/tasks".
            query: parameters; those that are None are left out.
            body: the JSON object to send.
            deadline: seconds for this request, if not the client's own.

        Returns:
            The node's answer, decoded.

        Raises:
            NodeUnreachable, TaskRefused, UnknownTask, TooLate, FossaError: with what the node said.
        """
        return self._decode(self.call_raw(verb, path, query, body, deadline), Any)

    def call_raw(
        self,
        verb: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        deadline: float | None = None,
    ) -> bytes:
        """As `call`; returns the answer's bytes."""
        deadline = time.monotonic() + (self._deadline if deadline is None else deadline)
        connection = self._connection(deadline)
        try:
            self._send(connection, verb, path, query or {}, body)
            response = connection.getresponse()
            status, answer = response.status, response.read()
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()
        if status >= 400:
            raise self._refusal(verb, path, status, answer)
        return answer

    def _connection(self, deadline: float) -> HTTPConnection:
        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        left = max(0.001, deadline - time.monotonic())
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=left)

        def response(sock: socket, *args: Any, **kwargs: Any) -> HTTPResponse:
            return _Response(deadline, sock, *args, **kwargs)

        connection.response_class = response  # type: ignore[assignment]
        return connection

    def _send(
        self,
        connection: HTTPConnection,
        verb: str,
        path: str,
        query: Mapping[str, Any],
        body: Mapping[str, Any] | None,
    ) -> None:
        asked = {name: value for name, value in query.items() if value is not None}
        target = f"{self._parts.path}/api/1{path}" + (f"?{urlencode(asked)}" if asked else "")
        headers = {"Accept": "application/json", "Connection": "close"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if verb != "GET":
            headers["Content-Type"] = "application/json"
        content = b"" if body is None else _encode(body)
        connection.request(verb, target, content if verb != "GET" else None, headers)

    def _unreachable(self, error: Exception) -> NodeUnreachable:
        if isinstance(error, TimeoutError):
            said = "it did not answer in time"
        else:
            said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return NodeUnreachable(
            f"no node answered at {self.url}: {said}. Start one (fossa run --help), or name its "
            "address (--url, FOSSA_URL)"
        )

    def _refusal(self, verb: str, path: str, status: int, answer: bytes) -> FossaError:
        """What the node said, as the exception that says the same."""
        try:
            said = str(msgspec.json.decode(answer)["error"]["message"])
        except (msgspec.DecodeError, KeyError, TypeError):
            return self._no_node(f"HTTP status {status}")
        if status in (401, 403) and "token" not in said:
            said = f"{said}. A token may help: --token, FOSSA_TOKEN"
        if (verb, path) == ("POST", "/tasks"):
            refused = TaskRefused(said)
            refused.status = status
            return refused
        return {404: UnknownTask, 409: TooLate}.get(status, FossaError)(said)

    def _no_node(self, what: str) -> NodeUnreachable:
        return NodeUnreachable(
            f"what answers at {self.url} is no Fossa node ({what}): check the address and the port"
        )

    def _decode(self, answer: bytes, shape: type[T]) -> T:
        try:
            return msgspec.json.decode(answer, type=shape)
        except msgspec.DecodeError as error:
            raise self._no_node(str(error)) from error


class RemoteTask:
    """A task on a node somewhere. Every call asks the node."""

    def __init__(self, client: Client, task_id: str) -> None:
        self._client = client
        self._path = f"/tasks/{quote(task_id, safe='')}"
        self.id = task_id

    def __repr__(self) -> str:
        return f"<RemoteTask {self.id} at {self._client.url}>"

    def document(self) -> dict[str, Any]:
        """Everything that is known of it now, as the API writes it."""
        document: dict[str, Any] = self._client.call("GET", self._path)
        return document

    def status(self) -> Status:
        return self._get(0).status

    def progress(self) -> Progress:
        return self._get(0).progress

    def outcome(self, timeout: float | None = None) -> Outcome:
        """How it ended, once it has. Raises TimeoutError after `timeout` seconds."""
        for outcome, _, _ in self.watch(timeout, every=WAIT):
            if outcome is not None:
                return outcome
        raise TimeoutError(f"task {self.id} has not ended within {timeout:g} s")

    def watch(
        self, timeout: float | None = None, every: float = 0.5
    ) -> "Iterator[tuple[Outcome | None, Status, Progress]]":
        """How it stands, every so often, until it has ended or `timeout` seconds are over.

        Args:
            timeout: seconds; None: no limit.
            every: seconds between two looks; its end is seen at once.

        Yields:
            The outcome (None before the end), the status and the progress.
        """
        end = float("inf") if timeout is None else time.monotonic() + timeout
        wait = 0.0
        while True:
            seen = self._get(wait)
            wait = max(0.0, min(every, WAIT, end - time.monotonic()))
            yield seen.value(), seen.status, seen.progress
            if seen.outcome is not None or time.monotonic() >= end:
                return

    def logs(self, after: int = 0) -> list[LogLine]:
        """What it has written so far."""
        return [line for _, line in self.lines(after)]

    def lines(self, after: int = 0, *, follow: bool = False) -> Iterator[tuple[int, LogLine]]:
        """Its log lines with their positions, oldest first.

        Args:
            after: the position after which to begin.
            follow: whether to wait for more until the task has ended.
        """
        while True:
            ended = not follow or self._get(0).outcome is not None
            page = self._page(after, 0 if ended else WAIT)
            for line in page:
                after = line.position
                yield line.position, line.value()
            if ended and len(page) < _PAGE:
                return

    def subtasks(self, **query: Any) -> list[dict[str, Any]]:
        """Its subtasks as documents, newest first: `status`, `before`, `limit`."""
        page = self._client.call("GET", f"{self._path}/subtasks", query=query)
        found: list[dict[str, Any]] = page["tasks"]
        return found

    def cancel(self) -> None:
        """Ask it, and its subtasks, to stop. Raises `TooLate` where it has ended."""
        self._client.call("POST", f"{self._path}/cancel")

    def retry(self) -> "RemoteTask":
        """A new task that does again what this one failed to do."""
        return RemoteTask(self._client, self._client.call("POST", f"{self._path}/retry")["id"])

    def _get(self, wait: float) -> _Task:
        query = {"wait": round(wait, 3)} if wait > 0 else None
        answer = self._client.call_raw(
            "GET", self._path, query, deadline=self._client._deadline + wait
        )
        return self._client._decode(answer, _Task)

    def _page(self, after: int, wait: float) -> list[_Line]:
        query = {"after": after, "limit": _PAGE, "wait": wait or None}
        answer = self._client.call_raw(
            "GET", f"{self._path}/logs", query, deadline=self._client._deadline + wait
        )
        return self._client._decode(answer, _Lines).lines


class _Response(HTTPResponse):
    """A response whose reading ends at a moment, not so many seconds after the latest byte."""

    def __init__(self, deadline: float, sock: socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = BufferedReader(_Reader(sock, self.fp, deadline))


class _Reader(RawIOBase):
    """Reads a socket through its own file, which keeps it open though the connection lets go."""

    def __init__(self, sock: socket, file: BufferedReader, deadline: float) -> None:
        self._sock = sock
        self._file = file
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._file.raw.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def _checked(url: str) -> SplitResult:
    parts = urlsplit(url)
    try:
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise NodeUnreachable(
            f"{url!r} is no address of a node: it should be like {DEFAULT_URL} (--url, FOSSA_URL)"
        )
    return parts


def _encode(body: Mapping[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except (TypeError, OverflowError) as error:
        raise TaskRefused(f"the task's arguments are not JSON: {error}") from error
