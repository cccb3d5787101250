"""Proof through the front door: checksum files, BULK_DIGEST, and an output folder that is re-read (`-a verify=1`)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Bulk, Ended, sha256
from faults import digest_headers, in_turn, status
from faulty import FaultyOrigin, good, make_body

from bulkspider.entry import Entry
from bulkspider.sums import Sums

NAMES = ("a.bin", "deep/er/b.bin", "with some blanks.bin")
BODIES = {name: make_body(120_000 + n, name) for n, name in enumerate(NAMES)}
PATHS = {name: f"served/{n}.bin" for n, name in enumerate(NAMES)}


def origin_of_bodies() -> FaultyOrigin:
    return FaultyOrigin({PATHS[name]: (good, body) for name, body in BODIES.items()})


def sums_of(bodies: Mapping[str, bytes], algorithm: str = "sha256") -> str:
    return "".join(f"{hashlib.new(algorithm, body).hexdigest()}  {name}\n" for name, body in bodies.items())


def write_list(bulk: Bulk, origin: FaultyOrigin) -> None:
    bulk.write_list({name: origin.url(PATHS[name]) for name in NAMES})


def statuses(ended: Ended) -> dict[str, str]:
    return {row["name"]: row["status"] for row in ended.rows}


# --- Checksum files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "algorithm"), [("SHA256SUMS", "sha256"), ("MD5SUMS", "md5"), ("sums", "sha512")])
def test_a_checksum_file_verifies_names_with_folders_and_blanks(bulk: Bulk, file: str, algorithm: str) -> None:
    path = bulk.folder / file
    path.write_text(sums_of(BODIES, algorithm))
    with origin_of_bodies() as origin:
        write_list(bulk, origin)
        ended = bulk.run("-a", f"sums={path}")
        assert ended.status == 0, ended.log
        assert statuses(ended) == dict.fromkeys(NAMES, "verified")
        for name, body in BODIES.items():
            assert ended.file(name) == body
            assert ended.row(name)["checksums"] == {algorithm: hashlib.new(algorithm, body).hexdigest()}
        requests = len(origin.requests)
        again = bulk.run("-a", f"sums={path}")
        assert again.status == 0, again.log
        assert [row["already"] for row in again.rows] == [True] * 3
        assert len(origin.requests) == requests


def test_a_checksum_file_may_be_a_url_and_is_fetched_first_and_with_patience(bulk: Bulk) -> None:
    with origin_of_bodies() as origin:
        origin.add("SHA256SUMS", in_turn(status(503), good), sums_of(BODIES).encode())
        write_list(bulk, origin)
        ended = bulk.run("-a", f"sums={origin.url('SHA256SUMS')}")
        assert ended.status == 0, ended.log
        assert statuses(ended) == dict.fromkeys(NAMES, "verified")
        assert [request.path for request in origin.requests[:2]] == ["/SHA256SUMS"] * 2
        assert len(origin.requests) == 2 + len(NAMES)


def test_a_line_of_a_checksum_file_counts_for_the_last_part_of_name_or_url(bulk: Bulk) -> None:
    bodies = {"b.bin": BODIES["deep/er/b.bin"], "0.bin": BODIES["a.bin"]}
    (bulk.folder / "SHA256SUMS").write_text(sums_of(bodies))
    with origin_of_bodies() as origin:
        write_list(bulk, origin)
        ended = bulk.run("-a", f"sums={bulk.folder / 'SHA256SUMS'}")
    assert ended.status == 0, ended.log
    assert statuses(ended) == dict(zip(NAMES, ("verified", "verified", "complete"), strict=True))
    told = f"{bulk.folder / 'SHA256SUMS'} has no line for 1 of 3 entries: these were not compared with it"
    assert ended.log.count(told) == 1


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("run/1.gz", True),
        ("pub/run/1.gz", True),
        ("a/b.gz", True),
        ("1.gz", True),
        ("b.gz", True),
        ("2/run/1.gz", False),
    ],
)
def test_a_line_of_a_checksum_file_counts_for_the_end_of_a_path(line: str, found: bool) -> None:
    """The longest one: files of many folders are often called alike."""
    sums = Sums({line: ("md5", "right"), "run/1.gz.md5": ("md5", "wrong"), "gz": ("md5", "wrong")}, "MD5SUMS")
    entry = sums.add_to(Entry(line=2, name="a/b.gz", url="https://example.org/pub/run/1.gz?run/1.gz.md5"))
    assert entry.digests == ((("md5", "right"),) if found else ())
    both = Sums({"1.gz": ("md5", "of another folder"), "run/1.gz": ("md5", "right")}, "MD5SUMS")
    assert both.add_to(replace(entry, digests=())).digests == (("md5", "right"),)


@pytest.mark.parametrize("remote", [False, True], ids=["path", "url"])
def test_a_checksum_file_that_disagrees_is_a_mismatch_and_the_name_stays_free(bulk: Bulk, remote: bool) -> None:
    wrong = sums_of({**BODIES, "a.bin": b"another"})
    (bulk.folder / "SHA256SUMS").write_text(wrong)
    with origin_of_bodies() as origin:
        origin.add("SHA256SUMS", good, wrong.encode())
        write_list(bulk, origin)
        ended = bulk.run("-a", f"sums={origin.url('SHA256SUMS') if remote else bulk.folder / 'SHA256SUMS'}")
        assert ended.status == 4, ended.log
        assert statuses(ended) == dict(zip(NAMES, ("failed", "verified", "verified"), strict=True))
        error = ended.row("a.bin")["error"]
        assert (error["code"], error["permanent"]) == ("digest_mismatch", True)
        assert sha256(b"another") in error["message"]
        assert sha256(BODIES["a.bin"]) in error["message"]
        assert not (bulk.output / "a.bin").exists()
        assert (bulk.output / "a.bin.part.old").read_bytes() == BODIES["a.bin"]
        assert len(origin.requests_for(PATHS["a.bin"])) == 2, "begun anew once, and only once"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such checksum file"),
        (b"this is no checksum line\n", ":1: not a checksum line"),
        (b"# fine\n" + b"0" * 63 + b"  a.bin\n", ":2: "),
        (sums_of({"a.bin": b"1"}).encode() + sums_of({"a.bin": b"2"}).encode(), ":2: a second, different sha256"),
    ],
    ids=["missing", "no-line", "digits", "two-hashes"],
)
def test_a_bad_checksum_file_ends_before_anything_is_begun(bulk: Bulk, content: bytes | None, says: str) -> None:
    path = bulk.folder / "SHA256SUMS"
    if content is not None:
        path.write_bytes(content)
    with origin_of_bodies() as origin:
        write_list(bulk, origin)
        ended = bulk.run("-a", f"sums={path}")
        assert ended.status == 1, ended.log
        assert str(path) in ended.log
        assert says in ended.log
        assert origin.requests == []
        assert not bulk.output.exists()


@pytest.mark.parametrize(("code", "body"), [(404, b"no"), (200, b"<html>please log in</html>\n")], ids=["404", "page"])
def test_a_bad_checksum_url_ends_before_any_entry_is_begun(bulk: Bulk, code: int, body: bytes) -> None:
    with origin_of_bodies() as origin:
        origin.add("SHA256SUMS", status(code, body=body))
        write_list(bulk, origin)
        ended = bulk.run("-a", f"sums={origin.url('SHA256SUMS?token=s3cret')}")
        assert ended.status == 1, ended.log
        assert "the checksum file" in ended.log
        assert "/SHA256SUMS" in ended.log
        assert "s3cret" not in ended.log
        assert {request.path for request in origin.requests} == {"/SHA256SUMS"}
        assert ended.rows == []
        assert [path.name for path in bulk.output.iterdir()] == [".bulkspider"]


# --- BULK_DIGEST ------------------------------------------------------------------------------------------------------


def test_bulk_digest_says_what_is_hashed(bulk: Bulk) -> None:
    body = BODIES["a.bin"]
    md5 = hashlib.md5(body).hexdigest()
    with FaultyOrigin(default=good, resource=body) as origin:
        lines = [f"plain.bin {origin.url('plain.bin')}", f"known.bin {origin.url('known.bin')} md5={md5}"]

        def rows(policy: str) -> list[dict[str, Any]]:
            bulk.output = bulk.folder / policy
            bulk.write_list(lines, header="ignored")
            ended = bulk.run(settings={"BULK_DIGEST": policy})
            assert ended.status == 0, ended.log
            return [ended.row("plain.bin"), ended.row("known.bin")]

        plain, known = rows("auto")
        assert (plain["status"], plain["sha256"], plain["checksums"]) == ("complete", None, {})
        assert (known["status"], known["checksums"]) == ("verified", {"md5": md5})

        plain, known = rows("sha256")
        assert (plain["status"], plain["sha256"]) == ("complete", sha256(body)), "nobody else vouched for this hash"
        assert plain["checksums"] == {"sha256": sha256(body)}
        assert (known["status"], known["checksums"]) == ("verified", {"md5": md5, "sha256": sha256(body)})

        # What is switched off is not promised: neither hashed nor verified.
        lines[1] = f"known.bin {origin.url('known.bin')} md5={'0' * 32}"
        plain, known = rows("off")
        assert (plain["status"], plain["checksums"]) == ("complete", {})
        assert (known["status"], known["checksums"], known["sha256"]) == ("complete", {}, None)


def spoil(path: Path) -> None:
    """Changes a byte and neither size nor time: only who reads the file can notice."""
    before = path.stat()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_file_is_hashed_once_and_not_by_the_next_runs(bulk: Bulk) -> None:
    body = BODIES["a.bin"]
    with FaultyOrigin(default=good, resource=body) as origin:
        bulk.write_list([f"{n}.bin {origin.url(f'{n}.bin')} sha256={sha256(body)}" for n in range(3)], header="ignored")
        assert bulk.run().status == 0
        for n in range(3):
            spoil(bulk.output / f"{n}.bin")
        requests = len(origin.requests)
        again = bulk.run()
        assert again.status == 0, again.log
        assert [(row["status"], row["already"]) for row in again.rows] == [("verified", True)] * 3
        assert len(origin.requests) == requests
        # Whoever wants to know what is really on disk asks for it.
        verified = bulk.run("-a", "verify=1")
        assert verified.status == 3, verified.log
        assert {row["error"]["code"] for row in verified.rows} == {"digest_mismatch"}


def test_hashes_that_come_later_are_compared_once_without_a_request(bulk: Bulk) -> None:
    with origin_of_bodies() as origin:
        write_list(bulk, origin)
        assert bulk.run().status == 0
        requests = len(origin.requests)
        (bulk.folder / "SHA256SUMS").write_text(sums_of(BODIES))
        sums = ("-a", f"sums={bulk.folder / 'SHA256SUMS'}")
        later = bulk.run(*sums)
        assert later.status == 0, later.log
        assert [(row["status"], row["already"]) for row in later.rows] == [("verified", True)] * 3
        for name in NAMES:
            spoil(bulk.output / name)
        assert [row["already"] for row in bulk.run(*sums).rows] == [True] * 3
        assert len(origin.requests) == requests


# --- An output folder, re-read ----------------------------------------------------------------------------------------


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
