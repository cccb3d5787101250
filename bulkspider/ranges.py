"""Byte ranges: a sorted set of half-open intervals [first, end).

The state of a part is such a set from its first version on, not a size, so that several connections can fill one
file and a crash can never claim the bytes between two of them. Pure; knows nothing of files or HTTP.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """A mutable set of bytes, kept as disjoint, sorted, non-touching intervals."""

    __slots__ = ("_ends", "_firsts")

    def __init__(self, intervals: Iterable[Iterable[int]] = ()) -> None:
        self._firsts: list[int] = []
        self._ends: list[int] = []
        for first, end in intervals:
            self.add(first, end)

    def add(self, first: int, end: int) -> None:
        """Adds the bytes [first, end); merges what it touches. An empty interval changes nothing."""
        if first < 0:
            raise ValueError("a byte range cannot start before 0")
        if end <= first:
            return
        low = bisect_left(self._ends, first)
        high = bisect_right(self._firsts, end)
        if low < high:
            first = min(first, self._firsts[low])
            end = max(end, self._ends[high - 1])
        self._firsts[low:high] = [first]
        self._ends[low:high] = [end]

    def clip(self, size: int) -> None:
        """Drops every byte at or beyond `size`."""
        keep = bisect_left(self._firsts, size)
        del self._firsts[keep:], self._ends[keep:]
        if keep and self._ends[-1] > size:
            self._ends[-1] = size

    def end_of(self, offset: int) -> int:
        """The end of the interval that holds byte `offset`, or `offset` itself if none does."""
        index = bisect_right(self._firsts, offset) - 1
        return max(offset, self._ends[index]) if index >= 0 else offset

    def next_after(self, offset: int) -> int | None:
        """The first byte at or after `offset` that is held, or None."""
        if self.end_of(offset) > offset:
            return offset
        index = bisect_left(self._firsts, offset)
        return self._firsts[index] if index < len(self._firsts) else None

    def holds(self, first: int, end: int) -> bool:
        """True if every byte of [first, end) is held."""
        return end <= first or self.end_of(first) >= end

    def holes(self, total: int) -> Iterator[tuple[int, int]]:
        """The intervals of [0, total) that are not held, in order."""
        at = 0
        for first, end in self:
            if first >= total:
                break
            if first > at:
                yield at, first
            at = end
        if at < total:
            yield at, total

    @property
    def front(self) -> int:
        """How many bytes are held without a gap from byte 0 on."""
        return self._ends[0] if self._firsts and self._firsts[0] == 0 else 0

    @property
    def end(self) -> int:
        """One past the last byte held; 0 when empty."""
        return self._ends[-1] if self._ends else 0

    @property
    def count(self) -> int:
        """How many bytes are held."""
        return sum(self._ends) - sum(self._firsts)

    def copy(self) -> Ranges:
        twin = Ranges()
        twin._firsts, twin._ends = self._firsts[:], self._ends[:]
        return twin

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._firsts[:], self._ends[:], strict=True)

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Ranges({list(self)})"
