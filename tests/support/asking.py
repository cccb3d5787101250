"""A spider for a project of the tests that asks for pages, files and items as it is told, and gives an item for each."""

from __future__ import annotations

import json
from typing import Any

from support.project import Project

STORE = {"ITEM_PIPELINES": {"scrapy.pipelines.files.FilesPipeline": 1}, "FILES_STORE": "output"}

# Asks for what `todo` says: pages, files ("path") and items ("files"), and what comes "then".
ASKING = """
    todo = "[]"
    spare = b""

    async def start(self):
        for request in self.ask(__import__("json").loads(self.todo)):
            yield request

    def ask(self, todo):
        for one in todo:
            meta = {**one.get("meta", {}), **({"bulk": {"path": one["path"]}} if "path" in one else {})}
            yield scrapy.Request(one["url"], self.answered, errback=self.failed, meta=meta, cb_kwargs={"one": one})

    def answered(self, response, one):
        yield {
            "name": one.get("path") or one["url"],
            "http": response.status,
            "body": len(response.body),
            "flags": response.flags,
            "result": response.meta.get("bulk", {}).get("result"),
            "file_urls": one.get("files", []),
        }
        self.spare += b"x" * one.get("memory", 0)
        yield from self.ask(one.get("then", []))

    def failed(self, failure):
        one = failure.request.cb_kwargs["one"]
        yield {"name": one.get("path") or one["url"], "failed": type(failure.value).__name__}
"""


def ask(project: Project, *todo: dict[str, Any], **settings: Any) -> dict[str, dict[str, Any]]:
    """Runs the spider; its items by name."""
    items = project.crawl("", "-a", f"todo={json.dumps(todo)}", **settings)
    assert len({item["name"] for item in items}) == len(items)
    return {item["name"]: item for item in items}
