"""Patience: what is owed to an origin, and when an entry is tried again.

Two questions: may this origin be asked now (`Pace.allows`), and what follows from the outcome of an attempt
(`Pace.after`): done, again not before a time, or given up. An outage of an origin is not a failure of its entries:
they wait, at no cost, while one probe at a time asks whether it is over. Times are seconds of a monotonic clock that
the caller passes in, so that all of it can be tested without waiting. Knows nothing of sockets, files or Scrapy.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from bulkspider.errors import AttemptError, BulkError, Stopped
from bulkspider.options import Options

# A mistyped host should fail soon; an origin that has served us before gets BULK_ORIGIN_PATIENCE.
STRANGER_PATIENCE = 60.0

# Statuses that say "later", not "no": with or without Retry-After they cost the entry nothing (RFC 6585 §4).
BUSY = (429, 503)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt came to.

    fetched: every byte of the object is on disk. grew: the part is larger than it ever was before. error: why the
    attempt ended early, None when it did not (with neither error nor `fetched`, there is more to ask for).
    """

    fetched: bool = False
    grew: bool = False
    error: BulkError | None = None

    def to_meta(self) -> dict[str, Any]:
        """Plain data for `request.meta`."""
        plain: dict[str, Any] = {"fetched": self.fetched, "grew": self.grew}
        if self.error is not None:
            plain["error"] = {
                "kind": type(self.error).__name__,
                "message": self.error.message,
                "code": self.error.code,
                "permanent": self.error.permanent,
                "http_status": self.error.http_status,
                "retry_after": getattr(self.error, "retry_after", None),
                "origin_wide": getattr(self.error, "origin_wide", False),
                "final": getattr(self.error, "final", False),
            }
        return plain

    @classmethod
    def from_meta(cls, plain: Mapping[str, Any]) -> Outcome:
        error: BulkError | None = None
        if told := plain.get("error"):
            fields = dict(told)
            message, kind = fields.pop("message"), fields.pop("kind")
            if kind == "AttemptError":
                error = AttemptError(message, **fields)
            elif kind == "Stopped":
                error = Stopped(message)
            else:
                error = BulkError(message, code=fields["code"], permanent=fields["permanent"])
        return cls(fetched=plain["fetched"], grew=plain["grew"], error=error)


@dataclass(slots=True)
class Budget:
    """What an entry has spent: attempts in a row in which its part did not grow."""

    fruitless: int = 0
    limit: int = 10


