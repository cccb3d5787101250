"""Small files: when one request may bring a batch of them.

A request costs Scrapy and us more than the bytes of a small file. Where an origin has given nothing but small files for
a while, each in one go, a request of the spider takes several entries of it along, one after the other over one
connection (`batch.py`). It decides how many, and which entries may travel like that; it must not know how they are
fetched. Whoever wants to see each request, or time between them, keeps one request for each file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from bulkspider.entry import Entry
from bulkspider.options import Options
from bulkspider.pump import HELD_MAX

# So many in a row before the first batch: short lists, and files of all sizes, never come to one.
TELLING = 32
# Requests that are left for each slot, so that all slots are busy to the end.
ROUNDS = 2

MIDDLEWARES = ("DOWNLOADER_MIDDLEWARES", "SPIDER_MIDDLEWARES")
# What waits between two requests, asks before each, or keeps them.
WATCHFUL = ("AUTOTHROTTLE_ENABLED", "JOBDIR", "ROBOTSTXT_OBEY")


class SmallFiles:
    """What is known of each origin. most: entries of one request (BULK_BATCH); with 1 there is no batch."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._in_a_row: Counter[str] = Counter()

    def seen(self, origin: str, size: int | None, *, plain: bool) -> None:
        """A file of `size` bytes is here. plain: one answer brought it, from where the list says."""
        if plain and size is not None and size <= HELD_MAX:
            self._in_a_row[origin] += 1
        else:
            self.odd(origin)

    def odd(self, origin: str) -> None:
        """Something was not as with a small file that comes in one go."""
        self._in_a_row.pop(origin, None)

    def never(self) -> None:
        """Something in this crawl sets requests apart after all."""
        self._most = 1

    def batch(self, origin: str, waiting: int, slots: int) -> int:
        """How many entries a request may bring. waiting: those that are left. slots: requests at once."""
        if self._in_a_row[origin] < TELLING:
            return 1
        return max(1, min(self._most, waiting // (ROUNDS * max(1, slots))))


def may_travel(entry: Entry, url: str, options: Options) -> bool:
    """The entry may be one of a batch: nothing sets its request apart, and its bytes need not be hashed.

    url: where it is fetched from now, maybe a mirror.
    """
    return (
        url == entry.url
        and url.startswith("http://")
        and "@" not in url
        and not (entry.headers or entry.digests or entry.segments)
        and (entry.size is None or entry.size <= HELD_MAX)
        and options.digest != "sha256"
    )


def nobody_minds(settings: Any) -> bool:
    """Nothing in this crawl is to see every request, or waits between them: its middlewares are Scrapy's and ours."""
    slots: Mapping[str, Mapping[str, Any]] = settings.getdict("DOWNLOAD_SLOTS")
    if settings.getfloat("DOWNLOAD_DELAY") or any(float(slot.get("delay") or 0) for slot in slots.values()):
        return False
    if any(settings[name] and str(settings[name]).lower() not in ("false", "0") for name in WATCHFUL):
        return False
    used = (
        component if isinstance(component, str) else component.__module__
        for name in MIDDLEWARES
        for component, order in settings.getwithbase(name).items()
        if order is not None
    )
    return all(path.startswith(("scrapy.", "bulkspider.")) for path in used)
