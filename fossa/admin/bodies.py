"""Reads what clients send, within a size and a time."""

import asyncio
from typing import TYPE_CHECKING, Any

from fossa.admin.answers import Problem

if TYPE_CHECKING:
    from aiohttp import web

#: Seconds that a client has to send a request's body.
BODY_DEADLINE = 20.0


async def read_body(request: "web.Request", most: int) -> bytes:
    """A request's body.

    The limit is kept here rather than by the framework because a host's limit would be used where
    the application is mounted.

    Args:
        request: its body has not been read.
        most: bytes.

    Raises:
        Problem: it is too large (413), too slow (408) or compressed (415).
    """
    if not request.can_read_body:
        return b""
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise Problem(415, "unsupported_media_type", "send the body without Content-Encoding")
    if (request.content_length or 0) > most:
        raise _too_large(most)
    if request.content.is_eof():
        # The common case: it came together with the head.
        body = request.content.read_nowait()
    else:
        body = await _arriving(request, most)
    if len(body) > most:
        raise _too_large(most)
    return body


async def _arriving(request: "web.Request", most: int) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_DEADLINE):
            while len(body) <= most and (chunk := await request.content.readany()):
                body += chunk
    except TimeoutError:
        text = f"the body did not arrive within {BODY_DEADLINE:g} s"
        raise Problem(408, "too_slow", text, {"Connection": "close"}) from None
    return bytes(body)


def is_json(request: "web.Request") -> bool:
    """Whether a request says that its body is JSON. The charset is ignored: JSON is UTF-8."""
    kind: Any = request.headers.get("Content-Type", "")
    kind = kind.partition(";")[0].strip().lower()
    named = kind.startswith("application/") and kind.endswith("+json")
    return bool(kind == "application/json" or named)


def _too_large(most: int) -> Problem:
    text = f"the body is larger than {most} bytes, which HTTP_MAX_BODY_BYTES is"
    return Problem(413, "too_large", text, {"Connection": "close"})
