"""A list line becomes an Entry: which file is wanted, from where, and what is known about it.

It decides the grammar of a list (docs/lists.md, "Lists"): where the name ends and the URL begins, what the
fields behind it mean, and what is refused. Pure: one line in, one Entry or one EntryError out; no file, no other line,
no network. The rules for cells, names, URLs and fields have modules of their own (`grammar.py`, `names.py`, `urls.py`,
`fields.py`). An Entry is not checked again later; `lists/listsource.py` hands it to the spider.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import NODEFAULT, Struct
from msgspec.structs import replace

from bulkspider.entries.fields import DIGESTS, KEYS, Fields, unknown_key
from bulkspider.entries.grammar import cells, cut
from bulkspider.entries.mistakes import command, has_cell_behind, semicolons, without_url
from bulkspider.entries.names import EntryError, check_name, fold, name_of_url, show
from bulkspider.entries.urls import normal_url, origin_of, redact, slot_of, url_key, without_userinfo
from bulkspider.protocol.digests import LIST
from bulkspider.regex import regex

__all__ = [
    "Columns",
    "Entry",
    "EntryError",
    "check_name",
    "entry_of_row",
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

NAME_KEYS = ("name", "filename", "file")
_COLUMNS = frozenset([*NAME_KEYS, "url", "size", *DIGESTS, "mirror"])
# The other keys of a row of our own report (`BulkItem`), so that a report can be used as a list.
_REPORT_KEYS = {
    *("line", "final_url", "path", "status", "proof_by", "already", "flags", "bytes_received", "resumed_from"),
    *("attempts", "broken", "connections", "seconds", "etag", "last_modified", "error", "server_said", "set_aside"),
}
_REPORT_COLUMNS = _REPORT_KEYS | {"checksums", "extra"}
_JSON_KEYS = (*NAME_KEYS, "url", *KEYS, "mirrors", "headers", "checksums", "extra")

# The text before '=' of a cell behind the URL; any other text there is more likely a part of the URL or a name.
_FIELD_NAME = regex(r"[\w-]+|header:.*", re.IGNORECASE)
_GLUED_FIELD = regex(rf"[\t ](?:size|segments|mirror|{'|'.join(DIGESTS)}|header:[^\s=]+)=", re.IGNORECASE)


class Entry(Struct, frozen=True):
    """One file of a list.

    line: 1-based line number. name: safe relative path, '/' between folders. url: in normal form, userinfo and
    signature included. size: bytes. digests: (algorithm, lower-case hex). mirrors: other URLs of the same bytes.
    headers: (name, value) to send to the URL's own origin. segments: connections wanted. asked: the SHA-256 of method
    and body of a request that is no plain GET; entries of lists have none. stated_by: (algorithm, who) for hashes that
    do not come from the list (`protocol/digests.py`). extra: further columns or keys of the list, a JSON object that is
    copied into the row.
    """

    line: int
    name: str
    url: str
    size: int | None = None
    digests: tuple[tuple[str, str], ...] = ()
    mirrors: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    segments: int | None = None
    asked: str | None = None
    stated_by: tuple[tuple[str, str], ...] = ()
    extra: str | None = None

    def digest_by(self, algorithm: str) -> str:
        """Who states this hash, one of STATED_BY; the list by default."""
        return dict(self.stated_by).get(algorithm, LIST)

    @property
    def key(self) -> str:
        """Identifies the object behind the URL, in parts and in the ledger (`url_key`)."""
        key = url_key(self.url)
        return key if self.asked is None else hashlib.sha256(f"{key} {self.asked}".encode()).hexdigest()

    def __repr__(self) -> str:  # no header and no secret of the URL, so that an Entry may be logged
        return f"<Entry {self.line}: {self.name!r} {redact(self.url)}>"

    def to_meta(self) -> dict[str, Any]:
        """A plain dict for `meta["bulk"]` or a queue: picklable, JSON-able, without what is not set."""
        # A million times in a push.
        values = ((name, getattr(self, name)) for name in _FIELDS)
        return {name: _plain(value) for name, value in values if value != _DEFAULTS.get(name, NODEFAULT)}

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Entry:
        """The Entry of `to_meta`, also after a round trip through JSON. Raises KeyError when one is missing."""
        names = [name for name in _FIELDS if name in meta or name not in _DEFAULTS]
        return cls(**{name: _frozen(meta[name]) for name in names})


_FIELDS = Entry.__struct_fields__
# The last fields are those that have one.
_DEFAULTS = dict(zip(reversed(_FIELDS), reversed(Entry.__struct_defaults__), strict=False))


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


class Columns(Struct, frozen=True):
    """The header line of a list: what each cell of a line means and what stands between two cells."""

    separator: str
    names: tuple[str, ...]


def parse_header(text: str) -> Columns | None:
    """The columns that the first line of a list names, or None when it is no header."""
    separator = next((mark for mark in "\t," if mark in text), " ")
    if ";" in text:
        row = [cell.strip(' "').lower() for cell in text.strip().split(";")]
        if "url" in row and _COLUMNS.issuperset(row):
            raise semicolons()
    try:
        row = [cell.strip().lower() for cell in cells(text.strip(), separator)]
    except EntryError:
        return None
    is_report = {"line", "url", "status"}.issubset(row)  # a CSV report of ours
    known = _COLUMNS | _REPORT_COLUMNS if is_report else _COLUMNS
    if "url" not in row or not known.issuperset(row):
        return None
    names = tuple("name" if cell in NAME_KEYS else cell if cell in _COLUMNS else "" for cell in row)
    for name in names:
        if name not in ("mirror", "") and names.count(name) > 1:
            raise EntryError(f"the header has two columns for {name}", "keep one of them")
    return Columns(separator, names)


def parse_line(
    text: str, number: int, columns: Columns | None = None, naming: Callable[[str], str] = name_of_url
) -> Entry | None:
    """The entry of line `number`, or None for a blank line or a comment. naming: names a URL that has no name. Raises
    EntryError."""
    text = text.rstrip("\r\n")
    stripped = text.strip()
    if not stripped or stripped[0] == "#":
        return None
    if (error := command(stripped)) is not None:
        raise error
    if columns is not None and (columns.separator != " " or columns.names[:2] != ("name", "url")):
        return _by_columns(cells(text, columns.separator), number, columns, naming)
    # Also below a header with blanks between its columns: a name may hold blanks, so all text before the URL is the
    # name.
    parts = cut(text)
    if parts is None:
        if parse_header(text):
            raise EntryError("there is no URL in this line", "move it to line 1")
        cure = "write NAME, then a blank, TAB or comma, then https://…"
        raise without_url(text) or EntryError("there is no URL in this line", cure)
    name, from_url = parts
    if columns is not None:
        return _by_columns([name, *from_url], number, columns, naming)
    return parse_cells(name, from_url, number, naming)


def parse_cells(name: str, from_url: Sequence[str], number: int, naming: Callable[[str], str] = name_of_url) -> Entry:
    """The entry of a line that is cut already: its name, and the cells from the URL on. Raises EntryError."""
    with_fields = Fields()
    try:
        if not name and has_cell_behind(from_url[0]):
            raise semicolons()
        _put_fields(with_fields, from_url[1:])
        url = from_url[0].strip()
        if '"' in url:
            raise EntryError("there is a quote inside the URL", 'quote the whole URL, as in "https://…", or write %22')
        return _entry(number, name, url, with_fields, naming)
    except EntryError as error:
        error.name = error.name or name or None
        raise


def _by_columns(row: Sequence[str], number: int, columns: Columns, naming: Callable[[str], str]) -> Entry:
    with_fields = Fields()
    name = url = ""
    try:
        for column, cell in zip(columns.names, row, strict=False):
            value = cell.strip()
            if column == "name":
                name = value
            elif column == "url":
                url = value
            elif value and column:  # an empty cell says nothing
                with_fields.put(column, value)
        _put_fields(with_fields, row[len(columns.names) :])
        if not url:
            raise EntryError("the url column is empty", "write the URL or remove the line")
        return _entry(number, name, url, with_fields, naming)
    except EntryError as error:
        error.name = error.name or name or None
        raise


def parse_json(text: str, number: int, *, numbered: bool = False, naming: Callable[[str], str] = name_of_url) -> Entry:
    """The entry of line `number` of a JSON Lines list; numbered: its row says the number. Raises EntryError."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else "a number or a nesting is too large"
        raise EntryError(f"this is not JSON ({why})", "write one JSON object per line") from None
    if not isinstance(row, dict):
        raise EntryError("this is not a JSON object", 'write one object per line, as {"name": "…", "url": "…"}')
    return entry_of_row(row, row["line"] if numbered else number, naming)


