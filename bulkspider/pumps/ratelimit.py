"""Rate limits: how many bytes a second all transfers of a run together, and those of each host, may read.

A read is accounted for after it was made, because only then its size is known. Each account reserves its time (bytes
divided by the rate) behind the time that earlier reads have reserved, and the reader goes on when that time is over. So
the rate is kept on average although single reads exceed it, readers take turns of about the same number of bytes, and a
waiting reader needs no CPU time. The limits may change during the run (`.bulkspider/control.json`). Times are seconds
of a monotonic clock that the caller passes in.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Protocol

from msgspec import Struct

from bulkspider.clock import Clock
from bulkspider.disk.folder.opening import open_ours
from bulkspider.errors import DiskError
from bulkspider.options import Options, parse_size
from bulkspider.timetable import Timetable

logger = logging.getLogger(__name__)

# Unused time that an account keeps at most, so that a pause is not followed by a burst.
SAVED_SECONDS = 0.1
# A host counts as held back for this long after one of its readers had to wait.
RECENT_SECONDS = 1.0
# Bytes of a read, and of a turn, while a limit holds; without a limit a read may take a megabyte.
LIMITED_READ_BYTES = 64 * 1024


class Account(Struct):
    """rate: bytes per second, None for no limit. taken_until: the time up to which it is reserved."""

    rate: float | None = None
    taken_until: float = 0.0

    def take(self, count: int, now: float) -> float:
        """Reserves the time for `count` bytes. Returns when it is over."""
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
        # Called by threads, too.
        self._lock = threading.Lock()
        self._all = Account()
        self._hosts: dict[str, Account] = {}
        self._waits_until: dict[str, float] = {}
        self._per_host: float | None = None
        self.changes = 0
        self.set(limit, per_host, now)

    def set(self, limit: float | None, per_host: float | None, now: float) -> None:
        """Bytes per second, None for no limit. Time that was reserved under another limit is released."""
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
        """`count` bytes have arrived from `host`. Returns when the time that they take is over."""
        with self._lock:
            if host not in self._hosts:
                self._hosts[host] = Account(self._per_host, now)
            over = max(self._all.take(count, now), self._hosts[host].take(count, now))
            if over > now:
                self._waits_until[host] = max(over, self._waits_until.get(host, 0.0))
            return over

    def hold_back(self, host: str, now: float) -> bool:
        """True when the rate limit, not the origin, makes this host slow: one of its readers waits, or did so
        recently."""
        return self.limited and now - self._waits_until.get(host, -RECENT_SECONDS) < RECENT_SECONDS


class ReadAccount:
    """Accounts for the reads of one transfer. For one thread."""

    def __init__(self, rates: Rates, clock: Clock, host: str) -> None:
        self._rates = rates
        self._clock = clock
        self._host = host
        self._turn = 0
        self._waits_until = 0.0
        self._changes = 0

    def pay(self, count: int) -> float:
        """`count` bytes have arrived. Returns the seconds to wait before reading on; with 0 bytes, those that are left.
        A turn ends after LIMITED_READ_BYTES, in one read or several."""
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


class Stoppable(Protocol):
    """A transfer whose reading can be stopped (`transfer/body.py`)."""

    reader: ReadAccount

    def hold(self, held: bool) -> None: ...


class Throttle:
    """Stops transfers at the end of their turn until the next one. For transfers of the reactor's thread; a thread that
    reads itself asks its Reader how long to wait."""

    def __init__(self, rates: Rates, clock: Clock) -> None:
        self.rates = rates
        self._clock = clock
        self._held: dict[Stoppable, Any] = {}

    def reader(self, host: str) -> ReadAccount:
        return ReadAccount(self.rates, self._clock, host)

    def spend(self, transfer: Stoppable, count: int) -> None:
        """`count` bytes have arrived for `transfer`; at the end of its turn it stops reading until the next."""
        seconds = transfer.reader.pay(count)
        if seconds <= 0:
            return
        if transfer in self._held:
            # Bytes that were in flight came after it was stopped: the wait becomes longer.
            self._held.pop(transfer).cancel()
        else:
            transfer.hold(True)
        self._held[transfer] = self._clock.call_later(seconds, self._let_flow, transfer)

    def set(self, limit: float | None, per_host: float | None) -> None:
        """Bytes per second, None for no limit. All stopped transfers go on."""
        self.rates.set(limit, per_host, self._clock.now())
        for transfer in list(self._held):
            self._held[transfer].cancel()
            self._let_flow(transfer)

    def release(self, transfer: Stoppable) -> None:
        """The transfer has ended."""
        timer = self._held.pop(transfer, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        for transfer in list(self._held):
            self.release(transfer)

    def _let_flow(self, transfer: Stoppable) -> None:
        del self._held[transfer]
        transfer.hold(False)


class RateLimits:
    """The limits that hold now: those of the settings, which may be a timetable. A limit in the control file replaces
    that of the settings."""

    def __init__(self, options: Options, local_time: Callable[[], datetime]) -> None:
        self._options = options
        self._local_time = local_time
        self._controlled: Mapping[str, int | None] = {}
        self._told = self.now()

    def now(self) -> tuple[int | None, int | None]:
        """(all transfers together, each host): bytes per second, None for no limit."""
        limit = self._options.rate_limit
        if isinstance(limit, Timetable):
            limit = limit.rate_at(self._local_time())
        per_host = self._options.rate_limit_per_host
        return self._controlled.get("rate_limit", limit), self._controlled.get("rate_limit_per_host", per_host)

    def control(self, limits: Mapping[str, int | None]) -> None:
        """A control file has changed."""
        self._controlled = limits

    def changed(self) -> tuple[int | None, int | None] | None:
        """The limits if they have changed since the last call, else None."""
        told, self._told = self._told, self.now()
        return self._told if self._told != told else None


# Bytes of a control file that are read at most.
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
        """The limits that it sets, None when it has not changed. A mistake in it is logged and changes nothing."""
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
            if not isinstance(document, dict):
                raise ValueError("this is no object in braces")
            unknown = set(document) - {"rate_limit", "rate_limit_per_host"}
            if unknown:
                raise ValueError(f"unknown key {', '.join(sorted(unknown))}")
            return {key: (parse_size(value) or None) if value is not None else None for key, value in document.items()}
        except DiskError as error:
            logger.warning("%s", error)
            return None
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            logger.warning('%s: this is no JSON; write for example {"rate_limit": "50M"}', self.path)
            return None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning('%s: %s; write for example {"rate_limit": "50M"}', self.path, error)
            return None
