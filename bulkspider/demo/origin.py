"""The embedded origin: a small, correct HTTP server that has a file for every name and size.

Decides how a request for `/<size>/<seed>.bin` (`/10G/a.bin`, `/4096/b.bin?rate=1M`) is answered: GET and HEAD, one
Range, If-Range, If-None-Match, a strong ETag. What the bytes are is `content.py`'s matter. It must not know the
downloader: demo, tests and benchmarks need a server that is independent of it. `tests/support/faulty.py` is one with
faults.

    python -m bulkspider.demo.origin [--port 0] [--rate 20M] [--log FILE]

prints `origin listening on http://127.0.0.1:PORT/` and serves until SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from twisted.internet.interfaces import IListeningPort, IPushProducer
from twisted.web import http
from zope.interface import implementer  # type: ignore[import-untyped,unused-ignore]

from bulkspider.demo.content import Content
from bulkspider.options import parse_size
from bulkspider.regex import regex

#: 2024-01-01 00:00:00 UTC: one second and more before any Date we send, hence a strong validator (RFC 9110 §8.8.2.2).
LAST_MODIFIED = 1704067200

#: What Twisted gives to one send(); a connection never holds much more than this.
_SLICE = 128 * 1024

#: With a speed limit, this many slices a second, so that the flow looks smooth.
_SLICES_PER_SECOND = 20

_PATH = regex(r"/([^/]+)/([^/]+)\.bin")
_RANGE = regex(r"bytes=(\d*)-(\d*)", re.IGNORECASE)

Record = dict[str, Any]


class Origin(http.HTTPFactory):
    """The server; `requests` counts what has arrived, `bytes_sent` the bodies' bytes of ended answers.

    rate: bytes per second of each connection, None for no limit.
    record: called with one JSON-able dict per ended request: time, method, path, range, status, bytes.
    """

    def __init__(self, reactor: Any, rate: int | None = None, record: Callable[[Record], None] | None = None) -> None:
        super().__init__(reactor=reactor)
        self.rate = rate
        self.record = record
        self.requests = 0
        self.bytes_sent = 0

    def buildProtocol(self, addr: Any) -> Any:
        """Plain HTTP/1.1, where Twisted's factory would negotiate the protocol."""
        connection: Any = _Connection()  # type: ignore[no-untyped-call,unused-ignore]
        connection.factory = self
        connection.callLater = self.reactor.callLater
        connection.timeOut = self.timeOut
        return connection

    def log(self, request: http.Request) -> None:
        """Twisted's own access log, which we do not keep."""

    # Requests are Any below, because Twisted's carry no types.

    def answer(self, request: Any) -> None:
        """Answers one request whose head has arrived."""
        self.requests += 1
        # Also called when the client leaves early, which is not our failure and is recorded all the same.
        request.notifyFinish().addBoth(lambda _: self._ended(request))
        request.setHeader("Date", http.datetimeToString())  # type: ignore[no-untyped-call,unused-ignore] # RFC 9110 §6.6.1
        target = urlsplit(request.uri.decode("latin-1"))
        match = _PATH.fullmatch(target.path)
        try:
            if match is None:
                raise ValueError("the path is not /<size>/<seed>.bin")
            size = parse_size(unquote(match[1]))
            rates = parse_qs(target.query).get("rate")
            rate = parse_size(rates[0]) if rates else self.rate
        except ValueError as error:
            _say(request, 404, f"{error}; try /10M/example.bin\n")
            return
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader("Allow", "GET, HEAD")
            _say(request, 405, "GET and HEAD only\n")
            return
        _serve(request, Content(unquote(match[2]), size), rate)

    def _ended(self, request: Any) -> None:
        self.bytes_sent += request.sentLength
        if self.record is not None:
            self.record(
                {
                    "time": round(time.time(), 3),
                    "method": request.method.decode("latin-1"),
                    "path": request.uri.decode("latin-1"),
                    "range": request.getHeader("range"),
                    "status": request.code,
                    "bytes": request.sentLength,
                }
            )


def start(
    reactor: Any, port: int = 0, rate: int | None = None, record: Callable[[Record], None] | None = None
) -> IListeningPort:
    """Serves on 127.0.0.1 inside this process; the result's `getHost().port` is the port, its `factory` the Origin."""
    origin = Origin(reactor, rate, record)
    # The default backlog of 50 would refuse a benchmark's hundreds of connections at once.
    listening: IListeningPort = reactor.listenTCP(port, origin, backlog=1024, interface="127.0.0.1")
    return listening


