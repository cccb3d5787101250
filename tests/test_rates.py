"""Token buckets: whatever is read in whatever order, the limit holds but for one read per transfer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkspider.rates import LIMITED_READ, SAVED_SECONDS, ControlFile, Rates

STEPS = st.lists(st.tuples(st.floats(0, 3), st.integers(0, 3), st.integers(1, LIMITED_READ)), min_size=1, max_size=150)


@given(limit=st.integers(1000, 50_000_000), steps=STEPS)
def test_never_more_than_the_rate_and_one_read_for_each_transfer(
    limit: int, steps: list[tuple[float, int, int]]
) -> None:
    rates, now, spent, transfers = Rates(limit, None, 0.0), 0.0, 0, set()
    for wait, transfer, count in steps:
        now += wait
        if rates.allows(f"host{transfer}", now):
            transfers.add(transfer)
            rates.spend(f"host{transfer}", count, now)
            spent += count
    assert spent <= limit * now + limit * SAVED_SECONDS + LIMITED_READ * max(1, len(transfers))


@given(limit=st.integers(1000, 50_000_000), steps=STEPS)
def test_each_host_has_its_own_account(limit: int, steps: list[tuple[float, int, int]]) -> None:
    rates, now = Rates(None, limit, 0.0), 0.0
    spent = dict.fromkeys(range(4), 0)
    for wait, host, count in steps:
        now += wait
        if rates.allows(f"host{host}", now):
            rates.spend(f"host{host}", count, now)
            spent[host] += count
    for total in spent.values():
        assert total <= limit * now + limit * SAVED_SECONDS + LIMITED_READ


@given(limit=st.integers(100_000, 50_000_000), reads=st.lists(st.integers(1, LIMITED_READ), min_size=50, max_size=200))
def test_who_always_wants_more_gets_nearly_all_of_the_rate(limit: int, reads: list[int]) -> None:
    """Looked at every 10 ms; the account never sits idle for longer."""
    rates, now, spent = Rates(limit, None, 0.0), 0.0, 0
    for count in reads:
        while not rates.allows("host", now):
            now += 0.01
        rates.spend("host", count, now)
        spent += count
    assert spent >= limit * (now - 0.02) - limit * 0.01 - LIMITED_READ


def test_a_pause_saves_up_a_moment_and_no_flood() -> None:
    rates = Rates(1_000_000, None, 0.0)
    now, spent = 3600.0, 0
    while rates.allows("host", now):
        rates.spend("host", LIMITED_READ, now)
        spent += LIMITED_READ
    assert spent <= 1_000_000 * SAVED_SECONDS + LIMITED_READ


def test_what_is_promised_to_others_counts() -> None:
    rates = Rates(1_000_000, 500_000, 0.0)
    rates.spend("host", 0, 0.0)
    assert rates.allows("host", 1.0, promised=50_000, promised_host=40_000)
    assert not rates.allows("host", 1.0, promised=100_000)
    assert not rates.allows("host", 1.0, promised_host=50_000)


def test_limits_change_while_running_and_go_away() -> None:
    rates = Rates(1000, None, 0.0)
    assert rates.limited
    rates.spend("host", 100_000, 1.0)
    assert not rates.allows("host", 50.0)
    rates.set(1_000_000, None, 50.0)
    assert rates.allows("host", 50.1), "an old debt does not outlive the limit that it was made under"
    rates.set(None, None, 51.0)
    assert not rates.limited
    rates.spend("host", 10**12, 51.0)
    assert rates.allows("host", 51.0)
    rates.set(None, 1000, 52.0)
    rates.spend("host", 5000, 52.0)
    assert not rates.allows("host", 56.0)
    rates.spend("another", 100, 55.0)
    assert rates.allows("another", 56.0)


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
        ("[]", {}),
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
    if text == "[]":
        control.read()  # neither limits nor a crash
        return
    assert control.read() == limits
    assert control.read() is None, "it has not changed"
    assert (str(path) in caplog.text) == (limits is None)


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
    rates.spend("h", 5000, 0.0)
    assert not rates.allows("h", 0.1)
    assert rates.hold_back("h", 0.5)
    assert not rates.hold_back("other", 0.5)
    assert not rates.hold_back("h", 1.2), "that was long ago"
    rates.allows("h", 1.3)
    rates.set(None, None, 1.4)
    assert not rates.hold_back("h", 1.4), "the limit is gone"
