"""`scrapy bulk` end to end: what its words mean, what it refuses, and what a dry run tells."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from scrapy.cmdline import execute
from scrapy.settings import Settings

from bulkspider.commands.bulk import Command
from support.faults import (
    busy,
    chunked_answer,
    gzip_encoded,
    html_instead,
    ignores_range,
    needs_header,
    range_416,
    redirect_to,
    silent,
    status,
)
from support.faulty import Exchange, FaultyOrigin, good, make_body, not_found
from support.project import Project
from support.shell import Shell

BODY = make_body(40_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def origin() -> Iterator[FaultyOrigin]:
    with FaultyOrigin(default=good, resource=BODY) as serving:
        yield serving


# --- Help and mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["--dry-run", "--status"])
def test_a_reader_that_ends_first_is_no_error(shell: Shell, origin: FaultyOrigin, what: str) -> None:
    """As `| head`: what is printed meets a closed pipe."""
    shell.write("list.txt", f"name url\na.bin {origin.url('a.bin')}\n")
    process = shell.start("list.txt", what)
    assert process.stdout is not None
    process.stdout.close()
    _, log = process.communicate(timeout=60)
    assert b"Error" not in log, log
    assert process.returncode in (0, 3), log


def test_the_help_teaches(shell: Shell) -> None:
    said = shell.bulk("-h")
    assert (said.status, said.log) == (0, "")
    assert max(map(len, said.out.splitlines())) <= 80
    for heading in ("what to fetch:", "how fast:", "instead of downloading:", "examples:", "exit status:"):
        assert heading in said.out
    for option in ("--dry-run", "--verify", "--sums", "--match", "--rate-per-host", "--format NAME", "-O FILE"):
        assert option in said.out
    assert "-o FILE" not in said.out, "Scrapy's meaning of -o"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "which list? `scrapy bulk LIST`, with a `name URL` line per file; -h tells all"),
        (["one.txt", "two.txt"], "one list at a time, not 2: one.txt two.txt"),
        (["one.txt", "https://example.org/x"], "either one list, or URLs; not both"),
        (["--format", "aria2", "https://example.org/x"], "--format is for lists; leave it out with URLs"),
        (["one.txt", "--dryrun"], "unknown option --dryrun; did you mean --dry-run?"),
        (["one.txt", "-j", "²"], "argument -j/--jobs: '²' is no number from 1 on"),
        (["one.txt", "-j", "0"], "argument -j/--jobs: '0' is no number from 1 on"),
        (["one.txt", "--limit", "ten"], "argument --limit: 'ten' is no number from 1 on"),
        (["one.txt", "--rate", "25:00,1M"], "argument --rate: '25:00,1M': there is no time 25:00"),
        # As with curl, and with wget.
        (["-O", "https://u:s3cret@h/a.gz"], "-O https://***@h/a.gz: it writes a report, a row for each file"),
        (["https://h/a.gz", "-O", "a.gz"], "-O a.gz: it writes a report, a row for each file"),
        (["one.txt", "--rate", "fast"], "argument --rate: 'fast': not a size; write for example 64K, 16M, 1.5G"),
        (
            ["one.txt", "--rate", "08:00,512"],
            "argument --rate: '08:00,512': a rate needs its unit, as in 512K or 512M; 'off' is no limit",
        ),
        (["one.txt", "-q", "-v"], "-q is -L ERROR, -v is -L DEBUG: give one of them"),
        (["one.txt", "--quiet", "-L", "INFO"], "-q is -L ERROR, -v is -L DEBUG: give one of them"),
        (["one.txt", "--skip", "2"], "argument --skip: invalid choice"),
        (["one.txt", "--dry-run", "-O", "x.jsonl"], "--dry-run writes nothing: leave out -O and --report"),
        (["one.txt", "-a", "limit"], "Invalid -a value, use -a NAME=VALUE"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_ends_with_2_and_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process: Scrapy's own entrance, which makes no crawler before the words fit."""
    with pytest.raises(SystemExit) as ended:
        execute(["scrapy", "bulk", *arguments], Settings())
    assert ended.value.code == 2
    told = capsys.readouterr().err.splitlines()
    assert told[:2] == ["usage: scrapy bulk [options] LIST", "       scrapy bulk [options] URL [URL ...]"]
    (last,) = told[2:]
    assert f"error: {sentence}" in last


