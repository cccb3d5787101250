"""How the lines of one list are read: as JSON, by the columns of its header, or by the grammar.

All lines of a list have one form, a `Form`, which is used by the check and when entries are taken later. Plain lines
are read by one regular expression (`plain.py`), all others by `entries/entry.py`. Bytes of a line in, an `Entry` out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, cast

from bulkspider.entries.entry import Columns, Entry, EntryError, parse_cells, parse_header, parse_json, parse_line
from bulkspider.entries.fields import DIGESTS
from bulkspider.entries.names import BY_LAST_PART, Naming
from bulkspider.lists.checking import plain
from bulkspider.lists.checking.plain import folder_fits, key_of_plain, site_fits
from bulkspider.regex import regex

BOM = b"\xef\xbb\xbf"

_MIRROR = regex(rb"https?://[^\t ,\"]+")

# (line, name, folder, mark, site, size, other); site is scheme and host. Either `line` or `other` is empty. The mark of
# a numbered list is the line's number there, of others the separator.
PlainRow = tuple[bytes, bytes, bytes, bytes | int, bytes, bytes, bytes]


class Form:
    """How every line of a list is read.

    columns: those of its header. json: it is JSON Lines. keys: of a row of it, as most others have them. numbered: each
    of its rows tells its line in another list, of which it was made (`formats/row.py`). naming: names a URL that has no
    name.
    """

    __slots__ = ("_bare", "_digest_names", "_named", "_named_lines", "_order", "columns", "json", "naming", "numbered")

    def __init__(
        self,
        columns: Columns | None = None,
        *,
        json: bool = False,
        keys: tuple[str, ...] = (),
        numbered: bool = False,
        naming: Naming = BY_LAST_PART,
    ) -> None:
        self.columns = columns
        self.json = json
        self.numbered = numbered
        self.naming = naming
        # What matches a plain line with a name, and one without; `folder_fits` and `site_fits` must agree.
        self._named, self._named_lines, self._bare = plain.NEVER, plain.OTHER_LINES, plain.NEVER
        self._order: Callable[[PlainRow], PlainRow] | None = None  # of the groups, where it is not that of a PlainRow
        names = keys if columns is None else columns.names
        self._digest_names = tuple(name for name in names if name in DIGESTS)
        if numbered:
            self._named, self._named_lines = plain.numbered()
        elif json:
            self._use(plain.of_keys(keys))
        elif columns is None or columns.names == ("name", "url"):
            self._named, self._named_lines = plain.named(None if columns is None else columns.separator)
        else:
            self._use(plain.of_columns(columns))
        unnamed = (columns is None or columns.names == ("url",)) and not (json or numbered)
        if unnamed and naming == BY_LAST_PART:
            self._bare = plain.bare()[0]

    def _use(self, named: re.Pattern[bytes]) -> None:
        """A pattern whose groups are in the order of the list."""
        if named is not plain.NEVER:
            self._named, self._named_lines = named, plain.of_lines(named, *plain.GROUPS)
            places = self._named_lines.groupindex
            self._order = cast(Any, itemgetter(0, *(places[group] - 1 for group in plain.GROUPS), -1))

    @classmethod
    def of_header(cls, raw: bytes, naming: Naming = BY_LAST_PART) -> Form | None:
        """The form that a header line asks for, or None when the line is no header. Raises EntryError."""
        columns = parse_header(raw.decode(errors="replace"))
        return None if columns is None else cls(columns, naming=naming)

    def read(self, raw: bytes, number: int) -> Entry | None:
        """The entry of a line, or None for a blank line or a comment. Raises EntryError."""
        entry = self.plain(raw, number)
        if entry is not None:
            return entry
        text = _text(raw)
        if self.numbered and text[:1] != "{":
            name, told, *cells = text.split("\t")
            return parse_cells(name, cells, int(told))
        if not self.json and not self.numbered:
            return parse_line(text, number, self.columns, self.naming)
        text = text.strip()
        if not text or text[0] == "#":
            return None
        return parse_json(text, number, numbered=self.numbered, naming=self.naming)

    def line_of(self, raw: bytes, number: int) -> int:
        """The line number for messages: `number`, or the one in the row of a numbered list."""
        if not self.numbered:
            return number
        return int(json.loads(raw)["line"] if raw[:1] == b"{" else raw.split(b"\t", 2)[1])

    def plain(self, raw: bytes, number: int) -> Entry | None:
        """The entry of a plain line; None says only that the line is not plain."""
        match = self._plain(raw)
        if match is None:
            return None
        name, url, size = match.group("name", "url", "size")
        told = match["told"] if self.numbered else number
        known = int(size) if size else None
        return Entry(int(told), name.decode(), url.decode(), known, self._digests(match), _mirrors(match))

    def plain_name(self, raw: bytes) -> bytes | None:
        """The name of a plain line."""
        match = self._plain(raw)
        return None if match is None else match["name"]

    def rows(self, text: bytes) -> Iterable[PlainRow]:
        """Every line of a text of whole lines. Its first line says what nearly all are; the others are `other`, and so
        are plain ones that have a name where it has none, or the other way round."""
        if self._bare.fullmatch(text, 0, text.find(b"\n")):
            found = plain.bare()[1].findall(text)
            return ((line, name, b"", b"", site, size, other) for line, site, name, size, other in found)
        rows: list[PlainRow] = self._named_lines.findall(text)
        return rows if self._order is None else map(self._order, rows)

    def _digests(self, match: re.Match[bytes]) -> tuple[tuple[str, str], ...]:
        group = "digests" if self.numbered else "hash"
        if group in match.re.groupindex:
            fields = (match[group] or b"").decode().split("\t" if self.numbered else None)
            return tuple((key, value) for key, _, value in (field.partition("=") for field in fields if field))
        return tuple((name, match[name].decode()) for name in self._digest_names if match[name])

    def _plain(self, raw: bytes) -> re.Match[bytes] | None:
        match = self._named.fullmatch(raw)
        if match is not None:
            if (folder := match["folder"]) and not folder_fits(folder):
                return None
            if key_of_plain(match["name"]) is None:
                return None
        elif (match := self._bare.fullmatch(raw)) is None:
            return None
        return match if site_fits(match["site"]) else None


def _mirrors(match: re.Match[bytes]) -> tuple[str, ...]:
    """The URLs of the group `mirrors`: fields with any separator, a cell, or strings of JSON."""
    if "mirrors" not in match.re.groupindex or not match["mirrors"]:
        return ()
    found = _MIRROR.findall(match["mirrors"])
    return tuple(dict.fromkeys(url.decode() for url in found))


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise EntryError("the line is not UTF-8", "save the list as UTF-8") from None
