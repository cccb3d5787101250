"""Tables: CSV with any delimiter, the file reports of ENA, and the table inside a download script of ESGF.

A table of CSV says in its header what its columns are, or the user does (`columns=`). A report of ENA has one row for
each run of a sequencer, with all its files in one cell. A script of ESGF is read for its table only; nothing in it is
ever run.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from operator import itemgetter

from bulkspider.entries.entry import NAME_KEYS, EntryError
from bulkspider.entries.fields import DIGESTS
from bulkspider.entries.names import BY_LAST_PART, show
from bulkspider.errors import UsageError
from bulkspider.lists.checking.copy import whole_lines
from bulkspider.lists.formats.row import BATCH, FormatInput, Lines, Reader, Row, digests_of
from bulkspider.regex import regex
from bulkspider.text import nearest

_COLUMNS = ("name", "url", "size", *DIGESTS, "mirror")
_DELIMITERS = ("\t", ",", ";", "|")
_LOCAL = regex(r"(?:[0-9]+(?:\.[0-9]+){3}|localhost)(?::[0-9]+)?|[^/]+:[0-9]+")
_HTTP = ("https://", "http://")
_PLAIN_LINK = r"ftp\.[\w./-]+/[\w.-]+"
PLAIN_LINKS = regex(rf"{_PLAIN_LINK}(?:;{_PLAIN_LINK})*", re.ASCII)
TABLE_BEGIN = regex(r"""download_files="\$\(cat <<(EOF--dataset\.file\.url\.chksum_type\.chksum)""")
_TABLE_ROW = regex(r"'([^']*)'\s+'([^']*)'(?:\s+'([^']*)'\s+'([^']*)')?")


def _texts(given: FormatInput, blocks: Iterable[bytes]) -> Iterator[str]:
    """Texts of whole lines; bytes that are not UTF-8 are found by those who check."""
    first = True
    for raw in whole_lines(blocks, given.where):
        text = raw.decode("utf-8", "surrogateescape")
        yield text.removeprefix("\ufeff") if first else text
        first = False


