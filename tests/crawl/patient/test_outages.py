"""An origin that is down: how long it is waited for, and that the others go on."""

from __future__ import annotations

from support.crawl import Bulk, Ended
from support.faults import (
    trickle,
)
from support.faulty import FaultyOrigin, good, make_body

BODY = make_body(300_000)


def codes(ended: Ended) -> dict[str, str | None]:
    return {row["name"]: row["error"] and row["error"]["code"] for row in ended.rows}


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
