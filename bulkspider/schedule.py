"""The schedule: which begun entry is next, and which origins may be given a new one.

It counts the spider's requests per slot against Scrapy's own limits, keeps what waits for its next attempt, and holds
back what failed and may pass until everything else is through. It neither sleeps nor makes requests (`spiders/bulk.py`
does) and leaves every judgement of an outcome to `pace.py`. Times are seconds of a monotonic clock, passed in.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from bulkspider.download import Download
from bulkspider.entry import Entry, origin_of, slot_of
from bulkspider.errors import BulkError
from bulkspider.pace import Pace

# Entries of one origin that wait for their next attempt; more are not begun before some of these are through.
WAITING_PER_ORIGIN = 64


@dataclass(slots=True, eq=False)
class Work:
    """One entry that was begun and has no outcome yet.

    url: where it is fetched from now. mirrors: where else it may be. scheduled: Scrapy has taken its request.
    first_error: why it failed, once it has had all but its last chance. needs_space: it waits for room on the disk.
    refreshed_in_vain: its URL was renewed and has brought nothing since.
    """

    entry: Entry
    url: str
    mirrors: list[str] = field(default_factory=list)
    download: Download | None = None
    scheduled: bool = False
    first_error: BulkError | None = None
    needs_space: bool = False
    refreshed_in_vain: bool = False

    @classmethod
    def on(cls, entry: Entry) -> Work:
        return cls(entry, entry.url, list(entry.mirrors))

    @property
    def origin(self) -> str:
        return origin_of(self.url)

    @property
    def slot(self) -> str:
        return slot_of(self.url)


class Schedule:
    """total is CONCURRENT_REQUESTS (0: no limit), per_slot CONCURRENT_REQUESTS_PER_DOMAIN.

    slot_limits: `concurrency` of DOWNLOAD_SLOTS. fits: asks whether what is left of a file fits on its disk.
    """

    def __init__(
        self,
        pace: Pace,
        *,
        total: int,
        per_slot: int,
        slot_limits: Mapping[str, int],
        fits: Callable[[Download], bool],
    ) -> None:
        self._pace = pace
        self._fits = fits
        self._total = total or 1 << 30
        self._per_slot = per_slot or 1 << 30
        self._slot_limits = dict(slot_limits)
        self._works: dict[str, Work] = {}
        self._flying: dict[str, Work] = {}
        self._in_slot: Counter[str] = Counter()
        self._slot_origins: dict[str, set[str]] = {}
        self._waiting: dict[str, list[tuple[float, int, Work]]] = {}
        self._last_pass: deque[Work] = deque()
        self._sequence = 0

    def __getitem__(self, name: str) -> Work:
        return self._works[name]

    def get(self, name: str) -> Work | None:
        return self._works.get(name)

    @property
    def empty(self) -> bool:
        """Nothing is under way and nothing waits."""
        return not self._works and not self._last_pass

    @property
    def flying(self) -> list[Work]:
        """Works whose request is with Scrapy."""
        return list(self._flying.values())

    # -- what may begin --------------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """One more request fits, and what is fetched but not finished has not piled up."""
        return len(self._flying) < self._total and len(self._works) - len(self._flying) <= 4 * min(self._total, 256)

    def may_begin(self, work: Work, now: float) -> bool:
        slot = work.slot
        if self._in_slot[slot] >= self._limit(slot) or not self._pace.allows(work.origin, now):
            return False
        return not work.needs_space or work.download is None or self._fits(work.download)

    @property
    def stuck(self) -> bool:
        """All that is left waits for room on the disk, and nothing is under way that might make some."""
        waiting = [work for heap in self._waiting.values() for _, _, work in heap]
        if not waiting or len(waiting) < len(self._works) or not all(work.needs_space for work in waiting):
            return False
        return not any(work.download and self._fits(work.download) for work in waiting)

    def blocked(self, now: float) -> set[str]:
        """Origins of which nothing new may begin now."""
        # Not one that outlasted our patience: its entries are begun and end without a request (`outlasted`), else each
        # of a thousand would wait for a probe of its own.
        blocked = {origin for origin in self._pace.shut(now) if self._pace.given_up(origin, now) is None}
        blocked |= {origin for origin, heap in self._waiting.items() if len(heap) >= WAITING_PER_ORIGIN}
        for slot, used in self._in_slot.items():
            if used >= self._limit(slot):
                blocked |= self._slot_origins[slot]
        return blocked

    def _limit(self, slot: str) -> int:
        return self._slot_limits.get(slot, self._per_slot)

    # -- the life of a work ----------------------------------------------------------------------------------------

    def add(self, work: Work) -> None:
        self._works[work.entry.name] = work

    def begin(self, work: Work) -> None:
        """A request is made for it."""
        work.scheduled = work.needs_space = False
        self._flying[work.entry.name] = work
        self._in_slot[work.slot] += 1
        self._slot_origins.setdefault(work.slot, set()).add(work.origin)
        self._pace.begins(work.origin)

    def end(self, work: Work) -> None:
        """Its request has ended, somehow."""
        del self._flying[work.entry.name]
        self._in_slot[work.slot] -= 1
        if not self._in_slot[work.slot]:
            del self._in_slot[work.slot]

    def wait(self, work: Work, due: float) -> None:
        """It is tried again, not before `due`."""
        self._sequence += 1
        heapq.heappush(self._waiting.setdefault(work.origin, []), (due, self._sequence, work))

    def put_last(self, work: Work, error: BulkError) -> None:
        """It failed and may pass: one more chance when all others are through."""
        work.first_error = error
        work.url, work.mirrors = work.entry.url, list(work.entry.mirrors)
        del self._works[work.entry.name]
        self._last_pass.append(work)

    def remove(self, name: str) -> None:
        """It has its outcome."""
        self._works.pop(name, None)

    # -- what is due -----------------------------------------------------------------------------------------------

    def due(self, now: float) -> Work | None:
        """A waiting work whose time has come and whose origin and slot are free."""
        if len(self._flying) >= self._total:
            return None
        for origin, heap in self._waiting.items():
            # The next ones too: the first may wait for more room than there is.
            for due, sequence, work in heap:
                if due <= now and self.may_begin(work, now):
                    heap.remove((due, sequence, work))
                    heapq.heapify(heap)
                    if not heap:
                        del self._waiting[origin]
                    return work
                if not work.needs_space:
                    break
        return None

    def begin_last_pass(self, now: float) -> None:
        """Everything else is through; what was put last is due."""
        if self._works:
            return
        while self._last_pass:
            work = self._last_pass.popleft()
            self.add(work)
            self._pace.forgive(work.origin)
            self.wait(work, now)

    def next_time(self, now: float) -> float | None:
        """When something may become due, as far as is known now."""
        times = [heap[0][0] for heap in self._waiting.values() if heap[0][0] > now]
        opening = self._pace.next_opening(now)
        if opening is not None:
            times.append(opening)
        return min(times, default=None)

    def outlasted(self, now: float) -> Iterator[tuple[Work, BulkError]]:
        """Takes out the waiting works of origins whose outage outlasted our patience."""
        for origin in list(self._waiting):
            error = self._pace.given_up(origin, now)
            if error is not None:
                for _, _, work in self._waiting.pop(origin):
                    yield work, error

    def interrupt(self) -> list[Work]:
        """The run stops: takes out everything that was begun and is not under way."""
        waiting = [work for heap in self._waiting.values() for _, _, work in heap]
        self._waiting.clear()
        waiting.extend(self._last_pass)
        self._last_pass.clear()
        return waiting

    def abandon(self) -> list[Work]:
        """The run has ended: takes out everything."""
        left = [*self.interrupt(), *self._works.values()]
        self._works.clear()
        return list(dict.fromkeys(left))
