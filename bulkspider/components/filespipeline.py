"""BulkFilesPipeline: `file_urls` become files, in any project that uses Scrapy's FilesPipeline.

It replaces Scrapy's class: the same settings and fields, and the same three methods to override (`get_media_requests`,
`file_path`, `item_completed`). But it streams to disk, resumes, proves and retries. Each file is driven by
`dispatch/fetch.py`; its attempts go through Scrapy's engine, wait outside of the downloader and have download slots of
their own (`bulk:<host>`), so that pages need not wait for files.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn, cast

from scrapy import Request
from scrapy.exceptions import DropItem, NotConfigured
from scrapy.http.request import NO_CALLBACK
from scrapy.pipelines.files import FilesPipeline
from scrapy.utils.datatypes import LocalCache
from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from scrapy.utils.misc import arg_to_iter
from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from bulkspider.components.identity import asked_of, check_request, without_redirects
from bulkspider.components.meta import entry_of, local_folder
from bulkspider.components.middleware import PagesMiddleware
from bulkspider.disk.finished.line import LedgerLine
from bulkspider.disk.folder.folder import Folder
from bulkspider.dispatch.fetch import Ended, Fetcher
from bulkspider.dispatch.places import OF_FILES, Limits, Places
from bulkspider.dispatch.proofs import find_proof
from bulkspider.dispatch.slots import Slots
from bulkspider.entries.entry import Entry, EntryError, redact, slot_of, without_userinfo
from bulkspider.entries.redaction import error_of, guard_logs
from bulkspider.errors import BulkError, UsageError
from bulkspider.items import BulkItem
from bulkspider.run.download import Attempt, Download
from bulkspider.run.origins.outcome import Outcome
from bulkspider.run.row import row_of
from bulkspider.run.run import Run
from bulkspider.wire.compat import FileException
from bulkspider.wire.failures import middleware_error

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from scrapy.http import Response

logger = logging.getLogger(__name__)

# The key `checksum` of a result is an MD5, as in FilesPipeline.
CHECKSUM = "md5"
# How many permanent failures are remembered, so that such a file is not requested again for another item.
REMEMBERED_FAILURES = 10_000
# How often it is checked whether another crawl has ended that fetches the same file.
ANOTHER_LOOK_SECONDS = 0.25
# Methods of FilesPipeline that are not called here, because bodies do not come into memory.
NOT_CALLED = ("media_to_download", "media_downloaded", "media_failed", "file_downloaded")


class BulkFileError(FileException):
    """A file that could not be fetched. info: as a result, with `error` {code, message, …}."""

    def __init__(self, info: dict[str, Any]) -> None:
        super().__init__(f"{info['error']['message']} [{info['error']['code']}]")
        self.info = info


class BulkFilesPipeline(FilesPipeline):
    """See the module. Results have url, path, checksum, status as in FilesPipeline, and proof, size, sha256,
    resumed_from, error. Without FILES_EXPIRES a proven file never expires."""

    EXPIRES = -1

    def __init__(self, store_uri: Any, download_func: None = None, *, crawler: Crawler) -> None:
        run = crawler.get_extension(Run)
        if run is None:
            raise NotConfigured("bulkspider.run.run.Run is missing from EXTENSIONS; add bulkspider.Addon to ADDONS")
        root = local_folder(store_uri)
        if store_uri and root is None:
            raise NotConfigured(
                f"FILES_STORE={redact(str(store_uri))}: {type(self).__name__} writes to a folder of this machine only; "
                "use scrapy.pipelines.files.FilesPipeline for other storages"
            )
        super().__init__(store_uri, crawler=crawler)
        for name in NOT_CALLED:
            if getattr(type(self), name) is not getattr(FilesPipeline, name):
                logger.warning("%s.%s is never called: bodies are streamed to disk", type(self).__name__, name)
        self._run = run
        self._root = cast(str, root)
        self._failed: LocalCache[tuple[str, str], BulkItem] = LocalCache(REMEMBERED_FAILURES)
        # Scrapy counts files in flight among its requests: half of the places are kept for pages.
        try:
            places = Places(run.origins, run.clock, Limits.of(crawler.settings).half())
        except UsageError:
            guard_logs()  # so that the log shows it as one sentence
            raise
        self._fetcher = Fetcher(run, self, Slots(places, run.stopping))
        self._requests: dict[Download, Request] = {}
        self._put_back: set[Request] = set()
        run.patience.used = True

    @property
    def _pages(self) -> PagesMiddleware | None:
        """The spider middleware that the add-on installs where this pipeline is configured."""
        return self.crawler.get_spider_middleware(PagesMiddleware)

    async def process_item(self, item: Any, spider: Any = None) -> Any:
        """Fetches all files of the item, then returns it; drops it if the end of the crawl has interrupted its files.
        Scrapy calls it."""
        info = self.spiderinfo
        page = self._pages.take(item) if self._pages is not None else None
        requests = list(arg_to_iter(self.get_media_requests(item, info)))
        wanted = [Deferred.fromCoroutine(self._result(request, info, item)) for request in requests]
        # An item without files is not counted among those that the end of the crawl waits for.
        with self._run.patience.item() if wanted else nullcontext():
            results = await maybe_deferred_to_future(DeferredList(wanted, consumeErrors=True))
        if any(not ok and _is_interrupted(value.value) for ok, value in cast(Any, results)):
            self._put_off(page)
        return self.item_completed(cast(Any, results), item, info)

    def _put_off(self, page: Request | None) -> NoReturn:
        """The crawl ended before the files: the item is not exported. With JOBDIR the next run visits its page again
        (Scrapy closes its queue after the pipelines); without, the log says so. Raises DropItem."""
        name = redact(page.url) if page is not None else "its page is not known"
        if page is not None and self.crawler.settings["JOBDIR"] and self._goes_into_the_queue(page):
            if page not in self._put_back:
                self._put_back.add(page)
                self.crawler.engine.crawl(page.replace(dont_filter=True))
            why = f"files not finished when the crawl ended; the next run visits {name} again"
            raise DropItem(why, log_level="INFO")
        logger.error(
            "An item is not exported: its files were not finished when the crawl ended (%s); crawl it again, and "
            "they go on where they are",
            name,
            extra={"spider": self.spiderinfo.spider},
        )
        raise DropItem(f"files not finished when the crawl ended ({name})", log_level="DEBUG")

    def _goes_into_the_queue(self, page: Request) -> bool:
        """Whether Scrapy can write the request to its queue on disk; otherwise it would be lost silently."""
        try:
            pickle.dumps(page.to_dict(spider=self.spiderinfo.spider))
        except Exception:
            return False
        return True

    async def _result(self, request: Request, info: Any, item: Any) -> Any:
        """The result of one file; raises BulkFileError."""
        errback = request.errback
        try:
            return await self._file(request, self.file_path(request, info=info, item=item))
        except BulkFileError as error:
            if _is_interrupted(error):
                raise
            logger.warning("File (error): %s: %s", redact(request.url), error, extra={"spider": info.spider})
            if errback is None:
                raise
            return errback(Failure(error))
        except Exception:
            # A method of the project has failed; `item_completed` would ignore that.
            logger.error("File (error): %s", redact(request.url), exc_info=True, extra={"spider": info.spider})
            raise

    async def _file(self, request: Request, path: str) -> dict[str, Any]:
        stats = self.crawler.stats
        stats.inc_value("bulk/entries")
        try:
            check_request(request)
            entry = entry_of(request.meta.get("bulk", {}), request.url, asked=asked_of(request), path=path)
            folder = self._run.folder(self._root)
        except (EntryError, BulkError) as error:
            known = error if isinstance(error, BulkError) else BulkError(str(error), code="bad_line")
            failed = BulkItem(name=path, url=redact(request.url), status="failed", error=error_of(known))
            return self._told(request, failed)
        place = (folder.place(entry.name), entry.key)
        if place in self._failed:
            return self._told(request, self._failed[place])
        failure: BulkError | None = None
        try:
            async with self._run.downloads.turn(entry, folder, outside=True), self._alone_at(entry, folder):
                line = await find_proof(self._run, entry, folder, since=self._expired_before)
                if line is not None:
                    self._run.downloads.turns.has_finished(folder.place(entry.name), entry.key)
                    done = row_of(entry, folder, line=line)
                    done.already = True
                else:
                    done, failure = await self._fetch(request, entry, folder)
        except BulkError as error:
            done, failure = row_of(entry, folder, error=error), error
        if failure is not None and failure.permanent:
            self._failed[place] = done
        return self._told(request, done)

    @asynccontextmanager
    async def _alone_at(self, entry: Entry, folder: Folder) -> AsyncIterator[None]:
        """Waits until no other crawl that shares the folder is fetching this file; it may be there then. Allowed only
        outside of Scrapy's downloader, whose places must not wait. Raises Stopped."""
        if not folder.take_name(entry.name):
            logger.info("%s: another crawl is fetching it; waiting for that", entry.name)
            while not folder.take_name(entry.name):
                if self._run.stopping:
                    raise self._run.stopping.error
                waited = Deferred[None]()
                self._run.clock.call_later(ANOTHER_LOOK_SECONDS, waited.callback, None)
                await waited
        try:
            yield
        finally:
            folder.give_name_back(entry.name)

    @property
    def _expired_before(self) -> float | None:
        """FILES_EXPIRES (days) as a time: an older proof does not count."""
        return None if self.expires < 0 else time.time() - self.expires * 24 * 3600

    def _told(self, request: Request, done: BulkItem) -> dict[str, Any]:
        """The result for `item_completed`. Raises BulkFileError for a failure."""
        self._run.outcomes.count(done)
        status = "uptodate" if done.already else "downloaded"
        result = {
            "url": request.url,
            "path": done.name,
            "checksum": done.checksums.get(CHECKSUM),
            "status": status if done.error is None else done.status,
            "proof": done.status if done.error is None else None,
            "size": done.size,
            "sha256": done.sha256,
            "resumed_from": done.resumed_from,
            "error": done.error,
        }
        if done.error is not None:
            raise BulkFileError(result)
        self.inc_stats(status)
        return result

    # ------------------------------------------------------------------------------------------------ the attempts

    async def _fetch(self, request: Request, entry: Entry, folder: Folder) -> tuple[BulkItem, BulkError | None]:
        """Fetches the file until it is finished or given up (`dispatch/fetch.py`). Returns its row, and the error or
        None."""
        download = self._run.downloads.begin(entry, folder, pages=True)
        download.of_an_item = True
        download.also = (CHECKSUM,)
        self._requests[download] = request
        try:
            line = await self._fetcher.fetch(download)
            return row_of(entry, folder, download=download, line=line), None
        except BulkError as error:
            return row_of(entry, folder, download=download, error=error), error
        finally:
            del self._requests[download]
            await self._run.downloads.forget(download)

    # How it asks and finishes (dispatch.fetch.Frontend).

    def slot(self, download: Download) -> str:
        """A slot for the files of the host, so that pages need not wait for files; a slot that the project chose is
        kept."""
        request = self._requests[download]
        return request.meta.get("download_slot") or OF_FILES + slot_of(request.url)

    def send(self, attempt: Attempt, ended: Ended) -> None:
        deferred_from_coro(self._attempt(attempt)).addBoth(self._attempted, attempt, ended)

    def finish(self, download: Download) -> Deferred[LedgerLine | None]:
        return Deferred.fromCoroutine(self._run.downloads.finish(download))

    async def _attempt(self, attempt: Attempt) -> Response:
        """One request through all downloader middlewares; the handler moves the bytes."""
        download = attempt.download
        request = self._requests[download]
        headers = request.headers.copy()
        headers.setdefault("Accept", "*/*")
        headers["Accept-Encoding"] = "identity"
        asked = request.replace(
            url=without_userinfo(download.url),
            callback=NO_CALLBACK,
            errback=None,
            headers=headers,
            meta={
                "allow_offsite": True,
                **request.meta,
                "bulk": {
                    "entry": download.entry.to_meta(),
                    "output": str(download.folder.root),
                    "attempt": attempt.number,
                },
                "download_slot": attempt.place.slot,
                "dont_retry": True,
                "dont_cache": True,
            },
        )
        without_redirects(asked.meta)
        return await self.crawler.engine.download_async(asked)

    def _attempted(self, result: Response | Failure, attempt: Attempt, ended: Ended) -> None:
        if attempt.outcome is None:
            if isinstance(result, Failure):
                error = middleware_error(result.value, None)
            else:
                error = middleware_error(None, result.status)
            attempt.outcome = Outcome(error=error)
        ended(attempt, attempt.outcome)


def _is_interrupted(error: BaseException) -> bool:
    return isinstance(error, BulkFileError) and error.info["status"] == "interrupted"
