"""Disks that are full, read-only or in the way: an honest failure, nothing wrong under a final name, and on we go."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.crawl import Bulk, kill
from support.faults import chunked_answer, in_turn, stall_after
from support.faulty import TRUST, Exchange, FaultyOrigin, good, make_body
from support.holding import Holds, size_of
from support.project import Project

MIB = 1024 * 1024
UNHURRIED = {"BULK_STALL_TIMEOUT": "60", "BULK_HEADERS_TIMEOUT": "60"}
TOGETHER = {"CONCURRENT_REQUESTS": "8", "CONCURRENT_REQUESTS_PER_DOMAIN": "8"}
# Sixteen MiB of files for twelve MiB of disk.
BODIES = {f"{number}.bin": make_body(4 * MIB + number, f"disk {number}") for number in range(4)}


class Disk:
    """A file system of its own for the output folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def mount(self, options: str) -> None:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.place)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"mount is not permitted here: {done.stderr.strip()}")

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.place)], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.place)], check=False, capture_output=True)


@pytest.fixture
def disk(bulk: Bulk) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("mount needs root")
    bulk.output.mkdir()
    small = Disk(bulk.output)
    small.mount("size=12m")
    try:
        yield small
    finally:
        small.unmount()


def nothing_is_wrong(bulk: Bulk) -> int:
    """Every final name is right; how many there are."""
    named = [name for name in BODIES if (bulk.output / name).exists()]
    for name in named:
        assert (bulk.output / name).read_bytes() == BODIES[name], f"{name} is wrong"
    for path in bulk.output.glob("*.part.json"):
        assert json.loads(path.read_text())["written"], "a state was emptied by the full disk"
    return len(named)


# --- Full -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", ["1", "8"], ids=["one-by-one", "together"])
def test_a_full_disk_is_foreseen_when_sizes_are_known_and_the_rerun_finishes(
    bulk: Bulk, disk: Disk, at_once: str
) -> None:
    with FaultyOrigin({name: (good, body) for name, body in BODIES.items()}) as origin:
        bulk.write_list({name: origin.url(name) for name in BODIES})
        settings = {"CONCURRENT_REQUESTS": at_once, "CONCURRENT_REQUESTS_PER_DOMAIN": at_once}
        ended = bulk.run(settings=settings)
        assert ended.status == 3, ended.log
        assert str(bulk.output) in ended.log
        assert "full" in ended.log
        assert "make room" in ended.log
        assert nothing_is_wrong(bulk) == 2, "there was room for two of them"
        assert len(origin.requests) <= 8, "a full disk is no reason to ask again and again"
        assert {row["status"] for row in ended.rows} <= {"complete", "failed", "interrupted"}
        fetched = sum(request.bytes_sent for request in origin.requests)

        disk.remount("size=24m")
        again = bulk.run(settings=settings)
        assert again.status == 0, again.log
        assert nothing_is_wrong(bulk) == len(BODIES)
        assert sum(row["already"] for row in again.rows) == 2
        assert sum(row["bytes_received"] for row in again.rows) <= sum(map(len, BODIES.values())) + 2 * MIB - 8 * MIB
        assert fetched >= 8 * MIB


def test_a_disk_that_fills_up_under_files_of_unknown_size_is_an_honest_stop(bulk: Bulk, disk: Disk) -> None:
    """Chunked answers name no length: the write itself fails with ENOSPC."""
    with FaultyOrigin({name: (chunked_answer(), body) for name, body in BODIES.items()}) as origin:
        bulk.write_list({name: origin.url(name) for name in BODIES})
        ended = bulk.run(settings=TOGETHER)
        assert ended.status == 3, ended.log
        assert str(bulk.output) in ended.log
        assert "the file system is full; make room" in ended.log
        nothing_is_wrong(bulk)
        assert len(origin.requests) <= 2 * len(BODIES)
        assert {row["error"]["code"] for row in ended.rows if row["error"]} <= {"disk_full", "stopped"}
        assert "disk_full" in {row["error"]["code"] for row in ended.rows if row["error"]}
        # The parts are full of right bytes.
        for path in bulk.output.glob("*.part"):
            held = path.read_bytes()
            assert BODIES[path.name.removesuffix(".part")].startswith(held), path

        # Once more without room: nothing gets worse.
        worse = bulk.run(settings=TOGETHER)
        assert worse.status in (1, 3), worse.log
        nothing_is_wrong(bulk)

        disk.remount("size=24m")
        again = bulk.run(settings=TOGETHER)
        assert again.status == 0, again.log
        assert nothing_is_wrong(bulk) == len(BODIES)
        assert list(bulk.output.glob("*.part*")) == []


