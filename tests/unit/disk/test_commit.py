"""The finish: the order of its steps, groups, and failures that stay with their own file."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import os
import stat
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from bulkspider.disk.commit import CommitRequest, Committer, FilesystemFlush, Flusher
from bulkspider.disk.finished.hashing import IncrementalHasher, algorithms_for
from bulkspider.disk.finished.ledger import Ledger
from bulkspider.disk.finished.line import LedgerLine
from bulkspider.disk.finished.proof import Proof, Refuted, prove, prove_again
from bulkspider.disk.folder.folder import Folder
from bulkspider.disk.part import Part
from bulkspider.errors import BulkError, DiskError, Stopped
from bulkspider.protocol.digests import claims
from support.crawl import sha256

KEY = "k" * 64
DATA = bytes(range(256)) * 40


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    opened = Folder(tmp_path / "out")
    yield opened
    opened.close()


@pytest.fixture
def ledger(folder: Folder) -> Iterator[Ledger]:
    opened = Ledger(folder.private)
    opened.load()
    yield opened
    opened.close()


@pytest.fixture
def committer() -> Iterator[Committer]:
    one = Committer()
    yield one
    with contextlib.suppress(BaseException):
        one.close()


def ready(folder: Folder, ledger: Ledger, name: str = "a.bin", data: bytes = DATA) -> CommitRequest:
    part = Part(folder, name, KEY, checkpoint=1 << 40)
    part.open()
    part.learn(total=len(data))
    part.write(data, 0)
    part.checkpoints.save()
    return CommitRequest(part, ledger, KEY, Proof("complete", {}))


def line_of(future: Future[LedgerLine]) -> LedgerLine:
    return future.result(timeout=30)


def reloaded(folder: Folder) -> Ledger:
    fresh = Ledger(folder.private)
    fresh.load()
    return fresh


def test_a_finished_file_leaves_nothing_that_the_interpreter_must_search_for(
    folder: Folder, ledger: Ledger, committer: Committer
) -> None:
    class Download:
        """As `run/download.py`: it has the part, and the part has it as its reader."""

        unread_from = None

        def __init__(self, request: CommitRequest) -> None:
            self.part = request.part
            self.part.checkpoints.reader = self

    gc.disable()
    try:
        request = ready(folder, ledger)
        download = Download(request)
        line_of(committer.submit(request))
        committer.close()  # its thread has forgotten the request then
        seen = weakref.ref(download), weakref.ref(request.part)
        del download, request
        assert [of() for of in seen] == [None, None]
    finally:
        gc.enable()


# --- The order --------------------------------------------------------------------------------------------------------


class Recorder:
    """Every step that leaves a mark on the disk, in order: (step, which file or folder)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[str, str]] = []
        for name in ("fdatasync", "fsync"):
            monkeypatch.setattr(os, name, self._of_descriptor(name, getattr(os, name)))
        rename, unlink = os.rename, os.unlink

        def renamed(source: str, target: str, **places: int) -> None:
            rename(source, target, **places)
            self.steps.append(("rename", str(target)))

        def unlinked(path: str, **places: int) -> None:
            unlink(path, **places)
            self.steps.append(("unlink", str(path)))

        monkeypatch.setattr(os, "rename", renamed)
        monkeypatch.setattr(os, "unlink", unlinked)

    def _of_descriptor(self, name: str, original: Any) -> Any:
        def called(fd: int) -> None:
            original(fd)
            what = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
            self.steps.append((name, f"{what}/" if stat.S_ISDIR(os.fstat(fd).st_mode) else what))

        return called

    def at(self, step: str, what: str) -> int:
        return self.steps.index((step, what))


