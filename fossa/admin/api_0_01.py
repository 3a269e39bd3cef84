"""`/api/0.01/`: what clients of `ayeaye-fossa` 0.0.37 know, with its documents and status codes.

It differs on purpose in this: tasks are named by UUIDs; a method that is not public is refused
(412) instead of run; a field of a type that could only fail later, or that was answered with a
500, is refused (400); a cancelled task is a failed one; and a return value that is not JSON ends
the task complete, with a description of it.
"""

import json
import os
import re
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web

from fossa.admin.answers import Problem
from fossa.admin.bodies import is_json, read_body
from fossa.errors import NotAccepted, TaskRefused, UnknownTask
from fossa.tasks import Delivery, Outcome, Reason, Record, Request, Status

if TYPE_CHECKING:
    from fossa.admin.links import Links
    from fossa.contracts import Node

PATH = "/api/0.01"
#: Tasks under way, and ended ones, that `node_info` shows at the most.
SHOWN = 100
#: Bytes of arguments and results that `node_info` shows of ended tasks, about.
_SHOWN_BYTES = 1 << 20
_ARGUMENTS = (
    "method_kwargs",
    "model_construction_kwargs",
    "partition_initialise_kwargs",
    "resolver_context",
)
_FRAME = re.compile(r'File "(.*)", line (\d+), in [^:]*: ?(.*)', re.DOTALL)
_PHRASES = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Request Entity Too Large",
    415: "Unsupported Media Type",
}
#: What the framework of 0.0.37 refused, in its shape.
_BY_FRAMEWORK = {
    "bad_json", "not_found", "method_not_allowed", "too_large", "too_slow",
    "unsupported_media_type",
}  # fmt: skip


class FirstApi:
    """The four operations."""

    def __init__(self, node: "Node", links: "Links") -> None:
        self._node = node
        self._links = links
        self._config = node.composition

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_route("*", PATH, self.with_slash)
        for path, handler in (
            ("/", self.hello),
            ("/task/{id}", self.task),
            ("/node_info", self.node_info),
        ):
            router.add_get(PATH + path, handler)
            router.add_options(PATH + path, _options("GET, HEAD, OPTIONS"))
        router.add_post(f"{PATH}/task", self.submit)
        router.add_options(f"{PATH}/task", _options("OPTIONS, POST"))

    async def with_slash(self, request: web.Request) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            raise web.HTTPNotFound
        query = f"?{request.query_string}" if request.query_string else ""
        return _moved(f"{self._root(request)}{PATH}/{query}")

    async def hello(self, request: web.Request) -> web.StreamResponse:
        return self._answer({"hello": "world"})

    async def submit(self, request: web.Request) -> web.StreamResponse:
        if not is_json(request):
            raise Problem(415, "unsupported_media_type", "")
        body = await read_body(request, self._config.HTTP_MAX_BODY_BYTES)
        wanted = _request(_decoded(body))
        task, _ = await self._node.admit(Delivery(request=wanted, source="http"))
        link = f"{self._root(request)}{PATH}/task/{task.id}"
        return self._answer(
            {
                "_metadata": {"links": {"task": link}},
                "governor_accepted_ident": self._ident(),
                "task_id": task.id,
            }
        )

    async def task(self, request: web.Request) -> web.StreamResponse:
        try:
            record = await self._node.record(request.match_info["id"])
        except UnknownTask:
            return self._answer({"message": "task unknown"}, 404)
        return self._answer(document(record))

    async def node_info(self, request: web.Request) -> web.StreamResponse:
        status = self._node.status()
        # In the order of a task's life, so that none is missed on its way from one to the next.
        under_way = await self._records("queued", "running")
        ended = await self._records("complete", "failed", "cancelled")
        seen = under_way | ended
        running = [r for r in seen.values() if r.outcome is None]
        done = [r for r in seen.values() if r.outcome is not None]
        running.sort(key=lambda r: r.started or r.task.accepted)
        done.sort(key=lambda r: r.outcome.finished if r.outcome else 0.0, reverse=True)
        return self._answer(
            {
                "node_info": {
                    "available_processing_capacity": status["slots_free"],
                    "max_concurrent_tasks": status["slots"],
                    "node_ident": self._ident(),
                },
                "recent_completed_tasks": [document(r) for r in _few(done)],
                "running_tasks": [document(r) for r in running],
            }
        )

    async def _records(self, *statuses: str) -> dict[str, Record]:
        found: dict[str, Record] = {}
        for status in statuses:
            page = await self._node.page(status=status, limit=SHOWN)
            found.update((record.task.id, record) for record in page)
        return found

    def _ident(self) -> str:
        return f"{os.getpid()}:{self._node.id}"

    def _answer(self, content: Any, status: int = 200) -> web.Response:
        return json_answer(content, status, indent=self._config.DEBUG)

    def _root(self, request: web.Request) -> str:
        """Scheme and host as the client knows them, and where the application is mounted."""
        config = self._config
        scheme = "https" if request.secure else config.PREFERRED_URL_SCHEME
        host = request.headers.get("Host", "").lower()
        if not host:
            host = f"{config.HTTP_HOST}:{config.HTTP_PORT}"
        return f"{scheme}://{host.removesuffix(_DEFAULT_PORT[scheme])}{self._links.base}"


_DEFAULT_PORT = {"http": ":80", "https": ":443"}


