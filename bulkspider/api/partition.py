"""`bulkspider.partition`: the entries of a list, divided among workers.

Every worker may also be given the whole list and a shard of it (`shard=3/16`); this is for programs that have the
entries at hand and start the workers themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from bulkspider.lists.shards import Shard

Entry = TypeVar("Entry")


def partition(entries: Iterable[Entry], n: int, by: str = "size") -> list[list[Entry]]:
    """Divides entries (as for `fetch`) into at most `n` lists, none of them empty; each keeps their order.

    by: "size", so that all have about the same bytes (the `size` of a dict; an unknown one counts as the average);
    "host", so that all entries of a host are in one list, and its limits hold for all workers together; "count".

    >>> partition(["https://a.example/1", "https://b.example/2", "https://a.example/3"], 2, by="host")
    [['https://a.example/1', 'https://a.example/3'], ['https://b.example/2']]
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n={n!r}: a number from 1 on")
    if by not in ("size", "host", "count"):
        raise ValueError(f"by={by!r}: 'size', 'host' or 'count'")
    given = list(entries)
    if by == "host":
        return _by_host(given, n)
    sizes = [_size(entry) if by == "size" else None for entry in given]
    parts: list[list[Entry]] = [[] for _ in range(n)]
    for entry, number in zip(given, Shard.numbers(sizes, n), strict=True):
        parts[number - 1].append(entry)
    return [part for part in parts if part]


def _by_host(entries: list[Entry], n: int) -> list[list[Entry]]:
    hosts: dict[str, list[int]] = {}
    for at, entry in enumerate(entries):
        hosts.setdefault(urlsplit(_url(entry)).netloc.rpartition("@")[2].lower(), []).append(at)
    # Entries of hosts, not bytes: a host is asked for so many files at a time whatever their size.
    parts: list[list[int]] = [[] for _ in range(n)]
    for positions in sorted(hosts.values(), key=len, reverse=True):
        min(parts, key=len).extend(positions)
    return [[entries[at] for at in sorted(part)] for part in parts if part]


def _size(entry: Any) -> int | None:
    size = entry.get("size") if isinstance(entry, Mapping) else None
    return None if size is None else int(size)


def _url(entry: Any) -> str:
    if isinstance(entry, Mapping):
        return str(entry["url"])
    return entry if isinstance(entry, str) else str(entry[1])
