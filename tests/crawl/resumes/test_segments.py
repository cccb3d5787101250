"""Several connections for one file: right bytes whatever they bring, no more of them than allowed, none left idle."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from support.crawl import Bulk, Ended
from support.faults import busy, in_turn, redirect_to, status
from support.faulty import Behaviour, Exchange, FaultyOrigin, Reply, Resource, correct, good, make_body
from support.holding import stall_until

MIB = 1024 * 1024
OVERLAP = 64 * 1024
# Of each connection, bytes per second.
SLOW = 1_000_000
BODY = make_body(4 * MIB)
SMALL = {"BULK_SEGMENT_MIN": "256K", "CONCURRENT_REQUESTS_PER_DOMAIN": "8", "BULK_STALL_TIMEOUT": "20"}


def throttled(rate: int = SLOW, edit: Callable[[Exchange, Reply], None] = lambda exchange, reply: None) -> Behaviour:
    """A server that gives each connection `rate` bytes per second; `edit` changes the correct reply."""

    def behaviour(exchange: Exchange) -> None:
        reply = correct(exchange)
        edit(exchange, reply)
        exchange.promise(reply)
        exchange.send_slowly(reply.body, rate)

    return behaviour


class Crowd:
    """Every answer begins, and goes on when `count` requests are open at once; counts how many were at most."""

    def __init__(self, count: int) -> None:
        self.most = 0
        self._count = count
        self._open = 0
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[:1000])
        with self._lock:
            self._open += 1
            self.most = max(self.most, self._open)
        stall_until(exchange, lambda: self.most >= self._count)
        exchange.send_slowly(reply.body[1000:], 4 * SLOW)
        with self._lock:
            self._open -= 1


def further(behaviour: Behaviour, otherwise: Behaviour | None = None) -> Behaviour:
    """`behaviour` for every request but the first one of the path."""
    return in_turn(otherwise or throttled(), behaviour)


def fetch(bulk: Bulk, origin: FaultyOrigin, *, settings: dict[str, str] | None = None, line: str = "") -> Ended:
    bulk.write_list([f"a.bin {origin.url('a.bin')}{line}"])
    return bulk.run(settings={**SMALL, **(settings or {})})


def most_at_once(origin: FaultyOrigin, rate: int = SLOW) -> int:
    """Requests that were under way together, by the time each one's bytes took."""
    spans = [(request.time, request.time + request.bytes_sent / rate) for request in origin.requests]
    return max(sum(begin <= at < end for begin, end in spans) for at, _ in spans)


def test_one_file_uses_every_free_slot(bulk: Bulk) -> None:
    crowd = Crowd(8)
    with FaultyOrigin({"a.bin": crowd}, resource=BODY) as origin:
        ended = fetch(bulk, origin)
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY
        assert ended.row("a.bin")["connections"] == crowd.most == 8
        whole, *segments = origin.requests
        assert len(segments) == 7, "also when the one that finds the file whole is not the last to say so"
        assert whole.range is None
        assert all(request.range and request.headers["if-range"] == '"v1"' for request in segments)
        assert sum(request.bytes_sent for request in segments) <= len(BODY) * 7 / 8 + 8 * OVERLAP
        (line,) = (bulk.output / ".bulkspider" / "ledger.jsonl").read_text().splitlines()
        assert "written" not in json.loads(line)
        assert sorted(path.name for path in bulk.output.iterdir()) == [".bulkspider", "a.bin"]


@pytest.mark.parametrize(
    ("settings", "line", "most"),
    [
        ({"BULK_SEGMENTS": "1"}, "", 1),
        ({"BULK_SEGMENTS": "3"}, "", 3),
        ({"CONCURRENT_REQUESTS": "5"}, "", 5),
        ({"CONCURRENT_REQUESTS_PER_DOMAIN": "4"}, "", 4),
        ({"BULK_SEGMENT_MIN": "1000K"}, "", 4),
        ({"BULK_SEGMENTS": "1"}, " segments=2", 2),
        ({}, " segments=1", 1),
    ],
)
def test_never_more_connections_than_allowed(bulk: Bulk, settings: dict[str, str], line: str, most: int) -> None:
    crowd = Crowd(most)
    with FaultyOrigin({"a.bin": crowd}, resource=BODY) as origin:
        ended = fetch(bulk, origin, settings=settings, line=line)
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY
        assert ended.row("a.bin")["connections"] == most


def other_etag(exchange: Exchange, reply: Reply) -> None:
    reply.headers["ETag"] = '"v2"'


def total_is_other(exchange: Exchange, reply: Reply) -> None:
    if "Content-Range" in reply.headers:
        reply.headers["Content-Range"] = reply.headers["Content-Range"].rpartition("/")[0] + f"/{len(BODY) + 1}"


def starts_late(exchange: Exchange, reply: Reply) -> None:
    if reply.status == 206 and reply.first:
        reply.show(reply.first + 10, reply.last)


def short(exchange: Exchange, reply: Reply) -> None:
    if reply.status == 206:
        reply.show(reply.first, min(reply.last, reply.first + 299_999))


