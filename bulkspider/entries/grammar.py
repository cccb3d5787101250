"""How one line of text is cut into cells.

`cells` knows the separator. `cut` does not: there the name ends where the URL begins, and the character before the URL
is the separator of the line. Quotes work as in CSV. What the cells mean is decided in `entry.py`.
"""

from __future__ import annotations

import csv

from bulkspider.entries.mistakes import semicolons
from bulkspider.entries.names import EntryError
from bulkspider.regex import regex

_URL_START = regex(r"(?:(?<=[\t,\" ])|^)[A-Za-z][A-Za-z0-9+.-]*://")


def cells(text: str, separator: str) -> list[str]:
    """The cells of `text`; a cell in double quotes may hold the separator (RFC 4180 §2.5-2.7)."""
    if '"' not in text:
        return text.split() if separator == " " else text.split(separator)
    try:
        rows = list(csv.reader([text], delimiter=separator, skipinitialspace=separator == " ", strict=True))
    except csv.Error as error:
        raise EntryError(f"the quotes do not match ({error})", "put double quotes around a whole cell") from None
    return [cell for row in rows for cell in row]


def cut(text: str) -> tuple[str, list[str]] | None:
    """The name, which is all that stands before the first URL, and the cells from the URL on; None without a URL."""
    found = _URL_START.search(text)
    if found is None:
        return None
    before, rest = text[: found.start()], text[found.start() :]
    if before.endswith('"'):  # the quote opens the cell of the URL
        before, rest = before[:-1], '"' + rest
    separator = before[-1:] or _after_quoted(rest)
    if separator == ";":
        raise semicolons()
    if separator not in ("\t", ","):
        separator = " "
    return _name(before, separator), cells(rest, separator)


def _after_quoted(rest: str) -> str:
    """The character behind a quoted URL at the start of a line: there it is the separator."""
    return rest[rest.find('"', 1) + 1 :][:1] if rest.startswith('"') else ""


def _name(before: str, separator: str) -> str:
    """The name from all that stands before the URL; in double quotes it may hold anything, as CSV has it."""
    name = before.removesuffix(separator).strip()
    if len(name) > 1 and name[0] == name[-1] == '"':
        inner = name[1:-1]
        if '"' in inner.replace('""', ""):
            raise EntryError("the name before the URL is more than one quoted cell", "write one name before the URL")
        return inner.replace('""', '"')
    if separator == " " and name.endswith(","):
        raise EntryError("a blank stands between the comma and the URL", "write NAME,URL without a blank")
    if separator == " " and name.endswith(";"):
        raise semicolons()
    return name
