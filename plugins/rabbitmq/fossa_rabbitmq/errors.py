"""What can go wrong between this node and the broker."""

import re

from fossa.errors import FossaError

_REFUSED, _NOT_FOUND, _MISMATCH = 403, 404, 406
_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<arg>[^']+)' for (?P<kind>queue|exchange) '(?P<name>[^']+)'.*?"
    r"received (?P<wanted>.+?) but current is (?P<found>.+)",
    re.DOTALL,
)


class BrokerRefused(FossaError):
    """The broker refuses us, or cannot be one: trying again will not help."""


class BrokerGone(FossaError):
    """The broker cannot be reached now: trying again may help."""


class ChannelClosed(BrokerGone):
    """The channel is closed, and every delivery on it is the broker's again.

    Attributes:
        code: what the broker said (AMQP's reply code); 0 where the connection went down.
        text: why, for people.
    """

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = text
        super().__init__(f"the channel is closed: {text}" + (f" ({code})" if code else ""))

    def copy(self) -> "ChannelClosed":
        """The same for somebody else: an error that is raised again and again keeps every trace."""
        return ChannelClosed(self.code, self.text)


class Unroutable(FossaError):
    """No queue took the message: it was not stored."""


class Nacked(FossaError):
    """The broker did not take the message: the queue is full, or its storage failed."""


class Mismatch(FossaError):
    """A queue or an exchange exists already, and is not as this node needs it."""


class NoSuchQueue(FossaError):
    """There is no queue, or no exchange, of that name."""


class TooLarge(FossaError):
    """The message is larger than the broker takes; it was not published."""


def explained(closed: ChannelClosed, what: str) -> Exception:
    """Why the broker closed the channel instead of doing what was asked."""
    if closed.code == _REFUSED:
        return BrokerRefused(f"the broker does not let us {what}: {closed.text}")
    if closed.code == _NOT_FOUND:
        return NoSuchQueue(f"cannot {what}: {closed.text}")
    if closed.code == _MISMATCH and (found := _INEQUIVALENT.search(closed.text)):
        return Mismatch(
            f"the {found['kind']} {found['name']} exists with {found['arg']} {found['found']}, "
            f"and this node needs {found['wanted']}"
        )
    if closed.code == _MISMATCH and "invalid arg" in closed.text:
        return Mismatch(f"cannot {what}: {closed.text}")
    return closed
