"""Finds names of a list that would be one file on disk, without keeping the names.

Two names meet when they are equal on some file system (`fold`), or when one is a folder of the other. For every name
and every folder a hash of eight bytes is kept, in 64 buckets that are searched one by one (`Hashes`). Only where hashes
are equal (`Met`) the lines are read again, in the order of the list (`Collisions`): a line that only repeats an earlier
one counts once; every other meeting is an error of the later line.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

from bulkspider.entries.entry import Entry, EntryError
from bulkspider.entries.names import fold, show
from bulkspider.lists.checking.copy import Copy
from bulkspider.lists.checking.plain import key_of_plain
from bulkspider.lists.checking.reader import Form

RENAME_ONE = "rename one of the two"
KEEP_ONE = "keep the line that is right"
BUCKETS = 64  # a power of two; the sets that look through one bucket then need 1/64 of the memory of all names
_RECENT_MAX = 4096


def key_of(name: str) -> bytes:
    """The bytes that are hashed and compared for a name. For a plain ASCII name this is `name.lower()`."""
    return fold(name).encode()


def folders_of(key: bytes) -> Iterator[bytes]:
    """The folders a name needs, the innermost first."""
    while key := key.rpartition(b"/")[0]:
        yield key


class Hashes:
    """The hashes of all names of a list and of all their folders.

    put: the `append` of each bucket; the loop over a million lines uses `put[h & 63](h)` itself.
    """

    def __init__(self) -> None:
        self._names = [array("q") for _ in range(BUCKETS)]
        self._folders = [array("q") for _ in range(BUCKETS)]
        self._recent: set[bytes] = set()
        self.put = tuple(bucket.append for bucket in self._names)

    def __len__(self) -> int:
        return sum(map(len, self._names))

    def add(self, key: bytes) -> None:
        number = hash(key)
        self.put[number & (BUCKETS - 1)](number)
        self.add_folders(key)

    def add_folders(self, key: bytes) -> None:
        """Remembers the folders of a name; neighbours in a list mostly share them."""
        for folder in folders_of(key):
            if folder in self._recent:
                return  # and so are the folders around it
            if len(self._recent) >= _RECENT_MAX:
                self._recent.clear()
            self._recent.add(folder)
            number = hash(folder)
            self._folders[number & (BUCKETS - 1)].append(number)

    def met(self) -> Met:
        """The hashes that two names have in common, or a name and a folder."""
        numbers, starts = array("q"), array("q", [0])
        for names, folders in zip(self._names, self._folders, strict=True):
            once = set(names)
            shared = once.intersection(folders)
            if len(once) != len(names):
                shared.update(number for number, times in Counter(names).items() if times > 1)
            numbers.extend(sorted(shared))
            starts.append(len(numbers))
        return Met(numbers, starts)


class Met:
    """Equal hashes, with a number for each: 0 to len - 1. Two keys may have the same hash by chance."""

    def __init__(self, numbers: array[int], starts: array[int]) -> None:
        self._numbers = numbers
        self._starts = starts

    def __len__(self) -> int:
        return len(self._numbers)

    def index(self, key: bytes) -> int | None:
        """The number of the hash of `key`, or None when nothing met it."""
        number = hash(key)
        bucket = number & (BUCKETS - 1)
        end = self._starts[bucket + 1]
        place = bisect_left(self._numbers, number, self._starts[bucket], end)
        return place if place < end and self._numbers[place] == number else None


class FirstLines:
    """The first line that claimed each key of `Met`: where it begins, and its number."""

    def __init__(self, size: int) -> None:
        self._at = array("q", [-1]) * size
        self._line = array("i", [0]) * size

    def put(self, place: int, at: int, line: int) -> None:
        if self._at[place] < 0:
            self._at[place], self._line[place] = at, line

    def get(self, place: int) -> tuple[int, int] | None:
        """(offset, line number) of the first claim, if there was one."""
        return None if self._at[place] < 0 else (self._at[place], self._line[place])


class Collisions:
    """Reads the list again and judges every entry whose name meets an earlier one."""

    def __init__(self, met: Met, form: Form, copy: Copy) -> None:
        self._met = met
        self._form = form
        self._copy = copy
        self._files = FirstLines(len(met))
        self._folders = FirstLines(len(met))

    def verdicts(self, at: int, number: int) -> Iterator[tuple[Entry, int, int | EntryError]]:
        """From the line at offset `at`, with `number` lines before it: (entry, its offset, verdict).

        The verdict is the number of the line that the entry only repeats, or why it cannot stand beside one. Only an
        entry found good claims its name and folders, so a bad line never makes another one bad.
        """
        for begin, raw in self._copy.lines(at):
            number += 1
            key = self._key(raw, number)
            if key is None:
                continue
            place = self._met.index(key)
            above = [(spot, folder) for folder in folders_of(key) if (spot := self._met.index(folder)) is not None]
            if place is None and not above:
                continue
            entry = self._form.read(raw, number)
            assert entry is not None  # it has a key
            verdict = None if place is None else self._beside(entry, key, place)
            for spot, folder in above:
                verdict = verdict or self._below(entry, folder, spot)
            if verdict is not None:
                yield entry, begin, verdict
                continue
            if place is not None:
                self._files.put(place, begin, number)
            for spot, _ in above:
                self._folders.put(spot, begin, number)

    def _key(self, raw: bytes, number: int) -> bytes | None:
        name = self._form.plain_name(raw)
        if name is not None:
            return key_of_plain(name)
        try:
            entry = self._form.read(raw, number)
        except EntryError:  # the check has noted it
            return None
        return None if entry is None else key_of(entry.name)

    def _beside(self, entry: Entry, key: bytes, place: int) -> int | EntryError | None:
        """The verdict on an entry whose key may have been claimed before, as a file or as a folder."""
        other = self._claimant(self._files.get(place))
        if other is not None and key_of(other.name) == key:
            return _same_name(entry, other)
        other = self._claimant(self._folders.get(place))
        if other is not None and key_of(other.name).startswith(key + b"/"):
            what = f"name {show(entry.name)} is also the folder of {show(other.name)} in line {other.line}"
            return EntryError(what, RENAME_ONE, entry.name)
        return None

    def _below(self, entry: Entry, folder: bytes, spot: int) -> EntryError | None:
        """The verdict on an entry one of whose folders may have been claimed before as a file."""
        other = self._claimant(self._files.get(spot))
        if other is None or key_of(other.name) != folder:
            return None
        what = f"name {show(entry.name)} needs a folder where line {other.line} has the file {show(other.name)}"
        return EntryError(what, RENAME_ONE, entry.name)

    def _claimant(self, claim: tuple[int, int] | None) -> Entry | None:
        return None if claim is None else self._form.read(self._copy.line(claim[0]), claim[1])


def _same_name(entry: Entry, other: Entry) -> int | EntryError:
    before = f"name {show(entry.name)} is that of line {other.line}"
    if entry.url != other.url and entry.name != other.name:
        what = f"name {show(entry.name)} is {show(other.name)} of line {other.line} but for case or Unicode form"
        return EntryError(what, RENAME_ONE, entry.name)
    if entry.url != other.url:
        return EntryError(f"{before}, with another URL", RENAME_ONE, entry.name)
    if entry.size is not None and other.size is not None and entry.size != other.size:
        return EntryError(f"{before}, with another size", KEEP_ONE, entry.name)
    known = dict(other.digests)
    if any(known.get(algorithm, digest) != digest for algorithm, digest in entry.digests):
        return EntryError(f"{before}, with another hash", KEEP_ONE, entry.name)
    return other.line