SHOP = """
    async def start(self):
        for name in ("0.bin", "1.bin", "2.bin"):
            meta = {"bulk": {"path": name}}
            yield scrapy.Request(self.site + name, self.got, errback=self.failed, meta=meta, cb_kwargs={"name": name})
        yield scrapy.Request("data:,item", self.item)

    def item(self, response):
        yield {"file_urls": [self.site + "3.bin"]}

    def got(self, response, name):
        yield {"name": name, "told": response.meta["bulk"]["result"]["status"]}
        yield from self.page()

    def failed(self, failure):
        yield {"name": failure.request.cb_kwargs["name"], "told": type(failure.value).__name__}
        yield from self.page()

    def page(self):
        yield scrapy.Request(self.site + "page", lambda response: [{"page": len(response.body)}], dont_filter=True)
"""


def test_a_full_disk_fails_the_files_of_a_foreign_crawl_and_its_pages_go_on(bulk: Bulk, disk: Disk) -> None:
    project = Project(bulk.folder / "shop")
    project.write_spider(SHOP)
    settings = {
        "BULK_STORE": str(bulk.output),
        "FILES_STORE": str(bulk.output),
        "ITEM_PIPELINES": {"scrapy.pipelines.files.FilesPipeline": 1},
    }
    # Chunked answers name no length: the write itself fails with ENOSPC.
    with FaultyOrigin({name: (chunked_answer(), body) for name, body in BODIES.items()}) as origin:
        origin.add("page", good, b"a page")
        items = project.crawl(origin.url(""), **settings)
        assert "'finish_reason': 'finished'" in project.log
        assert [item["page"] for item in items if "page" in item] == [6, 6, 6], project.log
        assert "the file system is full; make room" in project.log
        told = [item["told"] for item in items if "told" in item]
        assert len(told) == 3
        assert set(told) <= {"complete", "DownloadCancelledError"}
        assert "DownloadCancelledError" in told
        nothing_is_wrong(bulk)
        assert len(origin.requests) <= 3 + 2 * len(BODIES)

        disk.remount("size=48m")
        items = project.crawl(origin.url(""), **settings)
        assert {item["told"] for item in items if "told" in item} == {"complete"}, project.log
        assert [file["proof"] for item in items for file in item.get("files", [])] == ["complete"]
        assert nothing_is_wrong(bulk) == 3


def test_room_that_is_made_while_others_run_is_used(bulk: Bulk, disk: Disk) -> None:
    """An entry that does not fit waits without a slot; when somebody makes room, it goes on."""
    one, two = make_body(8 * MIB, "one"), make_body(8 * MIB, "two")
    released = threading.Event()
    table = {"1.bin": (stall_after(2 * MIB, released), one), "2.bin": (good, two)}
    with FaultyOrigin(table) as origin:
        bulk.write_list({name: origin.url(name) for name in table})
        process = bulk.start(settings={**UNHURRIED, "CONCURRENT_REQUESTS": "1"})
        process.kill()
        bulk.wait(process)
        process = bulk.start(settings={**UNHURRIED, **TOGETHER})
        origin.wait_until(lambda o: any(r.path == "/2.bin" and r.status for r in o.requests))
        disk.remount("size=24m")
        released.set()
        ended = bulk.wait(process)
        assert ended.status == 0, ended.log
        assert ended.file("1.bin") == one
        assert ended.file("2.bin") == two
        assert len(origin.requests_for("2.bin")) <= 3


