"""What people use around a project: `scrapy list`, `scrapy shell`, Scrapyd; and other download handlers beside ours."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from support.crawl import QUICK
from support.faulty import FaultyOrigin, good, make_body
from support.holding import Holds
from support.project import Project, stat

BODY = make_body(200_000)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "shop")
    project.write_spider("    pass")
    return project


def test_the_list_of_spiders_and_the_shell_know_bulk(project: Project) -> None:
    assert project.scrapy("list").split() == ["bulk", "shop"]
    assert project.scrapy("list", ADDONS={}).split() == ["shop"]
    with FaultyOrigin({"a.bin": good}, resource=BODY) as origin:
        request = f'scrapy.Request("{origin.url("a.bin")}", meta={{"bulk": {{"path": "a.bin"}}}})'
        code = f'fetch({request}) or print(spider.name, response.meta["bulk"]["result"]["status"])'
        said = project.scrapy("shell", "--nolog", "--spider=bulk", "-c", code)
        assert said.split("\n")[0] == "bulk complete", said
        assert (project.folder / "output" / "a.bin").read_bytes() == BODY


OTHERS = """
    async def start(self):
        asks = [("playwright", True), ("impersonate", "chrome"), ("zyte_api", {"browserHtml": True}), ("zyte_api_automap", True)]
        # What asks for nothing in particular asks all the same, where the program that is asked takes it so.
        asks += [("zyte_api", {}), ("zyte_api_automap", {}), ("splash", {}), ("splash", {"args": {"wait": 1}})]
        for number, (key, value) in enumerate(asks):
            meta = {"bulk": {"path": f"{number}-{key}"}, key: value}
            yield scrapy.Request(f"{self.site}/{number}", meta=meta, callback=self.got, errback=self.got)
        meta = {"bulk": {"path": "good.bin"}, "playwright": False, "impersonate": "", "zyte_api": False, "zyte_api_automap": False}
        yield scrapy.Request(f"{self.site}/good.bin", meta=meta, callback=self.got, errback=self.got)
        yield scrapy.Request("data:,page", callback=self.files)

    def got(self, told):
        from bulkspider import Result

        request = getattr(told, "request", None)
        result = Result.from_meta(request.meta)
        yield {"path": request.meta["bulk"]["path"], "status": result.status, "error": str(getattr(told, "value", ""))}

    def files(self, response):
        yield {"file_urls": [self.site + "/item.bin"]}
"""
PIPELINE = """
import scrapy
from bulkspider import BulkFilesPipeline


class Mine(BulkFilesPipeline):
    def get_media_requests(self, item, info):
        return [scrapy.Request(url, meta={"impersonate": "chrome"}) for url in item.get("file_urls", ())]


class Chrome:
    def process_request(self, request):
        if "entry" in request.meta.get("bulk", ()):
            request.meta["impersonate"] = "chrome"


class Splash:
    # As scrapy-splash does where its key is, of all requests.
    def process_request(self, request):
        if request.method == "GET":
            meta = {**request.meta, "splash": {}}
            return request.replace(url=request.url + "/render", method="POST", body=b"{}", meta=meta)
