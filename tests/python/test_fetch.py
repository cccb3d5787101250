"""`bulkspider.fetch` and `fetch_async` in the surroundings where people call them: files compared by hash, children seen
to end, nothing left behind in the caller's process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import pickle
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bulkspider
from bulkspider.api.shown import line_of
from bulkspider.options import human
from support.crawl import QUICK
from support.faults import status
from support.faulty import FaultyOrigin, good, make_body
from support.holding import Holds

BODY = make_body()
PIECE = 200_000


def child_of(output: Path) -> int:
    """The process that writes there."""
    (lock,) = output.glob(".bulkspider/lock.fetch-*")
    return int(json.loads(lock.read_text())["pid"])


def wait_for_end(pid: int, seconds: float = 30) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], seconds)[0], f"the process {pid} lives on"
    finally:
        os.close(fd)


def test_every_form_of_entries_gives_its_rows_in_order(tmp_path: Path) -> None:
    paths = [f"{name}.bin" for name in "abcd"]
    with FaultyOrigin(dict.fromkeys(paths, good)) as origin:
        rows = bulkspider.fetch(
            iter(
                [
                    ("folder/a", origin.url("a.bin")),
                    {"name": "b", "url": origin.url("b.bin"), "size": len(BODY), "segments": 1},
                    origin.url("c.bin"),
                ]
            ),
            tmp_path / "out",
            settings=QUICK,
        )
        assert [(row["name"], row["status"]) for row in rows] == [
            ("folder/a", "complete"),
            ("b", "complete"),
            ("c.bin", "complete"),
        ]
        assert all(Path(row["path"]).read_bytes() == BODY for row in rows)
        listed = tmp_path / "list.txt"
        listed.write_text(f"name url\nfolder/a {origin.url('a.bin')}\nd {origin.url('d.bin')}\n")
        rows = bulkspider.fetch(listed, tmp_path / "out", settings=QUICK)
        assert [(row["name"], row["line"], row["already"]) for row in rows] == [("folder/a", 2, True), ("d", 3, False)]
        assert len(origin.requests_for("a.bin")) == 1
    # One after the other, they have written as one.
    assert len(list((tmp_path / "out/.bulkspider").glob("ledger*"))) == 1


def test_nothing_to_do_needs_no_process(tmp_path: Path) -> None:
    assert bulkspider.fetch([], tmp_path / "out") == []
    assert asyncio.run(bulkspider.fetch_async(iter(()), tmp_path / "out")) == []
    assert not (tmp_path / "out").exists()


def test_what_failed_is_raised_with_all_rows_and_travels_between_processes(tmp_path: Path) -> None:
    with FaultyOrigin({"a.bin": good, "gone.bin": status(404)}) as origin, pytest.raises(bulkspider.FetchError) as info:
        bulkspider.fetch([origin.url("gone.bin"), origin.url("a.bin")], tmp_path, settings=QUICK)
    error = pickle.loads(pickle.dumps(info.value))
    told = "1 of 2 files not fetched: gone.bin: the origin answered 404. What to do: correct the URL in the list"
    assert str(error) == told
    assert (error.exit_status, [row["status"] for row in error.rows]) == (4, ["failed", "complete"])
    assert error.rows[0]["error"]["code"] == "http_404"


@pytest.mark.parametrize(
    ("entries", "settings", "told"),
    [
        ([("a", "no url")], {}, "entries:1: "),
        ([("a", "http://h/a"), ("../b", "http://h/b")], {}, "entries:2: "),
        ([("a", "http://h/a")], {"BULK_SEGMENT": 1}, "unknown setting BULK_SEGMENT; did you mean BULK_SEGMENTS?"),
    ],
)
def test_what_cannot_be_begun_is_told(tmp_path: Path, entries: Any, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(bulkspider.FetchError) as info:
        bulkspider.fetch(entries, tmp_path / "out", settings=settings)
    assert told in str(info.value)
    assert (info.value.rows, info.value.exit_status) == ([], 1)


MISTAKES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"entries": None}, TypeError, "entries: a list of dicts, pairs (name, url) or URLs, not NoneType"),
    ({"entries": 5}, TypeError, "not int"),
    ({"entries": b"http://h/a"}, TypeError, "not bytes"),
    ({"entries": {"name": "a", "url": "http://h/a"}}, TypeError, "this is one dict; write a list"),
    ({"entries": ("a", "http://h/a")}, TypeError, "this is one pair (name, url); write a list"),
    ({"entries": "http://h/a"}, ValueError, "this is one URL; write a list, ['http://h/a']"),
    ({"entries": "no such list"}, ValueError, "entries='no such list': no such list file"),
    ({"entries": Path("no such list")}, ValueError, "no such list file"),
    ({"entries": ""}, ValueError, "no such list file"),
    ({"entries": "/"}, ValueError, "this is a folder; give the path of a list file"),
    ({"output": None}, TypeError, "output: the path of a folder, not NoneType"),
    ({"output": ""}, ValueError, "'.' is the current one"),
    ({"output": __file__}, ValueError, "this is a file, and the output has to be a folder"),
    ({"jobs": 0}, ValueError, "jobs=0"),
    ({"segments": -1}, ValueError, "segments=-1"),
    ({"settings": [("A", 1)]}, TypeError, "settings: a dict, not list"),
    ({"progress": 5}, TypeError, "progress: True, a bar or a function, not int"),
]


@pytest.mark.parametrize(("arguments", "error", "told"), MISTAKES)
def test_mistakes_of_the_caller_are_told_before_a_process_begins(
    tmp_path: Path,
    arguments: dict[str, Any],
    error: type[Exception],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def started(*_: Any, **__: Any) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    given = {"entries": ["http://h/a"], "output": tmp_path / "out", **arguments}
    with pytest.raises(error, match=re.escape(told)):
        bulkspider.fetch(**given)
    with pytest.raises(error, match=re.escape(told)):
        asyncio.run(bulkspider.fetch_async(**given))


def test_a_file_in_the_way_of_the_output_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(bulkspider.FetchError) as info:
        bulkspider.fetch(["http://h/a"], tmp_path / "file/out")
    assert str(info.value).startswith(f"{tmp_path / 'file'}: this is no folder, and the output has to be one;")
    assert info.value.exit_status == 1


def test_what_is_larger_than_permitted_says_what_to_do(tmp_path: Path) -> None:
    with FaultyOrigin({"a.bin": good}) as origin, pytest.raises(bulkspider.FetchError) as info:
        bulkspider.fetch([origin.url("a.bin")], tmp_path, settings=QUICK | {"BULK_MAX_SIZE": 1000})
    assert "the origin offers 300000 bytes, BULK_MAX_SIZE allows 1000. What to do: raise BULK_MAX_SIZE" in str(
        info.value
    )


def test_mistakes_among_the_entries_are_pythons_own_errors(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="entry 1: a pair"):
        bulkspider.fetch([("a", "b", "c")], tmp_path)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="entry 1: a dict, a pair"):
        bulkspider.fetch([1], tmp_path)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="setting BULK_FRESH_URL="):
        bulkspider.fetch(["http://h/a"], tmp_path, settings={"BULK_FRESH_URL": lambda entry: ""})


def test_an_exception_among_the_entries_comes_through(tmp_path: Path) -> None:
    def entries() -> Iterator[str]:
        yield "http://h/a"
        raise LookupError("the database is gone")

    with pytest.raises(LookupError, match="database"):
        bulkspider.fetch(entries(), tmp_path / "out")
    assert not (tmp_path / "out/a").exists()


def test_an_exception_of_progress_stops_the_crawl_and_comes_through(tmp_path: Path) -> None:
    def progress(numbers: dict[str, Any]) -> None:
        if numbers["bytes_on_disk"]:
            raise LookupError("enough")

    holds = Holds(PIECE, tmp_path / "a.bin.part")
    with FaultyOrigin({"a.bin": holds.behaviour()}) as origin:
        with pytest.raises(LookupError, match="enough"):
            bulkspider.fetch(
                [origin.url("a.bin")], tmp_path, settings=QUICK | {"BULK_STALL_TIMEOUT": 60}, progress=progress
            )
        wait_for_end(child_of(tmp_path))
        (row,) = bulkspider.fetch([origin.url("a.bin")], tmp_path, settings=QUICK)
        assert (row["status"], row["resumed_from"]) == ("complete", PIECE)
        assert Path(row["path"]).read_bytes() == BODY


def test_progress_by_a_bar(tmp_path: Path) -> None:
    tqdm = pytest.importorskip("tqdm")
    with FaultyOrigin({"a.bin": good}) as origin, tqdm.tqdm(unit="B", file=open(os.devnull, "w")) as bar:
        bulkspider.fetch([origin.url("a.bin")], tmp_path, settings=QUICK, progress=bar)
        assert (bar.n, bar.total) == (len(BODY), len(BODY))
        bar.fp.close()


SHOWN = """
import sys
import bulkspider
try:
    bulkspider.fetch(sys.argv[2:], sys.argv[1], settings={"BULK_RETRY_TIMES": 0}, progress=True)
