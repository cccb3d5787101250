"""One world, run after run: the real engine with a clock, hosts, transfers and a disk of the world's own."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from bulkspider.clock import Clock, Wakeup
from bulkspider.codes import Kind
from bulkspider.disk.finished.line import LedgerLine
from bulkspider.disk.finished.proof import Refuted
from bulkspider.dispatch.dispatcher import LOOK_EVERY_SECONDS, Dispatcher
from bulkspider.dispatch.fetch import Ended, Fetcher
from bulkspider.dispatch.places import Limits, Places
from bulkspider.dispatch.segments import Segments
from bulkspider.dispatch.slots import Slots
from bulkspider.entries.entry import Entry, origin_of, slot_of
from bulkspider.errors import BulkError, DiskError, Stopped
from bulkspider.hosts.budget import Budget
from bulkspider.lists.source import Source
from bulkspider.options import Options
from bulkspider.run.download import Attempt, Download
from bulkspider.run.origins.origins import Origins
from bulkspider.run.stopping import Stopping
from bulkspider.run.turns import Turns
from support.world.clock import EventClock
from support.world.disk import RESERVE_BYTES, Disk, SimulatedPart
from support.world.hosts import Host
from support.world.plans import WorldPlan
from support.world.transfers import SimulatedTransfer, holds_one_version

FINISH_SECONDS = 0.002
LOOK_SELDOM_SECONDS = 64.0
# What came is counted so often, and when a transfer ends or is looked at by somebody else.
TICK_SECONDS = 0.25
FIRST_VERSION = "a" * 64


class Broken(Exception):
    """Something that must hold does not. rule: which."""

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(f"{rule}: {what}")
        self.rule = rule


class World:
    """What lasts from run to run. ended: of the run of late, what became of each entry. done_at: when each was done.
    runs: how each of them ended. trace: what happened, in order."""

    def __init__(self, plan: WorldPlan) -> None:
        self.plan = plan
        self.clock = EventClock()
        self.chance = random.Random(f"{plan.seed}")
        self.options = Options(**plan.options)
        self.disk = Disk(plan.capacity)
        self.fates = {entry.name: entry for entry in plan.entries}
        limits = {"connect_timeout": self.options.connect_timeout, "headers_timeout": self.options.headers_timeout}
        self.hosts = {host.name: Host(host, self.fates, limits) for host in plan.hosts}
        self.done_at: dict[str, float] = {}
        self.attempts: Counter[str] = Counter()
        self.runs: list[Engine] = []
        self.trace: list[str] = []

    def entries(self) -> list[Entry]:
        found = []
        for number, plan in enumerate(self.plan.entries):
            # A hash of the list is that of the first version.
            digests = (("sha256", FIRST_VERSION),) if plan.hashed else ()
            mirrors = () if plan.mirror is None else (self.url(plan.mirror, plan.name),)
            found.append(
                Entry(
                    line=number + 1,
                    name=plan.name,
                    url=self.url(plan.host, plan.name),
                    size=plan.size if plan.sized else None,
                    digests=digests,
                    mirrors=mirrors,
                )
            )
        return found

    def url(self, host: int, name: str) -> str:
        return f"https://{self.plan.hosts[host].name}/{name}?Signature={self.clock.now():.3f}"

    def tell(self, what: str) -> None:
        self.trace.append(f"{self.clock.now():10.3f} {what}")

    def play(self) -> None:
        """The list is run, and after each stop run again. Raises Broken."""
        for stop in (*self.plan.stops, None):
            engine = Engine(self, stop)
            self.runs.append(engine)
            engine.play()


class ListInMemory(Source):
    """The entries of a list."""

    def __init__(self, entries: list[Entry]) -> None:
        self._left = entries
        self.entries = len(entries)
        self.outcomes: Counter[str] = Counter()
        self.ended_as: dict[str, tuple[str, BulkError | None]] = {}

    @property
    def exhausted(self) -> bool:
        return not self._left

    @property
    def waiting(self) -> int:
        return len(self._left)

    def take(self, blocked: Collection[str] = ()) -> Entry | None:
        for n, entry in enumerate(self._left):
            if origin_of(entry.url) not in blocked:
                return self._left.pop(n)
        return None

    def ended(self, entry: Entry, status: str, error: BulkError | None = None) -> None:
        self.outcomes[entry.name] += 1
        self.ended_as[entry.name] = (status, error)


class SeldomWakeup(Wakeup):
    """The engine looks every second whether there is something to do. Where nothing happens for long it is asked to
    look less and less often: else most of a world would be looks that find nothing."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._time = clock
        self._seconds = 0.0

    def set(self) -> None:
        self._seconds = 0.0
        super().set()

    def wait(self, seconds: float | None = None) -> Deferred[None]:
        if seconds != LOOK_EVERY_SECONDS:
            return super().wait(seconds)
        longer = min(max(self._seconds * 1.5, seconds), LOOK_SELDOM_SECONDS)
        waiting = super().wait(longer)
        waiting.addCallback(self._note, self._time.now() + longer, longer)
        return waiting

    def _note(self, result: None, end: float, seconds: float) -> None:
        """It has lasted to its end: nothing happened."""
        self._seconds = seconds if self._time.now() >= end else 0.0


