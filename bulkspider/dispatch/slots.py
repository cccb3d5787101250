"""Slots: the downloads that wait for a place, and which of them gets it next.

An attempt takes a place before it becomes a Request, so that waiting downloads hold nothing of Scrapy's. A free place
(`places.py`) is given at once to a download that can use it; among downloads of one origin, those that are nearest to
their end come first. A download that waits for room on the disk gets none before there is room. No requests here; the
clock is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from msgspec import Struct, field
from twisted.internet.defer import Deferred, succeed

from bulkspider.dispatch.places import Places
from bulkspider.entries.entry import origin_of
from bulkspider.errors import BulkError
from bulkspider.run.download import Download
from bulkspider.run.origins.origin import Origin, Place
from bulkspider.run.stopping import Stopping
from bulkspider.small.sharing import SmallFiles

# Entries of one origin that may wait for their next attempt; further ones are not begun meanwhile.
WAITING_PER_ORIGIN_MAX = 64
# The same for an origin that does not work: enough to choose the next probe from.
WAITING_FOR_PROBE_MAX = 8
# A closed origin may open, and room on the disk may be made, without an event here: checked at least this often.
LOOK_EVERY_SECONDS = 1.0


class _Waiter(Struct, eq=False):
    download: Download
    slot: str
    origin: Origin
    not_before: float
    number: int
    given: Deferred[Place] = field(default_factory=Deferred)

    @property
    def order(self) -> tuple[float, float, int]:
        """Nearest to its end first; where the origin does not work, the one with the fewest tries first."""
        known = self.download.part.state.total is not None
        tried = 0 if self.origin.is_proven else self.download.budget.tried
        return (tried, self.download.remaining if known else float("inf"), self.number)


def _fits(download: Download, now: float) -> bool:
    """The default of `fits`: room is not checked."""
    return True


def _admits(download: Download) -> bool:
    """The default of `admits`: nothing is reserved."""
    return True


class Slots:
    """fits: says whether the disk has room for the rest of a download. admits: reserves room for a download where that
    is limited; False when there is none now. small: decides how many small files of an origin share a place.
    look_every: returns the seconds after which the waiting downloads are checked again even without an event."""

    def __init__(
        self,
        places: Places,
        stopping: Stopping,
        *,
        fits: Callable[[Download, float], bool] = _fits,
        admits: Callable[[Download], bool] = _admits,
        small: SmallFiles | None = None,
        look_every: Callable[[], float] = lambda: LOOK_EVERY_SECONDS,
    ) -> None:
        # How many have entered during this `gather` and wait for their place.
        self.gathered = 0
        self.places = places
        self._origins = places.origins
        self._clock = places.clock
        self._stopping = stopping
        self._fits = fits
        self._admits = admits
        self._small = small or SmallFiles()
        self._look_every = look_every
        self._gathering = False
        self._waiting: dict[Origin, list[_Waiter]] = {}
        self._timer: Any = None
        self._number = 0
        stopping.on_stop(lambda reason: self.look())
        self._origins.on_open(self.look)

    # -- places ----------------------------------------------------------------------------------------------------

    def enter(self, download: Download, slot: str, not_before: float = 0.0) -> Deferred[Place]:
        """Fires with a place at the download's origin, not before the time `not_before`. Fails with Stopped,
        `origin_down`, or the error given to `withdraw`."""
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
            # The result of `look`, but faster: for most entries of a list no other one waits.
            return succeed(self.places.take(slot, waiter.origin))
        self._waiting.setdefault(waiter.origin, []).append(waiter)
        if shares:
            self.gathered += 1
        else:
            self._look_at([waiter.origin])
        return waiter.given

    @contextmanager
    def gather(self) -> Iterator[None]:
        """A context in which several downloads enter; at its end, those that can share a place get it together."""
        self._gathering = True
        try:
            yield
        finally:
            self._gathering = False
            if self.gathered:
                self.gathered = 0
                self.look()

    def _together(self, origin: Origin, slot: str, more: int = 0) -> int:
        """How many of the downloads that wait for an origin, and of `more` others, may share a place."""
        return self._small.together(origin, len(self._waiting.get(origin, ())) + more, self.places.limit(slot))

    def leave(self, place: Place) -> None:
        """An attempt that holds the place has ended."""
        if self.places.leave(place):
            self.look()

    def withdraw(self, download: Download, error: BulkError) -> bool:
        """Ends the wait of a download with `error`; False when it does not wait."""
        for waiters in self._waiting.values():
            for waiter in waiters:
                if waiter.download is download:
                    self._remove(waiter)
                    waiter.given.errback(error)
                    return True
        return False

    # -- what may begin --------------------------------------------------------------------------------------------

    def blocked(self, now: float) -> set[str]:
        """Origins whose entries may not begin now."""
        # Not an origin that was given up: its entries end without a request.
        blocked = {
            origin.name
            for origin in self._origins
            if not self.places.allows(origin, now)
            and self._origins.given_up(origin, now) is None
            and not self._wants_another(origin)
        }
        blocked |= {origin.name for origin in self._waiting if self.has_enough(origin)}
        return blocked | self.places.full()

    def has_enough(self, origin: Origin) -> bool:
        """No more entries of it may begin: as many wait as its places can take soon."""
        waiters = self._waiting.get(origin, ())
        return len(waiters) >= self._enough(origin) if waiters else False

    def _wants_another(self, origin: Origin) -> bool:
        """An origin that does not work needs some other entries to choose from, because the failure may be that of the
        first ones."""
        if origin.outage.since is None:
            return False
        waiters = self._waiting.get(origin, ())
        return len(waiters) < WAITING_FOR_PROBE_MAX and all(waiter.download.budget.tried for waiter in waiters)

    def _enough(self, origin: Origin) -> int:
        """How many may wait for it: with batches, as many as its free places can take."""
        slot = self._waiting[origin][0].slot
        together = self._together(origin, slot)
        if together == 1:
            return WAITING_PER_ORIGIN_MAX
        return together * max(1, self.places.free_in(slot))

    def look(self) -> None:
        """Gives the places that are free now; ends the wait of downloads that cannot get any."""
        self._look_at(list(self._waiting))

    def _look_at(self, origins: Iterable[Origin]) -> None:
        now = self._clock.now()
        # A download that gets its place may run at once and call this again, so all is decided before any Deferred
        # fires.
        given: list[tuple[_Waiter, Place | BulkError]] = []
        for origin in origins:
            error = self._stopping.error if self._stopping else self._origins.given_up(origin, now)
            if error is not None:
                waiters = self._waiting.pop(origin)
                # What waits for room on the disk does not fail because of its origin.
                kept = [] if self._stopping else [waiter for waiter in waiters if self._lacks_room(waiter, now)]
                given.extend((waiter, error) for waiter in waiters if waiter not in kept)
                if kept:
                    self._waiting[origin] = kept
                continue
            given.extend(self._enter_now(origin, now))
        self._set_timer(now)
        for waiter, answer in given:
            if isinstance(answer, Place):
                waiter.given.callback(answer)
            else:
                waiter.given.errback(answer)

    def _enter_now(self, origin: Origin, now: float) -> Iterator[tuple[_Waiter, Place]]:
        """The downloads that get a place of this origin; those that share one follow each other."""
        slot = self._waiting[origin][0].slot
        if self.places.free_in(slot) <= 0:
            return
        most = self._together(origin, slot)
        waiters = dict.fromkeys(sorted(self._waiting[origin], key=lambda waiter: waiter.order))
        travellers = (
            [w for w in waiters if now >= w.not_before and self._small.may_travel(w.download)] if most > 1 else []
        )
        for waiter in list(waiters):
            if waiter not in waiters or not self._may_enter(waiter, now):
                continue
            group = [waiter]
            if waiter in travellers[:1]:
                group, travellers = travellers[:most], travellers[most:]
            place = self.places.take(waiter.slot, origin, holders=len(group))
            for one in group:
                del waiters[one]
                yield one, place
        self._waiting[origin] = list(waiters)
        if not waiters:
            del self._waiting[origin]

    def _may_enter(self, waiter: _Waiter, now: float) -> bool:
        return (
            now >= waiter.not_before
            and self.places.free_in(waiter.slot) > 0
            and self.places.allows(waiter.origin, now)
            and not self._lacks_room(waiter, now)
            # Last, because it reserves room.
            and self._admits(waiter.download)
        )

    def _lacks_room(self, waiter: _Waiter, now: float) -> bool:
        return waiter.download.needs_room and not self._fits(waiter.download, now)

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
            times = [now + self._look_every()]
            for origin, waiters in self._waiting.items():
                times.append(max(origin.opens_at, min(waiter.not_before for waiter in waiters)))
            # Times in the past need no timer: these downloads wait for an event, which calls `look`.
            at = min(time for time in times if time > now)
            self._timer = self._clock.call_later(at - now, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self.look()

    def next_request(self, now: float) -> float | None:
        """The next time at which an origin that wants time between two requests may be asked."""
        return min((origin.opens_at for origin in self._origins if origin.is_between_requests(now)), default=None)

    # -- for the display and the status ----------------------------------------------------------------------------

    @property
    def waiting(self) -> Iterator[tuple[Origin, float, Download, int]]:
        """The waiting downloads per origin: (origin, when the first one is due, that download, how many wait)."""
        for origin, waiters in self._waiting.items():
            first = min(waiters, key=lambda waiter: waiter.not_before)
            yield origin, first.not_before, first.download, len(waiters)

    @property
    def waiters(self) -> int:
        """How many wait for a place."""
        return sum(map(len, self._waiting.values()))

    @property
    def waiting_for_probes(self) -> int:
        """How many of them wait for origins that do not work, or have not answered."""
        return sum(len(waiters) for origin, waiters in self._waiting.items() if not origin.is_proven)

    def none_fits(self, now: float) -> bool:
        """All waiting downloads wait for room on the disk, and there is none for any of them."""
        downloads = [waiter.download for waiters in self._waiting.values() for waiter in waiters]
        return all(download.needs_room and not self._fits(download, now) for download in downloads)

    def close(self) -> None:
        """At the end of the crawl: cancels the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
