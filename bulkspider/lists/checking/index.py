"""The positions of the entries of a list in its copy, in a few bytes each.

They are kept per origin, so that a list that is sorted by host still uses all its hosts from the first second.
`check.py` fills the index, `listsource.py` takes from it. Only offsets and origins, no names.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left, bisect_right
from itertools import compress, islice

from msgspec import Struct, field

from bulkspider.entries.entry import Entry, origin_of
from bulkspider.lists.checking.copy import Copy
from bulkspider.lists.checking.reader import Form
from bulkspider.lists.checking.shards import Shard

# The rank of an entry without a size: after every size.
UNSIZED = (1 << 63) - 1


class OriginQueue(Struct, eq=False):
    """The entries of one origin, in list order: where their lines begin, and their line numbers.

    taken: how many of them the run has taken. ranks: what comes before the list's order (BULK_ORDER), if anything does.
    """

    origin: str
    at: array[int] = field(default_factory=lambda: array("q"))
    lines: array[int] = field(default_factory=lambda: array("i"))
    taken: int = 0
    ranks: array[int] | None = None

    @property
    def place(self) -> tuple[int, int]:
        """The sort key of its next entry: the smallest of all queues comes first."""
        return (self.ranks[self.taken] if self.ranks is not None else 0), self.at[self.taken]


class Index:
    """The positions of the entries to do. known_bytes: sum of the sizes in the list; unsized: entries without one."""

    def __init__(self) -> None:
        self.queues: dict[str, OriginQueue] = {}
        self._gone: dict[str, array[int]] = {}  # by origin: places in its queue that are no entries to do
        self.known_bytes = 0
        self.unsized = 0

    def __len__(self) -> int:
        return sum(len(queue.at) for queue in self.queues.values())

    def queue_of(self, url: str) -> OriginQueue:
        """The queue for a URL, or for scheme and host alone."""
        origin = origin_of(url)
        queue = self.queues.get(origin)
        if queue is None:
            queue = self.queues[origin] = OriginQueue(origin)
        return queue

    def drop(self, entry: Entry, at: int) -> bool:
        """Removes an entry; False when it is not in the index. To be followed by `sweep`."""
        queue = self.queue_of(entry.url)
        place = bisect_left(queue.at, at)
        if place == len(queue.at) or queue.at[place] != at:
            return False
        self._gone.setdefault(queue.origin, array("i")).append(place)
        self._count(entry, -1)
        return True

    def sweep(self) -> None:
        """Completes the removals of `drop`."""
        for origin, gone in self._gone.items():
            queue = self.queues[origin]
            kept = bytearray(b"\1") * len(queue.at)
            for place in gone:
                kept[place] = 0
            queue.at = array("q", compress(queue.at, kept))
            queue.lines = array("i", compress(queue.lines, kept))
        self._gone.clear()

    def cut(self, limit: int, copy: Copy, form: Form) -> None:
        """Keeps the first `limit` entries in list order."""
        if limit >= len(self):
            return
        first = heapq.merge(*(queue.at for queue in self.queues.values()))
        last = next(islice(first, limit - 1, None))
        for queue in self.queues.values():
            end = bisect_right(queue.at, last)
            del queue.at[end:], queue.lines[end:]
        self._recount(copy, form)

    def share(self, shard: Shard, copy: Copy, form: Form) -> None:
        """Keeps what belongs to a shard that divides by host or by size."""
        if shard.by == "host":
            for queue in self.queues.values():
                if not shard.takes(queue.origin.rpartition(":")[0]):
                    del queue.at[:], queue.lines[:]
        elif shard.by == "size":
            # In list order, which is the same in every shard's run.
            places = list(heapq.merge(*(zip(queue.at, queue.lines, strict=True) for queue in self.queues.values())))
            entries = (form.read(copy.line(at), line) for at, line in places)
            mine = shard.share([entry.size if entry is not None else None for entry in entries])
            kept = {at for (at, _), taken in zip(places, mine, strict=True) if taken}
            for queue in self.queues.values():
                chosen = [at in kept for at in queue.at]
                queue.at = array("q", compress(queue.at, chosen))
                queue.lines = array("i", compress(queue.lines, chosen))
        self._recount(copy, form)

    def _recount(self, copy: Copy, form: Form) -> None:
        self.known_bytes = self.unsized = 0
        for queue in self.queues.values():
            for at, line in zip(queue.at, queue.lines, strict=True):
                entry = form.read(copy.line(at), line)
                if entry is not None:
                    self._count(entry, 1)

    def arrange(self, order: str, copy: Copy, form: Form) -> None:
        """Puts the "smallest" or "largest" first, as far as the list gives sizes; the others follow in its order."""
        sign = -1 if order == "largest" else 1
        for queue in self.queues.values():
            ranks = array("q")
            for at, line in zip(queue.at, queue.lines, strict=True):
                entry = form.read(copy.line(at), line)
                ranks.append(UNSIZED if entry is None or entry.size is None else sign * entry.size)
            places = sorted(range(len(ranks)), key=ranks.__getitem__)
            queue.at, queue.lines, queue.ranks = (
                array(old.typecode, map(old.__getitem__, places)) for old in (queue.at, queue.lines, ranks)
            )

    def add(self, entry: Entry, at: int) -> None:
        queue = self.queue_of(entry.url)
        queue.at.append(at)
        queue.lines.append(entry.line)
        self._count(entry, 1)

    def _count(self, entry: Entry, by: int) -> None:
        if entry.size is None:
            self.unsized += by
        else:
            self.known_bytes += by * entry.size
