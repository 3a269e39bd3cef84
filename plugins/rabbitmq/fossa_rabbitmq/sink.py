"""The sink that publishes each outcome to RabbitMQ, for whoever wants to know."""

import asyncio
import time
from typing import Any

import msgspec
import pika

from fossa import ConfigError, Node, Outcome, Sink, Task, outcome_document
from fossa_rabbitmq.connection import BrokerGone, Channel, Connection, Nacked
from fossa_rabbitmq.link import Link
from fossa_rabbitmq.options import Options, options
from fossa_rabbitmq.topology import dead_arguments

#: The property `type` of its messages.
ENDED = "fossa.ended"
#: Bytes that a name may have in AMQP.
_MAX_NAME = 255


class RabbitSink(Sink):
    """Publishes outcomes: `use("rabbitmq", url=…)`. Also takes the options of `Options`.

    Args:
        queue: where to, with a default exchange; declared if it is not there. Usually
            `fossa.outcomes`, or what `prefix` makes of that.
        exchange: where to instead; it must exist.
        routing_key: with an exchange; None: `MODEL.STATUS`, such as `Nightly.failed`.
        required: whether a task is settled only once the broker has its outcome.
    """

    def __init__(
        self,
        *,
        queue: str | None = None,
        exchange: str | None = None,
        routing_key: str | None = None,
        required: bool = False,
        **given: Any,
    ) -> None:
        self._options = _checked(queue, exchange, routing_key, given)
        self._queue = queue or f"{self._options.prefix}.outcomes"
        self._exchange = exchange
        self._routing_key = routing_key
        self.required = required
        self._link: Link | None = None
        self._channel: Channel | None = None

    async def open(self, node: Node) -> None:
        purpose = f"{node.name}: outcomes"
        self._link = Link(self._options, purpose, node.logger, self._set_up, self._lose)
        await self._link.open()

    async def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    def ready(self) -> str | None:
        return self._link.trouble if self._link is not None else "it is not open"

    async def _set_up(self, connection: Connection) -> None:
        channel = await connection.channel(confirms=True)
        if self._exchange is None:
            await channel.declare_queue(self._queue, arguments=dead_arguments(self._options))
        else:
            await channel.check_exchange(self._exchange)
        # A channel that closes takes its connection with it: both are made anew.
        channel.closed.add_done_callback(lambda closed: connection.drop(str(closed.result())))
        self._channel = channel

    def _lose(self, why: str) -> None:
        self._channel = None

    async def take(self, task: Task, outcome: Outcome) -> None:
        body = self._body(task, outcome)
        properties = pika.BasicProperties(
            content_type="application/json",
            delivery_mode=2,
            message_id=task.id,
            timestamp=int(time.time()),
            type=ENDED,
        )
        exchange, key = self._address(task, outcome)
        while True:
            assert self._link is not None
            await self._link.up()
            try:
                await self._publish(exchange, key, body, properties)
                return
            except (BrokerGone, Nacked):
                # For as long as the node lets it try: see `deadline`.
                await asyncio.sleep(0.1)

    def _body(self, task: Task, outcome: Outcome) -> bytes:
        document = outcome_document(task, outcome)
        body = msgspec.json.encode(document)
        if len(body) > self._options.max_message_bytes:
            document |= {"result": None, "result_left_out": True}
            body = msgspec.json.encode(document)
        return body

    def _address(self, task: Task, outcome: Outcome) -> tuple[str, str]:
        if self._exchange is None:
            return "", self._queue
        return self._exchange, self._routing_key or f"{task.model}.{outcome.status}"[:_MAX_NAME]

    async def _publish(
        self, exchange: str, key: str, body: bytes, properties: pika.BasicProperties
    ) -> None:
        channel = self._channel
        if channel is None:
            raise BrokerGone("there is no connection")
        confirm = channel.publish(exchange, key, body, properties)
        done, _ = await asyncio.wait([confirm], timeout=self._options.publish_timeout)
        if not done:
            why = f"no confirm within {self._options.publish_timeout:g} s"
            channel.connection.drop(why)
            raise BrokerGone(why)
        confirm.result()


def _checked(queue: Any, exchange: Any, routing_key: Any, given: dict[str, Any]) -> Options:
    mistakes = [
        f"{name} is {value!r:.60}: it should be text of 1 to {_MAX_NAME} bytes"
        for name, value in (("queue", queue), ("exchange", exchange), ("routing_key", routing_key))
        if value is not None and not _is_name(value)
    ]
    if queue is not None and exchange is not None:
        mistakes.append("queue and exchange are given: give one of them")
    if routing_key is not None and exchange is None:
        mistakes.append("routing_key is for an exchange: give that too")
    if given.get("wire", "1") != "1":
        mistakes.append("wire is for sources and executors: leave it out")
    try:
        chosen = options(**given)
    except ConfigError as error:
        raise ConfigError('use("rabbitmq")', [*mistakes, *error.mistakes]) from None
    if mistakes:
        raise ConfigError('use("rabbitmq")', mistakes)
    return chosen


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value.encode(errors="replace")) <= _MAX_NAME
