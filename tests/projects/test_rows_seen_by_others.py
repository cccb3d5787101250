"""Rows take a shorter way where only Scrapy's counter and feed exporter get them: what these say stays the same, and
whoever else wants items gets each of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.crawl import Bulk
from support.faulty import FaultyOrigin, good, make_body
from support.project import Project, stat

BODY = make_body(3_000)
# Enough for batches.
COUNT = 120
NAMES = [f"{number}.bin" for number in range(COUNT)]
# These differ from run to run.
TIMES = ("seconds", "last_modified")

WATCH = """
import scrapy
from scrapy import signals
from scrapy.logformatter import LogFormatter
from bulkspider.signals import bulk_file_finished


class Middleware:
    async def process_start(self, start):
        async for each in start:
            note(each)
            yield each

    def process_spider_output(self, response, result):
        for each in result:
            note(each)
            yield each

    async def process_spider_output_async(self, response, result):
        async for each in result:
            note(each)
            yield each


def note(each):
    if not isinstance(each, scrapy.Request):
        with open("seen.txt", "a") as file:
            file.write(each.name + "\\n")


class Receiver:
    signal = signals.spider_opened
    skipped = 0

    def __init__(self, crawler):
        self.crawler = crawler
        self.left = self.skipped
        crawler.signals.connect(self.begin, self.signal)

    @classmethod
    def from_crawler(cls, crawler):
        return cls(crawler)

    def begin(self):
        if not self.left:
            self.crawler.signals.connect(self.scraped, signals.item_scraped)
        self.left -= 1

    def scraped(self, item):
        note(item)


class LateReceiver(Receiver):
    signal = bulk_file_finished
    skipped = 80


class Formatter(LogFormatter):
    def scraped(self, item, response, spider):
        note(item)
        return super().scraped(item, response, spider)
"""


def rows_of(feed: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in feed.read_text().splitlines()]
    return sorted(({**row, **dict.fromkeys(TIMES)} for row in rows), key=lambda row: str(row["name"]))


def test_feed_and_stats_are_those_of_the_way_through_scrapy(bulk: Bulk) -> None:
    with FaultyOrigin(dict.fromkeys(NAMES, good), resource=BODY) as origin:
        bulk.write_list({name: origin.url(name) for name in [*NAMES, "gone.bin"]})
        found = {}
        for level in ("DEBUG", "INFO"):
            # Scrapy's DEBUG lines tell of each item, so with them all items pass through Scrapy.
            settings = {"LOG_LEVEL": level, "STATS_DUMP": "True"}
            first = bulk.run(settings=settings)
            counts = [stat(first.log, "item_scraped_count")]
            rows = rows_of(bulk.report)
            again = bulk.run(settings=settings)
            counts.append(stat(again.log, "item_scraped_count"))
            assert counts == [COUNT + 1, COUNT + 1]
            assert ("Scraped from" in again.log) == (level == "DEBUG")
            found[level] = rows, rows_of(bulk.report)
            bulk.output.rename(bulk.folder / level)
        assert found["INFO"] == found["DEBUG"]


@pytest.mark.parametrize(
    "settings",
    [
        {"SPIDER_MIDDLEWARES": {"shop.watch.Middleware": 500}},
        {"EXTENSIONS": {"shop.watch.Receiver": 500}},
        {"LOG_FORMATTER": "shop.watch.Formatter"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_whoever_wants_items_sees_each(tmp_path: Path, settings: dict[str, Any]) -> None:
    assert sorted(seen_by(settings, tmp_path)) == sorted(NAMES)


def test_a_receiver_that_connects_later_sees_all_later_items(tmp_path: Path) -> None:
    seen = seen_by({"EXTENSIONS": {"shop.watch.LateReceiver": 500}}, tmp_path)
    # It connects when the 81st file is finished, and items of Scrapy's own way may be on theirs just then.
    assert len(seen) == len(set(seen)) >= COUNT - 81


def seen_by(settings: dict[str, Any], folder: Path) -> list[str]:
    """The names of the items that a component of somebody else has seen."""
    project = Project(folder / "shop")
    (project.folder / "shop" / "watch.py").write_text(WATCH)
    with FaultyOrigin(dict.fromkeys(NAMES, good), resource=BODY) as origin:
        lines = ["name url", *(f"{name} {origin.url(name)}" for name in NAMES)]
        (project.folder / "list.txt").write_text("\n".join(lines))
        project.scrapy("crawl", "bulk", "-a", "list=list.txt", "-O", "rows.jsonl", LOG_LEVEL="INFO", **settings)
    assert stat(project.log, "item_scraped_count") == len(rows_of(project.folder / "rows.jsonl")) == COUNT
    return (project.folder / "seen.txt").read_text().split()
