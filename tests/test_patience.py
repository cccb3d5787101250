"""Runs for days without a person: fresh links, mirrors, rates, stops, outages, and whatever else lives in a Scrapy.

Times are the server's (monotonic, taken when a request or a piece of its answer passed), or those of the process.
"""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import time
from itertools import pairwise

import pytest
from conftest import Bulk, Ended, sha256
from faults import (
    as_if,
    busy,
    cut_after,
    gzip_encoded,
    in_turn,
    redirect_to,
    silent,
    stall_after,
    status,
    trickle,
    when,
)
from faulty import Behaviour, Exchange, FaultyOrigin, good, make_body
from holding import Holds

BODY = make_body(300_000)
OTHER = make_body(300_000, "another file")
HELD = 200_000
OVERLAP = 64 * 1024
MIB = 1024 * 1024
UNHURRIED = {"BULK_STALL_TIMEOUT": "60", "BULK_HEADERS_TIMEOUT": "60", "BULK_MIN_SPEED": "0"}


def codes(ended: Ended) -> dict[str, str | None]:
    return {row["name"]: row["error"] and row["error"]["code"] for row in ended.rows}


# --- Expired links ----------------------------------------------------------------------------------------------------

HOOKS = """
import asyncio
from pathlib import Path

def fresh(entry):
    with open("asked.txt", "a") as file:
        file.write(entry.name + "\\n")
    return Path("fresh.txt").read_text().format(entry.name)

async def later(entry):
    await asyncio.sleep(0)
    return fresh(entry)

def none(entry):
    return None

def broken(entry):
    raise RuntimeError("the vault is closed for X-Amz-Signature=s3cret")

async def broken_later(entry):
    raise RuntimeError("the vault is closed")

def nonsense(entry):
    return "no url at all"

value = 7
"""


@pytest.fixture
def hooked(bulk: Bulk) -> Bulk:
    (bulk.folder / "links.py").write_text(HOOKS)
    return bulk


@pytest.mark.parametrize("hook", ["links.fresh", "links.later"])
def test_a_hook_gives_fresh_links_and_the_parts_are_kept(hooked: Bulk, hook: str) -> None:
    bulk = hooked
    with FaultyOrigin(resource=BODY) as origin:
        for code in (401, 403, 410):
            origin.add(f"{code}.bin", in_turn(cut_after(HELD), status(code)))
            origin.add(f"fresh/{code}.bin", good)
        (bulk.folder / "fresh.txt").write_text(origin.url("fresh/") + "{}?Signature=s3cret")
        bulk.write_list({f"{code}.bin": origin.url(f"{code}.bin?Signature=old") for code in (401, 403, 410)})
        ended = bulk.run(settings={"BULK_FRESH_URL": hook})
        assert ended.status == 0, ended.log
        for code in (401, 403, 410):
            assert ended.file(f"{code}.bin") == BODY
            assert len(origin.requests_for(f"{code}.bin")) == 2
            (resumed,) = origin.requests_for(f"fresh/{code}.bin")
            assert resumed.range == (HELD - OVERLAP, None)
            assert resumed.query == "Signature=s3cret"
        assert sorted((bulk.folder / "asked.txt").read_text().split()) == ["401.bin", "403.bin", "410.bin"]
        assert "s3cret" not in ended.log


def test_a_fresh_link_that_is_refused_too_is_not_asked_for_again_and_again(hooked: Bulk) -> None:
    with FaultyOrigin({"a.bin": in_turn(cut_after(HELD), status(403)), "b.bin": status(403)}, resource=BODY) as origin:
        (hooked.folder / "fresh.txt").write_text(origin.url("b.bin"))
        hooked.write_list({"a.bin": origin.url("a.bin")})
        ended = hooked.run(settings={"BULK_FRESH_URL": "links.fresh"})
        assert ended.status == 4, ended.log
        assert codes(ended) == {"a.bin": "http_403"}
        assert len(origin.requests) <= 4
        assert (hooked.output / "a.bin.part").read_bytes() == BODY[:HELD]


