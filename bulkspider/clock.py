"""The clock: what time it is, timers, and a wait that others can end. A simulation brings a clock of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from scrapy.utils.asyncio import call_later
from twisted.internet.defer import Deferred


class Clock(Protocol):
    """Seconds of a monotonic clock, and timers by it."""

    def now(self) -> float: ...
    def call_later(self, seconds: float, function: Callable[..., object], *args: Any) -> Any:
        """Calls `function(*args)` after `seconds`; what comes back has `cancel()`, which may be called at any time."""


class ReactorClock:
    """The time of this machine; timers on whatever loop Scrapy runs."""

    def now(self) -> float:
        return time.monotonic()

    def call_later(self, seconds: float, function: Callable[..., object], *args: Any) -> Any:
        return call_later(seconds, function, *args)


class Wakeup:
    """An event that one loop waits for; the reactor does its other work meanwhile.

    An event while nobody waits is not remembered: the loop looks at everything before it waits again.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: Deferred[None] | None = None

    def set(self) -> None:
        """The event: ends the wait, if there is one."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def wait(self, seconds: float | None = None) -> Deferred[None]:
        """Fires when `set` is called, or after `seconds` (None: no limit)."""
        waiting = self._waiting = Deferred[None]()
        if seconds is not None:
            timer = self._clock.call_later(seconds, self.set)
            waiting.addBoth(lambda _: timer.cancel())
        return waiting

    def pause(self) -> Deferred[None]:
        """Lets the reactor do its other work, and goes on."""
        paused = Deferred[None]()
        self._clock.call_later(0, paused.callback, None)
        return paused
