"""How much memory Python's objects take, in bytes."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Held:
    """bytes: of what was made in the block and still lives at its end. peak: the most that lived at once meanwhile."""

    bytes: int = 0
    peak: int = 0


@contextmanager
def held_by_python() -> Iterator[Held]:
    """Counts what is made in its block; to be read when that has ended."""
    held = Held()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield held
        gc.collect()
        now, peak = tracemalloc.get_traced_memory()
        held.bytes, held.peak = now - before, peak - before
    finally:
        tracemalloc.stop()
