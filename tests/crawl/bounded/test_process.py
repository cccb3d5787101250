"""What a process lends to a crawl: memory, handlers of signals, descriptors. All of it is given back."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scrapy import Request, Spider
from scrapy.downloadermiddlewares import cookies
from scrapy.downloadermiddlewares.cookies import CookiesMiddleware
from scrapy.utils.test import get_crawler

from bulkspider.components.cookies import BulkCookiesMiddleware, suffixes
from support.crawl import QUICK, Bulk
from support.faults import in_turn, needs_header, redirect_to, status
from support.faulty import FaultyOrigin, good, make_body
from support.project import Project

COOKIES = "scrapy.downloadermiddlewares.cookies.CookiesMiddleware"
SABOTAGE = Path(__file__).parents[2] / "support" / "sabotage"

MANY_CRAWLS = """
import gc, json, os, signal, sys, threading, weakref

from scrapy import Request, Spider
from scrapy.crawler import CrawlerRunner
from scrapy.settings import Settings
from scrapy.utils.reactor import install_reactor

install_reactor("twisted.internet.asyncioreactor.AsyncioSelectorReactor")
from twisted.internet import defer, reactor

from bulkspider.spiders.bulk import BulkSpider

site, folder, many = sys.argv[1], sys.argv[2], int(sys.argv[3])
settings = json.loads(sys.argv[4])


class Shop(Spider):
    name = "shop"

    async def start(self):
        yield Request(site + "shop.bin", meta={"bulk": {"path": f"shop/{self.number}.bin"}}, callback=self.parse)

    def parse(self, response):
        return {"file_urls": [site + f"shop{self.number}.bin"]}


def handlers():
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}


def ended(number, frame):
    pass


for number in handlers():
    signal.signal(number, ended)
seen, known = {"rss": [], "fds": [], "threads": []}, []


