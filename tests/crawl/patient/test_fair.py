"""Whose fault a failure is: of one file, of its host, or of this machine; and that nobody else pays for it."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from support.crawl import Bulk
from support.faults import dies_every, status
from support.faulty import Exchange, FaultyOrigin, Resource, good, make_body

BODY = make_body(50_000)


def codes(rows: list[dict[str, object]]) -> dict[object, object]:
    return {row["name"]: row["error"]["code"] if row["error"] else None for row in rows}  # type: ignore[index]


def challenge(exchange: Exchange) -> None:
    """AWS WAF before a site."""
    exchange.send_status(202)
    exchange.header("x-amzn-waf-action", "challenge")
    exchange.header("Content-Length", 0)
    exchange.end_headers()


def test_bad_urls_hold_up_nobody_and_end_with_their_own_errors(bulk: Bulk) -> None:
    bad = {
        **{f"broken{n}.bin": status(500) for n in range(3)},
        "key.bin": status(403, body=b"<Error><Code>AccessDenied</Code></Error>"),
        "forbidden.bin": status(403),
        "browser.bin": challenge,
        "staged.bin": status(202),
    }
    with FaultyOrigin(bad, default=good, resource=BODY) as origin:
        fine = [f"fine{n}.bin" for n in range(40)]
        bulk.write_list({name: origin.url(name) for name in (*bad, *fine)})
        settings = {"BULK_RETRY_TIMES": "2", "BULK_RETRY_DELAY": "0.1", "BULK_ORIGIN_PATIENCE": "3"}
        ended = bulk.run(settings=settings)
        assert ended.status == 3, ended.log
        assert codes(ended.rows) == {
            **dict.fromkeys(fine),
            **dict.fromkeys(("broken0.bin", "broken1.bin", "broken2.bin"), "http_500"),
            "key.bin": "http_403",
            "forbidden.bin": "http_403",
            "browser.bin": "bot_challenge",
            "staged.bin": "not_yet",
        }
        assert max(len(origin.requests_for(f"broken{n}.bin")) for n in range(3)) <= 4
        assert len(origin.requests_for("key.bin")) == 1
        assert len(origin.requests_for("forbidden.bin")) <= 9, "each of a few tries also asks for pieces"
        assert "it is tried once more when all others are done" in ended.log
        last_good = max(request.time for request in origin.requests if "fine" in request.path)
        first_end = min(r.time for r in origin.requests_for("broken0.bin")[2:])
        assert last_good < first_end + 30, "nobody waited for them"


def test_a_port_that_speaks_no_tls_is_told_at_once(bulk: Bulk) -> None:
    def refuse() -> None:
        """What a server of http says to the beginning of a TLS handshake."""
        while True:
            try:
                connection, _ = plain.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    with socket.create_server(("127.0.0.2", 0)) as plain, FaultyOrigin(default=good, resource=BODY) as origin:
        threading.Thread(target=refuse, daemon=True).start()
        port = plain.getsockname()[1]
        bulk.write_list({"a.bin": f"https://127.0.0.2:{port}/a.bin", "b.bin": origin.url("b.bin")})
        ended = bulk.run()
        plain.shutdown(socket.SHUT_RDWR)
        assert codes(ended.rows) == {"a.bin": "no_tls", "b.bin": None}, ended.log
        assert "what to do: write http:// in the list" in ended.log


@pytest.mark.parametrize(
    "said",
    [
        "<html><body><h1>400 Bad Request</h1><center>The plain HTTP request was sent to HTTPS port</center></body></html>",
        "<p>Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />Instead use the HTTPS scheme</p>",
        "Client sent an HTTP request to an HTTPS server.\n",
    ],
    ids=["nginx", "Apache", "Go"],
)
def test_a_port_that_wants_tls_is_told_at_once(bulk: Bulk, said: str) -> None:
    with FaultyOrigin(default=status(400, body=said.encode())) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run()
        assert codes(ended.rows) == {"a.bin": "wants_tls"}, ended.log
        assert ended.status == 4
        assert len(origin.requests) == 1, "a shorter piece would be refused, too"
        assert "what to do: write https:// in the list" in ended.log


def test_a_host_that_takes_connections_and_never_answers_leaves_the_places_to_others(bulk: Bulk) -> None:
    with (
        socket.create_server(("127.0.0.2", 0), backlog=64) as mute,
        FaultyOrigin(default=good, resource=BODY) as origin,
    ):
        port = mute.getsockname()[1]
        silent = {f"mute{n}.bin": f"http://127.0.0.2:{port}/{n}" for n in range(20)}
        fine = {f"fine{n}.bin": origin.url(f"fine{n}.bin") for n in range(20)}
        bulk.write_list({**silent, **fine})
        settings = {"CONCURRENT_REQUESTS": "4", "CONCURRENT_REQUESTS_PER_DOMAIN": "4", "BULK_HEADERS_TIMEOUT": "600"}
        process = bulk.start(settings=settings)
        origin.wait_until(lambda o: len(o.requests) == 20 and all(r.ended for r in o.requests))
        process.terminate()
        ended = bulk.wait(process)
        assert ended.status == 143, ended.log
        assert sum(row["status"] == "complete" for row in ended.rows) >= 19


KIB = 1024
# Bytes after which each connection breaks, and of a file there. The pause between attempts grows to five seconds.
BREAKS = {16 * KIB: 56 * KIB, 64 * KIB: 230 * KIB, KIB * KIB: 3_700 * KIB}
MANY_BREAKS = {16 * KIB: 120 * KIB, 64 * KIB: 500 * KIB, KIB * KIB: 10 * KIB * KIB}


def list_from_breaking_hosts(bulk: Bulk, sizes: dict[int, int], settings: dict[str, str]) -> None:
    """Fetches a few files from a host for each kind of break, and compares what each of them sent with its files."""
    origins = {
        length: FaultyOrigin(default=dies_every(length), resource=Resource(make_body(size), etag=etag))
        for (length, size), etag in zip(sizes.items(), ('"v1"', None, '"v1"'), strict=True)
    }
    with contextlib.ExitStack() as stack:
        for origin in origins.values():
            stack.enter_context(origin)
        names = {length: [f"{length}-{n}.bin" for n in range(3)] for length in sizes}
        bulk.write_list({name: origins[length].url(name) for length in sizes for name in names[length]})
        ended = bulk.run(settings={"CONCURRENT_REQUESTS": "16", **settings})
        assert ended.status == 0, ended.log
        for length, size in sizes.items():
            assert all(ended.file(name) == make_body(size) for name in names[length])
            sent = sum(request.bytes_sent for request in origins[length].requests)
            assert sent <= 1.5 * 3 * size, f"breaks after {length}: {sent / (3 * size):.2f} x the list"
            assert len(origins[length].requests) <= 3 * (1.3 * size / length + 2)


def test_a_host_that_breaks_each_connection_early_sends_little_twice(bulk: Bulk) -> None:
    """Also where fewer bytes come than BULK_RESUME_OVERLAP: 64 KiB."""
    list_from_breaking_hosts(bulk, BREAKS, {})


@pytest.mark.long
def test_a_host_that_breaks_each_connection_early_sends_little_twice_of_large_files(bulk: Bulk) -> None:
    """Several connections for a file too, and more breaks than tries."""
    list_from_breaking_hosts(bulk, MANY_BREAKS, {"BULK_SEGMENT_MIN": "1M", "BULK_SEGMENTS": "4"})