@dataclass(frozen=True, slots=True)
class Again:
    """Try again, not before `at`."""

    at: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The entry ends with this error."""

    error: BulkError


@dataclass(slots=True)
class _Origin:
    served: bool = False
    closed_until: float = 0.0
    failures: int = 0
    down_since: float | None = None
    probing: bool = False
    told_to_wait: bool = False
    most: int | None = None
    last_error: BulkError | None = field(default=None)


class Pace:
    """One per crawl."""

    def __init__(self, options: Options, jitter: Callable[[], float] = random.random) -> None:
        self._options = options
        self._jitter = jitter
        self._origins: dict[str, _Origin] = {}

    def allows(self, origin: str, now: float) -> bool:
        """May an attempt begin at this origin now? After an outage only one, until it has succeeded."""
        known = self._origins.get(origin)
        if known is None:
            return True
        return now >= known.closed_until and not (known.down_since is not None and known.probing)

    def allows_more(self, origin: str, connections: int, now: float) -> bool:
        """May a file of this origin, which has so many connections now, get a further one?"""
        known = self._origins.get(origin)
        if known is None:
            return True
        return now >= known.closed_until and (known.most is None or connections < known.most)

    def refuses_more(self, origin: str, connections: int, error: BulkError, now: float) -> None:
        """A further connection brought nothing while `connections` others went on: it had too many. That is
        remembered, and is no outage; only a Retry-After closes it for a while."""
        known = self._of(origin)
        known.most = max(1, min(connections, known.most or connections))
        if retry_after := getattr(error, "retry_after", None):
            known.closed_until = max(known.closed_until, now + min(retry_after, self._options.retry_after_max))

    def begins(self, origin: str) -> None:
        """An attempt begins at this origin."""
        known = self._of(origin)
        if known.down_since is not None:
            known.probing = True

    def served(self, origin: str) -> None:
        """The origin gave bytes of a file (now, or in an earlier run): it works; whoever waited for it is free."""
        known = self._of(origin)
        known.served = True
        known.last_error = None
        self.answered(origin)

    def answered(self, origin: str) -> None:
        """The origin gave a proper answer, if not a file: it is up."""
        known = self._of(origin)
        known.failures = 0
        known.down_since = None
        known.probing = False
        known.told_to_wait = False

    def next_opening(self, now: float) -> float | None:
        """The earliest time at which a closed origin opens, None when none is closed."""
        times = [known.closed_until for known in self._origins.values() if known.closed_until > now]
        return min(times, default=None)

    def shut(self, now: float) -> set[str]:
        """Origins at which nothing may begin now."""
        return {name for name in self._origins if not self.allows(name, now)}

    def closed(self, origin: str, now: float) -> tuple[float, str] | None:
        """Until when nothing is asked of this origin, and why; None when it is open."""
        known = self._origins.get(origin)
        return (known.closed_until, str(known.last_error)) if known and known.closed_until > now else None

    def forgive(self, origin: str) -> None:
        """The last pass begins: the outage of the first one is not held against the origin."""
        known = self._of(origin)
        known.closed_until = 0.0
        self.answered(origin)

    def given_up(self, origin: str, now: float) -> AttemptError | None:
        """The error for all entries of an origin whose outage outlasted our patience, else None."""
        known = self._origins.get(origin)
        if known is None or known.down_since is None:
            return None
        patience = self._options.origin_patience
        if not known.served and not known.told_to_wait:
            patience = min(patience, STRANGER_PATIENCE)
        if now - known.down_since < patience:
            return None
        return AttemptError(
            f"{origin} has not worked for {now - known.down_since:.0f} s ({known.last_error})", code="origin_down"
        )

    def after(self, origin: str, outcome: Outcome, budget: Budget, now: float) -> Again | GiveUp | None:
        """What follows from an attempt at `origin`: None when all bytes are here."""
        error = outcome.error
        known = self._of(origin)
        known.probing = False
        if outcome.grew:
            self.served(origin)
            budget.fruitless = 0
        if outcome.fetched:
            self.served(origin)
            return None
        if error is None or error.code == "no_space":
            # Room on the disk is not the origin's to give: it costs nobody anything to wait for it.
            return Again(now)
        if error.permanent or not isinstance(error, AttemptError) or error.final:
            if error.http_status is not None:
                self.answered(origin)
            return GiveUp(error)
        if not outcome.grew and error.origin_wide:
            return self._outage(origin, known, error, budget, now)
        if error.http_status is not None:
            self.answered(origin)
        if outcome.grew:
            return Again(now)
        budget.fruitless += 1
        if budget.fruitless > budget.limit:
            return GiveUp(error)
        return Again(now + self._backoff(budget.fruitless - 1))

    def _outage(self, origin: str, known: _Origin, error: AttemptError, budget: Budget, now: float) -> Again | GiveUp:
        known.last_error = error
        if known.down_since is None:
            known.down_since = now
        wait = self._backoff(known.failures)
        if error.retry_after is not None:
            # RFC 9110 §10.2.3: it told us when; only a wait of (nearly) nothing is stretched by our own back-off.
            known.told_to_wait = True
            wait = error.retry_after if error.retry_after >= 1 else max(wait, error.retry_after)
            wait = min(wait, self._options.retry_after_max)
        known.closed_until = max(known.closed_until, now + wait)
        known.failures += 1
        if error.http_status is not None and error.http_status not in BUSY:
            # It answered: perhaps it is this entry alone that it cannot serve.
            budget.fruitless += 1
            if budget.fruitless > budget.limit:
                return GiveUp(error)
        return Again(known.closed_until)

    def _backoff(self, failures: int) -> float:
        """Exponential, with full jitter, so that a thousand clients do not come back in step."""
        ceiling = min(self._options.retry_delay_max, self._options.retry_delay * 2.0 ** min(failures, 30))
        return ceiling * self._jitter()

    def _of(self, origin: str) -> _Origin:
        return self._origins.setdefault(origin, _Origin())


def parse_retry_after(text: str | None, wall_clock: float) -> float | None:
    """Seconds to wait from a Retry-After of either form (RFC 9110 §10.2.3); None when absent or malformed."""
    if not text:
        return None
    text = text.strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - wall_clock)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