def test_links_may_expire_again_and_again_while_there_is_progress(hooked: Bulk) -> None:
    """Every link is good for one request of 50 kB."""

    def one_use(exchange: Exchange) -> None:
        (cut_after(OVERLAP + 50_000) if exchange.attempt % 2 == 0 else status(403))(exchange)

    with FaultyOrigin({"a.bin": one_use, "b.bin": one_use}, resource=BODY) as origin:
        # Two links that take turns, as a hook that signs anew gives them.
        (hooked.folder / "turns.py").write_text(
            f"import itertools\nurls = itertools.cycle([{origin.url('b.bin')!r}, {origin.url('a.bin')!r}])\n"
            "def fresh(entry):\n    return next(urls)\n"
        )
        hooked.write_list({"a.bin": origin.url("a.bin")})
        ended = hooked.run(settings={"BULK_FRESH_URL": "turns.fresh", "BULK_RETRY_TIMES": "1"})
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY


@pytest.mark.parametrize("hook", ["none", "broken", "broken_later", "nonsense"])
def test_a_hook_without_an_answer_leaves_the_failure_as_it_was(hooked: Bulk, hook: str) -> None:
    with FaultyOrigin({"a.bin": in_turn(cut_after(HELD), status(410)), "b.bin": good}, resource=BODY) as origin:
        hooked.write_list({name: origin.url(name) for name in ("a.bin", "b.bin")})
        ended = hooked.wait(hooked.start(settings={"BULK_FRESH_URL": f"links.{hook}"}))
        assert ended.status == 4, ended.log
        assert codes(ended) == {"a.bin": "http_410", "b.bin": None}
        assert ended.row("a.bin")["error"]["http_status"] == 410
        assert (hooked.output / "a.bin.part").read_bytes() == BODY[:HELD]
        assert ("a.bin: no fresh URL" in ended.log) == (hook != "none")
        assert "s3cret" not in ended.log
        assert len(origin.requests_for("a.bin")) == 2


@pytest.mark.parametrize("hook", ["links.missing", "nowhere.fresh", "links.value", "links"])
def test_a_hook_that_does_not_exist_is_told_before_anything_is_begun(hooked: Bulk, hook: str) -> None:
    with FaultyOrigin(default=good) as origin:
        hooked.write_list({"a.bin": origin.url("a.bin")})
        ended = hooked.run(settings={"BULK_FRESH_URL": hook})
        assert ended.status == 1, ended.log
        assert f"BULK_FRESH_URL={hook}" in ended.log
        assert origin.requests == []


def test_a_list_that_was_edited_meanwhile_is_read_again(bulk: Bulk) -> None:
    with FaultyOrigin(resource=BODY) as origin:

        def expired(exchange: Exchange) -> None:
            if exchange.attempt == 0:
                cut_after(HELD)(exchange)
                return
            # The user was told, and has put new links into the list before this answer is out.
            lines = ["name url", "this line is no entry", f"a.bin {origin.url('a.bin?Signature=new')}"]
            bulk._list.write_text("\n".join([*lines, f"c.bin {origin.url('c.bin')}"]) + "\n")
            status(403)(exchange)

        origin.add("a.bin", when(lambda exchange: exchange.query == "Signature=new", good, expired))
        bulk.write_list({"a.bin": origin.url("a.bin?Signature=old")})
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY
        assert [(r.query, r.status) for r in origin.requests] == [
            ("Signature=old", 200),
            ("Signature=old", 403),
            ("Signature=new", 206),
        ]
        assert [row["name"] for row in ended.rows] == ["a.bin"], "the run reads its copy of the list"


# --- Mirrors ----------------------------------------------------------------------------------------------------------


def test_mirrors_take_over_where_the_first_one_ended_when_size_and_overlap_agree(bulk: Bulk) -> None:
    with (
        FaultyOrigin({"a.bin": in_turn(cut_after(HELD), status(404))}, resource=BODY) as first,
        FaultyOrigin({"a.bin": status(404)}) as second,
        FaultyOrigin({"a.bin": as_if(etag='"of-the-mirror"', last_modified=None)}, resource=BODY) as third,
    ):
        bulk.write_list([f"a.bin {first.url('a.bin')} mirror={second.url('a.bin')} mirror={third.url('a.bin')}"])
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY
        assert (len(first.requests), len(second.requests)) == (2, 1)
        (taken,) = third.requests
        assert taken.range == (HELD - OVERLAP, None)
        assert "if-range" not in taken.headers, "a validator is its own server's"
        assert ended.row("a.bin")["final_url"] == third.url("a.bin")
        assert ended.row("a.bin")["status"] == "complete"
        assert bulk.run().rows[0]["already"]


