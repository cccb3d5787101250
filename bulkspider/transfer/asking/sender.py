"""One request, sent as often as needed to get an answer: with the secrets that its host may see, after a 401 once more
with new credentials, and not before its origin allows the next request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from scrapy.http import Headers
from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import Deferred

from bulkspider.entries.entry import Entry, origin_of
from bulkspider.errors import AttemptError
from bulkspider.protocol.plan import Ask
from bulkspider.transfer.asking.destinations import add_secrets, secrets_of, states_checksums

if TYPE_CHECKING:
    from scrapy import Request

    from bulkspider.auth.grants import Grant
    from bulkspider.run.run import Run
    from bulkspider.wire import Head
UNAUTHORIZED = 401


class Sender:
    """Sends a request, as often as needed, with the secrets that its host may see; after a 401 once more with new
    credentials.

    listed_url: the URL or mirror of the list that led to the request. granted: the last fields from BULK_AUTH for it.
    pending: the Deferred that is awaited now, for `cancel`.
    """

    def __init__(self, run: Run, entry: Entry, listed_url: str, request: Request) -> None:
        self.granted: Grant | None = None
        self.pending: Deferred[Any] | None = None
        self._run = run
        self._entry = entry
        self._listed_url = listed_url
        self._request = request
        self._origin = run.origins[origin_of(request.url)]
        # The first request at the origin of the list need not wait: its turn came with the place of the attempt
        # (`dispatch/slots.py`).
        self._may_ask = not request.meta.get("redirect_urls")

    async def send(self, asked: Ask, method: str = "GET") -> Head:
        """The head of the answer. Raises AttemptError."""
        origin, grants = origin_of(self._listed_url), self._run.grants
        granted = self.granted = await self.wait(grants.get(origin))
        head = await self._send(asked, method)
        if granted is None or not self.shows_granted:
            return head
        if head.status != UNAUTHORIZED:
            granted.worked = True
            return head
        renewed = await self.wait(grants.get(origin, granted))
        if renewed is None or renewed is granted:
            return head
        head.drop()
        self.granted = renewed
        head = await self._send(asked, method)
        renewed.worked = renewed.worked or head.status != UNAUTHORIZED
        return head

    @property
    def shows_granted(self) -> bool:
        """The request's host may see the credentials for the origin of the list."""
        return self._run.trusted.may_see(self._listed_url, self._request.url)

    async def _send(self, asked: Ask, method: str) -> Head:
        await self._wait_for_turn()
        request = self._request if method == "GET" else self._request.replace(method=method)
        try:
            return cast("Head", await self.wait(self._run.wire.exchange(request, self.headers(asked))))
        except AttemptError as error:
            source = origin_of(request.url)
            if source != origin_of(self._listed_url):
                error.redirected_to = source
            if source not in error.message and source != origin_of(self._listed_url):
                error.message += f" ({source}, to which a redirect led)"
            raise

    async def _wait_for_turn(self) -> None:
        """Waits where an origin wants time between any two requests, also those of one attempt."""
        at_once, self._may_ask = self._may_ask, False
        if not at_once and (seconds := self._origin.reserve(self._run.clock.now())) > 0:
            turn: Deferred[None] = Deferred()
            timer = self._run.clock.call_later(seconds, turn.callback, None)
            try:
                await self.wait(turn)
            finally:
                timer.cancel()

    async def wait(self, pending: Deferred[Any]) -> Any:
        self.pending = pending
        try:
            return await maybe_deferred_to_future(pending)
        finally:
            self.pending = None

    def headers(self, asked: Ask) -> Headers:
        """The request's own headers, with what the plan asks for and the secrets that its host may see."""
        headers, url = Headers(), self._request.url
        dict.update(headers, self._request.headers)  # names and values are normalised already
        for name in ("Range", "If-Range"):
            headers.pop(name, None)
        fields = self.granted.fields if self.granted is not None else None
        add_secrets(headers, self._entry, self._listed_url, url, self._run.trusted, fields)
        for name, value in asked.headers().items():
            headers[name] = value
        if states_checksums(headers, url):
            headers["x-amz-checksum-mode"] = "ENABLED"
        return headers

    @property
    def secrets(self) -> list[str]:
        """The secrets in the request; the host may repeat them in its answer."""
        fields = self.granted.fields if self.granted is not None else None
        return secrets_of(self.headers(Ask()), self._entry, fields)

    def cancel(self) -> None:
        if self.pending is not None:
            self.pending.cancel()
