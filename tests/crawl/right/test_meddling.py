"""Another program touches our files while they are fetched: nothing wrong is published, nothing of its own is harmed."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from support.crawl import Bulk
from support.faults import in_turn, no_validators
from support.faulty import TRUST, Behaviour, Exchange, FaultyOrigin, correct, good, make_body
from support.holding import is_settled, size_of, stall_until

KIB = 1024
MIB = 1024 * KIB
UNHURRIED = {"BULK_STALL_TIMEOUT": "60", "BULK_HEADERS_TIMEOUT": "60"}
PUNCH_HOLE = 3  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE


def meddled(length: int, part: Path, meddle: Callable[[Path], None]) -> Behaviour:
    """`length` bytes; once they are on disk somebody meddles with the part; then the rest."""

    def behaviour(exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[:length])
        stall_until(exchange, lambda: is_settled(part, length))
        meddle(part)
        exchange.send(reply.body[length:])

    return in_turn(behaviour, good)


def punch(path: Path, first: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    with path.open("r+b") as file:
        if libc.fallocate(file.fileno(), PUNCH_HOLE, first, length) != 0:
            pytest.skip("this file system punches no holes")


def truncated(part: Path) -> None:
    os.truncate(part, 1000)


def truncated_a_little(part: Path) -> None:
    os.truncate(part, size_of(part) - 100)


def emptied(part: Path) -> None:
    os.truncate(part, 0)


def punched(part: Path) -> None:
    punch(part, 64 * KIB, 128 * KIB)


def overwritten(part: Path) -> None:
    with part.open("r+b") as file:
        file.seek(70_000)
        file.write(b"somebody else's bytes")


def extended(part: Path) -> None:
    with part.open("ab") as file:
        file.write(bytes(20 * MIB))


def replaced(part: Path) -> None:
    other = part.with_name("other")
    other.write_bytes(make_body(size_of(part), "somebody else's"))
    other.rename(part)


def removed(part: Path) -> None:
    part.unlink()


MEDDLERS = [truncated, truncated_a_little, emptied, punched, overwritten, extended, replaced, removed]


@pytest.mark.parametrize("meddle", MEDDLERS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("mover", ["reactor", "thread", "tls"])
def test_a_part_that_somebody_changes_during_the_transfer_is_fetched_again(
    bulk: Bulk, meddle: Callable[[Path], None], mover: str
) -> None:
    size, length = (900_000, 600_000) if mover == "reactor" else (12 * MIB, 6 * MIB)
    body, part = make_body(size), bulk.output / "a.bin.part"
    tls = mover == "tls"
    with FaultyOrigin({"a.bin": (meddled(length, part, meddle), body)}, tls=tls) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings={**UNHURRIED, **(TRUST if tls else {}), "BULK_SEGMENTS": "1"})
        assert ended.file("a.bin") == body
        assert ended.status == 0, ended.log
        assert ended.row("a.bin")["status"] == "complete"
        assert len(origin.requests) == 2
    left = {path.name for path in bulk.output.iterdir()} - {".bulkspider", "a.bin"}
    assert left == ({"a.bin.old"} if meddle is replaced else set())


def test_a_part_that_was_hashed_before_somebody_changes_it_is_not_verified(bulk: Bulk) -> None:
    """The hash is computed beside the transfer, of bytes that are not there any more."""
    import hashlib

    body, part = make_body(9 * MIB), bulk.output / "a.bin.part"
    with FaultyOrigin({"a.bin": (meddled(8 * MIB, part, overwritten), body)}) as origin:
        bulk.write_list([f"a.bin {origin.url('a.bin')} sha256={hashlib.sha256(body).hexdigest()}"])
        ended = bulk.run(settings=UNHURRIED)
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == body
        assert ended.row("a.bin")["status"] == "verified"


def test_somebody_who_never_stops_changing_the_part_is_an_honest_failure(bulk: Bulk) -> None:
    body, part = make_body(900_000), bulk.output / "a.bin.part"

    def behaviour(exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[:600_000])
        stall_until(exchange, lambda: is_settled(part, 600_000))
        truncated(part)
        exchange.send(reply.body[600_000:])

    with FaultyOrigin({"a.bin": (behaviour, body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings=UNHURRIED)
        assert ended.status == 3, ended.log
        assert ended.row("a.bin")["status"] == "failed"
        assert "another program" in ended.row("a.bin")["error"]["message"]
        assert not (bulk.output / "a.bin").exists()
        assert len(origin.requests) <= 4
        origin.add("a.bin", good, body)
        again = bulk.run()
        assert again.status == 0, again.log
        assert again.file("a.bin") == body


# Not overwritten: what somebody writes in the very moment of a write of ours has the time of that write.
@pytest.mark.parametrize("meddle", [truncated, punched], ids=lambda f: f.__name__)
def test_a_part_that_several_connections_fill_and_somebody_changes_is_fetched_again(
    bulk: Bulk, meddle: Callable[[Path], None]
) -> None:
    body, part = make_body(16 * MIB), bulk.output / "a.bin.part"
    once = threading.Lock()

    def behaviour(exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[: len(reply.body) // 2])
        if once.acquire(blocking=False):
            stall_until(exchange, lambda: is_settled(part, 8 * MIB))
            meddle(part)
        exchange.send(reply.body[len(reply.body) // 2 :])

    with FaultyOrigin({"a.bin": (behaviour, body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings={**UNHURRIED, "BULK_SEGMENTS": "4", "BULK_SEGMENT_MIN": "1M"})
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == body


# --- Holes, where nothing else tells ----------------------------------------------------------------------------------


def holed_in_secret(part: Path) -> None:
    """As a file system does it that stores zeros as holes: no time changes, no size."""
    found = part.stat()
    punch(part, 128 * KIB, 128 * KIB)
    os.utime(part, ns=(found.st_atime_ns, found.st_mtime_ns))


def with_zeros(size: int, seed: str) -> bytes:
    body = bytearray(make_body(size, seed))
    body[128 * KIB : 256 * KIB] = bytes(128 * KIB)
    return bytes(body)


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no-ranges"])
def test_a_hole_where_the_origin_has_bytes_is_found_and_the_file_fetched_again(bulk: Bulk, ranges: bool) -> None:
    from support.faults import ignores_range

    body, part = make_body(900_000), bulk.output / "a.bin.part"
    then = good if ranges else ignores_range()
    with FaultyOrigin({"a.bin": (in_turn(meddled(600_000, part, holed_in_secret), then), body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings=UNHURRIED)
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == body
        assert len(origin.requests) == 3, "the whole, the range of the hole, the whole again"


def test_a_hole_where_the_origin_has_zeros_is_right_and_asked_about_once(bulk: Bulk) -> None:
    bodies = {f"{n}.bin": with_zeros(900_000, f"zeros {n}") for n in range(3)}
    table = {
        name: (meddled(600_000, bulk.output / f"{name}.part", holed_in_secret), body) for name, body in bodies.items()
    }
    with FaultyOrigin(table) as origin:
        bulk.write_list({name: origin.url(name) for name in table})
        ended = bulk.run(settings={**UNHURRIED, "CONCURRENT_REQUESTS": "1"})
        assert ended.status == 0, ended.log
        assert all(ended.file(name) == body for name, body in bodies.items())
        assert sorted(len(origin.requests_for(name)) for name in table) == [1, 1, 2]
        ranges = [request.headers["range"] for request in origin.requests if "range" in request.headers]
        (asked,) = ranges
        first, last = map(int, asked.removeprefix("bytes=").split("-"))
        assert first <= 128 * KIB
        assert last >= 256 * KIB - 1
        assert last - first < 512 * KIB
        assert all(row["status"] == "complete" for row in ended.rows)


def test_a_file_that_has_zeros_and_no_holes_costs_no_request_more(bulk: Bulk) -> None:
    body = with_zeros(9 * MIB, "zeros")
    with FaultyOrigin({"a.bin": (no_validators(), body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings={**UNHURRIED, "BULK_SEGMENTS": "1"})
        assert (ended.status, ended.file("a.bin"), len(origin.requests)) == (0, body, 1)


def test_a_file_that_takes_the_name_during_the_download_is_kept_and_the_row_says_so(bulk: Bulk) -> None:
    body = make_body(900_000)

    def behaviour(exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[:600_000])
        (bulk.output / "a.bin").write_bytes(b"another's")
        exchange.send(reply.body[600_000:])

    with FaultyOrigin({"a.bin": (behaviour, body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == body
        assert ended.file("a.bin.old") == b"another's"
        assert ended.row("a.bin")["set_aside"] == "another file had this name when the download was complete"


# --- The output folder is deleted -------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["", ".bulkspider"], ids=["folder", "private"])
def test_an_output_folder_that_is_deleted_ends_the_run_with_one_sentence(bulk: Bulk, what: str) -> None:
    names = [f"{number}.bin" for number in range(40)]
    body = make_body(900_000)
    deleted = threading.Event()

    def behaviour(exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[:600_000])
        name = exchange.path.rpartition("/")[2]
        stall_until(exchange, lambda: size_of(bulk.output / f"{name}.part") >= 600_000)
        shutil.rmtree(bulk.output / what)
        deleted.set()
        exchange.stall()

    def slow(exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[:600_000])
        exchange.stall(deleted)
        exchange.send(reply.body[600_000:])

    table = dict.fromkeys(names, (slow, body))
    table["3.bin"] = (behaviour, body)
    table["0.bin"] = (good, body)
    with FaultyOrigin(table) as origin:
        bulk.write_list({name: origin.url(name) for name in names})
        ended = bulk.run(settings={**UNHURRIED, "CONCURRENT_REQUESTS": "8", "CONCURRENT_REQUESTS_PER_DOMAIN": "8"})
        assert ended.status == 3, ended.log
        told = [line for line in ended.log.splitlines() if "was deleted during the run" in line and "Stopping" in line]
        assert len(told) == 1, ended.log
        assert str(bulk.output) in told[0]
        assert "Traceback" not in ended.log
        assert len(origin.requests) <= 24, "no reason to ask for all the others"
        assert {row["status"] for row in ended.rows} <= {"complete", "failed", "interrupted"}
        assert "mend what it says" not in ended.log
        (counted,) = [line for line in ended.log.splitlines() if ": 40 entries: " in line]
        assert counted.endswith("whatever was finished before the folder was deleted may be gone with it")
        for name in names:
            origin.add(name, good, body)
        again = bulk.run(settings={"CONCURRENT_REQUESTS": "8", "CONCURRENT_REQUESTS_PER_DOMAIN": "8"})
        assert again.status == 0, again.log
        assert all(again.file(name) == body for name in names)


# --- What somebody puts at our own names ------------------------------------------------------------------------------


def fifo(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def device(path: Path, outside: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("devices need root")
    os.mknod(path, 0o666 | 0o020000, os.makedev(1, 5))  # /dev/zero


def link_to_a_device(path: Path, outside: Path) -> None:
    path.symlink_to("/dev/zero")


def link(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def hard_link(path: Path, outside: Path) -> None:
    os.link(outside, path)


def folder(path: Path, outside: Path) -> None:
    path.mkdir()


PLANTED = [fifo, device, link_to_a_device, link, hard_link, folder]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["a.bin.part", "a.bin.part.json", "a.bin.part.json.tmp", "a.bin.part.sync.json"])
def test_what_is_planted_at_the_names_of_a_part_is_neither_waited_for_nor_written(
    bulk: Bulk, plant: Callable[[Path, Path], None], name: str
) -> None:
    outside = bulk.folder / "outside"
    body = make_body(9 * MIB)
    outside.write_bytes(body[:300_000])
    bulk.output.mkdir()
    plant(bulk.output / name, outside)
    with FaultyOrigin({"a.bin": (good, body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings={"BULK_CHECKPOINT": "1M"}, timeout=60)
        assert ended.status in (0, 3), ended.log
        assert outside.read_bytes() == body[:300_000]
        if ended.status == 0:
            assert ended.file("a.bin") == body
            assert not (bulk.output / "a.bin").samefile(outside)
        else:
            assert ended.row("a.bin")["error"]["code"] == "not_regular"
            assert str(bulk.output / name) in ended.row("a.bin")["error"]["message"]
            assert plant is not hard_link


@pytest.mark.parametrize("plant", PLANTED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["lock", "ledger.jsonl", "ledger.other.jsonl", "control.json", "list", "begun"])
def test_what_is_planted_in_our_private_folder_is_neither_waited_for_nor_written(
    bulk: Bulk, plant: Callable[[Path, Path], None], name: str
) -> None:
    outside = bulk.folder / "outside"
    outside.write_bytes(b"precious\n")
    (bulk.output / ".bulkspider").mkdir(parents=True)
    plant(bulk.output / ".bulkspider" / name, outside)
    body = make_body(300_000)
    with FaultyOrigin(default=good, resource=body) as origin:
        bulk.write_list({f"{n}.bin": origin.url(f"{n}.bin") for n in range(3)})
        ended = bulk.run(timeout=60)
        assert ended.status in (0, 1), ended.log
        assert outside.read_bytes() == b"precious\n"
        assert "Traceback" not in ended.log
        if ended.status == 0:
            assert ended.file("0.bin") == body
        else:
            assert f".bulkspider/{name}" in ended.log
            assert plant is not hard_link
        if name == "control.json":
            assert ended.status == 0


def test_a_planted_control_file_without_end_takes_no_memory(bulk: Bulk) -> None:
    """During the run."""
    control = bulk.output / ".bulkspider" / "control.json"
    body = make_body(600_000)

    def behaviour(exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[:300_000])
        stall_until(exchange, lambda: size_of(bulk.output / "a.bin.part") >= 300_000)
        control.symlink_to("/dev/zero")
        stall_until(exchange, lambda: "control.json" in log.read_text())
        exchange.send(reply.body[300_000:])

    log = bulk.folder / "crawl.log"
    log.touch()
    with FaultyOrigin({"a.bin": (behaviour, body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        process = bulk.start(settings={**UNHURRIED, "LOG_FILE": str(log)})
        ended = bulk.wait(process)
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == body


def test_a_private_folder_that_is_swapped_for_a_link_during_the_run_gets_nothing_written_elsewhere(bulk: Bulk) -> None:
    elsewhere = bulk.folder / "elsewhere"
    elsewhere.mkdir()
    body, part = make_body(900_000), bulk.output / "a.bin.part"

    def swap(_: Path) -> None:
        (bulk.output / ".bulkspider").rename(bulk.output / "moved")
        (bulk.output / ".bulkspider").symlink_to(elsewhere)

    with FaultyOrigin({"a.bin": (meddled(600_000, part, swap), body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings=UNHURRIED)
        assert list(elsewhere.iterdir()) == []
        assert ended.file("a.bin") == body
        (line,) = (bulk.output / "moved" / "ledger.jsonl").read_text().splitlines()
        assert json.loads(line)["name"] == "a.bin"


def test_a_snapshot_by_hard_links_is_not_written_to(bulk: Bulk) -> None:
    """`cp -al` of the output folder, as backups do it: what goes on afterwards is not theirs."""
    body = make_body(9 * MIB)
    snapshot = bulk.folder / "snapshot"

    def copy(part: Path) -> None:
        shutil.copytree(bulk.output, snapshot, copy_function=os.link)

    with FaultyOrigin({"b.bin": (good, b"b"), "a.bin": (good, body)}) as origin:
        bulk.write_list({"b.bin": origin.url("b.bin")})
        assert bulk.run().status == 0
        copy(bulk.output)
        before = {path: path.read_bytes() for path in snapshot.rglob("*") if path.is_file() and path.name != "lock"}
        bulk.write_list({"b.bin": origin.url("b.bin"), "a.bin": origin.url("a.bin")})
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.row("b.bin")["already"]
        assert {path: path.read_bytes() for path in before} == before
        assert len((bulk.output / ".bulkspider" / "ledger.jsonl").read_text().splitlines()) == 2
