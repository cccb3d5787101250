"""Outage: whether an origin works, since when it does not, and when it is tried again.

When nothing from an origin succeeds, the failure is the origin's: its entries wait, which uses up no tries, while one
request at a time, the probe, finds out whether it works again: soon at first, then after a tenth of the time that the
outage has lasted. All failures until the first success are one outage, for which BULK_ORIGIN_PATIENCE counts. Pure;
seconds of a monotonic clock that the caller passes in.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from bulkspider.errors import AttemptError
from bulkspider.hosts.crowd import SEVERAL_ENTRIES

if TYPE_CHECKING:
    from bulkspider.hosts.budget import Budget, Pauses
    from bulkspider.options import Options

# A mistyped host should fail soon; an origin that has served us before gets BULK_ORIGIN_PATIENCE.
STRANGER_PATIENCE_SECONDS = 60.0
# The next probe of an outage waits for this part of the time that it has lasted.
PROBE_SHARE = 0.1
# After a success so shortly before a failure, the origin counts as working, unless several entries have failed since.
LATELY_SECONDS = 1.0
# After so many 401 in a row, an origin is treated as in an outage.
UNAUTHORIZED_IN_A_ROW = 3
# Statuses that say "later", not "no" (RFC 6585 §4, RFC 9110 §15.6.4; 421: another connection may be answered).
BUSY_STATUSES = (421, 429, 503)
# Statuses of a gateway or CDN that does not reach the origin (RFC 9110 §15.6.3, §15.6.5; 520 to 524).
GATEWAY_STATUSES = (502, 503, 504, 520, 521, 522, 523, 524)
# Such an answer may be that of a gateway on our side.
UNREACHED_STATUSES = tuple(status for status in GATEWAY_STATUSES if status != 503)


class Outage:
    """Of one origin. busy: its statuses for "too busy". tries: after so many failures it is given up, without waiting
    (a dry run); None for BULK_ORIGIN_PATIENCE.

    since: when it began, None while the origin works. error: what was wrong of late. closed_until: nothing is asked
    before. heard_of: the origin has answered in this run. is_last: it is the last pass, in which an outage is not
    waited for. served_by: the host:port that gave a file last, itself or one to which it sent us.
    """

    def __init__(
        self,
        name: str,
        options: Options,
        pauses: Pauses,
        *,
        busy: Collection[int] = BUSY_STATUSES,
        tries: int | None = None,
    ) -> None:
        self.since: float | None = None
        self.error: AttemptError | None = None
        self.closed_until = 0.0
        self.heard_of = False
        self.is_last = False
        self.served_by: str | None = None
        self._name = name
        self._options = options
        self._pauses = pauses
        self._busy = busy
        self._tries = tries
        self._failures = 0
        self._told_until = 0.0  # what it asked for itself
        self._probe_began: float | None = None
        self._success_at: float | None = None
        self._failing: dict[Budget, None] = {}
        self._failed_since: set[str | Budget] = set()  # entries that failed since the last success
        # The last outage: from when to when, and until when failures were certainly the origin's.
        self._began = self._ended = self._excused_until = float("-inf")
        self._unauthorized = 0

    # -- is it the origin? -----------------------------------------------------------------------------------------

    def note(self, error: AttemptError, budget: Budget, now: float) -> None:
        """An entry has failed. If others were served since it failed before with the same error, the failure is its
        own."""
        before = budget.failed_at if budget.failed_as == error.code else None
        if before is not None and self._success_at is not None and self._excused_until < before < self._success_at:
            budget.own = True
            if self._may_be_its_own(error):
                budget.fruitless, budget.unpaid = budget.fruitless + budget.unpaid, 0
        budget.failed_at, budget.failed_as = now, error.code
        status = error.http_status
        speaks_of_origin = status is None or status >= 500 or status in self._busy
        if speaks_of_origin and len(self._failed_since) < SEVERAL_ENTRIES:
            self._failed_since.add(budget.entry or budget)

    def served(self, budget: Budget) -> None:
        """An entry was served. If it failed during the last outage, that was not its own fault."""
        if budget.failed_at is not None and self._began <= budget.failed_at <= self._ended:
            self._excused_until = self._ended

    def works_beside(self, budget: Budget, begun: float, now: float) -> bool:
        """Others were served while this attempt ran, or the entry itself was, if only by an answer's head."""
        if self._success_at is None or (budget.served_at is not None and self._success_at <= budget.served_at):
            return False
        if self._success_at >= begun:
            return True
        # With one file at a time no other one can be served meanwhile.
        return self._success_at >= now - LATELY_SECONDS and len(self._failed_since) < SEVERAL_ENTRIES

    def is_of_all(self, budget: Budget) -> bool:
        """Nothing succeeds, and not only this entry fails: others do, too, or it was served before."""
        self._failing[budget] = None
        failing = max(len(self._failing), len(self._failed_since))
        return failing >= SEVERAL_ENTRIES or budget.served_at is not None or self.since is not None

    def is_elsewhere(self, error: AttemptError) -> bool:
        """The origin works, but a host to which it redirected us does not: its other entries need not wait."""
        return (
            self.since is None and error.redirected_to is not None and self.served_by not in (None, error.redirected_to)
        )

    def is_of_401(self) -> bool:
        """It has answered so many requests with 401 that it must not be asked by all entries one after the other."""
        self._unauthorized += 1
        return self._unauthorized >= UNAUTHORIZED_IN_A_ROW

    @property
    def speaks_of_crowds(self) -> bool:
        """The reason may be too many connections."""
        return self.error is not None and self.error.http_status in (None, *BUSY_STATUSES)

    def _may_be_its_own(self, error: AttemptError) -> bool:
        """The origin answered, and not that it is too busy: perhaps it cannot serve only this entry."""
        return error.http_status is not None and error.http_status not in (*self._busy, *GATEWAY_STATUSES)

    # -- from its beginning to its end -----------------------------------------------------------------------------

    def lasts(self, error: AttemptError, budget: Budget, now: float) -> None:
        """The outage begins or goes on: an entry has failed because of it."""
        self.error = error
        if self.since is None:
            self.since = self._began = now
        self._ended = now
        wait = self._pauses.about(PROBE_SHARE * (now - self.since))
        if error.retry_after is not None:
            # RFC 9110 §10.2.3: it told us when; only a wait of (nearly) nothing is stretched by our own.
            told = self._pauses.asked_for(error)
            wait = told if error.retry_after >= 1 else max(wait, told)
            self._told_until = max(self._told_until, now + wait)
        self.close(now + wait)
        self._failures += 1
        if self._may_be_its_own(error):
            # The first failure of an entry here uses up a try; later ones only if the outage lasts long.
            counts = budget.fruitless == 0 or now - self.since >= STRANGER_PATIENCE_SECONDS
            budget.fruitless += counts
            budget.unpaid += not counts

    def succeeds(self, now: float) -> bool:
        """The origin has served an entry. True when that ends an outage."""
        self._success_at = now
        self._failed_since.clear()
        self.heard_of = True
        if self._failing or self._unauthorized or self.since is not None:
            return self.end()
        return False

    def end(self) -> bool:
        """Ends the outage. True when there was one."""
        was_down = self.since is not None
        self.since = self._probe_began = None
        self._failing.clear()
        self._failures = self._unauthorized = 0
        # RFC 9110 §10.2.3: what it asked for holds, even if somebody was served meanwhile.
        self.closed_until = self._told_until
        return was_down

    def forgive(self, *, last_pass: bool) -> bool:
        """Ends the outage so that the origin is tried again. True when there was one."""
        self.is_last = last_pass
        self.heard_of = False  # one request finds out for all entries
        self._told_until = 0.0
        return self.end()

    def close(self, until: float, *, told: bool = False) -> None:
        """The origin is not asked before `until`. told: the origin asked for that."""
        self.closed_until = max(self.closed_until, until)
        if told:
            self._told_until = self.closed_until

    # -- probes ----------------------------------------------------------------------------------------------------

    @property
    def is_probed(self) -> bool:
        """A probe is running."""
        return self._probe_began is not None

    def begin_probe(self, now: float) -> None:
        """The probe begins."""
        if self._probe_began is None:
            self._probe_began = now

    def end_probe(self, begun: float) -> bool:
        """An attempt that began at `begun` has ended. True when it was the probe."""
        was_probe = self._probe_began is not None and begun >= self._probe_began
        if was_probe:
            self._probe_began = None
        return was_probe

    # -- patience --------------------------------------------------------------------------------------------------

    def given_up(self, now: float, *, served_before: bool, most: float = float("inf")) -> AttemptError | None:
        """The error for all its entries when it has outlasted our patience, or will have when the origin wants to be
        asked again; else None. served_before: by this origin, now or in an earlier run. most: seconds of patience, at
        most, with an origin that cannot be reached at all."""
        if self.since is None or (self._tries is not None and self._failures < self._tries):
            return None
        patience = self._options.origin_patience if self._tries is None else 0.0
        told = self._told_until > self.since
        if not told and self.is_last:
            patience = 0.0
        elif not told and (not served_before or self._unauthorized):
            patience = min(patience, STRANGER_PATIENCE_SECONDS)
        if not told and self.error is not None and self.error.http_status in (None, *UNREACHED_STATUSES):
            patience = min(patience, most)
        if now - self.since < patience and self._told_until <= self.since + patience:
            return None
        return self._tell(now - self.since, now)

    def _tell(self, lasted: float, now: float) -> AttemptError:
        last = self.error
        if last is not None and last.http_status == 401:
            what = f"{self._name} answers 401 whatever is asked for; this was not asked for any more"
            return AttemptError(what, code=last.code, http_status=401)
        how_long = f"for {lasted:.0f} s"
        if self._told_until > now:
            how_long += f", and wants to be asked in {self._told_until - now:.0f} s"
        error = AttemptError(f"{self._name} has not worked {how_long} ({last})", code="origin_down", cause=last)
        error.server_said = last.server_said if last is not None else None
        return error
