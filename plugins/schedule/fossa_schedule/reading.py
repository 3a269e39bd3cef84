"""From entries to schedules, or everything that is wrong with them."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from attrs import frozen
from cronsim import CronSim, CronSimError

from fossa import Request
from fossa_schedule.entries import Entry
from fossa_schedule.timing import Cron, Every, Timing

MISSED = ("skip", "once", "all")
#: Seconds: the shortest and longest interval, and the longest jitter.
SHORTEST, LONGEST, MOST_JITTER = 1, 366 * 86400, 86400
ARGUMENTS = (
    "method_kwargs",
    "model_construction_kwargs",
    "partition_initialise_kwargs",
    "resolver_context",
)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_UNITS = (86400, 3600, 60, 1)
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_OTHER_WORDS = ("l", "lw")
_FIELDS = "minute hour day-of-month month day-of-week"

Wrong = Callable[[str], None]


@frozen(kw_only=True)
class Schedule:
    """One checked schedule."""

    name: str
    timing: Timing
    #: What each firing asks for; its key is added then.
    request: Request
    #: Seconds.
    jitter: float
    missed: str
    max_missed: int
    overlap: bool


def read(entries: Any, timezone: Any) -> tuple[list[Schedule], list[str]]:
    """The schedules of a source, and what is wrong with them, a line a mistake."""
    mistakes: list[str] = []
    zone = _zone(timezone, mistakes.append)
    if isinstance(entries, str | bytes | Mapping) or not isinstance(entries, Iterable):
        mistakes.append(f"entries is {entries!r:.60}: it should be a list of every(…) and cron(…)")
        return [], mistakes
    schedules: dict[str, Schedule] = {}
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, Entry):
            what = f"{entry!r:.60}"
            mistakes.append(f"entry {number} is {what}: it should be every(…) or cron(…)")
            continue
        schedule = _Reader(entry, number, zone, mistakes).schedule()
        if schedule.name in schedules:
            mistakes.append(
                f"two schedules are named {schedule.name!r}: give one of them another name=…"
            )
        schedules[schedule.name] = schedule
    return list(schedules.values()), mistakes


def model_mistakes(schedule: Schedule, models: Mapping[str, Any]) -> list[str]:
    """What is wrong with a schedule on a node that accepts these models."""
    request = schedule.request
    where = f"schedule {schedule.name!r}:"
    model = models.get(request.model)
    if model is None:
        near = nearest(request.model, models)
        return [f"{where} the model {request.model!r} is not in ACCEPTED_MODEL_CLASSES{near}"]
    found = []
    if isinstance(request.method, str) and request.method not in model.methods:
        near = nearest(request.method, model.methods)
        found.append(
            f"{where} {request.method!r} is no method of {model.name} that a task may run{near}"
        )
    if request.partition_initialise_kwargs and not model.partitioned:
        found.append(
            f"{where} partition_initialise_kwargs is for a PartitionedModel and {model.name} is "
            "none"
        )
    return found


def nearest(given: Any, known: Iterable[str]) -> str:
    """The end of a mistake: what may have been meant."""
    names = sorted(known)
    close = difflib.get_close_matches(str(given), names, 1)
    if close:
        return f": did you mean {close[0]!r}?"
    return f": there is {', '.join(map(repr, names))}" if 0 < len(names) <= 12 else ""


def seconds_of(value: Any) -> float | None:
    """Seconds of "1h30m", of a number or a timedelta; None where it is none of these."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    parts = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
    if parts is None:
        return None
    return float(sum(int(n) * unit for n, unit in zip(parts.groups("0"), _UNITS, strict=True)))


def _zone(name: Any, wrong: Wrong) -> ZoneInfo:
    """The time zone; UTC where there is none of that name."""
    try:
        return ZoneInfo(name)
    except (ValueError, TypeError, AttributeError, LookupError, OSError):
        zones = available_timezones()
        hint = nearest(name, zones) or ": it should be like 'Europe/London'"
        wrong(f"timezone is {name!r:.60}, which is no time zone{hint}")
        return ZoneInfo("UTC")


