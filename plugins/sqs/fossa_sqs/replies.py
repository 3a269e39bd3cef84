"""What a node tells the sender of a task."""

from typing import Any

import msgspec

from fossa import Node, Outcome, Reason, Status
from fossa.brokers import BrokerError, Reply

#: Bytes of a message that are kept for its attributes.
_ATTRIBUTES = 1024


def refusal(text: str) -> Outcome:
    """The outcome of a message that no task was made of."""
    return Outcome(status=Status.FAILED, reason=Reason.PROTOCOL, message=text)


def reply_body(node: Node, task_id: str | None, outcome: Outcome, limit: int) -> str:
    """JSON for the sender; without the result where that makes it too large."""
    said = _outcome(outcome)
    body = _encoded(node, task_id, said)
    if len(body) > limit - _ATTRIBUTES:
        note = f"the result is left out: the reply has {len(body)} bytes and the limit is {limit}"
        said |= {"result": None, "result_left_out": note, "traceback": []}
        said["message"] = outcome.message[: limit // 8]
        body = _encoded(node, task_id, said)
    return body.decode()


def _encoded(node: Node, task_id: str | None, outcome: dict[str, Any]) -> bytes:
    document = {
        "task_id": task_id,
        "node": {"id": node.id, "name": node.name},
        "outcome": outcome,
    }
    return msgspec.json.encode(document)


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "status": outcome.status,
        "reason": outcome.reason,
        "message": outcome.message,
        "error": outcome.error,
        "traceback": list(outcome.traceback),
        "result": msgspec.Raw(outcome.result_json),
        "result_is_json": outcome.result_is_json,
        "failed_subtask": outcome.failed_subtask,
        "attempt": outcome.attempt,
        "started": outcome.started,
        "finished": outcome.finished,
    }


class _Said(msgspec.Struct):
    status: Status
    reason: Reason
    message: str = ""
    error: str | None = None
    traceback: tuple[str, ...] = ()
    result: msgspec.Raw = msgspec.Raw(b"null")
    result_is_json: bool = True
    failed_subtask: str | None = None
    attempt: int = 0
    started: float | None = None
    finished: float = 0.0


class _Node(msgspec.Struct):
    id: str
    name: str


class _Reply(msgspec.Struct):
    task_id: str | None
    node: _Node
    outcome: _Said


_decode = msgspec.json.Decoder(_Reply).decode


def read_reply(body: bytes) -> Reply:
    """What a node said of a task's end. Raises BrokerError."""
    try:
        found = _decode(body)
    except (ValueError, RecursionError) as error:
        raise BrokerError(f"the reply cannot be read: {error}") from None
    values = {name: getattr(found.outcome, name) for name in found.outcome.__struct_fields__}
    result = bytes(values.pop("result"))
    return Reply(
        task_id=found.task_id,
        node=found.node.name,
        node_id=found.node.id,
        outcome=Outcome(result_json=result, **values),
    )