def test_an_entry_that_waits_for_its_answer_takes_no_room_from_one_whose_bytes_come(bulk: Bulk, disk: Disk) -> None:
    """Both have a part, and there is room for the rest of one of them."""
    disk.remount("size=24m")
    one, two = make_body(8 * MIB, "one"), make_body(8 * MIB, "two")
    released, arrived = threading.Event(), threading.Event()

    def first(exchange: Exchange) -> None:
        assert exchange.attempt == 1, "it had room"
        arrived.wait(60)
        good(exchange)

    def second(exchange: Exchange) -> None:
        arrived.set()
        origin.wait_until(lambda o: any(r.path == "/1.bin" and r.bytes_sent >= 6 * MIB for r in o.requests))
        good(exchange)

    stalls = stall_after(2 * MIB, released)
    table = {
        # A host that has not answered is asked for one file only.
        "0.bin": (in_turn(stall_after(1000, released), good), make_body(10_000)),
        "1.bin": (in_turn(stalls, first), one),
        "2.bin": (in_turn(stalls, second), two),
    }
    with FaultyOrigin(table) as origin:
        bulk.write_list({name: origin.url(name) for name in table})
        with bulk.start(settings={**UNHURRIED, **TOGETHER, "BULK_SEGMENTS": "1"}) as process:
            origin.wait_until(lambda o: sum(r.bytes_sent >= 2 * MIB for r in o.requests) == 2)
            process.terminate()
            bulk.wait(process)
        released.set()
        disk.remount("size=12m")
        ended = bulk.run(settings={**UNHURRIED, **TOGETHER, "BULK_SEGMENTS": "1"})
        assert ended.status == 3, ended.log
        assert ended.file("1.bin") == one
        assert ended.row("2.bin")["status"] == "interrupted"
        assert len(origin.requests_for("1.bin")) == 2


