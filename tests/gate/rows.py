"""The rows of the gate: for each fault (`support/faults.py`), what the origin does and what was on disk before.

What must come of a row is not said here: whatever the frozen version makes of it. All rows of one table and one exit
status share a crawl, because a crawl takes a second to start; each has an origin of its own, because a crawl remembers
of an origin that it is down, busy or careless with If-Range.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from pathlib import Path
from typing import Any, Protocol

from support.faults import (
    accept_ranges_none,
    accept_then_close,
    as_if,
    bad_chunk_size,
    busy,
    changes_after,
    chunked_answer,
    chunked_unfinished,
    close_delimited,
    closes_after_answer,
    content_range,
    cut_after,
    cut_in_header,
    digest_headers,
    digests,
    empty_200,
    etag_per_request,
    extra_bytes,
    first,
    garbage_status_line,
    gzip_encoded,
    html_instead,
    http10,
    if_range_always_200,
    ignores_range,
    in_turn,
    informational,
    length_disagrees,
    multipart_byteranges,
    no_content_range,
    no_validators,
    on_resume,
    range_416,
    redirect_loop,
    redirect_to,
    short_206,
    silent,
    slice_as_200,
    slow_headers,
    small_instead,
    stall_after,
    starts_early,
    starts_late,
    status,
    te_and_content_range,
    total_disagrees,
    trickle,
    valid_while,
    weak_date,
    weak_etag,
    when,
    whole_body_as_206,
    wrong_bytes_as_206,
    wrong_digest_headers,
)
from support.faulty import LAST_MODIFIED, Behaviour, Exchange, Resource, correct, good, make_body
from support.record import key_of

OVERLAP = 64 * 1024  # BULK_RESUME_OVERLAP
SIZE = 300_000
HELD = 200_000
BODY = make_body(SIZE)
OTHER = make_body(SIZE, "another version")
SHORTER = make_body(100_000, "another version")
LONGER = make_body(400_000, "another version")
GROWN = make_body(400_000)
LARGE = make_body(2_000_000, "large")
LATER = "Tue, 02 Jan 2024 00:00:00 GMT"

# Settings of the gate's crawls. Only the table `TIME` is about time: a machine that is busy must not make a stall of a pause.
PATIENT = {
    "BULK_RETRY_DELAY": "0.05",
    "BULK_RETRY_DELAY_MAX": "0.2",
    "BULK_RETRY_TIMES": "3",
    "BULK_STALL_TIMEOUT": "120",
    "BULK_HEADERS_TIMEOUT": "120",
    "BULK_CONNECT_TIMEOUT": "120",
    "BULK_ORIGIN_PATIENCE": "600",
    "BULK_SEGMENTS": "1",
    "CONCURRENT_REQUESTS": "200",
    "CONCURRENT_REQUESTS_PER_DOMAIN": "200",
    "STATS_DUMP": "True",
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


RIGHT_SUM = f"sha256={sha256(BODY)}"


# --- What lay there before --------------------------------------------------------------------------------------------


class Before(Protocol):
    def put(self, path: Path, url: str) -> None:
        """path: the final name of the entry."""


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True)
class Held:
    """A part and its state, as the frozen version leaves them when it is stopped (test_corpus.py compares them)."""

    body: bytes = BODY[:HELD]
    etag: str | None = '"v1"'
    last_modified: str | None = LAST_MODIFIED
    date: str | None = LATER
    total: int | None = SIZE
    url: str | None = None

    def put(self, path: Path, url: str) -> None:
        path.with_name(path.name + ".part").write_bytes(self.body)
        have = [[0, len(self.body)]]
        state = {
            "version": 1,
            "name": path.name,
            "key": key_of(self.url or url),
            "etag": self.etag,
            "last_modified": self.last_modified,
            "date": self.date,
            "total": self.total,
            "written": have,
            "durable": have,
            "boot": _boot(),
        }
        path.with_name(path.name + ".part.json").write_text(json.dumps(state))


@dataclass(frozen=True)
class Foreign:
    """A file of somebody else: under the final name, or (suffix=".part") under the part's; perhaps with a neighbour."""

    body: bytes
    suffix: str = ""
    neighbour: str | None = None
    hole: tuple[int, int] | None = None

    def put(self, path: Path, url: str) -> None:
        with open(path.with_name(path.name + self.suffix), "wb") as file:
            if self.hole is None:
                file.write(self.body)
            else:
                file.write(self.body[: self.hole[0]])
                file.seek(self.hole[1])
                file.write(self.body[self.hole[1] :])
        if self.neighbour:
            path.with_name(path.name + self.neighbour).write_bytes(b"control")


