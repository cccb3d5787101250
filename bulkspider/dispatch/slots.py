"""Slots: how many attempts run at once, and who waits for a place.

An attempt takes a place before it becomes a request, so that what waits holds nothing of Scrapy's. A place is given
when the whole, the slot (Scrapy's word: usually the host) and the origin all have room, in the order in which they can
be used: nobody waits for a place that others cannot use, and of one origin those nearest to their end come first. What
waits for room on the disk gets none before there is some. Knows no requests; times by the clock that it is given.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed

from bulkspider.clock import Clock
from bulkspider.entries.entry import origin_of
from bulkspider.errors import BulkError
from bulkspider.run.download import Download
from bulkspider.run.origins import Origin, Origins, Place
from bulkspider.run.stopping import Stopping
from bulkspider.transfer.batch import SmallFiles, may_travel

if TYPE_CHECKING:
    from typing_extensions import Self

    from bulkspider.dispatch.limits import Limits
    from bulkspider.run.run import Run

# Entries of one origin that wait for their next attempt; more are not begun before some of these are through.
WAITING_PER_ORIGIN = 64
# Of one that does not work so many are enough to choose its next probe from.
WAITING_FOR_PROBE = 8
# A closed origin may open by somebody else's success, and room on the disk may be made: looked at so often, at least.
LOOK_EVERY_SECONDS = 1.0
NO_LIMIT = 1 << 30
# Of so many places one is for origins of which nobody knows whether they work, and two where that is one.
TRIALS_PART = 4
# Before a slot's host, where the slot is one of files alone (BulkFilesPipeline).
OF_FILES = "bulk:"

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Waiter:
    download: Download
    slot: str
    origin: Origin
    not_before: float
    number: int
    given: Deferred[Place] = field(default_factory=Deferred)

    @property
    def order(self) -> tuple[float, float, int]:
        """Nearest to its end first; where the origin does not work, whoever has tried least."""
        known = self.download.part.state.total is not None
        tried = 0 if self.origin.is_proven else self.download.budget.tried
        return (tried, self.download.remaining if known else float("inf"), self.number)


def _fits(download: Download, now: float) -> bool:
    """Where nobody asks for room."""
    return True


def _admits(download: Download) -> bool:
    """Where no room is reserved."""
    return True


class Slots:
    """total: places in all. per_slot: of one slot. Both 0 for no limit. limits: of single slots. named: of which the
    user has said something. fits: there is room on the disk for what is left of a download. admits: reserves room for a
    download where that is limited, False when there is none now. small: how many small files of an origin may share a
    place."""

    def __init__(
        self,
        origins: Origins,
        stopping: Stopping,
        clock: Clock,
        *,
        total: int,
        per_slot: int,
        limits: Mapping[str, int],
        named: Collection[str] = (),
        fits: Callable[[Download, float], bool] = _fits,
        admits: Callable[[Download], bool] = _admits,
        small: SmallFiles | None = None,
    ) -> None:
        # Those that have entered in this `gather` and wait for their place.
        self.gathered = 0
        self.total = total or NO_LIMIT
        self._origins = origins
        self._stopping = stopping
        self._clock = clock
        self._fits = fits
        self._admits = admits
        self._small = small or SmallFiles()
        self._gathering = False
        self._per_slot = per_slot or NO_LIMIT
        self._limits = dict(limits)
        self._named = frozenset(named)
        self._used = 0
        self._in_slot: Counter[str] = Counter()
        self._tried: Counter[Origin] = Counter()
        self._origins_of_slot: dict[str, set[str]] = {}
        self._waiting: dict[Origin, list[_Waiter]] = {}
        self._timer: Any = None
        self._number = 0
        stopping.on_stop(lambda reason: self.look())
        origins.on_open(self.look)

    @classmethod
    def of_limits(
        cls,
        limits: Limits,
        run: Run,
        *,
        share: int = 1,
        fits: Callable[[Download, float], bool] = _fits,
        admits: Callable[[Download], bool] = _admits,
        small: SmallFiles | None = None,
    ) -> Self:
        """By what Scrapy's settings allow. share: into so many parts the places in all are divided; this is one."""
        total = max(1, limits.total // share) if limits.total else 0
        return cls(
            *(run.origins, run.stopping, run.clock),
            total=total,
            per_slot=limits.per_slot,
            limits=limits.slots,
            named=limits.named,
            fits=fits,
            admits=admits,
            small=small,
        )

    # -- places ----------------------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """Places that nobody has."""
        return self.total - self._used

    def limit(self, slot: str) -> int:
        """Most attempts of a slot at once."""
        if slot not in self._limits:
            self._limits[slot] = self._capped(slot)
        return min(self.total, self._limits[slot])

    def _capped(self, slot: str) -> int:
        """By what its host is known to ask for, unless the user has said something of this slot."""
        profile = self._origins.profiles.of(slot.removeprefix(OF_FILES))
        if slot in self._named or profile is None or not 0 < profile.connections < min(self._per_slot, self.total):
            return self._per_slot
        logger.info(
            "%s: %s, as %s asks (%s); DOWNLOAD_SLOTS or BULK_HOSTS change that",
            *(slot.removeprefix(OF_FILES), profile, profile.name, profile.source or profile.file),
        )
        return profile.connections

    def free_in(self, slot: str) -> int:
        """Places that one more attempt of this slot could have."""
        return min(self.limit(slot) - self._in_slot[slot], self.free)

    def enter(self, download: Download, slot: str, not_before: float = 0.0) -> Deferred[Place]:
        """Fires with a place at the download's origin, `not_before` a time. Fails with what ends the waiting: Stopped,
        `origin_down`, or what `withdraw` was given."""
        self._number += 1
        waiter = _Waiter(download, slot, self._origins[origin_of(download.url)], not_before, self._number)
        now = self._clock.now()
        shares = self._gathering and self._together(waiter.origin, slot, 1) > 1
        if (
            not shares
            and waiter.origin not in self._waiting
            and not self._stopping
            and self._origins.given_up(waiter.origin, now) is None
            and self._may_enter(waiter, now)
        ):
            # As `look` would find, but for most entries of a list there is nobody else to look for.
            return succeed(self.take(slot, waiter.origin))
        self._waiting.setdefault(waiter.origin, []).append(waiter)
        if shares:
            self.gathered += 1
        else:
            self._look_at([waiter.origin])
        return waiter.given

    @contextmanager
    def gather(self) -> Iterator[None]:
        """Several may enter meanwhile. Those that can share a place get it at the end."""
        self._gathering = True
        try:
            yield
        finally:
            self._gathering = False
            if self.gathered:
                self.gathered = 0
                self.look()

    def _together(self, origin: Origin, slot: str, more: int = 0) -> int:
        """How many of those that wait for an origin, and of so many more, may share a place."""
        return self._small.together(origin, len(self._waiting.get(origin, ())) + more, self.limit(slot))

    def take(self, slot: str, origin: Origin, *, further: bool = False, holders: int = 1) -> Place:
        """A place at once; the caller has asked whether there is one. further: for one more connection of a file.
        holders: how many share it."""
        self._used += 1
        self._in_slot[slot] += 1
        self._origins_of_slot.setdefault(slot, set()).add(origin.name)
        origin.connections += 1
        now, trial = self._clock.now(), not origin.is_proven
        if trial:
            origin.trials += 1
            self._tried[origin] += 1
        origin.paced = slot not in self._named
        origin.asked(now)
        origin.begins(now, further=further)
        return Place(slot, origin, now, holders, shared=holders > 1, trial=trial)

    def leave(self, place: Place) -> None:
        """The attempt has ended, or one of those that share the place."""
        place.holders -= 1
        if place.holders:
            return
        self._used -= 1
        self._in_slot[place.slot] -= 1
        if not self._in_slot[place.slot]:
            del self._in_slot[place.slot]
        place.origin.connections -= 1
        if place.trial:
            place.origin.trials -= 1
            self._tried[place.origin] -= 1
            if not self._tried[place.origin]:
                del self._tried[place.origin]
        self.look()

    def withdraw(self, download: Download, error: BulkError) -> bool:
        """Ends the waiting of a download; False when it does not wait."""
        for waiters in self._waiting.values():
            for waiter in waiters:
                if waiter.download is download:
                    self._remove(waiter)
                    waiter.given.errback(error)
                    return True
        return False

    # -- what may begin --------------------------------------------------------------------------------------------

    def allows(self, origin: Origin, now: float) -> bool:
        """May an attempt begin at this origin, as far as it is for the origins to say?

        Those that have not answered, or do not work, have a few places together: however many hosts are silent, those
        that are well keep the rest."""
        if not origin.allows(now):
            return False
        if origin.is_proven or not self._tried:
            return True
        tried = sum(places for other, places in self._tried.items() if not other.is_proven)
        return tried < max(min(2, self.total // 2), self.total // TRIALS_PART, 1)

    def blocked(self, now: float) -> set[str]:
        """Origins of which nothing new may begin now."""
        # Not one that has outlasted our patience: its entries end without a request.
        blocked = {
            origin.name
            for origin in self._origins
            if not self.allows(origin, now)
            and self._origins.given_up(origin, now) is None
            and not self._wants_another(origin)
        }
        blocked |= {origin.name for origin, waiters in self._waiting.items() if len(waiters) >= self._enough(origin)}
        for slot, used in self._in_slot.items():
            if used >= self.limit(slot):
                blocked |= self._origins_of_slot[slot]
        return blocked

    def _wants_another(self, origin: Origin) -> bool:
        """An origin that does not work gets some entries to choose from: the fault may be that of those it has had."""
        if origin.outage.since is None:
            return False
        waiters = self._waiting.get(origin, ())
        return len(waiters) < WAITING_FOR_PROBE and all(waiter.download.budget.tried for waiter in waiters)

    def _enough(self, origin: Origin) -> int:
        """How many may wait for it: where they share places, those that its free places take."""
        slot = self._waiting[origin][0].slot
        together = self._together(origin, slot)
        if together == 1:
            return WAITING_PER_ORIGIN
        return together * max(1, self.free_in(slot))

    def look(self) -> None:
        """Gives the places that may be given now; sends away who waits for nothing."""
        self._look_at(list(self._waiting))

    def _look_at(self, origins: Iterable[Origin]) -> None:
        now = self._clock.now()
        # Whoever gets a place may run at once and come back here: all is settled before anybody is told.
        given: list[tuple[_Waiter, Place | BulkError]] = []
        for origin in origins:
            error = self._stopping.error if self._stopping else self._origins.given_up(origin, now)
            if error is not None:
                given.extend((waiter, error) for waiter in self._waiting.pop(origin))
                continue
            given.extend(self._enter_now(origin, now))
        self._set_timer(now)
        for waiter, answer in given:
            if isinstance(answer, Place):
                waiter.given.callback(answer)
            else:
                waiter.given.errback(answer)

    def _enter_now(self, origin: Origin, now: float) -> Iterator[tuple[_Waiter, Place]]:
        """Those that get a place of this origin, those that share one behind each other."""
        slot = self._waiting[origin][0].slot
        if self.free_in(slot) <= 0:
            return
        most = self._together(origin, slot)
        waiters = dict.fromkeys(sorted(self._waiting[origin], key=lambda waiter: waiter.order))
        travellers = [w for w in waiters if now >= w.not_before and may_travel(w.download)] if most > 1 else []
        for waiter in list(waiters):
            if waiter not in waiters or not self._may_enter(waiter, now):
                continue
            group = [waiter]
            if waiter in travellers[:1]:
                group, travellers = travellers[:most], travellers[most:]
            place = self.take(waiter.slot, origin, holders=len(group))
            for one in group:
                del waiters[one]
                yield one, place
        self._waiting[origin] = list(waiters)
        if not waiters:
            del self._waiting[origin]

    def _may_enter(self, waiter: _Waiter, now: float) -> bool:
        return (
            now >= waiter.not_before
            and self.free_in(waiter.slot) > 0
            and self.allows(waiter.origin, now)
            and (not waiter.download.needs_room or self._fits(waiter.download, now))
            # Last, because it reserves what it grants.
            and self._admits(waiter.download)
        )

    def _remove(self, waiter: _Waiter) -> None:
        waiters = self._waiting[waiter.origin]
        waiters.remove(waiter)
        if not waiters:
            del self._waiting[waiter.origin]

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            times = [now + LOOK_EVERY_SECONDS]
            for origin, waiters in self._waiting.items():
                times.append(max(origin.opens_at, min(waiter.not_before for waiter in waiters)))
            # What is late already waits for an end of something else, which looks by itself.
            at = min(time for time in times if time > now)
            self._timer = self._clock.call_later(at - now, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self.look()

    def next_request(self, now: float) -> float | None:
        """When an origin may be asked again that wants some time between two requests."""
        return min((origin.opens_at for origin in self._origins if origin.is_between_requests(now)), default=None)

    # -- for those who look on -------------------------------------------------------------------------------------

    @property
    def waiting(self) -> Iterator[tuple[Origin, float, Download, int]]:
        """Per origin what waits for its next attempt: the origin, when the first one is due, which it is, how many."""
        for origin, waiters in self._waiting.items():
            first = min(waiters, key=lambda waiter: waiter.not_before)
            yield origin, first.not_before, first.download, len(waiters)

    @property
    def waiters(self) -> int:
        """How many wait for a place."""
        return sum(map(len, self._waiting.values()))

    @property
    def waiting_for_probes(self) -> int:
        """How many of them wait at origins that do not work, or have not answered."""
        return sum(len(waiters) for origin, waiters in self._waiting.items() if not origin.is_proven)

    def none_fits(self, now: float) -> bool:
        """All that wait do so for room on the disk, and there is none for any of them."""
        downloads = [waiter.download for waiters in self._waiting.values() for waiter in waiters]
        return all(download.needs_room and not self._fits(download, now) for download in downloads)

    def close(self) -> None:
        """The crawl has ended: no timer stays behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
