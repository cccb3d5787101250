"""The segment: a further connection for a file that others are filling already.

It only brings the bytes of its range: it neither restarts the file nor sets anything aside. When its answer does not
agree with the answer to the first connection, all connections of the file end and a single one goes on (`transfer.py`),
which may carry out every verdict of `plan.py`. A refusal is not final for the file: a further connection may get 403
while the first one works.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from msgspec.structs import replace
from scrapy.utils.defer import maybe_deferred_to_future

from bulkspider.codes import Kind
from bulkspider.errors import AttemptError, BulkError, VersionConflict
from bulkspider.protocol.byteranges import ByteRange, give_back
from bulkspider.protocol.plan import (
    AskAgain,
    Complete,
    Fail,
    LearnLength,
    NoPieces,
    PartState,
    Restart,
    ValidatorKind,
    Validators,
    Write,
)
from bulkspider.run.origins.outcome import Outcome
from bulkspider.transfer.asking.exchange import Reply, with_retry_after
from bulkspider.transfer.transfer import Transfer

if TYPE_CHECKING:
    from scrapy import Request

    from bulkspider.run.download import Download
    from bulkspider.run.run import Run

logger = logging.getLogger(__name__)


class Segment(Transfer):
    """One attempt at one byte range."""

    def __init__(self, run: Run, download: Download, request: Request, span: ByteRange) -> None:
        super().__init__(run, download, request, span)
        self._begin = span.at

    @property
    def _brought_something(self) -> bool:
        return self.span.at > self._begin

    @property
    def _is_alone(self) -> bool:
        return False

    async def _attempt(self) -> Outcome:
        download = self.download
        if download.undivided:
            # Since this request was made, the file has been limited to one connection.
            self._leave()
            return Outcome()
        try:
            await maybe_deferred_to_future(self._run.threads.in_thread(self._part.expect_holes))
            reply = await self._exchange.ask(self._next_piece(), self._known)
            outcome = await self._carry_out(reply)
            while self._goes_on(reply.asked, outcome):
                reply = await self._exchange.ask(self._next_piece(), self._known)
                outcome = await self._carry_out(reply)
            return outcome
        except BulkError as error:
            self._leave()
            if isinstance(error, AttemptError):
                error.kind = Kind.RETRY
            raise

    async def _carry_out(self, reply: Reply) -> Outcome:
        """Carries the verdict out, as far as a segment may."""
        head = reply.head
        match reply.verdict:
            case Write() as verdict:
                ending = await self._body.write(head, verdict, reply.asked)
                if ending.error is not None:
                    raise ending.error
                return Outcome(fetched=self._part.state.complete)
            case NoPieces(why):
                head.drop()
                logger.info("%s: %s; going on with one connection", self.download.entry.name, why)
                self.download.ranges = False
                self._leave()
                return Outcome()
            case Fail(error):
                await self._exchange.hear(head, error)
                if error.code == "unstable":
                    raise VersionConflict(str(error))
                raise with_retry_after(error, head)
            case Restart(why):
                head.drop()
                raise VersionConflict(why)
            case AskAgain(why) | LearnLength(why):
                head.drop()
                raise AttemptError(why, code="bad_range")
            case Complete():
                head.drop()
                raise AttemptError("the answer is of no use for a piece of the file", code="bad_range")

    def _leave(self) -> None:
        """Releases the bytes that it has not brought."""
        self.span.end = self.span.at
        if not self._brought_something:
            give_back(self.span, self._part.state.have, self.download.ranges_running)

    @property
    def _known(self) -> PartState:
        """What the first connection found out. Its validators hold only for the host that they came from."""
        state = self._part.state
        if state.source in (None, self._exchange.source):
            return state
        return replace(state, validators=Validators(), validator_kind=ValidatorKind.PLAIN)