"""


def test_other_handlers_keys_beside_ours_are_refused_and_said(project: Project) -> None:
    (project.folder / "shop" / "pipelines.py").write_text(PIPELINE)
    project.write_spider(OTHERS)
    with FaultyOrigin(default=good, resource=BODY) as origin:
        settings = {"ITEM_PIPELINES": {"shop.pipelines.Mine": 1}, "FILES_STORE": "files"}
        items = project.crawl(origin.url("").rstrip("/"), **settings)
        told = {item["path"]: item for item in items if "path" in item}
        assert "good.bin" in told, project.log
        assert told.pop("good.bin")["status"] == "complete"
        assert len(told) == 8
        for path, item in told.items():
            key = path.partition("-")[2]
            assert item["status"] == "failed"
            assert f'meta["{key}"] asks another program to load it' in item["error"]
        assert [item["files"] for item in items] == [[]] * 10
        assert 'meta["impersonate"] asks another program' in project.log
        assert [request.path for request in origin.requests] == ["/good.bin"]

        (project.folder / "list.txt").write_text(
            f"name url\na.bin {origin.url('a.bin')}\nb.bin {origin.url('b.bin')}\n"
        )
        said = project.scrapy(
            *("crawl", "bulk", "-a", "list=list.txt"), DOWNLOADER_MIDDLEWARES={"shop.pipelines.Chrome": 500}
        )
        assert said.count('meta["impersonate"] of a middleware changes nothing for the files of a list') == 1
        assert (project.folder / "output" / "list" / "b.bin").read_bytes() == BODY


def test_a_middleware_that_makes_another_request_of_it_brings_no_file(project: Project) -> None:
    """Small files first: several are asked for by one request."""
    (project.folder / "shop" / "pipelines.py").write_text(PIPELINE)
    with FaultyOrigin(default=good, resource=BODY) as origin:
        (project.folder / "list.txt").write_text(
            f"name url\na.bin {origin.url('a.bin')} size=10\nb.bin {origin.url('b.bin')} size=10\n"
        )
        said = project.scrapy(
            *("crawl", "bulk", "-a", "list=list.txt"), DOWNLOADER_MIDDLEWARES={"shop.pipelines.Splash": 500}
        )
        assert (
            said.count(f"failed: a.bin: a middleware has made another request of it: POST {origin.url('a.bin')}/render")
            == 1
        )
        assert said.count("[middleware]") == 4
        assert origin.requests == []
    assert not list((project.folder / "output" / "list").glob("*.bin"))


ZYTE = """
class Zyte:
    # What scrapy-zyte-api goes by, after all of the project's own middlewares.
    def process_request(self, request):
        request.meta["told"] = request.meta.get("zyte_api_automap")
