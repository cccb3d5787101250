"""Bytes on disk that we did not write, or that may have changed: they are compared with the origin's.

A foreign file (`disk/leftovers/`) is compared by samples: then it is continued, adopted, or kept as `.old`. Holes in a
part that should have none are compared byte by byte: either the file system stores zeros as holes, or another program
has changed the part.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace
from scrapy.utils.defer import maybe_deferred_to_future

from bulkspider.errors import AttemptError, VersionConflict
from bulkspider.protocol import plan
from bulkspider.protocol.plan import Ask, AskAgain, Complete, Fail, LearnLength, NoPieces, PartState, Restart, Write
from bulkspider.transfer.asking.bound import Bound
from bulkspider.transfer.asking.exchange import Exchange, Reply, with_retry_after
from bulkspider.transfer.body import Body

if TYPE_CHECKING:
    from bulkspider.disk.leftovers.foreign import Foreign
    from bulkspider.protocol.byteranges import ByteRange
    from bulkspider.run.download import Download
    from bulkspider.run.run import Run

logger = logging.getLogger(__name__)


class ForeignComparison:
    """Compares the foreign file of a download and decides what is done with it."""

    def __init__(self, run: Run, download: Download, exchange: Exchange, body: Body, bound: Bound) -> None:
        self._run = run
        self._download = download
        self._part = download.part
        self._exchange = exchange
        self._body = body
        self._bound = bound

    async def meet(self, foreign: Foreign) -> Reply | None:
        """Compares the file with the origin. Returns the reply to go on with; None: now ask for the missing bytes."""
        part = self._part
        if foreign.usable == 0:
            # None of its bytes can be used. It stays in its place until the origin has answered.
            reply = await self._exchange.ask(plan.ask(part.state, overlap=0, most=self._bound.most), part.state)
            if isinstance(reply.verdict, Write):
                await self._refuse("it holds nothing that can be continued")
            return reply
        agreed = part.foreign.agreed
        samples = plan.samples(foreign.usable)
        for offset, length in samples:
            if (offset, offset + length) in agreed and (offset, length) != samples[-1]:
                continue  # in an attempt that ended before all were compared
            reply = await self._exchange.ask(Ask(first=offset, end=offset + length, want=offset), part.state)
            if isinstance(reply.verdict, NoPieces):
                # No ranges: nothing can be compared or continued. This answer brings the whole file.
                await self._refuse("the origin has no ranges to compare it by")
                return self._exchange.judge(Ask(), reply.head, part.state)
            if reply.head.status == 416:
                reply.head.drop()
                await self._refuse("the object is shorter")
                return None
            if not isinstance(reply.verdict, Write):
                return reply
            if difference := await self._compare(foreign, reply, reply.verdict, offset, length):
                await self._refuse(difference)
                return None
            agreed.append((offset, offset + length))
        if foreign.size == foreign.usable == part.state.total and not foreign.is_part:
            self._download.flags.add("adopted")
            await maybe_deferred_to_future(self._run.threads.in_thread(part.foreign.adopt))
            self._download.resumed.found(part.state.have, agreed)
            return replace(reply, asked=Ask(), verdict=Complete(foreign.size))
        logger.info("%s: continuing the %d bytes that were there", self._download.entry.name, foreign.usable)
        await maybe_deferred_to_future(self._run.threads.in_thread(part.foreign.take_over))
        self._download.resumed.found(part.state.have, agreed)
        self._download.largest = foreign.usable
        return None

    async def _compare(self, foreign: Foreign, reply: Reply, verdict: Write, offset: int, length: int) -> str | None:
        """Compares one sample. Returns how the file differs from the object, None when it does not."""
        part, head, total = self._part, reply.head, verdict.total
        ours = await maybe_deferred_to_future(self._run.threads.in_thread(part.read, offset, length))
        if head.answer.content_range is None or total is None or foreign.size > total or len(ours) != length:
            head.drop()
            return f"it has {foreign.size} bytes, the object has {total}"
        if await self._body.read(head, verdict) != ours:
            return f"it differs near byte {offset}"
        if part.state.validators.contradicts(head.answer.validators):
            part.foreign.agreed.clear()
            raise AttemptError("the object changes while it is compared", code="changed")
        part.learn(total=total, validators=head.answer.validators)
        return None

    async def _refuse(self, why: str) -> None:
        logger.info(
            "%s: the file that was there is not a part of this one (%s); it is kept as .old",
            self._download.entry.name,
            why,
        )
        self._download.set_aside = why
        await maybe_deferred_to_future(self._run.threads.in_thread(self._part.foreign.refuse))
        self._part.state.total = None
        self._part.state.validators = plan.Validators()


class Holes:
    """The holes of a part that should have none, because all its bytes were written."""

    def __init__(
        self, run: Run, download: Download, exchange: Exchange, body: Body, span: ByteRange, bound: Bound
    ) -> None:
        self._run = run
        self._download = download
        self._exchange = exchange
        self._body = body
        self._span = span
        self._bound = bound

    async def compare(self, known: Callable[[], PartState]) -> None:
        """Asks for the bytes of the holes; `known` returns the state by which answers are judged. Raises
        VersionConflict when they differ from the disk: another program has punched or truncated the part."""
        part = self._download.part
        holes = await maybe_deferred_to_future(self._run.threads.in_thread(part.doubtful_ranges))
        if not holes:
            return
        logger.info("%s: the part has holes; their bytes are asked for again", self._download.entry.name)
        try:
            for first, end in holes:
                at = first
                while at < end:
                    at = await self._compare(at, end, known())
        except VersionConflict:
            part.checkpoints.refute()
            what = "another program changed the part during the download"
            raise VersionConflict(what, differ=True, outside=True) from None
        # The bytes are the same, so this file system stores zeros as holes.
        self._download.folder.zeros_are_holes = True

    async def _compare(self, first: int, end: int, known: PartState) -> int:
        """Compares bytes on disk with the origin's, from `first` on. Returns the byte at which to go on."""
        state = self._download.part.state
        asked = Ask()
        if not state.without_range:
            asked = plan.ask(known, overlap=0, first=first, end=end, most=self._bound.most)
        reply = await self._exchange.ask(asked, known)
        if isinstance(reply.verdict, NoPieces):
            reply = self._exchange.judge(Ask(), reply.head, state)
        head = reply.head
        match reply.verdict:
            case Write(fresh=False) as verdict:
                self._span.end = verdict.end
                ending = await self._body.write(head, verdict, reply.asked)
                if ending.error is not None:
                    raise ending.error
                return self._span.at
            case Write():
                head.drop()
                raise VersionConflict("the object changed")
            case Restart(why):
                head.drop()
                raise VersionConflict(why)
            case Fail(error):
                head.drop()
                raise with_retry_after(error, head)
            case AskAgain(why) | LearnLength(why) | NoPieces(why):
                head.drop()
                raise AttemptError(why, code="bad_range")
            case Complete():
                head.drop()
                raise AttemptError("the answer is of no use for a comparison", code="bad_range")
