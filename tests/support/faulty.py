"""An HTTP/1.1 origin that misbehaves on purpose, for the scenarios of the tests.

Plain threads and sockets, no HTTP library: so it can lie in every header, cut anywhere and close as it likes, also
over TLS. A path has a behaviour, a callable that is given an `Exchange` (one request, and the verbs to answer it):

    with FaultyOrigin({"a.bin": in_turn(cut_after(100_000, "reset"), good)}) as origin:
        download(origin.url("a.bin"))
        assert [request.range for request in origin.requests] == [None, (100_000, None)]

Read from the top: what was asked (`Recorded`), what is served (`Resource`), the server, its connections, the verbs
(`Exchange`) and the correct answer (`good`, `Reply`). The library of wrong answers is `faults.py`.

Nothing sleeps: whatever waits, waits for the client to leave and for the server to stop as well.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import re
import select
import socket
import ssl
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache, partial
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from bulkspider.demo.content import Content

#: How an answer ends before its time: FIN (with close_notify over TLS), RST, or FIN without close_notify.
Ending = Literal["close", "reset", "close_without_notify"]

#: First and last offset as in a Range header: (5, 9), (5, None) or, for the last n bytes, (None, n).
Range = tuple[int | None, int | None]

# What a client needs to be told: the certificate is self-signed.
TRUST = {"DOWNLOAD_VERIFY_CERTIFICATES": "False"}
LAST_MODIFIED = "Mon, 01 Jan 2024 00:00:00 GMT"

_PIECE = 64 * 1024

#: Linux tells that the peer has closed apart from "there is something to read".
_PEER_GONE = getattr(select, "POLLRDHUP", select.POLLIN) | select.POLLHUP | select.POLLERR


def make_body(size: int = 300_000, seed: str = "body") -> bytes:
    """Deterministic pseudo-random bytes; the same seed with a larger size begins with the same bytes."""
    return Content(seed, size).read(0, size)


# --- What was asked ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Recorded:
    """One request as it arrived, and what became of its answer so far."""

    method: str
    target: str
    path: str
    query: str
    headers: dict[str, str]  # names in lower case
    range: Range | None
    time: float  # monotonic
    connection: int  # counted from 0
    attempt: int  # how many requests for this path came before
    status: int | None = None  # the last status line sent
    bytes_sent: int = 0  # of the body, handed to the kernel
    ended: bool = False
    body: bytes = b""  # what came with the request


# --- What is served ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Resource:
    """A file on the server and how the server speaks of it."""

    body: bytes
    etag: str | None = '"v1"'
    last_modified: str | None = LAST_MODIFIED
    date: str | None = "now"
    content_type: str | None = "application/octet-stream"
    accept_ranges: bool = True  # False: says `none` and ignores Range
    honour_if_range: bool = True  # False: answers 206 whatever If-Range says
    headers: tuple[tuple[str, str], ...] = ()


# --- The server -------------------------------------------------------------------------------------------------------


class FaultyOrigin:
    """The server, serving while its `with` block lasts. An error in a behaviour is raised at the end of the block.

    table: name → behaviour, or name → (behaviour, what it serves). default: for all other paths.
    resource: what is served where the table does not say.
    tls: https with a self-signed certificate (`certificate_path`); "expired": one that is no longer valid.
    at_connect: given the number of a new connection, "reset" or "close" ends it unread, "stall" never answers;
    over TLS before the handshake.
    """

    def __init__(
        self,
        table: Mapping[str, Behaviour | tuple[Behaviour, Resource | bytes]] | None = None,
        *,
        resource: Resource | bytes | None = None,
        default: Behaviour | None = None,
        tls: bool | Literal["expired"] = False,
        host: str = "127.0.0.1",
        at_connect: Callable[[int], Literal["reset", "close", "stall"] | None] | None = None,
    ) -> None:
        self.requests: list[Recorded] = []
        self.connections = 0
        self.errors: list[BaseException] = []
        self.host = host
        self.port = 0
        self.at_connect = at_connect
        self.default = default or not_found
        self._resource = _resource(make_body() if resource is None else resource)
        self._routes: dict[str, tuple[Behaviour, Resource]] = {}
        self._attempts: Counter[str] = Counter()
        self._changed = threading.Condition(threading.RLock())
        self._life: _Life | None = None
        self.tls: ssl.SSLContext | None = None
        if tls:
            self.certificate_path = Path(tempfile.mkstemp(suffix=".pem")[1])
            self.certificate_path.write_bytes(_certificate(expired=tls == "expired"))
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(self.certificate_path)
            self.tls.set_alpn_protocols(["http/1.1"])
            self.tls.sslsocket_class = TlsSocket
        for path, entry in (table or {}).items():
            if isinstance(entry, tuple):
                self.add(path, *entry)
            else:
                self.add(path, entry)

    def __enter__(self) -> FaultyOrigin:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()
        if self.tls is not None:
            self.certificate_path.unlink(missing_ok=True)
        if error is None and self.errors:
            raise self.errors[0]

    def up(self) -> None:
        """Listens; after `down()` on the same port as before."""
        self._life = _Life(self)
        self.port = self._life.port

    def down(self) -> None:
        """Ends every connection at once and refuses new ones, until `up()`: an origin that is gone."""
        if self._life is not None:
            self._life.end()
            self._life = None

    def add(self, path: str, behaviour: Behaviour, resource: Resource | bytes | None = None) -> None:
        """Gives a path a behaviour, also while serving. The query of a request does not choose its path."""
        chosen = self._resource if resource is None else _resource(resource)
        with self._changed:
            self._routes[_key(path)] = (behaviour, chosen)

    def show_certificate_of(self, other: FaultyOrigin) -> None:
        """New connections are shown another origin's certificate from now on."""
        assert self.tls is not None
        self.tls.load_cert_chain(other.certificate_path)

    def url(self, name: str) -> str:
        """The absolute URL of a name (which may have a query)."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}{quote(_key(name), safe='/?&=%~')}"

    def requests_for(self, name: str, method: str | None = "GET") -> list[Recorded]:
        """Recorded requests for one name, of one method (None: any)."""
        with self._changed:
            return [r for r in self.requests if r.path == _key(name) and method in (None, r.method)]

    def wait_until(self, happened: Callable[[FaultyOrigin], bool], timeout: float = 30) -> None:
        """Returns when `happened` is true of this origin; asked again after every request, piece sent and ending."""
        with self._changed:
            if not self._changed.wait_for(lambda: happened(self), timeout):
                raise TimeoutError(f"not within {timeout} s; requests so far: {self.requests}")

    # For the connections:

    def record(self, recorded: Recorded) -> tuple[Behaviour, Resource]:
        """Notes a request and says how to answer it."""
        with self._changed:
            recorded.attempt = self._attempts[recorded.path]
            self._attempts[recorded.path] += 1
            self.requests.append(recorded)
            self._changed.notify_all()
            return self._routes.get(recorded.path, (self.default, self._resource))

    def progress(self, recorded: Recorded, sent: int = 0, *, ended: bool = False) -> None:
        with self._changed:
            recorded.bytes_sent += sent
            recorded.ended = recorded.ended or ended
            self._changed.notify_all()

    def connected(self) -> int:
        with self._changed:
            self.connections += 1
            self._changed.notify_all()
            return self.connections - 1

    def wrap(self, raw: socket.socket) -> socket.socket:
        return raw if self.tls is None else self.tls.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)


class TlsSocket(ssl.SSLSocket):
    """For `SSLContext.sslsocket_class`: wrap_socket() loses its socket, open, when the peer has reset already."""

    def __del__(self) -> None:
        self.close()


class _Life:
    """From one up() to the next down(): the listening socket, the connections, and the event that ends them."""

    def __init__(self, origin: FaultyOrigin) -> None:
        self._origin = origin
        self._listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind((origin.host, origin.port))
        self._listening.listen(256)
        self._listening.setblocking(False)
        self.port: int = self._listening.getsockname()[1]
        # One end is never written, only closed; the other then wakes everything that polls.
        self.over, self._end = socket.socketpair()
        self._threads: set[threading.Thread] = set()
        self.connections: set[_Connection] = set()
        self._lock = threading.Lock()
        self._ended = False
        self._start(self._accept)

    def end(self) -> None:
        self._end.close()
        with self._lock:
            self._ended = True
            connections = list(self.connections)
        for connection in connections:
            connection.interrupt()
        while True:
            with self._lock:
                threads = list(self._threads)
            if not threads:
                break
            for thread in threads:
                thread.join(10)
                if thread.is_alive():
                    raise RuntimeError("a behaviour of the faulty origin does not end")
        self.over.close()

    def _accept(self) -> None:
        while True:
            if wait(self._listening, select.POLLIN, self.over, None) != "ready":
                break
            try:
                raw, _ = self._listening.accept()
            except BlockingIOError:
                continue  # that client has left already
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(self._origin, self, raw, self._origin.connected())
            with self._lock:
                if self._ended:
                    raw.close()
                    break
                self.connections.add(connection)
            self._start(partial(self._serve, connection))
        self._listening.close()  # refuses from now on

    def _serve(self, connection: _Connection) -> None:
        try:
            connection.serve()
        finally:
            with self._lock:
                self.connections.discard(connection)

    def _start(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                self._origin.errors.append(error)
            finally:
                with self._lock:
                    self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run, name="faulty-origin", daemon=True)
        with self._lock:
            self._threads.add(thread)
            thread.start()


class Gone(ConnectionError):
    """The client has left, or the server stops: nothing is left to answer."""


class _Connection:
    """One client's connection: its socket, and the loop of requests on it."""

    def __init__(self, origin: FaultyOrigin, life: _Life, raw: socket.socket, number: int) -> None:
        self.origin = origin
        self.over = life.over
        self.number = number
        self.sock = raw
        self.open = True
        self.requests = 0
        self._received = b""
        self._interrupted = False
        self._lock = threading.Lock()  # interrupt() must never touch a descriptor that was closed and reused

    def serve(self) -> None:
        try:
            faulty = self.origin.at_connect(self.number) if self.origin.at_connect else None
            if faulty == "stall":
                self.pause(None)
            elif faulty is not None:
                self.end(faulty)
            else:
                with self._lock:
                    self.sock = self.origin.wrap(self.sock)
                if isinstance(self.sock, ssl.SSLSocket):
                    self.sock.do_handshake()
            while self.open:
                head = self._read_head()
                exchange = Exchange(self, head)
                try:
                    exchange.run()
                finally:
                    self.origin.progress(exchange.recorded, ended=True)
                self.requests += 1
        except OSError:
            pass  # the client has left, which clients may; ssl.SSLError is an OSError too
        except Exception:
            if not self._interrupted:
                raise
        finally:
            self._shut()

    def interrupt(self) -> None:
        """From another thread: whatever the connection is waiting for ends now."""
        with self._lock:
            self._interrupted = True
            if self.open:
                # Not SSLSocket's own shutdown: it would let a thread that is just sending go on in plain text.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def pause(self, seconds: float | None) -> None:
        """Waits; raises Gone as soon as the client leaves or the server stops."""
        if wait(self.sock, _PEER_GONE, self.over, seconds) != "time":
            raise Gone

    def end(self, how: Ending) -> None:
        """Closes the connection in one of the three ways. What was sent has reached the client's kernel first."""
        try:
            if how == "reset":
                self._wait_for_delivery()
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                if how == "close" and isinstance(self.sock, ssl.SSLSocket):
                    self.notify(self.sock)
                socket.socket.shutdown(self.sock, socket.SHUT_WR)
                self._linger()
        except OSError:
            pass
        finally:
            self._shut()

    def _shut(self) -> None:
        with self._lock:
            self.open = False
            self.sock.close()

    def _wait_for_delivery(self) -> None:
        """An RST overtakes what is still queued here; waits until the client's side has acknowledged all (Linux)."""
        try:
            import fcntl
            from termios import TIOCOUTQ
        except ImportError:
            return
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and any(fcntl.ioctl(self.sock, TIOCOUTQ, bytes(4))):
            self.pause(0.001)

    def notify(self, sock: ssl.SSLSocket) -> None:
        """Sends close_notify without waiting for the client's."""
        sock.setblocking(False)
        while True:
            try:
                sock.unwrap()
                return
            except ssl.SSLWantWriteError:
                if wait(sock, select.POLLOUT, self.over, 10) != "ready":
                    return
            except ssl.SSLWantReadError:
                return  # ours is sent, theirs is not here

    def _linger(self) -> None:
        """Reads until the client closes too: closing with bytes unread would send an RST after the FIN."""
        while wait(self.sock, select.POLLIN, self.over, 2) == "ready":
            if not socket.socket.recv(self.sock, _PIECE):
                return

    def _read_head(self) -> bytes:
        while b"\r\n\r\n" not in self._received:
            data = self.sock.recv(_PIECE)
            if not data:
                raise Gone
            self._received += data
        head, self._received = self._received.split(b"\r\n\r\n", 1)
        length = re.search(rb"(?im)^content-length: *(\d+)", head)
        while length and len(self._received) < int(length[1]):
            data = self.sock.recv(_PIECE)
            if not data:
                raise Gone
            self._received += data
        self.body = b""
        if length:
            self.body = self._received[: int(length[1])]
            self._received = self._received[int(length[1]) :]
        return head


