"""`class My(BulkSpider)` and `entries=`: arguments of its own, entries from Python, files that are parsed, and mistakes
that whoever runs it sees."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bulkspider.spiders.arguments.subclass import own_arguments
from bulkspider.spiders.bulk import BulkSpider
from support.crawl import QUICK
from support.faults import status
from support.faulty import FaultyOrigin, good, make_body
from support.project import Project, stat

BODY = make_body(60_000)
MINE = """
import asyncio
import scrapy
from bulkspider import BulkItem, BulkSpider


class Mine(BulkSpider):
    name = "mine"
    region = "eu"
    custom_settings = {"CONCURRENT_REQUESTS": 2}

    def __init__(self, site, *args, retries=3, **kwargs):
        super().__init__(*args, **kwargs)
        self.site = site
        # What a spider of somebody's may well have: none of it is ours.
        self.job = self.queue = self.run = self.folder = self.source = self.door = self.slots = "mine"

    async def entries(self):
        yield {"name": "a.json", "url": f"{self.site}/a.json", "size": 9}
        await asyncio.sleep(0)
        yield BulkItem(name=f"{self.region}/b.json", url=f"{self.site}/b.json")
        yield {"name": "gone.json", "url": f"{self.site}/gone.json"}

    async def parse_file(self, item):
        with open(item.path) as file:
            yield {"parsed": item.name, "value": file.read()}
        if item.name == "a.json":
            yield scrapy.Request(f"{self.site}/page", callback=self.page, cb_kwargs={"of": item.name})

    def page(self, response, of):
        yield {"page": response.text, "of": of}

    def closed(self, reason):
        self.crawler.stats.set_value("mine/closed", 1)
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "shop")


def test_a_subclass_has_entries_arguments_and_parsed_files_of_its_own(project: Project) -> None:
    (project.folder / "shop" / "spiders" / "mine.py").write_text(MINE)
    small = {"a.json": (good, b'{"a": 1}\n'), "b.json": (good, b'{"b": 2}\n'), "page": status(200, body=b"hello")}
    with FaultyOrigin({**small, "gone.json": status(404)}) as origin:
        feed = ("-O", "items.jsonl", "-s", "LOG_LEVEL=INFO")
        project.scrapy("crawl", "mine", "-a", f"site={origin.url('').rstrip('/')}", "-a", "region=us", *feed)
        rows = [json.loads(line) for line in (project.folder / "items.jsonl").read_text().splitlines()]
        assert {row["name"]: row["status"] for row in rows if "name" in row} == {
            "a.json": "complete",
            "us/b.json": "complete",
            "gone.json": "failed",
        }, project.log
        assert {row["parsed"]: row["value"] for row in rows if "parsed" in row} == {
            "a.json": '{"a": 1}\n',
            "us/b.json": '{"b": 2}\n',
        }
        assert [row for row in rows if "page" in row] == [{"page": "hello", "of": "a.json"}]
        assert (project.folder / "output" / "mine" / "us" / "b.json").read_bytes() == b'{"b": 2}\n'
        assert stat(project.log, "bulk/entries") == 3
        assert stat(project.log, "mine/closed") == 1
        assert "Traceback" not in project.log
        # A typo is an error, and names what is nearest; the subclass's own arguments count.
        said = project.scrapy("crawl", "mine", "-a", "site=x", "-a", "regoin=us", status=1)
        assert "unknown argument regoin; did you mean region?" in said


def test_whose_an_argument_is() -> None:
    class Base(BulkSpider):
        name = "base"
        plain = "1"
        declared: str
        _hidden = "1"

        def helper(self) -> None: ...

    class Further(Base):
        def __init__(self, mode: str = "", *args: object, match: str = "", **kwargs: object) -> None: ...

    assert set(own_arguments(Further, BulkSpider)) == {"mode", "name", "plain", "declared"}
    assert own_arguments(BulkSpider, BulkSpider) == ()


SCRIPT = """
import json, sys
from scrapy.crawler import CrawlerProcess
from scrapy.utils.project import get_project_settings
from bulkspider import BulkSpider

site, settings = sys.argv[1], json.loads(sys.argv[2])


def entries():
    try:
        for number in range(2000):
            yield {"name": f"{number % 1000}.bin", "url": f"{site}/{number % 1000}.bin"}
            given.append(number)
            if number == 700:
                yield {"name": "../out.bin", "url": f"{site}/out.bin"}
                yield {"name": "7.BIN", "url": f"{site}/7.bin"}
                yield "a.bin"
            if number == 1500:
                raise OSError("the database is gone")
    finally:
        given.append("closed")


given = []
process = CrawlerProcess({"ADDONS": {"bulkspider.Addon": 500}, "FEEDS": {"rows.jsonl": {"format": "jsonlines"}}, **settings})
process.crawl(BulkSpider, entries=entries(), output="out")
process.start()
print(len(given), given[-1])
"""


