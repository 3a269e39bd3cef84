"""What a user says of a queue, checked: `use("sqs", queue="tasks", region="eu-west-1")`."""

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs
from attrs import frozen

from fossa import ConfigError

#: Seconds: SQS's own limits.
LONGEST_POLL, LONGEST_HOLD = 20, 12 * 3600
#: Bytes: the most that a queue can be set to take.
MESSAGE_LIMIT = 1024 * 1024
#: What is done with a message whose model this node does not accept.
NOT_ACCEPTED = ("leave", "dead_letter")
_REGION = re.compile(r"[a-z]{2,}(-[a-z]+)+-\d+")
_QUEUE = re.compile(r"[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo")

Check = Callable[[Any], str | None]


@frozen(kw_only=True)
class Options:
    """Which queue, and how it is used. Made and checked by `options()`."""

    #: Its name, or its URL.
    queue: str
    #: Such as eu-west-1; None: as the SDK finds it (AWS_REGION, AWS_DEFAULT_REGION, its profile).
    region: str | None = None
    #: Another server that speaks SQS, such as http://127.0.0.1:5000.
    endpoint_url: str | None = None
    #: False: the queue has no dead-letter queue, and what no node can run is deleted, and logged.
    dead_letters: bool = True
    #: "leave": for a node that accepts its model; "dead_letter": at once.
    not_accepted: str = NOT_ACCEPTED[0]
    #: Seconds until a message that was left is there for other nodes.
    leave_pause: float = 5
    #: Receives of one message before it is a dead letter, run or not.
    max_receives: int = 20
    #: Seconds that a message is hidden from others unless the node makes it longer.
    visibility_timeout: int = 60
    #: Seconds that a receive waits for a message, and that a node without one needs to stop. Above
    #: 7 a node that stops hangs up, and what SQS is about to bring is hidden for a while.
    poll: int = 5
    #: Bytes of a body; one that is longer is a dead letter.
    max_message_bytes: int = MESSAGE_LIMIT
    #: URLs of queues that replies may be sent to.
    reply_queues: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    #: Seconds for connecting, and for each answer.
    timeout: float = 10.0

    @property
    def name(self) -> str:
        return self.queue.rpartition("/")[2]

    @property
    def url(self) -> str | None:
        return self.queue if "://" in self.queue else None


def options(**given: Any) -> Options:
    """Check what was given, all of it. Raises ConfigError that names every mistake."""
    chosen: Options = checked(Options, _CHECKS, given)
    return chosen


def checked(shape: type[Any], checks: Mapping[str, Check], given: Mapping[str, Any]) -> Any:
    """A value of the shape. Raises ConfigError."""
    known = [a.name for a in attrs.fields(shape)]
    mistakes = [_unknown(name, known) for name in given if name not in known]
    if "queue" not in given:
        mistakes.append('queue is missing: give its name or its URL, like queue="tasks"')
    mistakes += [
        f"{name} {wrong}"
        for name, value in given.items()
        if name in checks and (wrong := checks[name](value))
    ]
    if mistakes:
        raise ConfigError('use("sqs")', mistakes)
    return shape(**given)


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
    return f"{name} is no option: {hint}"


def is_url(value: Any) -> bool:
    """Whether it is the address of something that speaks HTTP, with no password in it."""
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        )
    except ValueError:
        return False


def _queue(value: Any) -> str | None:
    if isinstance(value, str) and (_QUEUE.fullmatch(value) or (is_url(value) and "/" in value[8:])):
        return None
    return f"is {value!r:.120}: it should be a queue's name (at most 80 of A-Z a-z 0-9 - _) or URL"


def _region(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and _REGION.fullmatch(value)):
        return None
    return f"is {value!r:.60}: it should be like 'eu-west-1'"


def _endpoint(value: Any) -> str | None:
    if value is None or is_url(value):
        return None
    return "should be like http://127.0.0.1:5000, with no user and password in it"


def flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"is {value!r:.60}: it should be True or False"


def _not_accepted(value: Any) -> str | None:
    if value in NOT_ACCEPTED:
        return None
    return f"is {value!r:.60}: it should be {' or '.join(map(repr, NOT_ACCEPTED))}"


def whole(low: int, high: int) -> Check:
    def check(value: Any) -> str | None:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return None
        return f"is {value!r:.60}: it should be a whole number from {low} to {high}"

    return check


def seconds(low: float, high: float) -> Check:
    def check(value: Any) -> str | None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and low <= value <= high:
            return None
        return f"is {value!r:.60}: it should be seconds, from {low:g} to {high:g}"

    return check


def _urls(value: Any) -> str | None:
    if isinstance(value, list | tuple) and all(is_url(one) for one in value):
        return None
    return f"is {value!r:.120}: it should be a list of queues' URLs"


#: Of what source and sink have in common.
SHARED_CHECKS: dict[str, Check] = {
    "queue": _queue,
    "region": _region,
    "endpoint_url": _endpoint,
    "timeout": seconds(0.1, 600),
}
_CHECKS: dict[str, Check] = {
    **SHARED_CHECKS,
    "dead_letters": flag,
    "not_accepted": _not_accepted,
    "leave_pause": seconds(0, 900),
    "max_receives": whole(1, 1000),
    "visibility_timeout": whole(3, LONGEST_HOLD),
    "poll": whole(1, LONGEST_POLL),
    "max_message_bytes": whole(1, MESSAGE_LIMIT),
    "reply_queues": _urls,
}
