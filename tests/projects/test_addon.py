"""`ADDONS = {"bulkspider.Addon": 500}`: what it changes in a project, and what it leaves alone."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scrapy.pipelines.files import FilesPipeline
from scrapy.settings import Settings

from bulkspider import Addon, BulkFilesPipeline
from bulkspider.pumps.threaded import WORTH_IT_BYTES
from support.crawl import sha256
from support.faulty import FaultyOrigin, good, make_body
from support.project import Project

BODY = make_body(50_000)
OURS = "bulkspider.components.handler.BulkDownloadHandler"


class Derived(FilesPipeline):
    pass


class Handler:
    """Somebody's download handler."""


def applied(**values: Any) -> Settings:
    settings = Settings()
    settings.setdict(values, "project")
    Addon().update_settings(settings)
    return settings


def test_a_users_settings_stand() -> None:
    plain, ours = Settings(), applied()
    changed = {name for name in ours if ours[name] != plain[name]}
    assert changed == {"DOWNLOAD_HANDLERS", "DOWNLOADER_MIDDLEWARES", "EXTENSIONS"}

    settings = applied(DOWNLOAD_HANDLERS={"http": "test_addon.Handler", "https": None, "s3": "x.Y"})
    handlers = settings["DOWNLOAD_HANDLERS"]
    assert (handlers["http"], handlers["https"], handlers["s3"]) == (OURS, None, "x.Y")
    assert settings["BULK_FALLBACK_HTTP_HANDLER"] == "test_addon.Handler"
    assert "BULK_FALLBACK_HTTPS_HANDLER" not in settings

    again = settings.copy()
    Addon().update_settings(again)
    assert again["BULK_FALLBACK_HTTP_HANDLER"] == "test_addon.Handler"


def test_a_handler_from_the_command_line_becomes_the_fallback_too() -> None:
    settings = Settings()
    settings.set("DOWNLOAD_HANDLERS", '{"http": "test_addon.Handler"}', "cmdline")
    Addon().update_settings(settings)
    assert settings["DOWNLOAD_HANDLERS"]["http"] == OURS
    assert settings["BULK_FALLBACK_HTTP_HANDLER"] == "test_addon.Handler"


@pytest.mark.parametrize("stock", [FilesPipeline, "scrapy.pipelines.files.FilesPipeline"])
def test_exactly_the_stock_pipeline_is_replaced(stock: Any) -> None:
    settings = applied(
        FILES_STORE="store", ITEM_PIPELINES={stock: 7, Derived: 8, "scrapy.pipelines.images.ImagesPipeline": 9}
    )
    assert settings.getdict("ITEM_PIPELINES") == {
        BulkFilesPipeline: 7,
        Derived: 8,
        "scrapy.pipelines.images.ImagesPipeline": 9,
    }
    assert applied(ITEM_PIPELINES={stock: None}, FILES_STORE="store").getdict("ITEM_PIPELINES") == {stock: None}
    assert applied(ITEM_PIPELINES={stock: 7}, FILES_STORE="s3://b/").getdict("ITEM_PIPELINES") == {stock: 7}
    assert applied(ITEM_PIPELINES={stock: 7}).getdict("ITEM_PIPELINES") == {stock: 7}


def test_the_slots_of_files_take_over_what_was_said_of_their_hosts() -> None:
    slots = {"a.org": {"concurrency": 2, "delay": 1.5}, "bulk:b.org": {"delay": 0}, "b.org": {"delay": 3}}
    pipelines = {"bulkspider.BulkFilesPipeline": 1}
    settings = applied(DOWNLOAD_SLOTS=slots, ITEM_PIPELINES=pipelines, FILES_STORE="store")
    assert settings.getdict("DOWNLOAD_SLOTS") == {**slots, "bulk:a.org": slots["a.org"]}
    # Requests with meta["bulk"] have such slots in every project.
    assert applied(DOWNLOAD_SLOTS=slots).getdict("DOWNLOAD_SLOTS") == {**slots, "bulk:a.org": slots["a.org"]}


