"""Which entries share one Scrapy request, because it takes more time than the bytes of a small file.

When an origin has sent only small files for a while, each in one answer, downloads that wait for a place there share
one place (`dispatch/slots.py`), and so one request of the spider, which a `Batch` works through (`batch.py`). In a dry
run all files are small. A crawl with middlewares that must see each request, or with a delay between requests, keeps
one request for each file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bulkspider.disk.part import HELD_MAX_BYTES
from bulkspider.run.origins.origin import Origin

if TYPE_CHECKING:
    from bulkspider.run.download import Download

# An origin must have sent so many small files in a row before its first batch, so that short lists and lists of mixed
# sizes have none.
SMALL_FILES_FIRST = 16
# After so many `on_small` is called, to prepare what batches will need.
FIRST_SIGN_OF_SMALL_FILES = 4
# With fewer entries left, a second process (`second.py`) would cost more time than it saves.
SECOND_FROM_ENTRIES = 1000
# Files of the smallest batch. Batches get smaller towards the end of a list, so that all places stay busy, but not
# smaller than this, because each request takes Scrapy as long as several small files.
SMALLEST_BATCH = 4

MIDDLEWARES = ("DOWNLOADER_MIDDLEWARES", "SPIDER_MIDDLEWARES")
# Settings that need each request for itself: a delay between them, a check before each, or a record of each.
WATCHFUL = ("AUTOTHROTTLE_ENABLED", "JOBDIR", "ROBOTSTXT_OBEY", "BULK_AUTH", "BULK_OAUTH2")


class SmallFiles:
    """Decides which entries share one request. most: BULK_BATCH; with 1 there is no batch. left: returns how many
    entries are not begun. limited: returns whether a rate limit holds now. on_small: called when an origin seems to
    send small files. probing: a dry run asks for one byte of each file, so that all are small."""

    def __init__(
        self,
        most: int = 1,
        *,
        left: Callable[[], int] = lambda: 0,
        limited: Callable[[], bool] = lambda: False,
        on_small: Callable[[], object] = lambda: None,
        probing: bool = False,
    ) -> None:
        self._largest = math.inf if probing else HELD_MAX_BYTES
        self._most = most
        self._left = left
        self._limited = limited
        self._on_small = on_small

    def seen(self, origin: Origin, size: int | None, *, plain: bool) -> None:
        """A file of `size` bytes is complete. plain: it came in one answer, from the listed URL."""
        if plain and size is not None and size <= self._largest:
            origin.small_in_a_row += 1
            if origin.small_in_a_row == FIRST_SIGN_OF_SMALL_FILES:
                self._on_small()
        else:
            self.odd(origin)

    def odd(self, origin: Origin) -> None:
        """Resets the count of small files in a row: something else than a small file in one answer has come."""
        origin.small_in_a_row = 0

    @property
    def shares(self) -> bool:
        """Entries may share requests, and their files are fetched."""
        return self._most > 1 and self._largest < math.inf

    def never(self) -> None:
        """No batches in this crawl from now on: something in it needs each request for itself."""
        self._most = 1

    def together(self, origin: Origin, waiting: int, places: int) -> int:
        """How many entries of an origin may share a request. waiting: those that wait for a place. places: requests at
        once."""
        if self._most == 1 or origin.small_in_a_row < SMALL_FILES_FIRST or self._limited():
            return 1
        if origin.profile.interval_seconds or origin.pieces.limit is not None:
            return 1  # the host wants time between two requests, or sends files only in pieces
        left = self._left() + waiting
        return max(1, min(self._most, left, max(SMALLEST_BATCH, left // max(1, places))))

    def may_travel(self, download: Download) -> bool:
        """It may be in a batch: nothing is known against one small answer from the listed URL."""
        entry = download.entry
        return (
            download.url == entry.url
            and not (download.alone or download.attempts or download.first_error or entry.segments)
            and (entry.size is None or entry.size <= self._largest)
        )


def allows_batches(settings: Any) -> bool:
    """No setting in this crawl needs each request for itself, and its middlewares are only Scrapy's and ours."""
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
