"""The frontend of the spider `bulk`: makes the Requests that its `start()` yields, and takes their outcomes back.

An attempt becomes a Request. Its Range header shows Scrapy's middlewares where the file is continued; the handler makes
the real one when the exchange starts (`transfer/transfer.py`). Callback and errback bring the outcome back. Requests
that Scrapy or another component has dropped are found and ended here, too. `dispatch/fetch.py` decides what follows
from an outcome; `rows.py` makes the items.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, Protocol, cast

from scrapy import Request, signals
from scrapy.spidermiddlewares.httperror import HttpError
from twisted.internet.defer import Deferred

from bulkspider.disk.finished.line import LedgerLine
from bulkspider.dispatch.fetch import Ended
from bulkspider.entries.entry import slot_of, without_userinfo
from bulkspider.errors import BulkError
from bulkspider.items import BulkItem
from bulkspider.run.download import Attempt, Download
from bulkspider.run.origins.outcome import Outcome
from bulkspider.run.run import Run
from bulkspider.small.sharing import SmallFiles
from bulkspider.wire import is_closing, is_idle
from bulkspider.wire.failures import middleware_error

if TYPE_CHECKING:
    from scrapy.http import Response
    from twisted.python.failure import Failure

    from bulkspider.disk.folder.folder import Folder

logger = logging.getLogger(__name__)

# A request counts as lost when Scrapy has been idle for this long; it passes between Scrapy's components within
# milliseconds.
LOST_SECONDS = 2.0
# Statuses that must reach our callback. Not 3xx, which the redirect middleware handles.
STATUSES = [304, *range(400, 600)]


class Items(Protocol):
    """The items that are yielded besides the Requests (`rows.py`)."""

    @property
    def finishing(self) -> Collection[Download]: ...
    def __len__(self) -> int: ...
    @property
    def waits(self) -> bool: ...
    def take(self) -> Any: ...
    def finish(self, download: Download) -> Deferred[LedgerLine | None]: ...
    def lose(self, download: Download) -> None: ...
    def are_all_through(self) -> None: ...


class SpiderFrontend:
    """One per crawl of the spider. callback, errback: of its Requests; they call `answered` and `failed`. rows: the
    items. small: which entries share a request. probing: a dry run asks for the first byte only."""

    def __init__(
        self,
        run: Run,
        folder: Folder,
        rows: Items,
        small: SmallFiles,
        *,
        callback: Callable[[Response], Iterator[BulkItem]],
        errback: Callable[[Failure], Iterator[BulkItem]],
        probing: bool = False,
    ) -> None:
        self._run = run
        self._folder = folder
        self._callback = callback
        self._errback = errback
        self._rows = rows
        self._small = small
        self._probing = probing
        self._ready: deque[list[Attempt]] = deque()
        self._yielding: list[Attempt] = []
        # Those whose end is not told yet, with who is to be told.
        self._sent: dict[Attempt, Ended] = {}
        self._idle_since: float | None = None
        connect = run.crawler.signals.connect
        connect(self._request_scheduled, signals.request_scheduled)
        connect(self._request_dropped, signals.request_dropped)

    # -- for the loop of `start()` ---------------------------------------------------------------------------------

    def yield_ready(self) -> Iterator[Any]:
        """Everything that Scrapy can get now."""
        while self._rows or self._ready:
            if self._run.stopping and is_closing(self._run.crawler):
                # While Scrapy closes it waits for items of `start()`, and does not notice when they are through. So
                # what is ready is yielded by callbacks then, or counted at the end.
                return
            if (item := self._rows.take()) is not None:
                yield item
                continue
            attempts = self._ready.popleft()
            if self._run.stopping:
                for attempt in attempts:
                    self._tell(attempt, Outcome(error=self._run.stopping.error))
                continue
            self._yielding = attempts
            yield self._request(attempts)
            self._yielding = []
            if not attempts[0].scheduled:
                self._dropped(attempts)

    @property
    def has_ready(self) -> bool:
        """There is something that Scrapy can get now."""
        return bool(self._rows or self._ready)

    @property
    def waits(self) -> bool:
        """An item is in the pipelines or being parsed, so more may come."""
        return self._rows.waits

    def find_lost(self) -> None:
        """Ends requests and items that will not come back, because a middleware or a pipeline has replaced them: those
        that we still wait for when Scrapy has been idle for LOST_SECONDS."""
        now = self._run.clock.now()
        waiting = self._sent or self._rows.finishing or self._rows.waits
        if not waiting or self.has_ready or not is_idle(self._run.crawler):
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= LOST_SECONDS:
            self._dropped(list(self._sent))
            for download in list(self._rows.finishing):
                self._rows.lose(download)
            self._rows.are_all_through()

    # -- asking (dispatch.fetch.Frontend) ------------------------------------------------------------------------------

    def slot(self, download: Download) -> str:
        """Scrapy's own slot, the host, so that DOWNLOAD_SLOTS works."""
        return slot_of(download.url)

    def send(self, attempt: Attempt, ended: Ended) -> None:
        self._sent[attempt] = ended
        if attempt.place.shared:
            for attempts in reversed(self._ready):
                if attempts[0].place is attempt.place:
                    attempts.append(attempt)
                    return
        self._ready.append([attempt])
        self._run.wakeup.set()

    def finish(self, download: Download) -> Deferred[LedgerLine | None]:
        """BulkPipeline does it."""
        return self._rows.finish(download)

    def _request(self, attempts: list[Attempt]) -> Request:
        attempt, *others = attempts
        download = attempt.download
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if attempt.further:
            headers["Range"] = f"bytes={attempt.range.at}-{(attempt.range.end or 0) - 1}"
        elif not self._probing and (part := self._folder.lstat(download.entry.name + ".part")) and part.st_size:
            headers["Range"] = f"bytes={part.st_size}-"
        bulk: dict[str, Any] = {
            "entry": download.entry.to_meta(),
            "output": str(self._folder.root),
            "attempt": attempt.number,
        }
        if self._probing:
            bulk["probe"] = True
        if others:
            logger.debug("%s: its request brings %d more small files", download.entry.name, len(others))
            bulk["others"] = [[other.download.entry.name, other.number] for other in others]
        return Request(
            without_userinfo(download.url),
            callback=self._callback,
            errback=self._errback,
            dont_filter=True,
            headers=headers,
            meta={
                "bulk": bulk,
                "is_start_request": True,
                "depth": 0,
                "dont_retry": True,
                "dont_cache": True,
                "allow_offsite": True,
                "referrer_policy": "no-referrer",
                "handle_httpstatus_list": STATUSES,
                "download_maxsize": 0,
                "download_warnsize": 0,
            },
        )

    def answered(self, response: Response) -> Iterator[BulkItem]:
        """Called by the callback: an attempt has ended."""
        assert response.request is not None
        if "Set-Cookie" in response.headers:
            # Scrapy's middleware must add this cookie to each further request: no batches from now on.
            self._small.never()
        self._end(response.request, middleware_error(None, None))
        return iter(self._rows.take, None)

    def failed(self, failure: Failure) -> Iterator[BulkItem]:
        error = failure.value
        status = error.response.status if isinstance(error, HttpError) else None
        self._end(cast(Any, failure).request, middleware_error(error if status is None else None, status))
        return iter(self._rows.take, None)

    def _end(self, request: Request, unseen: BulkError) -> None:
        """unseen: the error of an attempt whose end our handler has not seen."""
        bulk = request.meta.get("bulk") or {}
        if bulk.pop("alone", False):
            self._small.never()
        attempts = self._attempts_of(request)
        for attempt in attempts:
            # In a batch, those without an outcome were handed back: they have not failed.
            told = attempt.outcome is not None or len(attempts) > 1
            self._tell(attempt, attempt.outcome if told else Outcome(error=unseen))
        self._run.wakeup.set()

    def _tell(self, attempt: Attempt, outcome: Outcome | None) -> None:
        if (ended := self._sent.pop(attempt, None)) is not None:
            ended(attempt, outcome)

    def _attempts_of(self, request: Request) -> list[Attempt]:
        bulk = request.meta.get("bulk") or {}
        if "attempt" not in bulk:
            return []
        wanted = [(bulk["entry"]["name"], bulk["attempt"]), *bulk.get("others", ())]
        found = [self._attempt(name, number) for name, number in wanted]
        return [attempt for attempt in found if attempt is not None]

    def _attempt(self, name: str, number: int) -> Attempt | None:
        download = self._run.downloads.at(self._folder.place(name))
        return download.running.get(number) if download is not None else None

    def _request_scheduled(self, request: Request) -> None:
        for attempt in self._attempts_of(request):
            attempt.scheduled = True

    def _request_dropped(self, request: Request) -> None:
        attempts = self._attempts_of(request)
        for attempt in attempts:
            attempt.scheduled = False
        if attempts and attempts[0] not in self._yielding:
            self._dropped(attempts)

    def _dropped(self, attempts: list[Attempt]) -> None:
        """Ends attempts whose request was dropped: neither callback nor errback will be called."""
        error = BulkError("a middleware or the scheduler dropped the request", code="dropped")
        for attempt in attempts:
            self._tell(attempt, Outcome(error=error) if attempt is attempts[0] else None)
        self._run.wakeup.set()
