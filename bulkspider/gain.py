"""The gain: whether a second connection brings an origin's files any sooner.

Where one connection fills the link, the disk or what the origin gives us, more of them only cost: requests, CPU time,
joins to be compared. That shows when a connection that was alone gets a second one beside it: unless both together
are clearly faster than the one was, nobody adds another for a while. Pure: bytes per second, seconds of a monotonic
clock, passed in; `schedule.py` asks before it divides a file whose speed it knows.
"""

from __future__ import annotations

from collections.abc import Sequence

# Two that are alike bring twice as much; so much (times) is more than what a speed swings by itself.
GAINED = 1.25
# What a second one brings is judged after so long (seconds): it begins slowly where the way is long.
JUDGED_AFTER = 3.0
# So long (seconds) it counts that a second one was in vain. Links, disks and origins have better hours.
IN_VAIN_SECONDS = 60.0


class Gain:
    """What is known of each origin."""

    def __init__(self) -> None:
        self._alone: dict[str, tuple[float, float]] = {}  # what one alone brought, and when it got a second one
        self._in_vain: dict[str, tuple[float, float]] = {}  # until when, and what one alone brought

    def add(self, origin: str, speeds: Sequence[float | None], now: float) -> None:
        """One more connection is made beside those of `speeds` (None: not measured yet)."""
        if len(speeds) == 1 and speeds[0] is not None:
            self._alone[origin] = speeds[0], now
        else:
            # Nothing that could be compared.
            self._alone.pop(origin, None)

    def allows(self, origin: str, speeds: Sequence[float | None], now: float) -> bool:
        """One more may be made beside those of `speeds`. None for those that have not begun to flow, too."""
        total = None if None in speeds else sum(speed for speed in speeds if speed is not None)
        if origin in self._alone:
            alone, since = self._alone[origin]
            if len(speeds) > 1 and now - since < JUDGED_AFTER:
                return False
            del self._alone[origin]
            if len(speeds) > 1 and total is not None and total < GAINED * alone:
                self._in_vain[origin] = now + IN_VAIN_SECONDS, alone
        until, enough = self._in_vain.get(origin, (0.0, 0.0))
        if now >= until:
            return True
        # What brings clearly less than it did is not at its limit, it crawls; what brings clearly more was not, either.
        return total is not None and (GAINED * total < enough or total >= GAINED * enough)
