"""`--then`: every proven file is handed to a command, at least once, and what the ledger says of it holds for later runs."""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest

from support.crawl import Bulk, kill, sha256
from support.faults import close_delimited, status
from support.faulty import FaultyOrigin, good, make_body
from support.ondisk import wait_for
from support.project import stat
from support.shell import Shell

BODY = make_body()


def shell(script: str, *fields: str) -> str:
    """A command that runs a script of the shell, with the fields as its arguments."""
    return shlex.join(["sh", "-c", script, "sh", *fields])


def handed(bulk: Bulk) -> list[str]:
    path = bulk.folder / "handed"
    return path.read_text().splitlines() if path.exists() else []


def in_ledger(bulk: Bulk, name: str) -> list[str | None]:
    lines = [json.loads(line) for line in (bulk.output / ".bulkspider/ledger.jsonl").read_text().splitlines()]
    return [line.get("handed_on") for line in lines if line["name"] == name]


def told(bulk: Bulk) -> tuple[int, int, dict[str, int], int]:
    """What `--status` says: the exit status, how many are done, what failed, and the bytes on the disk."""
    said = Shell(bulk.folder).bulk(str(bulk.list), "-o", str(bulk.output), "--status", "--json")
    found = json.loads(said.out)
    return said.status, found["done"], found["failed_by_code"], found["bytes_on_disk"]


def told_of_handed_on(bulk: Bulk) -> tuple[int, str]:
    """How many are handed on as `--status` says it to programs, and its first line for people, without the list."""
    shell = Shell(bulk.folder)
    found = json.loads(shell.bulk(str(bulk.list), "-o", str(bulk.output), "--status", "--json").out)
    said = shell.bulk(str(bulk.list), "-o", str(bulk.output), "--status").out
    return found["handed_on"], said.splitlines()[0].partition(": ")[2]


def test_fields_are_one_word_each_and_no_shell_sees_them(bulk: Bulk) -> None:
    command = shell(
        'printf "%s|" "$@" >>../handed; echo >>../handed',
        "{path}",
        "{name}",
        "{url}",
        "{sha256}",
        "{size}",
        "{other} {",
    )
    name = "two  words/$(rm -rf *);'\"x"
    with FaultyOrigin({"a.bin": good, "b.bin": close_delimited(provable=False)}) as origin:
        url = origin.url("a.bin?X-Amz-Signature=secret")
        bulk.write_list([json.dumps({"name": name, "url": url}), json.dumps({"name": "b", "url": origin.url("b.bin")})])
        bulk.list = bulk.list.rename(bulk.folder / "list.jsonl")
        bulk.list.write_text("\n".join(bulk.list.read_text().splitlines()[1:]) + "\n")
        ended = bulk.run("-a", f"then={command}")
        # What is unproven is not handed on.
        assert ended.status == 5
        path = f"{bulk.output}/{name}"
        shown = url.replace("secret", "***")
        assert handed(bulk) == [f"{path}|{name}|{shown}|{sha256(BODY)}|{len(BODY)}|{{other}} {{|"]
        assert ended.row(name)["flags"] == ["handed-on"]
        assert in_ledger(bulk, name) == [None, "begun", "done"]
        # Once is enough.
        assert bulk.run("-a", f"then={command}").row(name)["flags"] == ["handed-on"]
        assert len(handed(bulk)) == 1


def test_its_failure_is_the_rows_and_the_next_run_hands_on_without_fetching(bulk: Bulk) -> None:
    with FaultyOrigin({"a.bin": good, "gone.bin": status(404)}) as origin:
        bulk.write_list({"a": origin.url("a.bin"), "gone": origin.url("gone.bin")})
        ended = bulk.run("-a", "then=" + shell("echo $1 >>../handed; echo quota exceeded >&2; exit 7", "{name}"))
        assert (ended.status, handed(bulk)) == (3, ["a", "a", "a"])
        error = ended.row("a")["error"]
        assert (error["code"], error["permanent"]) == ("then_failed", False)
        assert error["message"] == "the command sh failed with exit status 7: quota exceeded"
        assert (bulk.output / "a").read_bytes() == BODY
        assert told(bulk) == (3, 0, {"then_failed": 1, "http_404": 1}, len(BODY))
        ended = bulk.run("-a", "then=./no-such-program {path}", "-a", "failed=1")
        assert "no-such-program cannot be run: No such file or directory" in ended.row("a")["error"]["message"]
        ended = bulk.run("-a", "then=true")
        assert (ended.row("a")["status"], ended.row("a")["already"]) == ("complete", True)
        assert told(bulk) == (4, 1, {"http_404": 1}, len(BODY))
        assert len(origin.requests_for("a.bin")) == 1