def json_answer(content: Any, status: int = 200, *, indent: bool = False) -> web.Response:
    """Sorted keys, ASCII, a line end: byte for byte as 0.0.37 wrote its documents."""
    separators = None if indent else (",", ":")
    text = json.dumps(content, sort_keys=True, separators=separators, indent=2 if indent else None)
    headers = {"Content-Type": "application/json"}
    return web.Response(body=f"{text}\n".encode(), status=status, headers=headers)


def refusal(request: web.Request, problem: Problem, links: "Links") -> web.StreamResponse:
    """A problem in the shape that it had in 0.0.37."""
    if problem.reason == "not_found" and "//" in request.path:
        merged = re.sub("/+", "/", request.path)
        if merged.startswith(f"{links.base}{PATH}/"):
            return _moved(f"{request.url.origin()}{merged}")
    if problem.status == 500:
        content: Any = {"msg": "Unknown error"}
    elif problem.reason in _BY_FRAMEWORK:
        content = {"msg": _PHRASES[problem.status]}
    else:
        content = {"error": {"message": problem.message}}
    response = json_answer(content, problem.status)
    response.headers.update({k: v for k, v in problem.headers.items() if k in _KEPT})
    return response


_KEPT = {"WWW-Authenticate", "Connection"}


def _options(allow: str) -> Any:
    async def options(request: web.Request) -> web.StreamResponse:
        headers = {"Allow": allow, "Content-Type": "text/html; charset=utf-8"}
        return web.Response(headers=headers)

    return options


def _moved(location: str) -> web.Response:
    return web.Response(status=308, headers={"Location": location})


def _decoded(body: bytes) -> Any:
    try:
        # The standard library's, because it takes what 0.0.37 took: UTF-16, a byte order mark, NaN.
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Problem(400, "bad_json", "") from None


def _request(found: Any) -> Request:
    if not isinstance(found, dict) or "model_class" not in found:
        raise TaskRefused("the document should be an object with a model_class: it is mandatory")
    values: dict[str, Any] = {"model": found["model_class"], "method": found.get("method", "go")}
    if isinstance(values["model"], list | dict):
        raise TaskRefused("model_class should be the name of an accepted model class")
    if not isinstance(values["model"], str):
        raise NotAccepted(f"Model class '{values['model']}' is not one that this node accepts")
    if not isinstance(values["method"], str):
        raise TaskRefused("method should be the name of a method of the model")
    # What else there may be was ignored, partition_initialise_kwargs among it.
    for name in ("method_kwargs", "model_construction_kwargs", "resolver_context"):
        values[name] = found.get(name, {})
        if not isinstance(values[name], dict):
            raise TaskRefused(f"{name} should be a JSON object")
    return Request(**values)


def _few(done: list[Record]) -> list[Record]:
    """The first of them: so many, and so many bytes, that the cost stays flat."""
    size, few = 0, []
    for record in done[:SHOWN]:
        few.append(record)
        size += len(record.task.arguments) + len(record.outcome.result_json or b"")  # type: ignore[union-attr]
        if size > _SHOWN_BYTES:
            break
    return few


# documents


def document(record: Record) -> dict[str, Any]:
    """A task as 0.0.37 showed it: 10 keys, and two more once it has ended."""
    task, outcome = record.task, record.outcome
    shown = {
        "method": task.method,
        "model_class": task.model,
        "on_completion_callback": None,
        "started": _date(record.started or task.accepted),
        "status": "running",
        "task_id": task.id,
        **_arguments(record),
    }
    if outcome is not None:
        complete = outcome.complete or outcome.reason is Reason.CHECK_FAILED
        payload = _complete(record, outcome) if complete else _failed(record, outcome)
        shown["results"] = {
            "payload": payload,
            "type": "TaskComplete" if complete else "TaskFailed",
        }
        shown["status"] = Status.COMPLETE if complete else Status.FAILED
        shown["finished"] = _date(outcome.finished)
    return shown


def _arguments(record: Record) -> dict[str, Any]:
    found = json.loads(record.task.arguments)
    return {name: found.get(name, {}) for name in _ARGUMENTS}


def _complete(record: Record, outcome: Outcome) -> dict[str, Any]:
    # A failed check was a complete task whose go() returned False.
    failed_check = outcome.reason is Reason.CHECK_FAILED
    return {
        "method_kwargs": _arguments(record)["method_kwargs"],
        "method_name": record.task.method,
        "model_cls_name": record.task.model,
        "return_value": False if failed_check else json.loads(outcome.result_json),
    }


def _failed(record: Record, outcome: Outcome) -> dict[str, Any]:
    return {
        "exception_class_name": f"<class '{outcome.error or f'fossa.{outcome.reason}'}'>",
        "failure_origin_task_id": outcome.failed_subtask,
        "method_name": record.task.method,
        "model_class_name": record.task.model,
        "task_id": record.task.id,
        "traceback": _traceback(outcome),
        **_arguments(record),
    }


def _traceback(outcome: Outcome) -> list[str]:
    if outcome.reason is Reason.SUBTASK_FAILED:
        return []
    return [outcome.message, *(_frame(line) for line in outcome.traceback)]


def _frame(line: str) -> str:
    found = _FRAME.fullmatch(line)
    if not found:
        return f"Traceback:  {line}"
    return f"Traceback:  File[{found[1]}] Line[{found[2]}] Text[{found[3].strip()}]"


def _date(seconds: float) -> str:
    """RFC 1123, whole seconds."""
    return format_datetime(datetime.fromtimestamp(int(seconds), UTC), usegmt=True)
