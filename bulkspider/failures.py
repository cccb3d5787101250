"""Which entries failed last time: `.bulkspider/failed.jsonl`, a line for each outcome that matters.

A line says that an entry has failed, and why; or that it is done, which cancels an earlier line. The last line of a
name counts. So a run only appends, and a run that is killed has lost nothing; at its end the file is written anew with
the lines that still count. Entries that a run did not reach keep the outcome of an earlier run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress

from msgspec import Struct

from bulkspider.disk.folder.opening import PRIVATE, create_temporary, open_ours
from bulkspider.errors import DiskError
from bulkspider.regex import regex

_OURS = regex(r"failed(?:\.[\w.-]+)?\.jsonl")


class Failed(Struct, frozen=True):
    """Why an entry failed. permanent: the same list again cannot help."""

    code: str
    permanent: bool


def file_name(writer: str | None, suffix: str = "jsonl") -> str:
    """writer: the shard, or another run that shares the folder; None for a run that has the folder to itself."""
    return f"failed.{suffix}" if writer is None else f"failed.{writer}.{suffix}"


def load_failures(root: str | os.PathLike[str], writer: str | None = None) -> dict[str, Failed]:
    """Name -> why it failed, for an output folder. writer: only the failures of this shard; None for all. Raises
    DiskError."""
    private = os.path.join(root, PRIVATE)
    if not os.path.isdir(private):
        return {}
    names = (
        [file_name(writer)] if writer is not None else [name for name in os.listdir(private) if _OURS.fullmatch(name)]
    )
    failures: dict[str, Failed] = {}
    for name in sorted(names):
        path = os.path.join(private, name)
        if os.path.lexists(path):
            _load(path, failures)
    return failures


def load_failures_since(root: str | os.PathLike[str], start: int) -> dict[str, Failed]:
    """Name -> why it failed, for the run that has the folder to itself. start: bytes that its file had when it began.
    Raises DiskError."""
    failures: dict[str, Failed] = {}
    path = os.path.join(root, PRIVATE, file_name(None))
    if os.path.lexists(path):
        _load(path, failures, start)
    return failures


def _load(path: str, failures: dict[str, Failed], start: int = 0) -> None:
    with open(open_ours(path, os.O_RDONLY), "rb") as file:
        file.seek(start)
        for line in file:
            with suppress(ValueError, KeyError, TypeError):  # a line that a crash tore
                row = json.loads(line)
                if row.get("code"):
                    failures[row["name"]] = Failed(str(row["code"]), bool(row.get("permanent")))
                else:
                    failures.pop(row["name"], None)


def encoded(name: str, failed: Failed | None) -> bytes:
    """The line of an outcome."""
    row = {"name": name} if failed is None else {"name": name, "code": failed.code, "permanent": failed.permanent}
    return json.dumps(row).encode() + b"\n"


def write_private(name: str, lines: Iterable[bytes], folder: int) -> None:
    """A file of mode 600 in the folder of this descriptor, whole or not at all. Raises OSError."""
    fd, temporary = create_temporary(folder, 0o600)
    try:
        with open(fd, "wb") as file:
            file.writelines(lines)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


class FailureJournal:
    """Appends the outcomes of a run. before: what had failed when it began. start: how many bytes the file had then.
    Disk errors are ignored: a run does not end because this file cannot be written."""

    def __init__(self, folder: int, writer: str | None, before: Mapping[str, Failed]) -> None:
        self.failures = dict(before)
        self._folder = folder
        self._name = file_name(writer)
        self._shard = writer is not None
        self._fd = -1
        self._torn = True  # the file may end within a line
        self.start = 0
        with suppress(OSError):
            self.start = os.stat(self._name, dir_fd=folder, follow_symlinks=False).st_size

    def note(self, name: str, failed: Failed | None) -> None:
        """failed: why, None when the entry is done."""
        if failed is None and self.failures.pop(name, None) is None:
            return
        if failed is not None:
            self.failures[name] = failed
        with suppress(OSError, DiskError):
            if self._fd < 0:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
                self._fd = open_ours(self._name, flags, dir_fd=self._folder, path=self._name, mode=0o600)
            line = b"\n" * self._torn + encoded(name, failed)
            self._torn = os.write(self._fd, line) < len(line)

    def close(self) -> None:
        """Writes the file anew, or removes it where nothing has failed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with suppress(OSError):
            if self.failures:
                write_private(self._name, (encoded(*row) for row in self.failures.items()), self._folder)
            # A run that has the folder to itself has read the files of shards, too; they are not needed any more.
            ours = [self._name] if self._shard else filter(_OURS.fullmatch, os.listdir(self._folder))
            for name in ours:
                if name != self._name or not self.failures:
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=self._folder)
