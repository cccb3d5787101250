"""How much of a list is done, read from the disk: the list, the ledger, the parts, and the files of a run.

Takes no lock and changes nothing, so it may be used while a run works in the folder. Entries are judged by ledger and
file, as in a dry run, without hashing and without requests.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from bulkspider.codes import Kind, cure
from bulkspider.disk.finished.ledger import Ledger
from bulkspider.disk.finished.line import LineVerdict, judge_line
from bulkspider.disk.folder.opening import PRIVATE, open_ours
from bulkspider.disk.leftovers.held import bytes_held
from bulkspider.entries.entry import Entry, url_key
from bulkspider.errors import DiskError
from bulkspider.failures import Failed, load_failures, load_failures_since
from bulkspider.lists.listsource import Extent, ListSource
from bulkspider.options import clock, human, plural
from bulkspider.status.record import LIVE

# A run writes its status file every two seconds, unless its disk does not answer; a run that was killed leaves the
# file. An older file does not count.
STALE_SECONDS = 20.0
STALE_HERE_SECONDS = 600.0


class Status(Struct):
    """handed_on: of those that are done, entries whose files a command has taken away. failed: codes, of entries that
    are not done; one that a running run tries again is left. bytes_left: as far as sizes are known, from the list or
    from a server's answer; unsized: entries without. holder: who works in the folder now, None if nobody does. live:
    what that run has said last, empty if nothing.
    """

    title: str
    root: str
    entries: int = 0
    done: int = 0
    handed_on: int = 0
    left: int = 0
    bytes_on_disk: int = 0
    bytes_left: int = 0
    unsized: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    permanent: int = 0
    holder: str | None = None
    live: dict[str, Any] = field(default_factory=dict)

    def not_done(self, failed: Failed | None, again: bool) -> None:
        """Counts an entry that is not done. failed: why, None if it has not failed yet. again: the running run tries it
        again."""
        if failed is None or again:
            self.left += 1
        else:
            self.failed[failed.code] += 1
            self.permanent += failed.permanent

    @property
    def exit_status(self) -> int:
        """The exit status of a run that ended now, if unproven files are not counted."""
        if self.left or self.failed.total() > self.permanent:
            return Kind.RETRY.exit_status
        return Kind.PERMANENT.exit_status if self.permanent else 0

    def to_json(self) -> str:
        """One line for programs. waiting: the hosts that are waited for."""
        numbers = {
            "entries": self.entries,
            "done": self.done,
            "failed": self.failed.total(),
            "left": self.left,
            "running": len(self.live.get("running", ())),
            "waiting": [origin for origin, _, _ in self.live.get("waiting", ())],
            "bytes_on_disk": self.bytes_on_disk,
            "bytes_left": self.bytes_left,
        }
        more = {
            "handed_on": self.handed_on,
            "failed_by_code": dict(self.failed),
            "speed": self.live.get("speed", 0),
            "is_running": bool(self.holder),
        }
        return json.dumps(numbers | more)

    def lines(self) -> Iterator[str]:
        """For people."""
        failed = f", {self.failed.total():,} failed" if self.failed else ""
        entries = plural(self.entries, "entry", "entries")
        handed_on = f" ({self.handed_on:,} handed on)" if self.handed_on else ""
        yield f"{self.title}: {entries}: {self.done:,} done{handed_on}{failed}, {self.left:,} left"
        rest = [human(self.bytes_left)] if self.bytes_left or not self.unsized else []
        rest += [f"{plural(self.unsized, 'file', 'files')} of unknown size"] if self.unsized else []
        yield f"in {self.root}: {human(self.bytes_on_disk)}; to fetch: {', and '.join(rest)}"
        for code, times in self.failed.most_common():
            what = cure(code)
            yield f"failed last time: {times:,} with {code}{f' ({what})' if what else ''}"
        if self.holder is None:
            yield "no run works there now"
            return
        running = f": {plural(len(self.live['running']), 'file', 'files')}" if "running" in self.live else ""
        speed = f", {human(self.live['speed'])}/s" if "speed" in self.live else ""
        seconds = self.live.get("seconds_left")
        time_left = f", about {clock(seconds)} left" if seconds else ""
        yield f"a run works there ({self.holder}){running}{speed}{time_left}"
        for origin, wait, why in self.live.get("waiting", ()):
            yield f"waiting for {origin}: {wait} s{f' ({why})' if why else ''}"


def look(source: ListSource, root: str) -> Status:
    """The status of a checked list in its output folder. Raises DiskError when something of ours cannot be read."""
    status = Status(source.title, os.path.abspath(root), source.entries)
    status.live = _live(root)
    if status.live:
        status.holder = f"pid {status.live['pid']} on {status.live['host']}"
    earlier = _Earlier(source, root, status.live)
    ledger = Ledger(Path(root) / PRIVATE)
    ledger.load()
    try:
        while (entry := source.take()) is not None:
            _count(status, entry, ledger, earlier)
    finally:
        ledger.close()
    return status


class _Earlier:
    """The entries that have failed. An entry that failed before the running run counts as left while that run tries it
    again. live: the status file of that run. Raises DiskError."""

    def __init__(self, source: ListSource, root: str, live: dict[str, Any]) -> None:
        self._failures = load_failures(root)
        self._again = _extent(live, source, root) if self._failures else None
        self._now = load_failures_since(root, live["failures_start"]) if self._again is not None else {}

    def find(self, entry: Entry) -> tuple[Failed | None, bool]:
        """Why the entry has failed, and whether it is tried again now."""
        failed = self._failures.get(entry.name)
        if failed is None or self._again is None or entry.name in self._now:
            return failed, False
        return failed, self._again.takes(entry)


def _extent(live: dict[str, Any], source: ListSource, root: str) -> Extent | None:
    """Which entries of the list the running run does; None where that is not known."""
    try:
        extent = Extent(**live["extent"])
        if not isinstance(live["failures_start"], int):
            return None
        if extent.path == source.extent.path:
            return extent
        # That of the failed ones has entries of this one, but not on the same lines.
        is_ours = os.path.dirname(extent.path) == os.path.join(os.path.abspath(root), PRIVATE)
        return replace(extent, last_line=None) if is_ours else None
    except (KeyError, TypeError):
        return None


def _count(status: Status, entry: Entry, ledger: Ledger, earlier: _Earlier) -> None:
    path = os.path.join(status.root, entry.name)
    failed, again = earlier.find(entry)
    if (line := ledger.find(entry.name)) is not None:
        found = None
        with suppress(OSError):
            found = os.lstat(path)
        proof = judge_line(line, key=url_key(entry.url), stat=found, size=entry.size, digests=dict(entry.digests))
        if proof is LineVerdict.PROVEN:
            if found is not None:  # a command may have taken it away
                status.bytes_on_disk += line.size
            if failed is not None and failed.code == "then_failed":  # the file is there, but was not handed on
                status.not_done(failed, again)
            else:
                status.done += 1
                status.handed_on += found is None
            return
    part = bytes_held(path)
    held = 0 if part.foreign else part.bytes
    status.bytes_on_disk += held
    size = entry.size if entry.size is not None else part.total
    if size is None:
        status.unsized += 1
    else:
        status.bytes_left += max(0, size - held)
    status.not_done(failed, again)


def _live(root: str) -> dict[str, Any]:
    """The status file of the run that works there; empty without one."""
    try:
        with open(open_ours(os.path.join(root, PRIVATE, LIVE), os.O_RDONLY), encoding="utf-8") as file:
            live = json.load(file)
        age = time.time() - live["time"]
        if live["host"] == socket.gethostname():
            os.kill(live["pid"], 0)  # raises an OSError where there is no such process
            return dict(live) if age < STALE_HERE_SECONDS else {}
        return dict(live) if age < STALE_SECONDS else {}
    except PermissionError:  # of somebody else, but there
        return dict(live)
    except (DiskError, OSError, ValueError, KeyError, TypeError):
        return {}
