"""Batches: what small files gain by one request for many, nothing of it at the cost of what the others promise."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from scrapy.settings import Settings

from bulkspider.disk.part import HELD_MAX_BYTES
from bulkspider.errors import BulkError
from bulkspider.options import Options
from bulkspider.run.origins.origins import Origins
from bulkspider.small.sharing import SMALL_FILES_FIRST, SMALLEST_BATCH, SmallFiles, allows_batches
from support.batches import COUNT, FEW, NAMES, ODD, SCHEMES, batches, body, fetch, origin, others_are_right, trusting
from support.crawl import Bulk, kill
from support.faults import (
    accept_then_close,
    bad_chunk_size,
    busy,
    chunked_answer,
    close_delimited,
    closes_after_answer,
    cut_after,
    cut_in_header,
    digest_headers,
    empty_200,
    extra_bytes,
    garbage_status_line,
    gzip_encoded,
    html_instead,
    http10,
    ignores_range,
    informational,
    redirect_to,
    silent,
    slice_as_200,
    stall_after,
    status,
    trickle,
    wrong_digest_headers,
)
from support.faulty import Behaviour, Exchange, FaultyOrigin, Resource, correct, good
from support.second import two_processes
from support.shell import Shell
from support.simulated import download

# ---------------------------------------------------------------------------------------------------- what it is for


# The environment of a crawl that has one process, and of one with two.
PROCESSES = {"one process": {}, "two": two_processes()}
by_both = pytest.mark.parametrize("environment", PROCESSES.values(), ids=PROCESSES)


@by_both
@pytest.mark.parametrize("scheme", SCHEMES)
def test_small_files_come_in_batches_and_each_has_what_it_would_have_alone(
    bulk: Bulk, scheme: str, environment: Mapping[str, str]
) -> None:
    with origin(scheme=scheme) as server:
        ended = fetch(bulk, server, environment=environment)
        assert ("to the second process" in ended.log) is bool(environment)
        assert ended.status == 0, ended.log
        assert sum(batches(ended.log)) > COUNT / 3
        others_are_right(ended)
        assert sorted(request.path for request in server.requests) == sorted(f"/{name}" for name in NAMES)
        sent = [{key: value for key, value in r.headers.items() if key != "connection"} for r in server.requests]
        assert all(fields == sent[0] for fields in sent), "as the middlewares have made the first one"
        assert server.connections <= (6 if environment else 4), "two that Scrapy keeps, and two for batches"
        rows = [ended.row(name) for name in NAMES]
        for field in ("already", "flags", "size", "bytes_received", "resumed_from", "attempts", "connections", "error"):
            assert all(row[field] == rows[0][field] for row in rows), field
        assert {row["etag"] for row in rows} == {'"v1"'}
        assert all(row["final_url"] == row["url"] == server.url(row["name"]) for row in rows)
        ledger = [json.loads(line) for line in (bulk.output / ".bulkspider" / "ledger.jsonl").read_text().splitlines()]
        assert sorted(line["name"] for line in ledger) == sorted(NAMES)
        before = len(server.requests)
        assert fetch(bulk, server).status == 0
        assert len(server.requests) == before, "the second run asks for nothing"


def test_who_does_not_want_them_has_none(bulk: Bulk) -> None:
    for settings in ({"BULK_BATCH": "1"}, {"DOWNLOAD_DELAY": "0.001"}, {"BULK_RATE_LIMIT": "1G"}):
        with origin() as server:
            ended = fetch(bulk, server, settings=settings)
            assert ended.status == 0, ended.log
            assert len(server.requests) == COUNT
            assert not batches(ended.log)
            others_are_right(ended)
        bulk.output.rename(bulk.folder / "-".join(settings))


def test_no_more_of_them_at_once_than_requests_are_allowed(bulk: Bulk) -> None:
    lock, open_now, most = threading.Lock(), 0, 0

    def counted(exchange: Exchange) -> None:
        nonlocal open_now, most
        with lock:
            open_now += 1
            most = max(most, open_now)
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[:-1])
        with lock:
            open_now -= 1
        exchange.send(reply.body[-1:])

    with FaultyOrigin({name: (counted, Resource(body(name))) for name in NAMES}) as server:
        ended = fetch(bulk, server)
        assert ended.status == 0, ended.log
        assert batches(ended.log)
        assert most <= 2


def test_a_batch_that_turns_out_to_be_impossible_costs_no_request(bulk: Bulk) -> None:
    """A cookie of the user's own: which request it goes with is for Scrapy to say."""
    with origin() as server:
        headers = {"DEFAULT_REQUEST_HEADERS": json.dumps({"Cookie": "a=1"}), "COOKIES_ENABLED": "False"}
        ended = fetch(bulk, server, settings=headers)
        assert ended.status == 0, ended.log
        assert sorted(request.path for request in server.requests) == sorted(f"/{name}" for name in NAMES)
        assert all(request.headers["cookie"] == "a=1" for request in server.requests)
        others_are_right(ended)


