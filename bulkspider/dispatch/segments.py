"""Segments: chooses which file under way gets a further connection, and for which bytes.

Called whenever a place is free that no entry can use. The first choice is a hole that no connection is filling (left by
an earlier run or a broken connection), then the tail of the range that would take longest (`protocol/byteranges.py`
says where to cut, `protocol/gain.py` whether more connections help at that origin). Makes no requests.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator

from msgspec import Struct

from bulkspider.dispatch.places import Places
from bulkspider.entries.entry import Entry, slot_of
from bulkspider.errors import BulkError
from bulkspider.protocol.byteranges import SMALLEST_PIECE_BYTES, ByteRange, best_cut, fair_share
from bulkspider.run.download import Attempt, Download
from bulkspider.run.origins.origin import Origin
from bulkspider.run.origins.origins import Origins

# After so many further connections in a row that brought nothing, a file gets no more of them.
VAIN_CONNECTIONS_MAX = 3


class Further(Struct, frozen=True):
    """A further connection to be made: its download and its bytes."""

    download: Download
    range: ByteRange


class Segments:
    """most: connections of a file (BULK_SEGMENTS, 0 for as many as places are free). smallest: bytes of the smallest
    piece (BULK_SEGMENT_MIN), 0 for automatic. held_back: says whether our own rate limit makes a host slow.
    may_connect: says whether the source allows one more connection."""

    def __init__(
        self,
        places: Places,
        origins: Origins,
        *,
        most: int = 0,
        smallest: int = 1,
        held_back: Callable[[str, float], bool] = lambda host, now: False,
        may_connect: Callable[[Entry], bool] = lambda entry: True,
    ) -> None:
        self._places = places
        self._origins = origins
        self._most = most
        self._smallest = smallest
        self._held_back = held_back
        self._may_connect = may_connect

    def find(self, running: Collection[Attempt], now: float) -> Further | None:
        """The download that a further connection would help most; None when no place is free or it would help none.

        running: all attempts under way, those that bring a batch of small files left out.
        """
        if not self._places.free:
            return None
        divisible = [download for download in _downloads(running) if self._may_divide(download, now)]
        for download in sorted(divisible, key=lambda download: download.remaining):
            if holes := download.missing():
                first, end = max(holes, key=lambda hole: hole[1] - hole[0])
                return Further(download, ByteRange(first, end))
        look = _Look(running)
        for download in sorted(divisible, key=self._seconds_left, reverse=True):
            if tail := self._cut(download, look, now):
                return Further(download, tail)
        return None

    def next_look(self, running: Collection[Attempt], now: float) -> float | None:
        """When `find` may have another answer; None when that is not known."""
        if not self._places.free:
            return None
        return min(self._looks(running, now), default=None)

    def _looks(self, running: Collection[Attempt], now: float) -> Iterator[float]:
        for download in _downloads(running):
            if not self._limit(download):
                for byterange in download.flowing:
                    if (
                        byterange.rest >= 2 * (self._smallest or SMALLEST_PIECE_BYTES)
                        and (look := byterange.next_look(now)) is not None
                    ):
                        yield look

    def ended(self, attempt: Attempt, error: BulkError | None, *, grew: bool, now: float) -> None:
        """A connection has ended while others fill the same file: decides whether the file gets further ones."""
        download = attempt.download
        if error is None or grew:
            download.vain_connections = 0
            return
        download.vain_connections += 1
        if download.vain_connections >= VAIN_CONNECTIONS_MAX:
            download.undivided = True
        if attempt.further:
            attempt.place.origin.refuses_more(error, now)

    def _limit(self, download: Download) -> int:
        """Most connections of the file that the user allows; 0 for automatic."""
        return download.entry.segments or self._most

    def _may_divide(self, download: Download, now: float) -> bool:
        slot = slot_of(download.url)
        return (
            download.divisible(self._limit(download))
            and now >= download.divided_again_at
            and self._places.free_in(slot) > 0
            and self._origins[download.origin].allows_more(now)
            and not self._held_back(slot, now)
            and self._may_connect(download.entry)
        )

    def _seconds_left(self, download: Download) -> float:
        """Seconds that its slowest connection still needs."""
        usual = self._origins[download.origin].usual_speed or 1.0
        return max((byterange.seconds(usual) for byterange in download.flowing), default=0.0)

    def _cut(self, download: Download, look: _Look, now: float) -> ByteRange | None:
        """Takes the tail of one of its connections for a new one, if that helps. None: it does not."""
        automatic = not self._limit(download)
        origin, slot = self._origins[download.origin], slot_of(download.url)
        if automatic and not look.gains(origin, now):
            return None
        cut = best_cut(
            download.flowing,
            smallest=self._smallest,
            share=look.share(slot, self._places.free_in(slot)),
            remembered=look.speed_elsewhere(download, origin) or origin.usual_speed,
            now=now if automatic else None,
        )
        if cut is None:
            return None
        origin.gain.add(look.speeds[origin], now)
        tail = ByteRange(cut.at, cut.span.end)
        if cut.at <= cut.span.at:
            # The old connection ends at the cut; the new one compares the join.
            cut.span.reach = cut.at
        cut.span.end = cut.at
        return tail


def _downloads(running: Iterable[Attempt]) -> Iterable[Download]:
    return dict.fromkeys(attempt.download for attempt in running)


class _Look:
    """All attempts under way at one time: what is the same for many files is found once, because hundreds may be under
    way.

    speeds: of the connections to an origin, None where one is not measured yet.
    """

    def __init__(self, running: Iterable[Attempt]) -> None:
        self.speeds: defaultdict[Origin, list[float | None]] = defaultdict(list)
        self._ranges: defaultdict[str, list[ByteRange]] = defaultdict(list)  # by slot
        self._flowing: Counter[Origin] = Counter()  # connections whose speed is measured
        self._flow: defaultdict[Origin, float] = defaultdict(float)  # bytes per second of all of them
        self._shares: dict[str, int] = {}
        self._gains: dict[Origin, bool] = {}
        for attempt in running:
            origin, byterange = attempt.place.origin, attempt.range
            self.speeds[origin].append(byterange.speed)
            self._ranges[attempt.place.slot].append(byterange)
            if byterange.flowing and byterange.speed is not None:
                self._flowing[origin] += 1
                self._flow[origin] += byterange.speed

    def gains(self, origin: Origin, now: float) -> bool:
        """A further connection to the origin may make the whole faster."""
        if origin not in self._gains:
            self._gains[origin] = origin.gain.allows(self.speeds[origin], now)
        return self._gains[origin]

    def share(self, slot: str, free: int) -> int:
        """Bytes for each connection of the slot, if its free places were used and all had equal shares."""
        if slot not in self._shares:
            self._shares[slot] = fair_share(self._ranges[slot], free)
        return self._shares[slot]

    def speed_elsewhere(self, download: Download, origin: Origin) -> float | None:
        """Bytes per second of a connection to its origin, from other files."""
        own = [
            byterange.speed
            for attempt in download.running.values()
            if attempt.place.origin is origin and (byterange := attempt.range).flowing and byterange.speed is not None
        ]
        others = self._flowing[origin] - len(own)
        return max(0.0, self._flow[origin] - sum(own)) / others if others > 0 else None
