"""The executor that has subtasks run on whichever node has a slot free."""

from collections.abc import Mapping, Sequence
from typing import Any

from fossa import Attempt, Executor, LiveAttempt, Node, Outcome
from fossa_rabbitmq.legacy_outbox import LegacyOutbox
from fossa_rabbitmq.options import options
from fossa_rabbitmq.outbox import Outbox
from fossa_rabbitmq.post import Post

#: Shares of work for each slot of the other nodes: one runs, one waits in the queue for it.
AHEAD = 2


class RabbitExecutor(Executor):
    """Publishes attempts, and awaits their outcomes. Takes the options of `Options`."""

    remote = True
    chunk = 256

    def __init__(self, **given: Any) -> None:
        self._options = options(**given)
        self._post: Post | None = None
        if self._options.legacy:
            self.chunk = 1

    async def open(self, node: Node) -> None:
        self._post = Post.of(node, self._options)
        await self._post.open()
        outbox = LegacyOutbox if self._options.legacy else Outbox
        self._outbox = outbox(self._post)
        await self._outbox.open()

    async def close(self) -> None:
        post, self._post = self._post, None
        if post is None:
            return
        if post.outbox is not None:
            await post.outbox.close()
        await post.close()

    def ready(self) -> str | None:
        return self._post.trouble if self._post is not None else "it is not open"

    def room(self, model: str) -> int:
        if self._post is None or not self._post.sending:
            return 0
        if self._options.legacy:
            return self._options.window
        return AHEAD * self._post.fleet.slots(model)

    def far_slots(self, model: str) -> int:
        if self._post is None:
            return 0
        return self._options.window if self._options.legacy else self._post.fleet.slots(model)

    def fleet(self) -> Sequence[Mapping[str, Any]]:
        return self._post.fleet.documents() if self._post is not None else ()

    async def run(self, attempt: Attempt, live: LiveAttempt) -> Outcome:
        return await self._outbox.run(attempt, live)
