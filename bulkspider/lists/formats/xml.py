"""Lists in XML: metalinks (RFC 5854, and version 3) and the file lists of the Internet Archive.

Both are flat: an element `file` with a few elements in it. So expat, the parser of the standard library, is asked for
the starts of elements and for texts only, which is twice as fast as a tree and knows every line. Neither form has a
document type; one that comes with a DTD is refused, and with it all that entities can do to a reader.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from urllib.parse import quote
from xml.parsers import expat

from bulkspider.entries.entry import EntryError, redact
from bulkspider.entries.names import show
from bulkspider.lists.formats.row import HTTPS_TOO, Given, Line, Passed, Row, digest_name, digests_of

# RFC 5854 §4.2.16.1: 1 is the best; a URL without a priority comes after all others.
_LAST_PRIORITY = 999_999
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
# In version 3 of metalink.
_AROUND_URLS = ("resources", "publisher", "license")
_IA_LIST = re.compile(r"(.+)_files\.xml(?:\.gz)?")

_FILE_END = b"</file>"
_RUN_MAX_BYTES = 1024 * 1024
_BLANKS = r"[ \t\r\n]*"
_PLAIN_URL = r'<url(?: location="[a-z]*")?(?: priority="([1-9][0-9]{0,5})")?>(https?://[^<&\s"]+)</url>'
_PLAIN_URLS = re.compile(_PLAIN_URL)
_PLAIN_FILE = re.compile(
    rf'(({_BLANKS})<file name="([\w./+=,()@~-]+)">{_BLANKS}(?:<size>([0-9]+)</size>{_BLANKS})?'
    rf'(?:<hash type="(md5|sha-1|sha-256|sha-512)">([0-9a-f]+)</hash>{_BLANKS})?'
    rf"{_PLAIN_URL}{_BLANKS}((?:<url[^<]*</url>{_BLANKS})*)</file>)",
    re.ASCII,
)
# What is in an element `file`, itself first: the name of each element, its attributes, and the text in it with the
# white space behind it. Elements in elements follow in the order of the document.
Elements = list[tuple[str, Mapping[str, str], str]]


def _files(given: Given, blocks: Iterable[bytes]) -> Iterator[tuple[int, Elements]]:
    """Every element `file` of a document, with its line, and line 0 after every block. What does not parse is noted."""
    parser = expat.ParserCreate()
    parser.buffer_text = True
    done: list[tuple[int, Elements]] = []
    elements: Elements = []
    texts: list[str] = []
    last = ""
    known: Mapping[str, str] = {}
    line = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal elements, last, known, line
        elements.append((last, known, texts[0] if len(texts) == 1 else "".join(texts)))
        texts.clear()
        if ":" in tag:
            tag = tag.rpartition(":")[2]
        last, known = tag, attributes
        if tag == "file":
            if line:
                done.append((line, elements))
            elements = []
            line = parser.CurrentLineNumber

    def refuse(*_: object) -> None:
        raise EntryError("the document has a DTD, which is not read", "remove the line <!DOCTYPE …>")

    parser.StartElementHandler = start
    parser.CharacterDataHandler = texts.append
    parser.StartDoctypeDeclHandler = refuse
    try:
        for block in blocks:
            parser.Parse(block, False)
            yield from done
            done.clear()
            yield 0, elements  # a block is read
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        yield from done
        what = f"the XML is damaged or cut off ({expat.ErrorString(error.code)})"
        given.note(error.lineno, EntryError(what, "download it again"))
        return
    except EntryError as error:
        yield from done
        given.note(parser.CurrentLineNumber, error)
        return
    if line:
        start("", {})
        yield line, elements


class _PlainFiles:
    """Takes from a metalink the runs of elements `file` that are written as most programs write them, and makes their
    lines, four times as fast as a parser would. What is left goes to the parser, which counts the lines on.

    A run is as much of the document as ends with `</file>`. It must be made of such elements alone, and may not be in a
    comment; nor is anything taken from a document with CDATA sections or a DTD.
    """

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._line = 1
        self._open = 0  # comments
        self._allowed = True

    def take(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """What is left for the parser. `lines` has what was made since the last block; whoever takes them, clears
        them."""
        rest = b""
        for block in blocks:
            text = rest + block
            end = text.rfind(_FILE_END) + len(_FILE_END)
            if end < len(_FILE_END) and len(text) < _RUN_MAX_BYTES:
                rest = text
                continue
            run, rest = (text[:end], text[end:]) if end >= len(_FILE_END) else (text, b"")
            left = self._read(run)
            self._line += run.count(b"\n")
            self._open += run.count(b"<!--") - run.count(b"-->")
            self._allowed = self._allowed and b"<![" not in run and b"<!D" not in run
            yield left
        yield rest

    def _read(self, run: bytes) -> bytes:
        """Makes the lines of a run, and gives what is left of it."""
        if not self._allowed or self._open or not run.isascii():
            return run
        files = _PLAIN_FILE.findall(text := run.decode("ascii"))
        if "".join(file[0] for file in files) != text:
            return run
        line = self._line
        for whole, blanks, name, size, kind, digest, priority, url, others in files:
            begin = line + blanks.count("\n")
            line += whole.count("\n")
            known = f"\tsize={size}" if size else ""
            if kind:
                known = f"{known}\t{kind.replace('-', '')}={digest}"
            if others:
                mirrors = _PLAIN_URLS.findall(others)
                if len(mirrors) != others.count("</url>"):
                    self.lines.clear()
                    return run
                mirrors.append((priority, url))
                mirrors.sort(key=lambda ranked: int(ranked[0] or _LAST_PRIORITY))
                url = mirrors[0][1]
                for _, mirror in mirrors[1:]:
                    known = f"{known}\tmirror={mirror}"
            self.lines.append(f"{name}\t{begin}\t{url}{known}".encode())
        return b"\n" * (line - self._line)


class Metalink:
    """Files with their size, hashes and URLs; the best URL first, the others are its mirrors. Hashes of pieces are not
    read, nor are torrents."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self._passed = Passed(given.where)

    @property
    def warnings(self) -> list[str]:
        return self._passed.warnings

    def rows(self, blocks: Iterable[bytes]) -> Iterator[Row | Line]:
        plain = _PlainFiles()
        if not self._given.renames:
            blocks = plain.take(blocks)
        for line, elements in _files(self._given, blocks):
            if line:
                try:
                    yield self._row(line, elements)
                except EntryError as error:
                    error.name = error.name or elements[0][1].get("name")
                    self._given.note(line, error)
            yield from plain.lines
            plain.lines.clear()

    def _row(self, line: int, elements: Elements) -> Row:
        given = self._given
        size: str | None = None
        digests: dict[str, str] = {}
        urls: list[tuple[int, str]] = []
        other = inside = ""
        for tag, attributes, text in elements:
            if tag == "url":
                # In version 3 publishers and licenses have a `url`, too; those of the file are in `resources`.
                if inside in ("", "resources"):
                    urls.append((_rank(attributes), text.strip()))
            elif tag == "hash":
                kind = attributes.get("type")
                # That of a piece has no type (RFC 5854 §4.2.4), or a number (version 3).
                if kind is not None and "piece" not in attributes:
                    if name := digest_name(kind):
                        digests[name] = text.strip().lower()
                    else:
                        other = kind
            elif tag == "size":
                size = text.strip()
            elif tag in _AROUND_URLS:
                inside = "" if attributes and tag != "resources" else tag
        if other and not digests:
            self._passed.add(line, f"a hash {other} cannot be compared here")
        if len(urls) == 1 and urls[0][1].startswith(("https://", "http://")):
            url, mirrors = urls[0][1], []
        else:
            urls.sort(key=lambda url: url[0])
            url, *mirrors = self._links(line, urls)
        return Row(line, url, given.name(elements[0][1].get("name", "")), size, digests, mirrors)

    def _links(self, line: int, urls: list[tuple[int, str]]) -> list[str]:
        """Those that can be fetched. Raises EntryError when there is none."""
        links = []
        for _, url in urls:
            scheme, _, rest = url.partition(":") if _SCHEME.match(url) else ("", "", "")
            if scheme.lower() in ("", "http", "https") or rest[2:].partition("/")[0] in HTTPS_TOO:
                links.append(self._given.link(url))
            elif len(urls) > 1:
                self._passed.add(line, f"mirror {scheme}:… is passed over; only http and https are fetched")
            else:
                what = f"{show(redact(url), 60)} is no http or https URL"
                raise EntryError(what, "bulkspider fetches these two only")
        if not links:
            raise EntryError("the file has no http or https URL", "add one to it")
        return links


