"""Hosts that give only a part of a large file in one answer (BULK_RANGE_MAX): the file comes in pieces, and is proven."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable

import pytest

from support.crawl import kill, sha256
from support.faults import cut_after, ignores_range, in_turn, redirect_to, status, when
from support.faulty import TRUST, Behaviour, Exchange, FaultyOrigin, good, make_body

MIB = 1 << 20
BODY = make_body(20 * MIB + 12_345, "pieces")
SMALL = make_body(300_000, "small")


def too_long(limit: int) -> Callable[[Exchange], bool]:
    """It asks for everything, for an open range, or for more than `limit` bytes."""

    def is_too_long(exchange: Exchange) -> bool:
        asked = exchange.range
        return asked is None or None in asked or asked[1] - asked[0] + 1 > limit

    return is_too_long


def bounded(limit: int, code: int = 403, then: Behaviour = good) -> Behaviour:
    return when(too_long(limit), status(code, body=b"Bad Request"), then)


def refusals(origin: FaultyOrigin) -> int:
    return sum(request.status in (400, 403, 413, 416) for request in origin.requests)


def test_the_file_comes_in_the_largest_pieces_that_the_host_gives(bulk):
    with contextlib.ExitStack() as stack:
        origins = {
            f"{code}{tls}.bin": stack.enter_context(
                FaultyOrigin(default=bounded(8 * MIB, code), resource=BODY, tls=tls)
            )
            for code, tls in ((400, False), (403, False), (413, False), (416, False), (400, True))
        }
        bulk.write_list([f"{name} {origin.url(name)} sha256={sha256(BODY)}" for name, origin in origins.items()])
        ended = bulk.run(settings={**TRUST, "BULK_SEGMENTS": "1"})
        assert ended.status == 0, ended.log
        for name, origin in origins.items():
            assert ended.row(name)["status"] == "verified"
            assert ended.row(name)["attempts"] == 1
            asked = [request.range for request in origin.requests if request.method == "GET"]
            assert asked[:4] == [None, (0, (1 << 30) - 1), (0, 64 * MIB - 1), (0, 8 * MIB - 1)]
            assert len(asked) == 6, "each piece is asked for once"


def test_what_a_host_gives_is_found_out_once(bulk):
    bodies = {f"{number}.bin": make_body(9 * MIB, str(number)) for number in range(6)}
    with FaultyOrigin({name: (bounded(8 * MIB, 400), body) for name, body in bodies.items()}) as origin:
        bulk.write_list({name: origin.url(name) for name in bodies})
        ended = bulk.run(settings={"CONCURRENT_REQUESTS": "1"})
        assert ended.status == 0, ended.log
        assert {name: ended.file(name) for name in bodies} == bodies
        assert refusals(origin) == 3
        assert len(origin.requests) == 3 + 2 * len(bodies)


def test_a_host_that_refuses_only_requests_without_an_end_is_refused_once(bulk):
    names = [f"{number}.bin" for number in range(40)]
    with FaultyOrigin(default=bounded(1 << 40, 400), resource=SMALL) as origin:
        bulk.write_list({name: origin.url(name) for name in names})
        ended = bulk.run(settings={"CONCURRENT_REQUESTS": "1"})
        assert ended.status == 0, ended.log
        assert all(ended.file(name) == SMALL for name in names)
        assert len(origin.requests) == 1 + len(names)


def test_a_large_file_of_a_host_that_gives_all_of_others(bulk):
    """CloudFront above its limit: only the large one is refused, with a 403 that looks like any other."""
    table = {"large.bin": (bounded(1 << 40), BODY)}
    with FaultyOrigin(table, default=good, resource=SMALL) as origin:
        bulk.write_list({name: origin.url(name) for name in ("1.bin", "2.bin", "large.bin", "3.bin")})
        ended = bulk.run(settings={"CONCURRENT_REQUESTS": "1"})
        assert ended.status == 0, ended.log
        assert ended.file("large.bin") == BODY
        assert refusals(origin) == 1


def test_a_refusal_that_has_its_reason_is_believed(bulk):
    said = [b"<Error><Code>AccessDenied</Code></Error>", b"Request has expired", b"NoSuchKey"]
    with FaultyOrigin({f"{number}.bin": status(403, body=body) for number, body in enumerate(said)}) as origin:
        bulk.write_list({f"{number}.bin": origin.url(f"{number}.bin") for number in range(len(said))})
        assert bulk.run().status == 4
        assert {request.range for request in origin.requests} == {None}


def test_many_refusals_cost_few_requests_more(bulk):
    names = [f"gone-{number}.bin" for number in range(60)]
    with FaultyOrigin(default=status(403)) as origin:
        bulk.write_list({name: origin.url(name) for name in names})
        assert bulk.run(settings={"CONCURRENT_REQUESTS": "1"}).status == 4
        assert sum(request.range is not None for request in origin.requests) == 9, "three entries tried three pieces"


def test_a_400_that_stays_is_for_good(bulk):
    with FaultyOrigin({"a.bin": status(400, body=b"no")}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run()
        assert ended.status == 4
        assert ended.row("a.bin")["error"]["permanent"]
        assert len(origin.requests) == 4


def test_the_range_is_bounded_where_a_redirect_leads(bulk):
    cdn = FaultyOrigin({"there": bounded(8 * MIB, 400)}, resource=BODY, host="127.0.0.2")
    with cdn, FaultyOrigin(default=lambda exchange: redirect_to(cdn.url("there?sig=1"))(exchange)) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin"), "b.bin": origin.url("b.bin")})
        ended = bulk.run(settings={"CONCURRENT_REQUESTS": "1"})
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == ended.file("b.bin") == BODY
        assert {request.range for request in origin.requests} == {None}
        assert len(origin.requests) == 2, "one piece after the other from where the first one came"
        assert refusals(cdn) == 3


@pytest.mark.parametrize("size", ["1M", "6M"], ids=["by the reactor", "by a thread"])
def test_range_max_bounds_every_request(bulk, size):
    limit = int(size[:-1]) * MIB
    with FaultyOrigin({"a.bin": good}, resource=BODY) as origin:
        bulk.write_list([f"a.bin {origin.url('a.bin')} sha256={sha256(BODY)}"])
        ended = bulk.run(settings={"BULK_RANGE_MAX": size, "BULK_SEGMENTS": "3", "BULK_SEGMENT_MIN": "1M"})
        assert ended.status == 0, ended.log
        assert ended.row("a.bin")["status"] == "verified"
        assert all(request.range for request in origin.requests)
        assert max(last - first + 1 for first, last in (request.range for request in origin.requests)) <= limit


def test_a_host_without_ranges_is_asked_for_all(bulk):
    with FaultyOrigin({"a.bin": ignores_range()}, resource=SMALL) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings={"BULK_RANGE_MAX": "64K"})
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == SMALL
        assert len(origin.requests) == 1


def test_files_of_any_size_come_in_tiny_pieces(bulk):
    bodies = {f"{size}.bin": make_body(size) for size in (0, 1, 65_536, 65_537, 131_072)}
    with FaultyOrigin({name: (good, body) for name, body in bodies.items()}) as origin:
        bulk.write_list({name: origin.url(name) for name in bodies})
        ended = bulk.run(settings={"BULK_RANGE_MAX": "64K"})
        assert ended.status == 0, ended.log
        assert {name: ended.file(name) for name in bodies} == bodies


def test_pieces_go_on_after_a_lost_connection_and_a_kill(bulk):
    def slow(exchange: Exchange) -> None:
        first = exchange.range[0] if exchange.range else 0
        (exchange.stall if first >= 16 * MIB and not go_on else lambda: good(exchange))()

    go_on: list[bool] = []
    lossy = in_turn(good, good, good, cut_after(100_000), slow)
    with FaultyOrigin({"a.bin": bounded(8 * MIB, 400, lossy)}, resource=BODY) as origin:
        bulk.write_list([f"a.bin {origin.url('a.bin')} md5={hashlib.md5(BODY).hexdigest()}"])
        settings = {"BULK_SEGMENTS": "1", "BULK_STALL_TIMEOUT": "60", "BULK_HEADERS_TIMEOUT": "60"}
        with bulk.start(settings=settings) as process:
            origin.wait_until(lambda origin: any((r.range or (0,))[0] > 15 * MIB for r in origin.requests))
            kill(process)
        go_on.append(True)
        before = len(origin.requests)
        ended = bulk.run(settings={"BULK_SEGMENTS": "1"})
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY
        assert ended.row("a.bin")["resumed_from"] >= 8 * MIB
        again = origin.requests[before:]
        assert sum(request.bytes_sent for request in again) < len(BODY) - 8 * MIB + 200_000


def test_an_older_tools_file_is_continued_in_pieces(bulk):
    bulk.output.mkdir()
    (bulk.output / "a.bin").write_bytes(BODY[: 5 * MIB])
    with FaultyOrigin({"a.bin": bounded(8 * MIB, 400)}, resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings={"BULK_SEGMENTS": "1"})
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY
        assert ended.row("a.bin")["bytes_received"] < 16 * MIB
