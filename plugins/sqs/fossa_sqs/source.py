"""The source that takes tasks from an SQS queue."""

from typing import Any

from fossa import ConfigError, Node, Source
from fossa_sqs.client import Sqs, SqsTrouble, insist
from fossa_sqs.guests import Guests
from fossa_sqs.intake import Intake
from fossa_sqs.options import options
from fossa_sqs.queue import Queue, find


class SqsSource(Source):
    """Takes a message where a slot is free for it. Takes the options of `Options`."""

    def __init__(self, **given: Any) -> None:
        self._options = options(**given)
        self._sqs: Sqs | None = None
        self._guests: Guests | None = None
        self._intake: Intake | None = None

    async def open(self, node: Node) -> None:
        chosen = self._options
        self._sqs = sqs = Sqs(chosen.region, chosen.endpoint_url, chosen.timeout, chosen.poll)
        await sqs.open()
        queue = await self._find(sqs)
        self._check(queue, node)
        self._guests = Guests(node, sqs, queue, chosen, self.name)
        self._intake = Intake(node, sqs, queue, chosen, self._guests)

    async def _find(self, sqs: Sqs) -> Queue:
        async def look() -> Queue:
            return await find(sqs, self._options.name, self._options.url)

        try:
            return await insist(look, 3)
        except SqsTrouble as error:
            where = self._options.endpoint_url or "Amazon SQS"
            text = f"the queue {self._options.name} cannot be looked up at {where}: {error}"
            raise SqsTrouble(text) from None

    def _check(self, queue: Queue, node: Node) -> None:
        if queue.dead_url is None and self._options.dead_letters:
            text = (
                f"the queue {queue.name} has no dead-letter queue: give it a RedrivePolicy, or say "
                "dead_letters=False to have what no node can run deleted"
            )
            raise ConfigError('use("sqs")', [text])
        if queue.max_receives is not None and queue.max_receives < self._options.max_receives:
            node.logger.warning(
                "SQS makes a message of %s a dead letter after %d receives, without a reason, and "
                "max_receives is %d: make maxReceiveCount of its RedrivePolicy larger than that",
                queue.name,
                queue.max_receives,
                self._options.max_receives,
            )

    async def run(self, node: Node) -> None:
        assert self._intake is not None
        await self._intake.run()

    async def close(self) -> None:
        sqs, self._sqs = self._sqs, None
        try:
            if self._guests is not None:
                await self._guests.close()
        finally:
            if sqs is not None:
                await sqs.close()

    def ready(self) -> str | None:
        if self._sqs is None or self._intake is None:
            return "it is not open"
        return self._intake.trouble
