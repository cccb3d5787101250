"""How far a list is (`--status`), what failed last time (`--failed`), and a report as list."""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from bulkspider.errors import UsageError
from bulkspider.failures import Failed, FailureJournal, load_failures, load_failures_since
from bulkspider.spiders.arguments.prepare import LockedOutput, prepare
from bulkspider.status.look import Status
from support.faults import in_turn, status, trickle
from support.faulty import FaultyOrigin, good, make_body
from support.shell import Shell

BODY = make_body(20_000)
KEYS = ["entries", "done", "failed", "left", "running", "waiting", "bytes_on_disk", "bytes_left"]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def told(shell: Shell, *arguments: str) -> tuple[int, dict[str, Any]]:
    said = shell.bulk(*arguments, "--status", "--json")
    return said.status, json.loads(said.out)


def test_what_is_done_left_and_failed_and_only_the_failed_again(shell: Shell) -> None:
    behaviours = {"a": good, "b": in_turn(status(404), good), "c": status(410)}
    with FaultyOrigin(behaviours, resource=BODY) as origin:
        lines = [f"{name} {origin.url(name)} size={len(BODY)}" for name in behaviours]
        shell.write("list.txt", "heading\n" + "\n".join(lines) + "\n")
        code, found = told(shell, "list.txt")
        assert (code, [found[key] for key in KEYS]) == (3, [3, 0, 0, 3, 0, [], 0, 3 * len(BODY)])
        assert shell.files(hidden=True).keys() == {"list.txt"}
        said = shell.bulk("list.txt", "--failed")
        assert (said.status, "nothing failed there last time" in said.log) == (1, True)

        assert shell.bulk("list.txt").status == 4
        asked = len(origin.requests)
        code, found = told(shell, "list.txt")
        assert (code, [found[key] for key in KEYS]) == (4, [3, 1, 2, 0, 0, [], len(BODY), 2 * len(BODY)])
        assert found["failed_by_code"] == {"http_404": 1, "http_410": 1}
        text = shell.bulk("list.txt", "--status").out
        assert "list.txt: 3 entries: 1 done, 2 failed, 0 left" in text
        assert "failed last time: 1 with http_404 (correct the URL in the list)" in text
        assert "no run works there now" in text
        assert len(origin.requests) == asked
        # For people: the lines as they are in the list.
        written = shell.folder / "output/list/.bulkspider/failed.list"
        assert written.read_text().splitlines()[1:] == lines[1:]
        assert stat.S_IMODE(written.stat().st_mode) == 0o600

        assert shell.bulk("list.txt", "--failed").status == 4
        assert sorted(request.path for request in origin.requests[asked:]) == ["/b", "/c"]
        assert written.read_text().splitlines()[1:] == lines[2:]
        asked = len(origin.requests)
        assert shell.bulk("output/list/.bulkspider/failed.list", "-o", "output/list").status == 4
        assert [request.path for request in origin.requests[asked:]] == ["/c"]
        origin.add("c", good)
        assert shell.bulk("list.txt").status == 0
        assert told(shell, "list.txt")[0] == 0
        assert not list((shell.folder / "output/list/.bulkspider").glob("failed*"))


def test_while_a_run_works(shell: Shell) -> None:
    with FaultyOrigin({"done": good, "slow": trickle(500)}, resource=BODY) as origin:
        shell.write("list.csv", f"name,url\ndone,{origin.url('done')}\nslow,{origin.url('slow')}\n")
        process = shell.start("list.csv", "-s", "BULK_SEGMENTS=1", "-s", "BULK_MIN_SPEED=0")
        live = shell.folder / "output/list/.bulkspider/status.json"
        origin.wait_until(lambda origin: any(r.bytes_sent > 1000 for r in origin.requests_for("slow")))
        code, found = told(shell, "list.csv")
        assert (code, found["entries"], found["done"], found["left"]) == (3, 2, 1, 1)
        assert found["is_running"] is True
        assert f"a run works there (pid {process.pid} on" in shell.bulk("list.csv", "--status").out
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
        assert not live.exists()
        code, found = told(shell, "list.csv")
        assert (code, found["is_running"], found["running"], found["left"]) == (3, False, 0, 1)
        assert len(BODY) < found["bytes_on_disk"] < 2 * len(BODY)


