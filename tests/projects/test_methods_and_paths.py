"""Requests of other projects: a POST is sent as a POST, and in one crawl a path belongs to one of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkspider.run.turns import Owners
from support.crawl import sha256
from support.faults import cut_after, in_turn, redirect_to, status
from support.faulty import Behaviour, Exchange, FaultyOrigin, good, make_body
from support.memory import held_by_python
from support.messages import check_error
from support.project import Project, stat

SIZE = 300_000
BODY = make_body(SIZE)
ONE = {"ITEM_PIPELINES": {"shop.pipelines.Mine": 1}, "FILES_STORE": "store"}

# Items are {"wanted": [[name, url, arguments of the request], …]}.
PIPELINE = """
import scrapy
from bulkspider import BulkFilesPipeline


class Mine(BulkFilesPipeline):
    def get_media_requests(self, item, info):
        for name, url, more in item["wanted"]:
            meta = {"name": name}
            yield scrapy.Request(url, meta=meta, **more)

    def file_path(self, request, response=None, info=None, *, item=None):
        return request.meta["name"]

    def item_completed(self, results, item, info):
        item["got"] = [(ok, value if ok else value.value.info) for ok, value in results]
        return item
"""
ONE_ITEM_EACH = """
    async def start(self):
        yield scrapy.Request("data:,page")

    def parse(self, response):
        for item in __import__("json").loads(self.items):
            yield {"wanted": [[name, self.site + url, more] for name, url, more in item]}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "shop")
    (project.folder / "shop" / "pipelines.py").write_text(PIPELINE)
    project.write_spider(ONE_ITEM_EACH)
    return project


def site(origin: FaultyOrigin) -> str:
    return origin.url("").rstrip("/")


def made_for(question: str, number: int = 0) -> bytes:
    return make_body(SIZE, f"{question}-{number}")


def report(exchange: Exchange) -> None:
    """A file made for who asks: another one for each body, and for each time that it is asked for."""
    body = made_for(exchange.recorded.body.decode(), exchange.attempt)
    good(exchange, replace(exchange.resource, body=body, etag=f'"{exchange.attempt}"'))


def breaks_off(after: int) -> Behaviour:
    def behaviour(exchange: Exchange) -> None:
        body = made_for(exchange.recorded.body.decode(), exchange.attempt)
        exchange.resource = replace(exchange.resource, body=body)
        cut_after(after, "reset")(exchange)

    return behaviour


def post(body: str) -> dict[str, str]:
    return {"method": "POST", "body": body}


def items(*wanted: list[tuple[str, str, dict[str, Any]]]) -> str:
    return f"items={json.dumps(wanted)}"


def test_an_items_post_is_sent_as_it_was_asked_and_never_continued(project: Project) -> None:
    store = project.folder / "store"
    store.mkdir()
    # Of an older tool: an answer to something else. Nothing of it may get into ours, and it is not deleted.
    (store / "b.bin").write_bytes(b"somebody's")
    (store / "c.bin.part").write_bytes(made_for("c")[:1000])
    with FaultyOrigin(resource=BODY) as origin:
        origin.add("a", in_turn(breaks_off(100_000), breaks_off(200_000), report))
        origin.add("b", in_turn(status(303, {"Location": "/made"}), good))
        origin.add("made", good)
        origin.add("c", report)
        wanted = items(
            [("a.bin", "/a", post("question"))],
            [("b.bin", "/b", post("b"))],
            [("c.bin", "/c", {**post("c"), "method": "PUT"})],
            [("h.bin", "/c", {"method": "HEAD"})],
        )
        rows = {item["wanted"][0][0]: item["got"][0] for item in project.crawl(site(origin), "-a", wanted, **ONE)}
        for name in ("a.bin", "b.bin", "c.bin"):
            assert rows[name][0], rows
        asked = origin.requests_for("a", "POST")
        assert [(request.body, request.range) for request in asked] == [(b"question", None)] * 3
        assert origin.requests_for("a") == [], "a POST became a GET"
        assert (store / "a.bin").read_bytes() == made_for("question", 2), "two answers are in one file"
        assert (rows["a.bin"][1]["resumed_from"], rows["a.bin"][1]["proof"]) == (0, "complete")
        # Scrapy's redirects: 303 makes it a GET. It is the answer to the POST all the same.
        assert (store / "b.bin").read_bytes() == BODY
        assert (store / "b.bin.old").read_bytes() == b"somebody's"
        assert [request.range for request in origin.requests_for("made")] == [None]
        assert (store / "c.bin").read_bytes() == made_for("c")
        assert (store / "c.bin.old").read_bytes() == made_for("c")[:1000]
        assert [request.method for request in origin.requests_for("c", None)] == ["PUT"]
        assert not rows["h.bin"][0]
        assert "HEAD brings no file; use GET, or POST" in rows["h.bin"][1]["error"]["message"]
        assert not list(store.rglob("*.part*"))

        before = len(origin.requests)
        again = {item["wanted"][0][0]: item["got"][0][1] for item in project.crawl(site(origin), "-a", wanted, **ONE)}
        assert [again[name]["status"] for name in ("a.bin", "b.bin", "c.bin")] == ["uptodate"] * 3, project.log
        assert len(origin.requests) == before
        # Another question to the same URL is another file.
        wanted = items([("a.bin", "/a", post("other"))])
        (item,) = project.crawl(site(origin), "-a", wanted, **ONE)
        assert item["got"][0][1]["status"] == "downloaded"
        assert (store / "a.bin").read_bytes() == made_for("other", 3)
        assert (store / "a.bin.old").read_bytes() == made_for("question", 2)