# --- Options are arguments and settings under other names ---------------------------------------------------------------


def test_options_set_what_they_are_another_name_of() -> None:
    command = Command()
    command.settings = Settings()
    command.settings.setdict(command.default_settings, priority="command")
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    command.add_options(parser)
    words = "list -j 3 --segments 4 --order smallest --rate 2M --rate-per-host 1M --match a* --limit 5 --skip 0 --bad-lines skip --sums S --verify --report r.html --format csv --base https://h/ --names path --cut 2 --columns name,url --no-color -q"
    options, rest = parser.parse_known_args([*words.split(), "-o", "DIR"])
    command.process_options(rest, options)
    expected = {"CONCURRENT_REQUESTS": 3, "CONCURRENT_REQUESTS_PER_DOMAIN": 3}
    expected |= {"BULK_SEGMENTS": 4, "BULK_ORDER": "smallest"}
    expected |= {"LOG_LEVEL": "ERROR", "BULK_PROGRESS": "off", "BULK_COLOR": False}
    expected |= {"BULK_RATE_LIMIT": "2M", "BULK_RATE_LIMIT_PER_HOST": "1M"}
    assert {name: command.settings[name] for name in expected} == expected
    arguments, given = command.wanted
    assert arguments == {
        "list": "list",
        "output": "DIR",
        "match": "a*",
        "limit": "5",
        "skip": "0",
        "bad_lines": "skip",
        "sums": "S",
        "verify": "1",
        "report": "r.html",
        "format": "csv",
        "base": "https://h/",
        "names": "path",
        "cut": "2",
        "columns": "name,url",
    }
    assert given.urls == ()


def test_quiet_is_failures_alone_and_verbose_is_all(shell: Shell, origin: FaultyOrigin) -> None:
    shell.write("list.txt", f"first\na.bin {origin.url('a.bin')}\ngone.bin {origin.url('gone.bin')}\n")
    origin.add("gone.bin", not_found)
    said = shell.bulk("list.txt", "-q")
    assert (said.status, said.out) == (4, "")
    (line,) = said.log.splitlines()
    assert line.endswith(" ERROR: failed gone.bin: the origin answered 404 [http_404]")
    said = shell.bulk("list.txt", "--verbose")
    assert " DEBUG: " in said.log
    assert "2 entries: 1 complete, 1 failed" in said.log


def test_a_bad_list_leaves_no_trace(shell: Shell, origin: FaultyOrigin) -> None:
    shell.write("-list.txt", f"name url\n../a.bin {origin.url('a.bin')}\n")
    said = shell.bulk("--", "-list.txt")
    assert said.status == 1
    assert "-list.txt:2: name '../a.bin' would leave the output folder" in said.log
    assert os.listdir(shell.folder) == ["-list.txt"]


def test_options_choose_entries_and_hashes(shell: Shell, origin: FaultyOrigin) -> None:
    lines = [f"a.bin {origin.url('a.bin')}", "bad", f"b.bin {origin.url('b.bin')}", f"c.txt {origin.url('c.txt')}"]
    shell.write("list.txt", "\n".join(lines))
    shell.write("SHA256SUMS", f"{SHA256}  a.bin\n{'0' * 64}  b.bin\n")
    chosen = ["list.txt", "-o", "out", "--skip", "0", "--bad-lines", "skip", "--match", "*.bin"]
    said = shell.bulk(*chosen, "--sums", "SHA256SUMS")
    assert said.status == 4, said.log
    assert shell.files().keys() - {"list.txt", "SHA256SUMS"} == {
        "out/a.bin",
        "out/b.bin.part.old",
        "out/b.bin.part.old.json",
    }
    assert "1 verified, 2 failed" in said.log
    said = shell.bulk(*chosen, "--limit", "1", "--verify")
    assert "1 verified" in said.log
    assert len(origin.requests_for("a.bin")) == 1


def test_in_somebodys_project_its_settings_stand(tmp_path: Path, origin: FaultyOrigin) -> None:
    project = Project(tmp_path / "shop")
    (project.folder / "list.txt").write_text(f"name url\na.bin {origin.url('a.bin')}\n")
    project.scrapy("bulk", "list.txt", "-o", "out", USER_AGENT="theirs", DOWNLOAD_DELAY=0.5, BULK_DIGEST="sha256")
    assert (project.folder / "out" / "a.bin").read_bytes() == BODY
    assert [request.headers["user-agent"] for request in origin.requests] == ["theirs"]
    ledger = json.loads((project.folder / "out" / ".bulkspider" / "ledger.jsonl").read_text())
    assert ledger["digests"] == {"sha256": SHA256}


