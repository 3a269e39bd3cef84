"""What tasks are sent through, as a client sees it: `connect("amqp://…")` finds the right one.

    async with connect("amqp://etl@rabbit.example/") as broker:
        sent = await broker.submit(Request(model="Nightly"))
        reply = await broker.outcome(sent, timeout=600)

A plugin offers one by the scheme of its URLs, in the entry-point group `fossa.brokers`.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, Self
from urllib.parse import urlsplit

import attrs
from attrs import frozen

from fossa.errors import FossaError, PluginError
from fossa.plugins import installed, look_up
from fossa.tasks import Outcome, Request

#: Entry-point group: URL schemes and the classes that speak to what is behind them.
GROUP = "fossa.brokers"
#: Seconds that a broker has to take a task over.
SUBMIT = 30.0
#: Dead letters that are listed unless somebody asks for more.
LISTED = 100
#: What to install for the schemes that we know of.
_HOMES = {"amqp": "fossa-rabbitmq", "amqps": "fossa-rabbitmq", "sqs": "fossa-sqs"}


class BrokerError(FossaError):
    """The broker could not do what was asked."""


class UnknownDeadLetter(BrokerError):
    """There is no dead letter by that id."""


@frozen(kw_only=True)
class Submitted:
    """A task that a broker has taken over; no node may have seen it yet."""

    #: The message's id: the request's idempotency key where it has one.
    id: str
    #: The queue that it waits in.
    queue: str


@frozen(kw_only=True)
class Reply:
    """What the node that took a submitted task says of its end."""

    #: None where the node made no task of it.
    task_id: str | None
    #: Name and id of the node.
    node: str
    node_id: str
    outcome: Outcome


@frozen(kw_only=True)
class DeadLetter:
    """A message that no node could make anything of, or that its queue gave up on."""

    #: The message's id; made from its content where it has none.
    id: str
    #: A short word.
    reason: str
    #: One line for people.
    detail: str = ""
    #: The queue that it came from; empty where that is not known.
    queue: str = ""
    #: Name of the node that gave it up; empty where the broker did.
    node: str = ""
    #: When, in seconds since the epoch; None where nobody says.
    at: float | None = None
    #: Name of the model that it asks for; None where it cannot be read.
    model: str | None = None
    #: Bytes of the body.
    size: int = 0
    #: What else the message says of itself.
    headers: Mapping[str, Any] = attrs.Factory(dict)
    #: Empty in a list of them.
    body: bytes = attrs.field(default=b"", repr=False)


class Broker(ABC):
    """One broker. The constructor does nothing; `async with` connects and disconnects.

    Args:
        url: where it is, and who we are. Its password is in no error and no repr.
        options: what else it takes, such as the prefix of its queues' names.
    """

    @abstractmethod
    def __init__(self, url: str, **options: Any) -> None: ...

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @abstractmethod
    async def open(self) -> None:
        """Connect. Raises a `FossaError` that says why that could not be."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect; also after an `open` that raised."""

    @abstractmethod
    async def submit(
        self, request: Request, *, reply: bool = True, timeout: float = SUBMIT
    ) -> Submitted:
        """Send a task; returns once the broker has it safe.

        Args:
            request: the task. Two with one `idempotency_key` are one task to a node.
            reply: whether `outcome` will be asked for it.
            timeout: seconds that the broker has for it.

        Raises:
            BrokerError: it is not known to have been taken; sent again with the same
                `idempotency_key` it is still one task.
        """

    @abstractmethod
    async def outcome(self, submitted: Submitted, timeout: float | None = None) -> Reply:
        """How a task of this connection ended, once it has. Raises TimeoutError, BrokerError."""

    @abstractmethod
    async def dead_letters(self, limit: int = LISTED) -> list[DeadLetter]:
        """So many dead letters at the most, the latest last. They stay where they are."""

    @abstractmethod
    async def dead_letter(self, letter_id: str) -> DeadLetter:
        """One of them. Raises `UnknownDeadLetter`."""

    @abstractmethod
    async def retry(self, ids: Collection[str] | None) -> int:
        """Send dead letters back to the queues they came from; returns how many.

        None is lost wherever this is interrupted; the one at hand may then be in both places.

        Args:
            ids: which; None: all.

        Raises:
            UnknownDeadLetter: some of the ids are not there; the others were sent back.
            BrokerError: some could not be sent back and stay; the others were.
        """

    @abstractmethod
    async def drop(self, ids: Collection[str] | None) -> int:
        """Delete dead letters; returns how many. `ids` and errors as of `retry`."""


def connect(url: str, **options: Any) -> Broker:
    """The broker of a URL, to be used as `async with`.

    Raises:
        PluginError: nothing is installed for the URL's scheme.
        FossaError: something is wrong with the URL or the options.
    """
    scheme = _scheme(url)
    if scheme not in installed(GROUP):
        raise PluginError(f"nothing is installed for {scheme}:// {_next_step(scheme)}")
    broker: Broker = look_up(GROUP, scheme)(url, **options)
    return broker


def safe_url(url: str) -> str:
    """A URL without its password, for people."""
    user, at, host = url.rpartition("@")
    scheme, slashes, name = user.rpartition("://")
    return f"{scheme}{slashes}{name.partition(':')[0]}{at}{host}"


def content_id(*content: bytes) -> str:
    """The id of a message that has none of its own: the same each time that it is read."""
    digest = hashlib.sha256(b"\0".join(content)).hexdigest()
    return f"content-{digest[:16]}"


def _scheme(url: str) -> str:
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        scheme = ""
    if not scheme or "://" not in url:
        raise BrokerError(
            "the broker's URL has no scheme: it should be like amqp://user@host:5672/ "
            "(--via, FOSSA_VIA)"
        )
    return scheme.lower()


def _next_step(scheme: str) -> str:
    there = ", ".join(f"{name}://" for name in installed(GROUP))
    known = f"(what is: {there})" if there else "(nor for any other broker)"
    if scheme in _HOMES:
        return f"{known}: pip install {_HOMES[scheme]}"
    return f"{known}: see the spelling, or install the plugin that speaks it"
