"""Gain: whether a second connection brings the files of one origin any sooner.

Where one connection fills the link, the disk or what the origin gives us, more of them only cost: requests, CPU time,
joins to be compared. That shows when a connection that was alone gets a second one beside it: unless both together
are clearly faster than the one was, nobody adds another for a while. Pure: bytes per second, seconds of a monotonic
clock, passed in; `dispatch/segments.py` asks before it divides a file whose speed it knows.
"""

from __future__ import annotations

from collections.abc import Sequence

# Two that are alike bring twice as much; so much (times) is more than what a speed swings by itself.
GAINED = 1.25
# What a second one brings is judged after so long: it begins slowly where the way is long.
JUDGED_AFTER_SECONDS = 3.0
# So long it counts that a second one was in vain. Links, disks and origins have better hours.
IN_VAIN_SECONDS = 60.0


class Gain:
    """What is known of one origin."""

    def __init__(self) -> None:
        self._alone: tuple[float, float] | None = None  # what one alone brought, and when it got a second one
        self._in_vain: tuple[float, float] = (0.0, 0.0)  # until when, and what one alone brought

    def add(self, speeds: Sequence[float | None], now: float) -> None:
        """One more connection is made beside those of `speeds` (None: not measured yet)."""
        # Beside several there is nothing that could be compared.
        self._alone = (speeds[0], now) if len(speeds) == 1 and speeds[0] is not None else None

    def allows(self, speeds: Sequence[float | None], now: float) -> bool:
        """One more may be made beside those of `speeds`. None for those that have not begun to flow, too."""
        total = None if None in speeds else sum(speed for speed in speeds if speed is not None)
        if self._alone is not None:
            alone, since = self._alone
            if len(speeds) > 1 and now - since < JUDGED_AFTER_SECONDS:
                return False
            self._alone = None
            if len(speeds) > 1 and total is not None and total < GAINED * alone:
                self._in_vain = now + IN_VAIN_SECONDS, alone
        until, enough = self._in_vain
        if now >= until:
            return True
        # What brings clearly less than it did is not at its limit, it crawls; what brings clearly more was not, either.
        return total is not None and (GAINED * total < enough or total >= GAINED * enough)
