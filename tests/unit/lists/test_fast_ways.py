"""Formats that make lines of plain rows themselves say the same as without that."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkspider.entries.entry import Entry, EntryError
from bulkspider.lists.formats import table, xml
from bulkspider.lists.formats.choose import FORMATS
from bulkspider.lists.formats.row import Given, as_lines
from bulkspider.lists.reader import Form

NEVER = re.compile(r"(?!)")


def read(format_name: str, text: str, block: int = 1 << 16) -> tuple[list[Entry], list[tuple[int, str]], list[str]]:
    """Entries, what was noted, and warnings."""
    noted: list[tuple[int, str]] = []
    form = FORMATS[format_name].make(Given("x", "x", lambda line, error: noted.append((line, error.what))))
    data = text.encode()
    blocks = (data[place : place + block] for place in range(0, len(data), block))
    lines = [line for some in as_lines(form.rows(blocks)) for line in some]
    numbered = Form(numbered=True)
    entries: list[Entry] = []
    for line in lines:
        try:
            entry = numbered.read(line, 0)
        except EntryError as error:
            noted.append((numbered.line_of(line, 0), error.what))
        else:
            assert entry is not None
            entries.append(entry)
    return sorted(entries, key=lambda entry: entry.line), sorted(noted), list(form.warnings)


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def read_slowly(format_name: str, text: str) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(xml, "_PLAIN_FILE", NEVER)
            patched.setattr(table, "_PLAIN_LINKS", NEVER)
            return read(format_name, text)

    return read_slowly


URLS = st.lists(
    st.tuples(
        st.sampled_from(["", ' location="de"', ' priority="1"', ' location="fr" priority="20"', ' x="y"']),
        st.sampled_from(
            ["https://a.example/a", "http://b.example/b?c=d", "ftp://c.example/c", "https://e.example/&amp;"]
        ),
    ).map(lambda url: f"<url{url[0]}>{url[1]}</url>"),
    min_size=0,
    max_size=3,
).map("\n  ".join)
HASHES = st.sampled_from(
    ["", f'<hash type="sha-256">{"a" * 64}</hash>', '<hash type="md5">0</hash>', f'<hash type="sha1">{"b" * 40}</hash>']
)
ELEMENTS = st.tuples(
    st.sampled_from(["a.nc", "sub/b.nc", "c d.nc", "../e", "ü.nc", "x&amp;y", ""]),
    st.sampled_from(["", "<size>12</size>", "<size>x</size>", "<size> 7 </size>"]),
    HASHES,
    URLS,
    st.sampled_from(["", "<!-- x -->", "<pieces><hash>00</hash></pieces>", "text"]),
).map(lambda file: f'<file name="{file[0]}">\n {file[1]}{file[2]}\n {file[3]}{file[4]}</file>\n')
AROUND = st.sampled_from(["{}", "<!-- {} -->", "<x>{}</x>", "<![CDATA[{}]]>", "<!-- x -->{}", "\n\n{}"])


@given(
    st.lists(st.tuples(AROUND, ELEMENTS).map(lambda both: both[0].format(both[1])), max_size=8), st.integers(20, 3000)
)
def test_metalinks(elements: list[str], block: int) -> None:
    text = f'<?xml version="1.0"?>\n<metalink xmlns="urn:ietf:params:xml:ns:metalink">\n{"".join(elements)}</metalink>'
    taken = read("metalink", text, block)
    plain, xml._PLAIN_FILE = xml._PLAIN_FILE, NEVER  # type: ignore[misc]
    try:
        slowly = read("metalink", text)
    finally:
        xml._PLAIN_FILE = plain  # type: ignore[misc]
    if any("damaged" in what for _, what in slowly[1]):
        # The last element before the damage is only sometimes known to be whole.
        assert taken[1][-1] == slowly[1][-1]
    else:
        assert taken == slowly


def test_a_metalink_that_is_cut_off_in_the_middle() -> None:
    whole = '<metalink xmlns="x">\n' + '<file name="a.nc"><url>https://a.example/a</url></file>\n' * 3
    entries, noted, _ = read("metalink", whole + '<file name="b.nc"><url>https:', 60)
    assert [entry.line for entry in entries] == [2, 3, 4]
    assert [line for line, _ in noted] == [5]


@pytest.mark.parametrize(
    "row",
    [
        "ftp.a.example/v/a_1.gz;ftp.a.example/v/a_2.gz\t{md5};{md5}\t1;2",
        "ftp.a.example/v/a_1.gz;ftp.a.example/v/a_2.gz\t{md5}\t1;2",
        "ftp.a.example/v/a_1.gz;\t{md5};\t1;",
        "ftp.a.example/v/a b.gz\t{md5}\t1",
        "ftp.a.example/v/a.gz\tnothex\t1",
        "ftp.a.example/v/a.gz\t{md5}\tx",
        "ftp.a.example/v/a.gz\t\t1",
        "ftp.a.example/v/a.gz\t{md5}\t",
        "ftp.a.example/v/\t{md5}\t1",
        "http://b.example/v/a.gz\t{md5}\t1",
        "ftp.a.example/v/a.gz\t{md5}",
        '"ftp.a.example/v/a.gz"\t{md5}\t1',
        '"ftp.a.example/v/a\nb.gz"\t{md5}\t1',
        '"ftp.a.example/v/a.gz\t{md5}\t1',
        "\t\t",
    ],
)
def test_reports_of_ena(row: str, slowly: Any) -> None:
    text = (
        "fastq_ftp\tfastq_md5\tfastq_bytes\nftp.a.example/v/first.gz\t{md5}\t5\n"
        + row
        + "\nftp.a.example/z.gz\t{md5}\t9\n"
    )
    text = text.replace("{md5}", "0123456789abcdef" * 2)
    assert read("ena", text) == slowly("ena", text) == read("ena", text.replace("\n", "\r\n"), 7)


@pytest.mark.parametrize("delimiter", ["\t", ",", ";", "|"])
def test_tables_with_and_without_quotes(delimiter: str, tmp_path: Path) -> None:
    rows = [["name", "url", "size"], ["a", "https://a.example/a", "1"], [], ["b", "https://a.example/b", ""]]
    plain = "\n".join(delimiter.join(row) for row in rows)
    quoted = "\n".join(delimiter.join(f'"{cell}"' for cell in row) for row in rows)
    late = plain + f'\n"c"{delimiter}https://a.example/c{delimiter}3'
    assert read("csv", plain) == read("csv", quoted)
    assert read("csv", late, 10)[0][:2] == read("csv", plain)[0]
    assert [entry.line for entry in read("csv", late, 10)[0]] == [2, 4, 5]
