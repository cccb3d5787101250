"""Entries that a program gives: `entries=` of the spider, or the method `entries` of a subclass.

Any iterable or async iterable of dicts or BulkItems, each with the keys of a JSON Lines list. At most ENTRIES_AHEAD
entries are read before they are begun, so it may be endless. A mistake in an entry is that entry's failure; an entry
that comes twice counts once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from scrapy.utils.defer import deferred_from_coro
from scrapy.utils.log import failure_to_exc_info
from twisted.python.failure import Failure

from bulkspider.entries.entry import Entry, EntryError, entry_of_row, fold, origin_of, url_key
from bulkspider.errors import BulkError, UsageError
from bulkspider.items import BulkItem
from bulkspider.lists.source import Source, Taker
from bulkspider.run.turns import Owners
from bulkspider.text import visible

logger = logging.getLogger(__name__)

# Entries read before they can be begun, so that one busy host does not keep the others waiting.
ENTRIES_AHEAD = 256


class GivenEntries(Source):
    """See the module."""

    title = "entries="
    grows = True

    def __init__(self) -> None:
        self.entries = 0
        self._iterator: Iterator[Any] | AsyncIterator[Any] = iter(())
        self._ahead: deque[Entry] = deque()
        self._read = 0
        self._refused = 0
        self._waiting_for_next = False
        self._ended = False
        self._names = Owners()
        self._taker: Taker | None = None

    def open(self, given: object) -> None:
        """given: an iterable, an async iterable, or a function that returns one. Raises UsageError."""
        self._iterator = _iterator_of(given)

    @property
    def exhausted(self) -> bool:
        return self._ended and not self._ahead

    @property
    def waiting(self) -> int:
        return len(self._ahead)

    @property
    def owed(self) -> int:
        return self.entries

    def begin(self, taker: Taker) -> None:
        self._taker = taker

    def take(self, blocked: Collection[str] = ()) -> Entry | None:
        for at, entry in enumerate(self._ahead):
            if origin_of(entry.url) not in blocked:
                del self._ahead[at]
                self._read_on()
                return entry
        while self._read_on():
            if origin_of(self._ahead[-1].url) not in blocked:
                return self._ahead.pop()
        return None

    async def end(self) -> None:
        """Stops reading. A generator is closed, so that its `finally` runs."""
        self._ended = True
        self._ahead.clear()
        if isinstance(self._iterator, AsyncIterator):
            close = getattr(self._iterator, "aclose", None)
            if close is not None and not self._waiting_for_next:
                await close()
        elif (close := getattr(self._iterator, "close", None)) is not None:
            close()

    # -- reading ---------------------------------------------------------------------------------------------------

    def _read_on(self) -> bool:
        """Reads one more entry; False when there is none now."""
        while not self._ended and not self._waiting_for_next and len(self._ahead) < ENTRIES_AHEAD:
            if isinstance(self._iterator, AsyncIterator):
                self._waiting_for_next = True
                deferred_from_coro(_next_of(self._iterator)).addBoth(self._came)
                return False
            try:
                row = next(self._iterator)
            except StopIteration:
                self._ended = True
            except Exception:
                self._break(Failure())
            else:
                if self._take_in(row):
                    return True
        return False

    def _came(self, result: Any) -> None:
        """The next entry of an async iterable has come, or its end."""
        assert self._taker is not None
        self._waiting_for_next = False
        if isinstance(result, Failure):
            self._break(result)
        elif result is _END:
            self._ended = True
        elif not self._ended:
            self._take_in(result)
        self._taker.wake()

    def _take_in(self, row: object) -> bool:
        """Checks a row and adds its entry. False: it was refused, or is a duplicate."""
        assert self._taker is not None
        self._read += 1
        try:
            entry = entry_of_row(_dict_of(row), self._read)
        except EntryError as error:
            self._refuse(error.name or "", f"entry {self._read}: {error}")
            return False
        key = f"{entry.name}\n{url_key(entry.url)}"
        path = fold(entry.name)
        if self._names.is_of_another(path, key):
            why = (
                f"entry {self._read}: an earlier entry with another URL, or in other letters, has the name {entry.name}"
            )
            self._refuse(entry.name, f"{why}; give this one another name", code="two_urls")
            return False
        if self._names.has(path):
            self.duplicates += 1
            return False
        self._names.add(path, key)
        self.entries += 1
        self._ahead.append(entry)
        return True

    def _refuse(self, name: str, why: str, code: str = "bad_line") -> None:
        assert self._taker is not None
        self.entries += 1
        self._taker.refuse(self._read, visible(name), BulkError(why, code=code))

    def _break(self, failure: Failure) -> None:
        """The iterable raised an error: the entries before are still fetched, and the error counts as a failed
        entry."""
        self._ended = True
        logger.error("%s broke after %d entries", self.title, self._read, exc_info=failure_to_exc_info(failure))
        what = f"{type(failure.value).__name__}: {visible(str(failure.value))}"
        self._refuse("", f"entry {self._read + 1}: entries= broke ({what}); mend the program that gives them")


_END = object()


async def _next_of(iterator: AsyncIterator[Any]) -> Any:
    return await anext(iterator, _END)


def _dict_of(row: object) -> Mapping[str, Any]:
    if isinstance(row, BulkItem):
        row = asdict(row)
    if not isinstance(row, Mapping):
        raise EntryError(f"{type(row).__name__} is no dict", 'give {"name": "…", "url": "…"} or a BulkItem')
    return row


def _iterator_of(given: Any) -> Iterator[Any] | AsyncIterator[Any]:
    """Raises UsageError."""
    entries = given() if callable(given) else given
    if hasattr(entries, "__aiter__"):
        async_iterator: AsyncIterator[Any] = entries.__aiter__()
        return async_iterator
    if isinstance(entries, (str, bytes, Mapping)) or not hasattr(entries, "__iter__"):
        raise UsageError(
            f"entries={type(entries).__name__}: give an iterable, or an async iterable, of dicts or BulkItems"
        )
    iterator: Iterator[Any] = iter(entries)
    return iterator
