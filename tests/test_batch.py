"""Batches: what small files gain by one request for many, nothing of it at the cost of what the others promise."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Bulk, Ended, kill
from faults import (
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
    informational,
    redirect_to,
    silent,
    slice_as_200,
    stall_after,
    status,
    trickle,
    wrong_digest_headers,
)
from faulty import Behaviour, Exchange, FaultyOrigin, Resource, correct, good, make_body
from hypothesis import given
from hypothesis import strategies as st
from scrapy.settings import Settings

from bulkspider.batch import parse_head
from bulkspider.entry import Entry
from bulkspider.options import Options
from bulkspider.pump import HELD_MAX
from bulkspider.small import ROUNDS, TELLING, SmallFiles, may_travel, nobody_minds

COUNT = 160
# Asked for when batches have begun, and in the middle of one.
ODD = 100
FEW = {"CONCURRENT_REQUESTS": "2", "CONCURRENT_REQUESTS_PER_DOMAIN": "2", "LOG_LEVEL": "DEBUG"}
NAMES = [f"{number}.bin" for number in range(COUNT)]


def body(name: str) -> bytes:
    return make_body(2_000, seed=name)


def origin(odd: Behaviour = good, **others: Any) -> FaultyOrigin:
    table = {name: (good, Resource(body(name))) for name in NAMES}
    table[NAMES[ODD]] = (odd, Resource(body(NAMES[ODD])))
    return FaultyOrigin({**table, **others})


def fetch(bulk: Bulk, server: FaultyOrigin, *arguments: str, settings: dict[str, str] | None = None) -> Ended:
    bulk.write_list({name: server.url(name) for name in NAMES})
    return bulk.run(*arguments, settings={**FEW, **(settings or {})})


def batches(log: str) -> list[int]:
    """How many files each request for several brought."""
    return [int(mates) + 1 for mates in re.findall(r"its request brings (\d+) more small files", log)]


def others_are_right(ended: Ended) -> None:
    for name in NAMES:
        if name != NAMES[ODD]:
            assert ended.row(name)["status"] == "complete"
            assert ended.file(name) == body(name)


# ---------------------------------------------------------------------------------------------------- what it is for


def test_small_files_come_in_batches_and_each_has_what_it_would_have_alone(bulk: Bulk) -> None:
    with origin() as server:
        ended = fetch(bulk, server)
        assert ended.status == 0, ended.log
        assert sum(batches(ended.log)) > COUNT / 3
        others_are_right(ended)
        assert sorted(request.path for request in server.requests) == sorted(f"/{name}" for name in NAMES)
        sent = [{key: value for key, value in r.headers.items() if key != "connection"} for r in server.requests]
        assert all(fields == sent[0] for fields in sent), "as the middlewares have made the first one"
        assert server.connections <= 4, "two that Scrapy keeps, and two for batches"
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


def test_files_that_the_origin_states_a_hash_for_are_verified_one_by_one(bulk: Bulk) -> None:
    table = {name: (digest_headers("Repr-Digest", right=True), Resource(body(name))) for name in NAMES}
    with FaultyOrigin(table) as server:
        ended = fetch(bulk, server)
        assert ended.status == 0, ended.log
        assert not batches(ended.log)
        assert {row["status"] for row in ended.rows} == {"verified"}
        assert len(server.requests) == COUNT


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


@pytest.mark.parametrize("name", ODD_ANSWERS)
def test_an_odd_one_ends_as_it_would_alone_and_the_others_are_right(bulk: Bulk, name: str) -> None:
    with origin(ODD_ANSWERS[name](), **{"elsewhere.bin": (good, Resource(body(NAMES[ODD])))}) as server:
        together = fetch(bulk, server)
        assert batches(together.log), together.log
    bulk.report.unlink()
    bulk.output.rename(bulk.folder / "together")
    with origin(ODD_ANSWERS[name](), **{"elsewhere.bin": (good, Resource(body(NAMES[ODD])))}) as server:
        bulk.write_list({NAMES[ODD]: server.url(NAMES[ODD])})
        alone = bulk.run(settings=FEW)
    assert together.status == alone.status
    wanted, found = alone.row(NAMES[ODD]), together.row(NAMES[ODD])
    for field in ("status", "flags", "size", "resumed_from"):
        assert found[field] == wanted[field], field
    assert (found["error"] or {}).get("code") == (wanted["error"] or {}).get("code")
    together.output = bulk.folder / "together"
    others_are_right(together)
    if wanted["status"] == "complete":
        assert together.file(NAMES[ODD]) == alone.file(NAMES[ODD]) == (bulk.output / NAMES[ODD]).read_bytes()


def test_what_a_server_sends_too_much_never_gets_into_the_next_file(bulk: Bulk) -> None:
    """A whole second answer behind the first one, which a careless client takes for that to its next request."""

    def twice(exchange: Exchange) -> None:
        reply = correct(exchange)
        wrong = b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + bytes(2_000)
        exchange.promise(reply)
        exchange.send(bytes(reply.body) + wrong)

    for odd in (twice, extra_bytes(10)):
        with origin(odd) as server:
            ended = fetch(bulk, server)
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_the_middle_nobody_is_lost_and_the_next_run_gets_the_rest(bulk: Bulk, number: int) -> None:
    go_on = threading.Event()

    def waits(exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[:500])
        exchange.stall(go_on)

    with origin(waits) as server:
        bulk.write_list({name: server.url(name) for name in NAMES})
        process = bulk.start(settings={**FEW, "BULK_STALL_TIMEOUT": "60"})
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
    small = SmallFiles(most=20)
    for _ in range(TELLING):
        assert small.batch("a", 10_000, 4) == 1
        small.seen("a", HELD_MAX, plain=True)
    assert small.batch("a", 10_000, 4) == 20
    assert small.batch("b", 10_000, 4) == 1
    assert small.batch("a", 3 * ROUNDS * 4, 4) == 3, "all slots have work to the end"
    assert small.batch("a", 0, 4) == 1
    small.seen("a", HELD_MAX + 1, plain=True)
    assert small.batch("a", 10_000, 4) == 1
    for _ in range(TELLING):
        small.seen("a", 1, plain=True)
    small.seen("a", 1, plain=False)
    assert small.batch("a", 10_000, 4) == 1
    for most in (0, 1):
        never = SmallFiles(most)
        for _ in range(TELLING):
            never.seen("a", 1, plain=True)
        assert never.batch("a", 10_000, 4) == 1


@pytest.mark.parametrize(
    ("entry", "travels"),
    [
        ({}, True),
        ({"size": HELD_MAX}, True),
        ({"size": HELD_MAX + 1}, False),
        ({"digests": (("md5", "0" * 32),)}, False),
        ({"headers": (("X-Token", "secret"),)}, False),
        ({"segments": 2}, False),
        ({"url": "https://a.example/x"}, False),
        ({"url": "http://user:password@a.example/x"}, False),
    ],
)
def test_who_may_travel(entry: dict[str, Any], travels: bool) -> None:
    made = Entry(**{"line": 1, "name": "x", "url": "http://a.example/x", **entry})
    assert may_travel(made, made.url, Options()) == travels
    assert not may_travel(made, "http://mirror.example/x", Options())
    assert not may_travel(made, made.url, Options(digest="sha256"))


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
    assert nobody_minds(Settings(settings)) == fine


# ------------------------------------------------------------------------------------------------------------- heads

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: a:b "


@pytest.mark.parametrize(
    ("head", "read"),
    [
        (GOOD, True),
        (b"HTTP/1.1 200\r\ncontent-length:5", True),
        (b"HTTP/1.1 2000 OK\r\nContent-Length: 5", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5", False),
        (b"HTTP/1.1 206 Partial\r\nContent-Length: 5", False),
        (b"HTTP/1.1 200 OK", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: +5", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: \xb2", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n folded", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length : 5", False),
        (b"HTTP/1.1 200 OK\r\nX: y\nContent-Length: 5", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nnonsense", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: a=b", False),
    ],
)
def test_only_the_simplest_heads_are_read(head: bytes, read: bool) -> None:
    fields = parse_head(head)
    assert (fields is not None) == read
    assert fields is None or fields["content-length"] == "5"


@given(st.binary(max_size=200))
def test_no_head_is_too_strange(tail: bytes) -> None:
    for head in (tail, GOOD + b"\r\n" + tail):
        fields = parse_head(head)
        assert fields is None or fields["content-length"].isdecimal()
