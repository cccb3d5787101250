"""The download: one entry under way, with its part and the state of this run's work on it.

It is one object from the entry's turn to its outcome, for all attempts, connections, mirrors and restarts. The
decisions are elsewhere: `dispatch/fetch.py` drives it, `transfer/` makes its attempts, `downloads.py` finishes it. Its
methods that use the disk run in worker threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct, field

from bulkspider.disk.finished.hashing import IncrementalHasher, algorithms_for
from bulkspider.disk.finished.proof import claims_of
from bulkspider.entries.entry import Entry, origin_of, redact, without_userinfo
from bulkspider.entries.urls import path_and_query
from bulkspider.protocol.byteranges import ByteRange, missing
from bulkspider.protocol.digests import REDIRECT, SERVER, Claim, claims, from_headers
from bulkspider.protocol.plan import Expected, PartState
from bulkspider.protocol.resumed import Resumed
from bulkspider.protocol.sniff import says_binary
from bulkspider.text import visible

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from bulkspider.disk.finished.line import LedgerLine
    from bulkspider.disk.folder.folder import Folder
    from bulkspider.disk.part import Part
    from bulkspider.errors import BulkError
    from bulkspider.hosts.budget import Budget
    from bulkspider.items import BulkItem
    from bulkspider.protocol.heads.answerhead import AnswerHead
    from bulkspider.run.origins.origin import Place
    from bulkspider.run.origins.outcome import Again, Fetched, GiveUp, Outcome


class RunningTransfer(Protocol):
    """A transfer of this download that is under way (`transfer/transfer.py`)."""

    def stop(self, error: BulkError) -> None: ...


class Attempt(Struct, eq=False):
    """One request for a download: of all of it, or, as a further connection, of a byte range of it.

    number: of this request among those of the download. place: the place at the origin that it holds while it runs.
    range: the bytes that it shall bring. further: other connections fill the same file already. scheduled: Scrapy has
    taken its request. outcome: set by the handler; None before that, and when our handler did not see the end of the
    request.
    """

    download: Download
    number: int
    place: Place
    range: ByteRange = field(default_factory=ByteRange)
    further: bool = False
    scheduled: bool = False
    outcome: Outcome | None = None


class Download(Struct, eq=False):
    """One entry under way. One class, because each step of the work on an entry needs what the others have found out.

    policy, server_digest: BULK_DIGEST, BULK_SERVER_DIGEST.

    Its source. url: in use now. mirrors: not tried yet. first_error: the error of the listed URL, set when its last
    attempt (`dispatch/fetch.py`) begins. revived: that attempt has brought bytes, so there are as many further ones as
    usual. takes_pages: a web page may be the file (BULK_HTML). of_an_item: it belongs to an item, whose files are
    waited for at the end of the crawl. set_aside: why a file that was there before became `.old`. refreshed_in_vain:
    its URL was renewed and has brought nothing since. needs_room: it waits for room on the disk. has_room: room for its
    rest was found there, and its transfers run. range_max: most bytes to ask for at once. refused_whole_and_in_pieces:
    the origin that refused both the whole file and pieces of it. linked, linked_size: hashes and size in bytes that the
    last redirect stated.

    Its attempts. attempts: number of requests made. broken: how many of these ended in an error. running: those that
    are with Scrapy, by number. numbered: how many numbers were given. grew, whole: one of those that run together has
    brought bytes, has found the file complete. settled: fires when the last of them has ended, with the Outcome of all
    and what follows from it. verdict: fires when the item pipeline has finished the file. item: the item that the
    pipeline gets. alone: it is not fetched in a batch of small files any more.

    Its bytes. transfers: those that run. connections: the most that flowed at once. vain_connections: further
    connections in a row that brought nothing. breaks: how many answers broke off. breaks_after: how many bytes the last
    of these brought. ranges: whether the origin answers ranges of it, None before that is known. undivided: from now on
    it is fetched by one connection only. divided_again_at: it gets no further connection before, because they break
    off early. mixed: its bytes are of two versions, so it must be begun anew. refuted: the state of the bytes that a
    hash refuted. finished: its line in the ledger; the file has its name.
    """

    entry: Entry
    folder: Folder
    part: Part
    budget: Budget
    policy: str
    url: str
    server_digest: str = "require"
    mirrors: list[str] = field(default_factory=list)
    first_error: BulkError | None = None
    revived: bool = False
    refreshed_in_vain: bool = False
    needs_room: bool = False
    has_room: bool = False
    range_max: int | None = None
    refused_whole_and_in_pieces: str | None = None
    also: tuple[str, ...] = ()
    takes_pages: bool = False
    of_an_item: bool = False
    begun: float = field(default_factory=time.monotonic)
    attempts: int = 0
    broken: int = 0
    running: dict[int, Attempt] = field(default_factory=dict)
    numbered: int = 0
    grew: bool = False
    whole: bool = False
    settled: Deferred[tuple[Outcome | None, Fetched | Again | GiveUp | None]] | None = None
    verdict: Deferred[LedgerLine | None] | None = None
    item: BulkItem | None = None
    alone: bool = False
    transfers: set[RunningTransfer] = field(default_factory=set)
    bytes_received: int = 0
    resumed: Resumed = field(default_factory=Resumed)
    largest: int = 0
    connections: int = 0
    vain_connections: int = 0
    breaks: int = 0
    breaks_after: int = 0
    final_url: str | None = None
    set_aside: str | None = None
    flags: set[str] = field(default_factory=set)
    length_proven: bool = True
    refuted_once: bool = False
    refuted: PartState | None = None
    hasher: IncrementalHasher | None = None
    hashing: threading.Lock = field(default_factory=threading.Lock)
    hashed_at: float = 0.0
    linked: dict[str, str] = field(default_factory=dict)
    linked_size: int | None = None
    ranges: bool | None = None
    undivided: bool = False
    divided_again_at: float = 0.0
    mixed: bool = False
    finished: LedgerLine | None = None
    _served: dict[str, str] = field(default_factory=dict)
    _origin_of: tuple[str, str] = ("", "")  # an URL, and its origin
    _shown_url: str | None = None

    def __post_init__(self) -> None:
        self.part.checkpoints.reader = self

    @property
    def path(self) -> str:
        """The path of the finished file."""
        return self.folder.place(self.entry.name)

    @property
    def shown_url(self) -> str:
        """The listed URL without secrets."""
        if self._shown_url is None:
            self._shown_url = redact(self.entry.url)
        return self._shown_url

    @property
    def comes_from_the_list(self) -> bool:
        """Its last answer came from the listed URL: no redirect, no mirror, no fresh link."""
        return self.final_url == self.listed_final_url

    @property
    def listed_final_url(self) -> str:
        """The `final_url` of an answer that came from the listed URL."""
        url = self.entry.url
        return redact(without_userinfo(url)) if "@" in url else self.shown_url

    @property
    def origin(self) -> str:
        """Of its URL now. Asked for at each step of the dispatcher, so it is remembered."""
        if self._origin_of[0] is not self.url:
            self._origin_of = (self.url, origin_of(self.url))
        return self._origin_of[1]

    @property
    def has_listed_hash(self) -> bool:
        """The list or a checksum file states a hash, and it will be compared."""
        return bool(self.entry.digests) and self.policy != "off"

    @property
    def needs_a_look(self) -> bool:
        """Its first bytes must be checked (`protocol/sniff.py`): its name says binary, and the list states no size or
        hash."""
        return self.entry.size is None and not self.has_listed_hash and says_binary(self.entry.name)

    @property
    def size(self) -> int | None:
        """Bytes of the file: what the server says, else what the list says."""
        total = self.part.state.total
        return total if total is not None else self.entry.size

    @property
    def remaining(self) -> int:
        """Bytes that are still to be written; 0 while the length is unknown."""
        return self.part.unwritten

    @property
    def wanted(self) -> Expected:
        """What the list says of it."""
        entry = self.entry
        return Expected(
            name=entry.name,
            url_path=path_and_query(entry.url)[0],
            size=entry.size if entry.size is not None else self.linked_size,
            size_by="the list" if entry.size is not None else "the redirect",
            has_digest=self.has_listed_hash,
            pages=self.takes_pages,
        )

    # -- its connections -------------------------------------------------------------------------------------------

    @property
    def ranges_running(self) -> list[ByteRange]:
        """The byte range of each running request."""
        return [attempt.range for attempt in self.running.values()]

    @property
    def flowing(self) -> list[ByteRange]:
        """The byte ranges whose bytes are coming now."""
        return [byterange for byterange in self.ranges_running if byterange.flowing]

    def divisible(self, most: int) -> bool:
        """A further connection may be of use. most: connections that it may have, 0 for no limit."""
        if (most and len(self.running) >= most) or self.undivided or self.ranges is False:
            return False
        if self.ranges is None and len(self.running) > 1:
            # The second connection will show whether the origin answers ranges.
            return False
        return self.part.state.total is not None and bool(self.flowing)

    def missing(self) -> list[tuple[int, int]]:
        """The holes that no connection is filling. The length must be known."""
        state = self.part.state
        assert state.total is not None
        return missing(state.have, state.total, self.ranges_running)

    def stop_transfers(self, error: BulkError, *, but: RunningTransfer | None = None) -> None:
        """Ends its transfers, all `but` one."""
        for transfer in list(self.transfers):
            if transfer is not but:
                transfer.stop(error)

    # -- its hashes ------------------------------------------------------------------------------------------------

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The algorithms to compute: those of the stated hashes and, unless BULK_DIGEST is off, those in `also`."""
        also = () if self.policy == "off" else self.also
        return tuple(dict.fromkeys([*algorithms_for([claim.algorithm for claim in self.expected], self.policy), *also]))

    @property
    def expected(self) -> list[Claim]:
        """All claims about the file's hashes: of the list, of a redirect, of the server."""
        if not (self.entry.digests or self.linked or self._served):
            return []  # as for most files; asked for four times a second while one comes
        return [*claims_of(self.entry, None), *claims(REDIRECT, self.linked), *claims(SERVER, self._served)]

    def expect(self, digests: Mapping[str, str]) -> None:
        """Notes hashes that the server stated with the bytes. The first ones count until the file is begun anew."""
        if self.server_digest != "ignore":
            self._served = {**digests, **self._served}

    def expect_from(self, head: AnswerHead) -> None:
        """Notes the hashes that an answer states (RFC 9530); they are compared at the end of the file."""
        stated = from_headers(head.fields)
        if stated.representation and (head.answer.encoding is None or head.status == 206):
            self.expect(stated.representation)
        if stated.content and head.status == 200 and head.answer.encoding is None and not head.answer.has_content_range:
            self.expect(stated.content)

    def forget_expected(self) -> None:
        """Drops the hashes of the server: the answer that stated them was not used."""
        self._served = {}

    def is_linked(self, digests: Mapping[str, str], size: int | None) -> None:
        """Notes the hashes and the size (bytes) that the last redirect stated."""
        self.linked = dict(digests) if self.server_digest != "ignore" else {}
        self.linked_size = size

    def hash_more(self, stop: Callable[[], bool], *, until: int | None = None) -> None:
        """Hashes the bytes that have arrived since the last call. Runs in a worker thread during the transfer; at most
        one thread at a time. until: waits for another thread, and hashes up to this byte."""
        wanted = self.algorithms
        if not wanted or not self.hashing.acquire(blocking=until is not None):
            return
        try:
            if until is None and not self.part.file.is_open:
                return  # the attempt has ended meanwhile, and the part is not opened again for this
            if self.hasher is None or not set(wanted) <= self.hasher.digests().keys():
                self.hasher = IncrementalHasher(wanted)
            front = self.part.state.have.front if until is None else until
            if front > self.hasher.hashed:
                self.hasher.follow(self.part.fd, front, stop)
        finally:
            self.hashing.release()

    @property
    def unread_from(self) -> int | None:
        """The first byte that is still to be hashed; None when none is."""
        if not self.algorithms:
            return None
        return 0 if self.hasher is None else self.hasher.hashed

    # -- its end, its row, its restart -----------------------------------------------------------------------------

    def came_at_once(self, size: int) -> None:
        """One answer from the listed URL has brought the whole file, of `size` bytes."""
        self.attempts += 1
        self.connections = 1
        self.largest = size
        self.final_url = self.listed_final_url

    def describe(self, item: BulkItem) -> None:
        """Writes what this run knows into the item."""
        # If a hash refuted the bytes, the row describes these bytes.
        state = self.refuted if self.refuted is not None and self.part.state.total is None else self.part.state
        item.url = self.shown_url
        item.final_url = self.final_url
        item.flags = sorted(self.flags)
        item.set_aside = self.set_aside
        if self.part.file.took_place and item.set_aside is None:
            item.set_aside = "another file had this name when the download was complete"
        item.size = state.total
        item.bytes_received = self.bytes_received
        item.resumed_from = self.resumed.start
        item.attempts = self.attempts
        item.broken = self.broken
        item.connections = self.connections
        item.seconds = round(time.monotonic() - self.begun, 3)
        etag, last_modified = state.validators.etag, state.validators.last_modified
        item.etag = etag and visible(etag)
        item.last_modified = last_modified and visible(last_modified)

    def begin_anew(self, refuted: dict[str, str] | None = None) -> None:
        """Sets the part aside; the file is fetched again from byte 0."""
        with self.hashing:
            self.part.state.restarts += 1
            if refuted is not None:
                self.refuted = self.part.state
            self.part.set_aside(refuted)
            self._served = {}
            self.hasher = None
            self.resumed.begins_anew()
            self.largest = 0
            self.mixed = False
