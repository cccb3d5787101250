"""Removes files of ours that nobody needs any more: states without a part, temporary files, parts of entries that are
done.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Callable, Collection
from pathlib import Path

from bulkspider.disk.files.entryfiles import (
    FLUSHED_STATE,
    OLD_PART,
    OLD_STATE,
    PART,
    STATE,
    STATES,
)
from bulkspider.disk.files.statefile import load_state
from bulkspider.disk.folder.opening import lstat_at
from bulkspider.regex import regex

FIRST_TEMPORARY = ".part.json.tmp"
_TEMPORARY = regex(rf"\.bulkspider\.[0-9a-f]{{16}}\.tmp|.+{re.escape(FIRST_TEMPORARY)}")


def remove_litter(root: Path) -> None:
    """Removes states without a part, and temporary files of ours."""
    for _, _, names, directory in os.fwalk(root):
        there = set(names)
        for name in names:
            if not name.endswith((".json", ".tmp")) or not _is_litter(name, there, directory):
                continue
            found = lstat_at(name, directory)
            if found is not None and stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=directory)


def remove_parts(root: Path, are_done: Callable[[list[tuple[str, str]]], Collection[str]]) -> list[str]:
    """Removes parts of ours below `root` that nobody needs any more, with their states, and returns their names.

    are_done: is given entries by (name, key of the URL) that have a part here, and says which of them are done, so that
    no part of theirs will be continued. Parts that a process has open stay, and files that are not ours."""
    removed: list[str] = []
    for path, folders, names, directory in os.fwalk(root):
        if ".bulkspider" in folders:
            folders.remove(".bulkspider")
        keys: dict[str, str] = {}
        for state in names:
            if state.endswith(STATE) and (saved := load_state(state, directory)) and isinstance(saved.get("key"), str):
                name = os.path.relpath(os.path.join(path, state.removesuffix(STATE)), root)
                keys[name] = saved["key"]
        if keys:
            done = are_done(list(keys.items()))
            removed += [name for name in done if name in keys and _remove_part(os.path.basename(name), directory)]
    return removed


def _remove_part(base: str, directory: int) -> bool:
    try:
        fd = os.open(base + PART, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return False
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            return False
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for suffix in (PART, *STATES):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(base + suffix, dir_fd=directory)
    except OSError:
        return False  # somebody has it open, or it cannot be removed: it stays
    finally:
        os.close(fd)
    return True


def _is_litter(name: str, there: set[str], directory: int) -> bool:
    if _TEMPORARY.fullmatch(name):
        return True
    for suffix, part in ((STATE, PART), (FLUSHED_STATE, PART), (OLD_STATE, OLD_PART)):
        base = name.removesuffix(suffix)
        if base != name and base and base + part not in there:
            saved = load_state(name, directory)
            return saved is not None and (not saved or {"key", "written"} <= saved.keys())
    return False
