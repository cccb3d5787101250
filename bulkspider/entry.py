"""A list line becomes an Entry: which file is wanted, from where, and what is known about it.

This room decides the grammar of a list (README, "Lists"): where the name ends and the URL begins, what the fields
behind it mean, and what is refused. It is pure: one line in, one Entry or one EntryError out; it knows no file, no
other line and no network. The rules for cells, names, URLs and fields have rooms of their own (`cells.py`, `names.py`,
`urls.py`, `fields.py`). An Entry is checked once and for all; `sources.py` hands it to the spider.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any
from urllib.parse import unquote

from bulkspider.cells import cells, cut
from bulkspider.fields import DIGESTS, KEYS, Fields, unknown_key
from bulkspider.names import EntryError, check_name, fold, show
from bulkspider.urls import normal_url, origin_of, redact, slot_of, url_key, without_userinfo

__all__ = [
    "Columns",
    "Entry",
    "EntryError",
    "check_name",
    "fold",
    "name_of_url",
    "normal_url",
    "origin_of",
    "parse_header",
    "parse_json",
    "parse_line",
    "redact",
    "slot_of",
    "url_key",
    "without_userinfo",
]

NAME_IT = "write a name before the URL"
NAME_KEYS = ("name", "filename", "file")
_COLUMNS = frozenset([*NAME_KEYS, "url", "size", *DIGESTS, "mirror"])
# The other keys of a row of our own report (`BulkItem`), so that a report can be used as a list.
_REPORT_KEYS = {
    *("line", "final_url", "path", "status", "already", "flags", "bytes_received", "resumed_from"),
    *("attempts", "broken", "connections", "seconds", "etag", "last_modified", "error"),
}
_JSON_KEYS = (*NAME_KEYS, "url", *KEYS, "mirrors", "headers", "checksums")

_GLUED_FIELD = re.compile(r"[\t ](?:size|segments|mirror|md5|sha1|sha256|sha512|crc32c|header:[^\s=]+)=", re.IGNORECASE)


@dataclass(frozen=True, slots=True, repr=False)
class Entry:
    """One file of a list.

    line: 1-based line number. name: safe relative path, '/' between folders. url: in normal form, userinfo and
    signature included. size: bytes. digests: (algorithm, lower-case hex). mirrors: other URLs of the same bytes.
    headers: (name, value) to send to the URL's own origin. segments: connections wanted.
    """

    line: int
    name: str
    url: str
    size: int | None = None
    digests: tuple[tuple[str, str], ...] = ()
    mirrors: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    segments: int | None = None

    def __repr__(self) -> str:  # no header and no secret of the URL, so that an Entry may be logged
        return f"<Entry {self.line}: {self.name!r} {redact(self.url)}>"

    def to_meta(self) -> dict[str, Any]:
        """A plain dict for `meta["bulk"]` or a queue: picklable, JSON-able, without what is not set."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {key: _plain(value) for key, value in values.items()}

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Entry:
        """The Entry of `to_meta`, also after a round trip through JSON. Raises KeyError when one is missing."""
        values = {f.name: _frozen(meta[f.name]) for f in fields(cls) if f.name in meta or f.default is MISSING}
        return cls(**values)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True, slots=True)
class Columns:
    """The header line of a list: what each cell of a line means and what stands between two cells."""

    separator: str
    names: tuple[str, ...]


def parse_header(text: str) -> Columns | None:
    """The columns that the first line of a list names, or None when it is no header."""
    separator = next((mark for mark in "\t," if mark in text), " ")
    try:
        row = [cell.strip().lower() for cell in cells(text.strip(), separator)]
    except EntryError:
        return None
    if "url" not in row or not _COLUMNS.issuperset(row):
        return None
    names = tuple("name" if cell in NAME_KEYS else cell for cell in row)
    for name in names:
        if name != "mirror" and names.count(name) > 1:
            raise EntryError(f"the header has two columns for {name}", "keep one of them")
    return Columns(separator, names)


def parse_line(text: str, number: int, columns: Columns | None = None) -> Entry | None:
    """The entry of line `number`, or None for a blank line or a comment. Raises EntryError."""
    text = text.rstrip("\r\n")
    stripped = text.strip()
    if not stripped or stripped[0] == "#":
        return None
    if columns is not None and (columns.separator != " " or columns.names[:2] != ("name", "url")):
        return _by_columns(cells(text, columns.separator), number, columns)
    # Also below a header with blanks between its columns: a name may hold blanks, so it is all before the URL.
    parts = cut(text)
    if parts is None:
        cure = "move it to line 1" if parse_header(text) else "write NAME, then a blank, TAB or comma, then https://…"
        raise EntryError("there is no URL in this line", cure)
    name, from_url = parts
    if columns is not None:
        return _by_columns([name, *from_url], number, columns)
    return _by_grammar(name, from_url, number)


