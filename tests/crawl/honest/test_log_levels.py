"""What `-L` lets through: failures and stops are errors, what leaves something to do is a warning."""

from __future__ import annotations

import re
import signal

import pytest

from support.crawl import Bulk
from support.faults import status
from support.faulty import FaultyOrigin, good, make_body
from support.holding import Holds

BODY = make_body(40_000)
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


def written(log: str) -> list[str]:
    """The records of a log, each without its date, which each has. Scrapy's own at INFO have several lines."""
    lines = [line for line in log.splitlines() if not line.startswith(("{", "[", " "))]
    for line in lines:
        assert re.match(STAMP, line), f"no date: {line}"
    return [re.sub(STAMP, "", line) for line in lines]


@pytest.mark.parametrize("level", ["ERROR", "WARNING", "INFO"])
def test_a_run_with_failures(bulk: Bulk, level: str) -> None:
    with FaultyOrigin({"a.bin": good, "b.bin": status(404), "c.bin": status(403)}, resource=BODY) as origin:
        bulk.write_list({name: origin.url(name) for name in ("a.bin", "b.bin", "c.bin")})
        ended = bulk.run("-L", level)
        assert ended.status == 4
        lines = written(ended.log)
        failures = {line for line in lines if line.startswith("ERROR: ")}
        assert failures == {
            "ERROR: failed b.bin: the origin answered 404 [http_404]",
            "ERROR: failed c.bin: the origin answered 403 [http_403]",
        }
        if level == "ERROR":
            assert len(lines) == len(failures), lines
            return
        assert "WARNING: 3 entries: 1 complete, 2 failed" in lines
        assert "WARNING: failed: b.bin: the origin answered 404 [http_404]" in lines
        assert "WARNING:   what to do: correct the URL in the list" in lines
        assert any(line.startswith("INFO: ") for line in lines) == (level == "INFO")


@pytest.mark.parametrize(("level", "lines"), [("WARNING", []), ("INFO", ["INFO: 1 entry: 1 complete"])])
def test_a_run_without(bulk: Bulk, level: str, lines: list[str]) -> None:
    with FaultyOrigin({"a.bin": good}, resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run("-L", level)
        assert ended.status == 0
        assert [line for line in written(ended.log) if "1 entry: " in line] == lines
        assert level == "INFO" or ended.log == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop(bulk: Bulk, number: signal.Signals, code: int) -> None:
    half = Holds(20_000, bulk.output / "a.bin.part")
    with FaultyOrigin({"a.bin": half.behaviour()}, resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        process = bulk.start("-L", "ERROR", settings={"BULK_STALL_TIMEOUT": "60"})
        half.wait()
        process.send_signal(number)
        ended = bulk.wait(process)
        assert ended.status == code
        assert written(ended.log) == [f"ERROR: Stopping ({number.name}): transfers end now, every byte is kept"]


def test_a_verify_with_failures(bulk: Bulk) -> None:
    with FaultyOrigin({"a.bin": good}, resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run("-L", "ERROR", "-a", "verify=1")
        assert ended.status == 3
        assert written(ended.log) == ["ERROR: failed a.bin: the file is not there; run without verify [missing]"]
