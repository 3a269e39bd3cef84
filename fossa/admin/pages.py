"""The pages: the node at a glance, and everything of one task."""

import asyncio
import json
import re
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from fossa.admin.views import fleet_view, node_view, subtask_counts, task_view
from fossa.documents import moment
from fossa.errors import UnknownTask
from fossa.tasks import Record

if TYPE_CHECKING:
    from jinja2 import Environment

    from fossa.admin.links import Links
    from fossa.contracts import Node

_HERE = Path(__file__).parent
STATIC = _HERE / "static"
#: Rows of a table.
RUNNING, RECENT, SUBTASKS, FAILED_SUBTASKS = 50, 30, 100, 20
#: Log lines that a task's page shows: the newest.
TAIL = 200
#: Characters of JSON that a page shows of a value.
MAX_SHOWN = 20_000
#: Tasks whose newest log position is remembered.
_REMEMBERED = 256
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'",
    "Content-Type": "text/html; charset=utf-8",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Not "no-referrer": browsers then send forms with "Origin: null", as foreign pages do.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Pages:
    """Renders the pages of one node. With `?fragment=1`, only what changes."""

    def __init__(self, node: "Node", links: "Links") -> None:
        self._node = node
        self.links = links
        self.scheme: str = node.composition.PREFERRED_URL_SCHEME
        self._positions: dict[str, int] = {}

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/", self.home, name="home")
        router.add_get("/task/{id}", self.task, name="task")
        # Where the application is mounted, its host leaves the last slash to it.
        router.add_get("", self._to_home)

    async def _to_home(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=308, headers={"Location": self.links.home()})

    # pages

    async def home(self, request: web.Request) -> web.StreamResponse:
        page = self._node.page
        running = await page(status="running", limit=RUNNING)
        queued = await page(status="queued", limit=RUNNING)
        recent = await page(limit=RECENT + RUNNING)
        under_way = _under_way([*queued, *running])
        ended = [r for r in recent if r.outcome is not None][:RECENT]
        return await self._page(
            "home.html",
            request,
            node=node_view(self._node.status()),
            fleet=fleet_view(self._node.fleet()),
            running=self._views(under_way),
            recent=self._views(ended),
        )

    async def task(self, request: web.Request) -> web.StreamResponse:
        try:
            record = await self._node.record(request.match_info["id"])
        except UnknownTask as error:
            return await self._page("problem.html", request, 404, message=str(error))
        lines, earlier = await self._tail(record.task.id)
        subtasks = await self._subtasks(record)
        return await self._page(
            "task.html",
            request,
            task=task_view(record, self._node.name),
            record=record,
            arguments=_shown(record.task.arguments),
            result=_shown(record.outcome.result_json) if record.outcome else "",
            counts=subtask_counts(record),
            subtasks=self._views(subtasks),
            lines=[(position, line, (moment(line.time) or "")[11:23]) for position, line in lines],
            earlier=earlier,
        )

    async def sign_in(self, wanted: str, problem: str = "") -> web.StreamResponse:
        """The form that asks for the token."""
        return await self._page("sign_in.html", None, 401, wanted=wanted, problem=problem)

    def known_path(self, wanted: str) -> str:
        """A page to go on to: what is asked for if it is one of ours, else the first."""
        ours = re.fullmatch(rf"{re.escape(self.links.base)}/task/[\w-]{{1,64}}", wanted)
        return wanted if ours else self.links.home()

    # parts

    def _views(self, records: list[Record]) -> list[dict[str, Any]]:
        return [task_view(record, self._node.name) for record in records]

    async def _subtasks(self, record: Record) -> list[Record]:
        """Failed ones first: they are what somebody looks for."""
        if not record.progress.subtasks:
            return []
        page, parent = self._node.page, record.task.id
        failed = await page(parent_id=parent, status="failed", limit=FAILED_SUBTASKS)
        newest = await page(parent_id=parent, limit=SUBTASKS)
        return list({r.task.id: r for r in [*failed, *newest]}.values())[:SUBTASKS]

    async def _tail(self, task_id: str) -> tuple[list[Any], int]:
        """The newest log lines, and how many there are before them."""
        after = max(0, self._positions.get(task_id, 0) - TAIL)
        tail: list[Any] = []
        while page := await self._node.logs(task_id, after, 1000):
            tail = [*tail, *page][-TAIL:]
            after = page[-1][0]
        self._positions[task_id] = after
        while len(self._positions) > _REMEMBERED:
            del self._positions[next(iter(self._positions))]
        return tail, tail[0][0] - 1 if tail else 0

    # rendering

    async def _page(
        self, name: str, request: web.Request | None, status: int = 200, **values: Any
    ) -> web.Response:
        if "_templates" not in vars(self):
            # Importing the template engine takes a while: not in the event loop.
            await asyncio.to_thread(lambda: self._templates)
        fragment = request is not None and "fragment" in request.query
        template = self._templates.get_template(name)
        text = template.render(
            links=self.links,
            title=self._node.composition.APP_TITLE,
            node_name=self._node.name,
            layout="fragment.html" if fragment else "layout.html",
            **values,
        )
        return web.Response(body=text.encode(errors="replace"), status=status, headers=_HEADERS)

    @cached_property
    def _templates(self) -> "Environment":
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        for name in environment.list_templates():
            environment.get_template(name)
        return environment


def _under_way(records: list[Record]) -> list[Record]:
    """Those without an outcome: what runs first, the longest-running before the others."""
    found = {r.task.id: r for r in records if r.outcome is None}
    return sorted(found.values(), key=lambda r: (r.started or time.time(), r.task.accepted))


def _shown(encoded: bytes) -> str:
    """JSON, laid out for reading; the first part of it where it is long."""
    if len(encoded) > MAX_SHOWN:
        return f"{encoded[:MAX_SHOWN].decode(errors='ignore')} …"
    return json.dumps(json.loads(encoded), indent=2, ensure_ascii=False)
