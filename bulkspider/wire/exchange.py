"""One HTTP exchange, by the agent that is borrowed from Scrapy's HTTP/1.1 handler.

Headers, TLS, proxies, pools and bind addresses are handled by Scrapy, the body by us (`response.py`). Where one of the
private names is gone, a plain Twisted Agent is used (no CONNECT proxies) and a warning says so once.
"""

from __future__ import annotations

import logging
import math
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from msgspec import Struct
from scrapy.http import Headers
from scrapy.utils.asyncio import is_asyncio_available
from scrapy.utils.defer import maybe_deferred_to_future
from scrapy.utils.url import add_http_if_no_scheme
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, FileBodyProducer, HTTPConnectionPool
from twisted.web.http_headers import Headers as TxHeaders
from twisted.web.iweb import IResponse

from bulkspider.codes import Kind
from bulkspider.entries.urls import has_site, is_private, origin_of, without_userinfo
from bulkspider.errors import AttemptError
from bulkspider.wire import tls
from bulkspider.wire.failures import map_error
from bulkspider.wire.lent.connection import ConnectionPool, RawConnection
from bulkspider.wire.limits import limit_pool, limit_tunnels
from bulkspider.wire.response import Head

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler

    from bulkspider.options import Options

logger = logging.getLogger(__name__)

