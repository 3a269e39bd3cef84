"""`/api/1/`: the full API. `openapi.py` describes it, and a test holds the two together."""

import difflib
import re
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from fossa.admin.answers import Problem, answer
from fossa.admin.bodies import is_json, read_body
from fossa.admin.exposition import Exposition
from fossa.admin.inventory import inventory
from fossa.admin.openapi import openapi_document
from fossa.admin.waiting import MAX_WAIT
from fossa.documents import log_document, task_document
from fossa.tasks import Delivery, Record, Request, Status, Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fossa.admin.links import Links
    from fossa.admin.waiting import Waiting
    from fossa.contracts import Node

PATH = "/api/1"
#: Members of a submission.
FIELDS = (
    "model",
    "method",
    "method_kwargs",
    "model_construction_kwargs",
    "partition_initialise_kwargs",
    "resolver_context",
    "idempotency_key",
    "timeout",
    "retries",
    "priority",
)
_WHOLE = re.compile(r"[0-9]{1,18}")
_SECONDS = re.compile(r"[0-9]{1,3}(\.[0-9]{1,9})?")
_decode = msgspec.json.Decoder().decode


class Api:
    """The operations, in the order of the OpenAPI document."""

    def __init__(self, node: "Node", links: "Links", waiting: "Waiting") -> None:
        self._node = node
        self._links = links
        self._waiting = waiting
        self._exposition = Exposition(node)
        self._max_body: int = node.composition.HTTP_MAX_BODY_BYTES

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post(f"{PATH}/tasks", self.submit)
        router.add_get(f"{PATH}/tasks", self.tasks)
        router.add_get(f"{PATH}/tasks/{{id}}", self.task)
        router.add_get(f"{PATH}/tasks/{{id}}/subtasks", self.subtasks)
        router.add_get(f"{PATH}/tasks/{{id}}/logs", self.logs)
        router.add_post(f"{PATH}/tasks/{{id}}/cancel", self.cancel)
        router.add_post(f"{PATH}/tasks/{{id}}/retry", self.retry)
        router.add_get(f"{PATH}/node", self.node)
        router.add_get(f"{PATH}/nodes", self.nodes)
        router.add_get(f"{PATH}/plugins", self.plugins)
        router.add_get(f"{PATH}/health/live", self.live, name="live")
        router.add_get(f"{PATH}/health/ready", self.ready, name="ready")
        router.add_get(f"{PATH}/metrics", self.metrics)
        router.add_get(f"{PATH}/openapi.json", self.openapi)

    # tasks

    async def submit(self, request: web.Request) -> web.StreamResponse:
        if not is_json(request):
            text = "send the task as a JSON object, with Content-Type: application/json"
            raise Problem(415, "unsupported_media_type", text)
        wanted = _submission(await read_body(request, self._max_body))
        _take_key(wanted, request.headers.get("Idempotency-Key"))
        delivery = Delivery(request=Request(**wanted), source="http")
        task, new = await self._node.admit(delivery)
        if new:
            return self._accepted(task)
        record = await self._node.record(task.id)
        return answer(self._document(record), 200, {"Location": self._path(task)})

    async def tasks(self, request: web.Request) -> web.StreamResponse:
        query = _query(request, "status", "model", "before", "limit")
        return await self._page("/tasks", query)

    async def task(self, request: web.Request) -> web.StreamResponse:
        seconds = _wait(_query(request, "wait"))
        return answer(self._document(await self._waiting.record(_id(request), seconds)))

    async def subtasks(self, request: web.Request) -> web.StreamResponse:
        query = _query(request, "status", "model", "before", "limit")
        record = await self._node.record(_id(request))
        path = f"/tasks/{record.task.id}/subtasks"
        return await self._page(path, query, parent_id=record.task.id)

    async def logs(self, request: web.Request) -> web.StreamResponse:
        query = _query(request, "after", "limit", "wait")
        after = _whole(query, "after", 0, 0, 2**59)
        limit = _whole(query, "limit", 1000, 1, 10_000)
        lines, ended = await self._waiting.lines(_id(request), after, limit, _wait(query))
        shown = [log_document(position, line) for position, line in lines]
        after = lines[-1][0] if lines else after
        more = None if ended and len(lines) < limit else after
        path = f"/tasks/{_id(request)}/logs"
        following = None if more is None else self._links.api(path, after=more, limit=limit)
        return answer({"lines": shown, "next": following})

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        _query(request)
        await self._node.cancel(_id(request))
        return answer(self._document(await self._node.record(_id(request))), 202)

    async def retry(self, request: web.Request) -> web.StreamResponse:
        _query(request)
        return self._accepted(await self._node.retry(_id(request)))

    async def _page(
        self, path: str, query: "Mapping[str, str]", **filters: Any
    ) -> web.StreamResponse:
        limit = _whole(query, "limit", 50, 1, 200)
        before = _whole(query, "before", 0, 1, 2**59) if "before" in query else None
        status = query.get("status")
        if status is not None and status not in tuple(Status):
            raise _bad(f"status is {status!r:.50}: it should be one of {', '.join(Status)}")
        filters |= {"status": status, "model": query.get("model"), "before": before}
        records = await self._node.page(limit=limit + 1, **filters)
        shown, following = records[:limit], None
        if len(records) > limit:
            kept = {k: query.get(k) for k in ("status", "model")}
            following = self._links.api(path, before=shown[-1].seq, limit=limit, **kept)
        return answer({"tasks": [self._document(r) for r in shown], "next": following})

    def _document(self, record: Record) -> dict[str, Any]:
        return task_document(record, self._node.name)

    def _accepted(self, task: Task) -> web.Response:
        """A new task as it was accepted: it may be running by now."""
        record = Record(task=task, status=Status.QUEUED)
        return answer(self._document(record), 202, {"Location": self._path(task)})

    def _path(self, task: Task) -> str:
        return self._links.api(f"/tasks/{task.id}")

    # the node

    async def node(self, request: web.Request) -> web.StreamResponse:
        _query(request)
        return answer(self._node.status())

    async def nodes(self, request: web.Request) -> web.StreamResponse:
        _query(request)
        return answer({"nodes": self._node.fleet()})

    async def plugins(self, request: web.Request) -> web.StreamResponse:
        _query(request)
        return answer({"plugins": await inventory(self._node.composition)})

    async def live(self, request: web.Request) -> web.StreamResponse:
        return answer({"live": True})

    async def ready(self, request: web.Request) -> web.StreamResponse:
        reasons = self._node.not_ready()
        return answer({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        body, kind = self._exposition.text()
        return web.Response(body=body, headers={"Content-Type": kind})

    async def openapi(self, request: web.Request) -> web.StreamResponse:
        return answer(openapi_document(self._links.api("")))


def _id(request: web.Request) -> str:
    return request.match_info["id"]


# submissions


def _submission(body: bytes) -> dict[str, Any]:
    try:
        found = _decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        text = f"the body is not JSON: {error}" if body else "the body is empty"
        raise Problem(400, "bad_json", text) from None
    if not isinstance(found, dict):
        raise _bad(f"the body should be a JSON object, with {', '.join(FIELDS)}")
    _check_names(found, FIELDS, "member of a task")
    if "model" not in found:
        raise _bad("model is missing: it should be the name of an accepted model class")
    return {name: value for name, value in found.items() if value is not None or name == "model"}


def _take_key(wanted: dict[str, Any], header: str | None) -> None:
    if header is None:
        return
    if wanted.setdefault("idempotency_key", header) != header:
        raise _bad("the header Idempotency-Key and the member idempotency_key differ")


# queries


def _query(request: web.Request, *names: str) -> "Mapping[str, str]":
    """The query's parameters, each of them known and given once."""
    if not request.query_string:
        return {}
    given = request.query
    _check_names(given, names, "parameter of this operation")
    if len(given) != len(set(given)):
        raise _bad("a parameter is given twice")
    return given


def _check_names(given: "Iterable[str]", known: tuple[str, ...], what: str) -> None:
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name[:100], known, 1)
            hint = f": did you mean {close[0]}?" if close else ""
            raise _bad(f"{name!r:.60} is no {what}{hint}")


def _whole(query: "Mapping[str, str]", name: str, default: int, low: int, high: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
        raise _bad(f"{name} is {text!r:.50}: it should be a whole number from {low} to {high}")
    return int(text)


def _wait(query: "Mapping[str, str]") -> float:
    text = query.get("wait", "0")
    if not _SECONDS.fullmatch(text) or not float(text) <= MAX_WAIT:
        raise _bad(f"wait is {text!r:.50}: it should be seconds, from 0 to {MAX_WAIT:g}")
    return float(text)


def _bad(message: str) -> Problem:
    return Problem(400, "bad_request", message)
