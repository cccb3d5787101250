"""The add-on: one line puts bulkspider into any Scrapy project.

    ADDONS = {"bulkspider.Addon": 500}

It adds the download handler (which falls back to whatever was configured), the run and the spider `bulk`. It changes
nothing for a project's other spiders and never overwrites a user's setting.
"""

from __future__ import annotations

from typing import Any

from scrapy.settings import BaseSettings
from scrapy.utils.misc import load_object

HANDLER = "bulkspider.handler.BulkDownloadHandler"


class Addon:
    """See the module. Scrapy calls both methods."""

    @classmethod
    def update_pre_crawler_settings(cls, settings: BaseSettings) -> None:
        """Makes `scrapy crawl bulk` known (Scrapy >= 2.13)."""
        modules = list(settings.getlist("SPIDER_MODULES"))
        if "bulkspider.spiders" not in modules:
            priority = settings.getpriority("SPIDER_MODULES") or 0
            settings.set("SPIDER_MODULES", [*modules, "bulkspider.spiders"], max(priority, _ADDON_PRIORITY))

    def update_settings(self, settings: BaseSettings) -> None:
        """Installs handler and run."""
        for scheme in ("http", "https"):
            self._install_handler(settings, scheme)
        # Imported late: importing the add-on must install no reactor.
        from bulkspider.progress import Progress
        from bulkspider.run import Run

        settings.setdefault_in_component_priority_dict("EXTENSIONS", Run, 0)
        settings.setdefault_in_component_priority_dict("EXTENSIONS", Progress, 0)

    def _install_handler(self, settings: BaseSettings, scheme: str) -> None:
        handlers: Any = settings["DOWNLOAD_HANDLERS"]
        configured = handlers.get(scheme)
        if configured is not None and load_object(configured) is load_object(HANDLER):
            return
        fallback = f"BULK_FALLBACK_{scheme.upper()}_HANDLER"
        # Only what somebody chose: Scrapy's own default depends on things that are decided after us.
        if configured is not None and not settings.get(fallback):
            settings.set(fallback, configured, "addon")
        handlers[scheme] = HANDLER


_ADDON_PRIORITY = 15
