"""The short form of `soak.py`, in every run of the tests."""

from __future__ import annotations

from pathlib import Path

from soak import Soak


def test_a_server_that_resets_stalls_is_busy_and_is_restarted_costs_no_file(tmp_path: Path) -> None:
    soak = Soak(tmp_path, 20, every=2)
    soak.run()
    assert soak.restarts > 0
    soak.assert_no_growth()
