"""The interface of all formats: the bytes of a file in, rows out.

A `Format` reads a list of another tool in pieces and gives a `Row` for each file; bad lines are reported to `note`.
`as_lines` writes rows as lines of a numbered list, which is then a list like any other (`checking/`): names, URLs and
hashes are checked only there. A row has its own line number, so that messages name the line of the file that the user
knows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, urljoin

from msgspec import Struct

from bulkspider.entries.entry import Entry, EntryError
from bulkspider.entries.fields import DIGESTS
from bulkspider.entries.names import BY_LAST_PART, Naming, name_of_url
from bulkspider.lists.checking.reader import PlainRow
from bulkspider.options import plural
from bulkspider.regex import regex

# Rows that are written and checked together.
BATCH = 500

# Called for every bad line: its 1-based number, and the error.
Note = Callable[[int, EntryError], None]

GIVE_BASE = "say where these files are: --base URL (-a base=URL)"

# Hosts that appear with ftp:// in lists, and serve the same paths by https.
HTTPS_TOO = frozenset(
    {"ftp.sra.ebi.ac.uk", "ftp.ebi.ac.uk", "ftp.ncbi.nlm.nih.gov", "ftp.ensembl.org", "ftp.ensemblgenomes.org"}
)
_SCHEME = regex(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PLAIN_PATH = regex(r"[\w./=+-]+", re.ASCII)
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Row(NamedTuple):
    """One file, as another tool's list has it.

    line: where it begins in that list, 1-based. name: empty when the URL names the file. size: bytes. digests:
    algorithm -> hex or base64. mirrors: other URLs of the same bytes, the best first. headers: to send to the URL's
    own origin. segments: connections wanted. extra: what else it says of the file, for the row.
    """

    line: int
    url: str
    name: str = ""
    size: int | str | None = None
    digests: Mapping[str, str] = _NOTHING
    mirrors: Sequence[str] = ()
    headers: Mapping[str, str] = _NOTHING
    segments: int | None = None
    extra: Mapping[str, Any] = _NOTHING

    def encoded(self) -> bytes:
        """A row of JSON Lines, for `Form(numbered=True)`."""
        row: dict[str, Any] = {"line": self.line, "url": self.url, **self.digests}
        for key in ("name", "size", "mirrors", "headers", "segments", "extra"):
            value = getattr(self, key)
            if value or value == 0:
                row[key] = value if isinstance(value, (str, int)) else _json(value)
        return json.dumps(row, default=float).encode()

    def plain(self, naming: Callable[[str], str]) -> bytes | None:
        """A line with TABs for `Form(numbered=True)`, which is read ten times as fast; None when it would not do."""
        line, url, name, size, digests, mirrors, headers, segments, extra = self
        if headers or segments is not None or extra:
            return None
        known = "" if size is None else f"\tsize={size}"
        for key in digests:
            known = f"{known}\t{key}={digests[key]}"
        for mirror in mirrors:
            known = f"{known}\tmirror={mirror}"
        tabs = 2 + (size is not None) + len(digests) + len(mirrors)
        try:
            text = f"{name or naming(url)}\t{line}\t{url}{known}"
            if text.count("\t") != tabs or "\n" in text or '"' in text or text[0] == "{":
                return None
            return text.encode()
        except (EntryError, UnicodeEncodeError):
            return None


def as_json(entry: Entry) -> bytes:
    """A row of JSON Lines of an entry, for a list of ours."""
    row: dict[str, Any] = {"name": entry.name, "url": entry.url, **dict(entry.digests)}
    for key, value in (("size", entry.size), ("mirrors", list(entry.mirrors)), ("headers", dict(entry.headers))):
        if value or value == 0:
            row[key] = value
    if entry.extra is not None:
        row["extra"] = json.loads(entry.extra)
    return json.dumps(row).encode()


def _json(value: Mapping[str, str] | Sequence[str]) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value)


class Lines(NamedTuple):
    """Many rows at once, as lines: what `Row.plain` gives. Where nearly all rows of a list are alike, its format may
    make them itself, which takes half the time. rows: what `Form.rows` would give of the lines, where the format knows
    it, which saves reading them."""

    lines: list[bytes]
    rows: Iterable[PlainRow] | None = None


class Format(Protocol):
    """A form of list. warnings: sentences on what was ignored, complete when all rows were given."""

    @property
    def warnings(self) -> Sequence[str]: ...

    def rows(self, blocks: Iterable[bytes]) -> Iterator[Row | Lines]:
        """The rows of a file that is given in blocks of any size; no more of it is kept than a row needs."""
        ...


def as_lines(rows: Iterable[Row | Lines], naming: Naming = BY_LAST_PART) -> Iterator[Lines]:
    """Rows as lines of a numbered list, many at a time."""
    named = name_of_url if naming == BY_LAST_PART else naming
    batch: list[bytes] = []
    for row in rows:
        if isinstance(row, Lines):
            if batch:
                yield Lines(batch)
                batch = []
            yield row
            continue
        batch.append(row.plain(named) or row.encoded())
        if len(batch) >= BATCH:
            yield Lines(batch)
            batch = []
    yield Lines(batch)


def batches(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Lines, many at a time."""
    rest = iter(lines)
    while batch := list(islice(rest, BATCH)):
        yield batch


