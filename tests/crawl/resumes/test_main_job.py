"""The main job end to end: a list in, proven files out, whatever interrupts it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import crc32c
import pytest

from support.crawl import Bulk, sha256
from support.faults import as_if, ignores_range
from support.faulty import LAST_MODIFIED, Exchange, FaultyOrigin, Reply, correct, good, make_body, parse_range
from support.holding import Gathering, Holds

# An origin that holds a body back on purpose is not stalling.
UNHURRIED = {"BULK_STALL_TIMEOUT": "60", "BULK_HEADERS_TIMEOUT": "60"}
MIB = 1024 * 1024
SAMPLE = OVERLAP = 64 * 1024
# What the comparison of a foreign file may cost: head, tail, three places between, and the overlap of the join.
COMPARED = 6 * SAMPLE


class Silent(Bulk):
    """Without `-O report.jsonl`."""

    def command(self, *arguments: str, settings: Mapping[str, str] | None = None) -> list[str]:
        command = super().command(*arguments, settings=settings)
        at = command.index("-O")
        return command[:at] + command[at + 2 :]


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def leftovers(output: Path) -> list[str]:
    """Everything in the output folder that is not a finished file's business to explain."""
    return sorted(
        str(path.relative_to(output))
        for path in output.rglob("*")
        if ".bulkspider" not in path.parts and (".part" in path.name or ".old" in path.name)
    )


# --- From nothing -----------------------------------------------------------------------------------------------------


def test_several_files_are_fetched_in_parallel_and_a_second_run_makes_no_request(bulk: Bulk) -> None:
    bodies = {f"{n}.bin": make_body(200_000 + n, f"seed {n}") for n in range(4)}
    gathering = Gathering(4)
    with FaultyOrigin({name: (gathering, body) for name, body in bodies.items()}) as origin:
        bulk.write_list({name: origin.url(name) for name in bodies})
        first = bulk.run()
        assert first.status == 0, first.log
        assert gathering.most == 4
        assert {name: sha256(first.file(name)) for name in bodies} == {n: sha256(b) for n, b in bodies.items()}
        assert sorted(row["name"] for row in first.rows) == sorted(bodies)
        for row in first.rows:
            body = bodies[row["name"]]
            assert (row["status"], row["already"], row["size"], row["error"]) == ("complete", False, len(body), None)
            assert (row["bytes_received"], row["resumed_from"], row["attempts"]) == (len(body), 0, 1)
            assert row["path"] == str(bulk.output / row["name"])
        assert {row["line"] for row in first.rows} == {2, 3, 4, 5}
        assert len(origin.requests) == 4
        assert leftovers(bulk.output) == []

        again = bulk.run()
        assert again.status == 0, again.log
        assert [(row["status"], row["already"]) for row in again.rows] == [("complete", True)] * 4
        assert {row["size"] for row in again.rows} == {len(body) for body in bodies.values()}

        silent = Silent(bulk.folder).run()
        assert silent.status == 0, silent.log
        assert silent.rows == []
        assert "4 of them were done by an earlier run" in silent.log
        assert len(origin.requests) == origin.connections == 4, "the later runs asked the origin"


def test_names_with_folders_and_blanks_become_files_as_a_user_expects(bulk: Bulk) -> None:
    names = ["a/b/c.bin", "a/d.bin", "with some blanks.bin", "ünïcode/名前.bin", "empty.bin"]
    bodies = {name: b"" if name == "empty.bin" else make_body(1000, name) for name in names}
    paths = {name: f"{n}.bin" for n, name in enumerate(names)}
    begun = time.time()
    with FaultyOrigin({paths[name]: (good, body) for name, body in bodies.items()}) as origin, umask(0o027):
        bulk.write_list({name: origin.url(paths[name]) for name in names})
        ended = bulk.run()
        assert ended.status == 0, ended.log
        for name, body in bodies.items():
            assert ended.file(name) == body
            found = os.stat(bulk.output / name)
            assert stat.S_IMODE(found.st_mode) == 0o640, name  # 0666 & ~umask
            assert found.st_nlink == 1
            assert found.st_mtime >= begun - 2, "the time of the download, not Last-Modified"
            assert ended.row(name)["status"] == "complete"
            assert ended.row(name)["size"] == len(body)
        assert stat.S_IMODE(os.stat(bulk.output / "a" / "b").st_mode) == 0o750
        assert leftovers(bulk.output) == []
        requests = len(origin.requests)
        assert bulk.run().status == 0
        assert len(origin.requests) == requests == len(names)


