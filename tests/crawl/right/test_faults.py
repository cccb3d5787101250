"""Everything of the list of faults, end to end: the right file, or an honest failure with the part kept.

A Case is one entry of a list: what the origin does, what lay on disk before, and what must come of it. The cases of a
group share one crawl, because a crawl takes a second to start; each has an origin of its own, because a crawl remembers
of an origin that it is down, busy or careless with If-Range. Every case bounds its requests: an answer that makes no sense must not become a
storm. What a single HTTP/1.1 server on one address cannot do is not here: D39 (several addresses), D43 (HTTP/2), and
D38 (stealing the tail of a slow connection), nor C35 (robots.txt, which is off by default).
"""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from bulkspider.disk.files.statefile import BOOT_ID
from bulkspider.entries.urls import url_key
from support.crawl import Bulk, Ended, sha256
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
    dies_every,
    digest_headers,
    digests,
    drops_reused_connection,
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
    page,
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
from support.faulty import (
    LAST_MODIFIED,
    Behaviour,
    Exchange,
    FaultyOrigin,
    Recorded,
    Resource,
    correct,
    good,
    make_body,
)

KIB = 1024
OVERLAP = 64 * KIB  # BULK_RESUME_OVERLAP
SIZE = 300_000
HELD = 200_000
BODY = make_body(SIZE)
OTHER = make_body(SIZE, "another version")
SHORTER = make_body(100_000, "another version")
LONGER = make_body(400_000, "another version")
GROWN = make_body(400_000)
LARGE = make_body(2_000_000, "large")
LATER = "Tue, 02 Jan 2024 00:00:00 GMT"
# All cases of a group at once: none may wait for another one's stall.
TOGETHER = {"CONCURRENT_REQUESTS": "100", "CONCURRENT_REQUESTS_PER_DOMAIN": "100"}


# --- What lay there before --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """A part and its state, as bulkspider leaves them when it is stopped."""

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
            "key": url_key(self.url or url),
            "etag": self.etag,
            "last_modified": self.last_modified,
            "date": self.date,
            "total": self.total,
            "written": have,
            "durable": have,
            "boot": BOOT_ID,
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


BARE = Held(etag=None, last_modified=None, date=None)
DATED = Held(etag=None)


