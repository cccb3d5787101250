"""The gate: attempts that wait outside of Scrapy's downloader until one may begin.

What waits inside counts against CONCURRENT_REQUESTS, and would keep pages from being fetched. So a place is given only
when the whole, the slot and the origin (`pace.py`) all have room; first come, first served, but nobody waits for a
place that others cannot use. The spider has its own, larger schedule; this one is for `filespipeline.py`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scrapy.utils.asyncio import call_later
from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import Deferred

from bulkspider.pace import Pace

# A closed origin may open by somebody else's success: it is looked at so often, at least.
LOOK_EVERY = 1.0


@dataclass(slots=True, eq=False)
class _Waiting:
    slot: str
    origin: str
    not_before: float
    entered: Deferred[None] = field(default_factory=Deferred)


class Gate:
    """total: places in all (0: no limit). limit: places of one slot (0: no limit). limits: of single slots."""

    def __init__(
        self,
        pace: Pace,
        stop_reason: Callable[[], BaseException | None],
        *,
        total: int,
        limit: int,
        limits: Mapping[str, int],
    ) -> None:
        self._pace = pace
        self._stop_reason = stop_reason
        self._total = total or 1 << 30
        self._limit = limit or 1 << 30
        self._limits = dict(limits)
        self._inside: Counter[str] = Counter()
        self._waiting: list[_Waiting] = []
        self._timer: Any = None

    async def enter(self, slot: str, origin: str, not_before: float = 0.0) -> None:
        """Returns when the attempt may begin. Raises what ends the waiting: Stopped, or `origin_down`."""
        waiting = _Waiting(slot, origin, not_before)
        self._waiting.append(waiting)
        self.look()
        await maybe_deferred_to_future(waiting.entered)

    def leave(self, slot: str) -> None:
        """The attempt has ended."""
        self._inside[slot] -= 1
        if not self._inside[slot]:
            del self._inside[slot]
        self.look()

    def look(self) -> None:
        """Lets in whoever may begin now; sends home whoever waits in vain."""
        now = time.monotonic()
        stay = []
        # Who is let in may run at once and come back here: the list is complete before anybody is.
        leaving: list[tuple[_Waiting, BaseException | None]] = []
        for waiting in self._waiting:
            error = self._stop_reason() or self._pace.given_up(waiting.origin, now)
            if error is not None:
                leaving.append((waiting, error))
            elif self._may_begin(waiting, now):
                self._inside[waiting.slot] += 1
                self._pace.begins(waiting.origin)
                leaving.append((waiting, None))
            else:
                stay.append(waiting)
        self._waiting = stay
        self._set_timer(now)
        for waiting, error in leaving:
            if error is None:
                waiting.entered.callback(None)
            else:
                waiting.entered.errback(error)

    def _may_begin(self, waiting: _Waiting, now: float) -> bool:
        slot = waiting.slot
        return (
            now >= waiting.not_before
            and self._inside.total() < self._total
            and self._inside[slot] < self._limits.get(slot, self._limit)
            and self._pace.allows(waiting.origin, now)
        )

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            due = min((waiting.not_before for waiting in self._waiting if waiting.not_before > now), default=now + 60)
            opening = self._pace.next_opening(now)
            at = min(due, opening if opening is not None else due, now + LOOK_EVERY)
            self._timer = call_later(max(at - now, 0.01), self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self.look()
