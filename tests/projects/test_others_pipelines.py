"""Item pipelines of others beside ours: whatever they do, every entry is accounted for, and the run ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.crawl import Bulk
from support.faulty import FaultyOrigin, good

PIPELINES = """
from scrapy.exceptions import DropItem


class Replaces:
    def process_item(self, item):
        return {"name": item.name, "error": None} if item.name == "b.bin" else item


class ReturnsNothing:
    def process_item(self, item):
        return None if item.name == "b.bin" else item


class Drops:
    def process_item(self, item):
        if item.name == "b.bin":
            raise DropItem("not this one")
        return item


class Breaks:
    def process_item(self, item):
        if item.name == "b.bin":
            raise ValueError("a bug")
        return item
"""


@pytest.mark.parametrize("order", [50, 500], ids=["before-ours", "after-ours"])
@pytest.mark.parametrize("name", ["Replaces", "ReturnsNothing", "Drops", "Breaks"])
def test_what_a_pipeline_does_to_an_item_loses_no_entry(
    bulk: Bulk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, order: int
) -> None:
    (tmp_path / "others.py").write_text(PIPELINES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with FaultyOrigin(default=good) as origin:
        bulk.write_list({entry: origin.url(entry) for entry in ("a.bin", "b.bin")})
        ended = bulk.run(settings={"ITEM_PIPELINES": f'{{"others.{name}": {order}}}'}, timeout=60)
    assert (bulk.output / "a.bin").exists()
    if order > 100:
        assert ended.status == 0, ended.log
        assert "2 entries: 2 complete" in ended.log
        return
    assert ended.status == 3, ended.log
    assert "2 entries: 1 complete, 1 failed" in ended.log
    assert "[dropped]" in ended.log
    assert not (bulk.output / "b.bin").exists()