# --- URLs --------------------------------------------------------------------------------------------------------------


def test_urls_in_the_place_of_a_list(shell: Shell, origin: FaultyOrigin) -> None:
    odd = origin.url("with%20a%20blank.bin") + "?x=1#fragment"
    said = shell.bulk(origin.url("a.bin"), odd, origin.url("a.bin"))
    assert said.status == 0, said.log
    assert shell.files() == {"output/urls/a.bin": BODY, "output/urls/with a blank.bin": BODY}
    said = shell.bulk("-o", ".", origin.url("b.bin"))
    assert said.status == 0, said.log
    assert shell.files()["b.bin"] == BODY
    assert len(origin.requests) == 3


def test_urls_that_cannot_be_fetched_are_all_named(shell: Shell, origin: FaultyOrigin) -> None:
    one, two, folder = origin.url("1/a.bin"), origin.url("2/a.bin"), origin.url("folder/")
    said = shell.bulk(one, two, folder, "ftp://example.org/x", "http://user:secret@example.org:0/x")
    assert said.status == 1
    assert said.log.splitlines() == [
        f"bulkspider: {two}: its name 'a.bin' is that of {one}; give it a name of its own in a list: scrapy bulk LIST",
        f"{folder}: the URL ends in '/' and gives the file no name; give it a name of its own in a list: scrapy bulk LIST; if it is a folder, --recurse fetches the files that its index links to",
        "ftp://example.org/x: URL scheme 'ftp' is not supported; give an http or https URL",
        "http://***@example.org:0/x: the URL has no valid host or port; correct what stands between // and the next /",
    ]
    assert shell.files(hidden=True) == {}
    assert origin.connections == 0


# --- aria2's input files -----------------------------------------------------------------------------------------------


def test_an_input_file_of_aria2(shell: Shell) -> None:
    secret = needs_header("authorization", "Basic bWU6c2VzYW1l")
    with FaultyOrigin({"gone.bin": status(404), "private.bin": secret}, default=good, resource=BODY) as origin:
        url = origin.url
        text = f"""\
# what aria2c -i reads
{url("gone.bin")}\t{url("mirror.bin")}\tftp://example.org/gone.bin
  out=sub/first.bin
  checksum=sha-256={SHA256}
  header=X-One: 1
  header=X-Two: a: b
  referer=http://example.org/page
  user-agent=mine
  split=4
  max-connection-per-server=2
  continue=true
  gid=0123456789abcdef

{url("plain.bin")}
\tdir=below/here
  max-tries=5
{url("private.bin")}
  http-user=me
  http-passwd=sesame
  max-tries=5
  checksum=sha-384=00
{url("abs.bin")}
  dir={shell.folder}/output/downloads/abs
"""
        said = shell.bulk("-", "--format", "aria2", "-o", "output/downloads", stdin=gzip.compress(text.encode()))
        assert said.status == 0, said.log
        names = ("sub/first.bin", "below/here/plain.bin", "private.bin", "abs/abs.bin")
        assert shell.files() == {f"output/downloads/{name}": BODY for name in names}
        (request,) = origin.requests_for("gone.bin")
        wanted = {"x-one": "1", "x-two": "a: b", "referer": "http://example.org/page", "user-agent": "mine"}
        assert {name: request.headers[name] for name in wanted} == wanted
        assert "stdin:16 (and 1 more line): option max-tries has no effect; -s BULK_RETRY_TIMES=N" in said.log
        assert "stdin:21: option checksum: sha-384 cannot be compared here" in said.log
        assert "stdin:2: mirror ftp://… is passed over" in said.log
        assert "1 verified, 3 complete" in said.log or "3 complete, 1 verified" in said.log
        rows = [
            json.loads(line)
            for line in (shell.folder / "output/downloads/.bulkspider/list").read_text().split("\n")
            if line.startswith("{")
        ]
        assert [row["segments"] for row in rows] == [2]
        assert "sesame" not in said.log


