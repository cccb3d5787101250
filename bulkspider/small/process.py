"""The second process: it fetches the small files that the first one sends, and gives them their names.

Messages are JSON, one a line. From the first process, on standard input: the terms (of the run), then batches and
stops. To it, on standard output: which files are done, each with its line for the ledger, which are handed back, and
which batches have ended. A file is handed back when anything is not as usual; the first process then asks for it in a
request of its own, and judges it. This process ends when its input does, or when the first process is gone.

One thread waits for all connections and commits what is proven, in groups; where the disk is slow, the committer does
that in a thread of its own. No Twisted and no Scrapy, whose import takes longer than a thousand small files.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from msgspec import Struct, field, json

from bulkspider.disk.commit import CommitRequest, Committer, commit_request
from bulkspider.disk.files.entryfiles import PART
from bulkspider.disk.finished.line import LedgerLine
from bulkspider.disk.folder.folder import Folder
from bulkspider.disk.leftovers.journal import begin_journal
from bulkspider.disk.part import Part
from bulkspider.entries.entry import Entry
from bulkspider.errors import BulkError, PartChanged
from bulkspider.hosts.budget import Budget
from bulkspider.hosts.limits import seconds_to_wait
from bulkspider.protocol.heads.answerhead import AnswerHead
from bulkspider.protocol.plan import Ask
from bulkspider.pumps.descriptors import commits_at_once
from bulkspider.run.download import Download
from bulkspider.small.connection import READ_BYTES, Connection, Destination, WholeAnswer
from bulkspider.small.file import hold, is_usual, proof_of
from bulkspider.workers import describe

# Files that may wait in memory for their commit: 8 MiB of them at most.
MOST_COMMITS = 64
# How often the time limits of answers are looked at, and how long a file that is done may wait to be told while its
# batch goes on: each message costs the first process a flush of the ledger.
LOOK_SECONDS = 0.25
TELL_SECONDS = 0.05
# While there are batches, something is told at least so often, so that the first process knows that this one goes on.
TELL_ALIVE_SECONDS = 5.0
# A group of files for one commit: so many, or those of this time.
GROUP_FILES = 32
GROUP_SECONDS = 0.01
# Connections for which open files are kept free, where `ulimit -n` is low.
CONNECTIONS = 2
# The loop commits itself, because two threads would only hand Python's lock to and fro, until so many groups in a row
# have taken longer than this: then the disk is slow, not only the machine busy.
QUICK_COMMIT_SECONDS = 0.02
SLOW_COMMITS = 2
# An unused connection is closed after this time, well before most servers close it.
KEPT_SECONDS = 2.0
# Of prctl(2): the signal that this process gets when the one that started it has ended.
PR_SET_PDEATHSIG = 1


class Terms(Struct, frozen=True, kw_only=True):
    """What holds for all files of a run: its folder, the name under which this process writes there, and settings.
    was_empty: as `Folder.was_empty`, before the run."""

    folder: str
    was_empty: bool
    writer: str
    digest: str
    server_digest: str
    checkpoint: int
    remote_time: bool
    max_size: int | None
    sniffs: bool
    pages: bool
    owed: bool


class Wanted(Struct, eq=False):
    """A file of a batch. number: in its batch. shown_url: without secrets. request: for it, as it is sent."""

    number: int
    entry: Entry
    key: str
    shown_url: str
    request: bytes


def facts_of(entry: Entry) -> list[Any]:
    """What this process must know of an entry, for JSON. Its headers are in the request."""
    return [entry.line, entry.name, entry.url, entry.size, entry.digests, entry.stated_by]


def entry_of(facts: Sequence[Any]) -> Entry:
    line, name, url, size, digests, stated_by = facts
    return Entry(
        *(line, name, url, size),
        digests=tuple((algorithm, digest) for algorithm, digest in digests),
        stated_by=tuple((algorithm, who) for algorithm, who in stated_by),
    )


class Task(Struct, eq=False):
    """A batch. left: its files that were not asked for. current: the one that is. ends: when its answer must be here.
    answers: on the present connection. uncommitted: files on their way to the disk. rest: seconds for which the host
    wants no more requests. asked_anew: `current` was lost with a connection that was used before."""

    number: int
    to: Destination
    seconds: float | None
    left: deque[Wanted]
    connection: Connection | None = None
    current: Wanted | None = None
    download: Download | None = None
    ends: float = float("inf")
    answers: int = 0
    uncommitted: int = 0
    rest: float | None = None
    asked_anew: bool = False
    is_over: bool = False


class Told(Struct):
    """What is to be told to the first process."""

    done: list[tuple[int, int, LedgerLine]] = field(default_factory=list)
    back: list[tuple[int, int, bool, int]] = field(default_factory=list)
    ended: list[tuple[int, float | None]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.done or self.back or self.ended)

    def to_line(self) -> bytes:
        return json.encode(self) + b"\n"


class Process:
    """Works through the batches. `run` returns when the input has ended."""

    def __init__(self, terms: Terms, incoming: int, outgoing: int) -> None:
        self._terms = terms
        self._incoming = incoming
        self._outgoing = outgoing
        self._folder = Folder(terms.folder)
        self._folder.was_empty = terms.was_empty
        begin_journal(self._folder, terms.writer, takes_over=False)
        self._committer = Committer()
        # Each file of a group is open for its commit.
        self._group = commits_at_once(CONNECTIONS, GROUP_FILES)
        self._committer.limit_group(self._group)
        self._selector = selectors.DefaultSelector()
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._tasks: dict[int, Task] = {}
        self._by_connection: dict[Connection, Task] = {}
        self._idle: dict[Connection, float] = {}
        self._paused: deque[Task] = deque()
        self._uncommitted = 0
        self._proven: list[CommitRequest] = []
        self._proven_since = 0.0
        self._slow_commits = 0
        # Commits that have ended, in their thread; a byte in the pipe wakes the loop for them.
        self._committed: deque[tuple[Task, Wanted, Future[LedgerLine]]] = deque()
        self._waker, self._wakes = os.pipe()
        for end in (self._waker, self._wakes):
            os.set_blocking(end, False)
        self._told = Told()
        self._told_at = 0.0

    def run(self, rest: bytes = b"") -> None:
        """rest: of the input, read already."""
        self._selector.register(self._incoming, selectors.EVENT_READ)
        self._selector.register(self._waker, selectors.EVENT_READ)
        text, goes_on, looked = rest, True, 0.0
        while goes_on or self._tasks:
            *lines, text = text.split(b"\n")
            for line in lines:
                self._obey(json.decode(line))
            if self._told or self._proven:
                wait: float | None = GROUP_SECONDS
            else:
                wait = LOOK_SECONDS if self._tasks or self._idle else None
            for key, _ in self._selector.select(wait):
                if key.fd == self._incoming:
                    data = os.read(self._incoming, 1 << 20)
                    text += data
                    if not data:
                        goes_on = False
                        self._selector.unregister(self._incoming)
                        for task in list(self._tasks.values()):
                            self._stop(task)
                elif key.fd == self._waker:
                    with suppress(BlockingIOError):
                        os.read(self._waker, 4096)
                elif key.data.is_open:
                    key.data.happened()
            now = time.monotonic()
            if len(self._proven) >= self._group or (self._proven and now - self._proven_since >= GROUP_SECONDS):
                self._commit(now)
            self._take_commits()
            if now - looked >= LOOK_SECONDS:
                looked = now
                self._look_at_times(now)
            self._tell(now)
        self._committer.close()
        self._folder.close()

    def _tell(self, now: float) -> None:
        seconds = now - self._told_at
        if self._told:
            if not self._told.ended and seconds < TELL_SECONDS:
                return
        elif not self._tasks or seconds < TELL_ALIVE_SECONDS:
            return
        self._told_at = now
        data, self._told = memoryview(self._told.to_line()), Told()
        with suppress(BrokenPipeError):
            while data:
                data = data[os.write(self._outgoing, data) :]

    # -- batches ---------------------------------------------------------------------------------------------------

    def _obey(self, message: Mapping[str, Any]) -> None:
        if "stop" in message:
            if (stopped := self._tasks.get(message["stop"])) is not None:
                self._stop(stopped)
            return
        files = [
            Wanted(number, entry_of(facts), key, shown_url, request.encode("latin-1"))
            for number, (facts, key, shown_url, request) in enumerate(message["files"])
        ]
        task = Task(message["batch"], Destination(*message["to"]), message["seconds"], deque(files))
        self._tasks[task.number] = task
        self._go_on(task)

    def _go_on(self, task: Task) -> None:
        """Asks for the next file, or ends the batch."""
        if self._uncommitted >= MOST_COMMITS:
            self._paused.append(task)
            return
        while task.left and task.current is None:
            wanted = task.left.popleft()
            part = Part(self._folder, wanted.entry.name, wanted.key, checkpoint=self._terms.checkpoint)
            if part.finds_nothing():
                task.current, task.download = wanted, self._download(wanted, part)
            else:
                self._hand_back(task, wanted)
        if task.current is None:
            self._end(task)
        elif (connection := task.connection or self._connect(task)) is not None:
            task.connection = connection
            if connection.is_ready:
                self._ask(task, connection)

    def _connect(self, task: Task) -> Connection | None:
        """A connection that is not in use, or a new one. None: there is none, and the batch has ended."""
        task.answers = 0
        connection = next((kept for kept in self._idle if kept.to == task.to), None)
        if connection is not None:
            del self._idle[connection]
        else:
            try:
                connection = Connection(
                    task.to, self._selector, self._buffer, on_ready=self._is_ready, on_answer=self._has_answer
                )
            except OSError:
                self._give_up(task)
                return None
        self._by_connection[connection] = task
        task.ends = time.monotonic() + task.seconds if task.seconds is not None else float("inf")
        return connection

    def _is_ready(self, connection: Connection) -> None:
        self._ask(self._by_connection[connection], connection)

    def _ask(self, task: Task, connection: Connection) -> None:
        assert task.current is not None
        task.ends = time.monotonic() + task.seconds if task.seconds is not None else float("inf")
        connection.ask(task.current.request)

    def _has_answer(self, connection: Connection, answer: WholeAnswer | None) -> None:
        task = self._by_connection.get(connection)
        if task is None:
            self._idle.pop(connection, None)
            return
        if not connection.is_open:
            del self._by_connection[connection]
            task.connection = None
        if answer is None:
            if connection.is_reused and not task.answers and not task.asked_anew:
                # The host has closed the unused connection in this moment (RFC 9112 §9.3.1).
                task.asked_anew = True
                self._go_on(task)
            else:
                self._give_up(task)
            return
        task.answers += 1
        task.asked_anew = False
        wanted, download = task.current, task.download
        assert wanted is not None
        assert download is not None
        task.current = task.download = None
        if not self._take(task, wanted, download, answer):
            self._hand_back(task, wanted, alone=True, received=download.bytes_received)
        task.rest = seconds_to_wait(answer.head.status, answer.head.fields, time.time())
        if task.rest is not None or (task.connection is None and task.answers < 2):
            # The host wants a pause, or each answer costs a connection here.
            self._give_up(task)
        else:
            self._go_on(task)

    def _give_up(self, task: Task) -> None:
        """Hands back what is left. The file that was asked for gets a request of its own."""
        if task.current is not None:
            self._hand_back(task, task.current, alone=True)
            task.current = task.download = None
        self._end(task)

    def _stop(self, task: Task) -> None:
        if task.current is not None:
            self._hand_back(task, task.current)
            task.current = task.download = None
            if task.connection is not None:
                task.connection.close()
        self._end(task)

    def _end(self, task: Task) -> None:
        """Nothing more is asked for; the batch has ended when its commits have."""
        with suppress(ValueError):
            self._paused.remove(task)
        while task.left:
            self._hand_back(task, task.left.popleft())
        connection, task.connection = task.connection, None
        if connection is not None:
            del self._by_connection[connection]
            if connection.is_open:
                self._idle[connection] = time.monotonic()
        task.is_over = True
        self._end_if_committed(task)

    def _end_if_committed(self, task: Task) -> None:
        if task.is_over and not task.uncommitted:
            del self._tasks[task.number]
            self._told.ended.append((task.number, task.rest))

    def _hand_back(self, task: Task, wanted: Wanted, *, alone: bool = False, received: int = 0) -> None:
        """alone: it gets a request of its own. received: bytes of it that came in vain."""
        self._told.back.append((task.number, wanted.number, alone, received))

    def _look_at_times(self, now: float) -> None:
        for task in list(self._tasks.values()):
            if task.current is not None and now >= task.ends and task not in self._paused:
                if task.connection is not None:
                    task.connection.close()
                self._give_up(task)
        for connection in [kept for kept, since in self._idle.items() if now - since >= KEPT_SECONDS]:
            del self._idle[connection]
            connection.close()

    # -- a file ----------------------------------------------------------------------------------------------------

    def _download(self, wanted: Wanted, part: Part) -> Download:
        return Download(
            entry=wanted.entry,
            folder=self._folder,
            part=part,
            budget=Budget(),
            policy=self._terms.digest,
            server_digest=self._terms.server_digest,
            takes_pages=self._terms.pages,
            url=wanted.entry.url,
        )

    def _take(self, task: Task, wanted: Wanted, download: Download, answer: WholeAnswer) -> bool:
        """Proves the file and gives it to the committer. False: it is not as usual."""
        terms = self._terms
        head = AnswerHead(answer.head.status, answer.head.fields, answer.head.length)
        if not is_usual(download, head, Ask(), terms.max_size):
            return False
        proof = proof_of(download, head, answer.body, sniffs=terms.sniffs, server_digest=terms.server_digest)
        if proof is None or proof.doubts:
            return False
        download.flags |= proof.flags
        hold(download, head, answer.body)
        request = commit_request(
            *(download.part, proof, _NoLedger()),
            flags=download.flags,
            url=wanted.shown_url,
            remote_time=terms.remote_time,
            owed=terms.owed,
        )
        task.uncommitted += 1
        self._uncommitted += 1
        request.done.add_done_callback(partial(self._is_committed, task, wanted, download.part))
        if not self._proven:
            self._proven_since = time.monotonic()
        self._proven.append(request)
        return True

    def _commit(self, now: float) -> None:
        proven, self._proven = self._proven, []
        if self._slow_commits >= SLOW_COMMITS:
            for request in proven:
                self._committer.submit(request)
            return
        for first in range(0, len(proven), self._group):
            with suppress(Exception):  # it is told of each request, too
                self._committer.commit_together(proven[first : first + self._group])
        is_slow = time.monotonic() - now > QUICK_COMMIT_SECONDS
        self._slow_commits = self._slow_commits + 1 if is_slow else 0

    def _is_committed(self, task: Task, wanted: Wanted, part: Part, commit: Future[LedgerLine]) -> None:
        """In the thread that has committed it, or has failed to."""
        if error := commit.exception():
            _leave(part, error)
        first = not self._committed
        self._committed.append((task, wanted, commit))
        if first:
            with suppress(BlockingIOError):
                os.write(self._wakes, b".")

    def _take_commits(self) -> None:
        while self._committed:
            task, wanted, commit = self._committed.popleft()
            task.uncommitted -= 1
            self._uncommitted -= 1
            if commit.exception() is None:
                self._told.done.append((task.number, wanted.number, commit.result()))
            else:
                self._hand_back(task, wanted, alone=True)
            self._end_if_committed(task)
        while self._paused and self._uncommitted < MOST_COMMITS:
            self._go_on(self._paused.popleft())


def _leave(part: Part, error: BaseException) -> None:
    """Its commit has failed: the first process begins the file anew, and must find the part neither open nor there."""
    with suppress(BulkError, OSError):
        # What another program has changed is kept, as ever.
        if part.file.is_open and part.file.has_its_name and not isinstance(error, PartChanged):
            part.files.remove(PART)
    part.close()
    part.folder.note_ended(part.name)


class _NoLedger:
    """In place of the ledger: its lines are told to the first process, which writes them."""

    def append(self, lines: Sequence[LedgerLine]) -> None:
        pass


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Signals are for the first process, which then ends our input.
        signal.signal(number, signal.SIG_IGN)
    first_process = os.getppid()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != first_process:
        return
    data = b""
    while b"\n" not in data:
        more = os.read(0, 1 << 20)
        if not more:
            return
        data += more
    line, _, rest = data.partition(b"\n")
    try:
        Process(json.decode(line, type=Terms), 0, 1).run(rest)
    except Exception as error:
        # One line, which the first process logs. Nothing is cleaned up: what was begun is handed back there.
        print(str(error) if isinstance(error, BulkError) else describe(error), file=sys.stderr, flush=True)
        os._exit(1)
