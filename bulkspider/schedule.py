"""The schedule: which begun entry is next, which origins may be given a new one, which file gets a further connection.

It counts the spider's requests per slot against Scrapy's own limits, keeps what waits for its next attempt, and holds
back what failed and may pass until everything else is through. A slot that no entry can use goes to a file under way
(`spans.py` says what of it). It neither sleeps nor makes requests (`spiders/bulk.py` does) and leaves every judgement
of an outcome to `pace.py`. Times are seconds of a monotonic clock, passed in.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bulkspider.download import Download
from bulkspider.entry import Entry, origin_of, slot_of
from bulkspider.errors import BulkError
from bulkspider.gain import Gain
from bulkspider.pace import Pace
from bulkspider.spans import Span, best_cut, fair_share

# Entries of one origin that wait for their next attempt; more are not begun before some of these are through.
WAITING_PER_ORIGIN = 64
# After so many further connections in a row that brought nothing, a file goes on without.
VAIN_SEGMENTS = 3


@dataclass(slots=True, eq=False)
class Work:
    """One entry that was begun and has no outcome yet.

    url: where it is fetched from now. mirrors: where else it may be. first_error: why it failed, once it has had all
    but its last chance. needs_space: it waits for room on the disk. refreshed_in_vain: its URL was renewed and has
    brought nothing since. flying: how many of its requests are with Scrapy. numbered: how many there were ever.
    grew, whole: one of those that flew together has brought something, has seen the file whole. vain_segments: further
    connections in a row that brought nothing.
    """

    entry: Entry
    url: str
    mirrors: list[str] = field(default_factory=list)
    download: Download | None = None
    first_error: BulkError | None = None
    needs_space: bool = False
    refreshed_in_vain: bool = False
    flying: int = 0
    numbered: int = 0
    grew: bool = False
    whole: bool = False
    vain_segments: int = 0

    @classmethod
    def on(cls, entry: Entry) -> Work:
        return cls(entry, entry.url, list(entry.mirrors))

    @property
    def origin(self) -> str:
        return origin_of(self.url)

    @property
    def slot(self) -> str:
        return slot_of(self.url)


@dataclass(slots=True, eq=False)
class Piece:
    """One request of a work. segment: others fill the same file. mates: works that it brings as well (`small.py`).
    scheduled: Scrapy has taken it."""

    work: Work
    number: int
    origin: str
    slot: str
    segment: bool
    mates: Sequence[Work] = ()
    scheduled: bool = False

    @property
    def span(self) -> Span | None:
        return self.work.download.spans.get(self.number) if self.work.download else None


class Schedule:
    """total is CONCURRENT_REQUESTS (0: no limit), per_slot CONCURRENT_REQUESTS_PER_DOMAIN.

    slot_limits: `concurrency` of DOWNLOAD_SLOTS. fits: asks whether what is left of a file fits on its disk. segments:
    most connections of a file (BULK_SEGMENTS, 0 for as many as slots are free). segment_min: BULK_SEGMENT_MIN, bytes.
    held_back: asks whether our own rate limit is what makes a host slow. may_connect: asks the source for one more
    connection.
    """

    def __init__(
        self,
        pace: Pace,
        *,
        total: int,
        per_slot: int,
        slot_limits: Mapping[str, int],
        fits: Callable[[Download], bool],
        segments: int = 0,
        segment_min: int = 1,
        held_back: Callable[[str, float], bool] = lambda host, now: False,
        may_connect: Callable[[Entry], bool] = lambda entry: True,
    ) -> None:
        self._pace = pace
        self._fits = fits
        self._total = total or 1 << 30
        self._per_slot = per_slot or 1 << 30
        self._slot_limits = dict(slot_limits)
        self._segments = segments
        self._held_back = held_back
        self._may_connect = may_connect
        self._segment_min = max(1, segment_min)
        self._gain = Gain()
        self._works: dict[str, Work] = {}
        self._flying: dict[tuple[str, int], Piece] = {}
        self._under_way: dict[str, Work] = {}
        self._in_slot: Counter[str] = Counter()
        self._at_origin: Counter[str] = Counter()
        self._usual_speed: dict[str, float] = {}
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
    def flying(self) -> list[Piece]:
        """Requests that are with Scrapy."""
        return list(self._flying.values())

    def piece(self, name: str, number: int) -> Piece | None:
        """The request of that number, while it is with Scrapy."""
        return self._flying.get((name, number))

    # -- what may begin --------------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """One more request fits, and what is fetched but not finished has not piled up."""
        return len(self._flying) < self._total and len(self._works) - len(self._under_way) <= 4 * min(self._total, 256)

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

    def requests_at_once(self, work: Work) -> int:
        """At most, to where it comes from."""
        return min(self._limit(work.slot), self._total)

    def _limit(self, slot: str) -> int:
        return self._slot_limits.get(slot, self._per_slot)

    # -- the life of a work ----------------------------------------------------------------------------------------

    def add(self, work: Work) -> None:
        self._works[work.entry.name] = work

    def begin(self, work: Work, span: Span | None = None, mates: Sequence[Work] = ()) -> Piece:
        """A request is made for it, for `span` of it if others fill the file already, or for its `mates` as well."""
        work.needs_space = False
        piece = Piece(work, work.numbered, work.origin, work.slot, segment=span is not None, mates=mates)
        if work.download is not None:
            work.download.spans[piece.number] = span or Span()
        self._flying[work.entry.name, piece.number] = piece
        for one in (work, *mates):
            one.numbered += 1
            one.flying += 1
            self._under_way[one.entry.name] = one
        self._in_slot[piece.slot] += 1
        self._at_origin[piece.origin] += 1
        self._slot_origins.setdefault(piece.slot, set()).add(piece.origin)
        if span is None:
            self._pace.begins(piece.origin)
        return piece

    def end(self, piece: Piece) -> None:
        """The request has ended, somehow."""
        work = piece.work
        del self._flying[work.entry.name, piece.number]
        for one in (work, *piece.mates):
            one.flying -= 1
            if not one.flying:
                del self._under_way[one.entry.name]
        for counter, key in ((self._in_slot, piece.slot), (self._at_origin, piece.origin)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]
        if work.download is not None:
            span = work.download.spans.pop(piece.number, None)
            if span is not None and span.speed is not None:
                usual = self._usual_speed.get(piece.origin, span.speed)
                self._usual_speed[piece.origin] = (usual + span.speed) / 2

    def segment_ended(self, piece: Piece, error: BulkError | None, *, grew: bool, now: float) -> None:
        """A request has ended while others fill the same file: what its failure means for those to come."""
        work = piece.work
        if error is None or grew:
            work.vain_segments = 0
        elif work.download is not None:
            work.vain_segments += 1
            if work.vain_segments >= VAIN_SEGMENTS:
                work.download.undivided = True
            if piece.segment:
                self._pace.refuses_more(piece.origin, self._at_origin[piece.origin], error, now)

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

    def withdraw(self, work: Work) -> bool:
        """Takes it out if it only waits for its next attempt; False when something is under way."""
        heap = self._waiting.get(work.origin, [])
        rest = [waiting for waiting in heap if waiting[2] is not work]
        if len(rest) == len(heap):
            return False
        heapq.heapify(rest)
        if rest:
            self._waiting[work.origin] = rest
        else:
            del self._waiting[work.origin]
        self.remove(work.entry.name)
        return True

    # -- what is due -----------------------------------------------------------------------------------------------

    def due(self, now: float) -> Work | None:
        """A waiting work whose time has come and whose origin and slot are free."""
        if len(self._flying) >= self._total:
            return None
        for origin, heap in self._waiting.items():
            # Those nearest to completion first. All of them: the first may wait for more room than there is.
            for due, sequence, work in sorted(heap, key=_rest):
                if due <= now and self.may_begin(work, now):
                    heap.remove((due, sequence, work))
                    heapq.heapify(heap)
                    if not heap:
                        del self._waiting[origin]
                    return work
        return None

    def further(self, now: float) -> tuple[Work, Span] | None:
        """A file under way that a further connection would help, and what that one should bring; None when no slot is
        free or it would help none. Who asks has found no entry that could use the slot."""
        if len(self._flying) >= self._total:
            return None
        divisible = [work for work in self._alone if self._may_divide(work, now)]
        for work in sorted(divisible, key=lambda work: work.download.rest if work.download else 0):
            assert work.download is not None
            holes = work.download.missing()
            if holes:
                first, end = max(holes, key=lambda hole: hole[1] - hole[0])
                return work, Span(first, end)
        for work in sorted(divisible, key=self._seconds_left, reverse=True):
            if span := self._cut(work, now):
                return work, span
        return None

    @property
    def _alone(self) -> Iterable[Work]:
        """Works under way whose requests are for them only."""
        return dict.fromkeys(piece.work for piece in self._flying.values() if not piece.mates)

    def _most(self, work: Work) -> int:
        """Connections that the user wants for it at most; 0: we decide."""
        return work.entry.segments or self._segments

    def _may_divide(self, work: Work, now: float) -> bool:
        download, slot, origin = work.download, work.slot, work.origin
        return (
            download is not None
            and self._in_slot[slot] < self._limit(slot)
            and download.divisible(self._most(work))
            and self._pace.allows_more(origin, self._at_origin[origin], now)
            and not self._held_back(slot, now)
            and self._may_connect(work.entry)
        )

    def _seconds_left(self, work: Work) -> float:
        """Of its slowest connection."""
        assert work.download is not None
        usual = self._usual_speed.get(work.origin, 1.0)
        return max((span.seconds(usual) for span in work.download.flowing), default=0.0)

    def _speed_elsewhere(self, work: Work) -> float | None:
        """What a connection to its origin brings (bytes per second), judged by other files, now or of late."""
        others = [p.span for p in self._flying.values() if p.work is not work and p.origin == work.origin]
        speeds = [span.speed for span in others if span and span.flowing and span.speed is not None]
        return sum(speeds) / len(speeds) if speeds else self._usual_speed.get(work.origin)

    def _cut(self, work: Work, now: float) -> Span | None:
        """Takes the tail of one of its connections away, if that is worth it."""
        assert work.download is not None
        automatic = not self._most(work)
        pieces = [p for p in self._flying.values() if p.origin == work.origin and not p.mates]
        speeds = [piece.span.speed if piece.span else None for piece in pieces]
        if automatic and not self._gain.allows(work.origin, speeds, now):
            return None
        slot = work.slot
        spans = [piece.span for piece in self._flying.values() if piece.slot == slot and piece.span]
        free = min(self._limit(slot) - self._in_slot[slot], self._total - len(self._flying))
        cut = best_cut(
            work.download.flowing,
            smallest=self._segment_min,
            share=fair_share(spans, free),
            remembered=self._speed_elsewhere(work),
            now=now if automatic else None,
        )
        if cut is None:
            return None
        self._gain.add(work.origin, speeds, now)
        tail = Span(cut.at, cut.span.end)
        if cut.at <= cut.span.at:
            # It is to end now; who takes over compares the join.
            cut.span.reach = cut.at
        cut.span.end = cut.at
        return tail

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
        if len(self._flying) < self._total:
            times.extend(self._next_looks(now))
        return min(times, default=None)

    def _next_looks(self, now: float) -> Iterator[float]:
        """When it is worth asking again whether a file is to be divided."""
        for work in self._alone:
            if work.download is not None and not self._most(work):
                for span in work.download.flowing:
                    if span.rest >= 2 * self._segment_min and (look := span.next_look(now)) is not None:
                        yield look

    @property
    def waiting(self) -> Iterator[tuple[str, float, Work, int]]:
        """Per origin what waits for its next attempt: the origin, when the first one is due, which it is, how many."""
        return ((origin, heap[0][0], heap[0][2], len(heap)) for origin, heap in self._waiting.items())

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


def _rest(waiting: tuple[float, int, Work]) -> tuple[float, int]:
    _, sequence, work = waiting
    known = work.download is not None and work.download.part.state.total is not None
    return (work.download.rest if work.download and known else float("inf"), sequence)
