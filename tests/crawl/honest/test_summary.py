"""The summary: what it keeps of each outcome, and what it says."""

from __future__ import annotations

import shlex
import sys

import pytest

from bulkspider.codes import TABLE, cure
from bulkspider.items import BulkItem
from bulkspider.options import clock
from bulkspider.reporting.summary import MAX_NAMED, Tally, command_line, duration
from support.crawl import Bulk
from support.faulty import FaultyOrigin, good, make_body, not_found

MIB = 1 << 20


def failed(name: str, code: str = "http_404", message: str = "the origin answered 404") -> BulkItem:
    return BulkItem(name=name, status="failed", broken=1, error={"code": code, "message": message})


def fetched(name: str, speed: int, broken: int = 0) -> BulkItem:
    return BulkItem(name=name, status="complete", bytes_received=10 * speed, seconds=10.0, broken=broken)


def test_few_failures_are_all_named_and_many_are_sampled_for_each_reason() -> None:
    tally = Tally()
    for n in range(MAX_NAMED):
        tally.take(failed(f"{n}.bin"))
    ((code, count, named),) = tally.reasons()
    assert (code, count, [name for name, _ in named]) == ("http_404", MAX_NAMED, [f"{n}.bin" for n in range(MAX_NAMED)])
    for n in range(1000):
        tally.take(failed(f"{n}.iso", "stall", "no byte for 60 s"))
    (stall, missing) = tally.reasons()
    assert (stall[0], stall[1], len(stall[2])) == ("stall", 1000, MAX_NAMED // 2)
    assert (missing[0], missing[1], len(missing[2])) == ("http_404", MAX_NAMED, MAX_NAMED // 2)


def test_the_slowest_and_the_most_retried() -> None:
    tally = Tally()
    for n in range(3):
        tally.take(fetched(f"{n}.bin", (n + 1) * MIB))
    assert tally.slowest == [], "three of three are not the slowest"
    for n in range(3, 9):
        tally.take(fetched(f"{n}.bin", (n + 1) * MIB, broken=n))
    alike = Tally()
    for n in range(9):
        alike.take(fetched(f"{n}.bin", (20 + n) * MIB))
    assert alike.slowest == [], "all about as fast as the others"
    tally.take(BulkItem(name="tiny", status="complete", bytes_received=10, seconds=1.0))
    assert tally.slowest == [("0.bin", MIB), ("1.bin", 2 * MIB), ("2.bin", 3 * MIB)]
    assert tally.most_retried == [("8.bin", 8), ("7.bin", 7), ("6.bin", 6)]
    alike.take(failed("gone.bin"))
    alike.take(BulkItem(name="never/begun", status="failed", error={"code": "bad_line", "message": "x"}))
    assert alike.most_retried == [], "an error that ended it is no retry"


def test_every_error_of_an_entry_has_its_cure() -> None:
    assert [code for code in TABLE if not cure(code)] == []
    assert {cure(f"http_{status}") for status in (404, 410)} == {"correct the URL in the list"}
    assert {cure(f"http_{status}") for status in (202, 400, 405, 413, 416, 451, 501)} == {""}, "nobody knows"
    assert "credentials" in cure("http_403")
    assert cure("http_403", host_works=True) == "", "whoever is served lacks no credentials"
    assert "credentials" in cure("http_401")
    assert {cure(f"http_{status}") for status in (421, 503)} == {"run the same again later"}
    assert cure("no such code") == ""


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        (["/x/python", "/x/bin/scrapy", "bulk", "my list.txt"], "/x/bin/scrapy bulk 'my list.txt'"),
        (
            ["/x/python", "-m", "scrapy", "crawl", "bulk", "-a", "list=$x"],
            "/x/python -m scrapy crawl bulk -a 'list=$x'",
        ),
        (["/x/python", "run.py"], "/x/python run.py"),
        (
            ["/x/python", ".venv/bin/scrapy", "bulk", "https://me:pw@h/x?sig=abc", "-s", "HTTPAUTH_PASS=hunter2"],
            ".venv/bin/scrapy bulk 'https://***@h/x?sig=***' -s 'HTTPAUTH_PASS=***'",
        ),
    ],
)
def test_the_command_to_go_on_is_what_was_typed(monkeypatch: pytest.MonkeyPatch, typed: list[str], shown: str) -> None:
    monkeypatch.setattr(sys, "orig_argv", typed)
    assert command_line() == shown
    if "***" not in shown:
        assert shlex.split(shown)[-2:] == typed[-2:]


def test_a_command_found_by_its_name_is_shown_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", "/usr/bin/scrapy", "bulk", "l.txt"])
    assert command_line() == "scrapy bulk l.txt"


def test_times() -> None:
    times = (0.04, 59.4, 61, 3661, 90_061)
    assert [duration(seconds) for seconds in times] == ["0.0 s", "59.4 s", "1:01", "1:01:01", "1 d 01:01"]
    assert clock(7.2) == "0:07"


def test_the_summary_of_a_run(bulk: Bulk) -> None:
    body = make_body(2 * MIB)
    with FaultyOrigin(default=not_found, resource=body) as origin:
        names = [f"{n}.bin" for n in range(5)]
        for name in names:
            origin.add(name, good, body)
        bulk.write_list({name: origin.url(name) for name in [*names, *(f"gone/{n}" for n in range(25))]})
        ended = bulk.run()
        assert ended.status == 4, ended.log
        assert "30 entries: 5 complete, 25 failed" in ended.log
        assert "10.0 MiB fetched in " in ended.log
        assert "failed: gone/0: the origin answered 404 [http_404]" in ended.log
        assert f"failed: … and {25 - MAX_NAMED} more [http_404]" in ended.log
        assert "  what to do: correct the URL in the list" in ended.log
        assert "to go on" not in ended.log, "the same again cannot help"

        again = bulk.run()
        assert "5 of them were done by an earlier run: nothing was asked for" in again.log
        one = bulk.run("-a", "limit=1")
        assert "1 of them was done by an earlier run: nothing was asked for" in one.log