def test_what_aria2_can_and_we_cannot_is_named_with_its_line(shell: Shell, origin: FaultyOrigin) -> None:
    url = origin.url("a.bin")
    path = shell.write(
        "downloads.txt",
        f"""\
  out=before.bin
{url}
  out=../b.bin
{url}
  chekcsum=md5=0
{url}
  checksum=sha-256=00
magnet:?xt=urn:btih:0
{url}
  dir=/etc
{url}
  header=no colon
{url}
  split=many
{url}
  out=good.bin
{url}?other
  out=good.bin
""",
    )
    said = shell.bulk("downloads.txt", "--format", "aria2")
    assert said.status == 1
    name = path.name
    assert said.log.splitlines() == [
        f"bulkspider: {name}: 9 bad lines, so nothing was begun:",
        f"{name}:1: an option before the first URI; write it below the URI's line",
        f"{name}:3: option out: name '../b.bin' would leave the output folder; rename it in the list",
        f"{name}:5: option 'chekcsum' is not known; did you mean checksum?",
        f"{name}:7: option checksum: sha256 '00' is not a sha256; write its 64 hex digits",
        f"{name}:8: 'magnet:?xt=urn:btih:0' is no http or https URI; bulkspider fetches these two only; begin an option's line with a blank",
        f"{name}:10: option dir='/etc' is outside of the output folder; name by -o a folder that holds it",
        f"{name}:12: option header: the header has no colon; write header=NAME: VALUE",
        f"{name}:14: option split: 'many' is no number of connections; write 1 or more",
        f"{name}:17: name 'good.bin' is that of line 15, with another URL; rename one of the two",
    ]
    assert set(shell.files(hidden=True)) == {"downloads.txt"}

    said = shell.bulk("downloads.txt", "--format", "aria2", "--bad-lines", "skip")
    assert said.status == 4, said.log
    assert shell.files()["output/downloads/good.bin"] == BODY


def test_links_of_an_aria2_file_are_renewed_from_the_edited_file(shell: Shell) -> None:
    """The name is that of `out=`, the new link that of the same entry, not of one whose URL only looks like it."""
    name = shell.folder / "downloads.txt"
    fresh = False

    def expires(exchange) -> None:
        nonlocal fresh
        if "new" in exchange.query or exchange.path.endswith("other.bin"):
            good(exchange)
            return
        fresh = True
        name.write_text(text.replace("?old", "?new"))
        status(403)(exchange)

    with FaultyOrigin(default=expires, resource=BODY) as origin:
        text = f"{origin.url('other.bin')}\n  out=x.bin\n{origin.url('x.bin')}?old\n  out=y.bin\n"
        name.write_text(text)
        said = shell.bulk("downloads.txt", "--format", "aria2", "-o", "out")
        assert said.status == 0, said.log
        assert fresh
        assert shell.files()["out/y.bin"] == BODY


# --- Dry run -----------------------------------------------------------------------------------------------------------


