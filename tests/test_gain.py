"""The gain: a second connection shows whether more of them are of use; doubts are for those who prove them."""

from __future__ import annotations

import pytest

from bulkspider.gain import GAINED, IN_VAIN_SECONDS, Gain

ORIGIN = "a.example"
ALONE = 1000.0


def with_a_second() -> Gain:
    gain = Gain()
    assert gain.allows(ORIGIN, [ALONE], 0.0)
    gain.add(ORIGIN, [ALONE])
    return gain


@pytest.mark.parametrize("speeds", [[ALONE, None], [None, None]])
def test_no_third_one_before_the_second_has_shown_what_it_brings(speeds: list[float | None]) -> None:
    gain = with_a_second()
    assert not gain.allows(ORIGIN, speeds, 1.0)
    assert gain.allows("another.example", speeds, 1.0)


def test_a_second_one_that_brings_nothing_more_stays_the_last_for_a_while() -> None:
    gain = with_a_second()
    half = ALONE * GAINED / 2 - 1
    assert not gain.allows(ORIGIN, [half, half], 2.0)
    assert not gain.allows(ORIGIN, [ALONE], 3.0), "nor another second one"
    assert gain.allows(ORIGIN, [ALONE], 2.0 + IN_VAIN_SECONDS), "links have better hours"


def test_a_connection_that_begins_to_crawl_is_helped_whatever_was_seen_before() -> None:
    gain = with_a_second()
    assert not gain.allows(ORIGIN, [ALONE / 2, ALONE / 2], 2.0)
    assert gain.allows(ORIGIN, [ALONE / 100], 3.0)
    assert not gain.allows(ORIGIN, [None], 3.0), "one that has just begun does not crawl"


def test_a_second_one_that_brings_more_opens_the_way() -> None:
    gain = with_a_second()
    half = ALONE * GAINED / 2
    assert gain.allows(ORIGIN, [half, half], 2.0)
    gain.add(ORIGIN, [half, half])
    assert gain.allows(ORIGIN, [half, half, None], 2.0)


def test_one_that_was_never_alone_proves_nothing() -> None:
    gain = with_a_second()
    assert gain.allows(ORIGIN, [1.0], 2.0), "the first one has ended before its second one was measured"
    gain.add(ORIGIN, [None, None])
    assert gain.allows(ORIGIN, [1.0, 1.0, 1.0], 3.0)
