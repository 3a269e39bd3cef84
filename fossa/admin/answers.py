"""Answers as JSON bytes, and one shape for everything that goes wrong."""

import re
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from fossa.errors import FossaError, LedgerError, NodeStopped, TaskRefused, TooLate, UnknownTask

if TYPE_CHECKING:
    from fossa.admin.links import Links
    from fossa.contracts import Node

_encode = msgspec.json.Encoder().encode
_JSON = "application/json"
_STATUSES: tuple[tuple[type[FossaError], int], ...] = (
    (UnknownTask, 404),
    (TooLate, 409),
    (NodeStopped, 503),
    (LedgerError, 503),
)
#: What the framework's own refusals are called, and what to say of them.
_REFUSALS = {
    404: ("not_found", "there is nothing at this path"),
    405: ("method_not_allowed", "this path does not take that method"),
    413: ("too_large", "the body is larger than HTTP_MAX_BODY_BYTES allows"),
}


class Problem(Exception):
    """A request that cannot be answered as asked.

    Attributes:
        status: HTTP status.
        reason: one word for programs.
        message: a line for people.
        headers: what else a client is told.
    """

    def __init__(
        self, status: int, reason: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.headers = headers or {}


def answer(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A document as JSON."""
    return web.Response(
        body=_encode(document) + b"\n",
        status=status,
        headers={"Content-Type": _JSON, **(headers or {})},
    )


def problem_of(error: FossaError) -> Problem:
    """What a `FossaError` is to a client."""
    status = error.status if isinstance(error, TaskRefused) else 500
    status = next((number for kind, number in _STATUSES if isinstance(error, kind)), status)
    headers = {"Retry-After": "1"} if status == 503 else None
    return Problem(status, _snake(type(error).__name__), str(error), headers)


class Shapes:
    """Gives every refusal the shape of the API that it belongs to. The outermost middleware."""

    def __init__(self, node: "Node", links: "Links") -> None:
        self._node = node
        self._links = links

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Problem as error:
            problem = error
        except FossaError as error:
            problem = problem_of(error)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            problem = _problem_of_framework(error)
        except (ConnectionError, TimeoutError):
            raise
        except Exception:
            self._node.logger.exception("%s %s failed", request.method, request.path)
            problem = Problem(500, "internal", "a mistake in Fossa: the node's log has more")
        return self._shaped(request, problem)

    def _shaped(self, request: web.Request, problem: Problem) -> web.StreamResponse:
        path = self._links.inside(request.path)
        if path.startswith("/api/") and not path.startswith("/api/1/"):
            from fossa.admin.api_0_01 import refusal

            return refusal(request, problem, self._links)
        content = {"status": problem.status, "message": problem.message, "reason": problem.reason}
        return answer({"error": content}, problem.status, problem.headers)


def _problem_of_framework(error: web.HTTPException) -> Problem:
    reason, text = _REFUSALS.get(error.status, (_snake(type(error).__name__), error.reason))
    allow = error.headers.get("Allow")
    return Problem(error.status, reason, text, {"Allow": allow} if allow else None)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.removeprefix("HTTP")).lower()
