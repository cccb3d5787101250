"""`response.meta["bulk"]["result"]` is there whatever a middleware did, with types as `bulkspider.Result`, and nobody's
request shares it with another."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from scrapy import Request

from bulkspider import BulkItem, Result
from bulkspider.components.identity import identify, tell
from support.faults import in_turn, status
from support.faulty import FaultyOrigin, good, make_body
from support.project import Project, stat

BODY = make_body(50_000)

MIDDLEWARES = """
from scrapy import Request
from scrapy.exceptions import IgnoreRequest
from scrapy.http import Response

stored = Response("http://example.org/", request=Request("http://example.org/"))


class Meddler:
    def process_request(self, request):
        what = request.url.rpartition("/")[2]
        if what == "answered":
            return Response(request.url, body=b"from a cache")
        if what == "stored":
            return stored.replace(request=stored.request.replace(callback=request.callback, cb_kwargs=request.cb_kwargs))
        if what == "ignored":
            raise IgnoreRequest("not today")
        if what == "broken":
            raise ZeroDivisionError("oh")
        if what == "replaced":
            return request.replace(url=request.url.replace("replaced", "other"), meta={**request.meta})
        if what == "later" and request.meta.get("retry_times"):
            return Response(request.url)

    def process_response(self, request, response):
        return response.replace(status=200) if request.url.endswith("gone") else response

    def process_exception(self, request, exception):
        if isinstance(exception, ZeroDivisionError):
            return Response(request.url)


class Early:
    def process_request(self, request):
        if request.url.endswith("early"):
            return Response(request.url)
"""
SPIDER = """
    async def start(self):
        for name in ("good", "answered", "stored", "ignored", "broken", "replaced", "later", "early", "gone"):
            yield scrapy.Request(
                self.site + "/" + name, self.got, errback=self.got,
                meta={"bulk": {"path": name}}, cb_kwargs={"name": name},
            )
        for name, bulk in (("pathless", {}), ("typo", {"path": "x", "sha": "1"})):
            yield scrapy.Request(self.site + "/" + name, errback=self.got, meta={"bulk": bulk}, cb_kwargs={"name": name})
        yield scrapy.Request("ftp://127.0.0.1/x", errback=self.got, meta={"bulk": {"path": "ftp"}}, cb_kwargs={"name": "ftp"})

    def got(self, told, name=None):
        from bulkspider import Result

        request = getattr(told, "request", None)
        result = Result.from_meta(request.meta if name is None else told.meta)
        yield {"name": name or request.cb_kwargs["name"], "status": result.status, "code": result.error and result.error["code"], "ok": result.ok}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "shop")


def test_there_is_a_result_whatever_a_middleware_did(project: Project) -> None:
    (project.folder / "shop" / "middlewares.py").write_text(MIDDLEWARES)
    project.write_spider(SPIDER)
    middlewares = {"shop.middlewares.Meddler": 560, "shop.middlewares.Early": -5}
    with FaultyOrigin(
        {"good": good, "other": good, "later": in_turn(status(503), good), "gone": status(404)},
        resource=BODY,
    ) as origin:
        items = project.crawl(origin.url("").rstrip("/"), DOWNLOADER_MIDDLEWARES=middlewares)
    assert {item["name"]: (item["status"], item["code"]) for item in items} == {
        "good": ("complete", None),
        "answered": ("failed", "middleware"),
        "stored": ("failed", "middleware"),
        "ignored": ("failed", "ignored"),
        "broken": ("failed", "middleware"),
        "replaced": ("complete", None),
        "later": ("failed", "middleware"),
        "early": ("failed", "middleware"),
        "gone": ("failed", "http_404"),
        "pathless": ("failed", "bad_line"),
        "typo": ("failed", "bad_line"),
        "ftp": ("failed", "bad_url"),
    }, project.log
    assert {item["name"] for item in items if item["ok"]} == {"good", "replaced"}
    assert stat(project.log, "bulk/entries") == 9
    assert stat(project.log, "bulk/files/failed") == 7
    assert "Traceback" not in project.log


def test_what_is_told_of_one_request_is_not_told_of_another() -> None:
    bulk = {"path": "x.bin"}
    one, two = (Request(f"http://h/{name}", meta={"bulk": bulk}) for name in "ab")
    identify(one)
    identify(two)
    tell(one, BulkItem(status="failed", path="/x.bin", error={"code": "lost"}))
    assert bulk == {"path": "x.bin"}
    assert "result" not in two.meta["bulk"]

    # A second attempt is told afresh; who still looks at the first one sees what that was told.
    again = one.copy()
    identify(again)
    tell(again, BulkItem(status="complete", path="/x.bin", checksums={"md5": "0"}))
    assert Result.from_meta(one.meta).status == "failed"
    assert Result.from_meta(again.meta).ok
    assert not Result.from_meta(one.meta).ok
    assert pickle.loads(pickle.dumps(again.meta)) == again.meta

    # The same meta, handed on to another URL, is the other's.
    other = Request("http://h/c", meta=again.meta)
    identify(other)
    assert "result" not in other.meta["bulk"]
    with pytest.raises(KeyError):
        Result.from_meta(other.meta)
