"""The misbehaving origin does what its behaviours say: seen by a raw socket, so that nothing is smoothed over."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import http.client
import inspect
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import faults
from support.faults import (
    accept_then_close,
    bad_chunk_size,
    busy,
    changes_after,
    chunked_answer,
    chunked_unfinished,
    close_delimited,
    content_range,
    cut_after,
    cut_in_header,
    digest_headers,
    digests,
    drops_reused_connection,
    etag_per_request,
    extra_bytes,
    first,
    garbage_status_line,
    gzip_encoded,
    http10,
    if_range_always_200,
    ignores_range,
    in_turn,
    informational,
    length_disagrees,
    multipart_byteranges,
    needs_header,
    no_content_range,
    no_validators,
    on_resume,
    range_416,
    redirect_loop,
    redirect_to,
    short_206,
    silent,
    slice_as_200,
    slow_headers,
    stall_after,
    starts_early,
    starts_late,
    status,
    te_and_content_range,
    total_disagrees,
    trickle,
    valid_while,
    weak_date,
    weak_etag,
    whole_body_as_206,
    wrong_bytes_as_206,
)
from support.faulty import (
    LAST_MODIFIED,
    Behaviour,
    Ending,
    Exchange,
    FaultyOrigin,
    Resource,
    TlsSocket,
    good,
    make_body,
)

BODY = make_body(300_000)
SIZE = len(BODY)


@dataclass
class Answer:
    """What arrived over one connection, and how it ended."""

    status: int | None
    headers: dict[str, str]
    body: bytes
    ending: Literal["fin", "reset", "ragged", "refused"]


class Client:
    """A raw connection to the origin."""

    def __init__(self, origin: FaultyOrigin) -> None:
        self.sock = socket.create_connection((origin.host, origin.port), timeout=30)
        if origin.url("").startswith("https"):
            context = ssl.create_default_context(cafile=str(origin.certificate_path))
            # Otherwise Python reports the end without close_notify as it reports the one with it.
            context.sslsocket_class = TlsSocket
            self.sock = context.wrap_socket(self.sock, server_hostname=origin.host, suppress_ragged_eofs=False)

    def request(self, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> None:
        fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self.sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: h\r\n{fields}\r\n".encode())

    def read(self, length: int) -> bytes:
        """Exactly so many bytes."""
        data = b""
        while len(data) < length:
            data += self.sock.recv(length - len(data)) or pytest.fail("the connection ended")
        return data

    def read_to_end(self) -> tuple[bytes, Literal["fin", "reset", "ragged"]]:
        data = b""
        while True:
            try:
                piece = self.sock.recv(65536)
            except ssl.SSLEOFError:  # which is what some versions of Python make of an RST, too
                return data, "ragged"
            except ConnectionResetError:
                return data, "reset"
            if not piece:
                return data, "fin"
            data += piece

    def close(self) -> None:
        self.sock.close()


def ask(origin: FaultyOrigin, url: str = "a.bin", method: str = "GET", **fields: str) -> Answer:
    """One request with `Connection: close`; header names are given as `if_range=`, `range=`."""
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    target = urlsplit(url if "://" in url else origin.url(url))
    client = Client(origin)
    try:
        path = target.path + ("?" + target.query if target.query else "")
        client.request(path, headers | {"Connection": "close"}, method)
        data, ending = client.read_to_end()
    finally:
        client.close()
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    code = int(parts[1]) if parts[0].startswith("HTTP/") else None
    return Answer(code, dict(line.split(": ", 1) for line in lines[1:] if ": " in line), body, ending)


def serve(behaviour: Behaviour, **options: Any) -> FaultyOrigin:
    return FaultyOrigin({"a.bin": behaviour}, resource=Resource(BODY), **options)


# --- The correct answer -----------------------------------------------------------------------------------------------


def test_a_good_answer_is_the_whole_file_with_its_validators() -> None:
    with serve(good) as origin:
        answer = ask(origin)
    assert (answer.status, answer.body, answer.ending) == (200, BODY, "fin")
    assert answer.headers["Content-Length"] == str(SIZE)
    assert answer.headers["ETag"] == '"v1"'
    assert answer.headers["Last-Modified"] == LAST_MODIFIED
    assert answer.headers["Accept-Ranges"] == "bytes"


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 25), st.integers(0, 25))
def test_a_good_answer_to_a_range_is_the_slice(start: int, stop: int) -> None:
    body = bytes(range(20))
    with FaultyOrigin({"a.bin": (good, body)}) as origin:
        if start <= stop:
            answer = ask(origin, range=f"bytes={start}-{stop}")
            if start < 20:
                assert (answer.status, answer.body) == (206, body[start : stop + 1])
                assert answer.headers["Content-Range"] == f"bytes {start}-{min(stop, 19)}/20"
            else:
                assert (answer.status, answer.headers["Content-Range"], answer.body) == (416, "bytes */20", b"")
        answer = ask(origin, range=f"bytes=-{stop}")
        assert (answer.status, answer.body) == ((206, body[-stop:]) if stop else (416, b""))


@pytest.mark.parametrize(
    ("condition", "code"),
    [('"v1"', 206), ('"v2"', 200), ('W/"v1"', 200), (LAST_MODIFIED, 206), ("Tue, 02 Jan 2024 00:00:00 GMT", 200)],
)
def test_if_range_needs_exactly_the_validator(condition: str, code: int) -> None:
    with serve(good) as origin:
        assert ask(origin, range="bytes=5-", if_range=condition).status == code
        origin.add("a.bin", good, Resource(BODY, honour_if_range=False))
        assert ask(origin, range="bytes=5-", if_range=condition).status == 206


def test_a_weak_etag_never_holds_in_if_range() -> None:
    with serve(weak_etag()) as origin:
        assert ask(origin, range="bytes=5-", if_range='W/"v1"').status == 200


def test_head_has_the_headers_and_no_body() -> None:
    with serve(good) as origin:
        answer = ask(origin, method="HEAD", range="bytes=5-")
    assert (answer.status, answer.headers["Content-Length"], answer.body) == (200, str(SIZE), b"")


def test_requests_are_recorded() -> None:
    with serve(good) as origin:
        connection = http.client.HTTPConnection(origin.host, origin.port, timeout=30)
        for start in (0, 5):
            connection.request("GET", "/a.bin?sig=1", headers={"Range": f"bytes={start}-9", "Authorization": "x"})
            connection.getresponse().read()
        connection.close()
        ask(origin, "nothing", range="bytes=-5")
        origin.wait_until(lambda origin: all(request.ended for request in origin.requests))
        requests = origin.requests
    assert [(r.method, r.path, r.query, r.range, r.status) for r in requests] == [
        ("GET", "/a.bin", "sig=1", (0, 9), 206),
        ("GET", "/a.bin", "sig=1", (5, 9), 206),
        ("GET", "/nothing", "", (None, 5), 404),
    ]
    assert [r.connection for r in requests] == [0, 0, 1]
    assert [r.attempt for r in requests] == [0, 1, 0]
    assert [r.bytes_sent for r in requests] == [10, 5, 0]
    assert requests[0].headers["authorization"] == "x"
    assert requests[0].time <= requests[1].time <= requests[2].time
    assert origin.requests_for("a.bin") == requests[:2]


def test_a_request_as_a_proxy_gets_it_is_understood() -> None:
    with serve(status(502), default=status(407)) as origin:
        client = Client(origin)
        client.request("http://elsewhere/a.bin")
        assert client.read(12) == b"HTTP/1.1 502"
        client.close()
        client = Client(origin)
        client.request("elsewhere:443", method="CONNECT")
        assert client.read(12) == b"HTTP/1.1 407"
        client.close()
    assert [r.path for r in origin.requests] == ["/a.bin", "/elsewhere:443"]


# --- How a connection ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tls", "how", "seen"),
    [
        (False, "close", "fin"),
        (False, "reset", "reset"),
        (False, "close_without_notify", "fin"),
        (True, "close", "fin"),
        (True, "reset", "reset or ragged"),
        (True, "close_without_notify", "ragged"),
    ],
)
def test_an_answer_is_cut_where_and_how_it_should_be(tls: bool, how: Ending, seen: str) -> None:
    with serve(cut_after(250_000, how, times=2), tls=tls) as origin:
        for _ in range(2):
            answer = ask(origin)
            assert (answer.headers["Content-Length"], answer.body) == (str(SIZE), BODY[:250_000])
            assert answer.ending in seen
        answer = ask(origin)
        assert (answer.body, answer.ending) == (BODY, "fin")


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("notify", [False, True])
def test_a_close_delimited_body_ends_with_or_without_close_notify(tls: bool, notify: bool) -> None:
    with serve(close_delimited(notify), tls=tls) as origin:
        answer = ask(origin)
        part = ask(origin, range="bytes=100-199")
        head = ask(origin, method="HEAD")
    assert (answer.status, answer.body) == (200, BODY)
    assert "Content-Length" not in answer.headers
    assert answer.ending == ("ragged" if tls and not notify else "fin")
    assert (part.status, part.body) == (206, BODY[100:200])
    assert head.headers["Content-Length"] == str(SIZE)


def test_a_close_delimited_body_that_cannot_be_proven() -> None:
    with serve(close_delimited(provable=False, length=1000)) as origin:
        assert ask(origin, range=f"bytes={SIZE}-").body == BODY[:1000]
        head = ask(origin, method="HEAD")
    assert not {"Content-Length", "Accept-Ranges"} & set(head.headers)


def test_a_stalled_answer_goes_on_when_the_event_is_set() -> None:
    go_on = threading.Event()
    with serve(stall_after(100_000, go_on)) as origin:
        client = Client(origin)
        client.request("/a.bin", {"Connection": "close"})
        origin.wait_until(lambda origin: bool(origin.requests) and origin.requests[0].bytes_sent == 100_000)
        go_on.set()
        data, ending = client.read_to_end()
        client.close()
    assert data.endswith(BODY)
    assert ending == "fin"


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("how", ["stall", "silent", "slow headers", "trickle"])
def test_a_behaviour_that_waits_notices_that_the_client_has_left(how: str, tls: bool) -> None:
    waiting = {"stall": stall_after(10), "silent": silent(), "slow headers": slow_headers(), "trickle": trickle(1)}
    with serve(waiting[how], tls=tls) as origin:
        client = Client(origin)
        client.request("/a.bin")
        origin.wait_until(lambda origin: len(origin.requests) == 1)
        assert not origin.requests[0].ended
        client.close()
        origin.wait_until(lambda origin: origin.requests[0].ended)


@pytest.mark.parametrize("tls", [False, True])
def test_the_end_of_the_server_ends_whatever_waits(tls: bool) -> None:
    origin = serve(stall_after(10), tls=tls)
    with origin:
        stalled, idle = Client(origin), Client(origin)
        stalled.request("/a.bin")
        origin.wait_until(lambda origin: bool(origin.requests) and origin.requests[0].bytes_sent == 10)
    assert stalled.read_to_end()[0].endswith(BODY[:10])
    assert idle.read_to_end()[0] == b""
    stalled.close()
    idle.close()


def test_a_client_that_never_reads_does_not_hold_up_the_end() -> None:
    with FaultyOrigin({"a.bin": (good, make_body(30_000_000))}) as origin:
        client = Client(origin)
        client.request("/a.bin")
        origin.wait_until(lambda origin: bool(origin.requests) and origin.requests[0].bytes_sent > 0)
    client.close()


def test_an_origin_that_is_down_refuses_and_comes_back_on_its_port() -> None:
    with serve(stall_after(10)) as origin:
        client = Client(origin)
        client.request("/a.bin")
        origin.wait_until(lambda origin: len(origin.requests) == 1)
        origin.down()
        assert client.read_to_end()[1] in ("fin", "reset")
        with pytest.raises(ConnectionRefusedError):
            Client(origin)
        origin.add("a.bin", good)
        port = origin.port
        origin.up()
        assert origin.port == port
        assert ask(origin).body == BODY
        client.close()


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_connection_can_end_before_it_is_used(tls: bool, how: Literal["reset", "close"]) -> None:
    with serve(good, tls=tls, at_connect=lambda number: how if number < 2 else None) as origin:
        for _ in range(2):
            # Whether the request can still be written is a race; an answer there is never.
            with contextlib.suppress(OSError):
                assert ask(origin).status is None
        assert ask(origin).body == BODY
    assert len(origin.requests) == 1
    assert origin.connections == 3


def test_a_connection_can_be_left_unanswered() -> None:
    with serve(good, tls=True, at_connect=lambda number: "stall") as origin:
        sock = socket.create_connection((origin.host, origin.port), timeout=30)
        origin.wait_until(lambda origin: origin.connections == 1)
        sock.close()
    assert origin.requests == []


def test_the_certificate_is_valid_or_expired() -> None:
    with serve(good, tls=True) as origin:
        assert ask(origin).body == BODY
    with serve(good, tls="expired") as origin, pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        ask(origin)


def test_an_error_in_a_behaviour_is_not_lost() -> None:
    def broken(exchange: Exchange) -> None:
        raise LookupError("a mistake in the test")

    with pytest.raises(LookupError, match="a mistake"), serve(broken) as origin:
        ask(origin)


# --- Ranges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "code", "content_range", "body"),
    [
        (starts_early(10), 206, f"bytes 990-1999/{SIZE}", BODY[990:2000]),
        (starts_late(10), 206, f"bytes 1010-1999/{SIZE}", BODY[1010:2000]),
        (short_206(100), 206, f"bytes 1000-1099/{SIZE}", BODY[1000:1100]),
        (whole_body_as_206(), 206, f"bytes 1000-1999/{SIZE}", BODY),
        (whole_body_as_206(honest=True), 206, f"bytes 0-{SIZE - 1}/{SIZE}", BODY),
        (no_content_range(), 206, None, BODY[1000:2000]),
        (content_range("bytes {first}-{last}/*"), 206, "bytes 1000-1999/*", BODY[1000:2000]),
        (content_range("items 1-2/3"), 206, "items 1-2/3", BODY[1000:2000]),
        (slice_as_200(), 200, f"bytes 1000-1999/{SIZE}", BODY[1000:2000]),
        (ignores_range(), 200, None, BODY),
        (faults.accept_ranges_none(), 200, None, BODY),
        (total_disagrees(5), 206, f"bytes 1000-1999/{SIZE + 5}", BODY[1000:2000]),
        (length_disagrees(-5), 206, f"bytes 1000-1999/{SIZE}", BODY[1000:1995]),
        (length_disagrees(5), 206, f"bytes 1000-1999/{SIZE}", BODY[1000:2000] + b"xxxxx"),
        (wrong_bytes_as_206(bytes(SIZE)), 206, f"bytes 1000-1999/{SIZE}", bytes(1000)),
        (range_416(777), 416, "bytes */777", faults.page("416 Range Not Satisfiable")),
        (range_416(), 416, None, faults.page("416 Range Not Satisfiable")),
    ],
)
def test_a_false_answer_to_a_range(behaviour: Behaviour, code: int, content_range: str | None, body: bytes) -> None:
    with serve(behaviour) as origin:
        answer = ask(origin, range="bytes=1000-1999")
        assert (answer.status, answer.headers.get("Content-Range"), answer.body) == (code, content_range, body)
        assert answer.headers["Content-Length"] == str(len(body))
        assert ask(origin).body == BODY  # without a Range it is an honest server


def test_multipart_byteranges() -> None:
    with serve(multipart_byteranges()) as origin:
        answer = ask(origin, range="bytes=1000-1999")
    assert answer.status == 206
    assert answer.headers["Content-Type"] == "multipart/byteranges; boundary=SEP"
    assert "Content-Range" not in answer.headers
    assert f"Content-Range: bytes 1000-1999/{SIZE}\r\n\r\n".encode() + BODY[1000:2000] in answer.body


def test_an_object_that_changes() -> None:
    new = make_body(200_000, "new")
    with serve(changes_after(1, new)) as origin:
        assert ask(origin).headers["ETag"] == '"v1"'
        assert ask(origin, range="bytes=5-", if_range='"v1"').body == new
        answer = ask(origin, range="bytes=5-9")
        assert (answer.status, answer.headers["ETag"], answer.body) == (206, '"v2"', new[5:10])
    with serve(changes_after(1, new, same_etag=True)) as origin:
        ask(origin)
        answer = ask(origin, range="bytes=5-9", if_range='"v1"')
        assert (answer.status, answer.body) == (206, new[5:10])


def test_validators_that_do_not_hold() -> None:
    with serve(etag_per_request()) as origin:
        assert [ask(origin).headers["ETag"] for _ in range(3)] == ['"node-0"', '"node-1"', '"node-2"']
    with serve(etag_per_request(nodes=2, honour_if_range=False)) as origin:
        tags = [ask(origin, range="bytes=1-", if_range='"x"') for _ in range(3)]
        assert [(tag.status, tag.headers["ETag"]) for tag in tags] == [
            (206, '"node-0"'),
            (206, '"node-1"'),
            (206, '"node-0"'),
        ]
    with serve(if_range_always_200()) as origin:
        assert ask(origin, range="bytes=1-", if_range='"v1"').status == 200
        assert ask(origin, range="bytes=1-", if_range=LAST_MODIFIED).status == 200
        assert ask(origin, range="bytes=1-").status == 206
    with serve(if_range_always_200(only_etag=True)) as origin:
        assert ask(origin, range="bytes=1-", if_range='"v1"').status == 200
        assert ask(origin, range="bytes=1-", if_range=LAST_MODIFIED).status == 206
    with serve(weak_date()) as origin:
        headers = ask(origin).headers
        assert headers["Date"] == headers["Last-Modified"]
        assert "ETag" not in headers
    with serve(no_validators()) as origin:
        assert not {"ETag", "Last-Modified"} & set(ask(origin).headers)


# --- Framing ----------------------------------------------------------------------------------------------------------


def read_by_library(origin: FaultyOrigin) -> bytes:
    with contextlib.closing(http.client.HTTPConnection(origin.host, origin.port, timeout=30)) as connection:
        connection.request("GET", "/a.bin")
        with connection.getresponse() as response:
            return response.read()


def test_chunked_bodies() -> None:
    with serve(chunked_answer(digest="right")) as origin:
        answer = ask(origin)
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert "Content-Length" not in answer.headers
        assert answer.body.endswith(b"0\r\nRepr-Digest: " + digests(BODY)["Repr-Digest"].encode() + b"\r\n\r\n")
        assert read_by_library(origin) == BODY
    with serve(chunked_unfinished(200_000)) as origin:
        with pytest.raises(http.client.IncompleteRead) as error:
            read_by_library(origin)
        assert error.value.partial == BODY[:200_000]
    with serve(chunked_unfinished(how="reset")) as origin:
        answer = ask(origin)
        assert answer.ending == "reset"
        assert not answer.body.endswith(b"0\r\n\r\n")
    with serve(bad_chunk_size(100_000)) as origin:
        assert ask(origin).body.endswith(b"\r\nnonsense\r\nmore nonsense\r\n")
        with pytest.raises(http.client.IncompleteRead):
            read_by_library(origin)


def test_a_chunked_206() -> None:
    with serve(te_and_content_range(shift=3)) as origin:
        answer = ask(origin, range="bytes=10-19")
    assert (answer.status, answer.headers["Content-Range"]) == (206, f"bytes 13-19/{SIZE}")
    assert answer.body == b"7\r\n" + BODY[13:20] + b"\r\n0\r\n\r\n"


def test_more_bytes_than_promised() -> None:
    with serve(extra_bytes(7)) as origin:
        answer = ask(origin)
    assert (answer.headers["Content-Length"], answer.body) == (str(SIZE), BODY + b"xxxxxxx")


def test_an_old_server_closes_after_its_answer() -> None:
    with serve(http10()) as origin:
        client = Client(origin)
        client.request("/a.bin", {"Range": "bytes=5-"})
        data, ending = client.read_to_end()
        client.close()
    assert data == b"HTTP/1.0 200 OK\r\nContent-Length: 300000\r\n\r\n" + BODY
    assert ending == "fin"


def test_a_body_encoded_although_nobody_asked() -> None:
    packed = gzip.compress(BODY, mtime=0)
    with serve(gzip_encoded()) as origin:
        answer = ask(origin, accept_encoding="identity")
        assert (answer.headers["Content-Encoding"], answer.body) == ("gzip", packed)
        assert ask(origin, range="bytes=10-19").body == packed[10:20]
    with serve(gzip_encoded(only_if_accepted=True)) as origin:
        assert ask(origin, accept_encoding="identity", range="bytes=10-19").body == BODY[10:20]
        assert ask(origin, accept_encoding="gzip", range="bytes=10-19").body == packed


def test_information_before_the_answer() -> None:
    with serve(informational(100, 103)) as origin:
        answer = ask(origin)
    assert answer.status == 100
    assert answer.body.startswith(b"HTTP/1.1 103 Early Hints\r\n")
    assert b"HTTP/1.1 200 OK\r\n" in answer.body
    assert answer.body.endswith(BODY)


def test_digest_headers_are_right_or_wrong() -> None:
    assert digests(b"123456789")["x-goog-hash"].startswith("crc32c=4waSgw==,")  # the check value of CRC-32C
    sha256 = base64.b64encode(hashlib.sha256(BODY).digest()).decode()
    with serve(digest_headers(right=True)) as origin:
        headers = ask(origin).headers
        assert headers["Repr-Digest"] == headers["Content-Digest"] == f"sha-256=:{sha256}:"
        assert headers["Digest"] == f"SHA-256={sha256}"
        assert headers["x-goog-hash"].startswith("crc32c=")
        part = ask(origin, range="bytes=0-9").headers
        assert part["Repr-Digest"] == headers["Repr-Digest"]
        assert part["Content-Digest"] != headers["Content-Digest"]
    with serve(faults.wrong_digest_headers("Content-MD5")) as origin:
        wrong = ask(origin)
        assert wrong.body == BODY
        assert wrong.headers["Content-MD5"] != headers["Content-MD5"]
        assert "Digest" not in wrong.headers


# --- Status, pace, connections ----------------------------------------------------------------------------------------


def test_a_busy_origin_says_when_to_come_back() -> None:
    with serve(busy(429, retry_after=3, times=2)) as origin:
        assert [ask(origin).headers.get("Retry-After") for _ in range(3)] == ["3", "3", None]
        assert [request.status for request in origin.requests] == [429, 429, 200]
    with serve(busy(retry_after=3, as_date=True)) as origin:
        assert ask(origin).headers["Retry-After"].endswith(" GMT")


def test_statuses_without_a_body_have_none() -> None:
    for code in (204, 304):
        with serve(status(code)) as origin:
            answer = ask(origin)
            assert (answer.status, answer.body) == (code, b"")
            assert "Content-Length" not in answer.headers


def test_behaviours_combine() -> None:
    behaviour = in_turn(status(500), first(2, cut_after(10)), on_resume(status(403)))
    with serve(behaviour) as origin:
        assert ask(origin).status == 500
        assert ask(origin).body == BODY[:10]
        assert ask(origin).body == BODY
        assert ask(origin, range="bytes=0-").status == 206
        assert ask(origin, range="bytes=10-").status == 403


def test_links_that_expire_and_secrets() -> None:
    with serve(valid_while(lambda exchange: exchange.query == "sig=new")) as origin:
        assert ask(origin, "a.bin?sig=old").status == 403
        assert ask(origin, "a.bin?sig=new").body == BODY
        origin.add("b.bin", needs_header("Authorization", "Bearer x"))
        assert ask(origin, "b.bin").status == 401
        assert ask(origin, "b.bin", authorization="Bearer x").body == BODY


def test_redirects() -> None:
    with serve(redirect_to(["/one", "/two"], 307, {"Retry-After": "1"})) as origin:
        assert [ask(origin).headers["Location"] for _ in range(3)] == ["/one", "/two", "/two"]
        origin.add("loop", redirect_loop())
        assert ask(origin, "loop").headers["Location"] == "/loop"
        origin.add("ever", redirect_loop(fresh=True))
        assert [ask(origin, "ever").headers["Location"] for _ in range(2)] == ["/ever?hop=1", "/ever?hop=2"]


def test_a_slow_answer_is_right_in_the_end() -> None:
    with serve(trickle(10_000_000, after=100_000)) as origin:
        assert ask(origin).body == BODY


def test_connections_that_break_before_the_body() -> None:
    with serve(garbage_status_line()) as origin:
        assert ask(origin).status is None
    with serve(cut_in_header()) as origin:
        client = Client(origin)
        client.request("/a.bin")
        data, _ = client.read_to_end()
        assert data == b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Len"
        client.close()
    for how, seen in (("close", "fin"), ("reset", "reset")):
        with serve(accept_then_close(how)) as origin:  # type: ignore[arg-type]
            client = Client(origin)
            client.request("/a.bin")
            assert client.read_to_end() == (b"", seen)
            client.close()


def test_a_reused_connection_breaks() -> None:
    with serve(drops_reused_connection()) as origin:
        client = Client(origin)
        client.request("/a.bin", {"Range": "bytes=0-0"})
        data = client.read(1)
        while not data.endswith(b"\r\n\r\n" + BODY[:1]):
            data += client.read(1)
        client.request("/a.bin", {"Range": "bytes=0-0"})
        assert client.read_to_end() == (b"", "reset")
        client.close()
    assert [request.connection for request in origin.requests] == [0, 0]


def test_a_server_closes_a_connection_that_it_promised_to_keep() -> None:
    with serve(faults.closes_after_answer()) as origin:
        client = Client(origin)
        client.request("/a.bin")
        data, ending = client.read_to_end()
        client.close()
    assert data.endswith(BODY)
    assert b"Connection: close" not in data
    assert ending == "fin"


# --- All of them ------------------------------------------------------------------------------------------------------

_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "altered": (lambda exchange, reply: None,),
    "changes_after": (1, BODY[:50]),
    "content_range": ("bytes */*",),
    "cut_after": (10,),
    "dies_every": (10,),
    "first": (1, good),
    "length_disagrees": (1,),
    "needs_header": ("X", "y"),
    "on_resume": (good,),
    "redirect_to": ("/b",),
    "status": (500,),
    "trickle": (10_000_000,),
    "valid_while": (lambda exchange: False,),
    "when": (lambda exchange: True, good),
    "wrong_bytes_as_206": (bytes(SIZE),),
    "bad_chunk_size": (10,),
    "extra_bytes": (3,),
    "short_206": (3,),
    "starts_early": (3,),
    "starts_late": (3,),
    "in_turn": (good,),
}
_WAITING = {"silent", "slow_headers", "stall_after"}


def _library() -> list[Callable[..., Behaviour]]:
    return [
        function
        for name, function in inspect.getmembers(faults, inspect.isfunction)
        if function.__module__ == "faults" and inspect.signature(function).return_annotation == "Behaviour"
        if name not in _WAITING
    ]


@pytest.mark.parametrize("maker", _library(), ids=lambda maker: maker.__name__)
def test_every_behaviour_answers_any_request_without_an_error_of_its_own(maker: Callable[..., Behaviour]) -> None:
    with serve(maker(*_ARGUMENTS.get(maker.__name__, ()))) as origin:
        ask(origin)
        ask(origin, range="bytes=100-")
        ask(origin, range=f"bytes={SIZE}-")
        assert ask(origin, method="HEAD").body.count(b"\r\n") == 0 or maker.__name__ == "informational"
    assert len(origin.requests) == 4
