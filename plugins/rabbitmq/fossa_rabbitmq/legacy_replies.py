"""Replies on the wire of `ayeaye-fossa` 0.0.37: outcomes of this node, and those of others.

Values in, values out, like `legacy`, which has the tasks.
"""

import json
import re
from typing import Any, TypeVar

import msgspec
import pika
from attrs import frozen
from msgspec import Raw, Struct

from fossa import Outcome, Reason, Status
from fossa_rabbitmq import wire
from fossa_rabbitmq.legacy import LegacyTask, text_property
from fossa_rabbitmq.wire import BadMessage, Letter

S = TypeVar("S", bound=Struct)

#: The `type` of a reply from a node of this version. Those of 0.0.37 set and read none.
OUTCOME = "fossa.legacy_outcome"

# In headers, which nodes of 0.0.37 do not look at.
_REASON, _DESCRIBED = "fossa-reason", "fossa-described"

#: Reasons of a `TaskComplete`.
_OF_COMPLETE = (Reason.RETURNED, Reason.CHECK_FAILED)
_CLASS = re.compile(r"<class '([^']{1,200})'>")
#: Characters of a line of a traceback that are kept.
_MAX_TEXT = 1 << 16
_EMPTY = Raw(b"{}")

_encode = msgspec.json.Encoder().encode


# outcomes of this node, for whoever asked


def encode_reply(asked: LegacyTask, outcome: Outcome, task_id: str | None = None) -> Letter:
    """The reply to a task, to be published once to `asked.reply_to`.

    Args:
        asked: the task as it was read, or what `unread` returned.
        outcome: how it ended, or that it was refused.
        task_id: this node's id for it; None where it was not admitted.
    """
    complete = outcome.reason in _OF_COMPLETE
    payload = _complete(asked, outcome) if complete else _failed(asked, outcome, task_id)
    headers: dict[str, Any] = {_REASON: str(outcome.reason)}
    if not outcome.result_is_json:
        headers[_DESCRIBED] = True
    return wire.letter(
        OUTCOME,
        {"type": "TaskComplete" if complete else "TaskFailed", "payload": payload},
        headers=headers,
        correlation_id=asked.correlation_id,
    )


def _complete(asked: LegacyTask, outcome: Outcome) -> dict[str, Any]:
    # To 0.0.37 a failed check is a complete task whose go() returned False.
    failed_check = outcome.reason is Reason.CHECK_FAILED
    return {
        "model_cls_name": _name(asked.request.model),
        "method_name": _name(asked.request.method),
        "method_kwargs": _object(asked.request.method_kwargs),
        "return_value": False if failed_check else Raw(outcome.result_json),
    }


def _failed(asked: LegacyTask, outcome: Outcome, task_id: str | None) -> dict[str, Any]:
    request = asked.request
    return {
        "model_class_name": _name(request.model),
        "model_construction_kwargs": _object(request.model_construction_kwargs),
        "partition_initialise_kwargs": _object(request.partition_initialise_kwargs),
        "method_name": _name(request.method),
        "method_kwargs": _object(request.method_kwargs),
        "resolver_context": _object(request.resolver_context),
        "exception_class_name": f"<class '{outcome.error or f'fossa.{outcome.reason}'}'>",
        "traceback": [outcome.message, *outcome.traceback],
        "task_id": task_id,
        "failure_origin_task_id": outcome.failed_subtask,
    }


