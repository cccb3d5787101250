"""`Request(url, meta={"bulk": {"path": "x.bin"}})` from any spider of any project: the file is there when it calls back."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from support.crawl import sha256
from support.faults import cut_after, in_turn, redirect_to, status
from support.faulty import Exchange, FaultyOrigin, good, make_body
from support.holding import Holds, stall_until
from support.messages import check_error
from support.project import PAGE, Project, stat

BODY = make_body(300_000)

ONE_OF_EACH = """
    bulk = {}

    async def start(self):
        for path, url, more in __import__("json").loads(self.files):
            yield scrapy.Request(
                self.site + url, callback=self.got, errback=self.failed, dont_filter=True,
                meta={"bulk": {"path": path, **more}}, cb_kwargs={"path": path},
            )

    def got(self, response, path):
        result = response.meta["bulk"]["result"]
        return {**result, "name": path, "http": response.status, "body": len(response.body), "flags": response.flags}

    def failed(self, failure):
        response = getattr(failure.value, "response", None)
        bulk = failure.request.meta["bulk"]
        yield {
            "name": failure.request.cb_kwargs["path"],
            "exception": type(failure.value).__name__,
            "message": str(failure.value),
            "http": response.status if response else None,
            "result": bulk.get("result") if isinstance(bulk, dict) else None,
            "retries": failure.request.meta.get("retry_times"),
        }
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "shop")
    project.write_spider(ONE_OF_EACH)
    return project


def files(*wanted: tuple[str, str, dict[str, object]]) -> str:
    return f"files={json.dumps(wanted)}"


def by_name(items: list[dict[str, object]]) -> dict[str, dict[str, object]]:
    assert len({item["name"] for item in items}) == len(items)
    return {str(item["name"]): item for item in items}


def test_files_are_streamed_proven_and_named_before_the_callback_and_known_to_the_next_run(project: Project) -> None:
    with FaultyOrigin({"a.bin": good, "b.bin": good, "moved.bin": redirect_to("/a.bin")}, resource=BODY) as origin:
        wanted = files(
            ("a.bin", "/a.bin", {}),
            ("deep/b.bin", "/b.bin", {"sha256": sha256(BODY), "size": len(BODY)}),
            ("moved.bin", "/moved.bin", {"md5": hashlib.md5(BODY).hexdigest()}),
        )
        rows = by_name(project.crawl(origin.url("").rstrip("/"), "-a", wanted))
        store = project.folder / "output"
        for name, proof in (("a.bin", "complete"), ("deep/b.bin", "verified"), ("moved.bin", "verified")):
            row = rows[name]
            assert (store / name).read_bytes() == BODY
            assert (row["http"], row["body"], row["flags"]) == (200, 0, ["bulk"])
            assert (row["status"], row["already"], row["size"]) == (proof, False, len(BODY))
            assert row["path"] == str(store / name)
            assert row["bytes_received"] == len(BODY)
            assert row["etag"] == '"v1"'
        assert rows["deep/b.bin"]["sha256"] == sha256(BODY)
        assert stat(project.log, "bulk/files/verified") == 2
        assert {request.headers["accept-encoding"] for request in origin.requests} == {"identity"}
        assert {request.headers["accept"] for request in origin.requests} == {"*/*"}

        asked = len(origin.requests)
        again = by_name(project.crawl(origin.url("").rstrip("/"), "-a", wanted))
        assert len(origin.requests) == asked
        for name, row in again.items():
            assert (row["already"], row["http"], row["status"]) == (True, 200, rows[name]["status"])
            assert row["path"] == rows[name]["path"]
        assert "Traceback" not in project.log


def test_failures_are_scrapys_own(project: Project) -> None:
    with FaultyOrigin({"html": good}, resource=BODY) as origin:
        origin.add("gone.bin", status(404))
        origin.add("busy.bin", in_turn(status(503), good))
        origin.add("cut.bin", in_turn(*[cut_after(30_000 * n, "reset") for n in range(1, 8)], good))
        origin.add("dead.bin", cut_after(0, "reset"))
        origin.add("page.bin", status(200, body=PAGE % b"login"))
        for name in ("wrong.bin", "typo.bin", "out.bin"):
            origin.add(name, good)
        rows = by_name(
            project.crawl(
                origin.url("").rstrip("/"),
                "-a",
                files(
                    *((f"{name}.bin", f"/{name}.bin", {}) for name in ("gone", "busy", "cut", "dead", "page")),
                    ("wrong.bin", "/wrong.bin", {"sha256": "0" * 64}),
                    ("typo.bin", "/typo.bin", {"sha265": "0" * 64}),
                    ("../out.bin", "/out.bin", {}),
                ),
            )
        )
        told = {name: row.get("exception") for name, row in rows.items()}
        assert told == {
            "gone.bin": "HttpError",
            "busy.bin": None,
            "cut.bin": None,
            "dead.bin": "ResponseDataLossError",
            "page.bin": "DownloadFailedError",
            "wrong.bin": "DownloadFailedError",
            "typo.bin": "NotSupported",
            "../out.bin": "NotSupported",
        }, project.log
        assert rows["gone.bin"]["http"] == 404
        for name in ("busy.bin", "cut.bin"):
            assert (project.folder / "output" / name).read_bytes() == BODY
        # Attempts that brought something do not count against RETRY_TIMES; each one goes on where the last one ended.
        assert len(origin.requests_for("cut.bin")) > 4
        assert origin.requests_for("cut.bin")[-1].range is not None
        assert len(origin.requests_for("dead.bin")) == 3
        assert len(origin.requests_for("wrong.bin")) == 2, "a refuted file is worth one more attempt"
        assert not (project.folder / "output" / "wrong.bin").exists()
        assert "did you mean sha256?" in str(rows["typo.bin"]["message"])
        assert "would leave the output folder" in str(rows["../out.bin"]["message"])
        assert origin.requests_for("typo.bin") == origin.requests_for("out.bin") == []
        # Counted when nobody tries again; what is no proper request is no entry.
        counted = {name: stat(project.log, f"bulk/{name}") for name in ("entries", "files/complete", "files/failed")}
        assert counted == {"entries": 6, "files/complete": 2, "files/failed": 4}
        assert [stat(project.log, f"bulk/failed/{code}") for code in ("http_404", "lost", "html")] == [1, 1, 1]
        assert stat(project.log, "bulk/failed/digest_mismatch") == 1


