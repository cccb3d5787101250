"""The state: `<name>.part.json`, which says which bytes of a part are there, and of which version of the object.

`written` holds as long as this machine stays up, since the page cache outlives a kill -9; `durable` what was flushed
to the disk (DESIGN, "On disk"). It is replaced by a temporary file and a rename, so that a full disk cannot empty it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bulkspider.plan import PartState, Validators
from bulkspider.ranges import Ranges

VERSION = 1
_TEMPORARY = ".tmp"


def _boot_id() -> str | None:
    """Names this boot of this machine; None where that cannot be known (then only durable bytes are trusted)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


BOOT_ID = _boot_id()


def document_of(state: PartState, durable: Ranges) -> dict[str, Any]:
    """What the file says of the bytes."""
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
    """Fills `state` with what the file proves of a part of `size` bytes, and no more (FAULTS 45): `written` within one
    boot, else `durable`; nothing where it makes no sense. Returns the durable bytes."""
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


def replace_state(name: str, dir_fd: int, document: Mapping[str, Any]) -> None:
    """Raises OSError; then the old one is as it was."""
    temporary = name + _TEMPORARY
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(temporary, flags, 0o666, dir_fd=dir_fd)
        try:
            data = json.dumps({"version": VERSION, **document}).encode()
            if os.write(fd, data) != len(data):
                raise OSError(errno.ENOSPC, "short write")
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=dir_fd)
        raise


def load_state(name: str, dir_fd: int) -> dict[str, Any] | None:
    """None where there is none, or none that can be read."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        try:
            saved = json.loads(file.read(1 << 20))
        except ValueError:
            return None
    return saved if isinstance(saved, dict) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
