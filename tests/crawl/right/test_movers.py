"""Bodies that a thread takes from the reactor, in plain and over TLS: every way in which such a body can end.

The bodies are larger than what is worth a thread (4 MiB). Who is moved so is seen by its connection: it is not used
again.
"""

from __future__ import annotations

import contextlib
import ctypes
import select
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from support.crawl import Bulk, kill
from support.faults import cut_after, first, stall_after
from support.faulty import TRUST, Behaviour, Exchange, FaultyOrigin, correct, good, make_body, wait
from support.ondisk import state_of, wait_for

MIB = 1024 * 1024
OVERLAP = 64 * 1024
BODY = make_body(6 * MIB)
HELD = 5 * MIB + 12_345

REACTORS = {
    "asyncio": {},
    "uvloop": {"ASYNCIO_EVENT_LOOP": "uvloop.Loop"},
    "epoll": {"TWISTED_REACTOR": "twisted.internet.epollreactor.EPollReactor"},
    "select": {"TWISTED_REACTOR": "twisted.internet.selectreactor.SelectReactor"},
}
BOTH = pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])


@pytest.mark.parametrize("reactor", REACTORS)
def test_every_reactor_gives_the_socket_away(bulk: Bulk, reactor: str) -> None:
    if reactor == "uvloop":
        pytest.importorskip("uvloop")
    with (
        FaultyOrigin(default=good, resource=BODY) as plain,
        FaultyOrigin(default=good, resource=BODY, tls=True) as secret,
    ):
        urls = {f"{number}.bin": (plain, secret)[number % 2].url(f"{number}.bin") for number in range(4)}
        bulk.write_list(urls)
        ended = bulk.run(settings={"CONCURRENT_REQUESTS": "1", **TRUST, **REACTORS[reactor]})
        assert ended.status == 0, ended.log
        for origin in (plain, secret):
            assert origin.connections == len(origin.requests) == 2
    assert all(ended.file(name) == BODY for name in urls)
    assert [row["bytes_received"] for row in ended.rows] == [len(BODY)] * 4


