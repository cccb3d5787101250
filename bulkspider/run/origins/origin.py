"""One host:port: what is known of it, and when and how it may be asked.

All such questions go to the Origin: may it be asked now (`allows`), may a file of it get a further connection
(`allows_more`), what follows from the outcome of an attempt (`after`): the file is fetched, it is tried again not
before a certain time, or it is given up.

The answers combine: whether the origin works (`hosts/outage.py`), how many connections it accepts (`hosts/crowd.py`),
and how many tries an entry has left (`hosts/budget.py`). Times are seconds of a monotonic clock that the caller passes
in, and randomness is an argument, so that all of it can be tested without waiting. No sockets, files or Scrapy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

from bulkspider.codes import Kind
from bulkspider.errors import AttemptError, BulkError, Meaning
from bulkspider.hosts.budget import Budget, Pauses
from bulkspider.hosts.crowd import Crowd, Forbidden
from bulkspider.hosts.outage import BUSY_STATUSES, Outage
from bulkspider.hosts.pieces import Pieces
from bulkspider.hosts.profiles import Profile
from bulkspider.hosts.record import Record
from bulkspider.protocol.gain import Gain
from bulkspider.protocol.plan import ValidatorKind
from bulkspider.run.origins.outcome import Again, Fetched, GiveUp, Outcome

if TYPE_CHECKING:
    from bulkspider.options import Options

logger = logging.getLogger(__name__)

# Connections to an origin that has not answered yet: one that never answers must not hold all places.
STRANGER_CONNECTIONS_MAX = 1
# After this many challenges for browsers in a row, the challenge is final.
CHALLENGES_MAX = 3


class Origin:
    """One host:port. Made and kept by Origins. Its parts judge an outcome: `outage`, whether the origin works; `crowd`,
    how many connections it accepts; `pieces`, how much it gives in one answer. One class, because callers need one
    object for all questions about an origin, and each answer needs more than one of the parts.

    profile: the rules of a known host. served_before: it has sent bytes of a file, in this run or an earlier one.
    connections: requests that are running there now. trials: those of them that began before it was known to work.
    usual_speed: bytes per second of one connection, from recent files. validator_kind: the strongest kind of If-Range
    that it may understand. gain: whether a second connection helps. small_in_a_row: consecutive small files that came
    in one answer each. paced: the time between two requests that its profile asks for is kept; not where the user has
    configured its slot. record: what it did in this run.
    """

    def __init__(
        self,
        name: str,
        options: Options,
        jitter: Callable[[], float],
        profile: Profile | None = None,
        opened: Callable[[], object] = lambda: None,
        tries: int | None = None,
    ) -> None:
        self.name = name
        self.profile = profile or Profile(name)
        self._busy_statuses = {*BUSY_STATUSES, *self.profile.busy}
        self._pauses = Pauses(options, jitter, at_once=tries is not None)
        self.outage = Outage(name, options, self._pauses, busy=self._busy_statuses, tries=tries)
        self.crowd = Crowd()
        self.pieces = Pieces()
        self.gain = Gain()
        self.validator_kind = ValidatorKind.ETAG
        self.served_before = False
        self.connections = 0
        self.trials = 0
        self.usual_speed: float | None = None
        self.small_in_a_row = 0
        self.paced = True
        self.record = Record()
        self._next_request_at = 0.0
        self._retry_after_max = options.retry_after_max
        self._opened = opened
        self._waits = tries is None

    # -- may it be asked? ------------------------------------------------------------------------------------------

    @property
    def is_proven(self) -> bool:
        """It has answered in this run, and works."""
        return self.outage.heard_of and self.outage.since is None

    def allows(self, now: float) -> bool:
        """May an attempt begin now? In an outage only one until it has succeeded; before the first answer
        STRANGER_CONNECTIONS_MAX."""
        if now < self.opens_at:
            return False
        if self.outage.is_probed and (self.crowd.careful or self.outage.since is not None):
            return False
        if not self.outage.heard_of and self.connections >= STRANGER_CONNECTIONS_MAX:
            return False
        return self.crowd.has_room(self.connections, now)

    def allows_more(self, now: float) -> bool:
        """May one of its files get a further connection?"""
        return now >= self.opens_at and self.is_proven and self.crowd.has_room_for_more(self.connections, now)

    @property
    def opens_at(self) -> float:
        """The time before which it is not asked: it is closed, or wants some time between two requests."""
        return max(self.outage.closed_until, self._next_request_at)

    def given_up(self, now: float, most: float = float("inf")) -> AttemptError | None:
        """The error for all its entries when its outage has lasted longer than BULK_ORIGIN_PATIENCE, else None. most:
        the most seconds to wait for an origin that cannot be reached at all."""
        return self.outage.given_up(now, served_before=self.served_before, most=most)

    def is_between_requests(self, now: float) -> bool:
        """It is open, and only the time that it wants between two requests is not over."""
        return self.outage.closed_until <= now < self._next_request_at

    # -- what happened ---------------------------------------------------------------------------------------------

    def asked(self, now: float) -> None:
        """A request begins: the time until the next one starts."""
        self._next_request_at = now + (self.profile.interval_seconds if self.paced else 0.0)

    def reserve(self, now: float) -> float:
        """Reserves the turn for a further request of a running attempt. Returns the seconds until then."""
        at = max(now, self._next_request_at)
        self.asked(at)
        return at - now

    def begins(self, now: float, *, further: bool = False) -> None:
        """An attempt begins here. further: one more connection of a file, which is no probe of whether the origin
        works."""
        if not further and (self.outage.since is not None or self.crowd.careful):
            self.outage.begin_probe(now)
        self.crowd.begins(self.connections, now)

    def heard(self, status: int, now: float, by: str | None = None) -> None:
        """The head of an answer has come. Not called for a redirect, which does not show that the file's host works.
        by: the host:port that it came from, where we were sent to another one."""
        first, self.outage.heard_of = not self.outage.heard_of, True
        if status < 300 and status != 202:
            self.outage.served_by = by or self.name
            self.moved(now)
        if first:
            self._opened()

    def moved(self, now: float) -> None:
        """Bytes of a file have come: it works."""
        if self.outage.since is not None and not self.outage.is_probed and self.outage.speaks_of_crowds:
            # Other requests were served all the time: the failures mean that there were too many at once.
            self.crowd.shrink(self.connections, now)
        if self.outage.succeeds(now):
            self._opened()

    def served(self) -> None:
        """It has sent bytes of a file, in this run or an earlier one."""
        self.served_before = True

    def forgive(self, *, last_pass: bool = False) -> None:
        """Ends its outage so that it is tried again. last_pass: a new outage is not waited for."""
        if self.outage.forgive(last_pass=last_pass):
            self._opened()

    def refuses_more(self, error: BulkError, now: float) -> None:
        """A further connection brought nothing while the others went on: there were too many. The limit is lowered.
        This is no outage; only a Retry-After closes the origin for a while."""
        self.record.refused[error.code] += 1
        self.crowd.refuses_more(self.connections)
        if isinstance(error, AttemptError) and error.retry_after:
            self.outage.close(now + self._pauses.asked_for(error))

    def rest(self, seconds: float, now: float) -> None:
        """Its answer says that its rate limit is used up: it is not asked for `seconds`. This is no outage."""
        until = now + min(seconds, self._retry_after_max)
        if until > self.outage.closed_until:
            self.outage.close(until, told=True)
            logger.info("%s: nothing remains of its rate limit; it is asked again in %.0f s", self.name, until - now)

    def brought(self, speed: float) -> None:
        """A connection has ended that brought `speed` bytes per second."""
        self.usual_speed = speed if self.usual_speed is None else (self.usual_speed + speed) / 2

    def understands(self, kind: ValidatorKind) -> None:
        """It does not answer a stronger kind of If-Range than this one correctly."""
        self.validator_kind = max(kind, self.validator_kind)

    # -- what follows ----------------------------------------------------------------------------------------------

    def after(
        self, outcome: Outcome, budget: Budget, now: float, begun: float | None = None
    ) -> Fetched | Again | GiveUp:
        """What follows from an attempt here. begun: when the attempt began, to compare it with other events since
        then."""
        error, begun = outcome.error, now if begun is None else begun
        was_probe = self.outage.end_probe(begun)
        if outcome.grew or outcome.fetched:
            self.served()
            self.outage.is_last = False
            if was_probe and budget.forbidden + budget.fruitless:
                self.crowd.careful = False  # a file that was refused among many is served when it is asked for alone
            self.moved(now)
            self.outage.served(budget)
            budget.progressed(now)
        if outcome.fetched:
            return Fetched()
        if error is None or error.code == "no_space":
            # A lack of room on the disk is not the origin's failure: waiting for it counts as no try.
            return Again(now)
        if not isinstance(error, AttemptError):
            return GiveUp(error)
        if outcome.grew and error.kind is Kind.RETRY:
            return Again(now + self._pauses.after_progress(outcome.gained, now - begun, budget))
        return self._refused(error, budget, now, begun)

    def again_beside(self, gained: int, budget: Budget, now: float, begun: float) -> float:
        """A connection of a file broke off after so many bytes while others fill it: when the file may have another."""
        return now + self._pauses.after_progress(gained, now - begun, budget)

    def _refused(self, error: AttemptError, budget: Budget, now: float, begun: float) -> Again | GiveUp:
        """The attempt brought no new byte."""
        status = error.http_status
        self.record.refused[error.code] += 1
        budget.tried += 1
        self.outage.note(error, budget, now)
        works = self.outage.works_beside(budget, begun, now)
        if error.meaning is Meaning.CHALLENGE:
            budget.fruitless += 1
            wait = self._pauses.after_failures(budget.fruitless)
            return GiveUp(error) if budget.fruitless >= CHALLENGES_MAX else Again(now + wait)
        if (
            error.meaning is Meaning.BUSY
            or status in self._busy_statuses
            or (status == 403 and error.retry_after is not None)
        ):
            return self._busy(error, budget, now, works=works)
        if status == 202:
            return _again(self._pauses.later(error, budget, now), error)
        if status == 403 and error.meaning is Meaning.UNSAID:
            return self._forbidden(error, budget, now, begun)
        if status == 401 and not (error.kind is Kind.RETRY and error.meaning is Meaning.EXPIRED):
            if not works and self.outage.is_of_401():
                self._outage(error, Budget(), now)
            return GiveUp(error)
        if error.kind is not Kind.RETRY:
            if status is not None and status != 403:
                self.moved(now)  # a valid answer: the origin works
            return GiveUp(error)
        if status is not None and error.retry_after is not None and not error.origin_wide:
            return _again(self._pauses.later(error, budget, now), error)
        works = works or self.outage.is_elsewhere(error)
        if status is None and error.origin_wide and not self.outage.is_elsewhere(error):
            return self._outage(error, budget, now)
        before_answer = error.code in ("lost", "headers_timeout") or (status or 0) >= 500
        if not before_answer or budget.own or works:
            if error.code == "lost" and self.crowd.refuses(budget, self.connections, now):
                self.crowd.shrink(self.connections, now)
            return self._spend(error, budget, now)
        if self.outage.is_of_all(budget) or not self.outage.heard_of:
            return self._outage(error, budget, now)
        return self._spend(error, budget, now)

    def _spend(self, error: AttemptError, budget: Budget, now: float) -> Again | GiveUp:
        """The entry's own failure: it alone waits, and uses up one of its tries."""
        at = self._pauses.next_try(error, budget, now)
        return GiveUp(error) if at is None else Again(max(self.outage.closed_until, at))

    def _outage(self, error: AttemptError, budget: Budget, now: float) -> Again | GiveUp:
        """The origin does not work. All failures until a probe has succeeded are one outage."""
        if not self._waits and error.http_status is not None:
            # A dry run does not wait: an origin that answers is up.
            self.outage.error = error
            if self.outage.end():
                self._opened()
            return Again(now)
        self.outage.lasts(error, budget, now)
        return GiveUp(error) if budget.is_spent else Again(self.outage.closed_until)

    def _busy(self, error: AttemptError, budget: Budget, now: float, *, works: bool) -> Again | GiveUp:
        """The origin is busy: it asks to come back later."""
        told = error.retry_after is not None and error.retry_after >= 1
        if not works and not budget.own:
            if self.outage.is_of_all(budget) or told:
                return self._outage(error, budget, now)
            return self._spend(error, budget, now)
        crowded = self.crowd.refuses(budget, self.connections, now)
        # An entry that is refused again and again while others are served shows nothing about the number of
        # connections.
        crowded = crowded and (told or not budget.own or budget.served_at is not None)
        if crowded:
            self.crowd.shrink(self.connections, now)
        if budget.own:
            # Refused again although others were served since: this entry is the reason.
            return _again(self._pauses.later(error, budget, now), error) if told else self._spend(error, budget, now)
        if told:
            return self._outage(error, budget, now)
        if crowded:
            self.outage.close(now + self._pauses.about())
        return self._spend(error, budget, now)

    def _forbidden(self, error: AttemptError, budget: Budget, now: float, begun: float) -> Again | GiveUp:
        """A 403 without a reason: the file is forbidden, or there were too many requests at once."""
        said_no = self.crowd.says_no
        match self.crowd.forbids(budget, self.connections, begun, now):
            case Forbidden.FINAL:
                if self.crowd.says_no and not said_no:
                    self._opened()
                return GiveUp(error)
            case Forbidden.CALMLY:
                self.outage.close(now + self._pauses.about())
                return GiveUp(error) if budget.is_spent else Again(self.outage.closed_until)
            case Forbidden.AGAIN:
                return self._spend(error, budget, now)

    # -- for the display and the status ----------------------------------------------------------------------------

    def closed(self, now: float) -> tuple[float, str] | None:
        """Until when it is not asked, and why; None when it is open."""
        why = str(self.outage.error or "nothing remains of its rate limit")
        return (self.outage.closed_until, why) if self.outage.closed_until > now else None

    def waited_for(self, now: float) -> tuple[float, str] | None:
        """As `closed`, but also while a probe runs (its time is then past); None when it was given up."""
        if self.given_up(now) is not None:
            return None
        if self.outage.since is not None:
            return self.outage.closed_until, str(self.outage.error)
        return self.closed(now)

    def statistics(self) -> dict[str, object]:
        """What is known of it, as plain data."""
        return {
            "origin": self.name,
            "served": self.served_before,
            "connections": self.connections,
            "limit": self.crowd.limit,
            "most_connections": self.crowd.most_connections,
            "closed_until": self.outage.closed_until,
            "down_since": self.outage.since,
            "last_error": str(self.outage.error) if self.outage.error is not None else None,
            "usual_speed": self.usual_speed,
            "if_range": self.validator_kind.name.lower(),
            "range_max": self.pieces.limit,
            "small_in_a_row": self.small_in_a_row,
        }


def _again(at: float | None, error: AttemptError) -> Again | GiveUp:
    return GiveUp(error) if at is None else Again(at)


class Place(Struct, eq=False):
    """One of the places of a slot, at an origin; an attempt holds it while it runs. begun: since when. shared: several
    small files of one request hold it together; `holders` of them have not ended. trial: the origin was not known to
    work when the place was given."""

    slot: str
    origin: Origin
    begun: float = 0.0
    holders: int = 1
    shared: bool = False
    trial: bool = False
