"""The queues and exchanges of a fleet of nodes: their names, and what they are like.

Everything but the replies and the control queue is shared, and declared by every node alike.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from fossa_rabbitmq.connection import Channel, Mismatch
from fossa_rabbitmq.legacy import QUEUE
from fossa_rabbitmq.options import Options

#: Seconds after which a node's reply queue is deleted, unless the node comes back.
REPLIES_EXPIRE = 600
#: Seconds that RabbitMQ waits for an acknowledgement unless it is told otherwise (since 3.8.17).
ACK_TIMEOUT = 30 * 60.0
#: Redeliveries of what must never be dropped. Brokers from 4.0 on would drop at the 21st.
_UNLIMITED = 2**31 - 1

_ACK_TIMEOUT_SINCE = (3, 8, 15)
_OWN_ACK_TIMEOUT_SINCE = (3, 12, 0)
_SAFE_DEAD_LETTERS_SINCE = (3, 10, 0)
#: From here on a classic queue waits for an acknowledgement without an end.
_CLASSIC_WAITS_SINCE = (4, 3, 0)


class Topology:
    """The names. They depend on the prefix and the wire alone."""

    def __init__(self, options: Options) -> None:
        prefix = options.prefix
        self.urgent = f"{prefix}.tasks.urgent"
        self.ordinary = f"{prefix}.tasks"
        self.background = f"{prefix}.tasks.background"
        #: Subtasks of a task that is none itself.
        self.first_level = f"{prefix}.subtasks"
        #: Subtasks of subtasks.
        self.nested = f"{prefix}.nested"
        #: The exchange of dead letters, its queue and their routing key are of one name.
        self.dead = f"{prefix}.dead"
        #: The fanout exchange for presence and cancels.
        self.control = f"{prefix}.control"
        #: The queues of tasks, in the order in which they are served: deepest first.
        self.levels = [
            self.nested, self.first_level, self.urgent, self.ordinary, self.background,
        ]  # fmt: skip
        #: Whether it is the one queue of 0.0.37 that is taken from, and given to.
        self.legacy = options.legacy
        if self.legacy:
            self.first_level = self.nested = QUEUE
            self.levels = [QUEUE]
        self._prefix = prefix

    def tasks(self, priority: int) -> str:
        """The queue of whole tasks of a priority."""
        if priority == 0:
            return self.ordinary
        return self.urgent if priority > 0 else self.background

    def subtasks(self, depth: int) -> str:
        """The queue of subtasks; a depth of 1 is right below a whole task."""
        return self.first_level if depth <= 1 else self.nested

    def model(self, name: str) -> str:
        """The queue of what was refused by nodes that do not accept the model of that name."""
        return f"{self._prefix}.model.{name}"

    def replies(self, boot_id: str) -> str:
        """The queue of what comes back to one boot of a node."""
        return f"{self._prefix}.replies.{boot_id}"

    def boot_of(self, replies: str) -> str | None:
        """The boot whose queue of replies that is; None: it is no node's of this version."""
        known = self.replies("")
        return replies.removeprefix(known) if replies.startswith(known) else None

    def control_queue(self, boot_id: str) -> str:
        """One node's queue on the control exchange."""
        return f"{self._prefix}.control.{boot_id}"


async def declare(channel: Channel, options: Options) -> Topology:
    """Declare everything that nodes share, or check that it is as it should be.

    Raises:
        Mismatch: something exists and is different; says what to do.
        BrokerRefused: this user may not declare it.
    """
    names = Topology(options)
    try:
        await channel.declare_exchange(names.control, "fanout")
        await channel.declare_exchange(names.dead, "direct")
        await channel.declare_queue(names.dead, arguments=dead_arguments(options))
        await channel.bind(names.dead, names.dead, names.dead)
        for queue in names.levels:
            await channel.declare_queue(queue, arguments=task_arguments(channel, options))
    except Mismatch as error:
        raise _advised(error, options) from error
    return names


async def declare_replies(channel: Channel, options: Options, boot_id: str) -> str:
    """Declare the queue of one boot of a node; returns its name. It outlives the connection.

    It is a classic one, whatever the others are: RabbitMQ 3.10 breaks a quorum queue if it is
    killed within seconds of its declaration, and this one is as young as its node. It has one
    consumer, which asks again for what is lost with it.
    """
    name = Topology(options).replies(boot_id)
    arguments = {"x-queue-type": "classic", "x-expires": REPLIES_EXPIRE * 1000}
    await channel.declare_queue(name, arguments=arguments)
    return name


async def declare_control(channel: Channel, options: Options, boot_id: str) -> str:
    """Declare and bind a node's control queue; returns its name. It ends with the connection."""
    names = Topology(options)
    name = names.control_queue(boot_id)
    await channel.declare_queue(name, durable=False, exclusive=True, auto_delete=True)
    await channel.bind(name, names.control)
    return name


