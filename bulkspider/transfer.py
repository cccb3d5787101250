"""The transfer: one attempt at one entry, from the request to its outcome.

It asks what `plan.py` says, carries the verdict out to the letter (write, set aside, ask again, give up) and reports
an Outcome. It knows no retry, no pause and no next attempt: `pace.py` and the spider do. Foreign files are met here
too, because only the origin can say what they are worth.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from scrapy.http import Headers
from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import Deferred

from bulkspider import plan
from bulkspider.digest import from_headers
from bulkspider.entry import origin_of, redact, slot_of
from bulkspider.errors import AttemptError, BulkError, Disagreement, DiskError, Stopped
from bulkspider.mover import CHUNK, WORTH_IT, Mover
from bulkspider.pace import Outcome, parse_retry_after
from bulkspider.plan import Ask, Do, Expected, Verdict
from bulkspider.pump import Intake, Pump, Sample
from bulkspider.rates import LIMITED_READ
from bulkspider.secrecy import add_secrets
from bulkspider.spans import Span
from bulkspider.splice import DirectPump
from bulkspider.tlspump import TlsPump
from bulkspider.wire import Head

if TYPE_CHECKING:
    from scrapy import Request

    from bulkspider.download import Download
    from bulkspider.run import Run

logger = logging.getLogger(__name__)

# From here on losing a file at 99 % hurts.
LARGE = 1 << 30
# Fewer bytes than these tell nothing about the speed of a connection.
TELLS_SPEED = 64 * 1024
# The plan alone ends every loop; this is the belt to its braces.
MAX_EXCHANGES = 16


class Transfer:
    """One attempt. `head` is the answer that decided it, for the Response that Scrapy sees."""

    def __init__(self, run: Run, download: Download, request: Request, span: Span | None = None) -> None:
        self.head: Head | None = None
        self.span = span or Span()
        self._run = run
        self.download = download
        self._request = request
        self._part = download.part
        self.host = slot_of(request.url)
        self._pump: Pump | Mover | None = None
        self._pending: Deferred[Head] | None = None
        self._stopped: BulkError | None = None
        self._window_start = time.monotonic()
        self._window_bytes = 0
        # The last two seconds.
        self._speeds: deque[tuple[float, int]] = deque(maxlen=9)

    async def perform(self) -> Outcome:
        """Makes the attempt. Never raises for what networks, origins and disks do: that is in the Outcome."""
        run, download = self._run, self.download
        run.enter(self)
        download.attempting.add(self)
        download.attempts += 1
        run.crawler.stats.inc_value("bulk/attempts")
        outcome = Outcome()
        try:
            if run.stopping:
                raise run.stop_reason or Stopped()
            if not self._part.finds_nothing():
                await maybe_deferred_to_future(run.in_thread(self._part.open))
            outcome = await self._attempt()
        except Redirected:
            download.attempts -= 1
            raise
        except Disagreement as found:
            self._go_on_with_one(found)
        except BulkError as error:
            outcome = Outcome(error=error)
        finally:
            run.leave(self)
            download.attempting.discard(self)
            self.span.flowing = False
        if self._stopped is not None and not outcome.fetched:
            # Stopped for a disagreement it has not failed: there is more to ask for, by one alone.
            outcome = Outcome(error=None if isinstance(self._stopped, Disagreement) else self._stopped)
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
        download.resumed_from = download.largest = state.have.count
        if state.have:
            self._run.crawler.stats.inc_value("bulk/bytes_resumed", state.have.count)
            self._run.pace.served(download.origin)
        if self._part.url_changed:
            download.flags.add("url-changed")
            logger.warning(
                "%s: its part was begun from another URL; it is compared with the new one first", download.entry.name
            )

    async def _settle(self, outcome: Outcome) -> Outcome:
        """Keeps what came, in the state too; tells whether the part grew."""
        have = self._part.state.have.count
        grew = have > self.download.largest and self._brought_something
        self.download.largest = max(have, self.download.largest)
        if not outcome.fetched:
            await maybe_deferred_to_future(self._run.in_thread(self._keep))
        return Outcome(fetched=outcome.fetched, grew=grew, error=outcome.error)

    @property
    def _brought_something(self) -> bool:
        """What the part has more than before is this transfer's work."""
        return True

    def _keep(self) -> None:
        with self.download.hashing:
            self._part.rest(in_use=lambda: bool(self.download.attempting))

    def stop(self, error: BulkError) -> None:
        """Ends the attempt at once; every byte that was received is kept."""
        if self._stopped is None or not isinstance(error, Disagreement):
            self._stopped = error
        if self._pump is not None:
            self._pump.abort(error)
        if self._pending is not None:
            self._pending.cancel()

    def tick(self, now: float) -> None:
        """Four times a second: stalls (BULK_STALL_TIMEOUT without a byte, or below BULK_MIN_SPEED over it)."""
        pump = self._pump
        if pump is None:
            return
        pump.tick(now)
        self._speeds.append((now, pump.received_bytes))
        if now - self._speeds[0][0] >= 1.0:
            self.span.speed = (pump.received_bytes - self._speeds[0][1]) / (now - self._speeds[0][0])
        if self._part.save_is_due:
            # What goes wrong here goes wrong again, and is told, with the next byte or at the end of the attempt.
            self._run.in_thread(self._part.save).addErrback(lambda _: None)
        self._run.follow(self.download)
        options = self._run.options
        if pump.waiting_for_us:
            self._window_start, self._window_bytes = now, pump.received_bytes
        elif now - max(pump.last_byte, self._window_start) >= options.stall_timeout > 0:
            self._break(f"no byte for {options.stall_timeout:g} s", "stall")
        elif now - self._window_start >= options.stall_timeout > 0:
            speed = (pump.received_bytes - self._window_bytes) / (now - self._window_start)
            if speed < options.min_speed:
                self._break(f"slower than BULK_MIN_SPEED ({speed:.0f} bytes/s)", "slow")
            self._window_start, self._window_bytes = now, pump.received_bytes

    @property
    def asking(self) -> bool:
        """True while there is no body to read: connecting, waiting for the answer, or looking at it."""
        return self._pump is None

    def hold(self, held: bool) -> None:
        """Stops or lets flow the body, on behalf of a rate limit."""
        if self._pump is not None:
            self._pump.hold(held)

    def _break(self, why: str, code: str) -> None:
        if self._pump is not None:
            self._pump.abort(AttemptError(why, code=code))

    # ---------------------------------------------------------------------------------------------- the attempt

    async def _attempt(self) -> Outcome:
        if self.download.resumed_from is None:
            self._meet_part()
        if self.download.mixed:
            await self._mend()
        self._know_origin()
        for _ in range(MAX_EXCHANGES):
            if self._part.foreign is not None:
                verdict, asked = await self._meet_foreign()
                if verdict is None:
                    continue
            else:
                asked = self._next_ask()
                verdict = await self._answer_to(asked)
            state = self._part.state
            head = self.head
            assert head is not None
            if verdict.do is Do.LEARN_LENGTH:
                head.drop()
                verdict = await self._learn_length(asked)
            self.download.flags |= verdict.flags
            if verdict.rung is not None:
                state.rung = verdict.rung
                self._run.remember_rung(self._source, verdict.rung)
            state.without_range = state.without_range or verdict.without_range
            if verdict.do is Do.WRITE:
                try:
                    return await self._take(head, verdict)
                except Disagreement as found:
                    if self._stopped is not None or self.download.attempting != {self}:
                        raise
                    verdict = plan.restart(state, found.message)
                    if verdict.do is Do.FAIL and self._part.refuted:
                        await self._begin_anew()
            else:
                head.drop()
            if verdict.do is Do.COMPLETE:
                self._part.learn(total=verdict.total)
                return Outcome(fetched=True)
            if verdict.do is Do.FAIL:
                assert verdict.error is not None
                raise self._with_retry_after(verdict.error, head)
            logger.info("%s: %s; %s", self.download.entry.name, verdict.why, _SAY[verdict.do])
            if verdict.do is Do.RESTART:
                await self._begin_anew()
        raise AttemptError("the origin's answers make no sense together", code="unstable")

    @property
    def _source(self) -> str:
        return origin_of(self._request.url)

    def _know_origin(self) -> None:
        """What the part was begun with counts only where it came from (FAULTS 12); what If-Range an origin
        understands, we may have found out before (FAULTS 11)."""
        state = self._part.state
        if state.have and state.source not in (None, self._source):
            state.validators = plan.Validators()
        state.rung = max(state.rung, self._run.rung(self._source))

    def _next_ask(self) -> Ask:
        """From the first hole on; past the end of the hole only to compare."""
        state, overlap = self._part.state, self._run.options.resume_overlap
        self.span.at = state.have.front
        self.span.end = end = state.have.next_after(self.span.at)
        if end is not None:
            end = min(end + overlap, state.have.end_of(end))
        return plan.ask(state, overlap=overlap, end=end)

    async def _answer_to(self, asked: Ask) -> Verdict:
        head = self.head = await self._exchange(asked)
        if head.status in plan.REDIRECTS and head.answer.location:
            raise Redirected
        return plan.judge(self._known, asked, head.answer, self._expected)

    @property
    def _known(self) -> plan.PartState:
        """What an answer is judged by."""
        return self._part.state

    async def _exchange(self, asked: Ask, method: str = "GET") -> Head:
        if self._stopped is not None:
            raise self._stopped
        request = self._request if method == "GET" else self._request.replace(method=method)
        self._pending = self._run.wire.exchange(request, self._headers(asked))
        began = time.monotonic()
        try:
            head = await maybe_deferred_to_future(self._pending)
            # What AutoThrottle goes by: the time to the head, as with Scrapy's own handlers.
            self._request.meta["download_latency"] = time.monotonic() - began
            return head
        except BulkError:
            if self._stopped is not None:
                raise self._stopped from None
            raise
        finally:
            self._pending = None

    def _headers(self, asked: Ask) -> Headers:
        """The request's own headers, with what the plan asks for; the list's only for the list's own origin."""
        headers = Headers()
        dict.update(headers, self._request.headers)  # names and values are in their normal form already
        for name in ("Range", "If-Range"):
            headers.pop(name, None)
        add_secrets(headers, self.download.entry, self.download.url, self._request.url)
        for name, value in asked.headers().items():
            headers[name] = value
        return headers

    @property
    def _expected(self) -> Expected:
        entry = self.download.entry
        return Expected(
            name=entry.name,
            url_path=urlsplit(self._request.url).path,
            size=entry.size,
            has_digest=bool(entry.digests),
        )

    async def _take(self, head: Head, verdict: Verdict) -> Outcome:
        """Carries out WRITE."""
        download, part = self.download, self._part
        if verdict.fresh:
            logger.info("%s: %s; begun anew", download.entry.name, verdict.why)
            await self._begin_anew()
        state = part.state
        if not state.have or not (state.validators.etag or state.validators.last_modified):
            part.learn(validators=head.answer.validators)
        part.learn(total=verdict.total, source=self._source)
        download.final_url = redact(self._request.url)
        self._warn_of_no_ranges(head, verdict)
        await self._find_room(head)
        self._expect_digests(head)
        if head.answer.content_range is None or self.span.end is None:
            self.span.end = verdict.end
        ending = await self._move(head, verdict)
        if ending.error is not None:
            raise ending.error
        if ending.total is None:
            return self._more(verdict)
        total = ending.total
        download.length_proven = not ending.unproven or total == download.entry.size
        if not download.length_proven:
            if total < (download.entry.size or 0):
                raise AttemptError(f"the connection was closed at byte {total}", code="lost")
            total = await self._prove_length(total)
        if state.have.end > total:
            await self._begin_anew()
            raise AttemptError(f"the object ended at byte {total}, before what was on disk", code="changed")
        if download.entry.size is not None and total != download.entry.size:
            raise AttemptError(
                f"the origin sent {total} bytes, the list says {download.entry.size}", code="size_mismatch", final=True
            )
        part.learn(total=total)
        return Outcome(fetched=True) if state.complete else self._more(verdict)

    async def _move(self, head: Head, verdict: Verdict) -> plan.Ending:
        """The body that WRITE promised, into the part, as far as no other connection takes it over."""
        download, span = self.download, self.span
        span.at = span.first = verdict.first
        span.reach = verdict.end
        if span.end is not None and verdict.end is not None:
            span.end = min(span.end, verdict.end)
        intake = Intake(self._part, span, self._run.options.resume_overlap)
        pump = self._pump_for(head, intake)
        began = self._window_start = time.monotonic()
        self._window_bytes = 0
        self._speeds.clear()
        self._pump = pump
        span.flowing, span.speed, span.began = True, None, began
        if head.status == 206 or head.answer.accept_ranges == "bytes":
            download.ranges = True
        elif head.answer.accept_ranges == "none" or self._part.state.without_range:
            download.ranges = False
        download.connections = max(download.connections, len(download.flowing), 1)
        pump.start()
        self._run.changed()
        try:
            end = await maybe_deferred_to_future(pump.done)
        finally:
            self._pump = None
            span.flowing = False
            if pump.received_bytes >= TELLS_SPEED:
                span.speed = pump.received_bytes / max(time.monotonic() - began, 0.001)
        if span.end is not None:
            verdict = replace(verdict, end=span.end)
        return plan.ending(verdict, end, span.at)

    def _pump_for(self, head: Head, intake: Intake) -> Pump | Mover:
        """A thread takes the socket where that is possible and worth it; the reactor serves the rest."""
        run = self._run
        if head.socket_can_be_taken and intake.end is not None and intake.end - intake.at >= WORTH_IT:
            mover = TlsPump if head.connection.is_tls else DirectPump
            return mover(
                head, intake, run.in_own_thread, self._count_only, partial(run.pay, self.host), self._read_size
            )
        head.connection.read_in_pieces(self._read_size())
        return Pump(head, intake, run.in_thread, self._count)

    def _read_size(self) -> int:
        """Small reads while a rate limit holds, so that the flow is smooth."""
        return LIMITED_READ if self._run.rates.limited else CHUNK

    async def _find_room(self, head: Head) -> None:
        """Before the first byte of many: a disk that fills up in the middle of 64 files helps none of them."""
        run, download = self._run, self.download
        if download.part.state.total is None:
            return
        if not run.fits(download):
            await maybe_deferred_to_future(run.in_thread(download.part.drop_old))
            if not run.fits(download):
                head.drop()
                raise AttemptError(
                    f"no room for its {download.rest} bytes on the file system of {download.folder.root}",
                    code="no_space",
                )
        if run.options.preallocate:
            await maybe_deferred_to_future(run.in_thread(download.part.preallocate))

    def _warn_of_no_ranges(self, head: Head, verdict: Verdict) -> None:
        """RFC 9110 §14.3: such a file can only be fetched in one go."""
        if head.answer.accept_ranges == "none" and (verdict.total or 0) > LARGE:
            logger.warning(
                "%s: %d bytes, and the origin does not resume; a lost connection will begin it anew",
                self.download.entry.name,
                verdict.total,
            )

    def _more(self, verdict: Verdict) -> Outcome:
        """The answer is done and there is more to ask for. If it brought nothing new, that is an error, unless another
        connection took over what it was to bring."""
        taken_over = self.span.end is not None and verdict.end is not None and self.span.end < verdict.end
        if taken_over or self._part.state.have.count > self.download.largest:
            return Outcome()
        raise AttemptError(
            f"the answer ended at byte {self.span.at} and brought nothing that was not there", code="no_progress"
        )

    def _count_only(self, count: int) -> None:
        self.download.bytes_received += count
        self._run.count_bytes(count)

    def _count(self, count: int) -> None:
        self.download.bytes_received += count
        self._run.spend(self, count)

    def _expect_digests(self, head: Head) -> None:
        stated = from_headers(head.fields)
        if head.answer.encoding is None or head.status == 206:
            self.download.expect(dict(stated.representation))
        if head.status == 200 and head.answer.encoding is None and not head.answer.has_content_range:
            self.download.expect(dict(stated.content))

    def _go_on_with_one(self, found: Disagreement) -> None:
        """Connections of one file that do not agree on it end together; one alone finds out what is right."""
        download = self.download
        if self._stopped is None:
            logger.warning("%s: its connections disagree: %s; going on with one", download.entry.name, found.message)
        download.undivided = True
        download.mixed = download.mixed or found.differ
        download.stop_others(self, Disagreement(found.message))

    async def _mend(self) -> None:
        """Two of its connections brought different bytes for the same place."""
        verdict = plan.restart(self._part.state, "its connections brought bytes of two versions")
        await self._begin_anew()
        if verdict.error is not None:
            raise verdict.error
        logger.info("%s: %s; begun anew", self.download.entry.name, verdict.why)

    async def _begin_anew(self) -> None:
        await maybe_deferred_to_future(self._run.in_thread(self.download.begin_anew))

    def _with_retry_after(self, error: AttemptError, head: Head) -> AttemptError:
        if error.http_status is not None:
            error.retry_after = parse_retry_after(head.answer.retry_after, time.time())
        return error

    # ------------------------------------------------------------------------------------ lengths that are not told

    async def _learn_length(self, asked: Ask) -> Verdict:
        """A 416 did not say how long the object is: HEAD may (FAULTS 7)."""
        head = await self._exchange(Ask(), method="HEAD")
        length = head.fields.get("content-length", "")
        if head.status == 200 and length.isdecimal() and head.answer.encoding is None:
            validators = head.answer.validators
            return plan.judge_length(self._part.state, asked, int(length), validators, self._expected)
        return plan.without_range(self._part.state, "416, and no way to learn the length", "bad_range")

    async def _prove_length(self, reached: int) -> int:
        """The body was delimited by the connection's close: one more request may prove that this was all.

        Returns the proven length; leaves `length_proven` False and returns `reached` when the origin gives no means.
        """
        download = self.download
        head = await self._exchange(Ask(first=reached, want=reached))
        piece = head.answer.content_range
        head.drop()
        if head.status in (206, 416) and piece is not None and piece.total is not None:
            download.length_proven = True
            return piece.total
        if head.status == 200 and head.answer.length is not None and head.answer.encoding is None:
            download.length_proven = True
            return head.answer.length
        head = await self._exchange(Ask(), method="HEAD")
        length = head.fields.get("content-length", "")
        if head.status == 200 and length.isdecimal() and head.answer.encoding is None:
            download.length_proven = True
            return int(length)
        return reached

    # ---------------------------------------------------------------------------------------------- foreign files

    async def _meet_foreign(self) -> tuple[Verdict | None, Ask]:
        """Compares a foreign file with the origin (DESIGN, "foreign"). None: go on with what has become of it."""
        part = self._part
        foreign = part.foreign
        assert foreign is not None
        if foreign.usable == 0:
            # Nothing of it can count. It stays where it is until the origin has answered.
            asked = Ask()
            verdict = await self._answer_to(asked)
            if verdict.do is Do.WRITE:
                await self._refuse_foreign("it holds nothing that can be continued")
            return verdict, asked
        for offset, length in plan.samples(foreign.usable):
            asked = Ask(first=offset, end=offset + length, want=offset)
            verdict = await self._answer_to(asked)
            head = self.head
            assert head is not None
            piece = head.answer.content_range
            if verdict.do is Do.NO_PIECES:
                # Nothing can be compared, nor continued. This very answer is the file.
                await self._refuse_foreign("the origin has no ranges to compare it by")
                whole = Ask()
                return plan.judge(part.state, whole, head.answer, self._expected), whole
            if head.status == 416:
                head.drop()
                await self._refuse_foreign("the object is shorter")
                return None, asked
            if verdict.do is not Do.WRITE:
                return verdict, asked
            total = verdict.total
            ours = await maybe_deferred_to_future(self._run.in_thread(part.read, offset, length))
            if piece is None or total is None or foreign.size > total or len(ours) != length:
                head.drop()
                await self._refuse_foreign(f"it has {foreign.size} bytes, the object has {total}")
                return None, asked
            if await self._read(head, verdict) != ours:
                await self._refuse_foreign(f"it differs near byte {offset}")
                return None, asked
            if part.state.validators.contradicts(head.answer.validators):
                raise AttemptError("the object changes while it is compared", code="changed")
            part.learn(total=total, validators=head.answer.validators)
        if (
            foreign.size == foreign.usable == part.state.total
            and foreign.where == self.download.entry.name.rpartition("/")[2]
        ):
            self.download.flags.add("adopted")
            await maybe_deferred_to_future(self._run.in_thread(part.adopt))
            return Verdict(Do.COMPLETE, total=foreign.size), Ask()
        logger.info("%s: continuing the %d bytes that were there", self.download.entry.name, foreign.usable)
        await maybe_deferred_to_future(self._run.in_thread(part.take_over))
        self.download.resumed_from = self.download.largest = foreign.usable
        self._run.crawler.stats.inc_value("bulk/bytes_resumed", foreign.usable)
        return None, Ask()

    async def _refuse_foreign(self, why: str) -> None:
        logger.info(
            "%s: the file that was there is not a part of this one (%s); it is kept as .old",
            self.download.entry.name,
            why,
        )
        await maybe_deferred_to_future(self._run.in_thread(self._part.refuse_foreign))
        self._part.state.total = None
        self._part.state.validators = plan.Validators()

    async def _read(self, head: Head, verdict: Verdict) -> bytes:
        """A short body, into memory."""
        sample = Sample(verdict.first, verdict.end or 0)
        pump = self._pump = Pump(head, sample, self._run.in_thread, self._count)
        self._window_start, self._window_bytes = time.monotonic(), 0
        pump.start()
        try:
            await maybe_deferred_to_future(pump.done)
        finally:
            self._pump = None
        return bytes(sample.data)


class Redirected(Exception):
    """The answer is a redirect: Scrapy's middleware follows it, with a new Request that comes back to us."""


_SAY = {
    Do.RESTART: "begun anew",
    Do.ASK_AGAIN: "asking again",
}
