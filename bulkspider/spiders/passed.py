"""What follows once an item has passed all item pipelines: its acknowledgement, and `parse_file` of a subclass.

The ledger is to know which items the pipelines that follow ours have seen, so that a kill between "finished" and
"unzipped" does not lose the unzip: the next run yields such an item again (`LedgerLine.owed`). Pipelines may put
something else in the place of an item; with asyncio its own task tells which it was, else it is known once Scrapy has
nothing in hand. Without anybody who waits for items, nothing here is done.
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
    from bulkspider.disk.folder import Folder

logger = logging.getLogger(__name__)


class PassedItems:
    """One per crawl of the spider. parse: the method `parse_file` of a subclass. on_their_way: rows that have not come
    through all pipelines yet, by their id, where somebody waits for that."""

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
        """It is on its way to the pipelines."""
        if self._parse is not None or self._run.owes_items:
            self.on_their_way[id(item)] = item

    def take(self) -> Any:
        """The next that a subclass has made of a file: an item, maybe a BulkItem, or a request; None for nothing."""
        return self._ready.popleft() if self._ready else None

    def __len__(self) -> int:
        """What is ready to be taken."""
        return len(self._ready)

    @property
    def waits(self) -> bool:
        """Something is on its way, or being parsed."""
        return bool(self._parsing or self.on_their_way)

    def are_all_through(self) -> None:
        """Scrapy has nothing in hand: in the place of those that we still wait for pipelines have put something."""
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
        """That is what a pipeline of somebody's wanted: it has seen the item."""
        if self._has_arrived(item) and item.status in FINISHED:
            self._acknowledge(item)

    def _broken(self, item: Any) -> None:
        """A pipeline has not done its work: the next run yields the item again."""
        self._has_arrived(item)

    def _has_arrived(self, item: Any) -> bool:
        """False: we did not wait for it."""
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
        """The crawl has ended."""
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
