"""Checksum files: SHA256SUMS and its kin, given as `-a sums=PATH` or a URL.

Decides which line of such a file speaks of which entry. Its grammar is `digest.parse_sums`; what follows from a hash
that differs is `finish.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import unquote, urlsplit

from bulkspider.digest import parse_sums
from bulkspider.entry import Entry
from bulkspider.errors import UsageError


class Sums:
    """Hashes by file name."""

    def __init__(self, known: Mapping[str, tuple[str, str]]) -> None:
        self._known = dict(known)

    def __len__(self) -> int:
        return len(self._known)

    def add_to(self, entry: Entry) -> Entry:
        """The entry with its hash from the checksum file: by its name, else by the last part of name or URL. A hash
        in the list itself stands."""
        base = entry.name.rpartition("/")[2]
        for name in (entry.name, base, unquote(urlsplit(entry.url).path.rpartition("/")[2])):
            if found := self._known.get(name):
                algorithm, value = found
                if any(algorithm == known for known, _ in entry.digests):
                    return entry
                return replace(entry, digests=(*entry.digests, (algorithm, value)))
        return entry


def read_sums(path: str) -> Sums:
    """The checksum file at `path`. Raises UsageError when it cannot be read, ListError when a line is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return Sums(parse_sums(file, path, path))
    except OSError as error:
        raise UsageError(f"{path}: no such checksum file ({error.strerror}); correct -a sums=") from error


def parse(text: str, url: str) -> Sums:
    """A checksum file that came from `url`."""
    return Sums(parse_sums(text.splitlines(), urlsplit(url).path, url))
