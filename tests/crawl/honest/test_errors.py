"""Every error a user can meet: provoked, in one sentence of the promised kind, without a traceback.

`messages.py` says what each code's sentence is, and `crawl.py` (both in `tests/support`) holds every failing row of every test to it. Here are
the errors that no scenario of another file ends with, and the proof that none is forgotten.
"""

from __future__ import annotations

import ast
import errno
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import scrapy.exceptions
from twisted.internet import error as net
from twisted.web.error import SchemeNotSupported

from bulkspider import errors
from bulkspider.codes import HTTP, TABLE, Kind, cure, look_up
from bulkspider.disk.folder.folder import Folder
from bulkspider.disk.part import Part
from bulkspider.errors import BulkError, UsageError, disk_error
from bulkspider.spiders.arguments.prepare import prepare
from bulkspider.wire import map_error
from support.crawl import Bulk
from support.faults import etag_per_request, redirect_to, status
from support.faulty import Exchange, FaultyOrigin, good, make_body
from support.messages import SAYS, check_error
from support.readme import table

TESTS = Path(__file__).parents[2]
BODY = make_body(300_000)

# Codes that a project sees as one of Scrapy's exceptions; a test knows them by their sentence.
BY_SENTENCE = {"two_ways": "is fetching it already", "folder_gone": "was deleted during the run"}


def slow(exchange: Exchange) -> None:
    """Less in each attempt, and no ranges: it never comes further."""
    exchange.send_status(200)
    exchange.header("Content-Length", len(BODY))
    exchange.end_headers()
    exchange.send(BODY[: 2000 // (exchange.attempt + 1)])
    exchange.send_slowly(BODY[2000:], 5)


def partial_for_all(exchange: Exchange) -> None:
    """206 without a Content-Range, whatever was asked for."""
    exchange.send_status(206)
    exchange.header("Content-Length", len(BODY))
    exchange.end_headers()
    exchange.send(BODY)


def no_tunnel(exchange: Exchange) -> None:
    """A proxy that answers CONNECT with a refusal."""
    status(407)(exchange)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, object]], str]:
    """One crawl over one entry for each code; their errors, and the log."""
    bulk = Bulk(tmp_path_factory.mktemp("errors"))
    bulk.output.mkdir()
    behaviours: dict[str, Callable[[Exchange], None]] = {
        "slow": slow,
        "bad_range": partial_for_all,
        "changed": etag_per_request(),
        "redirect": redirect_to("ftp://127.0.0.1/x"),
        "http_418": status(418),
        "not_regular": good,
        "part_in_use": good,
    }
    with FaultyOrigin(default=no_tunnel) as proxy, pytest.MonkeyPatch.context() as environment:
        environment.setenv("https_proxy", proxy.url("").rstrip("/"))
        environment.setenv("no_proxy", "")
        origins = {name: FaultyOrigin({name: behaviour}, resource=BODY) for name, behaviour in behaviours.items()}
        for origin in origins.values():
            origin.__enter__()
        (bulk.output / "changed").write_bytes(BODY[:200_000])
        (bulk.output / "not_regular").mkdir()
        folder = Folder(bulk.output)
        held = Part(folder, "part_in_use", "key", checkpoint=1 << 20)
        held.open()
        assert held.fd >= 0
        try:
            lines = [f"{name} {origin.url(name)}" for name, origin in origins.items()]
            lines.append("proxy https://example.org/x")
            bulk.write_list(lines)
            patience = {"BULK_STALL_TIMEOUT": "1", "BULK_RETRY_TIMES": "2", "BULK_ORIGIN_PATIENCE": "1"}
            ended = bulk.run(settings={**patience, "CONCURRENT_REQUESTS": "20", "CONCURRENT_REQUESTS_PER_DOMAIN": "20"})
        finally:
            held.close()
            folder.close()
            for origin in origins.values():
                origin.__exit__(None, None, None)
    assert ended.status == 3, ended.log
    return {row["name"]: row["error"] for row in ended.rows}, ended.log


@pytest.mark.parametrize(
    ("name", "code", "permanent"),
    [
        ("slow", "slow", False),
        ("bad_range", "bad_range", False),
        ("changed", "changed", False),
        ("redirect", "redirect", False),
        ("http_418", "http_418", False),
        ("not_regular", "not_regular", False),
        ("part_in_use", "part_in_use", False),
        ("proxy", "proxy_auth", True),
    ],
)
def test_an_entry_fails_with_the_sentence_of_its_code(
    rows: tuple[dict[str, dict[str, object]], str], name: str, code: str, permanent: bool
) -> None:
    found, log = rows
    error = found[name]
    assert (error["code"], error["permanent"]) == (code, permanent), error
    check_error(error)
    assert f"{name}: {error['message']}" in log, "the summary names the file and says the same"