# what queues are like


def task_arguments(channel: Channel, options: Options) -> dict[str, Any]:
    """A queue of tasks: what cannot be run goes to the dead letters, and nothing is dropped."""
    if options.legacy:
        # With any argument at all, nodes of 0.0.37 cannot declare it too, and do nothing else.
        return {}
    names = Topology(options)
    arguments: dict[str, Any] = {
        "x-queue-type": options.queue_type,
        "x-dead-letter-exchange": names.dead,
        "x-dead-letter-routing-key": names.dead,
    }
    if options.queue_type == "quorum":
        arguments |= {
            "x-delivery-limit": options.delivery_limit,
            # At-least-once needs the other: a queue that is full refuses, instead of dropping.
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
    version = version_of(channel.connection.server)
    if options.consumer_timeout is not None and version >= _OWN_ACK_TIMEOUT_SINCE:
        arguments["x-consumer-timeout"] = round(options.consumer_timeout * 1000)
    return _safe(arguments)


def dead_arguments(options: Options) -> dict[str, Any]:
    """The queue of dead letters: there is nothing behind it, so nothing may ever leave it."""
    return {"x-queue-type": options.queue_type} | _undroppable(options)


def _undroppable(options: Options) -> dict[str, Any]:
    return {"x-delivery-limit": _UNLIMITED} if options.queue_type == "quorum" else {}


def _safe(arguments: dict[str, Any]) -> dict[str, Any]:
    """A delivery limit without dead letters would lose tasks: such a queue is never declared."""
    limited = arguments.get("x-delivery-limit", _UNLIMITED) < _UNLIMITED
    if limited and not arguments.get("x-dead-letter-exchange"):
        raise Mismatch("a quorum queue with a delivery limit needs a dead-letter exchange")
    return arguments


def _advised(error: Mismatch, options: Options) -> Mismatch:
    if options.legacy and QUEUE in str(error):
        return Mismatch(
            f"{options.safe_url}: {error}. Nodes of 0.0.37 need {QUEUE} durable and without any "
            f"arguments: delete it once it is empty (rabbitmqctl delete_queue {QUEUE})"
        )
    return Mismatch(
        f"{options.safe_url}: {error}. Give every node the same options; or delete the old one "
        "once it is empty (rabbitmqctl delete_queue NAME); or choose another prefix= (now "
        f"{options.prefix!r})"
    )


# what the broker can do


def version_of(server: Mapping[str, Any]) -> tuple[int, int, int]:
    """A broker's version from what it says of itself; zeros where it says nothing."""
    text = server.get("version", "")
    text = text.decode() if isinstance(text, bytes) else str(text)
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else (0, 0, 0)


def ack_timeout(version: tuple[int, int, int], options: Options) -> float:
    """Seconds that the broker waits for an acknowledgement before it delivers a task again.

    As declared in `consumer_timeout`, else the broker's default; it may be configured otherwise.
    """
    if version < _ACK_TIMEOUT_SINCE:
        return math.inf
    classic = options.legacy or options.queue_type == "classic"
    if version >= _CLASSIC_WAITS_SINCE and classic:
        return math.inf
    return ACK_TIMEOUT if options.consumer_timeout is None else options.consumer_timeout


def warnings(
    server: Mapping[str, Any], options: Options, longest: Mapping[str, float]
) -> list[str]:
    """What this broker cannot do for these models, in sentences for people.

    Args:
        server: what the broker says of itself (`Connection.server`).
        options: what this node was given.
        longest: the longest duration of each model that declares one, in seconds.
    """
    version = version_of(server)
    said = []
    quorum = options.queue_type == "quorum" and not options.legacy
    if version < _SAFE_DEAD_LETTERS_SINCE and quorum:
        said.append(
            f"{options.safe_url} is RabbitMQ {_dotted(version)}: before 3.10 a dead letter of a "
            "quorum queue may be lost when the broker stops"
        )
    patience = ack_timeout(version, options)
    said += [
        f"{model} may take {seconds:g} s and {options.safe_url} waits {patience:g} s for an "
        f"acknowledgement: it will deliver such a task again while it runs. "
        f"{_remedy(version, options)}"
        for model, seconds in longest.items()
        if seconds >= patience
    ]
    return said


def _remedy(version: tuple[int, int, int], options: Options) -> str:
    if version >= _OWN_ACK_TIMEOUT_SINCE and not options.legacy:
        return "Give consumer_timeout= in seconds, before the queues are first declared"
    return (
        "Raise consumer_timeout in rabbitmq.conf (milliseconds), and give consumer_timeout= in "
        "seconds so that this node knows"
    )


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version)) if any(version) else "of an unknown version"
