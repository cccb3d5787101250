"""What a crash leaves of ours is recognised and cleaned; what was durable is not fetched again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bulkspider.disk.commit import publish
from bulkspider.disk.folder.folder import Folder
from bulkspider.disk.leftovers.journal import OpenParts, begin_journal
from bulkspider.disk.part import Part
from support.crawl import Bulk, kill
from support.faults import ignores_range, stall_after
from support.faulty import FaultyOrigin, good, make_body
from support.holding import size_of
from support.ondisk import wait_for

KIB = 1024
MIB = 1024 * KIB
UNHURRIED = {"BULK_STALL_TIMEOUT": "60", "BULK_HEADERS_TIMEOUT": "60"}
KEY = "key"


def killed_at(bulk: Bulk, ready: Callable[[], bool], **settings: str) -> None:
    process = bulk.start(settings={**UNHURRIED, **settings})
    wait_for(ready)
    kill(process)
    assert process.stdout is not None
    process.stdout.close()


def names(bulk: Bulk) -> set[str]:
    return {path.name for path in bulk.output.iterdir()} - {".bulkspider"}


def test_a_part_that_was_killed_before_its_first_state_is_ours(bulk: Bulk) -> None:
    """The origin has no ranges to compare it by: it goes, where somebody's file would be kept as .old."""
    body = make_body(900_000)
    part = bulk.output / "a.bin.part"
    with FaultyOrigin({"a.bin": (stall_after(300_000), body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        killed_at(bulk, lambda: size_of(part) >= 300_000)
        part.with_name("a.bin.part.json").unlink(missing_ok=True)  # the kill may have come a moment too late
        origin.add("a.bin", ignores_range(), body)
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == body
        assert names(bulk) == {"a.bin"}
        assert not (bulk.output / ".bulkspider" / "begun").exists()


def test_somebody_s_part_of_that_name_is_still_kept(bulk: Bulk) -> None:
    body = make_body(900_000)
    part = bulk.output / "a.bin.part"
    with FaultyOrigin({"a.bin": (stall_after(300_000), body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        killed_at(bulk, lambda: size_of(part) >= 300_000)
        part.with_name("a.bin.part.json").unlink(missing_ok=True)
        part.with_name("theirs").write_bytes(b"somebody's")
        part.with_name("theirs").rename(part)
        origin.add("a.bin", ignores_range(), body)
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == body
        assert (bulk.output / "a.bin.old").read_bytes() == b"somebody's"


@pytest.mark.parametrize("origin_has", [good, ignores_range()], ids=["ranges", "no-ranges"])
def test_an_empty_part_is_no_file_to_be_kept(bulk: Bulk, origin_has: Callable[..., None]) -> None:
    body = make_body(300_000)
    bulk.output.mkdir()
    for name in ("a.bin", "b.bin"):
        (bulk.output / f"{name}.part").touch()
    with FaultyOrigin({"a.bin": (origin_has, body), "b.bin": (origin_has, b"small")}) as origin:
        bulk.write_list({name: origin.url(name) for name in ("a.bin", "b.bin")})
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert (ended.file("a.bin"), ended.file("b.bin")) == (body, b"small")
        assert names(bulk) == {"a.bin", "b.bin"}
        assert len(origin.requests) == 2


@pytest.mark.parametrize("lost", [b"", bytes(4096), None], ids=["empty", "zeros", "missing"])
def test_a_power_cut_that_takes_the_state_leaves_what_was_durable(bulk: Bulk, lost: bytes | None) -> None:
    """ext4 with data=writeback: the last state was renamed into place, its bytes never came to the disk."""
    body = make_body(9 * MIB)
    held = 8 * MIB + 100_000
    part, state, flushed = (bulk.output / f"a.bin.part{suffix}" for suffix in ("", ".json", ".sync.json"))

    def durable() -> int:
        try:
            return int(json.loads(flushed.read_bytes())["durable"][0][1])
        except (OSError, ValueError, IndexError):
            return 0

    with FaultyOrigin({"a.bin": (stall_after(held), body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        killed_at(bulk, lambda: size_of(part) == held and durable() > 0, BULK_CHECKPOINT="1M", BULK_SEGMENTS="1")
        kept = durable()
        flushed.write_text(json.dumps({**json.loads(flushed.read_bytes()), "boot": "another boot"}))
        if lost is None:
            state.unlink()
        else:
            state.write_bytes(lost)
        with part.open("r+b") as file:
            file.seek(kept)
            file.write(bytes(held - kept))
        origin.add("a.bin", good, body)
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == body
        assert ended.row("a.bin")["resumed_from"] == kept
        assert ended.row("a.bin")["bytes_received"] <= len(body) - kept + 64 * KIB
        assert names(bulk) == {"a.bin"}


def test_a_flushed_state_of_another_file_proves_nothing(bulk: Bulk) -> None:
    body, other = make_body(3 * MIB), make_body(3 * MIB, "another version")
    part, flushed = bulk.output / "a.bin.part", bulk.output / "a.bin.part.sync.json"
    with FaultyOrigin({"a.bin": (stall_after(2 * MIB), body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        killed_at(bulk, flushed.exists, BULK_CHECKPOINT="1M")
        wait_for(lambda: size_of(part) >= MIB)
        part.with_name("copy").write_bytes(other[: 2 * MIB])
        part.with_name("copy").rename(part)
        (bulk.output / "a.bin.part.json").unlink(missing_ok=True)
        origin.add("a.bin", good, body)
        ended = bulk.run()
        assert (ended.status, ended.file("a.bin")) == (0, body)


def test_a_state_beside_a_finished_file_goes_after_a_crash(bulk: Bulk) -> None:
    """Killed between the ledger and the end of the state; whoever writes the state again stands in for that."""
    body = make_body(300_000)
    with FaultyOrigin({"a.bin": (good, body), "b.bin": (stall_after(100_000), body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        assert bulk.run().status == 0
        bulk.write_list({"a.bin": origin.url("a.bin"), "b.bin": origin.url("b.bin")})
        killed_at(bulk, lambda: (bulk.output / "b.bin.part.json").exists())
        ours = (bulk.output / "b.bin.part.json").read_bytes()
        litter = ["a.bin.part.json", "a.bin.part.sync.json", "c.bin.part.old.json"]
        for name in litter:
            (bulk.output / name).write_bytes(ours)
        (bulk.output / ".bulkspider.0123456789abcdef.tmp").write_bytes(b"half a sta")
        (bulk.output / "notes.part.json").write_text('{"of": "somebody"}')
        origin.add("b.bin", good, body)
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert names(bulk) == {"a.bin", "b.bin", "notes.part.json"}
        assert ended.row("b.bin")["resumed_from"] > 0


# --- The journal ------------------------------------------------------------------------------------------------------


def opened(root: Path) -> Folder:
    folder = Folder(root)
    folder.lock(exclusive=True)
    begin_journal(folder, None)
    return folder


def dies(folder: Folder) -> None:
    """As after a kill -9: the kernel closes the files, and nothing else happens."""
    assert isinstance(folder.journal, OpenParts)
    os.close(folder.journal.fd)
    folder.journal = None
    folder.close()


def test_a_small_fragment_of_a_killed_process_is_ours_and_goes(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    part = Part(folder, "a.bin", KEY, checkpoint=1 << 40)
    assert part.finds_nothing()
    part.buffer(b"x" * 1000)
    os.close(part.fd)
    dies(folder)
    again = opened(tmp_path)
    part = Part(again, "a.bin", KEY, checkpoint=1 << 40)
    part.open()
    assert part.foreign.found is not None
    assert part.foreign.found.fragment
    part.foreign.refuse()
    part.write(b"y", 0)
    publish(part)
    part.checkpoints.discard()
    part.close()
    again.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".bulkspider", "a.bin"]
    assert not (tmp_path / ".bulkspider" / "begun").exists()


def test_a_file_that_got_its_name_and_kept_its_state_loses_it(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    part = Part(folder, "sub/a.bin", KEY, checkpoint=1 << 40)
    part.open()
    part.write(b"y", 0)
    part.checkpoints.save()
    publish(part)
    dies(folder)
    assert (tmp_path / "sub" / "a.bin.part.json").exists()
    opened(tmp_path).close()
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.bin"]


@pytest.mark.parametrize("line", [b"{", b"[1, 2]", b'["../x", 1]', b'["/etc/x", 1]', b"\xff\xfe", b"[" * 5000])
def test_a_journal_that_makes_no_sense_is_none(tmp_path: Path, line: bytes) -> None:
    (tmp_path / ".bulkspider").mkdir()
    (tmp_path / ".bulkspider" / "begun").write_bytes(line + b"\n")
    opened(tmp_path).close()
    assert not (tmp_path / ".bulkspider" / "begun").exists()


def test_the_journal_does_not_grow_with_the_run(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    for number in range(5000):
        folder.note_begun(f"{number}.bin", number + 1)
        folder.note_ended(f"{number}.bin")
    assert (tmp_path / ".bulkspider" / "begun").stat().st_size < 50_000
    folder.close()


def test_the_journal_of_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    first, second = Folder(tmp_path), Folder(tmp_path)
    for folder, writer in ((first, "1"), (second, "2")):
        folder.lock(exclusive=False)
        begin_journal(folder, writer)
    first.note_begun("a.bin", 7)
    assert (tmp_path / ".bulkspider" / "begun.1").exists()
    assert not second.left_behind("a.bin", 7)
    dies(first)
    third = opened_shared(tmp_path)
    assert not (tmp_path / ".bulkspider" / "begun.1").exists()
    second.close()
    third.close()


def opened_shared(root: Path) -> Folder:
    folder = Folder(root)
    folder.lock(exclusive=False)
    begin_journal(folder, "3")
    return folder
