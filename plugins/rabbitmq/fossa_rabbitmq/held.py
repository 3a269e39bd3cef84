"""Messages that came over RabbitMQ, from their delivery until they are settled."""

import time
from collections.abc import Awaitable, Callable, Sequence

from attrs import define, field

from fossa import FossaError, LogLine, Outcome, Watch
from fossa_rabbitmq import wire
from fossa_rabbitmq.connection import ChannelClosed, Message

#: How often a quorum queue has delivered a message before.
_DELIVERIES = "x-delivery-count"


@define(eq=False)
class Held:
    """One message from its delivery until it is settled, with the tasks that are in it."""

    message: Message
    #: Told for how many seconds in all its tasks ran.
    learn: Callable[[float], None]
    arrived: float = field(factory=time.monotonic)
    #: When the first attempt of it began.
    begun: float | None = None
    #: Seconds for which its attempts ran, in all.
    ran: float = 0.0
    task_ids: list[str] = field(factory=list)
    #: It is settled, or the broker has it again.
    over: bool = False

    @property
    def again(self) -> bool:
        headers = self.message.properties.headers or {}
        return self.message.redelivered or bool(headers.get(wire.AGAIN_HEADER))

    @property
    def deliveries(self) -> int:
        """How often a quorum queue has delivered it before; 0 where the broker does not count."""
        count = (self.message.properties.headers or {}).get(_DELIVERIES)
        return count if self.message.redelivered and isinstance(count, int) else 0

    def began(self) -> None:
        if self.begun is None:
            self.begun = time.monotonic()

    def ended(self, outcome: Outcome) -> None:
        """One of its tasks has ended."""
        if outcome.started is not None:
            self.ran += max(0.0, outcome.finished - outcome.started)

    def ack(self) -> None:
        """Settle it. Where its channel has gone the broker delivers it again, to be answered."""
        if self.over:
            return
        self.over = True
        if self.begun is not None:
            self.learn(self.ran)
        self._settle(self.message.channel.ack, self.message.delivery_tag)

    def give_back(self) -> None:
        if not self.over:
            self.over = True
            self._settle(self.message.channel.nack, self.message.delivery_tag)

    async def pass_on(self, publish: Callable[[], Awaitable[None]]) -> None:
        """Give it back as another message: this one is settled once the broker has that."""
        if self.over:
            return
        self.over = True
        try:
            await publish()
        except FossaError:
            self._settle(self.message.channel.nack, self.message.delivery_tag)
        else:
            self._settle(self.message.channel.ack, self.message.delivery_tag)

    def _settle(self, act: Callable[[int], None], tag: int) -> None:
        try:
            act(tag)
        except ChannelClosed:
            return


class TaskWatch(Watch):
    """Sees a whole task begin. Its sender is not told of more than the outcome."""

    __slots__ = ("_held",)

    def __init__(self, held: Held) -> None:
        self._held = held

    def begun(self, attempt: int) -> None:
        self._held.began()

    def log(self, lines: Sequence[LogLine]) -> None:
        pass

    def progress(self, fraction: float | None, message: str) -> None:
        pass
