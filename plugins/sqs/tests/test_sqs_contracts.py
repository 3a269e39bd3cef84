"""The source holds what every source must hold."""

import asyncio
import json
from uuid import uuid4

import attrs
import pytest
from sqs_support import REGION

from fossa.testing import SourceContract
from fossa_sqs.source import SqsSource


class _OverSqs(SourceContract):
    takes = True
    fifo = False

    @pytest.fixture(autouse=True)
    def _on(self, queues):
        self.queues = queues
        self.url = queues.make(fifo=self.fifo)

    def make(self):
        return SqsSource(
            queue=self.url.rpartition("/")[2],
            region=REGION,
            endpoint_url=self.queues.endpoint,
            not_accepted="dead_letter",
            poll=1,
        )

    async def send(self, source, request):
        said = {k: v for k, v in attrs.asdict(request).items() if v is not None}
        key = said.pop("idempotency_key", None)
        more = {"idempotency_key": key} if key else {}
        # Each in a group of its own: moto's server spins while a group waits.
        group = uuid4().hex
        await asyncio.to_thread(self.queues.send, self.url, json.dumps(said), group, **more)

    async def left(self, source):
        return (await asyncio.to_thread(self.queues.counts, self.url))[0]


class TestStandard(_OverSqs):
    pass


class TestFifo(_OverSqs):
    fifo = True
