"""What a thread reads on a connection that was lent to it: a usual answer is read in a short way, which must say exactly
what Twisted's parser says."""

from __future__ import annotations

import itertools
import string
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scrapy.http import Headers
from twisted.internet import reactor
from twisted.internet.defer import succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.testing import StringTransport
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers as TxHeaders
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from bulkspider.entries.urls import path_and_query
from bulkspider.errors import AttemptError
from bulkspider.protocol.heads.plain import USUAL_BYTES, USUAL_LINES, read_plain_head
from bulkspider.wire import Conversation, SharedRequest

URL = "http://host/file.bin"
BODY = b"0123456789"
USUAL = (
    b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 10\r\n"
    b'Connection: keep-alive\r\nETag: "abc"\r\nX-Empty:\r\n\r\n'
)


class Line:
    """A connection to a server that sends these pieces, each of which is one read, and then closes it."""

    tls = None
    host = b"host"

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = [piece for piece in pieces if piece]
        self.sent = b""
        self.socket = self.poller = self

    @property
    def is_quiet(self) -> bool:
        return not self.pieces

    def poll(self, milliseconds: float | None) -> list[int]:
        return [1]

    def sendall(self, data: bytes, flags: int = 0) -> None:
        self.sent += data

    def recv_into(self, buffer: memoryview) -> int:
        if not self.pieces:
            return 0
        piece = self.pieces.pop(0)
        buffer[: len(piece)] = piece
        return len(piece)


def heard(*pieces: bytes) -> tuple[Any, ...]:
    """All that a caller can see of one answer."""
    line: Any = Line(*pieces)
    conversation = Conversation(line, 5.0)
    try:
        head = conversation.ask(URL, SharedRequest(Headers(), b"host"))
    except (AttemptError, OSError) as error:
        return type(error), getattr(error, "code", None), str(error), conversation.is_clean
    try:
        body = conversation.read(head) if head.answer.length is not None else None
    except (AttemptError, OSError) as error:
        body = type(error), str(error)
    return head.status, dict(head.fields), head.answer, body, conversation.is_clean, conversation.was_closed


def the_long_way(data: bytes) -> tuple[Any, ...]:
    """As Twisted's parser has it: an answer whose first read ends within the status line is never read the short
    way."""
    return heard(data[:4], data[4:])


NAMES = [
    *("Server", "Date", "ETag", "Content-Type", "Content-Range", "Set-Cookie", "X-A", "x-a", "Content-Encoding"),
    *("Connection", "CONNECTION", "Keep-Alive", "Transfer-Encoding", "Upgrade", "TE", "Proxy-Connection"),
    "Trailers",
    *("Content-Length", "content-length", "Content Length", "X_A", "X-Å", "", " X", "X\t", "X\0", "!#$"),
]
VALUES = [
    *("10", "+10", "-10", "010", "0", "10, 10", "10,11", "1_0", "9" * 30, "10 ", " 10", "\t10", "5", "x", "a:b"),
    *("close", "Close, TE", "keep-alive", "chunked", "identity", "bytes 0-9/20", "bytes 0-9/*", "gzip", '"e"', ""),
    *("  ", "a\tb", "a\rb", "a\0b", "Zürich", "a\x7fb", "text/html; charset=utf-8", "a\x0bb", "\x1c"),
]
ENDS = ["\r\n", "\n", "\r", "\r\n ", "\r\n\t", "\r\r\n", "\n\r\n", "\r\n\r\n"]
STARTS = [
    *("HTTP/1.1 200 OK", "HTTP/1.1 206 Partial Content", "HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.1 2000"),
    *("HTTP/1.1 200\tOK", "HTTP/1.0 200 OK", "HTTP/1.1  200 OK", "HTTP/1.1 304 Not Modified", "HTTP/1.1 204 x"),
    *("HTTP/1.1 103 Hints", "http/1.1 200 OK", "ICY 200 OK", "HTTP/1.1 404 Not Found", "HTTP/1.1 200 a\0b"),
    *("HTTP/1.1 200 Ünd", "HTTP/1.1 200OK"),
]


def test_each_odd_part_alone_is_read_as_twisted_reads_it() -> None:
    start, *fields = USUAL.split(b"\r\n")[:-2]
    heads = [USUAL.replace(start, other.encode("latin-1")) for other in STARTS]
    heads += [USUAL[:-2] + f"{name}: {value}\r\n\r\n".encode("latin-1") for name in NAMES for value in VALUES]
    for at in range(len(fields) + 1):
        lines = [start, *fields]
        for end in ENDS:
            heads.append(b"\r\n".join(lines[: at + 1]) + end.encode() + b"\r\n".join([*lines[at + 1 :], b"", b""]))
    heads += [USUAL.replace(b"keep-alive", value.encode("latin-1")) for value in VALUES]
    heads += [USUAL.replace(b"Length: 10", f"Length: {value}".encode("latin-1")) for value in VALUES]
    for head in heads:
        assert heard(head + BODY) == the_long_way(head + BODY), head


