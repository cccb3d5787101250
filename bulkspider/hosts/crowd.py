"""Crowd: how many connections an origin takes at once, judged by what it refuses.

What is refused while others are served may be too many at once: then fewer connections are made, and one more is tried
after each calm while. 403 may mean that as well, or simply "no": only a try in calm can tell. Pure; seconds.
"""

from __future__ import annotations

from enum import Enum, auto

from bulkspider.hosts.budget import Budget

# Refusals of several entries within this time (seconds) may have to do with each other.
TOGETHER_SECONDS = 5.0
# So many of them are too many: entries that fail in a row, or are refused with 403 together.
SEVERAL_ENTRIES = 3
# One more connection is tried after so long without a refusal (seconds); twice as long after each that was refused.
CALM_SECONDS = 10.0
CALM_MAX_SECONDS = 300.0
# So many tries that stayed 403 although nothing else was asked for: 403 means no at this origin.
CALM_TRIES = 3


class Forbidden(Enum):
    """What a 403 means: it is final, to be tried again by this entry, or one after the other by all."""

    FINAL = auto()
    AGAIN = auto()
    CALMLY = auto()


class Crowd:
    """limit: so many connections at once are right, None when nothing was refused. most_connections: a file gets no
    further one beside so many, None when none was refused. careful: one is asked for at a time, to find out what 403
    means."""

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
        """One more than so many connections may be made."""
        if self.limit is None or connections < self.limit:
            return True
        return connections == self.limit and now - max(self._refused_at, self._more_at) >= self._calm

    def has_room_for_more(self, connections: int, now: float) -> bool:
        """One of them may be a further one of a file."""
        few = self.most_connections is None or connections < self.most_connections
        return few and self.has_room(connections, now)

    def begins(self, connections: int, now: float) -> None:
        """So many are made now."""
        if self.limit is not None and connections > self.limit:
            self.limit = connections
            self._more_at = now

    def refuses(self, budget: Budget, connections: int, now: float) -> bool:
        """An entry was refused. True when several were at about the same time, or one that was served before."""
        self._refused_lately = {b: t for b, t in self._refused_lately.items() if now - t <= TOGETHER_SECONDS}
        self._refused_lately[budget] = now
        return connections > 1 and (budget.served_at is not None or len(self._refused_lately) > 1)

    def shrink(self, connections: int, now: float) -> None:
        """There were too many."""
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
        # Whoever was refused when nothing else was asked for says nothing of crowds, nor whoever was never served and
        # is refused again.
        says_more = not budget.forbidden and (budget.served_at is not None or not budget.refused)
        together = says_more and self.refuses(budget, connections, now)
        several = together and len(self._refused_lately) >= SEVERAL_ENTRIES
        # Two that were never served may both be missing.
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
