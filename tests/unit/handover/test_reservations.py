"""The stage: what is reserved and lies there is never more than allowed while something else could go on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bulkspider.handover.stage import Stage

LIMIT = 100


def test_room_is_reserved_and_freed() -> None:
    stage = Stage(LIMIT, {"old": 30}, lambda name: False)
    assert stage.admits("a", lambda: 60)
    assert not stage.admits("b", lambda: 20)
    assert stage.admits("c", lambda: 10)
    stage.leave("a", 0)
    assert stage.admits("b", lambda: 20)
    assert stage.taken == 60


def test_what_lies_there_is_taken_over_by_its_entry() -> None:
    stage = Stage(LIMIT, {"a": 80}, lambda name: False)
    assert stage.admits("a", lambda: 90)
    assert stage.taken == 90


def test_an_unknown_size_begins_alone_and_lets_others_begin_when_it_is_known() -> None:
    sizes: dict[str, int | None] = {"a": None}
    stage = Stage(LIMIT, {}, lambda name: False)
    assert stage.admits("a", lambda: sizes["a"])
    assert not stage.admits("b", lambda: 1)
    sizes["a"] = 50
    assert stage.admits("b", lambda: 1)
    assert not stage.admits("c", lambda: None)


def test_parts_give_way_only_when_nothing_is_under_way() -> None:
    gone: list[str] = []
    stage = Stage(LIMIT, {"file": 30, "part": 30, "other": 30}, lambda name: name != "file" and not gone.append(name))
    assert stage.admits("a", lambda: 10)
    assert not stage.admits("b", lambda: 60)
    assert gone == []
    stage.leave("a", 0)
    assert stage.admits("b", lambda: 60)
    assert gone == ["part", "other"] or gone == ["part"]
    assert stage.taken <= LIMIT


@given(st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(0, LIMIT)), st.booleans()), max_size=60))
def test_never_more_than_allowed_and_never_stuck(steps: list[tuple[int, int | None, bool]]) -> None:
    stage = Stage(LIMIT, {}, lambda name: True)
    running: dict[str, int | None] = {}
    for number, size, ends in steps:
        name = str(number)
        if ends or name in running:
            running.pop(name, None)
            stage.leave(name, 0)
            continue
        if stage.admits(name, lambda size=size: size):
            running[name] = size
        else:
            assert running
        assert stage.taken <= LIMIT
        assert len(running) == 1 or None not in running.values()
