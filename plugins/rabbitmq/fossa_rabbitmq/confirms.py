"""Which published messages the broker has not confirmed yet, and who waits for them."""

import asyncio

from attrs import define

from fossa_rabbitmq.errors import ChannelClosed, Nacked, Unroutable

#: Exchange, routing key and message id: what a returned message is known by.
Key = tuple[str, str, str | None]


@define(eq=False)
class _Publish:
    key: Key
    confirmed: "asyncio.Future[None]"
    #: In the loop's time.
    at: float
    returned: Unroutable | None = None


class Confirms:
    """The messages published on one channel, in order. The broker counts them as we do."""

    def __init__(self) -> None:
        self._last = 0
        self._loop = asyncio.get_running_loop()
        # In the order of their tags: dicts keep it, and tags only grow.
        self._pending: dict[int, _Publish] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def sent(self, key: Key) -> "asyncio.Future[None]":
        """Note a message that was just published; the future is done once it is confirmed."""
        self._last += 1
        confirmed: asyncio.Future[None] = self._loop.create_future()
        self._pending[self._last] = _Publish(key, confirmed, self._loop.time())
        return confirmed

    @property
    def oldest(self) -> float | None:
        """When the message was published that has waited longest, in the loop's time."""
        return next(iter(self._pending.values())).at if self._pending else None

    def answered(self, tag: int, multiple: bool, error: Nacked | None) -> None:
        """The broker confirmed, or refused, a message; with `multiple` all up to it."""
        for one in self._up_to(tag) if multiple else [tag]:
            publish = self._pending.pop(one, None)
            if publish is not None:
                _finish(publish.confirmed, error or publish.returned)

    def returned(self, key: Key, error: Unroutable) -> None:
        """The broker returned a message: its confirm follows, and says nothing of that."""
        for publish in self._pending.values():
            if publish.key == key and publish.returned is None:
                publish.returned = error
                return

    def failed(self, error: ChannelClosed) -> None:
        """No more answers will come: whether these messages were stored is not known."""
        pending, self._pending = self._pending, {}
        for publish in pending.values():
            _finish(publish.confirmed, error.copy())

    def _up_to(self, tag: int) -> list[int]:
        tags = []
        for one in self._pending:
            if tag and one > tag:  # 0 stands for all
                break
            tags.append(one)
        return tags


def _finish(future: "asyncio.Future[None]", error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
        return
    future.set_exception(error)
    # Whoever awaits it is told all the same; asyncio need not log that nobody did.
    future.exception()
