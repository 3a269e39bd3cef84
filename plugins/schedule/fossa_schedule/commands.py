"""The commands `fossa schedule list` and `fossa schedule next`."""

# ruff: noqa: D301 - click wants the character \b itself: it keeps a paragraph's lines as they are.

from collections.abc import Iterator
from datetime import datetime
from heapq import merge
from itertools import islice, repeat
from typing import Any

import click
from attrs import frozen

from fossa.commands import Commands, Refused, composition_of, print_json
from fossa_schedule.progress import Progress, progress_path
from fossa_schedule.reading import Schedule, duration_text, nearest
from fossa_schedule.source import ScheduleSource, SystemClock
from fossa_schedule.timing import utc

#: What the commands take for now.
clock = SystemClock()


@frozen(kw_only=True)
class Found:
    """A schedule of a config, and where it fires."""

    schedule: Schedule
    source: ScheduleSource
    #: Whether it fires on the node that the config makes here.
    here: bool
    progress: Progress

    @property
    def last(self) -> int:
        """The instant up to which nothing is to be made any more."""
        mark = self.progress.get(self.schedule.name)
        known = mark is not None and mark.text == self.schedule.timing.text
        return mark.last if mark is not None and known else int(clock.time())

    def next(self) -> Iterator[int]:
        """Its firings from now on."""
        return self.schedule.timing.after(max(self.last, int(clock.time())))


@click.group(cls=Commands)
def schedule() -> None:
    """See what the schedules of a config will do."""


@schedule.command("list")
@click.argument("target")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_schedules(target: str, as_json: bool) -> None:
    """List the schedules of a config, and how far each has come on this computer.

    TARGET is a script or a module with a config in it, as for `fossa run`.

    \b
    Example:
      fossa schedule list etl.py
    """
    rows = [_row(found) for found in _found(target)]
    if as_json:
        print_json(rows)
        return
    columns = ("schedule", "when", "timezone", "runs", "missed", "overlap", "on", "done_until")
    _print(columns, rows)


@schedule.command("next")
@click.argument("target")
@click.argument("name", required=False)
@click.option("--count", "-n", default=10, show_default=True, type=click.IntRange(1, 10_000),
              help="How many firings.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def next_firings(target: str, name: str | None, count: int, as_json: bool) -> None:
    """Show the next firings of a config's schedules, or of one of them, in order.

    \b
    Examples:
      fossa schedule next etl.py
      fossa schedule next etl.py poll -n 3
    """
    chosen = _named(_found(target), name)
    firings = merge(*(zip(f.next(), repeat(n)) for n, f in enumerate(chosen)))
    rows = [_firing(at, chosen[n]) for at, n in islice(firings, count)]
    if as_json:
        print_json(rows)
        return
    _print(("schedule", "local", "timezone", "utc", "jitter", "on"), rows)


def _found(target: str) -> list[Found]:
    composition = composition_of(target)
    found = []
    for source in composition.sources:
        if isinstance(source, ScheduleSource):
            progress = Progress(progress_path(composition.state_dir, source.name))
            progress.read()
            here = source.fires_on(composition.node_name)
            found += [
                Found(schedule=one, source=source, here=here, progress=progress)
                for one in source.schedules()
            ]
    if not found:
        raise Refused(f'{target} has no schedule: put use("schedule", entries=[…]) into SOURCES')
    return found


def _named(found: list[Found], name: str | None) -> list[Found]:
    chosen = [one for one in found if name in (None, one.schedule.name)]
    if not chosen:
        raise Refused(
            f"no schedule is named {name}{nearest(name, [f.schedule.name for f in found])}"
        )
    return chosen


def _row(found: Found) -> dict[str, Any]:
    one = found.schedule
    mark = found.progress.get(one.name)
    return {
        "schedule": one.name,
        "when": one.timing.text.removesuffix(f" {one.timing.zone.key}"),
        "timezone": one.timing.zone.key,
        "runs": f"{one.request.model}.{one.request.method}",
        "missed": one.missed,
        "overlap": one.overlap,
        "on": _where(found),
        "done_until": utc(mark.last) if mark else None,
    }


def _firing(at: int, found: Found) -> dict[str, Any]:
    one = found.schedule
    local = datetime.fromtimestamp(at, one.timing.zone)
    return {
        "schedule": one.name,
        "local": local.strftime("%a %Y-%m-%d %H:%M:%S %Z"),
        "timezone": one.timing.zone.key,
        "utc": utc(at),
        "jitter": f"up to {duration_text(int(one.jitter))}" if one.jitter else None,
        "on": _where(found),
    }


def _where(found: Found) -> str:
    if found.source.on is None:
        return "every node"
    return found.source.on + (" (this one)" if found.here else "")


def _print(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " ").upper(), overflow="fold")
    for row in rows:
        cells = [row[column] for column in columns]
        table.add_row(*("" if cell is None else _cell(cell) for cell in cells))
    Console(soft_wrap=False).print(table, markup=False)


def _cell(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
