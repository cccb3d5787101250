"""However a crawl is stopped, its items are those of Scrapy's own FilesPipeline, with the same files; and what had no time
is visited again, or named. Side by side with stock on the same site."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.faults import status
from support.faulty import Exchange, FaultyOrigin, correct, good, make_body
from support.holding import size_of, stall_until
from support.project import PAGE, Project, stat

BODY = make_body(200_000)
HALF = 100_000
STOCK = "scrapy.pipelines.files.FilesPipeline"
SPIDER = """
    start_urls = ()
    ends = ""

    async def start(self):
        for number in range(3):
            yield scrapy.Request(f"{self.site}/page-{number}.html")
        yield scrapy.Request(f"{self.site}/last.html", callback=self.last)

    def parse(self, response):
        number = response.url[-6]
        yield {"page": number, "file_urls": [f"{self.site}/{number}-{name}.bin" for name in "ab"]}

    def last(self, response):
        if self.ends == "raised":
            raise CloseSpider("enough")
        yield {"page": "last", "file_urls": []}
"""


def keys(items: list[Any]) -> list[Any]:
    """What stock tells of each item; in no order."""
    told = [
        (item["page"], [[file[key] for key in ("url", "path", "checksum", "status")] for file in item["files"]])
        for item in items
    ]
    return sorted(told)


class Site:
    """Three pages with two files each. The files are half sent, and go on when the crawl's log says so."""

    def __init__(self, origin: FaultyOrigin, project: Project, goes_on: str) -> None:
        self.origin, self.project, self.goes_on = origin, project, goes_on
        self.url = origin.url("").rstrip("/")
        self.log = project.folder / "crawl.log"
        self.halves = 0
        for number in range(3):
            origin.add(f"page-{number}.html", status(200, body=PAGE % b""))
            for name in "ab":
                origin.add(f"{number}-{name}.bin", self._half)
        origin.add("last.html", self._late)

    def _half(self, exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[:HALF])
        self.halves += 1
        stall_until(exchange, lambda: self.goes_on in self.told())
        exchange.send(reply.body[HALF:])

    def _late(self, exchange: Exchange) -> None:
        stall_until(exchange, lambda: self.halves >= 6)
        status(200, body=PAGE % b"")(exchange)

    def told(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def start(self, *arguments: str, **settings: Any) -> subprocess.Popen[str]:
        self.log.unlink(missing_ok=True)
        common = {"LOG_FILE": "crawl.log", "CONCURRENT_REQUESTS": 20, "CONCURRENT_REQUESTS_PER_DOMAIN": 20}
        quiet = {"BULK_STALL_TIMEOUT": 60, "BULK_HEADERS_TIMEOUT": 60, "DOWNLOAD_TIMEOUT": 60}
        return self.project.start(self.url, *arguments, **common, **quiet, **settings)

    def until(self, happened: Callable[[], bool]) -> None:
        ends = time.monotonic() + 60
        while not happened():
            assert time.monotonic() < ends, self.told()
            time.sleep(0.02)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "shop")
    project.write_spider(SPIDER)
    project.settings |= {"ITEM_PIPELINES": {STOCK: 1}}
    return project


STOPS: dict[str, tuple[signal.Signals | None, str, dict[str, Any]]] = {
    "ctrl-c": (signal.SIGINT, "", {}),
    "term-with-jobdir": (signal.SIGTERM, "", {"JOBDIR": True}),
    "itemcount": (None, "", {"CLOSESPIDER_ITEMCOUNT": 1}),
    "raised": (None, "raised", {}),
}


@pytest.mark.parametrize("stop", STOPS)
def test_items_and_files_are_those_of_stock_after_every_kind_of_stop(project: Project, stop: str) -> None:
    number, ends, settings = STOPS[stop]
    told = {}
    with FaultyOrigin(default=good, resource=BODY) as origin:
        for who, goes_on, addons in (
            ("stock", "Closing spider", {}),
            ("ours", "The crawl is about to end: the files of 3 items", {"bulkspider.Addon": 500}),
        ):
            here = {**settings, "JOBDIR": f"job-{who}"} if "JOBDIR" in settings else settings
            site = Site(origin, project, goes_on)
            process = site.start("-a", f"ends={ends}", ADDONS=addons, FILES_STORE=who, **here)
            if number is not None:
                site.until(lambda site=site: site.halves >= 6)  # type: ignore[misc]
                process.send_signal(number)
            told[who] = keys(project.wait(process))
            assert len([page for page, files in told[who] if len(files) == 2]) == 3, site.told()
            log = site.told()
            assert "Traceback" not in log
            files = [path for path in (project.folder / who / "full").iterdir() if path.is_file()]
            assert [path.read_bytes() == BODY for path in files] == [True] * 6
        assert told["ours"] == told["stock"]
        assert stat(log, "bulk/files/complete") == 6


@pytest.mark.parametrize("how", ["patience", "second-signal"])
def test_what_had_no_time_is_not_exported_and_its_page_is_visited_again_with_jobdir(project: Project, how: str) -> None:
    settings = {"FILES_STORE": "files", "BULK_STOP_PATIENCE": 1 if how == "patience" else 60}
    with FaultyOrigin(default=good, resource=BODY) as origin:
        site = Site(origin, project, "never")
        parts = project.folder / "files" / "full"
        for jobdir in ({}, {"JOBDIR": "job"}):
            site.halves = 0
            process = site.start(**settings, **jobdir)
            site.until(lambda: site.halves >= 6 and len([p for p in parts.glob("*.part") if size_of(p) >= HALF]) == 6)
            process.send_signal(signal.SIGINT)
            if how == "second-signal":
                site.until(lambda: "The crawl is about to end" in site.told())
                process.send_signal(signal.SIGINT)
            items = project.wait(process)
            log = site.told()
            assert [item["page"] for item in items if item["page"] != "last"] == [], log
            assert "Traceback" not in log
            assert stat(log, "bulk/files/interrupted") == 6
            assert ("finish_reason': 'shutdown'") in log
            named = [line for line in log.splitlines() if " ERROR: An item is not exported" in line]
            assert len(named) == (0 if jobdir else 3)
            assert all("page-" in line for line in named)
        # The next run of the same job visits the pages again, and goes on with the files.
        begun = {path.stem for path in parts.glob("*.part")}
        assert len(begun) == 6
        site.goes_on = ""
        items = [item for item in project.wait(site.start(JOBDIR="job", FILES_STORE="files")) if item["page"] != "last"]
        assert sorted(item["page"] for item in items) == ["0", "1", "2"], site.told()
        files = [file for item in items for file in item["files"]]
        assert len(files) == 6
        assert all(file["resumed_from"] >= HALF for file in files), json.dumps(files)
        assert all((parts.parent / file["path"]).read_bytes() == BODY for file in files)
