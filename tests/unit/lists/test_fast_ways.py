"""Formats that make lines of plain rows themselves say the same as without that."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulkspider.entries.entry import Entry, EntryError
from bulkspider.lists.checking.reader import Form
from bulkspider.lists.formats import table
from bulkspider.lists.formats.choose import FORMATS
from bulkspider.lists.formats.row import FormatInput, Row, as_lines
from bulkspider.lists.formats.xmls import shapes
from bulkspider.lists.formats.xmls.metalink import Metalink

NEVER = re.compile(r"(?!)")


def read(format_name: str, text: str, block: int = 1 << 16) -> tuple[list[Entry], list[tuple[int, str]], list[str]]:
    """Entries, what was noted, and warnings."""
    noted: list[tuple[int, str]] = []
    form = FORMATS[format_name].make(FormatInput("x", "x", lambda line, error: noted.append((line, error.what))))
    data = text.encode()
    blocks = (data[place : place + block] for place in range(0, len(data), block))
    numbered = Form(numbered=True)
    lines: list[bytes] = []
    for made in as_lines(form.rows(blocks)):
        lines += made.lines
        if made.rows is not None:
            as_it_reads = list(numbered.rows(b"".join(line + b"\n" for line in made.lines)))
            for known, row in zip(made.rows, as_it_reads, strict=True):
                # It may leave a row to the reader, but knows what it would say of the others.
                assert known[-1] == (row[0] or row[-1]) or (*known[:3], b"%d" % known[3], *known[4:]) == row
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
            patched.setattr(shapes, "TRIALS_MAX", 0)
            patched.setattr(table, "PLAIN_LINKS", NEVER)
            patched.setattr(table, "plain_lines", lambda columns: None)
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


@settings(deadline=None)
@given(
    st.lists(st.tuples(AROUND, ELEMENTS).map(lambda both: both[0].format(both[1])), max_size=8), st.integers(20, 3000)
)
def test_metalinks(elements: list[str], block: int) -> None:
    text = f'<?xml version="1.0"?>\n<metalink xmlns="urn:ietf:params:xml:ns:metalink">\n{"".join(elements)}</metalink>'
    taken = read("metalink", text, block)
    with mock.patch.object(shapes, "TRIALS_MAX", 0):
        slowly = read("metalink", text)
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


CELLS = [
    "a.nc",
    " d/b.nc",
    "https://a.example/a",
    "HTTPS://a.example/a",
    "a/b",
    "",
    "7",
    "x",
    "ü",
    "{",
    "a\tb",
    "f" * 64,
]


@pytest.mark.parametrize("header", ["name,url,size", "url,sha256,name", "name,url", "url,size", "name,url,mirror"])
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.lists(st.sampled_from(CELLS), max_size=4), max_size=6))
def test_tables(header: str, rows: list[list[str]], slowly: Any) -> None:
    good = {"name": "x.nc", "url": "https://a.example/x", "size": "12", "sha256": "A" * 64}
    like_header = ",".join(good.get(column, "") for column in header.split(","))
    text = "\n".join([header, like_header, *map(",".join, rows)]) + "\n"
    assert read("csv", text) == slowly("csv", text)


def mixed(entries: int) -> str:
    """A metalink whose files have one to three URLs, some with what is no plain name or with an entity."""
    files = []
    for number in range(entries):
        name = f"d/{number}+x.nc" if number % 5 == 4 else f"d/{number}.nc"
        urls = [f'<url priority="{rank}">https://{rank}.example/{name}?a&amp;b=1</url>' for rank in (3, 1, 2)]
        files.append(f'<file name="{name}"><size>{number}</size>\n{"".join(urls[: 1 + number % 3])}</file>\n')
    return f'<?xml version="1.0"?>\n<metalink xmlns="x">\n{"".join(files)}</metalink>'


@pytest.mark.parametrize("block", [50, 700, 1 << 16])
def test_elements_of_several_shapes_need_no_parser(block: int, slowly: Any) -> None:
    text = mixed(40)
    assert read("metalink", text, block) == slowly("metalink", text)
    entries, noted, _ = read("metalink", text, block)
    assert [entry.line for entry in entries] == list(range(3, 83, 2))
    assert noted == []


def test_what_is_learned_of_an_element() -> None:
    def read_all(element: bytes) -> Row | None:
        return next(iter(Metalink(FormatInput("x", "x", print)).parsed([element])))

    element = b'\n<file name="a.nc">\n<size>1</size><url priority="2">https://b/a</url><url priority="1">http://a/</url></file>'
    shape = shapes.Lesson(element, read_all).shape(plain=True)
    assert shape is not None
    assert shape.line == b"%b\t%d\t%b\tsize=%b\tmirror=%b"
    assert (shape.before, shape.newlines) == (1, 2)
    for other in (
        b"<url>ftp://b/a</url>",
        b"<size>x</size>",
        b'<hash type="sha-256">00</hash>',
        b"<!-- x -->",
        b"<file>",
    ):
        odd = element.replace(b"<size>1</size>", other)
        shape = shapes.Lesson(odd, read_all).shape(plain=True)
        assert shape is None or shape.pattern.match(odd) is None