def test_what_was_moved_is_not_fetched_again_and_verify_counts_it(bulk: Bulk) -> None:
    far = bulk.folder / "far"
    far.mkdir()
    with FaultyOrigin({"a.bin": good, "b.bin": good}) as origin:
        bulk.write_list({"a": origin.url("a.bin"), "kept": origin.url("b.bin")})
        command = shell('test "$2" = kept || mv "$1" "../far/$2"', "{path}", "{name}")
        ended = bulk.run("-a", f"then={command}", "-a", "then_moves=1")
        assert ended.status == 0
        assert "kept: the command has succeeded and the file is still there" in ended.log
        assert (far / "a").read_bytes() == (bulk.output / "kept").read_bytes() == BODY
        assert not (bulk.output / "a").exists()
        assert in_ledger(bulk, "a") == [None, "begun", "moved"]
        assert told(bulk) == (0, 2, {}, len(BODY))
        # Also without the command, and by the list's other hashes as far as they are known.
        ended = bulk.run()
        assert [(row["status"], row["already"]) for row in ended.rows] == [("complete", True)] * 2
        ended = bulk.run("-a", "verify=1", "-s", "LOG_LEVEL=INFO", "-s", "STATS_DUMP=True")
        assert ended.status == 0
        assert (ended.row("a")["status"], ended.row("a")["flags"]) == ("complete", ["handed-on"])
        # It was not read, so it is counted as what it is, for people and for programs.
        assert "2 entries: 1 complete, 1 handed on\n" in ended.log
        assert [stat(ended.log, f"bulk/files/{each}") for each in ("complete", "handed-on")] == [1, 1]
        assert told_of_handed_on(bulk) == (1, "2 entries: 2 done (1 handed on), 0 left")
        assert len(origin.requests) == 2
        # Another size in the list is another file.
        bulk.write_list([f"a {origin.url('a.bin')} size={len(BODY) + 1}"])
        assert bulk.run("-a", "verify=1").row("a")["error"]["code"] == "missing"


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_command_under_way_ends_with_a_stop_and_is_waited_for_after_a_kill(bulk: Bulk, how: str) -> None:
    far = bulk.folder / "far"
    far.mkdir()
    script = 'echo begun >>../handed; trap "exit 9" TERM; while ! test -e ../go; do sleep 0.05; done; mv "$1" ../far/'
    arguments = ("-a", "then=" + shell(script, "{path}"), "-a", "then_moves=1")
    with FaultyOrigin({"a.bin": good}) as origin:
        bulk.write_list({"a": origin.url("a.bin")})
        process = bulk.start(*arguments)
        wait_for(lambda: handed(bulk) == ["begun"])
        if how == "stopped":
            process.send_signal(signal.SIGTERM)
            ended = bulk.wait(process)
            assert (ended.status, [row["status"] for row in ended.rows]) == (143, ["interrupted"]), ended.log
            (bulk.folder / "go").touch()
            assert bulk.run(*arguments).status == 0
            assert len(origin.requests) == 1
        else:
            kill(process)
            process.communicate()
            # The command lives on; a second one must not begin beside it.
            process = bulk.start(*arguments)
            said = ""
            assert process.stdout is not None
            while "still at work" not in said:
                said += process.stdout.readline()
            assert len(handed(bulk)) == 1
            (bulk.folder / "go").touch()
            assert bulk.wait(process).status == 0
            # What became of the first one nobody knows: it is fetched and handed on again.
            assert len(origin.requests) == 2
        assert len(handed(bulk)) == 2
        assert (far / "a").read_bytes() == BODY
        assert in_ledger(bulk, "a")[-1] == "moved"


def test_no_more_at_once_than_asked_for_and_all_joined(bulk: Bulk) -> None:
    paths = {f"{number}.bin": good for number in range(6)}
    script = 'echo + >>../handed; mkdir ../"$1"; sleep 0.2; rmdir ../"$1"; echo - >>../handed'
    with FaultyOrigin(paths) as origin:
        bulk.write_list({path: origin.url(path) for path in paths})
        settings: dict[str, Any] = {"BULK_THEN": shell(script, "{name}"), "BULK_THEN_AT_ONCE": "3"}
        assert bulk.run(settings=settings).status == 0
    running = most = 0
    for line in handed(bulk):
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert (len(handed(bulk)), running) == (12, 0)
    assert 1 <= most <= 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-a", "then=mv {pth} x"], "unknown field {pth}; did you mean path?"),
        (["-a", "then=echo 'a"], "cannot be split into words"),
        (["-a", "then=no-such-program {path}"], "the command 'no-such-program' is not there"),
        (["-a", "then=/no/such/program"], "the command '/no/such/program' is not there"),
        (["-a", "then_moves=1"], "Say --then COMMAND"),
        (["-s", "BULK_STAGE_MAX=1G", "-a", "then=true"], "say --then-moves"),
        (["-a", "then=echo {sha256}", "-s", "BULK_DIGEST=off"], "leave out BULK_DIGEST=off"),
        (["-s", "BULK_THEN_AT_ONCE=0"], "must be at least 1"),
    ],
)
def test_refused_before_anything_is_begun(bulk: Bulk, arguments: list[str], told: str) -> None:
    bulk.write_list({"a": "http://127.0.0.1:9/a"})
    ended = bulk.run(*arguments)
    assert (ended.status, told in ended.log) == (1, True), ended.log
    assert not Path(bulk.output).exists()
