"""A feed's rows are those that Scrapy's own exporters write, byte for byte."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from conftest import Bulk
from faulty import FaultyOrigin, good, make_body
from scrapy.exporters import JsonItemExporter, JsonLinesItemExporter

from bulkspider.exporters import JsonLinesRows, JsonRows
from bulkspider.items import BulkItem


class Special(BulkItem):
    """Somebody's own."""


ITEMS = [
    BulkItem(),
    BulkItem(
        line=3,
        name="ä/b.bin",
        url="https://h/b.bin",
        final_url="https://m/b.bin",
        path="/out/ä/b.bin",
        status="failed",
        already=True,
        flags=["adopted", "size-only"],
        size=10**12,
        seconds=1.5,
        sha256="0" * 64,
        checksums={"sha256": "0" * 64, "md5": "1" * 32},
        error={"code": "http_404", "message": "the origin answered 404", "http_status": 404, "permanent": True},
    ),
    Special(name="x"),
    {"name": "a pipeline made a dict of it", "size": 3},
]


def written(exporter_class: type[JsonLinesItemExporter] | type[JsonItemExporter], options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    exporter = exporter_class(file, **options)
    exporter.start_exporting()
    for item in ITEMS:
        exporter.export_item(item)
    exporter.finish_exporting()
    return file.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"encoding": "utf-8"},
        {"indent": 2},
        {"export_empty_fields": True},
        {"fields_to_export": ["name", "size", "unknown"]},
        {"fields_to_export": {"name": "Name", "url": "URL"}, "export_empty_fields": True},
    ],
)
@pytest.mark.parametrize(("ours", "scrapys"), [(JsonLinesRows, JsonLinesItemExporter), (JsonRows, JsonItemExporter)])
def test_the_same_bytes(ours: Any, scrapys: Any, options: dict[str, Any]) -> None:
    assert written(ours, dict(options)) == written(scrapys, dict(options))


EXTENSION = """
from scrapy import signals
from scrapy.extensions.feedexport import FeedExporter

class Told:
    @classmethod
    def from_crawler(cls, crawler):
        crawler.signals.connect(cls.tell, signals.spider_closed)
        cls.crawler = crawler
        return cls()

    @classmethod
    def tell(cls, spider):
        exporters = cls.crawler.get_extension(FeedExporter).exporters
        spider.logger.info("exporters: %s", {name: found.__name__ for name, found in exporters.items()})
"""


def test_a_users_exporter_stays(bulk: Bulk) -> None:
    (bulk.folder / "told.py").write_text(EXTENSION)
    with FaultyOrigin({"a.bin": (good, make_body(1000))}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        settings = {"EXTENSIONS": {"told.Told": 0}, "FEED_EXPORTERS": {"jl": "scrapy.exporters.CsvItemExporter"}}
        ended = bulk.run("-O", "r.jl", settings={name: json.dumps(value) for name, value in settings.items()})
        assert ended.status == 0
    assert (bulk.folder / "r.jl").read_text().startswith("line,name,url,")
    assert ended.row("a.bin")["size"] == 1000
    for told in (
        "'jl': 'CsvItemExporter'",
        "'jsonl': 'JsonLinesRows'",
        "'json': 'JsonRows'",
        "'xml': 'XmlItemExporter'",
    ):
        assert told in ended.log
