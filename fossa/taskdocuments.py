"""A task as JSON, as it is sent through brokers: read, and checked in shape.

`docs/reference/wire.md` is its description for those who write a client.
"""

from typing import Any

import msgspec

from fossa.errors import FossaError
from fossa.tasks import Request

__all__ = ["BadDocument", "read_task_document"]

#: Characters of what is said of a bad document, at the most.
MAX_DETAIL = 500


class BadDocument(FossaError):
    """A document is not what it should be.

    Attributes:
        reason: one word, for the dead letter.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(one_line(detail))


def one_line(text: str) -> str:
    """A text that somebody else may have written, to be shown: not long, and no line ends."""
    cut = text if len(text) <= MAX_DETAIL else f"{text[: MAX_DETAIL - 1]}…"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut)


class _Newer(msgspec.Struct):
    """As `POST /api/1/tasks`, and `reply`; fields that it does not have are passed over."""

    model: str
    method: str | None = None
    method_kwargs: dict[str, Any] | None = None
    model_construction_kwargs: dict[str, Any] | None = None
    partition_initialise_kwargs: dict[str, Any] | None = None
    resolver_context: dict[str, Any] | None = None
    timeout: float | None = None
    retries: int | None = None
    priority: int | None = None
    reply: bool = True


class _Document(_Newer, forbid_unknown_fields=True):
    """The same, in which a field that it does not have is a mistake."""


_decode = msgspec.json.Decoder(_Document).decode
_decode_newer = msgspec.json.Decoder(_Newer).decode


def read_task_document(
    body: bytes, *, limit: int, key: str | None = None, newer: bool = False
) -> tuple[Request, bool]:
    """The request in a document, and whether the sender wants a reply.

    The request is as hostile as before: admission checks what is in it.

    Args:
        body: JSON, in UTF-8.
        limit: bytes that it may have.
        key: the request's idempotency key.
        newer: whether a newer minor version wrote it: unknown fields are passed over.

    Raises:
        BadDocument: with the place that is wrong.
    """
    if len(body) > limit:
        raise BadDocument("too_large", f"the body has {len(body)} bytes and the limit is {limit}")
    document = _decoded(body, newer)
    request = Request(
        model=document.model,
        method="go" if document.method is None else document.method,
        method_kwargs=document.method_kwargs,
        model_construction_kwargs=document.model_construction_kwargs,
        partition_initialise_kwargs=document.partition_initialise_kwargs,
        resolver_context=document.resolver_context,
        timeout=document.timeout,
        retries=document.retries,
        priority=document.priority,
        idempotency_key=key,
    )
    return request, document.reply


def _decoded(body: bytes, newer: bool) -> _Newer:
    try:
        return _decode_newer(body) if newer else _decode(body)
    except msgspec.ValidationError as error:
        raise BadDocument("bad_message", f"the body is not what it should be: {error}") from None
    except (ValueError, RecursionError) as error:  # a ValueError where it is not UTF-8
        raise BadDocument("bad_json", f"the body is not JSON: {error}") from None
