"""Fetch: drives one entry from its turn to its outcome, for the spider, BulkFilesPipeline and the dry run.

It waits for a place at the origin, makes one attempt (or several connections at once), decides what follows, and
repeats that until all bytes are here; then the file is finished. `protocol/plan.py` judges the answers,
`run/origins/` the outcomes. The users differ in how they send requests and finish files (`Frontend`): the spider
gives Requests to Scrapy and lets its item pipeline finish, BulkFilesPipeline uses Scrapy's engine and finishes itself.
Coroutines here await Deferreds, so that they run with every reactor; clock, frontend and disk are arguments, so that a
simulation can run them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Protocol

from msgspec.structs import replace
from twisted.internet.defer import Deferred

from bulkspider.disk.finished.line import LedgerLine
from bulkspider.disk.finished.proof import Refuted
from bulkspider.dispatch.freshurl import FreshUrls, has_expired
from bulkspider.dispatch.segments import Further, Segments
from bulkspider.dispatch.slots import Slots
from bulkspider.entries.entry import redact
from bulkspider.errors import AttemptError, BulkError, Stopped
from bulkspider.lists.source import Source
from bulkspider.run.download import Attempt, Download
from bulkspider.run.origins.origin import Place
from bulkspider.run.origins.outcome import Again, Fetched, GiveUp, Outcome
from bulkspider.run.run import Run
from bulkspider.small.sharing import SmallFiles

logger = logging.getLogger(__name__)


# Is told that an attempt has ended, see `Frontend.send`.
Ended = Callable[[Attempt, "Outcome | None"], None]


class Frontend(Protocol):
    """How the requests are sent and the files are finished."""

    def slot(self, download: Download) -> str:
        """The slot of Scrapy's downloader for its requests."""

    def send(self, attempt: Attempt, ended: Ended) -> None:
        """Sends the request of an attempt. `ended` is called later, once, with the attempt and its outcome (None: it
        was in a batch, and was handed back); never from within `send`."""

    def finish(self, download: Download) -> Deferred[LedgerLine | None]:
        """All bytes are here: finishes the file. Fires with the ledger's line, or None when it must be fetched once
        more. Fails with BulkError."""


