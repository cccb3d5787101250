"""How the lines of one list are read: as JSON, by the columns of its header, or by the grammar.

A list is in one form from its first line to its last, and a `Form` is what the check and the later taking share. It
also knows the lines nearly all lists are made of: a simple name, one separator, a simple URL, perhaps size and sha256.
For these one regular expression says all that `entry.py` would say, in a tenth of the time; whatever it does not match
is read there. A property test holds that the two agree. Bytes of a line in, an `Entry` out; where the bytes lie in the
file is the business of `listcheck.py` and `sources.py`.
"""

from __future__ import annotations

import re

from bulkspider.entry import Columns, Entry, EntryError, parse_header, parse_json, parse_line
from bulkspider.urls import PATH, SAFE, SITE

BOM = b"\xef\xbb\xbf"

# A plain name: ASCII letters, digits, '_', '.', '-' and folders; no device of Windows, no suffix of ours, short enough
# for one component. A name with folders is looked at once more, with FOLDERS.
_DEVICE = r"(?:con|prn|aux|nul|com\d|lpt\d)(?:[./,\t\r ]|\Z)"
_SUFFIX = r"(?<!\.part)(?<!\.part\.json)(?<!\.part\.old)(?<!\.part\.old\.json)(?<!\.part\.json\.tmp)"
_NAME = rf"(?!(?i:{_DEVICE}))(?P<name>\w[\w./-]{{0,236}}(?<![./]))(?i:{_SUFFIX})"
_COMPONENT = rf"(?!(?i:{_DEVICE}))[\w-][\w.-]*(?<!\.)"
FOLDERS = re.compile(rf"(?:{_COMPONENT}/)*{_COMPONENT}".encode())


def _pattern(front: str, separator: str) -> re.Pattern[bytes]:
    fields = rf"(?:{separator}size=(?P<size>\d{{1,18}}))?(?:{separator}sha256=(?P<sha256>[0-9a-f]{{64}}))?\r?"
    return re.compile((front + fields).encode())


def _named(separator: str) -> re.Pattern[bytes]:
    """NAME, separator, URL."""
    return _pattern(rf"{_NAME}(?P<mark>{separator})(?P<url>(?P<site>{SITE}){PATH})", "(?P=mark)")


_NAMED = {None: _named(r" +|\t|,"), " ": _named(" +"), "\t": _named(r"\t"), ",": _named(",")}
# A URL alone, without a query, whose last segment is a plain name.
_LAST = _NAME.replace("[\\w./-]", "[\\w.-]") + r"(?=[\r ]|\Z)"
_BARE = _pattern(rf"(?P<url>(?P<site>{SITE})/(?:[{SAFE}]*/)?{_LAST})", " +")
_NEVER = re.compile(rb"(?!)")


def _groups(pattern: re.Pattern[bytes]) -> tuple[int, int, int]:
    return pattern.groupindex["name"], pattern.groupindex["site"], pattern.groupindex["size"]


# The numbers of the groups name, site (scheme and host) and size, for the loop that reads a million lines.
NAMED_GROUPS = _groups(_NAMED[None])
BARE_GROUPS = _groups(_BARE)


class Form:
    """How every line of a list is read.

    columns: those of its header. json: it is JSON Lines. named, bare: expressions that match the plain lines with a
    name, and those without; a name with a '/' must match FOLDERS as well.
    """

    __slots__ = ("bare", "columns", "json", "named")

    def __init__(self, columns: Columns | None = None, *, json: bool = False) -> None:
        self.columns = columns
        self.json = json
        self.named = self.bare = _NEVER
        if columns is None and not json:
            self.named, self.bare = _NAMED[None], _BARE
        elif columns is not None and columns.names == ("name", "url"):
            self.named = _NAMED[columns.separator]
        elif columns is not None and columns.names == ("url",):
            self.bare = _BARE

    @classmethod
    def of_header(cls, raw: bytes) -> Form | None:
        """The form that a header line asks for, or None when the line is no header. Raises EntryError."""
        columns = parse_header(raw.decode(errors="replace"))
        return None if columns is None else cls(columns)

    def read(self, raw: bytes, number: int) -> Entry | None:
        """The entry of a line, or None for a blank line or a comment. Raises EntryError."""
        entry = self.plain(raw, number)
        if entry is not None:
            return entry
        text = _text(raw)
        if not self.json:
            return parse_line(text, number, self.columns)
        text = text.strip()
        return None if not text or text[0] == "#" else parse_json(text, number)

    def plain(self, raw: bytes, number: int) -> Entry | None:
        """The entry of a plain line; None says only that the line is not plain."""
        match = self.named.fullmatch(raw) or self.bare.fullmatch(raw)
        if match is None or not _fits(match["name"]):
            return None
        name, url, size, sha256 = match.group("name", "url", "size", "sha256")
        return Entry(
            number,
            name.decode(),
            url.decode(),
            None if size is None else int(size),
            () if sha256 is None else (("sha256", sha256.decode()),),
        )

    def plain_name(self, raw: bytes) -> bytes | None:
        """The name of a plain line."""
        match = self.named.fullmatch(raw) or self.bare.fullmatch(raw)
        return match["name"] if match is not None and _fits(match["name"]) else None


def _fits(name: bytes) -> bool:
    return b"/" not in name or FOLDERS.fullmatch(name) is not None


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise EntryError("the line is not UTF-8", "save the list as UTF-8") from None
