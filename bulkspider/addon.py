"""The add-on: one line puts bulkspider into any Scrapy project.

    ADDONS = {"bulkspider.Addon": 500}

It adds the download handler (which falls back to whatever was configured), a middleware for our requests, the run and
the spider `bulk`, and puts BulkFilesPipeline in the place of exactly Scrapy's FilesPipeline. It changes nothing for a
project's other spiders and never overwrites a user's setting.
"""

from __future__ import annotations

import logging
from typing import Any

from scrapy.settings import SETTINGS_PRIORITIES, BaseSettings
from scrapy.utils.misc import load_object

from bulkspider.components.meta import local_folder
from bulkspider.errors import NEEDS_REACTOR, UsageError

logger = logging.getLogger(__name__)

HANDLER = "bulkspider.components.handler.BulkDownloadHandler"
OURS = (HANDLER, "bulkspider.BulkDownloadHandler")
SPIDERS = "bulkspider.spiders"
FILES_PIPELINE = "bulkspider.components.filespipeline.BulkFilesPipeline"
COOKIES = "bulkspider.components.cookies.BulkCookiesMiddleware"
SCRAPYS_COOKIES = "scrapy.downloadermiddlewares.cookies.CookiesMiddleware"
BASE_MIDDLEWARES = "DOWNLOADER_MIDDLEWARES_BASE"


class Addon:
    """See the module. Scrapy calls both methods."""

    @classmethod
    def update_pre_crawler_settings(cls, settings: BaseSettings) -> None:
        """Makes `scrapy crawl bulk` known. It stands first: a spider `bulk` of the project itself wins over ours."""
        modules = list(settings.getlist("SPIDER_MODULES"))
        if SPIDERS not in modules:
            priority = settings.getpriority("SPIDER_MODULES") or 0
            settings.set("SPIDER_MODULES", [SPIDERS, *modules], max(priority, SETTINGS_PRIORITIES["addon"]))

    def update_settings(self, settings: BaseSettings) -> None:
        """Installs middleware, handler, run and pipeline."""
        # Imported late: importing the add-on must install no reactor.
        from bulkspider.components.middleware import BulkMiddleware, PagesMiddleware

        settings.setdefault_in_component_priority_dict("DOWNLOADER_MIDDLEWARES", BulkMiddleware, 0)
        if not settings.getbool("TWISTED_REACTOR_ENABLED", True):
            _refuse_without_reactor(settings)
            return
        for scheme in ("http", "https"):
            self._install_handler(settings, scheme)
        _replace_cookies(settings)
        from bulkspider.reporting.metrics import Metrics
        from bulkspider.reporting.progress import Progress
        from bulkspider.run.run import Run
        from bulkspider.status.record import StatusRecord

        settings.setdefault_in_component_priority_dict("EXTENSIONS", Run, 0)
        settings.setdefault_in_component_priority_dict("EXTENSIONS", Progress, 0)
        settings.setdefault_in_component_priority_dict("EXTENSIONS", Metrics, 0)
        settings.setdefault_in_component_priority_dict("EXTENSIONS", StatusRecord, 0)
        self._replace_files_pipeline(settings)
        _name_stock_subclasses(settings)
        _copy_slots(settings)
        if _uses(settings, FILES_PIPELINE):
            settings.setdefault_in_component_priority_dict("SPIDER_MIDDLEWARES", PagesMiddleware, 0)

    def _install_handler(self, settings: BaseSettings, scheme: str) -> None:
        handlers: Any = settings["DOWNLOAD_HANDLERS"]
        configured = handlers.get(scheme)
        if configured is None and scheme in handlers:
            # The user switched this scheme off.
            return
        if configured is not None and _path(configured) in OURS:
            return
        fallback = f"BULK_FALLBACK_{scheme.upper()}_HANDLER"
        # Only a handler that the user chose: which one is Scrapy's default is decided later, from other settings.
        if configured is not None and not settings.get(fallback):
            settings.set(fallback, configured, "addon")
        # A handler given on the command line is the fallback now; its higher priority must not replace ours.
        priority = max(handlers.getpriority(scheme) or 0, SETTINGS_PRIORITIES["project"])
        handlers.set(scheme, HANDLER, priority)

    def _replace_files_pipeline(self, settings: BaseSettings) -> None:
        """Only where FILES_STORE is a folder of this machine: for other storages Scrapy's pipeline stays."""
        from scrapy.pipelines.files import FilesPipeline

        configured = [
            priority
            for pipeline, priority in settings.getdict("ITEM_PIPELINES").items()
            if load_object(pipeline) is FilesPipeline and priority is not None
        ]
        if not configured:
            return
        if local_folder(settings["FILES_STORE"]) is None:
            if settings["FILES_STORE"]:
                logger.warning("FILES_STORE is no folder of this machine: FilesPipeline stays as it is")
            return
        settings.replace_in_component_priority_dict("ITEM_PIPELINES", FilesPipeline, load_object(FILES_PIPELINE))


