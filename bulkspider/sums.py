"""Checksum files: SHA256SUMS and its kin, given as `-a sums=PATH` or a URL.

Decides which line of such a file speaks of which entry. Its grammar is `digest.parse_sums`; what follows from a hash
that differs is `finish.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from scrapy import Request

from bulkspider.digest import parse_sums
from bulkspider.entry import Entry, redact, without_userinfo
from bulkspider.errors import UsageError

if TYPE_CHECKING:
    from scrapy.crawler import Crawler


class Sums:
    """Hashes by file name. where: the file they come from, for messages."""

    def __init__(self, known: Mapping[str, tuple[str, str]], where: str) -> None:
        self._known = dict(known)
        self._where = where
        self._asked = 0
        self._unknown = 0

    def __len__(self) -> int:
        return len(self._known)

    def add_to(self, entry: Entry) -> Entry:
        """The entry with its hash from the checksum file: by its name, else by the end of its URL's path, the longer
        the better, else by the last part of name or URL. A hash in the list itself stands."""
        self._asked += 1
        for name in _names_of(entry):
            if found := self._known.get(name):
                algorithm, value = found
                if any(algorithm == known for known, _ in entry.digests):
                    return entry
                return replace(entry, digests=(*entry.digests, (algorithm, value)))
        self._unknown += 1
        return entry

    @property
    def gaps(self) -> str | None:
        """What a person should know of the entries that were asked for and are not in it."""
        if not self._unknown:
            return None
        some = f"{self._unknown:,} of {self._asked:,} entries"
        return f"{self._where} has no line for {some}: these were not compared with it"


def _names_of(entry: Entry) -> Iterator[str]:
    yield entry.name
    path = unquote(urlsplit(entry.url).path).strip("/")
    while "/" in path:
        yield path
        path = path.partition("/")[2]
    yield entry.name.rpartition("/")[2]
    yield path


def read_sums(path: str) -> Sums:
    """The checksum file at `path`. Raises UsageError when it cannot be read, ListError when a line is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return Sums(parse_sums(file, path, path), path)
    except OSError as error:
        raise UsageError(f"{path}: no such checksum file ({error.strerror}); correct its path") from error


async def fetch_sums(crawler: Crawler, url: str) -> Sums:
    """The checksum file at `url`, by the crawl's own downloader. Raises UsageError, ListError when a line is none."""
    request = Request(without_userinfo(url), dont_filter=True, meta={"allow_offsite": True})
    try:
        response = await crawler.engine.download_async(request)
    except Exception as error:
        raise UsageError(f"{redact(url)}: the checksum file could not be fetched ({redact(str(error))})") from error
    if response.status != 200:
        raise UsageError(f"{redact(url)}: the checksum file could not be fetched ({response.status})")
    return parse(response.body.decode("utf-8", "surrogateescape"), redact(url))


def parse(text: str, url: str) -> Sums:
    """A checksum file that came from `url`."""
    return Sums(parse_sums(text.splitlines(), urlsplit(url).path, url), url)
