"""The schedule: limits are never passed, nobody is forgotten, whatever the order of events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkspider.download import Download
from bulkspider.entry import Entry
from bulkspider.errors import AttemptError
from bulkspider.options import Options
from bulkspider.pace import Budget, Outcome, Pace
from bulkspider.plan import PartState
from bulkspider.schedule import WAITING_PER_ORIGIN, Piece, Schedule, Work
from bulkspider.spans import Span

LOST = AttemptError("lost", code="lost")
REFUSED = AttemptError("refused", code="refused", origin_wide=True)
HOSTS = ("a.example", "b.example", "c.example:8443")


@dataclass
class Fetched:
    """A download, as the schedule sees it."""

    name: str
    part: Any = None
    rest: int = 0
    total: int | None = None
    spans: dict[int, Span] = field(default_factory=dict)
    ranges: bool | None = True
    undivided: bool = False

    def __post_init__(self) -> None:
        self.part = SimpleNamespace(state=PartState(total=self.total))

    flowing = Download.flowing
    divisible = Download.divisible
    missing = Download.missing


def work(name: str, host: str = HOSTS[0]) -> Work:
    return Work.on(Entry(line=1, name=name, url=f"https://{host}/{name}"))


def schedule(
    pace: Pace | None = None,
    *,
    total: int = 4,
    per_slot: int = 2,
    slot_limits: dict[str, int] | None = None,
    fits: Callable[[Any], bool] = lambda _: True,
    segments: int = 0,
) -> Schedule:
    return Schedule(
        pace or Pace(Options(), jitter=lambda: 1.0),
        total=total,
        per_slot=per_slot,
        slot_limits=slot_limits or {},
        fits=fits,
        segments=segments,
    )


@given(data=st.data(), total=st.integers(0, 6), per_slot=st.integers(0, 4), special=st.integers(1, 3))
def test_limits_are_never_passed_and_everybody_ends(
    data: st.DataObject, total: int, per_slot: int, special: int
) -> None:
    pace = Pace(Options(retry_delay=0.5, origin_patience=1e9), jitter=lambda: 0.5)
    one = schedule(pace, total=total, per_slot=per_slot, slot_limits={"b.example": special})
    limits = {"a.example": per_slot or 99, "b.example": special, "c.example": per_slot or 99}
    unborn = [work(f"{n}", data.draw(st.sampled_from(HOSTS))) for n in range(data.draw(st.integers(1, 20)))]
    count, under_way, done, now = len(unborn), list[Piece](), set[str](), 0.0

    def begin(chosen: Work) -> None:
        under_way.append(one.begin(chosen))
        assert len(under_way) <= (total or 99)
        for slot, used in Counter(w.slot for w in under_way).items():
            assert used <= limits[slot]

    # Some steps as they come; then everything succeeds, and must come to its end.
    random_steps = data.draw(st.integers(0, 60))
    for step in range(random_steps + 400):
        if len(done) == count:
            break
        wild = step < random_steps
        now += data.draw(st.floats(0, 2)) if wild else 40.0
        if not unborn and not under_way:
            one.begin_last_pass(now)
        due = one.due(now)
        if due is not None:
            assert due not in [piece.work for piece in under_way]
            begin(due)
        elif unborn and one.has_room:
            new = unborn.pop()
            one.add(new)
            if one.may_begin(new, now):
                begin(new)
            else:
                one.wait(new, now)
        if under_way and (not wild or data.draw(st.booleans())):
            piece = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)) if wild else 0)
            one.end(piece)
            ended = piece.work
            error = data.draw(st.sampled_from([None, LOST, REFUSED])) if wild else None
            follows = pace.after(ended.origin, Outcome(fetched=error is None, error=error), Budget(limit=99), now)
            if follows is None:
                one.remove(ended.entry.name)
                done.add(ended.entry.name)
            elif wild and ended.first_error is None and data.draw(st.integers(0, 3)) == 0:
                one.put_last(ended, error or LOST)
            else:
                one.wait(ended, cast(Any, follows).at)
    assert len(done) == count
    assert one.empty


def test_a_waiting_work_is_due_at_its_time_and_not_before() -> None:
    one, first, second = schedule(), work("1"), work("2")
    for waiting, due in ((first, 20.0), (second, 10.0)):
        one.add(waiting)
        one.wait(waiting, due)
    assert one.next_time(0.0) == 10.0
    assert one.due(9.9) is None
    assert one.due(15.0) is second
    assert one.due(15.0) is None
    assert one.next_time(15.0) == 20.0
    assert one.due(20.0) is first


def test_a_shut_origin_does_not_keep_another_waiting() -> None:
    pace = Pace(Options(), jitter=lambda: 1.0)
    one = schedule(pace)
    shut, free = work("1", HOSTS[0]), work("2", HOSTS[1])
    for waiting in (shut, free):
        one.add(waiting)
        one.wait(waiting, 0.0)
    pace.after(shut.origin, Outcome(error=REFUSED), Budget(), 0.0)
    assert one.due(0.5) is free
    assert one.due(0.5) is None
    assert one.blocked(0.5) == {shut.origin}
    assert one.next_time(0.5) == 1.0
    assert one.due(1.0) is shut


def test_too_many_waiting_entries_of_one_origin_block_new_ones_of_it() -> None:
    one = schedule(total=1000, per_slot=1000)
    for number in range(WAITING_PER_ORIGIN):
        assert one.blocked(0.0) == set()
        waiting = work(str(number))
        one.add(waiting)
        one.wait(waiting, 100.0)
    assert one.blocked(0.0) == {work("x").origin}


def test_a_full_slot_blocks_all_origins_of_it() -> None:
    """Two ports of one host are two origins and one slot."""
    one = schedule(per_slot=1)
    first = work("1", "a.example:1")
    one.add(first)
    piece = one.begin(first)
    assert first.origin in one.blocked(0.0)
    assert not one.may_begin(work("2", "a.example:2"), 0.0)
    assert one.may_begin(work("3", "b.example"), 0.0)
    one.end(piece)
    assert one.blocked(0.0) == set()


def test_the_last_pass_begins_when_all_others_are_through_and_from_the_list_s_url() -> None:
    one, failed, other = schedule(), work("1"), work("2")
    failed.mirrors = []
    failed.url = "https://mirror.example/1"
    for begun in (failed, other):
        one.add(begun)
    one.put_last(failed, LOST)
    one.begin_last_pass(5.0)
    assert one.due(5.0) is None, "another one is still under way"
    assert not one.empty
    one.remove("2")
    one.begin_last_pass(6.0)
    assert one.due(6.0) is failed
    assert failed.url == failed.entry.url
    assert failed.first_error is LOST
    one.remove("1")
    assert one.empty


def test_those_who_wait_for_room_let_others_pass_and_are_stuck_when_nothing_else_is_left() -> None:
    room = {"big": False}
    one = schedule(fits=lambda download: room[download.name])
    big, small = work("big"), work("small")
    big.needs_space, big.download = True, cast(Any, Fetched("big"))
    for waiting in (big, small):
        one.add(waiting)
        one.wait(waiting, 0.0)
    assert not one.stuck
    assert one.due(1.0) is small
    piece = one.begin(small)
    assert not one.stuck, "what is under way may end and make room"
    one.end(piece)
    one.remove("small")
    assert one.due(1.0) is None
    assert one.stuck
    room["big"] = True
    assert not one.stuck
    assert one.due(1.0) is big


def test_an_outage_that_outlasts_our_patience_takes_out_all_that_wait_for_it() -> None:
    pace = Pace(Options(origin_patience=10.0), jitter=lambda: 0.0)
    one = schedule(pace)
    lost, fine = [work(str(n)) for n in range(5)], work("fine", HOSTS[1])
    for waiting in (*lost, fine):
        one.add(waiting)
        one.wait(waiting, 0.0)
    pace.after(lost[0].origin, Outcome(error=REFUSED), Budget(), 0.0)
    assert list(one.outlasted(9.9)) == []
    taken = list(one.outlasted(10.0))
    assert {w.entry.name for w, _ in taken} == {w.entry.name for w in lost}
    assert {error.code for _, error in taken} == {"origin_down"}
    assert one.due(10.0) is fine


def test_entries_of_an_origin_that_was_given_up_do_not_wait_for_a_probe_each() -> None:
    pace = Pace(Options(origin_patience=10.0, retry_delay=100.0), jitter=lambda: 1.0)
    one = schedule(pace)
    pace.after(work("1").origin, Outcome(error=REFUSED), Budget(), 0.0)
    assert one.blocked(9.9) == {work("1").origin}
    assert one.blocked(10.0) == set()
    late = work("2")
    one.add(late)
    assert not one.may_begin(late, 10.0)
    one.wait(late, 10.0)
    assert [w for w, _ in one.outlasted(10.0)] == [late]


@pytest.mark.parametrize("ending", ["interrupt", "abandon"])
def test_at_a_stop_everything_that_was_begun_is_accounted_for(ending: str) -> None:
    one = schedule()
    under_way, waiting, last = work("1"), work("2"), work("3")
    for begun in (under_way, waiting, last):
        one.add(begun)
    one.begin(under_way)
    one.wait(waiting, 100.0)
    one.put_last(last, LOST)
    expected = [waiting, last] if ending == "interrupt" else [waiting, last, under_way]
    assert getattr(one, ending)() == expected
    assert one.due(1000.0) is None


def test_what_is_fetched_but_not_finished_does_not_pile_up() -> None:
    one = schedule(total=2, per_slot=99)
    added = 0
    while one.has_room:
        fetched = work(str(added))
        one.add(fetched)
        one.end(one.begin(fetched))  # its bytes are here, its finish is not
        added += 1
        assert added < 100
    one.remove("0")
    assert one.has_room


GIB = 1 << 30


def one_under_way(segments: int = 0) -> tuple[Schedule, Span]:
    """A file of 10 GiB, the only one, whose answer has begun at second 100, and seven free slots."""
    one = schedule(total=8, per_slot=8, segments=segments)
    fetched = work("huge")
    fetched.download = cast(Any, Fetched("huge", rest=10 * GIB, total=10 * GIB))
    one.add(fetched)
    span = one.begin(fetched).span
    assert span is not None
    span.first, span.end, span.reach, span.flowing, span.began = 0, 10 * GIB, 10 * GIB, True, 100.0
    return one, span


def brought(one: Schedule, span: Span, at: int) -> None:
    download = one["huge"].download
    assert download is not None
    download.part.state.have.add(0, at)
    span.at = at


def test_a_fast_connection_is_left_alone_unless_the_user_wants_more() -> None:
    for segments in (0, 4):
        one, span = one_under_way(segments)
        now = 100.0
        while now < 101.0:
            brought(one, span, round((now - 100.0) * GIB))
            found = one.further(now)
            assert (found is None) == (segments == 0)
            look = one.next_time(now)
            if segments:
                assert look is None
                break
            assert look is not None
            assert look > now
            now = look


def test_a_connection_that_is_slow_from_its_beginning_is_helped_as_soon_as_that_is_seen() -> None:
    one, span = one_under_way()
    brought(one, span, 100_000)
    assert one.further(100.0) is None
    now = one.next_time(100.0)
    assert now is not None
    while found := one.further(now):
        one.begin(*found)
    assert len(one.flying) == 8


def test_a_second_connection_that_brings_nothing_more_stays_the_last() -> None:
    """Ten seconds are left, so a cut would be worth it; but the two are no faster than the one was."""
    one, span = one_under_way()
    span.speed = float(GIB)
    found = one.further(101.0)
    assert found is not None
    second = one.begin(*found).span
    assert second is not None
    assert one.further(101.0) is None, "what the second one brings is not known yet"
    second.flowing, second.speed, second.reach, second.first = True, GIB / 2, second.end, second.at
    span.speed = GIB / 2
    assert one.further(105.0) is None
    span.speed = second.speed = 0.6 * GIB
    assert one.further(105.1) is None, "that was seen a moment ago"
    assert one.further(200.0) is not None, "and is looked at again after a while"
