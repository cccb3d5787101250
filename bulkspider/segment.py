"""The segment: a further connection for a file that others are filling already.

It brings the bytes of its span and has no powers beside: it neither restarts the file nor sets anything aside, and
what it finds out about the object can only agree with what the first connection was told. When it does not, all
connections of the file end and one alone goes on (`transfer.py`), with the whole table of `plan.py` at its command.
Nor is a refusal the file's end: that a further connection is answered with 403 says nothing about the first one.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from scrapy.utils.defer import maybe_deferred_to_future

from bulkspider import plan
from bulkspider.errors import AttemptError, BulkError, Disagreement
from bulkspider.pace import Outcome
from bulkspider.plan import Ask, Do, PartState, Rung, Validators, Verdict
from bulkspider.spans import Span, give_back
from bulkspider.transfer import Transfer
from bulkspider.wire import Head

if TYPE_CHECKING:
    from scrapy import Request

    from bulkspider.download import Download
    from bulkspider.run import Run

logger = logging.getLogger(__name__)


class Segment(Transfer):
    """One attempt at one span."""

    def __init__(self, run: Run, download: Download, request: Request, span: Span) -> None:
        super().__init__(run, download, request, span)
        self._begin = span.at

    @property
    def _brought_something(self) -> bool:
        return self.span.at > self._begin

    async def _attempt(self) -> Outcome:
        download, begin, end = self.download, self._begin, self.span.end
        assert end is not None
        if download.undivided:
            # They were told to go on with one since this request was made.
            self._leave()
            return Outcome()
        try:
            await maybe_deferred_to_future(self._run.in_thread(self._part.expect_holes))
            asked = self._ask_for(begin, end)
            verdict = await self._answer_to(asked)
            head = self.head
            assert head is not None
            if verdict.do is Do.WRITE:
                ending = await self._move(head, verdict)
                if ending.error is not None:
                    raise ending.error
                return Outcome(fetched=self._part.state.complete)
            head.drop()
            if verdict.do is not Do.NO_PIECES:
                raise self._refusal(verdict, head)
            logger.info("%s: %s; going on with one connection", download.entry.name, verdict.why)
            download.ranges = False
            self._leave()
            return Outcome()
        except BulkError as error:
            self._leave()
            if isinstance(error, AttemptError):
                error.permanent = error.final = False
            raise

    def _leave(self) -> None:
        """What it has not brought is nobody's now."""
        self.span.end = self.span.at
        if not self._brought_something:
            give_back(self.span, self._part.state.have, self.download.spans.values())

    @property
    def _known(self) -> PartState:
        """What the first connection found out, as far as it holds for the host that we were sent to (FAULTS 12)."""
        state = self._part.state
        if state.source in (None, self._source):
            return state
        return replace(state, validators=Validators(), rung=Rung.PLAIN)

    def _ask_for(self, begin: int, end: int) -> Ask:
        """The span, and a little more where others are at work or have been, to be compared with what they brought."""
        overlap, total = self._run.options.resume_overlap, self._part.state.total
        return plan.ask(self._known, overlap=overlap, first=begin, end=min(end + overlap, total or end))

    def _refusal(self, verdict: Verdict, head: Head) -> BulkError:
        if verdict.do is Do.RESTART or (verdict.error is not None and verdict.error.code == "unstable"):
            return Disagreement(verdict.why or str(verdict.error))
        if verdict.error is not None:
            return self._with_retry_after(verdict.error, head)
        return AttemptError(verdict.why or "the answer is of no use for a piece of the file", code="bad_range")