@pytest.mark.parametrize("other", [OTHER, make_body(400_000, "longer"), make_body(250_000, "shorter")], ids=len)
def test_a_mirror_with_another_file_is_never_mixed_in(bulk: Bulk, other: bytes) -> None:
    with (
        FaultyOrigin({"a.bin": in_turn(cut_after(HELD), status(404)), "b.bin": in_turn(cut_after(HELD), status(404))}, resource=BODY) as first,
        FaultyOrigin(default=as_if(etag=None), resource=other) as second,
    ):  # fmt: skip
        mirrored = "{0} {1} mirror={2}"
        lines = [mirrored.format(name, first.url(name), second.url(name)) for name in ("a.bin", "b.bin")]
        bulk.write_list([lines[0], f"{lines[1]} sha256={sha256(BODY)}"])
        ended = bulk.run()
        assert ended.status in (3, 4), ended.log
        # Whatever else: whole, of one version; and where a hash is known, that version or nothing.
        if (bulk.output / "a.bin").exists():
            assert ended.file("a.bin") == other
        assert not (bulk.output / "b.bin").exists()
        assert ended.row("b.bin")["status"] == "failed"
        assert len(second.requests) <= 8


def test_a_mirror_of_another_size_than_the_list_says_is_refused(bulk: Bulk) -> None:
    with (
        FaultyOrigin({"a.bin": in_turn(cut_after(HELD), status(404))}, resource=BODY) as first,
        FaultyOrigin(default=good, resource=make_body(400_000, "longer")) as second,
    ):
        bulk.write_list([f"a.bin {first.url('a.bin')} size=300000 mirror={second.url('a.bin')}"])
        ended = bulk.run()
        assert ended.status in (3, 4), ended.log
        assert codes(ended)["a.bin"] in ("size_mismatch", "http_404")
        assert (bulk.output / "a.bin.part").read_bytes() == BODY[:HELD]
        assert len(second.requests) <= 2


def test_a_mirror_stands_in_for_an_origin_that_is_down(bulk: Bulk) -> None:
    with FaultyOrigin() as gone, FaultyOrigin(default=good, resource=BODY) as mirror:
        gone.down()
        names = [f"{n}.bin" for n in range(4)]
        bulk.write_list([f"{name} {gone.url(name)} mirror={mirror.url(name)}" for name in names])
        ended = bulk.run(settings={"BULK_ORIGIN_PATIENCE": "1"})
        assert ended.status == 0, ended.log
        assert all(ended.file(name) == BODY for name in names)
        assert len(mirror.requests) == 4


# --- Rates ------------------------------------------------------------------------------------------------------------


# Requests tell the client's own pace: the next file is asked for when one before it has been read to its end. What the
# server has sent does not: megabytes of it lie in the buffers of the sockets.
FILE = 256 * 1024
MEASURED = 5.0
FOUR = {**UNHURRIED, "CONCURRENT_REQUESTS": "4", "CONCURRENT_REQUESTS_PER_DOMAIN": "4"}


def rate(origin: FaultyOrigin, since: float) -> float:
    """Bytes per second of the requests that came in MEASURED seconds after `since`."""
    times = [request.time for request in origin.requests if since <= request.time <= since + MEASURED]
    return FILE * (len(times) - 1) / (times[-1] - times[0])


def measured(origin: FaultyOrigin, since: float) -> float:
    """The same, when the time has come."""
    origin.wait_until(lambda o: o.requests[-1].time >= since + MEASURED)
    return rate(origin, since)


def keeps(found: float, limit: float) -> bool:
    """Never faster; slower only as far as a busy machine may be."""
    return 0.6 * limit <= found <= 1.1 * limit


