"""Spans: which bytes a further connection should bring, and when one is worth its request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkspider.protocol.byteranges import (
    FAST_BYTES_PER_SECOND,
    LOOK_SECONDS,
    WORTH_SECONDS,
    ByteRange,
    best_cut,
    fair_share,
    give_back,
    missing,
    smallest_piece,
)
from bulkspider.protocol.ranges import Ranges

MIB = 1024 * 1024


def flowing(at: int, end: int, speed: float | None = None, reach: int | None = None) -> ByteRange:
    return ByteRange(at, end, end if reach is None else reach, speed, flowing=True)


def test_holes_that_nobody_is_filling() -> None:
    have = Ranges([(0, 10), (40, 50)])
    assert missing(have, 100, []) == [(10, 40), (50, 100)]
    assert missing(have, 100, [ByteRange(10, 20), ByteRange(60, 70)]) == [(20, 40), (50, 60), (70, 100)]
    assert missing(have, 100, [ByteRange(10, None)]) == []
    assert missing(have, 45, []) == [(10, 40)]


@pytest.mark.parametrize("burst", [0, 2 * MIB])
def test_at_the_first_headers_equal_shares(burst: int) -> None:
    """Four cuts of 100 MiB for five connections, also where each answer begins with a burst, as nginx's limit_rate
    lets it: what the first one has had already, the others will have, too."""
    spans = [ByteRange(0, 100 * MIB, flowing=True, first=0)]
    for free in range(4, 0, -1):
        cut = best_cut(spans, smallest=MIB, share=fair_share(spans, free))
        assert cut is not None
        spans.append(ByteRange(cut.at, cut.span.end, flowing=True, first=cut.at))
        cut.span.end = cut.at
        for span in spans:
            span.at = (span.first or 0) + burst
    assert sorted((span.end or 0) - (span.first or 0) for span in spans) == [20 * MIB] * 5


@pytest.mark.parametrize(
    ("rests", "free", "share"),
    [
        ([100], 4, 20),
        ([100, 100], 6, 25),
        ([100, 10, 10], 3, 20),
        ([300, 100], 2, 100),
        ([], 3, 0),
        ([7], 0, 7),
    ],
)
def test_a_fair_share(rests: list[int], free: int, share: int) -> None:
    assert fair_share([flowing(5, 5 + rest, 1.0) for rest in rests], free) == share


@pytest.mark.parametrize(
    ("spans", "remembered", "expected"),
    [
        # As fast as each other: half of the longest one.
        ([flowing(0, 100 * MIB, 10 * MIB), flowing(200, 100 * MIB, 10 * MIB)], None, (0, 50 * MIB)),
        # Four seconds are left: half of them is not more than two.
        ([flowing(0, 40 * MIB, 10 * MIB)], None, None),
        ([flowing(0, 41 * MIB, 10 * MIB)], None, (0, 20.5 * MIB)),
        # Too little for two pieces of the smallest size.
        ([flowing(0, MIB, 1000)], None, None),
        # Three times slower: it keeps a quarter.
        ([flowing(0, 100 * MIB, MIB), flowing(0, MIB, 3 * MIB)], None, (0, 25 * MIB)),
        # It crawls, and would keep less than the smallest piece: all of it goes.
        ([flowing(7, 10 * MIB, 1000), flowing(0, MIB, 3 * MIB)], None, (0, 7)),
        # It crawls, the others are through; how fast they were is remembered.
        ([flowing(7, 10 * MIB, 1000)], 3 * MIB, (0, 7)),
        # So little is left alone.
        ([flowing(7, MIB, 1000)], 3 * MIB, None),
        # Nothing flows yet.
        ([ByteRange(0, 100 * MIB)], 3 * MIB, None),
        ([flowing(0, 100 * MIB), ByteRange(0, None)], 20 * MIB, (0, 50 * MIB)),
    ],
)
def test_what_is_worth_a_cut(
    spans: list[ByteRange], remembered: float | None, expected: tuple[int, float] | None
) -> None:
    cut = best_cut(spans, smallest=MIB, share=1000 * MIB, remembered=remembered)
    assert (None if cut is None else (spans.index(cut.span), cut.at)) == expected


@given(
    st.lists(
        st.builds(flowing, st.integers(0, 10**6), st.integers(10**6, 10**9), st.none() | st.floats(0, 10**9)),
        max_size=6,
    ),
    st.integers(1, 10**7),
    st.integers(0, 10**9),
    st.none() | st.floats(0, 10**9),
)
def test_a_cut_lies_in_its_span_and_saves_time(
    spans: list[ByteRange], smallest: int, share: int, remembered: float | None
) -> None:
    cut = best_cut(spans, smallest=smallest, share=share, remembered=remembered)
    if cut is None:
        return
    span = cut.span
    assert span.end is not None
    assert span.at <= cut.at < span.end
    left, tail = cut.at - span.at, span.end - cut.at
    assert left == 0 or (left >= smallest and tail >= smallest)
    if span.speed is not None and any(other.speed for other in spans):
        assert span.rest / max(span.speed, 1.0) > WORTH_SECONDS


def test_what_a_connection_did_not_bring_goes_back_to_who_can() -> None:
    lead, first, second = flowing(5, 20, reach=100), ByteRange(20, 60), ByteRange(60, 100)
    spans, have = [lead, first, second], Ranges([(0, 5)])
    second.end = second.at
    give_back(second, have, spans)
    assert lead.end == 20, "another one has what follows"
    first.end = first.at
    give_back(first, have, [lead, first])
    assert lead.end == 100
    lead.end, lead.reach = 20, 50
    give_back(first, have, [lead, first])
    assert lead.end == 50, "no further than its answer goes"
    lead.end = 20
    give_back(first, Ranges([(0, 5), (30, 100)]), [lead, first])
    assert lead.end == 30


def just_begun(brought: int, end: int = 1000 * MIB) -> ByteRange:
    return ByteRange(brought, end, end, flowing=True, first=0, began=100.0)


@pytest.mark.parametrize(
    ("span", "elapsed", "hurries"),
    [
        (just_begun(0), LOOK_SECONDS / 2, True),
        # nginx lets 2 MiB go at once where it gives each connection 16 MiB/s.
        (just_begun(2 * MIB), LOOK_SECONDS, True),
        (just_begun(2 * MIB), 2 * LOOK_SECONDS, False),
        (just_begun(0), LOOK_SECONDS, False),
        (just_begun(FAST_BYTES_PER_SECOND), 1.0, True),
        (just_begun(FAST_BYTES_PER_SECOND - 1), 1.0, False),
    ],
)
def test_the_first_connection_is_looked_at_before_it_is_helped(span: ByteRange, elapsed: float, hurries: bool) -> None:
    now = 100.0 + elapsed
    assert span.hurries(now) == hurries
    cut = best_cut([span], smallest=MIB, share=100 * MIB, now=now)
    assert (cut is None) == hurries
    assert best_cut([span], smallest=MIB, share=100 * MIB) is not None, "the user wants several, at once"
    look = span.next_look(now)
    assert (look is not None) == hurries
    assert look is None or now < look <= 100.0 + max(LOOK_SECONDS, 2 * elapsed)


def test_a_speed_that_was_measured_counts_more_than_the_beginning() -> None:
    span = just_begun(FAST_BYTES_PER_SECOND)
    span.speed = 1_000_000.0
    assert not span.hurries(101.0)
    assert best_cut([span], smallest=MIB, share=100 * MIB, now=101.0) is not None


@pytest.mark.parametrize(
    ("speed", "piece"),
    [(None, MIB), (100_000, MIB), (4 * MIB, 4 * MIB), (16 * MIB, 16 * MIB), (10**9, 16 * MIB)],
)
def test_the_smallest_piece_is_what_a_connection_brings_in_a_second(speed: float | None, piece: int) -> None:
    assert smallest_piece(speed) == piece


def test_a_slow_file_is_cut_into_equal_parts_down_to_its_last_piece() -> None:
    """256 MiB at 4 MiB/s a connection, 16 places: 16 pieces, none of which is left with twice as much."""
    first = ByteRange(0, 256 * MIB, 256 * MIB, flowing=True, first=0, began=100.0)
    first.at = 100 * 1024
    spans, now = [first], 100.025
    while len(spans) < 16:
        cut = best_cut(spans, smallest=0, share=fair_share(spans, 16 - len(spans)), now=now)
        assert cut is not None
        spans.append(ByteRange(cut.at, cut.span.end))
        cut.span.end = cut.at
    assert sorted(span.rest for span in spans)[-1] < 17 * MIB


def test_a_small_file_of_a_fast_host_is_not_cut() -> None:
    fast = ByteRange(0, 20 * MIB, 20 * MIB, flowing=True, first=0, began=100.0)
    fast.at = MIB
    assert best_cut([fast], smallest=0, share=5 * MIB, now=100.02) is None
