"""Digests: the hash algorithms, who states a hash, how a server states one, and what follows from a comparison.

Pure: header fields and hex strings; `disk/finished/hashing.py` computes.

A `Claim` is one statement: who says which hash the file has. `weigh` compares claims with what was computed. A file is
**verified** when at least one hash was stated and computed, and agrees; `proof_by` tells who stated it. What comes from
the user (the list, a checksum file, a signed one) decides: when it differs the file is refused, and when it agrees no
server can refute it, because a server's own hash may be wrong for ever. A hash of the server came over the same
connection as the bytes, so it protects against damage, not against forgery. md5 and sha1 verify as well, flagged
`weak-hash`: they protect against damage, but two different files with the same hash can be made. Checksums (crc32,
crc32c, crc64nvme, adler32) are no hashes: one that differs refutes the file, one that agrees makes it complete, flagged
`checksum-only`.
"""

from __future__ import annotations

import base64
import importlib.util
import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct, field

from bulkspider.regex import regex

# Name -> length in bytes, the strongest first. The algorithm of a bare value is the first one of its length.
ALGORITHMS: Mapping[str, int] = {
    "sha512": 64,
    "sha256": 32,
    "sha1": 20,
    "md5": 16,
    "crc64nvme": 8,
    "crc32c": 4,
    "crc32": 4,
    "adler32": 4,
}
STRONG = frozenset({"sha512", "sha256"})
CHECKSUMS = frozenset({"crc64nvme", "crc32c", "crc32", "adler32"})
WEAK_HASH = "weak-hash"
CHECKSUM_ONLY = "checksum-only"
SERVER_DIGEST = "server-digest"

# Who states a hash, the most trustworthy first. The first three are the user's own: a signed checksum file, the list,
# a checksum file. The redirect is the answer of the entry's own host that leads elsewhere; the server sends the bytes.
SIGNED_SUMS, LIST, SUMS, REDIRECT, SERVER = "signed-sums", "list", "sums", "redirect", "server"
STATED_BY = (SIGNED_SUMS, LIST, SUMS, REDIRECT, SERVER)
OF_THE_USER = frozenset({SIGNED_SUMS, LIST, SUMS})


def can_compute(algorithm: str) -> bool:
    """crc64nvme needs the package anycrc, the extra `crc64`."""
    return algorithm in ALGORITHMS and (algorithm != "crc64nvme" or importlib.util.find_spec("anycrc") is not None)


# Claims


class Claim(Struct, frozen=True):
    """One statement. by: one of STATED_BY, or None where it was not noted (a ledger of an older version). digest:
    lower-case hex."""

    by: str | None
    algorithm: str
    digest: str

    @property
    def of_the_user(self) -> bool:
        return self.by is None or self.by in OF_THE_USER


class Weighed(Struct, frozen=True):
    """What claims are worth.

    refuted: the sentence that tells which claim differs, when the bytes are not the file. status: verified or complete,
    None when no claim says anything of these bytes. proof_by: who stated the hash that verifies. flags: of the row.
    doubts: sentences on claims of the server that differ and do not count.
    """

    refuted: str | None = None
    status: str | None = None
    proof_by: str | None = None
    flags: frozenset[str] = frozenset()
    doubts: tuple[str, ...] = ()


def claims(by: str | None, digests: Mapping[str, str]) -> list[Claim]:
    """One claim for each of these digests, all stated by `by`."""
    return [Claim(by, algorithm, digest.lower()) for algorithm, digest in digests.items()]