def test_two_requests_for_one_path_are_one_transfer_and_two_urls_are_an_error(project: Project) -> None:
    project.write_spider(ONE_OF_EACH.replace('"name": path', '"name": path + response.url[-2:]'))

    def slow(exchange: Exchange) -> None:
        # Answered only when the other URL, which wants the same path, has had its turn and failed.
        stall_until(exchange, lambda: len(origin.requests_for("pages")) > 0)
        good(exchange)

    with FaultyOrigin({"a.bin": slow, "b.bin": good, "pages": good}, resource=BODY) as origin:
        wanted = files(
            ("x.bin", "/a.bin?1", {}), ("x.bin", "/a.bin?1", {}), ("x.bin", "/b.bin?2", {}), ("p.bin", "/pages?3", {})
        )
        items = project.crawl(origin.url("").rstrip("/"), "-a", wanted)
        assert [len(origin.requests_for(name)) for name in ("a.bin", "b.bin", "pages")] == [1, 0, 1], project.log
        same = [item for item in items if item["name"] == "x.bin?1"]
        assert sorted(item["already"] for item in same) == [False, True]
        (refused,) = [item for item in items if "exception" in item]
        assert refused["exception"] == "DownloadCancelledError"
        check_error({"code": "two_urls", "message": refused["message"]})


def test_an_interrupted_request_goes_on_in_the_next_run(project: Project) -> None:
    store = project.folder / "store"
    half = Holds(150_000, store / "a.bin.part")
    with FaultyOrigin(resource=BODY) as origin:
        origin.add("a.bin", half.behaviour())
        settings = {"FILES_STORE": "elsewhere", "BULK_STORE": "store", "BULK_STALL_TIMEOUT": 60}
        wanted = files(("a.bin", "/a.bin", {"sha256": sha256(BODY)}))
        process = project.start(origin.url("").rstrip("/"), "-a", wanted, **settings)
        half.wait()
        (row,) = project.stop(process)
        assert row["exception"] == "DownloadCancelledError"
        assert row["result"]["status"] == "interrupted"
        (row,) = project.crawl(origin.url("").rstrip("/"), "-a", wanted, **settings)
        assert (row["status"], row["resumed_from"]) == ("verified", 150_000), row
        assert (store / "a.bin").read_bytes() == BODY
        first, second = origin.requests_for("a.bin")
        assert first.range is None
        assert second.range == (150_000 - 64 * 1024, None)


def test_cache_compression_throttle_and_cookies_do_no_harm(project: Project) -> None:
    with FaultyOrigin(resource=BODY) as origin:
        origin.add("a.bin", good)
        wanted = files(("a.bin", "/a.bin", {}))
        settings = {"HTTPCACHE_ENABLED": True, "AUTOTHROTTLE_ENABLED": True, "AUTOTHROTTLE_START_DELAY": 0.01}
        settings |= {"DOWNLOAD_MAXSIZE": 1000, "DOWNLOAD_TIMEOUT": 30}
        (row,) = project.crawl(origin.url("").rstrip("/"), "-a", wanted, **settings)
        assert row["status"] == "complete", project.log
        (project.folder / "output" / "a.bin").unlink()
        (row,) = project.crawl(origin.url("").rstrip("/"), "-a", wanted, **settings)
        assert (row["status"], row["already"]) == ("complete", False), "an answer without a body came from the cache"
        assert (project.folder / "output" / "a.bin").read_bytes() == BODY


def test_a_crawl_finds_the_files_and_the_spider_bulk_fetches_them(project: Project) -> None:
    project.write_spider("""
    async def start(self):
        yield scrapy.Request(self.site + "/page.html")

    def parse(self, response):
        from bulkspider import BulkItem

        for number, link in enumerate(response.css("a::attr(href)").getall()):
            url = response.urljoin(link)
            name = "files" + link
            yield {"name": name, "url": url} if number else BulkItem(name=name, url=url)
""")
    links = b"".join(b'<a href="/%d.bin">x</a>' % n for n in range(3))
    with FaultyOrigin({f"{n}.bin": good for n in range(3)}, resource=BODY) as origin:
        origin.add("page.html", status(200, body=PAGE % links))
        project.scrapy("crawl", "shop", "-a", f"site={origin.url('').rstrip('/')}", "-O", "found.jsonl")
        log = project.scrapy("crawl", "bulk", "-a", "list=found.jsonl")
        assert "3 entries: 3 complete" in log
        assert all((project.folder / "output/found/files" / f"{n}.bin").read_bytes() == BODY for n in range(3))
