"""Fresh links: finds a new URL when the old one has expired in the middle of a file.

First from the list itself, if it was edited since the start; then from the user's hook, BULK_FRESH_URL =
"package.module.function", which is called with the Entry and returns a URL or None; it may be async.
`dispatch/fetch.py` decides when to ask.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from scrapy.utils.misc import load_object
from twisted.internet.defer import Deferred

from bulkspider.entries.entry import Entry, normal_url
from bulkspider.errors import AttemptError, BulkError, Meaning, UsageError
from bulkspider.lists.checking.copy import lines_of, shown
from bulkspider.lists.checking.reader import Form
from bulkspider.lists.formats.choose import Reading
from bulkspider.lists.formats.row import as_lines
from bulkspider.protocol.servertext import MAY_HAVE_EXPIRED

T = TypeVar("T")


def has_expired(error: BulkError) -> bool:
    """The error may mean that the link has expired, so that a fresh one helps."""
    says_so = isinstance(error, AttemptError) and error.meaning is Meaning.EXPIRED
    return says_so or error.http_status in MAY_HAVE_EXPIRED


class FreshUrls:
    """One per crawl. in_thread runs a function in a worker thread. reading: how the list is read."""

    def __init__(
        self,
        list_path: str,
        hook: str | None,
        in_thread: Callable[..., Deferred[Any]],
        reading: Reading = Reading("list"),
    ) -> None:
        self._list_path = list_path
        self._reading = reading
        self._hook = load_hook(hook) if hook else None
        self._in_thread = in_thread
        self._seen = _mark(list_path)

    def find(self, entry: Entry, expired: str) -> Deferred[str | None]:
        """Fires with a URL for `entry` other than `expired`, or None. Fails with what the hook raises."""
        return deferred_from_coro(self._find(entry, expired))

    async def _find(self, entry: Entry, expired: str) -> str | None:
        found: str | None = await self._call(self._from_list, entry, expired)
        if found is None and self._hook is not None:
            answer = await self._call(self._hook, entry)
            if inspect.isawaitable(answer):
                answer = await cast("Awaitable[str | None]", answer)
            found = normal_url(answer) if answer else None
        return found if found != expired else None

    async def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Runs it in a worker thread. Its errors are those of the list or of the hook, not failures of the thread."""

        def call() -> tuple[Any, Exception | None]:
            try:
                return function(*args), None
            except Exception as error:
                return None, error

        answer, error = await maybe_deferred_to_future(self._in_thread(call))
        if error is not None:
            raise error
        return answer

    def _from_list(self, entry: Entry, expired: str) -> str | None:
        """The entry's URL in the list file, if that was changed since the run began."""
        mark = _mark(self._list_path)
        if mark is None or mark == self._seen:
            return None
        for known in read_entries(self._list_path, self._reading):
            if known.name == entry.name and known.url != expired:
                return known.url
        return None


def read_entries(path: str, reading: Reading) -> Sequence[Entry]:
    """The entries of a list that may be edited at this moment: bad lines are skipped."""
    entries: list[Entry] = []
    number = 0
    opened = reading.look(path)
    foreign = opened.format(lambda line, error: None, None)
    if foreign is not None:
        form: Form | None = Form(numbered=True, naming=reading.naming)
        ours: Iterator[list[bytes]] = (made.lines for made in as_lines(foreign.rows(opened.blocks), reading.naming))
    else:
        form, ours = None, lines_of(opened.blocks, shown(path))
    for lines in ours:
        for raw in lines:
            number += 1
            try:
                if form is None:
                    form = Form(json=raw.lstrip(b"\xef\xbb\xbf \t").startswith(b"{"), naming=reading.naming)
                    form = form if form.json else Form.of_header(raw, reading.naming) or form
                entry = form.read(raw, number)
            except ValueError:
                continue
            if entry is not None:
                entries.append(entry)
    return entries


def load_hook(path: str) -> Callable[[Entry], Any]:
    """The function named by BULK_FRESH_URL; raises UsageError when there is none."""
    try:
        hook = load_object(path)
    except (ImportError, NameError, ValueError, TypeError) as error:
        raise UsageError(f"setting BULK_FRESH_URL={path}: {error}") from error
    if not callable(hook):
        raise UsageError(f"setting BULK_FRESH_URL={path}: not a function")
    return cast("Callable[[Entry], Any]", hook)


def _mark(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size)
