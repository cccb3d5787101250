"""What others hear: signals for each file, and items that later pipelines see at least once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bulkspider.disk.finished.ledger import Ledger
from bulkspider.disk.finished.line import LedgerLine
from support.crawl import Bulk
from support.faults import in_turn, status
from support.faulty import FaultyOrigin, good, make_body
from support.page import data_of
from support.project import Project

BODY = make_body(20_000)
UNZIP = """
import json, os
from dataclasses import asdict
from scrapy.exceptions import DropItem


class Unzip:
    def process_item(self, item):
        if item.name == os.environ.get("KILL"):
            os.kill(os.getpid(), 9)
        with open("unzipped.jsonl", "a") as file:
            file.write(json.dumps([item.name, item.status, item.already]) + "\\n")
        if item.name == os.environ.get("BREAK"):
            raise ValueError("a bad archive")
        if item.name == "dropped.bin":
            raise DropItem("not wanted")
        return asdict(item) if item.name == "changed.bin" else item
"""
NAMES = ("a.bin", "b.bin", "changed.bin", "dropped.bin", "gone.bin")


def unzipped(folder: Path) -> list[Any]:
    log = folder / "unzipped.jsonl"
    told = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    log.unlink(missing_ok=True)
    return sorted(told)


@pytest.mark.parametrize("reactor", ["asyncio", "select"])
def test_later_pipelines_see_each_item_at_least_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reactor: str
) -> None:
    project = Project(tmp_path / "shop")
    (project.folder / "shop" / "pipelines.py").write_text(UNZIP)
    project.settings |= {"ITEM_PIPELINES": {"shop.pipelines.Unzip": 300}, "CONCURRENT_REQUESTS": 1}
    if reactor == "select":
        project.settings["TWISTED_REACTOR"] = "twisted.internet.selectreactor.SelectReactor"
    with FaultyOrigin(dict.fromkeys(NAMES[:4], good), resource=BODY) as origin:
        lines = "\n".join(["name url", *(f"{name} {origin.url(name)}" for name in NAMES)])
        (project.folder / "list.txt").write_text(lines)
        crawl = ("crawl", "bulk", "-a", "list=list.txt")

        monkeypatch.setenv("KILL", "b.bin")
        project.scrapy(*crawl, status=-9)
        assert ["a.bin", "complete", False] in unzipped(project.folder)
        assert (project.folder / "output" / "list" / "b.bin").read_bytes() == BODY
        asked = len(origin.requests_for("b.bin"))

        # The file is not fetched again, and its item is seen; b breaks now, and is seen once more.
        monkeypatch.delenv("KILL")
        monkeypatch.setenv("BREAK", "b.bin")
        project.scrapy(*crawl)
        seen = unzipped(project.folder)
        assert ["b.bin", "complete", True] in seen
        assert {name for name, *_ in seen} >= set(NAMES[1:])
        assert len(origin.requests_for("b.bin")) == asked

        monkeypatch.delenv("BREAK")
        project.scrapy(*crawl)
        assert [line for line in unzipped(project.folder) if line[1] == "complete"] == [["b.bin", "complete", True]]
        project.scrapy(*crawl)
        assert [name for name, *_ in unzipped(project.folder)] == ["gone.bin"]
        project.scrapy(*crawl, BULK_ITEMS="all")
        assert [name for name, *_ in unzipped(project.folder)] == list(NAMES)


def test_a_report_has_rows_of_earlier_runs_and_pipelines_get_them_as_items(tmp_path: Path) -> None:
    project = Project(tmp_path / "shop")
    (project.folder / "shop" / "pipelines.py").write_text(UNZIP)
    with FaultyOrigin(dict.fromkeys(NAMES[:2], good), resource=BODY) as origin:
        lines = "\n".join(["name url", *(f"{name} {origin.url(name)}" for name in NAMES[:2])])
        (project.folder / "list.txt").write_text(lines)
        crawl = ("crawl", "bulk", "-a", "list=list.txt", "-a", "report=run.html")
        project.scrapy(*crawl)
        for pipelines in ({}, {"shop.pipelines.Unzip": 300}):
            project.settings["ITEM_PIPELINES"] = pipelines
            project.scrapy(*crawl)
            data = data_of((project.folder / "run.html").read_text(encoding="utf-8"))
            assert (data["already"], len(data["rows"]), data["entries"]) == (2, 2, 2)
            seen = [[name, "complete", True] for name in NAMES[:2]]
            assert unzipped(project.folder) == (seen if pipelines else [])


def test_items_of_earlier_runs_come_when_they_are_asked_for(bulk: Bulk) -> None:
    with FaultyOrigin({"a.bin": good}, resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        assert [row["already"] for row in bulk.run().rows] == [False]
        assert [row["already"] for row in bulk.run().rows] == [True]
        assert bulk.run(settings={"BULK_ITEMS": "new"}).rows == []
    ledger = (bulk.output / ".bulkspider" / "ledger.jsonl").read_text()
    assert '"owed"' not in ledger, "nobody comes after BulkPipeline here"


def test_an_acknowledgement_is_the_line_that_counts(tmp_path: Path) -> None:
    line = LedgerLine(
        name="a", key="k", size=1, mtime_ns=1, digests={}, flags=(), status="complete", time=1.0, owed=True
    )
    ledger = Ledger(tmp_path)
    ledger.append([line])
    assert ledger.find("a") == LedgerLine.from_json(line.to_json()) == line
    ledger.acknowledge(["a", "nobody's"])
    found = ledger.find("a")
    assert found is not None
    assert not found.owed
    ledger.acknowledge(["a"])
    again = Ledger(tmp_path)
    again.load()
    assert again.find("a") == found
    assert len(again) == 2
    ledger.close()
    again.close()


SPIDER = """
    async def start(self):
        import bulkspider.signals as ours

        self.told = []
        self.receivers = [self.finished, self.failed_, self.paused]
        connect = self.crawler.signals.connect
        connect(self.finished, ours.bulk_file_finished)
        connect(self.failed_, ours.bulk_file_failed)
        connect(self.paused, ours.bulk_origin_paused)
        yield scrapy.Request("data:,page")

    def parse(self, response):
        yield {"file_urls": [f"{self.site}/{name}.bin" for name in ("a", "gone", "busy")]}
        for name in ("bare", "missing"):
            yield scrapy.Request(f"{self.site}/{name}.bin", meta={"bulk": {"path": name}}, callback=self.got, errback=self.got)

    def got(self, told):
        pass

    def finished(self, result, name, url, spider):
        self.told.append(["finished", url.rpartition("/")[2], result.status, result.ok, result.size])

    def failed_(self, result, name, url, spider):
        self.told.append(["failed", url.rpartition("/")[2], result.error["code"], result.ok, result.size])

    def paused(self, origin, seconds, reason, spider):
        assert seconds > 0 and spider is self
        self.told.append(["paused", origin, reason, None, None])

    def closed(self, reason):
        with open("told.json", "w") as file:
            __import__("json").dump(self.told, file)