# --- Cases and their crawls -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One entry. requests, received: at most so many requests for its path, bytes of body. becomes: the final file,
    None: what is served. keeps: at least so many right bytes stay in the part of a failure. aside: the foreign file
    that must lie at `<name>.old`. server: arguments of its origin. down: nobody listens. more: other paths of its origin.
    fields: of its line, ORIGIN stands for its origin. also: what else must hold."""

    name: str
    behaviour: Behaviour
    serves: Resource | bytes = BODY
    before: Held | Foreign | None = None
    status: str | tuple[str, ...] = "complete"
    code: str | tuple[str, ...] = ""
    http_status: int | None = None
    permanent: bool = False
    requests: int = 1
    received: int | None = None
    becomes: bytes | None = None
    keeps: int = 0
    aside: bytes | None = None
    flags: tuple[str, ...] = ()
    fields: str = ""
    server: Mapping[str, Any] = field(default_factory=dict)
    down: bool = False
    more: Mapping[str, Behaviour] = field(default_factory=dict)
    also: Callable[[Crawl, Case], None] | None = None

    @property
    def right(self) -> bytes:
        if self.becomes is not None:
            return self.becomes
        return self.serves.body if isinstance(self.serves, Resource) else self.serves


@dataclass
class Crawl:
    """What one crawl over a group came to."""

    ended: Ended
    origins: dict[str, FaultyOrigin]
    before: dict[str, float]

    def origin(self, case: Case) -> FaultyOrigin:
        return self.origins[case.name]

    def requests(self, case: Case, path: str | None = None) -> list[Recorded]:
        return self.origin(case).requests_for(path or case.name, None)

    def story(self, case: Case) -> str:
        """The row and the first requests, for a person."""
        row = self.ended.row(case.name)
        told = [f"{key}={row[key]}" for key in ("status", "error", "flags", "size", "bytes_received", "attempts")]
        asked = self.requests(case)
        for request in asked[:12]:
            fields = [f"{name}: {request.headers[name]}" for name in ("range", "if-range") if name in request.headers]
            told.append(f"{request.method} {', '.join(fields)} -> {request.status}, {request.bytes_sent} bytes")
        return "\n".join([*told, f"{len(asked)} requests"])


@dataclass(frozen=True)
class Group:
    cases: tuple[Case, ...]
    exit: int
    settings: Mapping[str, str] = field(default_factory=dict)

    def crawl(self, folder: Path) -> Crawl:
        bulk = Bulk(folder)
        bulk.output.mkdir()
        origins: dict[str, FaultyOrigin] = {}
        before = {}
        with contextlib.ExitStack() as stack:
            trust = stack.enter_context(pytest.MonkeyPatch.context())
            lines = []
            for case in self.cases:
                origin = stack.enter_context(FaultyOrigin(**case.server))
                if case.server.get("tls") is True:
                    trust.setenv("SSL_CERT_FILE", str(origin.certificate_path))
                origins[case.name] = origin
                origin.add(case.name, case.behaviour, case.serves)
                for path, behaviour in case.more.items():
                    origin.add(path, behaviour, case.serves)
                lines.append(f"{case.name} {origin.url(case.name)} {case.fields.replace('ORIGIN/', origin.url(''))}")
                if case.before is not None:
                    case.before.put(bulk.output / case.name, origin.url(case.name))
                with contextlib.suppress(FileNotFoundError):
                    before[case.name] = (bulk.output / case.name).stat().st_ino
                if case.down:
                    origin.down()
            bulk.write_list(lines)
            ended = bulk.run(settings={**TOGETHER, **self.settings})
        return Crawl(ended, origins, before)


def check(crawl: Crawl, case: Case) -> None:
    """The rules that hold for every case."""
    output, name = crawl.ended.output, case.name
    row = crawl.ended.row(name)
    told = crawl.story(case)
    expected = (case.status,) if isinstance(case.status, str) else case.status
    final = output / name
    # First of all: what has the final name is right, whatever the row says.
    if final.exists() and final.stat().st_ino != crawl.before.get(name):
        assert final.read_bytes() == case.right, f"a wrong file under its final name\n{told}"
    assert row["status"] in expected, told
    if row["status"] in ("verified", "complete", "unproven"):
        assert final.read_bytes() == case.right, told
        assert row["size"] == len(case.right), told
        assert row["error"] is None, told
        left = {path.name.removeprefix(name) for path in output.glob(f"{name}.*")} - {".old", ".aria2"}
        assert not left, f"left behind: {left}\n{told}"
    else:
        codes = (case.code,) if isinstance(case.code, str) else case.code
        assert row["error"]["code"] in codes, told
        assert row["error"]["permanent"] == case.permanent, told
        assert row["error"]["http_status"] == case.http_status, told
        assert not final.exists() or final.stat().st_ino == crawl.before.get(name), told
        if case.keeps:
            part = output / (name + ".part")
            assert part.exists(), f"the part is gone: {[p.name for p in output.glob(f'{name}*')]}\n{told}"
            kept = part.read_bytes()
            assert len(kept) >= case.keeps, told
            assert kept == BODY[: len(kept)], told
    assert len(crawl.requests(case)) <= case.requests, told
    if row["error"] is None:
        assert set(row["flags"]) == set(case.flags), told
    if case.received is not None:
        assert row["bytes_received"] <= case.received, told
    old = output / (name + ".old")
    assert (old.read_bytes() if old.exists() else None) == case.aside, told
    if case.also is not None:
        case.also(crawl, case)


# --- Further checks of single cases -----------------------------------------------------------------------------------


def asked_with(if_range: str | None) -> Callable[[Crawl, Case], None]:
    """The first request was for a range, under this If-Range."""

    def also(crawl: Crawl, case: Case) -> None:
        headers = crawl.requests(case)[0].headers
        assert headers["range"] == f"bytes={HELD - OVERLAP}-"
        assert headers.get("if-range") == if_range

    return also


def asked_without_weak_etag(crawl: Crawl, case: Case) -> None:
    """With a weak ETag, If-Range with the date is accepted, although RFC 9110 §13.1.5 forbids it when there is any
    entity tag."""
    assert not any("W/" in request.headers.get("if-range", "") for request in crawl.requests(case))


def asked_identity(crawl: Crawl, case: Case) -> None:
    assert {request.headers["accept-encoding"] for request in crawl.requests(case)} == {"identity"}


def stays_in_place(crawl: Crawl, case: Case) -> None:
    assert (crawl.ended.output / case.name).stat().st_ino == crawl.before[case.name]


def part_is_untouched(crawl: Crawl, case: Case) -> None:
    assert isinstance(case.before, Foreign)
    assert (crawl.ended.output / (case.name + case.before.suffix)).read_bytes() == case.before.body


def refuted_bytes_are_kept(crawl: Crawl, case: Case) -> None:
    assert (crawl.ended.output / (case.name + ".part.old")).exists()
    assert not (crawl.ended.output / (case.name + ".part")).exists()


def gap(shortest: float, longest: float) -> Callable[[Crawl, Case], None]:
    """The origin was left alone for as long as it asked, measured on the server."""

    def also(crawl: Crawl, case: Case) -> None:
        times = sorted(request.time for request in crawl.requests(case))
        assert shortest <= times[1] - times[0] <= longest, times

    return also


def requests_of_target(path: str, most: int) -> Callable[[Crawl, Case], None]:
    def also(crawl: Crawl, case: Case) -> None:
        assert len(crawl.requests(case, path)) <= most

    return also


# --- A: ranges and resume ---------------------------------------------------------------------------------------------

REST = SIZE - HELD + OVERLAP  # what a resume fetches: what is missing and the overlap
CHANGED: Mapping[str, Any] = {"becomes": OTHER, "received": SIZE + REST}


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


RESUME = Group(
    exit=3,
    cases=(
        Case("A1-strong-etag", good, before=Held(), received=REST, also=asked_with('"v1"')),
        Case("A1-strong-date", as_if(etag=None), before=DATED, received=REST, also=asked_with(LAST_MODIFIED)),
        Case("A1-weak-date", weak_date(), before=replace(DATED, date=LAST_MODIFIED), received=REST, also=asked_with(None)),
        Case("A1-no-validators", no_validators(), before=BARE, received=REST, also=asked_with(None)),
        Case("A2-other-unit", on_resume(content_range("items {first}-{last}/{size}")), before=Held(), requests=2),
        Case("A2-last-before-first", on_resume(content_range("bytes {last}-{first}/{size}")), before=Held(), requests=2),
        Case("A2-beyond-its-total", on_resume(content_range("bytes {first}-{last}/5")), before=Held(), requests=2),
        Case("A2-nonsense", on_resume(content_range("bytes")), before=Held(), requests=2),
        Case("A2-total-unknown", on_resume(content_range("bytes {first}-{last}/*")), before=Held(), received=REST),
        Case("A2-starts-early", on_resume(starts_early(1_000)), before=Held(), received=REST + 1_000),
        Case("A2-starts-early-other-bytes", on_resume(starts_early(10_000), as_if(body=OTHER, etag='"v2"')), OTHER, before=Held(), requests=3, received=3 * SIZE),
        Case("A2-starts-late", on_resume(starts_late(OVERLAP + 1)), before=Held(), requests=2, received=SIZE),
        Case("A2-starts-a-little-late", on_resume(starts_late(1_000)), before=Held(), requests=2, received=SIZE),
        Case("A2-whole-body-honest", on_resume(whole_body_as_206(honest=True)), before=Held(), received=SIZE),
        Case("A2-whole-body-lying", on_resume(whole_body_as_206()), before=Held(), requests=2, received=2 * SIZE),
        Case("A3-changed-same-size", changes_after(0, OTHER), before=Held(), **CHANGED),
        Case("A3-changed-if-range-ignored", changes_after(0, OTHER, honour_if_range=False), before=Held(), requests=2, **CHANGED),
        Case("A3-changed-date-only", as_if(body=OTHER, etag=None, last_modified=LATER), before=DATED, **CHANGED),
        Case("A3-changed-date-only-206", as_if(body=OTHER, etag=None, last_modified=LATER, honour_if_range=False), before=DATED, requests=2, **CHANGED),
        Case("A3-changed-no-validators", as_if(body=OTHER, etag=None, last_modified=None), before=BARE, requests=2, **CHANGED),
        Case("A3-changed-weak-etag", as_if(body=OTHER, etag='W/"v2"', last_modified=None), before=Held(etag='W/"v1"', last_modified=None), requests=2, **CHANGED),
        Case("A3-changed-while-fetched", in_turn(cut_after(HELD), changes_after(1, OTHER)), becomes=OTHER, requests=2),
        Case("A3-changes-all-the-time", changes_and_cut, status="failed", code="unstable", requests=8),
        Case("A4-short", on_resume(short_206(100_000)), before=Held(), requests=4),
        Case("A4-shorter-than-the-overlap", on_resume(short_206(20_000)), before=Held(), requests=2),
        Case("A5-no-content-range", on_resume(no_content_range()), before=Held(), requests=2),
        Case("A5-multipart", on_resume(multipart_byteranges()), before=Held(), requests=2),
        Case("A6-range-ignored", ignores_range(), before=Held(), requests=3, flags=("no-range",)),
        Case("A6-range-ignored-silently", ignores_range(says_nothing=True), before=Held(), requests=3, flags=("no-range",)),
        Case("A6-range-ignored-and-changed", ignores_range(), Resource(OTHER, etag='"v2"'), before=Held(), received=SIZE),
        Case("A6-range-ignored-changed-bare", ignores_range(), Resource(OTHER, None, None), before=BARE, requests=2, flags=("no-range",), received=2 * SIZE),
        Case("A6-slice-as-200", slice_as_200(), before=Held(), received=REST),
        Case("A7-416-all-here", always_416(SIZE, '"v1"'), before=Held(BODY), received=0),
        Case("A7-416-all-here-total-unknown", always_416(SIZE, '"v1"'), before=Held(BODY, total=None), received=0),
        Case("A7-416-all-here-hash-known", range_416(SIZE), before=Held(BODY), fields=f"sha256={sha256(BODY)}", status="verified", received=0),
        Case("A7-416-all-here-no-validator", range_416(SIZE), before=Held(BODY), requests=3),
        Case("A7-416-other-object-no-validator", range_416(SIZE), Resource(OTHER, etag='"v2"'), before=Held(BODY), requests=3),
        Case("A7-416-other-object", always_416(SIZE, '"v2"'), Resource(OTHER, etag='"v2"'), before=Held(BODY), requests=3),
        Case("A7-416-no-length", range_416(), before=Held(BODY), requests=3),
        Case("A7-416-no-length-rest-missing", range_416(), before=Held(), requests=3),
        Case("A7-416-shrunk", as_if(body=SHORTER, etag=None, last_modified=None), before=BARE, becomes=SHORTER, requests=2),
        Case("A7-416-contradictory", always_416(SIZE, '"v1"'), before=Held(), requests=2),
        Case("A8-shrunk", changes_after(0, SHORTER), before=Held(), becomes=SHORTER, requests=2),
        Case("A8-shrunk-same-etag", changes_after(0, SHORTER, same_etag=True, same_date=True), before=Held(), becomes=SHORTER, requests=2),
        Case("A8-grown", changes_after(0, LONGER), before=Held(), becomes=LONGER, requests=2),
        Case("A8-grown-same-etag", changes_after(0, GROWN, same_etag=True, same_date=True), before=Held(), becomes=GROWN, requests=2),
        Case("A8-grown-no-validators", as_if(body=GROWN, etag=None, last_modified=None), before=BARE, becomes=GROWN, requests=2),
        Case("A9-all-here", good, before=Held(BODY), received=OVERLAP),
        Case("A10-weak-etag", weak_etag(), before=Held(etag='W/"v1"'), received=REST, also=asked_without_weak_etag),
        Case("A10-weak-etag-alone", as_if(etag='W/"v1"', last_modified=None), before=Held(etag='W/"v1"', last_modified=None), received=REST, also=asked_with(None)),
        Case("A11-if-range-always-200", if_range_always_200(), before=Held(), requests=3, received=REST),
        Case("A11-if-range-etag-always-200", if_range_always_200(only_etag=True), before=Held(), requests=2, received=REST),
        Case("A11-etag-per-request", etag_per_request(), before=Held(), requests=3),
        Case("A11-etag-per-request-206", etag_per_request(honour_if_range=False), before=Held(), requests=3),
        # Nobody can tell such an origin from one whose object changes all the time: it may end as unstable.
        Case("A11-etag-per-request-and-cut", etag_changes_and_cut, status=("complete", "failed"), code="unstable", requests=8, keeps=1),
        Case("A12-other-mirror", redirect_to(("/A12-one", "/A12-two")), requests=4, more={"A12-one": cut_after(HELD), "A12-two": as_if(etag='"two"', last_modified=LATER)}, also=requests_of_target("A12-two", 2)),
        Case("A13-total-disagrees", on_resume(total_disagrees()), before=Held(), requests=2),
        Case("A13-total-disagrees-always", on_resume(total_disagrees(), cut_after(HELD)), before=Held(), status="failed", code="unstable", requests=10, keeps=HELD),
        Case("A13-length-too-short", on_resume(in_turn(length_disagrees(-5), good)), before=Held(), requests=3),
        Case("A13-length-too-short-always", on_resume(length_disagrees(-5)), before=Held(), status="failed", code="lost", requests=8, keeps=HELD),
        Case("A13-length-too-long", on_resume(length_disagrees(5)), before=Held()),
        Case("A14-right-headers-wrong-bytes", on_resume(wrong_bytes_as_206(OTHER)), before=Held(), requests=2),
        Case("A14-part-rotten-at-its-head", good, before=Held(b"rotten" + BODY[6:HELD]), fields=f"sha256={sha256(BODY)}", status="verified", requests=2, received=REST + SIZE),
        Case("A15-accept-ranges-none", accept_ranges_none(), before=Held(), requests=3, flags=("no-range",)),
    ),
)  # fmt: skip


FOREIGN = Group(
    exit=4,
    cases=(
        Case("A-foreign-part", good, LARGE, before=Foreign(LARGE[:1_000_000], ".part"), requests=6, received=1_500_000),
        Case("A-foreign-short", good, LARGE, before=Foreign(LARGE[:1_000_000]), requests=6, received=1_500_000),
        Case("A-foreign-same", good, LARGE, before=Foreign(LARGE), requests=6, received=460_000, flags=("adopted",), also=stays_in_place),
        Case("A-foreign-differs", good, LARGE, before=Foreign(OTHER), requests=6, aside=OTHER),
        Case("A-foreign-differs-in-its-tail", good, LARGE, before=Foreign(LARGE[:999_999] + b"!"), requests=7, aside=LARGE[:999_999] + b"!"),
        Case("A-foreign-same-size-differs", good, BODY, before=Foreign(OTHER), requests=6, aside=OTHER),
        Case("A-foreign-same-size-other-tail", good, LARGE, before=Foreign(LARGE[:-1] + b"!"), requests=7, aside=LARGE[:-1] + b"!"),
        Case("A-foreign-longer", good, BODY, before=Foreign(GROWN), requests=6, aside=GROWN),
        Case("A-foreign-no-ranges", accept_ranges_none(), LARGE, before=Foreign(LARGE[:1_000_000]), requests=2, aside=LARGE[:1_000_000]),
        Case("A-foreign-part-no-ranges", accept_ranges_none(), LARGE, before=Foreign(LARGE[:1_000_000], ".part"), requests=2, aside=LARGE[:1_000_000]),
        Case("A-foreign-aria2", good, LARGE, before=Foreign(LARGE[:1_000_000], neighbour=".aria2"), requests=2, aside=LARGE[:1_000_000]),
        Case("A-foreign-hole", good, LARGE, before=Foreign(LARGE[:1_500_000], ".part", hole=(524_288, 1_048_576)), requests=6),
        Case("A-foreign-not-found", status(404), LARGE, before=Foreign(LARGE[:1_000_000], ".part"), status="failed", code="http_404", http_status=404, permanent=True, also=part_is_untouched),
        Case("A-foreign-not-found-final", status(404), LARGE, before=Foreign(LARGE[:1_000_000]), status="failed", code="http_404", http_status=404, permanent=True, also=stays_in_place),
        Case("A-state-of-another-url", good, before=Held(OTHER[:HELD], url="http://example.com/other"), requests=6, aside=OTHER[:HELD], flags=("url-changed",)),
        Case("A-state-of-another-url-same-bytes", good, before=Held(url="http://example.com/other"), requests=6, flags=("url-changed",)),
    ),
)  # fmt: skip


# --- B: framing and truncation ----------------------------------------------------------------------------------------

GZIPPED = gzip.compress(BODY, mtime=0)
WRONG_SUM = f"sha256={sha256(OTHER)}"
RIGHT_SUM = f"sha256={sha256(BODY)}"


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


FRAMING = Group(
    exit=3,
    cases=(
        Case("B16-length-cut", cut_after(100_000, times=1), requests=2),
        Case("B16-length-reset", cut_after(100_000, "reset", times=1), requests=2),
        Case("B16-length-cut-at-every-answer", cut_after(100_000), requests=8),
        Case("B16-cut-before-the-last-byte", cut_after(SIZE - 1, times=1), requests=2),
        Case("B17-chunked", chunked_answer()),
        Case("B17-unfinished", chunked_unfinished(100_000, times=1), requests=2),
        Case("B17-unfinished-reset", chunked_unfinished(100_000, "reset", times=1), requests=2),
        Case("B17-only-the-last-chunk-is-missing", chunked_unfinished(times=1), requests=2),
        Case("B17-unfinished-no-ranges", chunked_unfinished(), Resource(BODY, None, None, accept_ranges=False), status="failed", code="lost", requests=8, keeps=SIZE),
        Case("B17-bad-chunk-size", bad_chunk_size(100_000, times=1), requests=2),
        Case("B17-bad-chunk-size-always", bad_chunk_size(100_000), Resource(BODY, None, None, accept_ranges=False), status="failed", code="lost", requests=8, keeps=1),
        Case("B18-close-provable", close_delimited(), requests=2),
        Case("B18-close-early-provable", in_turn(close_delimited(length=100_000), good), requests=3),
        Case("B18-close-early-always-provable", close_delimited(length=100_000), requests=16),
        Case("B18-close-size-known", close_delimited(provable=False), fields=f"size={SIZE}", requests=3),
        Case("B18-close-hash-known", close_delimited(provable=False), fields=RIGHT_SUM, status="verified", requests=3),
        Case("B18-close-early-size-known", close_delimited(length=100_000, provable=False), fields=f"size={SIZE}", status="failed", code=("size_mismatch", "lost"), requests=10, keeps=100_000),
        Case("B18-close-unproven", close_delimited(provable=False), status="unproven", requests=3),
        Case("B19-extra-bytes", extra_bytes(1_000)),
        Case("B19-extra-bytes-on-resume", extra_bytes(1_000), before=Held(), received=REST + 1_000),
        Case("B20-http10", http10()),
        Case("B20-http10-resume", http10(), before=Held(), requests=3, flags=("no-range",)),
        Case("B20-http10-no-length", http10(length=False), status="unproven", requests=3),
        Case("B21-encoded", gzip_encoded(), becomes=GZIPPED, flags=("encoded",), also=asked_identity),
        Case("B21-encoded-resume", gzip_encoded(), before=Held(), becomes=GZIPPED, flags=("encoded",), requests=2),
        Case("B21-encoded-size-known", gzip_encoded(), fields=f"size={SIZE}", status="failed", code="size_mismatch", http_status=200, requests=2),
        Case("B21-encoded-hash-known", gzip_encoded(), fields=RIGHT_SUM, status="failed", code="digest_mismatch", permanent=True, requests=2, also=refuted_bytes_are_kept),
        Case("B21-encoded-if-accepted", gzip_encoded(only_if_accepted=True), also=asked_identity),
        Case("B22-chunked-206", te_and_content_range(), before=Held(), received=REST),
        Case("B22-chunked-206-late", on_resume(te_and_content_range(100_000)), before=Held(), requests=2),
        Case("B23-page", html_instead(), status="failed", code="html", http_status=200, requests=2),
        Case("B23-page-on-resume", html_instead(), before=Held(), status="failed", code="html", http_status=200, requests=2, keeps=HELD),
        Case("B23-page-hash-known", html_instead(), fields=RIGHT_SUM, status="failed", code="digest_mismatch", permanent=True, requests=2),
        Case("B23-page-wanted.html", html_instead(), becomes=page("Please log in")),
        Case("B23-tiny", small_instead(), fields=f"size={SIZE}", status="failed", code="size_mismatch", http_status=200, requests=2),
        Case("B23-tiny-on-resume", small_instead(), before=Held(), fields=f"size={SIZE}", status="failed", code="size_mismatch", http_status=200, requests=3, keeps=HELD),
        Case("B24-empty", empty_200(), fields=f"size={SIZE}", status="failed", code="size_mismatch", http_status=200, requests=2),
        Case("B24-empty-and-nothing-else-known", empty_200(), becomes=b""),
        Case("B24-empty-on-resume-size-known", empty_200(), before=Held(), fields=f"size={SIZE}", status="failed", code="size_mismatch", http_status=200, requests=2, keeps=HELD),
        # The part knows that this very ETag names 300,000 bytes.
        Case("B24-empty-on-resume-same-etag", empty_200(times=1), before=Held(), requests=3),
        Case("B25-204", status(204), status="failed", code="http_204", http_status=204, requests=6),
        Case("B25-205", status(205), status="failed", code="http_205", http_status=205, requests=6),
        Case("B25-304", status(304), status="failed", code="redirect", http_status=304, requests=2),
        Case("B25-304-on-resume", status(304), before=Held(), status="failed", code="redirect", http_status=304, requests=2, keeps=HELD),
        Case("B25-300-no-location", status(300), status="failed", code="redirect", http_status=300, requests=2),
        Case("B25-1xx", informational()),
        Case("B25-206-unasked", rest_not_asked, requests=3),
        *(Case(f"B26-{name}", digest_headers(name, right=True), status="verified") for name in ("Repr-Digest", "Content-Digest", "Digest")),
        *(Case(f"B26-{name}", digest_headers(name, right=True), status="verified", flags=("weak-hash",)) for name in ("Content-MD5", "x-goog-hash")),
        *(Case(f"B26-{name}-wrong", wrong_digest_headers(name), status="failed", code="digest_mismatch", permanent=True, requests=2, also=refuted_bytes_are_kept) for name in ("Repr-Digest", "Content-Digest", "Digest", "Content-MD5", "x-goog-hash")),
        Case("B26-all-on-resume", digest_headers(right=True), before=Held(), status="verified", received=REST),
        Case("B26-of-the-answer-on-resume", digest_headers("Content-MD5", "Content-Digest", right=True), before=Held(), received=REST),
        Case("B26-wrong-once", first(1, wrong_digest_headers("Repr-Digest"), digest_headers("Repr-Digest", right=True)), status="verified", requests=2),
        Case("B26-changed-with-its-digest", in_turn(digest_and_cut, digest_headers("Repr-Digest", right=True)), OTHER, status="verified", requests=3),
        Case("B26-list-hash-wrong", good, fields=WRONG_SUM, status="failed", code="digest_mismatch", permanent=True, requests=2, also=refuted_bytes_are_kept),
        Case("B26-right-trailer", chunked_answer(digest="right"), status=("complete", "verified")),
    ),
)  # fmt: skip

TLS: Mapping[str, Any] = {"tls": True}

SECURE = Group(
    exit=3,
    cases=(
        Case("B18-tls-notified", close_delimited(provable=False), server=TLS),
        Case("B18-tls-not-notified", close_delimited(notify=False, provable=False), server=TLS, status="failed", code="lost", requests=8, keeps=SIZE),
        Case("B18-tls-not-notified-provable", close_delimited(notify=False), server=TLS, requests=3),
        Case("B18-tls-cut", close_delimited(notify=False, length=100_000, provable=False), server=TLS, status="failed", code="lost", requests=8, keeps=100_000),
        Case("B18-tls-cut-once", first(1, close_delimited(notify=False, length=100_000)), server=TLS, requests=2),
        Case("B16-tls-length-cut", cut_after(100_000, "close_without_notify", times=1), server=TLS, requests=2),
        Case("C31-downgrade", redirect_to("http://127.0.0.1:9/file"), server=TLS, status="failed", code="insecure_redirect", requests=2),
        Case("D44-handshake-reset", good, server={"tls": True, "at_connect": lambda number: "reset" if number < 2 else None}),
        Case("D44-handshake-reset-always", good, server={"tls": True, "at_connect": lambda _: "reset"}, status="failed", code=("origin_down", "lost", "tls", "connect"), requests=0, also=lambda crawl, case: bounded_connections(crawl, case)),
        Case("D44-certificate-expired", good, server={"tls": "expired"}, status="failed", code="tls_verify", permanent=True, requests=0),
    ),
)  # fmt: skip


def bounded_connections(crawl: Crawl, case: Case) -> None:
    assert crawl.origin(case).connections <= 60


# --- C: status and pace -----------------------------------------------------------------------------------------------


def busy_for(seconds: float, code: int = 503) -> Behaviour:
    """C27: for so long after the first request everything is answered with Retry-After: 2."""
    began: list[float] = []
    lock = threading.Lock()

    def is_busy(_: Exchange) -> bool:
        with lock:
            began.append(time.monotonic())
            return began[-1] - began[0] < seconds

    return when(is_busy, status(code, {"Retry-After": "2"}))


def busy_until_date(exchange: Exchange) -> None:
    """C27: Retry-After as the date of the first whole second that is at least two away."""
    date = formatdate(math.ceil(time.time() + 2), usegmt=True)
    busy(429, date)(exchange)


BUSY = Group(
    exit=0,
    # Not a single retry: what the origin asked for costs none.
    settings={"BULK_RETRY_TIMES": "0", "BULK_ORIGIN_PATIENCE": "60", "BULK_RETRY_AFTER_MAX": "3"},
    cases=(
        Case("C27-429-seconds", busy(429, 2), requests=2, also=gap(2.0, 2.4)),
        Case("C27-503-seconds", busy(503, 2), requests=2, also=gap(2.0, 2.4)),
        Case("C27-429-date", busy_until_date, requests=2, also=gap(2.0, 3.4)),
        Case("C27-capped", busy(503, 3_600), requests=2, also=gap(3.0, 3.6)),
        Case("C27-three-times", busy(503, 1, times=3), requests=4, also=gap(1.0, 1.3)),
        Case("C27-on-resume-keeps-the-part", in_turn(cut_after(HELD), busy(503, 1, times=None), good), requests=3, received=SIZE + OVERLAP),
    ),
)  # fmt: skip

PERMANENT = Group(
    exit=4,
    cases=(
        Case("C-fine", good),
        *(Case(f"C29-{code}-mid-file", in_turn(cut_after(100_000), status(code)), status="failed", code=f"http_{code}", http_status=code, permanent=True, requests=3 if code == 403 else 2, keeps=100_000) for code in (401, 403, 410)),
        *(Case(f"C29-{code}-on-resume", status(code), before=Held(), status="failed", code=f"http_{code}", http_status=code, permanent=True, keeps=HELD) for code in (401, 410)),
        # A 403 may mean that the open range is too long: a bounded one is asked for before it is believed.
        Case("C29-403-on-resume", status(403), before=Held(), status="failed", code="http_403", http_status=403, permanent=True, requests=3, keeps=HELD),
        *(Case(f"C30-{code}", status(code), status="failed", code=f"http_{code}", http_status=code, permanent=True) for code in (404, 405, 451)),
        Case("C30-404-page-on-resume", status(404), before=Held(), status="failed", code="http_404", http_status=404, permanent=True, keeps=HELD),
    ),
)  # fmt: skip


def only_current_signature(exchange: Exchange) -> None:
    """C32: the target of the redirect is good once for each signature."""
    if exchange.query == "sig=0" and exchange.attempt == 0:
        cut_after(HELD)(exchange)
    elif exchange.query == "sig=1":
        good(exchange)
    else:
        status(403)(exchange)


REDIRECTS = Group(
    exit=3,
    cases=(
        Case("C31-loop", redirect_loop(), status="failed", code="redirect_loop", requests=45),
        Case("C31-endless", redirect_loop(fresh=True), status="failed", code="redirect_loop", requests=45),
        Case("C31-loop-on-resume", redirect_loop(), before=Held(), status="failed", code="redirect_loop", requests=45, keeps=HELD),
        Case("C31-hops", redirect_to("/C31-hop"), more={"C31-hop": redirect_to("/C31-end", 307), "C31-end": good}),
        Case("C32-target-expired", redirect_to(("/C32-signed?sig=0", "/C32-signed?sig=1")), requests=2, more={"C32-signed": only_current_signature}, also=requests_of_target("C32-signed", 2)),
        Case("C32-target-refuses-then-list-url", redirect_to(("/C32-gone", "/C32-there")), status=("complete", "failed"), code="http_403", http_status=403, permanent=True, requests=2, more={"C32-gone": status(403), "C32-there": good}),
        Case("C65-to-file", redirect_to("file:///etc/passwd"), status="failed", code="redirect", http_status=302, requests=2),
        Case("C65-to-file-on-resume", redirect_to("file:///etc/passwd"), before=Held(), status="failed", code="redirect", http_status=302, requests=2, keeps=HELD),
        Case("C65-to-ftp", redirect_to("ftp://127.0.0.1/file"), status="failed", code="redirect", http_status=302, requests=2),
        Case("C33-retry-after", redirect_to("/C33-there", headers={"Retry-After": "1"}), more={"C33-there": good}),
        Case("C29-expired-by-query", valid_while(lambda exchange: exchange.query == "fresh"), status="failed", code="http_403", http_status=403, permanent=True, requests=5),
    ),
)  # fmt: skip

TROUBLED = Group(
    exit=3,
    cases=(
        *(Case(f"C28-{code}-twice", status(code, times=2), requests=3) for code in (408, 425, 500, 502, 504, 520, 524)),
        Case("C27-no-retry-after", busy(503, None, times=2), requests=3),
        Case("C27-malformed-retry-after", busy(503, "soon", times=2), requests=3),
        Case("C28-500-on-resume", status(500, times=2), before=Held(), requests=3, received=REST),
        Case("C28-500-always", status(500), before=Held(), status="failed", code=("http_500", "origin_down"), http_status=500, requests=6, keeps=HELD),
        Case("C28-refused-always", good, before=Held(), down=True, status="failed", code="origin_down", requests=0, keeps=HELD),
        Case("C28-connections-closed", good, server={"at_connect": lambda number: "close" if number < 2 else None}),
        Case("C28-connections-reset", good, server={"at_connect": lambda number: "reset" if number < 2 else None}),
        Case("C28-no-answer", accept_then_close(times=2), requests=3),
        Case("C28-no-answer-always", accept_then_close(), status="failed", code="origin_down", requests=40),
        Case("C30-mirror", status(404), fields="mirror=ORIGIN/C30-there", more={"C30-there": good}),
        Case("D41-reset-mid-body", cut_after(150_000, "reset", times=1), requests=2),
        Case("D41-header-cut", cut_in_header(times=2), requests=3),
        Case("D41-header-reset", cut_in_header("reset", times=2), requests=3),
        Case("D41-garbage", garbage_status_line(times=2), requests=3),
        Case("D41-garbage-always", garbage_status_line(), before=Held(), status="failed", code="bad_answer", requests=6, keeps=HELD),
        Case("D42-closed-after-answer", closes_after_answer()),
        Case("D42-reset-after-answer", closes_after_answer("reset")),
    ),
)  # fmt: skip


# --- D: time ----------------------------------------------------------------------------------------------------------

TIME = Group(
    exit=3,
    settings={"BULK_CONNECT_TIMEOUT": "1", "BULK_HEADERS_TIMEOUT": "1", "BULK_STALL_TIMEOUT": "1"},
    cases=(
        Case("D36-stall", stall_after(150_000, times=1), requests=2),
        Case("D36-stall-at-the-head", stall_after(0, times=1), requests=2),
        Case("D36-stall-always", on_resume(stall_after(0), stall_after(150_000)), status="failed", code="stall", requests=8, keeps=150_000),
        Case("D36-too-slow", trickle(100, after=150_000, times=1), requests=2),
        Case("D38-slow-but-alive", trickle(100_000)),
        Case("D37-slow-headers", slow_headers(times=1), requests=2),
        Case("D37-slow-headers-always", slow_headers(), before=Held(), status="failed", code="origin_down", requests=6, keeps=HELD),
        Case("D37-silent", silent(times=1), requests=2),
        Case("D40-stalled-connection", good, server={"at_connect": lambda number: "stall" if number < 1 else None}),
    ),
)  # fmt: skip

GROUPS = {
    "resume": RESUME,
    "foreign": FOREIGN,
    "framing": FRAMING,
    "secure": SECURE,
    "busy": BUSY,
    "permanent": PERMANENT,
    "redirects": REDIRECTS,
    "troubled": TROUBLED,
    "time": TIME,
}


@pytest.fixture(scope="module")
def crawls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Crawl]]:
    done: dict[str, Crawl] = {}

    def crawl(name: str) -> Crawl:
        if name not in done:
            done[name] = GROUPS[name].crawl(tmp_path_factory.mktemp(name))
        return done[name]

    return crawl


@pytest.mark.parametrize(
    ("group", "case"),
    [pytest.param(name, case, id=case.name) for name, group in GROUPS.items() for case in group.cases],
)
def test_right_file_or_honest_failure(group: str, case: Case, crawls: Callable[[str], Crawl]) -> None:
    check(crawls(group), case)


@pytest.mark.parametrize("group", GROUPS)
def test_exit_status_says_what_came_of_it(group: str, crawls: Callable[[str], Crawl]) -> None:
    crawl = crawls(group)
    assert crawl.ended.status == GROUPS[group].exit, crawl.ended.log
    assert sorted(row["name"] for row in crawl.ended.rows) == sorted(case.name for case in GROUPS[group].cases)


# --- What needs a crawl of its own ------------------------------------------------------------------------------------


def test_a_stopped_crawl_leaves_what_the_cases_prepare(bulk: Bulk) -> None:
    """Guards the cases above: `Held` is the state that bulkspider writes itself."""
    with FaultyOrigin({"a.bin": stall_after(HELD)}, resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        process = bulk.start()
        part = bulk.output / "a.bin.part"
        wait_for(lambda: part.exists() and part.stat().st_size == HELD)
        process.send_signal(signal.SIGINT)
        ended = bulk.wait(process)
        assert ended.status == 130, ended.log
        written = json.loads((bulk.output / "a.bin.part.json").read_text())
        Held().put(bulk.output / "made", origin.url("a.bin"))
        made = json.loads((bulk.output / "made.part.json").read_text())
        same = ("version", "key", "etag", "last_modified", "total", "written", "boot")
        assert {name: written[name] for name in same} == {name: made[name] for name in same}
        assert set(made) <= set(written)
        assert part.read_bytes() == BODY[:HELD]


@pytest.mark.parametrize(
    ("then", "becomes", "most"),
    [
        pytest.param(good, BODY, 1, id="unchanged"),
        pytest.param(changes_after(0, OTHER), OTHER, 1, id="other-etag"),
        pytest.param(as_if(body=OTHER, etag=None, last_modified=LATER), OTHER, 2, id="other-date"),
        pytest.param(as_if(body=OTHER, etag=None, last_modified=None), OTHER, 4, id="no-validators"),
        pytest.param(changes_after(0, SHORTER), SHORTER, 1, id="shrunk"),
        pytest.param(changes_after(0, LONGER), LONGER, 1, id="grown"),
    ],
)
def test_an_object_that_changes_between_two_runs_is_never_mixed(
    bulk: Bulk, then: Behaviour, becomes: bytes, most: int
) -> None:
    with FaultyOrigin({"a.bin": stall_after(HELD)}, resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        process = bulk.start()
        wait_for(lambda: (bulk.output / "a.bin.part").exists() and (bulk.output / "a.bin.part").stat().st_size == HELD)
        process.send_signal(signal.SIGTERM)
        assert bulk.wait(process).status == 143
        assert not (bulk.output / "a.bin").exists()
        before = len(origin.requests)
        origin.add("a.bin", then)
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == becomes
        assert len(origin.requests) - before <= most
        assert ended.row("a.bin")["resumed_from"] == (HELD if becomes == BODY else 0)


def test_an_origin_that_never_gives_more_than_a_piece_is_asked_piece_by_piece(bulk: Bulk) -> None:
    """A4: also where all was asked for, and pieces so small that a whole object of this size would stay in memory."""

    def capped(exchange: Exchange) -> None:
        reply = correct(exchange)
        reply.status = 206
        reply.show(reply.first, min(reply.last, reply.first + 99_999))
        exchange.answer(reply)

    with FaultyOrigin({"a.bin": capped}, resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings={"BULK_SEGMENTS": "1"})
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY
        assert [request.range for request in origin.requests[:2]] == [None, (100_000 - OVERLAP, None)]
        assert ended.row("a.bin")["broken"] == 0, ended.log


def wait_for(happened: Callable[[], bool], timeout: float = 30) -> None:
    """For what only the disk shows."""
    waiting = threading.Event()
    deadline = time.monotonic() + timeout
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        waiting.wait(0.01)


def test_if_range_that_is_mishandled_is_remembered_for_the_origin(bulk: Bulk) -> None:
    """A11: the first file finds out; the others do not ask that way again."""
    names = [f"{number}.bin" for number in range(6)]
    with FaultyOrigin(default=if_range_always_200(), resource=BODY) as origin:
        bulk.output.mkdir()
        for name in names:
            Held().put(bulk.output / name, origin.url(name))
        bulk.write_list({name: origin.url(name) for name in names})
        ended = bulk.run(settings={"CONCURRENT_REQUESTS": "1"})
        assert ended.status == 0, ended.log
        assert all(ended.file(name) == BODY for name in names)
        assert len(origin.requests) <= 3 + len(names) - 1


def test_unproven_is_never_success_and_is_not_fetched_again(bulk: Bulk) -> None:
    """B18: plain HTTP, neither length nor chunks, and nothing that could prove the length."""
    with FaultyOrigin({"a.bin": close_delimited(provable=False), "b.bin": good}, resource=BODY) as origin:
        bulk.write_list({name: origin.url(name) for name in ("a.bin", "b.bin")})
        ended = bulk.run()
        assert ended.status == 5, ended.log
        assert (ended.row("a.bin")["status"], ended.row("b.bin")["status"]) == ("unproven", "complete")
        assert ended.file("a.bin") == BODY
        before = len(origin.requests)
        again = bulk.run()
        assert again.status == 5, again.log
        assert again.row("a.bin")["already"]
        assert len(origin.requests) == before


def test_unproven_is_a_failure_where_proof_is_required(bulk: Bulk) -> None:
    """B18: permanent, because the same list again cannot help; the bytes stay in the part."""
    with FaultyOrigin({"a.bin": close_delimited(provable=False), "b.bin": close_delimited()}, resource=BODY) as origin:
        bulk.write_list({name: origin.url(name) for name in ("a.bin", "b.bin")})
        ended = bulk.run(settings={"BULK_REQUIRE_PROOF": "1"})
        assert ended.status == 4, ended.log
        row = ended.row("a.bin")
        assert (row["status"], row["error"]["code"], row["error"]["permanent"]) == ("failed", "unproven", True)
        assert not (ended.output / "a.bin").exists()
        assert (ended.output / "a.bin.part").read_bytes() == BODY
        assert ended.row("b.bin")["status"] == "complete"
        assert len(origin.requests_for("a.bin", None)) <= 3


def test_a_busy_origin_is_left_alone_and_the_others_run_on(bulk: Bulk) -> None:
    """C27: 503 with Retry-After speaks of the origin: all its entries wait, at no cost; no slot is lost to them."""
    busy_names = [f"busy{number}" for number in range(16)]
    good_names = [f"good{number}" for number in range(100)]
    small = make_body(20_000)
    with (
        FaultyOrigin(default=busy_for(2), resource=small) as occupied,
        FaultyOrigin(default=good, resource=small) as free,
    ):
        bulk.write_list({name: occupied.url(name) for name in busy_names} | {n: free.url(n) for n in good_names})
        settings = {"CONCURRENT_REQUESTS": "8", "CONCURRENT_REQUESTS_PER_DOMAIN": "8", "BULK_RETRY_TIMES": "0"}
        ended = bulk.run(settings={**settings, "BULK_ORIGIN_PATIENCE": "60"})
        assert ended.status == 0, ended.log
        assert len(ended.rows) == 116
        refused = [request for request in occupied.requests if request.status == 503]
        served = [request for request in occupied.requests if request.status == 200]
        began = occupied.requests[0].time
        assert len(refused) <= 8  # what was under way when the first of them was refused
        assert len(served) == 16
        # 2 s and at most 20 %, counted from the last of them.
        assert served[0].time - began >= 2.0
        assert served[0].time - refused[-1].time <= 2.4
        assert free.requests[-1].time < served[0].time
        assert len(free.requests) == 100


def test_a_connection_that_dies_every_300_kb_ends_with_the_whole_file(bulk: Bulk) -> None:
    """C28: progress resets the budget of retries."""
    body = make_body(3_000_000)
    with FaultyOrigin({"a.bin": dies_every(300_000)}, resource=body) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings={"BULK_RETRY_TIMES": "1"})
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == body
        assert len(origin.requests) <= 1 + math.ceil(2_700_000 / (300_000 - OVERLAP)) + 1
        assert ended.row("a.bin")["bytes_received"] <= 3_000_000 + OVERLAP * len(origin.requests)


def test_a_server_that_is_down_at_the_start_is_waited_for(bulk: Bulk) -> None:
    """C28: an outage of the origin is no failure of its entries; another origin's run on meanwhile."""
    with FaultyOrigin(default=good, resource=BODY) as late, FaultyOrigin(default=good, resource=BODY) as other:
        late.down()
        names = [f"{number}.bin" for number in range(8)]
        bulk.write_list({name: late.url(name) for name in names} | {"other.bin": other.url("other.bin")})
        process = bulk.start(settings={"BULK_ORIGIN_PATIENCE": "30", "BULK_RETRY_TIMES": "0"})
        other.wait_until(lambda origin: bool(origin.requests) and origin.requests[0].ended)
        wait_for(lambda: (bulk.output / "other.bin").exists())
        late.up()
        ended = bulk.wait(process)
        assert ended.status == 0, ended.log
        assert all(ended.file(name) == BODY for name in names)
        assert len(late.requests) == len(names)


