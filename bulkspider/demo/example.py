"""The example project of `scrapy bulk --example DIR`: crawl, files, parse, offline.

A spider finds files, BulkFilesPipeline fetches them from the embedded origin, which the spider starts, and a pipeline
that comes after reads each. What is written is a project like any other, to be changed.
"""

from __future__ import annotations

import socket
from pathlib import Path

CONFIG = """\
[settings]
default = library.settings
"""
SETTINGS = """\
BOT_NAME = "library"
SPIDER_MODULES = ["library.spiders"]
ADDONS = {"bulkspider.Addon": 500}
ITEM_PIPELINES = {
    # First: it fetches the files of an item, and knows of which page the item is.
    "bulkspider.BulkFilesPipeline": 1,
    "library.pipelines.Read": 300,
}
FILES_STORE = "files"
FEEDS = {"books.jsonl": {"format": "jsonlines", "overwrite": True}}
# Pages and files have places of their own.
CONCURRENT_REQUESTS = 16
CONCURRENT_REQUESTS_PER_DOMAIN = 4
ROBOTSTXT_OBEY = False
LOG_LEVEL = "INFO"
"""
SPIDER = '''\
"""Finds books and the files that belong to each."""

import asyncio
import sys

import scrapy

# The same in each run, so that the files have the same URLs.
PORT = "@PORT@"
BOOKS = {"Red": ["4M/red-1", "2M/red-2"], "Green": ["8M/green-1"], "Blue": ["100K/blue-1", "100K/missing"]}


class Books(scrapy.Spider):
    name = "books"

    async def start(self):
        # A server on this machine, instead of one on the internet.
        command = (sys.executable, "-m", "bulkspider.demo.origin", "--port", PORT, "--rate", "20M")
        self.origin = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        address = (await self.origin.stdout.readline()).decode().split()[-1].rstrip("/")
        for title, files in BOOKS.items():
            links = "".join(f"<a href='{address}/{file}.bin'>x</a>" for file in files)
            links = links.replace("100K/missing.bin", "nowhere/missing.pdf")
            yield scrapy.Request(f"data:text/html,<h1>{title}</h1>{links}", dont_filter=True)

    def parse(self, response):
        yield {"title": response.css("h1::text").get(), "file_urls": response.css("a::attr(href)").getall()}

    def closed(self, reason):
        self.origin.terminate()
'''
PIPELINES = '''\
"""What is done with files once they are whole."""

import hashlib
from pathlib import Path


class Read:
    """Reads the files of an item. Those that failed are not among them; the log says why."""

    def __init__(self, store):
        self.store = Path(store)

    @classmethod
    def from_crawler(cls, crawler):
        return cls(crawler.settings["FILES_STORE"])

    def process_item(self, item):
        item["read"] = [self.digest(self.store / file["path"]) for file in item["files"]]
        return item

    def digest(self, path):
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()
'''
README = """\
# Crawl, files, parse

    scrapy crawl books

finds three books, fetches their files from a server on this machine into `files/`, reads them,
and writes a row for each book to `books.jsonl`. One file is missing there; the log says so.
Press Ctrl-C while it runs, run it again: it goes on. Run it once more: nothing is fetched.

* `library/spiders/books.py` finds what there is: put your pages here.
* `library/settings.py` says where the files go, and how many at once.
* `library/pipelines.py` reads what was fetched.
"""
FILES = {
    "README.md": README,
    "scrapy.cfg": CONFIG,
    "library/__init__.py": "",
    "library/settings.py": SETTINGS,
    "library/pipelines.py": PIPELINES,
    "library/spiders/__init__.py": "",
    "library/spiders/books.py": SPIDER,
}


def write(folder: Path) -> None:
    """Writes the project into a new or empty folder. Raises FileExistsError, with a sentence, or another OSError."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: something is there already; name a new folder")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("@PORT@", port), encoding="utf-8")
