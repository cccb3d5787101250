"""Rates: token buckets over all transfers of a run and over those of one host.

Decides whether a transfer may read on now. Bytes are paid for after they have arrived, because only then is their
number known; who finds the account empty stops reading until it is filled again, so that over seconds the rate is kept
although single reads overshoot. The limits may change while the run goes on (`.bulkspider/control.json`). Times are
seconds of a monotonic clock that the caller passes in.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from dataclasses import dataclass

from bulkspider.options import parse_size

logger = logging.getLogger(__name__)

# An idle account saves up at most this many seconds, so that a pause is not followed by a flood.
SAVED_SECONDS = 0.1
# A read that had to wait counts for so many seconds.
RECENT = 1.0
# How often stopped transfers are looked at again.
INTERVAL = 0.05
# Reads are this small while a limit holds; at full speed a single read may take a megabyte.
LIMITED_READ = 64 * 1024


@dataclass(slots=True)
class Bucket:
    """rate: bytes per second, None for no limit. balance: bytes that may be read now; negative when overdrawn."""

    rate: float | None = None
    balance: float = 0.0
    filled_at: float = 0.0

    def spend(self, count: int, now: float) -> None:
        if self.rate is not None:
            self.fill(now)
            self.balance -= count

    def fill(self, now: float) -> float:
        """The balance now; infinite without a limit."""
        if self.rate is None:
            return float("inf")
        earned = (now - self.filled_at) * self.rate
        self.balance = min(self.balance + earned, self.rate * SAVED_SECONDS)
        self.filled_at = now
        return self.balance

    def set(self, rate: float | None, now: float) -> None:
        if rate != self.rate:
            self.rate, self.balance, self.filled_at = rate, 0.0, now


class Rates:
    """The buckets of one run."""

    def __init__(self, limit: int | None, per_host: int | None, now: float) -> None:
        # Threads that move bytes themselves pay for them too.
        self._lock = threading.Lock()
        self._all = Bucket()
        self._hosts: dict[str, Bucket] = {}
        self._refused_at: dict[str, float] = {}
        self._per_host: float | None = None
        self.set(limit, per_host, now)

    def set(self, limit: float | None, per_host: float | None, now: float) -> None:
        """Bytes per second, None for no limit."""
        with self._lock:
            self._per_host = per_host
            self._all.set(limit, now)
            for bucket in self._hosts.values():
                bucket.set(per_host, now)

    @property
    def limited(self) -> bool:
        return self._all.rate is not None or self._per_host is not None

    def spend(self, host: str, count: int, now: float) -> None:
        """`count` bytes have arrived from `host`."""
        with self._lock:
            self._all.spend(count, now)
            self._of(host, now).spend(count, now)

    def allows(self, host: str, now: float, *, promised: int = 0, promised_host: int = 0) -> bool:
        """May one more read from `host` begin, when so many bytes are promised to others (of this host) already?"""
        with self._lock:
            allowed = self._all.fill(now) > promised and self._of(host, now).fill(now) > promised_host
            if not allowed:
                self._refused_at[host] = now
            return allowed

    def hold_back(self, host: str, now: float) -> bool:
        """The limits, and not the origin, are what makes this host slow: one of its reads had to wait of late."""
        return self.limited and now - self._refused_at.get(host, -RECENT) < RECENT

    def _of(self, host: str, now: float) -> Bucket:
        if host not in self._hosts:
            self._hosts[host] = Bucket(self._per_host, 0.0, now)
        return self._hosts[host]


class ControlFile:
    """`.bulkspider/control.json`: {"rate_limit": "50M", "rate_limit_per_host": null}, read when it has changed."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self._seen: tuple[int, int] | None = None

    def read(self) -> dict[str, int | None] | None:
        """The limits it sets, None when it has not changed. What is wrong with it is logged, and changes nothing."""
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        mark = (found.st_mtime_ns, found.st_size)
        if mark == self._seen:
            return None
        self._seen = mark
        try:
            with open(self.path, encoding="utf-8") as file:
                document = json.load(file)
            unknown = set(document) - {"rate_limit", "rate_limit_per_host"}
            if unknown:
                raise ValueError(f"unknown key {', '.join(sorted(unknown))}")
            return {key: (parse_size(value) or None) if value is not None else None for key, value in document.items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning('%s: %s; write for example {"rate_limit": "50M"}', self.path, error)
            return None
