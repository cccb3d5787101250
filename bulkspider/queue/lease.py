"""A lease: the right of one worker, for a while, to work on one entry of the shared queue.

A worker that slept through its lease (a stopped process, a suspended machine, a network cut off) may wake up beside its
successor. So a lease ends by the worker's own clock too, and the part asks it before every write, every state and the
final rename: what is written late can only be the last piece that was already on its way, the same bytes at the same
place, because nobody appends and a new version of the object gets a new file. No Redis here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from bulkspider.entry import Entry
from bulkspider.sink import Part


def clock() -> float:
    """Seconds that go on while the process is stopped or the machine sleeps."""
    return time.clock_gettime(_CLOCK)


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(slots=True, eq=False)
class Lease:
    """origin, id: where the entry lies in the queue. text: the entry as it lies there. tries: how often it was taken
    since its part last grew, this time included. best: the most bytes that its part had by then. until: when the lease
    ends, by `clock`. part: once an attempt has begun. lost: it has ended before the entry had its outcome. tokens:
    of its further connections.
    """

    entry: Entry
    origin: str
    id: str
    text: str
    tries: int
    best: int
    until: float
    part: Part | None = None
    lost: bool = False
    tokens: list[str] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        """May the entry still be touched? Asked by the part's threads."""
        return not self.lost and clock() < self.until

    @property
    def bytes(self) -> int:
        """How many bytes the part has."""
        return self.part.state.have.count if self.part is not None else 0

    @property
    def grew(self) -> bool:
        """The part has more bytes than it ever had before this lease."""
        return self.bytes > self.best
