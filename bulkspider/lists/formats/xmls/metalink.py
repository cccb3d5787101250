"""Metalinks: files with their size, hashes and URLs, of RFC 5854 and of version 3."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec.structs import replace

from bulkspider.entries.entry import EntryError, redact
from bulkspider.entries.names import show
from bulkspider.lists.formats.row import HTTPS_TOO, Lines, Reader, Row, digest_name
from bulkspider.lists.formats.xmls.elements import Elements, Left, files
from bulkspider.lists.formats.xmls.shapes import Shapes
from bulkspider.regex import regex

# RFC 5854 §4.2.16.1: 1 is the best; a URL without a priority comes after all others.
_LAST_PRIORITY = 999_999
_SCHEME = regex(r"[A-Za-z][A-Za-z0-9+.-]*:")
# In version 3 of metalink.
_AROUND_URLS = ("resources", "publisher", "license")


class Metalink(Reader):
    """Files with their size, hashes and URLs; the best URL first, the others are its mirrors. Hashes of pieces are not
    read, nor are torrents."""

    def rows(self, blocks: Iterable[bytes]) -> Iterator[Row | Lines]:
        shapes = Shapes(self._sample)
        for row in self.parsed(blocks if self._given.renames else shapes.take(blocks)):
            if row is not None:
                yield row
            if shapes.rows:
                yield Lines([row[0] or row[-1] for row in shapes.rows], shapes.rows)
                shapes.rows = []

    def _sample(self, element: bytes) -> Row | None:
        """The row of one element; None if there is anything else to say of it."""
        noted: list[EntryError] = []
        other = Metalink(replace(self._given, note=lambda _, error: noted.append(error)))
        rows = [row for row in other.parsed([element]) if row is not None]
        return rows[0] if len(rows) == 1 and not noted and not other.warnings else None

    def parsed(self, blocks: Iterable[bytes | Left]) -> Iterator[Row | None]:
        """Rows, and None after every block."""
        for line, elements in files(self._given.note, blocks):
            if not line:
                yield None
                continue
            try:
                yield self._row(line, elements)
            except EntryError as error:
                error.name = error.name or elements[0][1].get("name")
                self._given.note(line, error)

    def _row(self, line: int, elements: Elements) -> Row:
        given = self._given
        size: str | None = None
        digests: dict[str, str] = {}
        urls: list[tuple[int, str]] = []
        other = inside = ""
        for tag, attributes, text in elements:
            if tag == "url":
                # In version 3 publishers and licenses have a `url`, too; those of the file are in `resources`.
                if inside in ("", "resources"):
                    urls.append((_rank(attributes), text.strip()))
            elif tag == "hash":
                kind = attributes.get("type")
                # That of a piece has no type (RFC 5854 §4.2.4), or a number (version 3).
                if kind is not None and "piece" not in attributes:
                    if name := digest_name(kind):
                        digests[name] = text.strip().lower()
                    else:
                        other = kind
            elif tag == "size":
                size = text.strip()
            elif tag in _AROUND_URLS:
                inside = "" if attributes and tag != "resources" else tag
        if other and not digests:
            self._passed.add(line, f"a hash {other} cannot be compared here")
        if len(urls) == 1 and urls[0][1].startswith(("https://", "http://")):
            url, mirrors = urls[0][1], []
        else:
            urls.sort(key=lambda url: url[0])
            url, *mirrors = self._links(line, urls)
        return Row(line, url, given.name(elements[0][1].get("name", "")), size, digests, mirrors)

    def _links(self, line: int, urls: list[tuple[int, str]]) -> list[str]:
        """Those that can be fetched. Raises EntryError when there is none."""
        links = []
        for _, url in urls:
            scheme, _, rest = url.partition(":") if _SCHEME.match(url) else ("", "", "")
            if scheme.lower() in ("", "http", "https") or rest[2:].partition("/")[0] in HTTPS_TOO:
                links.append(self._given.link(url))
            elif len(urls) > 1:
                self._passed.add(line, f"mirror {scheme}:… is passed over; only http and https are fetched")
            else:
                what = f"{show(redact(url), 60)} is no http or https URL"
                raise EntryError(what, "bulkspider fetches these two only")
        if not links:
            raise EntryError("the file has no http or https URL", "add one to it")
        return links


def _rank(attributes: Mapping[str, str]) -> int:
    """The smaller the better. Version 3 has a preference from 0 to 100, the larger the better."""
    try:
        if (priority := attributes.get("priority")) is not None:
            return int(priority)
        return -int(attributes["preference"]) if "preference" in attributes else _LAST_PRIORITY
    except ValueError:
        return _LAST_PRIORITY
