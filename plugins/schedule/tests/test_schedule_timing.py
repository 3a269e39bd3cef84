"""When schedules fire, above all where clocks are moved."""

import time
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from random import Random
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from fossa_schedule.timing import Cron, Every, instant_of, jitter, utc

ZONES = ["Europe/London", "America/New_York", "Australia/Lord_Howe"]


def cron(line, zone):
    return Cron(line=line, text=f"cron {line} {zone}", zone=ZoneInfo(zone))


def firings(line, zone, after, number):
    """So many firings as local times with their offset, and in UTC."""
    found = islice(cron(line, zone).after(instant_of(after)), number)
    return [
        f"{datetime.fromtimestamp(at, ZoneInfo(zone)):%m-%d %H:%M%z} {utc(at)[5:16]}"
        for at in found
    ]


@pytest.mark.parametrize(
    ("line", "zone", "after", "expected"),
    [
        # spring: 01:00 to 02:00 is not there; what is fixed in it fires when it would have ended
        ("30 1 * * *", "Europe/London", "2026-03-28T12:00:00Z", [
            "03-29 02:00+0100 03-29T01:00", "03-30 01:30+0100 03-30T00:30",
        ]),
        ("0,30 1 * * *", "Europe/London", "2026-03-28T12:00:00Z", [
            "03-29 02:00+0100 03-29T01:00", "03-30 01:00+0100 03-30T00:00",
        ]),
        ("*/30 * * * *", "Europe/London", "2026-03-29T00:00:00Z", [
            "03-29 00:30+0000 03-29T00:30", "03-29 02:00+0100 03-29T01:00",
        ]),
        ("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", [
            "03-08 03:00-0400 03-08T07:00", "03-09 02:30-0400 03-09T06:30",
        ]),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", [
            "10-04 02:30+1100 10-03T15:30", "10-05 02:15+1100 10-04T15:15",
        ]),
        # autumn: 01:00 to 02:00 is there twice; what is fixed in it fires at the first
        ("30 1 * * *", "Europe/London", "2026-10-24T12:00:00Z", [
            "10-25 01:30+0100 10-25T00:30", "10-26 01:30+0000 10-26T01:30",
        ]),
        ("30 1 * * *", "Europe/London", "2026-10-25T01:15:00Z", ["10-26 01:30+0000 10-26T01:30"]),
        ("*/30 * * * *", "Europe/London", "2026-10-25T00:00:00Z", [
            "10-25 01:30+0100 10-25T00:30", "10-25 01:00+0000 10-25T01:00",
            "10-25 01:30+0000 10-25T01:30", "10-25 02:00+0000 10-25T02:00",
        ]),
        ("0 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", [
            "11-01 01:00-0400 11-01T05:00", "11-02 01:00-0500 11-02T06:00",
        ]),
        ("0 * * * *", "America/New_York", "2026-11-01T04:30:00Z", [
            "11-01 01:00-0400 11-01T05:00", "11-01 01:00-0500 11-01T06:00",
        ]),
        # Lord Howe's clocks are moved by half an hour: 01:30 to 02:00 is there twice
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", [
            "04-05 01:45+1100 04-04T14:45", "04-06 01:45+1030 04-05T15:15",
        ]),
        ("*/30 1-2 * * *", "Australia/Lord_Howe", "2026-04-04T14:00:00Z", [
            "04-05 01:30+1100 04-04T14:30", "04-05 01:30+1030 04-04T15:00",
            "04-05 02:00+1030 04-04T15:30", "04-05 02:30+1030 04-04T16:00",
        ]),
        ("*/30 2 * * *", "Australia/Lord_Howe", "2026-04-04T15:15:00Z", [
            "04-05 02:00+1030 04-04T15:30", "04-05 02:30+1030 04-04T16:00",
        ]),
        # days and months
        ("0 6 * * mon-fri", "Europe/London", "2026-01-02T12:00:00Z", [
            "01-05 06:00+0000 01-05T06:00",
        ]),
        ("0 0 L * *", "UTC", "2026-01-31T00:00:00Z", ["02-28 00:00+0000 02-28T00:00"]),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", ["02-29 00:00+0000 02-29T00:00"]),
    ],
)  # fmt: skip
def test_cron_lines_where_clocks_are_moved(line, zone, after, expected):
    assert firings(line, zone, after, len(expected)) == expected


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("line", ["*/15 * * * *", "*/10 1-2 * * *", "7 * * * *", "*/20 2 4,5 4 *"])
def test_a_line_with_a_star_fires_exactly_when_the_clock_on_the_wall_agrees(line, zone):
    """Against each minute of the days around both changes, one by one."""
    where = ZoneInfo(zone)
    for day in ("2026-03-07", "2026-03-28", "2026-04-04", "2026-10-03", "2026-10-24", "2026-10-31"):
        begin = instant_of(f"{day}T00:00:00Z")
        end = begin + 48 * 3600
        first = datetime.fromisoformat(day)
        matching = set(islice(CronSim(line, first - timedelta(days=1)), 600))
        agree = [
            at
            for at in range(begin + 60, end + 1, 60)
            if datetime.fromtimestamp(at, where).replace(tzinfo=None) in matching
        ]
        assert cron(line, zone).last(begin, end, 10_000) == agree


