"""A clock that stands still until somebody asks for its next event."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Timer:
    """`cancel()` may be called at any time."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], object] | None) -> None:
        self.call = call

    def cancel(self) -> None:
        self.call = None


class EventClock:
    """Seconds since the world began. Events of one instant happen in the order in which they were asked for."""

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._number = 0
        self._events: list[tuple[float, int, Timer]] = []

    def now(self) -> float:
        return self._now

    def call_later(self, seconds: float, function: Callable[..., object], *args: Any) -> Timer:
        timer = Timer(lambda: function(*args))
        self._number += 1
        heapq.heappush(self._events, (self._now + max(0.0, seconds), self._number, timer))
        return timer

    @property
    def next_time(self) -> float | None:
        """When something will happen; None: nothing ever will."""
        events = self._events
        while events and events[0][2].call is None:
            heapq.heappop(events)
        return events[0][0] if events else None

    def step(self, before: Callable[[], object]) -> bool:
        """Goes on to the next event, calls `before` and then the event; False when there is none."""
        if self.next_time is None:
            return False
        self._now, _, timer = heapq.heappop(self._events)
        before()
        call, timer.call = timer.call, None
        if call is not None:
            call()
        return True