def _name(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _object(value: Any) -> Raw:
    """The sender's own words back to it, where they are an object that can be written at all."""
    try:
        return Raw(_encode(value)) if isinstance(value, dict) else _EMPTY
    except (TypeError, ValueError, RecursionError):
        return _EMPTY


# outcomes of others, for this node


@frozen(kw_only=True)
class Reply:
    """What came back for a subtask."""

    correlation_id: str
    #: Without attempt and times, which nodes of 0.0.37 do not tell.
    outcome: Outcome
    #: Whether a node of this version ran it, and has counted its retries. Those of 0.0.37 leave
    #: retries to whoever sent the subtask.
    counted: bool


class _Message(Struct):
    type: str
    payload: Raw


class _Complete(Struct):
    return_value: Raw
    method_name: str = ""


class _Failed(Struct):
    traceback: list[str]
    exception_class_name: str = ""
    failure_origin_task_id: str | None = None


def decode_reply(body: bytes, properties: pika.BasicProperties, limit: int) -> Reply:
    """The outcome in a reply of at most `limit` bytes.

    Raises:
        BadMessage: it cannot be read. Its subtask may have run to its end all the same.
    """
    wire.version_of(properties)
    correlation_id = text_property(properties, "correlation_id")
    if correlation_id is None:
        raise BadMessage("bad_message", "the property correlation_id is missing")
    if len(body) > limit:
        raise BadMessage("too_large", f"the body has {len(body)} bytes and the limit is {limit}")
    message = _shaped(_finite(body), _Message)
    if message.type == "TaskComplete":
        outcome = _outcome_of_complete(_shaped(bytes(message.payload), _Complete), properties)
    elif message.type == "TaskFailed":
        outcome = _outcome_of_failed(_shaped(bytes(message.payload), _Failed), properties)
    else:
        raise BadMessage("bad_message", f"a reply's type is {message.type!r:.100}")
    return Reply(correlation_id=correlation_id, outcome=outcome, counted=properties.type == OUTCOME)


def _shaped(body: bytes, shape: type[S]) -> S:
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise BadMessage("bad_message", f"a reply is not what it should be: {error}") from None
    except (ValueError, RecursionError) as error:
        raise BadMessage("bad_json", f"a reply is not JSON: {error}") from None


def _finite(body: bytes) -> bytes:
    """The body as JSON has it: nodes of 0.0.37 write NaN and infinities, which become null."""
    try:
        msgspec.json.decode(body)
    except (ValueError, RecursionError):
        try:
            return _encode(json.loads(body.decode()))
        except (ValueError, RecursionError) as error:
            raise BadMessage("bad_json", f"a reply is not JSON: {error}") from None
    return body


def _outcome_of_complete(payload: _Complete, properties: pika.BasicProperties) -> Outcome:
    returned = bytes(payload.return_value)
    if payload.method_name == "go" and returned == b"false":
        text = "go() returned False: a pre- or post-build check failed"
        return Outcome(status=Status.FAILED, reason=Reason.CHECK_FAILED, message=text)
    described = bool((properties.headers or {}).get(_DESCRIBED))
    return Outcome(
        status=Status.COMPLETE,
        reason=Reason.RETURNED,
        result_json=returned,
        result_is_json=not described,
    )


def _outcome_of_failed(payload: _Failed, properties: pika.BasicProperties) -> Outcome:
    reason = _reason(payload, properties)
    error = _class_name(payload.exception_class_name)
    origin = (payload.failure_origin_task_id or "")[:200] or None
    # A node of 0.0.37 says nothing but the id of a failed subtask.
    default = f"its subtask {origin} failed" if origin else ""
    message, *rest = [line[:_MAX_TEXT] for line in payload.traceback] or [default]
    return Outcome(
        status=Status.CANCELLED if reason is Reason.CANCELLED else Status.FAILED,
        reason=reason,
        message=message,
        error=None if error == f"fossa.{reason}" else error,
        traceback=tuple(rest),
        failed_subtask=origin,
    )


def _reason(payload: _Failed, properties: pika.BasicProperties) -> Reason:
    """What a node of this version says it was; else what can be told from the exception."""
    said = (properties.headers or {}).get(_REASON)
    if isinstance(said, str) and said in set(Reason) and said not in _OF_COMPLETE:
        return Reason(said)
    if payload.exception_class_name == "<class 'ayeaye.exception.SubTaskFailed'>":
        return Reason.SUBTASK_FAILED
    return Reason.EXCEPTION


def _class_name(text: str) -> str | None:
    found = _CLASS.fullmatch(text)
    return (found[1] if found else text[:200]) or None
