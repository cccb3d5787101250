"""The gain: a second connection shows whether more of them are of use; doubts are for those who prove them."""

from __future__ import annotations

import pytest

from bulkspider.protocol.gain import GAINED_FACTOR, IN_VAIN_SECONDS, JUDGED_AFTER_SECONDS, Gain

ALONE = 1000.0
JUDGED = JUDGED_AFTER_SECONDS


def with_a_second() -> Gain:
    gain = Gain()
    assert gain.allows([ALONE], 0.0)
    gain.add([ALONE], 0.0)
    return gain


@pytest.mark.parametrize("speeds", [[ALONE, None], [None, None], [ALONE, ALONE / 10]])
def test_no_third_one_before_the_second_has_shown_what_it_brings(speeds: list[float | None]) -> None:
    """Which begins slowly where the way is long."""
    gain = with_a_second()
    assert not gain.allows(speeds, JUDGED - 0.1)


def test_one_that_is_never_measured_keeps_nobody_waiting() -> None:
    assert with_a_second().allows([ALONE, None], JUDGED)


def test_a_second_one_that_brings_nothing_more_stays_the_last_for_a_while() -> None:
    gain = with_a_second()
    half = ALONE * GAINED_FACTOR / 2 - 1
    assert not gain.allows([half, half], JUDGED)
    assert not gain.allows([ALONE], JUDGED + 1), "nor another second one"
    assert gain.allows([ALONE], JUDGED + IN_VAIN_SECONDS), "links have better hours"


def test_a_connection_that_begins_to_crawl_is_helped_whatever_was_seen_before() -> None:
    gain = with_a_second()
    assert not gain.allows([ALONE / 2, ALONE / 2], JUDGED)
    assert gain.allows([ALONE / 100], JUDGED + 1)
    assert not gain.allows([None], JUDGED + 1), "one that has just begun does not crawl"


def test_a_verdict_ends_when_they_do_bring_more() -> None:
    gain = with_a_second()
    assert not gain.allows([ALONE, ALONE / 10], JUDGED)
    assert gain.allows([ALONE, ALONE], JUDGED + 1)


def test_a_second_one_that_brings_more_opens_the_way() -> None:
    gain = with_a_second()
    half = ALONE * GAINED_FACTOR / 2
    assert gain.allows([half, half], JUDGED)
    gain.add([half, half], JUDGED)
    assert gain.allows([half, half, None], JUDGED)


def test_one_that_was_never_alone_proves_nothing() -> None:
    gain = with_a_second()
    assert gain.allows([1.0], 2.0), "the second one has ended before it was judged"
    assert gain.allows([1.0, 1.0], JUDGED), "and what comes later is compared with nothing"
    gain.add([None, None], JUDGED)
    assert gain.allows([1.0, 1.0, 1.0], 2 * JUDGED)
