"""`scrapy bulk LIST`: the spider for people who have no project. Works anywhere."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, ClassVar

from scrapy.commands import BaseRunSpiderCommand
from scrapy.exceptions import UsageError

from bulkspider import settings as ours
from bulkspider.commands.honest import calm, run_bulk
from bulkspider.spiders.bulk import BulkSpider


class Command(BaseRunSpiderCommand):
    requires_project = False
    # Below a project's own settings, above Scrapy's defaults.
    default_settings: ClassVar[dict[str, Any]] = {
        name: getattr(ours, name)
        for name in dir(ours)
        if name.isupper() and name not in ("BOT_NAME", "COMMANDS_MODULE", "SPIDER_MODULES")
    }

    def syntax(self) -> str:
        return "[options] LIST"

    def short_desc(self) -> str:
        return "Download every file of a list, and go on where an earlier run stopped"

    def long_desc(self) -> str:
        return (
            "LIST has a line `name url` per file; its first line is ignored. Files go to output/<list name>/. "
            "Killed, unplugged, out of disk: run the same again, it fetches only what is missing. "
            "Exit status: 0 all verified or complete, 1 nothing was begun, 3 run it again, 4 only permanent failures, "
            "5 nothing failed but some lengths could not be proven."
        )

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        parser.add_argument("-o", "--output", metavar="DIR", default=None, help="output folder", dest="folder")
        parser.add_argument("-j", "--jobs", metavar="N", help="transfers at once (CONCURRENT_REQUESTS)")

    def process_options(self, args: list[str], opts: argparse.Namespace) -> None:
        opts.output = None
        super().process_options(args, opts)
        assert self.settings is not None
        calm(self.settings)
        # Where BULK_FRESH_URL and the like are looked for, as in a project's own folder.
        sys.path.append(os.getcwd())
        if opts.jobs:
            if not opts.jobs.isdigit():
                raise UsageError(f"-j {opts.jobs}: must be a number")
            for name in ("CONCURRENT_REQUESTS", "CONCURRENT_REQUESTS_PER_DOMAIN"):
                self.settings.set(name, int(opts.jobs), "cmdline")

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        if len(args) != 1:
            raise UsageError("which list? `scrapy bulk LIST`, with a `name url` line per file")
        assert self.settings is not None
        addons = self.settings["ADDONS"]
        if not any("bulkspider" in str(addon) for addon in addons):
            addons["bulkspider.Addon"] = 500
        arguments = {**opts.spargs, "list": args[0]}
        if opts.folder:
            arguments["output"] = opts.folder
        assert self.crawler_process is not None
        crawler = self.crawler_process.create_crawler(BulkSpider)
        self.exitcode = run_bulk(self.crawler_process, crawler, arguments)
