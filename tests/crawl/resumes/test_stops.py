"""A stop, by signal or by Scrapy: soon, and everything that was received is kept."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest

from support.crawl import Bulk, Ended
from support.faults import (
    busy,
    silent,
    stall_after,
    trickle,
)
from support.faulty import Behaviour, Exchange, FaultyOrigin, good, make_body
from support.holding import Holds

BODY = make_body(300_000)
HELD = 200_000
UNHURRIED = {"BULK_STALL_TIMEOUT": "60", "BULK_HEADERS_TIMEOUT": "60", "BULK_MIN_SPEED": "0"}


class Busiest:
    """Sixteen transfers under way, each held up in its own manner, and an entry that was told to come back."""

    STALLED, TRICKLING, SILENT = 6, 6, 4

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
        self.names = [*self.table, "waiting.bin"]

    def __enter__(self) -> Busiest:
        self.origin.up()
        self.occupied.up()
        urls = {name: self.origin.url(name) for name in self.table}
        self.bulk.write_list({"waiting.bin": self.occupied.url("waiting.bin"), **urls})
        return self

    def __exit__(self, *_: object) -> None:
        self.origin.__exit__(None, None, None)
        self.occupied.__exit__(None, None, None)

    def start(self, **settings: str) -> subprocess.Popen[str]:
        at_once = {"CONCURRENT_REQUESTS": "16", "CONCURRENT_REQUESTS_PER_DOMAIN": "16"}
        patience = {"BULK_RETRY_AFTER_MAX": "9999", "BULK_ORIGIN_PATIENCE": "9999"}
        process = self.bulk.start(settings={**UNHURRIED, **at_once, **patience, **settings})
        held = {name: HELD if name.startswith("stalled") else 100_000 for name in self.table}
        self.occupied.wait_until(lambda o: len(o.requests) == 1 and all(r.ended for r in o.requests))
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
        self.occupied.add("waiting.bin", good)
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
        assert "17 interrupted" in ended.log
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
        busiest.occupied.add("waiting.bin", good)
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
