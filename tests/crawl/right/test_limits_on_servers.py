"""What a server may not do: send more than it may, lead into a private network, get a password in the clear."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from support.crawl import Bulk, sha256
from support.faults import as_if, chunked_answer, redirect_to
from support.faulty import TRUST, FaultyOrigin, good, make_body
from support.shell import Shell

BODY = make_body(300_000)
LIMIT = 200_000


def test_a_file_is_no_larger_than_it_may_be(bulk: Bulk) -> None:
    with FaultyOrigin({"whole": good, "chunked": chunked_answer(), "small": (good, BODY[:LIMIT])}, resource=BODY) as origin:  # fmt: skip
        bulk.write_list({name: origin.url(name) for name in ("whole", "chunked", "small")})
        ended = bulk.run(settings={"BULK_MAX_SIZE": str(LIMIT)})
        assert ended.status == 4, ended.log
        assert ended.file("small") == BODY[:LIMIT]
        codes = {row["name"]: row["error"] and row["error"]["code"] for row in ended.rows}
        assert codes == {"whole": "too_large", "chunked": "too_large", "small": None}
        assert "BULK_MAX_SIZE allows 200000" in ended.log
        assert not (bulk.output / "whole.part").exists()
        assert (bulk.output / "chunked.part").stat().st_size == LIMIT, "stopped at the byte"
        assert ended.row("chunked")["attempts"] == 1


# Of the addresses of this machine, 127.0.0.2 and up are public for once.
PRETEND = """
import bulkspider.wire.exchange as exchange
exchange.is_private = lambda address: address == "127.0.0.1"
from bulkspider.settings import *
"""


@pytest.fixture
def pretend(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
    (bulk.folder / "pretend.py").write_text(PRETEND)
    monkeypatch.setenv("PYTHONPATH", str(bulk.folder))
    bulk.settings_module = "pretend"


class Listener:
    """Accepts connections, and keeps what they sent."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.received: list[bytes] = []
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                try:
                    self.received.append(connection.recv(4096))
                except ConnectionResetError:
                    self.received.append(b"")

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listening.close()


def test_a_public_host_leads_nowhere_private(bulk: Bulk, pretend: None) -> None:
    listener = Listener()
    with (
        FaultyOrigin(default=good, resource=BODY) as private,
        FaultyOrigin({"good": good}, resource=BODY, host="127.0.0.2") as public,
    ):
        private.add("up", redirect_to(public.url("good")))
        public.add("there", redirect_to(private.url("x")))
        public.add("name", redirect_to(private.url("x").replace("127.0.0.1", "localhost")))
        public.add("tls", redirect_to(f"https://127.0.0.1:{listener.port}/x"))
        public.add("plain", redirect_to(f"http://127.0.0.1:{listener.port}/x"))
        public.add("chain", redirect_to("/there"))
        names = ("there", "name", "tls", "plain", "chain")
        bulk.write_list({**{n: public.url(n) for n in names}, "direct": private.url("x"), "up": private.url("up")})
        ended = bulk.run(settings={"BULK_BATCH": "1", "BULK_RETRY_TIMES": "1", **TRUST})
        assert ended.status == 4, ended.log
        codes = {row["name"]: row["error"] and row["error"]["code"] for row in ended.rows}
        assert codes == {**dict.fromkeys(names, "private_redirect"), "direct": None, "up": None}
        assert sorted(request.path for request in private.requests) == ["/up", "/x"]
        assert listener.received == [b"", b""], "not even the first words of TLS"
        allowed = bulk.run(
            settings={"BULK_BATCH": "1", "BULK_RETRY_TIMES": "1", "BULK_PRIVATE_REDIRECTS": "True", **TRUST}
        )
        assert allowed.row("there")["status"] == "complete"
        listener.close()


