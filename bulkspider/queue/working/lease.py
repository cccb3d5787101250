"""A lease: the right of one worker, for a while, to work on one entry of the shared queue.

A worker that was interrupted for longer than its lease (a stopped process, a suspended machine, a lost network) may go
on while another one has the entry. So a lease also ends by the worker's own clock, and the part checks it before every
write, every state and the final rename. A late write can only be the last piece that was in progress: the same bytes at
the same place, because every write has its offset, and a new version of the object gets a new file.

`Leases` are all those of one worker, renewed together several times within their length.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct, field

from bulkspider.disk.part import Part
from bulkspider.entries.entry import Entry, origin_of
from bulkspider.queue.working.link import AWAY_SECONDS, Arguments, Link

# Seconds between two renewals at most, though a third of a lease would do: an order to cancel is heard with them.
RENEWED_SECONDS = 10.0


def clock() -> float:
    """Seconds; they pass also while the process is stopped or the machine is suspended."""
    return time.clock_gettime(_CLOCK)


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Lease(Struct, eq=False):
    """origin: of the entry. id: the number of the lease. text: the entry as it lies in the queue. tries: how often it
    was taken since its part last grew, this time included. best: the most bytes that its part had by then. failed_at:
    the worker at which it failed last, empty for none. until: when the lease ends, by `clock`. part: once an attempt
    has begun. lost: it has ended before the entry had its outcome. tokens: of its further connections. seat: the origin
    that serves the file, as far as the queue was told.
    """

    entry: Entry
    origin: str
    id: str
    text: str
    tries: int
    best: int
    failed_at: str
    seat: str
    until: float
    part: Part | None = None
    lost: bool = False
    tokens: list[str] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        """May the entry still be touched? Asked by the part's threads."""
        return not self.lost and clock() < self.until

    @property
    def bytes(self) -> int:
        """How many bytes the part has."""
        return self.part.state.have.count if self.part is not None else 0

    @property
    def grew(self) -> bool:
        """The part has more bytes than it ever had before this lease."""
        return self.bytes > self.best


class Holder(Protocol):
    """The holder of the leases; it is told what happens to them."""

    def lease_lost(self, lease: Lease) -> None:
        """The lease has run out, or another worker has the entry."""

    def cancelled(self) -> None:
        """The job was cancelled."""

    def beside(self, others: int) -> None:
        """`others` other workers are alive."""


class Leases:
    """The leases of one worker, by the names of their entries. worker: its name, which is its fencing token. seconds:
    how long a lease lasts that nobody renews."""

    def __init__(self, worker: str, seconds: float, holder: Holder) -> None:
        self.seconds = seconds
        self._worker = worker
        self._holder = holder
        self._held: dict[str, Lease] = {}
        self._renew_now = asyncio.Event()
        self._keeping = False
        self._keeper: asyncio.Task[None] | None = None

    def __getitem__(self, name: str) -> Lease:
        return self._held[name]

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self._held.values()))

    def get(self, name: str) -> Lease | None:
        return self._held.get(name)

    def add(self, lease: Lease) -> None:
        self._held[lease.entry.name] = lease

    def pop(self, name: str) -> Lease:
        return self._held.pop(name)

    def keep(self, link: Link) -> None:
        """Begins to renew them, in the running asyncio loop."""
        self._keeping = True
        self._keeper = asyncio.get_running_loop().create_task(self._keep(link))

    async def let_go(self) -> None:
        """Ends the renewals."""
        if self._keeper is None:
            return
        self._keeping = False
        self._keeper.cancel()
        # Before Python 3.12 wait_for() may swallow the cancellation; then the loop ends by itself.
        self._renew_now.set()
        await asyncio.wait([self._keeper])

    def renew_soon(self) -> None:
        self._renew_now.set()

    def greeting(self) -> Arguments:
        """What the queue is told of this worker on each new connection: all that it has."""
        held = [cell for lease in self for cell in (lease.entry.name, lease.id)]
        return (self._worker, self._about(), self.milliseconds, *held)

    @property
    def milliseconds(self) -> int:
        return int(self.seconds * 1000)

    def _about(self) -> str:
        return json.dumps({"bytes": sum(lease.bytes for lease in self)})

    async def _keep(self, link: Link) -> None:
        """Renews the leases, and finds those that are lost."""
        while self._keeping:
            self._renew_now.clear()
            await self._renew(link)
            pause = AWAY_SECONDS if link.away else min(self.seconds / 3, RENEWED_SECONDS)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._renew_now.wait(), pause)

    def tell_seat(self, lease: Lease, link: Link) -> None:
        """Tells the queue which host serves the file, if it is not known there: its cap is the one that counts."""
        source = lease.part.state.source if lease.part is not None else None
        if source is None or source == lease.seat:
            return
        lease.seat = source
        redirected = int(source not in map(origin_of, lease.entry.mirrors))
        link.post("served_by", self._worker, lease.entry.name, lease.id, lease.origin, source, redirected)

    async def _renew(self, link: Link) -> None:
        for lease in self:
            self.tell_seat(lease, link)
        held = list(self)
        cells = [cell for lease in held for cell in (lease.origin, lease.id, lease.entry.name, lease.bytes)]
        tokens = [token for lease in held for token in lease.tokens]
        about = self._about(), self.milliseconds
        asked = clock()
        try:
            *kept, cancelled, others = await link.ask("renew", self._worker, *about, len(held), *cells, *tokens)
        except OSError:
            kept = [1] * len(held)
        else:
            self._holder.beside(others)
            if cancelled:
                self._holder.cancelled()
            for lease, mine in zip(held, kept, strict=True):
                if mine:
                    lease.until = asked + self.seconds
        for lease, mine in zip(held, kept, strict=True):
            if (not mine or not lease.valid) and self._held.get(lease.entry.name) is lease and not lease.lost:
                lease.lost = True
                self._holder.lease_lost(lease)
