"""One attempt in a world: what `bulkspider.transfer` does with sockets, done with an event for each wait.

The plan of resume (`bulkspider.protocol.plan`) judges every answer, as it does in earnest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred

from bulkspider.codes import Kind
from bulkspider.errors import AttemptError, BulkError, DiskError, VersionConflict
from bulkspider.hosts.limits import parse_retry_after
from bulkspider.protocol import plan
from bulkspider.protocol.byteranges import give_back
from bulkspider.protocol.plan import Ask, AskAgain, Complete, Expected, Fail, LearnLength, NoPieces, Restart, Write
from bulkspider.protocol.ranges import Ranges
from bulkspider.protocol.servertext import meaning_of
from bulkspider.run.download import Attempt
from bulkspider.run.origins.outcome import Outcome
from support.world.hosts import LOST_BYTES, Said

if TYPE_CHECKING:
    from support.world.engine import Engine

MAX_EXCHANGES = 16


class SimulatedTransfer:
    """An attempt, from its request to its outcome."""

    def __init__(self, engine: Engine, attempt: Attempt, number: int) -> None:
        self._engine = engine
        self._attempt = attempt
        self._number = number
        self.download = attempt.download
        self.span = attempt.range
        self._begin = self.span.at
        self._stopped: BulkError | None = None
        self._pending: Deferred[None] | None = None
        self._timer: Any = None
        self._flow: tuple[float, int, float, Said] | None = None  # since when, from which byte, how fast, of what
        self._wrote = False

    def __hash__(self) -> int:
        return self._number  # the order in sets is the same in every process

    def stop(self, error: BulkError) -> None:
        if self._stopped is None or not isinstance(error, VersionConflict):
            self._stopped = error
        self._wake(error)

    def _wake(self, error: BaseException | None = None) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self._timer.cancel()
            if error is None:
                pending.callback(None)
            else:
                pending.errback(error)

    async def _sleep(self, seconds: float) -> None:
        if self._stopped is not None:
            raise self._stopped
        pending = self._pending = Deferred()
        self._timer = self._engine.clock.call_later(seconds, self._wake)
        await pending

    # -- the attempt -----------------------------------------------------------------------------------------------

    async def perform(self) -> Outcome:
        download, part = self.download, self.download.part
        download.transfers.add(self)
        download.attempts += 1
        self._host = self._engine.host_of(download.url)
        self._host.open += 1
        outcome = Outcome()
        try:
            if self._attempt.further:
                outcome = await self._bring_segment()
            else:
                outcome = await self._bring_all()
        except VersionConflict as found:
            download.undivided = True
            download.mixed = download.mixed or found.differ
            for other in list(download.transfers):
                if other is not self:
                    other.stop(VersionConflict(found.message))
        except BulkError as error:
            outcome = Outcome(error=error)
        finally:
            download.transfers.discard(self)
            download.has_room = download.has_room and bool(download.transfers)
            self.span.flowing = False
            self._flow = None
            self._host.open -= 1
        if self._stopped is not None and not outcome.fetched:
            outcome = Outcome(error=None if isinstance(self._stopped, VersionConflict) else self._stopped)
        if outcome.fetched and download.mixed:
            outcome = Outcome()
        have = part.state.have.count
        brought = not self._attempt.further or self.span.at > self._begin
        gained = have - download.largest if brought else 0
        grew = gained > 0
        download.largest = max(have, download.largest)
        if not outcome.fetched:
            part.save()
        if isinstance(outcome.error, DiskError):
            self._engine.disk_failed(outcome.error)
        return Outcome(fetched=outcome.fetched, grew=grew, gained=max(gained, 0), error=outcome.error)

    async def _bring_all(self) -> Outcome:
        download, engine = self.download, self._engine
        if not download.resumed.is_known:
            download.resumed.found(download.part.state.have)
            download.largest = download.part.state.have.count
            if download.part.state.have:
                engine.origins[download.origin].served()
        if download.mixed:
            verdict = plan.restart(download.part.state, "two versions")
            engine.begin_anew(download)
            if isinstance(verdict, Fail):
                raise verdict.error
        for _ in range(MAX_EXCHANGES):
            state = download.part.state
            if state.have and state.source not in (None, download.origin):
                state.validators = plan.Validators()
            state.validator_kind = max(state.validator_kind, engine.origins[download.origin].validator_kind)
            asked = self._next_ask()
            said = await self._ask(asked)
            verdict = plan.judge(state, asked, said.answer, self._expected)
            match verdict:
                case Write():
                    try:
                        return await self._take(said, verdict, asked)
                    except VersionConflict as found:
                        if self._stopped is not None or download.transfers != {self}:
                            raise
                        again = plan.restart(download.part.state, found.message)
                        if not isinstance(again, Restart):
                            raise again.error from None
                        engine.begin_anew(download)
                case Complete(total):
                    download.part.state.total = total
                    return Outcome(fetched=True)
                case AskAgain(validator_kind=validator_kind, without_range=without_range):
                    if validator_kind is not None:
                        state.validator_kind = validator_kind
                        engine.origins[download.origin].understands(validator_kind)
                    state.without_range = state.without_range or without_range
                case Restart():
                    engine.begin_anew(download)
                case Fail(error):
                    raise self._refused(error, said)
                case LearnLength() | NoPieces():
                    raise AttemptError("of no use", code="bad_range")
        raise AttemptError("the answers contradict each other", code="unstable", kind=Kind.RETRY)

    async def _bring_segment(self) -> Outcome:
        download, begin, end = self.download, self._begin, self.span.end
        assert end is not None
        try:
            if download.undivided:
                self._leave()
                return Outcome()
            overlap, state = self._overlap, download.part.state
            asked = plan.ask(state, overlap=overlap, first=begin, end=min(end + overlap, state.total or end))
            said = await self._ask(asked)
            verdict = plan.judge(state, asked, said.answer, self._expected)
            match verdict:
                case Write():
                    ending = await self._body(said, verdict)
                    if ending.error is not None:
                        raise ending.error
                    return Outcome(fetched=download.part.state.complete)
                case NoPieces():
                    download.ranges = False
                    self._leave()
                    return Outcome()
                case Fail(error):
                    if error.code == "unstable":
                        raise VersionConflict(str(error))
                    raise self._refused(error, said)
                case Restart(why):
                    raise VersionConflict(why)
            raise AttemptError("of no use for a piece", code="bad_range")
        except BulkError as error:
            self._leave()
            if isinstance(error, AttemptError):
                error.kind = Kind.RETRY
            raise

    def _leave(self) -> None:
        self.span.end = self.span.at
        if self.span.at <= self._begin:
            give_back(self.span, self.download.part.state.have, self.download.ranges_running)

    @property
    def _expected(self) -> Expected:
        entry = self.download.entry
        return Expected(name=entry.name, size=entry.size, has_digest=bool(entry.digests))

    def _next_ask(self) -> Ask:
        state, overlap = self.download.part.state, self._overlap
        self.span.at = state.have.front
        self.span.end = end = state.have.next_after(self.span.at)
        if end is not None:
            end = min(end + overlap, state.have.end_of(end))
        return plan.ask(state, overlap=overlap, end=end)

    async def _ask(self, asked: Ask) -> Said:
        host, clock, name = self._host, self._engine.clock, self.download.entry.name
        waited, first = 0.0, True
        while True:
            met = host.meets(clock.now(), name, waited, first=first)
            first = False
            if isinstance(met, Said):
                await self._sleep(met.seconds)
                self._engine.origins[self.download.origin].heard(met.answer.status, clock.now())
                return met
            await self._sleep(met.seconds)
            if met.error is not None:
                raise met.error
            if not met.seconds:
                break
            waited += met.seconds
        said = host.answers(clock.now(), name, asked, self._engine.issued(self.download.url))
        await self._sleep(said.seconds)
        self._engine.origins[self.download.origin].heard(said.answer.status, clock.now())
        return said

    def _refused(self, error: AttemptError, said: Said) -> AttemptError:
        error.server_said = said.body or None
        plan.learn_meaning(error, meaning_of(error.http_status or 0, said.fields, said.body))
        if error.http_status is not None:
            error.retry_after = parse_retry_after(said.answer.retry_after, 0.0)
        return error

    # -- its body --------------------------------------------------------------------------------------------------

    async def _take(self, said: Said, verdict: Write, asked: Ask) -> Outcome:
        download, engine = self.download, self._engine
        if verdict.fresh:
            engine.begin_anew(download)
        state = download.part.state
        if not state.have or not state.validators.etag:
            state.validators = said.answer.validators
        if verdict.total is not None:
            state.total = verdict.total
        state.source = download.origin
        if state.total is not None and not engine.downloads.find_room(download, engine.clock.now()):
            raise AttemptError("no room", code="no_space")
        if said.answer.content_range is None or self.span.end is None:
            self.span.end = verdict.end
        ending = await self._body(said, verdict)
        if ending.error is not None:
            raise ending.error
        if ending.total is not None:
            state.total = ending.total
            if state.complete:
                return Outcome(fetched=True)
        taken_over = self.span.end is not None and verdict.end is not None and self.span.end < verdict.end
        if taken_over or state.have.count > download.largest:
            return Outcome()
        raise AttemptError("nothing new", code="no_progress")

    async def _body(self, said: Said, verdict: Write) -> plan.Ending:
        download, span, host, clock = self.download, self.span, self._host, self._engine.clock
        options = self._engine.options
        span.at = span.first = verdict.first
        span.reach = verdict.end
        if span.end is not None and verdict.end is not None:
            span.end = min(span.end, verdict.end)
        span.flowing, span.speed, span.began = True, None, clock.now()
        download.ranges = True if said.answer.status == 206 else download.ranges
        self._wrote = False
        try:
            while (end := self._end) is not None and span.at < end:
                if said.breaks_at is not None and span.at >= said.breaks_at:
                    host.sent += LOST_BYTES
                    raise AttemptError(f"the connection was lost at byte {span.at}", code="lost")
                outage = host.outage(clock.now())
                if outage is not None and not isinstance(outage.how, int):
                    if outage.how in ("refused", "lost"):
                        host.sent += LOST_BYTES
                        raise AttemptError(f"the connection was lost at byte {span.at}", code="lost")
                    self._flow = None
                    await self._sleep(options.stall_timeout)
                    raise AttemptError("no byte", code="stall")
                rate = host.plan.speed
                limit = end if said.breaks_at is None else min(end, said.breaks_at)
                seconds = (limit - span.at) / rate
                if rate < options.min_speed:
                    seconds = min(seconds, options.stall_timeout)
                self._flow = (clock.now(), span.at, rate, said)
                began = clock.now()
                await self._sleep(min(seconds, max(host.next_outage(began) - began, 0.0)) + 1e-6)
                self.advance(clock.now())
                self._flow = None
                if rate < options.min_speed and clock.now() - began >= options.stall_timeout:
                    raise AttemptError("too slow", code="slow")
        except AttemptError as error:
            if span.at > span.first:
                download.breaks = download.breaks + 1 if error.code == "lost" else 0
                download.breaks_after = span.at - span.first
            raise
        finally:
            self.advance(clock.now())
            span.flowing, self._flow = False, None
            host.flows.append((span.began, clock.now(), download.entry.name))
            if span.at <= span.first:
                host.empty.add(host.flows[-1])
            elapsed = clock.now() - span.began
            if elapsed > 0 and span.at - span.first >= 64 * 1024:
                span.speed = (span.at - span.first) / elapsed
        if span.end is not None:
            verdict = replace(verdict, end=span.end)
        return plan.ending(verdict, plan.End.FRAMED, span.at)

    @property
    def _end(self) -> int | None:
        """As `pumps.reactor.PartWriter.end`."""
        end, reach = self.span.end, self.span.reach
        if end is None or reach is None or reach <= end:
            return end
        return min(end + self._overlap, reach)

    @property
    def _overlap(self) -> int:
        download = self.download
        return plan.overlap_after(download.breaks, download.breaks_after, self._engine.options.resume_overlap)

    def advance(self, now: float) -> None:
        """The bytes that came until now."""
        if self._flow is None:
            return
        since, at, rate, said = self._flow
        end, span = self._end, self.span
        upto = at + int(rate * (now - since))
        if said.breaks_at is not None:
            upto = min(upto, said.breaks_at)
        upto = upto if end is None else min(upto, end)
        if upto > span.at:
            host = self._host
            host.sent += upto - span.at
            try:
                self.download.part.put(span.at, upto, said.version, has_written=self._wrote)
            except BulkError as error:
                self._flow = None
                if self._pending is None:
                    raise
                self._wake(error)
                return
            self._wrote = True
            self._engine.origins[self.download.origin].moved(now)
            self.download.bytes_received += upto - span.at
            span.at = upto
            if now - (span.began or now) >= 1.0:
                span.speed = rate
        if end is not None and span.at >= end:
            self._wake()


def holds_one_version(versions: dict[int, Ranges], total: int) -> bool:
    """Every byte of a file is of one and the same version."""
    return any(ranges.holds(0, total) for ranges in versions.values())
