"""Segments: which bytes of one file each of its connections fetches.

Every connection of a file has a ByteRange, the bytes that it alone fetches. A further connection gets a hole that no
other one fills (left by an earlier run or a broken connection), or the tail of the range that would take longest: the
connection that had it then ends early, at the cut. Pure: bytes, seconds and bytes per second, no sockets and no
requests; `dispatch/segments.py` asks whenever a place is free that no entry can use.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from msgspec import Struct

from bulkspider.protocol.ranges import Ranges

# A cut that saves fewer seconds is not worth a request and the bytes that are in flight when it is made.
WORTH_SECONDS = 2.0
# From a connection that is this many times slower than the others, all that it has left is taken.
SLOW_FACTOR = 4.0
# But never so few bytes: asking for them anew takes as long.
LEFT_ALONE_BYTES = 1024 * 1024
# Where the number of connections is automatic, a file gets no second one in the first LOOK_SECONDS, nor while the first
# one is faster than 1 Gbit/s: it needs no help, and several that write one file at such a speed slow each other.
LOOK_SECONDS = 0.012
FAST_BYTES_PER_SECOND = 125_000_000


# Where BULK_SEGMENT_MIN is automatic, the smallest piece is what a connection brings in this time, so that the request
# for it is a small part of its duration.
PIECE_SECONDS = 1.0
SMALLEST_PIECE_BYTES = 1024 * 1024
SMALLEST_PIECE_MAX_BYTES = 16 * 1024 * 1024


def smallest_piece(speed: float | None) -> int:
    """The fewest bytes worth a connection of their own. speed: bytes per second of one connection, None if not
    known."""
    if speed is None:
        return SMALLEST_PIECE_BYTES
    return int(min(max(speed * PIECE_SECONDS, SMALLEST_PIECE_BYTES), SMALLEST_PIECE_MAX_BYTES))


class ByteRange(Struct, eq=False):
    """The bytes [at, end) that one connection is still to bring.

    end: None while the length is unknown. reach: up to which byte the answer goes, also after another connection took
    over the bytes from `end` on. speed: recent bytes per second, None before it was measured. flowing: its answer was
    accepted. first, began: the byte and the time (seconds of a monotonic clock) at which it was accepted.
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
        """The bytes to divide into equal shares. Until the speed is known they include those that have come already:
        every new connection begins with such a burst."""
        if self.first is None or self.speed is not None or self.end is None:
            return self.rest
        return max(0, self.end - self.first)

    def hurries(self, now: float) -> bool:
        """The speed is not measured yet, and the connection has just begun or is faster than FAST_BYTES_PER_SECOND."""
        if self.speed is not None or self.began is None or self.first is None:
            return False
        elapsed = now - self.began
        return elapsed < LOOK_SECONDS or self.at - self.first >= FAST_BYTES_PER_SECOND * elapsed

    def speed_so_far(self, now: float | None) -> float | None:
        """Recent bytes per second or, before they were measured, the average since it began."""
        if self.speed is not None or now is None or self.began is None or self.first is None or now <= self.began:
            return self.speed
        return (self.at - self.first) / (now - self.began)

    def next_look(self, now: float) -> float | None:
        """When to ask again whether it still `hurries`; None when it does not."""
        if self.began is None or not self.hurries(now):
            return None
        # At intervals that double: a burst ends early, later the speed changes slowly.
        return max(self.began + LOOK_SECONDS, 2 * now - self.began)

    def seconds(self, otherwise: float) -> float:
        """How long the rest takes. otherwise: bytes per second to assume while the speed is not measured."""
        return self.rest / max(otherwise if self.speed is None else self.speed, 1.0)


class Cut(Struct, frozen=True):
    """From now on `span` ends at byte `at`; the bytes from there on are free for another connection."""

    span: ByteRange
    at: int


def missing(have: Ranges, total: int, spans: Sequence[ByteRange]) -> list[tuple[int, int]]:
    """The holes of the file that no connection is filling: [first, end) pairs."""
    if len(spans) == 1 and spans[0].at <= have.front and spans[0].end in (None, total):
        return []  # as for nearly every file: one connection brings all the rest
    taken = have.copy()
    for span in spans:
        taken.add(span.at, total if span.end is None else span.end)
    return list(taken.holes(total))


def fair_share(spans: Collection[ByteRange], free: int) -> int:
    """Bytes for each connection if there were `free` more of them and all had equal shares."""
    return sum(span.to_share for span in spans) // max(1, len(spans) + free)


def best_cut(
    spans: Sequence[ByteRange], *, smallest: int, share: int, remembered: float | None = None, now: float | None = None
) -> Cut | None:
    """The cut that helps most, None when none is worth it.

    smallest: bytes of the smallest piece (BULK_SEGMENT_MIN), 0 for automatic. share: `fair_share`. remembered: bytes
    per second of earlier connections to this origin, used when no other one is measured. now: connections that
    `hurries` are not cut; None: the user wants several connections at once.
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
    """How many bytes a connection of `another` bytes per second should take over from the end of `span`; 0 for none."""
    if not span.flowing or span.end is None:
        return 0
    rest = span.rest
    if not another:
        # No speed is known yet: equal shares.
        tail = min(rest * 2 // 3, rest - smallest, max(share, smallest))
        return tail if tail >= smallest else 0
    speed = max(another if span.speed is None else span.speed, 1.0)
    tail = int(rest * another / (speed + another))
    if rest / speed - max((rest - tail) / speed, tail / max(another, 1.0)) <= WORTH_SECONDS:
        return 0
    if speed * SLOW_FACTOR < another and rest - tail < smallest:
        return rest if rest >= min(smallest, LEFT_ALONE_BYTES) else 0
    tail = min(tail, max(share, smallest))
    return tail if tail >= smallest and rest - tail >= smallest else 0


def give_back(own: ByteRange, have: Ranges, spans: Iterable[ByteRange]) -> None:
    """A connection brought nothing of its range `own`: a connection with an answer that goes on there takes it back."""
    spans = [span for span in spans if span is not own]
    taken = have.copy()
    for span in spans:
        taken.add(span.at, span.at if span.end is None else span.end)
    for span in spans:
        if span.flowing and span.end is not None and span.reach is not None and span.reach > span.end:
            follows = taken.next_after(span.end)
            span.end = span.reach if follows is None else min(span.reach, follows)