def whole_as_200(exchange: Exchange) -> None:
    """No ranges, and not a word about that."""
    reply = correct(exchange, ignore_range=True)
    reply.headers.pop("Accept-Ranges", None)
    exchange.promise(reply)
    exchange.send_slowly(reply.body, SLOW)


def cut_short(exchange: Exchange) -> None:
    reply = correct(exchange)
    exchange.promise(reply)
    exchange.send_slowly(reply.body[:300_000], SLOW)
    exchange.reset()


# (behaviour, requests allowed at most, connections that may have flowed at once)
MISBEHAVIOURS: dict[str, tuple[Behaviour, int, int]] = {
    "honest short answers": (throttled(edit=short), 40, 8),
    "every connection dies after 300 kB": (further(cut_short), 40, 8),
    "the second connection stalls": (in_turn(throttled(), lambda e: e.stall(), throttled()), 20, 8),
    "one node has another ETag": (further(in_turn(throttled(), throttled(), throttled(edit=other_etag), good)), 20, 8),
    "all other nodes have another ETag": (further(throttled(edit=other_etag), in_turn(throttled())), 30, 2),
    "the total is another one": (in_turn(throttled(), throttled(edit=total_is_other), good), 12, 8),
    "wrong Content-Range": (in_turn(*[throttled()] * 2, *[throttled(edit=starts_late)] * 4, good), 20, 8),
    "ranges are ignored in silence": (whole_as_200, 3, 1),
    "503 on every further connection": (further(busy(503, None, None)), 12, 1),
    "429 with Retry-After on the third": (in_turn(throttled(), throttled(), busy(429, 1, 1), throttled()), 12, 8),
    "403 on every further connection": (further(status(403)), 12, 1),
}


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_whatever_further_connections_bring_the_file_is_right(bulk: Bulk, name: str) -> None:
    behaviour, requests, connections = MISBEHAVIOURS[name]
    with FaultyOrigin({"a.bin": behaviour}, resource=BODY) as origin:
        ended = fetch(bulk, origin, settings={"BULK_STALL_TIMEOUT": "3"})
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY
        assert len(origin.requests) <= requests, ended.log
        assert ended.row("a.bin")["connections"] <= connections


@pytest.mark.parametrize("validators", [True, False])
def test_an_object_that_changes_between_its_segments_never_ends_up_mixed(bulk: Bulk, validators: bool) -> None:
    """From the fourth request on another version of the same length is served; without validators only the bytes at
    the joins tell."""
    known = {} if validators else {"etag": None, "last_modified": None}
    old = replace(Resource(BODY), **known)  # type: ignore[arg-type]
    new = replace(old, body=make_body(len(BODY), "new"), **({"etag": '"v2"'} if validators else {}))

    def version(exchange: Exchange) -> None:
        reply = correct(exchange, old if exchange.attempt < 3 else new)
        exchange.promise(reply)
        exchange.send_slowly(reply.body, SLOW)

    with FaultyOrigin({"a.bin": version}, resource=BODY) as origin:
        ended = fetch(bulk, origin)
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == new.body
        assert len(origin.requests) <= 20


@pytest.mark.parametrize("node_etag", ['"v1"', '"v2"'])
def test_every_connection_may_be_sent_to_another_mirror(bulk: Bulk, node_etag: str) -> None:
    """Validators hold for the host they came from; what the mirrors send is the same."""
    crowd = Crowd(8)
    with (
        FaultyOrigin({"a.bin": crowd}, resource=BODY) as one,
        FaultyOrigin({"a.bin": crowd}, resource=Resource(BODY, etag=node_etag)) as two,
        FaultyOrigin() as front,
    ):
        front.add("a.bin", in_turn(*[redirect_to(node.url("a.bin")) for node in (one, two) * 10]))
        ended = fetch(bulk, front)
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY
        assert ended.row("a.bin")["connections"] == crowd.most == 8
        assert len(front.requests) <= 12
        assert two.requests


def version_of(body: bytes, rate: int) -> Behaviour:
    """An origin without validators, which serves this version."""

    def behaviour(exchange: Exchange) -> None:
        reply = correct(exchange, Resource(body, etag=None, last_modified=None))
        exchange.promise(reply)
        exchange.send_slowly(reply.body, rate)

    return behaviour


@pytest.mark.parametrize(
    ("rate", "told"),
    [
        pytest.param(SLOW, "a.bin: the bytes on disk differ from the origin's near byte {}; begun anew", id="alone"),
        pytest.param(
            SLOW // 4,
            "a.bin: its connections disagree: the bytes on disk differ from the origin's near byte {}; going on with one",
            id="beside-another",
        ),
    ],
)
def test_bytes_of_two_versions_are_never_gone_on_from(bulk: Bulk, rate: int, told: str) -> None:
    """Also not by the next run: it would find one piece without a gap, whose end is right."""
    new = make_body(len(BODY), "new")
    both = in_turn(version_of(BODY, 2 * SLOW), version_of(new, rate), status(404))
    with FaultyOrigin({"a.bin": both}) as origin:
        ended = fetch(bulk, origin, settings={"BULK_SEGMENTS": "2"})
        join = origin.requests[1].range
        assert join is not None
        assert ended.row("a.bin")["error"]["code"] == "http_404", ended.log
        assert told.format(join[0]) in ended.log
        origin.add("a.bin", good, new)
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == new


