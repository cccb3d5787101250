"""What a dry run has found out, and what follows for the run; pure."""

from __future__ import annotations

import pytest

from bulkspider.commands.survey import Survey
from bulkspider.entries.entry import Entry
from bulkspider.errors import AttemptError

ENTRY = Entry(2, "a.bin", "http://example.org/a.bin")


@pytest.mark.parametrize(
    ("permanent", "free", "obstacle", "left", "exit_status"),
    [
        (None, 1000, None, 0, 0),
        (None, 999, None, 0, 3),
        (None, None, None, 0, 0),
        (True, 1000, None, 0, 4),
        (False, 1000, None, 0, 3),
        (True, 999, None, 0, 3),
        (None, 1000, None, 1, 3),
        (False, 1000, "no folder", 0, 1),
    ],
)
def test_the_status_of_a_run(
    permanent: bool | None, free: int | None, obstacle: str | None, left: int, exit_status: int
) -> None:
    survey = Survey("list", "/out", 1 + (permanent is not None) + left, free=free)
    survey.has_answered(ENTRY, "example.org:80", 1200, True, held=200, foreign=False)
    if permanent is not None:
        survey.has_failed(ENTRY, AttemptError("why", code="http_404" if permanent else "lost"))
    if obstacle:
        survey.obstacles.append(obstacle)
    assert survey.exit_status == exit_status
    assert "1000 B; 200 B more are on disk already" in "\n".join(survey.lines())
