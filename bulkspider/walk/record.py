"""The result of a walk: the list that it writes, row by row, and what could not be read or was left out.

The rows go to a temporary file, which gets its name when the walk has ended successfully; before that there is no list,
and an older one stays as it was. No HTTP here.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from msgspec import Struct

from bulkspider.codes import Kind
from bulkspider.disk.folder.opening import create_temporary
from bulkspider.entries.entry import redact
from bulkspider.errors import BulkError, ListError, disk_error
from bulkspider.options import plural

NAME = "walk.jsonl"
_FLUSH_BYTES = 256 * 1024
# With so many pages that cannot be read, the server does not work: the walk is given up.
GIVE_UP_PAGES = 1000
SHOWN_MAX = 20
IN_SPITE = "--bad-lines skip (-a bad_lines=skip) fetches what the others have; --reject 'FOLDER/' leaves a folder out"


class Unread(Struct, frozen=True):
    """A page that could not be read. name: of its folder, relative to the start."""

    url: str
    name: str
    error: BulkError


class Walked(Struct, frozen=True):
    """The result. list_path: the list. unread: pages that could not be read. warnings: what was left out."""

    list_path: str
    unread: Sequence[Unread] = ()
    warnings: Sequence[str] = ()


class Record:
    """folder: a descriptor of the folder for the list; the caller closes it. where: its path, for messages. files,
    pages: how many there are so far."""

    def __init__(self, folder: int, where: str) -> None:
        self.files = 0
        self.pages = 0
        self.unread: list[Unread] = []
        self._left_out: Counter[str] = Counter()
        self._where = where
        self._folder = folder
        self._rows: list[str] = []
        self._bytes = 0
        self._fd = -1
        self._temporary = ""

    def add(self, name: str, url: str, size: int | None = None) -> None:
        """Adds a file to the list. name: empty when the URL names it. size: bytes, if known. Raises DiskError."""
        row: dict[str, str | int] = {"name": name, "url": url} if name else {"url": url}
        if size is not None:
            row["size"] = size
        line = json.dumps(row)
        self._rows.append(line)
        self._bytes += len(line) + 1
        self.files += 1
        if self._bytes >= _FLUSH_BYTES:
            self._flush()

    def leave_out(self, why: str) -> None:
        """Counts something that is left out. why: the text behind the number in the warning."""
        self._left_out[why] += 1

    def could_not_read(self, url: str, name: str, error: BulkError) -> None:
        """Notes a page of the index that could not be read. name: of its folder. Raises BulkError when the walk must be
        given up."""
        self.unread.append(Unread(url, name, error))
        if len(self.unread) >= GIVE_UP_PAGES:
            raise self.failed()

    def failed(self) -> BulkError:
        """The error when there is no list. Its kind says whether the same command may succeed another time."""
        unread = self.unread
        told = [f"{redact(page.url)}: {page.error}" for page in unread[:SHOWN_MAX]]
        if self.pages:
            head = f"{plural(len(unread), 'page of the index', 'pages of the index')} could not be read"
            head += f", so nothing was begun{'; the first' if len(unread) > SHOWN_MAX else ''}:"
            told = [head, *told, IN_SPITE]
        text = "\n".join(told)
        passing = next((page.error for page in unread if not page.error.permanent), None)
        return ListError(text) if passing is None else BulkError(text, code=passing.code, kind=Kind.FINAL)

    def finish(self) -> Walked:
        """The walk has ended: the list gets its name. Raises DiskError."""
        self._flush()
        try:
            os.fsync(self._fd)
            os.replace(self._temporary, NAME, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError as error:
            raise disk_error(error, self._where) from error
        self._temporary = ""
        self.discard()
        warnings = [f"{times:,} {why}" for why, times in self._left_out.items()]
        return Walked(os.path.join(self._where, NAME), tuple(self.unread), warnings)

    def discard(self) -> None:
        """Removes the temporary file, if the list is not finished."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._temporary:
            with suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._folder)
            self._temporary = ""

    def _flush(self) -> None:
        text = "".join(f"{row}\n" for row in self._rows).encode()
        self._rows.clear()
        self._bytes = 0
        try:
            if self._fd < 0:
                self._fd, self._temporary = create_temporary(self._folder, 0o600)
            view = memoryview(text)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise disk_error(error, self._where) from error
