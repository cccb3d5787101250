"""Stopping: whether the run is to end, and why.

A stop ends every transfer at once; each keeps its bytes and writes its state. Before a crawl of pages stops, the files
of its items get some time (`Patience`). `on_stop` registers a function that is called at the stop. The signal that
ended the run is noted for the exit status.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bulkspider.errors import BulkError, Stopped
from bulkspider.options import plural

logger = logging.getLogger(__name__)


class Stopping:
    """One per run. reason: why the run ends, None while it goes on. signal: its number, when one ended the run.
    since: when it was stopped, seconds of a monotonic clock."""

    def __init__(self) -> None:
        self.reason: BulkError | None = None
        self.signal: int | None = None
        self.since = 0.0
        self._subscribers: list[Callable[[BulkError], None]] = []

    def __bool__(self) -> bool:
        return self.reason is not None

    def is_set(self) -> bool:
        """For worker threads, which ask at least twice a second."""
        return self.reason is not None

    @property
    def error(self) -> Stopped:
        """The error of everything that is stopped."""
        return self.reason if isinstance(self.reason, Stopped) else Stopped(reason=self.reason)

    def on_stop(self, subscriber: Callable[[BulkError], None]) -> None:
        """Calls `subscriber(reason)` once, when the run is stopped."""
        self._subscribers.append(subscriber)

    def stop(self, reason: BulkError) -> None:
        """Ends the run; only the first reason counts."""
        if self.reason is not None:
            return
        self.reason = reason
        self.since = time.monotonic()
        for subscriber in self._subscribers:
            subscriber(reason)

    def heard(self, number: int) -> None:
        """Notes a signal that will end the process; the first one counts."""
        if self.signal is None:
            self.signal = number


class Patience:
    """The time that the files of items get when a crawl closes (BULK_STOP_PATIENCE), as Scrapy's own pipeline waits for
    them. One per run; not used for a list. used: a files pipeline is configured. begun: the crawl is closing."""

    def __init__(self, seconds: float) -> None:
        self.used = False
        self.items = 0
        self._seconds = seconds
        self._since: float | None = None
        self._ended = False

    @property
    def begun(self) -> bool:
        return self._since is not None

    @contextmanager
    def item(self) -> Iterator[None]:
        """A context within which the files of one item are fetched."""
        self.items += 1
        try:
            yield
        finally:
            self.items -= 1

    def lasts(self, now: float, pages: int) -> bool:
        """Called while the crawl closes. True while files of items are still waited for. now: seconds of a monotonic
        clock. pages: requests in Scrapy's downloader, whose callbacks may yield items."""
        if self._since is None:
            self._since = now
            if self.used and self.items and self._seconds:
                logger.info(
                    "The crawl is about to end: the files of %s have %.0f s (BULK_STOP_PATIENCE); a second signal ends"
                    " that time",
                    *(plural(self.items, "item", "items"), self._seconds),
                )
        waited_for = self.used and (self.items or pages)
        return bool(waited_for) and not self._ended and now - self._since < self._seconds

    def interrupt(self) -> bool:
        """A signal came. True: it has ended the wait, and must have no other effect."""
        if not self.begun or self._ended or not self.items:
            return False
        self._ended = True
        return True


# -- signals -----------------------------------------------------------------------------------------------------------
# Scrapy's own handlers decide what a signal does; ours only notes it and calls them. There is one handler of ours for
# the whole process, for all its crawls; the last crawl that ends restores the handlers. SIGHUP, which would end the
# process at once, becomes an orderly stop like SIGTERM.

HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_listeners: list[Callable[[int], object]] = []
# The handlers before ours, by signal number.
_before: dict[int, Any] = {}


def listen(heard: Callable[[int], object]) -> Callable[[], None]:
    """Calls `heard` with the number of every signal that would end the process. It runs in the main thread, between any
    two steps of the program. If it returns True, Scrapy's handler is not called. Returns a function that ends this.
    Python allows signal handlers only in the main thread: in another one, `heard` is called only if our handler is
    there already."""
    _listeners.append(heard)
    _install()

    def stop() -> None:
        if heard in _listeners:
            _listeners.remove(heard)
        if not _listeners:
            _give_back()

    return stop


def _install() -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number in HEARD:
        now = signal.getsignal(number)
        if now is _received:
            continue
        if number in _before or callable(now) or (number == signal.SIGHUP and now == signal.SIG_DFL and _before):
            _before[number] = now
            signal.signal(number, _received)


def _give_back() -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number, before in _before.items():
        if signal.getsignal(number) is _received:
            signal.signal(number, before)
    _before.clear()


def _received(number: int, frame: Any) -> None:
    if True in [heard(number) for heard in list(_listeners)]:
        return
    before = _before.get(number)
    if number == signal.SIGHUP and before == signal.SIG_DFL:
        before = _before.get(signal.SIGTERM)
    if callable(before):
        before(number, frame)
    if _listeners:
        # Scrapy has just set other handlers, for the second signal: put ours before them again.
        _install()