def test_where_tls_is_not_lent_the_reactor_serves(bulk: Bulk) -> None:
    """A Twisted or pyOpenSSL without the names: one warning, and the connection is used again."""
    names = ["a.bin", "b.bin"]
    with FaultyOrigin(default=good, resource=BODY, tls=True) as origin:
        bulk.write_list({name: origin.url(name) for name in names})
        command = bulk.command(settings={"CONCURRENT_REQUESTS": "1", **TRUST})
        without = "import bulkspider.wire.tls as t, sys; t.CAN_BE_TAKEN = False; from scrapy.cmdline import execute"
        command = [sys.executable, "-c", f"{without}; execute(['scrapy', *sys.argv[1:]])", *command[3:]]
        done = subprocess.run(
            command,
            cwd=bulk.folder,
            env={"SCRAPY_SETTINGS_MODULE": "bulkspider.settings"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("WARNING") == done.stderr.count("does not lend its TLS") == 1, done.stderr
        assert origin.connections == 1
    assert [(bulk.output / name).read_bytes() == BODY for name in names] == [True, True]


# --- the connection ends before the body ------------------------------------------------------------------------------


def broken_record(head: bytes) -> Behaviour:
    """Bytes that TLS did not make, below it, and the end."""

    def behaviour(exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[:HELD])
        socket.socket.sendall(exchange.connection.sock, head + bytes(5000))
        exchange.end("close_without_notify")

    return first(1, behaviour)


def notify_and_stay(exchange: Exchange) -> None:
    """close_notify in the middle of the body, and the connection stays open."""
    reply = correct(exchange)
    exchange.promise(reply)
    exchange.send(reply.body[:HELD])
    sock = exchange.connection.sock
    assert isinstance(sock, ssl.SSLSocket)
    exchange.connection.notify(sock)
    exchange.stall()


ENDS: dict[str, Behaviour] = {
    "close_notify": cut_after(HELD, "close", times=1),
    "no close_notify": cut_after(HELD, "close_without_notify", times=1),
    "reset": cut_after(HELD, "reset", times=1),
    "cut within a record": broken_record(b"\x17\x03\x03\x40\x00"),
    "a record that is forged": broken_record(b"\x17\x03\x03\x10\x00"),
    "no record at all": broken_record(b"HTTP/1.1 502 Bad Gateway\r\n"),
    "close_notify, and the connection stays": first(1, notify_and_stay),
    "silence": stall_after(HELD, times=1),
}


def test_what_tls_gave_before_it_ended_is_kept_and_the_rest_fetched(bulk: Bulk) -> None:
    names = {how: f"{how.replace(' ', '-')}.bin" for how in ENDS}
    with FaultyOrigin({names[how]: ENDS[how] for how in ENDS}, resource=BODY, tls=True) as origin:
        bulk.write_list({name: origin.url(name) for name in names.values()})
        ended = bulk.run(settings=TRUST)
        assert ended.status == 0, ended.log
        for how, name in names.items():
            assert ended.file(name) == BODY
            row = ended.row(name)
            assert row["attempts"] == 2, (how, ended.log)
            # A reset may overtake what is still in the kernel of the client.
            if how != "reset":
                assert origin.requests_for(name)[1].range == (HELD - OVERLAP, None), how
                assert row["bytes_received"] == len(BODY) + OVERLAP, how
            assert (f"{name}: no byte for" in ended.log) == (how == "silence"), "others end at once"


# --- what TLS does in the middle of a body ----------------------------------------------------------------------------


def libssl_of(sock: ssl.SSLSocket) -> tuple[Any, ctypes.c_void_p]:
    """The library under Python's ssl module, and its SSL of this socket: the module itself changes no keys."""
    if sys.implementation.name != "cpython":
        pytest.skip("reads a structure of CPython")
    try:
        library = ctypes.CDLL("libssl.so.3")
    except OSError:
        pytest.skip("no shared libssl")
    inner = sock._sslobj  # type: ignore[attr-defined]
    # PyObject_HEAD, the Python socket, the SSL.
    return library, ctypes.c_void_p.from_address(id(inner) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p))


def test_keys_change_in_the_middle_of_a_body(bulk: Bulk) -> None:
    """TLS 1.3: the server takes new keys and asks for ours. If the answer got lost, it could not read our goodbye."""
    heard: list[bytes | str] = []

    def new_keys(exchange: Exchange) -> None:
        sock = exchange.connection.sock
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.version() == "TLSv1.3"
        library, connection = libssl_of(sock)
        version = library.SSL_version
        version.argtypes = [ctypes.c_void_p]
        assert version(connection) == 0x304
        update = library.SSL_key_update
        update.argtypes = [ctypes.c_void_p, ctypes.c_int]
        reply = correct(exchange)
        exchange.promise(reply)
        for start in range(0, len(reply.body), MIB):
            assert update(connection, 1) == 1  # SSL_KEY_UPDATE_REQUESTED
            exchange.send(reply.body[start : start + MIB])
        try:
            heard.append(sock.recv(100))
        except ssl.SSLError as error:
            heard.append(str(error))

    with FaultyOrigin({"a.bin": new_keys}, resource=BODY, tls=True) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings=TRUST)
        assert ended.status == 0, ended.log
    assert ended.file("a.bin") == BODY
    assert ended.row("a.bin")["attempts"] == 1
    assert heard == [b""], "close_notify, in our new keys"


