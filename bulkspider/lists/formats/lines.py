"""Lists of nothing but URLs, or of nothing but paths: as files, and as arguments of `scrapy bulk`.

A file is read only when its format is named, for a line of ours may look the same: `urls` is what `wget -i` reads,
`paths` are names below a base (Common Crawl's `warc.paths.gz`). For arguments this module decides which are URLs; two
of them must not have the same name, because there is no list in which to rename them. They become JSON Lines, so that a
URL may hold any character; then they are a list like any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from bulkspider.entries.entry import EntryError, parse_json, redact
from bulkspider.entries.names import NAME_IT, RENAME, show
from bulkspider.errors import UsageError
from bulkspider.lists.checking.collisions import key_of
from bulkspider.lists.checking.copy import lines_of
from bulkspider.lists.formats.row import FormatInput, Row
from bulkspider.regex import regex

IN_A_LIST = "give it a name of its own in a list: scrapy bulk LIST"
_URL = regex(r"[A-Za-z][A-Za-z0-9+.-]*://")


def contents(given: FormatInput, blocks: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """The lines of a file that are neither empty nor comments, stripped, each with its number."""
    number = 0
    for lines in lines_of(blocks, given.where):
        for raw in lines:
            number += 1
            text = raw.decode("utf-8", "surrogateescape").strip()
            if number == 1:
                text = text.removeprefix("\ufeff")
            if text and text[0] != "#":
                yield number, text


class UrlLines:
    """A URL in each line, absolute or relative to the base."""

    warnings = ()

    def __init__(self, given: FormatInput) -> None:
        self._given = given

    def rows(self, blocks: Iterable[bytes]) -> Iterator[Row]:
        for number, text in contents(self._given, blocks):
            try:
                if " " in text or "\t" in text:
                    raise EntryError(
                        f"{show(redact(text), 60)} is more than a URL", "write one per line, a blank as %20"
                    )
                yield Row(number, self._given.link(text))
            except EntryError as error:
                self._given.note(number, error)


class PathLines:
    """A path in each line, below the base. A line that is a URL is used as a URL."""

    warnings = ()

    def __init__(self, given: FormatInput) -> None:
        self._given = given

    def rows(self, blocks: Iterable[bytes]) -> Iterator[Row]:
        below_base, of_path = self._given.below_base, self._given.naming.of_path
        for number, text in contents(self._given, blocks):
            try:
                if "://" in text and _URL.match(text):
                    yield Row(number, text)
                else:
                    yield Row(number, below_base(text), of_path(text))
            except EntryError as error:
                self._given.note(number, error)


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
            if url.endswith("/"):
                cure += "; if it is a folder, --recurse fetches the files that its index links to"
            wrong.append(f"{redact(url)}: {error.what}; {cure}")
    if wrong:
        raise UsageError("\n".join(wrong))
    return lines
