"""Shards: one list divided among many runs that do not communicate.

A run with `3/16` takes its sixteenth of the list; together the runs take every entry once. The shard of an entry
depends only on the list, not on the machine, the time or the Python version, so a shard may be run again anywhere.
Pure: names, hosts and sizes; `opening.py` applies it to a checked list.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from hashlib import blake2b

from msgspec import Struct

from bulkspider.errors import UsageError

# How a list may be divided, with the text for messages.
WAYS = {
    "entry": "by a hash of its name",
    "host": "all entries of one host in one shard, so that its limits hold for all shards together",
    "size": "equal bytes, by the size= of the list",
}


class Shard(Struct, frozen=True):
    """Shard `number` (1 to `of`) of `of`, divided `by` one of WAYS."""

    number: int
    of: int
    by: str = "entry"

    @classmethod
    def parse(cls, text: str, by: str = "entry") -> Shard:
        """Reads `3/16`. Numbers may be counted from 0 or from 1: 0/16 is 16/16. Raises UsageError."""
        number, slash, of = (word.strip() for word in text.partition("/"))
        if not (slash and number.isdecimal() and of.isdecimal()) or not int(of) or int(number) > int(of):
            raise UsageError(f"argument shard={text}: write NUMBER/COUNT, for example 3/16")
        if by not in WAYS:
            meanings = "; ".join(f"{way}: {meaning}" for way, meaning in WAYS.items())
            raise UsageError(f"argument shard_by={by}: {meanings}")
        return cls(int(number) or int(of), int(of), by)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def writer(self) -> str:
        """Names this shard's own files in `.bulkspider/`."""
        return f"{self.number}-of-{self.of}"

    def takes(self, text: str) -> bool:
        """A name or host belongs to this shard by its hash."""
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.of == self.number - 1

    def takes_line(self, line: int) -> bool:
        """A line that is no entry, and so has no name, belongs to this shard."""
        return line % self.of == self.number % self.of

    def share(self, sizes: Sequence[int | None]) -> list[bool]:
        """Which of the entries with these sizes are this shard's."""
        return [number == self.number for number in self.numbers(sizes, self.of)]

    @staticmethod
    def numbers(sizes: Sequence[int | None], of: int) -> list[int]:
        """The shard, 1 to `of`, of each entry with these sizes: the largest go first, each to the shard that has least
        (longest processing time first: within a few per cent of equal). An unknown size counts as the average."""
        known = [size for size in sizes if size is not None]
        # At least 1, or entries of no size would all go to one shard.
        average = max(1, sum(known) // len(known)) if known else 1
        weights = [average if size is None else max(1, size) for size in sizes]
        loads = [(0, number) for number in range(1, of + 1)]
        numbers = [0] * len(weights)
        for place in sorted(range(len(weights)), key=lambda place: -weights[place]):
            load, number = loads[0]
            heapq.heapreplace(loads, (load + weights[place], number))
            numbers[place] = number
        return numbers