def test_a_read_only_folder_ends_before_anything_is_begun(bulk: Bulk, disk: Disk) -> None:
    disk.remount("ro")
    with FaultyOrigin(default=good) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run()
        assert ended.status == 1, ended.log
        assert "the file system is read-only" in ended.log
        assert str(bulk.output) in ended.log
        assert origin.requests == []
        disk.remount("rw")
        assert bulk.run().status == 0


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize(("size", "limit"), [(3 * MIB, 2 * MIB), (16 * MIB, 9 * MIB + 1024)], ids=["reactor", "thread"])
def test_files_larger_than_the_file_size_limit_fail_alone(bulk: Bulk, size: int, limit: int, tls: bool) -> None:
    """EFBIG, as on FAT32: it is this file's own trouble. Who moves the body in a thread keeps what was written."""
    large, small = make_body(size, "large"), make_body(100_000, "small")
    with FaultyOrigin({"large.bin": (good, large), "small.bin": (good, small)}, tls=tls) as origin:
        bulk.write_list({name: origin.url(name) for name in ("large.bin", "small.bin")})
        limited = ["bash", "-c", f'ulimit -f {limit // 1024}; trap "" XFSZ; exec "$@"', "limited"]
        limited += bulk.command(settings=TRUST)
        done = subprocess.run(
            limited,
            cwd=bulk.folder,
            env={**os.environ, "SCRAPY_SETTINGS_MODULE": "bulkspider.settings"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 3, done.stderr
        rows = {row["name"]: row for row in map(json.loads, bulk.report.read_text().splitlines())}
        assert rows["small.bin"]["status"] == "complete"
        assert rows["large.bin"]["error"]["code"] == "file_too_big"
        assert str(bulk.output / "large.bin") in rows["large.bin"]["error"]["message"]
        assert not (bulk.output / "large.bin").exists()
        assert len(origin.requests_for("large.bin")) <= 2
        part = (bulk.output / "large.bin.part").read_bytes()
        assert large.startswith(part)
        ended = bulk.run(settings=TRUST)
        assert ended.status == 0, ended.log
        assert ended.file("large.bin") == large
        assert ended.row("large.bin")["resumed_from"] == len(part) >= limit - MIB


# --- BULK_PREALLOCATE -------------------------------------------------------------------------------------------------


def test_preallocation_reserves_room_and_never_changes_a_size(bulk: Bulk, disk: Disk) -> None:
    body = make_body(6 * MIB)
    held = Holds(MIB, bulk.output / "a.bin.part")
    settings = {**UNHURRIED, "BULK_PREALLOCATE": "1"}
    with FaultyOrigin({"a.bin": (held.behaviour(), body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        process = bulk.start(settings=settings)
        held.wait()
        found = (bulk.output / "a.bin.part").stat()
        assert found.st_size == MIB
        assert found.st_blocks * 512 >= len(body), "no room was reserved"
        process.terminate()
        assert bulk.wait(process).status == 143
        assert (bulk.output / "a.bin.part").read_bytes() == body[:MIB]
        ended = bulk.run(settings=settings)
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == body
        assert ended.row("a.bin")["resumed_from"] == MIB
        # One that never ends where it was promised to end.
        origin.add("b.bin", chunked_answer(), body[: 2 * MIB])
        bulk.write_list({"b.bin": origin.url("b.bin")})
        assert bulk.run(settings=settings).file("b.bin") == body[: 2 * MIB]


# --- Who else is there ------------------------------------------------------------------------------------------------


def test_a_lock_left_by_a_dead_process_is_no_obstacle_and_a_live_one_is_named(bulk: Bulk) -> None:
    body = make_body(300_000)
    held = Holds(100_000, bulk.output / "a.bin.part")
    with FaultyOrigin({"a.bin": (held.behaviour(), body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        process = bulk.start(settings=UNHURRIED)
        held.wait()
        before = time.monotonic()
        second = subprocess.run(
            bulk.command(), cwd=bulk.folder, env={**os.environ, "SCRAPY_SETTINGS_MODULE": "bulkspider.settings"},
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert second.returncode == 1
        assert time.monotonic() - before < 10
        assert f"pid {process.pid} on {socket.gethostname()}" in second.stderr
        assert str(bulk.output) in second.stderr
        kill(process)
        assert process.stdout is not None
        process.stdout.close()
        assert f'"pid": {process.pid}' in (bulk.output / ".bulkspider" / "lock").read_text()
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == body

    (bulk.output / ".bulkspider" / "lock").write_text("not a lock of ours")
    assert bulk.run().status == 0


# --- What is in the way -----------------------------------------------------------------------------------------------


def link_to_file(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "target")


def dangling(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "not there")


def fifo(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, outside: Path) -> None:
    path.mkdir()


OBSTACLES = (link_to_file, dangling, fifo, folder)


def test_what_is_no_file_is_refused_and_nothing_is_written_through_it(bulk: Bulk) -> None:
    outside = bulk.folder / "outside"
    outside.mkdir()
    (outside / "target").write_bytes(b"precious")
    bulk.output.mkdir()
    names = []
    for obstacle in OBSTACLES:
        for suffix in ("", ".part"):
            names.append(f"{obstacle.__name__}{suffix or '.final'}.bin")
            obstacle(bulk.output / (names[-1] + suffix), outside)
    (bulk.output / "through").symlink_to(outside)
    (bulk.output / "plain").write_bytes(b"a file where a folder should be")
    names += ["through/a.bin", "through/deep/er.bin", "plain/a.bin"]
    body = make_body(50_000)
    with FaultyOrigin(default=good, resource=body) as origin:
        bulk.write_list({name: origin.url("a.bin") for name in [*names, "fine.bin"]})
        ended = bulk.run(settings=TOGETHER, timeout=60)
        assert ended.status == 3, ended.log
        found = {row["name"]: row["error"] and row["error"]["code"] for row in ended.rows}
        assert found == {**dict.fromkeys(names, "not_regular"), "fine.bin": None}
        assert len(origin.requests) <= 1 + len(names)
    for name in names:
        assert str(bulk.output / name.partition("/")[0]) in ended.row(name)["error"]["message"]
    assert ended.file("fine.bin") == body
    assert [path.name for path in outside.iterdir()] == ["target"]
    assert (outside / "target").read_bytes() == b"precious"
    for obstacle in OBSTACLES:
        assert not (bulk.output / f"{obstacle.__name__}.final.bin").is_file() or obstacle is link_to_file


@pytest.mark.parametrize("suffix", [".part.json", ".part.json.tmp", ".part.old", ".part.old.json"])
def test_links_under_our_own_suffixes_are_never_followed(bulk: Bulk, suffix: str) -> None:
    outside = bulk.folder / "outside"
    outside.write_bytes(b"precious")
    bulk.output.mkdir()
    (bulk.output / f"a.bin{suffix}").symlink_to(outside)
    body = make_body(400_000)
    held = Holds(300_000, bulk.output / "a.bin.part")
    with FaultyOrigin({"a.bin": (held.behaviour(), body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        process = bulk.start(settings=UNHURRIED)
        if suffix == ".part.json.tmp":
            # In its way to the state: the first state that is due ends the attempt, whatever the origin does.
            origin.wait_until(lambda origin: bool(origin.requests))
        else:
            held.wait()
        process.terminate()
        bulk.wait(process)
        bulk.run()
        assert outside.read_bytes() == b"precious"
        if (bulk.output / "a.bin").exists():
            assert (bulk.output / "a.bin").read_bytes() == body


def test_a_private_folder_that_is_a_link_is_refused(bulk: Bulk) -> None:
    (bulk.folder / "elsewhere").mkdir()
    bulk.output.mkdir()
    (bulk.output / ".bulkspider").symlink_to(bulk.folder / "elsewhere")
    with FaultyOrigin(default=good) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run()
        assert ended.status == 1, ended.log
        assert "symbolic link" in ended.log
        assert origin.requests == []
    assert list((bulk.folder / "elsewhere").iterdir()) == []


# --- Changed under our hands ------------------------------------------------------------------------------------------


def removed(part: Path) -> None:
    part.unlink()


def replaced(part: Path) -> None:
    other = part.with_name("other")
    other.write_bytes(make_body(size_of(part), "somebody else's"))
    other.rename(part)


def replaced_by_a_link(part: Path) -> None:
    part.rename(part.with_name("moved"))
    part.symlink_to("moved")


def final_became_a_link(part: Path) -> None:
    part.with_suffix("").symlink_to("elsewhere")


def final_became_a_folder(part: Path) -> None:
    part.with_suffix("").mkdir()


@pytest.mark.parametrize(
    "meddle",
    [removed, replaced, replaced_by_a_link, final_became_a_link, final_became_a_folder],
    ids=lambda f: f.__name__,
)
def test_a_part_that_somebody_removes_or_replaces_is_an_honest_failure(
    bulk: Bulk, meddle: Callable[[Path], None]
) -> None:
    body, part = make_body(900_000), bulk.output / "a.bin.part"

    def meddled(exchange: Exchange) -> None:
        """In the middle of the body, once these bytes are on disk."""
        stall_after(600_000, Once(lambda: size_of(part) >= 600_000, lambda: meddle(part)))(exchange)  # type: ignore[arg-type]

    with FaultyOrigin({"a.bin": (meddled, body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings=UNHURRIED)
        assert ended.status == 3, ended.log
        row = ended.row("a.bin")
        assert (row["status"], row["error"]["permanent"]) == ("failed", False)
        assert row["error"]["code"] in ("part_replaced", "not_regular")
        assert str(bulk.output / "a.bin") in row["error"]["message"]
        assert not (bulk.output / "a.bin").is_file()
        assert not (bulk.output / "elsewhere").exists()
        assert len(origin.requests) <= 3

        # What is in the way is moved away, and the next run ends right.
        for name in ("a.bin", "a.bin.part"):
            path = bulk.output / name
            if path.is_symlink():
                path.unlink()
            elif path.is_dir():
                path.rmdir()
        origin.add("a.bin", good, body)
        again = bulk.run()
        assert again.status == 0, again.log
        assert again.file("a.bin") == body


class Once:
    """Stands in for an event: what is to be done is done when its time has come, and then it is set."""

    def __init__(self, ready: Callable[[], bool], act: Callable[[], None]) -> None:
        self._ready, self._act = ready, act

    def is_set(self) -> bool:
        if not self._ready():
            return False
        self._act()
        return True


def test_a_part_that_is_removed_between_two_attempts_is_begun_anew(bulk: Bulk) -> None:
    body, part = make_body(900_000), bulk.output / "a.bin.part"

    def cut(exchange: Exchange) -> None:
        if exchange.attempt:
            good(exchange)
            return
        exchange.send_status(200)
        exchange.header("Content-Length", len(body))
        exchange.header("ETag", '"v1"')
        exchange.end_headers()
        exchange.send(body[:600_000])
        exchange.stall(Once(lambda: size_of(part) >= 600_000, part.unlink))  # type: ignore[arg-type]
        exchange.reset()

    with FaultyOrigin({"a.bin": (cut, body)}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings=UNHURRIED)
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == body
        assert len(origin.requests) == 2
