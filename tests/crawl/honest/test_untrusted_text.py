"""What a list or a server writes is shown escaped, wherever it is shown: nothing of it moves a cursor or hides."""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkspider.entries.redaction import RedactingFilter
from bulkspider.text import visible, visible_lines
from support.crawl import Bulk
from support.faulty import Exchange, FaultyOrigin, Resource, correct, good, make_body
from support.shell import Shell

BODY = make_body(20_000)
# ESC, a C1 control, NUL, a bidirectional control, a zero-width character.
NASTY = "\x1b]0;owned\x07\x9b31m\x00\u202egpj.exe\u200b"
ESCAPED = r"\x1b]0;owned\x07\x9b31m\x00\u202egpj.exe\u200b"
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def assert_safe(text: str) -> None:
    found = UNSAFE.search(text)
    assert found is None, f"{found[0]!r} in {text[max(0, found.start() - 200) : found.end() + 80]!r}"


def hostile(exchange: Exchange) -> None:
    """A reason, a type and a redirect that a terminal would obey; only what latin-1 can say."""
    if exchange.path == "/reason":
        exchange.send_status(404, reason="gone \x1b[2J\x9b2J")
        exchange.header("Content-Length", 0)
        exchange.end_headers()
    elif exchange.path == "/type":
        reply = correct(exchange)
        reply.headers["Content-Type"] = "text/html\x1b[8m\x9b8m"
        exchange.answer(reply)
    elif exchange.path == "/etag":
        reply = correct(exchange)
        reply.headers |= {"ETag": '"\x1b[2J\x9bJ"', "Last-Modified": "never\x1b[2J\x85"}
        exchange.answer(reply)
    else:
        exchange.send_status(302)
        exchange.header("Location", "ftp://\x1b[2J.example.org/\x9b2J")
        exchange.header("Content-Length", 0)
        exchange.end_headers()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def origin() -> Iterator[FaultyOrigin]:
    with FaultyOrigin(default=hostile, resource=Resource(BODY)) as serving:
        serving.add("good", good, BODY)
        yield serving


def rows(origin: FaultyOrigin) -> str:
    entries = [
        {"name": "good.bin", "url": origin.url("good")},
        {"name": NASTY, "url": origin.url("good")},
        {"name": "a\nFORGED 2026-01-01 line.bin", "url": origin.url("good")},
        {"name": "x.bin", NASTY: "value", "url": origin.url("good")},
        {"name": "y.bin", "url": origin.url("good"), "size": NASTY},
        {"name": "z.bin", "url": f"{NASTY}://h/x"},
        *({"name": f"{what}.gz", "url": origin.url(what)} for what in ("reason", "type", "redirect", "etag")),
    ]
    return "".join(json.dumps(row) + "\n" for row in entries)


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_log_rows_and_page_of_a_run(shell: Shell, origin: FaultyOrigin, level: str) -> None:
    shell.write("list.jsonl", rows(origin))
    said = shell.bulk(
        *("list.jsonl", "-o", "out", "--bad-lines", "skip", "--report", "run.html", "-L", level),
        *("-O", "rows.jsonl", "-O", "rows.csv"),
    )
    assert said.status in (3, 4), said.log
    assert_safe(said.log)
    assert ESCAPED in said.log
    assert not re.search(r"^FORGED", said.log, re.MULTILINE)
    table = (shell.folder / "rows.csv").read_bytes().decode()
    assert_safe(table.replace("\r\n", "\n"))
    assert len(list(csv.reader(table.splitlines()))) == 11, "one line, one row"
    for line in (shell.folder / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert_safe(" ".join(map(str, [*row.values(), *(row["error"] or {}).values()])))
        assert row["path"] is None or row["status"] != "failed" or row["error"]["code"] != "bad_line"
    page = re.search(r'id="data">(.*?)</script>', (shell.folder / "run.html").read_text(), re.DOTALL)
    assert page is not None

    def look(value: object) -> None:
        if isinstance(value, str):
            assert_safe(value)
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            look(inner)

    look(json.loads(page[1]))
    assert ESCAPED.replace("\\", "\\\\") in page[1]


def test_a_dry_run_and_a_refused_list(shell: Shell, origin: FaultyOrigin) -> None:
    shell.write("list.jsonl", rows(origin))
    said = shell.bulk("list.jsonl", "-o", "out", "--bad-lines", "skip", "--dry-run")
    assert_safe(said.out + said.log)
    assert ESCAPED in said.out
    said = shell.bulk("list.jsonl", "-o", "out")
    assert said.status == 1
    assert_safe(said.out + said.log)
    assert ESCAPED in said.log
    said = shell.bulk(f"no{NASTY.replace(chr(0), '')}list", "-o", "out")
    assert said.status == 1
    assert_safe(said.out + said.log)


def test_names_and_errors_of_a_crawl_in_this_project(bulk: Bulk, origin: FaultyOrigin) -> None:
    bulk.list = bulk.folder / "list.jsonl"
    bulk.list.write_text(rows(origin))
    ended = bulk.run("-a", "bad_lines=skip")
    assert ended.status in (3, 4), ended.log
    assert_safe(ended.log)
    assert ended.row("good.bin")["status"] == "complete"


@given(st.text())
@settings(deadline=None)
def test_what_is_visible_is_safe_in_one_line_and_stays_so(text: str) -> None:
    shown = visible(text)
    assert_safe(shown)
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert visible(shown) == shown
    assert_safe(visible_lines(text))
    assert visible_lines(text).count("\n") == text.count("\n")


@pytest.mark.parametrize(
    "text", ["plain", "日本語　ファイル", "e\u0301", "❤\ufe0f", "葛\U000e0100", "naïve\u00a0x", "\ue000"]
)
def test_what_harms_nobody_is_shown_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_colours_of_a_projects_own_loggers_stay(caplog: pytest.LogCaptureFixture) -> None:
    def shown(name: str) -> str:
        record = logging.LogRecord(name, logging.INFO, "", 1, "\x1b[32m%s\x1b[0m", ("ok",), None)
        RedactingFilter().filter(record)
        return record.getMessage()

    assert shown("shop.prices") == "\x1b[32mok\x1b[0m"
    assert shown("scrapy.core.scraper") == r"\x1b[32mok\x1b[0m"
    assert shown("bulkspider.spiders.bulk") == r"\x1b[32mok\x1b[0m"