def test_connections_that_disagree_cost_the_file_no_attempt_and_are_told_of_once(bulk: Bulk) -> None:
    behaviour = in_turn(throttled(), throttled(), throttled(edit=other_etag), throttled())
    with FaultyOrigin({"a.bin": behaviour}, resource=BODY) as origin:
        ended = fetch(bulk, origin, settings={"BULK_RETRY_TIMES": "0"})
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY
        told = "a.bin: its connections disagree: the object changed (other validator in 206); going on with one"
        assert ended.log.count(told) == ended.log.count("a.bin: ") == 1, ended.log
        assert ended.row("a.bin")["broken"] == 0
        assert origin.requests[-1].headers["if-range"] == '"v1"', "what is there goes on"


@pytest.mark.parametrize("answer", [status(403), status(404), redirect_to("ftp://127.0.0.1/x"), whole_as_200])
def test_what_a_further_connection_is_refused_never_ends_the_file(bulk: Bulk, answer: Behaviour) -> None:
    """The first one is lost in the meantime, so that nothing else is under way when the refusal comes."""
    origin = FaultyOrigin(resource=BODY)

    def lost(exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[: MIB // 2])
        stall_until(exchange, lambda: len(origin.requests) > 1)
        exchange.reset()

    def late(exchange: Exchange) -> None:
        stall_until(exchange, lambda: origin.requests[0].ended)
        deadline = time.monotonic() + 0.5
        stall_until(exchange, lambda: time.monotonic() > deadline)
        answer(exchange)

    origin.add("a.bin", in_turn(lost, late, good))
    with origin:
        ended = fetch(bulk, origin, settings={"BULK_SEGMENTS": "2", "BULK_RETRY_TIMES": "0"})
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY
        assert len(origin.requests) == 3
        assert "a.bin: one of its connections ended (the body ended at byte 524288 of " in ended.log
        if answer is whole_as_200:
            assert "a.bin: the origin ignores Range; going on with one connection" in ended.log


def test_a_connection_whose_bytes_are_taken_over_has_not_failed(bulk: Bulk) -> None:
    """The first one never brings a byte; what the second one leaves of it the third one takes, when it has gone."""
    origin = FaultyOrigin(resource=BODY)

    def silent(exchange: Exchange) -> None:
        exchange.promise(correct(exchange))
        exchange.stall()

    def patient(exchange: Exchange) -> None:
        stall_until(exchange, lambda: origin.requests[0].ended)
        good(exchange)

    origin.add("a.bin", in_turn(silent, good, patient))
    with origin:
        ended = fetch(bulk, origin, settings={"BULK_SEGMENTS": "2"})
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY
        assert ended.row("a.bin")["broken"] == 0, ended.log
        assert ended.log.count("a.bin: ") == 0, ended.log


def test_a_refused_connection_is_remembered_and_no_outage(bulk: Bulk) -> None:
    with FaultyOrigin(
        {"a.bin": throttled(), "b.bin": throttled()},
        resource=BODY,
        at_connect=lambda number: "reset" if number in (3, 4, 5) else None,
    ) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin"), "b.bin": origin.url("b.bin")})
        ended = bulk.run(settings=SMALL)
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == ended.file("b.bin") == BODY
        assert origin.connections <= 14


def test_the_crawling_connection_loses_what_it_has_left(bulk: Bulk) -> None:
    """The third connection gives 2 kB/s: at its pace the file would take minutes."""
    crawling = in_turn(throttled(), throttled(), throttled(2_000), throttled())
    with FaultyOrigin({"a.bin": crawling}, resource=BODY) as origin:
        ended = fetch(bulk, origin, settings={"CONCURRENT_REQUESTS_PER_DOMAIN": "4", "BULK_MIN_SPEED": "0"})
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY
        assert origin.requests[2].bytes_sent < 100_000
        assert len(origin.requests) <= 10


def test_free_slots_help_the_last_file_and_waiting_entries_come_first(bulk: Bulk) -> None:
    sizes = {"small.bin": MIB, "middle.bin": MIB, "late.bin": MIB, "big.bin": 8 * MIB}
    bodies = {name: make_body(size, name) for name, size in sizes.items()}
    with FaultyOrigin({name: (throttled(), body) for name, body in bodies.items()}) as origin:
        bulk.write_list({name: origin.url(name) for name in bodies})
        ended = bulk.run(settings={**SMALL, "CONCURRENT_REQUESTS_PER_DOMAIN": "2"})
        assert ended.status == 0, ended.log
        assert {name: ended.file(name) for name in bodies} == bodies
        assert len({request.path for request in origin.requests[:4]}) == 4, "a segment went before an entry"
        assert ended.row("big.bin")["connections"] == 2
        assert most_at_once(origin) == 2
