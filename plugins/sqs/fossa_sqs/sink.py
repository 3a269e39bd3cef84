"""The sink that publishes each outcome to a queue, for whoever wants to know."""

from typing import Any

import msgspec
from attrs import frozen

from fossa import ConfigError, Node, Outcome, Sink, Task, outcome_document
from fossa_sqs.client import Sqs, SqsRefused, SqsTrouble, insist
from fossa_sqs.letters import size_of, text
from fossa_sqs.options import SHARED_CHECKS, Check, checked, flag
from fossa_sqs.queue import Queue, find

#: The attribute `type` of its messages.
ENDED = "fossa.ended"
#: Tries before the node hears of it, and tries again as it sees fit.
TRIES = 8


@frozen(kw_only=True)
class SinkOptions:
    """Where outcomes go. Made and checked by `SqsSink`."""

    #: The queue's name, or its URL.
    queue: str
    #: As of the source.
    region: str | None = None
    endpoint_url: str | None = None
    timeout: float = 10.0
    #: Whether a task is settled only once SQS has its outcome.
    required: bool = False

    @property
    def name(self) -> str:
        return self.queue.rpartition("/")[2]

    @property
    def url(self) -> str | None:
        return self.queue if "://" in self.queue else None


_CHECKS: dict[str, Check] = {**SHARED_CHECKS, "required": flag}


class SqsSink(Sink):
    """Publishes outcomes to a queue, standard or FIFO. Takes the options of `SinkOptions`.

    In a FIFO queue a model's outcomes are a group, and the task's id is the deduplication id.
    """

    def __init__(self, **given: Any) -> None:
        self._options: SinkOptions = checked(SinkOptions, _CHECKS, given)
        self.required = self._options.required
        self._sqs: Sqs | None = None
        self._queue: Queue | None = None
        self._trouble: str | None = None

    async def open(self, node: Node) -> None:
        chosen = self._options
        self._sqs = sqs = Sqs(chosen.region, chosen.endpoint_url, chosen.timeout, poll=0)
        await sqs.open()
        self._queue = await insist(lambda: find(sqs, chosen.name, chosen.url), 3)

    async def close(self) -> None:
        sqs, self._sqs = self._sqs, None
        if sqs is not None:
            await sqs.close()

    def ready(self) -> str | None:
        return self._trouble if self._sqs is not None else "it is not open"

    async def take(self, task: Task, outcome: Outcome) -> None:
        queue, sqs = self._queue, self._sqs
        if queue is None or sqs is None:
            raise ConfigError('use("sqs")', ["the sink is not open"])
        attributes = _attributes(task, outcome)
        values: dict[str, Any] = {
            "QueueUrl": queue.url,
            "MessageBody": _body(task, outcome, attributes, queue.limit),
            "MessageAttributes": attributes,
        }
        if queue.fifo:
            values |= {"MessageGroupId": _group(task.model), "MessageDeduplicationId": task.id}
        try:
            await insist(lambda: sqs.call("send_message", **values), TRIES)
        except (SqsTrouble, SqsRefused) as error:
            self._trouble = f"{queue.name} takes no outcomes: {error}"
            raise
        self._trouble = None


def _attributes(task: Task, outcome: Outcome) -> dict[str, Any]:
    said = {"type": ENDED, "task_id": task.id, "model": task.model[:200], "status": outcome.status}
    return {name: text(str(value)) for name, value in said.items()}


def _body(task: Task, outcome: Outcome, attributes: dict[str, Any], limit: int) -> str:
    """The document; what does not fit is left out, and a note says so."""
    document = outcome_document(task, outcome)
    body = _encoded(document)
    size = size_of(body, attributes)
    if size <= limit:
        return body
    note = f"left out: the message has {size} bytes and the queue's limit is {limit}"
    document |= {"result": None, "result_left_out": note}
    if size_of(body := _encoded(document), attributes) <= limit:
        return body
    room = (limit - size_of("", attributes)) // 16
    short = {name: _cut(document[name], room) for name in ("message", "error", "method")}
    return _encoded(document | short | {"traceback": [], "traceback_left_out": note})


def _cut(value: str | None, room: int) -> str | None:
    return value if value is None or len(value) <= room else f"{value[:room]}…"


def _encoded(document: dict[str, Any]) -> str:
    return _escaped(msgspec.json.encode(document).decode())


def _escaped(body: str) -> str:
    """SQS takes no characters that XML has not: JSON can say them otherwise."""
    return body.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")


def _group(model: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in model)[:128] or "fossa"