def weigh(stated: Iterable[Claim], found: Mapping[str, str], *, server: str = "require") -> Weighed:
    """What follows when `found` (algorithm -> hex) was computed. server: BULK_SERVER_DIGEST."""
    if not found:
        return Weighed()
    order = list(ALGORITHMS)
    compared = sorted(
        (claim for claim in stated if claim.algorithm in order and claim.algorithm in found),
        key=lambda claim: (not claim.of_the_user, order.index(claim.algorithm)),
    )
    agree = [claim for claim in compared if claim.digest.lower() == found[claim.algorithm].lower()]
    differ = [claim for claim in compared if claim not in agree]
    by_user = any(claim.of_the_user and claim.algorithm not in CHECKSUMS for claim in agree)
    for claim in differ:
        if claim.of_the_user or (server == "require" and not by_user):
            return Weighed(refuted=_difference(claim, found))
    doubts = tuple(_difference(claim, found) for claim in differ)
    if differ and not by_user:
        # Under `warn` a server says that these bytes are wrong, so they are not called verified.
        return Weighed(doubts=doubts)
    hashes = [claim for claim in agree if claim.algorithm not in CHECKSUMS]
    if hashes:
        best = min(hashes, key=_rank)
        weak = best.algorithm not in STRONG
        return Weighed(None, "verified", best.by, frozenset({WEAK_HASH} if weak else ()), doubts)
    if agree:
        return Weighed(None, "complete", None, frozenset({CHECKSUM_ONLY}), doubts)
    return Weighed(doubts=doubts)


def _rank(claim: Claim) -> tuple[bool, bool, int]:
    """A sort key: first the user's own claims, then strong hashes, then by STATED_BY."""
    return not claim.of_the_user, claim.algorithm not in STRONG, STATED_BY.index(claim.by) if claim.by else -1


_SOURCES = {
    SIGNED_SUMS: "says the signed checksum file",
    LIST: "says the list",
    SUMS: "says the checksum file",
    REDIRECT: "says the redirect",
    SERVER: "says the server",
    None: "says the ledger",
}


def _difference(claim: Claim, found: Mapping[str, str]) -> str:
    what = f"{claim.algorithm} expected {claim.digest.lower()} found {found[claim.algorithm].lower()}"
    return f"{what} ({_SOURCES[claim.by]})"


# What the server says


class ServerDigests(Struct, frozen=True):
    """Hashes that the server stated, algorithm -> lower-case hex.

    representation: of the whole object, also when only a range of it was sent (RFC 9530 §3).
    content: of the body of this one answer (RFC 9530 §2); of the whole object only if the answer was a 200.
    """

    representation: dict[str, str] = field(default_factory=dict)
    content: dict[str, str] = field(default_factory=dict)


# Registered names of RFC 9530 §7.2 and of RFC 3230 §4.1.1, and `adler32`, as storage of physics labs writes it.
# Left out: `id-sha-256` (RFC 5843) is the hash before a content coding, and the bytes on disk are those after it;
# `unixsum` proves too little; the form of `adler` is not specified.
_NAMES = {
    "sha-512": "sha512",
    "sha-256": "sha256",
    "sha": "sha1",
    "sha-1": "sha1",
    "md5": "md5",
    "crc32c": "crc32c",
    "adler32": "adler32",
}

# S3 states the hash that was stored with the object, in base64. A multipart upload may have the hash of the hashes of
# its parts instead, followed by `-` and their number: a reader of the whole file cannot compute that.
_AMZ = {f"x-amz-checksum-{name}": name for name in ("sha256", "sha1", "crc64nvme", "crc32c", "crc32")}
# Zenodo's way: the entity tag is the hash. A weak tag may stand for other bytes.
_ETAG = regex(r'"(md5|sha1|sha256|sha512):([0-9A-Fa-f]+)"')
_FIELDS = frozenset(["digest", "repr-digest", "content-digest", "content-md5", "x-goog-hash", *_AMZ])
_SHA256_HEX = regex(r'"?([0-9A-Fa-f]{64})"?')


