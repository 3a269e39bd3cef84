"""What a user says of the broker, checked: `use("rabbitmq", url=…, prefix=…)`."""

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import attrs
from attrs import field, frozen

from fossa.errors import ConfigError

#: What RabbitMQ accepts as one message unless its `max_message_size` was changed (3.8 to 4.x).
MESSAGE_LIMIT = 16 * 1024 * 1024
_SCHEMES = {"amqp": 5672, "amqps": 5671}
_FOR_TLS = ("ca", "certificate", "key", "server_name")
#: What nodes say to each other: this version's own, and that of `ayeaye-fossa` 0.0.37.
WIRES = ("1", "0.0.37")
_PREFIX = re.compile(r"(?!amq\.)[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@frozen(kw_only=True)
class Options:
    """How to reach the broker, and what the queues are like. Made and checked by `options()`."""

    #: `amqp://user:password@host:port/vhost`, or `amqps://…`.
    url: str = field(repr=False)
    #: What the names of queues and exchanges begin with.
    prefix: str = "fossa"
    #: "quorum", or "classic".
    queue_type: str = "quorum"
    #: Times that the broker delivers a message again before it is dead-lettered (quorum only).
    delivery_limit: int = 20
    #: Bytes; a message that is longer is refused before it is published.
    max_message_bytes: int = MESSAGE_LIMIT
    #: Path of the certificates (PEM) that sign the broker's; None: the system's own.
    ca: str | Path | None = None
    #: Path of this client's certificate (PEM), for brokers that ask for one.
    certificate: str | Path | None = None
    #: Path of that certificate's key; None: it is in the same file.
    key: str | Path | None = None
    #: The name that the broker's certificate is for, where it is not the url's host.
    server_name: str | None = None
    #: Seconds; a broker that is silent for one and a half of them is taken for gone.
    heartbeat: int = 30
    #: Seconds for connecting, and for each answer of the broker.
    connect_timeout: float = 10.0
    #: Seconds that a publish may wait for its confirm.
    publish_timeout: float = 30.0
    #: Seconds that the broker waits for an acknowledgement; None: as the broker has it.
    consumer_timeout: float | None = None
    #: Seconds between two tries to connect, at the most.
    max_backoff: float = 5.0
    #: "1", or "0.0.37" to share subtasks with nodes of that version of `ayeaye-fossa`.
    wire: str = WIRES[0]
    #: Subtasks that may be away at once (wire 0.0.37 only, whose nodes do not say how many there
    #: are). The executor's alone: a source that was not given it is still at the same broker.
    window: int = field(default=16, eq=False)

    @property
    def legacy(self) -> bool:
        """Whether it is the wire of 0.0.37."""
        return self.wire != WIRES[0]

    @property
    def tls(self) -> bool:
        return urlsplit(self.url).scheme == "amqps"

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or "localhost"

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or _SCHEMES[parts.scheme]

    @property
    def user(self) -> str:
        name = urlsplit(self.url).username
        return "guest" if name is None else unquote(name)

    @property
    def password(self) -> str:
        parts = urlsplit(self.url)
        if parts.username is None:
            return "guest"
        return unquote(parts.password or "")

    @property
    def vhost(self) -> str:
        return unquote(urlsplit(self.url).path[1:]) or "/"

    @property
    def safe_url(self) -> str:
        """The url without its password, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        vhost = "" if self.vhost == "/" else quote(self.vhost, safe="")
        scheme = "amqps" if self.tls else "amqp"
        return f"{scheme}://{quote(self.user, safe='')}@{host}:{self.port}/{vhost}"


def options(**given: Any) -> Options:
    """Check what was given, all of it.

    Raises:
        ConfigError: names every option that is wrong, without the url's password.
    """
    known = [a.name for a in attrs.fields(Options)]
    mistakes = [_unknown(name, known) for name in given if name not in known]
    if "url" not in given:
        mistakes.append('url is missing: give it like url=env("RABBITMQ_URL")')
    mistakes += [
        f"{name} {wrong}"
        for name, value in given.items()
        if name in _CHECKS and (wrong := _CHECKS[name](value))
    ]
    mistakes += _together(given)
    if mistakes:
        raise ConfigError('use("rabbitmq")', mistakes)
    return Options(**given)


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
    return f"{name} is no option: {hint}"


def _together(given: dict[str, Any]) -> list[str]:
    """What is wrong of options that are right one by one."""
    wrong = []
    url = given.get("url")
    if isinstance(url, str) and url.startswith("amqp://"):
        names = [name for name in _FOR_TLS if given.get(name) is not None]
        wrong += [f"{name} is for amqps:// and the url is amqp://" for name in names]
    if given.get("key") is not None and given.get("certificate") is None:
        wrong.append("key is given without certificate: give both")
    if "window" in given and given.get("wire", WIRES[0]) == WIRES[0]:
        wrong.append("window is for wire='0.0.37': nodes on wire '1' say how many slots they have")
    return wrong


# one by one: each check says what is wrong, or nothing


def _url(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"is of type {type(value).__name__}: it should be text"
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return "has a port or an address that is none: it should be like amqp://user@host:5672/"
    if parts.scheme not in _SCHEMES:
        return "should begin with amqp:// or amqps://"
    if not parts.hostname or port == 0 or "/" in parts.path[1:]:
        return "should be like amqp://user:password@host:5672/vhost, a / in the vhost as %2F"
    if parts.query or parts.fragment:
        return "has a ? or #: what would follow it is given as options of their own here"
    return None


def _prefix(value: Any) -> str | None:
    if isinstance(value, str) and _PREFIX.fullmatch(value):
        return None
    return (
        f"is {value!r:.120}: it should be 1 to 100 letters, digits, dots, dashes or underscores, "
        "and begin with neither a mark nor amq."
    )


def _either(one: str, other: str) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if value in (one, other):
            return None
        close = difflib.get_close_matches(str(value), (one, other), 1)
        hint = f": did you mean {close[0]!r}?" if close else ""
        return f"is {value!r:.100}: it should be {one!r} or {other!r}{hint}"

    return check


def _path(value: Any) -> str | None:
    if value is None or (isinstance(value, str | Path) and str(value)):
        return None
    return f"is of type {type(value).__name__}: it should be the path of a file"


def _name(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return None
    return f"is {value!r:.100}: it should be a host's name"


def _whole(low: int, high: int) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return None
        return f"is {value!r:.100}: it should be a whole number from {low} to {high}"

    return check


def _seconds(low: float, high: float, *, optional: bool = False) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if optional and value is None:
            return None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and low <= value <= high:
            return None
        return f"is {value!r:.100}: it should be seconds, from {low:g} to {high:g}"

    return check


_CHECKS: dict[str, Callable[[Any], str | None]] = {
    "url": _url,
    "prefix": _prefix,
    "queue_type": _either("quorum", "classic"),
    "delivery_limit": _whole(1, 1_000_000),
    # The largest limit that a broker can be given (4.x; 3.x: 512 MiB).
    "max_message_bytes": _whole(1, 512 * 1024 * 1024),
    "ca": _path,
    "certificate": _path,
    "key": _path,
    "server_name": _name,
    # Sixteen bits on the wire; broker and client both send one every half of it.
    "heartbeat": _whole(1, 3600),
    "connect_timeout": _seconds(0.1, 600),
    "publish_timeout": _seconds(0.1, 3600),
    "consumer_timeout": _seconds(1, 10 * 365 * 86_400, optional=True),
    "max_backoff": _seconds(0.1, 3600),
    "wire": _either(*WIRES),
    "window": _whole(1, 10_000),
}
