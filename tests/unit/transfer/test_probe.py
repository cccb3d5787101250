"""What an answer to `Range: bytes=0-0` says of the whole file; pure."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from bulkspider.entries.entry import Entry
from bulkspider.protocol.plan import Answer, Expected, PartState, judge
from bulkspider.transfer.probe import ProbeResult, understand

ENTRY = Entry(2, "a.bin", "http://example.org/a.bin")


def result(entry: Entry, answer: Answer) -> ProbeResult:
    expected = Expected(name=entry.name, url_path=urlsplit(entry.url).path, size=entry.size, has_digest=False)
    return understand(answer, lambda asked: judge(PartState(), asked, answer, expected))


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
        (206, {"content-range": "bytes 0-0/1000", "content-type": "text/html"}, 1, None, False, "html"),
        (416, {"content-range": "bytes */0"}, 0, 0, None, None),  # an empty file says nothing of ranges
        (200, {}, 0, 0, None, None),
        (416, {"content-range": "bytes */1000"}, 0, 1000, False, None),
        (416, {}, 0, None, False, None),
        (404, {}, 0, None, False, "http_404"),
        (503, {}, 0, None, False, "http_503"),
        (302, {}, 0, None, False, "redirect"),
    ],
)
def test_an_answer(
    status: int, fields: dict[str, str], length: int | None, size: int | None, ranges: bool | None, code: str | None
) -> None:
    found = result(ENTRY, Answer.parse(status, fields, length=length))
    assert (found.size, found.ranges) == (size, ranges)
    assert (found.error.code if found.error is not None else None) == code


def test_a_file_of_another_size_than_the_list_says() -> None:
    entry = Entry(2, "a.bin", "http://example.org/a.bin", size=7)
    for status, fields in ((206, {"content-range": "bytes 0-0/1000"}), (200, {})):
        found = result(entry, Answer.parse(status, fields, length=1000))
        assert found.error is not None
        assert found.error.code == "size_mismatch"
