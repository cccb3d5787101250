"""An output folder that is read again (`-a verify=1`): nobody is asked, and every file is told."""

from __future__ import annotations

import hashlib
import json
import os

from support.crawl import Bulk, Ended, sha256
from support.faults import digest_headers
from support.faulty import FaultyOrigin, good, make_body
from support.ondisk import spoil

NAMES = ("a.bin", "deep/er/b.bin", "with some blanks.bin")
BODIES = {name: make_body(120_000 + n, name) for n, name in enumerate(NAMES)}
PATHS = {name: f"served/{n}.bin" for n, name in enumerate(NAMES)}


def write_list(bulk: Bulk, origin: FaultyOrigin) -> None:
    bulk.write_list({name: origin.url(PATHS[name]) for name in NAMES})


def statuses(ended: Ended) -> dict[str, str]:
    return {row["name"]: row["status"] for row in ended.rows}


def test_verify_reads_everything_again_and_asks_nobody(bulk: Bulk) -> None:
    body = make_body(200_000)
    names = ("hashed.bin", "sub/told.bin", "sized.bin", "spoiled.bin", "short.bin", "sub/gone.bin", "part.bin")
    told = digest_headers("Repr-Digest", right=True)
    with FaultyOrigin({"told.bin": told}, default=good, resource=body) as origin:
        fields = {"hashed.bin": f" sha256={sha256(body)}", "spoiled.bin": f" sha256={sha256(body)}"}
        lines = [f"{name} {origin.url(name.rpartition('/')[2])}{fields.get(name, '')}" for name in names]
        bulk.write_list(lines, header="ignored")
        assert bulk.run().status == 0
        spoil(bulk.output / "spoiled.bin")
        spoiled = (bulk.output / "spoiled.bin").read_bytes()
        os.truncate(bulk.output / "short.bin", 150_000)
        (bulk.output / "sub" / "gone.bin").unlink()
        (bulk.output / "part.bin").rename(bulk.output / "part.bin.part")
        requests = len(origin.requests)

        ended = bulk.run("-a", "verify=1")
        assert ended.status == 3, ended.log
        assert len(origin.requests) == requests
        found = {
            row["name"]: (row["status"], row["error"] and row["error"]["code"], row["flags"]) for row in ended.rows
        }
        assert found == {
            "hashed.bin": ("verified", None, []),
            "sub/told.bin": ("verified", None, []),
            "sized.bin": ("complete", None, ["size-only"]),
            "spoiled.bin": ("failed", "digest_mismatch", []),
            "short.bin": ("failed", "digest_mismatch", []),
            "sub/gone.bin": ("failed", "missing", []),
            "part.bin": ("failed", "missing", []),
        }
        assert not any(row["error"]["permanent"] for row in ended.rows if row["error"])
        assert ended.row("hashed.bin")["checksums"] == {"sha256": sha256(body)}
        assert "what to do" not in ended.log, "it is the same for all, and said at the end"
        assert ended.log.endswith("to fetch what is missing or was refused, run the same without verify=1\n")
        assert (bulk.output / "spoiled.bin.bad").read_bytes() == spoiled
        assert (bulk.output / "short.bin.bad").read_bytes() == body[:150_000]
        assert (bulk.output / "part.bin.part").read_bytes() == body
        for name in ("spoiled.bin", "short.bin", "sub/gone.bin", "part.bin"):
            assert not (bulk.output / name).exists()
            assert f"failed: {name}" in ended.log

        # Running without it mends what is broken, and nothing else.
        mended = bulk.run()
        assert mended.status == 0, mended.log
        assert all(mended.file(name) == body for name in names)
        asked = {request.path for request in origin.requests[requests:]}
        assert asked == {"/spoiled.bin", "/short.bin", "/gone.bin", "/part.bin"}
        requests = len(origin.requests)
        proven = bulk.run("-a", "verify=1")
        assert proven.status == 0, proven.log
        assert set(statuses(proven).values()) == {"verified", "complete"}
        assert len(origin.requests) == requests


