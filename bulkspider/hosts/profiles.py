"""Profiles: the rules of known hosts (`known.toml`), and those in the user's own file (BULK_HOSTS).

A profile can only lower the limits of the user's settings: it limits the requests at once and in a minute for a host,
and names the statuses that mean "slow down" there.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from msgspec import Struct

from bulkspider.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KEYS = ("connections", "requests_per_minute", "busy", "why", "source")
# In the user's file 0 means no limit.
NO_LIMIT = 0


class Profile(Struct, frozen=True):
    """name: of the host, or of the domain that it belongs to. connections: most requests at once, 0 for no limit.
    requests_per_minute: that begin in a minute at most, 0 for no limit. busy: statuses that say "slow down". why,
    source: what the host says, and where. file: that says so, `known.toml` or the user's own."""

    name: str
    connections: int = NO_LIMIT
    requests_per_minute: float = NO_LIMIT
    busy: frozenset[int] = frozenset()
    why: str = ""
    source: str = ""
    file: str = "known.toml"

    @property
    def interval_seconds(self) -> float:
        """From the beginning of one request to that of the next."""
        return 60.0 / self.requests_per_minute if self.requests_per_minute else 0.0

    def __str__(self) -> str:
        asks = []
        if self.connections:
            asks.append(f"{self.connections} requests at once" if self.connections > 1 else "one request at once")
        if self.requests_per_minute:
            asks.append(f"{self.requests_per_minute:g} requests a minute")
        if self.busy:
            asks.append(f"{', '.join(map(str, sorted(self.busy)))} means busy")
        return ", ".join(asks) or "no limit"


class Profiles:
    """Of all hosts that have one."""

    def __init__(self, *tables: Mapping[str, Profile]) -> None:
        """tables: the first one that knows a host counts."""
        self._tables = tables
        self._found: dict[str, Profile | None] = {}

    @classmethod
    def load(cls, path: str | None = None) -> Profiles:
        """path: of the user's own table. Raises UsageError when it cannot be used."""
        return cls(_read_own(path), _known()) if path else cls(_known())

    def of(self, host: str) -> Profile | None:
        """The profile of a host name; None for most."""
        if host not in self._found:
            self._found[host] = self._find(host.lower())
        return self._found[host]

    def _find(self, host: str) -> Profile | None:
        labels = host.split(".")
        names = [".".join(labels[first:]) for first in range(len(labels))]
        return next((table[name] for table in self._tables for name in names if name in table), None)


@cache
def _known() -> Mapping[str, Profile]:
    return _parse("known.toml", files("bulkspider.hosts").joinpath("known.toml").read_bytes())


def _read_own(path: str) -> Mapping[str, Profile]:
    try:
        with open(path, "rb") as file:
            return _parse(path, file.read())
    except OSError as error:
        raise UsageError(f"setting BULK_HOSTS={path}: {error.strerror}; give the path of a table of hosts") from None


def _parse(path: str, data: bytes) -> Mapping[str, Profile]:
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no TOML ({error})") from None
    return {name.lower(): _profile(path, name, row) for name, row in table.items()}


def _profile(path: str, name: str, row: Any) -> Profile:
    where = f"{path}: host {name}"
    if not isinstance(row, dict) or any(isinstance(value, dict) for value in row.values()):
        raise UsageError(f'{where}: not understood; write ["{name}"] in a line, and below it connections = 2')
    for key in row:
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, n=1)
            raise UsageError(f"{where}: unknown key {key}" + (f"; did you mean {close[0]}?" if close else ""))
    connections, per_minute, busy = row.get("connections", 0), row.get("requests_per_minute", 0), row.get("busy", [])
    if type(connections) is not int or connections < 0:
        raise UsageError(f"{where}: connections must be a whole number, 0 for no limit")
    if type(per_minute) not in (int, float) or not 0 <= per_minute < float("inf"):
        raise UsageError(f"{where}: requests_per_minute must be a number, 0 for no limit")
    if not isinstance(busy, list) or any(type(status) is not int or not 400 <= status < 600 for status in busy):
        raise UsageError(f"{where}: busy must be a list of statuses from 400 to 599")
    why, source = str(row.get("why", "")), str(row.get("source", ""))
    return Profile(name.lower(), connections, float(per_minute), frozenset(busy), why, source, path)