def _name_stock_subclasses(settings: BaseSettings) -> None:
    """A project's own subclass of FilesPipeline stays as it is and loads whole files into memory: says so in the
    log."""
    from scrapy.pipelines.files import FilesPipeline
    from scrapy.pipelines.images import ImagesPipeline

    ours = load_object(FILES_PIPELINE)
    for pipeline, priority in settings.getdict("ITEM_PIPELINES").items():
        found = load_object(pipeline)
        if priority is None or not isinstance(found, type) or found is FilesPipeline:
            continue
        if issubclass(found, FilesPipeline) and not issubclass(found, (ours, ImagesPipeline)):
            name = found.__name__
            logger.info(
                "%s stays as it is, and loads files into memory; it streams them as `class %s(BulkFilesPipeline, %s)`",
                *(_path(found), name, name),
            )


def mentions_cookies(settings: BaseSettings) -> bool:
    """The user has configured the middleware for cookies, or one of their own."""
    names = map(_path, settings.getdict("DOWNLOADER_MIDDLEWARES"))
    return any(name.endswith("CookiesMiddleware") for name in names)


def _replace_cookies(settings: BaseSettings) -> None:
    """Puts ours in the place of Scrapy's middleware for cookies; one of the project's own stays. By import path,
    because importing it takes time and is not needed where cookies are switched off."""
    chosen: Any = settings["DOWNLOADER_MIDDLEWARES"]
    theirs = [component for component in chosen if _path(component) == SCRAPYS_COOKIES]
    if not theirs and SCRAPYS_COOKIES in settings[BASE_MIDDLEWARES] and not mentions_cookies(settings):
        theirs = [SCRAPYS_COOKIES]
    for component in theirs:
        place = chosen.get(component, settings[BASE_MIDDLEWARES].get(SCRAPYS_COOKIES))
        if component not in chosen or chosen[component] is not None:
            priority = max(chosen.getpriority(component) or 0, SETTINGS_PRIORITIES["addon"])
            chosen.set(component, None, priority)
            chosen.set(COOKIES, place, priority)


def _path(component: Any) -> str:
    """The import path of a class. Nothing is imported here: a broken path is reported by Scrapy."""
    return component if isinstance(component, str) else f"{component.__module__}.{component.__qualname__}"


def _uses(settings: BaseSettings, path: str) -> bool:
    """This pipeline, or a subclass of it, is configured."""
    wanted = load_object(path)
    for pipeline, priority in settings.getdict("ITEM_PIPELINES").items():
        found = load_object(pipeline)
        if priority is not None and isinstance(found, type) and issubclass(found, wanted):
            return True
    return False


def _copy_slots(settings: BaseSettings) -> None:
    """Files have slots of their own: copies what DOWNLOAD_SLOTS says of a host to the slot of its files."""
    from bulkspider.dispatch.places import OF_FILES

    slots = settings.getdict("DOWNLOAD_SLOTS")
    ours = {OF_FILES + host: dict(values) for host, values in slots.items() if not host.startswith(OF_FILES)}
    if ours:
        priority = max(settings.getpriority("DOWNLOAD_SLOTS") or 0, SETTINGS_PRIORITIES["addon"])
        settings.set("DOWNLOAD_SLOTS", {**slots, **ours, **slots}, priority)


def _refuse_without_reactor(settings: BaseSettings) -> None:
    """TWISTED_REACTOR_ENABLED=False: our transfers need Twisted. Raises UsageError when our pipelines are
    configured."""
    if _uses(settings, "bulkspider.components.pipeline.BulkPipeline") or _uses(settings, FILES_PIPELINE):
        raise UsageError(NEEDS_REACTOR)
    logger.warning('%s. In this crawl, requests with meta["bulk"] fail; all others work as always', NEEDS_REACTOR)