except bulkspider.FetchError:
    print("failed")
"""


def test_progress_true_is_one_line_without_control_characters_where_none_can_be_changed(tmp_path: Path) -> None:
    with FaultyOrigin({"a.bin": good}) as origin:
        urls = [origin.url("a.bin"), origin.url("gone.bin")]
        done = subprocess.run(
            [sys.executable, "-c", SHOWN, str(tmp_path / "out"), *urls], capture_output=True, text=True, check=True
        )
    assert done.stdout == "failed\n"
    (line,) = [line for line in done.stderr.splitlines() if " of 2 files" in line]
    assert line == f"1 of 2 files, {human(len(BODY))} of {human(len(BODY))}, 1 failed"


def test_progress_true_is_one_line_that_changes_in_a_terminal(tmp_path: Path) -> None:
    here, there = os.openpty()
    with FaultyOrigin({"a.bin": good}) as origin:
        command = [sys.executable, "-c", SHOWN, str(tmp_path / "out"), origin.url("a.bin")]
        subprocess.run(command, stdout=there, stderr=there, check=True)
    os.close(there)
    said = b""
    with contextlib.suppress(OSError):  # EIO: all has been read
        while piece := os.read(here, 4096):
            said += piece
    os.close(here)
    assert said.endswith(b"\r1 of 1 file, %b of %b\x1b[K\r\n" % ((human(len(BODY)).encode(),) * 2)), said
    assert said.count(b"\n") == 1


@pytest.mark.parametrize(
    ("numbers", "line"),
    [
        ({}, "3 of 8,000 files, 1.0 GiB of 4.0 GiB"),
        ({"running": 2, "speed": 100 << 20}, "3 of 8,000 files, 1.0 GiB of 4.0 GiB, 100.0 MiB/s, 0:31 left"),
        ({"running": 2, "bytes_left": None}, "3 of 8,000 files, 1.0 GiB, 0 B/s"),
        ({"failed": 1, "waiting": ["a:80"]}, "3 of 8,000 files, 1.0 GiB of 4.0 GiB, 1 failed, waiting for a:80"),
        ({"waiting": ["a:80", "b", "c"]}, "3 of 8,000 files, 1.0 GiB of 4.0 GiB, waiting for a:80 and 2 more hosts"),
    ],
)
def test_what_the_line_says(numbers: dict[str, Any], line: str) -> None:
    plain = {"entries": 8000, "done": 3, "failed": 0, "left": 7997, "running": 0, "waiting": [], "speed": 0}
    assert line_of({**plain, "bytes_on_disk": 1 << 30, "bytes_left": 3 << 30, **numbers}) == line


def test_cancelled_in_a_loop_it_ends_its_child_and_goes_on_with_the_next_call(tmp_path: Path) -> None:
    holds = Holds(PIECE, tmp_path / "a.bin.part")
    with FaultyOrigin({"a.bin": holds.behaviour(), "b.bin": good}) as origin:

        async def program() -> list[Any]:
            settings = QUICK | {"BULK_STALL_TIMEOUT": 60}
            task = asyncio.create_task(bulkspider.fetch_async([origin.url("a.bin")], tmp_path, settings=settings))
            await asyncio.to_thread(holds.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            wait_for_end(child_of(tmp_path), 0)
            seen: list[dict[str, Any]] = []
            both = [origin.url("a.bin")], [origin.url("b.bin")]
            rows = await asyncio.gather(
                *(bulkspider.fetch_async(one, tmp_path, settings=QUICK, progress=seen.append) for one in both)
            )
            assert seen[-1]["left"] == 0
            # Also where somebody blocks the loop: it is what people do in a notebook.
            assert bulkspider.fetch(both[0], tmp_path)[0]["already"]
            return rows

        (first_row,), (second_row,) = asyncio.run(program())
        assert (first_row["status"], first_row["resumed_from"], second_row["status"]) == ("complete", PIECE, "complete")
        assert (tmp_path / "a.bin").read_bytes() == BODY


# A script without `if __name__ == "__main__"`, with hooks on a path that it makes itself.
SCRIPT = """
import asyncio, json, logging, os, signal, sys, threading
import bulkspider
print("begins")
sys.path.insert(0, "hooks")
url, output = sys.argv[1:]
logging.basicConfig(level="ERROR")
handlers, numbers = list(logging.getLogger().handlers), (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
before = [signal.getsignal(number) for number in numbers]
settings = {"BULK_FRESH_URL": "myhooks.fresh", "BULK_RETRY_DELAY": 0.05}
def call(name, path):
    return bulkspider.fetch([(name, url + path)], output, settings=settings)
results = [call("fresh", "expired.bin")]
threads = [threading.Thread(target=lambda at=at: results.append(call(f"thread{at}", "a.bin"))) for at in range(2)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
assert [rows[0]["status"] for rows in results] == ["complete"] * 3, results
assert before == [signal.getsignal(number) for number in numbers]
assert handlers == logging.getLogger().handlers
assert threading.enumerate() == [threading.main_thread()]
assert not [name for name in sys.modules if name.split(".")[0] in ("scrapy", "twisted")]
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("ends")
"""
HOOKS = """
print("the hook prints")
def fresh(entry):
    return entry.url.replace("expired", "a")
"""


def test_a_script_is_not_imported_again_and_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks/myhooks.py").write_text(HOOKS)
    (tmp_path / "script.py").write_text(SCRIPT)
    # Modules beside the script that have the names of others are the script's own business.
    (tmp_path / "scrapy.cfg").write_text("not for us")
    with FaultyOrigin({"a.bin": good, "expired.bin": status(403)}) as origin:
        done = subprocess.run(
            [sys.executable, "script.py", origin.url(""), "out"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stdout.split("\n")) == (0, ["begins", "ends", ""]), done.stderr
    assert "the hook prints" in done.stderr
    assert "Traceback" not in done.stderr


WAITING = """
import signal, sys, bulkspider
# A shell's background job, and what it starts, ignores SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    bulkspider.fetch([sys.argv[1]], sys.argv[2], settings={"BULK_STALL_TIMEOUT": 60})
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_crawl_ends_with_its_parent_and_keeps_every_byte(tmp_path: Path, number: signal.Signals) -> None:
    holds = Holds(PIECE, tmp_path / "a.bin.part")
    with FaultyOrigin({"a.bin": holds.behaviour()}) as origin:
        parent = subprocess.Popen(
            [sys.executable, "-c", WAITING, origin.url("a.bin"), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        holds.wait()
        parent.send_signal(number)
        out, log = parent.communicate(timeout=60)
        if number == signal.SIGINT:
            assert (out, log) == ("interrupted\n", "")
            wait_for_end(child_of(tmp_path), 0)
        else:
            assert log == "", "in order: that nobody reads its messages any more is no further reason to end"
        wait_for_end(child_of(tmp_path))
        (row,) = bulkspider.fetch([origin.url("a.bin")], tmp_path, settings=QUICK)
        assert (row["status"], row["resumed_from"]) == ("complete", PIECE)
        assert (tmp_path / "a.bin").read_bytes() == BODY


FORKING = """
import os, signal, sys, bulkspider
forked = []
def progress(numbers):
    # As multiprocessing does: a process that inherits every descriptor, and outlives its parent.
    if not forked:
        forked.append(os.fork())
        if not forked[0]:
            signal.pause()
        print(forked[0], flush=True)
bulkspider.fetch([sys.argv[1]], sys.argv[2], settings={"BULK_STALL_TIMEOUT": 60}, progress=progress)
"""


def test_the_crawl_ends_with_its_parent_also_where_a_forked_process_holds_the_pipe(tmp_path: Path) -> None:
    holds = Holds(PIECE, tmp_path / "a.bin.part")
    with FaultyOrigin({"a.bin": holds.behaviour()}) as origin:
        command = [sys.executable, "-c", FORKING, origin.url("a.bin"), str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            forked = int(parent.stdout.readline())
            try:
                holds.wait()
                parent.kill()
                wait_for_end(child_of(tmp_path))
            finally:
                os.kill(forked, signal.SIGKILL)


def test_warnings_of_the_crawl_come_to_the_callers_logging(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with FaultyOrigin({"a.bin": good, "gone.bin": status(404)}) as origin:
        entry = {"name": "a", "url": origin.url("gone.bin"), "mirror": origin.url("a.bin")}
        with caplog.at_level(logging.WARNING):
            (row,) = bulkspider.fetch([entry], tmp_path, settings=QUICK)
    assert row["status"] == "complete"
    assert [record.name for record in caplog.records if "trying its mirror" in record.message] == [
        "bulkspider.dispatch.fetch"
    ]


def state_of_the_process() -> tuple[int, int, list[str]]:
    gc.collect()
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return len(os.listdir("/proc/self/fd")), threading.active_count(), children


@pytest.mark.timeout(0)
def test_many_calls_leak_nothing(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """1,000 of them with --long: no descriptor, thread, child or file more, and no growing memory."""
    calls = 1000 if pytestconfig.getoption("--long") else 3
    with FaultyOrigin({"a.bin": good}) as origin:

        def call(number: int) -> None:
            # Every third one fails, and every third one is awaited.
            if number % 3 == 0:
                with pytest.raises(bulkspider.FetchError):
                    bulkspider.fetch([("bad", "nowhere")], tmp_path)
            elif number % 3 == 1:
                bulkspider.fetch([origin.url("a.bin")], tmp_path)
            else:
                asyncio.run(bulkspider.fetch_async([origin.url("a.bin")], tmp_path))

        call(0), call(2)
        before, files = state_of_the_process(), sorted(os.listdir(tmp_path / ".bulkspider"))
        memory = resident()
        for number in range(calls):
            call(number)
        assert state_of_the_process() == before
        assert sorted(os.listdir(tmp_path / ".bulkspider")) == files
        print(f"{calls} calls: {resident() - memory:+,} bytes resident")
        assert resident() - memory < 8 * 1024 * 1024


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
