"""The commands `fossa plugins` and `fossa plugin new`: what is installed, and the next one."""

# ruff: noqa: D301 - click wants the character \b itself: it keeps a paragraph's lines as they are.

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fossa.command_line import Commands, print_json
from fossa.commands import composition_of
from fossa.scaffold import KINDS, write_plugin

if TYPE_CHECKING:
    from fossa.composition import Composition
    from fossa.plugins import Installed

#: What people call the entry-point groups.
_KIND = {
    "fossa.sources": "source",
    "fossa.executors": "executor",
    "fossa.sinks": "sink",
    "fossa.plugins": "plugin",
    "fossa.brokers": "broker",
    "fossa.commands": "command",
}


@click.command()
@click.argument("target", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(target: str | None, as_json: bool) -> None:
    """List the sources, executors, sinks and plugins that are installed.

    With TARGET (a script or a module, as for `fossa run`) also which of them its config enables.
    What cannot be loaded is shown with the reason.

    \b
    Examples:
      fossa plugins                        what is there
      fossa plugins etl.py                 and what etl.py's config uses of it
    """
    from fossa.plugins import survey

    enabled = _enabled(target) if target else None
    rows = [_row(one, enabled) for one in survey(_KIND)]
    if as_json:
        print_json(rows)
    else:
        _print(rows, with_enabled=enabled is not None)


def _enabled(target: str) -> dict[str, set[str]]:
    """The classes that a config is composed of, by kind, each as `module:name`."""
    composition = composition_of(target)
    return {kind: set(map(_place, things)) for kind, things in _parts(composition).items()}


def _parts(composition: "Composition") -> dict[str, list[Any]]:
    return {
        "source": list(composition.sources),
        "executor": list(composition.executors),
        "sink": list(composition.sinks),
        "plugin": [plugin for _, plugin in composition.plugins],
    }


def _place(thing: Any) -> str:
    if isinstance(thing, type):
        return f"{thing.__module__}:{thing.__qualname__}"
    if hasattr(thing, "__path__") or hasattr(thing, "__file__"):
        return str(thing.__name__)
    return _place(type(thing))


def _row(one: "Installed", enabled: dict[str, set[str]] | None) -> dict[str, Any]:
    kind = _KIND[one.group]
    row: dict[str, Any] = {
        "kind": kind,
        "name": one.name,
        "distribution": one.distribution,
        "leads_to": one.value,
        "hooks": list(one.hooks),
        "trouble": one.trouble,
    }
    if enabled is not None:
        row["enabled"] = one.value in enabled.get(kind, ())
    return row


def _print(rows: list[dict[str, Any]], *, with_enabled: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    columns = ["KIND", "NAME", "FROM", *(["ENABLED"] if with_enabled else []), "HOOKS"]
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        enabled = ["yes" if row["enabled"] else ""] if with_enabled else []
        last = row["trouble"] and f"cannot be loaded: {row['trouble']}"
        last = last or ", ".join(row["hooks"])
        table.add_row(row["kind"], row["name"], row["distribution"], *enabled, last)
    Console(soft_wrap=False).print(table, markup=False)


@click.group(cls=Commands)
def plugin() -> None:
    """Make a plugin of your own."""


@plugin.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name")
@click.option(
    "--into", "directory", type=click.Path(file_okay=False, path_type=Path), metavar="DIRECTORY",
    help="Where to; fossa-NAME here unless it is given. It must not exist yet, or be empty.",
)  # fmt: skip
def new(kind: str, name: str, directory: Path | None) -> None:
    """Write a package with a source, executor, sink or observer in it, ready to be installed.

    It has an entry point, a README and tests that pass, a contract suite among them.

    \b
    Example:
      fossa plugin new sink acme
      cd fossa-acme && pip install -e '.[test]' && pytest
    """
    written = write_plugin(kind, name, directory)
    for file in written.files:
        click.echo(f"  {file}")
    click.echo(f"Next: cd {written.directory} && pip install -e '.[test]' && pytest")
