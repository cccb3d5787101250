"""Threads that cannot be started, that end, and calls that never come back: a clear end, every byte kept, no waiting.

The threads are broken by `sabotage/sitecustomize.py`, in the crawl's process, since no limit of the system binds root.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.crawl import Bulk, Ended
from support.faulty import FaultyOrigin, good, make_body
from support.project import Project

SABOTAGE = Path(__file__).parents[2] / "support" / "sabotage"
# Large enough that a thread takes its socket, and flushed on its way.
BIG = make_body(6_000_000, "big")
SMALL = make_body(50_000, "small")
FLUSHED = {"BULK_CHECKPOINT": "1M"}


@pytest.fixture
def broken(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a crawl of which the sabotage says what is broken, and then the same without it, which must succeed."""

    def run(sabotage: Mapping[str, Any], *arguments: str, settings: Mapping[str, str] | None = None) -> Ended:
        log = bulk.folder / "sabotage.log"
        with monkeypatch.context() as environment:
            environment.setenv("PYTHONPATH", str(SABOTAGE))
            environment.setenv("SABOTAGE", json.dumps(sabotage))
            environment.setenv("SABOTAGE_LOG", str(log))
            ended = bulk.run(*arguments, settings=settings, timeout=40)
        assert log.exists(), f"nothing was broken\n{ended.log}"
        return ended

    return run


def whole(ended: Ended, bodies: Mapping[str, bytes]) -> None:
    for name, body in bodies.items():
        assert hashlib.sha256(ended.file(name)).digest() == hashlib.sha256(body).digest(), name


WORKING = {
    "mover": ({"refuse": "bulk-move"}, "no_thread"),
    "disk": ({"refuse": "bulk-disk"}, "no_thread"),
    "hasher": ({"refuse": "bulk-hash"}, "no_thread"),
    "flusher": ({"refuse": "bulk-flush"}, "no_thread"),
    "committer": ({"refuse": "bulk-commit"}, "no_thread"),
    "the third": ({"refuse": "bulk-", "after": 2}, "no_thread"),
    "mover ends": ({"raise": {"bulkspider.pumps.splice:DirectPump.move_some": "Ended"}}, "thread_died"),
    "no memory to move": ({"raise": {"bulkspider.pumps.splice:DirectPump.move_some": "MemoryError"}}, "no_memory"),
    "hasher ends": ({"raise": {"bulkspider.disk.finished.hashing:IncrementalHasher.follow": "Ended"}}, "thread_died"),
    "flusher ends": ({"raise": {"bulkspider.disk.files.checkpoints:Checkpoints.checkpoint": "Ended"}}, "thread_died"),
    "committer ends": ({"raise": {"bulkspider.disk.commit.committer:publish": "Ended"}}, "thread_died"),
    "committer ends between two files": (
        {"raise": {"bulkspider.disk.commit.committer:Committer.commit_submitted": "Ended"}},
        "thread_died",
    ),
}


@pytest.mark.parametrize(("sabotage", "code"), WORKING.values(), ids=WORKING)
def test_a_working_thread_that_fails_ends_the_run_of_a_list(bulk: Bulk, broken: Any, sabotage: Any, code: str) -> None:
    digest = hashlib.sha256(BIG).hexdigest()
    with FaultyOrigin({"big.bin": (good, BIG)}, default=good, resource=SMALL) as origin:
        names = [f"small{number}.bin" for number in range(6)]
        bulk.write_list(
            [f"big.bin {origin.url('big.bin')} sha256={digest}", *(f"{name} {origin.url(name)}" for name in names)]
        )
        ended = broken(sabotage, settings=FLUSHED)
        assert ended.status == 3, ended.log
        stops = [line for line in ended.log.splitlines() if "Stopping: " in line]
        assert len(stops) == 1, ended.log
        assert "thread" in stops[0] or "memory" in stops[0]
        assert code in {row["error"]["code"] for row in ended.rows if row["error"]}
        part = bulk.output / "big.bin.part"
        kept = part.stat().st_size if part.exists() else 0
        if kept:
            assert BIG.startswith(part.read_bytes())

        again = bulk.run(settings=FLUSHED)
        assert again.status == 0, again.log
        whole(again, {"big.bin": BIG, **dict.fromkeys(names, SMALL)})


@pytest.mark.parametrize("what", ["mover", "disk", "committer", "mover ends", "flusher ends", "committer ends"])
def test_in_another_project_it_fails_its_files_and_the_crawl_goes_on(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path / "shop")
    project.write_spider(
        """
    async def start(self):
        yield scrapy.Request(self.site + "page", callback=self.parse)

    def parse(self, response):
        yield {"file_urls": [self.site + "big.bin", self.site + "small.bin"]}
        for number in range(3):
            yield scrapy.Request(self.site + f"page{number}", callback=self.parse_last)

    def parse_last(self, response):
        yield {"page": response.url}
"""
    )
    with FaultyOrigin({"big.bin": (good, BIG)}, default=good, resource=SMALL) as origin:
        monkeypatch.setenv("PYTHONPATH", str(SABOTAGE))
        monkeypatch.setenv("SABOTAGE", json.dumps(WORKING[what][0]))
        monkeypatch.setenv("SABOTAGE_LOG", str(tmp_path / "sabotage.log"))
        items = project.crawl(
            origin.url(""),
            ITEM_PIPELINES={"scrapy.pipelines.files.FilesPipeline": 1},
            FILES_STORE=str(tmp_path / "files"),
            BULK_DIGEST="sha256",
            BULK_CHECKPOINT="1M",
        )
    assert sum("page" in item for item in items) == 3
    (files,) = [item["files"] for item in items if "file_urls" in item]
    assert len(files) <= 1, project.log
    for path in (tmp_path / "files").rglob("*.bin"):
        assert path.read_bytes() in (BIG, SMALL)