def test_a_dry_run_tells_what_a_run_would_meet_and_writes_nothing(shell: Shell) -> None:
    behaviours = {
        "plain.bin": good,
        "part.bin": good,
        "done.bin": good,
        "foreign.bin": good,
        "holes.bin": good,
        "no-ranges.bin": ignores_range(),
        "chunked.bin": chunked_answer(),
        "encoded.bin": gzip_encoded(),
        "empty.bin": (good, b""),
        "odd.bin": range_416(len(BODY)),
        "gone.bin": status(404),
        "busy.bin": busy(503, times=None),
        "login.bin": html_instead(),
        "resized.bin": good,
    }
    with FaultyOrigin(behaviours, resource=BODY) as origin:
        lines = ["name url", *(f"{name} {origin.url(name)}" for name in behaviours)]
        lines[-1] += " size=7"
        shell.write("first.txt", f"name url\ndone.bin {origin.url('done.bin')}")
        assert shell.bulk("first.txt", "-o", "out").status == 0
        shell.write("out/part.bin.part", BODY[:30_000])
        shell.write("out/part.bin.part.json", json.dumps({"written": [[0, 10_000], [20_000, 30_000]]}))
        shell.write("out/foreign.bin", BODY[:5_000])
        shell.write("out/holes.bin", BODY[:5_000])
        shell.write("out/holes.bin.aria2", "control")
        shell.write("list.txt", "\n".join(lines))
        before, asked = shell.files(hidden=True), len(origin.requests)

        said = shell.bulk("list.txt", "-o", "out", "--dry-run", "-j", "3")
        assert said.status == 3, said.out + said.log
        assert shell.files(hidden=True) == before, "a dry run writes nothing"
        told = said.out.splitlines()
        assert told[0] == "list.txt: 14 entries: 9 to fetch, 1 done already, 4 would fail"
        # 40,000 bytes each: plain, part less 20,000, foreign less 5,000, holes, no-ranges, chunked, odd.
        assert (
            told[1]
            == "to fetch: 249.0 KiB and 1 file of a size that the server does not tell; 63.5 KiB more are on disk already"
        )
        assert told[2].startswith(f"room in {shell.folder}/out: ")
        assert told[3] == "hashes to compare with: none"
        assert told[4] == "begun by another tool, and compared with the server first: 2"
        site = origin.url("").removeprefix("http://").rstrip("/")
        assert told[5].startswith(f"  {site}: 9 files, 249.0 KiB; NO RANGES for 2 of them")
        assert told[6:-1] == [
            "list.txt:12: gone.bin: the origin answered 404 [http_404]",
            "list.txt:13: busy.bin: the origin answered 503 [http_503]",
            "list.txt:14: login.bin: the origin sent a page (text/html) where a file was expected (login, error or landing page?); the server said: Please log in [html]",
            "list.txt:15: resized.bin: the origin offers 40000 bytes, the list says 7 [size_mismatch]",
            "  what to do about http_404: correct the URL in the list",
            "  what to do about http_503: run the same again later",
            "  what to do about html: log in or renew the link; a name that ends in .html takes pages",
            "  what to do about size_mismatch: correct the size in the list, or ask the server's owner",
        ]
        assert told[-1].endswith("(exit status 3)")
        new = origin.requests[asked:]
        assert len(new) == 13, "one request for each, none for what is done"
        assert {request.range for request in new} == {(0, 0)}
        assert all(request.method == "GET" for request in new)


def test_a_dry_run_goes_the_ways_of_a_run(shell: Shell) -> None:
    """To a mirror, when its URL fails for good or the origin is dead; a file that only its hash can prove is not read."""
    with FaultyOrigin() as dead:
        gone = dead.url("")
    behaviours = {"old.bin": good, "a.bin": status(404), "a2.bin": good, "b2.bin": good, "c.bin": status(404)}
    with FaultyOrigin(behaviours, resource=BODY) as origin:
        digest = hashlib.sha256(BODY).hexdigest()
        shell.write("first.txt", f"name url\nold.bin {origin.url('old.bin')} sha256={digest}")
        assert shell.bulk("first.txt", "-o", "out").status == 0
        os.utime(shell.folder / "out/old.bin", (1, 1))
        lines = [
            f"old.bin {origin.url('old.bin')} sha256={digest}",
            f"a.bin {origin.url('a.bin')} mirror={origin.url('a2.bin')}",
            f"b.bin {gone}b.bin mirror={origin.url('b2.bin')}",
            f"c.bin {origin.url('c.bin')} mirror={gone}c.bin",
        ]
        shell.write("list.txt", "\n".join(["name url", *lines]))
        before, asked = shell.files(hidden=True), len(origin.requests)
        said = shell.bulk("list.txt", "-o", "out", "--dry-run")
        assert said.status == 3, said.out + said.log
        assert "4 entries: 2 to fetch, 1 done already, 1 would fail" in said.out
        assert "hashed first: 1" in said.out
        assert "c.bin: the connection was refused [refused]" in said.out
        site = origin.url("").removeprefix("http://").rstrip("/")
        assert f"  {site}: 2 files, " in said.out, "told of the host that gives them"
        assert shell.files(hidden=True) == before
        assert sorted(request.path for request in origin.requests[asked:]) == ["/a.bin", "/a2.bin", "/b2.bin", "/c.bin"]


