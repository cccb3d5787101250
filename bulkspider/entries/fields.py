"""What a list may say of an entry beside its name and URL: size, hashes, mirrors, headers, segments.

One `Fields` per line collects them, whichever way they are written (`key=value`, a column, a key of a JSON row), and
refuses what is unknown, malformed or contradictory. It knows nothing of lines and separators; `entry.py` does, and
makes the `Entry` from it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from bulkspider.entries.names import EntryError, show
from bulkspider.entries.urls import normal_url, redact
from bulkspider.regex import regex
from bulkspider.text import nearest

# Length of each hash and checksum in bytes; it may be written in hex or, as many servers do, in base64.
DIGESTS = {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64, "crc32c": 4, "crc32": 4, "adler32": 4}
KEYS = ("size", *DIGESTS, "mirror", "segments", "header:Name")
SEGMENTS_MAX = 64

_NUMBER = regex(r"[0-9]{1,18}")  # below 2**63, as every file system has it
_TOKEN = regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_FIELD_CONTROL = regex(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")  # RFC 9110 §5.5; only a TAB may stay
# Headers that decide which bytes come and how (RFC 9110 §7.6.1, §8.6, §12.5.3, §13.1, §14.2): only bulkspider sets
# them.
_OUR_HEADERS = {
    *("connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "upgrade", "expect"),
    *("host", "content-length", "transfer-encoding", "accept-encoding", "range", "if-range"),
    *("if-match", "if-none-match", "if-modified-since", "if-unmodified-since"),
}


class Fields:
    """Collects the fields of one line; every method raises EntryError for a value that does not fit."""

    __slots__ = ("_digests", "_headers", "_mirrors", "segments", "size")

    def __init__(self) -> None:
        self.size: int | None = None
        self.segments: int | None = None
        self._digests: dict[str, str] = {}
        self._mirrors: list[str] = []
        self._headers: dict[str, tuple[str, str]] = {}

    @property
    def digests(self) -> tuple[tuple[str, str], ...]:
        return tuple(self._digests.items())

    @property
    def mirrors(self) -> tuple[str, ...]:
        return tuple(self._mirrors)

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        return tuple(self._headers.values())

    def put(self, key: str, value: str) -> None:
        """Takes one `key=value`; keys are case-insensitive, the name of a header stays as written."""
        lower = key.lower()
        if lower == "size":
            self.put_size(value)
        elif lower in DIGESTS:
            self.put_digest(lower, value)
        elif lower == "mirror":
            self.put_mirror(value)
        elif lower == "segments":
            self.put_segments(value)
        elif lower.startswith("header:"):
            self.put_header(key[len("header:") :], value)
        else:
            raise unknown_key(key, KEYS)

    def put_size(self, value: str) -> None:
        if not _NUMBER.fullmatch(value):
            raise EntryError(f"size {show(value)} is not a number of bytes", "write bytes in digits, as size=1048576")
        if self.size not in (None, int(value)):
            raise EntryError("the size is given twice and differs", "keep one of the two")
        self.size = int(value)

    def put_digest(self, algorithm: str, value: str) -> None:
        digest = _hex(algorithm, value)
        if self._digests.setdefault(algorithm, digest) != digest:
            raise EntryError(f"{algorithm} is given twice and differs", "keep one of the two")

    def put_mirror(self, value: str) -> None:
        try:
            mirror = normal_url(value)
        except EntryError as error:
            raise EntryError(f"mirror: {error.what}", error.cure) from None
        if mirror not in self._mirrors:
            self._mirrors.append(mirror)

    def put_segments(self, value: str) -> None:
        if not _NUMBER.fullmatch(value) or not 1 <= int(value) <= SEGMENTS_MAX:
            raise EntryError(f"segments {show(value)} is no valid number", f"write a number from 1 to {SEGMENTS_MAX}")
        if self.segments not in (None, int(value)):
            raise EntryError("segments is given twice and differs", "keep one of the two")
        self.segments = int(value)

    def put_header(self, name: str, value: str) -> None:
        check_header(name, value)
        header = (name, value.strip())
        if self._headers.setdefault(name.lower(), header)[1] != header[1]:
            raise EntryError(f"header {name} is given twice and differs", "keep one of the two")


def check_header(name: str, value: str) -> None:
    """Raises EntryError when it is no header field, or one that only bulkspider sets."""
    # Never show the value: it may be a secret.
    if not _TOKEN.fullmatch(name):
        raise EntryError(f"{show(name)} is not a header name", "write header:Name=Value, as in header:Accept=*/*")
    if name.lower() in _OUR_HEADERS:
        raise EntryError(f"header {name} is set by bulkspider itself", "remove it from the line")
    if _FIELD_CONTROL.search(value):
        raise EntryError(f"the value of header {name} holds a control character", "remove it")


def unknown_key(key: str, known: Iterable[str]) -> EntryError:
    """The error for a key that is none of `known`, naming the nearest one."""
    known = list(known)
    cure = nearest(key.lower(), known).removeprefix("; ") or f"use one of {', '.join(known)}"
    return EntryError(f"unknown field {show(redact(key), 40)}", cure)


def _hex(algorithm: str, value: str) -> str:
    length = DIGESTS[algorithm]
    try:
        # None of these lengths is a multiple of three, so base64 always ends in '='.
        digest = base64.b64decode(value, validate=True) if value.endswith("=") else bytes.fromhex(value)
    except (ValueError, binascii.Error):
        digest = b""
    if len(digest) != length or len(value.split()) != 1:  # fromhex would overlook blanks
        raise EntryError(f"{algorithm} {show(value)} is not a {algorithm}", f"write its {2 * length} hex digits")
    return digest.hex()