@dataclass(frozen=True)
class NoFile:
    """Something that is no regular file, under a name that the entry needs. kind: "symlink", "fifo" or "folder"."""

    kind: str
    suffix: str = ""

    def put(self, path: Path, url: str) -> None:
        place = path.with_name(path.name + self.suffix)
        if self.kind == "symlink":
            place.symlink_to("elsewhere")
        elif self.kind == "fifo":
            os.mkfifo(place)
        else:
            place.mkdir()


BARE = Held(etag=None, last_modified=None, date=None)
DATED = Held(etag=None)


# --- Rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One entry of a list.

    serves: the body, or all of the resource. fields: of its line, ORIGIN/ stands for its origin. server: arguments of
    its origin. more: other paths of it. elsewhere: the entry is redirected to another origin, which answers like this.
    down: nobody listens. exit: the status of a crawl that has only this row. loose: facts that the weather decides.
    """

    name: str
    behaviour: Behaviour
    serves: Resource | bytes = BODY
    before: Before | None = None
    fields: str = ""
    server: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Behaviour] = field(default_factory=dict)
    elsewhere: Behaviour | None = None
    down: bool = False
    exit: int = 0
    loose: tuple[str, ...] = ()


# --- A: ranges and resume ---------------------------------------------------------------------------------------------


def etag_changes_and_cut(exchange: Exchange) -> None:
    """A11: another ETag with every request, and every answer is cut."""
    exchange.resource = replace(exchange.resource, etag=f'"node-{exchange.attempt}"')
    cut_after(150_000)(exchange)


def changes_and_cut(exchange: Exchange) -> None:
    """A3: another object with every request, and every answer is cut; If-Range is not heeded."""
    version = make_body(SIZE, f"version {exchange.attempt}")
    exchange.resource = Resource(version, etag=f'"{exchange.attempt}"', honour_if_range=False)
    cut_after(HELD)(exchange)


def always_416(total: int | None = None, etag: str | None = None) -> Behaviour:
    """A7: range_416 with the validator of what is there."""
    headers = {} if total is None else {"Content-Range": f"bytes */{total}"}
    return when(lambda exchange: exchange.range is not None, status(416, headers | ({"ETag": etag} if etag else {})))


def capped(exchange: Exchange) -> None:
    """A4: never more than a piece, also where all was asked for."""
    reply = correct(exchange)
    reply.status = 206
    reply.show(reply.first, min(reply.last, reply.first + 99_999))
    exchange.answer(reply)


RANGES = (
    Row("A1-strong-etag", good, before=Held()),
    Row("A1-strong-date", as_if(etag=None), before=DATED),
    Row("A1-weak-date", weak_date(), before=replace(DATED, date=LAST_MODIFIED)),
    Row("A1-no-validators", no_validators(), before=BARE),
    Row("A2-other-unit", on_resume(content_range("items {first}-{last}/{size}")), before=Held()),
    Row("A2-last-before-first", on_resume(content_range("bytes {last}-{first}/{size}")), before=Held()),
    Row("A2-beyond-its-total", on_resume(content_range("bytes {first}-{last}/5")), before=Held()),
    Row("A2-nonsense", on_resume(content_range("bytes")), before=Held()),
    Row("A2-total-unknown", on_resume(content_range("bytes {first}-{last}/*")), before=Held()),
    Row("A2-starts-early", on_resume(starts_early(1_000)), before=Held()),
    Row("A2-starts-early-other-bytes", on_resume(starts_early(10_000), as_if(body=OTHER, etag='"v2"')), OTHER, before=Held()),
    Row("A2-starts-late", on_resume(starts_late(OVERLAP + 1)), before=Held()),
    Row("A2-starts-a-little-late", on_resume(starts_late(1_000)), before=Held()),
    Row("A2-whole-body-honest", on_resume(whole_body_as_206(honest=True)), before=Held()),
    Row("A2-whole-body-lying", on_resume(whole_body_as_206()), before=Held()),
    Row("A3-changed-same-size", changes_after(0, OTHER), before=Held()),
    Row("A3-changed-if-range-ignored", changes_after(0, OTHER, honour_if_range=False), before=Held()),
    Row("A3-changed-date-only", as_if(body=OTHER, etag=None, last_modified=LATER), before=DATED),
    Row("A3-changed-date-only-206", as_if(body=OTHER, etag=None, last_modified=LATER, honour_if_range=False), before=DATED),
    Row("A3-changed-no-validators", as_if(body=OTHER, etag=None, last_modified=None), before=BARE),
    Row("A3-changed-weak-etag", as_if(body=OTHER, etag='W/"v2"', last_modified=None), before=Held(etag='W/"v1"', last_modified=None)),
    Row("A3-changed-while-fetched", in_turn(cut_after(HELD), changes_after(1, OTHER))),
    Row("A3-changes-all-the-time", changes_and_cut, exit=3),
    Row("A4-short", on_resume(short_206(100_000)), before=Held()),
    Row("A4-shorter-than-the-overlap", on_resume(short_206(20_000)), before=Held()),
    Row("A5-no-content-range", on_resume(no_content_range()), before=Held()),
    Row("A5-multipart", on_resume(multipart_byteranges()), before=Held()),
    Row("A6-range-ignored", ignores_range(), before=Held()),
    Row("A6-range-ignored-silently", ignores_range(says_nothing=True), before=Held()),
    Row("A6-range-ignored-and-changed", ignores_range(), Resource(OTHER, etag='"v2"'), before=Held()),
    Row("A6-range-ignored-changed-bare", ignores_range(), Resource(OTHER, None, None), before=BARE),
    Row("A6-slice-as-200", slice_as_200(), before=Held()),
    Row("A7-416-all-here", always_416(SIZE, '"v1"'), before=Held(BODY)),
    Row("A7-416-all-here-total-unknown", always_416(SIZE, '"v1"'), before=Held(BODY, total=None)),
    Row("A7-416-all-here-hash-known", range_416(SIZE), before=Held(BODY), fields=RIGHT_SUM),
    Row("A7-416-all-here-no-validator", range_416(SIZE), before=Held(BODY)),
    Row("A7-416-other-object-no-validator", range_416(SIZE), Resource(OTHER, etag='"v2"'), before=Held(BODY)),
    Row("A7-416-other-object", always_416(SIZE, '"v2"'), Resource(OTHER, etag='"v2"'), before=Held(BODY)),
    Row("A7-416-no-length", range_416(), before=Held(BODY)),
    Row("A7-416-no-length-rest-missing", range_416(), before=Held()),
    Row("A7-416-shrunk", as_if(body=SHORTER, etag=None, last_modified=None), before=BARE),
    Row("A7-416-contradictory", always_416(SIZE, '"v1"'), before=Held()),
    Row("A8-shrunk", changes_after(0, SHORTER), before=Held()),
    Row("A8-shrunk-same-etag", changes_after(0, SHORTER, same_etag=True, same_date=True), before=Held()),
    Row("A8-grown", changes_after(0, LONGER), before=Held()),
    Row("A8-grown-same-etag", changes_after(0, GROWN, same_etag=True, same_date=True), before=Held()),
    Row("A8-grown-no-validators", as_if(body=GROWN, etag=None, last_modified=None), before=BARE),
    Row("A9-all-here", good, before=Held(BODY)),
    Row("A10-weak-etag", weak_etag(), before=Held(etag='W/"v1"')),
    Row("A10-weak-etag-alone", as_if(etag='W/"v1"', last_modified=None), before=Held(etag='W/"v1"', last_modified=None)),
    Row("A11-if-range-always-200", if_range_always_200(), before=Held()),
    Row("A11-if-range-etag-always-200", if_range_always_200(only_etag=True), before=Held()),
    Row("A11-etag-per-request", etag_per_request(), before=Held()),
    Row("A11-etag-per-request-206", etag_per_request(honour_if_range=False), before=Held()),
    Row("A11-etag-per-request-and-cut", etag_changes_and_cut, exit=3),
    Row("A12-other-mirror", redirect_to(("/A12-one", "/A12-two")), more={"A12-one": cut_after(HELD), "A12-two": as_if(etag='"two"', last_modified=LATER)}),
    Row("A13-total-disagrees", on_resume(total_disagrees()), before=Held()),
    Row("A13-total-disagrees-always", on_resume(total_disagrees(), cut_after(HELD)), before=Held(), exit=3),
    Row("A13-length-too-short", on_resume(in_turn(length_disagrees(-5), good)), before=Held()),
    Row("A13-length-too-short-always", on_resume(length_disagrees(-5)), before=Held(), exit=3),
    Row("A13-length-too-long", on_resume(length_disagrees(5)), before=Held()),
    Row("A14-right-headers-wrong-bytes", on_resume(wrong_bytes_as_206(OTHER)), before=Held()),
    Row("A14-part-rotten-at-its-head", good, before=Held(b"rotten" + BODY[6:HELD]), fields=RIGHT_SUM),
    Row("A15-accept-ranges-none", accept_ranges_none(), before=Held()),
    Row("A4-always-a-piece", capped),
    Row("A-foreign-part", good, LARGE, before=Foreign(LARGE[:1_000_000], ".part")),
    Row("A-foreign-short", good, LARGE, before=Foreign(LARGE[:1_000_000])),
    Row("A-foreign-same", good, LARGE, before=Foreign(LARGE)),
    Row("A-foreign-differs", good, LARGE, before=Foreign(OTHER)),
    Row("A-foreign-differs-in-its-tail", good, LARGE, before=Foreign(LARGE[:999999] + b"!")),
    Row("A-foreign-same-size-differs", good, BODY, before=Foreign(OTHER)),
    Row("A-foreign-same-size-other-tail", good, LARGE, before=Foreign(LARGE[:-1] + b"!")),
    Row("A-foreign-longer", good, BODY, before=Foreign(GROWN)),
    Row("A-foreign-no-ranges", accept_ranges_none(), LARGE, before=Foreign(LARGE[:1_000_000])),
    Row("A-foreign-part-no-ranges", accept_ranges_none(), LARGE, before=Foreign(LARGE[:1_000_000], ".part")),
    Row("A-foreign-aria2", good, LARGE, before=Foreign(LARGE[:1_000_000], neighbour=".aria2")),
    Row("A-foreign-hole", good, LARGE, before=Foreign(LARGE[:1_500_000], ".part", hole=(524_288, 1_048_576))),
    Row("A-foreign-not-found", status(404), LARGE, before=Foreign(LARGE[:1_000_000], ".part"), exit=4),
    Row("A-foreign-not-found-final", status(404), LARGE, before=Foreign(LARGE[:1_000_000]), exit=4),
    Row("A-state-of-another-url", good, before=Held(OTHER[:HELD], url="http://example.com/other")),
    Row("A-state-of-another-url-same-bytes", good, before=Held(url="http://example.com/other")),
)  # fmt: skip


# --- B: framing and truncation ----------------------------------------------------------------------------------------

WRONG_SUM = f"sha256={sha256(OTHER)}"
TLS: Mapping[str, Any] = {"tls": True}
DIGESTS = ("Repr-Digest", "Content-Digest", "Digest", "Content-MD5", "x-goog-hash")


def rest_not_asked(exchange: Exchange) -> None:
    """B25: 206 with half of the file, although no range was asked."""
    exchange.range = exchange.range or (0, 150_000 - 1)
    good(exchange)


def digest_and_cut(exchange: Exchange) -> None:
    """B26: what was there before the object changed: its digest is right, its body is cut."""
    exchange.resource = Resource(BODY, etag='"v0"')
    reply = correct(exchange)
    reply.headers |= digests(BODY)
    exchange.promise(reply)
    exchange.send(reply.body[:HELD])
    exchange.close()


FRAMING = (
    Row("B16-length-cut", cut_after(100_000, times=1)),
    Row("B16-length-reset", cut_after(100_000, "reset", times=1)),
    Row("B16-length-cut-at-every-answer", cut_after(100_000)),
    Row("B16-cut-before-the-last-byte", cut_after(SIZE - 1, times=1)),
    Row("B17-chunked", chunked_answer()),
    Row("B17-unfinished", chunked_unfinished(100_000, times=1)),
    Row("B17-unfinished-reset", chunked_unfinished(100_000, "reset", times=1)),
    Row("B17-only-the-last-chunk-is-missing", chunked_unfinished(times=1)),
    Row("B17-unfinished-no-ranges", chunked_unfinished(), Resource(BODY, None, None, accept_ranges=False), exit=3),
    Row("B17-bad-chunk-size", bad_chunk_size(100_000, times=1)),
    Row("B17-bad-chunk-size-always", bad_chunk_size(100_000), Resource(BODY, None, None, accept_ranges=False), exit=3),
    Row("B18-close-provable", close_delimited()),
    Row("B18-close-early-provable", in_turn(close_delimited(length=100_000), good)),
    Row("B18-close-early-always-provable", close_delimited(length=100_000)),
    Row("B18-close-size-known", close_delimited(provable=False), fields=f"size={SIZE}"),
    Row("B18-close-hash-known", close_delimited(provable=False), fields=RIGHT_SUM),
    Row("B18-close-early-size-known", close_delimited(length=100_000, provable=False), fields=f"size={SIZE}", exit=3),
    Row("B18-close-unproven", close_delimited(provable=False), exit=5),
    Row("B19-extra-bytes", extra_bytes(1_000)),
    Row("B19-extra-bytes-on-resume", extra_bytes(1_000), before=Held()),
    Row("B20-http10", http10()),
    Row("B20-http10-resume", http10(), before=Held()),
    Row("B20-http10-no-length", http10(length=False), exit=5),
    Row("B21-encoded", gzip_encoded()),
    Row("B21-encoded-resume", gzip_encoded(), before=Held()),
    Row("B21-encoded-size-known", gzip_encoded(), fields=f"size={SIZE}", exit=3),
    Row("B21-encoded-hash-known", gzip_encoded(), fields=RIGHT_SUM, exit=4),
    Row("B21-encoded-if-accepted", gzip_encoded(only_if_accepted=True)),
    Row("B22-chunked-206", te_and_content_range(), before=Held()),
    Row("B22-chunked-206-late", on_resume(te_and_content_range(100_000)), before=Held()),
    Row("B23-page", html_instead(), exit=3),
    Row("B23-page-on-resume", html_instead(), before=Held(), exit=3),
    Row("B23-page-hash-known", html_instead(), fields=RIGHT_SUM, exit=4),
    Row("B23-page-wanted.html", html_instead()),
    Row("B23-tiny", small_instead(), fields=f"size={SIZE}", exit=3),
    Row("B23-tiny-on-resume", small_instead(), before=Held(), fields=f"size={SIZE}", exit=3),
    Row("B24-empty", empty_200(), fields=f"size={SIZE}", exit=3),
    Row("B24-empty-and-nothing-else-known", empty_200()),
    Row("B24-empty-on-resume-size-known", empty_200(), before=Held(), fields=f"size={SIZE}", exit=3),
    Row("B24-empty-on-resume-same-etag", empty_200(times=1), before=Held()),
    Row("B25-204", status(204), exit=3),
    Row("B25-205", status(205), exit=3),
    Row("B25-304", status(304), exit=3),
    Row("B25-304-on-resume", status(304), before=Held(), exit=3),
    Row("B25-300-no-location", status(300), exit=3),
    Row("B25-1xx", informational()),
    Row("B25-206-unasked", rest_not_asked),
    *(Row(f"B26-{name}", digest_headers(name, right=True)) for name in DIGESTS),
    *(Row(f"B26-{name}-wrong", wrong_digest_headers(name), exit=4) for name in DIGESTS),
    Row("B26-all-on-resume", digest_headers(right=True), before=Held()),
    Row("B26-of-the-answer-on-resume", digest_headers("Content-MD5", "Content-Digest", right=True), before=Held()),
    Row("B26-wrong-once", first(1, wrong_digest_headers("Repr-Digest"), digest_headers("Repr-Digest", right=True))),
    Row("B26-changed-with-its-digest", in_turn(digest_and_cut, digest_headers("Repr-Digest", right=True)), OTHER),
    Row("B26-list-hash-wrong", good, fields=WRONG_SUM, exit=4),
    Row("B26-right-trailer", chunked_answer(digest="right")),
    Row("B18-tls-notified", close_delimited(provable=False), server=TLS),
    Row("B18-tls-not-notified", close_delimited(notify=False, provable=False), server=TLS, exit=3),
    Row("B18-tls-not-notified-provable", close_delimited(notify=False), server=TLS),
    Row("B18-tls-cut", close_delimited(notify=False, length=100_000, provable=False), server=TLS, exit=3),
    Row("B18-tls-cut-once", first(1, close_delimited(notify=False, length=100_000)), server=TLS),
    Row("B16-tls-length-cut", cut_after(100_000, "close_without_notify", times=1), server=TLS),
)  # fmt: skip


# --- C and D: status, redirects, connections --------------------------------------------------------------------------


def only_current_signature(exchange: Exchange) -> None:
    """C32: the target of the redirect is good once for each signature."""
    if exchange.query == "sig=0" and exchange.attempt == 0:
        cut_after(HELD)(exchange)
    elif exchange.query == "sig=1":
        good(exchange)
    else:
        status(403)(exchange)


SECRETS = "header:Authorization=Bearer-x header:Cookie=session=x header:X-Token=x"

PACE = (
    Row("C-fine", good),
    *(Row(f"C29-{code}-mid-file", in_turn(cut_after(100_000), status(code)), exit=4) for code in (401, 403, 410)),
    *(Row(f"C29-{code}-on-resume", status(code), before=Held(), exit=4) for code in (401, 403, 410)),
    *(Row(f"C30-{code}", status(code), exit=4) for code in (404, 405, 451)),
    Row("C30-404-page-on-resume", status(404), before=Held(), exit=4),
    Row("C31-loop", redirect_loop(), exit=3),
    Row("C31-endless", redirect_loop(fresh=True), exit=3),
    Row("C31-loop-on-resume", redirect_loop(), before=Held(), exit=3),
    Row("C31-hops", redirect_to("/C31-hop"), more={"C31-hop": redirect_to("/C31-end", 307), "C31-end": good}),
    Row("C32-target-expired", redirect_to(("/C32-signed?sig=0", "/C32-signed?sig=1")), more={"C32-signed": only_current_signature}),
    Row("C32-target-refuses-then-list-url", redirect_to(("/C32-gone", "/C32-there")), more={"C32-gone": status(403), "C32-there": good}, exit=4),
    Row("C65-to-file", redirect_to("file:///etc/passwd"), exit=3),
    Row("C65-to-file-on-resume", redirect_to("file:///etc/passwd"), before=Held(), exit=3),
    Row("C65-to-ftp", redirect_to("ftp://127.0.0.1/file"), exit=3),
    Row("C33-retry-after", redirect_to("/C33-there", headers={"Retry-After": "1"}), more={"C33-there": good}),
    Row("C29-expired-by-query", valid_while(lambda exchange: exchange.query == "fresh"), exit=4),
    Row("C32-secrets-stay-here", good, fields=SECRETS),
    Row("C32-secrets-and-another-origin", good, elsewhere=in_turn(cut_after(HELD), good), fields=SECRETS),
    Row("C31-downgrade", redirect_to("http://127.0.0.1:9/file"), server=TLS, exit=3),
    Row("D44-handshake-reset", good, server={"tls": True, "at_connect": lambda number: "reset" if number < 2 else None}),
    Row("D44-certificate-expired", good, server={"tls": "expired"}, exit=4),
    *(Row(f"C28-{code}-twice", status(code, times=2)) for code in (408, 425, 500, 502, 504, 520, 524)),
    Row("C28-500-on-resume", status(500, times=2), before=Held()),
    Row("C28-500-always", status(500), before=Held(), exit=3),
    Row("C28-connections-closed", good, server={"at_connect": lambda number: "close" if number < 2 else None}),
    Row("C28-connections-reset", good, server={"at_connect": lambda number: "reset" if number < 2 else None}),
    Row("C28-no-answer", accept_then_close(times=2)),
    Row("C30-mirror", status(404), fields="mirror=ORIGIN/C30-there", more={"C30-there": good}),
    Row("D41-reset-mid-body", cut_after(150_000, "reset", times=1)),
    Row("D41-header-cut", cut_in_header(times=2)),
    Row("D41-header-reset", cut_in_header("reset", times=2)),
    Row("D41-garbage", garbage_status_line(times=2)),
    Row("D41-garbage-always", garbage_status_line(), before=Held(), exit=3),
    Row("D42-closed-after-answer", closes_after_answer()),
    Row("D42-reset-after-answer", closes_after_answer("reset")),
)  # fmt: skip


# --- E: what lies there -----------------------------------------------------------------------------------------------

DISK = (
    *(Row(f"E53-{kind}{suffix.replace('.', '-')}", good, before=NoFile(kind, suffix), exit=3) for kind in ("symlink", "fifo", "folder") for suffix in ("", ".part")),
    Row("E54-empty-part", good, before=Foreign(b"", ".part")),
    Row("E54-empty-file", good, before=Foreign(b"")),
)  # fmt: skip


# --- Tables that need settings of their own ---------------------------------------------------------------------------


def busy_until_date(exchange: Exchange) -> None:
    """C27: Retry-After as the date of the first whole second that is at least two away."""
    busy(429, formatdate(math.ceil(time.time() + 2), usegmt=True))(exchange)


BUSY = (
    Row("C27-429-seconds", busy(429, 2)),
    Row("C27-503-seconds", busy(503, 2)),
    Row("C27-429-date", busy_until_date),
    Row("C27-capped", busy(503, 3600)),
    Row("C27-three-times", busy(503, 1, times=3)),
    Row("C27-no-retry-after", busy(503, None, times=3)),
    Row("C27-malformed-retry-after", busy(503, "soon", times=3)),
    Row("C27-on-resume-keeps-the-part", in_turn(cut_after(HELD), busy(503, 1, times=None), good)),
)  # fmt: skip

TIME = (
    Row("D36-stall", stall_after(150_000, times=1)),
    Row("D36-stall-at-the-head", stall_after(0, times=1)),
    Row("D36-stall-always", on_resume(stall_after(0), stall_after(150_000))),
    Row("D36-too-slow", trickle(100, after=150_000, times=1), loose=("request 2",)),
    Row("D38-slow-but-alive", trickle(100_000)),
    Row("D37-slow-headers", slow_headers(times=1)),
    Row("D37-silent", silent(times=1)),
    Row("D40-stalled-connection", good, server={"at_connect": lambda number: "stall" if number < 1 else None}),
)  # fmt: skip

PATIENCE = (
    Row("C28-no-answer-always", accept_then_close(), loose=("attempts", "broken", "error code")),
    Row("D37-slow-headers-always", slow_headers(), before=Held(), loose=("attempts", "broken", "error code")),
    Row("C28-refused-always", good, before=Held(), down=True, loose=("attempts", "broken")),
    Row("D44-handshake-reset-always", good, server={"tls": True, "at_connect": lambda _: "reset"}, loose=("attempts", "broken", "error code")),
)  # fmt: skip
