"""BulkFilesPipeline: `file_urls` of any project become files, streamed, resumed and proven, and its pages go on."""

from __future__ import annotations

import hashlib
import statistics
import threading
from pathlib import Path

import pytest

from support.crawl import sha256
from support.faults import cut_after, in_turn, redirect_to, status
from support.faulty import Exchange, FaultyOrigin, correct, good, make_body
from support.holding import Holds, stall_until
from support.project import PAGE, Project, stat

BODY = make_body(300_000)
MD5 = hashlib.md5(BODY).hexdigest()
STOCK = {"ITEM_PIPELINES": {"scrapy.pipelines.files.FilesPipeline": 1}, "FILES_STORE": "store"}
UNHURRIED = {"BULK_STALL_TIMEOUT": 60, "BULK_HEADERS_TIMEOUT": 60}

ONE_ITEM = """
    urls = ""

    async def start(self):
        yield scrapy.Request("data:,page")

    def parse(self, response):
        yield {"file_urls": [self.site + "/" + name for name in self.urls.split()]}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "shop")
    project.settings |= STOCK
    project.write_spider(ONE_ITEM)
    return project


def site(origin: FaultyOrigin) -> str:
    return origin.url("").rstrip("/")


def stored(url: str) -> str:
    """Where FilesPipeline keeps a file."""
    return f"full/{hashlib.sha1(url.encode()).hexdigest()}{Path(url).suffix}"


def test_the_stock_pipeline_is_replaced_and_its_results_have_more(project: Project) -> None:
    with FaultyOrigin({"a.bin": good, "moved.bin": redirect_to("/a.bin")}, resource=BODY) as origin:
        (item,) = project.crawl(site(origin), "-a", "urls=a.bin moved.bin gone.bin")
        assert [file["url"] for file in item["files"]] == [origin.url("a.bin"), origin.url("moved.bin")], project.log
        for file in item["files"]:
            assert file["path"] == stored(file["url"])
            assert (project.folder / "store" / file["path"]).read_bytes() == BODY
            assert (file["checksum"], file["status"], file["proof"]) == (MD5, "downloaded", "complete")
            assert (file["size"], file["resumed_from"], file["error"]) == (len(BODY), 0, None)
        assert "gone.bin: the origin answered 404 [http_404]" in project.log
        assert "Traceback" not in project.log
        assert stat(project.log, "file_status_count/downloaded") == 2
        assert stat(project.log, "bulk/files/complete") == 2
        assert stat(project.log, "bulk/failed/http_404") == 1

        asked = len(origin.requests)
        (item,) = project.crawl(site(origin), "-a", "urls=a.bin moved.bin", BULK_DIGEST="sha256")
        assert len(origin.requests) == asked, "a proven file was asked for again"
        assert {file["status"] for file in item["files"]} == {"uptodate"}
        assert {file["checksum"] for file in item["files"]} == {MD5}

        # What upstream takes for up to date: half a file.
        path = project.folder / "store" / item["files"][0]["path"]
        path.write_bytes(BODY[:100_000])
        (item,) = project.crawl(site(origin), "-a", "urls=a.bin", BULK_DIGEST="sha256")
        (file,) = item["files"]
        assert path.read_bytes() == BODY
        assert (file["status"], file["sha256"], file["resumed_from"]) == ("downloaded", sha256(BODY), 100_000)

        # An age at which the origin is asked again; the file is the same, so it stays.
        asked = len(origin.requests)
        (item,) = project.crawl(site(origin), "-a", "urls=a.bin", FILES_EXPIRES=0)
        assert len(origin.requests) > asked
        assert not path.with_name(path.name + ".old").exists()
        assert item["files"][0]["checksum"] == MD5


def test_methods_and_fields_can_be_overridden_as_ever_and_subclasses_of_the_stock_are_left_alone(
    project: Project,
) -> None:
    (project.folder / "shop" / "pipelines.py").write_text("""
import scrapy
from scrapy.pipelines.files import FilesPipeline
from bulkspider import BulkFilesPipeline


class Mine(BulkFilesPipeline):
    def get_media_requests(self, item, info):
        for url in item["links"]:
            yield scrapy.Request(url, headers={"X-Mine": "yes"}, meta={"bulk": {"size": 300_000}})

    def file_path(self, request, response=None, info=None, *, item=None):
        if "c.bin" in request.url:
            raise RuntimeError("no name for it")
        return item["title"] + "/" + request.url.rpartition("/")[2]

    def item_completed(self, results, item, info):
        item["got"] = [(ok, value["path"] if ok else str(value.value)) for ok, value in results]
        return item


class Stock(FilesPipeline):
    pass