def _rank(attributes: Mapping[str, str]) -> int:
    """The smaller the better. Version 3 has a preference from 0 to 100, the larger the better."""
    try:
        if (priority := attributes.get("priority")) is not None:
            return int(priority)
        return -int(attributes["preference"]) if "preference" in attributes else _LAST_PRIORITY
    except ValueError:
        return _LAST_PRIORITY


class ArchiveFiles:
    """`ID_files.xml` of an item of the Internet Archive. The base is the folder of the item that its name says."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self._passed = Passed(given.where)
        item = _IA_LIST.fullmatch(os.path.basename(given.path))
        self._base = given.base or (f"https://archive.org/download/{quote(item[1])}/" if item else None)

    @property
    def warnings(self) -> list[str]:
        return self._passed.warnings

    def rows(self, blocks: Iterable[bytes]) -> Iterator[Row]:
        if self._base is None:
            what = "which item of archive.org is it? Its list should be called ID_files.xml"
            self._given.note(1, EntryError(what, "or say --base https://archive.org/download/ID/"))
            return
        given = replace(self._given, base=self._base)
        for line, elements in _files(given, blocks):
            if not line:
                continue
            attributes = elements[0][1]
            name = attributes.get("name", "")
            texts = {tag: text.strip() for tag, _, text in elements[1:]}
            if texts.get("private") == "true":
                self._passed.add(line, "a private file cannot be fetched")
                continue
            digests, others = digests_of((kind, texts[kind]) for kind in ("md5", "sha1", "crc32") if texts.get(kind))
            size = texts.get("size") or None
            if _IA_LIST.fullmatch(name):
                # The list cannot know its own hash and size; what it says of itself is that of an earlier one.
                digests, size = {}, None
            elif others and not digests:
                self._passed.add(line, f"a hash {others[0]} cannot be compared here")
            try:
                yield Row(line, given.below_base(name), given.name(name), size, digests)
            except EntryError as error:
                given.note(line, error)
