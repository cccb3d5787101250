"""Output folders at every stage, left by the frozen version: the present one continues each as the frozen one would.

It asks for no byte that the frozen version does not ask for, and makes the same requests where one connection at a
time makes their order certain. All files of a folder are in one crawl, each under a name that says how it was left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gate.corpus import OF_CONNECTIONS, Job, hold, partly, wait_for
from gate.rows import Before, Foreign, Held, sha256
from support.faults import (
    accept_ranges_none,
    as_if,
    chunked_answer,
    close_delimited,
    closes_after_answer,
    cut_after,
    empty_200,
    extra_bytes,
    gzip_encoded,
    html_instead,
    in_turn,
    redirect_to,
    status,
)
from support.faulty import Behaviour, FaultyOrigin, Resource, good, make_body
from support.redisserver import RedisServer
from support.versions import Version

pytestmark = pytest.mark.timeout(900)

MIB = 1024 * 1024
BODY = make_body(2 * MIB)
OTHER = make_body(2 * MIB, "another version")


@pytest.fixture
def job(tmp_path: Path, frozen: Version) -> Iterator[Job]:
    with FaultyOrigin() as origin:
        yield Job(tmp_path, origin, frozen)


def part_of(job: Job, name: str) -> Path:
    return job.output / f"{name}.part"


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def written(job: Job, name: str) -> list[list[int]]:
    """The byte ranges that the state of a part knows."""
    path = job.output / f"{name}.part.json"
    return json.loads(path.read_text())["written"] if path.exists() else []


# --- Killed, stopped, cut from power ----------------------------------------------------------------------------------


def in_the_middle(job: Job) -> None:
    """Files whose answers stop at the first byte, after a few, after many; two that are done; one that never begins."""
    for name, length in (("headers-only", 0), ("few-bytes", 1_000), ("half", MIB), ("all-but-one", 2 * MIB - 1)):
        job.serve(name, hold(length), BODY)
    job.serve("no-length", chunked_answer(), BODY)
    job.serve("done", good, BODY)
    # An answer of which nothing comes: no file yet.
    job.serve("silent", lambda exchange: exchange.stall(), BODY)
    job.write_list()


def is_in_the_middle(job: Job) -> bool:
    return (
        size_of(part_of(job, "few-bytes")) == 1_000
        and all(size_of(part_of(job, name)) >= MIB and written(job, name) for name in ("half", "all-but-one"))
        and all((job.output / name).exists() for name in ("done", "no-length"))
    )


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT", "SIGTERM", "power-cut"])
def test_ended_in_the_middle_of_one_connection_per_file(job: Job, how: str) -> None:
    in_the_middle(job)
    with job.begin(job.command()) as running:
        wait_for(lambda: is_in_the_middle(job), running)
        running.signal(signal.SIGKILL if how == "power-cut" else getattr(signal, how))
        running.wait(60)
    if how == "power-cut":
        for path in job.output.glob("*.part.json"):
            path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "another boot"}))
    job.serve_all()
    job.keep()
    ended = job.compare(f"ended-{how}", job.command())
    assert ended.status == 0, ended.log


@pytest.mark.parametrize("then", ["1", "4"])
def test_killed_in_the_middle_of_several_connections_per_file(job: Job, then: str) -> None:
    """then: connections of the run that continues."""
    several = {"BULK_SEGMENT_MIN": "128K", "BULK_SEGMENTS": "4"}
    for number in range(3):
        job.serve(f"file{number}", hold(300_000 + number), make_body(2 * MIB + number, str(number)))
    job.write_list()
    with job.begin(job.command(**several)) as running:
        wait_for(lambda: all(len(written(job, name)) >= 2 for name in job.urls), running)
        running.kill()
    job.serve_all()
    job.keep()
    ignored = (*OF_CONNECTIONS, "bulk/attempts") if then == "4" else ()
    ended = job.compare(f"connections-{then}", job.command(**{**several, "BULK_SEGMENTS": then}), ignored=ignored)
    assert ended.status == 0, ended.log


# --- Set aside: `.old`, `.part.old` -----------------------------------------------------------------------------------


def test_files_and_parts_that_were_set_aside(job: Job) -> None:
    right, changed = f"sha256={sha256(BODY)}", Resource(OTHER, etag='"v2"')
    job.output.mkdir(exist_ok=True)
    fields = {}

    def begin(name: str, behaviour: Behaviour, before: Before | None = None, line: str = "") -> None:
        job.serve(name, behaviour, BODY)
        fields[name] = line
        if before is not None:
            before.put(job.output / name, job.urls[name])

    begin("foreign-is-old", good, Foreign(OTHER))
    begin("foreign-longer-is-old", good, Foreign(BODY + b"more"))
    begin("foreign-not-yet-old", hold(400_000), Foreign(OTHER))
    begin("foreign-part-goes-on", hold(400_000), Foreign(BODY[:MIB], ".part"))
    begin("foreign-file-goes-on", hold(400_000), Foreign(BODY[:MIB]))
    begin("changed", in_turn(cut_after(MIB), partly(changed, 400_000)))
    begin("changed-and-gone", in_turn(cut_after(MIB), partly(changed, 400_000)))
    begin("changed-and-back", in_turn(cut_after(MIB), partly(changed, 400_000)))
    begin("refuted", as_if(body=OTHER), line=right)
    begin("refuted-still", as_if(body=OTHER), line=right)
    begin("refuted-without-ranges", accept_ranges_none(), Held(OTHER[:MIB], total=2 * MIB), line=right)
    job.write_list(fields)
    held = ("foreign-not-yet-old", "foreign-part-goes-on", "foreign-file-goes-on")
    held += ("changed", "changed-and-gone", "changed-and-back")
    done = ("foreign-is-old", "foreign-longer-is-old", "refuted-without-ranges")

    def is_set_aside() -> bool:
        return (
            all(written(job, name) and size_of(part_of(job, name)) >= 400_000 for name in held)
            and all((job.output / f"{name}.part.old").exists() for name in ("changed", "refuted", "refuted-still"))
            and all((job.output / f"{name}.part.old").exists() for name in ("changed-and-gone", "changed-and-back"))
            and all((job.output / name).exists() for name in done)
            and len(job.origin.requests_for("refuted")) >= 2 <= len(job.origin.requests_for("refuted-still"))
        )

    with job.begin(job.command()) as running:
        wait_for(is_set_aside, running)
        running.kill()
    job.serve_all()
    job.serve("changed", good, changed)
    job.serve("changed-and-gone", status(404), changed)
    job.serve("refuted-still", as_if(body=OTHER), BODY)
    job.keep()
    job.compare("set-aside", job.command())


# --- Finished, and then something happened ----------------------------------------------------------------------------


def finished(job: Job) -> None:
    names = ("same", "touched", "shortened", "deleted", "overwritten", "renamed-url", "size-contradicts")
    names += ("hash-contradicts", "in/a/folder", "became-a-folder")
    for name in names:
        job.serve(name, good, BODY)
    job.serve("unproven", close_delimited(provable=False), BODY)
    job.serve("verified", good, BODY)
    job.serve("not-found", status(404), BODY)
    job.write_list({"verified": f"sha256={sha256(BODY)}"})
    ended = job.finish(job.command())
    assert ended.status == 4, ended.log
    output = job.output
    os.utime(output / "touched", (1, 1))
    os.truncate(output / "shortened", MIB)
    (output / "deleted").unlink()
    (output / "overwritten").write_bytes(OTHER)
    (output / "became-a-folder").unlink()
    (output / "became-a-folder").mkdir()
    with (output / ".bulkspider" / "ledger.jsonl").open("ab") as ledger:
        ledger.write(b'{"name": "same", "key": "torn')
    job.urls["renamed-url"] = job.origin.url("renamed-url") + "?version=2"
    job.write_list({"size-contradicts": "size=7", "hash-contradicts": f"sha256={sha256(OTHER)}"})
    job.keep()


@pytest.mark.parametrize("then", ["run", "verify", "dry-run"])
def test_finished_files_that_were_changed_or_not(job: Job, then: str) -> None:
    finished(job)
    if then == "dry-run":
        command = ["scrapy", "bulk", str(job.list), "-o", str(job.output), "--dry-run"]
    else:
        command = job.command(*(("-a", "verify=1") if then == "verify" else ()))
    job.compare(f"finished-{then}", command)


def test_a_dry_run_of_a_job_that_was_killed(job: Job) -> None:
    in_the_middle(job)
    with job.begin(job.command()) as running:
        wait_for(lambda: is_in_the_middle(job), running)
        running.kill()
    job.serve_all()
    job.keep()
    job.compare("killed-dry-run", ["scrapy", "bulk", str(job.list), "-o", str(job.output), "--dry-run"])


# --- No room ----------------------------------------------------------------------------------------------------------

# Whoever may not mount a file system has a limit for the size of a file: another errno, the same way of stopping.
LIMIT = 1_500_000
LIMITED = (
    "import os, resource, sys;"
    f"resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT}, resource.RLIM_INFINITY));"
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def without_room(job: Job) -> None:
    for number in range(4):
        job.serve(f"large{number}", good, make_body(2 * MIB + number, f"large {number}"))
        job.serve(f"unknown{number}", chunked_answer(), make_body(2 * MIB + number, f"unknown {number}"))
        job.serve(f"small{number}", good, make_body(100_000 + number, f"small {number}"))
    job.write_list()


def test_files_that_were_too_large(job: Job) -> None:
    without_room(job)
    ended = job.finish(job.command(CONCURRENT_REQUESTS="2"), prefix=[sys.executable, "-c", LIMITED])
    assert ended.status == 3, ended.log
    job.keep()
    ended = job.compare("too-large", job.command())
    assert ended.status == 0, ended.log


def test_a_disk_that_was_full(job: Job) -> None:
    if os.geteuid() != 0:
        pytest.skip("mount needs root")
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(job.output)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mount is not permitted here")
    try:
        without_room(job)
        ended = job.finish(job.command(CONCURRENT_REQUESTS="2"))
        assert ended.status == 3, ended.log
        job.keep()
    finally:
        subprocess.run(["umount", "--lazy", str(job.output)], check=False, capture_output=True)
    ended = job.compare("full-disk", job.command())
    assert ended.status == 0, ended.log


# --- Shards, JOBDIR, a queue ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("then", ["whole", "3/3"])
def test_shards_of_which_one_was_killed(job: Job, then: str) -> None:
    for number in range(12):
        job.serve(f"file{number}", good, make_body(MIB + number, str(number)))
    job.write_list()
    ended = job.finish(job.command("-a", "shard=1/3"))
    assert ended.status == 0, ended.log
    job.serve_all(hold(500_000))
    with job.begin(job.command("-a", "shard=2/3")) as running:
        wait_for(lambda: sum(bool(written(job, name)) for name in job.urls) >= 2, running)
        running.kill()
    job.serve_all()
    job.keep()
    ended = job.compare(f"shards-{then}", job.command(*(() if then == "whole" else ("-a", f"shard={then}"))))
    assert ended.status == 0, ended.log


def test_a_jobdir(job: Job) -> None:
    for number in range(6):
        job.serve(f"file{number}", hold(MIB) if number else good, make_body(2 * MIB + number, str(number)))
    job.write_list()
    settings = {"JOBDIR": str(job.home / "job"), "CONCURRENT_REQUESTS": "2"}
    with job.begin(job.command(**settings)) as running:
        wait_for(lambda: bool(written(job, "file1") and written(job, "file2")), running)
        running.signal(signal.SIGINT)
        running.wait(60)
    job.serve_all()
    job.keep()
    ended = job.compare("jobdir", job.command(**settings))
    assert ended.status == 0, ended.log


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_a_queue_of_which_half_is_done(job: Job, how: str) -> None:
    """The job's cap for a host lets some files begin; the others wait in the queue."""
    job.serve("not-found", status(404), BODY)
    for number in range(10):
        job.serve(f"file{number}", good if number < 4 else hold(MIB), make_body(2 * MIB + number, str(number)))
    job.write_list()
    redis = RedisServer(job.home)
    queue = ("--queue", redis.url, "--job", "nov")
    command = job.command("-a", f"queue={redis.url}", "-a", "job=nov", BULK_LEASE="2")
    command = command[: command.index("-a")] + command[command.index("-a") + 2 :]  # the list is in the queue
    with redis:
        pushed = job.finish(["scrapy", "bulkqueue", "push", str(job.list), *queue])
        assert pushed.status == 0, pushed.log
        with job.begin(command) as running:
            wait_for(
                lambda: (
                    all((job.output / f"file{number}").exists() for number in range(4))
                    and sum(bool(written(job, name)) for name in job.urls) >= 2
                ),
                running,
            )
            running.signal(getattr(signal, how))
            running.wait(60)
    job.serve_all()
    job.serve("not-found", status(404), BODY)
    job.keep()
    job.compare(f"queue-{how}", command, around=lambda: redis)


