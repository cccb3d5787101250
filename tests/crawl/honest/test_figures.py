"""What a run says about itself is so: what was on disk, what was fetched, how many at once, how long it waited."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkspider.protocol.ranges import Ranges
from bulkspider.protocol.resumed import Resumed
from support.crawl import Bulk, Ended
from support.faults import as_if, changes_after, ignores_range, silent, status
from support.faulty import Exchange, FaultyOrigin, good, make_body
from support.holding import Holds
from support.page import data_of
from support.project import stat

KIB = 1024
OVERLAP = 64 * KIB
BODY = make_body(1024 * KIB)
HELD = 600 * KIB


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=6),
    st.integers(0, 60),
    st.integers(0, 60),
)
def test_bytes_are_taken_out_of_ranges(intervals: list[tuple[int, int]], first: int, end: int) -> None:
    ranges = Ranges((a, b) for a, b in intervals if a < b)
    expected = {n for a, b in ranges for n in range(a, b)} - set(range(first, end))
    ranges.remove(first, end)
    assert {n for a, b in ranges for n in range(a, b)} == expected
    assert all(a < b for a, b in ranges)


def test_the_account_of_one_file() -> None:
    account = Resumed()
    assert not account.is_known
    account.found([(0, 500)])
    assert (account.start, account.uncounted()) == (500, 500)
    account.was_sent(400, 900, joins_at=500)  # a Range that compares the join
    assert (account.start, account.uncounted()) == (500, -100)
    account.was_sent(0, 200, joins_at=0)  # then all of it, from a server that forgot what ranges are
    assert (account.start, account.uncounted()) == (300, -200)
    account.begins_anew()
    assert (account.start, account.uncounted()) == (0, -200)
    account.found([(0, 500)], [(0, 100), (400, 500)])
    assert (account.start, account.uncounted()) == (500, 300)


def interrupted(bulk: Bulk, origin: FaultyOrigin) -> None:
    """The first run got HELD bytes of it."""
    held = Holds(HELD, bulk.output / "a.bin.part")
    origin.add("a.bin", held.behaviour())
    process = bulk.start(settings={"BULK_STALL_TIMEOUT": "60"})
    held.wait()
    process.terminate()
    bulk.wait(process)


def run(bulk: Bulk, *arguments: str, **settings: str) -> Ended:
    return bulk.run(*arguments, settings={"STATS_DUMP": "True", **settings})


def told(ended: Ended) -> tuple[int, int]:
    """(bytes received, bytes that were not fetched again), and the summary tells the same."""
    resumed = stat(ended.log, "bulk/bytes_resumed") if "'bulk/bytes_resumed'" in ended.log else 0
    assert ("were not fetched again" in ended.log) == (resumed > 0)
    return stat(ended.log, "bulk/bytes_received"), resumed


@pytest.mark.parametrize(
    ("then", "row", "stats"),
    [
        pytest.param(good, HELD, (len(BODY) - HELD + OVERLAP, HELD - OVERLAP), id="continued"),
        pytest.param(ignores_range(), 0, (len(BODY), 0), id="no-ranges"),
        pytest.param(as_if(accept_ranges=False), 0, (len(BODY), 0), id="says-no-ranges"),
        pytest.param(changes_after(0, make_body(len(BODY), "other")), 0, (len(BODY), 0), id="changed"),
        pytest.param(status(404), HELD, (97, HELD), id="gone"),
    ],
)
def test_what_was_on_disk_counts_only_where_it_was_not_sent_again(
    bulk: Bulk, then: object, row: int, stats: tuple[int, int]
) -> None:
    with FaultyOrigin(resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        interrupted(bulk, origin)
        origin.add("a.bin", then)  # type: ignore[arg-type]
        ended = run(bulk)
        assert ended.row("a.bin")["resumed_from"] == row, ended.log
        received, resumed = told(ended)
        sent = sum(request.bytes_sent for request in origin.requests[1:])
        assert resumed == stats[1]
        if row == 0 or then is good:
            assert received == stats[0]
        assert received <= sent + 300_000, "no more than the server has sent, an answer that was cut off aside"


@pytest.mark.parametrize("whole", [False, True], ids=["part", "whole"])
def test_samples_of_another_tools_file_are_fetched(bulk: Bulk, whole: bool) -> None:
    held = len(BODY) if whole else HELD
    with FaultyOrigin({"a.bin": good}, resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        bulk.output.mkdir()
        (bulk.output / "a.bin").write_bytes(BODY[:held])
        ended = run(bulk)
        assert ended.status == 0, ended.log
        received, resumed = told(ended)
        assert ended.row("a.bin")["resumed_from"] == held
        assert ended.row("a.bin")["bytes_received"] == received == sum(r.bytes_sent for r in origin.requests)
        assert resumed == held - 4 * OVERLAP


def test_bytes_that_a_hash_refuted_saved_nothing(bulk: Bulk) -> None:
    with FaultyOrigin(resource=BODY) as origin:
        right = hashlib.sha256(BODY).hexdigest()
        bulk.write_list([f"a.bin {origin.url('a.bin')} sha256={right}"])
        interrupted(bulk, origin)
        origin.add("a.bin", good)
        part = bulk.output / "a.bin.part"
        with part.open("r+b") as file:
            file.write(b"damaged on the disk")
        ended = run(bulk)
        assert ended.status == 0, ended.log
        assert ended.row("a.bin")["resumed_from"] == 0
        assert told(ended)[1] == 0


def test_nothing_is_active_at_the_end(bulk: Bulk) -> None:
    with FaultyOrigin({f"{n}.bin": good for n in range(12)}, resource=make_body(3 << 20)) as origin:
        bulk.write_list({f"{n}.bin": origin.url(f"{n}.bin") for n in range(12)})
        ended = run(bulk, "-a", f"report={bulk.folder / 'run.html'}", CONCURRENT_REQUESTS_PER_DOMAIN="3")
        assert ended.status == 0
        assert stat(ended.log, "bulk/active") == 0
        data = data_of((bulk.folder / "run.html").read_text(encoding="utf-8"))
        assert 1 <= data["atOnce"] <= 3, "as many as may be, however the times of the rows overlap"


def test_an_empty_file_does_not_make_a_host_one_without_ranges(bulk: Bulk, tmp_path: Path) -> None:
    with FaultyOrigin({"a.bin": good, "none.bin": (good, b""), "odd.bin": (ignores_range(), b"")}) as origin:
        path = bulk.write_list({name: origin.url(name) for name in ("a.bin", "none.bin", "odd.bin")})
        command = [sys.executable, "-m", "scrapy", "bulk", str(path), "-o", str(tmp_path / "o"), "--dry-run"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert "3 to fetch" in done.stdout
        assert "NO RANGES" not in done.stdout


class Silent:
    """Accepts connections and never answers; remembers when each was begun and ended."""

    def __enter__(self) -> Silent:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.lasted: list[float] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        try:
            while True:
                connection, _ = self._socket.accept()
                began = time.monotonic()
                with contextlib.suppress(ConnectionError), connection:
                    while connection.recv(4096):
                        pass
                self.lasted.append(time.monotonic() - began)
        except OSError:
            pass


def test_the_wait_for_a_head_is_not_lengthened_by_the_time_for_a_connection(bulk: Bulk) -> None:
    with Silent() as server:
        bulk.write_list({"a.bin": f"http://127.0.0.1:{server.port}/a.bin"})
        settings = {"BULK_CONNECT_TIMEOUT": "60", "BULK_HEADERS_TIMEOUT": "1", "BULK_ORIGIN_PATIENCE": "1"}
        ended = bulk.run(settings=settings, timeout=50)
        assert "no answer within BULK_HEADERS_TIMEOUT" in ended.row("a.bin")["error"]["message"], ended.log
        assert server.lasted
        assert min(server.lasted) >= 0.9


def test_a_url_that_never_answers_is_no_outage_of_a_host_that_serves_others(bulk: Bulk) -> None:
    with FaultyOrigin({"a.bin": silent()}, default=good, resource=BODY) as origin:
        bulk.write_list({name: origin.url(name) for name in ("b.bin", "a.bin", "c.bin")})
        ended = bulk.run(settings={"BULK_HEADERS_TIMEOUT": "1", "BULK_RETRY_TIMES": "1"})
        assert {row["name"]: row["error"] and row["error"]["code"] for row in ended.rows} == {
            "a.bin": "headers_timeout",
            "b.bin": None,
            "c.bin": None,
        }


def test_a_head_may_take_longer_than_a_connection(bulk: Bulk) -> None:
    def slow(exchange: Exchange) -> None:
        waited.wait(3)
        good(exchange)

    waited = threading.Event()
    with FaultyOrigin({"a.bin": slow}, resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings={"BULK_CONNECT_TIMEOUT": "1", "BULK_HEADERS_TIMEOUT": "20"})
        assert (ended.status, ended.row("a.bin")["attempts"]) == (0, 1), ended.log
