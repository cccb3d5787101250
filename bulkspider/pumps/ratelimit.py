"""Rates: what all transfers of a run, and those of one host, may read in a second.

Each read is paid for after it has come, because only then its size is known: it takes a piece of time from each account
that it counts against, behind all that was taken before, and its reader goes on when that time is over. So readers wait
in one queue, each gets its turn for about the same number of bytes, the rate is kept although single reads overshoot,
and a reader that waits costs nothing meanwhile. The limits may change while the run goes on
(`.bulkspider/control.json`). Times are seconds of a monotonic clock that the caller passes in.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from bulkspider.clock import Clock
from bulkspider.disk.folder import open_ours
from bulkspider.errors import DiskError
from bulkspider.options import Options, parse_size
from bulkspider.timetable import Timetable

logger = logging.getLogger(__name__)

# An idle account saves up at most this many seconds, so that a pause is not followed by a flood.
SAVED_SECONDS = 0.1
# Somebody who had to wait counts for so many seconds more.
RECENT_SECONDS = 1.0
# Reads are this small (bytes) while a limit holds, and a turn is as long; at full speed a read may take a megabyte.
LIMITED_READ_BYTES = 64 * 1024


@dataclass(slots=True)
class Account:
    """rate: bytes per second, None for no limit. taken_until: up to when its time is given away."""

    rate: float | None = None
    taken_until: float = 0.0

    def take(self, count: int, now: float) -> float:
        """Takes the time of `count` bytes; when it is over."""
        if self.rate is None:
            return now
        self.taken_until = max(self.taken_until, now - SAVED_SECONDS) + count / self.rate
        return self.taken_until

    def set(self, rate: float | None, now: float) -> None:
        if rate != self.rate:
            self.rate, self.taken_until = rate, now


class Rates:
    """The accounts of one run. changes: how often the limits were set."""

    def __init__(self, limit: int | None, per_host: int | None, now: float) -> None:
        # Threads that move bytes themselves pay for them too.
        self._lock = threading.Lock()
        self._all = Account()
        self._hosts: dict[str, Account] = {}
        self._waits_until: dict[str, float] = {}
        self._per_host: float | None = None
        self.changes = 0
        self.set(limit, per_host, now)

    def set(self, limit: float | None, per_host: float | None, now: float) -> None:
        """Bytes per second, None for no limit. What was taken under another limit counts no more."""
        with self._lock:
            self._per_host = per_host
            self._all.set(limit, now)
            for account in self._hosts.values():
                account.set(per_host, now)
            self._waits_until.clear()
            self.changes += 1

    @property
    def limited(self) -> bool:
        return self._all.rate is not None or self._per_host is not None

    def take(self, host: str, count: int, now: float) -> float:
        """`count` bytes have arrived from `host`; when the time that they cost is over."""
        with self._lock:
            if host not in self._hosts:
                self._hosts[host] = Account(self._per_host, now)
            over = max(self._all.take(count, now), self._hosts[host].take(count, now))
            if over > now:
                self._waits_until[host] = max(over, self._waits_until.get(host, 0.0))
            return over

    def hold_back(self, host: str, now: float) -> bool:
        """The limits, and not the origin, are what makes this host slow: one of its readers waits, or did of late."""
        return self.limited and now - self._waits_until.get(host, -RECENT_SECONDS) < RECENT_SECONDS


class Reader:
    """Pays for what one transfer reads. For one thread."""

    def __init__(self, rates: Rates, clock: Clock, host: str) -> None:
        self._rates = rates
        self._clock = clock
        self._host = host
        self._turn = 0
        self._waits_until = 0.0
        self._changes = 0

    def pay(self, count: int) -> float:
        """`count` bytes have arrived; seconds to wait before reading on. 0 bytes: how long still. Its turn is over
        when it has read so much, in however many reads."""
        rates, now = self._rates, self._clock.now()
        if not rates.limited:
            return 0.0
        if rates.changes != self._changes:
            self._changes, self._waits_until = rates.changes, 0.0
        if count:
            over = rates.take(self._host, count, now)
            self._turn += count
            if self._turn < LIMITED_READ_BYTES:
                return 0.0
            self._turn, self._waits_until = 0, over
        return max(0.0, self._waits_until - now)


class Held(Protocol):
    """Who reads, and can be stopped (`transfer/body.py`)."""

    reader: Reader

    def hold(self, held: bool) -> None: ...


class Throttle:
    """Stops transfers whose turn is over until the next one. For the reactor's thread; who reads in a thread of its own
    asks its Reader."""

    def __init__(self, rates: Rates, clock: Clock) -> None:
        self.rates = rates
        self._clock = clock
        self._held: dict[Held, Any] = {}

    def reader(self, host: str) -> Reader:
        return Reader(self.rates, self._clock, host)

    def spend(self, transfer: Held, count: int) -> None:
        """`count` bytes have arrived for `transfer`; at the end of its turn it stops reading until the next."""
        seconds = transfer.reader.pay(count)
        if seconds <= 0:
            return
        if transfer in self._held:
            # What was on its way came after it was stopped, and was paid for, too.
            self._held.pop(transfer).cancel()
        else:
            transfer.hold(True)
        self._held[transfer] = self._clock.call_later(seconds, self._let_flow, transfer)

    def set(self, limit: float | None, per_host: float | None) -> None:
        """Bytes per second, None for no limit. Everybody reads on."""
        self.rates.set(limit, per_host, self._clock.now())
        for transfer in list(self._held):
            self._held[transfer].cancel()
            self._let_flow(transfer)

    def release(self, transfer: Held) -> None:
        """It has ended."""
        timer = self._held.pop(transfer, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        for transfer in list(self._held):
            self.release(transfer)

    def _let_flow(self, transfer: Held) -> None:
        del self._held[transfer]
        transfer.hold(False)


class Limits:
    """Which limits hold: those of the settings, by the hour where they are a timetable; a control file stands over
    both, for what it names."""

    def __init__(self, options: Options, local_time: Callable[[], datetime]) -> None:
        self._options = options
        self._local_time = local_time
        self._controlled: Mapping[str, int | None] = {}
        self._told = self.now()

    def now(self) -> tuple[int | None, int | None]:
        """(of all transfers together, of each host), bytes per second, None for no limit."""
        limit = self._options.rate_limit
        if isinstance(limit, Timetable):
            limit = limit.rate_at(self._local_time())
        per_host = self._options.rate_limit_per_host
        return self._controlled.get("rate_limit", limit), self._controlled.get("rate_limit_per_host", per_host)

    def control(self, limits: Mapping[str, int | None]) -> None:
        """A control file has changed."""
        self._controlled = limits

    def changed(self) -> tuple[int | None, int | None] | None:
        """The limits, when they are others than at the last question."""
        told, self._told = self._told, self.now()
        return self._told if self._told != told else None


# A control file is no larger (bytes).
CONTROL_MAX_BYTES = 64 * 1024


class ControlFile:
    """`.bulkspider/control.json`: {"rate_limit": "50M", "rate_limit_per_host": null}, read when it has changed."""

    def __init__(self, path: str | os.PathLike[str], dir_fd: int | None = None) -> None:
        """dir_fd: the folder of `path`, opened before."""
        self.path = path
        self._dir_fd = dir_fd
        self._name = os.path.basename(path) if dir_fd is not None else path
        self._seen: tuple[int, int] | None = None

    def read(self) -> dict[str, int | None] | None:
        """The limits it sets, None when it has not changed. What is wrong with it is logged, and changes nothing."""
        try:
            found = os.stat(self._name, dir_fd=self._dir_fd, follow_symlinks=False)
        except OSError:
            return None
        mark = (found.st_mtime_ns, found.st_size)
        if mark == self._seen:
            return None
        self._seen = mark
        try:
            with open(open_ours(self._name, os.O_RDONLY, dir_fd=self._dir_fd, path=self.path), "rb") as file:
                document = json.loads(file.read(CONTROL_MAX_BYTES))
            unknown = set(document) - {"rate_limit", "rate_limit_per_host"}
            if unknown:
                raise ValueError(f"unknown key {', '.join(sorted(unknown))}")
            return {key: (parse_size(value) or None) if value is not None else None for key, value in document.items()}
        except DiskError as error:
            logger.warning("%s", error)
            return None
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            logger.warning('%s: %s; write for example {"rate_limit": "50M"}', self.path, error)
            return None