def test_the_rate_limit_holds_over_all_transfers_and_changes_while_running(bulk: Bulk) -> None:
    body = make_body(FILE)
    control = bulk.output / ".bulkspider" / "control.json"
    with FaultyOrigin(default=good, resource=body) as origin:
        bulk.write_list({f"{n}.bin": origin.url(f"{n}.bin") for n in range(300)})
        process = bulk.start(settings={**FOUR, "BULK_RATE_LIMIT": "3M"})
        origin.wait_until(lambda o: len(o.requests) >= 5)
        assert keeps(measured(origin, origin.requests[4].time), 3 * MIB)

        control.write_text('{"rate_limit": "6M"}')
        read = origin.requests[-1].time + 1.25  # it is read every second
        assert keeps(measured(origin, read), 6 * MIB)

        # Nonsense changes nothing and is told; no limit at all is full speed.
        control.write_text('{"rate_limt": "1M"}')
        nonsense = origin.requests[-1].time
        origin.wait_until(lambda o: o.requests[-1].time >= nonsense + 1.5)
        control.write_text('{"rate_limit": null}')
        ended = bulk.wait(process)
        assert ended.status == 0, ended.log
        assert "unknown key rate_limt" in ended.log
        assert all(ended.file(f"{n}.bin") == body for n in range(300))
        assert len(origin.requests) == 300


def test_the_rate_limit_holds_for_large_files_too(bulk: Bulk) -> None:
    """A client that has read such a file to its end leaves, and the server notes when."""
    body, left = make_body(8 * MIB), list[float]()

    def noting(exchange: Exchange) -> None:
        good(exchange)
        try:
            exchange.stall()
        finally:
            left.append(time.monotonic())

    names = [f"{n}.bin" for n in range(4)]
    with FaultyOrigin(default=noting, resource=body) as origin:
        bulk.write_list({name: origin.url(name) for name in names})
        ended = bulk.run(settings={**FOUR, "BULK_RATE_LIMIT": "5M"})
        assert ended.status == 0, ended.log
        assert all(ended.file(name) == body for name in names)
        origin.wait_until(lambda _: len(left) == 4)
        assert keeps(4 * len(body) / (max(left) - origin.requests[0].time), 5 * MIB)


def test_the_rate_limit_per_host_is_each_hosts_own(bulk: Bulk) -> None:
    body = make_body(FILE)
    with (
        FaultyOrigin(default=good, resource=body) as one,
        FaultyOrigin(default=good, resource=body, host="127.0.0.2") as two,
    ):
        bulk.write_list({f"{o.host}/{n}.bin": o.url(f"{n}.bin") for n in range(200) for o in (one, two)})
        settings = {"CONCURRENT_REQUESTS_PER_DOMAIN": "2", "BULK_RATE_LIMIT_PER_HOST": "3M"}
        process = bulk.start(settings={**FOUR, **settings})
        for origin in (one, two):
            origin.wait_until(lambda o: len(o.requests) >= 3)
        since = max(one.requests[2].time, two.requests[2].time)
        assert keeps(measured(one, since), 3 * MIB)
        assert keeps(measured(two, since), 3 * MIB)
        process.send_signal(signal.SIGINT)
        assert bulk.wait(process).status == 130


# --- Stops ------------------------------------------------------------------------------------------------------------


class Busiest:
    """Sixteen transfers under way, each held up in its own manner, and four entries that were told to come back."""

    STALLED, TRICKLING, SILENT, WAITING = 6, 6, 4, 4

    def __init__(self, bulk: Bulk) -> None:
        self.bulk = bulk
        self.table: dict[str, Behaviour] = {}
        for kind, count, behaviour in (
            ("stalled", self.STALLED, stall_after(HELD)),
            ("trickling", self.TRICKLING, trickle(2_000, after=100_000)),
            ("silent", self.SILENT, silent()),
        ):
            self.table |= {f"{kind}{n}.bin": behaviour for n in range(count)}
        self.origin = FaultyOrigin(self.table, resource=BODY)
        self.occupied = FaultyOrigin(default=busy(503, 3_600, times=None), resource=BODY, host="127.0.0.2")
        self.waiting = [f"waiting{n}.bin" for n in range(self.WAITING)]
        self.names = [*self.table, *self.waiting]

    def __enter__(self) -> Busiest:
        self.origin.up()
        self.occupied.up()
        urls = {name: self.origin.url(name) for name in self.table}
        self.bulk.write_list({**{name: self.occupied.url(name) for name in self.waiting}, **urls})
        return self

    def __exit__(self, *_: object) -> None:
        self.origin.__exit__(None, None, None)
        self.occupied.__exit__(None, None, None)

    def start(self, **settings: str) -> subprocess.Popen[str]:
        at_once = {"CONCURRENT_REQUESTS": "16", "CONCURRENT_REQUESTS_PER_DOMAIN": "16"}
        patience = {"BULK_RETRY_AFTER_MAX": "9999", "BULK_ORIGIN_PATIENCE": "9999"}
        process = self.bulk.start(settings={**UNHURRIED, **at_once, **patience, **settings})
        held = {name: HELD if name.startswith("stalled") else 100_000 for name in self.table}
        self.occupied.wait_until(lambda o: len(o.requests) == self.WAITING and all(r.ended for r in o.requests))
        self.origin.wait_until(
            lambda o: (
                len(o.requests) == 16
                and all(r.path.startswith("/silent") or r.bytes_sent >= held[r.path[1:]] for r in o.requests)
            )
        )
        return process

    def assert_kept(self, ended: Ended) -> None:
        assert {row["name"]: row["status"] for row in ended.rows} == dict.fromkeys(self.names, "interrupted")
        for name in self.table:
            part = self.bulk.output / f"{name}.part"
            if name.startswith("silent"):
                assert not part.exists()
                continue
            ((first, end),) = json.loads((self.bulk.output / f"{name}.part.json").read_text())["written"]
            assert first == 0
            assert end == part.stat().st_size >= (HELD if name.startswith("stalled") else 100_000)
            assert BODY.startswith(part.read_bytes())
        assert not any((self.bulk.output / name).exists() for name in self.names)

    def assert_rerun_finishes(self) -> None:
        for name in self.table:
            self.origin.add(name, good)
        for name in self.waiting:
            self.occupied.add(name, good)
        ended = self.bulk.run()
        assert ended.status == 0, ended.log
        assert all(ended.file(name) == BODY for name in self.names)
        for name in self.table:
            if not name.startswith("silent"):
                assert ended.row(name)["resumed_from"] >= 100_000


