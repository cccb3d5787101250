"""Checksum files such as SHA256SUMS, given as `-a sums=PATH` or a URL.

Finds the line of such a file for each entry. The grammar of a line is in `entries/sumsfile.py`; what follows from a
hash that differs, in `protocol/digests.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from msgspec import Struct
from msgspec.structs import replace
from scrapy import Request
from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.threads import deferToThread

from bulkspider.auth.credentials import credentials_for
from bulkspider.entries.entry import Entry, redact, without_userinfo
from bulkspider.entries.sumsfile import parse_sums
from bulkspider.errors import UsageError
from bulkspider.protocol.digests import SIGNED_SUMS, SUMS
from bulkspider.sums.signature import Signed
from bulkspider.wire.failures import map_error
from bulkspider.wire.fallback import OWN_PAGE

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

logger = logging.getLogger(__name__)


class Sums:
    """Hashes by file name. where: the file they come from, for messages. by: who states them, SUMS or SIGNED_SUMS."""

    def __init__(self, known: Mapping[str, tuple[str, str]], where: str, by: str = SUMS) -> None:
        self._known = dict(known)
        self._where = where
        self._by = by
        self._asked = 0
        self._unknown = 0

    def __len__(self) -> int:
        return len(self._known)

    def add_to(self, entry: Entry) -> Entry:
        """The entry with its hash from the checksum file, which is looked up by the entry's name, then by ever shorter
        ends of its URL's path, then by the last part of its name. A hash of the same kind in the list itself counts
        before that of the checksum file, unless the file is signed."""
        self._asked += 1
        for name in _names_of(entry):
            if found := self._known.get(name):
                return self._with(entry, *found)
        self._unknown += 1
        return entry

    def _with(self, entry: Entry, algorithm: str, value: str) -> Entry:
        listed = dict(entry.digests).get(algorithm)
        if listed is not None and self._by != SIGNED_SUMS:
            return entry
        if listed not in (None, value):
            logger.warning(
                "%s: the list has another %s than %s, whose signature is good; the signed one counts",
                *(entry.name, algorithm, self._where),
            )
        digests = {**dict(entry.digests), algorithm: value}
        return replace(entry, digests=tuple(digests.items()), stated_by=((algorithm, self._by),))

    @property
    def gaps(self) -> str | None:
        """A sentence on the entries that have no line in the checksum file; None when there are none."""
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


class SumsFile(Struct, frozen=True):
    """Where a checksum file is: a path or a URL, and how it is signed, if it is to be."""

    place: str
    signed: Signed | None = None

    @property
    def is_remote(self) -> bool:
        """The file or its signature must be downloaded."""
        return _is_url(self.place) or (self.signed is not None and _is_url(self.signed.signature))

    def read(self) -> Sums:
        """Raises UsageError when it cannot be read or its signature is not good, ListError when a line is malformed."""
        signature = None
        if self.signed is not None and self.signed.signature is not None:
            signature = _read(self.signed.signature, "signature")
        return self._parse(_read(self.place, "checksum file"), signature)

    async def fetch(self, crawler: Crawler) -> Sums:
        """As `read`; a URL is fetched by the crawl's own downloader."""
        signature = None
        if self.signed is not None and self.signed.signature is not None:
            signature = await _get(crawler, self.signed.signature, "signature")
        data = await _get(crawler, self.place, "checksum file")
        return await maybe_deferred_to_future(deferToThread(self._parse, data, signature))

    def _parse(self, data: bytes, signature: bytes | None) -> Sums:
        where, by = redact(self.place), SUMS
        if self.signed is not None:
            data, by = self.signed.check(data, signature, where), SIGNED_SUMS
        text = data.decode("utf-8", "surrogateescape")
        hint = urlsplit(self.place).path if _is_url(self.place) else self.place
        return Sums(parse_sums(text.splitlines(), hint, where), where, by)


def sums_file(place: str | None, signature: str | None, keyring: str | None) -> SumsFile | None:
    """From the arguments sums, sums_sig and keyring; None without sums. Raises UsageError."""
    if place is None and (signature or keyring):
        raise UsageError(f"argument {'sums_sig' if signature else 'keyring'}: of which file? Say sums=FILE")
    if signature and not keyring:
        raise UsageError("argument sums_sig: whose signature is good? Say keyring=FILE, the keys that you trust")
    if not place:
        return None
    return SumsFile(place, Signed.by(signature, keyring) if keyring else None)


def _is_url(place: str | None) -> bool:
    return place is not None and place.startswith(("http://", "https://"))


def _read(path: str, what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"{path}: no such {what} ({error.strerror}); correct its path") from error


async def _get(crawler: Crawler, place: str, what: str) -> bytes:
    if not _is_url(place):
        return _read(place, what)
    headers = {"Authorization": credentials} if (credentials := credentials_for(place)) else {}
    request = Request(
        without_userinfo(place),
        headers=headers,
        dont_filter=True,
        meta={"allow_offsite": True, "referrer_policy": "no-referrer", OWN_PAGE: True},
    )
    try:
        response = await crawler.engine.download_async(request)
    except Exception as error:
        told = redact(str(map_error(error)))
        raise UsageError(f"{redact(place)}: the {what} could not be fetched ({told}); nothing was begun") from error
    if response.status != 200:
        raise UsageError(f"{redact(place)}: the {what} could not be fetched ({response.status}); nothing was begun")
    return response.body
