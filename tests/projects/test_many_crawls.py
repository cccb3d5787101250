"""Fifty crawls in one process, with files of items, requests and lists: nothing of any is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support.crawl import QUICK
from support.faulty import FaultyOrigin, good, make_body

BODY = make_body(50_000)
SCRIPT = """
import gc, json, os, signal, sys, threading
import scrapy
from scrapy.crawler import Crawler, CrawlerRunner
from scrapy.utils.reactor import install_reactor

install_reactor("twisted.internet.asyncioreactor.AsyncioSelectorReactor")
from twisted.internet import defer, task
from bulkspider import BulkSpider

site, settings = sys.argv[1], json.loads(sys.argv[2])


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Shop(scrapy.Spider):
    name = "shop"

    async def start(self):
        yield scrapy.Request("data:,page")

    def parse(self, response):
        yield {"file_urls": [self.site + "/a.bin"]}
        yield scrapy.Request(self.site + "/b.bin", meta={"bulk": {"path": "b.bin"}}, callback=self.got)

    def got(self, response):
        yield {"file_urls": [], "status": response.meta["bulk"]["result"]["status"]}


def held():
    gc.collect()
    crawlers = sum(isinstance(each, Crawler) for each in gc.get_objects())
    return crawlers, len(os.listdir("/proc/self/fd")), threading.active_count()


async def main():
    scraped, before = 0, None
    for number in range(50):
        runner = CrawlerRunner({
            "ADDONS": {"bulkspider.Addon": 500}, "FILES_STORE": f"store-{number % 2}", "TELNETCONSOLE_ENABLED": False,
            "ITEM_PIPELINES": {"scrapy.pipelines.files.FilesPipeline": 1}, "REMOTE_CONTROL_ENABLED": False, **settings,
        })
        if number % 5 == 4:
            crawler = runner.create_crawler(BulkSpider)
            rows = iter([{"name": "a.bin", "url": site + "/a.bin"}])
            await runner.crawl(crawler, entries=rows, output=f"out-{number % 2}")
            assert crawler.stats.get_value("bulk/files/complete") == 1
        else:
            crawler = runner.create_crawler(Shop)
            await runner.crawl(crawler, site=site)
            scraped += crawler.stats.get_value("item_scraped_count")
            assert crawler.stats.get_value("bulk/files/complete") == 2
        del runner, crawler
        if number == 9:
            before, handlers = held(), [signal.getsignal(number) for number in SIGNALS]
    after = held()
    assert after[0] <= before[0], (before, after)
    assert after[1] <= before[1] + 2, (before, after)
    assert after[2] <= before[2] + 2, (before, after)
    assert handlers == [signal.getsignal(number) for number in SIGNALS]
    print("scraped", scraped)


task.react(lambda _: defer.ensureDeferred(main()))
"""


def test_fifty_crawls_in_one_process_leave_nothing_behind(tmp_path: Path) -> None:
    script = tmp_path / "crawls.py"
    script.write_text(SCRIPT)
    with FaultyOrigin(default=good, resource=BODY) as origin:
        done = subprocess.run(
            [sys.executable, script, origin.url("").rstrip("/"), json.dumps({**QUICK, "LOG_LEVEL": "WARNING"})],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.stdout == "scraped 80\n", done.stderr[-4000:]
        # Each store and each output folder has each file once.
        assert len(origin.requests) == 2 + 2 + 2
