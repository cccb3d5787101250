"""A crawl writes its items as ever, and `bulk` fetches the files they name, by whatever fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bulkspider.entries.entry import EntryError
from bulkspider.lists.formats.json import Items
from bulkspider.lists.formats.row import FormatInput
from support.crawl import Bulk
from support.faults import status
from support.faulty import FaultyOrigin, good, make_body
from support.project import PAGE, Project

BODY = make_body(30_000)
SPIDER = """
    async def start(self):
        yield scrapy.Request(self.site + "/page")

    def parse(self, response):
        urls = [self.site + f"/{name}.bin" for name in "abc"]
        yield {"title": "one file", "price": 3.5, "file_urls": urls[:1], "signed": "http://h/x?Signature=s3cret"}
        yield {"title": "two files", "tags": ["x", {"y": None}], "file_urls": urls[1:]}
        yield {"title": "none", "file_urls": []}
        yield {"title": "nor here"}
"""


@pytest.mark.parametrize("feed", ["found.jsonl", "found.json"])
def test_items_are_fetched_by_their_fields_and_their_other_fields_are_in_the_rows(tmp_path: Path, feed: str) -> None:
    project = Project(tmp_path / "shop")
    project.write_spider(SPIDER)
    with FaultyOrigin({f"{name}.bin": good for name in "abc"}, resource=BODY) as origin:
        origin.add("page", status(200, body=PAGE % b""))
        project.scrapy("crawl", "shop", "-a", f"site={origin.url('').rstrip('/')}", "-O", feed)
        fields = ("-a", "url_field=file_urls", "-a", "name_field=title")
        said = project.scrapy("crawl", "bulk", "-a", f"list={feed}", "-a", "output=out", *fields, "-O", "rows.jsonl")
        rows = [json.loads(line) for line in (project.folder / "rows.jsonl").read_text().splitlines()]
        assert {row["name"]: row["extra"] for row in rows} == {
            "one file": {"price": 3.5, "signed": "http://h/x?Signature=***"},
            "two files/b.bin": {"tags": ["x", {"y": None}]},
            "two files/c.bin": {"tags": ["x", {"y": None}]},
        }, said
        assert {row["status"] for row in rows} == {"complete"}
        assert (project.folder / "out" / "two files" / "c.bin").read_bytes() == BODY
        assert "an item without file_urls has no file" in said
        # The rows are a list again, and carry on what they carry.
        project.scrapy("crawl", "bulk", "-a", "list=rows.jsonl", "-a", "output=again", "-O", "again.jsonl")
        again = [json.loads(line) for line in (project.folder / "again.jsonl").read_text().splitlines()]
        assert {row["name"]: row["extra"] for row in again} == {row["name"]: row["extra"] for row in rows}


def rows(text: str, **fields: str) -> tuple[list[Any], list[str]]:
    wrong: list[str] = []

    def note(line: int, error: EntryError) -> None:
        wrong.append(f"{line}: {error.what}")

    given = FormatInput("x.jsonl", "x.jsonl", note, **{"url_field": "u", **fields})  # type: ignore[arg-type]
    found = [(row.line, row.url, row.name, dict(row.extra)) for row in Items(given).rows([text.encode()])]
    return found, wrong


@pytest.mark.parametrize(
    ("text", "fields", "found"),
    [
        ('{"u": "http://h/a"}', {}, [(1, "http://h/a", "", {})]),
        ('{"u": "http://h/a", "n": "x", "k": 1}', {"name_field": "n"}, [(1, "http://h/a", "x", {"k": 1})]),
        ('\n{"u": ["http://h/a", "http://h/b"], "n": ["x", "y"]}', {"name_field": "n"}, [(2, "http://h/a", "x", {}), (2, "http://h/b", "y", {})]),
        ('{"d": {"u": "http://h/a"}}', {"url_field": "d.u"}, [(1, "http://h/a", "", {"d": {"u": "http://h/a"}})]),
        ('{"u": [{"url": "http://h/a", "path": "p"}]}', {}, [(1, "http://h/a", "", {})]),
        ('[{"u": "http://h/a"},\n{"u": null}]', {}, [(1, "http://h/a", "", {})]),
        ('{"u": "http://h/a", "extra": {"k": 1}}', {}, [(1, "http://h/a", "", {"extra": {"k": 1}})]),
    ],
)  # fmt: skip
def test_what_an_item_gives(text: str, fields: dict[str, str], found: list[Any]) -> None:
    assert rows(text, **fields) == (found, [])


@pytest.mark.parametrize(
    ("text", "fields", "wrong"),
    [
        ("{", {}, "1: this is not JSON"),
        ("3", {}, "1: this is no item"),
        ('{"u": 3}', {}, "1: u is neither a text nor a list of texts"),
        ('{"u": "http://h/a"}', {"name_field": "n"}, "1: the item has no n"),
        ('{"u": ["http://h/a"], "n": ["x", "y"]}', {"name_field": "n"}, "1: 1 URLs and 2 names"),
        ('{"u": "a"}', {}, "1: the URL has no scheme and no host"),
    ],
)
def test_what_is_wrong_with_an_item(text: str, fields: dict[str, str], wrong: str) -> None:
    found, told = rows(text, **fields)
    assert found == []
    assert [line.replace("'", "").replace('"', "") for line in told] == [wrong]


def test_fields_without_a_url_field_are_refused(bulk: Bulk) -> None:
    bulk.write_list({"a.bin": "http://127.0.0.1:9/a.bin"})
    ended = bulk.run("-a", "name_field=title")
    assert (ended.status, "say where their URLs are: url_field=" in ended.log) == (1, True)
