"""What a message says of itself beside its body: any AMQP client may have written it.

pika gives up the whole connection where it cannot decode a header, such as a moment after the year
9999. The broker would deliver that message again, and again.
"""

import struct
from collections.abc import Mapping
from typing import Any

import pika
from pika.data import encode_table
from pika.frame import Header, decode_frame
from pika.spec import FRAME_HEADER

#: The only header of a message whose headers cannot be read: why that is.
UNREADABLE = "fossa-unreadable-headers"
#: What is ours or anybody's to pass on. Not `user_id`, which the broker takes from its owner only.
_CARRIED = (
    "content_type", "content_encoding", "priority", "correlation_id", "reply_to", "message_id",
    "timestamp", "type", "app_id",
)  # fmt: skip
#: Headers by which the broker sends copies to other queues.
_COPIES = ("CC", "BCC")
_FRAME = struct.Struct(">BHL")
_HEAD = struct.Struct(">HHQ")


def carried(
    properties: pika.BasicProperties, more: Mapping[str, Any] | None = None
) -> pika.BasicProperties:
    """The properties of a message that is published again, with further headers."""
    headers = {k: v for k, v in (properties.headers or {}).items() if k not in _COPIES}
    try:
        encode_table([], headers)
    except Exception as error:
        headers = {UNREADABLE: _why(error)}
    return pika.BasicProperties(
        **{name: getattr(properties, name) for name in _CARRIED},
        delivery_mode=2,
        headers={**headers, **(more or {})},
    )


def frame_of(buffer: bytes) -> tuple[int, Any]:
    """The bytes that the next frame takes, and the frame (None: there is more to come).

    Where pika cannot decode the headers of a message it has the one header `UNREADABLE`.
    """
    try:
        return decode_frame(buffer)
    except Exception as error:
        kind, channel, size = _FRAME.unpack_from(buffer)
        if kind != FRAME_HEADER:
            raise
        end = _FRAME.size + size
        return end + 1, _without_headers(channel, buffer[_FRAME.size : end], error)


def _without_headers(channel: int, frame: bytes, error: Exception) -> Header:
    _, _, body_size = _HEAD.unpack_from(frame)
    said = frame[_HEAD.size :]
    flags = int.from_bytes(said[:2], "big")
    if not flags & pika.BasicProperties.FLAG_HEADERS:
        raise error
    start = 2
    for flag in (
        pika.BasicProperties.FLAG_CONTENT_TYPE,
        pika.BasicProperties.FLAG_CONTENT_ENCODING,
    ):
        start += 1 + said[start] if flags & flag else 0
    end = start + 4 + int.from_bytes(said[start : start + 4], "big")
    others = (flags & ~pika.BasicProperties.FLAG_HEADERS).to_bytes(2, "big")
    properties = pika.BasicProperties()
    properties.decode(others + said[2:start] + said[end:])
    properties.headers = {UNREADABLE: _why(error)}
    return Header(channel, body_size, properties)


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
