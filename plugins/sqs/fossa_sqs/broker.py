"""SQS as a client sees it: `fossa submit --via sqs://…` and `fossa dlq` are made of this."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Collection
from typing import Any
from urllib.parse import urlsplit

import attrs
import msgspec

from fossa import ConfigError, FossaError, Request, TaskRefused, new_id
from fossa.brokers import (
    LISTED,
    SUBMIT,
    Broker,
    BrokerError,
    DeadLetter,
    Reply,
    Submitted,
    UnknownDeadLetter,
)
from fossa_sqs.client import Sqs, SqsRefused, SqsTrouble, insist
from fossa_sqs.letters import DETAIL, ORIGIN, REASON, RETRIED, sendable, text
from fossa_sqs.message import CORRELATION, KEY, REPLY_TO
from fossa_sqs.options import Options, options
from fossa_sqs.queue import Queue, find
from fossa_sqs.replies import read_reply

#: Seconds that dead letters are hidden from others while we look at them.
_LOOK = 30
#: Empty receives after which a queue is taken for empty: SQS asks only some of its servers.
_EMPTY = 2
#: What is not part of a task's document.
_NOT_SENT = ("idempotency_key", "retry_of")
#: Reasons of tasks that a node has in its ledger: by their own key they would get that again.
_ENDED = ("crashed", "sink_refused")


class SqsBroker(Broker):
    """A client of one queue, which needs no node of its own.

    Args:
        url: `sqs://REGION/QUEUE-NAME`.
        options: `endpoint`, for another server; `replies`, the URL or name of a queue that replies
            come to, which the nodes have among their `reply_queues`, and nobody else reads.
    """

    def __init__(self, url: str, **given: Any) -> None:
        self._replies = given.pop("replies", None)
        self._options = _checked(url, given)
        self._sqs = Sqs(self._options.region, self._options.endpoint_url, self._options.timeout)
        self._queue: Queue | None = None
        self._reply_queue: Queue | None = None

    def __repr__(self) -> str:
        return f"<SqsBroker sqs://{self._options.region}/{self._options.name}>"

    async def open(self) -> None:
        with _as_broker_error():
            await self._sqs.open()
            self._queue = await insist(lambda: find(self._sqs, self._options.name), 3)
            if self._replies is not None:
                name = str(self._replies).rpartition("/")[2]
                self._reply_queue = await insist(lambda: find(self._sqs, name), 3)

    async def close(self) -> None:
        await self._sqs.close()

    def _opened(self) -> Queue:
        if self._queue is None:
            raise BrokerError("not connected: use the broker as `async with`")
        return self._queue

    # tasks

    async def submit(
        self, request: Request, *, reply: bool = True, timeout: float = SUBMIT
    ) -> Submitted:
        queue, key = self._opened(), str(request.idempotency_key or new_id())
        if reply and self._reply_queue is None:
            raise BrokerError(
                "SQS has no replies by itself: name a queue for them (--via-option replies=NAME, "
                "and its URL in the nodes' reply_queues), or do not wait"
            )
        attributes = {KEY: text(key), CORRELATION: text(key)}
        if reply and self._reply_queue is not None:
            attributes[REPLY_TO] = text(self._reply_queue.url)
        try:
            async with asyncio.timeout(timeout):
                await self._send(queue, _body(request, reply), attributes, "fossa", key)
        except TimeoutError:
            raise BrokerError(f"SQS did not take the task within {timeout:g} s") from None
        return Submitted(id=key, queue=queue.name)

    async def _send(
        self, queue: Queue, body: str, attributes: dict[str, Any], group: str, once: str
    ) -> None:
        values: dict[str, Any] = {"MessageBody": body, "MessageAttributes": attributes}
        if queue.fifo:
            values |= {"MessageGroupId": group, "MessageDeduplicationId": once[:128]}
        with _as_broker_error():
            await self._sqs.insist("send_message", QueueUrl=queue.url, **values)

    async def outcome(self, submitted: Submitted, timeout: float | None = None) -> Reply:
        queue = self._reply_queue
        if queue is None:
            raise BrokerError(f"no reply was asked for to {submitted.id}: submit with reply=True")
        async with asyncio.timeout(timeout):
            while True:
                async for message in self._messages(queue.url, wait=20):
                    said = message.get("MessageAttributes", {}).get(CORRELATION, {})
                    if said.get("StringValue") == submitted.id:
                        await self._delete(queue.url, message)
                        return read_reply(message["Body"].encode())
                    await self._show(queue.url, [message])

    async def _messages(self, url: str, wait: int = 0) -> AsyncIterator[dict[str, Any]]:
        """Each message that is there, until there are no more. They are hidden meanwhile."""
        empty = 0
        while empty < _EMPTY:
            with _as_broker_error():
                answer = await self._sqs.call(
                    "receive_message",
                    wait=wait,
                    QueueUrl=url,
                    MaxNumberOfMessages=10,
                    WaitTimeSeconds=wait,
                    VisibilityTimeout=_LOOK,
                    MessageSystemAttributeNames=["All"],
                    MessageAttributeNames=["All"],
                )
            found = answer.get("Messages") or []
            empty = 0 if found else empty + 1
            for message in found:
                yield message

    async def _delete(self, url: str, message: dict[str, Any]) -> None:
        with _as_broker_error():
            await self._sqs.insist(
                "delete_message", QueueUrl=url, ReceiptHandle=message["ReceiptHandle"]
            )

    async def _show(self, url: str, messages: list[dict[str, Any]]) -> None:
        """Others may see them again, at once if that can be."""
        for message in messages:
            with contextlib.suppress(SqsTrouble, SqsRefused):
                await self._sqs.call(
                    "change_message_visibility",
                    QueueUrl=url,
                    ReceiptHandle=message["ReceiptHandle"],
                    VisibilityTimeout=0,
                )

    # dead letters

    def _dead(self) -> str:
        queue = self._opened()
        if queue.dead_url is None:
            raise BrokerError(f"the queue {queue.name} has no dead-letter queue")
        return queue.dead_url

    @contextlib.asynccontextmanager
    async def _looking(self) -> AsyncIterator[list[dict[str, Any]]]:
        """A list for what was received and stays: it is shown to others again at the end."""
        stay: list[dict[str, Any]] = []
        try:
            yield stay
        finally:
            await self._show(self._dead(), stay)

    async def dead_letters(self, limit: int = LISTED) -> list[DeadLetter]:
        found: list[DeadLetter] = []
        async with self._looking() as stay:
            async for message in self._messages(self._dead()):
                stay.append(message)
                found.append(letter_of(message, self._opened().name))
        return sorted(found, key=lambda letter: letter.at or 0.0)[-limit:]

    async def dead_letter(self, letter_id: str) -> DeadLetter:
        async with self._looking() as stay:
            async for message in self._messages(self._dead()):
                stay.append(message)
                letter = letter_of(message, self._opened().name, with_body=True)
                if letter.id == letter_id:
                    return letter
        raise self._unknown([letter_id])

    async def retry(self, ids: Collection[str] | None) -> int:
        return await self._each(ids, self._send_back)

    async def drop(self, ids: Collection[str] | None) -> int:
        async def nothing(message: dict[str, Any]) -> None: ...

        return await self._each(ids, nothing)

    async def _each(self, ids: Collection[str] | None, act: Any) -> int:
        """Do something with each letter that is meant, then delete it."""
        seen, done, failed = set[str](), 0, dict[str, str]()
        async with self._looking() as stay:
            async for message in self._messages(self._dead()):
                letter_id = letter_of(message, "").id
                if (ids is not None and letter_id not in ids) or message["MessageId"] in seen:
                    stay.append(message)
                    continue
                seen |= {letter_id, message["MessageId"]}
                try:
                    await act(message)
                    await self._delete(self._dead(), message)
                    done += 1
                except BrokerError as error:
                    failed[letter_id] = str(error)
                    stay.append(message)
        if failed:
            why = "; ".join(f"{name}: {text}" for name, text in list(failed.items())[:5])
            raise BrokerError(f"{done} done; {len(failed)} stay where they are: {why}")
        if missing := sorted(set(ids or ()) - seen):
            raise self._unknown(missing)
        return done

    async def _send_back(self, message: dict[str, Any]) -> None:
        """As if it had never been received. Its key stays, so that twice sent back is one task."""
        letter = letter_of(message, "")
        attributes = sendable(message.get("MessageAttributes") or {})
        key = attributes.get(KEY, {}).get("StringValue") or letter.id
        if letter.reason in _ENDED:
            said = attributes.get(RETRIED, {}).get("StringValue", "0")
            times = int(said) + 1 if said.isdigit() else 1
            attributes[RETRIED] = text(str(times))
            key = f"{key.partition('.retry-')[0]}.retry-{times}"
        attributes[KEY] = text(key)
        group = message.get("Attributes", {}).get("MessageGroupId") or "fossa"
        once = f"{message['MessageId']}-again"
        await self._send(self._opened(), message["Body"], attributes, group, once)

    def _unknown(self, missing: list[str]) -> UnknownDeadLetter:
        names = ", ".join(missing[:5])
        return UnknownDeadLetter(
            f"no dead letter {names} of {self._opened().name}, or another client looks at it now: "
            "fossa dlq list shows what is there"
        )


@contextlib.contextmanager
def _as_broker_error() -> Any:
    try:
        yield
    except BrokerError:
        raise
    except ConfigError as error:
        raise BrokerError("; ".join(error.mistakes)) from None
    except FossaError as error:
        raise BrokerError(str(error)) from None


def _checked(url: str, given: dict[str, Any]) -> Options:
    parts = urlsplit(url)
    if "endpoint" in given:
        given = {**given, "endpoint_url": given["endpoint"]}
        del given["endpoint"]
    try:
        return options(queue=parts.path.strip("/"), region=parts.netloc or None, **given)
    except ConfigError as error:
        text = "; ".join(error.mistakes)
        raise BrokerError(f"the URL should be sqs://REGION/QUEUE-NAME: {text}") from None


def letter_of(message: dict[str, Any], queue: str, *, with_body: bool = False) -> DeadLetter:
    """What there is to know of a message in the dead-letter queue."""
    said = {
        name: value.get("StringValue", "")
        for name, value in (message.get("MessageAttributes") or {}).items()
    }
    origin = _json(said.pop(ORIGIN, ""))
    body = str(message.get("Body", "")).encode()
    sent = message.get("Attributes", {}).get("SentTimestamp")
    at = origin.get("at")
    return DeadLetter(
        id=str(origin.get("id") or message["MessageId"]),
        reason=said.pop(REASON, "delivery_limit"),
        detail=said.pop(DETAIL, "it was received too often, and never deleted"),
        queue=str(origin.get("queue") or queue),
        node=str(origin.get("node") or ""),
        at=float(at) if isinstance(at, int | float) else float(sent) / 1000 if sent else None,
        model=_model(_json(body)),
        size=len(body),
        headers=said,
        body=body if with_body else b"",
    )


def _model(document: dict[str, Any]) -> str | None:
    model = document.get("model")
    return model if isinstance(model, str) else None


def _json(value: str | bytes) -> dict[str, Any]:
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _body(request: Request, reply: bool) -> str:
    fields = attrs.asdict(request, recurse=False)
    document = {k: v for k, v in fields.items() if v is not None and k not in _NOT_SENT}
    if not reply:
        document["reply"] = False
    try:
        return msgspec.json.encode(document).decode()
    except (TypeError, OverflowError, UnicodeEncodeError) as error:
        raise TaskRefused(f"the task's arguments are not JSON: {error}") from error