def _by_grammar(name: str, from_url: Sequence[str], number: int) -> Entry:
    with_fields = Fields()
    try:
        _put_fields(with_fields, from_url[1:])
        url = from_url[0].strip()
        if '"' in url:
            raise EntryError("there is a quote inside the URL", 'quote the whole URL, as in "https://…", or write %22')
        return _entry(number, name, url, with_fields)
    except EntryError as error:
        error.name = error.name or name or None
        raise


def _by_columns(row: Sequence[str], number: int, columns: Columns) -> Entry:
    with_fields = Fields()
    name = url = ""
    try:
        for column, cell in zip(columns.names, row, strict=False):
            value = cell.strip()
            if column == "name":
                name = value
            elif column == "url":
                url = value
            elif value:  # an empty cell says nothing
                with_fields.put(column, value)
        _put_fields(with_fields, row[len(columns.names) :])
        if not url:
            raise EntryError("the url column is empty", "write the URL or remove the line")
        return _entry(number, name, url, with_fields)
    except EntryError as error:
        error.name = error.name or name or None
        raise


def parse_json(text: str, number: int) -> Entry:
    """The entry of line `number` of a JSON Lines list. Raises EntryError."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else "a number or a nesting is too large"
        raise EntryError(f"this is not JSON ({why})", "write one JSON object per line") from None
    if not isinstance(row, dict):
        raise EntryError("this is not a JSON object", 'write one object per line, as {"name": "…", "url": "…"}')
    with_fields = Fields()
    texts: dict[str, str] = {}
    try:
        for key, value in row.items():
            if value is not None and key not in _REPORT_KEYS:
                _put_json(with_fields, texts, key, value)
        if "url" not in texts:
            raise EntryError("the row has no url", 'add "url": "https://…"')
        return _entry(number, texts.get("name", ""), texts["url"].strip(), with_fields)
    except EntryError as error:
        error.name = error.name or texts.get("name")
        raise


def _put_json(with_fields: Fields, texts: dict[str, str], key: str, value: Any) -> None:
    if key in NAME_KEYS or key == "url":
        place = "url" if key == "url" else "name"
        if texts.setdefault(place, _text(key, value)) != value:
            raise EntryError("the name is given twice and differs", "keep one of the two")
    elif key in ("size", "segments") and isinstance(value, (int, float)):  # what is no whole number is refused there
        with_fields.put(key, str(value))
    elif key in ("mirror", "mirrors"):
        for mirror in value if isinstance(value, list) else [value]:
            with_fields.put_mirror(_text(key, mirror))
    elif key == "headers" and isinstance(value, dict):
        for name, content in value.items():
            with_fields.put_header(name, _text(f"header {name}", content))
    elif key == "checksums" and isinstance(value, dict):
        for algorithm, digest in value.items():
            if algorithm in DIGESTS and digest is not None:
                with_fields.put_digest(algorithm, _text(algorithm, digest))
    elif key in KEYS or key.lower().startswith("header:"):
        with_fields.put(key, _text(key, value))
    elif key in _JSON_KEYS:
        raise EntryError(f"{key} is not an object", f'write "{key}": {{"NAME": "VALUE"}}')
    else:
        raise unknown_key(key, _JSON_KEYS)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise EntryError(f"the value of {show(key, 40)} is not a text", "write it in double quotes")
    return value


def _entry(number: int, name: str, url: str, with_fields: Fields) -> Entry:
    if " " in url and _GLUED_FIELD.search(url):
        raise EntryError("a blank stands between the URL and a field", "use the separator before the URL there as well")
    url = normal_url(url)
    if not name:
        name = name_of_url(url)
    check_name(name)
    f = with_fields
    return Entry(number, name, url, f.size, f.digests, f.mirrors, f.headers, f.segments)


def name_of_url(url: str) -> str:
    """The last path segment of a bare URL, percent-decoded once."""
    segment = url.partition("?")[0].rpartition("/")[2]
    if not segment:
        raise EntryError("the URL ends in '/' and gives the file no name", NAME_IT)
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise EntryError("the file name in the URL is not UTF-8", NAME_IT) from None


def _put_fields(with_fields: Fields, row: Sequence[str]) -> None:
    """Takes the `key=value` cells behind the URL."""
    after_header = False
    for cell in map(str.strip, row):
        if not cell:
            continue
        key, equals, value = cell.partition("=")
        key = key.strip()
        is_header = key.lower().startswith("header:")
        if after_header and not is_header and not (equals and key.lower() in KEYS):
            # Most likely the rest of a header's value, and a secret: it is not shown.
            raise EntryError("a blank or separator in a header", 'quote the field, as in "header:Name=one two"')
        if not equals:
            raise EntryError(
                f"{show(redact(cell), 40)} behind the URL is no key=value field",
                "write the name before the URL and fields as size=1048576, or name the columns in line 1",
            )
        with_fields.put(key, value.strip())
        after_header = after_header or is_header
