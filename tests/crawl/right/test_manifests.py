"""`-a manifest=`: other programs find in it what is there, during a run, after it and after the next ones."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from support.crawl import Bulk
from support.faults import status
from support.faulty import FaultyOrigin, good, make_body
from support.holding import Holds

BODY = make_body()
SHA256 = hashlib.sha256(BODY).hexdigest()


def check_sums(path: Path) -> list[str]:
    """What `sha256sum` itself says of a file of sums."""
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", path.name], cwd=path.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(line.removesuffix(": OK") for line in done.stdout.splitlines())


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_sums_hold_all_that_is_there_and_hash_what_earlier_runs_proved_without(bulk: Bulk) -> None:
    with FaultyOrigin({"a.bin": good, "b.bin": good, "gone.bin": status(404)}) as origin:
        bulk.write_list({"old": origin.url("a.bin"), "two words/c": origin.url("b.bin")})
        assert bulk.run().status == 0
        (bulk.output / "SHA256SUMS").write_text("somebody's own")
        bulk.write_list({"new": origin.url("a.bin"), "gone": origin.url("gone.bin")})
        ended = bulk.run("-a", "manifest=SHA256SUMS")
        assert ended.status == 4
        assert check_sums(bulk.output / "SHA256SUMS") == ["new", "old", "two words/c"]
        assert (bulk.output / "SHA256SUMS.old").read_text() == "somebody's own"
        assert ended.row("new")["sha256"] == SHA256
        # Once: the ledger has the hash now.
        (bulk.output / "old").unlink()
        bulk.write_list({"new": origin.url("a.bin")})
        assert bulk.run("-a", "manifest=sha256sums").status == 0
        assert check_sums(bulk.output / "SHA256SUMS") == ["new", "two words/c"]
        lines = [json.loads(line) for line in (bulk.output / ".bulkspider/ledger.jsonl").read_text().splitlines()]
        assert sorted(line["name"] for line in lines) == ["new", "old", "old", "two words/c", "two words/c"]
        # It is our own: nothing is set aside for it.
        assert not (bulk.output / "SHA256SUMS.old.1").exists()
        assert len(origin.requests_for("a.bin")) == 2


def test_it_is_kept_current_and_a_stop_leaves_it_right(bulk: Bulk) -> None:
    holds = Holds(100_000, bulk.output / "b.part", needs=[bulk.output / "manifest.csv", bulk.output / "a"])
    with FaultyOrigin({"a.bin": good, "b.bin": holds.behaviour()}) as origin:
        bulk.write_list({"a": origin.url("a.bin"), "b": origin.url("b.bin")})
        process = bulk.start("-a", "manifest=csv", settings={"BULK_STALL_TIMEOUT": "60"})
        holds.wait()
        process.terminate()
        assert bulk.wait(process).status == 143
        rows = list(csv.reader((bulk.output / "manifest.csv").read_text().splitlines()))
        assert rows == [["name", "url", "size", "sha256"], ["a", origin.url("a.bin"), str(len(BODY)), SHA256]]
        # It is a list as well.
        bulk.list = bulk.output / "manifest.csv"
        assert bulk.run("-a", f"output={bulk.folder / 'copy'}").row("a")["status"] == "verified"


def test_a_bag(bulk: Bulk) -> None:
    with FaultyOrigin({"a.bin": good}) as origin:
        bulk.write_list({"data/a%.bin": origin.url("a.bin")})
        assert bulk.run("-a", "manifest=bagit").status == 0
        assert (bulk.output / "manifest-sha256.txt").read_text() == f"{SHA256}  data/a%25.bin\n"
        assert (bulk.output / "bagit.txt").read_text() == ("BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n")


def test_a_metalink_is_read_again(bulk: Bulk) -> None:
    with FaultyOrigin({"a.bin": good}) as origin:
        bulk.write_list({"a & b": origin.url("a.bin")})
        assert bulk.run("-a", "manifest=metalink").status == 0
        path = bulk.output / "files.meta4"
        (file,) = ElementTree.parse(path).getroot()
        assert file.get("name") == "a & b"
        bulk.list = path
        assert bulk.run("-a", f"output={bulk.folder / 'copy'}").row("a & b")["status"] == "verified"


@pytest.mark.parametrize(
    ("arguments", "name", "told"),
    [
        (["manifest=bagit"], "a.bin", "a.bin is not below data/"),
        (["manifest=SHA256SUM"], "a.bin", "did you mean SHA256SUMS?"),
        (["manifest=SHA256SUMS"], "SHA256SUMS", "the list has a file called SHA256SUMS"),
        (["manifest=csv", "-s", "BULK_DIGEST=off"], "a.bin", "leave out BULK_DIGEST=off"),
    ],
)
def test_refused_before_anything_is_begun(bulk: Bulk, arguments: list[str], name: str, told: str) -> None:
    bulk.write_list({name: "http://127.0.0.1:9/a"})
    ended = bulk.run("-a", *arguments)
    assert (ended.status, told in ended.log) == (1, True), ended.log
    assert not bulk.output.exists()
