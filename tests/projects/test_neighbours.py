"""What else lives in a Scrapy project goes on beside our transfers: rules, cookies, caches, proxies, feeds, limits."""

from __future__ import annotations

import csv
import gzip
import json
import re
import resource
from pathlib import Path
from typing import Any

import pytest
from scrapy import signals
from scrapy.settings import default_settings

from support.asking import ASKING, STORE, ask
from support.faults import gzip_encoded, in_turn, needs_header, redirect_to, status
from support.faulty import Exchange, FaultyOrigin, good, make_body
from support.holding import Holds, size_of, stall_until
from support.project import PAGE, Project, stat
from support.proxy import Proxy, basic
from support.readme import table

BODY = make_body(300_000)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "shop")
    project.settings |= STORE
    project.write_spider(ASKING)
    return project


def stored(project: Project, name: str) -> bytes:
    return (project.folder / "output" / name).read_bytes()


HANDLER = """
import asyncio

from scrapy import signals
from scrapy.core.downloader.handlers.http11 import HTTP11DownloadHandler


class Rendering(HTTP11DownloadHandler):
    \"\"\"As a browser's: launched by a signal at the start, which takes a while, and its parent's for other requests.\"\"\"

    launched = False

    def __init__(self, crawler):
        super().__init__(crawler)
        crawler.signals.connect(self.launch, signals.engine_started)

    async def launch(self):
        await asyncio.sleep(0.6)
        self.launched = True

    async def download_request(self, request):
        assert self.launched
        self.crawler.stats.inc_value("rendering/" + ("bulk" if "bulk" in request.meta else "other"))
        return await super().download_request(request)
"""


def test_rules_identity_throttle_feeds_logs_and_another_handler_all_at_once(project: Project) -> None:
    (project.folder / "shop" / "other.py").write_text(HANDLER)
    project.write_spider('    allowed_domains = ["127.0.0.1"]\n' + ASKING)
    settings = {
        "ROBOTSTXT_OBEY": True,
        "AUTOTHROTTLE_ENABLED": True,
        "AUTOTHROTTLE_DEBUG": True,
        "AUTOTHROTTLE_START_DELAY": 0.3,
        "AUTOTHROTTLE_TARGET_CONCURRENCY": 8.0,  # a delay of an eighth of the latency, which is long on a busy machine
        "EXTENSIONS": {"scrapy.extensions.periodic_log.PeriodicLog": 0},
        "PERIODIC_LOG_DELTA": {"include": ["bulk/"]},
        "LOGSTATS_INTERVAL": 0.2,
        "FEEDS": {"all.csv": {"format": "csv"}, "all.xml": {"format": "xml"}},
        "DOWNLOAD_HANDLERS": {"http": "shop.other.Rendering"},
    }
    with (
        FaultyOrigin(default=good, resource=BODY, host="127.0.0.2") as far,
        FaultyOrigin(resource=BODY) as near,
    ):
        auth = {"USER": "user", "PASS": "secret", "DOMAIN": f"127.0.0.1:{near.port}"}
        arguments: list[str] = []
        if hasattr(default_settings, "HTTPAUTH_USER"):
            settings |= {f"HTTPAUTH_{name}": value for name, value in auth.items()}
        else:
            arguments = ["-a", "http_user=user", "-a", "http_pass=secret", "-a", f"http_auth_domain={auth['DOMAIN']}"]
        for origin in (near, far):
            origin.add("robots.txt", status(200, {"Content-Type": "text/plain"}, b"User-agent: *\nDisallow: /no/\n"))
        near.add(
            "login", status(200, {"Set-Cookie": "pass=yes; Path=/", "Content-Encoding": "gzip"}, gzip.compress(PAGE))
        )
        for name in ("mine.bin", "item.bin"):
            near.add(name, needs_header("Cookie", "pass=yes"))
        near.add("busy.bin", in_turn(status(503), good))
        near.add("moved.bin", redirect_to(far.url("target.bin")))
        near.add("packed.bin", gzip_encoded())
        todo: list[dict[str, Any]] = [
            {
                "url": near.url("login"),
                "files": [near.url("item.bin"), near.url("no/item.bin"), far.url("item.bin")],
                "then": [
                    {"url": near.url("mine.bin"), "path": "mine.bin"},
                    {"url": near.url("busy.bin"), "path": "busy.bin"},
                    {"url": near.url("moved.bin"), "path": "moved.bin", "meta": {"allow_offsite": True}},
                    {"url": near.url("packed.bin"), "path": "packed.bin"},
                    {"url": near.url("no/way.bin"), "path": "forbidden.bin"},
                    {"url": far.url("away.bin"), "path": "offsite.bin"},
                    {"url": "data:,text", "path": "data.bin", "meta": {"allow_offsite": True}},
                ],
            }
        ]
        items = project.crawl("", "-a", f"todo={json.dumps(todo)}", *arguments, **settings)
        rows = {item["name"]: item for item in items}
        assert rows["forbidden.bin"]["failed"] == "IgnoreRequest"
        assert rows["data.bin"]["failed"] == "NotSupported", "another handler would hold the file in memory"
        assert "offsite.bin" not in rows, "a request to another domain is dropped as any other"
        assert far.requests_for("away.bin") == near.requests_for("no/way.bin") == near.requests_for("no/item.bin") == []
        for name in ("mine.bin", "busy.bin", "moved.bin"):
            assert stored(project, name) == BODY, project.log
        assert gzip.decompress(stored(project, "packed.bin")) == BODY
        assert rows["packed.bin"]["result"]["flags"] == ["encoded"]

        page = rows[near.url("login")]
        assert page["body"] == len(PAGE), "a compressed page is still unpacked"
        assert [file["url"] for file in page["files"]] == [near.url("item.bin"), far.url("item.bin")]
        assert "robots.txt forbids it" in project.log
        assert stat(project.log, "retry/count") == 1

        assert {request.headers.get("authorization") for request in near.requests} == {basic("user:secret")}
        for request in far.requests:
            assert not {"authorization", "cookie"} & set(request.headers)
        delays = re.findall(r"slot: (bulk:)?127.0.0.1 \| conc:.* \| delay: *(\d+) ms", project.log)
        assert {slot for slot, _ in delays} == {"", "bulk:"}, "AutoThrottle sees files, too"
        assert int([delay for slot, delay in delays if slot][-1]) < 300, "it lets files go faster than it began"
        assert '"bulk/bytes_received"' in project.log.split("[scrapy.extensions.periodic_log]")[-1]
        assert "Telnet console listening" in project.log
        assert stat(project.log, "rendering/other") == 2, "robots.txt and the page"
        assert "rendering/bulk" not in project.log
        with (project.folder / "all.csv").open() as feed:
            assert {row["name"] for row in csv.DictReader(feed)} == set(rows)
        assert (project.folder / "all.xml").read_text().count("<item>") == len(rows)
        assert "spider_exceptions" not in project.log