def test_what_failed_before_is_left_while_a_run_tries_it_again(shell: Shell) -> None:
    slow = in_turn(status(404), trickle(500))
    behaviours = {"again": slow, "fails": status(404), "twice": status(410), "not-now": status(404)}
    with FaultyOrigin(behaviours, resource=BODY) as origin:
        lines = [f"{name} {origin.url(name)}" for name in behaviours]
        shell.write("list.txt", "heading\n" + "\n".join(lines) + "\n")
        assert shell.bulk("list.txt").status == 4

        # Only some are tried again, and one of these by one that has not failed again yet.
        options = ("--match", "*[!w]", "--limit", "3", "-s", "BULK_SEGMENTS=1", "-s", "BULK_MIN_SPEED=0")
        process = shell.start("list.txt", *options)
        private = shell.folder / "output/list/.bulkspider"
        state = shell.folder / "output/list/again.part.json"
        told_again = 4 + 2
        origin.wait_until(lambda _: (private / "failed.jsonl").read_bytes().count(b'"name"') == told_again)
        origin.wait_until(lambda _: state.exists() and (private / "status.json").exists())
        code, found = told(shell, "list.txt")
        assert (code, found["left"], found["failed_by_code"]) == (3, 1, {"http_404": 2, "http_410": 1})
        # The server has said the size of what was begun.
        assert found["bytes_left"] == len(BODY) - found["bytes_on_disk"] > 0
        # Another list in the same folder is not what it tries again.
        shell.write("other.txt", "heading\n" + "\n".join(lines) + "\n")
        assert told(shell, "other.txt", "-o", "output/list")[1]["failed"] == 4
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        said = shell.bulk("list.txt", "--status").out
        assert "4 entries: 0 done, 4 failed, 0 left" in said
        assert "KiB, and 3 files of unknown size" in said


