"""Gain: whether a second connection makes downloads from one origin faster.

Where one connection is as fast as the link, the disk or the origin allows, more of them only cost requests, CPU time
and bytes that are compared. This is measured when a connection that was alone gets a second one beside it: unless both
together are clearly faster than the first one was, no further one is added for a while. Pure: bytes per second, seconds
of a monotonic clock, passed in; `dispatch/segments.py` asks before it divides a file.
"""

from __future__ import annotations

from collections.abc import Sequence

# Two equal connections bring twice as much; this factor is more than the usual variation of a speed.
GAINED_FACTOR = 1.25
# How long after it began a second one is judged: over a long distance it begins slowly (TCP slow start).
JUDGED_AFTER_SECONDS = 3.0
# How long no further one is added after a second one did not help; then it is tried again.
IN_VAIN_SECONDS = 60.0


class Gain:
    """What is known of one origin."""

    def __init__(self) -> None:
        self._alone: tuple[float, float] | None = None  # bytes per second of one alone, and when it got a second one
        self._in_vain: tuple[float, float] = (0.0, 0.0)  # until when, and bytes per second of one alone

    def add(self, speeds: Sequence[float | None], now: float) -> None:
        """One more connection is made beside those of `speeds` (None: not measured yet)."""
        # Only a second connection can be judged, by the speed of the first one alone.
        self._alone = (speeds[0], now) if len(speeds) == 1 and speeds[0] is not None else None

    def allows(self, speeds: Sequence[float | None], now: float) -> bool:
        """One more may be made beside those of `speeds` (None: not measured, or not begun yet)."""
        total = None if None in speeds else sum(speed for speed in speeds if speed is not None)
        if self._alone is not None:
            alone, since = self._alone
            if len(speeds) > 1 and now - since < JUDGED_AFTER_SECONDS:
                return False
            self._alone = None
            if len(speeds) > 1 and total is not None and total < GAINED_FACTOR * alone:
                self._in_vain = now + IN_VAIN_SECONDS, alone
        until, enough = self._in_vain
        if now >= until:
            return True
        # At a speed clearly lower or higher than the one of then, the limit that was met then is not what holds now.
        return total is not None and (GAINED_FACTOR * total < enough or total >= GAINED_FACTOR * enough)
