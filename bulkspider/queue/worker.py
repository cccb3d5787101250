"""The shared queue as a source: a worker leases entries when it has room, and tells the queue their outcomes.

The spider never waits for Redis. `take` gives what was leased; where there is room for more, it asks in the background
(`working/claims.py`) and wakes the spider when there is an answer; outcomes (`working/outcomes.py`) are posted. Every
third of a lease all leases are renewed at once. When Redis is away, transfers go on until their leases run out by this
worker's own clock (`working/lease.py`); then the entries are given up here, because others will have them.

Runs in the reactor's thread, on its asyncio loop. Knows nothing of requests, parts' contents or other workers.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import uuid
from collections.abc import Collection

from bulkspider.disk.part import Part
from bulkspider.entries.entry import Entry, redact
from bulkspider.errors import BulkError, UsageError
from bulkspider.lists.source import Source, Taker
from bulkspider.queue.working.claims import Claims
from bulkspider.queue.working.connections import Connections
from bulkspider.queue.working.lease import Lease, Leases
from bulkspider.queue.working.link import Link
from bulkspider.queue.working.outcomes import UNREACHED_SECONDS, Outcomes

logger = logging.getLogger(__name__)

# How long a stop waits for a Redis that does not answer. Entries whose outcome it does not get go to other workers when
# the leases end.
STOP_SECONDS = 1.5


class RedisQueue(Source):
    """One worker's view of a job. entries: how many are left in it at the start. lease: seconds. delay: seconds
    until an entry that failed, and may pass, is given again. patience: seconds for which an origin is waited for that
    nobody reaches; stranger_patience: if it has served nobody yet. stays: when the job is over, it waits for the next
    push."""

    shared = True

    def __init__(
        self,
        url: str,
        job: str,
        *,
        entries: int,
        lease: float,
        delay: float,
        patience: float,
        stranger_patience: float,
        stays: bool = False,
    ) -> None:
        self.title = f"job {job} on {redact(url)}"
        self.entries = self.unsized = entries
        # Every process has another name, because the leases belong to the name (a fencing token).
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.leases = Leases(self.worker, lease, self)  # of entries that have no outcome yet
        self._where = url, job
        self.outcomes = Outcomes(
            self.worker, self.leases, delay=delay, patience=patience, stranger_patience=stranger_patience
        )
        self.claims = Claims(self.title, self.worker, self.leases, give_back=self.outcomes.give_back, stays=stays)
        self._handed_on = 0
        self.link: Link | None = None

    # -- what the spider asks --------------------------------------------------------------------------------------

    @property
    def exhausted(self) -> bool:
        return self.claims.over and not self.claims.ready

    @property
    def waiting(self) -> int:
        return self.claims.left

    @property
    def owed(self) -> int:
        return self.claims.taken - self._handed_on

    @property
    def given_up(self) -> int:  # type: ignore[override]
        return self.outcomes.given_up + self.claims.given_up

    def has_room(self, places: int, per_host: int) -> None:
        self.claims.places, self.claims.per_host = places, per_host

    def take(self, blocked: Collection[str] = ()) -> Entry | None:
        entry = self.claims.take(blocked)
        self.claims.ask({*blocked, *self.outcomes.left_to_others})
        return entry

    # -- what the spider tells -------------------------------------------------------------------------------------

    def begin(self, taker: Taker) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError(
                "a queue needs the asyncio reactor; remove TWISTED_REACTOR from the settings, Scrapy's default is right"
            ) from None
        self._taker = taker
        patience = min(5.0, max(0.5, self.leases.seconds / 6))
        self.link = Link(
            *(*self._where, self.title),
            patience=patience,
            on_return=self.leases.renew_soon,
            greeting=self.leases.greeting,
        )
        self.connections = Connections(self.link, taker.wake)
        self.leases.keep(self.link)
        self.claims.begin(self.link, taker)
        self.outcomes.begin(self.link, self.connections, taker)

    def begun(self, entry: Entry, part: Part) -> None:
        lease = self.leases[entry.name]
        lease.part = part
        part.files.lease = lease

    def taken_over(self, entry: Entry) -> bool:
        return self.leases[entry.name].tries > 1

    def ended(self, entry: Entry, status: str, error: BulkError | None = None) -> None:
        self.outcomes.tell(self.leases.pop(entry.name), status, error)
        self.claims.freed()

    def take_back(self, entry: Entry, error: BulkError) -> bool:
        lease = self.leases[entry.name]
        if not self.outcomes.take_back(lease, error):
            return False
        self.leases.pop(entry.name)
        self._handed_on += 1
        return True

    def origin_closed(self, origin: str, seconds: float) -> None:
        assert self.link is not None
        self.link.post("close_origin", origin, int(seconds * 1000))

    def may_connect(self, entry: Entry) -> bool:
        lease = self.leases.get(entry.name)
        if lease is None or not lease.valid or self.claims.waits:
            # Another entry comes first: the queue has not said yet that it has none.
            return False
        return self.connections.ready(lease)

    def connect(self, entry: Entry) -> None:
        self.connections.take(self.leases[entry.name])

    def disconnect(self, entry: Entry) -> None:
        if (lease := self.leases.get(entry.name)) is not None:
            self.connections.release(lease)

    async def end(self) -> None:
        if self.link is None:
            return
        await self.claims.end(STOP_SECONDS)
        for lease in reversed(list(self.leases)):
            self.outcomes.give_back(lease)
        self.link.post("leave", self.worker)
        try:
            await asyncio.wait_for(self.link.all_sent(), 0 if self.link.away else STOP_SECONDS)
        except asyncio.TimeoutError:
            logger.warning("%s: what is left here goes to others in at most %.0f s", self.title, self.leases.seconds)
        await self.vanish()

    async def vanish(self) -> None:
        """Ends without a message to Redis: its entries go to other workers when the leases end."""
        link, self.link = self.link, None
        if link is not None:
            await self.leases.let_go()
            await link.close()

    async def all_told(self) -> None:
        """Waits until Redis has answered every outcome."""
        if self.link is not None:
            await self.link.all_sent()

    # -- what the leases tell --------------------------------------------------------------------------------------

    def lease_lost(self, lease: Lease) -> None:
        if lease not in self.claims.ready:
            self._taker.lose(lease.entry.name)

    def beside(self, others: int) -> None:
        self.outcomes.others = others
        seconds = min(UNREACHED_SECONDS, self.leases.seconds)
        self._taker.hurry(seconds if others else math.inf)

    def cancelled(self) -> None:
        self.claims.cancelled()
