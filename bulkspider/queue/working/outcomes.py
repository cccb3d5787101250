"""Outcomes: what a worker tells the queue about its entries, and what follows from failures that may be of this
machine.

Each is posted, which means that it is repeated until Redis has answered; the number of the lease makes that harmless.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable

from bulkspider.codes import Kind
from bulkspider.entries.entry import redact
from bulkspider.errors import BulkError
from bulkspider.lists.source import Taker
from bulkspider.queue.working.claims import MOST_TRIES
from bulkspider.queue.working.connections import Connections
from bulkspider.queue.working.lease import Lease, Leases, clock
from bulkspider.queue.working.link import Link

logger = logging.getLogger(__name__)

# Errors that mean this machine, its network, clock or certificates, when the origin serves other workers.
MAYBE_HERE_ONLY = ("origin_down", "no_network", "tls_verify", "proxy", "proxy_auth")
# An origin that cannot be reached from here is left to others after so long, if there are any.
UNREACHED_SECONDS = 20.0
# It is left to them for longer each time, while they are served.
LEFT_ALONE_MAX_SECONDS = 3600.0


class Outcomes:
    """Of one worker; delay, patience and stranger_patience as of `RedisQueue`, in seconds.

    given_up: entries that the queue gave up when this worker could not reach their origin either. others: workers that
    live beside this one, as far as it knows."""

    def __init__(self, worker: str, leases: Leases, *, delay: float, patience: float, stranger_patience: float) -> None:
        self.given_up = 0
        self.others = 0
        self._worker = worker
        self._leases = leases
        self._delay = delay
        self._patience = patience, min(patience, stranger_patience)
        self._avoided: dict[str, float] = {}  # origin -> until when
        self._left_alone: Counter[str] = Counter()  # origin -> how often in a row

    def begin(self, link: Link, connections: Connections, taker: Taker) -> None:
        self._link, self._connections, self._taker = link, connections, taker

    def tell(self, lease: Lease, status: str, error: BulkError | None) -> None:
        """An entry has one of the five statuses."""
        if status == "interrupted":
            self._settle(lease, "back")
        elif status == "failed":
            self._settle(lease, "dead", self._letter(lease, error))
        else:
            self._left_alone.pop(lease.origin, None)
            # `total` is of the file, as it has its name now; one that the ledger proves was not looked at again.
            size = lease.entry.size if lease.part is None else lease.part.state.total
            told = {"status": status, "worker": self._worker, "time": round(time.time(), 3)}
            told |= {"url": redact(lease.entry.url), "size": size}
            self._settle(lease, "done", json.dumps(told, separators=(",", ":")), size or 0)

    def give_back(self, lease: Lease) -> None:
        """Gives an entry back that has not begun here, or has ended without a failure."""
        if self._leases.get(lease.entry.name) is lease:
            self._leases.pop(lease.entry.name)
        self._settle(lease, "back")

    def take_back(self, lease: Lease, error: BulkError) -> bool:
        """Gives an entry to other workers if it cannot be done here now; False when it has failed finally."""
        if error.code == "lease_lost" or error.kind is Kind.STOP:
            # This machine's fault, not the entry's. Nothing happens if somebody has it already.
            self._settle(lease, "back")
        elif lease.valid:
            maybe_here_only = error.code in MAYBE_HERE_ONLY and (self.others > 0 or not error.permanent)
            counts = not self.others or lease.failed_at != self._worker
            tried = lease.tries >= MOST_TRIES and counts and not lease.grew and not (maybe_here_only and self.others)
            if tried or (error.permanent and not maybe_here_only):
                return False
            why = redact(str(error))
            logger.warning("%s: %s; back to the queue", lease.entry.name, why)
            delay = int(self._delay * 1000)
            if maybe_here_only:
                self._settle_away(lease, error, delay, why)
            else:
                self._settle(lease, "later", delay, why)
        return True

    def _settle_away(self, lease: Lease, error: BulkError, delay: int, why: str) -> None:
        """Others try what cannot be reached from here. It is given up when they cannot reach it either, after the time
        for which a run of a list waits, or at once where waiting does not help."""
        patience, stranger = (0 if error.permanent else int(seconds * 1000) for seconds in self._patience)
        unreached = int(min(UNREACHED_SECONDS, self._leases.seconds) * 1000)
        details = delay, why, self._letter(lease, error), patience, stranger, unreached
        self._settle(lease, "away", *details, then=lambda answer: self._was_away(lease, why, answer))

    def _was_away(self, lease: Lease, why: str, answer: int) -> None:
        """What the queue says of an origin that cannot be reached from here."""
        origin = lease.origin
        if answer == 4:
            logger.error("%s: %s; nobody reaches it, and it was given up", lease.entry.name, why)
            self.given_up += 1
        if answer not in (2, 3) or self._avoided.get(origin, 0.0) > clock():
            return
        seconds = self._delay
        if answer == 2:
            # The failure of this machine must not count as a failure of the entry.
            seconds = min(seconds * 2 ** min(self._left_alone[origin], 10), max(LEFT_ALONE_MAX_SECONDS, self._delay))
            self._left_alone[origin] += 1
        works = "works for others" if answer == 2 else "may work for others"
        logger.warning("%s %s; it is left to them for %.0f s", origin, works, seconds)
        self._avoided[origin] = clock() + seconds

    @property
    def left_to_others(self) -> tuple[str, ...]:
        """Origins at which nothing is to begin now. One whose time is over is tried again, as if it were new."""
        for origin in [origin for origin, until in self._avoided.items() if until <= clock()]:
            del self._avoided[origin]
            self._taker.forgive(origin)
        return tuple(self._avoided)

    def _letter(self, lease: Lease, error: BulkError | None) -> str:
        """The record of an entry that was given up."""
        code, reason = (error.code, redact(str(error))) if error is not None else ("", "")
        letter = {"origin": lease.origin, "entry": lease.text, "code": code, "reason": reason, "worker": self._worker}
        return json.dumps(letter)

    def _settle(
        self, lease: Lease, outcome: str, *details: str | int, then: Callable[[int], None] | None = None
    ) -> None:
        self._connections.release(lease, all_of_them=True)
        self._leases.tell_seat(lease, self._link)
        name = lease.entry.name
        self._link.post("settle", self._worker, outcome, lease.origin, lease.id, name, lease.bytes, *details, then=then)