@pytest.mark.parametrize(
    ("text", "options", "exit_status", "last"),
    [
        ("a.bin {a}", [], 0, "a run can succeed (exit status 0)"),
        ("gone.bin {gone}", [], 4, "for good, and get the rest (exit status 4)"),
        ("a.bin {a}\nbad", ["--bad-lines", "skip"], 4, "for good, and get the rest (exit status 4)"),
        ("huge.bin {huge}", [], 3, "what is in its way may pass (exit status 3)"),
        ("a.bin {a}", ["--sums", "{gone}"], 1, "a run would not begin, for the reason above (exit status 1)"),
        ("a.bin {a}", ["-o", "list.txt"], 1, "a run would not begin, for the reason above (exit status 1)"),
    ],
    ids=["good", "404", "bad line", "no room", "no checksum file", "no folder"],
)
def test_a_dry_run_ends_with_the_status_a_run_would_have(
    shell: Shell, text: str, options: list[str], exit_status: int, last: str
) -> None:
    huge = status(206, {"Content-Range": f"bytes 0-0/{1 << 60}"}, body=b"x")
    with FaultyOrigin({"a.bin": good, "huge.bin": huge}, resource=BODY) as origin:
        urls = {"a": origin.url("a.bin"), "gone": origin.url("gone"), "huge": origin.url("huge.bin")}
        shell.write("list.txt", "name url\n" + text.format(**urls))
        said = shell.bulk("list.txt", "--dry-run", *(option.format(**urls) for option in options))
        assert said.status == exit_status, said.out + said.log
        assert said.out.rstrip().endswith(last)
        assert set(shell.files(hidden=True)) == {"list.txt"}


def test_a_bad_list_ends_a_dry_run_before_the_first_question(shell: Shell, origin: FaultyOrigin) -> None:
    shell.write("list.txt", f"name url\n../a.bin {origin.url('a.bin')}\n")
    said = shell.bulk("list.txt", "--dry-run")
    assert (said.status, said.out) == (1, "")
    assert "list.txt:2: name '../a.bin' would leave the output folder" in said.log
    assert "choose one of the two" in shell.bulk(origin.url("a.bin"), "--dry-run", "--verify").log
    assert origin.connections == 0
    assert set(shell.files(hidden=True)) == {"list.txt"}


def test_a_dry_run_tells_of_a_run_that_holds_the_folder(shell: Shell) -> None:
    with FaultyOrigin({"a.bin": silent(), "b.bin": good}, resource=BODY) as origin:
        running = shell.start("-o", "out", origin.url("a.bin"), "-s", "BULK_HEADERS_TIMEOUT=60")
        origin.wait_until(lambda origin: bool(origin.requests))
        said = shell.bulk("-o", "out", origin.url("b.bin"), "--dry-run")
        assert said.status == 1, said.out + said.log
        assert f"another bulkspider (pid {running.pid} on " in said.out
        assert "1 to fetch" in said.out, "everything else is told as well"
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=30)
        assert running.returncode == 130


def test_a_dry_run_shows_secrets_to_their_own_origin_only(shell: Shell) -> None:
    with FaultyOrigin(default=good, resource=BODY) as elsewhere:
        away = redirect_to(elsewhere.url("b.bin"))
        with FaultyOrigin({"a.bin": needs_header("x-key", "sesame"), "b.bin": away}, resource=BODY) as origin:
            user = origin.url("b.bin").replace("http://", "http://me:hush-hush@")
            shell.write(
                "list.txt",
                f"name url\na.bin {origin.url('a.bin')} header:X-Key=sesame\nb.bin {user} header:X-Key=sesame\n",
            )
            said = shell.bulk("list.txt", "--dry-run")
            assert said.status == 0, said.out + said.log
            assert "2 to fetch" in said.out
            (first,) = origin.requests_for("b.bin")
            assert first.headers["authorization"] == "Basic bWU6aHVzaC1odXNo"
            (second,) = elsewhere.requests
            assert second.headers.keys().isdisjoint({"authorization", "x-key", "referer"})
            assert "hush-hush" not in said.out + said.log


def test_a_dead_origin_is_not_asked_for_each_of_its_files(shell: Shell, origin: FaultyOrigin) -> None:
    with FaultyOrigin() as dead:
        gone = dead.url("")
    lines = [f"{n}.bin {gone}{n}.bin" for n in range(200)]
    shell.write("list.txt", "\n".join(["name url", *lines, f"a.bin {origin.url('a.bin')}"]))
    said = shell.bulk("list.txt", "--dry-run", "-j", "2")
    assert said.status == 3
    assert "201 entries: 1 to fetch, 200 would fail" in said.out
    site = gone.removeprefix("http://").rstrip("/")
    assert f"{site}: the connection was refused; 19" in said.out, said.out
    assert len(said.out.splitlines()) < 20


