"""The sink holds what every sink must hold; and what is too large is left out, with a note."""

import asyncio
import json

import pytest
from sqs_support import REGION

from fossa import ConfigError
from fossa.testing import SinkContract
from fossa_sqs.sink import SqsSink


class _OverSqs(SinkContract):
    fifo = False
    limit = {}

    @pytest.fixture(autouse=True)
    def _on(self, queues):
        self.queues = queues
        self.url = queues.make(fifo=self.fifo, dead=False, **self.limit)

    def make(self):
        return SqsSink(queue=self.url, region=REGION, endpoint_url=self.queues.endpoint)

    async def read(self):
        found = await asyncio.to_thread(self.queues.take_all, self.url)
        self.messages = [json.loads(message["Body"]) for message in found]
        return [message["task_id"] for message in self.messages]


class TestStandard(_OverSqs):
    def test_a_result_that_is_too_large_is_left_out(self):
        self.takes([(self.task(), self.outcome(result_json=b'"' + b"x" * 1_100_000 + b'"'))])
        [said] = self.messages
        assert said["result"] is None
        assert (
            "the queue's limit is 262144" in said["result_left_out"]
            or "1048576" in said["result_left_out"]
        )


class TestFifo(_OverSqs):
    fifo = True

    def read(self):
        return self._none()

    async def _none(self):
        """A group gives out its next message once the one before is deleted: told elsewhere."""


def test_an_option_that_is_wrong_is_named():
    with pytest.raises(ConfigError, match="required is 'yes'"):
        SqsSink(queue="q", required="yes")
