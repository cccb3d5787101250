"""Settings and middlewares that a project has switched on, in the run of a list."""

from __future__ import annotations

import base64
from itertools import pairwise

import pytest

from support.crawl import Bulk, Ended
from support.faults import (
    cut_after,
    gzip_encoded,
    in_turn,
    redirect_to,
    trickle,
)
from support.faulty import FaultyOrigin, good, make_body

BODY = make_body(300_000)
HELD = 200_000


def codes(ended: Ended) -> dict[str, str | None]:
    return {row["name"]: row["error"] and row["error"]["code"] for row in ended.rows}


def test_netrc_is_for_its_own_host_and_does_not_follow_a_redirect(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = bulk.folder / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password s3cret\ndefault login who password no-one\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    known = "Basic " + base64.b64encode(b"me:s3cret").decode()
    with (
        FaultyOrigin(default=good, resource=BODY) as near,
        FaultyOrigin(default=good, resource=BODY, host="127.0.0.2") as far,
    ):
        near.add("away.bin", redirect_to(far.url("target.bin")))
        far.add("back.bin", redirect_to(near.url("home.bin")))
        bulk.write_list(
            {"a.bin": near.url("a.bin"), "away.bin": near.url("away.bin"), "far.bin": far.url("far.bin"), "back.bin": far.url("back.bin")}
        )  # fmt: skip
        ended = bulk.run(settings={"LOG_LEVEL": "DEBUG"})
        assert ended.status == 0, ended.log
        assert {request.headers.get("authorization") for request in near.requests} == {known}
        assert {request.headers.get("authorization") for request in far.requests} == {None}
        assert len(far.requests) == 3
        assert "s3cret" not in ended.log
        assert known.split()[1] not in ended.log


def test_robots_txt_is_honoured_when_the_project_says_so_and_the_row_says_it(bulk: Bulk) -> None:
    robots = b"User-agent: *\nDisallow: /private/\n"
    with FaultyOrigin({"robots.txt": (good, robots)}, default=good, resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("public/a.bin"), "b.bin": origin.url("private/b.bin")})
        ended = bulk.run(settings={"ROBOTSTXT_OBEY": "1"})
        assert ended.status == 4, ended.log
        error = ended.row("b.bin")["error"]
        assert (error["code"], error["permanent"]) == ("robots", True)
        assert "robots.txt" in error["message"]
        assert ended.file("a.bin") == BODY
        assert origin.requests_for("private/b.bin") == []
        assert bulk.run(settings={"ROBOTSTXT_OBEY": "0"}).status == 0


def test_a_robots_txt_behind_a_bad_certificate_is_told_in_one_sentence(bulk: Bulk) -> None:
    with FaultyOrigin(default=good, resource=BODY, tls="expired") as origin:
        bulk.write_list({"a.bin": origin.url("a.bin"), "b.bin": origin.url("b.bin")})
        ended = bulk.run(settings={"ROBOTSTXT_OBEY": "1"})
    assert ended.status == 4, ended.log
    assert {row["error"]["code"] for row in ended.rows} == {"tls_verify"}
    told = [line for line in ended.log.splitlines() if "robots.txt" in line]
    assert len(told) == 1, told
    assert told[0].endswith("/robots.txt cannot be read: the certificate does not verify (not trusted, or expired)")
    assert "this should not happen" not in ended.log


def test_httpcache_and_compression_do_no_harm(bulk: Bulk) -> None:
    table = {
        "a.bin": good,
        "coded.bin": gzip_encoded(only_if_accepted=True),
        "broken.bin": in_turn(cut_after(HELD), good),
    }
    settings = {"HTTPCACHE_ENABLED": "1", "HTTPCACHE_DIR": str(bulk.folder / "cache"), "COMPRESSION_ENABLED": "1"}
    with FaultyOrigin(table, resource=BODY) as origin:
        bulk.write_list({name: origin.url(name) for name in table})
        for _ in range(2):
            before = len(origin.requests)
            ended = bulk.run(settings=settings)
            assert ended.status == 0, ended.log
            assert all(ended.file(name) == BODY for name in table)
            # Nothing of ours came from the cache or went into it.
            assert len(origin.requests) - before == 4 if not before else 3
            assert not [
                path for path in (bulk.folder / "cache").rglob("*") if path.is_file() and path.stat().st_size > 50_000
            ]
            for name in table:
                (bulk.output / name).unlink()


def test_autothrottle_spaces_requests_and_does_no_other_harm(bulk: Bulk) -> None:
    table = {f"{n}.bin": good for n in range(4)} | {"broken.bin": in_turn(cut_after(HELD), good)}
    settings = {"AUTOTHROTTLE_ENABLED": "1", "AUTOTHROTTLE_START_DELAY": "0.4", "RANDOMIZE_DOWNLOAD_DELAY": "0"}
    with FaultyOrigin(table, resource=BODY) as origin:
        bulk.write_list({name: origin.url(name) for name in table})
        ended = bulk.run(settings=settings)
        assert ended.status == 0, ended.log
        assert all(ended.file(name) == BODY for name in table)
        assert len(origin.requests) == 6