def test_a_server_that_goes_down_in_the_middle_is_waited_for(bulk: Bulk) -> None:
    with FaultyOrigin(default=trickle(400_000), resource=BODY) as origin:
        names = [f"{number}.bin" for number in range(4)]
        bulk.write_list({name: origin.url(name) for name in names})
        process = bulk.start(settings={"BULK_ORIGIN_PATIENCE": "30", "BULK_RETRY_TIMES": "0"})
        origin.wait_until(lambda o: len(o.requests) == 4 and all(r.bytes_sent >= 120_000 for r in o.requests))
        origin.down()
        wait_for(lambda: all((bulk.output / f"{name}.part.json").exists() for name in names))
        origin.up()
        ended = bulk.wait(process)
        assert ended.status == 0, ended.log
        assert all(ended.file(name) == BODY for name in names)
        assert len(origin.requests) <= 2 * len(names)
        assert all(row["bytes_received"] <= SIZE + OVERLAP + 1 for row in ended.rows)


def test_a_reused_connection_that_is_dropped_costs_no_retry(bulk: Bulk) -> None:
    """D42: one free retry on a new connection, once for each entry."""
    names = [f"{number}.bin" for number in range(5)]
    with FaultyOrigin(default=drops_reused_connection(), resource=make_body(20_000)) as origin:
        bulk.write_list({name: origin.url(name) for name in names})
        ended = bulk.run(settings={"CONCURRENT_REQUESTS": "1", "BULK_RETRY_TIMES": "0"})
        assert ended.status == 0, ended.log
        assert len(ended.rows) == 5
        assert len(origin.requests) <= 2 * len(names)


