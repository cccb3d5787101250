"""The attempt of a dry run: one exchange, of which only the head counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

from bulkspider.entries.urls import redact
from bulkspider.errors import AttemptError, BulkError
from bulkspider.hosts.pieces import PIECE_BYTES, REFUSAL_STATUSES
from bulkspider.protocol.byteranges import ByteRange
from bulkspider.protocol.plan import Answer, Ask, Complete, Fail, PartState, Verdict, Write
from bulkspider.run.origins.outcome import Outcome
from bulkspider.transfer.asking.exchange import Exchange, Redirected, with_retry_after

if TYPE_CHECKING:
    from scrapy import Request

    from bulkspider.run.download import Download
    from bulkspider.run.run import Run
    from bulkspider.wire import Head

# A GET, because a signed link refuses HEAD; for one byte, because without Range the server may send ten gigabytes.
PROBE = Ask(first=0, end=1)


class ProbeResult(Struct, frozen=True):
    """What one answer says of a file. size: bytes, None when it does not say. ranges: a download could be resumed; None
    for an empty file."""

    size: int | None = None
    ranges: bool | None = False
    error: AttemptError | None = None

    def note(self, download: Download) -> None:
        download.part.learn(total=self.size)
        download.ranges = self.ranges


def understand(answer: Answer, judge: Callable[[Ask], Verdict]) -> ProbeResult:
    """What the answer to PROBE says of the whole file. judge: the verdict on it, as if it were the answer to the given
    Ask."""
    if answer.status == 416:
        # An empty file, which cannot satisfy a Range; or a server that knows no ranges and answers wrongly.
        total = answer.content_range.total if answer.content_range is not None else None
        return ProbeResult(total, ranges=None if total == 0 else False)
    ranges = answer.content_range is not None
    verdict = judge(PROBE if ranges else Ask())
    match verdict:
        case Fail(error):
            return ProbeResult(error=error)
        case Write(total=total) | Complete(total):
            size = None if answer.encoding else total
        case _:
            size = None
    return ProbeResult(size, ranges=None if size == 0 else ranges and isinstance(verdict, Write))


class Probe:
    """The attempt of a dry run: sends requests as a transfer does, and uses only the head of the answer. Afterwards the
    size is in the part's state, and `ranges` in the download."""

    asking = True

    def __init__(self, run: Run, download: Download, request: Request, span: ByteRange) -> None:
        self.download = download
        self._run = run
        self._url = request.url
        self._exchange = Exchange(run, download, request)
        self._pieces = run.origins[self._exchange.source].pieces

    @property
    def head(self) -> Head | None:
        return self._exchange.head

    async def _ask_for_all(self, size: int) -> None:
        """Some hosts send the first byte although they refuse the whole file: asks once for the whole of a larger file,
        and drops the body (`hosts/pieces.py`)."""
        head = await self._exchange.send(Ask())
        head.drop()
        if head.status in REFUSAL_STATUSES:
            self._pieces.found(PIECE_BYTES[0])

    async def perform(self) -> Outcome:
        """As `Transfer.perform`."""
        run, download, exchange = self._run, self.download, self._exchange
        run.transfers.enter(self)
        download.attempts += 1
        try:
            if run.stopping:
                raise run.stopping.error
            head = (await exchange.ask(PROBE, PartState())).head
            found = understand(head.answer, lambda asked: exchange.judge(asked, head, PartState()).verdict)
            if found.error is not None:
                await exchange.hear(head, found.error)
                raise with_retry_after(found.error, head)
            head.drop()
            if found.ranges and (rest := found.size) is not None and self._pieces.asks_for_all(rest):
                await self._ask_for_all(rest)
        except Redirected:
            download.attempts -= 1
            raise
        except BulkError as error:
            return Outcome(error=error)
        finally:
            run.transfers.leave(self)
        found.note(download)
        download.range_max = self._pieces.limit
        download.final_url = redact(self._url)
        return Outcome(fetched=True)

    def stop(self, error: BulkError) -> None:
        """Ends the wait for the answer at once."""
        self._exchange.stop(error)

    def tick(self, now: float) -> None:
        """Nothing to do: there is no body."""