def test_verify_without_a_hash_does_not_prove_a_file_that_was_changed(bulk: Bulk) -> None:
    body = make_body(50_000)
    with FaultyOrigin(default=good, resource=body) as origin:
        bulk.write_list({name: origin.url(name) for name in ("changed.bin", "same.bin")})
        assert bulk.run().status == 0
        (bulk.output / "changed.bin").write_bytes(b"x" + body[1:])
        ended = bulk.run("-a", "verify=1")
        assert ended.status == 0, ended.log
        assert {row["name"]: row["flags"] for row in ended.rows} == {
            "changed.bin": ["size-only", "touched"],
            "same.bin": ["size-only"],
        }
        assert "2 files have no known hash: only their sizes were compared" in ended.log
        assert "1 of them was changed since it was fetched; a run without verify compares it" in ended.log
        requests = len(origin.requests)
        mended = bulk.run()
        assert mended.file("changed.bin") == body
        assert {request.path for request in origin.requests[requests:]} == {"/changed.bin"}


def test_verify_needs_no_ledger_when_the_list_knows(bulk: Bulk) -> None:
    """As after a copy to another disk: hidden folders are easily left behind, and so are times."""
    body = make_body(50_000)
    files = {"hashed.bin": body, "sized.bin": body, "unknown.bin": body, "wrong.bin": body, "long.bin": body + b"x"}
    fields = {"hashed.bin": f"md5={hashlib.md5(body).hexdigest()}", "sized.bin": "size=50000", "unknown.bin": ""}
    fields |= {"wrong.bin": f"sha256={sha256(b'')}", "long.bin": "size=50000"}
    bulk.output.mkdir()
    for name, data in files.items():
        (bulk.output / name).write_bytes(data)
    bulk.write_list([f"{name} http://nowhere.invalid/{name} {fields[name]}" for name in files], header="ignored")
    ended = bulk.run("-a", "verify=1")
    assert ended.status == 3, ended.log
    assert statuses(ended) == {
        "hashed.bin": "verified",
        "sized.bin": "complete",
        "unknown.bin": "unproven",
        "wrong.bin": "failed",
        "long.bin": "failed",
    }
    assert (bulk.output / "wrong.bin.bad").read_bytes() == body
    assert (bulk.output / "long.bin.bad").read_bytes() == body + b"x"


def test_verify_of_an_empty_folder_makes_nothing(bulk: Bulk) -> None:
    bulk.write_list({"a.bin": "http://nowhere.invalid/a", "sub/b.bin": "http://nowhere.invalid/b"})
    ended = bulk.run("-a", "verify=1")
    assert ended.status == 3, ended.log
    assert [row["error"]["code"] for row in ended.rows] == ["missing", "missing"]
    assert [path.name for path in bulk.output.iterdir()] == [".bulkspider"]


def test_verify_does_not_read_what_is_no_file(bulk: Bulk) -> None:
    bulk.write_list({name: f"http://nowhere.invalid/{name}" for name in ("link", "fifo", "folder")})
    bulk.output.mkdir()
    (bulk.folder / "secret").write_bytes(b"secret")
    (bulk.output / "link").symlink_to(bulk.folder / "secret")
    os.mkfifo(bulk.output / "fifo")
    (bulk.output / "folder").mkdir()
    ended = bulk.run("-a", "verify=1", timeout=30)
    assert ended.status == 3, ended.log
    assert {row["name"]: row["error"]["code"] for row in ended.rows} == dict.fromkeys(
        ("link", "fifo", "folder"), "not_regular"
    )
    assert (bulk.output / "link").is_symlink()


def test_verify_writes_what_it_found_into_the_report_and_no_secret(bulk: Bulk) -> None:
    with FaultyOrigin(default=good, resource=BODIES["a.bin"]) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin?X-Amz-Signature=s3cret")})
        assert bulk.run().status == 0
        ended = bulk.run("-a", "verify=1")
    assert "s3cret" not in ended.log
    assert "s3cret" not in json.dumps(ended.rows)
