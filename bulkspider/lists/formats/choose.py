"""Finds the format of a list: the one that was named, or the one that its beginning shows.

A format is found by its content only where the list cannot be one of our own form, so that a plain list is never read
as something else. `Reading` has all that the user says about how a list is read; the names are those of `--format`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain

from msgspec import Struct
from msgspec.structs import replace

from bulkspider.entries.entry import EntryError, redact
from bulkspider.entries.fields import DIGESTS
from bulkspider.entries.names import Naming
from bulkspider.entries.sumsfile import parse_sum
from bulkspider.entries.urls import normal_url
from bulkspider.errors import UsageError
from bulkspider.lists.checking.copy import read_blocks, shown
from bulkspider.lists.checking.reader import BOM
from bulkspider.lists.formats.aria2 import Aria2Form
from bulkspider.lists.formats.json import Dataverse, Figshare, HuggingFace, Items, Zenodo
from bulkspider.lists.formats.lines import PathLines, UrlLines
from bulkspider.lists.formats.row import Format, FormatInput, Note
from bulkspider.lists.formats.sums import Bag, ChecksumLines, bag_in
from bulkspider.lists.formats.table import TABLE_BEGIN, Csv, EnaReport, EsgfScript
from bulkspider.lists.formats.xmls.archive import ArchiveFiles
from bulkspider.lists.formats.xmls.metalink import Metalink
from bulkspider.regex import regex
from bulkspider.text import nearest

# Bytes of the beginning that are looked at: the mark of a document or a script may come late.
HEAD_BYTES = 1024 * 1024
LINES_LOOKED_AT = 20

_COMMENT = regex(r"<!--.*?-->", re.DOTALL)
# The first element of a document; the rest of the pattern excludes a heading in brackets.
_ROOT = regex(
    r"""<(?:\w+:)?(?:(?P<metalink>metalink)\s[^>]*(?:xmlns|version)|(?P<ia>files)\b[^>]*>\s*<file\b)"""
    r"|<[A-Za-z]",
    re.DOTALL,
)
_ENA_COLUMNS = frozenset(f"{kind}_ftp" for kind in EnaReport.KINDS)
# Texts that only these documents contain.
_MARKS = {
    "dataverse": regex(r'"dataFile"\s*:\s*\{'),
    "figshare": regex(r'"(?:computed_md5|supplied_md5|is_link_only)"\s*:'),
    "zenodo": regex(r'"checksum"\s*:\s*"(?:\w+:)?[0-9a-f]{32,}"'),
    "hf": regex(r'\A\[\s*\{(?=[^{}\[\]]*"type"\s*:\s*"(?:file|directory)")[^{}\[\]]*"oid"\s*:'),
}


class FormatKind(Struct, frozen=True):
    """A format. title: its name for messages. needs_base: an example of a base, if it needs one."""

    title: str
    make: Callable[[FormatInput], Format]
    needs_base: str = ""


FORMATS: Mapping[str, FormatKind] = {
    "aria2": FormatKind("an input file of aria2", lambda given: Aria2Form(given.note, given.root, given.where)),
    "urls": FormatKind("URLs, one a line", UrlLines),
    "paths": FormatKind("paths, one a line", PathLines, "https://data.commoncrawl.org/"),
    "sums": FormatKind("a checksum file", ChecksumLines, "https://example.org/folder/"),
    "ena": FormatKind("a file report of ENA", EnaReport),
    "bagit": FormatKind("the fetch.txt of a bag", Bag),
    "metalink": FormatKind("a metalink", Metalink),
    "esgf": FormatKind("a download script of ESGF", EsgfScript),
    "ia": FormatKind("a file list of the Internet Archive", ArchiveFiles),
    "hf": FormatKind("a file tree of Hugging Face", HuggingFace, "https://huggingface.co/ORG/NAME/resolve/main/"),
    "zenodo": FormatKind("a record of Zenodo", Zenodo),
    "figshare": FormatKind("an article of Figshare", Figshare),
    "dataverse": FormatKind("a dataset of Dataverse", Dataverse, "https://dataverse.harvard.edu/"),
    "csv": FormatKind("a table", Csv),
    "items": FormatKind("items of a crawl", Items),
}
NAMES = ("auto", "list", *FORMATS)
WITH_COLUMNS = ("ena", "csv")
ARGUMENTS = ("format", "base", "names", "cut", "columns", "url_field", "name_field")


class Reading(Struct, frozen=True):
    """How the user wants a list to be read. format: one of NAMES. base: the URL, ending in '/', of entries without
    host. names: "last" or "path". cut: folders to leave out. columns: as it was written. url_field, name_field: for
    items."""

    format: str = "auto"
    base: str | None = None
    names: str | None = None
    cut: int = 0
    columns: str | None = None
    url_field: str | None = None
    name_field: str | None = None

    @classmethod
    def parse(cls, arguments: Mapping[str, str]) -> Reading:
        """From ARGUMENTS. Raises UsageError."""
        name = arguments.get("format", "auto")
        if name not in NAMES:
            raise UsageError(f"argument format={name}: one of {', '.join(NAMES)}{nearest(name, NAMES)}")
        columns = arguments.get("columns")
        if columns is not None and name not in (*WITH_COLUMNS, "auto"):
            raise UsageError(f"argument columns: it is for format={' and format='.join(WITH_COLUMNS)}")
        names = arguments.get("names")
        if names not in (None, "last", "path"):
            raise UsageError(f"argument names={names}: last takes the last part of a path, path all of it")
        cut = arguments.get("cut", "0")
        if not cut.isdecimal() or len(cut) > 3:
            raise UsageError(f"argument cut={cut}: must be a number of folders")
        if names == "last" and int(cut):
            raise UsageError(f"argument cut={cut}: it is for names=path; names=last leaves out all folders")
        url_field, name_field = arguments.get("url_field"), arguments.get("name_field")
        if url_field and name not in ("auto", "items"):
            raise UsageError(f"argument url_field: it is for the items of a crawl, not for format={name}")
        if name_field and not url_field:
            raise UsageError(
                "argument name_field: it is for the items of a crawl; say where their URLs are: url_field="
            )
        if name == "items" and not url_field:
            raise UsageError(
                "argument format=items: say where the items have their URLs, for example url_field=file_urls"
            )
        name = "items" if url_field else name
        return cls(name, _base(arguments.get("base")), names, int(cut), columns, url_field, name_field)

    @property
    def naming(self) -> Naming:
        """How URLs without a name are named."""
        return Naming(self.names or ("path" if self.cut else "last"), self.cut)

    @property
    def title(self) -> str:
        """The name of the format for messages; empty for our own form."""
        return FORMATS[self.format].title if self.format in FORMATS else ""

    def look(self, path: str) -> Opened:
        """Opens the list at `path` and finds its format. Raises ListError when it cannot be read."""
        found = bag_in(path) if self.format in ("auto", "bagit") and os.path.isdir(path) else None
        file = found or path
        blocks = read_blocks(file)
        if found is not None:
            return Opened(replace(self, format="bagit"), file, blocks)
        if self.format != "auto":
            return Opened(self, file, blocks)
        if path.lower().endswith((".jsonl", ".jsonl.gz")):
            return Opened(replace(self, format="list"), file, blocks)
        head = next(blocks, b"")
        if head.removeprefix(BOM).lstrip()[:1] in (b"{", b"[", b"<", b"#"):
            while len(head) < HEAD_BYTES and (block := next(blocks, b"")):
                head += block
        return Opened(replace(self, format=find(head)), file, chain([head], blocks))


class Opened(Struct, frozen=True):
    """An opened list. reading: with the format that was found. path: the file that is read; inside the list if that is
    a folder. blocks: all bytes of the file."""

    reading: Reading
    path: str
    blocks: Iterator[bytes]

    def format(self, note: Note, root: str | None) -> Format | None:
        """The reader of its format; None for our own form. root: the output folder. Raises UsageError when a base is
        missing."""
        reading = self.reading
        if reading.format == "list":
            return None
        kind = FORMATS[reading.format]
        where = shown(self.path)
        if kind.needs_base and reading.base is None:
            what = f"{where}: {kind.title} (format {reading.format}) does not say where its files are"
            cure = f"say --base URL (-a base=URL), for example {kind.needs_base}"
            if reading.format == "sums":
                cure += "; with --sums a checksum file is compared with the files of another list"
            raise UsageError(f"{what}; {cure}")
        renames = reading.names is not None or reading.cut > 0
        given = FormatInput(self.path, where, note, root, reading.base, reading.naming, renames, reading.columns)
        return kind.make(replace(given, url_field=reading.url_field, name_field=reading.name_field))


def find(head: bytes) -> str:
    """The format of a list with this beginning, "list" for one that may be of our own form."""
    text = head.removeprefix(BOM).decode(errors="replace").lstrip()
    if text[:1] == "<":
        root = _ROOT.search(_COMMENT.sub("", text))
        return (root.lastgroup if root else None) or "list"
    if text[:1] in ("{", "["):
        if _is_row(text.partition("\n")[0]):
            return "list"
        return next((name for name, mark in _MARKS.items() if mark.search(text)), "list")
    if text[:1] == "#" and TABLE_BEGIN.search(text):
        return "esgf"
    lines = [line for line in map(str.strip, text.split("\n")[:LINES_LOOKED_AT]) if line and line[0] != "#"]
    if lines and not _ENA_COLUMNS.isdisjoint(lines[0].split("\t")):
        return "ena"
    if any("://" in line for line in lines):
        return "list"
    # A few lines may be damaged: they are reported better as bad checksum lines.
    return "sums" if 0 < len(lines) <= 2 * sum(map(_is_sum, lines)) else "list"


def _is_row(line: str) -> bool:
    """A row of JSON Lines of ours, which has no key of a document."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and "url" in row and "files" not in row


def _is_sum(line: str) -> bool:
    try:
        _, algorithm, digest = parse_sum(line)
    except EntryError:
        return False
    # Eight digits may be a date, not a checksum.
    return algorithm in DIGESTS and len(digest) > 8


def _base(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        base = normal_url(text)
    except EntryError as error:
        raise UsageError(f"argument base={redact(text)}: {error.what}; {error.cure}") from None
    if "?" in base:
        raise UsageError(f"argument base={redact(text)}: a folder cannot have a query; leave out what follows the '?'")
    return base if base.endswith("/") else f"{base}/"