def a_part_only(exchange: Exchange) -> None:
    exchange.send_status(206)
    exchange.header("Content-Range", f"bytes 0-99/{SIZE}")
    exchange.header("Content-Length", 100)
    exchange.end_headers()
    exchange.send(BODY[:100])


def test_a_post_that_never_brings_all_is_given_up(project: Project) -> None:
    with FaultyOrigin({"b": a_part_only}, resource=BODY) as origin:
        origin.add("a", breaks_off(100_000))
        wanted = items([("a.bin", "/a", post("q")), ("b.bin", "/b", post("q"))])
        (item,) = project.crawl(site(origin), "-a", wanted, **ONE)
        assert [ok for ok, _ in item["got"]] == [False, False]
        assert [info["error"]["code"] for _, info in item["got"]] == ["lost", "bad_range"], project.log
        assert len(origin.requests_for("b", "POST")) == 4
        assert len(origin.requests_for("a", "POST")) == 4, "bytes that do not count are no progress"
        assert not (project.folder / "store" / "a.bin").exists()


def test_two_of_one_crawl_that_want_one_path_by_file_path(project: Project) -> None:
    """In one item, in two items, by another URL or another POST, one after the other: the first file stays."""
    with FaultyOrigin({"a": good, "b": report, "c": report, "gone": status(404)}, resource=BODY) as origin:
        rows = project.crawl(
            site(origin),
            "-a",
            items(
                [("x.bin", "/gone", {}), ("y.bin", "/b", post("1"))],
                [("x.bin", "/a", {}), ("y.bin", "/b", post("2"))],
                [("x.bin", "/c", {}), ("y.bin", "/b", post("1"))],
                [("x.bin", "/a?x=1", {}), ("y.bin", "/b", {})],
                [("x.bin", "/a", {})],
            ),
            CONCURRENT_ITEMS=1,  # one after the other
            **ONE,
        )
        told = [[info["error"]["code"] if info["error"] else info["status"] for _, info in row["got"]] for row in rows]
        assert told == [
            ["http_404", "downloaded"],
            ["downloaded", "two_urls"],  # what failed leaves its path to others
            ["two_urls", "uptodate"],
            ["two_urls", "two_urls"],
            ["uptodate"],
        ], project.log
        store = project.folder / "store"
        assert (store / "x.bin").read_bytes() == BODY
        assert (store / "y.bin").read_bytes() == made_for("1")
        assert sorted(path.name for path in store.iterdir() if path.is_file()) == ["x.bin", "y.bin"]
        check_error(rows[2]["got"][0][1]["error"])
        assert stat(project.log, "bulk/failed/two_urls") == 4

        # The next crawl may: what lies there is compared, and kept.
        (row,) = project.crawl(site(origin), "-a", items([("x.bin", "/c", {})]), **ONE)
        assert row["got"][0][1]["status"] == "downloaded"
        assert (store / "x.bin.old").read_bytes() == BODY


CHAIN = """
    chain = ""

    async def start(self):
        self.steps = __import__("json").loads(self.chain)
        yield self.step({})

    def step(self, meta):
        path, url, more = self.steps.pop(0)
        if path:
            meta = {"bulk": {"path": path}}
        return scrapy.Request(self.site + url, self.got, meta=meta, errback=self.got, dont_filter=True, **more)

    def got(self, told):
        # Forwarded as people do it, of failures too.
        request = getattr(told, "request", None)
        meta = told.meta if hasattr(told, "status") else request.meta
        bulk = meta["bulk"]
        result = bulk.get("result") or {}
        yield {
            "url": request.url.removeprefix(self.site),
            "error": str(getattr(told, "value", "")),
            "status": result.get("status"),
            "code": (result.get("error") or {}).get("code"),
            "already": result.get("already"),
        }
        if self.steps:
            yield self.step(meta)
"""