@pytest.mark.parametrize("total", ["*", "300000"])
def test_an_origin_that_sends_the_same_bytes_again_and_again_is_given_up(bulk: Bulk, total: str) -> None:
    """Whatever is asked for, and whether or not it says how many there are."""

    def same_again(exchange: Exchange) -> None:
        exchange.send_status(206)
        exchange.header("Content-Range", f"bytes 0-99999/{total}")
        exchange.header("Content-Length", 100_000)
        exchange.end_headers()
        exchange.send(BODY[:100_000])

    with FaultyOrigin({"a.bin": same_again}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings={"BULK_SEGMENTS": "1"})
        assert ended.status == 3, ended.log
        error = ended.row("a.bin")["error"]
        assert (error["code"], error["permanent"]) == ("no_progress", False)
        assert error["message"] == "the answer ended at byte 100000 and brought no new byte"
        assert f"failed: a.bin: {error['message']} [no_progress]\n" in ended.log
        assert "what to do: give a mirror in the list\n" in ended.log
        assert len(origin.requests) <= 8
        assert (bulk.output / "a.bin.part").read_bytes() == BODY[:100_000]


NET = {
    "dns": net.DNSLookupError("no such name"),
    "connect": net.TimeoutError("timed out"),
    "no_route": net.ConnectError(101, "Network is unreachable"),
    "refused": net.ConnectionRefusedError(),
    "lost": net.ConnectionLost(),
    "bad_answer": ValueError("what is this"),
    "bad_url": SchemeNotSupported("Unsupported scheme"),
    "proxy": NotImplementedError("Tunneling via HTTPS proxies is not supported"),
}


@pytest.mark.parametrize("code", NET)
def test_what_twisted_says_becomes_one_sentence(code: str) -> None:
    error = map_error(NET[code])
    check_error({"code": error.code, "message": error.message})
    assert error.code == code


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EROFS, "read_only"),
        (errno.EIO, "io_error"),
        (errno.EFBIG, "file_too_big"),
        (errno.EACCES, "no_permission"),
        (errno.EPERM, "no_permission"),
        (errno.ELOOP, "not_regular"),
        (errno.ENOTDIR, "not_regular"),
        (errno.EISDIR, "not_regular"),
        (errno.EMFILE, "too_many_files"),
        (errno.ENFILE, "too_many_files"),
        (errno.ENAMETOOLONG, "disk_error"),
    ],
)
def test_what_the_disk_says_becomes_one_sentence_with_the_file(number: int, code: str) -> None:
    error = disk_error(OSError(number, os.strerror(number)), "/out/a.bin")
    check_error({"code": error.code, "message": error.message})
    assert error.code == code
    assert error.message.startswith("/out/a.bin: ")


@pytest.mark.parametrize(
    ("arguments", "settings", "sentence"),
    [
        ({"list": ""}, {}, "which list? Say -a list=FILE (`name url` a line), for example -a list=input/tmp"),
        ({"list": "no.txt"}, {}, "no.txt: no such list; give the path of a file with a line `name url` for each file"),
        ({"skip": "2"}, {}, "argument skip=2: 0 reads the first line too, 1 ignores it"),
        ({"bad_lines": "x"}, {}, "argument bad_lines=x: stop ends before the first byte, skip goes on"),
        ({"verify": "yes"}, {}, "argument verify=yes: 0 downloads, 1 re-reads the output instead"),
        ({"limit": "ten"}, {}, "argument limit=ten: must be a number of entries"),
        ({"limit": "0"}, {}, "limit=0: write 1 or more"),
        ({"sums": "no"}, {}, "no: no such checksum file (No such file or directory); correct its path"),
        ({}, {"BULK_DIGEST": "md4"}, "setting BULK_DIGEST='md4': must be one of auto, sha256, off"),
        ({}, {"BULK_CHECKPOINT": "x"}, "setting BULK_CHECKPOINT='x': not a size; write for example 64K, 16M, 1.5G"),
        ({}, {"BULK_STALL_TIMEOUT": -1}, "setting BULK_STALL_TIMEOUT=-1: seconds cannot be negative"),
        ({}, {"BULK_RETRY_TIMES": "-1"}, "setting BULK_RETRY_TIMES='-1': a count cannot be negative"),
        ({}, {"BULK_REQUIRE_PROOF": "perhaps"}, "setting BULK_REQUIRE_PROOF='perhaps': neither true nor false"),
        ({}, {"BULK_STALL_TIME": 1}, "unknown setting BULK_STALL_TIME; did you mean BULK_STALL_TIMEOUT?"),
        ({}, {"BULK_FRESH_URL": "no.such"}, "setting BULK_FRESH_URL=no.such: No module named 'no'"),
        ({}, {"BULK_FRESH_URL": "sys.path"}, "setting BULK_FRESH_URL=sys.path: not a function"),
    ],
    ids=lambda value: " ".join(f"{key}={each}" for key, each in value.items()) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused_in_one_sentence_before_anything_is_made(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, str],
    settings: dict[str, object],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("name url\na.bin http://example.org/a.bin\n")
    with pytest.raises(UsageError) as caught:
        prepare({"list": "list.txt", **arguments}, settings)
    assert (caught.value.code, str(caught.value)) == ("usage", sentence)
    assert os.listdir(tmp_path) == ["list.txt"]


def test_a_mistyped_argument_is_shown_with_all_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"^unknown argument ouput; did you mean output\?\nknown arguments: list, output"
    ):
        prepare({"list": "x", "ouput": "y"}, {})


