"""Recognises text that is no list, and says what to do about it.

People give as a list: a script of wget commands, a CSV file with semicolons, an address without `https://`, a JSON
document. Some of these could even be read, with wrong names. Each is recognised here by its form alone, and its error
says how to make a list of it. Pure text; `entry.py` asks about lines, `lists/checking/check.py` about the beginning of
a file.
"""

from __future__ import annotations

import json
import re

from bulkspider.entries.names import EntryError, show
from bulkspider.entries.urls import redact
from bulkspider.regex import regex

# Commands that fetch URLs. `lists/checking/reader.py` knows them too: a name without blanks takes a faster way there.
COMMANDS = r"(?:wget2?|curl|aria2c|axel|iwr|invoke-webrequest)(?:\.exe)?"
# Followed by a blank and an option, a URL or a backslash. A file that is named so can be listed with a TAB or comma.
_COMMAND = regex(
    rf"(?:(?:\$|sudo|nohup|time) +)*(?:/\S*/)?({COMMANDS})(?: +(?:-|[\"']?[a-z][a-z0-9+.-]*://|\\)| *\\?$)",
    re.IGNORECASE,
)
_MISPLACED = regex(r"(\S)[\"']?https?://", re.IGNORECASE)
_ADDRESS = regex(
    r"(?:^|(?<=[\s,;\"]))(?://)?((?:(?:[a-z0-9-]+\.)+[a-z]{2,}|localhost|[0-9]+(?:\.[0-9]+){3})(?::[0-9]+)?/[^\s,;\"]+)",
    re.IGNORECASE,
)
# The start of a further cell of a spreadsheet: a size, a hash, a field, or a text in quotes.
_CELL_BEHIND_URL = regex(
    r";(?:[0-9]+(?=;|$)|[0-9a-f]{32,128}(?=;|$)|\"|(?:size|md5|sha1|sha256|sha512|mirror)=)", re.IGNORECASE
)
_PAGE = regex(r"<(?:!doctype|html|head|body|\?xml|metalink)\b", re.IGNORECASE)
# Keys of a row of JSON Lines that hold more than a text or number.
_NESTED = ("mirrors", "headers", "checksums", "flags", "error")
_ONE_OBJECT = 'write JSON Lines, one object per line: {"name": "…", "url": "https://…"}'


def command(text: str) -> EntryError | None:
    """The error of a line of a script, which is no entry although it may hold a URL; None for another line."""
    found = _COMMAND.match(text)
    if found is None:
        return None
    # No more of it is shown: it may hold a password.
    return EntryError(
        f"this is a command ({found[1]}) of a script, not an entry",
        """take the URLs out of it: (echo url; grep -oE "https?://[^\\"' ]+" SCRIPT) > LIST""",
    )


def without_url(text: str) -> EntryError | None:
    """Why no URL was found in a line; None when that is not known."""
    found = _MISPLACED.search(text)
    if found is not None and found[1] == ";":
        return semicolons()
    if found is not None:
        return EntryError(f"there is {show(found[1])} before the URL", "write a blank, TAB or comma in its place")
    found = _ADDRESS.search(text)
    return None if found is None else no_scheme(found[1])


def no_scheme(address: str) -> EntryError:
    """The error of an address such as example.org/a.bin."""
    return EntryError(f"there is no URL in this line: {show(redact(address), 60)} lacks https://", "write it in front")


def is_address(text: str) -> bool:
    """True when `text` may be a URL that lacks https://."""
    return _ADDRESS.fullmatch(text) is not None


def semicolons() -> EntryError:
    """The error of a file as Excel writes it in many countries."""
    return EntryError(
        "the cells are separated by semicolons", "separate them by commas or TABs; a spreadsheet saves such files, too"
    )


def has_cell_behind(url: str) -> bool:
    """True when further cells, separated by semicolons, follow the URL at the start of a line."""
    return ";" in url and _CELL_BEHIND_URL.search(url) is not None


def document(text: str) -> EntryError | None:
    """The error of a file whose first line with content is `text`, when it is no list but a document."""
    text = text.strip()
    if _PAGE.match(text):
        return EntryError("this is an HTML or XML document, not a list", "write a line NAME URL for each file")
    if text[:1] == "[" and (text[1:].lstrip()[:1] or "{") in '{["':
        return EntryError("this is a JSON array, not JSON Lines", f"{_ONE_OBJECT}, as jq -c '.[]' does")
    if text[:1] != "{":
        return None
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        foreign = error.pos >= len(text) and text[-1] in "{[,:"  # it goes on in the next line
    except (ValueError, RecursionError):  # `parse_json` tells
        return None
    else:
        nested = any(isinstance(value, (list, dict)) for key, value in row.items() if key not in _NESTED)
        foreign = nested and not any(key.lower() == "url" for key in row)
    return EntryError("this is a JSON document of an unknown form", _ONE_OBJECT) if foreign else None