""")
    project.write_spider(ONE_ITEM.replace('"file_urls"', '"title": "t", "links"'))
    settings = {"ITEM_PIPELINES": {"shop.pipelines.Mine": 1, "shop.pipelines.Stock": 2}}
    with FaultyOrigin({"a.bin": good, "b.bin": status(503)}, resource=BODY) as origin:
        (item,) = project.crawl(site(origin), "-a", "urls=a.bin b.bin c.bin", BULK_ORIGIN_PATIENCE=1, **settings)
        (good_one, down, nameless) = item["got"]
        assert good_one == [True, "t/a.bin"]
        assert down[1].endswith("[http_503]"), "the origin serves others"
        assert nameless == [False, "no name for it"]
        assert "RuntimeError: no name for it" in project.log
        assert (project.folder / "store/t/a.bin").read_bytes() == BODY
        assert {request.headers["x-mine"] for request in origin.requests} == {"yes"}
        assert len(origin.requests_for("b.bin")) > 1
        assert "shop.pipelines.Stock" in project.log


def test_a_file_that_breaks_off_is_continued_with_patience(project: Project) -> None:
    with FaultyOrigin(resource=BODY) as origin:
        origin.add("a.bin", in_turn(cut_after(100_000, "reset"), status(503), cut_after(150_000, "reset"), good))
        (item,) = project.crawl(site(origin), "-a", "urls=a.bin")
        (file,) = item["files"]
        assert file["checksum"] == MD5
        assert len(origin.requests_for("a.bin")) == 4
        assert stat(project.log, "bulk/bytes_received") <= len(BODY) + 2 * 64 * 1024 + 500


def test_an_interrupted_crawl_goes_on_where_it_was(project: Project) -> None:
    with FaultyOrigin(resource=BODY) as origin:
        part = project.folder / "store" / (stored(origin.url("a.bin")) + ".part")
        half = Holds(150_000, part)
        origin.add("a.bin", half.behaviour())
        process = project.start(site(origin), "-a", "urls=a.bin", BULK_STOP_PATIENCE=0, **UNHURRIED)
        half.wait()
        assert project.stop(process) == []
        assert "An item is not exported: its files were not finished when the crawl ended (data:,page)" in project.log
        assert stat(project.log, "bulk/files/interrupted") == 1
        (item,) = project.crawl(site(origin), "-a", "urls=a.bin")
        (file,) = item["files"]
        assert (file["checksum"], file["resumed_from"]) == (MD5, 150_000)
        assert origin.requests_for("a.bin")[1].range == (150_000 - 64 * 1024, None)


PAGES = """
    async def start(self):
        yield scrapy.Request(self.site + "/page-0.html")

    def parse(self, response):
        number = response.meta["depth"]
        if number == 0:
            yield {"file_urls": [self.site + "/one.bin", self.site + "/two.bin"]}
        yield {"title": response.css("title::text").get(), "number": number}
        if number < 9:
            yield response.follow(f"/page-{number + 1}.html")