def test_a_second_run_in_one_folder_is_told_who_is_there(bulk: Bulk) -> None:
    with FaultyOrigin({"a.bin": lambda exchange: exchange.stall()}, resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        first = bulk.start(settings={"BULK_HEADERS_TIMEOUT": "60"})
        origin.wait_until(lambda origin: bool(origin.requests))
        ended = bulk.run()
        first.send_signal(signal.SIGTERM)
        bulk.wait(first)
    assert ended.status == 1
    (line,) = ended.log.splitlines()
    sentence = line.removeprefix("bulkspider: ")
    check_error({"code": "folder_in_use", "message": sentence})
    assert f"pid {first.pid} on {socket.gethostname()}" in sentence


# --- Bugs ---------------------------------------------------------------------------------------------------------------


BUGGY = """
from scrapy import signals

class Buggy:
    @classmethod
    def from_crawler(cls, crawler):
        it = cls()
        crawler.signals.connect(it.scraped, signals.item_scraped)
        return it

    def scraped(self):
        return {}["no such key"]
"""


def test_what_nobody_has_foreseen_is_one_sentence_and_all_of_it_at_debug(bulk: Bulk) -> None:
    (bulk.folder / "buggy.py").write_text(BUGGY)
    buggy = {"EXTENSIONS": '{"buggy.Buggy": 0, "scrapy.extensions.logstats.LogStats": null}'}
    with FaultyOrigin({"a.bin": good}, resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings=buggy)  # which holds that there is no traceback
        (line,) = [line for line in ended.log.splitlines() if "KeyError" in line]
        assert "KeyError: 'no such key' in buggy.py:12; this should not happen: run it again with -L DEBUG" in line
        process = bulk.start("-L", "DEBUG", settings=buggy)
        assert "Traceback" in bulk.wait(process).log


# --- None is forgotten ---------------------------------------------------------------------------------------------------


def test_every_code_has_its_sentence() -> None:
    assert set(SAYS) == {*TABLE, "http_NNN"}, "write the sentence of the new code into messages.py"


def test_the_documents_say_what_the_table_says() -> None:
    told = {code: [cell.replace("`", "") for cell in cells] for code, cells in table("Error codes").items()}
    meaning, what_to_do = told.pop("http_NNN")
    assert told == {code: [row.meaning.replace("`", ""), cure(code).replace("`", "")] for code, row in TABLE.items()}
    assert {row.meaning for row in HTTP.values()} == {meaning}
    named = re.findall(r"(\d{3})(?: to (\d{3}))?", what_to_do)
    for number in HTTP:
        is_named = any(int(first) <= number <= int(last or first) for first, last in named)
        assert is_named == bool(cure(f"http_{number}")), number


def test_what_follows_from_a_code_that_has_no_row_of_its_own() -> None:
    assert {look_up(f"http_{status}").kind for status in (200, 418, 499)} == {Kind.FINAL}
    assert {look_up(f"http_{status}").kind for status in (501, 505, 999)} == {Kind.RETRY}
    assert look_up("no such code").kind is Kind.FINAL


def test_scrapy_has_the_exceptions_of_the_table() -> None:
    for row in (*TABLE.values(), *HTTP.values()):
        assert issubclass(getattr(scrapy.exceptions, row.exception), Exception)


def test_every_code_is_provoked_by_some_test() -> None:
    """In this file, or named by a test that a crawl of its own ends with it."""
    words: set[str] = set()
    for path in TESTS.rglob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        own = [node for node in tree.body if isinstance(node, ast.Assign) and path.name == Path(__file__).name]
        passed = {inner for node in own if node.targets[0].id == "BY_SENTENCE" for inner in ast.walk(node)}
        words |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node not in passed}
    told = "\n".join(word for word in words if isinstance(word, str))
    missing = {code for code in SAYS if code not in words and BY_SENTENCE.get(code, code + "\0") not in told}
    assert not missing - {"http_NNN"}, "write a test that ends with the new code"


def test_no_code_is_made_that_nobody_can_look_up() -> None:
    """Also the bare words that are passed on to an error by position; `test_readme` compares keywords."""
    assert {code for code, _ in errors.DISK_CODES.values()} < set(SAYS)
    assert BulkError("x").code not in SAYS
    assert all(re.fullmatch(r"[a-z_]+|http_NNN", code) for code in SAYS)
