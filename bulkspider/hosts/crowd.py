"""Crowd: how many connections an origin accepts at once, judged by its refusals.

A refusal while other requests are served may mean that there are too many at once: then fewer connections are made, and
one more is tried after each time without a refusal. A 403 may mean that, too, or that the file is forbidden: a try
without other requests shows which. Pure; times in seconds.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bulkspider.hosts.budget import Budget

# Refusals of several entries within this time may have one reason.
TOGETHER_SECONDS = 5.0
# So many entries that fail in a row, or are refused with 403 together, mean too many connections.
SEVERAL_ENTRIES = 3
# One more connection is tried after so long without a refusal (seconds); twice as long after each that was refused.
CALM_SECONDS = 10.0
CALM_MAX_SECONDS = 300.0
# After so many tries without other requests that were still 403, a 403 of this origin is final.
CALM_TRIES = 3


class Forbidden(Enum):
    """What follows from a 403: it is final; the entry is tried again; or all entries are tried again, one after the
    other."""

    FINAL = auto()
    AGAIN = auto()
    CALMLY = auto()


class Crowd:
    """limit: connections allowed at once, None when nothing was refused. most_connections: with so many connections to
    the origin a file gets no further one, None when none was refused. careful: only one request at a time, to find out
    what a 403 means."""

    def __init__(self) -> None:
        self.limit: int | None = None
        self.most_connections: int | None = None
        self.careful = False
        self._refused_lately: dict[Budget, float] = {}
        self._refused_at = self._forbidden_at = self._more_at = float("-inf")
        self._calm = CALM_SECONDS
        self._calm_tries = 0

    @property
    def says_no(self) -> bool:
        """A 403 of this origin is final."""
        return self._calm_tries >= CALM_TRIES

    def has_room(self, connections: int, now: float) -> bool:
        """One more connection may be made beside `connections`."""
        if self.limit is None or connections < self.limit:
            return True
        return connections == self.limit and now - max(self._refused_at, self._more_at) >= self._calm

    def has_room_for_more(self, connections: int, now: float) -> bool:
        """A further connection of a file may be made beside `connections`."""
        few = self.most_connections is None or connections < self.most_connections
        return few and self.has_room(connections, now)

    def begins(self, connections: int, now: float) -> None:
        """An attempt begins; `connections` are running."""
        if self.limit is not None and connections > self.limit:
            self.limit = connections
            self._more_at = now

    def refuses(self, budget: Budget, connections: int, now: float) -> bool:
        """An entry was refused. True when several were refused at about the same time, or one that was served
        before."""
        self._refused_lately = {b: t for b, t in self._refused_lately.items() if now - t <= TOGETHER_SECONDS}
        self._refused_lately[budget] = now
        return connections > 1 and (budget.served_at is not None or len(self._refused_lately) > 1)

    def shrink(self, connections: int, now: float) -> None:
        """There were too many connections: lowers the limit."""
        if now - self._refused_at > TOGETHER_SECONDS and self.limit is not None:
            self._calm = min(2 * self._calm, CALM_MAX_SECONDS)
        self._refused_at = now
        least = connections - 1 if self.limit is None else min(self.limit, connections - 1)
        self.limit = max(1, least)

    def refuses_more(self, connections: int) -> None:
        """A further connection brought nothing while the others of its file went on."""
        self.most_connections = max(1, min(connections, self.most_connections or connections))

    def forbids(self, budget: Budget, connections: int, begun: float, now: float) -> Forbidden:
        """An attempt that began at `begun` got 403 without a reason."""
        calm = max(self._refused_at, self._forbidden_at) < begun and (self.careful or connections <= 1)
        if self.says_no:
            return Forbidden.FINAL
        if calm:
            budget.forbidden += 1
            if budget.forbidden > 1 or self.careful:
                self._calm_tries += 1
            if self.says_no:
                self.careful, self.limit = False, None
                return Forbidden.FINAL
            if budget.forbidden > 1:
                return Forbidden.FINAL
        self._forbidden_at = now
        # An entry that was refused while it was alone shows nothing about too many connections; nor does one that was
        # never served and is refused again.
        says_more = not budget.forbidden and (budget.served_at is not None or not budget.refused)
        together = says_more and self.refuses(budget, connections, now)
        several = together and len(self._refused_lately) >= SEVERAL_ENTRIES
        # Two entries that were never served may both be missing files.
        together = several or (together and budget.served_at is not None)
        budget.refused = True
        if several:
            self.careful = True
        if together and not self.careful:
            self.shrink(connections, now)
        if self.careful:
            budget.fruitless += not calm
            return Forbidden.CALMLY
        return Forbidden.AGAIN
