"""Servers that mean harm, or are broken beyond what a person would think of: heads without end, lengths that no file
can have, redirects that lead nowhere. Each is one clear failure of its own entry, at once; memory stays bounded and the
files of other hosts come as fast as ever.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.asking import ASKING, STORE, ask
from support.crawl import Bulk, Ended
from support.faults import chunked_answer, redirect_to, status
from support.faulty import TRUST, Exchange, FaultyOrigin, correct, good, make_body
from support.project import Project
from support.proxy import Proxy, basic
from support.shell import Shell

BODY = make_body(100_000)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "shop")
    project.settings |= STORE
    project.write_spider(ASKING)
    return project


def forever(begin: bytes, again: bytes) -> Callable[[Exchange], None]:
    """`begin`, and then `again` until the client has left."""
    block = again * (1 + 65536 // len(again))

    def behaviour(exchange: Exchange) -> None:
        exchange.send(begin)
        while True:
            exchange.send(block)

    return behaviour


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "fields": forever(OK, b"X-Field: some value\r\n"),
    "short-fields": forever(OK, b"a:\n"),
    "continued": forever(OK + b"X-Field: some\r\n", b" more\r\n"),
    "line": forever(OK + b"X-Field: ", b"x" * 100),
    "status-line": forever(b"HTTP/1.1 200 ", b"x" * 100),
    "no-http": forever(b"", b"\0" * 100),
    "interim": forever(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
    "small-interim": forever(b"", b"HTTP/1.1 100 \n\n"),
}
TINY = {
    "chunks": forever(CHUNKED, b"1\r\nx\r\n"),
    "extended": forever(CHUNKED, b"1;" + b"a" * 100 + b"\r\nx\r\n"),
}


def with_head(*fields: tuple[str, str], interim: int = 0) -> Callable[[Exchange], None]:
    """A good answer with more fields, after some interim ones."""

    def behaviour(exchange: Exchange) -> None:
        for _ in range(interim):
            exchange.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        reply = correct(exchange)
        exchange.send_status(reply.status)
        for name, value in [*reply.headers.items(), *fields]:
            exchange.header(name, value)
        exchange.end_headers()
        exchange.send(reply.body)

    return behaviour


LARGE_HEADS = {
    "lines": with_head(*[("X-Field", str(number)) for number in range(450)]),
    "long-line": with_head(("X-Field", "x" * 200_000)),
    "interim": with_head(interim=20),
}


def error_of(ended: Ended, name: str) -> tuple[str, str]:
    error = ended.row(name)["error"]
    return error["code"], error["message"]


# --- Heads without end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_an_endless_head_is_one_failure_and_its_connection_is_closed(bulk: Bulk, tls: bool) -> None:
    with FaultyOrigin({**ENDLESS, **TINY}, tls=tls) as origin:
        bulk.write_list({name: origin.url(name) for name in (*ENDLESS, *TINY)})
        ended = bulk.run(settings=TRUST)
        origin.wait_until(lambda origin: all(request.ended for request in origin.requests))
        assert ended.status == 3, ended.log
        for name in ENDLESS:
            code, message = error_of(ended, name)
            assert code == "bad_answer", message
            assert re.search(r"256 KiB|500 lines|20 interim|wrong number of parts", message), message
            assert len(origin.requests_for(name)) <= 2, "asked once, and once more at the end of the list"
        for name in TINY:
            assert error_of(ended, name)[0] == "bad_answer"
            assert (bulk.output / f"{name}.part").exists()
        assert not any((bulk.output / name).exists() for name in (*ENDLESS, *TINY))


def test_large_heads_within_the_limits_are_taken(bulk: Bulk) -> None:
    with FaultyOrigin(LARGE_HEADS, resource=BODY) as origin:
        bulk.write_list({name: origin.url(name) for name in LARGE_HEADS})
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert all(ended.file(name) == BODY for name in LARGE_HEADS)
        assert len(origin.requests) == len(LARGE_HEADS)


@pytest.mark.parametrize("size", [1, 7, 300, 16_384])
def test_a_body_of_small_chunks_is_right(bulk: Bulk, size: int) -> None:
    body = make_body({1: 4000, 7: 200_000}.get(size, 3_000_000))
    with FaultyOrigin(default=chunked_answer(size), resource=body) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == body
        assert len(origin.requests) == 1


def test_an_endless_head_in_a_batch_of_small_files_fails_alone(bulk: Bulk) -> None:
    names = [f"{number}.bin" for number in range(120)]
    table = {"60.bin": ENDLESS["fields"], "80.bin": ENDLESS["line"], "100.bin": ENDLESS["small-interim"]}
    with FaultyOrigin(table, default=good, resource=b"x" * 100) as origin:
        bulk.write_list({name: origin.url(name) for name in names})
        ended = bulk.run(settings={"CONCURRENT_REQUESTS": "2"})
        assert ended.status == 3, ended.log
        assert {row["name"]: row["error"]["code"] for row in ended.rows if row["error"]} == dict.fromkeys(
            table, "bad_answer"
        )
        assert origin.connections < len(names) // 2, "they did come in batches"


def test_a_dry_run_meets_an_endless_head(shell: Shell) -> None:
    with FaultyOrigin({"a.bin": ENDLESS["fields"]}, default=good) as origin:
        shell.write("list.txt", f"name url\na.bin {origin.url('a.bin')}\nb.bin {origin.url('b.bin')}\n")
        said = shell.bulk("list.txt", "--dry-run")
        assert said.status == 3
        assert "a.bin: no valid answer (its head has more than 500 lines) [bad_answer]" in said.out


@pytest.mark.parametrize("name", ["fields", "line"])
def test_a_proxy_with_an_endless_head_is_bounded_too(bulk: Bulk, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with FaultyOrigin(default=ENDLESS[name]) as proxy:
        use_proxy(monkeypatch, proxy.url("").rstrip("/"))
        bulk.write_list({"a.bin": "http://a.invalid/a", "b.bin": "https://b.invalid/b"})
        ended = bulk.run()
        proxy.wait_until(lambda proxy: all(request.ended for request in proxy.requests))
        assert ended.status == 3, ended.log
        assert error_of(ended, "a.bin")[0] == error_of(ended, "b.bin")[0] == "bad_answer"
        assert len(proxy.requests) <= 4


MEASURED = """
import atexit, sys
from scrapy.cmdline import execute
atexit.register(lambda: print("peak:", open("/proc/self/status").read().split("VmHWM:")[1].split()[0], "KiB"))
execute(["scrapy", *sys.argv[1:]])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_four_hostile_hosts_cost_no_memory_and_do_not_slow_a_good_one(bulk: Bulk) -> None:
    """Each file of the good host takes a while to be served, so that its time alone is more than a crawl's noise; all
    the while there is a connection to each of the four others."""
    names = [f"{number}.bin" for number in range(24)]
    hostile = [ENDLESS["fields"], ENDLESS["line"], ENDLESS["small-interim"], TINY["chunks"]]

    def unhurried(exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send_slowly(reply.body, 2 * len(BODY))

    with ExitStack() as stack:
        origin = stack.enter_context(FaultyOrigin(default=unhurried, resource=BODY))
        entries = {name: origin.url(name) for name in names}

        def seconds() -> float:
            ended = bulk.run(settings={"CONCURRENT_REQUESTS_PER_DOMAIN": "4", "CONCURRENT_REQUESTS": "32"})
            assert all(ended.file(name) == BODY for name in names), ended.log
            taken = max(request.time for request in origin.requests) - min(request.time for request in origin.requests)
            (peak,) = re.findall(r"peak: (\d+) KiB", ended.log)
            assert int(peak) < 250 * 1024, f"{int(peak) // 1024} MiB"
            origin.requests.clear()
            return taken

        ordinary = bulk.command
        bulk.command = lambda *arguments, settings=None: [  # type: ignore[method-assign]
            sys.executable, "-c", MEASURED, *ordinary(*arguments, settings=settings)[3:]
        ]  # fmt: skip
        bulk.write_list(entries)
        alone = seconds()
        bulk.output = bulk.folder / "beside"
        for number, behaviour in enumerate(hostile):
            host = stack.enter_context(FaultyOrigin(default=behaviour, host=f"127.0.0.{number + 2}"))
            entries |= {f"{number}/{entry}": host.url(str(entry)) for entry in range(8)}
        bulk.write_list(dict(sorted(entries.items(), key=lambda item: item[0].rpartition("/")[2])))
        beside = seconds()
        assert beside <= 3 * alone, f"{beside:.1f} s beside four hostile hosts, {alone:.1f} s alone"


# --- Redirects that cannot be followed --------------------------------------------------------------------------------

LABEL = "x" * 70
NOWHERE = {
    "label": f"http://{LABEL}.example/x",
    "host": f"http://{'.'.join(['y' * 60] * 5)}/x",
    "port": "http://127.0.0.1:99999/x",
    "port-0": "http://127.0.0.1:0/x",
    "port-text": "http://127.0.0.1:http/x",
    "bracket": "http://[::1/",
    "address": "http://[zz]/x",
    "script": "javascript:alert(1)",
    "ftp": "ftp://127.0.0.1/x",
    "dots": "http://a..example/x",
    "relative": f"//alice:s3cret-pass@{LABEL}.example/x",
    "secret": "http://alice:s3cret-pass@127.0.0.1:99999/x?A-userid=jane-doe",
    "slash": "http://alice:s3cret-pass/s3cret-pass@127.0.0.1/x",
    "binary": "http://\xff\xfe\x01.example:1:2/x",
}


def test_a_redirect_that_cannot_be_followed_is_one_failure_that_says_where_it_was_to_go(bulk: Bulk) -> None:
    with FaultyOrigin({name: redirect_to(target) for name, target in NOWHERE.items()}, resource=BODY) as origin:
        origin.add("good", good)
        bulk.write_list({name: origin.url(name) for name in (*NOWHERE, "good")})
        ended = bulk.run(settings={"LOG_LEVEL": "DEBUG"})
        assert ended.status == 3, ended.log
        assert ended.file("good") == BODY
        for name, target in NOWHERE.items():
            code, message = error_of(ended, name)
            assert code == "redirect", f"{name}: {message}"
            assert ended.row(name)["error"]["http_status"] == 302
            assert target[:2] in message
            assert len(origin.requests_for(name)) <= 2, "once, and once more at the end of the list"
        assert "Unhandled" not in ended.log
        assert "a middleware" not in ended.log
        assert_hidden(bulk, ended.log, "s3cret-pass", "jane-doe")


def test_others_projects_meet_such_a_redirect_as_one_failure(project: Project) -> None:
    targets = {name: NOWHERE[name] for name in ("label", "port", "bracket", "script", "secret")}
    with FaultyOrigin({name: redirect_to(target) for name, target in targets.items()}, resource=BODY) as origin:
        origin.add("good", good)
        rows = ask(
            project,
            *({"url": origin.url(name), "path": f"{name}.bin"} for name in targets),
            {"url": origin.url("good"), "files": [origin.url(f"{name}?file") for name in targets]},
        )
        assert "Unhandled" not in project.log
        assert "s3cret-pass" not in project.log
        for name in targets:
            assert "failed" in rows[f"{name}.bin"]
            assert len(origin.requests_for(name)) == 2, "by each of the two ways"
        assert project.log.count("[redirect]") + project.log.count("a redirect that cannot be followed") >= len(targets)


def test_a_location_that_is_no_ascii_is_followed_as_it_was_sent(bulk: Bulk) -> None:
    with FaultyOrigin(
        {"a.bin": redirect_to("/é.bin".encode().decode("latin-1")), "é.bin": good}, resource=BODY
    ) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY


def test_a_dry_run_tells_of_such_a_redirect_as_the_run_does(shell: Shell) -> None:
    with FaultyOrigin({name: redirect_to(target) for name, target in NOWHERE.items()}) as origin:
        shell.write("list.txt", "\n".join(["name url", *(f"{name} {origin.url(name)}" for name in NOWHERE), ""]))
        said = shell.bulk("list.txt", "--dry-run")
        assert said.status == 3, said.log
        for number, name in enumerate(NOWHERE, 2):
            assert f"list.txt:{number}: {name}: a redirect that cannot be followed (302, to " in said.out
        assert said.out.count("[redirect]") == len(NOWHERE)
        assert "s3cret-pass" not in said.out + said.log
        assert "jane-doe" not in said.out + said.log


def test_a_proxy_that_cannot_be_reached_at_all_is_a_permanent_failure(
    bulk: Bulk, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_proxy(monkeypatch, f"http://someone:s3cret-pass@{LABEL}.example:3128")
    bulk.write_list({"a.bin": "http://a.invalid/a", "b.bin": "https://b.invalid/b"})
    ended = bulk.run()
    assert ended.status == 4, ended.log
    assert (
        error_of(ended, "a.bin")
        == error_of(ended, "b.bin")
        == (
            "proxy",
            "the proxy's address has no valid host or port",
        )
    )
    assert_hidden(bulk, ended.log, "s3cret-pass")


# --- Numbers that no file has -----------------------------------------------------------------------------------------


def promises(field: str, value: str, code: int = 200) -> Callable[[Exchange], None]:
    def behaviour(exchange: Exchange) -> None:
        exchange.send_status(code)
        exchange.header("Content-Type", "application/octet-stream")
        exchange.header(field, value)
        exchange.end_headers()
        exchange.send(BODY)
        exchange.stall()

    return behaviour


LARGEST = 2**63 - 1
DIGITS = "9" * 5000


def ranged(value: str) -> Callable[[Exchange], None]:
    """Half of the file, then the rest with this Content-Range."""

    def behaviour(exchange: Exchange) -> None:
        reply = correct(exchange)
        if exchange.range is None and exchange.attempt == 0:
            exchange.promise(reply)
            exchange.send(reply.body[:50_000])
            exchange.reset()
        elif exchange.range is None:
            exchange.answer(reply)
        else:
            reply.headers["Content-Range"] = value
            exchange.answer(reply)

    return behaviour


def test_a_length_that_no_disk_can_hold_is_the_entry_s_failure_and_takes_no_room(bulk: Bulk) -> None:
    names = [f"{number}.bin" for number in range(20)]
    table = {
        "largest": promises("Content-Length", str(LARGEST)),
        "petabytes": promises("Content-Length", str(1 << 60)),
        "more": promises("Content-Length", str(LARGEST + 1)),
        "digits": promises("Content-Length", "9" * 4000),
        "range": promises("Content-Range", f"bytes 0-{LARGEST - 1}/{LARGEST}", 206),
    }
    with FaultyOrigin(table, default=good, resource=BODY) as origin:
        bulk.write_list({name: origin.url(name) for name in (*table, *names)})
        ended = bulk.run(settings={"BULK_PREALLOCATE": "1"})
        assert all(ended.file(name) == BODY for name in names), ended.log
        assert ended.status == 3, ended.log
        assert {name: error_of(ended, name)[0] for name in table} == {
            "largest": "too_large",
            "petabytes": "too_large",
            "more": "bad_answer",
            "digits": "bad_answer",
            "range": "too_large",
        }
        assert "disk_full" not in ended.log
        assert not any((bulk.output / name).exists() for name in table)

        bulk.write_list({name: origin.url(name) for name in ("largest", *names)})
        assert bulk.run().status == 4, "nothing else is left, and the same list cannot help"


def test_a_dry_run_does_not_count_what_no_disk_can_hold(shell: Shell) -> None:
    table = {"a.bin": promises("Content-Length", str(LARGEST))}
    with FaultyOrigin(table, default=good, resource=BODY) as origin:
        shell.write("list.txt", f"name url\na.bin {origin.url('a.bin')}\nb.bin {origin.url('b.bin')}\n")
        said = shell.bulk("list.txt", "--dry-run")
        assert said.status == 4, said.out
        assert "[too_large]" in said.out
        assert "TOO LITTLE" not in said.out


@pytest.mark.parametrize(
    "value", [f"bytes 0-99999/{DIGITS}", f"bytes {DIGITS}-{DIGITS}/*", f"bytes */{DIGITS}", "bytes 50000-\u00b2/9"]
)
def test_a_content_range_that_is_no_number_is_not_believed(bulk: Bulk, value: str) -> None:
    with FaultyOrigin({"a.bin": ranged(value)}, resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY
        assert "a middleware" not in ended.log

    def never_whole(exchange: Exchange) -> None:
        promises("Content-Range", value, 206)(exchange)

    with FaultyOrigin(default=never_whole) as origin:
        bulk.write_list({"b.bin": origin.url("b.bin")})
        ended = bulk.run()
        assert ended.status == 3, ended.log
        assert error_of(ended, "b.bin")[0] == "bad_range"


# --- Proxies that want a password -------------------------------------------------------------------------------------


def use_proxy(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, url)


@pytest.mark.parametrize("keeps_open", [True, False])
def test_a_proxy_that_wants_a_password_is_one_permanent_failure(
    bulk: Bulk, monkeypatch: pytest.MonkeyPatch, keeps_open: bool
) -> None:
    def asks(exchange: Exchange) -> None:
        status(407, {"Proxy-Authenticate": 'Basic realm="x"'}, b"who are you?")(exchange)
        if not keeps_open:
            exchange.close()

    with FaultyOrigin(default=asks) as proxy:
        use_proxy(monkeypatch, proxy.url("").rstrip("/"))
        bulk.write_list({"a.bin": "http://a.invalid/a", "b.bin": "https://b.invalid/b"})
        ended = bulk.run()
        assert ended.status == 4, ended.log
        for name in ("a.bin", "b.bin"):
            error = ended.row(name)["error"]
            assert (error["code"], error["permanent"]) == ("proxy_auth", True)
            assert f"failed: {name}: {error['message']} [proxy_auth]" in ended.log
        assert "write user:password@ in front of the proxy's host" in ended.log
        assert len(proxy.requests) == 2
        assert not (bulk.output / "a.bin").exists()


def test_a_dry_run_meets_a_proxy_that_wants_a_password(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy("someone:else") as proxy:
        use_proxy(monkeypatch, proxy.url.replace("someone:else@", ""))
        listed = bulk.write_list({"a.bin": "http://a.invalid/a", "b.bin": "https://b.invalid/b"})
        command = [sys.executable, "-m", "scrapy", "bulk", str(listed), "--dry-run"]
        said = subprocess.run(command, cwd=bulk.folder, capture_output=True, text=True, timeout=60, check=False)
        assert said.returncode == 4, said.stdout + said.stderr
        assert said.stdout.count("[proxy_auth]") == 2
        assert len(proxy.heads) == 2


# --- User names in a Location -----------------------------------------------------------------------------------------


@pytest.fixture
def private() -> Iterator[FaultyOrigin]:
    """Serves who is alice, and sends her on."""

    def for_alice(exchange: Exchange) -> None:
        if exchange.headers.get("authorization") == basic("alice:s3cret pass"):
            good(exchange)
        else:
            status(401)(exchange)

    with FaultyOrigin({"x": for_alice}, resource=BODY) as origin:
        origin.add("same-host", redirect_to("/x"))
        yield origin


@pytest.mark.parametrize("path", ["x", "same-host"])
def test_a_password_in_a_location_goes_to_that_host_alone_and_is_nowhere_shown(
    bulk: Bulk, private: FaultyOrigin, path: str
) -> None:
    secret = private.url(f"{path}?A-userid=jane-doe&email=jane%40example.org").replace("//", "//alice:s3cret%20pass@")
    with FaultyOrigin(default=good, resource=BODY, host="127.0.0.2") as elsewhere:
        private.add("away", redirect_to(elsewhere.url("z")))
        away = private.url("away").replace("//", "//alice:s3cret%20pass@")
        with FaultyOrigin(
            {"a.bin": redirect_to(secret), "b.bin": redirect_to(secret), "c.bin": redirect_to(away)}, host="127.0.0.3"
        ) as origin:
            bulk.write_list({name: origin.url(name) for name in ("a.bin", "b.bin", "c.bin")})
            ended = bulk.run("-a", f"report={bulk.folder / 'page.html'}", settings={"LOG_LEVEL": "DEBUG"})
        assert ended.status == 0, ended.log
        assert all(ended.file(name) == BODY for name in ("a.bin", "b.bin", "c.bin"))
        assert all("authorization" not in request.headers for request in (*origin.requests, *elsewhere.requests))
        assert "***" in ended.row("a.bin")["final_url"]
        shown = ended.log + (bulk.folder / "page.html").read_text()
        assert_hidden(bulk, shown, "s3cret", "jane", basic("alice:s3cret pass").split()[1])


def test_a_password_in_a_location_is_not_shown_when_that_host_fails(bulk: Bulk, shell: Shell) -> None:
    with FaultyOrigin({}) as closed:
        refusing = closed.url("x").replace("//", "//alice:s3cret-pass@")
    targets = {
        "refused": refusing,
        "unknown": "http://alice:s3cret-pass@unknown.invalid/x",
        "denied": "denied",
        "downgrade": "x",
    }
    with FaultyOrigin({"x": status(403)}) as denying:
        targets["denied"] = denying.url("x").replace("//", "//alice:s3cret-pass@")
        with FaultyOrigin({name: redirect_to(target) for name, target in targets.items()}, resource=BODY) as origin:
            bulk.write_list({name: origin.url(name) for name in targets})
            ended = bulk.run(settings={"LOG_LEVEL": "DEBUG", "BULK_ORIGIN_PATIENCE": "1"})
            assert ended.status == 3, ended.log
            assert error_of(ended, "denied")[0] == "http_403"
            assert_hidden(bulk, ended.log, "s3cret-pass", "alice")
            said = shell.bulk("list.txt", "--dry-run")
            assert "s3cret-pass" not in said.out + said.log
            assert "alice" not in said.out + said.log


def assert_hidden(bulk: Bulk, log: str, *secrets: str) -> None:
    """Neither in the log nor in any file that was written."""
    written = [path.read_text(errors="replace") for path in bulk.output.rglob("*") if path.is_file()]
    for text in (log, bulk.report.read_text(), *written):
        for secret in secrets:
            assert secret not in text, text[max(0, text.find(secret) - 200) : text.find(secret) + 200]