def ends_soon(bulk: Bulk, process: subprocess.Popen[str], since: float) -> Ended:
    """Left alone these transfers would take an hour; a third of a second is usual, a busy machine may take longer."""
    ended = bulk.wait(process, timeout=60)
    took = time.monotonic() - since
    assert took <= 15, f"{took:.1f} s\n{ended.log}"
    assert "Traceback" not in ended.log, ended.log
    return ended


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"])
def test_sixteen_transfers_stop_within_seconds_and_keep_everything(
    bulk: Bulk, number: signal.Signals, code: int
) -> None:
    with Busiest(bulk) as busiest:
        process = busiest.start()
        since = time.monotonic()
        process.send_signal(number)
        ended = ends_soon(bulk, process, since)
        assert ended.status == code, ended.log
        busiest.assert_kept(ended)
        assert "20 interrupted" in ended.log
        assert "to go on, run the same again" in ended.log
        busiest.assert_rerun_finishes()


def test_a_second_signal_is_quicker_and_still_safe(bulk: Bulk) -> None:
    with Busiest(bulk) as busiest:
        process = busiest.start()
        since = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        for line in process.stdout:
            if "SIGINT" in line:
                break
        process.send_signal(signal.SIGINT)
        ended = ends_soon(bulk, process, since)
        assert ended.status == 130, ended.log
        assert not any((bulk.output / name).exists() for name in busiest.names)
        for name in busiest.table:
            part = bulk.output / f"{name}.part"
            assert not part.exists() or BODY.startswith(part.read_bytes())
        for name in busiest.table:
            busiest.origin.add(name, good)
        for name in busiest.waiting:
            busiest.occupied.add(name, good)
        again = bulk.run()
        assert again.status == 0, again.log
        assert all(again.file(name) == BODY for name in busiest.names)


def test_closespider_timeout_stops_transfers_at_once(bulk: Bulk) -> None:
    with Busiest(bulk) as busiest:
        process = busiest.start(CLOSESPIDER_TIMEOUT="3")
        ended = ends_soon(bulk, process, busiest.origin.requests[0].time)
        assert ended.status == 3, ended.log
        busiest.assert_kept(ended)
        busiest.assert_rerun_finishes()


CLOSER = """
from scrapy.exceptions import CloseSpider

class Closer:
    def process_spider_output(self, response, result, spider=None):
        yield from result
        raise CloseSpider("enough")

    async def process_spider_output_async(self, response, result, spider=None):
        async for one in result:
            yield one
        raise CloseSpider("enough")
"""