def test_files_that_the_origin_states_a_hash_for_are_verified(bulk: Bulk) -> None:
    table = {name: (digest_headers("Repr-Digest", right=True), Resource(body(name))) for name in NAMES}
    with FaultyOrigin(table) as server:
        ended = fetch(bulk, server)
        assert ended.status == 0, ended.log
        assert sum(batches(ended.log)) > COUNT / 3
        assert {row["status"] for row in ended.rows} == {"verified"}
        assert len(server.requests) == COUNT


@by_both
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_right_hash_verifies_and_a_wrong_one_ends_as_it_would_alone(
    bulk: Bulk, scheme: str, environment: Mapping[str, str]
) -> None:
    def hashes(name: str) -> str:
        right = {"sha256": hashlib.sha256(body(name)).hexdigest(), "md5": hashlib.md5(body(name)).hexdigest()}
        if name == NAMES[ODD]:
            right["md5"] = "0" * 32
        return " ".join(f"{algorithm}={value}" for algorithm, value in right.items())

    with origin(scheme=scheme) as server:
        ended = fetch(bulk, server, fields=hashes, environment=environment)
        assert ended.status == 4, ended.log
        assert sum(batches(ended.log)) > COUNT / 3
        for name in NAMES:
            row = ended.row(name)
            if name == NAMES[ODD]:
                assert (row["status"], row["error"]["code"]) == ("failed", "digest_mismatch")
                assert row["bytes_received"] == 3 * 2_000, "in the batch, alone, and once more"
                assert not (bulk.output / name).exists()
                assert (bulk.output / f"{name}.part.old").read_bytes() == body(name)
            else:
                assert row["status"] == "verified"
                assert row["sha256"] == hashlib.sha256(body(name)).hexdigest()
                assert ended.file(name) == body(name)


def test_what_is_hashed_although_nothing_is_stated_is_in_the_ledger(bulk: Bulk) -> None:
    with origin() as server:
        ended = fetch(bulk, server, settings={"BULK_DIGEST": "sha256"})
        assert ended.status == 0, ended.log
        assert sum(batches(ended.log)) > COUNT / 3
        assert {row["status"] for row in ended.rows} == {"complete"}
        assert all(row["sha256"] == hashlib.sha256(body(row["name"])).hexdigest() for row in ended.rows)


@by_both
@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_entry_has_its_own_headers_and_no_other_sees_them(
    bulk: Bulk, scheme: str, environment: Mapping[str, str]
) -> None:
    with origin(scheme=scheme) as server:
        headers = lambda name: f"header:X-Token=of-{name}" if name[-5] in "02468" else ""  # noqa: E731
        ended = fetch(bulk, server, fields=headers, environment=environment)
        assert ended.status == 0, ended.log
        assert sum(batches(ended.log)) > COUNT / 3
        for request in server.requests:
            name = request.path.lstrip("/")
            assert request.headers.get("x-token") == (f"of-{name}" if name[-5] in "02468" else None)
        others_are_right(ended)


