"""Rate limits: whatever is read in whatever order, the limit holds but for one turn per transfer, and all get the same."""

from __future__ import annotations

import heapq
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkspider.pumps.ratelimit import LIMITED_READ_BYTES, SAVED_SECONDS, ControlFile, Rates, ReadAccount, Throttle
from support.simulated import SimulatedClock

READS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, LIMITED_READ_BYTES)), min_size=50, max_size=200)


class Reading:
    """Readers that want to read all the time, by a clock that jumps from one turn to the next."""

    def __init__(self, limit: int | None, per_host: int | None, hosts: list[str]) -> None:
        self.clock = SimulatedClock()
        self.rates = Rates(limit, per_host, 0.0)
        self.readers = [ReadAccount(self.rates, self.clock, host) for host in hosts]
        self.spent = [0] * len(hosts)
        self.turns = [(0.0, number) for number in range(len(hosts))]

    def read(self, count: int) -> int:
        """Whose turn is next reads so much; who it was."""
        at, number = heapq.heappop(self.turns)
        self.clock.advance(max(0.0, at - self.clock.now()))
        self.spent[number] += count
        heapq.heappush(self.turns, (self.clock.now() + self.readers[number].pay(count), number))
        return number


@given(limit=st.integers(1000, 50_000_000), reads=READS)
def test_the_rate_is_kept_but_for_a_turn_of_each_and_is_used(limit: int, reads: list[tuple[int, int]]) -> None:
    reading = Reading(limit, None, ["a", "a", "b", "c"])
    for _, count in reads:
        reading.read(count)
    now, spent = reading.clock.now(), sum(reading.spent)
    assert spent <= limit * (now + SAVED_SECONDS) + 2 * LIMITED_READ_BYTES * 4
    assert spent >= limit * now - 1, "the account is never idle while somebody wants to read"


@given(limit=st.integers(1000, 50_000_000), reads=READS)
def test_each_host_has_its_own_account(limit: int, reads: list[tuple[int, int]]) -> None:
    reading = Reading(None, limit, ["a", "b", "c"])
    for _, count in reads:
        reading.read(count)
    for spent in reading.spent:
        assert spent <= limit * (reading.clock.now() + SAVED_SECONDS) + 2 * LIMITED_READ_BYTES


@pytest.mark.parametrize("largest", [1000, 20_000, LIMITED_READ_BYTES])
def test_readers_get_the_same_whatever_one_read_brings(largest: int) -> None:
    choice = random.Random(largest)
    # Some read all that they may, others what a record or a segment brings.
    sizes = [LIMITED_READ_BYTES if number % 2 else choice.randint(500, largest) for number in range(64)]
    reading = Reading(5_000_000, None, ["host"] * len(sizes))
    count = LIMITED_READ_BYTES
    while reading.clock.now() < 60:
        _, number = reading.turns[0]
        count = sizes[number]
        reading.read(count)
    spent = sorted(reading.spent)
    assert spent[57] < 2 * spent[6], "p90 and p10"


class Pipe:
    """A transfer of the reactor's thread."""

    def __init__(self, throttle: Throttle) -> None:
        self.reader = throttle.reader("host")
        self.held = False
        self.changes = 0

    def hold(self, held: bool) -> None:
        assert held != self.held
        self.held = held
        self.changes += 1


def test_who_waits_is_left_alone_until_its_turn() -> None:
    clock = SimulatedClock()
    throttle = Throttle(Rates(5_000_000, None, 0.0), clock)
    pipes = [Pipe(throttle) for _ in range(400)]
    for pipe in pipes:
        throttle.spend(pipe, LIMITED_READ_BYTES)
    assert all(pipe.held for pipe in pipes[8:])
    clock.advance(2.0)
    free = [number for number, pipe in enumerate(pipes) if not pipe.held]
    assert free == list(range(len(free))), "in the order in which they came"
    assert abs(len(free) * LIMITED_READ_BYTES - 5_000_000 * 2) <= 2 * LIMITED_READ_BYTES
    assert max(pipe.changes for pipe in pipes) <= 2, "nobody is touched before its turn"
    throttle.set(50_000_000, None)
    assert not any(pipe.held for pipe in pipes), "a limit that has changed lets everybody go on"
    throttle.spend(pipes[0], 20 * LIMITED_READ_BYTES)
    assert pipes[0].held
    throttle.release(pipes[0])
    clock.advance(60)
    assert pipes[0].held, "who has ended is not woken"