def test_ctrl_c_ends_a_dry_run_at_once(shell: Shell) -> None:
    with FaultyOrigin({"a.bin": good, "b.bin": silent()}, resource=BODY) as origin:
        process = shell.start(origin.url("a.bin"), origin.url("b.bin"), "--dry-run", "-s", "BULK_HEADERS_TIMEOUT=600")
        origin.wait_until(lambda origin: len(origin.requests) == 2)
        process.send_signal(signal.SIGINT)
        out, log = process.communicate(timeout=30)
        assert process.returncode == 130, log
        assert b"1 to fetch, 1 not asked" in out
        assert b"stopped before all was asked" in out
        assert b"Traceback" not in log


def test_a_dry_run_in_a_project_writes_none_of_its_feeds(tmp_path: Path, origin: FaultyOrigin) -> None:
    project = Project(tmp_path / "shop")
    (project.folder / "list.txt").write_text(f"name url\na.bin {origin.url('a.bin')}\n")
    before = {path for path in project.folder.rglob("*") if "__pycache__" not in path.parts}
    settings = {"FEEDS": {"found.json": {"format": "json"}}, "JOBDIR": "job"}
    log = project.scrapy("bulk", "list.txt", "--dry-run", **settings)
    assert "a run can succeed" in log
    after = {path for path in project.folder.rglob("*") if "__pycache__" not in path.parts}
    assert after == before


# --- The first line, and files that are no lists ----------------------------------------------------------------------


def test_an_entry_in_the_first_line_is_told_first_with_the_option_of_this_command(
    shell: Shell, origin: FaultyOrigin
) -> None:
    shell.write("files.txt", f"a.bin {origin.url('a.bin')}\nb.bin {origin.url('b.bin')}\n")
    first = "line 1 of files.txt was IGNORED, as the first line of a list always is, but it is an entry: 'a.bin'"
    said = shell.bulk("files.txt", "-o", "out", "--dry-run")
    assert said.status == 0, said.log
    assert said.out.startswith(first)
    assert said.out.splitlines()[0].endswith("--skip 0 reads it")
    said = shell.bulk("files.txt", "-o", "out", "--report", "run.html")
    assert said.status == 0, said.log
    assert said.log.count(first) == 2
    assert said.log.count("--skip 0 reads it") == 2
    assert "-a skip=0" not in said.log
    page = (shell.folder / "run.html").read_text()
    assert f'"ignored":"{first}' in page
    assert set(shell.files()) == {"files.txt", "run.html", "out/b.bin"}
    again = shell.bulk("files.txt", "-o", "out", "--skip", "0")
    assert again.status == 0
    assert "IGNORED" not in again.log
    only = shell.write("only.txt", f"a.bin {origin.url('a.bin')}\n")
    said = shell.bulk(str(only), "-o", "other")
    assert said.status == 1
    assert "the list has no entry; line 1 of" in said.log
    assert "--skip 0 reads it" in said.log


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "get.sh",
            "#!/bin/sh\nwget -nc URL\n",
            "get.sh:2: this is a command (wget) of a script, not an entry; take the",
        ),
        ("get.sh", "#!/bin/sh\ncurl -LO 'URL'\n", "get.sh:2: this is a command (curl) of a script, not an entry"),
        ("a.csv", "name;url\na.bin;URL\n", "a.csv:1: the cells are separated by semicolons; separate them by commas"),
        ("a.csv", "Datei;Adresse\na.bin;URL\n", "a.csv:2: the cells are separated by semicolons"),
        ("a.txt", "files\nURL two.bin\n", "a.txt:2: 'two.bin' behind the URL is no key=value field"),
        (
            "a.txt",
            "files\nexample.org/f.bin\n",
            "a.txt:2: there is no URL in this line: 'example.org/f.bin' lacks https://",
        ),
        (
            "a.json",
            '{\n "files": [\n  {"link": "URL"}\n ]\n}\n',
            "a.json:1: this is a JSON document of an unknown form; wri",
        ),
        (
            "a.json",
            '[{"name": "a", "url": "URL"}]\n',
            "a.json:1: this is a JSON array, not JSON Lines; write JSON Lines",
        ),
        ("a.html", '<!doctype html>\n<a href="URL">a</a>\n', "a.html:1: this is an HTML or XML document, not a list"),
        ("a.txt", "files\na\u202egpj.exe URL\n", "a.txt:2: name 'a\\u202egpj.exe' holds a character that is not seen"),
        (
            "a.txt",
            "files\nURL%E2%80%8B.bin\n",
            "\\u200b.bin' holds a character that is not seen (U+200B ZERO WIDTH SPACE)",
        ),
    ],
)
def test_what_is_no_list_is_refused_with_the_line_and_what_to_do(
    shell: Shell, origin: FaultyOrigin, name: str, text: str, says: str
) -> None:
    shell.write(name, text.replace("URL", origin.url("a.bin")))
    said = shell.bulk(name)
    assert said.status == 1
    assert says in said.log
    assert said.log.count("; ") >= 1
    assert origin.requests == []
    assert set(shell.files(hidden=True)) == {name}


