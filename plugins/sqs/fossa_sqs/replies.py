"""What a node tells the sender of a task."""

from typing import Any

import msgspec

from fossa import Node, Outcome, Reason, Status

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
