"""The part: what it knows after it was closed, cut, restarted, adopted or given up."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkspider.codes import Kind
from bulkspider.disk.commit import publish
from bulkspider.disk.files import checkpoints, statefile
from bulkspider.disk.folder.folder import Folder
from bulkspider.disk.part import Part
from bulkspider.errors import DiskError, PartChanged, VersionConflict
from bulkspider.protocol.plan import Validators
from bulkspider.protocol.ranges import Ranges

KEY = "k" * 64
DATA = bytes(range(256)) * 40
VALIDATORS = Validators('"v1"', "Mon, 01 Jan 2024 00:00:00 GMT", "Tue, 02 Jan 2024 00:00:00 GMT")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    opened = Folder(tmp_path / "out")
    yield opened
    opened.close()


def part_of(folder: Folder, name: str = "a.bin", key: str = KEY, checkpoint: int = 1 << 40) -> Part:
    part = Part(folder, name, key, checkpoint=checkpoint)
    part.open()
    return part


def held(part: Part) -> list[tuple[int, int]]:
    return [(first, end) for first, end in part.state.have]


def begin(folder: Folder, data: bytes = DATA[:5000], name: str = "a.bin", durable: bool = False) -> Part:
    """A part with these bytes and its state, closed."""
    part = part_of(folder, name)
    part.learn(total=len(DATA), validators=VALIDATORS, source="a.example:443")
    part.write(data, 0)
    if durable:
        part.checkpoints.checkpoint()
    part.checkpoints.save()
    part.close()
    return part


def make_durable(part: Part) -> None:
    part.checkpoints.make_durable(part.fd)


def names(folder: Folder) -> list[str]:
    return sorted(path.name for path in folder.root.iterdir() if path.name != ".bulkspider")


def state_of(folder: Folder, suffix: str = ".part.json") -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder.root / f"a.bin{suffix}").read_text())
    return state


# --- The way to the disk and back -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9000), st.integers(1, 1000)), max_size=12), st.booleans())
def test_what_was_written_is_known_again(tmp_path_factory: pytest.TempPathFactory, pieces: Any, durable: bool) -> None:
    folder = Folder(tmp_path_factory.mktemp("out"))
    part, have = part_of(folder), Ranges()
    part.learn(total=len(DATA), validators=VALIDATORS, source="a.example:443")
    for first, length in pieces:
        part.write(DATA[first : first + length], first)
        have.add(first, min(first + length, len(DATA)))
    if durable:
        part.checkpoints.checkpoint()
    part.checkpoints.save()
    part.close()

    again = part_of(folder)
    assert held(again) == list(have)
    if have:
        assert (again.state.total, again.state.validators, again.state.source) == (
            len(DATA),
            VALIDATORS,
            "a.example:443",
        )
        for first, end in have:
            assert again.read(first, end - first) == DATA[first:end]
    again.close()
    folder.close()


def test_an_empty_part_makes_no_file_before_its_first_byte(folder: Folder) -> None:
    part = part_of(folder)
    part.learn(total=10, validators=VALIDATORS)
    part.checkpoints.save()
    part.close()
    assert names(folder) == []


@pytest.mark.parametrize("size", [0, 1, 4999, 5000, 6000])
def test_the_file_s_size_is_the_most_that_counts(folder: Folder, size: int) -> None:
    begin(folder)
    os.truncate(folder.root / "a.bin.part", size)
    assert part_of(folder).state.have.count == min(size, 5000)


def test_the_total_is_the_most_that_counts(folder: Folder) -> None:
    begin(folder)
    state = state_of(folder)
    (folder.root / "a.bin.part.json").write_text(json.dumps({**state, "total": 3000}))
    assert held(part_of(folder)) == [(0, 3000)]


@pytest.mark.parametrize("now", ["another", None])
def test_another_or_an_unknown_boot_trusts_only_what_is_durable(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, now: str | None
) -> None:
    part = begin(folder, DATA[:3000], durable=True)
    part.open()
    part.write(DATA[3000:5000], 3000)
    part.checkpoints.save()
    part.close()
    monkeypatch.setattr(statefile, "BOOT_ID", now)
    assert held(part_of(folder)) == [(0, 3000)]


@pytest.mark.parametrize(
    "broken",
    [
        {"written": "all"},
        {"written": [[5, "x"]]},
        {"written": [[-5, 10]]},
        {"written": [[1]]},
        {"written": None},
        {"durable": 7},
        {"total": "many", "written": []},
    ],
    ids=str,
)
def test_a_state_that_makes_no_sense_proves_nothing(folder: Folder, broken: dict[str, Any]) -> None:
    begin(folder)
    (folder.root / "a.bin.part.json").write_text(json.dumps({**state_of(folder), **broken}))
    part = part_of(folder)
    assert held(part) == []
    assert part.state.total is None or "written" not in broken


def test_a_part_of_another_url_is_foreign(folder: Folder) -> None:
    begin(folder)
    part = part_of(folder, key="another")
    assert part.lookup.url_changed
    assert held(part) == []
    assert part.foreign.found is not None
    assert (part.foreign.found.is_part, part.foreign.found.size, part.foreign.found.usable) == (True, 5000, 5000)


def test_state_is_saved_every_eight_mib_and_durable_every_checkpoint(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "WRITTEN_EVERY_BYTES", 1000)
    part = part_of(folder, checkpoint=2500)
    for at in range(0, 5000, 500):
        part.write(DATA[at : at + 500], at)
        # The checkpoint is made beside; it is one of two that are not durable at most.
        if (folder.root / "a.bin.part.json").exists():
            state = state_of(folder)
            written, durable = state["written"][0][1], (state["durable"] or [[0, 0]])[0][1]
            assert at + 500 - 1000 < written <= at + 500
            assert at + 500 - 5000 < durable <= written
    part.close()
    assert state_of(folder)["durable"] == state_of(folder)["written"] == [[0, 5000]]


class SlowDisk:
    """fdatasync that begins, and ends when it is let."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: OSError | None = None) -> None:
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)
        self._error = error
        monkeypatch.setattr(os, "fdatasync", self._fdatasync)

    def _fdatasync(self, fd: int) -> None:
        self.begun.release()
        assert self.may_end.acquire(timeout=20)
        if self._error is not None:
            raise self._error