"""


def test_a_setting_that_sends_all_requests_to_another_program_is_said_not_to_hold(project: Project) -> None:
    spider = """
    async def start(self):
        for name, more in (("a", {"zyte_api_automap": False}), *((name, {}) for name in self.names.split())):
            yield scrapy.Request(f"{self.site}/{name}", meta={"bulk": {"path": name}, **more})

    def parse(self, response):
        status = response.meta["bulk"]["result"]["status"]
        yield {"status": status, "said": response.meta["told"], "left": response.meta.get("zyte_api_automap")}
        if self.names:
            yield {"file_urls": [f"{self.site}/item.bin"]}
    """
    (project.folder / "shop" / "pipelines.py").write_text(ZYTE)
    project.write_spider(spider)
    with FaultyOrigin(default=good, resource=BODY) as origin:
        for names, times in (("", 0), ("b c", 1)):
            site = origin.url("").rstrip("/")
            items = project.crawl(
                *(site, "-a", f"names={names}"),
                ZYTE_API_TRANSPARENT_MODE=True,
                DOWNLOADER_MIDDLEWARES={"shop.pipelines.Zyte": 500},
                ITEM_PIPELINES={"scrapy.pipelines.files.FilesPipeline": 1},
                FILES_STORE="files",
            )
            told = [item for item in items if "status" in item]
            assert {(item["status"], item["said"]) for item in told} == {("complete", False)}
            # The meta may go on to a request for a page, which is loaded as all pages are.
            assert sorted(item["left"] is None for item in told) == [False] + [True] * len(names.split())
            assert {file["status"] for item in items for file in item["files"]} <= {"downloaded", "uptodate"}
            assert len([item for item in items if item["files"]]) == (len(told) if names else 0)
            assert project.log.count("ZYTE_API_TRANSPARENT_MODE does not hold for files") == times


class Scrapyd:
    """A server of its own for one project."""

    def __init__(self, project: Project) -> None:
        self.folder = project.folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (self.folder / "scrapyd.conf").write_text(
            f"[scrapyd]\nbind_address = 127.0.0.1\nhttp_port = {self.port}\nlogs_dir = logs\nitems_dir = items\n"
            f"dbs_dir = dbs\neggs_dir = eggs\npoll_interval = 0.2\n[settings]\nshop = shop.settings\n"
            "[services]\nschedule.json = scrapyd.webservice.Schedule\nstatus.json = scrapyd.webservice.Status\n"
            "cancel.json = scrapyd.webservice.Cancel\nlistspiders.json = scrapyd.webservice.ListSpiders\n"
        )
        self.log = (self.folder / "scrapyd.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scrapyd"],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder)},
            stdout=self.log,
            stderr=self.log,
        )

    def ask(self, service: str, **data: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}/{service}.json"
        if service in ("status", "listspiders"):
            url, body = f"{url}?{urllib.parse.urlencode(data)}", None
        else:
            body = urllib.parse.urlencode(data).encode()
        with urllib.request.urlopen(url, body, timeout=60) as answer:
            told: dict[str, Any] = json.load(answer)
        return told

    def until(self, service: str, **data: str) -> dict[str, Any]:
        """Asks until there is an answer."""
        ends = time.monotonic() + 60
        while True:
            try:
                return self.ask(service, **data)
            except OSError:
                assert time.monotonic() < ends, (self.folder / "scrapyd.log").read_text()
                time.sleep(0.1)

    def finished(self, job: str) -> None:
        ends = time.monotonic() + 60
        while self.ask("status", job=job, project="shop")["currstate"] != "finished":
            assert time.monotonic() < ends, (self.folder / "scrapyd.log").read_text()
            time.sleep(0.1)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


@pytest.mark.skipif(importlib.util.find_spec("scrapyd") is None, reason="needs scrapyd: pip install scrapyd")
def test_scrapyd_knows_bulk_runs_it_and_cancels_it(project: Project) -> None:
    project.scrapy("list")  # writes the settings
    # Scrapyd names the project.
    (project.folder / "scrapy.cfg").write_text("[settings]\ndefault = shop.settings\nshop = shop.settings\n")
    with (project.folder / "shop" / "settings.py").open("a") as file:
        file.writelines(f"{name} = {value!r}\n" for name, value in {**QUICK, "BULK_STALL_TIMEOUT": 60}.items())
    parts = project.folder / "out"
    held = Holds(100_000, parts / "held.bin.part")
    scrapyd = Scrapyd(project)
    try:
        with FaultyOrigin({"a.bin": good, "held.bin": held.behaviour()}, resource=BODY) as origin:
            assert scrapyd.until("listspiders", project="shop")["spiders"] == ["bulk", "shop"]
            lines = [f"{name} {origin.url(name)}" for name in ("a.bin", "held.bin")]
            (project.folder / "list.txt").write_text("\n".join(["name url", *lines]))
            arguments = {
                "project": "shop",
                "spider": "bulk",
                "list": str(project.folder / "list.txt"),
                "output": str(parts),
            }
            first = scrapyd.ask("schedule", **arguments)["jobid"]
            held.wait()
            scrapyd.ask("cancel", project="shop", job=first)
            scrapyd.finished(first)
            assert (parts / "held.bin.part").stat().st_size >= 100_000
            second = scrapyd.ask("schedule", **arguments)["jobid"]
            scrapyd.finished(second)
            log = (project.folder / "logs" / "shop" / "bulk" / f"{second}.log").read_text()
            assert (parts / "held.bin").read_bytes() == BODY, log
            assert origin.requests_for("held.bin")[-1].range is not None
            assert len(origin.requests_for("a.bin")) == 1
            assert stat(log, "bulk/bytes_resumed") >= 30_000
            rows = (project.folder / "items" / "shop" / "bulk" / f"{second}.jl").read_text().splitlines()
            assert {json.loads(row)["name"]: json.loads(row)["status"] for row in rows} == {
                "a.bin": "complete",
                "held.bin": "complete",
            }
    finally:
        scrapyd.close()