def test_a_redirect_to_another_origin_takes_no_secret_along(bulk: Bulk) -> None:
    """C32: what the list says for one origin is for that origin alone, also when it is resumed."""
    target = FaultyOrigin({"a.bin": in_turn(cut_after(HELD), good)}, resource=BODY)
    first_origin = FaultyOrigin()
    with target, first_origin:
        first_origin.add("a.bin", redirect_to(target.url("a.bin")))
        secrets = "header:Authorization=Bearer-tell-nobody header:Cookie=session=tell-nobody header:X-Token=tell-nobody"
        bulk.write_list([f"a.bin {first_origin.url('a.bin')} {secrets}"])
        ended = bulk.run("-s", "LOG_LEVEL=DEBUG")
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY
        assert len(first_origin.requests) == 2  # a resume begins at the list's URL
        assert len(target.requests) == 2
        assert all(request.headers["x-token"] == "tell-nobody" for request in first_origin.requests)
        assert not any("tell-nobody" in str(request.headers) for request in target.requests)
        written = [p.read_text(errors="replace") for p in bulk.output.rglob("*") if p.is_file() and p.name != "list"]
        assert not any("tell-nobody" in text for text in [ended.log, bulk.report.read_text(), *written])


def test_a_proxy_s_error_page_is_never_written(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
    """C34: the proxy here is the misbehaving origin; 407 is final, 502 passes."""

    def proxied(exchange: Exchange) -> None:
        if exchange.path == "/denied":
            status(407)(exchange)
        elif exchange.attempt == 0:
            status(502)(exchange)
        else:
            good(exchange)

    def no_tunnel(exchange: Exchange) -> None:
        status(407)(exchange)
        exchange.close()

    with FaultyOrigin(default=proxied, resource=BODY) as proxy, FaultyOrigin(default=no_tunnel) as tunnel:
        monkeypatch.setenv("http_proxy", proxy.url(""))
        monkeypatch.setenv("https_proxy", tunnel.url(""))
        monkeypatch.delenv("no_proxy", raising=False)
        bulk.write_list(
            {
                "denied": "http://denied.invalid/denied",
                "passing": "http://passing.invalid/passing",
                "tunnel": "https://tunnel.invalid/tunnel",
            }
        )
        ended = bulk.run(settings={"BULK_ORIGIN_PATIENCE": "1"})
        assert ended.status == 4, ended.log
        assert ended.file("passing") == BODY
        assert ended.row("denied")["error"]["http_status"] == 407
        assert ended.row("denied")["error"]["code"] == ended.row("tunnel")["error"]["code"] == "proxy_auth"
        assert not any((ended.output / name).exists() for name in ("denied", "tunnel"))
        assert len(proxy.requests_for("denied")) <= 2
        assert len(proxy.requests_for("passing")) == 2
        assert len(tunnel.requests) == 1