def test_a_spider_of_the_same_name_is_the_projects(project: Project) -> None:
    project.write_spider("""
    name = "bulk"

    async def start(self):
        yield {"mine": True}
""")
    project.scrapy("crawl", "bulk", "-O", "items.jsonl")
    assert (project.folder / "items.jsonl").read_text() == '{"mine": true}\n'


def test_importing_it_installs_no_reactor() -> None:
    code = (
        "from scrapy.settings import Settings; from bulkspider import Addon, BulkFilesPipeline;"
        "s = Settings({'ITEM_PIPELINES': {'scrapy.pipelines.files.FilesPipeline': 1}, 'FILES_STORE': 'x'});"
        "Addon.update_pre_crawler_settings(s); Addon().update_settings(s);"
        "import sys; print('twisted.internet.reactor' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")


OTHER = '''
from scrapy.core.downloader.handlers.http11 import HTTP11DownloadHandler


class Counting:
    """Counts what comes to it; a fallback or the front, as the order of the add-ons has it."""

    lazy = False

    def __init__(self, crawler):
        self.crawler = crawler
        path = crawler.settings["OTHER_FALLBACK"] or HTTP11DownloadHandler
        from scrapy.utils.misc import build_from_crawler, load_object

        self.inner = build_from_crawler(load_object(path), crawler)

    @classmethod
    def from_crawler(cls, crawler):
        return cls(crawler)

    async def download_request(self, request):
        self.crawler.stats.inc_value("other/" + ("bulk" if "bulk" in request.meta else "page"))
        return await self.inner.download_request(request)

    async def close(self):
        await self.inner.close()


class Addon:
    def update_settings(self, settings):
        settings.set("OTHER_FALLBACK", settings["DOWNLOAD_HANDLERS"].get("http"), "addon")
        settings["DOWNLOAD_HANDLERS"]["http"] = "shop.other.Counting"
'''

BOTH = """
    async def start(self):
        yield scrapy.Request(self.site + "/page", callback=self.page)
        yield scrapy.Request(self.site + "/a.bin", callback=self.file, meta={"bulk": {"path": "a.bin"}})

    def page(self, response):
        yield {"page": len(response.body), "ip": str(response.ip_address)}

    def file(self, response):
        yield response.meta["bulk"]["result"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "shop")
    (project.folder / "shop" / "other.py").write_text(OTHER)
    project.write_spider(BOTH)
    return project


def test_a_crawl_without_files_is_left_alone(project: Project) -> None:
    """Its log shows what it showed, and a lost terminal does what it did."""
    project.write_spider("""
    async def start(self):
        yield scrapy.Request(self.site + "/page?token=abc123")

    def parse(self, response):
        import signal

        yield {"hangup": str(signal.getsignal(signal.SIGHUP)), "bytes": len(response.body)}
""")
    with FaultyOrigin({"page": good}, resource=BODY) as origin:
        hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
        try:
            (item,) = project.crawl(origin.url("").rstrip("/"))
        finally:
            signal.signal(signal.SIGHUP, hangup)
    assert item == {"hangup": str(signal.SIG_DFL), "bytes": len(BODY)}
    assert "/page?token=abc123>" in project.log
    assert "'bulk/" not in project.log


@pytest.mark.parametrize(
    ("others", "bulk_through_it"), [(400, False), (600, True)], ids=["ours-in-front", "theirs-in-front"]
)
def test_two_addons_with_handlers_work_in_either_order(project: Project, others: int, bulk_through_it: bool) -> None:
    with FaultyOrigin({"a.bin": good, "page": good}, resource=BODY) as origin:
        addons = {"bulkspider.Addon": 500, "shop.other.Addon": others}
        items = project.crawl(origin.url("").rstrip("/"), ADDONS=addons)
        assert_both(project, items)
        assert "'other/page': 1" in project.log
        assert ("'other/bulk': 1" in project.log) is bulk_through_it


def assert_both(project: Project, items: list[Any]) -> None:
    (page,) = [item for item in items if "page" in item]
    (file,) = [item for item in items if "path" in item]
    assert page == {"page": len(BODY), "ip": "127.0.0.1"}
    assert file["status"] == "complete"
    assert sha256((project.folder / "output" / "a.bin").read_bytes()) == sha256(BODY)
    assert "Traceback" not in project.log


OLD_STYLE = """
from scrapy.core.downloader.handlers.http11 import HTTP11DownloadHandler
from scrapy.utils.defer import deferred_from_coro


