"""The transfer: one attempt at one entry, from the request to its outcome.

It asks as `protocol/plan.py` says, carries the verdict out exactly (write, set aside, ask again, give up) and reports
an Outcome. Retries, pauses and the next attempt are decided in `run/origins/` and `dispatch/`. `asking/` sends its
requests, `body.py` moves the bytes, `foreign.py` compares files of other programs, `length.py` finds out a length
that was not stated.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from scrapy.utils.defer import maybe_deferred_to_future

from bulkspider.codes import Kind
from bulkspider.entries.entry import redact
from bulkspider.errors import AttemptError, BulkError, DiskError, VersionConflict
from bulkspider.options import human
from bulkspider.protocol import plan
from bulkspider.protocol.byteranges import ByteRange
from bulkspider.protocol.plan import Ask, AskAgain, Complete, Fail, LearnLength, NoPieces, Restart, Write
from bulkspider.run.origins.outcome import Outcome
from bulkspider.transfer.asking.bound import Bound
from bulkspider.transfer.asking.exchange import Exchange, Redirected, Reply, with_retry_after
from bulkspider.transfer.body import Body
from bulkspider.transfer.foreign import ForeignComparison, Holes
from bulkspider.transfer.length import learn_length, prove_length

if TYPE_CHECKING:
    from scrapy import Request

    from bulkspider.run.download import Download
    from bulkspider.run.run import Run
    from bulkspider.wire import Head

logger = logging.getLogger(__name__)

# Files from this size on get a warning when they cannot be resumed.
LARGE_BYTES = 1 << 30
# A safety limit: the plan alone ends every loop.
MAX_EXCHANGES = 16


class Transfer:
    """One attempt. One class, because every step may end the attempt, and all share the same clean-up.

    download: the download that it belongs to. span: the bytes that it shall bring.
    """

    def __init__(self, run: Run, download: Download, request: Request, span: ByteRange | None = None) -> None:
        self.span = span or ByteRange()
        self.download = download
        self._run = run
        self._request = request
        self._part = download.part
        self._exchange = Exchange(run, download, request)
        self._body = Body(run, download, request, self.span)
        self._bound = Bound(run, download, self._exchange.source)
        self._final_url = redact(request.url)

    @property
    def head(self) -> Head | None:
        """The head of the last answer that was judged, for the Response that Scrapy gets."""
        return self._exchange.head

    async def perform(self) -> Outcome:
        """Makes the attempt. Errors of networks, origins and disks are in the Outcome. Raises Redirected."""
        run, download = self._run, self.download
        run.transfers.enter(self)
        download.transfers.add(self)
        download.attempts += 1
        run.crawler.stats.inc_value("bulk/attempts")
        outcome = Outcome()
        try:
            if run.stopping:
                raise run.stopping.error
            if not self._part.finds_nothing():
                await maybe_deferred_to_future(run.threads.in_thread(self._part.open))
            outcome = await self._attempt()
            if outcome.fetched:
                holes = Holes(run, download, self._exchange, self._body, self.span, self._bound)
                await holes.compare(lambda: self._known)
                if run.second is not None and self.head is not None:
                    run.second.learn(self._request, self.head)
        except Redirected:
            download.attempts -= 1
            raise
        except VersionConflict as found:
            self._go_on_with_one(found)
        except BulkError as error:
            outcome = Outcome(error=error)
        finally:
            run.transfers.leave(self)
            run.downloads.count_resumed(download)
            download.transfers.discard(self)
            download.has_room = download.has_room and bool(download.transfers)
            self.span.flowing = False
        stopped = self._exchange.stopped
        if stopped is not None and not outcome.fetched:
            # Stopped because connections disagree: no failure, a single connection goes on.
            outcome = Outcome(error=None if isinstance(stopped, VersionConflict) else stopped)
        if outcome.fetched and download.mixed:
            outcome = Outcome()
        try:
            outcome = await self._settle(outcome)
        except DiskError as error:
            outcome = Outcome(error=error)
        if isinstance(outcome.error, DiskError):
            run.disk_failed(outcome.error)
        if isinstance(outcome.error, AttemptError):
            download.broken += 1
        return outcome

    def _meet_part(self) -> None:
        download, state = self.download, self._part.state
        download.resumed.found(state.have)
        download.largest = state.have.count
        if state.have:
            self._run.origins[download.origin].served()
        if self._part.lookup.url_changed:
            download.flags.add("url-changed")
            logger.warning(
                "%s: its part was begun from another URL; it is compared with the new one first", download.entry.name
            )

    async def _settle(self, outcome: Outcome) -> Outcome:
        """Saves the state; adds to the outcome whether the part grew."""
        have = self._part.state.have.count
        gained = max(0, have - self.download.largest) if self._brought_something else 0
        self.download.largest = max(have, self.download.largest)
        if not outcome.fetched:
            await maybe_deferred_to_future(self._run.threads.in_thread(self._keep))
        return Outcome(fetched=outcome.fetched, grew=gained > 0, gained=gained, error=outcome.error)

    @property
    def _brought_something(self) -> bool:
        """The next attempt can go on from the new bytes; not after a POST."""
        return self.download.entry.asked is None

    def _keep(self) -> None:
        with self.download.hashing:
            self._part.end_attempt(in_use=lambda: bool(self.download.transfers))

    def stop(self, error: BulkError) -> None:
        """Ends the attempt at once; every byte that was received is kept."""
        self._exchange.stop(error)
        self._body.stop(error)

    def tick(self, now: float) -> None:
        """Called four times a second: while a body flows, saves the state when that is due and watches the speed."""
        if self.asking or not self._body.is_due(now):
            return
        if self._part.checkpoints.save_is_due:
            # An error here comes again, and is reported, with the next byte or at the end of the attempt.
            self._run.threads.in_thread(self._part.checkpoints.save).addErrback(lambda _: None)
        self._run.downloads.hash_beside(self.download, now)
        self._body.tick(now)

    @property
    def asking(self) -> bool:
        """True while no body flows: connecting, waiting for the answer, or judging it."""
        return not self._body.is_flowing

    # ---------------------------------------------------------------------------------------------- the attempt

    async def _attempt(self) -> Outcome:
        if self.download.entry.asked is not None:
            await self._forget_earlier_answers()
        if not self.download.resumed.is_known:
            self._meet_part()
        if self.download.mixed:
            await self._mend()
        self._know_origin()
        for _ in range(MAX_EXCHANGES):
            if self._part.foreign.found is not None:
                foreign = ForeignComparison(self._run, self.download, self._exchange, self._body, self._bound)
                reply = await foreign.meet(self._part.foreign.found)
            else:
                reply = await self._exchange.ask(self._next_ask(), self._known)
            outcome = await self._carry_out(reply) if reply is not None else None
            while outcome is not None and reply is not None and self._goes_on(reply.asked, outcome):
                reply = await self._exchange.ask(self._next_piece(), self._known)
                outcome = await self._carry_out(reply)
            if outcome is not None:
                return outcome
        # RETRY, unlike for an object that was begun anew too often: the next attempt may get right answers.
        raise AttemptError("the origin's answers contradict each other", code="unstable", kind=Kind.RETRY)

    async def _carry_out(self, reply: Reply) -> Outcome | None:
        """Carries the verdict out. None: ask again. Raises the error of a refusal."""
        head, verdict, state = reply.head, reply.verdict, self._part.state
        if isinstance(verdict, LearnLength):
            head.drop()
            if self._bound.lower_after_416(reply):
                return None
            verdict = await learn_length(self._exchange, state, reply.asked)
        match verdict:
            case Write():
                self.download.flags |= verdict.flags
                return await self._write(head, verdict, reply.asked)
            case Complete(total):
                head.drop()
                self._part.learn(total=total)
                return Outcome(fetched=True)
            case AskAgain() if self._bound.lower_after_416(reply):
                head.drop()
                return None
            case AskAgain(why, validator_kind, without_range):
                head.drop()
                if validator_kind is not None:
                    state.validator_kind = validator_kind
                    self._run.origins[self._exchange.source].understands(validator_kind)
                state.without_range = state.without_range or without_range
                logger.info("%s: %s; asking again", self.download.entry.name, why)
                return None
            case Restart(why):
                head.drop()
                await self._begin_anew(why)
                return None
            case NoPieces(why):
                # Not expected: `_next_ask` makes no request that is judged so.
                head.drop()
                raise AttemptError(why, code="bad_range")
            case Fail(error, flags):
                self.download.flags |= flags
                await self._exchange.hear(head, error)
                with_retry_after(error, head)
                if self._bound.lower(reply.asked, error):
                    return None
                raise error

    async def _write(self, head: Head, verdict: Write, asked: Ask) -> Outcome | None:
        """Takes the body; when it is of another version than the bytes on disk, the file is begun anew."""
        state = self._part.state
        try:
            return await self._take(head, verdict, asked)
        except VersionConflict as found:
            if self._exchange.stopped is not None or self.download.transfers != {self}:
                raise
            again = plan.restart(state, found.message)
            if isinstance(again, Restart):
                await self._begin_anew(again.why)
                return None
            if self._part.checkpoints.refuted:
                await self._begin_anew()
            raise again.error from None

    async def _forget_earlier_answers(self) -> None:
        """A request that is no plain GET, such as a POST: no Range of its answer can be asked for (RFC 9110 §14.2), and
        two answers need not be equal. So each attempt takes the whole of one answer, and bytes of an earlier one do not
        count."""
        download, part = self.download, self._part
        if part.state.have:
            restarts = part.state.restarts
            await self._begin_anew()
            part.state.restarts = restarts  # nothing has changed on the server
        part.foreign.distrust()
        part.state.without_range = True
        download.resumed.found([])

    def _know_origin(self) -> None:
        """The validators of the part hold only for the host that they came from. The kind of If-Range that this origin
        understands may be known from another file."""
        state = self._part.state
        if state.have and state.source not in (None, self._exchange.source):
            state.validators = plan.Validators()
        state.validator_kind = max(state.validator_kind, self._run.origins[self._exchange.source].validator_kind)

    def _next_ask(self) -> Ask:
        """Asks from the first hole on, and a little beyond its end, to compare the bytes behind it."""
        state, overlap = self._part.state, self._overlap
        self.span.at = state.have.front
        self.span.end = end = state.have.next_after(self.span.at)
        if end is not None:
            end = min(end + overlap, state.have.end_of(end))
        return plan.ask(state, overlap=overlap, end=end, most=self._bound.most)

    @property
    def _overlap(self) -> int:
        """Bytes that are compared at a join."""
        download = self.download
        return plan.overlap_after(download.breaks, download.breaks_after, self._run.options.resume_overlap)

    @property
    def _is_alone(self) -> bool:
        """No other connection fills the file, so an answer with the whole file is of use."""
        return self.download.transfers == {self}

    def _goes_on(self, asked: Ask, outcome: Outcome) -> bool:
        """A piece has come completely, and the range has more pieces."""
        return asked.bounded and not outcome.fetched and outcome.error is None and self.span.rest > 0

    def _next_piece(self) -> Ask:
        """Asks for the rest of the range, and a little beyond its end, to compare the bytes of other connections; at
        most as much as the origin sends at once."""
        overlap, total, end = self._overlap, self._part.state.total, self.span.end
        assert end is not None
        end = min(end + overlap, total or end)
        return plan.ask(
            self._known, overlap=overlap, first=self.span.at, end=end, most=self._bound.most, alone=self._is_alone
        )

    @property
    def _known(self) -> plan.PartState:
        """The state by which an answer is judged."""
        return self._part.state

    async def _take(self, head: Head, verdict: Write, asked: Ask) -> Outcome:
        """Moves the body into the part and judges its end. Raises VersionConflict when it differs from the disk."""
        download, part = self.download, self._part
        if verdict.fresh:
            await self._begin_anew("the object changed")
        state = part.state
        if not state.have or not (state.validators.etag or state.validators.last_modified):
            part.learn(validators=head.answer.validators)
        part.learn(total=verdict.total, source=self._exchange.source)
        download.final_url = self._final_url
        _warn_of_no_ranges(download, head, verdict)
        await _find_room(self._run, download, head)
        download.expect_from(head)
        piece = asked.bounded and head.answer.content_range is not None
        if head.answer.content_range is None or self.span.end is None:
            self.span.end = verdict.total if piece and verdict.total is not None else verdict.end
        self._bound.answered(asked, piece=piece)
        ending = await self._body.write(head, verdict, asked)
        if ending.error is not None:
            raise ending.error
        if ending.total is None:
            return self._more(verdict)
        total = ending.total
        expected = self._exchange.expected
        download.length_proven = not ending.unproven or total == expected.size
        if not download.length_proven:
            if total < (expected.size or 0):
                raise AttemptError(f"the connection was closed at byte {total}", code="lost")
            # The length of the answer to a POST cannot be found out by Range or HEAD.
            proven = await prove_length(self._exchange, total) if download.entry.asked is None else None
            if proven is not None:
                download.length_proven, total = True, proven
        if state.have.end > total:
            await self._begin_anew()
            raise AttemptError(f"the object ended at byte {total}, before what was on disk", code="changed")
        if expected.size is not None and total != expected.size:
            raise AttemptError(
                f"the origin sent {total} bytes, {expected.size_by} says {expected.size}", code="size_mismatch"
            )
        part.learn(total=total)
        return Outcome(fetched=True) if state.complete else self._more(verdict)

    def _more(self, verdict: Write) -> Outcome:
        """The answer has ended and bytes of the file are missing. If it brought no new byte, that is an error, unless
        another connection took over its bytes."""
        if self.download.entry.asked is not None:
            raise AttemptError("206 with a part of the answer, and no other part can be asked for", code="bad_range")
        taken_over = self.span.end is not None and verdict.end is not None and self.span.end < verdict.end
        if taken_over or self._part.state.have.count > self.download.largest:
            return Outcome()
        raise AttemptError(f"the answer ended at byte {self.span.at} and brought no new byte", code="no_progress")

    def _go_on_with_one(self, found: VersionConflict) -> None:
        """Two connections of the file disagree: all of them end, and a single one goes on."""
        download = self.download
        if self._exchange.stopped is None and found.outside:
            logger.warning("%s: %s; it is fetched again", download.entry.name, found.message)
        elif self._exchange.stopped is None:
            logger.warning("%s: its connections disagree: %s; going on with one", download.entry.name, found.message)
        download.undivided = True
        download.mixed = download.mixed or found.differ
        download.stop_transfers(VersionConflict(found.message), but=self)

    async def _mend(self) -> None:
        """Begins the file anew, because two connections brought different bytes for the same place."""
        verdict = plan.restart(self._part.state, "the bytes on disk are of two versions, or were changed by somebody")
        if isinstance(verdict, Fail):
            await self._begin_anew()
            raise verdict.error
        await self._begin_anew(verdict.why)

    async def _begin_anew(self, why: str | None = None) -> None:
        """Sets aside the bytes on disk. why: for the log."""
        if why is not None:
            logger.info("%s: %s; begun anew", self.download.entry.name, why)
        await maybe_deferred_to_future(self._run.threads.in_thread(self.download.begin_anew))


async def _find_room(run: Run, download: Download, head: Head) -> None:
    """Raises AttemptError `no_space` before the first byte, so that 64 transfers do not fill the disk before one of
    them is complete."""
    if download.part.state.total is None:
        return
    if not run.downloads.find_room(download, run.clock.now()):
        await maybe_deferred_to_future(run.threads.in_thread(download.part.checkpoints.old.drop))
        if not run.downloads.find_room(download, run.clock.now()):
            head.drop()
            raise AttemptError(
                f"no room for its {human(download.remaining)} on the file system of {download.folder.root}",
                code="no_space",
            )
    if run.options.preallocate:
        await maybe_deferred_to_future(run.threads.in_thread(download.part.preallocate))


def _warn_of_no_ranges(download: Download, head: Head, verdict: Write) -> None:
    """Warns of a large file that cannot be resumed (RFC 9110 §14.3)."""
    if head.answer.accept_ranges == "none" and (verdict.total or 0) > LARGE_BYTES:
        logger.warning(
            "%s: %d bytes, and the origin does not resume; a lost connection will begin it anew",
            download.entry.name,
            verdict.total,
        )
