"""BulkFilesPipeline: `file_urls` become files, in any project that uses Scrapy's FilesPipeline.

A drop-in: the same settings and fields, and the same three methods to override (`get_media_requests`, `file_path`,
`item_completed`). Other than its model it streams to disk, resumes, proves and retries with patience. It makes its own
attempts through the engine, waits for them outside of the downloader (`gate.py`) and in download slots of their own
(`bulk:<host>`), so that pages are not starved. What a file is worth is `delivery.py`'s to say.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, cast

from scrapy import Request
from scrapy.exceptions import NotConfigured
from scrapy.http.request import NO_CALLBACK
from scrapy.pipelines.files import FilesPipeline
from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from scrapy.utils.misc import arg_to_iter
from twisted.internet.defer import DeferredList
from twisted.python.failure import Failure

from bulkspider import bare
from bulkspider.delivery import Delivery, error_of, middleware_error
from bulkspider.download import Download
from bulkspider.entry import EntryError, origin_of, redact, slot_of, url_key, without_userinfo
from bulkspider.errors import BulkError, Stopped
from bulkspider.gate import Gate
from bulkspider.items import BulkItem
from bulkspider.pace import Again, GiveUp, Outcome
from bulkspider.run import Run
from bulkspider.versions import FileException

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

logger = logging.getLogger(__name__)

SLOT = "bulk:"
# The key `checksum` of a result is an MD5, as ever.
CHECKSUM = "md5"
# A link that is dead for good is not asked for again when another item has it too; so many of them are remembered.
REMEMBERED_FAILURES = 10_000
# FilesPipeline calls these; here the transfer takes their place.
NOT_CALLED = ("media_to_download", "media_downloaded", "media_failed", "file_downloaded")


class BulkFileError(FileException):
    """A file that could not be had. info: what a result would hold, with `error` {code, message, …}."""

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
            raise NotConfigured("bulkspider.run.Run is missing from EXTENSIONS; add bulkspider.Addon to ADDONS")
        root = bare.local_folder(store_uri)
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
        self._failed: OrderedDict[tuple[str, str], BulkItem] = OrderedDict()
        settings = crawler.settings
        total = settings.getint("CONCURRENT_REQUESTS")
        per_slot = settings.getint("CONCURRENT_REQUESTS_PER_IP") or settings.getint("CONCURRENT_REQUESTS_PER_DOMAIN")
        slots = settings.getdict("DOWNLOAD_SLOTS")
        self._gate = Gate(
            run.pace,
            lambda: (run.stop_reason or Stopped()) if run.stopping else None,
            # Scrapy counts files in flight among its requests: half of the places are left to pages.
            total=max(1, total // 2) if total else 0,
            limit=per_slot,
            limits={name: int(values["concurrency"]) for name, values in slots.items() if "concurrency" in values},
        )
        run.on_stop(self._gate.look)

    async def process_item(self, item: Any, spider: Any = None) -> Any:
        """Fetches all files of the item, then lets it go on. Scrapy calls it."""
        info = self.spiderinfo
        requests = list(arg_to_iter(self.get_media_requests(item, info)))
        wanted = [deferred_from_coro(self._result(request, info, item)) for request in requests]
        results = await maybe_deferred_to_future(DeferredList(wanted, consumeErrors=True))
        return self.item_completed(cast(Any, results), item, info)

    async def _result(self, request: Request, info: Any, item: Any) -> Any:
        """The result of one file; raises BulkFileError."""
        errback = request.errback
        try:
            return await self._file(request, self.file_path(request, info=info, item=item))
        except BulkFileError as error:
            logger.warning("File (error): %s: %s", redact(request.url), error, extra={"spider": info.spider})
            if errback is None:
                raise
            return errback(Failure(error))
        except Exception:
            # An override of the project has failed; `item_completed` would pass over it.
            logger.error("File (error): %s", redact(request.url), exc_info=True, extra={"spider": info.spider})
            raise

    async def _file(self, request: Request, path: str) -> dict[str, Any]:
        stats = self.crawler.stats
        stats.inc_value("bulk/entries")
        try:
            entry = bare.entry_of(request.meta.get("bulk", {}), request.url, path=path)
            delivery = Delivery(self._run, entry, self._root)
        except (EntryError, BulkError) as error:
            known = error if isinstance(error, BulkError) else BulkError(str(error), code="bad_line", permanent=True)
            failed = BulkItem(name=path, url=redact(request.url), status="failed", error=error_of(known))
            return self._told(request, failed)
        place = (delivery.path, url_key(entry.url))
        if place in self._failed:
            return self._told(request, self._failed[place])
        try:
            async with delivery.turn(outside=True):
                done = await delivery.find_finished(since=self._expired_before)
                if done is None:
                    done = await self._fetch(request, delivery)
        except BulkError as error:
            done = delivery.item(error=error)
        if done.error is not None and done.error["permanent"]:
            self._failed[place] = done
            if len(self._failed) > REMEMBERED_FAILURES:
                self._failed.popitem(last=False)
        return self._told(request, done)

    @property
    def _expired_before(self) -> float | None:
        """FILES_EXPIRES, in days: an older proof does not count any more."""
        return None if self.expires < 0 else time.time() - self.expires * 24 * 3600

    def _told(self, request: Request, done: BulkItem) -> dict[str, Any]:
        """The result that the project sees. Raises BulkFileError for a failure."""
        self._run.count(done)
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

    async def _fetch(self, request: Request, delivery: Delivery) -> BulkItem:
        """Attempt after attempt, as `pace.py` says, until the file is finished or given up."""
        async with delivery.download() as download:
            download.also = (CHECKSUM,)
            try:
                while True:
                    await self._attempts(request, delivery, download)
                    done = await delivery.finish(download)
                    if done is not None:
                        return done
            except BulkError as error:
                return delivery.item(download, error)

    async def _attempts(self, request: Request, delivery: Delivery, download: Download) -> None:
        """Returns when all bytes are on disk. Raises BulkError."""
        run, origin = self._run, origin_of(request.url)
        slot = request.meta.get("download_slot") or SLOT + slot_of(request.url)
        not_before = 0.0
        while True:
            await self._gate.enter(slot, origin, not_before)
            try:
                outcome = await self._attempt(request, delivery, slot)
            finally:
                self._gate.leave(slot)
            error = outcome.error
            if error is not None and error.code == Stopped().code:
                raise error
            now = time.monotonic()
            next_step = run.pace.after(origin, outcome, download.budget, now)
            self._gate.look()
            if next_step is None:
                return
            if isinstance(next_step, GiveUp):
                raise next_step.error
            assert isinstance(next_step, Again)
            not_before = next_step.at
            if error is not None:
                if error.code == "no_space":
                    if not run.active:
                        # Nothing is under way whose end might make room.
                        raise error
                    not_before = now + run.options.retry_delay
                wait = max(0.0, not_before - now)
                logger.info("%s: %s; trying again in %.1f s", download.entry.name, redact(str(error)), wait)

    async def _attempt(self, request: Request, delivery: Delivery, slot: str) -> Outcome:
        """One request through all downloader middlewares; the handler moves the bytes and tells what came of it."""
        bulk: dict[str, Any] = {
            "entry": delivery.entry.to_meta(),
            "output": str(delivery.folder.root),
        }
        headers = request.headers.copy()
        headers.setdefault("Accept", "*/*")
        headers["Accept-Encoding"] = "identity"
        attempt = request.replace(
            url=without_userinfo(request.url),
            callback=NO_CALLBACK,
            errback=None,
            headers=headers,
            meta={
                "allow_offsite": True,
                **request.meta,
                "bulk": bulk,
                "download_slot": slot,
                "dont_retry": True,
                "dont_cache": True,
            },
        )
        status, failure = None, None
        try:
            response = await self.crawler.engine.download_async(attempt)
            status = response.status
        except Exception as error:
            failure = error
        told = bulk.pop("result", None)
        return Outcome.from_meta(told) if told else Outcome(error=middleware_error(failure, status))
