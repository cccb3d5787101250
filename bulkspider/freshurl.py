"""Fresh links: where a new URL comes from when the old one has expired in the middle of a file.

First the list itself, if somebody has edited it since the start; then the user's hook, BULK_FRESH_URL =
"package.module.function", called with the Entry: it returns a URL, or None when it has none, and may be async.
Decides nothing about when to ask (`spiders/bulk.py`) and keeps no file open.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

from scrapy.utils.defer import maybe_deferred_to_future
from scrapy.utils.misc import load_object
from twisted.internet.defer import Deferred

from bulkspider.aria2form import Aria2Form
from bulkspider.entry import Entry, normal_url
from bulkspider.errors import UsageError
from bulkspider.listcopy import read_lines
from bulkspider.listform import Form

T = TypeVar("T")

# Answers that say that a link has expired (FAULTS 29); without a fresh one they are final.
EXPIRED = frozenset({401, 403, 410})


class FreshUrls:
    """One per crawl. in_thread runs a function in a worker thread. aria2: the list is an input file of aria2."""

    def __init__(
        self, list_path: str, hook: str | None, in_thread: Callable[..., Deferred[Any]], *, aria2: bool = False
    ) -> None:
        self._list_path = list_path
        self._aria2 = aria2
        self._hook = load_hook(hook) if hook else None
        self._in_thread = in_thread
        self._seen = _mark(list_path)

    async def find(self, entry: Entry, expired: str) -> str | None:
        """A URL for `entry` other than `expired`, or None. Raises what the hook raises."""
        found: str | None = await maybe_deferred_to_future(self._in_thread(self._from_list, entry, expired))
        if found is None and self._hook is not None:
            answer = await maybe_deferred_to_future(self._in_thread(self._hook, entry))
            if inspect.isawaitable(answer):
                answer = await cast("Awaitable[str | None]", answer)
            found = normal_url(answer) if answer else None
        return found if found != expired else None

    def _from_list(self, entry: Entry, expired: str) -> str | None:
        """The entry's URL in the list file, if that was changed since the run began."""
        mark = _mark(self._list_path)
        if mark is None or mark == self._seen:
            return None
        for known in read_entries(self._list_path, aria2=self._aria2):
            if known.name == entry.name and known.url != expired:
                return known.url
        return None


def read_entries(path: str, *, aria2: bool = False) -> Sequence[Entry]:
    """The entries of a list that somebody may be editing just now: lines that are none are passed over."""
    entries: list[Entry] = []
    form: Form | None = Form(json=True) if aria2 else None
    number = 0
    blocks = read_lines(path)
    for lines in Aria2Form(lambda line, error: None).rows(blocks) if aria2 else blocks:
        for raw in lines:
            number += 1
            if form is None:
                form = Form(json=True) if raw.lstrip(b"\xef\xbb\xbf \t").startswith(b"{") else Form.of_header(raw)
                form = form or Form()
            try:
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