def test_entries_of_a_program_are_read_as_there_is_room_and_each_has_its_row(tmp_path: Path) -> None:
    script = tmp_path / "crawl.py"
    script.write_text(SCRIPT)
    with FaultyOrigin(default=good, resource=b"x" * 100) as origin:
        done = subprocess.run(
            [sys.executable, script, origin.url("").rstrip("/"), json.dumps({**QUICK, "LOG_LEVEL": "INFO"})],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    told = [row["status"] for row in rows]
    assert told.count("complete") == 1000, done.stderr[-3000:]
    assert sorted((row["name"], row["error"]["code"]) for row in rows if row["error"]) == [
        ("", "bad_line"),
        ("", "bad_line"),
        ("../out.bin", "bad_line"),
        ("7.BIN", "two_urls"),
    ]
    assert stat(done.stderr, "bulk/duplicates") == 501
    assert stat(done.stderr, "bulk/entries") == 1004
    assert "OSError: the database is gone" in done.stderr
    assert done.stdout.split() == ["1502", "closed"]


RUNNERS = """
import asyncio, sys
from scrapy.utils.reactor import install_reactor
from scrapy import crawler

kind = sys.argv[1]
settings = {"ADDONS": {"bulkspider.Addon": 500}, "TELNETCONSOLE_ENABLED": False}
from bulkspider import BulkSpider

if kind.endswith("Process"):
    process = getattr(crawler, kind)(settings)
    told = process.crawl(BulkSpider, list="nowhere.txt", mach="*")
    process.start()
    if kind == "AsyncCrawlerProcess":
        print("told", type(told.exception()).__name__)
    else:
        told.addErrback(lambda failure: print("told", failure.type.__name__))
    print("failed", process.bootstrap_failed)
    sys.exit(process.bootstrap_failed)

from scrapy.utils.log import configure_logging
configure_logging()
install_reactor("twisted.internet.asyncioreactor.AsyncioSelectorReactor")
from twisted.internet import defer, reactor, task

async def main(_=None):
    try:
        crawl = getattr(crawler, kind)(settings).crawl(BulkSpider, list="nowhere.txt", mach="*")
        await (defer.Deferred.fromFuture(crawl) if kind == "AsyncCrawlerRunner" else crawl)
    except Exception as error:
        print("told", type(error).__name__)

task.react(lambda _: defer.ensureDeferred(main()))
"""


@pytest.mark.parametrize("kind", ["CrawlerProcess", "AsyncCrawlerProcess", "CrawlerRunner", "AsyncCrawlerRunner"])
def test_a_wrong_argument_is_seen_in_every_runner(tmp_path: Path, kind: str) -> None:
    script = tmp_path / "crawl.py"
    script.write_text(RUNNERS)
    done = subprocess.run(
        [sys.executable, script, kind], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert "told UsageError" in done.stdout, done.stderr
    (told,) = [line for line in done.stderr.splitlines() if " ERROR: unknown argument mach; did you mean" in line]
    assert "[bulkspider.spiders.bulk]" in told
    assert done.returncode == (1 if kind.endswith("Process") else 0)
    assert not (tmp_path / "output").exists()


STOCK = """
import scrapy
from scrapy.pipelines.files import FilesPipeline
from bulkspider import BulkFilesPipeline


class Mine(FilesPipeline):
    def get_media_requests(self, item, info):
        return [scrapy.Request(url, headers={"X-Mine": "yes"}) for url in item["file_urls"]]

    def file_path(self, request, response=None, info=None, *, item=None):
        return "mine/" + request.url.rpartition("/")[2]


class Streamed(BulkFilesPipeline, Mine):
    pass
"""


def test_a_subclass_of_the_stock_pipeline_says_that_it_stays_and_streams_with_the_mixin(project: Project) -> None:
    (project.folder / "shop" / "pipelines.py").write_text(STOCK)
    project.write_spider("""
    async def start(self):
        yield scrapy.Request("data:,page")

    def parse(self, response):
        yield {"file_urls": [self.site + "/a.bin"]}
""")
    with FaultyOrigin({"a.bin": good}, resource=BODY) as origin:
        site, settings = origin.url("").rstrip("/"), {"FILES_STORE": "store", "LOG_LEVEL": "INFO"}
        says = "shop.pipelines.Mine stays as it is"
        (stock,) = project.crawl(site, ITEM_PIPELINES={"shop.pipelines.Mine": 1}, **settings)
        assert project.log.count(says) == 1
        assert "class Mine(BulkFilesPipeline, Mine)" in project.log
        settings["FILES_STORE"] = "streamed"
        (item,) = project.crawl(site, ITEM_PIPELINES={"shop.pipelines.Streamed": 1}, **settings)
        assert says not in project.log
        assert [item["files"][0][key] for key in ("url", "path", "checksum", "status")] == [
            stock["files"][0][key] for key in ("url", "path", "checksum", "status")
        ]
        assert item["files"][0]["checksum"] == hashlib.md5(BODY).hexdigest()
        assert item["files"][0]["proof"] == "complete"
        assert {request.headers["x-mine"] for request in origin.requests} == {"yes"}