@pytest.mark.parametrize(
    "settings",
    [{"CLOSESPIDER_ITEMCOUNT": "1"}, {"SPIDER_MIDDLEWARES": '{"closer.Closer": 10}'}],
    ids=["item-count", "exception"],
)
def test_any_other_close_of_the_spider_stops_transfers_at_once_too(bulk: Bulk, settings: dict[str, str]) -> None:
    (bulk.folder / "closer.py").write_text(CLOSER)
    held = Holds(HELD, bulk.output / "held.bin.part")
    with FaultyOrigin({"held.bin": (held.behaviour(), BODY)}, resource=BODY) as origin:

        def second(exchange: Exchange) -> None:
            held.wait()
            good(exchange)

        origin.add("quick.bin", second)
        bulk.write_list({name: origin.url(name) for name in ("held.bin", "quick.bin")})
        process = bulk.start(settings={**UNHURRIED, **settings})
        origin.wait_until(lambda o: any(r.path == "/quick.bin" and r.bytes_sent == len(BODY) for r in o.requests))
        ended = ends_soon(bulk, process, time.monotonic())
        assert ended.status == 3, ended.log
        assert {row["name"]: row["status"] for row in ended.rows} == {
            "quick.bin": "complete",
            "held.bin": "interrupted",
        }
        assert ended.file("quick.bin") == BODY
        assert json.loads((bulk.output / "held.bin.part.json").read_text())["written"] == [[0, HELD]]
        again = bulk.run()
        assert again.status == 0, again.log
        assert again.row("held.bin")["resumed_from"] == HELD


# --- Outages ----------------------------------------------------------------------------------------------------------


def test_a_stranger_that_never_served_fails_after_its_patience_and_others_do_not_notice(bulk: Bulk) -> None:
    with FaultyOrigin() as gone, FaultyOrigin(default=good, resource=BODY) as fine:
        gone.down()
        lost = [f"gone{n}.bin" for n in range(20)]
        kept = [f"fine{n}.bin" for n in range(20)]
        urls = {name: gone.url(name) for name in lost} | {name: fine.url(name) for name in kept}
        bulk.write_list({**urls, "unknown.bin": "http://no-such-host.invalid/unknown.bin"})
        process = bulk.start(settings={"BULK_ORIGIN_PATIENCE": "1", "CONCURRENT_REQUESTS": "4"})
        fine.wait_until(lambda o: len(o.requests) == 20 and all(r.ended for r in o.requests))
        ended = bulk.wait(process, timeout=40)
        assert ended.status == 3, ended.log
        assert codes(ended) == {**dict.fromkeys([*lost, "unknown.bin"], "origin_down"), **dict.fromkeys(kept, None)}
        assert not any(row["error"]["permanent"] for row in ended.rows if row["error"])
        assert sum(row["attempts"] for row in ended.rows if row["name"] in lost) <= 45, "one probe at a time"


def test_an_origin_that_served_before_is_waited_for_longer_than_a_stranger(bulk: Bulk) -> None:
    """It goes away in the middle of its second file and comes back well within its patience."""
    with FaultyOrigin({"a.bin": good, "b.bin": trickle(100_000, after=100_000)}, resource=BODY) as origin:
        bulk.write_list({name: origin.url(name) for name in ("a.bin", "b.bin")})
        process = bulk.start(settings={"BULK_ORIGIN_PATIENCE": "60", "CONCURRENT_REQUESTS": "1"})
        origin.wait_until(lambda o: any(r.path == "/b.bin" and r.bytes_sent >= 150_000 for r in o.requests))
        origin.down()
        origin.add("b.bin", good)
        refused = 0
        assert process.stdout is not None
        for line in process.stdout:
            refused += "refused" in line
            if refused == 3:
                break
        origin.up()
        ended = bulk.wait(process)
        assert ended.status == 0, ended.log
        assert ended.file("b.bin") == BODY
        assert origin.requests_for("b.bin")[1].range is not None


# --- Identity and permission ------------------------------------------------------------------------------------------