def test_not_even_the_robots_txt_of_a_private_host_is_asked_for(bulk: Bulk, pretend: None) -> None:
    robots = (good, b"User-agent: *\nDisallow: /no/\n")
    with (
        FaultyOrigin({"robots.txt": robots}, default=good, resource=BODY) as private,
        FaultyOrigin({"robots.txt": robots}, default=good, resource=BODY, host="127.0.0.2") as other,
        FaultyOrigin({"robots.txt": robots}, resource=BODY, host="127.0.0.2") as public,
    ):
        public.add("there", redirect_to(private.url("x")))
        public.add("elsewhere", redirect_to(other.url("yes/x")))
        public.add("forbidden", redirect_to(other.url("no/x")))
        bulk.write_list({name: public.url(name) for name in ("there", "elsewhere", "forbidden")})
        ended = bulk.run(settings={"ROBOTSTXT_OBEY": "1", "BULK_RETRY_TIMES": "1"})
        assert ended.status == 4, ended.log
        codes = {row["name"]: row["error"] and row["error"]["code"] for row in ended.rows}
        assert codes == {"there": "private_redirect", "elsewhere": None, "forbidden": "robots"}
        assert private.requests == []
        assert "Error downloading" not in ended.log


def test_a_checksum_file_and_its_signature_come_from_nowhere_private(bulk: Bulk, pretend: None) -> None:
    with (
        FaultyOrigin(default=good, resource=b"0 x") as private,
        FaultyOrigin({"a": good, "moved": redirect_to("/SUMS")}, resource=BODY, host="127.0.0.2") as public,
    ):
        public.add("there", redirect_to(private.url("SUMS")))
        public.add("SUMS", good, f"{sha256(BODY)}  a\n".encode())
        private.add("up", redirect_to(private.url("SUMS")))
        private.add("SUMS", good, f"{sha256(BODY)}  a\n".encode())
        bulk.write_list({"a": public.url("a")})
        refused = bulk.run("-a", f"sums={public.url('there')}")
        assert refused.status == 1, refused.log
        assert f"redirected from 127.0.0.2:{public.port} to 127.0.0.1:{private.port}, a private address" in refused.log
        assert private.requests == []
        for place in (public.url("moved"), private.url("up")):
            bulk.output = bulk.folder / str(len(public.requests))
            ended = bulk.run("-a", f"sums={place}")
            assert (ended.status, ended.row("a")["proof_by"]) == (0, "sums"), ended.log


def test_a_password_of_the_netrc_file_is_not_sent_in_the_clear(tmp_path: Path) -> None:
    """The list names one http host; a redirect leads to another one, which the netrc file knows as well."""
    shell = Shell(tmp_path)
    shell.write("netrc", "machine 127.0.0.1 login a password b\nmachine localhost login c password d\n")
    with FaultyOrigin({"own": good, "x": good}, resource=BODY) as origin:
        localhost = origin.url("x").replace("127.0.0.1", "localhost")
        origin.add("away", redirect_to(localhost))
        shell.write("list.txt", f"name url\nown {origin.url('own')}\naway {origin.url('away')}\n")
        said = shell.bulk("list.txt", "-o", "out")
        assert said.status == 0, said.log
        sent = {request.path: request.headers.get("authorization") for request in origin.requests}
        assert sent["/own"] == sent["/away"] == "Basic YTpi"
        assert sent["/x"] is None
        for trusted, expected in (("localhost", None), ("http://localhost", "Basic Yzpk")):
            said = shell.bulk(
                "list.txt", "-o", trusted.rpartition("/")[0] + "again", "-s", f"BULK_TRUSTED_HOSTS={trusted}"
            )
            assert said.status == 0, said.log
            assert origin.requests_for("x")[-1].headers.get("authorization") == expected


def test_a_refused_size_of_a_known_length_is_told_by_a_dry_run_too(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    with FaultyOrigin({"a": as_if()}, resource=BODY) as origin:
        shell.write("list.txt", f"name url\na {origin.url('a')}\n")
        said = shell.bulk("list.txt", "--dry-run", "-s", "BULK_MAX_SIZE=1000")
        assert said.status == 4, said.log
        assert "BULK_MAX_SIZE allows 1000" in said.out
