"""How the lines of one list are read: as JSON, by the columns of its header, or by the grammar.

All lines of a list have one form, a `Form`, which is used by the check and when entries are taken later. Most lists
have only plain lines: a simple name, one separator, a simple URL, perhaps size and sha256. For these, one regular
expression gives the same result as `entry.py` in a tenth of the time; all other lines are read by `entry.py`. A
property test checks that both agree. Bytes of a line in, an `Entry` out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from operator import itemgetter
from typing import Any, cast

from bulkspider.entries.entry import Columns, Entry, EntryError, parse_cells, parse_header, parse_json, parse_line
from bulkspider.entries.fields import DIGESTS
from bulkspider.entries.mistakes import COMMANDS
from bulkspider.entries.names import BY_LAST_PART, Naming
from bulkspider.entries.urls import PATH, SAFE, SITE

BOM = b"\xef\xbb\xbf"

# A plain name: ASCII letters, digits, '_', '.', '-' and folders; no device of Windows, no suffix of ours, short enough
# for one component. Many lines have the same folder and site, which `folder_fits` and `site_fits` check once. For
# devices the first letter is tested first, which is faster.
_DEVICE = r"(?=[acnplACNPL])(?i:con|prn|aux|nul|com\d|lpt\d)(?:[./,\t\r\n ]|\Z)"
_SUFFIX = r"(?<!\.part)(?<!\.part\.json)(?<!\.part\.old)(?<!\.part\.old\.json)(?<!\.part\.json\.tmp)"
_COMPONENT = rf"(?!{_DEVICE})[\w-][\w.-]{{0,236}}(?<!\.)"
_NAME = rf"(?=\w)(?P<name>(?P<folder>(?:[\w./-]*/)?){_COMPONENT})(?i:{_SUFFIX})"
_LAST = rf"(?=\w)(?P<name>{_COMPONENT})(?i:{_SUFFIX})(?=[\r\n ]|\Z)"
_FOLDER = re.compile(rf"(?=.{{2,200}}\Z)(?:{_COMPONENT}/)+".encode())
_SITE = re.compile(SITE.encode())
# "wget https://…" is a line of a script; see `mistakes.py`.
_NO_COMMAND = rf"(?!(?=[aciwACIW])(?i:{COMMANDS}) )"
_TAB = r"\t"
_LOOSE_SITE = r"https?://[a-z0-9.:-]+"
# For formats that give rows as `Form.rows` does: the groups `name` and `folder`, and the site of a URL.
PLAIN_NAME, PLAIN_SITE = _NAME.encode(), _LOOSE_SITE.encode()


_HASHES = "|".join(rf"{name}=[0-9a-f]{{{2 * size}}}" for name, size in DIGESTS.items())


def _pattern(front: str, separator: str) -> re.Pattern[bytes]:
    fields = rf"(?:{separator}size=(?P<size>\d{{1,18}}))?(?:{separator}(?P<hash>{_HASHES}))?\r?"
    return re.compile((front + fields).encode())


def _of_lines(plain: re.Pattern[bytes], *groups: str) -> re.Pattern[bytes]:
    """For `findall` in a text of whole lines: of a plain one the line and these groups, of another the last item."""
    others = rb"\(\?P<(?!(?:" + "|".join(groups).encode() + rb")>)\w+>"
    return re.compile(rb"(" + re.sub(others, b"(?:", plain.pattern) + rb")\n|([^\n]*)\n")


_GROUPS = ("name", "folder", "mark", "site", "size")


@lru_cache(maxsize=8)
def _named(separator: str | None) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """NAME, separator (None: any of them), URL: of a line, and of many."""
    mark = {None: r" +|\t|,", " ": " +", "\t": _TAB, ",": ","}[separator]
    front = "" if separator in (",", "\t") else _NO_COMMAND
    url = rf"(?P<url>(?P<site>{_LOOSE_SITE}){PATH})"
    plain = _pattern(rf"{front}{_NAME}(?P<mark>{mark}){url}", "(?P=mark)")
    return plain, _of_lines(plain, *_GROUPS)


@lru_cache(maxsize=1)
def _bare() -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """A URL alone, without a query, whose last segment is a plain name."""
    plain = _pattern(rf"(?P<url>(?P<site>{_LOOSE_SITE})/(?:[{SAFE}]*/)?{_LAST})", " +")
    return plain, _of_lines(plain, "site", "name", "size")


_NEVER = re.compile(rb"(?!)")
_OTHER_LINES = re.compile(rb"()()()()()()([^\n]*)\n")


@lru_cache(maxsize=1)
def _numbered() -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """A line of a numbered list (see `Form`): NAME, its line there, URL and what is known, between TABs."""
    plain = re.compile(
        (
            rf"{_NAME}\t(?P<told>\d{{1,9}})\t(?P<url>(?P<site>{_LOOSE_SITE}){PATH})(?:\tsize=(?P<size>\d{{1,18}}))?"
            rf"(?P<digests>(?:\t(?:{_HASHES}))*)(?P<mirrors>(?:\tmirror={SITE}{PATH})*)"
        ).encode()
    )
    return plain, _of_lines(plain, "name", "folder", "told", "site", "size")


@lru_cache(maxsize=16)
def _of_columns(columns: Columns) -> re.Pattern[bytes]:
    """The lines below a header that has the columns name and url; what is in the others may be missing."""
    separator = {"\t": _TAB, ",": ","}.get(columns.separator)
    cells = {
        "name": _NAME,
        "url": rf"(?P<url>(?P<site>{_LOOSE_SITE}){PATH})",
        "size": r"(?P<size>\d{1,18})?",
        "": r"[\w.:/+-]*",
        **{name: rf"(?P<{name}>[0-9a-f]{{{2 * size}}})?" for name, size in DIGESTS.items()},
    }
    if separator is None or not {"name", "url"} <= set(columns.names) <= cells.keys():
        return _NEVER
    more = r"(?P<mark>)" if "size" in columns.names else r"(?P<mark>)(?P<size>)"
    return re.compile((separator.join(map(cells.__getitem__, columns.names)) + more + r"\r?").encode())


# (line, name, folder, mark, site, size, other); site is scheme and host. Either `line` or `other` is empty. The mark of
# a numbered list is the line's number there, of others the separator.
PlainRow = tuple[bytes, bytes, bytes, bytes | int, bytes, bytes, bytes]


def folder_fits(folder: bytes) -> bool:
    """The folder of a plain name, with its last '/', is plain too."""
    return _FOLDER.fullmatch(folder) is not None


def site_fits(site: bytes) -> bool:
    """The site of a plain line is in normal form."""
    return _SITE.fullmatch(site) is not None


class Form:
    """How every line of a list is read.

    columns: those of its header. json: it is JSON Lines. numbered: each of its rows tells its line in another list, of
    which it was made (`formats/row.py`). naming: names a URL that has no name.
    """

    __slots__ = ("_bare", "_named", "_named_lines", "_order", "columns", "json", "naming", "numbered")

    def __init__(
        self,
        columns: Columns | None = None,
        *,
        json: bool = False,
        numbered: bool = False,
        naming: Naming = BY_LAST_PART,
    ) -> None:
        self.columns = columns
        self.json = json
        self.numbered = numbered
        self.naming = naming
        # What matches a plain line with a name, and one without; `folder_fits` and `site_fits` must agree.
        self._named, self._named_lines, self._bare = _NEVER, _OTHER_LINES, _NEVER
        self._order: Callable[[PlainRow], PlainRow] | None = None  # of the groups, where it is not that of a PlainRow
        if numbered:
            self._named, self._named_lines = _numbered()
        if json or numbered:
            return
        if columns is None or columns.names == ("name", "url"):
            separator = columns.separator if columns is not None else None
            self._named, self._named_lines = _named(separator)
        elif (plain := _of_columns(columns)) is not _NEVER:
            self._named, self._named_lines = plain, _of_lines(plain, *_GROUPS)
            places = self._named_lines.groupindex
            self._order = cast(Any, itemgetter(0, *(places[group] - 1 for group in _GROUPS), -1))
        if (columns is None or columns.names == ("url",)) and naming == BY_LAST_PART:
            self._bare = _bare()[0]

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
        if self.numbered:
            digests, mirrors, told = match.group("digests", "mirrors", "told")
            return Entry(
                int(told),
                name.decode(),
                url.decode(),
                None if size is None else int(size),
                tuple((key, value) for key, _, value in _fields(digests)),
                tuple(dict.fromkeys(url for _, _, url in _fields(mirrors))),
            )
        return Entry(number, name.decode(), url.decode(), int(size) if size else None, self._digests(match))

    def plain_name(self, raw: bytes) -> bytes | None:
        """The name of a plain line."""
        match = self._plain(raw)
        return None if match is None else match["name"]

    def rows(self, text: bytes) -> Iterable[PlainRow]:
        """Every line of a text of whole lines. Its first line says what nearly all are; the others are `other`, and so
        are plain ones that have a name where it has none, or the other way round."""
        if self._bare.fullmatch(text, 0, text.find(b"\n")):
            return (
                (line, name, b"", b"", site, size, other) for line, site, name, size, other in _bare()[1].findall(text)
            )
        found: list[PlainRow] = self._named_lines.findall(text)
        return found if self._order is None else map(self._order, found)

    def _digests(self, match: re.Match[bytes]) -> tuple[tuple[str, str], ...]:
        if "hash" in match.re.groupindex:
            return tuple((key, value) for key, _, value in _fields(b"\t" + match["hash"])) if match["hash"] else ()
        names = self.columns.names if self.columns is not None else ()
        return tuple((name, match[name].decode()) for name in names if name in DIGESTS and match[name])

    def _plain(self, raw: bytes) -> re.Match[bytes] | None:
        match = self._named.fullmatch(raw)
        if match is not None:
            if (folder := match["folder"]) and not folder_fits(folder):
                return None
        elif (match := self._bare.fullmatch(raw)) is None:
            return None
        return match if site_fits(match["site"]) else None


def _fields(raw: bytes) -> Iterable[tuple[str, str, str]]:
    """The `key=value` fields behind TABs, cut at the first '='."""
    return (field.partition("=") for field in raw.decode().split("\t")[1:])


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise EntryError("the line is not UTF-8", "save the list as UTF-8") from None