class _Reader:
    """Reads one entry, and goes on where something in it is wrong."""

    def __init__(self, entry: Entry, number: int, zone: ZoneInfo, mistakes: list[str]) -> None:
        self._entry, self._zone, self._mistakes = entry, zone, mistakes
        self._given = dict(entry.options)
        self._model = getattr(entry.model, "__name__", entry.model)
        self._name = self._named(number)

    def _wrong(self, text: str) -> None:
        self._mistakes.append(f"schedule {self._name!r}: {text}")

    def _named(self, number: int) -> str:
        name, method = self._given.pop("name", None), self._given.get("method", "go")
        if name is None:
            name = self._model if method == "go" else f"{self._model}.{method}"
        if isinstance(name, str) and _NAME.fullmatch(name):
            return name
        self._mistakes.append(
            f"entry {number} is named {name!r:.60}: a schedule's name should be 1 to 100 of A-Z "
            "a-z 0-9 . _ -: give it another name=…"
        )
        return f"entry {number}"

    def schedule(self) -> Schedule:
        if not isinstance(self._model, str):
            self._wrong(f"the model is {self._model!r:.60}: it should be a class, or its name")
        zone = self._own_zone()
        timing = self._every(zone) if self._entry.kind == "every" else self._cron(zone)
        schedule = Schedule(
            name=self._name,
            timing=timing,
            request=self._request(),
            jitter=self._jitter(timing),
            missed=self._missed(),
            max_missed=self._number("max_missed", 100, 1, 10_000, whole=True),
            overlap=self._flag("overlap"),
        )
        for name in self._given:
            known = set(self._entry_options())
            self._wrong(f"{name} is no option of {self._entry.kind}(…){nearest(name, known)}")
        return schedule

    @staticmethod
    def _entry_options() -> list[str]:
        own = ["name", "timezone", "jitter", "missed", "max_missed", "overlap"]
        return ["method", *ARGUMENTS, "priority", "timeout", "retries", *own]

    def _own_zone(self) -> ZoneInfo:
        name = self._given.pop("timezone", None)
        return self._zone if name is None else _zone(name, self._wrong)

    def _every(self, zone: ZoneInfo) -> Timing:
        when = self._entry.when
        seconds = seconds_of(when)
        if seconds is None or not SHORTEST <= seconds <= LONGEST or seconds != int(seconds):
            self._wrong(
                f"the interval is {when!r:.60}: it should be like '30s', '15m', '1h30m' or '2d', "
                "in whole seconds, from 1s to 366d"
            )
            seconds = 60
        whole = int(seconds)
        return Every(seconds=whole, text=f"every {duration_text(whole)}", zone=zone)

    def _cron(self, zone: ZoneInfo) -> Timing:
        line = self._entry.when
        problem = _cron_mistake(line)
        if problem:
            self._wrong(f"the cron line is {line!r:.80}: {problem}")
            line = "0 0 * * *"
        line = " ".join(line.split())
        return Cron(line=line, text=f"cron {line} {zone.key}", zone=zone)

    def _jitter(self, timing: Timing) -> float:
        given = self._given.pop("jitter", 0)
        seconds = seconds_of(given)
        most = float(timing.seconds if isinstance(timing, Every) else MOST_JITTER)
        if seconds is None or not 0 <= seconds <= most:
            text = duration_text(int(most))
            self._wrong(f"jitter is {given!r:.60}: it should be like '30s', from 0 to {text}")
            return 0.0
        return seconds

    def _missed(self) -> str:
        missed = self._given.pop("missed", MISSED[1])
        if missed not in MISSED:
            self._wrong(f"missed is {missed!r:.60}{nearest(missed, MISSED)}")
            return MISSED[1]
        return str(missed)

    def _flag(self, name: str) -> bool:
        value = self._given.pop(name, False)
        if not isinstance(value, bool):
            self._wrong(f"{name} is {value!r:.60}: it should be True or False")
        return bool(value)

    def _number(
        self, name: str, default: Any, low: float, high: float, *, whole: bool = False
    ) -> Any:
        value = self._given.pop(name, default)
        kinds = int if whole else (int, float)
        right = isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high
        if right or (value is None and default is None):
            return value
        kind = "a whole number" if whole else "a number"
        self._wrong(f"{name} is {value!r:.60}: it should be {kind} from {low:g} to {high:g}")
        return default

    def _request(self) -> Request:
        method = self._given.pop("method", "go")
        if not isinstance(method, str):
            self._wrong(f"method is {method!r:.60}: it should be the name of a method")
        number = partial(self._number, whole=True)
        return Request(
            model=self._model,
            method=method,
            **{name: self._object(name) for name in ARGUMENTS},
            priority=number("priority", 0, -100, 100),
            timeout=self._number("timeout", None, 0.001, 1e9),
            retries=number("retries", None, 0, 1000),
        )

    def _object(self, name: str) -> Any:
        value = self._given.pop(name, None)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self._wrong(f"{name} is {value!r:.60}: it should be a dict")
        elif odd := _not_json(value, name):
            self._wrong(odd)
        return value


def duration_text(seconds: int) -> str:
    """Such as 1h30m."""
    text, rest = "", seconds
    for unit, letter in zip(_UNITS, "dhms", strict=True):
        number, rest = divmod(rest, unit)
        text += f"{number}{letter}" if number else ""
    return text or "0s"


def _cron_mistake(line: Any) -> str:
    if not isinstance(line, str) or len(line.split()) != 5:
        return f"it should have five fields: {_FIELDS}"
    known = [*_DAYS, *_MONTHS, *_OTHER_WORDS]
    for word in re.findall(r"[a-z]+", re.sub(r"\b\dl\b", "", line.lower())):
        if word not in known:
            return f"{word!r} is no day and no month{nearest(word, known)}"
    try:
        next(CronSim(line, datetime(2024, 1, 1)))
    except CronSimError as error:
        return f"{error} (the fields are {_FIELDS})"
    except StopIteration:
        return "it never fires"
    return ""


def _not_json(value: Any, where: str) -> str:
    """What in a value is not made of JSON's types; empty where all is."""
    if value is None or isinstance(value, str | int | float):
        return ""
    if isinstance(value, Mapping):
        for key, member in value.items():
            if not isinstance(key, str):
                return f"{where:.100} has the key {key!r:.50}, which is not text"
            if odd := _not_json(member, f"{where}.{key}"):
                return odd
        return ""
    if isinstance(value, list | tuple):
        return next((o for n, v in enumerate(value) if (o := _not_json(v, f"{where}[{n}]"))), "")
    return f"{where:.100} is of type {type(value).__name__}, which is not JSON"
