"""The embedded origin: its content is random access to one fixed file, and its HTTP is right."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

import bulkspider.demo.content as content_module
from bulkspider.demo.content import BLOCK, Content
from bulkspider.demo.origin import Origin, etag_of, parse_range, start

ROOT = Path(content_module.__file__).parents[2]
MIB = 1024 * 1024


# --- content ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 3 * BLOCK), st.integers(0, 4 * BLOCK), st.integers(0, 3 * BLOCK))
def test_any_part_of_the_content_is_that_part_of_the_whole(size: int, offset: int, length: int) -> None:
    content = Content("x", size)
    whole = b"".join(content.blocks())
    assert len(whole) == size
    assert content.read(offset, length) == whole[offset : offset + length]
    assert content.sha256() == hashlib.sha256(whole).hexdigest()


@settings(deadline=None)
@given(st.integers(1, BLOCK * 9 // 10))
def test_the_size_of_the_pieces_does_not_matter(length: int) -> None:
    content = Content("x", BLOCK + 1000)
    assert b"".join(content.blocks(length * 2)) == content.read(0, content.size)


def test_no_two_blocks_and_no_two_seeds_are_alike() -> None:
    far = 64 * 1024 * MIB  # after which the rotation of the blocks repeats
    content = Content("a", far + 4 * MIB)
    offsets = [*range(0, 8 * MIB, BLOCK), *range(far, far + 4 * MIB, BLOCK)]
    blocks = {content.read(offset, BLOCK) for offset in offsets}
    assert len(blocks) == len(offsets)
    other = Content("b", content.size)
    for offset in (0, 1, 4096, BLOCK - 8, BLOCK, 5 * MIB + 3, far):
        assert content.read(offset, 16) != other.read(offset, 16)


def test_the_content_never_changes_between_versions_of_the_program() -> None:
    assert (
        Content("example", 3 * BLOCK + 5).sha256() == "dc6bca119b4c5af4ac2d4df3f3faee2437eccb209238efd6920d39e98a716a7e"
    )


def test_a_larger_file_of_the_same_seed_is_the_file_grown() -> None:
    assert Content("a", 5000).read(0, 5000) == Content("a", 3 * BLOCK).read(0, 5000)


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (0, -1)])
def test_negative_offsets_are_refused(offset: int, length: int) -> None:
    with pytest.raises(ValueError, match="negative"):
        Content("a", 10).read(offset, length)
    with pytest.raises(ValueError, match="negative"):
        Content("a", -1)


# --- the origin as a process ------------------------------------------------------------------------------------------


@dataclass
class Process:
    popen: subprocess.Popen[str]
    port: int
    log: Path

    def ask(self, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    log = tmp_path_factory.mktemp("origin") / "log.jsonl"
    with run_origin("--log", str(log)) as popen:
        yield Process(popen, listening_port(popen), log)
        popen.send_signal(signal.SIGTERM)
        assert popen.wait(30) == 0


def run_origin(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bulkspider.demo.origin", *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def listening_port(popen: subprocess.Popen[str]) -> int:
    assert popen.stdout is not None
    line = popen.stdout.readline()
    assert line.startswith("origin listening on http://127.0.0.1:")
    assert line.endswith("/\n")
    return int(line.rsplit(":", 1)[1].rstrip("/\n"))


def test_a_file_is_its_content_and_says_what_it_is(process: Process) -> None:
    answer = process.ask("/1M/file.bin")
    assert answer.status == 200
    assert hashlib.sha256(answer.body).hexdigest() == Content("file", MIB).sha256()
    assert answer.headers["Content-Length"] == str(MIB)
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["ETag"] == etag_of("file", MIB)
    assert answer.headers["Last-Modified"] == "Mon, 01 Jan 2024 00:00:00 GMT"
    assert answer.headers["Date"]


def test_head_tells_the_same_without_a_body_and_knows_no_range(process: Process) -> None:
    answer = process.ask("/10G/file.bin", {"Range": "bytes=5-9"}, "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Length"] == str(10 * 1024 * MIB)
    assert answer.headers["ETag"] == etag_of("file", 10 * 1024 * MIB)


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=1000-1999", 1000, 1999),
        ("bytes=1048570-", MIB - 6, MIB - 1),
        ("bytes=1048570-9999999", MIB - 6, MIB - 1),
        ("bytes=-7", MIB - 7, MIB - 1),
        ("bytes=-9999999", 0, MIB - 1),
    ],
)
def test_a_range_is_answered_with_206_and_exactly_that_part(
    process: Process, asked: str, first: int, last: int
) -> None:
    answer = process.ask("/1M/file.bin", {"Range": asked})
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{MIB}"
    assert answer.headers["Content-Length"] == str(last - first + 1)
    assert answer.body == Content("file", MIB).read(first, last - first + 1)


def test_a_range_deep_inside_a_huge_file_comes_at_once(process: Process) -> None:
    offset = 900 * 1024 * MIB + 12345
    answer = process.ask("/1T/file.bin", {"Range": f"bytes={offset}-{offset + 99}"})
    assert answer.body == Content("file", MIB * MIB).read(offset, 100)


@pytest.mark.parametrize("asked", ["bytes=1048576-", "bytes=9999999-10000000", "bytes=-0"])
def test_a_range_beyond_the_end_is_416_with_the_length(process: Process, asked: str) -> None:
    answer = process.ask("/1M/file.bin", {"Range": asked})
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{MIB}"


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "bytes=9-5", "bytes=-", "lines=1-2", "bytes=a-b"])
def test_a_range_that_is_not_one_plain_range_is_ignored(process: Process, asked: str) -> None:
    answer = process.ask("/4096/file.bin", {"Range": asked})
    assert (answer.status, len(answer.body)) == (200, 4096)


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        (etag_of("file", 4096), 206),
        ('"another"', 200),
        ("W/" + etag_of("file", 4096), 200),
        ("Mon, 01 Jan 2024 00:00:00 GMT", 206),
        ("Tue, 02 Jan 2024 00:00:00 GMT", 200),
    ],
)
def test_if_range_holds_only_for_exactly_our_validator(process: Process, condition: str, status: int) -> None:
    answer = process.ask("/4096/file.bin", {"Range": "bytes=4000-", "If-Range": condition})
    assert answer.status == status
    assert len(answer.body) == (96 if status == 206 else 4096)


def test_the_etag_known_already_is_answered_with_304(process: Process) -> None:
    answer = process.ask("/4096/file.bin", {"If-None-Match": etag_of("file", 4096)})
    assert (answer.status, answer.body) == (304, b"")


@pytest.mark.parametrize("path", ["/", "/4096/file", "/4096/", "/many/file.bin", "/4096/a/b.bin", "/1/a.bin?rate=fast"])
def test_any_other_path_is_404(process: Process, path: str) -> None:
    assert process.ask(path).status == 404


def test_other_methods_are_405(process: Process) -> None:
    answer = process.ask("/4096/file.bin", method="DELETE")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_an_empty_file_is_empty(process: Process) -> None:
    answer = process.ask("/0/file.bin")
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "0")


def test_several_answers_travel_over_one_connection(process: Process) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=30)
    connection.connect()
    first_socket = connection.sock
    for seed in "abc":
        connection.request("GET", f"/200K/{seed}.bin?rate=100M")
        assert connection.getresponse().read() == Content(seed, 200 * 1024).read(0, 200 * 1024)
        assert connection.sock is first_socket
    connection.close()


def test_every_request_is_logged_also_one_that_was_left_early(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with run_origin("--log", str(log), "--rate", "50M") as popen:
        process = Process(popen, listening_port(popen), log)
        process.ask("/4096/a.bin", {"Range": "bytes=96-"})
        process.ask("/nothing")
        left = http.client.HTTPConnection("127.0.0.1", process.port, timeout=30)
        left.request("GET", "/10G/b.bin?rate=1M")
        left.getresponse().read(1000)
        left.close()
        popen.send_signal(signal.SIGTERM)  # SIGINT is ignored by what a shell began in the background
        assert popen.wait(30) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    shown = [(line["method"], line["path"], line["range"], line["status"]) for line in lines]
    assert shown == [
        ("GET", "/4096/a.bin", "bytes=96-", 206),
        ("GET", "/nothing", None, 404),
        ("GET", "/10G/b.bin?rate=1M", None, 200),
    ]
    assert lines[0]["bytes"] == 4000
    assert 1000 <= lines[2]["bytes"] < MIB * 1024
    assert all(line["time"] > 1.7e9 for line in lines)


# --- inside a process -------------------------------------------------------------------------------------------------


def test_importing_the_origin_installs_no_reactor() -> None:
    code = "import sys, bulkspider.demo.origin; sys.exit('twisted.internet.reactor' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), check=False).returncode == 0


def test_start_listens_on_loopback_only() -> None:
    reactor = MemoryReactorClock()
    start(reactor, port=8123, rate=1000)
    port, factory, _, interface = reactor.tcpServers[0]
    assert (port, interface) == (8123, "127.0.0.1")
    assert isinstance(factory, Origin)
    assert factory.rate == 1000


class Reader(StringTransport):
    """A client's side: takes 64 KiB and then asks the server to pause, as a TCP connection of Twisted does."""

    most = 0

    def write(self, data: bytes) -> None:
        super().write(data)
        self.most = max(self.most, len(self.value()))
        if self.producer is not None and len(self.value()) > 64 * 1024:
            self.producer.pauseProducing()

    def take(self) -> bytes:
        data: bytes = self.value()
        self.clear()
        if self.producer is not None:
            self.producer.resumeProducing()
        return data


