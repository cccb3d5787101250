"""Segments: which bytes of one file each of its connections fetches.

Every connection of a file has a Span, the bytes that it alone is to bring. A further connection gets a hole that is
nobody's (an earlier run or a broken connection left it), or the tail of the span that would take longest: that
connection then ends early, at the cut. Pure: bytes, seconds and bytes per second, no sockets and no requests;
`dispatch/segments.py` asks whenever a place is free that no entry can use.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from bulkspider.protocol.ranges import Ranges

# A cut that saves less (seconds) is not worth a request and the bytes that were on their way.
WORTH_SECONDS = 2.0
# A connection so many times slower than its like is not helped by halves: it loses all that it has left.
CRAWL = 4.0
# So little (bytes) is never taken from it: asking anew costs as much.
LEFT_ALONE = 1024 * 1024
# Where nobody has chosen the number of connections, the first one of an origin is looked at for so long (seconds), and
# for as long as it brings more than a link of 1 Gbit/s can carry (bytes per second): that one needs no help, and
# several that write one file at such a speed are in each other's way.
LOOK_SECONDS = 0.012
FAST = 125_000_000


# Where nobody has chosen the smallest piece (bytes), it is what a connection brings in so many seconds: asking for it
# takes a part of that, however far the host is.
PIECE_SECONDS = 1.0
SMALLEST_PIECE = 1024 * 1024
LARGEST_SMALLEST_PIECE = 16 * 1024 * 1024


def smallest_piece(speed: float | None) -> int:
    """Bytes that are worth a connection of their own where one brings `speed` bytes per second; None: not known."""
    if speed is None:
        return SMALLEST_PIECE
    return int(min(max(speed * PIECE_SECONDS, SMALLEST_PIECE), LARGEST_SMALLEST_PIECE))


@dataclass(slots=True, eq=False)
class ByteRange:
    """The bytes [at, end) that one connection is still to bring.

    end: None while the length is unknown. reach: how far its answer goes, when others took over what lies behind `end`.
    speed: bytes per second of late, None before there was time to measure. flowing: its answer was accepted. first,
    began: at which byte and when (seconds of a monotonic clock) that was, None before.
    """

    at: int = 0
    end: int | None = None
    reach: int | None = None
    speed: float | None = None
    flowing: bool = False
    first: int | None = None
    began: float | None = None

    @property
    def rest(self) -> int:
        return 0 if self.end is None else max(0, self.end - self.at)

    @property
    def to_share(self) -> int:
        """The bytes that count when shares are made equal: until its speed is known also those that came at once, as
        they will with each new connection."""
        if self.first is None or self.speed is not None or self.end is None:
            return self.rest
        return max(0, self.end - self.first)

    def hurries(self, now: float) -> bool:
        """Nothing is measured yet, and it has just begun, or what it has brought since would fill a fast link."""
        if self.speed is not None or self.began is None or self.first is None:
            return False
        elapsed = now - self.began
        return elapsed < LOOK_SECONDS or self.at - self.first >= FAST * elapsed

    def speed_so_far(self, now: float | None) -> float | None:
        """Bytes per second of late, or, before that was measured, since it began."""
        if self.speed is not None or now is None or self.began is None or self.first is None or now <= self.began:
            return self.speed
        return (self.at - self.first) / (now - self.began)

    def next_look(self, now: float) -> float | None:
        """When it may turn out that it does not hurry any more; None when there is nothing to wait for."""
        if self.began is None or not self.hurries(now):
            return None
        # Sooner at first: a burst is over soon, and what was true for a while does not change in a moment.
        return max(self.began + LOOK_SECONDS, 2 * now - self.began)

    def seconds(self, otherwise: float) -> float:
        """How long it still takes; `otherwise`: the speed to assume before it was measured."""
        return self.rest / max(otherwise if self.speed is None else self.speed, 1.0)


@dataclass(frozen=True, slots=True)
class Cut:
    """From now on `span` ends at byte `at`; what lay behind is free."""

    span: ByteRange
    at: int


def missing(have: Ranges, total: int, spans: Iterable[ByteRange]) -> list[tuple[int, int]]:
    """The holes that no connection is filling."""
    taken = have.copy()
    for span in spans:
        taken.add(span.at, total if span.end is None else span.end)
    return list(taken.holes(total))


def fair_share(spans: Collection[ByteRange], free: int) -> int:
    """Bytes for each connection if `free` more were there and all alike; also what small files leave over is for all,
    because their slots are free sooner."""
    return sum(span.to_share for span in spans) // max(1, len(spans) + free)


def best_cut(
    spans: Sequence[ByteRange], *, smallest: int, share: int, remembered: float | None = None, now: float | None = None
) -> Cut | None:
    """The cut that helps most, None when none is worth it.

    smallest: bytes of the smallest piece (BULK_SEGMENT_MIN), 0 for what is worth it at this speed. share: bytes
    each connection would have if all were alike. remembered: what a connection to this origin usually brings, for
    when no other one can be looked at. now: who hurries is left alone; None: the user wants several connections, at
    once.
    """
    speeds = {span: span.speed for span in spans if span.flowing and span.speed is not None}
    guess = sum(speeds.values()) / len(speeds) if speeds else (remembered or 0.0)
    for span in sorted(spans, key=lambda span: span.seconds(guess), reverse=True):
        others = [speed for other, speed in speeds.items() if other is not span and speed]
        another = sum(others) / len(others) if others else max(remembered or 0.0, span.speed or 0.0)
        if not another and now is not None and span.hurries(now):
            continue
        least = smallest or smallest_piece(another or span.speed_so_far(now))
        tail = _tail(span, another, least, share)
        if tail:
            assert span.end is not None
            return Cut(span, span.end - tail)
    return None


def _tail(span: ByteRange, another: float, smallest: int, share: int) -> int:
    """How many bytes a connection that brings `another` bytes per second should take over; 0 for none."""
    if not span.flowing or span.end is None:
        return 0
    rest = span.rest
    if not another:
        # Nothing is known yet: equal shares, at once.
        tail = min(rest * 2 // 3, rest - smallest, max(share, smallest))
        return tail if tail >= smallest else 0
    speed = max(another if span.speed is None else span.speed, 1.0)
    tail = int(rest * another / (speed + another))
    if rest / speed - max((rest - tail) / speed, tail / max(another, 1.0)) <= WORTH_SECONDS:
        return 0
    if speed * CRAWL < another and rest - tail < smallest:
        return rest if rest >= min(smallest, LEFT_ALONE) else 0
    tail = min(tail, max(share, smallest))
    return tail if tail >= smallest and rest - tail >= smallest else 0


def give_back(own: ByteRange, have: Ranges, spans: Iterable[ByteRange]) -> None:
    """A connection brought nothing of its span: whoever has an answer that goes on there takes it back."""
    spans = [span for span in spans if span is not own]
    taken = have.copy()
    for span in spans:
        taken.add(span.at, span.at if span.end is None else span.end)
    for span in spans:
        if span.flowing and span.end is not None and span.reach is not None and span.reach > span.end:
            follows = taken.next_after(span.end)
            span.end = span.reach if follows is None else min(span.reach, follows)
