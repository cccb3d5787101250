"""`scrapy crawl` of this project: Scrapy's own, but `bulk` ends with our exit status (docs/command.md)."""

from __future__ import annotations

import argparse

from scrapy.commands import crawl

from bulkspider.commands.startup import calm, run_bulk


class Command(crawl.Command):
    def process_options(self, args: list[str], opts: argparse.Namespace) -> None:
        super().process_options(args, opts)
        if args == ["bulk"]:
            assert self.settings is not None
            calm(self.settings)

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        if args != ["bulk"]:
            super().run(args, opts)
            return
        assert self.crawler_process is not None
        crawler = self.crawler_process.create_crawler("bulk")
        self.exitcode = run_bulk(self.crawler_process, crawler, dict(opts.spargs))
