"""Ranges against the obvious model: a set of integers."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from bulkspider.protocol.ranges import Ranges

SIZE = 60
intervals = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)), max_size=12)


def model(pairs: list[tuple[int, int]]) -> set[int]:
    return {byte for first, end in pairs for byte in range(first, end)}


@given(intervals, st.integers(0, SIZE), st.integers(0, SIZE))
def test_ranges_are_a_set_of_bytes(pairs: list[tuple[int, int]], one: int, other: int) -> None:
    held, ranges = model(pairs), Ranges(pairs)
    as_pairs = list(ranges)
    assert model(as_pairs) == held
    assert all(end < first for (_, end), (first, _) in itertools.pairwise(as_pairs)), "they never touch"
    assert ranges.count == len(held)
    assert ranges.front == next(byte for byte in range(SIZE + 2) if byte not in held)
    assert ranges.end == max(held, default=-1) + 1
    assert ranges.holds(one, other) == all(byte in held for byte in range(one, other))
    assert ranges.end_of(one) == next(byte for byte in range(one, SIZE + 2) if byte not in held)
    assert ranges.next_after(one) == min((byte for byte in held if byte >= one), default=None)
    twin = ranges.copy()
    twin.clip(one)
    assert model(list(twin)) == {byte for byte in held if byte < one}
    assert model(list(ranges)) == held, "a copy is its own"
