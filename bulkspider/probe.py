"""A probe: the question of a dry run, `Range: bytes=0-0`, sent just as a transfer would send its own.

One HTTP exchange by the same wire, with the same secrets for the same hosts (`secrecy.py`), whose body nobody wants.
A GET, because a signed link refuses HEAD; for one byte, because a server may send ten gigabytes otherwise. What the
answer means is `survey.py`'s to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scrapy.http import Headers
from scrapy.utils.defer import maybe_deferred_to_future

from bulkspider.entry import Entry
from bulkspider.errors import BulkError, Stopped
from bulkspider.plan import Answer
from bulkspider.secrecy import add_secrets
from bulkspider.survey import ASKED

if TYPE_CHECKING:
    from scrapy import Request
    from twisted.internet.defer import Deferred

    from bulkspider.run import Run
    from bulkspider.wire import Head


class Prober:
    """Sends probes; the run's stop ends those that wait for an answer."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._pending: set[Deferred[Head]] = set()
        run.on_stop(self._cancel)

    async def ask(self, request: Request, entry: Entry) -> Head:
        """The head of the answer. Raises AttemptError, Stopped."""
        if self._run.stopping:
            raise self._run.stop_reason or Stopped()
        headers = Headers(request.headers)
        add_secrets(headers, entry, entry.url, request.url)
        for name, value in ASKED.headers().items():
            headers[name] = value
        pending = self._run.wire.exchange(request, headers)
        self._pending.add(pending)
        try:
            head = await maybe_deferred_to_future(pending)
        except BulkError:
            if self._run.stopping:
                raise (self._run.stop_reason or Stopped()) from None
            raise
        finally:
            self._pending.discard(pending)
        head.drop()
        return head

    def _cancel(self) -> None:
        for pending in list(self._pending):
            pending.cancel()


def to_meta(head: Head) -> dict[str, Any]:
    """The head as plain data."""
    return {"status": head.status, "fields": head.fields, "length": head.answer.length}


def from_meta(told: dict[str, Any]) -> Answer:
    """The answer that `to_meta` has told."""
    return Answer.parse(told["status"], told["fields"], length=told["length"])
