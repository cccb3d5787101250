"""Origins in the manner of known hosts, one class each: what they want to be asked, and how they refuse.

Each has an address of its own on this machine (127.0.0.x), as many servers as the real one has hosts, the lines of a
list, and a bound on the requests that its files may cost.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
import time
from collections.abc import Iterator
from typing import ClassVar
from urllib.parse import parse_qs

from support.faults import as_if, cut_after, redirect_to, status
from support.faulty import Exchange, FaultyOrigin, Resource, good, make_body

MIB = 1 << 20


class Host:
    """servers: of the host, its first one is in the list. files: name -> body. most_requests: for a run that nothing
    interrupts, the dry kind of politeness included."""

    files: ClassVar[dict[str, bytes]] = {}
    most_requests: ClassVar[int] = 0
    fails: ClassVar[bool] = False

    def __init__(self, *addresses: str) -> None:
        self.servers = [FaultyOrigin(default=self.answer, host=address) for address in addresses]

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for server in self.servers:
                stack.enter_context(server)
            yield

    def lines(self) -> list[str]:
        return [f"{name} {self.servers[0].url(name)}" for name in self.files]

    @property
    def requests(self) -> int:
        return sum(len(server.requests) for server in self.servers)

    def answer(self, exchange: Exchange) -> None:
        raise NotImplementedError

    def body(self, exchange: Exchange) -> Resource:
        return Resource(self.files[exchange.path.lstrip("/")])


class Earthdata(Host):
    """NASA: data host → login (netrc) → back with a code → a cookie → the data host again → signed at a CDN."""

    files: ClassVar = {f"earthdata-{n}.h5": make_body(400_000, f"earthdata{n}") for n in range(3)}
    most_requests = 3 * 6
    addresses = ("127.0.1.1", "127.0.1.2", "127.0.1.3")

    def __init__(self) -> None:
        super().__init__(*self.addresses)
        data, login, cdn = self.servers
        data.default, login.default, cdn.default = self.data, self.login, self.cdn

    def data(self, exchange: Exchange) -> None:
        if exchange.path == "/oauth":
            query = parse_qs(exchange.query)
            back = self.servers[0].url(query["state"][0])
            redirect_to(back, headers={"Set-Cookie": "asf-urs=session; Path=/"})(exchange)
        elif "asf-urs=session" in exchange.headers.get("cookie", ""):
            redirect_to(self.servers[2].url(f"{exchange.path}?A-userid=me&Signature=x"), 303)(exchange)
        else:
            redirect_to(self.servers[1].url(f"authorize?state={exchange.path}"))(exchange)

    def login(self, exchange: Exchange) -> None:
        if exchange.headers.get("authorization") != "Basic bWU6czNjcmV0":
            status(401, {"WWW-Authenticate": "Basic"})(exchange)
        else:
            redirect_to(self.servers[0].url(f"oauth?code=1&{exchange.query}"))(exchange)

    def cdn(self, exchange: Exchange) -> None:
        if "authorization" in exchange.headers or "cookie" in exchange.headers:
            status(400)(exchange)  # S3 refuses two ways of saying who asks
        else:
            good(exchange, self.body(exchange))


class CommonCrawl(Host):
    """403 is "slow down": who asks sooner than that gets nothing."""

    files: ClassVar = {f"commoncrawl-{n}.warc.gz": make_body(200_000, f"cc{n}") for n in range(4)}
    most_requests = 4 + 6
    INTERVAL_SECONDS = 0.15

    def __init__(self) -> None:
        super().__init__("127.0.1.4")
        self._last = 0.0
        self._lock = threading.Lock()

    def answer(self, exchange: Exchange) -> None:
        with self._lock:
            too_soon = time.monotonic() - self._last < self.INTERVAL_SECONDS
            self._last = time.monotonic()
        if too_soon:
            status(403, body=b"Please slow down")(exchange)
        else:
            good(exchange, self.body(exchange))


class CloudFront(Host):
    """Above its limit a file comes only in ranges; the small ones come as ever."""

    files: ClassVar = {
        "cloudfront-small.zip": make_body(50_000, "cfs"),
        "cloudfront-large.zip": make_body(9 * MIB, "cfl"),
        "cloudfront-larger.zip": make_body(11 * MIB, "cfl2"),
    }
    LIMIT = 5 * MIB
    most_requests = 3 + 4

    def __init__(self) -> None:
        super().__init__("127.0.1.5")

    def answer(self, exchange: Exchange) -> None:
        resource, asked = self.body(exchange), exchange.range
        if len(resource.body) > self.LIMIT and (asked is None or None in asked):
            status(400, body=b"Bad request")(exchange)
        else:
            good(exchange, resource)


class HuggingFace(Host):
    """Links are resolved to signed ones that expire while the file comes; how many may be resolved is limited."""

    files: ClassVar = {f"hf-{n}.parquet": make_body(3 * MIB, f"hf{n}") for n in range(3)}
    most_requests = 3 * 2 * 3

    def __init__(self) -> None:
        super().__init__("127.0.1.6", "127.0.1.7")
        self.servers[0].default, self.servers[1].default = self.resolve, self.bridge
        self._numbers = itertools.count(1)
        self._used: set[str] = set()

    def resolve(self, exchange: Exchange) -> None:
        digest = hashlib.sha256(self.files[exchange.path.lstrip("/")]).hexdigest()
        limits = {
            "RateLimit": '"resolvers";r=2990;t=200',
            "RateLimit-Policy": '"fixed window";"resolvers";q=3000;w=300',
        }
        link = self.servers[1].url(f"{exchange.path}?Expires={next(self._numbers)}")
        redirect_to(link, headers={"X-Linked-ETag": f'"{digest}"', **limits})(exchange)

    def bridge(self, exchange: Exchange) -> None:
        if exchange.query in self._used:
            status(403, body=b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")(
                exchange
            )
            return
        self._used.add(exchange.query)
        # The first link of each file dies under way.
        cut = cut_after(1 * MIB, "reset") if exchange.attempt == 0 else good
        as_body(exchange, self.body(exchange), cut)


class Figshare(Host):
    """A firewall that wants to see a browser answers 202 without a body."""

    files: ClassVar = {"figshare.zip": b"never"}
    most_requests = 20
    fails = True

    def __init__(self) -> None:
        super().__init__("127.0.1.8")

    def answer(self, exchange: Exchange) -> None:
        status(202, {"x-amzn-waf-action": "challenge"}, body=b"")(exchange)


class StagingArchive(Host):
    """The file lies on a tape: 202 and a time to come back, until it is here."""

    files: ClassVar = {"staged.nc": make_body(100_000, "tape")}
    most_requests = 3

    def __init__(self) -> None:
        super().__init__("127.0.1.9")

    def answer(self, exchange: Exchange) -> None:
        if exchange.attempt < 2:
            status(202, {"Retry-After": "1"}, body=b'{"state": "staging"}')(exchange)
        else:
            good(exchange, self.body(exchange))


class Zenodo(Host):
    """Says `Accept-Ranges: none` and `bytes`, a hash as ETag, and on each answer how much remains and a Retry-After; more
    than two at once get 429."""

    files: ClassVar = {f"zenodo-{n}.zip": make_body(150_000, f"zenodo{n}") for n in range(5)}
    most_requests = 5

    def __init__(self) -> None:
        super().__init__("127.0.1.10")
        self._at_once = threading.BoundedSemaphore(2)

    def answer(self, exchange: Exchange) -> None:
        if not self._at_once.acquire(blocking=False):
            status(429, {"Retry-After": "1"})(exchange)
            return
        try:
            resource = self.body(exchange)
            as_if(
                body=resource.body,
                etag=f'"md5:{hashlib.md5(resource.body).hexdigest()}"',
                headers=(
                    ("Accept-Ranges", "none, bytes"),
                    ("X-RateLimit-Limit", "60"),
                    ("X-RateLimit-Remaining", "30"),
                    ("X-RateLimit-Reset", f"{time.time() + 60:.0f}"),
                    ("Retry-After", "60"),
                ),
            )(exchange)
        finally:
            self._at_once.release()


class Wikimedia(Host):
    """Two connections from one address, and a User-Agent that says who asks; else 403 and 503."""

    files: ClassVar = {f"wiki-{n}.xml.bz2": make_body(120_000, f"wiki{n}") for n in range(5)}
    most_requests = 5

    def __init__(self) -> None:
        super().__init__("127.0.1.11")
        self._at_once = threading.BoundedSemaphore(2)

    def answer(self, exchange: Exchange) -> None:
        agent = exchange.headers.get("user-agent", "")
        if not agent.startswith("bulkspider/") or "@" not in agent:
            status(403, body=b"Please set a user-agent")(exchange)
        elif not self._at_once.acquire(blocking=False):
            status(503)(exchange)
        else:
            try:
                good(exchange, self.body(exchange))
            finally:
                self._at_once.release()


class Ena(Host):
    """Lists with hashes; now and then a connection ends in the middle, and whoever believed it had half a file."""

    files: ClassVar = {f"ena-{n}.fastq.gz": make_body(500_000, f"ena{n}") for n in range(4)}
    most_requests = 4 * 2

    def __init__(self) -> None:
        super().__init__("127.0.1.12")

    def lines(self) -> list[str]:
        return [f"{line} md5={hashlib.md5(self.files[line.split()[0]]).hexdigest()}" for line in super().lines()]

    def answer(self, exchange: Exchange) -> None:
        as_body(exchange, self.body(exchange), cut_after(200_000, "close") if exchange.attempt == 0 else good)


def as_body(exchange: Exchange, resource: Resource, behaviour: object) -> None:
    """The behaviour, for this file."""
    exchange.resource = resource
    behaviour(exchange)  # type: ignore[operator]


#: What the user's table of hosts says of these addresses, as the package's does of the real names.
TABLE = f"""
["127.0.1.4"]
requests_per_minute = {60 / (CommonCrawl.INTERVAL_SECONDS * 2.5):.0f}
busy = [403]
["127.0.1.10"]
connections = 2
["127.0.1.11"]
connections = 2
"""
ALL = (Earthdata, CommonCrawl, CloudFront, HuggingFace, Figshare, StagingArchive, Zenodo, Wikimedia, Ena)