def test_a_page_in_the_cache_is_not_taken_for_the_file_and_pages_come_from_it_as_ever(project: Project) -> None:
    settings = {"HTTPCACHE_ENABLED": True}
    with FaultyOrigin({"a.bin": good, "b.bin": good}, resource=BODY) as origin:
        pages = [{"url": origin.url(name)} for name in ("a.bin", "b.bin")]
        assert all(row["body"] == len(BODY) for row in ask(project, *pages, **settings).values())
        asked = len(origin.requests)
        rows = ask(
            project,
            {"url": origin.url("a.bin"), "path": "a.bin"},
            {"url": origin.url("b.bin"), "files": [origin.url("b.bin")]},
            **settings,
        )
        assert rows["a.bin"]["result"]["status"] == "complete"
        assert stored(project, "a.bin") == BODY
        page = rows[origin.url("b.bin")]
        assert page["flags"] == ["cached"]
        assert stored(project, page["files"][0]["path"]) == BODY
        assert len(origin.requests) == asked + 2
        assert {row["flags"][0] for row in ask(project, *pages, **settings).values()} == {"cached"}


def test_a_proxy_serves_files_as_it_serves_pages(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        Proxy("someone:hidden") as proxy,
        FaultyOrigin(default=good, resource=BODY) as plain,
        FaultyOrigin(default=good, resource=BODY, tls=True) as tls,
    ):
        rows = ask(
            project,
            *(
                {"url": origin.url(name), "meta": {"proxy": proxy.url}, **more}
                for origin, scheme in ((plain, "http"), (tls, "https"))
                for name, more in (("page", {}), (f"{scheme}.bin", {"path": f"{scheme}.bin"}))
            ),
        )
        assert rows[plain.url("page")]["body"] == rows[tls.url("page")]["body"] == len(BODY)
        assert stored(project, "http.bin") == stored(project, "https.bin") == BODY
        asked = sorted(head.split(b"\r\n")[0].decode() for head in proxy.heads)
        tunnel = f"CONNECT 127.0.0.1:{tls.port} HTTP/1.1"
        plain_ones = [f"GET {plain.url(name)} HTTP/1.1" for name in ("http.bin", "page")]
        assert [line for line in asked if line.startswith("GET")] == plain_ones
        assert {line for line in asked if line.startswith("CONNECT")} == {tunnel}
        assert all("proxy-authorization" not in request.headers for request in tls.requests)


def test_jobdir_keeps_what_waits_and_what_was_interrupted(project: Project) -> None:
    settings = {"JOBDIR": "job", "CONCURRENT_REQUESTS": 1, "BULK_STALL_TIMEOUT": 60}
    held = Holds(150_000, project.folder / "output" / "a.bin.part")
    with FaultyOrigin({"a.bin": held.behaviour(), "b.bin": good, "c.bin": good}, resource=BODY) as origin:
        todo = json.dumps([{"url": origin.url(name), "path": name} for name in ("a.bin", "b.bin", "c.bin")])
        process = project.start("", "-a", f"todo={todo}", **settings)
        held.wait()
        assert project.stop(process) == []
        assert [request.path for request in origin.requests] == ["/a.bin"]
        items = project.crawl("", "-a", f"todo={todo}", **settings)
        rows = {item["name"]: item["result"] for item in items}
        assert sorted(item["name"] for item in items) == ["a.bin", "b.bin", "c.bin"], project.log
        assert (rows["a.bin"]["resumed_from"], rows["a.bin"]["attempts"]) == (150_000, 1)
        assert all(stored(project, name) == BODY for name in rows)
        assert origin.requests_for("a.bin")[1].range == (150_000 - 64 * 1024, None)
        assert project.crawl("", "-a", f"todo={todo}", **settings) == []


