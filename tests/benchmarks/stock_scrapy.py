"""Scrapy as it comes: a request per line, and a callback that writes the body.

scrapy runspider stock_scrapy.py -a list=LIST -a output=FOLDER
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from scrapy import Request, Spider
from scrapy.http import Response


class StockSpider(Spider):
    name = "stock"

    async def start(self) -> AsyncIterator[Any]:
        self.folder = Path(self.output)
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.list) as lines:
            next(lines)  # the heading
            for line in lines:
                name, url = line.split()
                yield Request(url, cb_kwargs={"name": name})

    def parse(self, response: Response, name: str) -> None:
        (self.folder / name).write_bytes(response.body)
