"""The table of intended differences: what it lets pass, and that it cannot go stale."""

from __future__ import annotations

import pytest

from gate import differences
from gate.differences import Intended, passes
from support.versions import Ended

ENDED = Ended(0, "", [])
LINE = "B23-page error code: html -> not_the_file"


def test_a_difference_passes_only_where_it_is_intended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differences, "INTENDED", ())
    passes("ends-3", [], ENDED)
    with pytest.raises(AssertionError, match="html -> not_the_file"):
        passes("ends-3", [LINE], ENDED)
    monkeypatch.setattr(differences, "INTENDED", (Intended("ends-3", LINE, "a code of its own"),))
    passes("ends-3", [LINE], ENDED)
    with pytest.raises(AssertionError, match="html -> not_the_file"):
        passes("ends-4", [LINE], ENDED)
    with pytest.raises(AssertionError, match="no longer true"):
        passes("ends-3", [], ENDED)


def test_one_line_may_stand_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differences, "INTENDED", (Intended("*", "* error code: html -> *", "a code of its own"),))
    passes("ends-3", [LINE], ENDED)
    passes("busy", [], ENDED)