def connect(origin: Origin, path: str) -> Reader:
    reader = Reader()
    protocol = origin.buildProtocol(None)
    protocol.makeConnection(reader)
    protocol.dataReceived(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    return reader


def test_a_slow_reader_never_makes_the_origin_hold_much() -> None:
    size = 5 * MIB
    origin = Origin(Clock())
    reader = connect(origin, f"/{size}/a.bin")
    received = b""
    while len(received.partition(b"\r\n\r\n")[2]) < size:
        received += reader.take()
    assert received.partition(b"\r\n\r\n")[2] == Content("a", size).read(0, size)
    assert reader.most < 300 * 1024
    assert (origin.requests, origin.bytes_sent) == (1, size)


@pytest.mark.parametrize(("limit", "query"), [(100_000, ""), (None, "?rate=100000"), (7, "?rate=100000")])
def test_a_connection_keeps_to_its_rate(limit: int | None, query: str) -> None:
    clock = Clock()
    reader = connect(Origin(clock, rate=limit), "/1M/a.bin" + query)
    received = len(reader.take())
    for tick in range(1, 100):
        clock.advance(0.05)
        received += len(reader.take())
        # a slice (a twentieth of a second), the allowed debt of two, and the headers
        assert 100_000 * 0.05 * tick - 5_000 <= received <= 100_000 * 0.05 * tick + 20_000


def test_a_reader_that_leaves_ends_the_answer() -> None:
    clock = Clock()
    records: list[dict[str, Any]] = []
    origin = Origin(clock, record=records.append)
    reader = Reader()
    protocol = origin.buildProtocol(None)
    protocol.makeConnection(reader)
    protocol.dataReceived(b"GET /1M/a.bin?rate=1K HTTP/1.1\r\nHost: h\r\n\r\n")
    assert reader.producer is not None
    reader.producer.stopProducing()
    protocol.connectionLost(Failure(ConnectionDone()))
    assert [(record["status"], record["bytes"]) for record in records] == [(200, 51)]
    clock.advance(10)
    assert origin.bytes_sent == 51


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60))
def test_parse_range_gives_what_slicing_gives(size: int, first: int, last: int) -> None:
    body = bytes(range(size))
    if first <= last:
        part = parse_range(f"bytes={first}-{last}", size)
        assert part is not None
        assert body[part[0] : part[0] + part[1]] == body[first : last + 1]
    part = parse_range(f"bytes=-{last}", size)
    assert part is not None
    assert body[part[0] : part[0] + part[1]] == (body[-last:] if last else b"")
