"""The download: one entry under way, with its part and all that this run has spent on it.

It holds what several attempts, mirrors and restarts of one entry have in common, and decides nothing: attempts are
`transfer.py`'s, their order is the spider's, their end `finish.py`'s. Its methods that touch the disk run in worker
threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from bulkspider.digest import Follower
from bulkspider.entry import Entry, origin_of, redact
from bulkspider.errors import BulkError
from bulkspider.finish import algorithms_for
from bulkspider.folder import Folder
from bulkspider.items import BulkItem
from bulkspider.ledger import LedgerLine
from bulkspider.pace import Budget
from bulkspider.sink import Part
from bulkspider.spans import Span, missing


class Attempt(Protocol):
    """A transfer of this entry (`transfer.py`)."""

    def stop(self, error: BulkError) -> None: ...


@dataclass(eq=False)
class Download:
    """One entry under way: its part and what this run has spent on it. Lives from its first attempt to its outcome.

    broken: attempts that ended in an error. spans: what each of its requests is to bring, by the request's number.
    attempting: its transfers under way. connections: the most that flowed at once. ranges: whether the origin is known
    to answer ranges of it, None before that is known. undivided: it is not to be fetched by several connections any
    more. mixed: its bytes are of two versions, which only a new beginning can mend. finished: it has its name and this
    line in the ledger, given by who fetched it (`batch.py`).
    """

    entry: Entry
    folder: Folder
    part: Part
    budget: Budget
    expected: dict[str, str]
    policy: str
    url: str
    also: tuple[str, ...] = ()
    begun: float = field(default_factory=time.monotonic)
    attempts: int = 0
    broken: int = 0
    bytes_received: int = 0
    resumed_from: int | None = None
    largest: int = 0
    connections: int = 0
    final_url: str | None = None
    flags: set[str] = field(default_factory=set)
    length_proven: bool = True
    refuted_once: bool = False
    follower: Follower | None = None
    hashing: threading.Lock = field(default_factory=threading.Lock)
    spans: dict[int, Span] = field(default_factory=dict)
    attempting: set[Attempt] = field(default_factory=set)
    ranges: bool | None = None
    undivided: bool = False
    mixed: bool = False
    finished: LedgerLine | None = None

    def __post_init__(self) -> None:
        self.part.unread_from = self._unhashed_from

    @property
    def origin(self) -> str:
        return origin_of(self.url)

    @property
    def rest(self) -> int:
        """Bytes that are still to be written, as far as the length is known."""
        return self.part.unwritten

    @property
    def flowing(self) -> list[Span]:
        """What is being brought at this moment."""
        return [span for span in self.spans.values() if span.flowing]

    def divisible(self, most: int) -> bool:
        """A further connection may be of use. most: connections it may have, 0 for any number."""
        if self.undivided or self.ranges is False or self.part.state.total is None or not self.flowing:
            return False
        if self.ranges is None and len(self.spans) > 1:
            # One will tell.
            return False
        return not most or len(self.spans) < most

    def missing(self) -> list[tuple[int, int]]:
        """The holes that nobody is filling; the length is known."""
        state = self.part.state
        assert state.total is not None
        return missing(state.have, state.total, self.spans.values())

    def stop_others(self, but: Attempt, error: BulkError) -> None:
        """Ends the other transfers of this entry."""
        for attempt in list(self.attempting):
            if attempt is not but:
                attempt.stop(error)

    @property
    def algorithms(self) -> tuple[str, ...]:
        """What is hashed: what is expected, and, unless BULK_DIGEST is off, what somebody wants `also`."""
        also = () if self.policy == "off" else self.also
        return tuple(dict.fromkeys([*algorithms_for(self.expected, self.policy), *also]))

    def expect(self, digests: dict[str, str]) -> None:
        """Hashes the origin stated: they count where the list says nothing."""
        for algorithm, value in digests.items():
            self.expected.setdefault(algorithm, value)

    def follow(self, stop: Callable[[], bool], *, until: int | None = None) -> None:
        """Hashes what has arrived since; in a worker thread, beside the transfer. At most one thread at a time."""
        wanted = self.algorithms
        if not wanted or not self.hashing.acquire(blocking=until is not None):
            return
        try:
            if self.follower is None or not set(wanted) <= self.follower.digests().keys():
                self.follower = Follower(wanted)
            front = self.part.state.have.front if until is None else until
            if front > self.follower.hashed:
                self.follower.follow(self.part.fd, front, stop)
        finally:
            self.hashing.release()

    def _unhashed_from(self) -> int | None:
        if not self.algorithms:
            return None
        return 0 if self.follower is None else self.follower.hashed

    def describe(self, item: BulkItem) -> None:
        """Writes into the item what this run knows."""
        state = self.part.state
        item.url = redact(self.entry.url)
        item.final_url = self.final_url
        item.flags = sorted(self.flags)
        item.size = state.total
        item.bytes_received = self.bytes_received
        item.resumed_from = self.resumed_from or 0
        item.attempts = self.attempts
        item.broken = self.broken
        item.connections = self.connections
        item.seconds = round(time.monotonic() - self.begun, 3)
        item.etag = state.validators.etag
        item.last_modified = state.validators.last_modified

    def begin_anew(self, refuted: dict[str, str] | None = None) -> None:
        """Sets the part aside; the next byte is byte 0 of another version."""
        with self.hashing:
            self.part.state.restarts += 1
            self.part.set_aside(refuted)
            self.expected = dict(self.entry.digests)
            self.follower = None
            self.largest = 0
            self.mixed = False