def test_a_run_of_the_list_of_failures_tries_them_again(shell: Shell) -> None:
    behaviours = {"first": good, "again": in_turn(status(404), trickle(500))}
    with FaultyOrigin(behaviours, resource=BODY) as origin:
        lines = [f"{name} {origin.url(name)}" for name in behaviours]
        shell.write("list.txt", "heading\n" + "\n".join(lines) + "\n")
        assert shell.bulk("list.txt").status == 4
        private = shell.folder / "output/list/.bulkspider"
        options = ("-o", "output/list", "--limit", "1", "-s", "BULK_SEGMENTS=1", "-s", "BULK_MIN_SPEED=0")
        process = shell.start(str(private / "failed.list"), *options)
        origin.wait_until(lambda origin: len(origin.requests_for("again")) == 2)
        origin.wait_until(lambda _: (private / "status.json").exists())
        code, found = told(shell, "list.txt")
        assert (code, found["failed"], found["left"], found["done"]) == (3, 0, 1, 1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def test_the_failed_of_a_list_with_columns_or_of_another_tool_and_reports_as_lists(shell: Shell) -> None:
    with FaultyOrigin({"d/a.bin": good, "d/b.bin": status(404)}, resource=BODY) as origin:
        header = "url,name,sha256"
        rows = [f"{origin.url('d/a.bin')},a.bin,", f'{origin.url("d/b.bin")},"b, c.bin",']
        shell.write("list.csv", "\n".join([header, *rows]) + "\n")
        assert shell.bulk("list.csv", "-O", "report.csv", "-o", "one").status == 4
        assert (shell.folder / "one/.bulkspider/failed.list").read_text().splitlines() == [header, rows[1]]

        shell.write("paths", "a.bin\nb.bin\n")
        options = ("--format", "paths", "--base", origin.url("d/"), "-o", "two")
        assert shell.bulk("paths", *options).status == 4
        (line,) = (shell.folder / "two/.bulkspider/failed.list").read_text().splitlines()[1:]
        assert json.loads(line) == {"name": "b.bin", "url": origin.url("d/b.bin")}
        origin.add("d/b.bin", good)
        assert shell.bulk("two/.bulkspider/failed.list", "-o", "two").status == 0

        said = shell.bulk("report.csv", "-o", "three")
        assert said.status == 0, said.log
        assert {path.name for path in (shell.folder / "three").glob("*bin")} == {"a.bin", "b, c.bin"}


def test_a_journal_that_was_torn_and_what_a_run_takes_back(tmp_path: Path) -> None:
    private = tmp_path / ".bulkspider"
    private.mkdir()
    assert load_failures(tmp_path) == {}
    fd = os.open(private, os.O_RDONLY)
    journal = FailureJournal(fd, None, {})
    journal.note("a", Failed("http_404", True))
    journal.note("b", Failed("lost", False))
    journal.note("c", None)
    journal.note("b", None)
    with (private / "failed.jsonl").open("a") as file:
        file.write('{"name": "torn", "co')
    assert load_failures(tmp_path) == {"a": Failed("http_404", True)}
    # What the next run adds does not become a part of the torn line.
    after = FailureJournal(fd, None, load_failures(tmp_path))
    after.note("e", Failed("lost", False))
    assert load_failures_since(tmp_path, after.start) == {"e": Failed("lost", False)}
    after.note("e", None)
    assert load_failures_since(tmp_path, after.start) == {}
    assert load_failures(tmp_path) == {"a": Failed("http_404", True)}
    after.close()
    journal.close()
    assert (private / "failed.jsonl").read_text() == '{"name": "a", "code": "http_404", "permanent": true}\n'
    (private / "failed.1-of-2.jsonl").write_text('{"name": "d", "code": "lost"}\n')
    assert load_failures(tmp_path).keys() == {"a", "d"}
    assert load_failures(tmp_path, "1-of-2").keys() == {"d"}
    again = FailureJournal(fd, None, load_failures(tmp_path))
    again.note("a", None)
    again.close()
    # It has taken over what the shards have left.
    assert [path.name for path in private.iterdir()] == ["failed.jsonl"]
    assert load_failures(tmp_path) == {"d": Failed("lost", False)}
    last = FailureJournal(fd, None, load_failures(tmp_path))
    last.note("d", None)
    last.close()
    assert not list(private.iterdir())
    os.close(fd)


def test_what_people_are_told() -> None:
    live = {"running": ["a"], "speed": 2048, "seconds_left": 40, "waiting": [["h:443", 3, "503"]]}
    status = Status("list", "/out", 2, left=2, unsized=2, holder="pid 1 on h", live=live)
    assert list(status.lines())[1:] == [
        "in /out: 0 B; to fetch: 2 files of unknown size",
        "a run works there (pid 1 on h): 1 file, 2.0 KiB/s, about 0:40 left",
        "waiting for h:443: 3 s (503)",
    ]
    assert list(Status("list", "/out").lines())[1] == "in /out: 0 B; to fetch: 0 B"


def test_the_keys_that_programs_count_on_come_first() -> None:
    assert list(json.loads(Status("list", "/out").to_json()))[: len(KEYS)] == KEYS


def test_what_does_not_fit(tmp_path: Path, shell: Shell) -> None:
    (tmp_path / "list").write_text("x\na https://example.org/a\n")
    with pytest.raises(UsageError, match="only `scrapy bulk LIST --status` can tell it"):
        prepare({"list": str(tmp_path / "list"), "status": "1"}, {})
    with pytest.raises(UsageError, match="argument failed=yes: 0 does all"):
        LockedOutput({"list": str(tmp_path / "list"), "failed": "yes"}, {})
    said = shell.bulk("list", "--json")
    assert (said.status, "--json belongs to --status" in said.log) == (2, True)