@pytest.mark.parametrize("zone", ZONES)
def test_firings_are_the_same_wherever_one_begins_to_look(zone):
    chance = Random(zone)
    for line in ("*/17 * * * *", "30 1 * * *", "15 2 * * *", "0 0 * * sun"):
        timing = cron(line, zone)
        begin = instant_of("2026-01-01T00:00:00Z")
        all_of_them = timing.last(begin, begin + 150 * 86400, 10**6)
        assert all(a < b for a, b in pairwise(all_of_them))
        for _ in range(20):
            at = chance.randrange(len(all_of_them) - 1)
            between = chance.randrange(all_of_them[at], all_of_them[at + 1])
            assert next(iter(timing.after(between))) == all_of_them[at + 1]


def test_a_fixed_line_fires_once_on_each_day_of_a_year():
    for zone in ZONES:
        for line in ("30 1 * * *", "15 2 * * *", "45 1 * * *"):
            begin = int(datetime(2026, 1, 1, tzinfo=ZoneInfo(zone)).timestamp())
            end = int(datetime(2027, 1, 1, tzinfo=ZoneInfo(zone)).timestamp())
            found = cron(line, zone).last(begin, end, 1000)
            days = {datetime.fromtimestamp(at, ZoneInfo(zone)).date() for at in found}
            assert len(found) == len(days) == 365


def test_an_interval_is_counted_from_the_epoch_whatever_the_clocks_do():
    timing = Every(seconds=5400, text="every 1h30m", zone=ZoneInfo("Europe/London"))
    begin = instant_of("2026-03-29T00:10:00Z")
    found = list(islice(timing.after(begin), 3))
    assert [utc(at)[11:16] for at in found] == ["01:30", "03:00", "04:30"]
    assert list(islice(timing.after(found[0]), 2)) == found[1:]


def test_the_latest_firings_of_a_long_time_are_found_quickly():
    timing = cron("* * * * *", "Europe/London")
    end = instant_of("2026-06-01T00:00:00Z")
    began = time.process_time()
    found = timing.last(instant_of("2006-06-01T00:00:00Z"), end, 100)
    assert time.process_time() - began < 1
    assert (len(found), found[-1], found[0]) == (100, end, end - 99 * 60)


def test_jitter_depends_on_name_and_firing_only_and_fills_its_span():
    found = [jitter("poll", firing, 30) for firing in range(0, 60_000, 60)]
    assert found == [jitter("poll", firing, 30) for firing in range(0, 60_000, 60)]
    assert found[:5] != [jitter("other", firing, 30) for firing in range(0, 300, 60)]
    assert 0 <= min(found) < 1
    assert 29 < max(found) < 30
    assert jitter("poll", 60, 0) == 0


def test_an_instant_is_written_and_read_in_utc():
    assert instant_of(utc(1_774_746_000)) == 1_774_746_000
    assert utc(1_774_746_000) == datetime.fromtimestamp(1_774_746_000, UTC).strftime(
        "%Y-%m-%dT%H:%M:%SZ"
    )
