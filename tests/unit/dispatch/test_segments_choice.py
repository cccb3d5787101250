"""Which file gets a further connection: by what is seen of those under way. No time passes here."""

from __future__ import annotations

import pytest

from bulkspider.dispatch.places import Limits, Places
from bulkspider.dispatch.segments import VAIN_CONNECTIONS_MAX, Segments
from bulkspider.errors import AttemptError
from bulkspider.options import Options
from bulkspider.protocol.byteranges import ByteRange
from bulkspider.run.download import Attempt
from bulkspider.run.origins.origins import Origins
from support.simulated import SimulatedClock, download, run_attempt

GIB = 1 << 30
LOST = AttemptError("lost", code="lost")


class World:
    """A file of 10 GiB, the only one, whose answer has begun at second 100, and seven free places."""

    def __init__(self, most: int = 0) -> None:
        self.origins = Origins(Options(), jitter=lambda: 1.0)
        self.origins["a.example:443"].heard(200, 0.0)
        self.places = Places(self.origins, SimulatedClock(), Limits(8, 8))
        self.segments = Segments(self.places, self.origins, most=most)
        self.file = download("huge", total=10 * GIB, remaining=10 * GIB)
        self.file.ranges = True
        self.running: list[Attempt] = []
        self.first = self.begin(None)
        self.first.end = self.first.reach = 10 * GIB
        self.first.first, self.first.flowing, self.first.began = 0, True, 100.0

    def begin(self, byterange: ByteRange | None) -> ByteRange:
        place = self.places.take("a.example", self.origins["a.example:443"], further=byterange is not None)
        self.running.append(run_attempt(self.file, place, byterange))
        return self.running[-1].range

    def brought(self, at: int) -> None:
        self.file.part.state.have.add(0, at)
        self.first.at = at

    def further(self, now: float) -> ByteRange | None:
        found = self.segments.find(self.running, now)
        return found.range if found is not None else None


@pytest.mark.parametrize("most", [0, 4])
def test_a_fast_connection_is_left_alone_unless_the_user_wants_more(most: int) -> None:
    world, now = World(most), 100.0
    while now < 101.0:
        world.brought(round((now - 100.0) * GIB))
        assert (world.further(now) is None) == (most == 0)
        look = world.segments.next_look(world.running, now)
        if most:
            assert look is None
            break
        assert look is not None
        assert look > now
        now = look


def test_a_connection_that_is_slow_from_its_beginning_is_helped_as_soon_as_that_is_seen() -> None:
    world = World()
    world.brought(100_000)
    assert world.further(100.0) is None
    now = world.segments.next_look(world.running, 100.0)
    assert now is not None
    while found := world.further(now):
        world.begin(found)
    assert len(world.running) == 8


def test_a_second_connection_that_brings_nothing_more_stays_the_last() -> None:
    """Ten seconds are left, so a cut would be worth it; but the two are no faster than the one was."""
    world = World()
    world.first.speed = float(GIB)
    found = world.further(101.0)
    assert found is not None
    second = world.begin(found)
    assert world.further(101.0) is None, "what the second one brings is not known yet"
    second.flowing, second.speed, second.reach, second.first = True, GIB / 2, second.end, second.at
    world.first.speed = GIB / 2
    assert world.further(105.0) is None
    world.first.speed = second.speed = 0.6 * GIB
    assert world.further(105.1) is None, "that was seen a moment ago"
    assert world.further(200.0) is not None, "and is looked at again after a while"


def test_a_hole_that_nobody_fills_comes_before_any_cut() -> None:
    world = World()
    world.first.end = 4 * GIB
    found = world.further(100.0)
    assert found is not None
    assert (found.at, found.end) == (4 * GIB, 10 * GIB)


def test_further_connections_that_bring_nothing_end_and_are_remembered_at_the_origin() -> None:
    world = World(4)
    for number in range(VAIN_CONNECTIONS_MAX):
        world.begin(ByteRange(5 * GIB, 10 * GIB))
        attempt = world.running[-1]
        assert not world.file.undivided
        world.segments.ended(attempt, LOST, grew=False, now=100.0 + number)
    assert world.file.undivided
    assert world.origins["a.example:443"].crowd.most_connections == 2
    assert world.further(200.0) is None
