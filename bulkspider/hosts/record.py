"""The record of a host: how many bytes it sent in this run, what it refused, and when it was waited for.

A `Record` belongs to one Origin; `look` is called about once a second where a report will show it. Times are seconds of
a clock that the caller passes in. Memory does not grow with the run.
"""

from __future__ import annotations

from collections import Counter

from msgspec import Struct, field

# If there are more waits, those with the shortest time between them are joined.
WAITS_MAX = 200


class Wait(Struct):
    """A time in which the host was waited for. why: its answer, in words."""

    since: float
    until: float
    why: str


class Record(Struct):
    """received_bytes: of files and of answers that were compared with them. refused: attempts that brought nothing,
    by the code of their error. busy_seconds: the time in which bytes came. waits: the times in which nothing was asked
    of it, or only whether it works again."""

    received_bytes: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    busy_seconds: float = 0.0
    waits: list[Wait] = field(default_factory=list)
    waited_seconds: float = 0.0
    how_often: int = 0
    _looked_at: float | None = None
    _seen_bytes: int = 0
    _is_waiting: bool = False
    _is_to_end: float = 0.0

    def look(self, now: float, since: float, waited_for: tuple[float, str] | None) -> None:
        """Measures. since: when the first look would have been. waited_for: until when, and why; None when it is not
        waited for any more, or not yet."""
        before = since if self._looked_at is None else self._looked_at
        if self.received_bytes > self._seen_bytes:
            self._seen_bytes = self.received_bytes
            self.busy_seconds += now - before
        self._looked_at = now
        if self._is_waiting:
            # It may have been over for some time.
            self._extend(now if waited_for is not None else min(now, self._is_to_end))
        if waited_for is None:
            self._is_waiting = False
        else:
            self.begin_wait(now, *waited_for)

    def begin_wait(self, now: float, until: float, why: str) -> None:
        """From now on it is waited for, until a `look` finds that it is not."""
        self._is_to_end = until
        if self._is_waiting:
            self.waits[-1].why = why
            return
        self._is_waiting = True
        self.how_often += 1
        self.waits.append(Wait(now, now, why))
        if len(self.waits) > WAITS_MAX:
            gaps = [later.since - earlier.until for earlier, later in zip(self.waits, self.waits[1:], strict=False)]
            at = gaps.index(min(gaps))
            joined = self.waits.pop(at + 1)
            self.waits[at].until, self.waits[at].why = joined.until, joined.why

    @property
    def speed(self) -> float | None:
        """Bytes per second while bytes came; None when none did."""
        return self.received_bytes / self.busy_seconds if self.busy_seconds > 0 else None

    def _extend(self, until: float) -> None:
        wait = self.waits[-1]
        until = max(until, wait.until)
        self.waited_seconds += until - wait.until
        wait.until = until
