"""`fossa dlq`: look at the messages that no node could use, send them back, or delete them."""

# ruff: noqa: D301 - click wants the character \b itself: it keeps a paragraph's lines as they are.

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fossa.command_line import F, Refused, Via, print_json, via_options

if TYPE_CHECKING:
    from fossa.brokers import Broker, DeadLetter

T = TypeVar("T")
#: Characters of a detail that a table shows.
_DETAIL = 100
_COLUMNS = ("id", "reason", "model", "queue", "node", "at", "bytes", "detail")


@click.group()
def dlq() -> None:
    """See to dead letters: messages that no node could use.

    A message is dead-lettered where it is not a task that any node can make sense of, where its
    model is accepted by none, or where it killed whatever ran it. The queue flows on; the message
    waits here for somebody to decide.

    \b
    Examples:
      export FOSSA_VIA=amqp://etl:…@rabbit.example/
      fossa dlq list
      fossa dlq show 019a4b3c-…
      fossa dlq retry 019a4b3c-…           once the cause is gone
      fossa dlq drop --all
    """


def _which(command: F) -> F:
    """The letters that are meant: the parameters `ids` and `everything`."""
    command = click.option("--all", "everything", is_flag=True, help="Every dead letter.")(command)
    return click.argument("ids", nargs=-1)(command)


@dlq.command("list")
@click.option(
    "--limit", default=100, show_default=True, type=click.IntRange(1), help="Letters to show."
)
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON, without their bodies.")
@via_options
def list_letters(via: Via | None, limit: int, as_json: bool) -> None:
    """List dead letters, the oldest first. They stay where they are.

    \b
    Examples:
      fossa dlq list
      fossa dlq list --json | jq '.[].reason'
    """
    letters = _with_broker(via, lambda broker: broker.dead_letters(limit))
    if as_json:
        print_json([_document(letter) for letter in letters])
    elif letters:
        _print_table(letters, limit)
    else:
        click.echo("There are no dead letters.")


@dlq.command()
@click.argument("letter_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, with its body.")
@via_options
def show(via: Via | None, letter_id: str, as_json: bool) -> None:
    """Show one dead letter, with its headers and its body.

    \b
    Example:
      fossa dlq show 019a4b3c-… --json | jq .body
    """
    letter = _with_broker(via, lambda broker: broker.dead_letter(letter_id))
    if as_json:
        print_json({**_document(letter), "body": _json_or_text(letter.body)})
        return
    from fossa.terminal import console

    console().print(_facts(letter))
    click.echo(f"\n{_readable(letter.body)}")


@dlq.command()
@_which
@via_options
def retry(via: Via | None, ids: tuple[str, ...], everything: bool) -> None:
    """Send dead letters back to the queues they came from, as if they were new.

    None is lost, even if this is interrupted: the one at hand is then in both places at the worst,
    and its id keeps a node from doing its task twice.

    \b
    Examples:
      fossa dlq retry 019a4b3c-… 019a4b3d-…
      fossa dlq retry --all
    """
    wanted = _wanted(ids, everything)
    done = _with_broker(via, lambda broker: broker.retry(wanted))
    click.echo(f"{_counted(done)} sent back")


@dlq.command()
@_which
@click.option("--yes", is_flag=True, help="Do not ask.")
@via_options
def drop(via: Via | None, ids: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Delete dead letters for good.

    \b
    Examples:
      fossa dlq drop 019a4b3c-…
      fossa dlq drop --all --yes
    """
    wanted = _wanted(ids, everything)
    what = "every dead letter" if wanted is None else _counted(len(wanted))
    if not yes:
        click.confirm(f"Delete {what}?", abort=True, err=True)
    done = _with_broker(via, lambda broker: broker.drop(wanted))
    click.echo(f"{_counted(done)} deleted")


def _with_broker(via: Via | None, ask: "Callable[[Broker], Awaitable[T]]") -> T:
    if via is None:
        raise Refused("say which broker: --via amqp://user@host/, or FOSSA_VIA in the environment")

    async def asked(broker: "Broker") -> T:
        async with broker:
            return await ask(broker)

    return asyncio.run(asked(via.connect()))


def _wanted(ids: tuple[str, ...], everything: bool) -> frozenset[str] | None:
    if everything == bool(ids):
        raise Refused("name dead letters by their ids (fossa dlq list shows them), or say --all")
    return None if everything else frozenset(ids)


def _counted(number: int) -> str:
    return f"{number:,} dead letter{'' if number == 1 else 's'}"


# how they look


def _print_table(letters: "list[DeadLetter]", limit: int) -> None:
    from fossa.terminal import console, table

    out = console()
    out.print(table("Dead letters", _COLUMNS, [_row(letter) for letter in letters]))
    if len(letters) == limit:
        out.print("There may be more: --limit says how many are shown.")


def _row(letter: "DeadLetter") -> list[Any]:
    from rich.markup import escape

    return [
        escape(letter.id),
        escape(letter.reason),
        escape(letter.model or ""),
        escape(letter.queue),
        escape(letter.node),
        _time(letter.at),
        letter.size,
        escape(letter.detail[:_DETAIL]),
    ]


def _facts(letter: "DeadLetter") -> Any:
    from rich.markup import escape

    from fossa.terminal import facts

    rows = {
        "id": letter.id,
        "reason": letter.reason,
        "detail": letter.detail,
        "model": letter.model,
        "queue": letter.queue,
        "node": letter.node,
        "at": _time(letter.at),
        "bytes": f"{letter.size:,}",
        **{f"header {name}": value for name, value in letter.headers.items()},
    }
    return facts({name: escape(str(value or "")) for name, value in rows.items()})


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%d %b %H:%M:%S")


def _document(letter: "DeadLetter") -> dict[str, Any]:
    from fossa.documents import moment

    return {
        "id": letter.id,
        "reason": letter.reason,
        "detail": letter.detail,
        "queue": letter.queue,
        "node": letter.node,
        "at": moment(letter.at),
        "model": letter.model,
        "size": letter.size,
        "headers": dict(letter.headers),
    }


def _json_or_text(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body.decode(errors="replace")


def _readable(body: bytes) -> str:
    """A body laid out for reading; control characters in it do nothing to the terminal."""
    found = _json_or_text(body)
    if not isinstance(found, str):
        return json.dumps(found, indent=2)
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in found)
