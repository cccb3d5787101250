"""The second process of a crawl, seen from the first one: when it is started, what it is given, and its end.

It is started when a long list of small files is under way and the machine has a second core. It gets batches of those
origins that the first process has reached since, with usual answers: their address and their certificate, which was
checked, are known then. When it ends before its time, its batches are handed back, and the first process goes on alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from msgspec import json
from scrapy.utils.defer import maybe_deferred_to_future

import bulkspider
from bulkspider.entries.entry import origin_of
from bulkspider.errors import BulkError, DiskError
from bulkspider.protocol.plan import Ask
from bulkspider.small.batch import Requests, answer_seconds
from bulkspider.small.connection import Destination
from bulkspider.small.process import Terms, Told, facts_of
from bulkspider.small.sent import SentBatch
from bulkspider.workers import as_bulk_error

if TYPE_CHECKING:
    from scrapy import Request

    from bulkspider.disk.finished.ledger import Ledger
    from bulkspider.disk.folder.folder import Folder
    from bulkspider.run.download import Download
    from bulkspider.run.run import Run
    from bulkspider.wire import Head

logger = logging.getLogger(__name__)

# Bytes of messages that may be on their way to it, so that writing them never waits: as many as a pipe may hold on
# Linux, if the system grants it (pipe(7), F_SETPIPE_SZ); and where it does not say how many (F_GETPIPE_SZ), a page.
PIPE_BYTES, PAGE_BYTES = 1 << 20, 1 << 12
# How long the end of the crawl, or a stop, waits for it.
END_SECONDS = 5.0
# It says something at least every TELL_ALIVE_SECONDS (`process.py`) while it has batches. Whether it did is looked at
# so often; after so many looks in vain it is killed, and its files are fetched by the first process. Looks are counted,
# because the time goes on while the first process is stopped (SIGSTOP, a machine that sleeps).
LOOK_SECONDS = 5.0
LOOKS_IN_VAIN = 12
# An origin that has served it nothing so often is not asked by it any more: a busy host may refuse one batch.
REFUSALS = 3
# Its own connections know only the default of these.
SETTINGS_OF_CONNECTIONS = (
    "DOWNLOADER_CLIENT_TLS_CIPHERS",
    "DOWNLOADER_CLIENT_TLS_METHOD",
    "DOWNLOADER_CLIENTCONTEXTFACTORY",
    "DOWNLOAD_BIND_ADDRESS",
)
_HOME = os.path.dirname(os.path.dirname(os.path.abspath(bulkspider.__file__)))


def second_process(run: Run, folder: Folder, ledger: Ledger, writer: str | None) -> Second | None:
    """Starts it for the list of a run; None where it can be of no use, or cannot be started."""
    settings = run.crawler.settings
    if run.options.processes < 2 or not sys.executable or _cores() < 2:
        return None
    if any((settings.getpriority(name) or 0) > 0 for name in SETTINGS_OF_CONNECTIONS):
        return None
    options = run.options
    terms = Terms(
        folder=str(folder.root),
        was_empty=folder.was_empty,
        writer="second" if writer is None else f"{writer}.second",
        digest=options.digest,
        server_digest=options.server_digest,
        checkpoint=options.checkpoint,
        remote_time=options.remote_time,
        max_size=options.max_size,
        sniffs=run.downloads.sniffs,
        pages=options.html == "accept",
        owed=run.owes_items,
    )
    try:
        return Second(run, folder, ledger, terms)
    except OSError as error:
        logger.debug("No second process for small files: %s", error)
        return None


def _line(message: object) -> bytes:
    return json.encode(message) + b"\n"


def _room_in(pipe: int) -> int:
    """Bytes that a pipe holds, made as large as the system allows."""
    room = PAGE_BYTES
    for command, argument in (("F_GETPIPE_SZ", 0), ("F_SETPIPE_SZ", PIPE_BYTES)):
        with contextlib.suppress(OSError, AttributeError):
            room = fcntl.fcntl(pipe, getattr(fcntl, command), argument)
    return room


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Second:
    """One per run. Its methods are for the reactor's thread."""

    def __init__(self, run: Run, folder: Folder, ledger: Ledger, terms: Terms) -> None:
        """Starts it. Raises OSError."""
        self._run = run
        self._folder = folder
        self._ledger = ledger
        self._is_over = False
        # Whether it has said anything since the last look, and how many looks ago it did.
        self._was_heard = False
        self._looked_in_vain = 0
        self._end: Any = None
        # What it has written to its standard error.
        self._said = b""
        # By origin: where it was reached, and the Host header.
        self._known: dict[str, tuple[Destination, bytes]] = {}
        # By origin: how often it was known and served nothing.
        self._refusals: Counter[str] = Counter()
        self._numbered = 0
        self._batches: dict[int, SentBatch] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from bulkspider.small.process import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=_HOME,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._input = self._process.stdin
        # A half: stops are written, too, and a pipe is counted in pages.
        self._room = _room_in(self._input.fileno()) // 2
        os.set_blocking(self._input.fileno(), False)
        self._write(terms)
        self._next_look = run.clock.call_later(LOOK_SECONDS, self._look)
        self._reading = run.threads.in_own_thread(self._read)
        self._reading.addBoth(self._has_ended)
        run.stopping.on_stop(lambda reason: self._end_soon())

    # -- what it is given ------------------------------------------------------------------------------------------

    def learn(self, request: Request, head: Head) -> None:
        """A file has come from the origin of `request`, in a request of its own with this answer."""
        origin = origin_of(request.url)
        if origin in self._known or self._refusals[origin] >= REFUSALS:
            return
        reached = self._run.wire.reached(request, head)
        if reached is None:
            return
        to = Destination(reached.address, reached.port)
        if reached.certificate is not None:
            pinned = hashlib.sha256(reached.certificate).hexdigest()
            to = Destination(reached.address, reached.port, reached.name, pinned)
        self._known[origin] = to, reached.host

    def take(self, request: Request, downloads: Sequence[Download]) -> SentBatch | None:
        """The batch for the second process; None when it is one for this process."""
        known = self._known.get(origin_of(request.url))
        is_https = urlsplit(request.url).scheme == "https"
        if self._is_over or known is None or (known[0].name is not None) is not is_https:
            return None
        to, host = known
        requests = Requests(self._run, request, Ask(), host)
        self._numbered += 1
        message = {
            "batch": self._numbered,
            "to": [to.address, to.port, to.name, to.certificate],
            "seconds": answer_seconds(self._run.options),
            "files": [
                (
                    facts_of(download.entry),
                    download.part.key,
                    download.shown_url,
                    requests.of(download.entry).to(download.url).decode("latin-1"),
                )
                for download in downloads
            ],
        }
        data = _line(message)
        if len(data) > self._room:
            return None
        logger.debug("%s: %d small files go to the second process", downloads[0].entry.name, len(downloads))
        return SentBatch(self._run, downloads, self._numbered, data, self._send, self._stop)

    def _send(self, batch: SentBatch) -> None:
        if self._is_over or not self._write_line(batch.message):
            batch.has_ended()
            return
        self._room -= len(batch.message)
        self._batches[batch.number] = batch

    def _stop(self, batch: SentBatch) -> None:
        if batch.number in self._batches:
            self._write({"stop": batch.number})

    def _write(self, message: object) -> None:
        self._write_line(_line(message))

    def _write_line(self, line: bytes) -> bool:
        try:
            return not self._input.closed and os.write(self._input.fileno(), line) == len(line)
        except OSError:
            return False

    # -- its end ---------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Kills it when it has said nothing for long: it hangs, or somebody has stopped it."""
        in_vain = self._batches and not self._was_heard
        self._looked_in_vain = self._looked_in_vain + 1 if in_vain else 0
        self._was_heard = False
        if self._looked_in_vain >= LOOKS_IN_VAIN:
            self._kill()
        else:
            self._next_look = self._run.clock.call_later(LOOK_SECONDS, self._look)

    def _say_end(self) -> None:
        """Nothing more is sent; it commits what is complete, hands back the rest and ends."""
        with contextlib.suppress(OSError):
            self._input.close()

    def _end_soon(self) -> None:
        """Tells it to end, and kills it when it does not."""
        self._say_end()
        if self._end is None and not self._is_over:
            self._end = self._run.clock.call_later(END_SECONDS, self._kill)

    async def close(self) -> None:
        """At the end of the crawl."""
        self._end_soon()
        await maybe_deferred_to_future(self._reading)
        self._process.poll()  # if no thread has read to its end

    def _kill(self) -> None:
        with contextlib.suppress(OSError):
            self._process.kill()

    def _has_ended(self, _: object) -> None:
        was_told, self._is_over = self._input.closed, True
        for timer in (self._next_look, self._end):
            if timer is not None:
                timer.cancel()
        if not was_told and not self._run.stopping:
            logger.warning("The second process ended (%s); small files are fetched by this one", self._why())
            with contextlib.suppress(DiskError):
                if self._folder.journal is not None:
                    self._folder.journal.take_over()
        self._say_end()
        for batch in list(self._batches.values()):
            batch.has_ended()
        self._batches.clear()

    def _why(self) -> str:
        status = self._process.poll()
        if self._looked_in_vain >= LOOKS_IN_VAIN:
            return f"it said nothing for {LOOK_SECONDS * LOOKS_IN_VAIN:.0f} s"
        said = self._said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return said or (f"status {status}" if status is None or status >= 0 else f"signal {-status}")

    # -- what it tells ---------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """In a thread of its own, until the process has ended. Writes the lines of the ledger."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        with self._process.stdout as output, self._process.stderr as errors:
            for text in output:
                if not text.endswith(b"\n"):
                    break  # it was killed in the middle of a message
                self._was_heard = True
                told = json.decode(text, type=Told)
                lines = [line for _, _, line in told.done]
                failed: BulkError | None = None
                try:
                    self._ledger.append(lines)
                except Exception as error:
                    failed = as_bulk_error(error)
                self._run.threads.in_reactor(self._is_told, told, failed)
            self._said = errors.read()
        self._process.wait()

    def _is_told(self, told: Told, failed: BulkError | None) -> None:
        if isinstance(failed, DiskError):
            self._run.disk_failed(failed)
        for batch, number, line in told.done:
            if (sent := self._batches.get(batch)) is None:
                continue
            if failed is None:
                sent.is_done(number, line)
            else:
                sent.has_failed(number, failed)
        for batch, number, alone, received in told.back:
            if (sent := self._batches.get(batch)) is not None:
                sent.is_handed_back(number, alone=alone, received=received)
        for batch, rest in told.ended:
            if (sent := self._batches.pop(batch, None)) is not None:
                self._room += len(sent.message)
                self._judge(sent)
                sent.has_ended(rest)

    def _judge(self, batch: SentBatch) -> None:
        """An origin that serves it nothing is asked by the first process only, until that has learned of it anew."""
        if not batch.was_stopped and all(download.finished is None for download in batch.downloads):
            origin = origin_of(batch.download.url)
            if self._known.pop(origin, None) is not None:
                self._refusals[origin] += 1