@pytest.mark.parametrize("why", ["closespider_itemcount", "memusage_exceeded"])
def test_what_closes_a_spider_ends_transfers_at_once(project: Project, why: str) -> None:
    """The page that leads to the end is answered when the request's file and the item's are half on disk; items' files
    are given no time."""
    folder = project.folder / "output"
    bare = Holds(150_000, folder / "a.bin.part")
    with FaultyOrigin(resource=BODY) as origin:
        origin.add("a.bin", bare.behaviour())
        origin.add("b.bin", Holds(150_000, folder / "b.bin.part").behaviour())
        page = status(200, body=PAGE)

        def late(exchange: Exchange) -> None:
            stall_until(exchange, lambda: all(size_of(folder / f"{name}.bin.part") >= 150_000 for name in "ab"))
            page(exchange)

        origin.add("late", late)
        settings: dict[str, Any] = {"BULK_STALL_TIMEOUT": 60, "CLOSESPIDER_ITEMCOUNT": 1, "BULK_STOP_PATIENCE": 0}
        memory = 0
        if why.startswith("memusage"):
            # A process begins with the peak of the one that started it.
            limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 + 100
            memory = limit * 1024 * 1024
            settings |= {"CLOSESPIDER_ITEMCOUNT": 0, "MEMUSAGE_LIMIT_MB": limit, "MEMUSAGE_CHECK_INTERVAL_SECONDS": 0.1}
        (project.folder / "shop" / "pipelines.py").write_text(
            "from bulkspider import BulkFilesPipeline\n\n\nclass Named(BulkFilesPipeline):\n"
            "    def file_path(self, request, response=None, info=None, *, item=None):\n"
            "        return request.url.rpartition('/')[2]\n"
        )
        rows = ask(
            project,
            {"url": origin.url("a.bin"), "path": "a.bin"},
            {"url": "data:,page", "files": [origin.url("b.bin")]},
            {"url": origin.url("late"), "memory": memory},
            ITEM_PIPELINES={"shop.pipelines.Named": 1},
            **settings,
        )
        assert f"'finish_reason': '{why}'" in project.log
        assert rows["a.bin"]["failed"] == "DownloadCancelledError"
        assert "data:,page" not in rows
        assert "An item is not exported" in project.log
        for name in "ab":
            assert size_of(folder / f"{name}.bin.part") >= 150_000
        assert stat(project.log, "bulk/files/interrupted") == stat(project.log, "bulk/entries") == 2


RECORDER = """
import json

from scrapy import signals
from scrapy.http import Request

KINDS = {"x.bin": "request", "y.bin": "item's file", "z.bin": "spider `bulk`"}


class Recorder:
    \"\"\"Writes down which signals were sent for which kind of transfer, or of item.\"\"\"

    @classmethod
    def from_crawler(cls, crawler):
        recorder = cls()
        recorder.seen = set()
        recorder.receivers = [recorder.receiver(name) for name in vars(signals) if not name.startswith("_")]
        for name, receive in recorder.receivers:
            crawler.signals.connect(receive, getattr(signals, name))
        return recorder

    def receiver(self, name):
        def receive(request=None, item=None, **_):
            about = request.url if request is not None and "bulk" in request.meta else str(item or "")
            self.seen |= {(kind, name) for file, kind in KINDS.items() if file in about}
            if name == "spider_closed":
                with open("signals.jsonl", "a") as file:
                    file.writelines(json.dumps(pair) + "\\n" for pair in self.seen)

        return name, receive
"""


def test_the_signals_of_our_transfers_are_those_the_readme_names(project: Project) -> None:
    (project.folder / "shop" / "recorder.py").write_text(RECORDER)
    project.settings["EXTENSIONS"] = {"shop.recorder.Recorder": 0}
    with FaultyOrigin(default=good, resource=BODY) as origin:
        ask(
            project,
            {"url": "data:,page", "files": [origin.url("y.bin")]},
            {"url": origin.url("x.bin"), "path": "file.bin"},
        )
        (project.folder / "list.txt").write_text(f"name url\nz.bin {origin.url('z.bin')}\n")
        project.scrapy("crawl", "bulk", "-a", "list=list.txt")
    told = table("What it does among Scrapy's own parts", "signal")
    kinds = ("request", "item's file", "spider `bulk`")
    expected = {
        (kind, signal)
        for signal, cells in told.items()
        for kind, cell in zip(kinds, cells, strict=True)
        if cell == "yes"
    }
    seen = {tuple(json.loads(line)) for line in (project.folder / "signals.jsonl").read_text().splitlines()}
    assert seen == expected
    assert all(hasattr(signals, name) for name in told)
