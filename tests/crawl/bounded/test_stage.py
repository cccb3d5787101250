"""BULK_STAGE_MAX: a list goes through a disk that is smaller than it, whatever kills the run."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator

import pytest

from support.crawl import Bulk, kill
from support.faults import chunked_answer
from support.faulty import FaultyOrigin, good, make_body
from support.ondisk import wait_for

KIB = 1024
AT_ONCE = 2
SETTINGS = {"BULK_THEN_AT_ONCE": str(AT_ONCE), "CONCURRENT_REQUESTS_PER_DOMAIN": "8", "BULK_RETRY_TIMES": "10"}


@pytest.fixture
def stage(bulk: Bulk) -> Iterator[Bulk]:
    """A crawl whose output folder is a file system of 2 MiB, where mounting is permitted."""
    bulk.output.mkdir()
    (bulk.folder / "far").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(bulk.output)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield bulk
    finally:
        subprocess.run(["umount", "--lazy", str(bulk.output)], check=False, capture_output=True)


def moves_away(bulk: Bulk) -> list[str]:
    """Notes the name, then copies the file out of the small disk and removes it, as `rclone moveto` does."""
    script = 'echo "$2" >>../handed; cp "$1" "../far/$2" && rm "$1"'
    command = shlex.join(["sh", "-c", script, "sh", "{path}", "{name}"])
    return ["-a", f"then={command}", "-a", "then_moves=1", "-s", "BULK_STAGE_MAX=1600K"]


def handed(bulk: Bulk) -> list[str]:
    path = bulk.folder / "handed"
    return path.read_text().splitlines() if path.exists() else []


def test_a_list_larger_than_its_disk_survives_kills(stage: Bulk, pytestconfig: pytest.Config) -> None:
    """Sixteen files of 300 KiB (with --long 60) through 2 MiB, killed 2 times (10)."""
    files, kills = (60, 10) if pytestconfig.getoption("--long") else (16, 2)
    bodies = {f"{number}.bin": make_body(300 * KIB + number, f"stage {number}") for number in range(files)}
    with FaultyOrigin({path: (good, body) for path, body in bodies.items()}) as origin:
        stage.write_list([f"{path} {origin.url(path)} size={len(body)}" for path, body in bodies.items()])
        killed = 0
        for turn in range(kills):
            goal = files * (turn + 1) // (kills + 1)
            process = stage.start(*moves_away(stage), settings=SETTINGS)
            wait_for(lambda goal=goal, process=process: len(handed(stage)) >= goal or process.poll() is not None)
            killed += process.poll() is None
            kill(process)
            process.communicate()
        assert killed == kills
        ended = stage.run(*moves_away(stage), settings=SETTINGS)
        assert ended.status == 0, ended.log
        assert len(ended.rows) == files
        verified = stage.run("-a", "verify=1")
        assert f"{files} entries: {files} handed on" in verified.log
        # That the disk is smaller than the list is what the command is for, and nothing more is to come.
        assert "only" not in ended.log + verified.log
    names = handed(stage)
    assert set(names) == set(bodies)
    twice = len(names) - files
    print(f"{killed} kills: {twice} files handed on twice")
    assert twice <= killed * AT_ONCE
    for name, body in bodies.items():
        assert (stage.folder / "far" / name).read_bytes() == body
        assert not (stage.output / name).exists()


def test_what_is_larger_fails_at_once_and_unknown_sizes_begin_alone(stage: Bulk) -> None:
    big, small = make_body(1700 * KIB, "big"), make_body(300 * KIB, "small")
    bodies = {"big.bin": big, "stated.bin": small, **{f"{n}.bin": small for n in range(3)}}
    behaviours = {**dict.fromkeys(bodies, good), **{f"{n}.bin": chunked_answer() for n in range(3)}}
    with FaultyOrigin({path: (behaviours[path], body) for path, body in bodies.items()}) as origin:
        stage.write_list(
            [f"{path} {origin.url(path)}" for path in bodies if path != "stated.bin"]
            + [f"stated.bin {origin.url('stated.bin')} size={1700 * KIB}"]
        )
        ended = stage.run(*moves_away(stage), settings=SETTINGS)
        assert ended.status == 4, ended.log
        assert {name: ended.row(name)["error"]["code"] for name in ("big.bin", "stated.bin")} == {
            "big.bin": "too_large",
            "stated.bin": "too_large",
        }
        assert origin.requests_for("stated.bin") == []
        assert sorted(handed(stage)) == ["0.bin", "1.bin", "2.bin"]
        # None was asked for before the one before it had been taken away.
        assert len(origin.requests_for("0.bin") + origin.requests_for("1.bin") + origin.requests_for("2.bin")) == 3


@pytest.mark.parametrize("size", ["", f" size={1500 * KIB}"])
def test_what_an_earlier_run_left_gives_way_when_nothing_else_can_go_on(stage: Bulk, size: str) -> None:
    body = make_body(1500 * KIB, "body")
    with FaultyOrigin({"a.bin": (good, body)}) as origin:
        # A part of an entry that the list does not have any more.
        (stage.output / "left.bin.part").write_bytes(b"x" * 400 * KIB)
        stage.write_list([f"a.bin {origin.url('a.bin')}{size}"])
        ended = stage.run(*moves_away(stage), settings=SETTINGS)
        assert ended.status == 0, ended.log
        assert "left.bin: its unfinished part is removed" in ended.log
        assert (stage.folder / "far/a.bin").read_bytes() == body