HANGS = {
    "mover": "bulkspider.pumps.splice:DirectPump.move_some",
    "committer": "bulkspider.disk.commit.committer:publish",
    "flusher": "bulkspider.disk.files.checkpoints:Checkpoints.checkpoint",
    "disk": "bulkspider.disk.part:Part.open",
}


def hang(bulk: Bulk, monkeypatch: pytest.MonkeyPatch, call: str, **more: Any) -> subprocess.Popen[str]:
    """A crawl in which this call never comes back; it has come to it."""
    log = bulk.folder / "sabotage.log"
    with monkeypatch.context() as environment:
        environment.setenv("PYTHONPATH", str(SABOTAGE))
        environment.setenv("SABOTAGE", json.dumps({"hang": call, **more}))
        environment.setenv("SABOTAGE_LOG", str(log))
        process = bulk.start(settings=FLUSHED)
    wait_until(log.exists)
    return process


@pytest.mark.parametrize("call", HANGS.values(), ids=HANGS)
def test_ctrl_c_is_obeyed_while_a_thread_hangs(bulk: Bulk, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    bulk.output.mkdir()
    (bulk.output / "big.bin.part").write_bytes(BIG[:1_000_000])
    with FaultyOrigin({"big.bin": (good, BIG)}) as origin:
        bulk.write_list({"big.bin": origin.url("big.bin")})
        process = hang(bulk, monkeypatch, call, set={"bulkspider.run.run:HANG_SECONDS": 0.5})
        process.send_signal(signal.SIGINT)
        ended = bulk.wait(process, timeout=30)
        assert ended.status == 130, ended.log
        assert "without waiting for it" in ended.log
        again = bulk.run(settings=FLUSHED)
        assert again.status == 0, again.log
        whole(again, {"big.bin": BIG})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_obeyed_while_the_main_thread_hangs(
    bulk: Bulk, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Ctrl-C is pressed again and again; SIGTERM comes once, as from a service manager."""
    with FaultyOrigin({"big.bin": (good, BIG)}) as origin:
        bulk.write_list({"big.bin": origin.url("big.bin")})
        process = hang(
            bulk,
            monkeypatch,
            "bulkspider.run.downloads:Downloads.fits",
            set={} if number == signal.SIGINT else {"bulkspider.commands.process:END_SECONDS": 0.5},
        )
        process.send_signal(number)
        while number == signal.SIGINT and process.poll() is None:
            # Two that come at once count as one.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
            process.send_signal(number)
        ended = bulk.wait(process, timeout=30)
        assert ended.status == 128 + number, ended.log
        assert "does not answer" in ended.log
        again = bulk.run()
        assert again.status == 0, again.log
        whole(again, {"big.bin": BIG})


def wait_until(happened: Any) -> None:
    ends = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < ends
        time.sleep(0.01)


WATCHING = {
    "display": ({"refuse": "bulk-terminal"}, "There is no live display"),
    "display ends": (
        {"raise": {"bulkspider.reporting.terminal:Terminal.draw_frame": "MemoryError"}},
        "The live display has",
    ),
    "metrics": ({"refuse": "bulk-metrics"}, "There are no metrics"),
    "metrics end": (
        {"raise": {"bulkspider.reporting.metricserver:MetricServer.serve_forever": "RuntimeError"}},
        "The metrics are not served any more",
    ),
    "page": (
        {
            "raise": {"bulkspider.reporting.page.report:page": "RuntimeError"},
            "set": {"bulkspider.reporting.page.report:WRITE_INTERVAL_SECONDS": 0.05},
        },
        "The report is not written during the run",
    ),
}


@pytest.mark.parametrize(("sabotage", "sentence"), WATCHING.values(), ids=WATCHING)
def test_a_thread_that_only_tells_of_the_run_is_missed_once_and_the_run_goes_on(
    bulk: Bulk, broken: Any, sabotage: Any, sentence: str
) -> None:
    with FaultyOrigin({"big.bin": (good, BIG)}, default=good, resource=SMALL) as origin, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        names = [f"small{number}.bin" for number in range(6)]
        bulk.write_list({"big.bin": origin.url("big.bin"), **{name: origin.url(name) for name in names}})
        ended = broken(
            sabotage,
            *("-a", f"report={bulk.folder / 'page.html'}"),
            # Slow enough that a page is due several times.
            settings={"BULK_PROGRESS": "bar", "BULK_METRICS_PORT": str(port), "BULK_RATE_LIMIT": "6M"},
        )
        assert ended.status == 0, ended.log
        assert ended.log.count(sentence) == 1, ended.log
        assert "7 complete" in ended.log
        whole(ended, {"big.bin": BIG, **dict.fromkeys(names, SMALL)})
