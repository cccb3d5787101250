"""What is on disk of a file, for a dry run and for `--status`, which only look."""

from __future__ import annotations

import os
from typing import NamedTuple

from bulkspider.disk.files.entryfiles import PART, STATE
from bulkspider.disk.files.statefile import load_state
from bulkspider.disk.leftovers.foreign import CONTROL_FILES
from bulkspider.protocol.ranges import Ranges


class HeldBytes(NamedTuple):
    """What is on disk of a file. foreign: another program has left it. total: bytes of the whole file, None where no
    server has said it yet."""

    bytes: int = 0
    foreign: bool = False
    total: int | None = None


def bytes_held(path: str | os.PathLike[str]) -> HeldBytes:
    """What is on disk of the file `path`, for a dry run and for `--status`: changes nothing, and checks less than
    `Part.open` does."""
    for name in (f"{os.fspath(path)}{PART}", os.fspath(path)):
        try:
            size = os.lstat(name).st_size
        except OSError:
            continue
        try:
            saved = load_state(f"{os.fspath(path)}{STATE}") or {}
            total = saved.get("total")
            return HeldBytes(Ranges(saved["written"]).count, total=total if isinstance(total, int) else None)
        except (ValueError, KeyError, TypeError):
            holes = any(os.path.lexists(f"{os.fspath(path)}{suffix}") for suffix in CONTROL_FILES)
            return HeldBytes(0 if holes else size, foreign=True)
    return HeldBytes()
