"""Claims: who works on which file of this run. Two that want one name take turns; two URLs for one name are an error.

It knows paths and keys, and neither requests nor disks. Other processes are kept off by the lock on each part
(`sink.py`). The spider needs none of this: its list was checked for collisions before the first byte.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import DeferredLock

from bulkspider.errors import BulkError


@dataclass(slots=True, eq=False)
class _Claim:
    key: str
    lock: DeferredLock = field(default_factory=DeferredLock)
    wanted: int = 0
    wanted_from_outside: int = 0


class Claims:
    """One per run."""

    def __init__(self) -> None:
        self._claims: dict[str, _Claim] = {}

    async def enter(self, path: str, key: str, *, outside: bool) -> None:
        """Returns when it is the caller's turn at `path`. key: of the URL (`url_key`).

        outside: the caller has yet to come through Scrapy's downloader. Who is inside cannot wait for it: it may hold
        the very place that the other needs.
        """
        claim = self._claims.setdefault(path, _Claim(key))
        if claim.key != key:
            raise BulkError(f"{path}: it is being fetched from another URL", code="two_urls", permanent=True)
        if claim.wanted_from_outside and not outside:
            raise BulkError(f"{path}: BulkFilesPipeline is fetching it already", code="two_ways")
        claim.wanted += 1
        claim.wanted_from_outside += outside
        await maybe_deferred_to_future(claim.lock.acquire())

    def leave(self, path: str, *, outside: bool) -> None:
        """The caller's turn is over."""
        claim = self._claims[path]
        claim.wanted -= 1
        claim.wanted_from_outside -= outside
        if not claim.wanted:
            del self._claims[path]
        claim.lock.release()
