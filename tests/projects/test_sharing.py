"""Crawls that share a FILES_STORE, in two processes or in one, and pages that share a host with files."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from scrapy import Request

from bulkspider.components.identity import choose_slot
from bulkspider.disk.folder.folder import Folder
from support.crawl import QUICK
from support.faults import redirect_to, status
from support.faulty import Exchange, FaultyOrigin, correct, good, make_body
from support.holding import stall_until
from support.project import PAGE, Project, stat

BODY = make_body(200_000)
SCRIPT = """
import json, sys
import scrapy
from scrapy.crawler import CrawlerProcess


class Shop(scrapy.Spider):
    name = "shop"

    async def start(self):
        yield scrapy.Request("data:,page")

    def parse(self, response):
        yield {"who": self.who, "file_urls": [self.site + "/a.bin"]}


site, settings, *names = sys.argv[1:]
process = CrawlerProcess({
    "ADDONS": {"bulkspider.Addon": 500},
    "ITEM_PIPELINES": {"scrapy.pipelines.files.FilesPipeline": 1},
    "FILES_STORE": "store",
    "FEEDS": {"%(who)s.jsonl": {"format": "jsonlines"}},
    "TELNETCONSOLE_ENABLED": False,
    **json.loads(settings),
})
for name in names:
    process.crawl(Shop, who=name, site=site)
process.start()
"""


@pytest.mark.parametrize("processes", [2, 1])
def test_the_second_waits_for_the_first_and_both_items_have_the_file(tmp_path: Path, processes: int) -> None:
    script = tmp_path / "crawl.py"
    script.write_text(SCRIPT)
    logs = [tmp_path / f"log-{number}" for number in range(processes)]

    def held(exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[:100_000])
        stall_until(exchange, lambda: any("another crawl is fetching it" in log.read_text() for log in logs))
        exchange.send(reply.body[100_000:])

    with FaultyOrigin({"a.bin": held}, resource=BODY) as origin:
        settings = json.dumps({**QUICK, "BULK_STALL_TIMEOUT": 60, "LOG_LEVEL": "INFO"})
        command = [sys.executable, str(script), origin.url("").rstrip("/"), settings]
        names = [["one"], ["two"]] if processes == 2 else [["one", "two"]]
        running = []
        for log, who in zip(logs, names, strict=True):
            with log.open("w") as out:
                running.append(subprocess.Popen([*command, *who], cwd=tmp_path, stdout=out, stderr=out))
        told = [process.wait(60) for process in running]
        log_text = "".join(log.read_text() for log in logs)
        assert told == [0] * processes, log_text
        assert len(origin.requests) == 1
    items = [json.loads((tmp_path / f"{who}.jsonl").read_text()) for who in ("one", "two")]
    files = [item["files"][0] for item in items]
    assert {file["checksum"] for file in files} == {hashlib.md5(BODY).hexdigest()}
    assert sorted(file["status"] for file in files) == ["downloaded", "uptodate"]
    assert "Traceback" not in log_text
    assert log_text.count("another crawl is fetching it") == 1
    # Each wrote a ledger of its own.
    assert len(list((tmp_path / "store" / ".bulkspider").glob("ledger.*.jsonl"))) == 1


def test_a_name_is_had_by_one_folder_at_a_time(tmp_path: Path) -> None:
    one, two = Folder(tmp_path), Folder(tmp_path)
    assert one.take_name("a")
    assert two.take_name("b")
    assert not two.take_name("a")
    assert not one.take_name("b")
    one.give_name_back("a")
    assert two.take_name("a")
    two.close()
    assert one.take_name("a")
    assert one.take_name("b")
    one.close()


FILES_AND_PAGES = """
    async def start(self):
        yield scrapy.Request("data:,all", callback=self.all)

    def all(self, response):
        for number in range(6):
            yield scrapy.Request(f"{self.site}/{number}.bin", meta={"bulk": {"path": f"{number}.bin"}}, callback=self.got)
        for number in range(3):
            yield scrapy.Request(f"{self.site}/page-{number}.html")

    def got(self, response):
        yield {"slot": response.meta["download_slot"], **response.meta["bulk"]["result"]}

    def parse(self, response):
        yield {"page": response.url}
"""


def test_pages_that_wait_come_before_files_that_wait(tmp_path: Path) -> None:
    project = Project(tmp_path / "shop")
    project.write_spider(FILES_AND_PAGES)
    lock, served = threading.Lock(), list[str]()

    def noted(exchange: Exchange) -> None:
        with lock:
            served.append("page")
        status(200, body=PAGE % b"")(exchange)

    def held(exchange: Exchange) -> None:
        # No file is served before all pages are.
        stall_until(exchange, lambda: served.count("page") == 3)
        good(exchange)

    with FaultyOrigin(default=held, resource=BODY) as origin:
        for number in range(3):
            origin.add(f"page-{number}.html", noted)
        settings: dict[str, Any] = {"CONCURRENT_REQUESTS": 2, "BULK_STALL_TIMEOUT": 60, "BULK_HEADERS_TIMEOUT": 60}
        items = project.crawl(origin.url("").rstrip("/"), CONCURRENT_REQUESTS_PER_DOMAIN=1, **settings)
    assert {item["slot"] for item in items if "slot" in item} == {"bulk:127.0.0.1"}, project.log
    assert [item["status"] for item in items if "slot" in item] == ["complete"] * 6
    assert stat(project.log, "bulk/files/complete") == 6


def test_whose_slot_it_is() -> None:
    def slot(request: Request) -> str:
        choose_slot(request)
        return str(request.meta["download_slot"])

    first = Request("http://one.example/a", meta={"bulk": {"path": "a"}})
    assert slot(first) == "bulk:one.example"
    assert slot(first.copy()) == "bulk:one.example"
    assert slot(first.replace(url="http://two.example/a")) == "bulk:two.example"
    assert slot(Request("http://one.example/a", meta={"bulk": {"path": "a"}, "download_slot": "mine"})) == "mine"
    assert slot(Request("http://two.example/b", meta=first.meta)) == "bulk:two.example"


def test_a_redirect_to_another_host_has_the_slot_of_that_host(tmp_path: Path) -> None:
    project = Project(tmp_path / "shop")
    project.write_spider("""
    async def start(self):
        yield scrapy.Request(self.site + "/moved", meta={"bulk": {"path": "a"}}, callback=self.got)

    def got(self, response):
        yield {"slot": response.meta["download_slot"], **response.meta["bulk"]["result"]}
""")
    with FaultyOrigin({"a": good}, resource=BODY, host="127.0.0.2") as far, FaultyOrigin() as near:
        near.add("moved", redirect_to(far.url("a")))
        (item,) = project.crawl(near.url("").rstrip("/"))
    assert (item["slot"], item["status"]) == ("bulk:127.0.0.2", "complete")