def test_download_delay_spaces_requests_and_not_bytes(bulk: Bulk) -> None:
    table = {f"{n}.bin": trickle(400_000) for n in range(3)}
    with FaultyOrigin(table, resource=BODY) as origin:
        bulk.write_list({name: origin.url(name) for name in table})
        ended = bulk.run(settings={"DOWNLOAD_DELAY": "0.5", "RANDOMIZE_DOWNLOAD_DELAY": "0"})
        assert ended.status == 0, ended.log
        gaps = [later.time - earlier.time for earlier, later in pairwise(origin.requests)]
        assert all(0.45 <= gap <= 0.9 for gap in gaps), gaps


def test_urls_of_three_thousand_bytes_work_also_from_a_redirect(bulk: Bulk) -> None:
    long = "X-Amz-Signature=" + "a1b2" * 750
    with FaultyOrigin({"a.bin": in_turn(cut_after(HELD), good), "b.bin": good}, resource=BODY) as origin:
        origin.add("short.bin", redirect_to(origin.url(f"b.bin?{long}")))
        bulk.write_list({"a.bin": origin.url(f"a.bin?{long}"), "b.bin": origin.url("short.bin")})
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == ended.file("b.bin") == BODY
        assert {request.query for request in origin.requests_for("a.bin")} == {long}
        assert "a1b2a1b2" not in ended.log


MEDDLERS = """
from scrapy import Request
from scrapy.exceptions import IgnoreRequest
from scrapy.http import Response, TextResponse

class OfSome:
    def process_request(self, request, spider=None):
        if "raises" in request.url:
            raise ValueError("a bug in somebody's middleware")
        if "answers" in request.url:
            return TextResponse(request.url, body=b"not the file", encoding="utf-8")
        if "ignores" in request.url:
            raise IgnoreRequest("not that one")
        if "elsewhere" in request.url:
            return Request(request.url.replace("elsewhere", "fine"), dont_filter=True)

    def process_response(self, request, response, spider=None):
        if "late-raise" in request.url:
            raise KeyError("after the answer")
        if "late-other" in request.url:
            return Response(request.url, status=200, body=b"another body")
        if "late-again" in request.url and not request.meta.get("again"):
            return request.replace(dont_filter=True, meta={**request.meta, "again": True})
        return response

    def process_exception(self, request, exception, spider=None):
        if "refused" in request.url:
            return Response(request.url, status=200, body=b"made up")

class Drops:
    async def process_start(self, start):
        async for one in start:
            if not (isinstance(one, Request) and "dropped" in one.url):
                yield one

class Raises:
    def process_spider_input(self, response, spider=None):
        if "input" in response.url:
            raise ValueError("a bug in somebody's spider middleware")
"""


def test_whatever_middlewares_do_every_line_has_a_row_and_no_name_is_wrong(bulk: Bulk) -> None:
    (bulk.folder / "meddlers.py").write_text(MEDDLERS)
    kinds = ("fine", "raises", "answers", "ignores", "late-raise", "late-other", "late-again", "dropped", "input")
    names = [f"{kind}{n}.bin" for kind in kinds for n in range(2)]
    with FaultyOrigin(default=good, resource=BODY) as origin, FaultyOrigin(host="127.0.0.2") as gone:
        gone.down()
        urls = {name: origin.url(name) for name in names}
        bulk.write_list({**urls, "refused.bin": gone.url("refused.bin")})
        settings = {
            "DOWNLOADER_MIDDLEWARES": '{"meddlers.OfSome": 950}',
            "SPIDER_MIDDLEWARES": '{"meddlers.Drops": 10, "meddlers.Raises": 20}',
            "BULK_ORIGIN_PATIENCE": "1",
        }
        # Not run(): who raises may well be shown with a traceback.
        ended = bulk.wait(bulk.start(settings=settings), timeout=40)
        assert sorted(row["name"] for row in ended.rows) == sorted([*names, "refused.bin"])
        assert ended.status == 3, ended.log
        found = codes(ended)
        for kind, code in {"fine": None, "raises": "middleware", "answers": "middleware", "ignores": "ignored", "dropped": "dropped"}.items():  # fmt: skip
            assert {found[f"{kind}{n}.bin"] for n in range(2)} == {code}, kind
        for name in names:
            row = ended.row(name)
            assert row["status"] in ("complete", "failed")
            assert (bulk.output / name).exists() == (row["status"] == "complete")
            if row["status"] == "complete":
                assert ended.file(name) == BODY
            else:
                assert row["error"]["message"]
        assert len(origin.requests) <= 4 * len(names)
        # Without the meddlers everything is there.
        bulk.write_list(urls)
        again = bulk.run()
        assert again.status == 0, again.log
        assert all(again.file(name) == BODY for name in names)


def test_a_request_that_a_middleware_replaces_by_another_one_does_not_hang_the_run(bulk: Bulk) -> None:
    (bulk.folder / "meddlers.py").write_text(MEDDLERS)
    with FaultyOrigin(default=good, resource=BODY) as origin:
        bulk.write_list({name: origin.url(name) for name in ("elsewhere.bin", "fine.bin")})
        process = bulk.start(settings={"DOWNLOADER_MIDDLEWARES": '{"meddlers.OfSome": 950}'})
        ended = bulk.wait(process)
        assert sorted(codes(ended)) == ["elsewhere.bin", "fine.bin"]
        assert ended.file("fine.bin") == BODY
        assert ended.status == 3, ended.log
