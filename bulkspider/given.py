"""URLs given one by one, as arguments of `scrapy bulk`, become a list.

Decides which arguments are URLs, and that two of them may not have one name: there is no line to rename them in. What
comes out is JSON Lines, so that a URL may hold whatever a shell lets through; a list like any other from there on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from bulkspider.collisions import key_of
from bulkspider.entry import NAME_IT, EntryError, parse_json, redact
from bulkspider.errors import UsageError
from bulkspider.names import RENAME, show

IN_A_LIST = "give it a name of its own in a list: scrapy bulk LIST"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(argument: str) -> bool:
    """True for what can only be meant as a URL."""
    return _URL.match(argument) is not None


def rows_of(urls: Sequence[str]) -> list[bytes]:
    """A row for each URL; one that is given twice counts once. Raises UsageError that shows every URL that cannot be
    fetched, or not beside the others."""
    rows: dict[bytes, tuple[str, str]] = {}
    wrong = []
    lines = []
    for url in urls:
        line = json.dumps({"url": url}).encode()
        try:
            entry = parse_json(line.decode(), 1)
            assert entry is not None
            key = key_of(entry.name)
            if key not in rows:
                rows[key] = (entry.url, url)
                lines.append(line)
            elif rows[key][0] != entry.url:
                what = f"its name {show(entry.name)} is that of {redact(rows[key][1])}"
                raise EntryError(what, IN_A_LIST)
        except EntryError as error:
            cure = IN_A_LIST if error.cure in (NAME_IT, RENAME) else error.cure
            wrong.append(f"{redact(url)}: {error.what}; {cure}")
    if wrong:
        raise UsageError("\n".join(wrong))
    return lines
