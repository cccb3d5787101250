"""All origins of one crawl, who is told of their pauses, and whether this machine reaches any of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from bulkspider.errors import AttemptError
from bulkspider.hosts.profiles import Profiles
from bulkspider.run.origins.origin import Origin

if TYPE_CHECKING:
    from bulkspider.options import Options

# When so many hosts have had no DNS answer or no route for so long, the network of this machine does not work.
HOSTS_WITHOUT_WAY = 2
NO_WAY_SECONDS = 5.0


class Origins:
    """All origins of one crawl. jitter: returns a random number from 0 to 1."""

    def __init__(self, options: Options, jitter: Callable[[], float] = random.random) -> None:
        self._options = options
        self._jitter = jitter
        self._tries: int | None = None
        self._origins: dict[str, Origin] = {}
        self.profiles = Profiles.load(options.hosts)
        self._told_of_openings: list[Callable[[], object]] = []
        self._told_of_pauses: list[Callable[[str, float, str], None]] = []
        # Seconds to wait for an origin that cannot be reached from here, when other workers may reach it.
        self.patience_beside_others = float("inf")
        self._answered = False  # an origin has answered
        self._looked_at: float | None = None
        self._found_no_way: AttemptError | None = None

    def give_up_after(self, tries: int) -> None:
        """For a dry run, which does not wait: an origin is given up after so many outages in a row, not after
        BULK_ORIGIN_PATIENCE. Called before the first origin is asked."""
        self._tries = tries

    def on_open(self, subscriber: Callable[[], object]) -> None:
        """Calls `subscriber()` whenever an origin answers for the first time, or works again."""
        self._told_of_openings.append(subscriber)

    def _opened(self) -> None:
        self._answered = True
        for subscriber in self._told_of_openings:
            subscriber()

    def __getitem__(self, name: str) -> Origin:
        """The Origin of this host:port, made when it is asked for first."""
        origin = self._origins.get(name)
        if origin is None:
            profile = self.profiles.of(name.rpartition(":")[0])
            origin = self._origins[name] = Origin(name, self._options, self._jitter, profile, self._opened, self._tries)
        return origin

    def on_pause(self, subscriber: Callable[[str, float, str], None]) -> None:
        """Calls `subscriber(origin, seconds, reason)` when an origin that was open is closed for a while."""
        self._told_of_pauses.append(subscriber)

    def paused(self, origin: Origin, now: float) -> None:
        """Called after an attempt that has closed the origin: tells the subscribers."""
        if (closed := origin.closed(now)) is not None:
            for subscriber in self._told_of_pauses:
                subscriber(origin.name, closed[0] - now, closed[1])

    def __iter__(self) -> Iterator[Origin]:
        return iter(self._origins.values())

    def has_served(self, name: str) -> bool:
        """The origin has sent bytes of a file, in this run or an earlier one."""
        origin = self._origins.get(name)
        return origin is not None and origin.served_before

    def given_up(self, origin: Origin, now: float) -> AttemptError | None:
        """The error for all entries of an origin that is not waited for any longer, else None."""
        error = origin.given_up(now, self.patience_beside_others)
        return error or (None if origin.outage.heard_of else self._no_way_out(now))

    def _no_way_out(self, now: float) -> AttemptError | None:
        """The error when no host at all can be reached: then the network of this machine does not work."""
        if self._answered:
            return None
        if now != self._looked_at:
            self._looked_at, self._found_no_way = now, self._find_no_way_out(now)
        return self._found_no_way

    def _find_no_way_out(self, now: float) -> AttemptError | None:
        down = [origin for origin in self if origin.outage.since is not None]
        if len(down) < HOSTS_WITHOUT_WAY or any(
            origin.outage.heard_of or origin.outage.error is None or origin.outage.error.code not in ("dns", "no_route")
            for origin in down
        ):
            return None
        if now - min(origin.outage.since or now for origin in down) < NO_WAY_SECONDS:
            return None
        why = down[0].outage.error
        what = f"this machine has no way out: none of {len(down)} hosts can be reached ({down[0].name}: {why})"
        return AttemptError(what, code="no_network", cause=why)

    def cause(self, name: str) -> str | None:
        """The code of the last error of an origin, None without one."""
        origin = self._origins.get(name)
        return origin.outage.error.code if origin is not None and origin.outage.error is not None else None

    def next_opening(self, now: float) -> float | None:
        """The earliest time at which a closed origin opens, None when none is closed."""
        return min((origin.outage.closed_until for origin in self if origin.outage.closed_until > now), default=None)