class Passed:
    """Collects what was ignored in a list; each kind is reported once, with its first line."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._seen: dict[str, list[int]] = {}

    def add(self, line: int, what: str) -> None:
        """what: a sentence, without the line. The same one is counted."""
        self._seen.setdefault(what, [line, 0])[1] += 1

    @property
    def warnings(self) -> list[str]:
        told = []
        for what, (line, count) in self._seen.items():
            more = f" (and {plural(count - 1, 'more line', 'more lines')})" if count > 1 else ""
            told.append(f"{self._where}:{line}{more}: {what}")
        return told


class FormatInput(Struct, frozen=True):
    """One list that is read, and what the user said about it.

    path: the file or folder, "-" for stdin. where: how messages name it. note: is told of what does not fit. root: the
    output folder. base: the URL that entries without host are relative to. naming: names URLs without a name. renames:
    the user has said so, so that it also names what has a path in the list. columns: what the user calls the columns of
    a table. url_field, name_field: where a crawl's items have URLs and names.
    """

    path: str
    where: str
    note: Note
    root: str | None = None
    base: str | None = None
    naming: Naming = BY_LAST_PART
    renames: bool = False
    columns: str | None = None
    url_field: str | None = None
    name_field: str | None = None

    def name(self, path: str) -> str:
        """The name of a file whose list gives it this path."""
        return self.naming.of_path(path) if self.renames else path

    def link(self, text: str) -> str:
        """A URL, or a reference relative to the base, as a URL. Raises EntryError without a base."""
        if _SCHEME.match(text):
            host = text[6:].partition("/")[0] if text[:6].lower() == "ftp://" else ""
            return f"https{text[3:]}" if host in HTTPS_TOO else text
        if self.base is None:
            raise EntryError("the URL has no scheme and no host", GIVE_BASE)
        return urljoin(self.base, text)

    def below_base(self, path: str) -> str:
        """The URL of a path below the base, which is taken as it is written: a blank, a '%' or a '?' is a part of a
        name. Raises EntryError."""
        if self.base is None:
            raise EntryError("the path has no host", GIVE_BASE)
        if ".." in path and ".." in path.split("/"):
            raise EntryError("the path leads out of its folder by '..'", "write it without")
        if not _PLAIN_PATH.fullmatch(path):
            path = quote(path, safe="/!$&'()*+,;=:@~", errors="surrogateescape")
        return f"{self.base[: self.base.index('/', 8)]}{path}" if path[:1] == "/" else f"{self.base}{path}"


@lru_cache(maxsize=64)
def digest_name(kind: str) -> str:
    """What a hash is called here: `SHA-256`, `sha_256` and `sha256` are one. Empty for one that is not known."""
    name = kind.lower().replace("-", "").replace("_", "")
    return name if name in DIGESTS else ""


def digests_of(stated: Iterable[tuple[str, str]]) -> tuple[dict[str, str], list[str]]:
    """Hashes by our names, and the names of the kinds that are not known here. stated: (name, value) as it stands in
    the list."""
    digests: dict[str, str] = {}
    others: list[str] = []
    for kind, value in stated:
        if name := digest_name(kind):
            digests[name] = value.lower() if value[-1:] != "=" else value
        elif value:
            others.append(kind)
    return digests, others


class Reader:
    """What most forms begin with. given: how the list is read; what they pass over is their warnings."""

    def __init__(self, given: FormatInput) -> None:
        self._given = given
        self._passed = Passed(given.where)

    @property
    def warnings(self) -> list[str]:
        return self._passed.warnings