@defer.inlineCallbacks
def crawl_all():
    before = handlers()
    for number in range(many):
        runner = CrawlerRunner(Settings(settings))
        crawler = runner.create_crawler(BulkSpider if number % 2 else Shop)
        known.append(weakref.ref(crawler))
        if number % 2:
            arguments = {"output": os.path.join(folder, f"out{number}")}
            if number % 4 == 1:
                arguments["list"] = os.path.join(folder, "list.txt")
            else:
                arguments["entries"] = iter([{"name": name, "url": site + name} for name in ("a.bin", "b.bin")])
        else:
            arguments = {"number": number}
        yield runner.crawl(crawler, **arguments)
        stats = crawler.stats.get_stats()
        assert stats.get("bulk/files/complete", 0) == 2, stats
        del runner, crawler, stats
        gc.collect()
        with open("/proc/self/statm") as statm:
            seen["rss"].append(int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        seen["fds"].append(len(os.listdir("/proc/self/fd")))
        seen["threads"].append(sum(thread.name.startswith("bulk-") for thread in threading.enumerate()))
    seen["handlers"] = handlers() == before


def report(result):
    if result is not None:
        result.printTraceback()
    reactor.callLater(0, reactor.stop)


crawl_all().addBoth(report)
reactor.run(installSignalHandlers=False)
gc.collect()
seen["alive"] = sum(crawler() is not None for crawler in known)
seen["frozen"] = gc.get_freeze_count()
print(json.dumps(seen))
"""

CRAWLS = 50


def test_fifty_crawls_in_one_process_leave_nothing_behind(tmp_path: Path) -> None:
    with FaultyOrigin(default=good, resource=make_body(200_000)) as origin:
        entries = "".join(f"{name}.bin {origin.url(name)}\n" for name in "ab")
        (tmp_path / "list.txt").write_text("name url\n" + entries)
        settings: dict[str, Any] = {
            **QUICK,
            "ADDONS": {"bulkspider.Addon": 500},
            "ITEM_PIPELINES": {"scrapy.pipelines.files.FilesPipeline": 1},
            "FILES_STORE": str(tmp_path / "store"),
            "TELNETCONSOLE_ENABLED": False,
        }
        (tmp_path / "many.py").write_text(MANY_CRAWLS)
        done = subprocess.run(
            [sys.executable, "many.py", origin.url(""), str(tmp_path), str(CRAWLS), json.dumps(settings)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONWARNINGS": "default"},
            capture_output=True,
            text=True,
            timeout=110,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout, done.stderr
    seen = json.loads(done.stdout)
    assert seen["alive"] == 0
    assert seen["handlers"]
    assert seen["frozen"] == 0
    # What the first crawls have brought in stays; nothing comes to it.
    assert max(seen["fds"][9:]) <= max(seen["fds"][:9]), seen["fds"]
    assert not any(seen["threads"]), seen["threads"]
    assert seen["rss"][-1] - seen["rss"][9] < 8 << 20, [rss >> 10 for rss in seen["rss"]]


# --- Nobody is asked but the origins ----------------------------------------------------------------------------------


def behind_a_wall(folder: Path) -> dict[str, str]:
    """The environment of a crawl from which no packet gets out, with no cache of anything. `outside(folder)` is what it
    asked for nevertheless."""
    return {
        "PYTHONPATH": str(SABOTAGE),
        "SABOTAGE": json.dumps({"outside": True}),
        "SABOTAGE_LOG": str(folder / "outside.log"),
        "HOME": str(folder / "home"),
        "XDG_CACHE_HOME": str(folder / "home"),
        "TLDEXTRACT_CACHE": str(folder / "home" / "suffixes"),
    }


def outside(folder: Path) -> str:
    log = folder / "outside.log"
    return log.read_text() if log.exists() else ""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


SET_COOKIE = {"Set-Cookie": "pass=yes; Path=/"}


def test_a_run_asks_nobody_but_its_origins(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cookie, for whose sake a list of public suffixes was fetched, and metrics, for which this machine's name was
    looked up."""
    body = make_body(100_000)
    with FaultyOrigin(default=good, resource=body) as origin, monkeypatch.context() as environment:
        for name, value in behind_a_wall(bulk.folder).items():
            environment.setenv(name, value)
        origin.add("first.bin", redirect_to("/second.bin", headers=SET_COOKIE))
        origin.add("second.bin", needs_header("Cookie", "pass=yes"), body)
        bulk.write_list({"a.bin": origin.url("first.bin"), "b.bin": origin.url("other.bin")})
        ended = bulk.run(
            settings={"BULK_METRICS_PORT": str(free_port()), "BULK_METRICS_HOST": "0.0.0.0"},
            timeout=40,
        )
        assert ended.status == 0, ended.log
        assert "metrics: " in ended.log
        assert ended.file("a.bin") == body
        dry = subprocess.run(
            [sys.executable, "-m", "scrapy", "bulk", "list.txt", "--dry-run"],
            cwd=bulk.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert dry.returncode == 0, dry.stderr
    assert outside(bulk.folder) == ""


@pytest.mark.parametrize("placed", [False, True])
def test_in_another_project_files_with_cookies_ask_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, placed: bool
) -> None:
    """placed: the project itself says where Scrapy's middleware stands."""
    project = Project(tmp_path / "shop")
    project.write_spider(
        """
    async def start(self):
        yield scrapy.Request(self.site + "first.bin", meta={"bulk": {"path": "a.bin"}}, callback=self.parse)

    def parse(self, response):
        yield {"file_urls": [self.site + "third.bin"]}
"""
    )
    body = make_body(100_000)
    settings: dict[str, Any] = {"DOWNLOADER_MIDDLEWARES": {COOKIES: 650}} if placed else {}
    with FaultyOrigin(default=good, resource=body) as origin, monkeypatch.context() as environment:
        for name, value in behind_a_wall(tmp_path).items():
            environment.setenv(name, value)
        origin.add("first.bin", redirect_to("/second.bin", headers=SET_COOKIE))
        origin.add("second.bin", needs_header("Cookie", "pass=yes"), body)
        origin.add("third.bin", needs_header("Cookie", "pass=yes"), body)
        (item,) = project.crawl(
            origin.url(""),
            ITEM_PIPELINES={"scrapy.pipelines.files.FilesPipeline": 1},
            FILES_STORE=str(tmp_path / "files"),
            timeout=40,
            **settings,
        )
    assert [file["status"] for file in item["files"]] == ["downloaded"]
    assert (tmp_path / "files" / "a.bin").read_bytes() == body
    assert outside(tmp_path) == ""


def test_the_project_s_own_requests_are_judged_as_ever() -> None:
    """Scrapy's own list for them, ours for files; whichever asked last."""
    crawler = get_crawler(Spider)
    crawler._apply_settings()
    middleware = BulkCookiesMiddleware.from_crawler(crawler)
    theirs, asked = cookies._split_domain, []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(CookiesMiddleware, "process_request", lambda *_: asked.append(cookies._split_domain))
        for meta in ({}, {"bulk": {"path": "a.bin"}}, {}):
            middleware.process_request(Request("http://a.example/", meta=meta))
    assert asked == [theirs, suffixes(), theirs]
    assert suffixes()("x.a.co.uk").suffix == "co.uk"


# --- Open files -------------------------------------------------------------------------------------------------------


def limited(command: list[str], soft: int, hard: int) -> list[str]:
    """The command with so many open files."""
    return ["bash", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"', "bash", *command]


def test_few_open_files_mean_fewer_transfers_at_once_and_that_is_said_once(bulk: Bulk) -> None:
    """Large files, small ones alone, and small ones in batches."""
    big, small = make_body(5_000_000), make_body(20_000)
    bodies = {f"{number}.bin": big if number % 4 == 0 else small for number in range(80)}
    with FaultyOrigin({name: (good, body) for name, body in bodies.items()}) as origin:
        bulk.write_list({name: origin.url(name) for name in bodies})
        command = [sys.executable, "-m", "scrapy", "bulk", "list.txt", "-o", "out", "-j", "64"]
        for more in (["--dry-run"], []):
            done = subprocess.run(
                limited([*command, *more], 64, 64), cwd=bulk.folder, capture_output=True, text=True, timeout=100
            )
            assert done.returncode == 0, done.stderr
            (said,) = [line for line in done.stderr.splitlines() if "transfers at once, not 64" in line]
            assert "only 64 open files" in said
    for name, body in bodies.items():
        assert (bulk.output / name).read_bytes() == body


FRESH = """
import os, resource, subprocess

def fresh(entry):
    with open("limits", "w") as file:
        file.write(f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]} ")
        file.write(subprocess.run(["sh", "-c", "ulimit -n"], capture_output=True, text=True).stdout)
        file.flush()
        child = os.fork()
        if not child:
            os.write(file.fileno(), str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]).encode())
            os._exit(0)
        os.waitpid(child, 0)
    return entry.url + "?fresh"
"""


def test_our_commands_raise_the_soft_limit_and_their_children_get_the_old_one(bulk: Bulk) -> None:
    (bulk.folder / "fresh.py").write_text(FRESH)
    body = make_body(100_000)
    with FaultyOrigin({"a.bin": (in_turn(status(403), good), body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        command = [sys.executable, "-m", "scrapy", "bulk", "list.txt", "-o", "out", "-s", "BULK_FRESH_URL=fresh.fresh"]
        done = subprocess.run(limited(command, 100, 700), cwd=bulk.folder, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        assert "transfers at once, not" not in done.stderr
    assert (bulk.output / "a.bin").read_bytes() == body
    assert (bulk.folder / "limits").read_text().split() == ["700", "100", "100"]
