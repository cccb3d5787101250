"""The same rows through the other ways in: items' files, requests of any spider, the dry run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gate.differences import passes
from gate.rows import FRAMING, PACE, PATIENT, RANGES, Row
from gate.scene import Scene
from support import record
from support.versions import PRESENT, Ended, Version

# The frozen version as well, with every row: for whoever rebuilds the engine.
pytestmark = [pytest.mark.timeout(600), pytest.mark.long]

SPIDERS = """
import json

import scrapy

from bulkspider import BulkFilesPipeline


class Named(BulkFilesPipeline):
    def get_media_requests(self, item, info):
        yield scrapy.Request(item["url"], meta={"bulk": item["bulk"]})

    def file_path(self, request, response=None, info=None, *, item=None):
        return item["name"]

    def item_completed(self, results, item, info):
        ((ok, result),) = results
        return {"name": item["name"], **(result if ok else result.value.info)}


class Items(scrapy.Spider):
    name = "items"
    custom_settings = {"ITEM_PIPELINES": {"shop.Named": 1}}

    async def start(self):
        yield scrapy.Request("data:,page")

    def parse(self, response):
        yield from json.load(open("todo.json"))


class Requests(scrapy.Spider):
    name = "requests"

    async def start(self):
        for entry in json.load(open("todo.json")):
            meta = {"bulk": {"path": entry["name"], **entry["bulk"]}}
            more = {"meta": meta, "cb_kwargs": {"name": entry["name"]}, "dont_filter": True}
            yield scrapy.Request(entry["url"], self.got, errback=self.failed, **more)

    def got(self, response, name):
        yield {**response.meta["bulk"]["result"], "name": name, "http": response.status, "body": len(response.body)}

    def failed(self, failure):
        meta = failure.request.meta
        response = getattr(failure.value, "response", None)
        yield {
            **(meta["bulk"].get("result") or {}),
            "name": failure.request.cb_kwargs["name"],
            "http": response.status if response else None,
            "exception": type(failure.value).__name__,
            "retries": meta.get("retry_times"),
        }
"""
SETTINGS = """
ADDONS = {"bulkspider.Addon": 500}
SPIDER_MODULES = ["shop"]
FILES_STORE = BULK_STORE = "out"
CONCURRENT_REQUESTS = CONCURRENT_REQUESTS_PER_DOMAIN = 8
DOWNLOAD_DELAY = 0
TELNETCONSOLE_ENABLED = False
"""

# What a list says of an entry, and meta["bulk"] as well.
FIELDS = ("size", "sha256")

# Rows in which an attempt brings bytes and another one follows. The frozen BulkFilesPipeline may begin the next one
# before the bytes of the last are on disk: now and then it then fails with `part_replaced`. Nothing can be compared.
GO_ON = (
    *("A3-changed-while-fetched", "A3-changes-all-the-time", "A4-*", "A11-etag-per-request-and-cut", "A12-*"),
    *("A13-length-too-short*", "A13-total-disagrees-always", "A14-part-rotten-*", "B16-*", "B17-unfinished*"),
    *("B17-only-*", "B17-bad-*", "B18-close-early-*", "B18-tls-*", "B21-encoded-hash-known", "B23-page-hash-known"),
    *("B25-206-unasked", "B26-*wrong*", "B26-changed-with-its-digest", "C29-*-mid-file", "C32-target-expired"),
    *("C32-secrets-and-another-origin", "D41-reset-mid-body"),
)


def rows_of(takes: Callable[[Row], bool]) -> tuple[Row, ...]:
    return tuple(row for row in (*RANGES, *FRAMING, *PACE) if takes(row))


def has_meta(row: Row) -> bool:
    return all(field.partition("=")[0] in FIELDS for field in row.fields.split())


def goes_on(row: Row) -> bool:
    return any(record.pattern_of(text).fullmatch(row.name) for text in GO_ON)


def both(
    frozen: Version,
    folder: Path,
    rows: tuple[Row, ...],
    command: Callable[[Scene], list[str]],
    environment: dict[str, str],
) -> tuple[list[str], Ended]:
    """Runs both versions at once; the differences, and how the present one ended."""
    with contextlib.ExitStack() as stack:
        scenes = {version: Scene(folder / version.name, rows, stack) for version in (frozen, PRESENT)}
        running = {}
        for version, scene in scenes.items():
            (scene.folder / "shop.py").write_text(SPIDERS)
            settings = "".join(f"{name} = {value!r}\n" for name, value in PATIENT.items() if "CONCURRENT" not in name)
            (scene.folder / "shop_settings.py").write_text(SETTINGS + settings)
            todo = [
                {
                    "name": row.name,
                    "url": scene.urls[row.name],
                    "bulk": {key: value for key, _, value in (field.partition("=") for field in row.fields.split())},
                }
                for row in rows
            ]
            for entry in todo:
                if "size" in entry["bulk"]:
                    entry["bulk"]["size"] = int(entry["bulk"]["size"])
            (scene.folder / "todo.json").write_text(json.dumps(todo))
            version.check(scene.folder)
            more = {**scene.environment, **environment}
            report = scene.folder / "report.jsonl"
            started = version.start(command(scene), cwd=scene.folder, report=report, environment=more)
            running[version] = stack.enter_context(started)
        ended = {version: process.wait(300) for version, process in running.items()}
    theirs, ours = ended[frozen], ended[PRESENT]
    lines = [f"exit status: {theirs.status} -> {ours.status}"] if theirs.status != ours.status else []
    lines += record.differences("stats", record.of_stats(theirs.log), record.of_stats(ours.log))
    for row in rows:
        facts = [scenes[version].facts(row, ended[version]) for version in (frozen, PRESENT)]
        lines += record.differences(row.name, *facts, ignored=row.loose)
    return lines, ours


@pytest.mark.parametrize("spider", ["items", "requests"])
def test_files_of_other_spiders(spider: str, frozen: Version, tmp_path: Path) -> None:
    rows = rows_of(lambda row: has_meta(row) and not (spider == "items" and goes_on(row)))
    command = ["scrapy", "crawl", spider, "-O", "report.jsonl"]
    lines, ended = both(frozen, tmp_path, rows, lambda _: command, {"SCRAPY_SETTINGS_MODULE": "shop_settings"})
    assert len(ended.rows) == len(rows), ended.log
    passes(spider, lines, ended)


def test_dry_runs(frozen: Version, tmp_path: Path) -> None:
    rows = tuple(replace(row, loose=()) for row in (*RANGES, *FRAMING, *PACE))

    def command(scene: Scene) -> list[str]:
        return ["scrapy", "bulk", str(scene.list), "-o", str(scene.output), "--dry-run", *scene.settings({})]

    lines, ended = both(frozen, tmp_path, rows, command, {})
    passes("dry-run", lines, ended)