# --- Many small files of one origin -----------------------------------------------------------------------------------


def test_small_files_among_which_some_are_odd(job: Job) -> None:
    """From an empty folder. After a few dozen small files one request may bring several; one file at a time."""
    odd: dict[str, tuple[Behaviour, str]] = {
        "not-found": (status(404), ""),
        "chunked": (chunked_answer(), ""),
        "no-length": (close_delimited(), ""),
        "extra-bytes": (extra_bytes(100), ""),
        "encoded": (gzip_encoded(), ""),
        "page": (html_instead(), ""),
        "empty": (empty_200(), ""),
        "moved": (redirect_to("/plain-0"), ""),
        "hash-known": (good, f"sha256={sha256(make_body(5_000, 'hash-known'))}"),
        "hash-wrong": (good, f"sha256={sha256(BODY)}"),
        "size-wrong": (good, "size=7"),
        "closed-after": (closes_after_answer(), ""),
    }
    for number in range(48):
        job.serve(f"plain-{number}", good, make_body(4_000 + number, str(number)))
    for name, (behaviour, _) in odd.items():
        for number in range(6):
            job.serve(f"before-{name}-{number}", good, make_body(4_000 + number, name))
        job.serve(name, behaviour, make_body(5_000, name))
    job.write_list({name: field for name, (_, field) in odd.items()})
    job.keep()
    job.compare("small-files", job.command(CONCURRENT_REQUESTS="1"))


# --- What the corpus and the rows rest on -----------------------------------------------------------------------------


def test_the_rows_put_what_the_frozen_version_leaves(job: Job) -> None:
    """`Held` writes the state itself: it has what the frozen version writes."""
    body = make_body(300_000)
    job.serve("held", hold(200_000), body)
    job.write_list()
    with job.begin(job.command()) as running:
        wait_for(lambda: size_of(part_of(job, "held")) == 200_000, running)
        running.signal(signal.SIGINT)
        running.wait(60)
    left = json.loads((job.output / "held.part.json").read_text())
    Held().put(job.output / "made", job.urls["held"])
    made = json.loads((job.output / "made.part.json").read_text())
    same = ("version", "key", "etag", "last_modified", "total", "written", "boot")
    assert {name: left[name] for name in same} == {name: made[name] for name in same}
    assert set(made) <= set(left)