def test_a_renegotiation_in_the_middle_of_a_body(bulk: Bulk) -> None:
    """TLS 1.2: the server goes on only when the handshake has been answered."""
    handshakes: list[bool] = []

    def renegotiate(exchange: Exchange) -> None:
        sock = exchange.connection.sock
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.version() == "TLSv1.2"
        library, connection = libssl_of(sock)
        again, under_way = library.SSL_renegotiate, library.SSL_renegotiate_pending
        again.argtypes = under_way.argtypes = [ctypes.c_void_p]
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[:HELD])
        assert again(connection) == 1
        sock.setblocking(False)
        sock.do_handshake()
        while under_way(connection):
            assert wait(sock, select.POLLIN, exchange.connection.over, 20) == "ready"
            with contextlib.suppress(ssl.SSLWantReadError):
                sock.recv(1)
        sock.setblocking(True)
        handshakes.append(True)
        exchange.send(reply.body[HELD:])

    with FaultyOrigin({"a.bin": renegotiate}, resource=BODY, tls=True) as origin:
        assert origin.tls is not None
        origin.tls.maximum_version = ssl.TLSVersion.TLSv1_2
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings=TRUST)
        assert ended.status == 0, ended.log
    assert ended.file("a.bin") == BODY
    assert ended.row("a.bin")["attempts"] == 1
    assert handshakes == [True]


def records_of(size: int) -> Behaviour:
    """Sent in pieces of that many bytes, each of which makes a TLS record, or two."""

    def behaviour(exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        for start in range(0, len(reply.body), size):
            exchange.send(reply.body[start : start + size])

    return behaviour


def test_records_of_any_size(bulk: Bulk) -> None:
    sizes = (999, 16 * 1024 - 1, 16 * 1024 + 1)
    with FaultyOrigin({f"{size}.bin": records_of(size) for size in sizes}, resource=BODY, tls=True) as origin:
        bulk.write_list({f"{size}.bin": origin.url(f"{size}.bin") for size in sizes})
        ended = bulk.run(settings=TRUST)
        assert ended.status == 0, ended.log
    assert all(ended.file(f"{size}.bin") == BODY for size in sizes)
    assert [row["attempts"] for row in ended.rows] == [1] * 3


# --- limits, stops, kills ---------------------------------------------------------------------------------------------


@BOTH
def test_the_rate_limit_holds(bulk: Bulk, tls: bool) -> None:
    rate = 4 * MIB
    with FaultyOrigin({"a.bin": good}, resource=BODY, tls=tls) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings={"BULK_RATE_LIMIT": str(rate), **TRUST})
        assert ended.status == 0, ended.log
    assert ended.file("a.bin") == BODY
    # A tenth of a second is saved up, and one read is paid for afterwards.
    assert ended.row("a.bin")["seconds"] >= len(BODY) / rate - 0.2


def sigterm(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)


@BOTH
@pytest.mark.parametrize("end", [sigterm, kill])
def test_stopped_or_killed_it_goes_on_where_it_was(
    bulk: Bulk, end: Callable[[subprocess.Popen[str]], None], tls: bool
) -> None:
    with FaultyOrigin({"a.bin": stall_after(HELD)}, resource=BODY, tls=tls) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        process = bulk.start(settings={"BULK_STALL_TIMEOUT": "60", **TRUST})
        part = bulk.output / "a.bin.part"
        wait_for(lambda: part.exists() and part.stat().st_size == HELD)
        if end is kill:
            wait_for(lambda: (bulk.output / "a.bin.part.json").exists() and bool(state_of(bulk, "a.bin")["written"]))
        end(process)
        if end is sigterm:
            assert bulk.wait(process).status == 143
            assert state_of(bulk, "a.bin")["written"] == [[0, HELD]]
        else:
            assert process.stdout is not None
            process.stdout.close()
        ((_, written),) = state_of(bulk, "a.bin")["written"]
        origin.add("a.bin", good)
        ended = bulk.run(settings=TRUST)
        assert ended.status == 0, ended.log
        assert origin.requests[-1].range == (written - OVERLAP, None)
    assert ended.file("a.bin") == BODY
    assert ended.row("a.bin")["resumed_from"] == written
    assert ended.row("a.bin")["bytes_received"] == len(BODY) - written + OVERLAP
