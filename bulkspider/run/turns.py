"""Turns: which request of this crawl may use a path. Two requests for one file take turns; two URLs for one path are an
error, even one after the other: the file that came first stays.

Only paths and keys (`Entry.key`), no requests and no disk. Other processes cannot write the same part, because it is
locked (`disk/files/partfile.py`). The spider does not need this: its list was checked for collisions before the first
byte.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from contextlib import AbstractAsyncContextManager

from msgspec import Struct, field
from twisted.internet.defer import DeferredLock

from bulkspider.errors import BulkError

_BUCKETS = 256
_BUCKET_SHIFT = 56
_64_BITS = (1 << 64) - 1


class _Turn(Struct, eq=False):
    key: str
    lock: DeferredLock = field(default_factory=DeferredLock)
    wanted: int = 0
    wanted_from_outside: int = 0


class Turns:
    """One per run."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}
        self._owners = Owners()

    def turn(self, path: str, key: str, *, outside: bool) -> AbstractAsyncContextManager[None]:
        """Waits until it is the caller's turn at `path`. key: of the entry (`Entry.key`).

        outside: the caller has not yet passed through Scrapy's downloader. A caller that is inside the downloader must
        not wait for one that is outside, because it may hold the place that the other one needs. Raises BulkError
        `two_urls` when the path belongs to another request, `two_ways` when the caller must not wait.
        """
        return _Held(self, path, key, outside)

    def want(self, path: str, key: str, outside: bool) -> DeferredLock:
        """The lock of a path, to be acquired; `leave` follows. Raises as `turn`."""
        if self._owners.is_of_another(path, key):
            raise BulkError(
                f"{path}: another request of this crawl has its file there; give this one another path",
                code="two_urls",
            )
        turn = self._turns.get(path)
        if turn is None:
            turn = self._turns[path] = _Turn(key)
        if turn.key != key:
            raise BulkError(
                f"{path}: it is being fetched by another request; give this one another path",
                code="two_urls",
            )
        if turn.wanted_from_outside and not outside:
            raise BulkError(f"{path}: BulkFilesPipeline is fetching it already", code="two_ways")
        turn.wanted += 1
        turn.wanted_from_outside += outside
        return turn.lock

    def leave(self, path: str, outside: bool) -> None:
        """A caller does not want the path any more."""
        turn = self._turns[path]
        turn.wanted -= 1
        turn.wanted_from_outside -= outside
        if not turn.wanted:
            del self._turns[path]

    def has_finished(self, path: str, key: str) -> None:
        """The file of `key` is at `path`: until the end of the crawl the path belongs to it. (A request that failed
        leaves its path free.)"""
        self._owners.add(path, key)


class _Held:
    """One caller's turn. A class, because a generator takes longer, and each entry of a list has one."""

    __slots__ = ("_key", "_lock", "_outside", "_path", "_turns")

    def __init__(self, turns: Turns, path: str, key: str, outside: bool) -> None:
        self._turns = turns
        self._path = path
        self._key = key
        self._outside = outside
        self._lock: DeferredLock

    async def __aenter__(self) -> None:
        self._lock = self._turns.want(self._path, self._key, self._outside)
        try:
            acquired = self._lock.acquire()
            if not acquired.called:
                await acquired
        except BaseException:
            self._turns.leave(self._path, self._outside)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
        self._turns.leave(self._path, self._outside)


class Owners:
    """The key that each path belongs to, in 16 bytes a path: 64 bits of a hash of the path and of the key, sorted by
    the first in 256 buckets. With a million paths, two of them have the same hash in one of forty million crawls."""

    def __init__(self) -> None:
        self._paths = [array("Q") for _ in range(_BUCKETS)]
        self._keys = [array("Q") for _ in range(_BUCKETS)]

    def has(self, path: str) -> bool:
        """The path belongs to a key."""
        bits = hash(path) & _64_BITS
        paths = self._paths[bits >> _BUCKET_SHIFT]
        at = bisect_left(paths, bits)
        return at < len(paths) and paths[at] == bits

    def is_of_another(self, path: str, key: str) -> bool:
        bits = hash(path) & _64_BITS
        bucket = bits >> _BUCKET_SHIFT
        paths = self._paths[bucket]
        at = bisect_left(paths, bits)
        return at < len(paths) and paths[at] == bits and self._keys[bucket][at] != hash(key) & _64_BITS

    def add(self, path: str, key: str) -> None:
        bits = hash(path) & _64_BITS
        bucket = bits >> _BUCKET_SHIFT
        paths = self._paths[bucket]
        at = bisect_left(paths, bits)
        if at == len(paths) or paths[at] != bits:
            paths.insert(at, bits)
            self._keys[bucket].insert(at, hash(key) & _64_BITS)
