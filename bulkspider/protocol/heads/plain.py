"""Reads the head of a usual answer with a file in a few steps.

Twisted's parser would take most of the time that a small file needs. `read_plain_head` accepts only a head that leaves
no room for two readings: HTTP/1.1, status 200 or 206, one Content-Length, no Transfer-Encoding, no field twice, lines
that end in CRLF with only printable ASCII in them. Of such a head it says what Twisted's parser would say; a test
compares the two. Every other head is left to that parser, so that it alone judges what is odd. The limits of
`wire/limits.py` hold, because a head here is far smaller than they allow.
"""

from __future__ import annotations

from functools import lru_cache

from msgspec import Struct

from bulkspider.protocol.plan import length_of
from bulkspider.regex import regex

# A usual head is no longer. Most have some hundred bytes.
USUAL_BYTES = 4096
USUAL_LINES = 64

_STATUS_BYTES = len(b"HTTP/1.1 200")
_STATUSES = {b"HTTP/1.1 200": 200, b"HTTP/1.1 206": 206}
# A reason may follow the status, or nothing.
_BEFORE_REASON = (b" ", b"\r")
_PRINTABLE = bytes(range(0x20, 0x7F))
# Fields that concern only the connection, as Twisted has them (twisted.web._newclient.HTTPParser; a test compares).
OF_CONNECTION = frozenset(
    {
        *("connection", "content-length", "keep-alive", "proxy-connection", "te", "trailers", "transfer-encoding"),
        "upgrade",
    }
)
_USUAL_NAME = regex(r"[A-Za-z0-9-]+")


class PlainHead(Struct, frozen=True):
    """What a usual head says.

    fields: by lower-case names, without those that only concern the connection. length: of the body, in bytes, more
    than 0. closes: the connection ends after this answer. size: bytes of the head itself.
    """

    status: int
    fields: dict[str, str]
    length: int
    closes: bool
    size: int


def read_plain_head(data: bytes) -> PlainHead | None:
    """data: the first bytes of an answer; more than USUAL_BYTES are of no use. None when they do not begin with a whole
    usual head."""
    status = _STATUSES.get(data[:_STATUS_BYTES])
    end = data.find(b"\r\n\r\n")
    if status is None or end < 0 or data[_STATUS_BYTES : _STATUS_BYTES + 1] not in _BEFORE_REASON:
        return None
    head = data[:end]
    lines = head.split(b"\r\n")
    # Without what is printable the ends of the lines are left and nothing else: no single CR or LF, no tab, no NUL.
    if len(lines) > USUAL_LINES or head.translate(None, _PRINTABLE) != b"\r\n" * (len(lines) - 1):
        return None
    fields: dict[str, str] = {}
    of_connection: dict[str, str] = {}
    for line in head.decode("ascii").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        known = _known(name)
        if not colon or known is None:
            return None
        key, concerns_connection = known
        found = of_connection if concerns_connection else fields
        if key in found:
            return None
        found[key] = value.strip(" ")
    stated = of_connection.get("content-length", "")
    length = length_of(stated)
    if not length or stated.startswith("0") or "transfer-encoding" in of_connection:
        return None
    closes = "close" in of_connection.get("connection", "").lower()
    return PlainHead(status, fields, length, closes, end + len(b"\r\n\r\n"))


@lru_cache(maxsize=1024)
def _known(name: str) -> tuple[str, bool] | None:
    """The lower-case form of a field name, and whether the field concerns only the connection. None for an unusual
    name."""
    if _USUAL_NAME.fullmatch(name) is None:
        return None
    key = name.lower()
    return key, key in OF_CONNECTION
