"""What a user writes: `every("15m", Poll)` and `cron("0 6 * * mon-fri", Nightly)`.

Nothing is checked here: `fossa_schedule.reading` tells all mistakes of all entries at once.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

from attrs import field, frozen


@frozen
class Entry:
    """One schedule as it was written. Made by `every` and `cron`."""

    kind: Literal["every", "cron"]
    #: The interval, or the cron line.
    when: Any
    #: A model class, or its name.
    model: Any
    #: Everything else, by name, where it was given.
    options: Mapping[str, Any] = field(repr=False)


def every(
    interval: "str | float | timedelta",
    model: "type | str",
    *,
    name: str | None = None,
    method: str = "go",
    method_kwargs: "Mapping[str, Any] | None" = None,
    model_construction_kwargs: "Mapping[str, Any] | None" = None,
    partition_initialise_kwargs: "Mapping[str, Any] | None" = None,
    resolver_context: "Mapping[str, Any] | None" = None,
    priority: int = 0,
    timeout: float | None = None,
    retries: int | None = None,
    timezone: str | None = None,
    jitter: "str | float | timedelta" = 0,
    missed: Literal["skip", "once", "all"] = "once",
    max_missed: int = 100,
    overlap: bool = False,
    **others: Any,
) -> Entry:
    """A task at each multiple of an interval since 1970-01-01 00:00 UTC.

    Args:
        interval: such as "30s", "15m", "1h30m", "2d", or seconds; whole seconds, at least one.
        model: an accepted model class, or its name.
        name: of letters, digits and `. _ -`; the model's, with the method unless that is `go`,
            where it is left out. Changing it begins a new schedule.
        method: a public method of the model.
        method_kwargs: keyword arguments of the method, as JSON has them.
        model_construction_kwargs: of the model's constructor.
        partition_initialise_kwargs: of `partition_initialise` (PartitionedModel only).
        resolver_context: Ayeaye's resolver context while the method runs.
        priority: higher first; from -100 to 100.
        timeout: seconds that one attempt may take; None: as the config says.
        retries: attempts after the first, where the model fails; None: as the config says.
        timezone: such as "Europe/London"; None: as the source has it.
        jitter: each firing is later by less than this, by how much depends on nothing but the
            schedule's name and the firing's time.
        missed: what becomes of firings that were due a minute ago or longer when nothing could
            run: none runs, the latest one, or all.
        max_missed: with missed="all", so many of the latest at the most.
        overlap: whether a firing's task may begin while that of the firing before has not ended.
        others: told as mistakes when the config is checked.
    """
    return Entry("every", interval, model, _options(locals()))


def cron(
    line: str,
    model: "type | str",
    *,
    name: str | None = None,
    method: str = "go",
    method_kwargs: "Mapping[str, Any] | None" = None,
    model_construction_kwargs: "Mapping[str, Any] | None" = None,
    partition_initialise_kwargs: "Mapping[str, Any] | None" = None,
    resolver_context: "Mapping[str, Any] | None" = None,
    priority: int = 0,
    timeout: float | None = None,
    retries: int | None = None,
    timezone: str | None = None,
    jitter: "str | float | timedelta" = 0,
    missed: Literal["skip", "once", "all"] = "once",
    max_missed: int = 100,
    overlap: bool = False,
    **others: Any,
) -> Entry:
    """A task at the times of a cron line.

    Where clocks go forward, a line with a fixed hour and minute that is passed over fires as soon
    as they have; where they go back, it fires once, at the first of the two. A line whose hour or
    minute begins with `*` fires whenever the clock on the wall agrees.

    Args:
        line: minute, hour, day of the month, month, day of the week; as Debian's cron has them.
        model: see `every`, as for everything else.
        name: see `every`.
        method: see `every`.
        method_kwargs: see `every`.
        model_construction_kwargs: see `every`.
        partition_initialise_kwargs: see `every`.
        resolver_context: see `every`.
        priority: see `every`.
        timeout: see `every`.
        retries: see `every`.
        timezone: see `every`.
        jitter: see `every`.
        missed: see `every`.
        max_missed: see `every`.
        overlap: see `every`.
        others: see `every`.
    """
    return Entry("cron", line, model, _options(locals()))


def _options(given: dict[str, Any]) -> dict[str, Any]:
    others: dict[str, Any] = given.pop("others")
    return {k: v for k, v in given.items() if k not in ("interval", "line", "model")} | others