def test_the_script_is_turned_into_a_list_by_what_the_message_says(shell: Shell, origin: FaultyOrigin) -> None:
    urls = [origin.url(name) for name in ("a.bin", "b.bin", "c.bin?x=1&y=2")]
    shell.write("get.sh", f"#!/bin/sh\nwget -nc '{urls[0]}'\ncurl -LO \"{urls[1]}\"\nwget {urls[2]} -O c\n")
    said = shell.bulk("get.sh")
    recipe = re.search(r"take the URLs out of it: (.*)", said.log)
    assert recipe is not None
    command = recipe[1].replace("SCRIPT", "get.sh").replace("LIST", "list.txt")
    subprocess.run(["/bin/sh", "-c", command], cwd=shell.folder, check=True, timeout=30)
    said = shell.bulk("list.txt", "-o", "out")
    assert said.status == 0, said.log
    assert {name for name in shell.files() if name.startswith("out/")} == {"out/a.bin", "out/b.bin", "out/c.bin"}


def test_an_address_without_a_scheme_in_the_place_of_a_list(shell: Shell) -> None:
    said = shell.bulk("example.org/f.bin")
    assert said.status == 1
    assert "example.org/f.bin: no such list" in said.log
    assert "https://example.org/f.bin" in said.log


def test_a_dry_run_finds_out_what_hosts_want(shell: Shell) -> None:
    """Hosts that give large files in pieces only, pages to log in, tokens, and what known hosts ask for."""

    def bounded(exchange: Exchange) -> None:
        (status(400) if exchange.range is None or None in exchange.range else good)(exchange)

    (shell.folder / "hosts.toml").write_text('["127.0.0.3"]\nconnections = 2\nsource = "their terms"\n')
    large = make_body(3 << 20)
    one = FaultyOrigin({"a.bin": bounded, "b.bin": bounded}, resource=large, host="127.0.0.2")
    two = FaultyOrigin({"c.bin": good}, resource=large, host="127.0.0.3")
    three = FaultyOrigin({"login": html_instead()}, default=redirect_to("/login"), host="127.0.0.4")
    four = FaultyOrigin(default=status(401), host="127.0.0.5")
    with one, two, three, four:
        names = {"a.bin": one, "b.bin": one, "c.bin": two, "d.bin": three, "e.bin": three, "f.bin": four, "g.bin": four}
        shell.write("list.txt", "\n".join(["name url", *(f"{name} {at.url(name)}" for name, at in names.items())]))
        more = ("-s", "BULK_HOSTS=hosts.toml", "--contact", "me@example.org")
        said = shell.bulk("list.txt", "--dry-run", "-j", "1", *more)
        assert f"127.0.0.2:{one.port}: 2 files, 6.0 MiB; IN PIECES" in said.out
        assert f"127.0.0.3:{two.port}: 1 file, 3.0 MiB; asks for 2 requests at once (their terms)" in said.out
        assert f"127.0.0.4:{three.port}: 2 files, a page in the place of each (to log in?)" in said.out
        assert f"127.0.0.5:{four.port}: 2 files, only with a password or a token" in said.out
        assert [request.range for request in one.requests] == [(0, 0), None, (0, 0)], "that is found out once"
        assert all("me@example.org" in request.headers["user-agent"] for request in two.requests)