def test_netrc_is_for_its_own_host_and_does_not_follow_a_redirect(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = bulk.folder / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password s3cret\ndefault login who password no-one\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    known = "Basic " + base64.b64encode(b"me:s3cret").decode()
    with (
        FaultyOrigin(default=good, resource=BODY) as near,
        FaultyOrigin(default=good, resource=BODY, host="127.0.0.2") as far,
    ):
        near.add("away.bin", redirect_to(far.url("target.bin")))
        far.add("back.bin", redirect_to(near.url("home.bin")))
        bulk.write_list(
            {"a.bin": near.url("a.bin"), "away.bin": near.url("away.bin"), "far.bin": far.url("far.bin"), "back.bin": far.url("back.bin")}
        )  # fmt: skip
        ended = bulk.run(settings={"LOG_LEVEL": "DEBUG"})
        assert ended.status == 0, ended.log
        assert {request.headers.get("authorization") for request in near.requests} == {known}
        assert {request.headers.get("authorization") for request in far.requests} == {None}
        assert len(far.requests) == 3
        assert "s3cret" not in ended.log
        assert known.split()[1] not in ended.log


def test_robots_txt_is_honoured_when_the_project_says_so_and_the_row_says_it(bulk: Bulk) -> None:
    robots = b"User-agent: *\nDisallow: /private/\n"
    with FaultyOrigin({"robots.txt": (good, robots)}, default=good, resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("public/a.bin"), "b.bin": origin.url("private/b.bin")})
        ended = bulk.run(settings={"ROBOTSTXT_OBEY": "1"})
        assert ended.status == 4, ended.log
        error = ended.row("b.bin")["error"]
        assert (error["code"], error["permanent"]) == ("robots", True)
        assert "robots.txt" in error["message"]
        assert ended.file("a.bin") == BODY
        assert origin.requests_for("private/b.bin") == []
        assert bulk.run(settings={"ROBOTSTXT_OBEY": "0"}).status == 0


# --- Whatever else a project has switched on --------------------------------------------------------------------------


def test_httpcache_and_compression_do_no_harm(bulk: Bulk) -> None:
    table = {
        "a.bin": good,
        "coded.bin": gzip_encoded(only_if_accepted=True),
        "broken.bin": in_turn(cut_after(HELD), good),
    }
    settings = {"HTTPCACHE_ENABLED": "1", "HTTPCACHE_DIR": str(bulk.folder / "cache"), "COMPRESSION_ENABLED": "1"}
    with FaultyOrigin(table, resource=BODY) as origin:
        bulk.write_list({name: origin.url(name) for name in table})
        for _ in range(2):
            before = len(origin.requests)
            ended = bulk.run(settings=settings)
            assert ended.status == 0, ended.log
            assert all(ended.file(name) == BODY for name in table)
            # Nothing of ours came from the cache or went into it.
            assert len(origin.requests) - before == 4 if not before else 3
            assert not [
                path for path in (bulk.folder / "cache").rglob("*") if path.is_file() and path.stat().st_size > 50_000
            ]
            for name in table:
                (bulk.output / name).unlink()


def test_autothrottle_spaces_requests_and_does_no_other_harm(bulk: Bulk) -> None:
    table = {f"{n}.bin": good for n in range(4)} | {"broken.bin": in_turn(cut_after(HELD), good)}
    settings = {"AUTOTHROTTLE_ENABLED": "1", "AUTOTHROTTLE_START_DELAY": "0.4", "RANDOMIZE_DOWNLOAD_DELAY": "0"}
    with FaultyOrigin(table, resource=BODY) as origin:
        bulk.write_list({name: origin.url(name) for name in table})
        ended = bulk.run(settings=settings)
        assert ended.status == 0, ended.log
        assert all(ended.file(name) == BODY for name in table)
        assert len(origin.requests) == 6


def test_download_delay_spaces_requests_and_not_bytes(bulk: Bulk) -> None:
    table = {f"{n}.bin": trickle(400_000) for n in range(3)}
    with FaultyOrigin(table, resource=BODY) as origin:
        bulk.write_list({name: origin.url(name) for name in table})
        ended = bulk.run(settings={"DOWNLOAD_DELAY": "0.5", "RANDOMIZE_DOWNLOAD_DELAY": "0"})
        assert ended.status == 0, ended.log
        gaps = [later.time - earlier.time for earlier, later in pairwise(origin.requests)]
        assert all(0.45 <= gap <= 0.9 for gap in gaps), gaps


def test_urls_of_three_thousand_bytes_work_also_from_a_redirect(bulk: Bulk) -> None:
    long = "X-Amz-Signature=" + "a1b2" * 750
    with FaultyOrigin({"a.bin": in_turn(cut_after(HELD), good), "b.bin": good}, resource=BODY) as origin:
        origin.add("short.bin", redirect_to(origin.url(f"b.bin?{long}")))
        bulk.write_list({"a.bin": origin.url(f"a.bin?{long}"), "b.bin": origin.url("short.bin")})
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == ended.file("b.bin") == BODY
        assert {request.query for request in origin.requests_for("a.bin")} == {long}
        assert "a1b2a1b2" not in ended.log


