"""What the files of the embedded origin contain: any number of bytes from a seed, at any offset, at once.

No HTTP, nothing on disk. `origin.py` serves it; tests and demo compare downloads with its bytes and hash.

A file is made of blocks of 256 KiB. All blocks of a file are one pseudo-random block (SHAKE-128 of the seed),
each rotated by another distance and stamped with its number. So reading costs one copy of memory, yet bytes
of the wrong offset, the wrong block or the wrong seed are wrong bytes, which is what a test of a download needs.
The same seed with a larger size begins with the same bytes: a file that grew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache

#: 256 KiB stays in the processor's cache, so that reading is bound by one copy.
BLOCK = 256 * 1024

#: Odd, so that the distances of the first 2**18 blocks (64 GiB) are all different.
_STEP = 0x9E3779B1

_STAMP = 8


@lru_cache(maxsize=16)
def _base(seed: str, length: int) -> bytes:
    """The pseudo-random block of a seed; a small file pays for its own length only."""
    return hashlib.shake_128(seed.encode()).digest(length)


class Content:
    """`size` deterministic pseudo-random bytes made from `seed`; reads like a file that is never stored."""

    __slots__ = ("_memory", "seed", "size")

    def __init__(self, seed: str, size: int) -> None:
        """size: bytes, not negative."""
        if size < 0:
            raise ValueError("a size cannot be negative")
        self.seed = seed
        self.size = size
        self._memory = memoryview(_base(seed, min(size, BLOCK)))

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes at `offset`; fewer, or none, at the end of the content, as with a file."""
        if offset < 0 or length < 0:
            raise ValueError("offset and length cannot be negative")
        end = min(offset + length, self.size)
        pieces: list[memoryview | bytes] = []
        while offset < end:
            number, start = divmod(offset, BLOCK)
            stop = min(BLOCK, start + end - offset)
            pieces += self._pieces(number, start, stop)
            offset += stop - start
        return b"".join(pieces)

    def blocks(self, length: int = BLOCK) -> Iterator[bytes]:
        """The whole content in order, `length` bytes at a time (the last one shorter)."""
        for offset in range(0, self.size, length):
            yield self.read(offset, length)

    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the whole content; takes as long as hashing `size` bytes takes."""
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block)
        return digest.hexdigest()

    def _pieces(self, number: int, start: int, stop: int) -> list[memoryview | bytes]:
        """Bytes start..stop of block `number`, to be joined: stamp, the rotated base, its wrapped rest."""
        if number == 0:  # neither rotated nor stamped, so that the base of a small file may be short
            return [self._memory[start:stop]]
        pieces: list[memoryview | bytes] = []
        if start < _STAMP:
            pieces.append(number.to_bytes(_STAMP, "big")[start:stop])
            start = min(_STAMP, stop)
        turn = number * _STEP % BLOCK
        pieces.append(self._memory[start + turn : stop + turn])
        pieces.append(self._memory[max(0, start + turn - BLOCK) : max(0, stop + turn - BLOCK)])
        return pieces
