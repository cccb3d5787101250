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
# for one component. Its folder and its site are those of many lines: `folder_fits` and `site_fits` look at them once.
_DEVICE = r"(?:con|prn|aux|nul|com\d|lpt\d)(?:[./,\t\r ]|\Z)"
_SUFFIX = r"(?<!\.part)(?<!\.part\.json)(?<!\.part\.old)(?<!\.part\.old\.json)(?<!\.part\.json\.tmp)"
_COMPONENT = rf"(?!(?i:{_DEVICE}))[\w-][\w.-]{{0,236}}(?<!\.)"
_NAME = rf"(?=\w)(?P<name>(?P<folder>(?:[\w./-]*/)?){_COMPONENT})(?i:{_SUFFIX})"
_LAST = rf"(?=\w)(?P<name>{_COMPONENT})(?i:{_SUFFIX})(?=[\r ]|\Z)"
_FOLDER = re.compile(rf"(?=.{{2,200}}\Z)(?:{_COMPONENT}/)+".encode())
_SITE = re.compile(SITE.encode())
_LOOSE_SITE = r"https?://[a-z0-9.:-]+"


def _pattern(front: str, separator: str) -> re.Pattern[bytes]:
    fields = rf"(?:{separator}size=(?P<size>\d{{1,18}}))?(?:{separator}sha256=(?P<sha256>[0-9a-f]{{64}}))?\r?"
    return re.compile((front + fields).encode())


def _named(separator: str) -> re.Pattern[bytes]:
    """NAME, separator, URL."""
    return _pattern(rf"{_NAME}(?P<mark>{separator})(?P<url>(?P<site>{_LOOSE_SITE}){PATH})", "(?P=mark)")


_NAMED = {None: _named(r" +|\t|,"), " ": _named(" +"), "\t": _named(r"\t"), ",": _named(",")}
# A URL alone, without a query, whose last segment is a plain name.
_BARE = _pattern(rf"(?P<url>(?P<site>{_LOOSE_SITE})/(?:[{SAFE}]*/)?{_LAST})", " +")
_NEVER = re.compile(rb"(?!)")


def _groups(pattern: re.Pattern[bytes], *names: str) -> tuple[int, ...]:
    return tuple(pattern.groupindex[name] for name in names)


# The numbers of the groups that the loop over a million lines asks for; the site is scheme and host.
NAMED_GROUPS = _groups(_NAMED[None], "name", "folder", "site", "size")
BARE_GROUPS = _groups(_BARE, "name", "site", "size")


def folder_fits(folder: bytes) -> bool:
    """The folder of a plain name, with its last '/', is plain too."""
    return _FOLDER.fullmatch(folder) is not None


def site_fits(site: bytes) -> bool:
    """The site of a plain line is in normal form."""
    return _SITE.fullmatch(site) is not None


class Form:
    """How every line of a list is read.

    columns: those of its header. json: it is JSON Lines. named, bare: expressions that match the plain lines with a
    name, and those without; `folder_fits` and `site_fits` must agree.
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
        match = self._plain(raw)
        if match is None:
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
        match = self._plain(raw)
        return None if match is None else match["name"]

    def _plain(self, raw: bytes) -> re.Match[bytes] | None:
        match = self.named.fullmatch(raw)
        if match is not None:
            if (folder := match["folder"]) and not folder_fits(folder):
                return None
        elif (match := self.bare.fullmatch(raw)) is None:
            return None
        return match if site_fits(match["site"]) else None


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise EntryError("the line is not UTF-8", "save the list as UTF-8") from None