MEDDLERS = """
from scrapy import Request
from scrapy.exceptions import IgnoreRequest
from scrapy.http import Response, TextResponse

class OfSome:
    def process_request(self, request, spider=None):
        if "raises" in request.url:
            raise ValueError("a bug in somebody's middleware")
        if "answers" in request.url:
            return TextResponse(request.url, body=b"not the file", encoding="utf-8")
        if "ignores" in request.url:
            raise IgnoreRequest("not that one")
        if "elsewhere" in request.url:
            return Request(request.url.replace("elsewhere", "fine"), dont_filter=True)

    def process_response(self, request, response, spider=None):
        if "late-raise" in request.url:
            raise KeyError("after the answer")
        if "late-other" in request.url:
            return Response(request.url, status=200, body=b"another body")
        if "late-again" in request.url and not request.meta.get("again"):
            return request.replace(dont_filter=True, meta={**request.meta, "again": True})
        return response

    def process_exception(self, request, exception, spider=None):
        if "refused" in request.url:
            return Response(request.url, status=200, body=b"made up")

class Drops:
    async def process_start(self, start):
        async for one in start:
            if not (isinstance(one, Request) and "dropped" in one.url):
                yield one

class Raises:
    def process_spider_input(self, response, spider=None):
        if "input" in response.url:
            raise ValueError("a bug in somebody's spider middleware")
"""


def test_whatever_middlewares_do_every_line_has_a_row_and_no_name_is_wrong(bulk: Bulk) -> None:
    (bulk.folder / "meddlers.py").write_text(MEDDLERS)
    kinds = ("fine", "raises", "answers", "ignores", "late-raise", "late-other", "late-again", "dropped", "input")
    names = [f"{kind}{n}.bin" for kind in kinds for n in range(2)]
    with FaultyOrigin(default=good, resource=BODY) as origin, FaultyOrigin(host="127.0.0.2") as gone:
        gone.down()
        urls = {name: origin.url(name) for name in names}
        bulk.write_list({**urls, "refused.bin": gone.url("refused.bin")})
        settings = {
            "DOWNLOADER_MIDDLEWARES": '{"meddlers.OfSome": 950}',
            "SPIDER_MIDDLEWARES": '{"meddlers.Drops": 10, "meddlers.Raises": 20}',
            "BULK_ORIGIN_PATIENCE": "1",
        }
        # Not run(): who raises may well be shown with a traceback.
        ended = bulk.wait(bulk.start(settings=settings), timeout=40)
        assert sorted(row["name"] for row in ended.rows) == sorted([*names, "refused.bin"])
        assert ended.status == 3, ended.log
        found = codes(ended)
        for kind, code in {"fine": None, "raises": "middleware", "answers": "middleware", "ignores": "ignored", "dropped": "dropped"}.items():  # fmt: skip
            assert {found[f"{kind}{n}.bin"] for n in range(2)} == {code}, kind
        for name in names:
            row = ended.row(name)
            assert row["status"] in ("complete", "failed")
            assert (bulk.output / name).exists() == (row["status"] == "complete")
            if row["status"] == "complete":
                assert ended.file(name) == BODY
            else:
                assert row["error"]["message"]
        assert len(origin.requests) <= 4 * len(names)
        # Without the meddlers everything is there.
        bulk.write_list(urls)
        again = bulk.run()
        assert again.status == 0, again.log
        assert all(again.file(name) == BODY for name in names)


def test_a_request_that_a_middleware_replaces_by_another_one_does_not_hang_the_run(bulk: Bulk) -> None:
    (bulk.folder / "meddlers.py").write_text(MEDDLERS)
    with FaultyOrigin(default=good, resource=BODY) as origin:
        bulk.write_list({name: origin.url(name) for name in ("elsewhere.bin", "fine.bin")})
        process = bulk.start(settings={"DOWNLOADER_MIDDLEWARES": '{"meddlers.OfSome": 950}'})
        ended = bulk.wait(process)
        assert sorted(codes(ended)) == ["elsewhere.bin", "fine.bin"]
        assert ended.file("fine.bin") == BODY
        assert ended.status == 3, ended.log
