"""Claims: the worker's questions for entries, and the queue's answers.

It asks for as many entries as it has room for, and again as soon as there is room for more. Where files are so short
that several end before Redis can answer, it asks for those ahead, so that no place waits for an entry however far away
Redis is. What the queue says of the job instead (it is over, paused, lost) is heard here as well.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter, deque
from collections.abc import Callable, Collection
from typing import Any

from bulkspider.codes import Kind
from bulkspider.entries.entry import Entry
from bulkspider.errors import BulkError
from bulkspider.lists.source import Taker
from bulkspider.options import plural
from bulkspider.queue.status import MISSING_CURE
from bulkspider.queue.working.lease import Lease, Leases, clock
from bulkspider.queue.working.link import AWAY_SECONDS, Link

logger = logging.getLogger(__name__)

# An entry is given up after so many failures at changing workers without growth of its part; each of these failures had
# BULK_RETRY_TIMES attempts.
MOST_TRIES = 5
# Seconds between two questions when the queue has nothing for us.
POLL_SECONDS = 0.5
# When Redis has lost the job, a worker waits this many times the length of a lease for it to be pushed again.
LOST_JOB_LEASES = 5
# Entries of one question: a worker of a thousand places does not keep Redis from others.
MOST_AT_ONCE = 64
# Questions that may be under way at once.
MOST_QUESTIONS = 64
# How fast entries are taken is known from so many of them.
TIMED_ENTRIES = 16


class Claims:
    """Of one worker. give_back: takes a lease that is not to be used.

    ready: leased, and not taken by the spider yet. over: nothing is to come any more. left: entries that the job has
    left when the worker is to end. taken: how many the spider took. given_up: of the job, if this worker came too late
    to do anything. stays: when the job is over, it waits for the next push. places: that the spider has free, and
    per_host: most of one host, as it said last. ask_at: not before, by `clock`. nothing_heard: how often the queue had
    nothing."""

    def __init__(
        self, title: str, worker: str, leases: Leases, *, give_back: Callable[[Lease], None], stays: bool = False
    ) -> None:
        self.ready: deque[Lease] = deque()
        self.over = False
        self.left = 0
        self.taken = 0
        self.given_up = 0
        self.places = self.per_host = 1
        self.ask_at = 0.0
        self.nothing_heard = 0
        self._title = title
        self._worker = worker
        self._leases = leases
        self._give_back = give_back
        self._stays = stays
        self._rests = False  # the job is over, and we stay
        self._paused = False
        self._ending = False
        self._lost_at: float | None = None  # since when Redis knows nothing of the job
        self._questions: dict[asyncio.Future[Any], int] = {}  # each with how many entries it asks for
        self._answer_seconds = 0.0  # that the last ones took
        self._taken_at: deque[float] = deque(maxlen=TIMED_ENTRIES)

    def begin(self, link: Link, taker: Taker) -> None:
        self._link, self._taker = link, taker

    @property
    def waits(self) -> bool:
        """The queue has not said yet that it has nothing, or what it gave was not taken yet."""
        return bool(self._questions) or bool(self.ready)

    def take(self, blocked: Collection[str]) -> Entry | None:
        """The next entry that was leased and whose origin is not in `blocked`."""
        refused: list[Lease] = []
        taken = None
        while self.ready and taken is None:
            lease = self.ready.popleft()
            if lease.origin in blocked or not lease.valid:
                refused.append(lease)
            else:
                taken = lease
        for lease in reversed(refused):  # each becomes the first again
            self._give_back(lease)
        if taken is None:
            return None
        self.taken += 1
        self.places -= 1
        self._taken_at.append(clock())
        return taken.entry

    def freed(self) -> None:
        """An entry of ours has ended: what had no place may have one now."""
        self.ask_at = 0.0

    @property
    def _ahead(self) -> int:
        """Entries that will be begun before an answer can be here."""
        times = self._taken_at
        if len(times) < TIMED_ENTRIES:
            return 0
        return int(self._answer_seconds * TIMED_ENTRIES / max(clock() - times[0], 1e-3))

    def ask(self, shut: Collection[str]) -> None:
        """Asks for as many entries as there is room for. shut: origins at which none may begin."""
        wanted = min(self.places + self._ahead - len(self.ready) - sum(self._questions.values()), MOST_AT_ONCE)
        may = not self.over and not self._ending and clock() >= self.ask_at
        if wanted <= 0 or not may or len(self._questions) >= MOST_QUESTIONS:
            return
        held = Counter(lease.origin for lease in self._leases)
        had = [cell for origin, count in held.items() for cell in (origin, count)]
        numbers = self._leases.milliseconds, MOST_TRIES, wanted, self.per_host, len(shut)
        question = self._link.ask("claim", self._worker, *numbers, *shut, *had)
        self._questions[question] = wanted
        asked = clock()
        question.add_done_callback(lambda answer: self._answered(answer, asked))

    def _answered(self, question: asyncio.Future[Any], asked: float) -> None:
        del self._questions[question]
        if question.cancelled():
            return
        if question.exception() is not None:
            self.ask_at = clock() + AWAY_SECONDS
        else:
            kind, *told = question.result()
            self._answer_seconds += (clock() - asked - self._answer_seconds) / 4
            self._hear(kind, told, asked)
        if clock() < self.ask_at:
            asyncio.get_running_loop().call_later(self.ask_at - clock(), self._taker.wake)
        self._taker.wake()

    async def end(self, seconds: float) -> None:
        """Nothing more is asked for. Waits so many seconds for what was asked, which then can be given back."""
        self._ending = True
        if self._questions:
            await asyncio.wait(list(self._questions), timeout=seconds)
        self.ready.clear()

    # -- hearing ---------------------------------------------------------------------------------------------------

    def _hear(self, kind: str, told: list[Any], asked: float) -> None:
        """What the queue answered to a claim."""
        if kind == "gone":
            self._job_is_lost()
            return
        self._lost_at = None
        self._paused = self._paused and kind == "pause"
        if kind == "entries":
            self._rests = False
            for one in told:
                self._receive(asked, *one)
        elif self.over or kind == "again":
            pass
        elif kind == "over" and self._stays:
            if not self._rests:
                logger.info("%s is over: %d done, %d given up; waiting for the next push", self._title, *told)
            self._rests = True
            self._nothing()
        elif kind == "over":
            self.over = True
            done, dead = told
            hint = "; `scrapy bulkqueue status` says why" if dead else ""
            logger.info("%s is over: %d done, %d given up%s", self._title, done, dead, hint)
            if not self.taken:
                # It came too late for anything of its own: its exit status is the job's.
                self.given_up = int(dead)
        elif kind == "pause":
            if not self._paused:
                logger.info("%s is paused: nothing new is begun; `scrapy bulkqueue resume` goes on", self._title)
            self._paused = True
            self._nothing()
        elif kind == "drain":
            self.over = True
            self.left = max(0, int(told[0]) - len(self._leases))
            logger.warning("%s is to end when what runs is finished; %d entries are left", self._title, self.left)
        elif kind == "cancel":
            self.cancelled()
        elif kind == "dropped":
            # The run had begun: what it has of the entries is kept.
            self._end_job(f"{self._title} was dropped", code="no_job")
        elif kind == "owes":
            self._end_job(
                f"{self._title}: {plural(int(told[0]), 'entry is', 'entries are')} missing; {MISSING_CURE}",
                code="job_incomplete",
            )
        elif kind == "unfinished":
            self._end_job(
                f"{self._title}: the push of {told[0]} was broken off; push that list again", code="job_incomplete"
            )
        else:
            self._nothing()

    def _nothing(self) -> None:
        self.nothing_heard += 1
        self.ask_at = clock() + POLL_SECONDS

    def _receive(
        self, asked: float, origin: str, id: str, name: str, text: str, tries: int, best: str, failed_at: str, seat: str
    ) -> None:
        entry, until = Entry.from_meta(json.loads(text)), asked + self._leases.seconds
        lease = Lease(entry, origin, id, text, tries, int(best), failed_at, seat, until)
        if name in self._leases:
            # It was lost to nobody yet, and is still being let go of here.
            self._give_back(lease)
            self.ask_at = clock() + POLL_SECONDS
            return
        self._leases.add(lease)
        if not self._ending:
            self.ready.append(lease)

    def _job_is_lost(self) -> None:
        """Redis has started again without its data, or was emptied. Once the list is pushed again, the job goes on."""
        patience = LOST_JOB_LEASES * self._leases.seconds
        if self._lost_at is None:
            self._lost_at = clock()
            logger.error(
                "%s is lost: this Redis knows nothing of it any more. Push its list again within %.0f s, and all "
                "workers go on; what is done is not fetched again",
                *(self._title, patience),
            )
        if clock() - self._lost_at < patience:
            self.ask_at = clock() + POLL_SECONDS
        else:
            self._end_job(f"{self._title} is lost, and nobody has pushed its list again", code="no_job")

    def cancelled(self) -> None:
        """The job was cancelled."""
        self._end_job(
            f"{self._title} was cancelled; `scrapy bulkqueue resume` and a worker go on with it", code="job_cancelled"
        )

    def _end_job(self, why: str, *, code: str) -> None:
        if not self.over:
            self.over = True
            logger.error("%s", why)
            self._taker.stop(BulkError(why, code=code, kind=Kind.STOP))
