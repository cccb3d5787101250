"""What a person at a terminal sees, in a terminal of our own (pyte); and what a log gets where there is none."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyte
import pytest
from conftest import QUICK, Bulk
from faulty import FaultyOrigin, good, make_body, not_found
from holding import Holds
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from bulkspider import display
from bulkspider.summary import Told
from bulkspider.view import Meter, Running, View, Waiting

PATIENCE = 60.0
UNHURRIED = {**QUICK, "BULK_STALL_TIMEOUT": "60", "BULK_HEADERS_TIMEOUT": "60"}


# --- The picture: pure --------------------------------------------------------------------------------------------------


def view(**changes: Any) -> View:
    plain: dict[str, Any] = {
        "entries": 10,
        "done": 2,
        "failed": 1,
        "left": 7,
        "bytes_done": 5 << 30,
        "bytes_total": 20 << 30,
        "estimated": False,
        "received": 4 << 30,
        "speed": 1e8,
        "mean": 9e7,
        "seconds": 50.0,
        "seconds_left": 150.0,
        "stopping": False,
    }
    return View(**{**plain, **changes})


def running(name: str = "a.bin", **changes: Any) -> Running:
    plain: dict[str, Any] = {
        "have": 1 << 30,
        "total": 2 << 30,
        "speed": 1e7,
        "connections": 1,
        "broken": 0,
        "doing": "",
        "age": 9.0,
    }
    return Running(name=name, **{**plain, **changes})


def drawn(of: View, columns: int = 80, rows: int = 24) -> list[str]:
    return ["".join(segment.text for segment in line) for line in display.lines(of, columns, rows)]


NUMBERS = st.integers(0, 1 << 50)
SPEEDS = st.floats(0, 1e12)
VIEWS = st.builds(
    View,
    entries=NUMBERS,
    done=NUMBERS,
    failed=NUMBERS,
    left=NUMBERS,
    bytes_done=NUMBERS,
    bytes_total=st.none() | NUMBERS,
    estimated=st.booleans(),
    received=NUMBERS,
    speed=SPEEDS,
    mean=SPEEDS,
    seconds=st.floats(0, 1e7),
    seconds_left=st.none() | st.floats(0, 1e12),
    stopping=st.booleans(),
    running=st.lists(
        st.builds(
            Running,
            name=st.text(min_size=1),
            have=NUMBERS,
            total=st.none() | NUMBERS,
            speed=SPEEDS,
            connections=st.integers(0, 64),
            broken=st.integers(0, 10_000),
            doing=st.sampled_from(["", "asking", "proving"]),
            age=st.floats(0, 100),
        ),
        max_size=20,
    ).map(tuple),
    waiting=st.lists(
        st.builds(Waiting, origin=st.text(), name=st.text(), files=NUMBERS, seconds=st.floats(0, 1e6), why=st.text()),
        max_size=5,
    ).map(tuple),
)


@given(VIEWS, st.integers(11, 250), st.integers(3, 90), st.booleans())
@settings(max_examples=50, deadline=None)
def test_any_picture_fits_and_holds_nothing_that_a_terminal_acts_upon(
    of: View, columns: int, rows: int, unicode: bool
) -> None:
    picture = display.lines(of, columns, rows, unicode=unicode)
    texts = ["".join(segment.text for segment in line) for line in picture]
    assert 1 <= len(texts) <= max(rows - 2, 1)
    assert [text for text in texts if cell_len(text) > columns - 1] == []
    assert [text for text in texts if not text.isprintable()] == []


@given(st.text(), st.integers(3, 60))
def test_a_name_takes_exactly_its_cells(name: str, width: int) -> None:
    assert cell_len(display.name_in(name, width)) == width


def test_of_a_long_name_the_telling_ends_stay() -> None:
    assert display.name_in("a folder/weights-00001-of-2.bin", 24) == "…/weights-00001-of-2.bin"
    assert display.name_in("a folder/weights-00001-of-00002.bin", 20) == "…/weights-…00002.bin"
    assert display.name_in("東京.tif", 10) == "東京.tif  "


def test_a_wide_terminal_shows_more_of_the_whole() -> None:
    narrow, wide = drawn(view(), 60)[0], drawn(view(), 160)[0]
    assert narrow == "2 done, 1 failed, 7 left · 5.0 of 20.0 GiB · 95.4 MiB/s"
    assert "2 done, 1 failed, 7 left · 5.0 of 20.0 GiB · 95.4 MiB/s · mean 85.8 MiB/s · 2:30 left" in wide
    assert wide.endswith("25%")
    assert "of ~20.0 GiB" in drawn(view(estimated=True), 160)[0]


def test_a_line_for_each_file_says_connections_and_attempt() -> None:
    line = drawn(view(running=(running(connections=4, broken=2),)), 120)[1]
    assert re.search(r"^  a\.bin +━+─+  50%   2\.0 GiB +9\.5 MiB/s +1:47 +4× attempt 3$", line.rstrip())
    assert "asking" in drawn(view(running=(running(doing="asking"),)))[1]


def test_what_does_not_fit_is_summed_up_and_waiting_is_always_told() -> None:
    files = tuple(running(f"{n}.bin", speed=1 << 20) for n in range(64))
    waits = Waiting("host:80", "z.bin", 3, 65.0, "the origin answered 503")
    lines = drawn(view(running=files, waiting=(waits,)), 80, 24)
    assert len(lines) == 20
    assert lines[-2] == "  and 47 more, 47.0 MiB/s"
    assert lines[-1] == "  3 files from host:80: next attempt in 1:05 (the origin answered 503)"
    # In the order in which they were begun.
    assert [line.split()[0] for line in lines[1:-2]] == [f"{n}.bin" for n in range(17)]


def test_files_that_are_through_in_a_moment_are_only_counted() -> None:
    assert drawn(view(running=tuple(running(f"{n}", age=0.1, speed=0.0) for n in range(9))))[1:] == [
        "  9 running, 0 B/s"
    ]


def test_names_are_neither_markup_nor_control_characters() -> None:
    line = drawn(view(running=(running("[bold]x[/]\x1b[2J\n\u202etxt"),)), 120)[1]
    assert "[bold]x[/]�[2J��txt" in line
    assert "".join(s.text for s in display.summary_line(Told("bad", "a\x1b]0;title\x07"))) == "a�]0;title�"


def test_a_meter_is_right_from_its_first_sample_on() -> None:
    meter = Meter(3.0, 0.0, 0)
    assert meter.read(0.0, 0) == 0
    assert meter.read(0.25, 250) == pytest.approx(1000)
    for quarter in range(2, 100):
        speed = meter.read(quarter / 4, 250 * quarter)
    assert speed == pytest.approx(1000)
    for quarter in range(100, 200):
        speed = meter.read(quarter / 4, 25_000)
    assert speed < 1
    assert meter.read(60.0, 0) >= 0, "a part that is begun anew is no negative speed"


# --- The terminal -------------------------------------------------------------------------------------------------------


class Screen:
    """A terminal emulator at the other end of a crawl's stderr; its lines above the top are kept."""

    def __init__(self, columns: int, rows: int) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=1000, ratio=0.1)
        self._stream = pyte.ByteStream(self.screen)
        self._master, self.slave = pty.openpty()
        self._changed = threading.Condition()
        self.raw = b""
        self.resize(columns, rows)
        self._reader = threading.Thread(target=self._read, daemon=True)

    def resize(self, columns: int, rows: int) -> None:
        with self._changed:
            # Its emulator cuts lines off where others wrap them.
            self.screen.resize(rows, columns)
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def start(self) -> None:
        os.close(self.slave)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # the last one has left
                return
            with self._changed:
                self.raw += data
                self._stream.feed(data)
                self._changed.notify_all()

    @property
    def lines(self) -> list[str]:
        return self.wait_for(lambda _: True)

    @property
    def all_lines(self) -> list[str]:
        with self._changed:
            lines, width = self.lines, self.screen.columns
            above = ["".join(row[x].data for x in range(width)).rstrip() for row in self.screen.history.top]
            return [*above, *lines]

    def wait_for(self, seen: Callable[[list[str]], object]) -> list[str]:
        """The lines as they are when `seen` is true of them. A picture arrives in pieces: it is looked at when whole,
        which is when lines wrap again."""
        with self._changed:
            whole = self._changed.wait_for(
                lambda: pyte.modes.DECAWM in self.screen.mode and seen(self._drawn), PATIENCE
            )
            assert whole, "\n".join(self._drawn)
            return self._drawn

    @property
    def _drawn(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def read_to_the_end(self) -> None:
        """All that the crawl wrote, now that it has ended."""
        self._reader.join(PATIENCE)
        assert not self._reader.is_alive()

    def close(self) -> None:
        self.read_to_the_end()
        os.close(self._master)


@contextmanager
def at_a_terminal(
    bulk: Bulk,
    *arguments: str,
    columns: int = 100,
    rows: int = 24,
    settings: dict[str, str] | None = None,
    environment: dict[str, str] | None = None,
) -> Iterator[tuple[Screen, subprocess.Popen[bytes]]]:
    screen = Screen(columns, rows)
    process = subprocess.Popen(
        bulk.command(*arguments, settings={**UNHURRIED, **(settings or {})}),
        cwd=bulk.folder,
        env={
            **os.environ,
            "SCRAPY_SETTINGS_MODULE": "bulkspider.settings",
            "TERM": "xterm-256color",
            "PYTHONIOENCODING": "utf-8",
            **(environment or {}),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=screen.slave,
    )
    screen.start()
    try:
        yield screen, process
    finally:
        process.kill()
        process.wait()
        screen.close()


def a_held_crawl(bulk: Bulk, origin: FaultyOrigin, *more: str) -> Holds:
    """held.bin stays at 75 %, ok.bin is done, gone.bin fails."""
    held = Holds(300_000, bulk.output / "held.bin.part")
    origin.add("held.bin", held.behaviour(), make_body(400_000))
    origin.add("ok.bin", good)
    origin.add("gone.bin", not_found)
    bulk.write_list({name: origin.url(name) for name in ("held.bin", "ok.bin", "gone.bin", *more)})
    return held


def test_a_terminal_shows_a_live_display_and_ends_with_the_summary_alone(bulk: Bulk) -> None:
    with FaultyOrigin() as origin:
        a_held_crawl(bulk, origin)
        with at_a_terminal(bulk) as (screen, process):
            lines = screen.wait_for(lambda lines: lines and "75%" in lines[-1] and "1 failed" in lines[-2])
            assert [line for line in lines if line.startswith("failed gone.bin")] == [
                "failed gone.bin: the origin answered 404 [http_404]"
            ]
            assert lines[-2].startswith("1 done, 1 failed, 1 left · 585.9 of 683.6 KiB"), lines
            assert lines[-1].startswith("  held.bin "), lines
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
            screen.read_to_the_end()
            assert "to go on" in "".join(screen.lines)
            end = screen.lines
            assert "3 entries: 1 complete, 1 failed, 1 interrupted" in end
            assert "failed: gone.bin: the origin answered 404 [http_404]" in end
            assert not any("━" in line or "─" in line for line in screen.all_lines), "what was drawn is gone"
            assert screen.screen.cursor.x == 0, "the shell's prompt begins a line"
            assert not screen.screen.cursor.hidden


def test_ctrl_c_twice_ends_at_once_and_leaves_a_clean_terminal_too(bulk: Bulk) -> None:
    with FaultyOrigin() as origin:
        a_held_crawl(bulk, origin)
        with at_a_terminal(bulk) as (screen, process):
            screen.wait_for(lambda lines: any("75%" in line for line in lines) and "1 done, 1 failed" in lines[-2])
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
            screen.read_to_the_end()
            assert not any("━" in line for line in screen.lines)


def test_log_lines_do_not_tear_the_display(bulk: Bulk) -> None:
    """Many warnings, longer than the terminal is wide, while the picture is drawn."""
    with FaultyOrigin() as origin:
        names = [f"{'long ' * 8}{n}.bin" for n in range(30)]
        a_held_crawl(bulk, origin, *names)
        with at_a_terminal(bulk, columns=60, rows=16, settings={"LOG_LEVEL": "DEBUG"}) as (screen, process):
            screen.wait_for(lambda lines: "31 failed" in "".join(lines[-3:]))
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 143
            screen.read_to_the_end()
            assert "to go on" in "".join(screen.lines)
            seen = "\n".join(screen.all_lines)
            # Whole lines of the log, each begun at a line's begin, and nothing of the picture among them.
            assert re.search(r"^\d\d:\d\d:\d\d DEBUG: ", seen, re.MULTILINE)
            assert not re.search(r"[^\n]\d\d:\d\d:\d\d (DEBUG|INFO|WARNING|ERROR): ", seen)
            assert "━" not in seen


def test_the_picture_follows_the_size_of_the_terminal(bulk: Bulk) -> None:
    with FaultyOrigin() as origin:
        a_held_crawl(bulk, origin)
        with at_a_terminal(bulk, columns=120) as (screen, process):
            screen.wait_for(lambda lines: any("75%" in line and "390.6 KiB" in line for line in lines))
            screen.resize(50, 20)
            lines = screen.wait_for(lambda lines: lines and re.fullmatch(r"  held\.bin +━*─* +75% +\d.*/s", lines[-1]))
            assert len(lines[-1]) < 50
            screen.resize(150, 30)
            screen.wait_for(lambda lines: lines and "so far" in lines[-2] and lines[-1].startswith("  held.bin"))
            process.terminate()
            process.wait(PATIENCE)


def test_a_terminal_without_unicode_and_colours(bulk: Bulk) -> None:
    name = f"{'é' * 60}.bin"
    held = Holds(300_000, bulk.output / f"{name}.part")
    with FaultyOrigin({"held.bin": (held.behaviour(), make_body(400_000))}) as origin:
        bulk.write_list({name: origin.url("held.bin")})
        plain = {"PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}
        with at_a_terminal(bulk, columns=80, environment=plain) as (screen, process):
            screen.wait_for(lambda lines: lines and re.match(r"  \?+~\?+\.bin +#+\.+  75%", lines[-1]))
            drawn_so_far = len(screen.raw)
            screen.wait_for(lambda _: len(screen.raw) > drawn_so_far + 2000)
            assert len([line for line in screen.all_lines if "1 left" in line]) == 1, "nothing wandered up"
            assert not re.search(rb"\x1b\[[0-9;]*[34]\d[;m]", screen.raw)
            process.terminate()
            process.wait(PATIENCE)


def test_a_log_file_has_all_and_the_terminal_only_the_display(bulk: Bulk) -> None:
    with FaultyOrigin() as origin:
        a_held_crawl(bulk, origin)
        with at_a_terminal(bulk, settings={"LOG_FILE": "run.log", "LOGSTATS_INTERVAL": "0.1"}) as (screen, process):
            screen.wait_for(lambda lines: any("75%" in line for line in lines))
            process.terminate()
            process.wait(PATIENCE)
            screen.read_to_the_end()
            assert "to go on" in "".join(screen.lines)
            log = (bulk.folder / "run.log").read_text()
            assert "INFO: 3 entries: 1 complete, 1 failed, 1 interrupted" in log
            assert re.search(r"2 of 3 done \(1 failed\), 1 running, 585\.9 KiB of 683\.6 KiB on disk", log)
            assert "\x1b" not in log
            assert not any("INFO" in line for line in screen.all_lines)


@pytest.mark.parametrize("mode", ["log", "off"])
def test_a_terminal_without_a_display(bulk: Bulk, mode: str) -> None:
    with FaultyOrigin() as origin:
        a_held_crawl(bulk, origin)
        plain = {"BULK_PROGRESS": mode, "LOGSTATS_INTERVAL": "0.1"}
        with at_a_terminal(bulk, settings=plain) as (screen, process):
            if mode == "log":
                screen.wait_for(lambda lines: "2 of 3 done (1 failed), 1 running" in "\n".join(lines))
            else:
                origin.wait_until(lambda origin: len(origin.requests) == 3)
            process.terminate()
            process.wait(PATIENCE)
            screen.read_to_the_end()
            assert "to go on" in "\n".join(screen.lines)
            assert (" of 3 done" in "\n".join(screen.lines)) == (mode == "log")
            assert b"\x1b" not in screen.raw


def test_no_terminal_no_control_characters(bulk: Bulk) -> None:
    with FaultyOrigin() as origin:
        held = a_held_crawl(bulk, origin)
        process = bulk.start(settings={**UNHURRIED, "LOGSTATS_INTERVAL": "0.1"})
        assert process.stdout is not None
        for line in process.stdout:
            if "2 of 3 done (1 failed), 1 running, 585.9 KiB of 683.6 KiB on disk" in line:
                break
        held.wait()
        process.terminate()
        log = bulk.wait(process).log
        assert "\x1b" not in log
        assert "3 entries: 1 complete, 1 failed, 1 interrupted" in log


def test_a_display_can_be_forced_where_nobody_says_that_there_is_a_terminal(bulk: Bulk) -> None:
    with FaultyOrigin({"a.bin": good}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings={"BULK_PROGRESS": "bar"})
        assert ended.status == 0
        assert "1 entry: 1 complete" in ended.log
        assert "\x1b[K" in ended.log


def test_who_does_not_look_does_not_load_rich(bulk: Bulk) -> None:
    with FaultyOrigin({"a.bin": good}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        command = bulk.command()
        done = subprocess.run(
            [command[0], "-X", "importtime", *command[1:]],
            cwd=bulk.folder,
            env={**os.environ, "SCRAPY_SETTINGS_MODULE": "bulkspider.settings"},
            capture_output=True,
            text=True,
            check=True,
        )
        loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
        assert "bulkspider.progress" in loaded
        assert not {"rich", "bulkspider.display", "bulkspider.report", "prometheus_client"} & loaded
