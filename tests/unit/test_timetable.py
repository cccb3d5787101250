"""Rates by hour and weekday: which one holds, and what is no timetable."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkspider.errors import UsageError
from bulkspider.options import Options, parse_size
from bulkspider.pumps.ratelimit import RateLimits
from bulkspider.timetable import DAYS, Timetable

KIB, MIB = 1024, 1024 * 1024
OFFICE = "08:00,512K 12:00,10M 13:00,512K 18:00,30M 23:00,off"
WEEK = "Mon-00:00,512K Fri-23:59,10M Sat-10:00,1M Sun-20:00,off"
MONDAY = datetime(2026, 11, 23)


def parse(text: str) -> Timetable:
    return Timetable.parse(text, parse_size)


def at(day: str, time: str) -> datetime:
    hour, minute = map(int, time.split(":"))
    return MONDAY + timedelta(days=DAYS.index(day), hours=hour, minutes=minute, seconds=59)


@pytest.mark.parametrize(
    ("text", "day", "time", "rate"),
    [
        (OFFICE, "Mon", "00:00", None),
        (OFFICE, "Mon", "07:59", None),
        (OFFICE, "Mon", "08:00", 512 * KIB),
        (OFFICE, "Wed", "12:30", 10 * MIB),
        (OFFICE, "Sun", "17:59", 512 * KIB),
        (OFFICE, "Sun", "22:59", 30 * MIB),
        (OFFICE, "Sun", "23:59", None),
        (WEEK, "Mon", "00:00", 512 * KIB),
        (WEEK, "Fri", "23:58", 512 * KIB),
        (WEEK, "Fri", "23:59", 10 * MIB),
        (WEEK, "Sat", "12:00", MIB),
        (WEEK, "Sun", "20:00", None),
        # Before the first change of the week, the last one of the week before.
        ("Tue-08:00,1M Sat-00:00,off", "Mon", "12:00", None),
        ("Tue-08:00,1M", "Mon", "12:00", MIB),
        # A day's own entry stands over that of every day.
        ("08:00,1M sun-08:00,off", "Sat", "09:00", MIB),
        ("08:00,1M SUN-08:00,off", "Sun", "09:00", None),
        ("8:00,1.5M", "Sun", "07:00", 3 * MIB // 2),
    ],
)
def test_which_rate_holds(text: str, day: str, time: str, rate: int | None) -> None:
    assert parse(text).rate_at(at(day, time)) == rate


CHANGES = st.dictionaries(
    st.tuples(st.none() | st.sampled_from(DAYS), st.integers(0, 23), st.integers(0, 59)),
    st.none() | st.integers(1, 1 << 20),
    min_size=1,
)


@given(CHANGES, st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)))
def test_it_is_that_of_the_last_change_as_somebody_would_find_it_who_looks_back(
    changes: dict[tuple[str | None, int, int], int | None], now: datetime
) -> None:
    written = " ".join(
        f"{f'{day}-' if day else ''}{hour:02}:{minute:02},{'off' if rate is None else f'{rate}K'}"
        for (day, hour, minute), rate in changes.items()
    )
    moment = now
    while True:
        key = moment.hour, moment.minute
        name = DAYS[moment.weekday()]
        if (name, *key) in changes or (None, *key) in changes:
            rate = changes[(name, *key)] if (name, *key) in changes else changes[(None, *key)]
            break
        moment -= timedelta(minutes=1)
    assert parse(written).rate_at(now) == (None if rate is None else rate * KIB)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("08:00,512", "'08:00,512': a rate needs its unit, as in 512K or 512M; 'off' is no limit"),
        ("08:00,0K", "'08:00,0K': this would stop all transfers; write 'off' for no limit"),
        ("08:00", "'08:00' is no TIME,RATE; write for example '08:00,512K 18:00,10M 23:00,off'"),
        ("08:00,1M 25:00,off", "'25:00,off': there is no time 25:00; from 00:00 to 23:59"),
        ("Mon-08:60,1M", "'Mon-08:60,1M': there is no time 08:60"),
        ("Mo-08:00,1M", "'Mo-08:00,1M': there is no day 'Mo'; write one of Mon, Tue, Wed"),
        ("08:00,1M 8:00,2M", "'8:00,2M': this time is there twice"),
        ("08:00,10M:1M", "'08:00,10M:1M': write one rate, that of receiving"),
        ("08:00,fast", "'08:00,fast': not a size; write for example 64K"),
        ("08:00, 1M", "'08:00,': not a size"),
        (",", "',' is no TIME,RATE"),
        ("٠٨:00,1M", "is no TIME,RATE"),
    ],
)
def test_what_is_none_is_told(text: str, told: str) -> None:
    with pytest.raises(UsageError) as refused:
        Options.from_settings({"BULK_RATE_LIMIT": text})
    assert told in str(refused.value)
    assert str(refused.value).startswith("setting BULK_RATE_LIMIT=")


def limits(**settings: Any) -> tuple[RateLimits, list[datetime]]:
    now = [at("Mon", "07:59")]
    return RateLimits(Options.from_settings(settings), lambda: now[0]), now


def test_limits_switch_when_the_time_has_come_and_the_control_file_stands_over_them() -> None:
    held, now = limits(BULK_RATE_LIMIT=OFFICE, BULK_RATE_LIMIT_PER_HOST="1M")
    assert held.now() == (None, MIB)
    assert held.changed() is None
    now[0] = at("Mon", "08:00")
    assert held.changed() == (512 * KIB, MIB)
    assert held.changed() is None
    held.control({"rate_limit": 7, "rate_limit_per_host": None})
    assert held.changed() == (7, None)
    now[0] = at("Mon", "12:00")
    assert held.changed() is None, "it stands over the table"
    held.control({"rate_limit_per_host": 5})
    assert held.changed() == (10 * MIB, 5), "what it does not name is the table's again"


def test_a_plain_limit_is_no_timetable() -> None:
    held, now = limits(BULK_RATE_LIMIT="2M")
    now[0] = at("Sun", "12:00")
    assert (held.now(), held.changed()) == ((2 * MIB, None), None)
