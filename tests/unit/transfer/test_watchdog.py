"""The watchdog: when a body is broken off, by the clock that it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from bulkspider.transfer.body import Watchdog


@dataclass
class Reading:
    """What the watchdog looks at."""

    received_bytes: int = 0
    last_byte: float = 0.0
    waiting_for_us: bool = False


def code(dog: Watchdog, pump: Reading, now: float) -> str | None:
    error = dog.complaint(cast(Any, pump), now)
    return error.code if error is not None else None


@pytest.mark.parametrize(
    ("pump", "expected"),
    [
        (Reading(0, 0.0), "stall"),
        (Reading(5000, 1.0), "slow"),
        (Reading(5000, 9.0), "slow"),
        (Reading(20_000, 9.0), None),
        (Reading(0, 0.0, waiting_for_us=True), None),
    ],
)
def test_after_ten_seconds(pump: Reading, expected: str | None) -> None:
    dog = Watchdog(stall_timeout=10.0, min_speed=1000.0)
    dog.begin(0.0)
    assert code(dog, pump, 9.9) is None
    assert code(dog, pump, 10.0) == expected


def test_time_that_we_take_ourselves_does_not_count() -> None:
    dog = Watchdog(stall_timeout=10.0, min_speed=1000.0)
    dog.begin(0.0)
    assert code(dog, Reading(waiting_for_us=True), 30.0) is None
    assert code(dog, Reading(), 39.9) is None
    assert code(dog, Reading(), 40.0) == "stall"


def test_without_a_timeout_nothing_is_broken_off() -> None:
    dog = Watchdog(stall_timeout=0.0, min_speed=1000.0)
    dog.begin(0.0)
    assert code(dog, Reading(), 1e6) is None


def test_the_speed_is_that_of_the_last_two_seconds() -> None:
    dog = Watchdog(stall_timeout=10.0, min_speed=0.0)
    dog.begin(0.0)
    speeds = [dog.speed(received, quarter / 4) for quarter, received in enumerate([*range(0, 1000, 100), *[900] * 8])]
    assert speeds[3] is None
    assert speeds[4] == speeds[8] == 400.0
    assert speeds[-1] == 0.0