def test_a_certificate_is_checked_for_a_batch_as_for_a_single_file(bulk: Bulk) -> None:
    """The origin shows another certificate, which has expired, before the first batch connects."""
    with FaultyOrigin(tls="expired") as stranger:

        def turns(exchange: Exchange) -> None:
            server.show_certificate_of(stranger)
            good(exchange)

        with origin(scheme="https") as server:
            server.add(NAMES[SMALL_FILES_FIRST // 2], turns, Resource(body(NAMES[SMALL_FILES_FIRST // 2])))
            # One at a time, so that Scrapy needs no further connection, and a batch makes the next one.
            ended = fetch(bulk, server, settings={"CONCURRENT_REQUESTS": "1"})
        assert batches(ended.log), ended.log
        failed = [row for row in ended.rows if row["status"] == "failed"]
        assert failed, ended.log
        assert {row["error"]["code"] for row in failed} == {"tls_verify"}
        for row in ended.rows:
            if row["status"] == "complete":
                assert ended.file(row["name"]) == body(row["name"])
            else:
                assert not (bulk.output / row["name"]).exists()


@by_both
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_server_that_ends_connections_after_so_many_answers_is_connected_to_again(
    bulk: Bulk, scheme: str, environment: Mapping[str, str]
) -> None:
    def ends(exchange: Exchange) -> None:
        reply = correct(exchange)
        if exchange.on_connection % 5 == 4:
            reply.headers["Connection"] = "close"
        exchange.answer(reply)

    table = {name: (ends, Resource(body(name))) for name in NAMES}
    with FaultyOrigin(table, tls=scheme == "https") as server:
        ended = fetch(bulk, server, environment=environment)
        assert ended.status == 0, ended.log
        others_are_right(ended)
        assert sum(batches(ended.log)) > COUNT / 3
        assert len(server.requests) == COUNT, "nobody is asked for twice"


# ------------------------------------------------------------------------------------------- what it cannot be alone

ODD_ANSWERS: dict[str, Callable[[], Behaviour]] = {
    "404": lambda: status(404),
    "503 once": lambda: busy(503, retry_after=None),
    "429 with Retry-After": lambda: busy(429, retry_after=1),
    "redirect": lambda: redirect_to("/elsewhere.bin"),
    "gzip": gzip_encoded,
    "chunked": chunked_answer,
    "bad chunk": lambda: bad_chunk_size(100, times=1),
    "closed, no length": close_delimited,
    "close": closes_after_answer,
    "HTTP/1.0": http10,
    "cut once": lambda: cut_after(500, times=1),
    "reset once": lambda: cut_after(500, how="reset", times=1),
    "cut in the head once": lambda: cut_in_header(times=1),
    "garbage once": lambda: garbage_status_line(times=1),
    "closed without a word, once": lambda: accept_then_close(times=1),
    "a page": html_instead,
    "nothing": empty_200,
    "103 first": lambda: informational(103),
    "a slice as 200": slice_as_200,
    "a right digest": lambda: digest_headers("Repr-Digest", right=True),
    "a wrong digest": lambda: wrong_digest_headers("Repr-Digest"),
    "a stall, once": lambda: stall_after(500, times=1),
    "silence, once": lambda: silent(times=1),
    "a trickle, once": lambda: trickle(400, after=500, times=1),
}


# Those that end in the bytes of a connection are tried under TLS as well; the others differ in nothing there.
OVER_TLS = ("chunked", "closed, no length", "close", "cut once", "reset once", "closed without a word, once", "404")


@pytest.mark.parametrize(
    ("scheme", "name"), [*(("http", name) for name in ODD_ANSWERS), *(("https", name) for name in OVER_TLS)]
)
@by_both
def test_an_odd_one_ends_as_it_would_alone_and_the_others_are_right(
    bulk: Bulk, environment: Mapping[str, str], scheme: str, name: str
) -> None:
    with origin(ODD_ANSWERS[name](), scheme, **{"elsewhere.bin": (good, Resource(body(NAMES[ODD])))}) as server:
        together = fetch(bulk, server, environment=environment)
        assert batches(together.log), together.log
        assert ("to the second process" in together.log) is bool(environment)
    bulk.report.unlink()
    bulk.output.rename(bulk.folder / "together")
    with origin(ODD_ANSWERS[name](), scheme, **{"elsewhere.bin": (good, Resource(body(NAMES[ODD])))}) as server:
        bulk.write_list({NAMES[ODD]: server.url(NAMES[ODD])})
        alone = bulk.run(settings=FEW, environment=trusting(server))
    assert together.status == alone.status
    wanted, found = alone.row(NAMES[ODD]), together.row(NAMES[ODD])
    for field in ("status", "flags", "size", "resumed_from"):
        assert found[field] == wanted[field], field
    assert (found["error"] or {}).get("code") == (wanted["error"] or {}).get("code")
    together.output = bulk.folder / "together"
    others_are_right(together)
    if wanted["status"] == "complete":
        assert together.file(NAMES[ODD]) == alone.file(NAMES[ODD]) == (bulk.output / NAMES[ODD]).read_bytes()


DRY_ANSWERS: dict[str, Callable[[], Behaviour]] = {
    "as the others": lambda: good,
    "no ranges": ignores_range,
    "404": lambda: status(404),
    "403": lambda: status(403),
    "503": lambda: busy(503, times=None),
    "redirect": lambda: redirect_to("/elsewhere.bin"),
    "gzip": gzip_encoded,
    "chunked": chunked_answer,
    "a page": html_instead,
    "too much": lambda: extra_bytes(50),
    "closed without a word, once": lambda: accept_then_close(times=1),
    "another size than the list's": lambda: good,
}


@pytest.mark.parametrize(
    ("scheme", "name"), [*(("http", name) for name in DRY_ANSWERS), ("https", "as the others"), ("https", "404")]
)
def test_a_dry_run_says_the_same_with_and_without_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, name: str
) -> None:
    shell = Shell(tmp_path)
    said = {}
    for most in (1, 32):
        with origin(DRY_ANSWERS[name](), scheme, **{"elsewhere.bin": (good, Resource(body(NAMES[ODD])))}) as server:
            for variable, value in trusting(server).items():
                monkeypatch.setenv(variable, value)
            fields = " size=7" if name == "another size than the list's" else ""
            lines = [f"{each} {server.url(each)}{fields if each == NAMES[ODD] else ''}" for each in NAMES]
            shell.write("list.txt", "\n".join(["name url", *lines]))
            settings = [word for setting in ("LOG_LEVEL=DEBUG", f"BULK_BATCH={most}") for word in ("-s", setting)]
            done = shell.bulk("list.txt", "--dry-run", "-j", "2", *settings)
            assert bool(batches(done.log)) == (most > 1), done.log
            assert all(request.headers.get("range") for request in server.requests_for(NAMES[ODD + 1]))
            assert len(server.requests) <= COUNT + 2, "nobody is asked for twice, but who was handed back"
            site = server.url("")
        said[most] = done.status, re.sub(r"room in .*", "", done.out.replace(site.split("//")[1].rstrip("/"), "SITE"))
    assert said[32] == said[1]


@by_both
@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_a_server_sends_too_much_never_gets_into_the_next_file(
    bulk: Bulk, scheme: str, environment: Mapping[str, str]
) -> None:
    """A whole second answer behind the first one, which a careless client takes for that to its next request."""

    def twice(exchange: Exchange) -> None:
        reply = correct(exchange)
        wrong = b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + bytes(2_000)
        exchange.promise(reply)
        exchange.send(bytes(reply.body) + wrong)

    for odd in (twice, extra_bytes(10)):
        with origin(odd, scheme) as server:
            ended = fetch(bulk, server, environment=environment)
            assert batches(ended.log), ended.log
            others_are_right(ended)
            assert ended.status == 0, ended.log
            assert ended.file(NAMES[ODD]) == body(NAMES[ODD])
        bulk.output.rename(bulk.folder / f"out of {odd.__name__}")


def test_cookies_are_for_the_middleware(bulk: Bulk) -> None:
    """Whoever sets one gets it back with every request from then on, batches or not."""

    def sets(exchange: Exchange) -> None:
        reply = correct(exchange)
        reply.headers["Set-Cookie"] = "visited=1"
        exchange.answer(reply)

    with origin(sets) as server:
        ended = fetch(bulk, server, settings={"CONCURRENT_REQUESTS": "1", "LOG_LEVEL": "INFO"})
        assert ended.status == 0, ended.log
        others_are_right(ended)
        _, setting = server.requests_for(NAMES[ODD])  # the first one in a batch
        later = [request for request in server.requests if request.time > setting.time]
        assert later
        assert all(request.headers.get("cookie") == "visited=1" for request in later)


# -------------------------------------------------------------------------------------------------------- every end


@by_both
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_the_middle_nobody_is_lost_and_the_next_run_gets_the_rest(
    bulk: Bulk, number: int, environment: Mapping[str, str]
) -> None:
    go_on = threading.Event()

    def waits(exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[:500])
        exchange.stall(go_on)

    with origin(waits) as server:
        bulk.write_list({name: server.url(name) for name in NAMES})
        process = bulk.start(settings={**FEW, "BULK_STALL_TIMEOUT": "60"}, environment=environment)
        server.wait_until(lambda server: bool(server.requests_for(NAMES[ODD])))
        if number == signal.SIGKILL:
            kill(process)
        process.send_signal(number)
        ended = bulk.wait(process)
        go_on.set()
        if number == signal.SIGTERM:
            assert ended.status == 143
            assert batches(ended.log)
            left = re.search(r"160 entries: (\d+) complete, (\d+) interrupted(?:, (\d+) left)?", ended.log)
            assert left is not None, ended.log
            assert sum(int(count or 0) for count in left.groups()) == COUNT
        for name in NAMES:
            found = bulk.output / name
            assert not found.exists() or found.read_bytes() == body(name)
    with origin() as server:
        ended = fetch(bulk, server)
        assert ended.status == 0, ended.log
        others_are_right(ended)
        assert ended.file(NAMES[ODD]) == body(NAMES[ODD])


# --------------------------------------------------------------------------------------------------- who may travel


def test_batches_begin_when_an_origin_has_given_nothing_but_small_files_for_a_while() -> None:
    limited, left = False, 10_000
    small = SmallFiles(most=20, left=lambda: left, limited=lambda: limited)
    origins = Origins(Options())
    a, b = origins["a.example:80"], origins["b.example:80"]
    for _ in range(SMALL_FILES_FIRST):
        assert small.together(a, 0, 4) == 1
        small.seen(a, HELD_MAX_BYTES, plain=True)
    assert small.together(a, 0, 4) == 20
    assert small.together(b, 0, 4) == 1
    left = 0
    assert small.together(a, 10 * 4, 4) == 10, "all places have work to the end"
    assert small.together(a, 4, 4) == SMALLEST_BATCH
    assert small.together(a, 2, 4) == 2
    assert small.together(a, 0, 4) == 1
    left, limited = 10_000, True
    assert small.together(a, 0, 4) == 1
    limited = False
    small.seen(a, HELD_MAX_BYTES + 1, plain=True)
    assert small.together(a, 0, 4) == 1
    for _ in range(SMALL_FILES_FIRST):
        small.seen(a, 1, plain=True)
    small.seen(a, 1, plain=False)
    assert small.together(a, 0, 4) == 1
    for most in (0, 1):
        never = SmallFiles(most, left=lambda: left)
        for _ in range(SMALL_FILES_FIRST):
            never.seen(b, 1, plain=True)
        assert never.together(b, 0, 4) == 1


@pytest.mark.parametrize(
    ("entry", "travels"),
    [
        ({}, True),
        ({"size": HELD_MAX_BYTES}, True),
        ({"size": HELD_MAX_BYTES + 1}, False),
        ({"digests": (("md5", "0" * 32),)}, True),
        ({"headers": (("X-Token", "secret"),)}, True),
        ({"segments": 2}, False),
        ({"url": "https://a.example/x"}, True),
        ({"url": "http://user:password@a.example/x"}, True),
    ],
)
def test_who_may_travel(entry: dict[str, Any], travels: bool) -> None:
    one = download("x")
    one.entry = replace(one.entry, **entry)
    one.url = one.entry.url
    assert SmallFiles().may_travel(one) == travels
    assert SmallFiles(probing=True).may_travel(one) == (travels or "size" in entry)
    for odd in ({"url": "http://mirror.example/x"}, {"alone": True}, {"attempts": 1}, {"first_error": BulkError("x")}):
        other = replace(one, **odd)
        assert not SmallFiles().may_travel(other)


class Foreign:
    """Somebody's middleware."""


@pytest.mark.parametrize(
    ("settings", "fine"),
    [
        ({}, True),
        ({"DOWNLOAD_DELAY": "0.5"}, False),
        ({"DOWNLOAD_SLOTS": {"a.example": {"concurrency": 2}}}, True),
        ({"DOWNLOAD_SLOTS": {"a.example": {"delay": 1}}}, False),
        ({"AUTOTHROTTLE_ENABLED": "True"}, False),
        ({"AUTOTHROTTLE_ENABLED": "False"}, True),
        ({"ROBOTSTXT_OBEY": True}, False),
        ({"JOBDIR": "somewhere"}, False),
        ({"DOWNLOADER_MIDDLEWARES": {"myproject.middlewares.Signer": 500}}, False),
        ({"DOWNLOADER_MIDDLEWARES": {"myproject.middlewares.Signer": None}}, True),
        ({"DOWNLOADER_MIDDLEWARES": {Foreign: 500}}, False),
        ({"SPIDER_MIDDLEWARES": {Foreign: 500}}, False),
    ],
)
def test_whoever_wants_to_see_each_request_sees_it(settings: dict[str, Any], fine: bool) -> None:
    assert allows_batches(Settings(settings)) == fine