def linked(headers: Mapping[str, str]) -> tuple[dict[str, str], int | None]:
    """What a redirect of Hugging Face says of the file to which it leads: its sha256 and its size in bytes.

    X-Linked-ETag is a sha256 for large files; for small ones it is their git id, which is shorter and no hash of the
    bytes alone.
    """
    digest = _SHA256_HEX.fullmatch(headers.get("x-linked-etag", "").strip())
    size = headers.get("x-linked-size", "").strip()
    known = int(size) if size.isascii() and size.isdecimal() and len(size) <= 18 else None
    return {"sha256": digest[1].lower()} if digest else {}, known


def from_headers(headers: Mapping[str, str]) -> ServerDigests:
    """Reads every digest field. `headers`: lower-case names, values of repeated fields joined by `, `.

    Malformed and unknown values are left out, never an error. Where two fields differ, the newer kind of field counts.
    """
    if _FIELDS.isdisjoint(headers):
        return ServerDigests(_from_etag(headers))
    representation = _legacy(headers.get("digest", "")) | _structured(headers.get("repr-digest", ""))
    # Cloud Storage unpacks an object stored with gzip for a client that does not ask for gzip, and still states the
    # hash of the packed bytes: not those that are sent.
    stored = headers.get("x-goog-stored-content-encoding", "identity").strip().lower()
    if stored == headers.get("content-encoding", "identity").strip().lower():
        representation = _legacy(headers.get("x-goog-hash", "")) | representation
    representation = _from_etag(headers) | representation
    md5 = _from_text("md5", headers.get("content-md5", ""))  # RFC 1864
    content = ({} if md5 is None else {"md5": md5}) | _structured(headers.get("content-digest", ""))
    return ServerDigests(representation, _amazon(headers) | content)


def _from_etag(headers: Mapping[str, str]) -> dict[str, str]:
    tag = _ETAG.fullmatch(headers.get("etag", "").strip())
    return {tag[1]: tag[2].lower()} if tag and len(tag[2]) == 2 * ALGORITHMS[tag[1]] else {}


def _amazon(headers: Mapping[str, str]) -> dict[str, str]:
    """The checksum of the bytes of this answer: to a Range that is one part of a multipart upload, S3 states that of
    the part."""
    if headers.get("x-amz-checksum-type", "").strip().upper() == "COMPOSITE":
        return {}
    stated = {name: _from_text(name, headers[key]) for key, name in _AMZ.items() if key in headers}
    return {name: value for name, value in stated.items() if value is not None and can_compute(name)}


def _structured(value: str) -> dict[str, str]:
    """Repr-Digest and Content-Digest: a Dictionary of Byte Sequences (RFC 9530 §2, RFC 9651 §3.2)."""
    import http_sf  # costs every start some milliseconds, and few origins send such fields

    try:
        members: Any = http_sf.parse(value.encode("ascii", "replace"), tltype="dictionary")
    except ValueError:
        return {}  # RFC 9651 §4.2: a field that does not parse is ignored as a whole
    found: dict[str, str] = {}
    for name, (member, _parameters) in members.items():
        algorithm = _NAMES.get(name)
        if algorithm is not None and isinstance(member, bytes) and len(member) == ALGORITHMS[algorithm]:
            found[algorithm] = member.hex()
    return found


def _legacy(value: str) -> dict[str, str]:
    """Digest (RFC 3230 §4.3.2) and x-goog-hash: `name=value, name=value`, names in any case."""
    found: dict[str, str] = {}
    for member in value.split(","):
        name, _, text = member.partition("=")
        algorithm = _NAMES.get(name.strip().lower())
        if algorithm is not None and (digest := _from_text(algorithm, text)) is not None:
            found.setdefault(algorithm, digest)
    return found


def _from_text(algorithm: str, text: str) -> str | None:
    """Hex of a base64 value, or of a hex value as some servers write it; the lengths tell them apart."""
    text = text.strip()
    length = ALGORITHMS[algorithm]
    if re.fullmatch(rf"[0-9A-Fa-f]{{{2 * length}}}", text):
        return text.lower()
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return raw.hex() if len(raw) == length else None
