"""When a schedule fires: instants, as whole seconds since the epoch."""

import hashlib
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from zoneinfo import ZoneInfo

from attrs import frozen
from cronsim import CronSim

#: More than clocks are ever moved by.
MOVE = timedelta(hours=3)


class Timing(ABC):
    """The instants of one schedule."""

    #: What people, and the progress file, know it by: another text is another schedule.
    text: str
    zone: ZoneInfo

    @abstractmethod
    def after(self, instant: int) -> Iterator[int]:
        """Every instant later than this one, in order."""

    def last(self, after: int, until: int, most: int) -> list[int]:
        """Of the instants later than `after` and not later than `until`, the latest ones.

        Looks back from `until` over spans that double, so that a year of minutes is no work.
        """
        span = 3600
        while True:
            begin = max(after, until - span)
            found = []
            for instant in self.after(begin):
                if instant > until:
                    break
                found.append(instant)
            if len(found) >= most or begin == after:
                return found[-most:]
            span *= 2


@frozen(kw_only=True)
class Every(Timing):
    """Multiples of an interval, counted from the epoch: the same after a restart."""

    seconds: int
    text: str
    zone: ZoneInfo

    def after(self, instant: int) -> Iterator[int]:
        return count((instant // self.seconds + 1) * self.seconds, self.seconds)


@frozen(kw_only=True)
class Cron(Timing):
    """A cron line on the clocks of a time zone.

    cronsim finds the times on the wall; what these are in UTC is found here, because its own way
    with clocks that are moved can skip a firing (half hours), or go back in time.
    """

    line: str
    text: str
    zone: ZoneInfo

    def after(self, instant: int) -> Iterator[int]:
        here = datetime.fromtimestamp(instant, self.zone).replace(tzinfo=None)
        fixed = not any(part.startswith("*") for part in self.line.split()[:2])
        waiting: list[int] = []
        latest = instant
        for wall in CronSim(self.line, here - MOVE):
            begins = self._utc(wall, 0) - int(MOVE.total_seconds())
            while waiting and waiting[0] <= begins:
                if (earliest := heappop(waiting)) > latest:
                    yield (latest := earliest)
            for found in self._instants(wall, fixed=fixed):
                heappush(waiting, found)
        while waiting:
            if (earliest := heappop(waiting)) > latest:
                yield (latest := earliest)

    def _instants(self, wall: datetime, *, fixed: bool) -> tuple[int, ...]:
        """When the clock on the wall says so: twice where clocks go back, never in a gap."""
        before, behind = self._utc(wall, 0), self._utc(wall, 1)
        if before < behind:
            return (before,) if fixed else (before, behind)
        if before > behind:
            return (self._gap_end(behind, before),) if fixed else ()
        return (before,)

    def _utc(self, wall: datetime, fold: int) -> int:
        return int(wall.replace(tzinfo=self.zone, fold=fold).timestamp())

    def _gap_end(self, low: int, high: int) -> int:
        """The instant between two at which the clock is moved."""

        def moved(instant: int) -> bool:
            return self._offset(instant) != self._offset(low)

        return low + bisect_left(range(low, high), True, key=moved)

    def _offset(self, instant: int) -> timedelta | None:
        return datetime.fromtimestamp(instant, self.zone).utcoffset()


def jitter(name: str, firing: int, most: float) -> float:
    """Seconds by which a firing is later: from 0 to less than `most`, the same each time."""
    digest = hashlib.sha256(f"{name}/{firing}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48 * most


def utc(instant: int) -> str:
    """Such as 2026-03-29T01:00:00Z."""
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def instant_of(text: str) -> int:
    """What `utc` wrote. Raises ValueError."""
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())
