"""After an item has passed all item pipelines: its acknowledgement in the ledger, and `parse_file` of a subclass.

The ledger notes which items have passed the pipelines behind ours. If the run is killed between the finish of a file
and, say, a pipeline that unzips it, the next run yields the item again (`LedgerLine.owed`). A pipeline may replace the
item by another object; with asyncio a context variable of the task still has ours, otherwise our item counts as passed
when Scrapy is idle. Without other pipelines and without `parse_file` nothing is done here.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scrapy import signals
from scrapy.utils.asyncio import is_asyncio_available
from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from scrapy.utils.log import failure_to_exc_info
from scrapy.utils.misc import arg_to_iter
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from bulkspider.components.pipeline import passing
from bulkspider.errors import BulkError
from bulkspider.items import FINISHED, BulkItem
from bulkspider.run.run import Run

if TYPE_CHECKING:
    from bulkspider.disk.folder.folder import Folder

logger = logging.getLogger(__name__)


class PassedItems:
    """One per crawl of the spider. parse: the method `parse_file` of a subclass, None without one. on_their_way: rows
    that have not passed all pipelines yet, by id()."""

    def __init__(self, run: Run, folder: Folder, parse: Callable[[BulkItem], Any] | None) -> None:
        self.on_their_way: dict[int, BulkItem] = {}
        self._run = run
        self._folder = folder
        self._parse = parse
        self._parsing = 0
        self._ready: deque[Any] = deque()
        self._seen: list[str] = []
        self._acknowledging: Deferred[None] | None = None
        connect = run.crawler.signals.connect
        connect(self._scraped, signals.item_scraped)
        connect(self._dropped, signals.item_dropped)
        connect(self._broken, signals.item_error)

    def sent(self, item: BulkItem) -> None:
        """The item goes to the pipelines now."""
        if self._parse is not None or self._run.owes_items:
            self.on_their_way[id(item)] = item

    def take(self) -> Any:
        """The next item or request that `parse_file` has given; None when there is none."""
        return self._ready.popleft() if self._ready else None

    def __len__(self) -> int:
        """How many items and requests `take` can give."""
        return len(self._ready)

    @property
    def waits(self) -> bool:
        """An item is in the pipelines, or being parsed."""
        return bool(self._parsing or self.on_their_way)

    def are_all_through(self) -> None:
        """Scrapy is idle: the items that are still awaited have passed, but pipelines have replaced them."""
        for item in list(self.on_their_way.values()):
            self._came_through(item)

    # -- ways out of the pipelines ---------------------------------------------------------------------------------

    def _scraped(self, item: Any) -> None:
        if id(item) not in self.on_their_way and is_asyncio_available():
            item = passing.get()
        self._came_through(item)

    def _came_through(self, item: Any) -> None:
        if not self._has_arrived(item) or item.status not in FINISHED:
            return
        if self._parse is None:
            self._acknowledge(item)
            return
        self._parsing += 1
        deferred_from_coro(self._parse_file(item)).addBoth(self._parsed, item)

    def _dropped(self, item: Any) -> None:
        """A pipeline dropped the item on purpose, so it has seen it."""
        if self._has_arrived(item) and item.status in FINISHED:
            self._acknowledge(item)

    def _broken(self, item: Any) -> None:
        """A pipeline has failed: the next run yields the item again."""
        self._has_arrived(item)

    def _has_arrived(self, item: Any) -> bool:
        """The item is not in the pipelines any more. False: it was not awaited."""
        if self.on_their_way.pop(id(item), None) is None:
            return False
        self._run.wakeup.set()
        return True

    # -- acknowledgements ------------------------------------------------------------------------------------------

    def _acknowledge(self, item: BulkItem) -> None:
        if self._run.owes_items:
            self._seen.append(item.name)
            if self._acknowledging is None:
                writing = Deferred.fromCoroutine(self._write_acknowledgements())
                self._acknowledging = None if writing.called else writing

    async def _write_acknowledgements(self) -> None:
        ledger = self._run.folders.ledger(self._folder)
        while self._seen:
            names, self._seen = self._seen, []
            try:
                await self._run.threads.in_thread(ledger.acknowledge, names)
            except BulkError as error:
                logger.warning("%d items will be yielded again by the next run: %s", len(names), error)
        self._acknowledging = None

    async def acknowledge_rest(self) -> None:
        """At the end of the crawl: waits until the last acknowledgements are written."""
        if self._acknowledging is not None:
            await maybe_deferred_to_future(self._acknowledging)

    # -- parse_file ------------------------------------------------------------------------------------------------

    async def _parse_file(self, item: BulkItem) -> None:
        assert self._parse is not None
        made = self._parse(item)
        if inspect.isawaitable(made):
            made = await made
        if hasattr(made, "__aiter__"):
            async for each in made:
                self._give(each)
        else:
            for each in arg_to_iter(made):
                self._give(each)

    def _give(self, made: Any) -> None:
        if made is not None:
            self._ready.append(made)
            self._run.wakeup.set()

    def _parsed(self, result: Any, item: BulkItem) -> None:
        self._parsing -= 1
        if isinstance(result, Failure):
            logger.error("parse_file failed for %s", item.name, exc_info=failure_to_exc_info(result))
        else:
            self._acknowledge(item)
        self._run.wakeup.set()