def test_a_flush_stalls_nobody_until_the_next_one_is_due(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch)
    part = part_of(folder, checkpoint=1000)
    part.write(DATA[:1000], 0)
    assert disk.begun.acquire(timeout=20)
    part.write(DATA[1000:1999], 1000)  # returns
    written = threading.Event()

    def write_more() -> None:
        part.write(DATA[1999:2000], 1999)
        written.set()

    writer = threading.Thread(target=write_more)
    writer.start()
    assert not written.wait(0.05), "two checkpoints' worth is not durable"
    disk.may_end.release()
    assert written.wait(20)
    writer.join()
    assert disk.begun.acquire(timeout=20)
    assert state_of(folder)["durable"] == [[0, 1000]], "not what came while it was flushed"
    disk.may_end.release()
    part.close()
    assert state_of(folder)["durable"] == [[0, 2000]]


@pytest.mark.parametrize("how", ["next checkpoint", "next state", "finish"])
def test_a_flush_that_failed_beside_is_told(folder: Folder, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The kernel tells it once: the flush at the end would find nothing wrong."""
    disk = SlowDisk(monkeypatch, OSError(errno.EIO, "lost"))
    part = part_of(folder, checkpoint=1000)
    part.write(DATA[:1000], 0)
    assert disk.begun.acquire(timeout=20)
    disk.may_end.release()
    part.checkpoints.wait()
    monkeypatch.undo()
    if how == "next state":
        monkeypatch.setattr(checkpoints, "WRITTEN_EVERY_BYTES", 10)
    more = DATA[1000 : 2000 if how == "next checkpoint" else 1100]
    with pytest.raises(DiskError, match="the disk reported an error"):
        make_durable(part) if how == "finish" else part.write(more, 1000)
    part.close()


@dataclass
class ReaderAt:
    unread_from: int | None


def test_large_files_leave_the_page_cache_but_for_what_is_to_be_hashed(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, at, length, advice: told.append((at, length)))
    part = part_of(folder)
    part.write(DATA[:1000], 0)
    part.checkpoints.checkpoint()
    assert told == [], "a small file may stay"
    part.learn(total=checkpoints.DROP_FROM_CACHE_BYTES)
    for hashed, advised in ((0, []), (700, [(0, 700)]), (None, [(0, 0)])):
        part.checkpoints.reader = ReaderAt(hashed)
        told.clear()
        part.checkpoints.checkpoint()
        assert told == advised
    part.close()


def test_a_full_disk_keeps_the_old_state(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    part = begin(folder)
    before = (folder.root / "a.bin.part.json").read_bytes()
    part.open()
    part.write(DATA[5000:6000], 5000)
    monkeypatch.setattr(os, "write", lambda fd, data: 3)
    with pytest.raises(DiskError) as raised:
        part.checkpoints.save()
    assert (raised.value.code, raised.value.kind) == ("disk_full", Kind.STOP)
    assert (folder.root / "a.bin.part.json").read_bytes() == before
    assert names(folder) == ["a.bin.part", "a.bin.part.json"]


def test_a_write_that_fails_in_the_middle_counts_what_is_there(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    part, pwrite, calls = part_of(folder), os.pwrite, []

    def failing(fd: int, data: Any, at: int) -> int:
        calls.append(at)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return pwrite(fd, data[:700], at)

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(DiskError, match="full"):
        part.write(DATA[:1000], 0)
    assert held(part) == [(0, 700)]


def test_a_flush_that_fails_is_a_failure_and_claims_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    part = begin(folder)
    part.open()

    def failing(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", failing)
    with pytest.raises(DiskError) as raised:
        part.checkpoints.checkpoint()
    assert raised.value.code == "io_error"
    assert state_of(folder)["durable"] == []


def test_two_writers_never_share_a_part(folder: Folder) -> None:
    begin(folder)
    first = part_of(folder)
    second = Part(folder, "a.bin", KEY, checkpoint=1 << 40)
    with pytest.raises(DiskError) as raised:
        second.open()
    assert raised.value.code == "part_in_use"
    assert not second.files.is_open
    first.close()
    second.open()
    second.close()


# --- Restarts ---------------------------------------------------------------------------------------------------------


def test_a_restart_sets_the_pair_aside_and_the_new_part_overtakes_it(folder: Folder) -> None:
    part = begin(folder)
    part.open()
    part.set_aside()
    assert names(folder) == ["a.bin.part.old", "a.bin.part.old.json"]
    assert held(part) == []
    part.write(DATA[:4000], 0)
    part.checkpoints.save()
    assert "a.bin.part.old" in names(folder), "it still holds more"
    part.write(DATA[4000:6000], 4000)
    part.checkpoints.save()
    assert names(folder) == ["a.bin.part", "a.bin.part.json"]


@pytest.mark.parametrize(("fetched", "stays"), [(4000, 5000), (6000, 6000), (0, 5000)])
def test_who_gives_up_keeps_the_larger_part(folder: Folder, fetched: int, stays: int) -> None:
    part = begin(folder)
    part.open()
    part.set_aside()
    if fetched:
        part.write(DATA[:fetched], 0)
        part.checkpoints.save()
    part.close()
    part.give_up()
    assert names(folder) == ["a.bin.part", "a.bin.part.json"]
    again = part_of(folder)
    assert held(again) == [(0, stays)]
    assert again.state.validators.etag == ('"v1"' if stays == 5000 else None)


def test_refuted_bytes_are_marked_and_never_come_back(folder: Folder) -> None:
    part = begin(folder)
    part.open()
    part.set_aside({"sha256": "ff"})
    assert state_of(folder, ".part.old.json")["refuted"] == {"sha256": "ff"}
    part.give_up()
    assert names(folder) == ["a.bin.part.old", "a.bin.part.old.json"]
    fresh = part_of(folder)
    assert held(fresh) == []
    assert fresh.foreign.found is None


def test_bytes_of_two_versions_are_not_gone_on_from_by_a_run_that_finds_them_in_place(folder: Folder) -> None:
    """Whoever found out was killed before it could set them aside."""
    part = begin(folder)
    part.open()
    part.checkpoints.refute()
    part.close()
    assert names(folder) == ["a.bin.part", "a.bin.part.json"]
    fresh = part_of(folder)
    assert (held(fresh), fresh.foreign.found, fresh.checkpoints.refuted) == ([], None, False)
    assert names(folder) == ["a.bin.part.old", "a.bin.part.old.json"]
    fresh.write(DATA[:100], 0)
    fresh.close()
    fresh.give_up()
    assert (folder.root / "a.bin.part").read_bytes() == DATA[:100], "what is right is worth more than what is larger"


# --- Foreign files ----------------------------------------------------------------------------------------------------


def foreign(folder: Folder, name: str = "a.bin", data: bytes = DATA) -> Path:
    path = folder.root / name
    path.write_bytes(data)
    return path


def test_a_whole_foreign_file_is_adopted_as_it_is(folder: Folder) -> None:
    path = foreign(folder)
    before = path.stat()
    part = part_of(folder)
    assert part.foreign.found is not None
    assert (part.foreign.found.size, part.foreign.found.usable, part.foreign.found.is_part) == (
        len(DATA),
        len(DATA),
        False,
    )
    assert part.read(100, 50) == DATA[100:150]
    part.foreign.adopt()
    assert part.file.is_adopted
    assert held(part) == [(0, len(DATA))]
    part.checkpoints.save()
    part.close()
    now = path.stat()
    assert (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert names(folder) == ["a.bin"]


@pytest.mark.parametrize("name", ["a.bin", "a.bin.part"])
def test_a_foreign_partial_is_taken_over(folder: Folder, name: str) -> None:
    foreign(folder, name, DATA[:5000])
    part = part_of(folder)
    part.foreign.take_over()
    part.write(DATA[5000:6000], 5000)
    part.checkpoints.save()
    part.close()
    assert names(folder) == ["a.bin.part", "a.bin.part.json"]
    assert held(part_of(folder)) == [(0, 6000)]


def test_a_foreign_file_whose_final_name_ends_in_part_is_taken_over(folder: Folder) -> None:
    foreign(folder, "a.part", DATA[:5000])
    part = part_of(folder, "a.part")
    assert part.foreign.found is not None
    assert not part.foreign.found.is_part
    part.foreign.take_over()
    part.learn(total=len(DATA))
    part.write(DATA[5000:], 5000)
    publish(part)
    part.checkpoints.discard()
    part.close()
    assert names(folder) == ["a.part"]
    assert (folder.root / "a.part").read_bytes() == DATA


def test_a_refused_foreign_part_becomes_old_and_never_replaces_another_old(folder: Folder) -> None:
    for round_ in range(3):
        foreign(folder, "a.bin.part", b"foreign %d" % round_)
        part = part_of(folder)
        part.foreign.refuse()
        part.close()
    assert names(folder) == ["a.bin.old", "a.bin.old.1", "a.bin.old.2"]
    assert (folder.root / "a.bin.old").read_bytes() == b"foreign 0"


def test_a_refused_foreign_file_keeps_its_name_until_ours_is_ready(folder: Folder) -> None:
    foreign(folder, data=b"precious")
    part = part_of(folder)
    part.foreign.refuse()
    part.write(DATA, 0)
    assert (folder.root / "a.bin").read_bytes() == b"precious"
    found = publish(part)
    assert (folder.root / "a.bin").read_bytes() == DATA
    assert (folder.root / "a.bin.old").read_bytes() == b"precious"
    assert found.st_size == len(DATA)


def test_a_foreign_file_counts_up_to_its_first_hole_and_not_beside_a_control_file(folder: Folder) -> None:
    with open(folder.root / "a.bin", "wb") as file:
        file.write(b"x" * 65536)
        file.seek(1 << 20)
        file.write(b"y")
    part = part_of(folder)
    assert part.foreign.found is not None
    if part.foreign.found.usable == part.foreign.found.size:
        pytest.skip("this file system knows no holes")
    assert part.foreign.found.usable == 65536
    for neighbour in (".aria2", ".st"):
        (folder.root / f"b.bin{neighbour}").touch()
        foreign(folder, "b.bin")
        other = part_of(folder, "b.bin")
        assert other.foreign.found is not None
        assert other.foreign.found.usable == 0
        other.close()
        (folder.root / f"b.bin{neighbour}").unlink()


# --- What is in the way, and the end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.bin", "a.bin.part"])
@pytest.mark.parametrize(
    "obstacle",
    [lambda path: path.symlink_to("elsewhere"), os.mkfifo, lambda path: path.mkdir()],
    ids=["link", "fifo", "folder"],
)
def test_what_is_no_file_is_refused(folder: Folder, name: str, obstacle: Callable[[Path], None]) -> None:
    obstacle(folder.root / name)
    part = Part(folder, "a.bin", KEY, checkpoint=1 << 40)
    with pytest.raises(DiskError) as raised:
        part.open()
    assert (raised.value.code, raised.value.kind) == ("not_regular", Kind.DISK)
    assert str(folder.root / name) in str(raised.value)
    assert not part.files.is_open


def test_a_part_that_is_not_ours_any_more_is_not_published(folder: Folder) -> None:
    part = part_of(folder)
    part.write(DATA, 0)
    (folder.root / "a.bin.part").unlink()
    (folder.root / "a.bin.part").write_bytes(b"somebody else's")
    with pytest.raises(DiskError) as raised:
        publish(part)
    assert raised.value.code == "part_replaced"
    assert names(folder) == ["a.bin.part"]


def test_a_part_that_another_program_cut_is_not_published(folder: Folder) -> None:
    part = part_of(folder)
    part.learn(total=len(DATA))
    part.write(DATA, 0)
    os.truncate(folder.root / "a.bin.part", 100)
    with pytest.raises(PartChanged) as raised:
        publish(part)
    assert raised.value.code == "part_changed"
    assert names(folder) == ["a.bin.part"]


@pytest.mark.parametrize("has_state", [True, False])
def test_a_state_of_the_first_version_that_a_kill_cut_off_goes(folder: Folder, has_state: bool) -> None:
    part = part_of(folder)
    part.write(DATA, 0)
    part.checkpoints.checkpoint()
    part.close()
    (folder.root / "a.bin.part.json.tmp").touch()
    if not has_state:  # it was the first one
        for name in (".part.json", ".part.sync.json"):
            (folder.root / f"a.bin{name}").unlink()
    found = part_of(folder)
    assert (found.state.have.count == len(DATA)) == has_state
    assert "a.bin.part.json.tmp" not in names(folder)


def test_a_part_that_another_program_cut_right_after_a_write_is_found_out_by_the_next(folder: Folder) -> None:
    """Its time of modification is seen only after both, so it tells nothing; the size that we made does."""
    part = part_of(folder)

    def written_and_cut(fd: int, at: int, data: bytes) -> int:
        count = os.pwrite(fd, data, at)
        os.truncate(folder.root / "a.bin.part", at + count - 100)
        return count

    part.put(written_and_cut, part.fd, 0, DATA)
    with pytest.raises(VersionConflict, match="another program"):
        part.write(DATA, len(DATA))


def test_a_part_that_vanished_between_two_attempts_is_begun_anew(folder: Folder) -> None:
    part = begin(folder)
    part.open()
    part.close()
    (folder.root / "a.bin.part").unlink()
    part.open()
    assert held(part) == []
    assert part.foreign.found is None


def test_reserved_room_changes_no_size(folder: Folder) -> None:
    part = part_of(folder)
    part.learn(total=1 << 20)
    part.write(DATA[:100], 0)
    assert part.unwritten == (1 << 20) - 100
    part.preallocate()
    assert os.fstat(part.fd).st_size == 100
    assert part.unwritten in (0, (1 << 20) - 100)


# --- Small objects, which are written by who finishes them ------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".part.json", ".part.old", ".part.old.json"])
def test_what_an_earlier_run_left_beside_a_small_file_goes(folder: Folder, suffix: str) -> None:
    (folder.root / f"a.bin{suffix}").write_bytes(b"{}")
    opened = Folder(folder.root)
    part = of_nothing(opened)
    part.buffer(DATA)
    make_durable(part)
    publish(part)
    part.checkpoints.discard()
    part.close()
    opened.close()
    assert names(folder) == ["a.bin"]


def of_nothing(folder: Folder, name: str = "a.bin") -> Part:
    part = Part(folder, name, KEY, checkpoint=1 << 40)
    assert part.finds_nothing()
    return part


@pytest.mark.parametrize("name", ["a.bin", "deep/er/a.bin"])
def test_an_object_that_is_held_is_written_when_its_file_is_asked_for(folder: Folder, name: str) -> None:
    part = of_nothing(folder, name)
    part.buffer(DATA)
    assert (names(folder), held(part), part.files.is_open) == ([], [(0, len(DATA))], False)
    part.open()
    assert os.pread(part.fd, len(DATA), 0) == DATA
    found = publish(part)
    part.close()
    assert found.st_size == len(DATA)
    assert folder.path(name).read_bytes() == DATA


@pytest.mark.parametrize("lies", ["a.bin", "a.bin.part"])
def test_what_lies_there_is_found(folder: Folder, lies: str) -> None:
    (folder.root / lies).write_bytes(b"somebody's")
    assert not Part(folder, "a.bin", KEY, checkpoint=1 << 40).finds_nothing()


def test_a_part_that_somebody_began_meanwhile_is_left_alone(folder: Folder) -> None:
    part = of_nothing(folder)
    part.buffer(DATA)
    (folder.root / "a.bin.part").write_bytes(b"somebody's")
    part.open()
    with pytest.raises(DiskError) as caught:
        make_durable(part)
    assert caught.value.code == "part_replaced"
    part.give_up()
    assert (folder.root / "a.bin.part").read_bytes() == b"somebody's"


def test_a_file_that_somebody_put_there_meanwhile_is_kept(folder: Folder) -> None:
    part = of_nothing(folder)
    part.buffer(DATA)
    (folder.root / "a.bin").write_bytes(b"somebody's")
    make_durable(part)
    publish(part)
    part.close()
    assert (folder.root / "a.bin").read_bytes() == DATA
    assert (folder.root / "a.bin.old").read_bytes() == b"somebody's"


def test_a_disk_that_refuses_a_held_object_has_nothing_of_it(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    part = of_nothing(folder)
    part.buffer(DATA)
    write = os.pwrite

    def half(fd: int, data: memoryview, at: int) -> int:
        if at:
            raise OSError(errno.ENOSPC, "")
        return write(fd, data[: len(data) // 2], at)

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(DiskError) as caught:
        make_durable(part)
    assert (caught.value.code, names(folder), held(part)) == ("disk_full", [], [])


def test_a_held_object_that_was_refuted_is_kept_aside(folder: Folder) -> None:
    part = of_nothing(folder)
    part.buffer(DATA)
    assert part.fd >= 0
    part.set_aside({"sha256": "0" * 64})
    part.close()
    assert names(folder) == ["a.bin.part.old", "a.bin.part.old.json"]
    assert (folder.root / "a.bin.part.old").read_bytes() == DATA
