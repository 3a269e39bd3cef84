"""A message as SQS hands it over."""

import time
from typing import Any

from attrs import define, field

from fossa_sqs.options import LONGEST_HOLD

#: Attributes that a sender may set.
KEY, REPLY_TO, CORRELATION = "idempotency_key", "reply_to", "correlation_id"
#: What is asked for with each message.
SYSTEM = ("ApproximateReceiveCount", "MessageGroupId", "SentTimestamp")


@define(eq=False)
class Held:
    """A message that this node has, until it is settled."""

    raw: dict[str, Any]
    #: When it was received, on the monotonic clock.
    arrived: float = field(factory=time.monotonic)
    #: Settled, or SQS's again.
    over: bool = False
    task_id: str | None = None
    #: Whether its sender wants to hear of the end.
    wants_reply: bool = True
    #: When its attempt began; None: it has not.
    begun: float | None = None
    #: Seconds from there to its outcome; None: there is none.
    took: float | None = None

    @property
    def id(self) -> str:
        return str(self.raw["MessageId"])

    @property
    def handle(self) -> str:
        return str(self.raw["ReceiptHandle"])

    @property
    def body(self) -> bytes:
        return str(self.raw.get("Body", "")).encode("utf-8", "replace")

    @property
    def receives(self) -> int:
        return int(self.raw.get("Attributes", {}).get("ApproximateReceiveCount", 1))

    @property
    def group(self) -> str | None:
        found: str | None = self.raw.get("Attributes", {}).get("MessageGroupId")
        return found

    @property
    def attributes(self) -> dict[str, Any]:
        found: dict[str, Any] = self.raw.get("MessageAttributes") or {}
        return found

    def text(self, name: str) -> str | None:
        """An attribute that is text; None: there is none."""
        value = self.attributes.get(name, {}).get("StringValue")
        return value if isinstance(value, str) and value else None

    def seconds_left(self) -> int:
        """Seconds for which SQS still lets it be kept hidden."""
        return int(LONGEST_HOLD - (time.monotonic() - self.arrived))
