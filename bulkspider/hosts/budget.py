"""Budget: how many tries an entry has used up, and how long it pauses before the next one.

An entry has BULK_RETRY_TIMES tries in a row without progress; failures of its host do not count. The pauses here are
those of one entry that fails by itself: longer after each failure (BULK_RETRY_DELAY), as its host asks (Retry-After),
or growing while each attempt brings little. Pure; times in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from bulkspider.errors import AttemptError
    from bulkspider.options import Options

# An attempt that ended sooner than LITTLE_SECONDS and brought less than LITTLE_BYTES brought little; the pause after it
# doubles each time up to LITTLE_PAUSE_MAX_SECONDS.
LITTLE_SECONDS = 5.0
LITTLE_BYTES = 16 * 1024 * 1024
LITTLE_PAUSE_SECONDS = 0.25
LITTLE_PAUSE_MAX_SECONDS = 5.0


class Budget(Struct, eq=False):
    """The tries of an entry: attempts in a row in which its part did not grow.

    entry: which one, "" for one without a name: a queue gives an entry again, and then it has another budget. limit:
    how many of them there may be. unpaid: those that are not counted, because nothing of its origin succeeded.
    failed_at, failed_as: when it failed last, by which code. own: its origin served others since. served_at: when it
    brought bytes last, None before the first. tried: attempts in a row that its origin did not serve. refused: one of
    them was 403. forbidden: how many were although nothing else was asked for. waits_since: since when it waits alone,
    at no cost. brief: attempts in a row that brought little.
    """

    fruitless: int = 0
    limit: int = 10
    unpaid: int = 0
    own: bool = False
    served_at: float | None = None
    tried: int = 0
    refused: bool = False
    forbidden: int = 0
    failed_at: float | None = None
    failed_as: str | None = None
    waits_since: float | None = None
    brief: int = 0
    entry: str = ""

    @property
    def is_spent(self) -> bool:
        """It is not tried again."""
        return self.fruitless > self.limit

    def progressed(self, now: float) -> None:
        """Its part grew."""
        self.fruitless = self.unpaid = self.forbidden = self.tried = 0
        self.served_at, self.own, self.refused = now, False, False
        self.failed_at = self.waits_since = None


class Pauses:
    """jitter: returns a random number from 0 to 1. at_once: all pauses are 0, as in a dry run."""

    def __init__(self, options: Options, jitter: Callable[[], float], *, at_once: bool = False) -> None:
        self._options = options
        self._jitter = jitter
        self._at_once = at_once

    def after_failures(self, failures: int) -> float:
        """Exponential, with full jitter, so that a thousand clients do not come back at the same moment."""
        if self._at_once:
            return 0.0
        ceiling = min(self._options.retry_delay_max, self._options.retry_delay * 2.0 ** min(failures, 30))
        return ceiling * self._jitter()

    def about(self, seconds: float = 0.0) -> float:
        """A random time between half and all of `seconds`, or of BULK_RETRY_DELAY where that is longer."""
        wait = min(max(self._options.retry_delay, seconds), self._options.retry_delay_max)
        return wait * (1 + self._jitter()) / 2

    def asked_for(self, error: AttemptError) -> float:
        """The pause that the host asks for, at most BULK_RETRY_AFTER_MAX."""
        return min(error.retry_after or 0.0, self._options.retry_after_max)

    def next_try(self, error: AttemptError, budget: Budget, now: float) -> float | None:
        """The failure is the entry's own: when it is tried again, None when it has no try left."""
        budget.fruitless += 1
        if budget.is_spent:
            return None
        return now + max(self.after_failures(budget.fruitless - 1), self.asked_for(error))

    def later(self, error: AttemptError, budget: Budget, now: float) -> float | None:
        """The host asks the entry to come back later, which uses up no try. Returns when; None when it waits for too
        long."""
        since = budget.waits_since = now if budget.waits_since is None else budget.waits_since
        wait = max(self.about((now - since) / 4), self.asked_for(error))
        return None if now + wait - since > self._options.origin_patience else now + wait

    def after_progress(self, gained: int, seconds: float, budget: Budget) -> float:
        """The pause after an attempt that brought bytes: it grows while each attempt brings little, so that the host is
        not asked too often."""
        if seconds >= LITTLE_SECONDS or gained >= LITTLE_BYTES:
            budget.brief = 0
            return 0.0
        budget.brief += 1
        if budget.brief == 1:
            return 0.0
        return min(LITTLE_PAUSE_SECONDS * 2.0 ** min(budget.brief - 2, 10), LITTLE_PAUSE_MAX_SECONDS)