class OldStyle:
    \"\"\"As before Scrapy 2.14: the spider is an argument, a Deferred comes back, nothing says when it is made.\"\"\"

    def __init__(self, crawler):
        self.inner = HTTP11DownloadHandler(crawler)

    @classmethod
    def from_crawler(cls, crawler):
        return cls(crawler)

    def download_request(self, request, spider):
        assert spider.name == "shop"
        return deferred_from_coro(self.inner.download_request(request))
"""


def test_handlers_of_the_old_style_and_broken_ones_are_to_us_what_they_are_to_scrapy(project: Project) -> None:
    (project.folder / "shop" / "other.py").write_text(OLD_STYLE)
    handlers = {"http": "shop.other.OldStyle", "https": "shop.other.Missing"}
    with FaultyOrigin({"a.bin": good, "page": good}, resource=BODY) as origin:
        items = project.crawl(origin.url("").rstrip("/"), DOWNLOAD_HANDLERS=handlers)
        (page,) = [item for item in items if "page" in item]
        assert page["page"] == len(BODY)
        assert (project.folder / "output" / "a.bin").read_bytes() == BODY
        assert project.log.count('Loading "shop.other.Missing" for scheme "https"') == 1
        project.crawl("https://127.0.0.1:1", DOWNLOAD_HANDLERS=handlers)
        assert "NotSupported: Unsupported URL scheme 'https': Module 'shop.other' doesn't define" in project.log


@pytest.mark.parametrize(
    "settings",
    [
        {"TWISTED_REACTOR": "twisted.internet.selectreactor.SelectReactor"},
        {"TWISTED_REACTOR": "twisted.internet.epollreactor.EPollReactor"},
        {"ASYNCIO_EVENT_LOOP": "uvloop.Loop"},
    ],
    ids=["select", "epoll", "uvloop"],
)
def test_other_reactors(project: Project, settings: dict[str, Any]) -> None:
    """Also with bodies that threads move, and with those that the reactor does."""
    large = make_body(4 * WORTH_IT_BYTES)
    table = {"a.bin": good, "page": good, "large.bin": (good, large)}
    with FaultyOrigin(table, resource=BODY) as origin:
        assert_both(project, project.crawl(origin.url("").rstrip("/"), **settings))
        (project.folder / "list.txt").write_text(f"name url\nb.bin {origin.url('large.bin')}\n")
        assert "1 entry: 1 complete" in project.scrapy("crawl", "bulk", "-a", "list=list.txt", **settings)
        assert (project.folder / "output" / "list" / "b.bin").read_bytes() == large
        assert len(origin.requests_for("large.bin")) == 1


def test_without_a_reactor_it_says_so_and_is_out_of_the_way(project: Project) -> None:
    pytest.importorskip("aiohttp")
    off = {"TWISTED_REACTOR_ENABLED": False, "TELNETCONSOLE_ENABLED": False}
    project.write_spider(BOTH.replace(', "ip": str(response.ip_address)', ""))
    with FaultyOrigin({"a.bin": good, "page": good}, resource=BODY) as origin:
        assert project.crawl(origin.url("").rstrip("/"), **off) == [{"page": len(BODY)}]
        assert "bulkspider needs Twisted's reactor" in project.log
        assert 'NotSupported: meta["bulk"]: bulkspider needs Twisted\'s reactor' in project.log
        assert origin.requests_for("a.bin") == [], "a file was loaded into memory as if it were a page"
        asked = len(origin.requests)
        (project.folder / "list.txt").write_text(f"name url\nb.bin {origin.url('a.bin')}\n")
        log = project.scrapy("crawl", "bulk", "-a", "list=list.txt", status=1, **off)
        assert "bulkspider needs Twisted's reactor" in log
        pipelines = {"ITEM_PIPELINES": {"bulkspider.BulkFilesPipeline": 1}, "FILES_STORE": "store"}
        project.crawl(origin.url("").rstrip("/"), status=1, **off, **pipelines)
        assert "bulkspider needs Twisted's reactor" in project.log
        assert len(origin.requests) == asked
