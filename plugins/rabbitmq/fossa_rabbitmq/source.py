"""The source that takes tasks, and other nodes' subtasks, from RabbitMQ."""

from collections.abc import Mapping, Sequence
from typing import Any

from fossa import Node, Source
from fossa_rabbitmq.guests import Guests
from fossa_rabbitmq.intake import Intake
from fossa_rabbitmq.legacy_guests import LegacyGuests
from fossa_rabbitmq.options import options
from fossa_rabbitmq.post import Post
from fossa_rabbitmq.topology import warnings


class RabbitSource(Source):
    """Takes a message where a slot is free for it. Takes the options of `Options`."""

    def __init__(self, **given: Any) -> None:
        self._options = options(**given)
        self._post: Post | None = None
        self._intake: Intake | None = None
        self._warnings: list[str] = []

    async def open(self, node: Node) -> None:
        self._post = Post.of(node, self._options)
        await self._post.open()
        guests = LegacyGuests if self._options.legacy else Guests
        self._guests = guests(self._post, self.name)
        self._intake = Intake(self._post, self._guests)
        await self._post.each_time(self._look_at_the_broker)
        await self._post.each_time(self._intake.set_up)
        self._post.takes = True
        self._post.announce()

    async def _look_at_the_broker(self, connection: Any) -> None:
        """Say what it cannot do for the models of this node."""
        if self._post is None:
            return
        node = self._post.node
        longest = {
            name: model.limits.timeout or node.composition.TIMEOUT
            for name, model in node.composition.models.items()
        }
        known = {name: seconds for name, seconds in longest.items() if seconds is not None}
        before, self._warnings = self._warnings, warnings(connection.server, self._options, known)
        for warning in self._warnings:
            if warning not in before:
                node.logger.warning("%s", warning)

    async def run(self, node: Node) -> None:
        assert self._intake is not None
        await self._intake.run()

    async def close(self) -> None:
        post, self._post = self._post, None
        if post is None:
            return
        if self._intake is not None:
            await self._intake.stop()
            post.never_again(self._intake.set_up)
            post.never_again(self._look_at_the_broker)
            await self._guests.close()
        await post.close()

    def ready(self) -> str | None:
        if self._post is None or self._intake is None:
            return "it is not open"
        troubles = [self._post.trouble, self._intake.trouble, *self._warnings]
        return next((trouble for trouble in troubles if trouble), None)

    def fleet(self) -> Sequence[Mapping[str, Any]]:
        return self._post.fleet.documents() if self._post is not None else ()
