"""One HTTP exchange, headers first, by the agent that is borrowed from Scrapy's HTTP/1.1 handler.

Headers, TLS, proxies, pools and bind addresses are Scrapy's; the body is ours (`head.py`). Where one of the private
names is gone, a plain Twisted Agent serves (no CONNECT proxies) and a warning says so, once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from scrapy.http import Headers
from scrapy.utils.asyncio import is_asyncio_available
from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers as TxHeaders
from twisted.web.iweb import IResponse

from bulkspider.errors import AttemptError
from bulkspider.wire import tls
from bulkspider.wire.failures import map_error
from bulkspider.wire.head import Head
from bulkspider.wire.lines import Line, Lines

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler

    from bulkspider.options import Options

logger = logging.getLogger(__name__)

# How often (seconds) the waits for an answer's head are looked at: a timer for each would cost as much as its request.
WATCH = 0.25
ENDPOINTS = 1024


class Wire:
    """Makes exchanges for one crawl: one pool of connections, shared by http and https."""

    def __init__(self, crawler: Crawler, options: Options) -> None:
        from twisted.internet import reactor

        self._reactor = cast(Any, reactor)
        self._options = options
        self._crawler = crawler
        try:
            from scrapy.core.downloader.handlers.http11 import HTTP11DownloadHandler, _ScrapyAgent

            lender = HTTP11DownloadHandler(crawler)
            self._pool: HTTPConnectionPool = lender._pool
            self._agent_arguments: dict[str, Any] | None = {
                "contextFactory": lender._contextFactory,
                "bindAddress": lender._bind_address,
                "pool": self._pool,
                "crawler": crawler,
            }
            self._agent_class: Any = _ScrapyAgent
            self._agent_class(**self._agent_arguments)._get_agent  # noqa: B018 - fails here, not at the first file
        except (ImportError, AttributeError, TypeError) as error:
            logger.warning("This Scrapy has no agent to lend (%s): proxies and TLS settings do not apply", error)
            self._agent_arguments = None
            self._pool = HTTPConnectionPool(reactor, persistent=True)
        if not tls.CAN_BE_TAKEN:
            logger.warning("This Twisted or pyOpenSSL does not lend its TLS: files over https cost more CPU time")

        self._on_asyncio = is_asyncio_available()
        self._agents: dict[Any, Agent] = {}  # by the address they bind to
        self._waits: dict[_Wait, None] = {}
        self._watch: Any = None
        self._lines = Lines(self._reactor)

    def exchange(self, request: Request, headers: Headers) -> Deferred[Head]:
        """Sends a request for `request.url` with `headers`; fires when the answer's head is here.

        Fails with an AttemptError; may be cancelled. The connection attempt and the wait for the head are bounded by
        BULK_CONNECT_TIMEOUT and BULK_HEADERS_TIMEOUT; there is no total limit.
        """
        connect_timeout = self._options.connect_timeout
        sent: Deferred[IResponse] = maybeDeferred(self._send, request, headers, connect_timeout)
        waited = self._wait_for(sent, connect_timeout + self._options.headers_timeout)

        def failed(failure: Failure) -> Failure:
            if waited.too_long:
                return Failure(AttemptError("no answer within BULK_HEADERS_TIMEOUT", code="headers_timeout"))
            return Failure(map_error(cast(Exception, failure.value)))

        if not self._on_asyncio:
            sent.addCallback(self._in_the_next_turn)
        return sent.addCallbacks(Head, failed)

    def _wait_for(self, sent: Deferred[Any], seconds: float) -> _Wait:
        """Cancels it when nothing has come of it until then."""
        waited = _Wait(sent, self._reactor.seconds() + seconds)
        self._waits[waited] = None
        if self._watch is None:
            self._watch = self._reactor.callLater(WATCH, self._end_long_waits)

        def settled(result: Any) -> Any:
            self._waits.pop(waited, None)
            return result

        sent.addBoth(settled)
        return waited

    def _in_the_next_turn(self, response: IResponse) -> Deferred[IResponse]:
        """Without asyncio a callback runs while Twisted still has the first bytes of the body in hand: whoever took
        the socket then would lose them. With asyncio an `await` is always a turn."""
        turn: Deferred[IResponse] = Deferred()
        self._reactor.callLater(0, turn.callback, response)
        return turn

    def _end_long_waits(self) -> None:
        now = self._reactor.seconds()
        for waited in list(self._waits):
            if waited.ends <= now:
                waited.too_long = True
                waited.sent.cancel()
        self._watch = self._reactor.callLater(WATCH, self._end_long_waits) if self._waits else None

    def _send(self, request: Request, headers: Headers, connect_timeout: float) -> Deferred[IResponse]:
        url = request.url.partition("#")[0].encode("ascii")
        agent = self._agent(request, connect_timeout)
        if url.startswith(b"https:"):
            # The agent shows it to the proxy when it asks for the tunnel; what is inside is for the origin alone.
            headers.pop("Proxy-Authorization", None)
        return agent.request(request.method.encode("ascii"), url, TxHeaders(dict(headers)), None)

    def _agent(self, request: Request, timeout: float) -> Agent:
        """One serves all requests that go straight to their origin; a proxy's depends on the request's own headers."""
        address = request.meta.get("bindaddress")
        if address in self._agents and not request.meta.get("proxy"):
            return self._agents[address]
        if self._agent_arguments is None:
            agent = Agent(self._reactor, connectTimeout=timeout, pool=self._pool)
        else:
            agent = self._agent_class(**self._agent_arguments)._get_agent(request, timeout)
        if not request.meta.get("proxy"):
            _remember_endpoints(agent)
            self._agents[address] = agent
        return agent

    def connect(self, request: Request) -> Deferred[Line] | None:
        """A connection to the origin of a plain http `request`, for a thread that speaks HTTP by itself (`batch.py`):
        one that was kept, or a new one. None where that cannot be. Fails with an AttemptError. Private name:
        Agent._endpointFactory."""
        factory = getattr(self._agent(request, self._options.connect_timeout), "_endpointFactory", None)
        if factory is None or request.meta.get("proxy") or not request.url.startswith("http:"):
            return None
        uri = URI.fromBytes(request.url.partition("#")[0].encode("ascii"))
        key = uri.host, uri.port, request.meta.get("bindaddress")
        if (kept := self._lines.take(key)) is not None:
            return succeed(kept)
        connected: Deferred[Line] = factory.endpointForURI(uri).connect(Factory.forProtocol(Line))
        waited = self._wait_for(connected, self._options.connect_timeout + WATCH)

        def failed(failure: Failure) -> Failure:
            if waited.too_long:
                return Failure(
                    AttemptError("no connection within BULK_CONNECT_TIMEOUT", code="connect", origin_wide=True)
                )
            return Failure(map_error(cast(Exception, failure.value)))

        return connected.addCallbacks(lambda line: line.lend(key), failed)

    def keep(self, line: Line) -> None:
        """Its thread has left it in good order; the next one may have it, for a while."""
        self._lines.keep(line)

    async def close(self) -> None:
        """Closes idle connections; does not wait for a peer that never answers (Twisted #7738)."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._lines.close()
        closing = self._pool.closeCachedConnections()
        timer = self._reactor.callLater(1, closing.cancel)
        closing.addErrback(lambda _: None)
        await maybe_deferred_to_future(closing)
        if timer.active():
            timer.cancel()


@dataclass(slots=True, eq=False)
class _Wait:
    """For the head of an answer, until `ends` (seconds of the reactor's clock)."""

    sent: Deferred[IResponse]
    ends: float
    too_long: bool = False


def _remember_endpoints(agent: Any) -> None:
    """Lets an agent make the endpoint of a host once: the rules for host names, applied to each request, cost more than
    all the rest of sending it. Private name: Agent._endpointFactory."""
    factory = getattr(agent, "_endpointFactory", None)
    if factory is None:
        return
    make = factory.endpointForURI
    known: dict[tuple[bytes, bytes, int], Any] = {}

    def endpoint_for(uri: Any) -> Any:
        key = uri.scheme, uri.host, uri.port
        if key not in known:
            if len(known) >= ENDPOINTS:
                known.clear()
            known[key] = make(uri)
        return known[key]

    factory.endpointForURI = endpoint_for
