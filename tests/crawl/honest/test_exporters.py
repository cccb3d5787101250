"""A feed's rows are those that Scrapy's own exporters write, byte for byte; but in CSV a cell has words."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from scrapy.exporters import JsonItemExporter, JsonLinesItemExporter

from bulkspider.components.exporters import CsvRows, JsonLinesRows, JsonRows
from bulkspider.items import BulkItem
from support.crawl import Bulk
from support.faulty import FaultyOrigin, good, make_body


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


def test_a_table_has_words_where_a_row_has_dicts() -> None:
    file = io.BytesIO()
    exporter = CsvRows(file)
    exporter.start_exporting()
    exporter.export_item(ITEMS[1])
    exporter.export_item(BulkItem(error={"own": [1, "ä"]}, extra={"page": "b", "n": 2}))
    exporter.finish_exporting()
    one, other = csv.DictReader(io.StringIO(file.getvalue().decode()))
    assert one["error"] == "the origin answered 404 [http_404]"
    assert one["checksums"] == f"md5={'1' * 32} sha256={'0' * 64}"
    assert (one["flags"], one["size"], one["name"]) == ("adopted,size-only", "1000000000000", "ä/b.bin")
    assert (other["error"], other["extra"]) == ('{"own": [1, "ä"]}', '{"page": "b", "n": 2}')


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
        "'csv': 'CsvRows'",
        "'xml': 'XmlItemExporter'",
    ):
        assert told in ended.log
