"""Places: how many attempts may run at once, in all and in one slot (Scrapy's term, usually the host).

`Limits` reads the numbers from Scrapy's settings and checks them; `Places` counts the attempts.

Scrapy itself accepts any number, and with some numbers a crawl would wait silently for ever: a slot of `concurrency` 0
or less never transfers anything (in every release up to 2.19, for CONCURRENT_REQUESTS_PER_DOMAIN as for
DOWNLOAD_SLOTS), and CONCURRENT_REQUESTS=0 means no limit only since 2.18. So such values are refused.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

from msgspec import Struct, field
from msgspec.structs import replace
from scrapy.settings import BaseSettings

from bulkspider.clock import Clock
from bulkspider.errors import UsageError
from bulkspider.run.origins.origin import Origin, Place
from bulkspider.run.origins.origins import Origins
from bulkspider.wire.compat import ZERO_IS_NO_LIMIT

TOTAL = "CONCURRENT_REQUESTS"
PER_DOMAIN = "CONCURRENT_REQUESTS_PER_DOMAIN"
PER_IP = "CONCURRENT_REQUESTS_PER_IP"
SLOTS = "DOWNLOAD_SLOTS"

NO_LIMIT_PLACES = 1 << 30
# One of so many places (at least two in all) is for origins that are not known to work.
TRIAL_PLACES_DIVISOR = 4
# The prefix of slots that are only for files (BulkFilesPipeline).
OF_FILES = "bulk:"

logger = logging.getLogger(__name__)


class Limits(Struct, frozen=True):
    """total: requests in all, 0 for no limit. per_slot: in a slot that is not in `slots`. named: slots in
    DOWNLOAD_SLOTS."""

    total: int
    per_slot: int
    slots: Mapping[str, int] = field(default_factory=dict)
    named: frozenset[str] = frozenset()

    @classmethod
    def of(cls, settings: BaseSettings) -> Limits:
        """Raises UsageError for a value with which no request would ever begin."""
        total = _number(TOTAL, settings.get(TOTAL), least=0 if ZERO_IS_NO_LIMIT else 1)
        # If it is not 0 it is used instead of the limit per domain (deprecated).
        per_ip = _number(PER_IP, settings.get(PER_IP) or 0, least=0)
        per_slot = per_ip or _number(PER_DOMAIN, settings.get(PER_DOMAIN), least=1)
        try:
            named = settings.getdict(SLOTS)
            slots = {
                name: _number(f"{SLOTS}: concurrency of {name}", values["concurrency"], least=1)
                for name, values in named.items()
                if "concurrency" in values
            }
        except (ValueError, TypeError) as error:
            raise UsageError(
                f'setting {SLOTS}: not understood; write for example {{"example.org": {{"concurrency": 2}}}}'
            ) from error
        return cls(total, per_slot, slots, frozenset(named))

    def half(self) -> Limits:
        """Half of all places; the others are for pages."""
        return replace(self, total=max(1, self.total // 2)) if self.total else self


def _number(name: str, value: object, *, least: int) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = least - 1
    if number < least:
        what = "no request would ever begin" if str(value).strip().lstrip("-").isdecimal() else "not a whole number"
        zero = "; 0 is no limit" if least == 0 else ""
        raise UsageError(f"setting {name}={value}: {what}; say a number from {max(least, 1)} on{zero}")
    return number


class Places:
    """Gives a place when the total, the slot and the origin all have room."""

    def __init__(self, origins: Origins, clock: Clock, limits: Limits) -> None:
        self.origins = origins
        self.clock = clock
        self.total = limits.total or NO_LIMIT_PLACES
        self.per_slot = limits.per_slot or NO_LIMIT_PLACES
        self._limits = dict(limits.slots)
        self._named = limits.named
        self._used = 0
        self._in_slot: Counter[str] = Counter()
        self._tried: Counter[Origin] = Counter()
        self._origins_of_slot: dict[str, set[str]] = {}

    @property
    def free(self) -> int:
        """Places that are free, in all."""
        return self.total - self._used

    def limit(self, slot: str) -> int:
        """Most attempts of a slot at once."""
        if slot not in self._limits:
            self._limits[slot] = self._capped(slot)
        return min(self.total, self._limits[slot])

    def _capped(self, slot: str) -> int:
        """The limit of a slot: what the profile of its host asks for, unless the user has configured this slot."""
        profile = self.origins.profiles.of(slot.removeprefix(OF_FILES))
        if slot in self._named or profile is None or not 0 < profile.connections < min(self.per_slot, self.total):
            return self.per_slot
        logger.info(
            "%s: %s, as %s asks (%s); DOWNLOAD_SLOTS or BULK_HOSTS change that",
            *(slot.removeprefix(OF_FILES), profile, profile.name, profile.source or profile.file),
        )
        return profile.connections

    def free_in(self, slot: str) -> int:
        """Places that one more attempt of this slot could have."""
        return min(self.limit(slot) - self._in_slot[slot], self.free)

    def take(self, slot: str, origin: Origin, *, further: bool = False, holders: int = 1) -> Place:
        """Takes a place; the caller has checked that one is free. further: for one more connection of a file. holders:
        how many downloads share it."""
        self._used += 1
        self._in_slot[slot] += 1
        self._origins_of_slot.setdefault(slot, set()).add(origin.name)
        origin.connections += 1
        now, trial = self.clock.now(), not origin.is_proven
        if trial:
            origin.trials += 1
            self._tried[origin] += 1
        origin.paced = slot not in self._named
        origin.asked(now)
        origin.begins(now, further=further)
        return Place(slot, origin, now, holders, shared=holders > 1, trial=trial)

    def leave(self, place: Place) -> bool:
        """An attempt that holds the place has ended. True when the place is free now."""
        place.holders -= 1
        if place.holders:
            return False
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
        return True

    def allows(self, origin: Origin, now: float) -> bool:
        """May an attempt begin at this origin, as far as the origins decide?

        Origins that have not answered, or do not work, have a few places together, so that hosts that work keep the
        rest."""
        if not origin.allows(now):
            return False
        if origin.is_proven or not self._tried:
            return True
        tried = sum(places for other, places in self._tried.items() if not other.is_proven)
        if tried == self._used < min(2, self.total) and not any(other.is_proven for other in self.origins):
            return True  # nobody has a use for the other one of two places
        return tried < max(min(2, self.total // 2), self.total // TRIAL_PLACES_DIVISOR, 1)

    def full(self) -> set[str]:
        """The names of origins whose slot has no place left."""
        names: set[str] = set()
        for slot, used in self._in_slot.items():
            if used >= self.limit(slot):
                names |= self._origins_of_slot[slot]
        return names