"""


@pytest.mark.parametrize(
    "settings",
    [
        {"CONCURRENT_REQUESTS_PER_DOMAIN": 2},
        {"CONCURRENT_REQUESTS": 4, "CONCURRENT_REQUESTS_PER_DOMAIN": 4},
        {"CONCURRENT_REQUESTS_PER_DOMAIN": 1, "DOWNLOAD_SLOTS": {"127.0.0.1": {"concurrency": 2}}},
        {"TWISTED_REACTOR": "twisted.internet.selectreactor.SelectReactor"},
    ],
    ids=["per-domain", "total", "slots", "no-asyncio"],
)
def test_pages_are_served_while_two_files_of_the_same_host_are_not(
    project: Project, settings: dict[str, object]
) -> None:
    project.write_spider(PAGES)
    events: list[str] = []
    lock = threading.Lock()

    def note(event: str) -> None:
        with lock:
            events.append(event)

    def throttled(exchange: Exchange) -> None:
        """Half of the file, then nothing before the last page was served."""
        note("file begins")
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[: len(reply.body) // 2])
        stall_until(exchange, lambda: events.count("page") == 10 and events.count("file begins") == 2)
        exchange.send(reply.body[len(reply.body) // 2 :])
        note("file ends")

    page = status(200, body=PAGE % b"")

    def paged(exchange: Exchange) -> None:
        page(exchange)
        note("page")

    with FaultyOrigin({"one.bin": throttled, "two.bin": throttled}, resource=BODY) as origin:
        for number in range(10):
            origin.add(f"page-{number}.html", paged)
        items = project.crawl(site(origin), **{**UNHURRIED, **settings})
        assert [item["number"] for item in items if "number" in item] == list(range(10))
        (files,) = [item["files"] for item in items if item.get("files")]
        assert [file["checksum"] for file in files] == [MD5, MD5]
        first_end = events.index("file ends")
        assert events[:first_end].count("page") == 10
        assert events[:first_end].count("file begins") == 2


SHOP = """
    files = ""

    async def start(self):
        yield self.page(0)

    def page(self, number):
        asked = __import__("time").monotonic()
        return scrapy.Request(f"{self.site}/page-{number}.html", cb_kwargs={"number": number, "asked": asked})

    def parse(self, response, number, asked):
        seconds = __import__("time").monotonic() - asked
        yield {"title": response.css("title::text").get(), "number": number, "seconds": seconds}
        if number == 0 and self.files:
            yield {"file_urls": [self.site + "/one.bin"]}
            yield scrapy.Request(self.site + "/two.bin", self.got, meta={"bulk": {"path": "two.bin"}})
        if number < 29:
            yield self.page(number + 1)

    def got(self, response):
        yield {"result": response.meta["bulk"]["result"]}

    def closed(self, reason):
        # Not ru_maxrss, which begins with what the process had that started this one.
        (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM:")]
        self.crawler.stats.set_value("peak_mib", int(line.split()[1]) // 1024)
"""
REACTORS: dict[str, dict[str, object]] = {
    "asyncio": {},
    "uvloop": {"ASYNCIO_EVENT_LOOP": "uvloop.Loop"},
    "select": {"TWISTED_REACTOR": "twisted.internet.selectreactor.SelectReactor"},
    "epoll": {"TWISTED_REACTOR": "twisted.internet.epollreactor.EPollReactor"},
    "poll": {"TWISTED_REACTOR": "twisted.internet.pollreactor.PollReactor"},
}


@pytest.mark.parametrize("reactor", REACTORS)
def test_two_large_files_beside_the_pages_of_a_new_project(
    project: Project, request: pytest.FixtureRequest, reactor: str
) -> None:
    if reactor != "asyncio" and not request.config.getoption("--long"):
        pytest.skip("the other reactors with --long; test_addon.py has them with small files")
    big = make_body(200 * 1024 * 1024, "big")
    md5 = hashlib.md5(big).hexdigest()
    settings = REACTORS[reactor]
    project.write_spider(SHOP)
    with FaultyOrigin({"one.bin": good, "two.bin": good}, resource=big) as origin:
        for number in range(30):
            origin.add(f"page-{number}.html", status(200, body=PAGE % b""))

        alone = project.crawl(site(origin), ADDONS={}, **settings)
        assert len(alone) == 30
        for already in (False, True):
            items = project.crawl(site(origin), "-a", "files=yes", **settings)
            (file,) = [file for item in items for file in item.get("files", [])]
            (result,) = [item["result"] for item in items if "result" in item]
            assert (file["checksum"], file["status"]) == (md5, "uptodate" if already else "downloaded")
            assert (result["already"], result["status"]) == (already, "complete")
            assert hashlib.md5((project.folder / "store" / "two.bin").read_bytes()).hexdigest() == md5
            pages = [item for item in items if "number" in item]
            assert sorted((item["number"], item["title"]) for item in pages) == [(n, "a page") for n in range(30)]
            assert stat(project.log, "peak_mib") < 150
            assert len(origin.requests_for("one.bin")) == len(origin.requests_for("two.bin")) == 1
            if not already:
                ms = [1000 * statistics.median(item["seconds"] for item in rows) for rows in (alone, pages)]
                peak = stat(project.log, "peak_mib")
                print(f"{reactor}: a page takes {ms[0]:.1f} ms alone, {ms[1]:.1f} ms beside two files; peak {peak} MiB")


def test_other_storages_are_refused_clearly_or_left_to_the_stock_pipeline(project: Project) -> None:
    with FaultyOrigin({"a.bin": good}, resource=BODY) as origin:
        settings = {"FILES_STORE": "s3://bucket/folder", "ITEM_PIPELINES": {"bulkspider.BulkFilesPipeline": 1}}
        project.crawl(site(origin), "-a", "urls=a.bin", **settings)
        assert "BulkFilesPipeline writes to a folder of this machine only" in project.log
        assert origin.requests == []
        project.crawl(site(origin), FILES_STORE="ftp://127.0.0.1:1/folder")
        assert "FilesPipeline stays as it is" in project.log


MIXED = """
    custom_settings = {"CONCURRENT_REQUESTS": 1, "CONCURRENT_REQUESTS_PER_DOMAIN": 1}

    async def start(self):
        yield scrapy.Request("data:,page")

    def parse(self, response):
        yield {"file_urls": [self.site + "/a.bin"]}
        path = "full/" + __import__("hashlib").sha1((self.site + "/a.bin").encode()).hexdigest() + ".bin"
        meta = {"bulk": {"path": path}, "download_slot": "bulk:127.0.0.1"}
        for _ in range(2):
            yield scrapy.Request(
                self.site + "/a.bin", callback=self.got, errback=self.got, meta=dict(meta), dont_filter=True
            )
            meta["bulk"] = {"path": "b.bin"}

    def got(self, answer):
        yield {"got": str(getattr(answer, "value", None) or answer.meta["bulk"]["result"]["status"])}
"""


def test_a_request_never_waits_in_the_downloader_for_a_file_that_has_yet_to_come_there(project: Project) -> None:
    """The pipeline's first attempt fails; the request for the same path, in the same slot of one place, comes next."""
    project.write_spider(MIXED)
    with FaultyOrigin({"a.bin": in_turn(status(503, headers={"Retry-After": "1"}), good)}, resource=BODY) as origin:
        items = project.crawl(site(origin))
        (files,) = [item["files"] for item in items if item["files"]]
        assert files[0]["checksum"] == MD5
        told = [item["got"] for item in items if "got" in item]
        assert "complete" in told
        assert any("BulkFilesPipeline is fetching it already" in text for text in told)