VALUE = st.one_of(st.sampled_from(VALUES), st.text(string.printable, max_size=8))


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    lines = draw(
        st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from([": ", ":", ":   ", " : ", ""]), VALUE), max_size=6)
    )
    length = draw(st.sampled_from([None, *["Content-Length: 10"] * 6, "Content-Length: 12", "Content-Length: 7"]))
    fields = ["".join(line) for line in lines]
    if length is not None:
        fields.insert(draw(st.integers(0, len(fields))), length)
    end = st.sampled_from(["\r\n"] * 40 + ENDS)
    start = draw(st.sampled_from(["HTTP/1.1 200 OK"] * 16 + STARTS))
    text = start + draw(end) + "".join(field + draw(end) for field in fields) + draw(end)
    return text.encode("latin-1") + BODY + draw(st.sampled_from([b""] * 4 + [b"HTTP/1.1 200 OK\r\n\r\n", b"\n"]))


@given(answers())
@example(USUAL + BODY)
@example(USUAL + BODY + b"x")
@example(USUAL.replace(b"keep-alive", b"close") + BODY)
@example(USUAL + BODY[:5])
def test_the_short_way_says_what_twisteds_parser_says(data: bytes) -> None:
    assert heard(data) == the_long_way(data)


@given(st.binary(max_size=3), st.integers(0, len(USUAL)), st.integers(0, 3))
def test_so_it_does_of_a_usual_head_that_is_damaged_anywhere(put: bytes, at: int, instead_of: int) -> None:
    data = USUAL[:at] + put + USUAL[at + instead_of :] + BODY
    assert heard(data) == the_long_way(data)


@given(st.lists(st.integers(len(USUAL), len(USUAL + BODY) + 3), max_size=4).map(sorted))
def test_a_body_may_come_in_any_pieces(cuts: Sequence[int]) -> None:
    data = USUAL + BODY + b"\r\n!"
    places = [0, *cuts, len(data)]
    pieces = [data[first:end] for first, end in itertools.pairwise(places)]
    seen = heard(*pieces)
    assert (seen[0], seen[3]) == (200, BODY)
    assert not seen[4], "bytes after the answer must not be taken for the next one"


def test_a_usual_answer_takes_the_short_way() -> None:
    found = read_plain_head(USUAL + BODY)
    assert found is not None
    assert (found.status, found.length, found.size) == (200, 10, len(USUAL))
    assert found.fields == {"server": "x", "content-type": "application/octet-stream", "etag": '"abc"', "x-empty": ""}
    assert heard(USUAL + BODY)[3:] == (BODY, True, False)


@pytest.mark.parametrize(
    "more", [b"X-Long: " + b"x" * USUAL_BYTES + b"\r\n", b"".join(b"X-%d: y\r\n" % i for i in range(80))]
)
def test_a_larger_head_is_left_to_twisted(more: bytes) -> None:
    data = USUAL[:-2] + more + b"\r\n" + BODY
    assert USUAL_LINES < 80
    assert read_plain_head(data[:USUAL_BYTES]) is None
    assert heard(data) == the_long_way(data)
    assert heard(data)[3] == BODY


@given(
    st.sampled_from(["http://h", "https://host.example:8080", "http://[::1]:80", "http://u@h", "http://hö"]),
    st.text(string.ascii_letters + "/?#&=%;:@[]'\"\\ \t\n.~é", max_size=12),
)
def test_a_url_is_split_as_by_urlsplit(site: str, rest: str) -> None:
    url = f"{site}/{rest}"
    assert path_and_query(url) == (urlsplit(url).path, urlsplit(url).query)
    assert path_and_query(site) == ("", "")


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class Peer:
    """Keeps what Twisted's agent sends to it."""

    def __init__(self) -> None:
        self.transport = StringTransport()

    def endpointForURI(self, uri: Any) -> Peer:
        return self

    def connect(self, factory: Any) -> Any:
        protocol = factory.buildProtocol(None)
        protocol.makeConnection(self.transport)
        return succeed(protocol)


@given(
    st.dictionaries(st.sampled_from(["Accept", "User-Agent", "X-Token", "authorization"]), st.text("ab ,", max_size=5)),
    st.text(string.ascii_letters + "/?&=%:@", max_size=12),
)
def test_a_request_is_what_twisted_would_write(fields: dict[str, str], rest: str) -> None:
    headers = Headers(fields)
    as_sent = TxHeaders({**dict(headers), b"Host": [b"host"]})
    url, peer, clock = f"http://host/{rest}", Peer(), cast(Any, reactor)
    Agent.usingEndpointFactory(clock, peer, HTTPConnectionPool(clock)).request(b"GET", url.encode(), as_sent)
    # A "?" with nothing behind it is left out.
    written = peer.transport.value().replace(b"? HTTP/1.1\r\n", b" HTTP/1.1\r\n", not urlsplit(url).query)
    assert SharedRequest(headers, b"host").to(url) == written


@pytest.mark.parametrize("path", ["a b", "é", "\x7f"])
def test_a_target_that_would_break_the_request_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"URI|ascii|encode"):
        SharedRequest(Headers(), b"host").to(f"http://host/{path}")