def chain(*steps: tuple[str | None, str, dict[str, Any]]) -> str:
    return f"chain={json.dumps(steps)}"


def test_meta_that_is_handed_on_is_of_the_other_request(project: Project) -> None:
    project.write_spider(CHAIN)
    with FaultyOrigin({"a": good, "b": good, "moved": redirect_to("/a")}, resource=BODY) as origin:
        origin.add("gone", status(404))
        origin.add("busy", in_turn(status(503), good))
        rows = project.crawl(
            site(origin),
            "-a",
            chain(
                ("x.bin", "/gone", {}),
                (None, "/moved", {}),  # from an errback: a mirror of what failed
                (None, "/b", {}),  # and this is another file
                (None, "/a", {}),  # where the redirect led to is another URL than the one that was asked
                (None, "/moved", {}),
                ("y.bin", "/busy", {}),
                (None, "/gone", {}),
            ),
        )
        told = [(row["status"], row["code"], row["already"]) for row in rows]
        assert told == [
            ("failed", "http_404", False),
            ("complete", None, False),
            ("failed", "two_urls", False),
            ("failed", "two_urls", False),
            ("complete", None, True),
            ("complete", None, False),
            ("failed", "two_urls", False),
        ], project.log
        assert (project.folder / "output" / "x.bin").read_bytes() == BODY
        assert not list((project.folder / "output").glob("*.old"))
        assert [len(origin.requests_for(name)) for name in ("b", "moved", "a", "busy")] == [0, 1, 1, 2]
        counted = {name: stat(project.log, f"bulk/{name}") for name in ("entries", "files/complete", "files/failed")}
        assert counted == {"entries": 7, "files/complete": 3, "files/failed": 4}
        assert "Traceback" not in project.log


def test_a_post_with_meta_is_sent_retried_and_redirected_as_scrapy_does(project: Project) -> None:
    project.write_spider(CHAIN)
    with FaultyOrigin({"made": good, "kept": report}, resource=BODY) as origin:
        origin.add("a", in_turn(status(503), breaks_off(100_000), report))
        origin.add("see-other", redirect_to("/made", 303))
        origin.add("same", redirect_to("/kept", 307))
        steps = (
            ("a.bin", "/a", post("1")),
            ("a.bin", "/a", post("1")),
            (None, "/a", post("2")),
            ("b.bin", "/see-other", post("b")),
            ("b.bin", "/see-other", post("b")),
            (None, "/made", {}),
            ("c.bin", "/same", post("c")),
            ("h.bin", "/same", {"method": "HEAD"}),
        )
        rows = project.crawl(site(origin), "-a", chain(*steps))
        assert [(row["status"], row["code"], row["already"]) for row in rows] == [
            ("complete", None, False),
            ("complete", None, True),
            ("failed", "two_urls", False),
            ("complete", None, False),
            ("complete", None, True),
            ("failed", "two_urls", False),
            ("complete", None, False),
            ("failed", "bad_line", False),
        ], project.log
        assert "HEAD brings no file" in rows[-1]["error"]
        output = project.folder / "output"
        assert (output / "a.bin").read_bytes() == made_for("1", 2)
        assert (output / "b.bin").read_bytes() == BODY
        assert (output / "c.bin").read_bytes() == made_for("c")
        assert {request.range for request in origin.requests} == {None}
        assert [request.method for request in origin.requests_for("a", None)] == ["POST"] * 3
        assert [request.body for request in origin.requests_for("kept", "POST")] == [b"c"]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3))))
def test_a_path_has_the_owner_that_came_first(came: list[tuple[int, int]]) -> None:
    owners, known = Owners(), dict[str, str]()
    for path, key in came:
        name, of = f"/out/{path}", hashlib.sha256(b"%d" % key).hexdigest()
        assert owners.is_of_another(name, of) == (known.get(name, of) != of)
        owners.add(name, of)
        known.setdefault(name, of)


def test_a_million_paths_take_little_memory() -> None:
    """16 bytes each, and what an array keeps to grow; a tenth of the number is enough to see it."""
    keys = [sha256(b"%d" % number) for number in range(100_000)]
    owners = Owners()
    with held_by_python() as held:
        for number, key in enumerate(keys):
            owners.add(f"/out/{number}", key)
    assert held.bytes <= 20 * 100_000
    assert owners.is_of_another("/out/7", "other")
    assert not owners.is_of_another("/out/7", sha256(b"7"))
