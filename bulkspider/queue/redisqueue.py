"""The shared queue as a source: a worker leases entries one at a time, and tells the queue what became of them.

The spider never waits for Redis. `take` gives what was leased; when nothing was, it asks in the background and wakes
the spider when there is an answer; outcomes are posted (`link.py`). Every third of a lease all leases are renewed at
once. When Redis is away, transfers go on until their leases run out by this worker's own clock (`lease.py`); then the
entries are given up here, because others will have them.

Runs in the reactor's thread, on its asyncio loop. Knows nothing of requests, parts' contents or other workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import random
import socket
import time
import uuid
from collections.abc import Callable, Collection

from bulkspider.entry import Entry, redact
from bulkspider.errors import BulkError, DiskError, UsageError
from bulkspider.queue.connections import Connections
from bulkspider.queue.lease import Lease, clock
from bulkspider.queue.link import AWAY, Link
from bulkspider.sink import Part
from bulkspider.sources import Source

logger = logging.getLogger(__name__)

# An entry is given up when it was taken so often and its part did not grow; each time it had BULK_RETRY_TIMES attempts.
MOST_TRIES = 5
# Failures that speak of this machine, its network, clock or certificates, when the origin serves other workers.
MAYBE_HERE_ONLY = ("origin_down", "tls_verify", "proxy")
# Seconds between two questions when the queue has nothing for us.
POLL = 0.5
# How long a stop waits for a Redis that is away. What it does not hear goes to others when the leases end.
FAREWELL = 1.5


class RedisQueue(Source):
    """One worker's view of a job. entries: how many are left in the job at the start. lease: seconds. delay: seconds
    until an entry that failed, and may pass, is given again."""

    shared = True

    def __init__(self, url: str, job: str, *, entries: int, lease: float, delay: float) -> None:
        self.title = f"job {job} on {redact(url)}"
        self.entries = self.unsized = entries
        # A name of its own for every process: whoever has it, has the leases (a fencing token).
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._url = url
        self._lease = lease
        self._delay = delay
        self._job = job
        self._taken = 0
        self._handed_on = 0
        self._leases: dict[str, Lease] = {}  # by name: what has no outcome yet
        self._ready: Lease | None = None  # leased, and not taken by the spider yet
        self._over = self._ending = False
        self._avoided: dict[str, float] = {}  # origin -> until when
        self._ask_at = math.inf  # not before it is known there
        self._asking: asyncio.Task[None] | None = None
        self._link: Link | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._renew_now = asyncio.Event()

    # -- what the spider asks --------------------------------------------------------------------------------------

    @property
    def exhausted(self) -> bool:
        return self._over and self._ready is None

    @property
    def owed(self) -> int:
        return self._taken - self._handed_on

    def take(self, blocked: Collection[str] = ()) -> Entry | None:
        lease = self._ready
        if lease is None:
            if self._asking is None and not self._over and not self._ending and clock() >= self._ask_at:
                self._asking = asyncio.get_running_loop().create_task(self._ask(tuple(blocked)))
            return None
        self._ready = None
        if lease.origin in blocked or not lease.valid:
            del self._leases[lease.entry.name]
            self._settle(lease, "back")
            return None
        self._taken += 1
        return lease.entry

    # -- what the spider tells -------------------------------------------------------------------------------------

    def begin(
        self,
        wake: Callable[[], None],
        lose: Callable[[str], None],
        forgive: Callable[[str], None],
        stop: Callable[[BulkError], None],
    ) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError(
                "a queue needs the asyncio reactor; remove TWISTED_REACTOR from the settings, Scrapy's default is right"
            ) from None
        self._wake, self._lose, self._forgive, self._stop = wake, lose, forgive, stop
        patience = min(5.0, max(0.5, self._lease / 6))
        self._link = Link(self._url, self._job, self.title, patience=patience, on_return=self._renew_now.set)
        self._connections = Connections(self._link, wake)
        self._keeping = True
        self._keeper = loop.create_task(self._keep())

    def begun(self, entry: Entry, part: Part) -> None:
        lease = self._leases[entry.name]
        lease.part = part
        part.lease = lease

    def taken_over(self, entry: Entry) -> bool:
        return self._leases[entry.name].tries > 1

    def ended(self, entry: Entry, status: str, error: BulkError | None = None) -> None:
        lease = self._leases.pop(entry.name)
        if status == "interrupted":
            self._settle(lease, "back")
        elif status == "failed":
            code, reason = (error.code, redact(str(error))) if error is not None else ("", "")
            letter = {"origin": lease.origin, "entry": lease.text, "code": code, "reason": reason}
            self._settle(lease, "dead", json.dumps({**letter, "worker": self.worker}))
        else:
            told = {"status": status, "worker": self.worker, "time": round(time.time(), 3)}
            self._settle(lease, "done", json.dumps(told))

    def take_back(self, entry: Entry, error: BulkError) -> bool:
        lease = self._leases[entry.name]
        if error.code == "lease_lost" or (isinstance(error, DiskError) and error.stops_run):
            # This machine's fault, not the entry's. Nothing happens if somebody has it already.
            self._settle(lease, "back")
        elif lease.valid:
            maybe_here_only = error.code in MAYBE_HERE_ONLY
            if (error.permanent and not maybe_here_only) or (lease.tries >= MOST_TRIES and not lease.grew):
                return False
            why = redact(str(error))
            logger.warning("%s: %s; back to the queue", entry.name, why)
            delay = int(self._delay * 1000)
            self._settle(
                *(lease, "later", delay, lease.text, why, int(maybe_here_only)),
                then=lambda answer: self._stay_away(lease.origin) if answer == 2 else None,
            )
        del self._leases[entry.name]
        self._handed_on += 1
        return True

    def _stay_away(self, origin: str) -> None:
        """It serves others and not us: a fault of this machine, for which no entry must pay."""
        if self._avoided.get(origin, 0.0) <= clock():
            logger.warning("%s works for others; it is left to them for %.0f s", origin, self._delay)
        self._avoided[origin] = clock() + self._delay
        self._forgive(origin)

    def origin_closed(self, origin: str, seconds: float) -> None:
        assert self._link is not None
        self._link.post("close_origin", origin, int(seconds * 1000))

    def may_connect(self, entry: Entry) -> bool:
        lease = self._leases.get(entry.name)
        if lease is None or not lease.valid or self._asking is not None or self._ready is not None:
            # Another entry comes first: the queue has not said yet that it has none.
            return False
        return self._connections.ready(lease)

    def connect(self, entry: Entry) -> None:
        self._connections.take(self._leases[entry.name])

    def disconnect(self, entry: Entry) -> None:
        if (lease := self._leases.get(entry.name)) is not None:
            self._connections.release(lease)

    async def end(self) -> None:
        self._ending = True
        if self._link is None or self._keeper is None:
            return
        if self._asking is not None:
            _, unanswered = await asyncio.wait([self._asking], timeout=FAREWELL)
            for task in unanswered:
                task.cancel()
        self._ready = None
        while self._leases:
            self._settle(self._leases.popitem()[1], "back")
        self._link.post("leave", self.worker)
        try:
            await asyncio.wait_for(self._link.all_sent(), 0 if self._link.away else FAREWELL)
        except asyncio.TimeoutError:
            logger.warning("%s: what is left here goes to others in at most %.0f s", self.title, self._lease)
        await self._let_go()
        await self._link.close()

    async def _let_go(self) -> None:
        """Ends the renewals."""
        assert self._keeper is not None
        self._keeping = False
        self._keeper.cancel()
        # Before Python 3.12 wait_for() may swallow the cancellation; then the loop ends by itself.
        self._renew_now.set()
        await asyncio.wait([self._keeper])

    def _settle(
        self, lease: Lease, outcome: str, *details: str | int, then: Callable[[int], None] | None = None
    ) -> None:
        assert self._link is not None
        self._connections.release(lease, all_of_them=True)
        name = lease.entry.name
        self._link.post("settle", self.worker, outcome, lease.origin, lease.id, name, lease.bytes, *details, then=then)

    # -- asking ----------------------------------------------------------------------------------------------------

    async def _ask(self, blocked: tuple[str, ...]) -> None:
        """Leases the next entry."""
        assert self._link is not None
        # What was told of an entry must arrive before the entry can come again.
        await self._link.all_sent()
        asked = clock()
        blocked += tuple(origin for origin, until in self._avoided.items() if until > asked)
        try:
            kind, *told = await self._link.ask("claim", self.worker, MOST_TRIES, random.randrange(1 << 20), *blocked)
        except OSError:
            self._ask_at = clock() + AWAY
        else:
            if kind == "entry":
                self._receive(asked, *told)
            elif kind == "over":
                self._over = True
                done, dead = told
                hint = "; `scrapy bulkqueue status` says why" if dead else ""
                logger.info("%s is over: %d done, %d given up%s", self.title, done, dead, hint)
            elif kind == "gone":
                self._over = True
                logger.error("%s was dropped", self.title)
                self._stop(BulkError(f"{self.title} was dropped", code="no_job"))
            else:
                self._ask_at = clock() + POLL
        finally:
            self._asking = None
        if clock() < self._ask_at:
            asyncio.get_running_loop().call_later(self._ask_at - clock(), self._wake)
        self._wake()

    def _receive(self, asked: float, origin: str, id: str, name: str, text: str, tries: int, best: str) -> None:
        lease = Lease(Entry.from_meta(json.loads(text)), origin, id, text, tries, int(best), asked + self._lease)
        if name in self._leases or self._ending:
            # It was lost to nobody yet, and is still being let go of here.
            self._settle(lease, "back")
            self._ask_at = clock() + POLL
        else:
            self._leases[name] = self._ready = lease

    # -- keeping ---------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Renews the leases, and finds those that are lost."""
        link = self._link
        assert link is not None
        about = json.dumps({"bytes": 0})
        while self._keeping and self._ask_at == math.inf:
            try:
                await link.ask("join", self.worker, about, int(self._lease * 1000))
            except OSError:
                await asyncio.sleep(AWAY)
            else:
                self._ask_at = 0.0
        self._wake()
        while self._keeping:
            self._renew_now.clear()
            await self._renew(link)
            pause = AWAY if link.away else self._lease / 3
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._renew_now.wait(), pause)

    async def _renew(self, link: Link) -> None:
        held = list(self._leases.values())
        cells = [cell for lease in held for cell in (lease.origin, lease.id, lease.entry.name, lease.bytes)]
        tokens = [cell for lease in held for token in lease.tokens for cell in (lease.origin, token)]
        about = json.dumps({"bytes": sum(lease.bytes for lease in held)})
        asked = clock()
        try:
            kept = await link.ask("renew", self.worker, about, len(held), *cells, *tokens)
        except OSError:
            kept = [1] * len(held)
        else:
            for lease, mine in zip(held, kept, strict=True):
                if mine:
                    lease.until = asked + self._lease
        for lease, mine in zip(held, kept, strict=True):
            if (not mine or not lease.valid) and self._leases.get(lease.entry.name) is lease and not lease.lost:
                lease.lost = True
                if lease is not self._ready:
                    self._lose(lease.entry.name)
