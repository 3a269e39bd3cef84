"""A message as the broker delivered it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pika
from attrs import field, frozen

if TYPE_CHECKING:
    from fossa_rabbitmq.channel import Channel


@frozen(eq=False, kw_only=True)
class Message:
    """It is the broker's again once its channel closed."""

    body: bytes = field(repr=False)
    properties: pika.BasicProperties
    delivery_tag: int
    #: Empty where it was fetched with `Channel.get`.
    consumer_tag: str
    redelivered: bool
    exchange: str
    routing_key: str
    #: The queue that it was taken from.
    queue: str
    channel: "Channel" = field(repr=False)


OnMessage = Callable[[Message], None]
#: Called with the consumer's tag and why the broker cancelled it.
OnCancel = Callable[[str, str], None]


@frozen(eq=False)
class Consumer:
    """Whose messages these are."""

    queue: str
    on_message: OnMessage
    on_cancel: OnCancel
