"""Slots: limits are never passed, nobody is forgotten, whatever the order of events. No time passes here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from bulkspider.dispatch.places import Limits, Places
from bulkspider.dispatch.slots import WAITING_PER_ORIGIN_MAX, Slots
from bulkspider.entries.entry import origin_of, slot_of
from bulkspider.errors import AttemptError, BulkError, Stopped
from bulkspider.hosts.budget import Budget
from bulkspider.options import Options
from bulkspider.run.download import Download
from bulkspider.run.origins.origin import Place
from bulkspider.run.origins.origins import Origins
from bulkspider.run.origins.outcome import Outcome
from bulkspider.run.stopping import Stopping
from bulkspider.small.sharing import SMALL_FILES_FIRST, SmallFiles
from support.simulated import SimulatedClock, download

REFUSED = AttemptError("refused", code="refused", origin_wide=True)
HOSTS = ("a.example", "b.example", "c.example:8443")


class World:
    """Slots with their clock and origins, and who waits for a place."""

    def __init__(
        self,
        *,
        total: int = 4,
        per_slot: int = 2,
        limits: dict[str, int] | None = None,
        named: Collection[str] = (),
        fits: Callable[[Download, float], bool] = lambda download, now: True,
        small: SmallFiles | None = None,
        **options: Any,
    ) -> None:
        self.clock = SimulatedClock()
        self.origins = Origins(Options(**options), jitter=lambda: 1.0)
        self.stopping = Stopping()
        places = Places(self.origins, self.clock, Limits(total, per_slot, limits or {}, frozenset(named)))
        self.slots = Slots(places, self.stopping, fits=fits, small=small)
        for host in HOSTS:
            self.origins[origin_of(f"https://{host}/")].heard(200, -1000.0)
        self.places: dict[Download, Place] = {}
        self.errors: dict[Download, BulkError] = {}

    def enter(self, one: Download, not_before: float = 0.0) -> None:
        waiting: Deferred[Place] = self.slots.enter(one, slot_of(one.url), not_before)
        waiting.addCallbacks(
            lambda place: self.places.__setitem__(one, place),
            lambda failure: self.errors.__setitem__(one, failure.value),
        )

    def leave(self, one: Download) -> None:
        self.slots.leave(self.places.pop(one))

    @property
    def inside(self) -> set[str]:
        return {one.entry.name for one in self.places}


@settings(deadline=None)
@given(data=st.data(), total=st.integers(0, 6), per_slot=st.integers(0, 4), special=st.integers(1, 3))
def test_limits_are_never_passed_and_everybody_gets_a_place(
    data: st.DataObject, total: int, per_slot: int, special: int
) -> None:
    world = World(total=total, per_slot=per_slot, limits={"b.example": special}, retry_delay=0.5, origin_patience=1e9)
    limits = {"a.example": per_slot or 99, "b.example": special, "c.example": per_slot or 99}
    count = data.draw(st.integers(1, 20))
    unborn = [download(f"{n}", data.draw(st.sampled_from(HOSTS))) for n in range(count)]
    for one in unborn:
        world.origins[origin_of(one.url)].served()  # so that an outage is waited for
    done: set[Download] = set()
    random_steps = data.draw(st.integers(0, 60))
    for step in range(random_steps + 400):
        if len(done) == count:
            break
        wild = step < random_steps
        world.clock.advance(data.draw(st.floats(0, 2)) if wild else 40.0)
        if unborn:
            world.enter(unborn.pop())
        assert len(world.places) <= (total or 99)
        for slot, used in Counter(place.slot for place in world.places.values()).items():
            assert used <= limits[slot]
        if world.places and (not wild or data.draw(st.booleans())):
            one = data.draw(st.sampled_from(sorted(world.places, key=lambda each: each.entry.name)))
            error = REFUSED if wild and data.draw(st.booleans()) else None
            origin = world.places[one].origin
            origin.after(Outcome(fetched=error is None, error=error), Budget(limit=99), world.clock.now())
            world.leave(one)
            if error is None:
                done.add(one)
            else:
                world.enter(one, origin.outage.closed_until)
    assert len(done) == count
    assert world.slots.waiters == 0
    assert sum(origin.connections for origin in world.origins) == 0


def test_nobody_gets_a_place_before_its_time() -> None:
    world = World()
    late, early = download("late"), download("early")
    world.enter(late, 20.0)
    world.enter(early, 10.0)
    assert world.inside == set()
    world.clock.advance(10.0)
    assert world.inside == {"early"}
    world.clock.advance(10.0)
    assert world.inside == {"early", "late"}


def test_a_closed_origin_does_not_keep_another_waiting() -> None:
    world = World()
    shut, free = download("shut", HOSTS[0]), download("free", HOSTS[1])
    world.origins["a.example:443"].after(Outcome(error=REFUSED), Budget(), 0.0)
    world.enter(shut)
    world.enter(free)
    assert world.inside == {"free"}
    assert world.slots.blocked(0.5) == {"a.example:443"}
    world.clock.advance(1.0)
    assert world.inside == {"free", "shut"}


def test_of_one_origin_those_nearest_to_their_end_come_first() -> None:
    world = World(total=1)
    first = download("first")
    world.enter(first)
    others = [download("unknown"), download("far", total=9, remaining=9), download("near", total=9, remaining=1)]
    for other in others:
        world.enter(other)
    seen = []
    while world.places:
        (one,) = world.places
        seen.append(one.entry.name)
        world.leave(one)
    assert seen == ["first", "near", "far", "unknown"]


def test_too_many_waiting_entries_of_one_origin_block_new_ones_of_it() -> None:
    world = World(total=1000, per_slot=1000)
    for number in range(WAITING_PER_ORIGIN_MAX):
        assert world.slots.blocked(0.0) == set()
        world.enter(download(str(number)), 100.0)
    assert world.slots.blocked(0.0) == {"a.example:443"}


def test_a_full_slot_blocks_all_origins_of_it() -> None:
    """Two ports of one host are two origins and one slot."""
    world = World(per_slot=1)
    first, second = download("1", "a.example:1"), download("2", "a.example:2")
    world.enter(first)
    assert world.slots.blocked(0.0) == {"a.example:1"}
    world.enter(second)
    world.enter(download("3", "b.example"))
    assert world.inside == {"1", "3"}
    world.leave(first)
    assert world.inside == {"2", "3"}


def test_those_who_wait_for_room_let_others_pass() -> None:
    room = {"big": False, "small": True}
    world = World(fits=lambda one, now: room[one.entry.name])
    big, small = download("big"), download("small")
    big.needs_room = True
    world.enter(big)
    assert world.slots.none_fits(0.0)
    world.enter(small)
    assert world.inside == {"small"}
    room["big"] = True
    assert not world.slots.none_fits(0.0)
    world.clock.advance(1.0)
    assert world.inside == {"big", "small"}


def test_an_outage_that_outlasts_our_patience_sends_away_all_that_wait_for_it() -> None:
    world = World(origin_patience=10.0, retry_delay=100.0)
    world.origins["a.example:443"].after(Outcome(error=REFUSED), Budget(), 0.0)
    lost, fine = [download(str(n)) for n in range(5)], download("fine", HOSTS[1])
    for one in (*lost, fine):
        world.enter(one)
    for _ in range(9):
        world.clock.advance(1.0)
    assert world.errors == {}
    assert world.slots.blocked(world.clock.now()) == {"a.example:443"}
    world.clock.advance(1.0)
    assert {one.entry.name for one in world.errors} == {one.entry.name for one in lost}
    assert {error.code for error in world.errors.values()} == {"origin_down"}
    assert world.slots.blocked(world.clock.now()) == set(), "its entries end at once, without a probe each"
    late = download("late")
    world.enter(late)
    assert world.errors[late].code == "origin_down"


@pytest.mark.parametrize("reason", [Stopped(), BulkError("the disk is full", code="disk_full")])
def test_a_stop_sends_everybody_away(reason: BulkError) -> None:
    world = World()
    waiting = download("1")
    world.enter(waiting, 100.0)
    world.stopping.stop(reason)
    error = world.errors[waiting]
    assert isinstance(error, Stopped)
    assert error.reason is reason


def test_who_is_withdrawn_has_its_own_error_and_no_other_is_touched() -> None:
    world = World()
    one, other, inside = download("1"), download("2"), download("3")
    world.enter(inside)
    world.enter(one, 100.0)
    world.enter(other, 100.0)
    error = BulkError("somebody else has it", code="lease_lost")
    assert world.slots.withdraw(one, error)
    assert world.errors == {one: error}
    assert not world.slots.withdraw(inside, error)


def test_small_files_that_enter_together_share_places_and_leave_them_together() -> None:
    world = World(total=2, small=SmallFiles(3, left=lambda: 100))
    world.origins["a.example:443"].small_in_a_row = SMALL_FILES_FIRST
    with world.slots.gather():
        for number in range(6):
            world.enter(download(f"{number}"))
        assert world.inside == set()
        assert world.slots.gathered == 6
        assert world.slots.blocked(0.0) == {"a.example:443"}, "its free places have enough to do"
    assert world.slots.gathered == 0
    assert len(world.inside) == 6
    assert len({*world.places.values()}) == 2, "three share a place"
    assert {place.holders for place in world.places.values()} == {3}
    world.enter(download("next"))
    first = next(iter(world.places.values()))
    together = [one for one, place in world.places.items() if place is first]
    for one in together[:-1]:
        world.leave(one)
        assert "next" not in world.inside
    world.leave(together[-1])
    assert "next" in world.inside


def test_what_is_no_small_file_shares_no_place() -> None:
    world = World(total=4, per_slot=4, small=SmallFiles(32, left=lambda: 100))
    world.origins["a.example:443"].small_in_a_row = SMALL_FILES_FIRST
    alone, other, third = download("alone"), download("other"), download("third")
    alone.alone = True
    with world.slots.gather():
        for one in (other, alone, third, download("elsewhere", HOSTS[1])):
            world.enter(one)
        assert world.inside == {"elsewhere"}, "where none share places nobody waits for the others"
    assert world.places[other] is world.places[third]
    assert not world.places[alone].shared


def test_a_known_host_gets_no_more_requests_than_it_asks_for(tmp_path: Path) -> None:
    table = tmp_path / "hosts.toml"
    table.write_text('["a.example"]\nconnections = 1\n["b.example"]\nrequests_per_minute = 60\n')
    world = World(total=8, per_slot=4, hosts=str(table))
    several = [download(f"a{n}") for n in range(3)]
    spread = [download(f"b{n}", "b.example") for n in range(3)]
    for one in (*several, *spread):
        world.enter(one)
    assert world.inside == {"a0", "b0"}
    for seconds in (1, 2):
        world.clock.advance(1.0)
        assert world.inside == {"a0", *(f"b{n}" for n in range(seconds + 1))}
    world.leave(several[0])
    assert world.inside == {"a1", "b0", "b1", "b2"}


def test_what_the_user_says_of_a_slot_stands_over_what_its_host_asks_for(tmp_path: Path) -> None:
    table = tmp_path / "hosts.toml"
    table.write_text('["a.example"]\nconnections = 1\nrequests_per_minute = 1\n')
    world = World(total=8, per_slot=4, hosts=str(table), limits={"a.example": 3}, named=["a.example"])
    for number in range(4):
        world.enter(download(f"{number}"))
    assert len(world.inside) == 3