def _records(given: FormatInput, blocks: Iterable[bytes], delimiter: str | None) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table, each with the number of its first line. delimiter: None finds it in the first line."""
    line = 0
    texts = _texts(given, blocks)
    for text in texts:
        if delimiter is None:
            head = text.partition("\n")[0]
            delimiter = max(_DELIMITERS, key=head.count)
        text = text.replace("\r\n", "\n")
        if '"' in text or "\r" in text:
            # A cell in quotes may go on in the next line, and in the next text.
            yield from _quoted_records(given, chain([text], texts), delimiter, line)
            return
        for row in text[:-1].split("\n"):
            line += 1
            record = row.split(delimiter)
            if any(record):
                yield line, record


def _quoted_records(
    given: FormatInput, texts: Iterable[str], delimiter: str, before: int
) -> Iterator[tuple[int, list[str]]]:
    """The same where there are quotes, which takes three times as long. before: lines that were read already."""
    lines = (f"{line}\n" for text in texts for line in text[:-1].split("\n"))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    line = before + 1
    try:
        for record in reader:
            if any(record):
                yield line, record
            line = before + reader.line_num + 1
    except csv.Error as error:
        given.note(line, EntryError(f"the quotes do not match ({error})", "put double quotes around a whole cell"))


class EnaReport(Reader):
    """TSV of ENA's `filereport`: the cells of `fastq_ftp`, `fastq_md5` and `fastq_bytes` hold as many values as the run
    has files, joined by ';'. URLs have no scheme. `submitted_ftp`, `sra_ftp` and `bam_ftp` are taken when `fastq_ftp`
    is not there, or when `columns=` names them."""

    KINDS = ("fastq", "submitted", "sra", "bam")

    def rows(self, blocks: Iterable[bytes]) -> Iterator[Row | Lines]:
        given = self._given
        records = _records(given, blocks, "\t")
        _, header = next(records, (1, []))
        wanted = self._wanted(header)
        may_be_plain = given.base is None and given.naming == BY_LAST_PART
        plain: list[bytes] = []
        for line, record in records:
            if len(record) < len(header):
                what = f"the row has {len(record)} cells, the heading {len(header)}"
                given.note(line, EntryError(what, "download the report again; it is cut off"))
                continue
            files = 0
            for links, hashes, sizes in wanted:
                cell = record[links]
                if not cell:
                    continue
                files += 1
                if may_be_plain and hashes >= 0 and sizes >= 0:
                    lines = _plain_lines(line, cell, record[hashes], record[sizes])
                    if len(lines) == cell.count(";") + 1:
                        plain += lines
                        continue
                if plain:
                    yield Lines(plain)
                    plain = []
                try:
                    if ";" in cell:
                        yield from self._several(line, cell, record, hashes, sizes)
                    else:
                        digests = {"md5": record[hashes]} if hashes >= 0 and record[hashes] else {}
                        yield Row(line, self._url(cell), "", (record[sizes] or None) if sizes >= 0 else None, digests)
                except EntryError as error:
                    given.note(line, error)
            if not files:
                self._passed.add(line, "the run has no file")
            if len(plain) >= BATCH:
                yield Lines(plain)
                plain = []
        yield Lines(plain)

    def _several(self, line: int, cell: str, record: Sequence[str], hashes: int, sizes: int) -> Iterator[Row]:
        links = cell.rstrip(";").split(";")
        columns = [
            record[place].rstrip(";").split(";") if place >= 0 and record[place] else [""] * len(links)
            for place in (hashes, sizes)
        ]
        if any(len(column) != len(links) for column in columns):
            what = f"{len(links)} files, but {len(columns[0])} hashes and {len(columns[1])} sizes in this row"
            raise EntryError(what, "download the report again")
        for link, md5, size in zip(links, *columns, strict=True):
            yield Row(line, self._url(link), "", size or None, {"md5": md5} if md5 else {})

    def _wanted(self, header: Sequence[str]) -> list[tuple[int, int, int]]:
        """The places of links, hashes and sizes of each kind of file; -1: there is none. Raises UsageError."""
        there = [kind for kind in self.KINDS if f"{kind}_ftp" in header]
        kinds = there[:1]
        if self._given.columns:
            kinds = [column.strip().removesuffix("_ftp") for column in self._given.columns.split(",")]
            if unknown := [kind for kind in kinds if kind not in there]:
                known = ", ".join(f"{kind}_ftp" for kind in there) or "none of links"
                raise UsageError(f"argument columns={unknown[0]}: the columns of the report are {known}")
        if not kinds:
            raise UsageError(f"{self._given.where}: no report of ENA: it has no column fastq_ftp")
        places = {column: place for place, column in enumerate(header)}
        return [
            (places[f"{kind}_ftp"], places.get(f"{kind}_md5", -1), places.get(f"{kind}_bytes", -1)) for kind in kinds
        ]

    def _url(self, link: str) -> str:
        """https, for the hosts of ENA serve both; the base, if there is one, stands in the place of scheme and host."""
        if self._given.base is None and link.startswith("ftp."):
            return f"https://{link}"
        if "://" in link:
            return self._given.link(link)
        if self._given.base is not None:
            return self._given.link("/" + link.partition("/")[2])
        return f"{'http' if _LOCAL.match(link) else 'https'}://{link}"


def _plain_lines(line: int, links: str, hashes: str, sizes: str) -> list[bytes]:
    """The lines of a run whose cells are as ENA writes them; fewer than it has files when they are not quite so."""
    if not PLAIN_LINKS.fullmatch(links):
        return []
    if ";" not in links:
        files = [(links, hashes, sizes)]
    else:
        files = list(zip(links.split(";"), hashes.split(";"), sizes.split(";"), strict=False))
        if not links.count(";") == hashes.count(";") == sizes.count(";"):
            return []
    return [
        f"{url.rpartition('/')[2]}\t{line}\thttps://{url}\tsize={size}\tmd5={md5}".encode()
        for url, md5, size in files
        if md5.isalnum() and size.isdecimal()
    ]


class Csv(Reader):
    """Cells between any delimiter (TAB, comma, semicolon, '|'). The first row is the header, unless its URL is one."""

    def rows(self, blocks: Iterable[bytes]) -> Iterator[Row | Lines]:
        given, first = self._given, True
        columns: list[tuple[str, int]] = []
        maker: Callable[[int, Sequence[str]], bytes | None] | None = None
        plain: list[bytes] = []
        for line, record in _records(given, blocks, None):
            try:
                if first:
                    first = False
                    columns, is_header = _columns(record, given.columns)
                    maker = plain_lines(columns)
                    if is_header:
                        continue
                text = maker(line, record) if maker is not None else None
                if text is not None:
                    plain.append(text)
                    if len(plain) < BATCH:
                        continue
                if plain:
                    yield Lines(plain)
                    plain = []
                if text is None:
                    yield self._row(line, record, columns)
            except EntryError as error:
                given.note(line, error)
        yield Lines(plain)

    def _row(self, line: int, record: Sequence[str], columns: Sequence[tuple[str, int]]) -> Row:
        cells = [(name, record[place].strip()) for name, place in columns if place < len(record)]
        values = {name: value for name, value in cells if value}
        if "url" not in values:
            raise EntryError("the cell of the URL is empty", "write the URL or remove the line", values.get("name"))
        digests, _ = digests_of((name, value) for name, value in values.items() if name in DIGESTS)
        mirrors = [self._given.link(value) for name, value in cells if name == "mirror" and value]
        url = self._given.link(values["url"])
        return Row(line, url, values.get("name", ""), values.get("size"), digests, mirrors)


def plain_lines(columns: Sequence[tuple[str, int]]) -> Callable[[int, Sequence[str]], bytes | None] | None:
    """Makes the line of a row all of whose cells are filled with what is plain; gives None for others. None where the
    columns are not as most tables have them."""
    places = dict(columns)
    digests = [name for name in places if name in DIGESTS]
    if len(places) < len(columns) or not {"name", "url"} <= places.keys() or "mirror" in places:
        return None
    known = ["size"] * ("size" in places) + digests
    order = itemgetter(*(places[name] for name in ("name", "url", *known)))
    form = "%s\t%d\t%s" + "".join(f"\t{name}=%s" for name in known)
    tabs = form.count("\t")

    def line(number: int, record: Sequence[str]) -> bytes | None:
        try:
            name, url, *more = map(str.strip, order(record))
        except IndexError:
            return None
        text = form % (name, number, url, *more)
        is_plain = name and url.startswith(_HTTP) and name[0] != "{" and all(map(str.isalnum, more))
        return text.encode() if is_plain and text.isascii() and text.count("\t") == tabs and '"' not in text else None

    return line


def _columns(header: Sequence[str], wanted: str | None) -> tuple[list[tuple[str, int]], bool]:
    """What is in which column, and whether the first row says so. wanted: `url=Link,name=File`, where a column may be
    its number from 1 on; or what the columns are, in their order: `name,,url`. Raises UsageError."""
    titles = [title.strip().lower() for title in header]
    if wanted is None:
        names = ["name" if title in NAME_KEYS else title.replace("-", "") for title in titles]
        columns = [(name, place) for place, name in enumerate(names) if name in _COLUMNS]
    elif "=" not in wanted:
        columns = [(_column(name), place) for place, name in enumerate(wanted.split(",")) if name.strip()]
    else:
        columns = [(_column(name), _place(title.strip(), titles)) for name, _, title in _pairs(wanted)]
    place = next((place for name, place in columns if name == "url"), None)
    if place is None:
        raise UsageError(
            f"the table has no column for the URL (its first row: {show(', '.join(header), 200)}); say which it is: "
            "-a columns=url=TITLE,name=TITLE,size=TITLE,md5=TITLE"
        )
    return columns, place >= len(header) or "://" not in header[place]


def _pairs(wanted: str) -> Iterable[tuple[str, str, str]]:
    return (pair.partition("=") for pair in wanted.split(",") if pair.strip())


def _column(name: str) -> str:
    name = name.strip().lower()
    name = "name" if name in NAME_KEYS else name
    if name not in _COLUMNS:
        raise UsageError(f"argument columns: {name} is none of {', '.join(_COLUMNS)}{nearest(name, _COLUMNS)}")
    return name


def _place(title: str, titles: Sequence[str]) -> int:
    if title.lower() in titles:
        return titles.index(title.lower())
    if title.isdecimal() and int(title):
        return int(title) - 1
    raise UsageError(f"argument columns: the table has no column {title}{nearest(title.lower(), titles)}")


class EsgfScript(Reader):
    """The bash script that ESGF's search gives: `'name' 'url' 'kind of hash' 'hash'` in a here-document."""

    def rows(self, blocks: Iterable[bytes]) -> Iterator[Row]:
        given, end, number = self._given, "", 0
        for text in (line for lines in _texts(given, blocks) for line in lines[:-1].split("\n")):
            number += 1
            line = text.strip()
            if not end:
                end = begin[1] if (begin := TABLE_BEGIN.search(line)) else ""
                continue
            if line == end:
                return
            if not line:
                continue
            found = _TABLE_ROW.fullmatch(line)
            if found is None:
                what = f"{show(line, 60)} is no row of the script's table"
                given.note(number, EntryError(what, "write 'name' 'url' 'SHA256' 'hash'"))
                continue
            name, url, kind, digest = found.groups(default="")
            digests, others = digests_of([(kind, digest)] if kind else [])
            for other in others:
                self._passed.add(number, f"a hash {other} cannot be compared here")
            yield Row(number, given.link(url), given.name(name), None, digests)
        what = f"the table of the script does not end ({end} is missing)" if end else "the script has no table of files"
        given.note(max(1, number), EntryError(what, "download the script again"))
