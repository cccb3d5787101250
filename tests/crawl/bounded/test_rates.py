"""Rate limits hold over all transfers and for each host, and can be changed while the run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time

from support.crawl import Bulk
from support.faulty import Exchange, FaultyOrigin, good, make_body

MIB = 1024 * 1024
UNHURRIED = {"BULK_STALL_TIMEOUT": "60", "BULK_HEADERS_TIMEOUT": "60", "BULK_MIN_SPEED": "0"}


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
    return 0.35 * limit <= found <= 1.1 * limit


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
        assert 1.1 * 3 * MIB < measured(origin, read) <= 1.1 * 6 * MIB

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


CLOCK = """
import datetime, pathlib
import bulkspider.run.run as run
class Given:
    now = staticmethod(lambda: datetime.datetime.fromisoformat(pathlib.Path("clock").read_text()))
run.datetime = Given
from scrapy.cmdline import execute
execute()
"""


def test_a_timetable_switches_in_the_running_run(bulk: Bulk) -> None:
    body, clock = make_body(4 * MIB), bulk.folder / "clock"
    clock.write_text("2026-11-23 11:59:59")
    with FaultyOrigin(default=good, resource=body) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        table = {**FOUR, "BULK_RATE_LIMIT": "08:00,64K Mon-12:00,off", "BULK_SEGMENTS": "1"}
        python, _, _, *arguments = bulk.command(settings=table)
        process = subprocess.Popen(
            [python, "-c", CLOCK, *arguments],
            cwd=bulk.folder,
            env={**os.environ, "SCRAPY_SETTINGS_MODULE": "bulkspider.settings"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        origin.wait_until(lambda o: len(o.requests) == 1)
        assert not (bulk.output / "a.bin").exists(), "all of it would take a minute"
        new = bulk.folder / "clock.new"
        new.write_text("2026-11-23 12:00:00")
        new.rename(clock)
        ended = bulk.wait(process)
        assert ended.status == 0, ended.log
        assert "BULK_RATE_LIMIT: rate limit none, per host none" in ended.log
        assert ended.file("a.bin") == body
