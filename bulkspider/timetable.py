"""A timetable of rates, in the form of rclone's `--bwlimit`: `08:00,512K 18:00,30M 23:00,off`.

Each entry holds from its time on until the next one; an entry without a weekday (`Mon-08:00,512K` has one) holds every
day. Times are local times, which the caller passes in; when the clock is put forward or back, the table follows it. A
rate needs its unit, because a bare number is KiB for rclone and bytes for us. Pure.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from datetime import datetime

from msgspec import Struct

from bulkspider.regex import regex

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY_MINUTES = 24 * 60
_TIME = regex(r"(?:([A-Za-z]+)-)?(\d{1,2}):(\d\d)", re.ASCII)
_FORM = "write for example '08:00,512K 18:00,10M 23:00,off', or 'Mon-08:00,512K Fri-18:00,off'"


class Timetable(Struct, frozen=True):
    """changes: (minute of the week from Monday 00:00 on, bytes per second or None for no limit), in order; at least
    one. text: as it was written."""

    changes: tuple[tuple[int, int | None], ...]
    text: str

    @classmethod
    def parse(cls, text: str, size: Callable[[str], int]) -> Timetable:
        """size: makes bytes of `512K`. Raises ValueError: what is wrong with which entry."""
        changes: dict[int, int | None] = {}
        every_day: dict[int, int | None] = {}
        for entry in text.split():
            day, minute, rate = _entry(entry, size)
            moment = minute if day is None else day * DAY_MINUTES + minute
            known = every_day if day is None else changes
            if moment in known:
                raise ValueError(f"'{entry}': this time is there twice")
            known[moment] = rate
        if not changes and not every_day:
            raise ValueError(f"an empty timetable; {_FORM}")
        for minute, rate in every_day.items():
            for day in range(len(DAYS)):
                changes.setdefault(day * DAY_MINUTES + minute, rate)
        return cls(tuple(sorted(changes.items())), text)

    def rate_at(self, now: datetime) -> int | None:
        """Bytes per second at this local time, None for no limit."""
        minute = now.weekday() * DAY_MINUTES + now.hour * 60 + now.minute
        # Before the first change of the week the last one of the week before holds: index -1.
        return self.changes[bisect_right([at for at, _ in self.changes], minute) - 1][1]

    def __str__(self) -> str:
        return self.text


def is_timetable(value: object) -> bool:
    """The value is meant as a timetable, valid or not."""
    return isinstance(value, str) and ("," in value or ":" in value)


def _entry(entry: str, size: Callable[[str], int]) -> tuple[int | None, int, int | None]:
    """(day or None, minute of the day, rate)."""
    time, comma, rate = entry.partition(",")
    found = _TIME.fullmatch(time)
    if not comma or found is None:
        raise ValueError(f"'{entry}' is no TIME,RATE; {_FORM}")
    day, hour, minute = found[1], int(found[2]), int(found[3])
    if hour > 23 or minute > 59:
        raise ValueError(f"'{entry}': there is no time {time.rpartition('-')[2]}; from 00:00 to 23:59")
    if day is not None and day.capitalize() not in DAYS:
        raise ValueError(f"'{entry}': there is no day '{day}'; write one of {', '.join(DAYS)}")
    number = None if day is None else DAYS.index(day.capitalize())
    return number, hour * 60 + minute, _rate(entry, rate, size)


def _rate(entry: str, rate: str, size: Callable[[str], int]) -> int | None:
    if rate.lower() == "off":
        return None
    if ":" in rate:
        raise ValueError(f"'{entry}': write one rate, that of receiving; nothing is sent")
    if rate.isascii() and rate.isdigit():
        raise ValueError(f"'{entry}': a rate needs its unit, as in {rate}K or {rate}M; 'off' is no limit")
    try:
        count = size(rate)
    except ValueError as error:
        raise ValueError(f"'{entry}': {error}") from None
    if not count:
        raise ValueError(f"'{entry}': this would stop all transfers; write 'off' for no limit")
    return count
