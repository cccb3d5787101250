"""`bulkspider.partition`: the entries of a list, divided among workers.

Every worker may also be given the whole list and a shard of it (`shard=3/16`); this is for programs that have the
entries at hand and start the workers themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from bulkspider.api.given import check_entries, row_of
from bulkspider.lists.checking.shards import Shard

Entry = TypeVar("Entry")


def partition(entries: Iterable[Entry], n: int, by: str = "size") -> list[list[Entry]]:
    """Divides entries (as for `fetch`) into at most `n` lists, none of them empty; each keeps their order.

    by: "size", so that all have about the same bytes (the `size` of a dict; an unknown one counts as the average);
    "host", so that all entries of a host are in one list, and its limits hold for all workers together; "count".
    Raises TypeError, ValueError for what is no list of entries.

    >>> partition(["https://a.example/1", "https://b.example/2", "https://a.example/3"], 2, by="host")
    [['https://a.example/1', 'https://a.example/3'], ['https://b.example/2']]
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n={n!r}: a number from 1 on")
    if by not in ("size", "host", "count"):
        raise ValueError(f"by={by!r}: 'size', 'host' or 'count'")
    check_entries(entries)
    given = list(entries)
    rows = [row_of(entry, number) for number, entry in enumerate(given, 1)]
    if by == "host":
        return [[given[at] for at in sorted(part)] for part in _by_host(rows, n) if part]
    sizes = [_size(row, number) if by == "size" else None for number, row in enumerate(rows, 1)]
    parts: list[list[Entry]] = [[] for _ in range(n)]
    for entry, number in zip(given, Shard.numbers(sizes, n), strict=True):
        parts[number - 1].append(entry)
    return [part for part in parts if part]


def _by_host(rows: list[Mapping[str, Any]], n: int) -> list[list[int]]:
    """Positions, divided."""
    hosts: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        if not isinstance(row.get("url"), str):
            raise ValueError(f"entry {at + 1} has no url")
        hosts.setdefault(urlsplit(row["url"]).netloc.rpartition("@")[2].lower(), []).append(at)
    # Entries of hosts, not bytes: a host is asked for so many files at a time whatever their size.
    parts: list[list[int]] = [[] for _ in range(n)]
    for positions in sorted(hosts.values(), key=len, reverse=True):
        min(parts, key=len).extend(positions)
    return parts


def _size(row: Mapping[str, Any], number: int) -> int | None:
    size = row.get("size")
    try:
        return None if size is None else int(size)
    except (TypeError, ValueError):
        raise ValueError(f"entry {number}: size={size!r} is no number of bytes") from None
