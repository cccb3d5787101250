"""A power cut at any moment: what is there afterwards claims nothing that is not so, and the files can be ended from it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from bulkspider.disk.commit import CommitRequest, Committer, FilesystemFlush, Flusher
from bulkspider.disk.files import statefile
from bulkspider.disk.finished.ledger import Ledger
from bulkspider.disk.finished.proof import Proof
from bulkspider.disk.folder.folder import Folder
from bulkspider.disk.part import Part
from bulkspider.protocol.ranges import Ranges
from support.faulty import make_body
from support.volatile import Recorder, image

KEY = "k" * 64
KIB = 1024
BODIES = {
    "a.bin": make_body(400 * KIB, "a"),
    "deep/b.bin": make_body(300 * KIB, "b"),
    "small.bin": make_body(900, "small"),
}
LARGE = tuple(BODIES)
SMALL = tuple(f"many/{number}.bin" for number in range(12))
BODIES |= {name: make_body(700 + 100 * number, name) for number, name in enumerate(SMALL)}
STEP = 24 * KIB


def holes(have: Ranges, total: int) -> list[tuple[int, int]]:
    at, found = 0, []
    while at < total:
        held = have.end_of(at)
        if held > at:
            at = held
            continue
        end = have.next_after(at) or total
        found.append((at, min(end, total)))
        at = end
    return found


def end_file(folder: Folder, ledger: Ledger, committer: Committer, name: str, *, checkpoint: int = 64 * KIB) -> None:
    """Writes what is missing of a file, and gives it its name."""
    body = BODIES[name]
    part = Part(folder, name, KEY, checkpoint=checkpoint)
    part.open()
    if part.foreign.found is not None:
        part.foreign.refuse()
    part.learn(total=len(body))
    chance = random.Random(name)
    pieces = [
        (at, min(at + STEP, end)) for first, end in holes(part.state.have, len(body)) for at in range(first, end, STEP)
    ]
    chance.shuffle(pieces)  # as several connections bring them
    for number, (first, end) in enumerate(pieces):
        part.write(body[first:end], first)
        if number % 3 == 2:
            part.checkpoints.save()
    committer.submit(CommitRequest(part, ledger, KEY, Proof("complete", {}))).result(timeout=30)


class Everything:
    def __contains__(self, item: object) -> bool:
        return True


def end_small_files(folder: Folder, ledger: Ledger, committer: Committer) -> None:
    """A group of files that are only in memory until they are committed."""
    group = []
    for name in SMALL:
        if ledger.find(name) is not None:
            continue
        part = Part(folder, name, KEY, checkpoint=1 << 40)
        if part.finds_nothing():
            part.learn(total=len(BODIES[name]))
            part.buffer(BODIES[name])
            group.append(CommitRequest(part, ledger, KEY, Proof("complete", {})))
        else:
            end_file(folder, ledger, committer, name)
    committer.commit_together(group)
    for request in group:
        request.done.result(timeout=30)


def run(root: Path, flusher: Flusher | None = None) -> None:
    folder = Folder(root)
    ledger, committer = Ledger(folder.private, dir_fd=folder.private_fd), Committer(flusher)
    try:
        ledger.load()
        for name in LARGE:
            if ledger.find(name) is None:
                end_file(folder, ledger, committer, name)
        end_small_files(folder, ledger, committer)
    finally:
        committer.close()
        ledger.close()
        folder.close()


@pytest.mark.timeout(3600)
def test_what_a_power_cut_leaves_is_true_and_can_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    images = 5_000 if pytestconfig.getoption("--long") else 25
    root = tmp_path / "out"
    root.mkdir()
    with monkeypatch.context() as patched:
        recorder = Recorder(root, patched)
        together = FilesystemFlush(recorder.syncfs, filesystems=Everything(), dirty=lambda: 0)
        run(root, Flusher(together))
    kinds = {event.kind for event in recorder.events}
    assert kinds >= {"write", "sync", "syncfs", "syncdir", "link", "rename"}, kinds
    assert all((root / name).read_bytes() == body for name, body in BODIES.items())
    monkeypatch.setattr(statefile, "BOOT_ID", "after the power cut")
    claimed = proven = 0
    for number in range(images):
        chance = random.Random(number)
        end = chance.randint(1, len(recorder.events))
        there = tmp_path / "image"
        shutil.rmtree(there, ignore_errors=True)
        there.mkdir()
        image(recorder, end, chance, there)
        where = f"image {number}, after {end} of {len(recorder.events)} events"
        for name, body in BODIES.items():
            named = there / name
            assert not named.exists() or named.read_bytes() == body, f"{where}: {name} is wrong"
        folder = Folder(there)
        ledger = Ledger(folder.private, dir_fd=folder.private_fd)
        ledger.load()
        for name, body in BODIES.items():
            if ledger.find(name) is not None:
                assert (there / name).exists(), f"{where}: the ledger claims {name}"
                proven += 1
                continue
            part = Part(folder, name, KEY, checkpoint=1 << 40)
            part.open()
            if part.foreign.found is None:
                for first, last in part.state.have:
                    assert part.read(first, last - first) == body[first:last], f"{where}: {name} claims {first}-{last}"
                    claimed += last - first
            part.close()
        ledger.close()
        folder.close()
        run(there)
        assert all((there / name).read_bytes() == body for name, body in BODIES.items()), f"{where}: not ended"
    assert claimed, "no image had a part that knew of durable bytes"
    assert proven
    print(f"{images} images of {len(recorder.events)} events")