class Fetcher:
    """Drives the downloads of one frontend. once: one attempt for each URL of an entry, for a dry run: an error that
    would be retried later is raised. running: the attempts that are under way. numbered: how many attempts were
    made."""

    def __init__(
        self,
        run: Run,
        frontend: Frontend,
        slots: Slots,
        *,
        source: Source | None = None,
        segments: Segments | None = None,
        fresh_urls: FreshUrls | None = None,
        small: SmallFiles | None = None,
        once: bool = False,
    ) -> None:
        self.once = once
        self.running: dict[Attempt, None] = {}
        self.numbered = 0
        self._frontend = frontend
        self._slots = slots
        self._run = run
        self._origins = run.origins
        self._stopping = run.stopping
        self._clock = run.clock
        self._source = source or Source()
        self._segments = segments
        self._fresh_urls = fresh_urls
        self._small = small or SmallFiles()

    # -- one entry -------------------------------------------------------------------------------------------------

    async def fetch(self, download: Download) -> LedgerLine:
        """From the first attempt to the finished file. Raises BulkError when the entry fails or is stopped."""
        not_before = 0.0
        while True:
            try:
                place = await self._slots.enter(download, self._frontend.slot(download), not_before)
            except AttemptError as outage:
                if not self._try_mirror(download, outage):
                    raise
                continue
            outcome, step = await self._ask(download, place)
            not_before = self._clock.now()
            if outcome is None:
                continue  # it was in a batch, and was handed back
            error = outcome.error
            if isinstance(error, Stopped) or (self._stopping and not outcome.fetched):
                raise self._stopping.error
            if error is not None and error.code == "lease_lost":
                raise error
            if download.first_error is not None:
                # Also where it was never asked for, and its origin serves again since.
                was_down = download.first_error.code == "origin_down"
                serves = was_down and not self._origins[download.origin].outage.is_last
                download.revived = download.revived or outcome.grew or serves
                if not download.revived and _is_fruitless(outcome):
                    raise _more_telling(download.first_error, error)
            if outcome.grew:
                download.refreshed_in_vain = False
            if error is not None and await self._find_fresh_url(download, error):
                continue
            if self.once and error is not None and isinstance(step, Again):
                step = GiveUp(error)
            match step:
                case Fetched():
                    self._note_size(download)
                    try:
                        if line := await self._frontend.finish(download):
                            return line
                    except Refuted as error:
                        if not self._try_mirror(download, error):
                            raise
                case Again(at):
                    not_before = at
                    if error is not None and error.code == "no_space" and not self._run.of_a_list:
                        if not self._run.transfers:
                            raise error  # no transfer is under way whose end could make room
                        not_before = at + self._run.options.retry_delay
                    if error is not None:
                        self._say_when(download, error, not_before)
                case GiveUp(why):
                    if not self._try_mirror(download, why):
                        raise why

    def _say_when(self, download: Download, error: BulkError, at: float) -> None:
        seconds = at - self._clock.now()
        when = f"in {seconds:.1f} s" if seconds > 0 else "at once"
        logger.info("%s: %s; trying again %s", download.entry.name, redact(str(error)), when)
        download.needs_room = error.code == "no_space"
        if isinstance(error, AttemptError) and error.retry_after is not None:
            self._source.origin_closed(download.origin, seconds)

    def _try_mirror(self, download: Download, error: BulkError) -> bool:
        if not download.mirrors or not isinstance(error, (AttemptError, Refuted)):
            return False
        download.url = download.mirrors.pop(0)
        logger.warning("%s: %s; trying its mirror %s", download.entry.name, redact(str(error)), redact(download.url))
        return True

    async def _find_fresh_url(self, download: Download, error: BulkError) -> bool:
        """The link has probably expired: looks for a fresh one. False when there is none."""
        if self._fresh_urls is None or not has_expired(error) or download.refreshed_in_vain:
            return False
        name = download.entry.name
        try:
            url = await self._fresh_urls.find(download.entry, download.url)
        except Exception as failure:
            logger.error("%s: no fresh URL (%s: %s)", name, type(failure).__name__, redact(str(failure)))
            return False
        if url is None:
            return False
        logger.info("%s: %s; going on from a fresh URL", name, redact(str(error)))
        # If the fresh link is refused, too, it is not renewed again before some bytes have come.
        download.refreshed_in_vain = True
        download.url = url
        return True

    def _note_size(self, download: Download) -> None:
        plain = download.attempts == 1 and download.comes_from_the_list
        self._small.seen(self._origins[download.origin], download.part.state.total, plain=plain)

    # -- its attempts ----------------------------------------------------------------------------------------------

    def _ask(
        self, download: Download, place: Place
    ) -> Deferred[tuple[Outcome | None, Fetched | Again | GiveUp | None]]:
        """Makes one attempt, or several connections at once; fires when the last of them has ended."""
        download.needs_room = False
        self._source.begun(download.entry, download.part)
        settled = download.settled = Deferred()
        self._send(Attempt(download, download.numbered, place))
        return settled

    def connect(self, further: Further) -> None:
        """One more connection for a download under way."""
        download = further.download
        place = self._slots.places.take(self._frontend.slot(download), self._origins[download.origin], further=True)
        logger.debug(
            "%s: a further connection for the bytes from %d to %s",
            *(download.entry.name, further.range.at, further.range.end),
        )
        self._source.connect(download.entry)
        self._send(Attempt(download, download.numbered, place, further.range, further=True))

    def _send(self, attempt: Attempt) -> None:
        download = attempt.download
        download.running[attempt.number] = attempt
        download.numbered += 1
        self.numbered += 1
        self.running[attempt] = None
        self._frontend.send(attempt, self._end)

    def _end(self, attempt: Attempt, outcome: Outcome | None) -> None:
        """An attempt has ended. None: it was in a batch, and was handed back."""
        download = attempt.download
        if attempt not in self.running:
            return
        del self.running[attempt], download.running[attempt.number]
        origin = attempt.place.origin
        if attempt.range.speed is not None:
            origin.brought(attempt.range.speed)
        if attempt.further:
            self._source.disconnect(download.entry)
        if outcome is None or outcome.error is not None:
            self._small.odd(origin)
        if download.running:
            # Only the last connection that ends decides the outcome; the bytes that this one has not brought are free
            # for others.
            assert outcome is not None
            self._one_of_several(attempt, outcome)
        else:
            self._settle(attempt, outcome)
        self._slots.leave(attempt.place)

    def _settle(self, attempt: Attempt, outcome: Outcome | None) -> None:
        download, step = attempt.download, None
        assert download.settled is not None
        if outcome is not None:
            if download.grew and outcome.retry_after is None:
                outcome = replace(outcome, grew=True)
            if download.whole and outcome.error is None and not download.undivided:
                outcome = replace(outcome, fetched=True)
            now, place = self._clock.now(), attempt.place
            was_open = place.origin.closed(now) is None
            step = place.origin.after(outcome, download.budget, now, place.begun)
            if was_open:
                self._origins.paused(place.origin, now)
        download.grew = download.whole = False
        settled, download.settled = download.settled, None
        settled.callback((outcome, step))

    def _one_of_several(self, attempt: Attempt, outcome: Outcome) -> None:
        download, error, now = attempt.download, outcome.error, self._clock.now()
        download.whole = download.whole or outcome.fetched
        if outcome.grew:
            download.grew = True
            attempt.place.origin.served()
            attempt.place.origin.moved(now)
        if isinstance(error, Stopped):
            return
        if error is not None and outcome.grew and now >= download.divided_again_at:
            # Connections that break at the same time count as one failure.
            gained = 0 if attempt.range.first is None else attempt.range.at - attempt.range.first
            origin, begun = attempt.place.origin, attempt.place.begun
            download.divided_again_at = origin.again_beside(gained, download.budget, now, begun)
        if error is not None:
            logger.info("%s: one of its connections ended (%s)", download.entry.name, redact(str(error)))
        if self._segments is not None:
            self._segments.ended(attempt, error, grew=outcome.grew, now=now)

    @property
    def dividable(self) -> Collection[Attempt]:
        """The attempts that are not in a batch, so that their files may get further connections."""
        return [attempt for attempt in self.running if not attempt.place.shared]


def _is_fruitless(outcome: Outcome) -> bool:
    """In the last pass an entry ends with the first attempt that brings nothing, unless the origin asked us to come
    back later."""
    return outcome.error is not None and not outcome.grew and outcome.retry_after is None


def _more_telling(first: BulkError, last: BulkError | None) -> BulkError:
    """Which of the two errors a row shows. Of an origin that was given up the first one, which says how long it was
    down, unless it works now and refuses the file for good."""
    was_down = first.code in ("origin_down", "no_network")
    return first if last is None or (was_down and not last.permanent) else last
