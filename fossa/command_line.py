"""What the commands have in common: how they refuse, how they find a node, how they print."""

import json
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click
from attrs import field, frozen

from fossa.client import DEFAULT_URL, Client
from fossa.errors import FossaError

if TYPE_CHECKING:
    from rich.console import Console

    from fossa.brokers import Broker
    from fossa.tasks import Outcome

F = TypeVar("F", bound=Callable[..., Any])

#: Exit statuses: the task failed or was cancelled; there was no node, or it refused.
EXIT_FAILED, EXIT_REFUSED = 1, 2


class Refused(click.ClickException):
    """One line on standard error, and exit status 2."""

    exit_code = EXIT_REFUSED

    def show(self, file: Any = None) -> None:
        click.echo(f"fossa: {self.message}", err=True)


class Commands(click.Group):
    """A group whose commands' errors are messages, not tracebacks."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FossaError as error:
            raise Refused(str(error)) from error


def client_options(command: F) -> F:
    """`--url` and `--token`, which become the parameter `client`."""

    @click.option(
        "--url", envvar="FOSSA_URL", default=DEFAULT_URL, show_default=True, show_envvar=True,
        help="Where the node answers.",
    )  # fmt: skip
    @click.option(
        "--token", envvar="FOSSA_TOKEN", show_envvar=True,
        help="The node's HTTP_TOKEN. Other users see a command's options: prefer the variable.",
    )  # fmt: skip
    @wraps(command)
    def with_client(url: str, token: str | None, **given: Any) -> Any:
        return command(client=Client(url, token), **given)

    return with_client  # type: ignore[return-value]


@frozen
class Via:
    """A broker as the command line names it."""

    url: str = field(repr=False)
    options: dict[str, Any]

    def connect(self) -> "Broker":
        """The broker, to be used as `async with`. Raises a `FossaError` where there is none."""
        from fossa.brokers import connect

        return connect(self.url, **self.options)


def via_options(command: F) -> F:
    """`--via` and `--via-option`, which become the parameter `via`: a `Via`, or None."""

    @click.option(
        "--via", "url_via", envvar="FOSSA_VIA", show_envvar=True, metavar="URL",
        help="A broker: amqp://user@host/vhost. Other users see a command's options: a URL with a "
        "password in it belongs in the variable.",
    )  # fmt: skip
    @click.option(
        "--via-option", "options_via", multiple=True, metavar="K=V",
        help="What the broker's plugin is told besides, such as prefix=etl or ca=/etc/ca.pem.",
    )  # fmt: skip
    @wraps(command)
    def with_via(url_via: str | None, options_via: tuple[str, ...], **given: Any) -> Any:
        via = Via(url_via, dict(map(_via_option, options_via))) if url_via else None
        return command(via=via, **given)

    return with_via  # type: ignore[return-value]


def pair(option: str, text: str) -> tuple[str, str]:
    """Name and value of an option's `NAME=VALUE`."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise Refused(f"{option} {text}: it should be {option} NAME=VALUE")
    return name, value


def said(name: str) -> bool:
    """Whether a parameter was given with the command itself."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2))


def print_outcome(console: "Console", what: str, outcome: "Outcome") -> None:
    """How `what` ended, the traceback if there is one, and on a line of its own the result."""
    line = f"{what} {outcome.status} ({outcome.reason})"
    console.print(f"{line}: {outcome.message}" if outcome.message else line, markup=False)
    for frame in outcome.traceback:
        console.print(f"  {frame}", markup=False)
    if outcome.complete and outcome.result_json != b"null":
        click.echo(outcome.result_json.decode())


def _via_option(text: str) -> tuple[str, Any]:
    """A number is a number; everything else is text."""
    name, value = pair("--via-option", text)
    for number in (int, float):
        try:
            return name, number(value)
        except ValueError:
            continue
    return name, value
