"""One queue as SQS describes it, and its dead-letter queue."""

import json
from typing import Any

from attrs import frozen

from fossa import ConfigError
from fossa_sqs.client import Sqs, SqsRefused

#: Bytes: what a queue takes that does not say.
_USUAL_LIMIT = 256 * 1024


@frozen(kw_only=True)
class Queue:
    url: str
    fifo: bool
    #: Bytes of a message with its attributes.
    limit: int
    #: URL of its dead-letter queue; None: it has none.
    dead_url: str | None
    #: Receives after which SQS makes a message a dead letter by itself; None: never.
    max_receives: int | None

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


async def find(sqs: Sqs, name: str, url: str | None = None) -> Queue:
    """Look a queue up. Raises ConfigError where it is not there, SqsTrouble."""
    try:
        url = url or await _url(sqs, name)
        answer = await sqs.call("get_queue_attributes", QueueUrl=url, AttributeNames=["All"])
    except SqsRefused as error:
        raise _missing(name, error) from None
    said: dict[str, str] = answer.get("Attributes", {})
    policy = _policy(said.get("RedrivePolicy"))
    return Queue(
        url=url,
        fifo=said.get("FifoQueue") == "true" or url.endswith(".fifo"),
        limit=int(said.get("MaximumMessageSize", _USUAL_LIMIT)),
        dead_url=await _dead_url(sqs, name, policy),
        max_receives=int(policy["maxReceiveCount"]) if "maxReceiveCount" in policy else None,
    )


async def _url(sqs: Sqs, name: str, owner: str | None = None) -> str:
    more: dict[str, Any] = {"QueueOwnerAWSAccountId": owner} if owner else {}
    answer = await sqs.call("get_queue_url", QueueName=name, **more)
    return str(answer["QueueUrl"])


async def _dead_url(sqs: Sqs, name: str, policy: dict[str, Any]) -> str | None:
    parts = str(policy.get("deadLetterTargetArn", "")).split(":")
    if len(parts) != 6:
        return None
    try:
        return await _url(sqs, parts[5], parts[4])
    except SqsRefused as error:
        raise ConfigError(
            'use("sqs")',
            [f"the dead-letter queue {parts[5]} of {name} is not there, or not for us: {error}"],
        ) from None


def _policy(text: str | None) -> dict[str, Any]:
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {}


def _missing(name: str, error: SqsRefused) -> ConfigError:
    return ConfigError(
        'use("sqs")',
        [f"there is no queue {name} in this region and account: create it first ({error})"],
    )