def entry_of_row(row: Mapping[str, Any], number: int, naming: Callable[[str], str] = name_of_url) -> Entry:
    """The entry of a row of JSON Lines, or of a dict that somebody's program made. Raises EntryError."""
    with_fields = Fields()
    texts: dict[str, str] = {}
    extra: str | None = None
    try:
        for key, value in row.items():
            if key == "extra" and isinstance(value, Mapping):
                extra = json.dumps(value, default=str) if value else None
            elif value is not None and key not in _REPORT_KEYS:
                _put_json(with_fields, texts, key, value)
        if "url" not in texts:
            raise EntryError("the row has no url", 'add "url": "https://…"')
        entry = _entry(number, texts.get("name", ""), texts["url"].strip(), with_fields, naming)
        return entry if extra is None else replace(entry, extra=extra)
    except EntryError as error:
        error.name = error.name or texts.get("name")
        raise


def _put_json(with_fields: Fields, texts: dict[str, str], key: str, value: Any) -> None:
    if key in NAME_KEYS or key == "url":
        place = "url" if key == "url" else "name"
        if texts.setdefault(place, _text(key, value)) != value:
            raise EntryError("the name is given twice and differs", "keep one of the two")
    elif key in ("size", "segments") and isinstance(value, (int, float)):  # `put` refuses what is no whole number
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


def _entry(number: int, name: str, url: str, with_fields: Fields, naming: Callable[[str], str]) -> Entry:
    if " " in url and _GLUED_FIELD.search(url):
        raise EntryError("a blank stands between the URL and a field", "use the separator before the URL there as well")
    url = normal_url(url)
    if not name:
        name = naming(url)
    check_name(name)
    f = with_fields
    return Entry(number, name, url, f.size, f.digests, f.mirrors, f.headers, f.segments)


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
        if not equals or not _FIELD_NAME.fullmatch(key):
            raise EntryError(
                f"{show(redact(cell), 40)} behind the URL is no key=value field",
                "write the name before the URL, fields as size=1048576, a blank inside the URL as %20, "
                "or name the columns in line 1",
            )
        with_fields.put(key, value.strip())
        after_header = after_header or is_header
