"""What an answer to `Range: bytes=0-0` says of a file, and what follows for the run; pure."""

from __future__ import annotations

import pytest

from bulkspider.entry import Entry
from bulkspider.errors import AttemptError
from bulkspider.plan import Answer
from bulkspider.survey import Found, Survey, understand

ENTRY = Entry(2, "a.bin", "http://example.org/a.bin")


@pytest.mark.parametrize(
    ("status", "fields", "length", "size", "ranges", "code"),
    [
        (206, {"content-range": "bytes 0-0/1000"}, 1, 1000, True, None),
        (206, {"content-range": "bytes 0-0/*"}, 1, None, True, None),
        (206, {"content-range": "bytes 5-9/1000"}, 5, None, False, None),  # a run asks for everything then
        (206, {}, 1, None, False, None),
        (200, {}, 1000, 1000, False, None),
        (200, {}, None, None, False, None),
        (200, {"content-range": "bytes 0-0/1000"}, 1, 1000, True, None),
        (200, {"content-encoding": "gzip"}, 1000, None, False, None),
        (200, {"content-type": "text/html"}, 1000, None, False, "html"),
        (416, {"content-range": "bytes */0"}, 0, 0, True, None),
        (416, {"content-range": "bytes */1000"}, 0, 1000, False, None),
        (416, {}, 0, None, False, None),
        (404, {}, 0, None, False, "http_404"),
        (503, {}, 0, None, False, "http_503"),
        (302, {}, 0, None, False, "redirect"),
    ],
)
def test_an_answer(
    status: int, fields: dict[str, str], length: int | None, size: int | None, ranges: bool, code: str | None
) -> None:
    found = understand(ENTRY, ENTRY.url, Answer.parse(status, fields, length=length))
    assert (found.size, found.ranges) == (size, ranges)
    assert (found.error.code if found.error is not None else None) == code


def test_a_file_of_another_size_than_the_list_says() -> None:
    entry = Entry(2, "a.bin", "http://example.org/a.bin", size=7)
    for status, fields in ((206, {"content-range": "bytes 0-0/1000"}), (200, {})):
        found = understand(entry, entry.url, Answer.parse(status, fields, length=1000))
        assert found.error is not None
        assert found.error.code == "size_mismatch"


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
    survey.has_answered(ENTRY, Found(1200, ranges=True), held=200, foreign=False)
    if permanent is not None:
        survey.has_failed(ENTRY, AttemptError("why", code="x", permanent=permanent))
    if obstacle:
        survey.obstacles.append(obstacle)
    assert survey.exit_status == exit_status
    assert "1000 B; 200 B more are on disk already" in "\n".join(survey.lines())
