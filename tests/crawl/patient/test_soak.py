"""A server that resets, stalls, is busy and is restarted, for twenty seconds; for ten minutes with `--long`."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.soak import Soak


@pytest.mark.timeout(3000)
def test_a_server_that_resets_stalls_is_busy_and_is_restarted_costs_no_file(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    long = pytestconfig.getoption("--long")
    soak = Soak(tmp_path, 600 if long else 20, every=60 if long else 2)
    soak.run()
    assert soak.restarts > 0
    soak.assert_no_growth()
