"""aria2's input files line by line: what comes out is as many lines of JSON, whatever goes in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkspider.entries.entry import EntryError, parse_json
from bulkspider.lists.formats.aria2 import Aria2Form
from bulkspider.lists.formats.row import Row

URL = "http://example.org/a.bin"


def read(text: str, root: str | None = "/out") -> tuple[list[Row], list[tuple[int, str]], list[str]]:
    """The rows, the bad lines and the warnings."""
    bad: list[tuple[int, str]] = []

    def note(line: int, error: EntryError) -> None:
        bad.append((line, str(error)))

    form = Aria2Form(note, root, "list")
    blocks = [text[start : start + 7].encode() for start in range(0, len(text), 7)]
    return list(form.rows(blocks)), bad, form.warnings


@pytest.mark.parametrize(
    ("options", "row"),
    [
        ([], {"url": URL}),
        (["out=x.bin"], {"url": URL, "name": "x.bin"}),
        (["dir=sub"], {"url": URL, "name": "sub/a.bin"}),
        (["dir=./sub/", "out=x/y.bin"], {"url": URL, "name": "sub/x/y.bin"}),
        (["dir=/out"], {"url": URL}),
        (["dir=/out/sub"], {"url": URL, "name": "sub/a.bin"}),
        (["checksum=sha-1=" + "0" * 40], {"url": URL, "sha1": "0" * 40}),
        (["checksum=md5=" + "0" * 32], {"url": URL, "md5": "0" * 32}),
        (["header=A: b", "header=C:d"], {"url": URL, "headers": {"A": "b", "C": "d"}}),
        (["http-user=me", "http-passwd=a/b@c"], {"url": "http://me:a%2Fb%40c@example.org/a.bin"}),
        (["split=16"], {"url": URL, "segments": 16}),
        (["split=16", "max-connection-per-server=4"], {"url": URL, "segments": 4}),
        (["split=500"], {"url": URL, "segments": 64}),
        (["--continue=true", "gid=1", "max-tries=0"], {"url": URL}),
    ],
    ids=" ".join,
)
def test_options_that_mean_something(options: list[str], row: dict[str, object]) -> None:
    rows, bad, _ = read("\n".join([URL, *(f"  {option}" for option in options)]))
    assert bad == []
    (only,) = rows
    assert json.loads(only.encoded()) == {"line": 1, **row}


@given(st.lists(st.one_of(st.text("ab=:/\t .#-", max_size=12), st.sampled_from([URL, " out=x", "#", ""])), max_size=12))
def test_every_row_tells_its_line(lines: list[str]) -> None:
    """So line numbers in messages are those of the file; and nothing makes it raise."""
    rows, bad, _ = read("\n".join(lines), root=None)
    for row in rows:
        assert "://" in lines[row.line - 1]
        try:
            assert parse_json(row.encoded().decode(), 1, numbered=True).line == row.line
        except EntryError:
            continue
    assert [row.line for row in rows] == sorted({row.line for row in rows})
    assert all(1 <= line <= len(lines) for line, _ in bad)