def test_a_pause_saves_up_a_moment_and_no_flood() -> None:
    rates, now, spent = Rates(1_000_000, None, 0.0), 3600.0, 0
    while rates.take("host", LIMITED_READ_BYTES, now) <= now:
        spent += LIMITED_READ_BYTES
    assert spent <= 1_000_000 * SAVED_SECONDS + LIMITED_READ_BYTES


def test_limits_change_while_running_and_go_away() -> None:
    clock = SimulatedClock()
    rates = Rates(1000, None, 0.0)
    reader = ReadAccount(rates, clock, "host")
    assert rates.limited
    assert reader.pay(100_000) == pytest.approx(100)
    clock.advance(50)
    assert reader.pay(0) == pytest.approx(50)
    rates.set(1_000_000, None, 50.0)
    assert reader.pay(0) == 0, "an old debt does not outlive the limit that it was made under"
    rates.set(None, None, 51.0)
    assert not rates.limited
    assert reader.pay(10**12) == 0
    rates.set(None, 100_000, 52.0)
    assert reader.pay(500_000) > 0
    assert ReadAccount(rates, clock, "another").pay(LIMITED_READ_BYTES) < 1


# --- control.json -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ('{"rate_limit": "50M"}', {"rate_limit": 50 * 1024**2}),
        ('{"rate_limit": 1000, "rate_limit_per_host": "1.5K"}', {"rate_limit": 1000, "rate_limit_per_host": 1536}),
        ('{"rate_limit": null}', {"rate_limit": None}),
        ('{"rate_limit": 0}', {"rate_limit": None}),
        ("{}", {}),
        ('{"rate_limit": "fast"}', None),
        ('{"rate_limit": -1}', None),
        ('{"rate_limit": true}', None),
        ('{"ratelimit": "50M"}', None),
        ('{"rate_limit": ', None),
        ("[]", None),
        ("null", None),
        ("7", None),
        ("", None),
    ],
)
def test_what_the_control_file_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, limits: dict[str, int | None] | None
) -> None:
    path = tmp_path / "control.json"
    control = ControlFile(path)
    assert control.read() is None, "it need not exist"
    path.write_text(text)
    assert control.read() == limits
    assert control.read() is None, "it has not changed"
    assert (str(path) in caplog.text) == (limits is None)
    assert not any(word in caplog.text for word in ("attribute", "iterable", "char 0")), "Python's own words"


def test_the_control_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "control.json"
    control = ControlFile(path)
    path.write_text(json.dumps({"rate_limit": "1M"}))
    assert control.read() == {"rate_limit": 1024**2}
    path.write_text(json.dumps({"rate_limit": "10M"}))
    assert control.read() == {"rate_limit": 10 * 1024**2}
    path.unlink()
    assert control.read() is None


def test_a_host_is_held_back_while_its_reads_have_to_wait() -> None:
    rates = Rates(1000, None, 0.0)
    assert not rates.hold_back("h", 0.0)
    assert rates.take("h", 500, 0.0) == pytest.approx(0.5)
    assert rates.hold_back("h", 0.3)
    assert rates.hold_back("h", 1.3)
    assert not rates.hold_back("other", 0.5)
    assert not rates.hold_back("h", 1.6), "that was long ago"
    rates.take("h", 1000, 1.6)
    rates.set(None, None, 1.7)
    assert not rates.hold_back("h", 1.7), "the limit is gone"
