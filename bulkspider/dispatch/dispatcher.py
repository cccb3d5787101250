"""The dispatcher: which entry is next.

It takes entries from the source when there is room, skips those that the ledger proves, and begins all others
(`underway.py` keeps them until they end). A place that no entry can use goes to a file under way (`segments.py`). A
waiting entry is a coroutine that holds neither a Request nor a place, and only a limited number of them is begun, so
that memory does not grow with the length of the list.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Collection

from bulkspider.disk.finished.line import LedgerLine
from bulkspider.disk.folder.folder import Folder
from bulkspider.dispatch.fetch import Fetcher
from bulkspider.dispatch.proofs import Open, Proofs
from bulkspider.dispatch.segments import Segments
from bulkspider.dispatch.slots import Slots
from bulkspider.dispatch.underway import Listener, UnderWay
from bulkspider.entries.entry import Entry, origin_of
from bulkspider.errors import BulkError, Stopped, disk_error
from bulkspider.handover.stage import StagedFolder
from bulkspider.lists.source import Source
from bulkspider.run.run import Run
from bulkspider.sums.checksums import Sums

# Skipping entries that the ledger proves blocks the reactor no longer than this at a time.
SLICE_SECONDS = 0.01
# Entries that may be begun without a place, for each place: files that are fetched but not finished must not pile up.
BEGUN_PER_PLACE = 4
BEGUN_MAX = 1024
LOOK_EVERY_SECONDS = 1.0


class Dispatcher:
    """For one list, or one worker of a queue. stage: limits the bytes in the folder."""

    def __init__(
        self,
        run: Run,
        source: Source,
        folder: Folder,
        fetcher: Fetcher,
        listener: Listener,
        *,
        slots: Slots,
        segments: Segments,
        proofs: Proofs,
        stage: StagedFolder | None = None,
    ) -> None:
        self._sums: Sums | None = None
        self._run = run
        self._source = source
        self._folder = folder
        self._fetcher = fetcher
        self._listener = listener
        self._slots = slots
        self._segments = segments
        self._proofs = proofs
        self._clock = run.clock
        self._stopping = run.stopping
        self._origins = run.origins
        self._underway = UnderWay(run, source, folder, fetcher, listener, slots=slots, stage=stage)
        self._hashing = 0
        self._unchecked = 0
        self._known: Counter[str] = Counter()
        self._known_bytes = 0
        self._served: set[str] = set()
        run.stopping.on_stop(lambda reason: self._underway.interrupt())

    def begin(self, sums: Sums | None) -> None:
        """The source may give entries from now on. sums: hashes of a checksum file. Raises UsageError."""
        self._sums = sums
        self._source.begin(self)

    # -- the loop's step -------------------------------------------------------------------------------------------

    @property
    def is_done(self) -> bool:
        """Every entry has its outcome."""
        return self._source.exhausted and not self._underway and not self._underway.last_pass.has_entries

    @property
    def unchecked(self) -> int:
        """How many entries are being hashed, or were when the run was stopped: not known to be done or not."""
        return self._hashing + self._unchecked

    async def step(self) -> None:
        """Begins what may begin now; if that is nothing, waits for an event, at most LOOK_EVERY_SECONDS."""
        numbered = self._fetcher.numbered
        if self._source.exhausted and not self._underway.active:
            self._underway.last_pass.begin()
        with self._slots.gather():
            await self._begin_entries()
        if self._fetcher.numbered > numbered or self._listener.busy or self.is_done or self._stopping:
            return
        now = self._clock.now()
        if further := self._segments.find(self._fetcher.dividable, now):
            self._fetcher.connect(further)
        elif 0 < self._slots.waiters == self._underway.active and self._slots.none_fits(now):
            self._run.disk_failed(disk_error(OSError(errno.ENOSPC, ""), self._folder.root))
        else:
            look = self._segments.next_look(self._fetcher.dividable, now)
            looks = [at for at in (look, self._slots.next_request(now)) if at is not None]
            seconds = min(max(min(looks, default=now + LOOK_EVERY_SECONDS) - now, 0.01), LOOK_EVERY_SECONDS)
            await self._run.wakeup.wait(seconds)

    async def _begin_entries(self) -> None:
        """Begins entries that the ledger does not prove, while there is room."""
        slice_ends = self._clock.now() + SLICE_SECONDS
        blocked: set[str] | None = None
        places = self._slots.places
        try:
            while self._has_room and not self._listener.busy and not self._stopping:
                if self._clock.now() > slice_ends:
                    self._count_known()
                    await self._run.wakeup.pause()
                    slice_ends, blocked = self._clock.now() + SLICE_SECONDS, None
                if blocked is None:
                    blocked = self._slots.blocked(self._clock.now())
                self._source.has_room(places.free, places.per_slot)
                gathered = self._slots.gathered
                if (entry := self.take(blocked)) is not None:
                    if not self._begin(entry):
                        continue
                    if self._slots.gathered == gathered:
                        blocked = None
                    elif self._slots.has_enough(origin := self._origins[origin_of(entry.url)]):
                        # It waits for a place that others will share: nothing has changed for another origin.
                        blocked.add(origin.name)
                elif (put_last := self._underway.last_pass.take(blocked)) is not None:
                    entry, first_error = put_last
                    if not self._underway.is_lost(entry, first_error):
                        self._underway.start(entry, self._underway.fetch(entry, first_error=first_error))
                        blocked = None
                else:
                    return
        finally:
            self._count_known()

    @property
    def _has_room(self) -> bool:
        placeless = self._underway.active - len(self._fetcher.running) - self._slots.gathered
        # Entries that wait for hosts that do not work must not keep others from beginning.
        useful = placeless - self._slots.waiting_for_probes
        return (
            self._slots.places.free > 0
            and useful <= BEGUN_PER_PLACE * self._slots.places.total
            and placeless <= BEGUN_MAX
        )

    def take(self, blocked: Collection[str] = ()) -> Entry | None:
        """The next entry, with its hash from the checksum file. blocked: origins whose entries may not begin."""
        entry = self._source.take(blocked)
        return entry if entry is None or self._sums is None else self._sums.add_to(entry)

    # -- what is done already --------------------------------------------------------------------------------------

    def _begin(self, entry: Entry) -> bool:
        """Starts the work on an entry; False when there is nothing to do."""
        found = self._find_proof(entry)
        if isinstance(found, LedgerLine):
            return self._has_proof(entry, found)
        if found is not None:
            self._underway.start(entry, self._check(entry, found))
            return True
        if self._underway.is_lost(entry):
            return False
        self._underway.start(entry, self._underway.fetch(entry))
        return True

    def _find_proof(self, entry: Entry) -> LedgerLine | Open | None:
        if self._source.taken_over(entry) and self._folder.lstat(entry.name) is not None:
            self._proofs.reload()
        return self._proofs.look(entry)

    async def _check(self, entry: Entry, found: Open) -> None:
        """Hashes the file on disk; fetches it when the hash differs."""
        self._hashing += 1
        try:
            line = await self._proofs.renew(found)
        except Stopped:
            self._unchecked += 1
            return
        finally:
            self._hashing -= 1
        if line is None:
            await self._underway.fetch(entry)
        elif self._is_to_hand_on(line):
            await self._hand_on(entry, line)
        else:
            self._already(entry, line)
            self._count_known()

    def _has_proof(self, entry: Entry, line: LedgerLine) -> bool:
        """An earlier run has done it. True when it must still be handed on."""
        if self._is_to_hand_on(line):
            self._underway.start(entry, self._hand_on(entry, line))
            return True
        self._already(entry, line)
        return False

    def _is_to_hand_on(self, line: LedgerLine) -> bool:
        return self._run.handover is not None and self._run.handover.wants(line)

    async def _hand_on(self, entry: Entry, line: LedgerLine) -> None:
        """Hands on a file that an earlier run has fetched."""
        if (handed := await self._underway.hand_on(entry, line)) is not None:
            self._already(entry, handed)
            self._count_known()

    def _already(self, entry: Entry, line: LedgerLine) -> None:
        origin = origin_of(entry.url)
        if origin not in self._served:
            self._served.add(origin)
            self._origins[origin].served()
        self._source.ended(entry, line.status)
        if not self._listener.proven(entry, line):
            # Counted together with others, because a million times would take time.
            self._known[line.status] += 1
            self._known_bytes += line.size

    def _count_known(self) -> None:
        if self._known:
            self._run.outcomes.count_known(self._known, self._known_bytes)
            self._known.clear()
            self._known_bytes = 0

    # -- what the source tells (lists.source.Taker) ----------------------------------------------------------------

    def wake(self) -> None:
        self._run.wakeup.set()

    def forgive(self, origin: str) -> None:
        self._origins[origin].forgive()

    def hurry(self, seconds: float) -> None:
        self._origins.patience_beside_others = seconds

    def stop(self, error: BulkError) -> None:
        self._stopping.stop(error)

    def refuse(self, number: int, name: str, error: BulkError) -> None:
        self._listener.bad_line(number, name, error)

    def lose(self, name: str) -> None:
        self._underway.lose(name)

    def abandon(self) -> None:
        """At the end of the crawl: cancels what is still under way."""
        self._underway.abandon()