def wait(
    sock: socket.socket, events: int, over: socket.socket, seconds: float | None
) -> Literal["ready", "over", "time"]:
    """Waits for events of a socket ("ready"), the end of the server's life ("over") or a time."""
    poll = select.poll()
    poll.register(sock, events)
    poll.register(over, select.POLLIN)
    ready = dict(poll.poll(None if seconds is None else max(1, round(seconds * 1000))))
    if over.fileno() in ready:
        return "over"
    return "ready" if ready else "time"


# --- One request and the verbs to answer it ---------------------------------------------------------------------------


class Exchange:
    """One request, and everything that can be done to its client.

    Verbs raise `Gone` when the client has left; a behaviour lets it pass. A behaviour that returns without an ending
    leaves the connection open for the next request, unless one side has said `Connection: close` or is HTTP/1.0.
    """

    def __init__(self, connection: _Connection, head: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.method, target, self.version = lines[0].split(" ")
        self.headers = {
            name.strip().lower(): value.strip() for name, _, value in (ln.partition(":") for ln in lines[1:])
        }
        url = urlsplit(target)  # a proxy is sent an absolute URL, and for CONNECT host:port
        self.path = "/" + target if self.method == "CONNECT" else unquote(url.path)
        self.query = url.query
        self.range = parse_range(self.headers.get("range"))
        self.recorded = Recorded(
            self.method, target, self.path, url.query, self.headers, self.range, time.monotonic(), connection.number, 0
        )
        self.recorded.body = connection.body
        self.behaviour, self.resource = connection.origin.record(self.recorded)
        self.attempt = self.recorded.attempt
        #: How many requests came before on this connection.
        self.on_connection = connection.requests
        self.connection = connection
        self._head: list[str] = []
        self._headers_ended = False
        self._last_answer = self.version == "HTTP/1.0" or self.headers.get("connection", "").lower() == "close"

    @property
    def body(self) -> bytes:
        """The full, correct bytes."""
        return self.resource.body

    def run(self) -> None:
        self.behaviour(self)
        if self.connection.open and self._last_answer:
            self.close()

    # Composing an answer

    def send_status(self, code: int, reason: str | None = None, version: str = "HTTP/1.1") -> None:
        known = {member.value: member.phrase for member in HTTPStatus}
        self._head = [f"{version} {code} {known.get(code, 'Status') if reason is None else reason}"]
        self._headers_ended = False
        self._last_answer = self._last_answer or version == "HTTP/1.0"
        self.recorded.status = code

    def header(self, name: str, value: object) -> None:
        self._head.append(f"{name}: {value}")
        if (name.lower(), str(value).lower()) == ("connection", "close"):
            self._last_answer = True

    def end_headers(self) -> None:
        self._send_head("\r\n")
        self._headers_ended = True

    def _send_head(self, end: str = "") -> None:
        head = "".join(f"{line}\r\n" for line in self._head) + end
        self._head = []
        self.connection.sock.sendall(head.encode("latin-1"))

    def send(self, data: bytes | memoryview) -> None:
        """Any bytes, anywhere, also between headers. After the headers of an answer to HEAD nothing is sent."""
        if self._headers_ended and self.method == "HEAD":
            return
        self._send_head()
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            self.connection.sock.sendall(piece)
            if self._headers_ended:
                self.connection.origin.progress(self.recorded, len(piece))

    def send_slowly(self, data: bytes | memoryview, rate: float) -> None:
        """The same at `rate` bytes per second, in at most twenty pieces a second."""
        size = max(1, int(rate / 20))
        for start in range(0, len(data), size):
            self.send(data[start : start + size])
            self.connection.pause(min(size, len(data) - start) / rate)

    def chunked(
        self,
        data: bytes | memoryview,
        finish: bool = True,
        size: int = 16_384,
        trailers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """`data` as chunks of `size`; `finish` adds the last chunk and the trailers (RFC 9112 §7.1)."""
        if self.method == "HEAD":
            return
        for start in range(0, len(data), size):
            piece = bytes(data[start : start + size])
            self.connection.sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.connection.origin.progress(self.recorded, len(piece))
        if finish:
            fields = "".join(f"{name}: {value}\r\n" for name, value in trailers)
            self.connection.sock.sendall(f"0\r\n{fields}\r\n".encode("latin-1"))

    def promise(self, reply: Reply) -> None:
        """Status and headers of a reply, not its body."""
        self.send_status(reply.status)
        for name, value in reply.headers.items():
            self.header(name, value)
        self.end_headers()

    def answer(self, reply: Reply) -> None:
        self.promise(reply)
        self.send(reply.body)

    # Ending it

    def reset(self) -> None:
        """RST (SO_LINGER 0); what was sent has arrived before."""
        self.end("reset")

    def close(self) -> None:
        """FIN, over TLS with close_notify."""
        self.end("close")

    def close_without_notify(self) -> None:
        """FIN; over TLS without close_notify, as an attacker or a crashed server cuts (RFC 9112 §9.8)."""
        self.end("close_without_notify")

    def end(self, how: Ending) -> None:
        self.connection.end(how)

    def stall(self, until: threading.Event | None = None) -> None:
        """Says nothing more until the event is set; without one, until the client leaves or the server stops."""
        if until is None:
            self.connection.pause(None)
        while until is not None and not until.is_set():
            self.connection.pause(0.01)


Behaviour = Callable[[Exchange], None]


# --- The correct answer -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Reply:
    """A correct answer before it is sent, so that one thing in it can be made wrong."""

    status: int
    headers: dict[str, str]
    resource: Resource
    body: memoryview = field(default_factory=lambda: memoryview(b""))
    first: int = 0

    def show(self, first: int, last: int) -> None:
        """Makes these bytes of the resource the body, and the headers true for them."""
        self.first = first
        self.body = memoryview(self.resource.body)[first : last + 1]
        self.headers["Content-Length"] = str(len(self.body))
        if self.status == 206:
            self.headers["Content-Range"] = f"bytes {first}-{last}/{len(self.resource.body)}"

    @property
    def last(self) -> int:
        return self.first + len(self.body) - 1


def not_found(exchange: Exchange) -> None:
    """404, for paths that nobody has added."""
    exchange.send_status(404)
    exchange.header("Content-Length", 0)
    exchange.end_headers()


def good(exchange: Exchange, resource: Resource | None = None) -> None:
    """The right answer: 200, 206, 304 never, 416; ETag, Last-Modified, If-Range, HEAD."""
    exchange.answer(correct(exchange, resource))


def correct(exchange: Exchange, resource: Resource | None = None, *, ignore_range: bool = False) -> Reply:
    """The reply that `good` sends, for behaviours that change something in it."""
    served = resource or exchange.resource
    size = len(served.body)
    headers = {
        "Date": formatdate(usegmt=True) if served.date == "now" else served.date,
        "Content-Type": served.content_type,
        "ETag": served.etag,
        "Last-Modified": served.last_modified,
        "Accept-Ranges": "bytes" if served.accept_ranges else "none",
        **dict(served.headers),
    }
    reply = Reply(200, {name: value for name, value in headers.items() if value is not None}, served)
    heeded = served.accept_ranges and not ignore_range and _if_range_holds(exchange, served)
    if exchange.range is not None and exchange.method == "GET" and heeded:  # RFC 9110 §14.2: GET only
        first, last = resolve(exchange.range, size)
        if first > last:
            reply.status = 416
            reply.headers |= {"Content-Range": f"bytes */{size}", "Content-Length": "0"}
        else:
            reply.status = 206
            reply.show(first, last)
        return reply
    reply.show(0, size - 1)
    if exchange.method == "HEAD":
        reply.body = memoryview(b"")
    return reply


def _if_range_holds(exchange: Exchange, resource: Resource) -> bool:
    """RFC 9110 §13.1.5: the strong comparison, or exactly the date."""
    condition = exchange.headers.get("if-range")
    if condition is None or not resource.honour_if_range:
        return True
    strong = resource.etag if resource.etag and not resource.etag.startswith("W/") else None
    return condition in {strong, resource.last_modified} - {None}


def parse_range(header: str | None) -> Range | None:
    """The only range of a Range header; None when there is none, several, or nonsense."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = (int(text) if text else None for text in match.groups())
    return None if first is not None and last is not None and last < first else (first, last)


def resolve(asked: Range, size: int) -> tuple[int, int]:
    """First and last offset of a range in `size` bytes; first > last when it cannot be satisfied."""
    first, last = asked
    if first is None:
        return max(0, size - (last or 0)), size - 1
    return first, size - 1 if last is None else min(last, size - 1)


# --- Small things the above needs -------------------------------------------------------------------------------------


def _key(path: str) -> str:
    return "/" + path.removeprefix("/")


def _resource(given: Resource | bytes) -> Resource:
    return given if isinstance(given, Resource) else Resource(given)


@lru_cache(maxsize=2)
def _certificate(expired: bool) -> bytes:
    """Key and self-signed certificate for localhost and 127.0.0.1 as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 20 * day)
        .not_valid_after(now - 10 * day if expired else now + 10 * day)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)