def test_the_default_output_folder_is_named_after_the_list(bulk: Bulk) -> None:
    body = make_body(1000)
    with FaultyOrigin({"a.bin": (good, body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")}).rename(bulk.folder / "some list.csv")
        ended = bulk.run("-a", f"list={bulk.folder / 'some list.csv'}", "-a", "output=")
    assert ended.status == 0, ended.log
    assert (bulk.folder / "output" / "some list" / "a.bin").read_bytes() == body


def test_hashes_of_the_list_verify_a_file_and_a_wrong_one_never_gets_its_name(bulk: Bulk) -> None:
    body = make_body(150_000)
    sums = {
        "sha256": sha256(body),
        "sha1": hashlib.sha1(body).hexdigest(),
        "md5": hashlib.md5(body).hexdigest(),
        "crc32c": f"{crc32c.crc32c(body):08x}",
    }
    wrong = {algorithm: ("0" if value[0] != "0" else "1") + value[1:] for algorithm, value in sums.items()}
    with FaultyOrigin(default=good, resource=body) as origin:
        lines = [f"right-{a}.bin {origin.url(f'right-{a}.bin')} {a}={value}" for a, value in sums.items()]
        lines.append(f"all.bin {origin.url('all.bin')} " + " ".join(f"{a}={v}" for a, v in sums.items()))
        bulk.write_list(lines, header="the first line is ignored")
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert {row["name"] for row in ended.rows if row["status"] != "verified"} == {"right-crc32c.bin"}
        assert (ended.row("right-crc32c.bin")["status"], ended.row("right-crc32c.bin")["flags"]) == (
            "complete",
            ["checksum-only"],
        )
        assert ended.row("right-md5.bin")["checksums"] == {"md5": sums["md5"]}
        assert ended.row("all.bin")["checksums"] == sums
        assert ended.row("all.bin")["sha256"] == sums["sha256"]

        lines += [f"wrong-{a}.bin {origin.url(f'wrong-{a}.bin')} {a}={wrong[a]}" for a in ("sha256", "md5", "crc32c")]
        bulk.write_list(lines, header="the first line is ignored")
        ended = bulk.run()
        assert ended.status == 4, ended.log
        for algorithm in ("sha256", "md5", "crc32c"):
            name = f"wrong-{algorithm}.bin"
            row = ended.row(name)
            assert (row["status"], row["error"]["code"], row["error"]["permanent"]) == (
                "failed",
                "digest_mismatch",
                True,
            )
            assert wrong[algorithm] in row["error"]["message"]
            assert sums[algorithm] in row["error"]["message"]
            assert not (bulk.output / name).exists()
            assert not (bulk.output / f"{name}.part").exists()
            assert (bulk.output / f"{name}.part.old").read_bytes() == body
            assert 1 <= len(origin.requests_for(name)) <= 2
            assert f"failed: {name}" in ended.log
        assert sum(row["already"] for row in ended.rows) == 5
        # What a hash has refuted is never resumed, also not by the next run.
        bulk.run()
        assert not (bulk.output / "wrong-md5.bin").exists()
        assert {r.range for r in origin.requests_for("wrong-md5.bin")} == {None}


def test_a_size_in_the_list_that_the_origin_contradicts_is_a_failure(bulk: Bulk) -> None:
    with FaultyOrigin(default=good, resource=make_body(1000)) as origin:
        lines = [f"right.bin {origin.url('right.bin')} size=1000", f"wrong.bin {origin.url('wrong.bin')} size=1001"]
        bulk.write_list(lines, header="the first line is ignored")
        ended = bulk.run()
    assert ended.status == 3, ended.log
    assert ended.row("right.bin")["status"] == "complete"
    assert ended.row("wrong.bin")["error"]["code"] == "size_mismatch"
    assert not (bulk.output / "wrong.bin").exists()


# --- Stopped in the middle --------------------------------------------------------------------------------------------


def test_after_kill_9_the_next_run_continues_with_range_and_if_range(bulk: Bulk) -> None:
    bodies = {name: make_body(10 * MIB, name) for name in ("etag.bin", "date.bin")}
    small = make_body(5000)
    no_etag = as_if(etag=None)
    held = {}
    for name, reply in (("etag.bin", correct), ("date.bin", without_etag)):
        needs = [bulk.output / f"{name}.part.json", bulk.output / ".bulkspider" / "ledger.jsonl"]
        held[name] = Holds(9 * MIB, bulk.output / f"{name}.part", needs=needs, reply=reply)
    with FaultyOrigin({"small.bin": (good, small)}) as origin:
        origin.add("etag.bin", held["etag.bin"].behaviour(), bodies["etag.bin"])
        origin.add("date.bin", held["date.bin"].behaviour(no_etag), bodies["date.bin"])
        bulk.write_list({name: origin.url(name) for name in ("small.bin", *bodies)})
        process = bulk.start(settings=UNHURRIED)
        for hold in held.values():
            hold.wait()
        process.kill()
        assert bulk.wait(process).status == -signal.SIGKILL
        assert not any((bulk.output / name).exists() for name in bodies)
        assert (bulk.output / "small.bin").read_bytes() == small

        ended = bulk.run()
        assert ended.status == 0, ended.log
        for name, validator in (("etag.bin", '"v1"'), ("date.bin", LAST_MODIFIED)):
            assert sha256(ended.file(name)) == sha256(bodies[name])
            _, resumed = origin.requests_for(name)
            assert resumed.headers["if-range"] == validator
            assert resumed.status == 206
            # At most 8 MiB were not yet in the state; what is there is asked again only to overlap.
            assert resumed.range is not None
            assert resumed.range[0] is not None
            assert 8 * MIB - OVERLAP <= resumed.range[0] <= 9 * MIB
            row = ended.row(name)
            assert row["status"] == "complete"
            assert row["resumed_from"] >= 8 * MIB
            assert row["bytes_received"] <= 2 * MIB + OVERLAP
        assert len(origin.requests_for("small.bin")) == 1
        assert leftovers(bulk.output) == []


def without_etag(exchange: Exchange) -> Reply:
    return correct(exchange, replace(exchange.resource, etag=None))


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["INT", "TERM", "HUP"],
)
def test_a_signal_stops_at_once_keeps_every_byte_and_the_rerun_is_right(
    bulk: Bulk, number: signal.Signals, status: int
) -> None:
    body, other = make_body(400_000), make_body(50_000, "other")
    held = Holds(300_000, bulk.output / "a.bin.part")
    with FaultyOrigin({"a.bin": (held.behaviour(), body), "b.bin": (good, other), "c.bin": (good, other)}) as origin:
        bulk.write_list({name: origin.url(name) for name in ("a.bin", "b.bin", "c.bin")})
        process = bulk.start(settings={**UNHURRIED, "CONCURRENT_REQUESTS": "1"})
        held.wait()
        process.send_signal(number)
        stopped = bulk.wait(process, timeout=30)
        assert stopped.status == status, stopped.log
        assert "Traceback" not in stopped.log, stopped.log
        assert [(row["name"], row["status"]) for row in stopped.rows] == [("a.bin", "interrupted")]
        assert stopped.rows[0]["error"]["code"] == "stopped"
        assert stopped.rows[0]["bytes_received"] == 300_000
        assert "1 interrupted" in stopped.log
        assert "2 left" in stopped.log
        assert "to go on, run the same again" in stopped.log
        state = json.loads((bulk.output / "a.bin.part.json").read_text())
        assert state["written"] == [[0, 300_000]]
        assert (bulk.output / "a.bin.part").read_bytes() == body[:300_000]
        assert len(origin.requests) == 1

        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == body
        assert ended.file("b.bin") == ended.file("c.bin") == other
        resumed = origin.requests_for("a.bin")[1]
        assert resumed.range == (300_000 - OVERLAP, None)
        assert resumed.headers["if-range"] == '"v1"'
        row = ended.row("a.bin")
        assert (row["resumed_from"], row["bytes_received"]) == (300_000, 100_000 + OVERLAP)
        assert leftovers(bulk.output) == []


def test_a_server_without_ranges_is_read_again_and_the_file_is_right(bulk: Bulk) -> None:
    body = make_body(400_000)
    held = Holds(300_000, bulk.output / "a.bin.part")
    with FaultyOrigin({"a.bin": (held.behaviour(ignores_range()), body)}) as origin:
        origin.add("b.bin", as_if(accept_ranges=False, etag=None, last_modified=None), body)
        bulk.write_list({"a.bin": origin.url("a.bin"), "b.bin": origin.url("b.bin")})
        process = bulk.start(settings=UNHURRIED)
        held.wait()
        process.terminate()
        assert bulk.wait(process).status == 143

        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == ended.file("b.bin") == body
        assert ended.row("a.bin")["status"] == ended.row("b.bin")["status"] == "complete"
        assert "no-range" in ended.row("a.bin")["flags"]
        assert all(request.status == 200 for request in origin.requests)
        assert leftovers(bulk.output) == []


# --- What an older tool left ------------------------------------------------------------------------------------------


def put(path: Path, data: bytes) -> os.stat_result:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path.stat()


def test_an_older_tools_partial_is_compared_and_continued(bulk: Bulk) -> None:
    body = make_body(3_000_000)
    put(bulk.output / "final.bin", body[:2_500_000])
    put(bulk.output / "part.bin.part", body[:2_500_000])
    with FaultyOrigin(default=good, resource=body) as origin:
        bulk.write_list({"final.bin": origin.url("final.bin"), "part.bin": origin.url("part.bin")})
        ended = bulk.run()
        assert ended.status == 0, ended.log
        for name in ("final.bin", "part.bin"):
            assert ended.file(name) == body
            requests = origin.requests_for(name)
            assert all(request.status == 206 for request in requests), requests
            first_byte = [request.range[0] for request in requests if request.range]
            assert first_byte[0] == 0, "its head was not compared"
            assert first_byte[-1] is not None
            assert 2_500_000 - OVERLAP <= first_byte[-1] <= 2_500_000
            assert sum(request.bytes_sent for request in requests) <= 500_000 + COMPARED
            row = ended.row(name)
            assert (row["status"], row["resumed_from"]) == ("complete", 2_500_000)
        assert leftovers(bulk.output) == []


@pytest.mark.parametrize("where", ["head", "tail"])
def test_an_older_tools_partial_that_differs_is_kept_as_old_and_the_file_is_right(bulk: Bulk, where: str) -> None:
    body = make_body(600_000)
    partial = bytearray(body[:500_000])
    partial[10 if where == "head" else -10] ^= 1
    put(bulk.output / "a.bin", bytes(partial))
    with FaultyOrigin({"a.bin": (good, body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run()
    assert ended.status == 0, ended.log
    assert ended.file("a.bin") == body
    assert (bulk.output / "a.bin.old").read_bytes() == partial, "a foreign file is never deleted"
    assert leftovers(bulk.output) == ["a.bin.old"]


def test_a_whole_file_of_an_older_tool_is_adopted_and_others_of_its_size_or_larger_are_not(bulk: Bulk) -> None:
    body = make_body(1_000_000)
    changed = bytes([body[0] ^ 1]) + body[1:]
    same = put(bulk.output / "same.bin", body)
    put(bulk.output / "changed.bin", changed)
    tail = body[:-10] + bytes([body[-10] ^ 1]) + body[-9:]
    put(bulk.output / "tail.bin", tail)
    put(bulk.output / "longer.bin", body + b"more")
    put(bulk.output / "no-range.bin", body[:1000])
    with FaultyOrigin(default=good, resource=body) as origin:
        origin.add("no-range.bin", ignores_range(), body)
        names = ("same.bin", "changed.bin", "tail.bin", "longer.bin", "no-range.bin")
        bulk.write_list({name: origin.url(name) for name in names})
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert {name: sha256(ended.file(name)) for name in names} == dict.fromkeys(names, sha256(body))
        row = ended.row("same.bin")
        assert (row["status"], row["flags"], row["size"]) == ("complete", ["adopted"], len(body))
        now = os.stat(bulk.output / "same.bin")
        assert (now.st_ino, now.st_mtime_ns) == (same.st_ino, same.st_mtime_ns)
        assert sum(request.bytes_sent for request in origin.requests_for("same.bin")) <= COMPARED
        assert (bulk.output / "changed.bin.old").read_bytes() == changed
        assert "differs near byte" in ended.row("changed.bin")["set_aside"]
        assert (bulk.output / "tail.bin.old").read_bytes() == tail
        assert (bulk.output / "longer.bin.old").read_bytes() == body + b"more"
        assert (bulk.output / "no-range.bin.old").read_bytes() == body[:1000]
        assert leftovers(bulk.output) == ["changed.bin.old", "longer.bin.old", "no-range.bin.old", "tail.bin.old"]

        requests = len(origin.requests)
        assert bulk.run().status == 0
        assert len(origin.requests) == requests


def test_a_foreign_file_is_not_touched_while_the_origin_does_not_answer_with_one(bulk: Bulk) -> None:
    put(bulk.output / "a.bin", b"precious")
    with FaultyOrigin() as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run()
    assert ended.status == 4, ended.log
    assert ended.row("a.bin")["error"]["code"] == "http_404"
    assert ended.file("a.bin") == b"precious"
    assert leftovers(bulk.output) == []


# --- What the ledger knows --------------------------------------------------------------------------------------------


def test_a_touched_file_is_hashed_or_compared_again_and_a_deleted_one_fetched_again(bulk: Bulk) -> None:
    body = make_body(1_000_000)
    names = ("hashed.bin", "spoiled.bin", "plain.bin", "deleted.bin", "shortened.bin", "untouched.bin")
    with FaultyOrigin(default=good, resource=body) as origin:
        sums = {"hashed.bin": f" sha256={sha256(body)}", "spoiled.bin": f" sha256={sha256(body)}"}
        bulk.write_list([f"{name} {origin.url(name)}{sums.get(name, '')}" for name in names], header="ignored")
        assert bulk.run().status == 0
        spoiled = body[:-1] + bytes([body[-1] ^ 1])
        (bulk.output / "spoiled.bin").write_bytes(spoiled)
        for name in ("hashed.bin", "spoiled.bin", "plain.bin"):
            os.utime(bulk.output / name, (1_600_000_000, 1_600_000_000))
        (bulk.output / "deleted.bin").unlink()
        os.truncate(bulk.output / "shortened.bin", 900_000)
        origin.requests.clear()

        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert {name: sha256(ended.file(name)) for name in names} == dict.fromkeys(names, sha256(body))
        assert ended.row("hashed.bin")["already"] is True
        assert ended.row("hashed.bin")["status"] == "verified"
        assert origin.requests_for("hashed.bin") == origin.requests_for("untouched.bin") == []
        assert ended.row("spoiled.bin")["already"] is False
        assert ended.row("spoiled.bin")["status"] == "verified"
        assert origin.requests_for("spoiled.bin") != []
        assert ended.row("plain.bin")["flags"] == ["adopted"]
        assert 0 < sum(r.bytes_sent for r in origin.requests_for("plain.bin")) <= COMPARED
        assert [request.range for request in origin.requests_for("deleted.bin")] == [None]
        assert 0 < sum(r.bytes_sent for r in origin.requests_for("shortened.bin")) <= 100_000 + COMPARED

        origin.requests.clear()
        assert bulk.run().status == 0
        assert origin.requests == []


def test_a_file_whose_url_changed_in_the_list_is_compared_with_the_new_url(bulk: Bulk) -> None:
    body, other = make_body(1_000_000), make_body(1_000_000, "other")
    table = {"v1/a": body, "v1/b": body, "v1/s": body, "v2/a": body, "v2/b": other}
    with FaultyOrigin({path: (good, served) for path, served in table.items()}) as origin:
        signed = "{}?Expires={}&Signature={}"
        old = {"a.bin": origin.url("v1/a"), "b.bin": origin.url("v1/b")}
        bulk.write_list({**old, "s.bin": signed.format(origin.url("v1/s"), 1, "abc")})
        assert bulk.run().status == 0
        origin.requests.clear()

        new = {"a.bin": origin.url("v2/a"), "b.bin": origin.url("v2/b")}
        bulk.write_list({**new, "s.bin": signed.format(origin.url("v1/s"), 2, "def")})
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == body
        assert ended.file("b.bin") == other
        assert (bulk.output / "b.bin.old").read_bytes() == body
        assert ended.row("a.bin")["already"] is False
        assert 0 < sum(r.bytes_sent for r in origin.requests_for("v2/a")) <= COMPARED
        assert "a.bin: the list has another URL for it now" in ended.log
        # A fresh signature names the same object.
        assert ended.row("s.bin")["already"] is True
        assert origin.requests_for("v1/s") == []


def test_a_part_whose_url_changed_in_the_list_is_compared_and_never_mixed(bulk: Bulk) -> None:
    body, other = make_body(600_000), make_body(600_000, "other")
    held = {name: Holds(500_000, bulk.output / f"{name}.bin.part") for name in ("a", "b")}
    table = {f"v1/{name}": (hold.behaviour(), body) for name, hold in held.items()}
    with FaultyOrigin({**table, "v2/a": (good, body), "v2/b": (good, other)}) as origin:
        bulk.write_list({"a.bin": origin.url("v1/a"), "b.bin": origin.url("v1/b")})
        process = bulk.start(settings=UNHURRIED)
        for hold in held.values():
            hold.wait()
        process.terminate()
        assert bulk.wait(process).status == 143

        bulk.write_list({"a.bin": origin.url("v2/a"), "b.bin": origin.url("v2/b")})
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == body
        assert ended.file("b.bin") == other
        assert "url-changed" in ended.row("a.bin")["flags"]
        assert ended.row("a.bin")["resumed_from"] == 500_000
        assert [parse_range(r.headers.get("range")) for r in origin.requests_for("v2/a")][-1] == (
            500_000 - OVERLAP,
            None,
        )


def test_a_second_run_in_a_folder_in_use_ends_at_once_and_names_the_first(bulk: Bulk) -> None:
    body = make_body(300_000)
    held = Holds(100_000, bulk.output / "a.bin.part")
    with FaultyOrigin({"a.bin": (held.behaviour(), body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        process = bulk.start(settings=UNHURRIED)
        held.wait()
        second = Silent(bulk.folder)
        second.list, second.report = bulk.write_list({"a.bin": origin.url("a.bin")}), bulk.folder / "second.jsonl"
        ended = second.run()
        assert ended.status == 1, ended.log
        assert f"pid {process.pid}" in ended.log
        process.terminate()
        assert bulk.wait(process).status == 143
        assert len(origin.requests) == 1