"""


def test_signals_tell_what_becomes_of_each_file_and_which_host_is_left_alone(tmp_path: Path) -> None:
    project = Project(tmp_path / "shop")
    project.write_spider(SPIDER)
    project.settings |= {"ITEM_PIPELINES": {"scrapy.pipelines.files.FilesPipeline": 1}, "FILES_STORE": "files"}
    busy = in_turn(status(503, headers={"Retry-After": "1"}), good)
    with FaultyOrigin({"a.bin": good, "bare.bin": good, "busy.bin": busy}, resource=BODY) as origin:
        site = origin.url("").rstrip("/")
        project.crawl(site)
        told = json.loads((project.folder / "told.json").read_text())
        assert sorted(each for each in told if each[0] != "paused") == [
            ["failed", "gone.bin", "http_404", False, None],
            ["failed", "missing.bin", "http_404", False, None],
            ["finished", "a.bin", "complete", True, len(BODY)],
            ["finished", "bare.bin", "complete", True, len(BODY)],
            ["finished", "busy.bin", "complete", True, len(BODY)],
        ], project.log
        paused = [each for each in told if each[0] == "paused"]
        assert paused[0][1] == site.removeprefix("http://")
        assert "503" in paused[0][2]
        assert "Traceback" not in project.log


LIST_SPIDER = """
import json, os

import bulkspider.signals as ours
from bulkspider import BulkSpider


class Mine(BulkSpider):
    name = "mine"
    site = ""

    @classmethod
    def from_crawler(cls, crawler, *args, **kwargs):
        spider = super().from_crawler(crawler, *args, **kwargs)
        for signal in ("bulk_file_finished", "bulk_file_failed", "bulk_origin_paused"):
            crawler.signals.connect(getattr(spider, signal.removeprefix("bulk_")), getattr(ours, signal))
        return spider

    def entries(self):
        for name in ("a.bin", "b.bin", "busy.bin", "gone.bin"):
            yield {"name": name, "url": self.site + "/" + name}

    def tell(self, *told):
        with open("told.jsonl", "a") as file:
            file.write(json.dumps(told) + "\\n")

    def file_finished(self, result, name, url, spider):
        self.tell("finished", name, result.status, result.already)

    def file_failed(self, result, name, url, spider):
        self.tell("failed", name, result.error["code"], result.path is not None)

    def origin_paused(self, origin, seconds, reason, spider):
        self.tell("paused", origin, reason, seconds > 0)

    async def parse_file(self, item):
        if item.name == os.environ.get("KILL"):
            os.kill(os.getpid(), 9)
        self.tell("parsed", item.name, item.status, item.already)
"""


def test_a_list_sends_the_signals_too_and_a_kill_in_parse_file_brings_the_file_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path / "shop")
    (project.folder / "shop" / "spiders" / "mine.py").write_text(LIST_SPIDER)
    busy = in_turn(status(503, headers={"Retry-After": "1"}), good)
    told = project.folder / "told.jsonl"
    with FaultyOrigin({"a.bin": good, "b.bin": good, "busy.bin": busy}, resource=BODY) as origin:
        site = origin.url("").rstrip("/")
        crawl = ("crawl", "mine", "-a", f"site={site}")
        monkeypatch.setenv("KILL", "b.bin")
        project.scrapy(*crawl, status=-9, CONCURRENT_REQUESTS=1)
        assert b'["finished", "b.bin", "complete", false]' in told.read_bytes()
        assert b'["parsed", "b.bin"' not in told.read_bytes()
        before = len(told.read_text().splitlines())
        monkeypatch.delenv("KILL")
        project.scrapy(*crawl)
        lines = [json.loads(line) for line in told.read_text().splitlines()]
        now = lines[before:]
        assert ["parsed", "b.bin", "complete", True] in now
        assert ["finished", "b.bin", "complete", True] in now
        assert ["failed", "gone.bin", "http_404", True] in now
        assert {(line[1], line[2]) for line in lines if line[0] == "parsed"} == {
            (name, "complete") for name in ("a.bin", "b.bin", "busy.bin")
        }
        paused = [line for line in lines if line[0] == "paused"]
        assert paused, "by the run before the kill, or by this one"
        assert all(line[1] == site.removeprefix("http://") and "503" in line[2] and line[3] for line in paused)
        assert len(origin.requests_for("b.bin")) == 1