def test_bytes_then_name_then_folder_then_ledger_then_state(
    folder: Folder, ledger: Ledger, committer: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = ready(folder, ledger)
    recorder = Recorder(monkeypatch)
    line = line_of(committer.submit(finished))
    committer.close()
    flushed = next(
        n for n, (step, what) in enumerate(recorder.steps) if step in ("fsync", "fdatasync") and "ledger" in what
    )
    order = [
        recorder.at("fdatasync", "a.bin.part"),
        recorder.at("rename", "a.bin"),
        recorder.at("fsync", "out/"),
        flushed,
        recorder.at("unlink", "a.bin.part.json"),
    ]
    assert order == sorted(order), recorder.steps
    assert (folder.root / "a.bin").read_bytes() == DATA
    assert sorted(path.name for path in folder.root.iterdir()) == [".bulkspider", "a.bin"]
    found = (folder.root / "a.bin").stat()
    assert (line.size, line.mtime_ns, line.status) == (len(DATA), found.st_mtime_ns, "complete")
    assert reloaded(folder).find("a.bin") == line


def test_files_that_are_ready_together_share_their_flushes(
    folder: Folder, ledger: Ledger, committer: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = [ready(folder, ledger, f"{n}.bin") for n in range(30)]
    group += [ready(folder, ledger, f"sub/{n}.bin") for n in range(30)]
    recorder = Recorder(monkeypatch)
    committer.commit_together(group)
    assert all(finished.done.done() for finished in group)
    assert [recorder.steps.count(("fsync", place)) for place in ("out/", "sub/")] == [1, 1]
    assert len([1 for step, what in recorder.steps if "sync" in step and "ledger" in what]) == 1
    assert len([1 for step, what in recorder.steps if step == "fdatasync" and what.endswith(".part")]) == 60
    first_name = min(n for n, (step, _) in enumerate(recorder.steps) if step == "rename")
    last_flush = max(
        n for n, (step, what) in enumerate(recorder.steps) if what.endswith(".part") and step == "fdatasync"
    )
    assert last_flush < first_name
    fresh = reloaded(folder)
    assert all(fresh.find(finished.part.name) for finished in group)


def in_memory(folder: Folder, ledger: Ledger, name: str) -> CommitRequest:
    """A small file that is not on disk yet."""
    part = Part(folder, name, KEY, checkpoint=1 << 40)
    assert part.finds_nothing()
    part.learn(total=len(DATA))
    part.buffer(DATA)
    return CommitRequest(part, ledger, KEY, Proof("complete", {}))


def all_kinds() -> range:
    """Every `f_type`, so that the test does not depend on the file system that it runs on."""
    return range(1 << 32)


@pytest.mark.parametrize("works", [True, False])
def test_small_files_are_flushed_together_or_else_one_by_one(
    folder: Folder, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:

    def syncfs(fd: int) -> int:
        recorder.steps.append(("syncfs", ""))
        written = sorted(path.name for path in folder.root.glob("**/*.part"))
        assert written == sorted(f"{n}.bin.part" for n in range(41))
        assert all(path.read_bytes() == DATA for path in folder.root.glob("**/*.part"))
        return 0 if works else -1

    together = FilesystemFlush(syncfs, filesystems=all_kinds(), dirty=lambda: 0)
    committer = Committer(Flusher(together))
    group = [in_memory(folder, ledger, f"{'sub/' * (n % 2)}{n}.bin") for n in range(40)]
    group.append(ready(folder, ledger, "40.bin"))
    recorder = Recorder(monkeypatch)
    committer.commit_together(group)
    assert [line_of(request.done).size for request in group] == [len(DATA)] * 41
    steps = [step for step, what in recorder.steps if step in ("syncfs", "rename") or what.endswith(".part")]
    assert steps.count("syncfs") == 1
    assert steps.count("fdatasync") == (1 if works else 41)
    assert steps[0] == "syncfs"
    assert "rename" not in steps[: steps.count("fdatasync") + 1], "no name before all is durable"
    committer.close()


def test_a_file_system_is_not_flushed_while_others_have_much_to_be_written(folder: Folder, ledger: Ledger) -> None:
    def syncfs(fd: int) -> int:
        raise AssertionError("it would write the others' bytes")

    for kinds, dirty in ((all_kinds(), 1 << 40), (range(0), 0)):
        together = FilesystemFlush(syncfs, filesystems=kinds, dirty=lambda dirty=dirty: dirty)
        committer = Committer(Flusher(together))
        group = [in_memory(folder, ledger, f"{dirty}-{n}.bin") for n in range(40)]
        committer.commit_together(group)
        assert all(line_of(request.done) for request in group)
        committer.close()


def test_a_file_system_that_cannot_be_flushed_is_asked_once(folder: Folder, ledger: Ledger) -> None:
    asked = []
    together = FilesystemFlush(lambda fd: asked.append(fd) or -1, filesystems=all_kinds(), dirty=lambda: 0)
    committer = Committer(Flusher(together))
    for first in (0, 20):
        group = [in_memory(folder, ledger, f"{n}.bin") for n in range(first, first + 20)]
        committer.commit_together(group)
        assert [line_of(request.done).size for request in group] == [len(DATA)] * 20
    assert len(asked) == 1
    committer.close()


def test_a_small_file_that_cannot_be_written_fails_alone(folder: Folder, ledger: Ledger) -> None:
    together = FilesystemFlush(lambda fd: 0, filesystems=all_kinds(), dirty=lambda: 0)
    committer = Committer(Flusher(together))
    group = [in_memory(folder, ledger, f"{n}.bin") for n in range(20)]
    (folder.root / "7.bin.part").write_bytes(b"another's")
    committer.commit_together(group)
    error = group[7].done.exception()
    assert isinstance(error, DiskError)
    assert error.code == "part_replaced"
    assert (folder.root / "7.bin.part").read_bytes() == b"another's"
    assert [n for n, request in enumerate(group) if request.done.exception() is None] == [*range(7), *range(8, 20)]
    committer.close()


def test_this_systems_own_call_makes_files_durable(folder: Folder, ledger: Ledger) -> None:
    committer = Committer(Flusher(FilesystemFlush(dirty=lambda: 0)))
    group = [in_memory(folder, ledger, f"{n}.bin") for n in range(20)]
    committer.commit_together(group)
    assert [line_of(request.done).size for request in group] == [len(DATA)] * 20
    assert all((folder.root / f"{n}.bin").read_bytes() == DATA for n in range(20))
    committer.close()


def test_many_files_submitted_at_once_all_get_their_names(folder: Folder, ledger: Ledger, committer: Committer) -> None:
    futures = [committer.submit(ready(folder, ledger, f"{n}.bin", DATA[:n])) for n in range(1, 300)]
    assert [line_of(future).size for future in futures] == list(range(1, 300))
    committer.close()
    assert all((folder.root / f"{n}.bin").stat().st_size == n for n in range(1, 300))


def test_closing_commits_what_was_submitted(folder: Folder, ledger: Ledger, committer: Committer) -> None:
    futures = [committer.submit(ready(folder, ledger, f"{n}.bin")) for n in range(20)]
    committer.close()
    assert all(future.done() and future.exception() is None for future in futures)
    committer.close()


# --- Failures ---------------------------------------------------------------------------------------------------------


def failing_for(monkeypatch: pytest.MonkeyPatch, name: str, part: str, code: int) -> None:
    original = getattr(os, name)

    def called(fd: int) -> None:
        if part in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(code, os.strerror(code))
        original(fd)

    monkeypatch.setattr(os, name, called)


def commit(committer: Committer, group: list[CommitRequest]) -> None:
    committer.commit_together(group)


def test_bytes_that_cannot_be_made_durable_get_no_name(
    folder: Folder, ledger: Ledger, committer: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = [ready(folder, ledger, f"{n}.bin") for n in range(3)]
    failing_for(monkeypatch, "fdatasync", "/1.bin.part", 5)
    commit(committer, group)
    error = group[1].done.exception()
    assert isinstance(error, DiskError)
    assert error.code == "io_error"
    assert not (folder.root / "1.bin").exists()
    assert (folder.root / "1.bin.part").read_bytes() == DATA
    assert (folder.root / "1.bin.part.json").exists()
    fresh = reloaded(folder)
    assert fresh.find("1.bin") is None
    for n in (0, 2):
        assert line_of(group[n].done) == fresh.find(f"{n}.bin")


def test_a_name_that_is_taken_fails_alone(folder: Folder, ledger: Ledger, committer: Committer) -> None:
    group = [ready(folder, ledger, f"{n}.bin") for n in range(4)]
    (folder.root / "1.bin").mkdir()
    (folder.root / "2.bin.part").unlink()
    commit(committer, group)
    errors = [finished.done.exception() for finished in group]
    assert [isinstance(error, DiskError) and error.code for error in errors] == [
        False,
        "not_regular",
        "part_replaced",
        False,
    ]
    assert reloaded(folder).find("1.bin") is None


@pytest.mark.parametrize(
    ("error", "code"),
    [(OSError(errno.EIO, "Input/output error"), "io_error"), (ValueError("not expected"), "thread_died")],
)
def test_a_file_that_cannot_be_opened_for_its_commit_fails_alone(
    folder: Folder, ledger: Ledger, committer: Committer, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    group = [ready(folder, ledger, f"{n}.bin") for n in range(4)]
    for request in group:
        request.part.close()
    original = os.dup
    numbers = itertools.count()

    def dup(fd: int) -> int:
        if next(numbers) == 2:
            raise error
        return original(fd)

    monkeypatch.setattr(os, "dup", dup)
    commit(committer, group)
    failed = [request for request in group if request.done.exception() is not None]
    assert [getattr(request.done.exception(), "code", None) for request in failed] == [code]
    assert not failed[0].part.files.is_open
    assert sum((folder.root / f"{n}.bin").exists() for n in range(4)) == 3


def test_a_folder_that_cannot_be_flushed_leaves_its_files_out_of_the_ledger(
    folder: Folder, ledger: Ledger, committer: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = [ready(folder, ledger, name) for name in ("a.bin", "sub/b.bin", "sub/c.bin")]
    failing_for(monkeypatch, "fsync", "/sub", 5)
    commit(committer, group)
    assert [isinstance(finished.done.exception(), DiskError) for finished in group] == [False, True, True]
    fresh = reloaded(folder)
    assert fresh.find("a.bin") is not None
    assert fresh.find("sub/b.bin") is None


def test_a_ledger_that_cannot_be_written_is_told_and_the_files_are_right(
    folder: Folder, ledger: Ledger, committer: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = [ready(folder, ledger, f"{n}.bin") for n in range(2)]

    def full(lines: Any) -> None:
        raise DiskError("full", code="disk_full")

    monkeypatch.setattr(ledger, "append", full)
    commit(committer, group)
    assert [str(finished.done.exception()) for finished in group] == ["full", "full"]
    assert all((folder.root / f"{n}.bin").read_bytes() == DATA for n in range(2))


def test_an_adopted_file_keeps_name_bytes_and_time(folder: Folder, ledger: Ledger, committer: Committer) -> None:
    (folder.root / "a.bin").write_bytes(DATA)
    before = (folder.root / "a.bin").stat()
    part = Part(folder, "a.bin", KEY, checkpoint=1 << 40)
    part.open()
    part.foreign.adopt()
    finished = CommitRequest(part, ledger, KEY, Proof("complete", {}), in_place=True, flags=("adopted",))
    line = line_of(committer.submit(finished))
    now = (folder.root / "a.bin").stat()
    assert (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert (line.mtime_ns, line.flags) == (before.st_mtime_ns, ("adopted",))


# --- Proof ------------------------------------------------------------------------------------------------------------


def proved(part: Part, expected: Mapping[str, str], *, length_proven: bool = True, stop: bool = False) -> Proof:
    wanted = algorithms_for(expected, "auto")
    stated = claims("list", expected)
    follower = IncrementalHasher(wanted) if wanted else None
    return prove(part, total=len(DATA), expected=stated, length_proven=length_proven, hasher=follower, stop=lambda: stop)  # fmt: skip


def test_what_bytes_are_worth(folder: Folder, ledger: Ledger) -> None:
    part = ready(folder, ledger).part
    assert proved(part, {}) == Proof("complete", {})
    assert proved(part, {}, length_proven=False) == Proof("unproven", {})
    right = {"sha256": sha256(DATA)}
    assert proved(part, right) == Proof("verified", right, "list")
    assert proved(part, right, length_proven=False) == Proof("verified", right, "list"), "a hash proves the length too"
    with pytest.raises(Refuted) as raised:
        proved(part, {"sha256": "0" * 64})
    assert sha256(DATA) in str(raised.value)
    assert "0" * 64 in str(raised.value)
    assert raised.value.found == right
    with pytest.raises(Stopped):
        proved(part, right, stop=True)


@pytest.mark.parametrize(
    ("expected", "policy", "algorithms"),
    [
        ((), "auto", ()),
        ((), "sha256", ("sha256",)),
        ((), "off", ()),
        (("md5",), "auto", ("md5",)),
        (("md5",), "off", ()),
        (("md5",), "sha256", ("md5", "sha256")),
        (("sha256", "crc32c"), "auto", ("crc32c", "sha256")),
    ],
)
def test_which_hashes_are_computed(expected: tuple[str, ...], policy: str, algorithms: tuple[str, ...]) -> None:
    assert sorted(algorithms_for(expected, policy)) == sorted(algorithms)


def test_a_touched_file_is_proven_again_or_not(folder: Folder, ledger: Ledger, committer: Committer) -> None:
    line = line_of(committer.submit(ready(folder, ledger)))
    os.utime(folder.root / "a.bin", (1, 1))
    assert prove_again(folder, ledger, line, claims("list", {"sha256": "0" * 64}), lambda: False) is None
    renewed = prove_again(folder, ledger, line, claims("list", {"sha256": sha256(DATA)}), lambda: False)
    assert renewed is not None
    assert (renewed.status, renewed.mtime_ns, renewed.digests) == ("verified", 1_000_000_000, {"sha256": sha256(DATA)})
    assert reloaded(folder).find("a.bin") == renewed
    with pytest.raises(Stopped):
        prove_again(folder, ledger, line, claims("list", {"sha256": sha256(DATA)}), lambda: True)
    (folder.root / "a.bin").unlink()
    with pytest.raises(BulkError):
        prove_again(folder, ledger, line, claims("list", {"sha256": sha256(DATA)}), lambda: False)
