"""What is kept of a host: bytes, refusals, and when it was waited for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkspider.hosts.record import WAITS_MAX, Record


def test_the_speed_is_that_of_the_time_in_which_bytes_came() -> None:
    record = Record()
    record.look(11.0, 10.0, None)
    assert record.speed is None
    record.received_bytes = 500
    record.look(12.0, 10.0, None)
    record.look(20.0, 10.0, None)
    record.received_bytes = 1000
    record.look(21.0, 10.0, None)
    assert (record.busy_seconds, record.speed) == (2.0, 500)


def test_a_wait_goes_on_until_it_is_seen_to_be_over() -> None:
    record = Record()
    record.begin_wait(10.5, 11.5, "503")
    record.look(11.0, 10.0, (11.5, "503"))
    record.look(12.0, 10.0, (11.5, "refused"))  # it is being asked
    record.look(13.0, 10.0, None)
    record.look(14.0, 10.0, None)
    record.begin_wait(14.5, 14.7, "429")
    record.look(15.0, 10.0, None)
    assert [(wait.since, wait.until, wait.why) for wait in record.waits] == [(10.5, 12, "refused"), (14.5, 14.7, "429")]
    assert (record.how_often, record.waited_seconds) == (2, pytest.approx(1.7))


@given(st.lists(st.tuples(st.floats(0.1, 9), st.none() | st.floats(0, 20)), max_size=3 * WAITS_MAX))
def test_waits_are_bounded_in_order_and_cover_all_that_was_waited(looks: list[tuple[float, float | None]]) -> None:
    record, now = Record(), 0.0
    for passed, more in looks:
        now += passed
        record.look(now, 0.0, None if more is None else (now + more, "503"))
    assert len(record.waits) <= WAITS_MAX
    edges = [edge for wait in record.waits for edge in (wait.since, wait.until)]
    assert edges == sorted(edges)
    covered = sum(wait.until - wait.since for wait in record.waits)
    assert covered >= record.waited_seconds - 1e-6
    if record.how_often <= WAITS_MAX:
        assert covered == pytest.approx(record.waited_seconds)


def test_of_very_many_waits_those_close_to_each_other_are_one() -> None:
    record, now = Record(), 0.0
    for number in range(2 * WAITS_MAX):
        record.begin_wait(now, now + 1, "503")
        record.look(now + 2, 0.0, None)
        now += 3 if number % 2 else 100
    assert (len(record.waits), record.how_often, record.waited_seconds) == (WAITS_MAX, 2 * WAITS_MAX, 2 * WAITS_MAX)
    assert all(wait.until - wait.since < 105 for wait in record.waits)
