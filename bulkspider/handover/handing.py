"""Handing on: every proven file is given to a command, at least once.

Before the command runs, the ledger notes `handed_on: begun`; when it has ended with exit status 0, `done`, or `moved`
if the command moves files away. A `moved` line proves its entry without a file. If the run is killed between the two,
the file is handed on once more; if it is gone then, it is fetched again. Only the exit status of the command counts.

A command holds a lock that it inherits, so that the next run waits for a command that a killed run left running, and
two commands never have the same file.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.defer import DeferredSemaphore

from bulkspider.disk.finished.ledger import Ledger
from bulkspider.disk.finished.line import LedgerLine
from bulkspider.disk.finished.proof import add_sha256
from bulkspider.disk.folder.folder import Folder
from bulkspider.disk.folder.opening import open_ours
from bulkspider.entries.urls import redact
from bulkspider.errors import BulkError, Stopped
from bulkspider.handover import command
from bulkspider.handover.command import Template
from bulkspider.pumps.threads import Threads

logger = logging.getLogger(__name__)

PROVEN = ("verified", "complete")
# How often the command is run for a file in one run, if it fails.
TRIES = 3
RETRY_SECONDS = 1.0
LOOK_SECONDS = 0.1


class Then(Struct, frozen=True):
    """The command for every proven file. moves: it moves the file away. at_once: how many commands run at the same
    time. stage_max: most bytes in the folder, 0 for no limit."""

    template: Template
    moves: bool = False
    at_once: int = 2
    stage_max: int = 0


class Handover:
    """Of one run and output folder. lock_name: of the file whose lock the commands hold."""

    def __init__(
        self, then: Then, folder: Folder, ledger: Ledger, threads: Threads, stop: Callable[[], bool], lock_name: str
    ) -> None:
        self._then = then
        self._folder = folder
        self._ledger = ledger
        self._threads = threads
        self._stop = stop
        self._places = DeferredSemaphore(then.at_once)
        path = folder.private / lock_name
        self._lock = open_ours(lock_name, os.O_RDWR | os.O_CREAT, dir_fd=folder.private_fd, path=path)

    async def begin(self) -> None:
        """Waits until no command of an earlier run is running. Raises Stopped."""
        await self._threads.in_own_thread(self._wait_for_others)

    def _wait_for_others(self) -> None:
        told = False
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if not told:
                    logger.warning("a command that an earlier run started is still at work; this run waits for it")
                told = True
            except OSError:
                return  # a file system without locks
            if self._stop():
                raise Stopped
            time.sleep(LOOK_SECONDS)

    def wants(self, line: LedgerLine) -> bool:
        """The file of this line must be handed on."""
        return line.status in PROVEN and line.handed_on not in ("done", "moved")

    async def hand_on(self, line: LedgerLine, url: str) -> LedgerLine:
        """Waits for a place, runs the command until it succeeds; returns the new line of the ledger, or the same one
        when there is nothing to do. Raises BulkError `then_failed` after some tries, DiskError, Stopped."""
        if not self.wants(line):
            return line
        await self._places.acquire()
        try:
            return await self._threads.in_own_thread(self._hand_on, line, url)
        finally:
            self._places.release()

    def _hand_on(self, line: LedgerLine, url: str) -> LedgerLine:
        if self._stop():
            raise Stopped
        if self._then.template.needs_sha256 and "sha256" not in line.digests:
            line = add_sha256(self._folder, self._ledger, line, self._stop)
        path = str(self._folder.path(line.name))
        values = {
            "path": path,
            "name": line.name,
            "url": redact(url),
            "sha256": line.digests.get("sha256", ""),
            "size": str(line.size),
        }
        words = self._then.template.fill(values)
        line = self._note(line, "begun")
        for tries in range(1, TRIES + 1):
            try:
                command.run(words, str(self._folder.root), self._stop, self._lock)
                break
            except BulkError as error:
                if isinstance(error, Stopped) or tries == TRIES or self._folder.lstat(line.name) is None:
                    raise
                logger.warning("%s: %s; trying again", line.name, error)
                self._wait(RETRY_SECONDS * 2 ** (tries - 1))
        if self._then.moves and self._folder.lstat(line.name) is not None:
            logger.warning("%s: the command has succeeded and the file is still there; it is kept", line.name)
        return self._note(line, "moved" if self._then.moves else "done")

    def _note(self, line: LedgerLine, handed_on: str) -> LedgerLine:
        line = replace(line, handed_on=handed_on, time=time.time())
        self._ledger.append([line])
        return line

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._stop():
                raise Stopped
            time.sleep(min(left, LOOK_SECONDS))

    def close(self) -> None:
        """To be called when all commands have ended: closes the lock file."""
        os.close(self._lock)
