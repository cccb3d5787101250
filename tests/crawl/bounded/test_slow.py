"""Many slow connections: few threads, a quick stop, and every byte right when they become fast."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from support.crawl import Bulk, sha256
from support.faulty import TRUST, Exchange, FaultyOrigin, make_body

MIB = 1 << 20
MANY = 160
# Threads of the disk, of Scrapy and of those that begin before it is known that they are slow.
FEW_THREADS = 64 + 50
BODY = make_body(5 * MIB, "slow")


def test_slow_connections_share_a_thread_and_a_stop_ends_them(bulk: Bulk) -> None:
    released, begun = threading.Event(), threading.Semaphore(0)

    def trickles(exchange: Exchange) -> None:
        exchange.send_status(200)
        exchange.header("Content-Length", len(BODY))
        exchange.header("ETag", '"v1"')
        exchange.end_headers()
        exchange.send(BODY[:1000])
        begun.release()
        released.wait(90)

    with FaultyOrigin(default=trickles) as origin:
        bulk.write_list({f"{n}.bin": origin.url(f"{n}.bin") for n in range(MANY)})
        patient = {"BULK_STALL_TIMEOUT": "90", "BULK_SEGMENTS": "1"}
        places = {"CONCURRENT_REQUESTS": str(MANY), "CONCURRENT_REQUESTS_PER_DOMAIN": str(MANY)}
        with bulk.start(settings={**patient, **places}) as process:
            for _ in range(MANY):
                assert begun.acquire(timeout=60)
            threads = len(os.listdir(f"/proc/{process.pid}/task"))
            process.send_signal(signal.SIGINT)
            ended = bulk.wait(process)
        released.set()
    assert threads <= FEW_THREADS
    assert ended.status == 130, ended.log
    assert {row["status"] for row in ended.rows} == {"interrupted"}
    assert len(ended.rows) == MANY


@pytest.mark.parametrize("limit", ["", "40K"], ids=["no-limit", "limit"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_body_that_trickles_and_becomes_fast_is_right(bulk: Bulk, tls: bool, limit: str) -> None:
    slow = 90_000

    def behaviour(exchange: Exchange) -> None:
        exchange.send_status(200)
        exchange.header("Content-Length", len(BODY))
        exchange.end_headers()
        exchange.send_slowly(BODY[:slow], 15_000)
        if limit:
            # Nobody waits for so many bytes under the limit: it is lifted when they begin to come.
            (bulk.output / ".bulkspider" / "control.json").write_text('{"rate_limit": null}')
        exchange.send(BODY[slow:])

    with FaultyOrigin(default=behaviour, tls=tls) as origin:
        bulk.write_list([f"{n}.bin {origin.url(f'{n}.bin')} sha256={sha256(BODY)}" for n in range(3)])
        settings = {**TRUST, "BULK_SEGMENTS": "1", "BULK_STALL_TIMEOUT": "60"}
        ended = bulk.run(settings=settings | ({"BULK_RATE_LIMIT": limit} if limit else {}))
    assert ended.status == 0, ended.log
    assert [row["status"] for row in ended.rows] == ["verified"] * 3
    assert [row["attempts"] for row in ended.rows] == [1] * 3