class SimulatedDownloads:
    """As `bulkspider.run.downloads.Downloads`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turns = Turns()
        self.under_way: dict[str, Download] = {}

    def turn(self, entry: Entry, folder: Any, *, outside: bool) -> Any:
        return self._turns.turn(entry.name, entry.key, outside=outside)

    def begin(self, entry: Entry, folder: Any) -> Download:
        download = Download(
            entry=entry,
            folder=folder,
            part=cast(Any, SimulatedPart(self._engine.world.disk, entry.name, entry.key)),
            budget=Budget(limit=self._engine.options.retry_times),
            policy="auto",
            url=entry.url,
            mirrors=list(entry.mirrors),
        )
        self.under_way[entry.name] = download
        return download

    async def forget(self, download: Download) -> None:
        del self.under_way[download.entry.name]
        download.part.close()

    def fits(self, download: Download, now: float) -> bool:
        others = sum(o.remaining for o in self.under_way.values() if o.has_room and o is not download)
        return self._engine.world.disk.free - others - download.remaining >= RESERVE_BYTES

    def find_room(self, download: Download, now: float) -> bool:
        download.has_room = self.fits(download, now)
        return download.has_room


class Engine:
    """One run: the real parts of the engine, and what stands in for the rest of it."""

    def __init__(self, world: World, stop: tuple[float, str] | None) -> None:
        self.world = world
        self.clock = world.clock
        self.options = world.options
        self.began = self.clock.now()
        self.killed = False
        self.transfers: dict[SimulatedTransfer, None] = {}
        self._number = 0
        self._advanced_to = self._happened_at = -1.0
        self.longest = 0.0
        self.stopping = Stopping()
        self.wakeup = SeldomWakeup(self.clock)
        self.origins = Origins(self.options, jitter=world.chance.random)
        self.downloads = SimulatedDownloads(self)
        self.handover = None
        self.outcomes = SimpleNamespace(count_known=lambda counts, size: None)
        self.rates = SimpleNamespace(limited=False)
        self.of_a_list = True
        self.stopping.on_stop(self._stop_transfers)
        run = cast(Any, self)
        plan = world.plan
        self.source = ListInMemory(world.entries())
        places = Places(self.origins, self.clock, Limits(plan.total, plan.per_slot))
        self.slots = Slots(places, self.stopping, fits=self.downloads.fits, look_every=self._look_seldom)
        segments = Segments(places, self.origins, most=self.options.segments, smallest=self.options.segment_min)
        self.fetcher = Fetcher(
            *(run, self, self.slots), source=self.source, segments=segments, fresh_urls=cast(Any, self)
        )
        self.folder = SimpleNamespace(place=lambda name: name, root="/out", lstat=lambda name: None, stage_max=0)
        self.dispatcher = Dispatcher(
            run,
            self.source,
            cast(Any, self.folder),
            self.fetcher,
            self,
            slots=self.slots,
            segments=segments,
            proofs=cast(Any, self),
        )
        self._ready: list[Attempt] = []
        self._sent: dict[Attempt, Ended] = {}
        self.over = False
        self.failure: Failure | None = None
        if stop is not None:
            self.clock.call_later(stop[0], self._end_early, stop[1])

    # -- what the engine asks its surroundings for -----------------------------------------------------------------

    @property
    def active(self) -> int:
        return len(self.transfers)

    def disk_failed(self, error: DiskError) -> None:
        if error.kind is Kind.STOP:
            self.stopping.stop(error)

    def host_of(self, url: str) -> Host:
        return self.world.hosts[slot_of(url)]

    def issued(self, url: str) -> float:
        return float(parse_qs(urlsplit(url).query)["Signature"][0])

    def begin_anew(self, download: Download) -> None:
        cast(Any, download.part).begin_anew()
        download.hasher = None
        download.resumed.begins_anew()
        download.largest = 0
        download.mixed = False

    def _stop_transfers(self, reason: BulkError) -> None:
        for transfer in list(self.transfers):
            transfer.stop(reason)
        self.wakeup.set()

    # dispatch.freshurl.FreshUrls

    def find(self, entry: Entry, expired: str) -> Deferred[str | None]:
        found: Deferred[str | None] = Deferred()
        fresh = self.world.url(self.world.fates[entry.name].host, entry.name)
        self.clock.call_later(0.01, found.callback, fresh if self.world.plan.fresh else None)
        return found

    # dispatch.proofs.Proofs

    def look(self, entry: Entry) -> LedgerLine | None:
        return self.world.disk.ledger.get(entry.name)

    # dispatch.fetch.Frontend

    def slot(self, download: Download) -> str:
        return slot_of(download.url)

    def send(self, attempt: Attempt, ended: Ended) -> None:
        self._sent[attempt] = ended
        self._ready.append(attempt)
        self.wakeup.set()

    def finish(self, download: Download) -> Deferred[LedgerLine | None]:
        verdict: Deferred[LedgerLine | None] = Deferred()
        self.clock.call_later(FINISH_SECONDS, self._finish, download, verdict)
        return verdict

    def _finish(self, download: Download, verdict: Deferred[LedgerLine | None]) -> None:
        entry, part = download.entry, cast(Any, download.part)
        total = part.state.total
        if total != self.world.fates[entry.name].size:
            raise Broken("no wrong file", f"{entry.name} has {total} bytes")
        if entry.digests and not part.versions.get(0, part.state.have.__class__()).holds(0, total):
            again, download.refuted_once = not download.refuted_once, True
            self.begin_anew(download)
            if again:
                verdict.callback(None)
            else:
                verdict.errback(Refuted("another hash", code="digest_mismatch"))
            return
        if not holds_one_version(part.versions, total):
            raise Broken("no wrong file", f"{entry.name} is of several versions: {part.versions}")
        status = "verified" if entry.digests else "complete"
        line = LedgerLine(
            name=entry.name, key=entry.key, size=total, mtime_ns=0, digests={}, flags=(), status=status, time=0.0
        )
        part.publish(line)
        self.world.done_at[entry.name] = self.clock.now()
        self.world.tell(f"{entry.name} {status}")
        verdict.callback(line)

    # dispatch.dispatcher.Listener

    busy = False

    def proven(self, entry: Entry, line: LedgerLine) -> bool:
        return False

    def bad_line(self, line: int, name: str, error: BulkError) -> None:
        raise Broken("only entries come", f"{name}: {error}")

    def ended(self, entry: Entry, error: BulkError, download: Download | None) -> None:
        self.world.tell(f"{entry.name} {'interrupted' if isinstance(error, Stopped) else 'failed'}: {error}")

    # -- the run ---------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """As `bulkspider.spiders.listjob.ListJob.work`."""
        while True:
            while self._ready:
                attempt = self._ready.pop(0)
                if self.stopping:
                    self._sent.pop(attempt)(attempt, _outcome(self.stopping.error))
                else:
                    self._begin(attempt)
            if self.stopping or self.dispatcher.is_done:
                return
            await self.dispatcher.step()

    def _look_seldom(self) -> float:
        """As SeldomWakeup, for those that wait for a place."""
        return min(max((self.clock.now() - self._happened_at) / 2, 1.0), LOOK_SELDOM_SECONDS)

    def _begin(self, attempt: Attempt) -> None:
        self._happened_at = self.clock.now()
        self._number += 1
        transfer = SimulatedTransfer(self, attempt, self._number)
        self.transfers[transfer] = None
        name = attempt.download.entry.name
        self.world.attempts[name] += 1
        self.world.tell(f"{name} asks {slot_of(attempt.download.url)}{' for a piece' if attempt.further else ''}")
        running = Deferred.fromCoroutine(transfer.perform())
        running.addCallback(self._ended, transfer, attempt)
        running.addErrback(self._fail)

    def _ended(self, outcome: Any, transfer: SimulatedTransfer, attempt: Attempt) -> None:
        del self.transfers[transfer]
        self._happened_at = self.clock.now()
        what = "all is here" if outcome.fetched else outcome.error or "there is more"
        self.world.tell(f"{attempt.download.entry.name} attempt ends: {what}{', grew' if outcome.grew else ''}")
        self._sent.pop(attempt)(attempt, outcome)
        self.wakeup.set()

    def _fail(self, failure: Failure) -> None:
        self.failure = self.failure or failure

    def _end_early(self, how: str) -> None:
        if self.over or self.killed:
            return
        self.world.tell(how)
        if how == "stop":
            self.stopping.stop(Stopped())
        else:
            self.killed = True

    def _advance(self) -> None:
        now = self.clock.now()
        if now >= self._advanced_to + TICK_SECONDS:
            self._advanced_to = now
            for transfer in list(self.transfers):
                transfer.advance(now)

    def play(self) -> None:
        """To its end. Raises Broken, or what the engine raised."""
        from support.world.rules import check_end, check_step, longest

        self.longest = longest(self.world)
        working = Deferred.fromCoroutine(self._work())
        working.addErrback(self._fail)
        steps = 0
        while not self.killed:
            if self.failure is not None:
                self.failure.raiseException()
            if working.called and not self.transfers and not self.fetcher.running and not self.downloads.under_way:
                break
            if not self.clock.step(self._advance):
                raise Broken("nothing waits for ever", "no event is left, and the run has not ended")
            steps += 1
            check_step(self, steps)
        self.over = True
        if self.failure is not None:
            self.failure.raiseException()
        if self.killed:
            # Nothing of it goes on: the disk keeps what was saved.
            for transfer in list(self.transfers):
                transfer.download.part.save()
            self.world.disk.open.clear()
            self.world.clock = self.clock = _forget(self.clock)
            for host in self.world.hosts.values():
                host.open = 0
        else:
            self.dispatcher.abandon()
            check_end(self)


def _outcome(error: BulkError) -> Any:
    from bulkspider.run.origins.outcome import Outcome

    return Outcome(error=error)


def _forget(clock: EventClock) -> EventClock:
    """The same time, and no event left."""
    return EventClock(clock.now())
