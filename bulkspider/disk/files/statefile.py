"""The state: `<name>.part.json`, which says which bytes of a part are on disk, and which version of the object they are
from.

`written` is true as long as this machine stays up, because the page cache survives a kill -9; `durable` was flushed to
the disk (docs/resume.md). The file is replaced by a temporary file and a rename, so a full disk cannot empty it.

Most states are not flushed, because that would take too long: a power cut may leave them empty. So at each checkpoint
the state is also written, and flushed, to `<name>.part.sync.json`. When they are written is decided by
`checkpoints.py`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bulkspider.disk.folder.opening import create_temporary, open_ours
from bulkspider.errors import DiskError
from bulkspider.protocol.plan import PartState, Validators
from bulkspider.protocol.ranges import Ranges

VERSION = 1
# Bytes of a state file that are read at most.
STATE_MAX_BYTES = 1 << 20


def _boot_id() -> str | None:
    """Identifies this boot of this machine; None where that is not known (then only durable bytes are trusted)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


BOOT_ID = _boot_id()


def document_of(state: PartState, durable: Ranges) -> dict[str, Any]:
    """The fields of the file that describe the bytes."""
    return {
        "etag": state.validators.etag,
        "last_modified": state.validators.last_modified,
        "date": state.validators.date,
        "host": state.source,
        "total": state.total,
        "written": [list(pair) for pair in state.have],
        "durable": [list(pair) for pair in durable],
        "boot": BOOT_ID,
    }


def restore(state: PartState, saved: Mapping[str, Any], size: int) -> Ranges:
    """Fills `state` with the bytes that a part of `size` bytes surely has: `written` within the same boot, else
    `durable`; none if the file is malformed. Returns the durable bytes."""
    try:
        durable = Ranges(saved["durable"])
        same_boot = BOOT_ID is not None and saved.get("boot") == BOOT_ID
        have = Ranges(saved["written"]) if same_boot else durable.copy()
        total = saved.get("total")
        validators = Validators(*(_text(saved.get(field)) for field in ("etag", "last_modified", "date")))
    except (KeyError, TypeError, ValueError):
        have, durable, total, validators = Ranges(), Ranges(), None, Validators()
    have.clip(size)
    durable.clip(size)
    if isinstance(total, int):
        have.clip(total)
    state.have = have
    state.total = total if isinstance(total, int) else None
    state.validators = validators
    state.source = _text(saved.get("host"))
    return durable


def replace_state(name: str, dir_fd: int, document: Mapping[str, Any], *, flush: bool = False) -> None:
    """Raises OSError; then the old state is as it was. flush: it must survive a power cut."""
    fd, temporary = create_temporary(dir_fd)
    try:
        try:
            data = json.dumps({"version": VERSION, **document}).encode()
            if os.write(fd, data) != len(data):
                raise OSError(errno.ENOSPC, "short write")
            if flush:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        if flush:
            with contextlib.suppress(OSError):  # some file systems have no such flush
                os.fsync(dir_fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=dir_fd)
        raise


def load_state(name: str | os.PathLike[str], dir_fd: int | None = None) -> dict[str, Any] | None:
    """None where there is no state, or something else has that name; {} where a crash has emptied it."""
    try:
        fd = open_ours(name, os.O_RDONLY, dir_fd=dir_fd)
    except DiskError:
        return None
    with os.fdopen(fd, "rb") as file:
        data = file.read(STATE_MAX_BYTES)
    if not data.strip(b"\0"):
        return {}
    try:
        saved = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return saved if isinstance(saved, dict) else None


def better_state(saved: dict[str, Any] | None, flushed: dict[str, Any] | None, inode: int) -> dict[str, Any] | None:
    """Which of the two states of a part counts after a power cut: the one with more durable bytes.

    flushed: the one of the last checkpoint; it counts for the file `inode` only.
    """
    if not flushed or flushed.get("inode") != inode:
        return saved
    if not saved:
        return flushed
    if "refuted" in saved or saved.get("key") != flushed.get("key") or saved.get("boot") == BOOT_ID:
        return saved
    return flushed if _durable(flushed) > _durable(saved) else saved


def _durable(saved: Mapping[str, Any]) -> int:
    try:
        return Ranges(saved["durable"]).count
    except (KeyError, TypeError, ValueError):
        return 0


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
