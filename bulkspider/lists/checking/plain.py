"""Plain lines: a simple name, one separator, a simple URL, perhaps size, hash and mirrors.

Most lists have only these. For them one regular expression gives the same result as `entries/entry.py` in a tenth of
the time; all other lines are read by `entry.py`. A property test checks that both agree. The patterns are those of
bytes, and of many lines at once.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache

from bulkspider.entries.entry import Columns
from bulkspider.entries.fields import DIGESTS
from bulkspider.entries.mistakes import COMMANDS
from bulkspider.entries.names import fold
from bulkspider.entries.urls import PATH, SAFE, SITE
from bulkspider.regex import regex
from bulkspider.text import CONTROL, UNSEEN

# A plain name: letters, digits, '_', '.', '-' and folders; no device of Windows, no suffix of ours, short enough for
# one component. Many lines have the same folder and site, which `folder_fits` and `site_fits` check once. For devices
# the first letter is tested first, which is faster.
_DEVICE = r"(?=[acnplACNPL])(?i:con|prn|aux|nul|com\d|lpt\d)(?:[./,\t\r\n \"]|\Z)"
_SUFFIX = r"(?<!\.part)(?<!\.part\.json)(?<!\.part\.old)(?<!\.part\.old\.json)(?<!\.part\.json\.tmp)"


def _component(letter: str) -> str:
    return rf"(?!{_DEVICE})[{letter}-][{letter}.-]{{0,236}}(?<!\.)"


def _name(letter: str) -> str:
    return rf"(?=[{letter}])(?P<name>(?P<folder>(?:[{letter}./-]*/)?){_component(letter)})(?i:{_SUFFIX})"


# Bytes of 128 and more are letters here, too; `key_of_plain` looks at them.
_ASCII_LETTER = r"\w"
_LETTER = r"\w\x80-\xff"
_NAME = _name(_LETTER)
_LAST = rf"(?=\w)(?P<name>{_component(_ASCII_LETTER)})(?i:{_SUFFIX})(?=[\r\n ]|\Z)"
_FOLDER = regex(rf"(?=.{{2,200}}\Z)(?:{_component(_LETTER)}/)+".encode())
# Characters that are not seen, that another character folds to, or that are part of the name of a device.
_ODD = regex(rf"[{CONTROL}{UNSEEN}\s\u00b9\u00b2\u00b3\u017f\u212a]")
_SITE = regex(SITE.encode())
# "wget https://…" is a line of a script; see `mistakes.py`.
_NO_COMMAND = rf"(?!(?=[aciwACIW])(?i:{COMMANDS}) )"
_TAB = r"\t"
_LOOSE_SITE = r"https?://[a-z0-9.:-]+"
_URL = rf"(?P<url>(?P<site>{_LOOSE_SITE}){PATH})"
# For formats that give rows as `Form.rows` does: the groups `name` and `folder`, of ASCII only, and the site of a URL.
PLAIN_NAME, PLAIN_SITE = _name(_ASCII_LETTER).encode(), _LOOSE_SITE.encode()

_HASHES = "|".join(rf"{name}=[0-9a-f]{{{2 * size}}}" for name, size in DIGESTS.items())

# The groups of a PlainRow.
GROUPS = ("name", "folder", "mark", "site", "size")
NEVER = regex(rb"(?!)")
OTHER_LINES = regex(rb"()()()()()()([^\n]*)\n")


def folder_fits(folder: bytes) -> bool:
    """The folder of a plain name, with its last '/', is plain too."""
    return _FOLDER.fullmatch(folder) is not None and key_of_plain(folder) is not None


def site_fits(site: bytes) -> bool:
    """The site of a plain line is in normal form."""
    return _SITE.fullmatch(site) is not None


def key_of_plain(name: bytes) -> bytes | None:
    """The key under which a plain name or folder collides with others (`fold`); None when `entry.py` must look at its
    characters."""
    if name.isascii():
        return name.lower()
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return None
    return None if _ODD.search(text) else fold(text).encode()


def _pattern(front: str, separator: str) -> re.Pattern[bytes]:
    fields = (
        rf"(?:{separator}size=(?P<size>\d{{1,18}}))?(?:{separator}(?P<hash>{_HASHES}))?"
        rf"(?P<mirrors>(?:{separator}mirror={SITE}{PATH})*)\r?"
    )
    return regex((front + fields).encode())


def of_lines(plain: re.Pattern[bytes], *groups: str) -> re.Pattern[bytes]:
    """For `findall` in a text of whole lines: of a plain one the line and these groups, of another the last item."""
    others = rb"\(\?P<(?!(?:" + "|".join(groups).encode() + rb")>)\w+>"
    return regex(rb"(" + re.sub(others, b"(?:", plain.pattern) + rb")\n|([^\n]*)\n")


@lru_cache(maxsize=8)
def named(separator: str | None) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """NAME, separator (None: any of them), URL: of a line, and of many."""
    mark = {None: r" +|\t|,", " ": " +", "\t": _TAB, ",": ","}[separator]
    front = "" if separator in (",", "\t") else _NO_COMMAND
    plain = _pattern(rf"{front}{_NAME}(?P<mark>{mark}){_URL}", "(?P=mark)")
    return plain, of_lines(plain, *GROUPS)


@lru_cache(maxsize=1)
def bare() -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """A URL alone, without a query, whose last segment is a plain name. Not one with ';': a cell may stand behind it
    (`mistakes.py`)."""
    folder = SAFE.replace(";", "")
    plain = _pattern(rf"(?P<url>(?P<site>{_LOOSE_SITE})/(?:[{folder}]*/)?{_LAST})", " +")
    return plain, of_lines(plain, "site", "name", "size")


@lru_cache(maxsize=1)
def numbered() -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """A line of a numbered list (see `Form`): NAME, its line there, URL and what is known, between TABs."""
    plain = regex(
        (
            rf"{_NAME}\t(?P<told>\d{{1,9}})\t{_URL}(?:\tsize=(?P<size>\d{{1,18}}))?"
            rf"(?P<digests>(?:\t(?:{_HASHES}))*)(?P<mirrors>(?:\tmirror={SITE}{PATH})*)"
        ).encode()
    )
    return plain, of_lines(plain, "name", "folder", "told", "site", "size")


@lru_cache(maxsize=16)
def of_columns(columns: Columns) -> re.Pattern[bytes]:
    """The lines below a header that has the columns name and url; what is in the others may be missing."""
    separator = {"\t": _TAB, ",": ","}.get(columns.separator)
    cells = {
        "name": _NAME,
        "url": _URL,
        "size": r"(?P<size>\d{1,18})?",
        "mirror": rf"(?P<mirrors>{SITE}{PATH})?",
        "": r"[\w.:/+-]*",
        **{name: rf"(?P<{name}>[0-9a-f]{{{2 * size}}})?" for name, size in DIGESTS.items()},
    }
    names = columns.names
    if separator is None or not {"name", "url"} <= set(names) <= cells.keys() or names.count("mirror") > 1:
        return NEVER
    return regex((separator.join(map(cells.__getitem__, names)) + _missing_groups(names) + r"\r?").encode())


@lru_cache(maxsize=16)
def of_keys(keys: tuple[str, ...]) -> re.Pattern[bytes]:
    """Rows of JSON Lines that have these keys in this order; NEVER when one of them is not a simple one."""
    url = rf'"{SITE}{PATH}"'
    values = {
        "name": rf'"{_NAME}"',
        "url": rf'"{_URL}"',
        "size": r"(?:null|(?P<size>0|[1-9]\d{0,17}))",
        "mirrors": rf"\[(?P<mirrors>(?:{url}(?:, ?{url})*)?)\]",
        **{name: rf'(?:null|"(?P<{name}>[0-9a-f]{{{2 * size}}})")' for name, size in DIGESTS.items()},
    }
    if not {"name", "url"} <= set(keys) <= values.keys():
        return NEVER
    row = ", ?".join(f'"{key}": ?{values[key]}' for key in keys)
    return regex((rf"\{{{row}\}}" + _missing_groups(keys) + r"\r?").encode())


def _missing_groups(names: tuple[str, ...]) -> str:
    return r"(?P<mark>)" if "size" in names else r"(?P<mark>)(?P<size>)"


def keys_of(row: bytes) -> tuple[str, ...]:
    """The keys of a row of JSON Lines, in its order; none where it is no row."""
    try:
        found = json.loads(row)
    except (ValueError, RecursionError):
        return ()
    return tuple(found) if isinstance(found, dict) else ()
