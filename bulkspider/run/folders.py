"""Folders: the output folders of a run, each opened and locked once, with its ledger and its control file."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator

from bulkspider.disk.finished.ledger import Ledger
from bulkspider.disk.folder.folder import Folder
from bulkspider.disk.folder.untouched import UntouchedFolder
from bulkspider.disk.leftovers.journal import begin_journal
from bulkspider.pumps.ratelimit import ControlFile

logger = logging.getLogger(__name__)


# (folder, writer name) of all crawls of this process that share a folder.
_writers: set[tuple[str, str]] = set()


class Folders:
    """One per run; it closes them at its end."""

    def __init__(self) -> None:
        self._folders: dict[str, Folder] = {}
        self._ledgers: dict[str, Ledger] = {}
        self._controls: list[ControlFile] = []
        self._writers: list[tuple[str, str]] = []

    def __bool__(self) -> bool:
        return bool(self._folders)

    def __iter__(self) -> Iterator[Folder]:
        return iter(self._folders.values())

    def use(self, folder: Folder, writer: str | None = None) -> Ledger:
        """Adds an opened and locked folder. writer: the name under which this run writes in a folder that it shares."""
        root = str(folder.root)
        self._folders[root] = folder
        begin_journal(folder, writer)
        ledger = self._ledgers[root] = Ledger(folder.private, writer, dir_fd=folder.private_fd)
        ledger.load()
        if ledger.damaged:
            # A crash tears the last line that was being written.
            logger.info("%s: damaged lines of the ledger passed over: %d", folder.private, ledger.damaged)
        self._controls.append(ControlFile(folder.private / "control.json", folder.private_fd))
        return ledger

    def look_into(self, folder: UntouchedFolder) -> Ledger:
        """Adds the folder of a dry run. Raises DiskError when its ledger cannot be read."""
        root = str(folder.root)
        self._folders[root] = folder
        ledger = self._ledgers[root] = Ledger(folder.private)
        ledger.load()
        return ledger

    def get(self, root: str) -> Folder:
        """The output folder `root`; opened, and locked to share, at its first use. Raises DiskError, UsageError."""
        if root in self._folders:
            return self._folders[root]
        root = os.path.abspath(root)
        if root not in self._folders:
            folder = Folder(root)
            folder.lock(exclusive=False)
            self.use(folder, writer=self._new_writer(root))
        return self._folders[root]

    def _new_writer(self, root: str) -> str:
        """A writer name that no other running crawl, in this process or another, uses in this folder."""
        process = f"{os.uname().nodename}-{os.getpid()}"
        names = itertools.chain([process], (f"{process}-{number}" for number in itertools.count(2)))
        writer = next(name for name in names if (root, name) not in _writers)
        _writers.add((root, writer))
        self._writers.append((root, writer))
        return writer

    def ledger(self, folder: Folder) -> Ledger:
        return self._ledgers[str(folder.root)]

    def changed_controls(self) -> Iterator[tuple[ControlFile, dict[str, int | None]]]:
        """The control files that have changed, and the limits that they set."""
        for control in self._controls:
            limits = control.read()
            if limits is not None:
                yield control, limits

    def close(self) -> None:
        for ledger in self._ledgers.values():
            ledger.close()
        for folder in self._folders.values():
            folder.close()
        _writers.difference_update(self._writers)
