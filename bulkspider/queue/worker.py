"""The shared queue as a source: a worker leases entries one at a time, and tells the queue what became of them.

The spider never waits for Redis. `take` gives what was leased; when nothing was, it asks in the background and wakes
the spider when there is an answer; outcomes are posted (`link.py`). Every third of a lease all leases are renewed at
once. When Redis is away, transfers go on until their leases run out by this worker's own clock (`lease.py`); then the
entries are given up here, because others will have them.

Runs in the reactor's thread, on its asyncio loop. Knows nothing of requests, parts' contents or other workers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import random
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from bulkspider.disk.part import Part
from bulkspider.entries.entry import Entry, redact
from bulkspider.errors import BulkError, Kind, UsageError
from bulkspider.lists.source import Source, Taker
from bulkspider.options import plural
from bulkspider.queue.connections import Connections
from bulkspider.queue.lease import Lease, Leases, clock
from bulkspider.queue.link import AWAY_SECONDS, Link
from bulkspider.queue.status import MISSING_CURE

logger = logging.getLogger(__name__)

# An entry is given up when it failed so often, each time at another worker than before, and its part did not grow; each
# time it had BULK_RETRY_TIMES attempts.
MOST_TRIES = 5
# Failures that speak of this machine, its network, clock or certificates, when the origin serves other workers.
MAYBE_HERE_ONLY = ("origin_down", "no_network", "tls_verify", "proxy", "proxy_auth")
# An origin that cannot be reached from here is left to others after so long, if there are any.
UNREACHED_SECONDS = 20.0
# It is left to them for longer each time, while they are served.
LEFT_ALONE_MAX_SECONDS = 3600.0
# Seconds between two questions when the queue has nothing for us.
POLL_SECONDS = 0.5
# How many leases long a worker waits for a job that its Redis has lost to be pushed again.
LOST_LEASES = 5
# How long a stop waits for a Redis that is away. What it does not hear goes to others when the leases end.
STOP_SECONDS = 1.5


class RedisQueue(Source):
    """One worker's view of a job. One class, because a Source is one object, and all that it is asked changes the same
    leases.

    entries: how many are left in the job at the start. lease: seconds. delay: seconds
    until an entry that failed, and may pass, is given again. patience: seconds for which an origin is waited for that
    nobody reaches; stranger_patience: if it has served nobody yet."""

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
    ) -> None:
        self.title = f"job {job} on {redact(url)}"
        self.entries = self.unsized = entries
        # Every process has another name, because the leases belong to the name (a fencing token).
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._url = url
        self._delay = delay
        self._patience = patience, min(patience, stranger_patience)
        self._others = 0  # workers beside this one
        self._job = job
        self._taken = 0
        self._handed_on = 0
        self._leases = Leases(self.worker, lease, self)  # of entries that have no outcome yet
        self._ready: Lease | None = None  # leased, and not taken by the spider yet
        self._over = self._ending = False
        self._left = 0
        self._lost_at: float | None = None  # since when Redis knows nothing of the job
        self._avoided: dict[str, float] = {}  # origin -> until when
        self._left_alone: Counter[str] = Counter()  # origin -> how often in a row
        self._ask_at = math.inf  # not before it is known there
        self._asking: asyncio.Task[None] | None = None
        self._link: Link | None = None

    # -- what the spider asks --------------------------------------------------------------------------------------

    @property
    def exhausted(self) -> bool:
        return self._over and self._ready is None

    @property
    def waiting(self) -> int:
        return self._left

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
            self._leases.pop(lease.entry.name)
            self._settle(lease, "back")
            return None
        self._taken += 1
        return lease.entry

    # -- what the spider tells -------------------------------------------------------------------------------------

    def begin(self, taker: Taker) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError(
                "a queue needs the asyncio reactor; remove TWISTED_REACTOR from the settings, Scrapy's default is right"
            ) from None
        self._taker = taker
        patience = min(5.0, max(0.5, self._leases.seconds / 6))
        self._link = Link(self._url, self._job, self.title, patience=patience, on_return=self._leases.renew_soon)
        self._connections = Connections(self._link, taker.wake)
        self._leases.keep(self._link)

    def begun(self, entry: Entry, part: Part) -> None:
        lease = self._leases[entry.name]
        lease.part = part
        part.files.lease = lease

    def taken_over(self, entry: Entry) -> bool:
        return self._leases[entry.name].tries > 1

    def ended(self, entry: Entry, status: str, error: BulkError | None = None) -> None:
        lease = self._leases.pop(entry.name)
        if status == "interrupted":
            self._settle(lease, "back")
        elif status == "failed":
            self._settle(lease, "dead", self._letter(lease, error))
        else:
            self._left_alone.pop(lease.origin, None)
            told = {"status": status, "worker": self.worker, "time": round(time.time(), 3)}
            self._settle(lease, "done", json.dumps(told))

    def take_back(self, entry: Entry, error: BulkError) -> bool:
        lease = self._leases[entry.name]
        if error.code == "lease_lost" or error.kind is Kind.STOP:
            # This machine's fault, not the entry's. Nothing happens if somebody has it already.
            self._settle(lease, "back")
        elif lease.valid:
            maybe_here_only = error.code in MAYBE_HERE_ONLY and (self._others > 0 or not error.permanent)
            counts = not self._others or lease.failed_at != self.worker
            tried = lease.tries >= MOST_TRIES and counts and not lease.grew and not (maybe_here_only and self._others)
            if tried or (error.permanent and not maybe_here_only):
                return False
            why = redact(str(error))
            logger.warning("%s: %s; back to the queue", entry.name, why)
            delay = int(self._delay * 1000)
            if maybe_here_only:
                self._settle_away(lease, error, delay, why)
            else:
                self._settle(lease, "later", delay, lease.text, why)
        self._leases.pop(entry.name)
        self._handed_on += 1
        return True

    def _settle_away(self, lease: Lease, error: BulkError, delay: int, why: str) -> None:
        """Others try what cannot be reached from here. It is given up when they cannot reach it either, after the time
        for which a run of a list waits, or at once where waiting does not help."""
        patience, stranger = (0 if error.permanent else int(seconds * 1000) for seconds in self._patience)
        unreached = int(min(UNREACHED_SECONDS, self._leases.seconds) * 1000)
        details = delay, lease.text, why, self._letter(lease, error), patience, stranger, unreached
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
            # A fault of this machine, for which no entry must pay.
            seconds = min(seconds * 2 ** min(self._left_alone[origin], 10), max(LEFT_ALONE_MAX_SECONDS, self._delay))
            self._left_alone[origin] += 1
        works = "works for others" if answer == 2 else "may work for others"
        logger.warning("%s %s; it is left to them for %.0f s", origin, works, seconds)
        self._avoided[origin] = clock() + seconds

    def _letter(self, lease: Lease, error: BulkError | None) -> str:
        """What is kept of an entry that was given up."""
        code, reason = (error.code, redact(str(error))) if error is not None else ("", "")
        letter = {"origin": lease.origin, "entry": lease.text, "code": code, "reason": reason, "worker": self.worker}
        return json.dumps(letter)

    @property
    def _left_to_others(self) -> tuple[str, ...]:
        """Origins at which nothing is to begin now. One whose time is over is tried again, as if it were new."""
        for origin in [origin for origin, until in self._avoided.items() if until <= clock()]:
            del self._avoided[origin]
            self._taker.forgive(origin)
        return tuple(self._avoided)

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
        if self._link is None:
            return
        if self._asking is not None:
            _, unanswered = await asyncio.wait([self._asking], timeout=STOP_SECONDS)
            for task in unanswered:
                task.cancel()
        self._ready = None
        for lease in self._leases:
            self._settle(self._leases.pop(lease.entry.name), "back")
        self._link.post("leave", self.worker)
        try:
            await asyncio.wait_for(self._link.all_sent(), 0 if self._link.away else STOP_SECONDS)
        except asyncio.TimeoutError:
            logger.warning("%s: what is left here goes to others in at most %.0f s", self.title, self._leases.seconds)
        await self._leases.let_go()
        await self._link.close()

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
        shut = {*blocked, *self._left_to_others}
        try:
            kind, *told = await self._link.ask("claim", self.worker, MOST_TRIES, random.randrange(1 << 20), *shut)
        except OSError:
            self._ask_at = clock() + AWAY_SECONDS
        else:
            self._hear(kind, told, asked)
        finally:
            self._asking = None
        if clock() < self._ask_at:
            asyncio.get_running_loop().call_later(self._ask_at - clock(), self._taker.wake)
        self._taker.wake()

    def _hear(self, kind: str, told: list[Any], asked: float) -> None:
        """What the queue answered to a claim."""
        if kind == "gone":
            self._job_is_lost()
            return
        self._lost_at = None
        if kind == "entry":
            self._receive(asked, *told)
        elif kind == "over":
            self._over = True
            done, dead = told
            hint = "; `scrapy bulkqueue status` says why" if dead else ""
            logger.info("%s is over: %d done, %d given up%s", self.title, done, dead, hint)
            if not self._taken:
                # It came too late for anything of its own: its exit status is the job's.
                self.given_up = int(dead)
        elif kind == "drain":
            self._over = True
            self._left = max(0, int(told[0]) - len(self._leases))
            logger.warning("%s is to end when what runs is finished; %d entries are left", self.title, self._left)
        elif kind == "cancel":
            self.cancelled()
        elif kind == "dropped":
            # The run had begun: what it has of the entries is kept.
            self._end_job(f"{self.title} was dropped", code="no_job")
        elif kind == "owes":
            self._end_job(
                f"{self.title}: {plural(int(told[0]), 'entry is', 'entries are')} missing; {MISSING_CURE}",
                code="job_incomplete",
            )
        elif kind == "unfinished":
            self._end_job(
                f"{self.title}: the push of {told[0]} was broken off; push that list again", code="job_incomplete"
            )
        else:
            self._ask_at = clock() + POLL_SECONDS

    def _job_is_lost(self) -> None:
        """Redis has started again without its data, or was emptied. Once the list is pushed again, the job goes on."""
        patience = LOST_LEASES * self._leases.seconds
        if self._lost_at is None:
            self._lost_at = clock()
            logger.error(
                "%s is lost: this Redis knows nothing of it any more. Push its list again within %.0f s, and all "
                "workers go on; what is done is not fetched again",
                *(self.title, patience),
            )
        if clock() - self._lost_at < patience:
            self._ask_at = clock() + POLL_SECONDS
            self._leases.renew_soon(join=True)
        else:
            self._end_job(f"{self.title} is lost, and nobody has pushed its list again", code="no_job")

    def _end_job(self, why: str, *, code: str) -> None:
        if not self._over:
            self._over = True
            logger.error("%s", why)
            self._taker.stop(BulkError(why, code=code, kind=Kind.STOP))

    def _receive(
        self, asked: float, origin: str, id: str, name: str, text: str, tries: int, best: str, failed_at: str
    ) -> None:
        entry, until = Entry.from_meta(json.loads(text)), asked + self._leases.seconds
        lease = Lease(entry, origin, id, text, tries, int(best), failed_at, until)
        if name in self._leases or self._ending:
            # It was lost to nobody yet, and is still being let go of here.
            self._settle(lease, "back")
            self._ask_at = clock() + POLL_SECONDS
        else:
            self._leases.add(lease)
            self._ready = lease

    # -- what the leases tell --------------------------------------------------------------------------------------

    def joined(self) -> None:
        self._ask_at = 0.0
        self._taker.wake()

    def lease_lost(self, lease: Lease) -> None:
        if lease is not self._ready:
            self._taker.lose(lease.entry.name)

    def beside(self, others: int) -> None:
        self._others = others
        seconds = min(UNREACHED_SECONDS, self._leases.seconds)
        self._taker.hurry(seconds if others else math.inf)

    def cancelled(self) -> None:
        self._end_job(
            f"{self.title} was cancelled; `scrapy bulkqueue resume` and a worker go on with it", code="job_cancelled"
        )