# How often the time limits of all waits are checked: a timer for each wait would cost 10 µs instead of 1.
WATCH_SECONDS = 0.25
ENDPOINTS = 1024
# How long the end of the crawl waits for peers that do not close their connections.
CLOSE_SECONDS = 1.0


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
        try:
            limit_pool(self._pool)
        except AttributeError as error:
            logger.warning("This Twisted does not let its answers be bounded (%s)", error)
        if not tls.CAN_BE_TAKEN:
            logger.warning("This Twisted or pyOpenSSL does not lend its TLS: files over https cost more CPU time")

        self._on_asyncio = is_asyncio_available()
        self._agents: dict[Any, Agent] = {}  # by the local address that they bind to
        # Origins whose last connection led to a private address.
        self._private: set[str] = set()
        self._waits: dict[_Wait, None] = {}
        self._watch: Any = None
        self._asking: _Wait | None = None
        self._time_connections()
        self._idle_connections = ConnectionPool(self._reactor)

    def exchange(self, request: Request, headers: Headers) -> Deferred[Head]:
        """Sends a request for `request.url` with `headers`; fires when the answer's head is here.

        Fails with an AttemptError; may be cancelled. The connection is bounded by BULK_CONNECT_TIMEOUT, the wait for
        the head, from the connection on, by BULK_HEADERS_TIMEOUT; there is no total limit.
        """
        connect_timeout = self._options.connect_timeout
        waited = self._asking = _Wait(self._reactor.seconds() + connect_timeout + WATCH_SECONDS, request)
        sent: Deferred[IResponse] = maybeDeferred(self._send, request, headers, connect_timeout)
        if self._asking is waited:
            # The pool was not asked, so it will not call back when the connection is there.
            self._connected(None, waited)
            waited.ends += connect_timeout
        self._wait_for(sent, waited)

        def failed(failure: Failure) -> Failure:
            if waited.too_long:
                return Failure(_no_answer() if waited.is_connected else _no_connection())
            return Failure(map_error(cast(Exception, failure.value)))

        if not self._on_asyncio:
            sent.addCallback(self._in_the_next_turn)
        return sent.addCallback(Head).addErrback(failed)

    def _time_connections(self) -> None:
        """Wraps the pool's `getConnection`, which the agent calls: so `_connected` is called when the connection of an
        exchange is there."""
        get_connection = self._pool.getConnection

        def asked(key: Any, endpoint: Any) -> Deferred[Any]:
            waited, self._asking = self._asking, None
            connection: Deferred[Any] = get_connection(key, endpoint)
            if waited is not None:
                connection.addCallback(self._connected, waited)
            return connection

        cast(Any, self._pool).getConnection = asked

    def _connected(self, connection: Any, waited: _Wait) -> Any:
        """The connection is there: from now on BULK_HEADERS_TIMEOUT limits the wait for the head (0: no limit)."""
        self._asking = None
        if connection is not None and waited.request is not None:
            self._judge_address(connection, waited.request)
        waited.is_connected = True
        waited.ends = self._reactor.seconds() + (self._options.headers_timeout or math.inf)
        return connection

    def _judge_address(self, connection: Any, request: Request) -> None:
        """Refuses a redirect from a public host to a private address. The address of the connection counts, whatever
        the name resolved to before. Raises AttemptError; nothing was sent then, not even the start of TLS, which is
        written in the reactor's next turn. Private name: _RetryingHTTP11ClientProtocol._clientProtocol."""
        if request.meta.get("proxy"):
            return  # the address is the proxy's
        # A connection from the pool has a wrapper, which would send the request again over a new connection.
        connection = getattr(connection, "_clientProtocol", connection)
        address = connection.transport.getPeer().host
        origin = origin_of(request.url)
        if not self.note_address(origin, address):
            return
        before = [origin_of(url) for url in request.meta.get("redirect_urls", ())]
        public = next((host for host in before if host not in self._private), None)
        if public is not None and not self._options.private_redirects:
            connection.transport.abortConnection()
            raise AttemptError(
                f"redirected from {public} to {origin}, a private address ({address}); nothing was sent",
                code="private_redirect",
            )

    def note_address(self, origin: str, address: str) -> bool:
        """Notes the address at which an origin was reached. True when it is a private one."""
        if is_private(address):
            self._private.add(origin)
            return True
        self._private.discard(origin)
        return False

    def _wait_for(self, sent: Deferred[Any], waited: _Wait) -> None:
        """Cancels `sent` when it has not fired by the end of the wait."""
        waited.sent = sent
        self._waits[waited] = None
        if self._watch is None:
            self._watch = self._reactor.callLater(WATCH_SECONDS, self._end_long_waits)

        def settled(result: Any) -> Any:
            self._waits.pop(waited, None)
            return result

        sent.addBoth(settled)

    def _in_the_next_turn(self, response: IResponse) -> Deferred[IResponse]:
        """Fires in the reactor's next turn. Without asyncio a callback runs while Twisted still holds the first bytes
        of the body, which would be lost if the socket were taken now. With asyncio an `await` always takes a turn."""
        turn: Deferred[IResponse] = Deferred()
        self._reactor.callLater(0, turn.callback, response)
        return turn

    def _end_long_waits(self) -> None:
        now = self._reactor.seconds()
        for waited in list(self._waits):
            if waited.ends <= now:
                waited.too_long = True
                cast("Deferred[Any]", waited.sent).cancel()
        self._watch = self._reactor.callLater(WATCH_SECONDS, self._end_long_waits) if self._waits else None

    def _send(self, request: Request, headers: Headers, connect_timeout: float) -> Deferred[IResponse]:
        url = _address(request).encode("ascii")
        agent = self._agent(request, connect_timeout)
        if url.startswith(b"https:"):
            # The agent itself sends it to the proxy when it opens the tunnel; the request inside is for the origin
            # only.
            headers.pop("Proxy-Authorization", None)
        body: Any = None
        if request.body:
            headers.pop("Content-Length", None)  # Twisted writes the right one
            body = FileBodyProducer(BytesIO(request.body))
        return agent.request(request.method.encode("ascii"), url, TxHeaders(dict(headers)), body)

    def _agent(self, request: Request, timeout: float) -> Agent:
        """One agent for all requests that go directly to their origin; with a proxy one for each request, because it
        depends on the request's headers."""
        address = request.meta.get("bindaddress")
        if address in self._agents and not request.meta.get("proxy"):
            return self._agents[address]
        if self._agent_arguments is None:
            agent = Agent(self._reactor, connectTimeout=timeout, pool=self._pool)
        else:
            agent = self._agent_class(**self._agent_arguments)._get_agent(request, timeout)
            if request.meta.get("proxy"):
                limit_tunnels(agent)
        if not request.meta.get("proxy"):
            _remember_endpoints(agent)
            self._agents[address] = agent
        return agent

    def lends_connections(self, request: Request) -> bool:
        """`connect` is possible for this request: there is no proxy, and the private names exist."""
        if request.meta.get("proxy") or not (request.url.startswith("http:") or tls.CAN_BE_TAKEN):
            return False
        agent = self._agent(request, self._options.connect_timeout)
        return hasattr(agent, "_endpointFactory") and hasattr(agent, "_computeHostValue")

    def connect(self, request: Request) -> Deferred[RawConnection]:
        """A connection to the origin of `request`, for a thread that sends requests itself (`small/batch.py`): an
        unused one, or a new one with the usual check of its certificate. Fails with AttemptError. Private names:
        Agent._endpointFactory, _computeHostValue."""
        agent = cast(Any, self._agent(request, self._options.connect_timeout))
        uri = URI.fromBytes(_address(request).encode("ascii"))
        key = uri.scheme, uri.host, uri.port, request.meta.get("bindaddress")
        if (kept := self._idle_connections.take(key)) is not None:
            return succeed(kept)
        connected: Deferred[RawConnection] = agent._endpointFactory.endpointForURI(uri).connect(
            Factory.forProtocol(RawConnection)
        )
        connected.addCallback(lambda connection: connection.ready)
        waited = _Wait(self._reactor.seconds() + self._options.connect_timeout + WATCH_SECONDS)
        self._wait_for(connected, waited)

        def made(connection: RawConnection) -> RawConnection:
            connection.key, connection.host = key, self._host_header(request, uri)
            return connection

        def failed(failure: Failure) -> Failure:
            if waited.too_long:
                return Failure(_no_connection())
            return Failure(map_error(cast(Exception, failure.value)))

        return connected.addCallbacks(made, failed)

    def reached(self, request: Request, head: Head) -> Reached | None:
        """How the origin of `request` was reached for `head`, an answer that has been read to its end. None: through a
        proxy, the connection ends after it, or it is no plain one (`protocol/heads/plain.py`)."""
        peer = head.connection.peer if head.is_plain and self.lends_connections(request) else None
        if peer is None:
            return None
        uri = URI.fromBytes(_address(request).encode("ascii"))
        return Reached(uri.host.decode("ascii"), *peer, self._host_header(request, uri))

    def _host_header(self, request: Request, uri: URI) -> bytes:
        agent = cast(Any, self._agent(request, self._options.connect_timeout))
        return cast(bytes, agent._computeHostValue(uri.scheme, uri.host, uri.port))

    def keep(self, connection: RawConnection) -> None:
        """The thread is done with the connection, and another request may be sent on it."""
        self._idle_connections.keep(connection)

    async def close(self) -> None:
        """Closes idle connections; does not wait for a peer that never answers (Twisted #7738)."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._idle_connections.close()
        closing = self._pool.closeCachedConnections()
        closing.addTimeout(CLOSE_SECONDS, self._reactor)
        # Nothing is left to be done for a connection that does not close.
        closing.addErrback(lambda _: None)
        await maybe_deferred_to_future(closing)


class Reached(Struct, frozen=True):
    """How an origin was reached. name: of its host. address, port: of the peer. certificate: of the peer (DER), which
    was checked; None without TLS. host: the Host header of its requests."""

    name: str
    address: str
    port: int
    certificate: bytes | None
    host: bytes


class _Wait(Struct, eq=False):
    """A wait for a connection, then for the head of an answer, until `ends` (seconds of the reactor's clock)."""

    ends: float
    request: Request | None = None
    sent: Deferred[Any] | None = None
    is_connected: bool = False
    too_long: bool = False


def refuse_downgrade(request: Request) -> None:
    """Refuses a redirect from https to http: the request and the file would not be encrypted (RFC 9110 §15.4). Raises
    AttemptError."""
    before = request.meta.get("redirect_urls", ())
    if urlsplit(request.url).scheme == "http" and any(urlsplit(url).scheme == "https" for url in before):
        raise AttemptError("redirected from https to http; that is not followed", code="insecure_redirect")


def _address(request: Request) -> str:
    """The URL to request: without user name and password, which are sent as a header, and without a fragment. Raises
    AttemptError for a host that is not valid: Twisted's look-up of a host name that is too long never ends."""
    proxy = request.meta.get("proxy")
    if proxy and not has_site(add_http_if_no_scheme(str(proxy))):
        # Unlike a tunnel that was refused, which may be opened later.
        raise AttemptError("the proxy's address has no valid host or port", code="proxy", kind=Kind.PERMANENT)
    url = without_userinfo(request.url.partition("#")[0])
    if not has_site(url):
        raise AttemptError("the URL has no valid host or port", code="bad_url")
    return url


def _no_connection() -> AttemptError:
    return AttemptError("no connection (nothing within BULK_CONNECT_TIMEOUT)", code="connect", origin_wide=True)


def _no_answer() -> AttemptError:
    return AttemptError("no answer within BULK_HEADERS_TIMEOUT", code="headers_timeout")


def _remember_endpoints(agent: Any) -> None:
    """Lets an agent make the endpoint of a host only once: applying the rules for host names to each request would take
    longer than all the rest of sending it. Private name: Agent._endpointFactory."""
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
