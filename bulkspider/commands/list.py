"""`scrapy list`: Scrapy's own, but it also applies the add-ons' SPIDER_MODULES, as `scrapy crawl` does.

Scrapy's own does not know the spider `bulk`, and Scrapyd, which uses this command, would refuse to run it. Nothing else
is changed, and nothing at all in a project without add-ons. Every scrapy command of an environment imports this module.
"""

from __future__ import annotations

import argparse

from scrapy.commands import list as scrapys


class Command(scrapys.Command):
    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        from scrapy.addons import AddonManager

        assert self.settings is not None
        AddonManager.load_pre_crawler_settings(self.settings)
        super().run(args, opts)
