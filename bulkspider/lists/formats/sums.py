"""Checksum files as lists, and bags (BagIt, RFC 8493).

A checksum file (`SHA256SUMS`) has a hash and a path in each line; the paths are relative to the base. A bag is a folder
with `fetch.txt`, the files that are still to be fetched, and `manifest-*.txt`, the hashes of all its files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping

from bulkspider.entries.entry import EntryError, redact
from bulkspider.entries.fields import DIGESTS
from bulkspider.entries.names import show
from bulkspider.entries.sumsfile import default_algorithm, parse_sum
from bulkspider.errors import ListError, Problem
from bulkspider.lists.checking.copy import read_blocks
from bulkspider.lists.formats.lines import contents
from bulkspider.lists.formats.row import FormatInput, Reader, Row
from bulkspider.regex import regex

_FETCH = regex(r"(\S+)[ \t]+([0-9]+|-)[ \t]+(.+)")
_MANIFEST = regex(r"manifest-([A-Za-z0-9-]+)\.txt")
# RFC 8493 §2.1.3: only these three are escaped in a path.
_ESCAPE = regex(r"%(0A|0D|25)", re.IGNORECASE)


class ChecksumLines(Reader):
    """`HASH  path` in each line, as GNU and BSD tools write it."""

    def rows(self, blocks: Iterable[bytes]) -> Iterator[Row]:
        given, default = self._given, default_algorithm(self._given.path)
        for number, text in contents(given, blocks):
            try:
                name, algorithm, digest = parse_sum(text, default)
                digests = {algorithm: digest} if algorithm in DIGESTS else {}
                if not digests:
                    self._passed.add(number, f"a hash {algorithm} cannot be compared here")
                yield Row(number, given.below_base(name), given.name(name.lstrip("/")), None, digests)
            except EntryError as error:
                given.note(number, error)


class Bag(Reader):
    """`fetch.txt` of a bag, with the manifests that lie beside it."""

    def rows(self, blocks: Iterable[bytes]) -> Iterator[Row]:
        given = self._given
        hashes = _manifests(given)
        for number, text in contents(given, blocks):
            try:
                line = _FETCH.fullmatch(text)
                if line is None:
                    raise EntryError(
                        f"{show(redact(text), 60)} is no line of a fetch.txt", "write URL, length or -, path"
                    )
                url, size, path = line.groups()
                name = _unescaped(path)
                digests = {kind: known[name] for kind, known in hashes.items() if name in known}
                if not digests:
                    self._passed.add(number, "no manifest of the bag has a hash of this file")
                yield Row(number, given.link(url), given.name(name), None if size == "-" else int(size), digests)
            except EntryError as error:
                given.note(number, error)


def bag_in(path: str) -> str | None:
    """The fetch.txt of the bag at `path`, or None when there is no bag."""
    fetch = os.path.join(path, "fetch.txt")
    return fetch if os.path.isfile(fetch) and os.path.isfile(os.path.join(path, "bagit.txt")) else None


def _manifests(given: FormatInput) -> Mapping[str, Mapping[str, str]]:
    """Algorithm -> path -> hash, of all manifests whose algorithm is known here. Raises ListError."""
    if given.path == "-":
        return {}
    folder = os.path.dirname(given.path) or "."
    hashes: dict[str, dict[str, str]] = {}
    for file in sorted(os.listdir(folder)):
        kind = match[1].lower().replace("-", "") if (match := _MANIFEST.fullmatch(file)) else ""
        if kind not in DIGESTS:
            continue
        path, problems = os.path.join(folder, file), []
        known = hashes[kind] = {}
        for number, text in contents(FormatInput(path, path, given.note), read_blocks(path)):
            try:
                name, _, digest = parse_sum(text, kind)
                known[_unescaped(name)] = digest
            except EntryError as error:
                problems.append(Problem(path, number, error.what, error.cure))
        if problems:
            raise ListError(f"{path}: the manifest of the bag cannot be used", problems[:50])
    return hashes


def _unescaped(path: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), path).removeprefix("./")