def etag_of(seed: str, size: int) -> str:
    """The strong ETag of a file, quotes included."""
    digest = hashlib.sha256(f"{size}/{seed}".encode()).hexdigest()
    return f'"{digest[:24]}"'


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """First offset and length of the only range of `header`; None to ignore it; length 0 if it cannot be satisfied."""
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None  # RFC 9110 §14.2: a server may ignore a Range, as we do with several at once
    first_text, last_text = match.groups()
    if not first_text:  # RFC 9110 §14.1.2: the last n bytes
        length = min(int(last_text), size)
        return size - length, length
    first = int(first_text)
    if last_text and int(last_text) < first:
        return None  # RFC 9110 §14.1.1: invalid, hence ignored
    last = min(int(last_text), size - 1) if last_text else size - 1
    return first, max(0, last - first + 1)


def _serve(request: Any, content: Content, rate: int | None) -> None:
    etag = etag_of(content.seed, content.size).encode()
    request.setHeader("Accept-Ranges", "bytes")
    request.setHeader("Content-Type", "application/octet-stream")
    if request.setETag(etag) is http.CACHED or request.setLastModified(LAST_MODIFIED) is http.CACHED:
        request.finish()  # 304
        return
    first, length = 0, content.size
    wanted = request.getHeader("range")
    # RFC 9110 §14.2: Range means something with GET only; §13.1.5: and only while the validator is exactly ours.
    if wanted is not None and request.method == b"GET" and _if_range_holds(request, etag):
        part = parse_range(wanted, content.size)
        if part is not None and part[1] == 0:
            request.setHeader("Content-Range", f"bytes */{content.size}")  # RFC 9110 §15.5.17
            _say(request, 416, "that range is not there\n")
            return
        if part is not None:
            first, length = part
            request.setResponseCode(206)
            request.setHeader("Content-Range", f"bytes {first}-{first + length - 1}/{content.size}")
    request.setHeader("Content-Length", str(length))
    if request.method == b"HEAD":
        request.finish()
    else:
        _Body(request, content, first, length, rate).start()


def _if_range_holds(request: Any, etag: bytes) -> bool:
    condition = request.getHeader(b"if-range")
    return condition is None or condition in (etag, http.datetimeToString(LAST_MODIFIED))  # type: ignore[no-untyped-call,unused-ignore]


def _say(request: Any, code: int, text: str) -> None:
    request.setResponseCode(code)
    request.setHeader("Content-Type", "text/plain")
    request.setHeader("Content-Length", str(len(text)))
    request.write(text.encode())
    request.finish()


class _Request(http.Request):
    """Brings a request to the origin."""

    def process(self) -> None:
        self.channel.factory.answer(self)


class _Connection(http.HTTPChannel):
    """A client's connection; its answers share one speed limit, also over keep-alive."""

    requestFactory = _Request
    #: On the reactor's clock: the moment from which everything sent so far is within the limit.
    paid_until = 0.0


@implementer(IPushProducer)
class _Body:
    """Moves one answer's body into the connection, a slice whenever there is room and the speed limit allows."""

    def __init__(self, request: Any, content: Content, first: int, length: int, rate: int | None) -> None:
        self._request = request
        self._connection: Any = request.channel
        self._reactor: Any = self._connection.factory.reactor
        self._content = content
        self._offset = first
        self._end = first + length
        self._rate = rate
        self._slice = max(1, min(_SLICE, rate // _SLICES_PER_SECOND)) if rate else _SLICE
        self._paused = False
        self._timer: Any = None

    def start(self) -> None:
        self._request.registerProducer(self, True)
        self._move()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._move()

    def stopProducing(self) -> None:
        """The client has gone."""
        self._paused = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _move(self) -> None:
        if self._timer is not None:
            return  # it will call
        while self._offset < self._end:
            if self._paused:
                return
            now = self._reactor.seconds()
            if self._rate and self._connection.paid_until > now:
                self._timer = self._reactor.callLater(self._connection.paid_until - now, self._time_has_come)
                return
            data = self._content.read(self._offset, min(self._slice, self._end - self._offset))
            self._offset += len(data)
            if self._rate:
                # A little debt may be made up for, so that late timers do not slow the flow; a long pause may not.
                self._connection.paid_until = max(now - 0.1, self._connection.paid_until) + len(data) / self._rate
            self._request.write(data)
        self._request.unregisterProducer()
        self._request.finish()

    def _time_has_come(self) -> None:
        self._timer = None
        self._move()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status once a signal has ended the server."""
    parser = argparse.ArgumentParser(prog="python -m bulkspider.demo.origin", description="A small origin for tests.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--rate", type=parse_size, default=None, help="bytes per second of each connection, e.g. 20M")
    parser.add_argument("--log", type=Path, default=None, help="one JSON line per request is appended here")
    options = parser.parse_args(arguments)

    from twisted.internet import reactor

    log = options.log.open("a", buffering=1) if options.log else None  # line-buffered
    record = (lambda entry: print(json.dumps(entry), file=log)) if log else None
    loop: Any = reactor
    port: Any = start(loop, options.port, options.rate, record)
    print(f"origin listening on http://127.0.0.1:{port.getHost().port}/", flush=True)
    loop.run()
    if log is not None:
        log.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
