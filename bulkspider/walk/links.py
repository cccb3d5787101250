"""The links of an index page, as Apache, nginx, lighttpd, Caddy and many others make them.

Only `<a href>` and `<base href>` are read. Left out are links with a query (they sort the page, or show it in another
form), places within a page, and schemes other than http and https. The parser builds no tree, so a page with a million
links needs no more memory than its text.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urljoin

from lxml import etree

from bulkspider.entries.entry import EntryError
from bulkspider.entries.urls import normal_url

PIECE_BYTES = 64 * 1024


def read_links(body: bytes, encoding: str, url: str) -> Iterator[list[str]]:
    """The URLs that a page links to, in normal form, many at a time. url: of the page. A link that comes twice in a row
    (an icon and a name) is given once."""
    hrefs = _Hrefs()
    try:
        parser = etree.HTMLParser(target=hrefs, encoding=encoding)
    except LookupError:  # libxml2 does not know the encoding; nearly all links are ASCII
        parser = etree.HTMLParser(target=hrefs, encoding="utf-8")
    last = ""
    for place in range(0, len(body), PIECE_BYTES):
        parser.feed(body[place : place + PIECE_BYTES])
        found, hrefs.found = hrefs.found, []
        if hrefs.base is not None:
            url, hrefs.base = urljoin(url, hrefs.base), None
        links = []
        for href in found:
            link = _link(url, href)
            if link is not None and link != last:
                last = link
                links.append(link)
        yield links


def _link(url: str, href: str) -> str | None:
    try:
        # urljoin does not treat text behind a ';' as part of the path, so ';' is encoded.
        link = urljoin(url, href.strip().replace(";", "%3B")).partition("#")[0]
        if "?" in link or not link.startswith(("http://", "https://")):
            return None
        return normal_url(link)
    except (ValueError, EntryError):  # not a URL
        return None


class _Hrefs:
    """The parser's target: collects the links of a page. base: the first `<base href>`, to which links are relative."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.base: str | None = None
        self._based = False

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        href = attributes.get("href")
        if href is None:
            return
        if tag == "a":
            self.found.append(href)
        elif tag == "base" and not self._based:
            self._based, self.base = True, href

    def close(self) -> None:
        pass
