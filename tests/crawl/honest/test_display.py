"""What a person at a terminal sees, in a terminal of our own (pyte); and what a log gets where there is none."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from bulkspider.reporting import display
from bulkspider.reporting.progress import how, log_line
from bulkspider.reporting.snapshot import Meter, Running, View, Waiting, time_left
from bulkspider.reporting.summary import SummaryLine
from bulkspider.reporting.terminal import Terminal, safe
from bulkspider.text import visible
from support.crawl import QUICK, Bulk
from support.faulty import FaultyOrigin, good, make_body, not_found
from support.holding import Holds

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
        "seconds_left": 107.0,
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
            seconds_left=st.none() | st.floats(0, 1e12),
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
    assert [text for text in texts if visible(text) != text] == []


@given(st.lists(st.text() | st.text("ab/東", max_size=80), min_size=1, max_size=8), st.integers(3, 60))
def test_a_name_takes_exactly_its_cells(names: list[str], width: int) -> None:
    shown = display.names_in(tuple(names), width)
    assert [cell_len(name) for name in shown] == [width] * len(names)


@given(
    st.text("abc-/", max_size=90),
    st.lists(st.integers(0, 9999), min_size=2, max_size=9, unique=True),
    st.text("xyz-", max_size=90),
    st.integers(6, 60),
)
def test_names_that_differ_in_a_number_look_different(before: str, numbers: list[int], after: str, width: int) -> None:
    names = tuple(f"{before}{number:04d}{after}" for number in numbers)
    assert len(set(display.names_in(names, width))) == len(names)


def test_of_a_long_name_the_telling_ends_stay() -> None:
    assert display.names_in(("a folder/weights-00001-of-2.bin",), 24) == ["…/weights-00001-of-2.bin"]
    assert display.names_in(("a folder/weights-00001-of-00002.bin",), 20) == ["…/weights-…00002.bin"]
    assert display.names_in(("東京.tif",), 10) == ["東京.tif  "]


@pytest.mark.parametrize(
    ("names", "width", "shown"),
    [
        # The end that is the same for all is cut ...
        (
            ["run-0001-of-the-long-experiment.fastq.gz", "run-0002-of-the-long-experiment.fastq.gz"],
            24,
            ["run-0001-of-…nt.fastq.gz", "run-0002-of-…nt.fastq.gz"],
        ),
        # ... or the beginning, or both.
        (
            ["the-long-experiment-run-0001.fastq.gz", "the-long-experiment-run-0002.fastq.gz"],
            20,
            ["the-lo…0001.fastq.gz", "the-lo…0002.fastq.gz"],
        ),
        (
            ["a-long-beginning-0001-and-a-long-end.bin", "a-long-beginning-0002-and-a-long-end.bin"],
            14,
            ["…0001…-end.bin", "…0002…-end.bin"],
        ),
        # Folders stay where only they differ.
        (["2023/01/data.nc", "2024/01/data.nc"], 12, ["2023/0…ta.nc", "2024/0…ta.nc"]),
        (["one/reads_1.fq", "two/reads_2.fq"], 12, ["…/reads_1.fq", "…/reads_2.fq"]),
        # As many as there is room for, of all the same number.
        (["a/one/reads_1.fq", "a/two/reads_2.fq"], 15, ["…/reads_1.fq   ", "…/reads_2.fq   "]),
        (["b/a/one/reads_1.fq", "b/a/two/reads_2.fq"], 17, ["…/one/reads_1.fq ", "…/two/reads_2.fq "]),
    ],
)
def test_of_several_long_names_that_stays_in_which_they_differ(names: list[str], width: int, shown: list[str]) -> None:
    assert display.names_in(tuple(names), width) == shown


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


def test_who_is_asked_whether_it_works_again_is_not_counted_down() -> None:
    lines = drawn(view(waiting=(Waiting("host:80", "z.bin", 1, 0.0, "refused"),)))
    assert lines[-1] == "  z.bin from host:80: asking whether it works again (refused)"


def test_the_line_of_a_log_names_hosts_that_are_waited_for_by_the_time_of_the_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "UTC0")
    time.tzset()
    try:
        waits = (
            Waiting("a:80", "x.bin", 1, 5.0, ""),
            Waiting("b:80", "y.bin", 12, 65.0, "the origin answered 503"),
            Waiting("c:443", "z.bin", 3, 0.0, "refused"),
            Waiting("d:443", "w.bin", 1, 86_400.0, "the origin answered 429"),
        )
        told = log_line(view(waiting=waits), 1_700_000_000)
        assert told.partition("; waiting for ")[2] == (
            "b:80 until 22:14:25 (12 files; the origin answered 503), "
            "c:443 now asked whether it works again (3 files; refused), a:80 until 22:13:25 (1 file), and 1 more host"
        )
        assert "d:443 until 2023-11-15 22:13:20 (1 file" in log_line(view(waiting=waits[3:]), 1_700_000_000)
        assert "waiting" not in log_line(view(), 1_700_000_000)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_files_that_are_through_in_a_moment_are_only_counted() -> None:
    assert drawn(view(running=tuple(running(f"{n}", age=0.1, speed=0.0) for n in range(9))))[1:] == [
        "  9 running, 0 B/s"
    ]


def test_names_are_neither_markup_nor_control_characters() -> None:
    line = drawn(view(running=(running("[bold]x[/]\x1b[2J\n\u202etxt"),)), 120)[1]
    assert r"[bold]x[/]\x1b[2J\x0a\u202etxt" in line
    assert (
        "".join(s.text for s in display.summary_line(SummaryLine("bad", "a\x1b]0;title\x07"))) == r"a\x1b]0;title\x07"
    )


def test_the_time_left_counts_the_slowest_file() -> None:
    rows = [running(seconds_left=300.0), running(seconds_left=None), running(seconds_left=4000.0)]
    assert time_left(1000, 50.0, rows) == 4000
    assert time_left(1000, 0.1, rows) == 4000, "the others do not move, as it seems"
    assert time_left(1 << 20, 50.0, rows) == (1 << 20) / 50
    assert time_left(None, 50.0, rows) is None, "nobody knows how much there is"
    assert time_left(1000, 0.5, [running(seconds_left=None)]) is None
    assert time_left(1000, 50.0, []) is None, "nothing is under way"


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

    def close_slave(self) -> None:
        """The command has it; when the last command has ended, there is nothing more to read."""
        os.close(self.slave)

    def start(self) -> None:
        self._reader.start()

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

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
        if self._reader.ident is None:
            self._reader.start()
        self._reader.join(PATIENCE)
        assert not self._reader.is_alive()

    def hang_up(self) -> None:
        """As a window that is closed. Not while somebody reads."""
        os.close(self._master)
        self._master = -1

    def close(self) -> None:
        self.read_to_the_end()
        if self._master >= 0:
            os.close(self._master)


@contextmanager
def on_a_screen(
    command: list[str],
    bulk: Bulk,
    *,
    columns: int = 100,
    rows: int = 24,
    environment: dict[str, str] | None = None,
    stdin: bool = False,
    reads: bool = True,
) -> Iterator[tuple[Screen, subprocess.Popen[bytes]]]:
    """stdin: the keyboard is the command's standard input. reads: before the command has ended."""
    screen = Screen(columns, rows)
    # The tests may run in a CI job or a notebook themselves.
    ours = {name: value for name, value in os.environ.items() if name not in ("CI", "JPY_PARENT_PID")}
    process = subprocess.Popen(
        command,
        cwd=bulk.folder,
        env={
            **ours,
            "SCRAPY_SETTINGS_MODULE": "bulkspider.settings",
            "TERM": "xterm-256color",
            "PYTHONIOENCODING": "utf-8",
            **(environment or {}),
        },
        stdin=screen.slave if stdin else subprocess.DEVNULL,
        stdout=screen.slave if stdin else subprocess.DEVNULL,
        stderr=screen.slave,
    )
    screen.close_slave()
    if reads:
        screen.start()
    try:
        yield screen, process
    finally:
        process.kill()
        process.wait()
        screen.close()


@contextmanager
def at_a_terminal(
    bulk: Bulk,
    *arguments: str,
    columns: int = 100,
    rows: int = 24,
    settings: dict[str, str] | None = None,
    environment: dict[str, str] | None = None,
    reads: bool = True,
) -> Iterator[tuple[Screen, subprocess.Popen[bytes]]]:
    command = bulk.command(*arguments, settings={**UNHURRIED, **(settings or {})})
    with on_a_screen(command, bulk, columns=columns, rows=rows, environment=environment, reads=reads) as crawl:
        yield crawl


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
            assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d DEBUG: ", seen, re.MULTILINE)
            assert not re.search(r"[^\n]\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (DEBUG|INFO|WARNING|ERROR): ", seen)
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


@pytest.mark.parametrize("setting", [{}, {"BULK_COLOR": "0"}])
def test_a_terminal_without_unicode_and_colours(bulk: Bulk, setting: dict[str, str]) -> None:
    name = f"{'é' * 60}.bin"
    held = Holds(300_000, bulk.output / f"{name}.part")
    with FaultyOrigin({"held.bin": (held.behaviour(), make_body(400_000))}) as origin:
        bulk.write_list({name: origin.url("held.bin")})
        plain = {"PYTHONIOENCODING": "ascii", "NO_COLOR": "" if setting else "1"}
        with at_a_terminal(bulk, columns=80, environment=plain, settings=setting) as (screen, process):
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
            assert "WARNING: 3 entries: 1 complete, 1 failed, 1 interrupted" in log
            assert re.search(r"2 of 3 done \(1 failed\), 1 running, 585\.9 KiB of 683\.6 KiB on disk", log)
            assert "\x1b" not in log
            assert not any("INFO" in line for line in screen.all_lines)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_terminal_that_takes_nothing_holds_up_neither_downloads_nor_the_end(bulk: Bulk, unbuffered: str) -> None:
    """Ctrl-S, or a connection that hangs: the terminal's buffer is full at once, and nobody reads it. Python flushes
    its own buffer of stderr at the end, if there is one."""
    with FaultyOrigin(default=not_found) as origin:
        origin.add("last.bin", good)
        names = [f"{'long ' * 8}{n}.bin" for n in range(300)]
        bulk.write_list({name: origin.url(name) for name in (*names, "last.bin")})
        log, buffer = {"LOG_LEVEL": "DEBUG"}, {"PYTHONUNBUFFERED": unbuffered}
        with at_a_terminal(bulk, settings=log, environment=buffer, reads=False) as (_, process):
            assert process.wait(PATIENCE) == 4
            assert len(bulk.report.read_text().splitlines()) == 301
            assert (bulk.output / "last.bin").exists()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_terminal_that_is_closed_ends_the_crawl_with_its_signal(bulk: Bulk, unbuffered: str) -> None:
    with FaultyOrigin() as origin:
        a_held_crawl(bulk, origin)
        with at_a_terminal(bulk, environment={"PYTHONUNBUFFERED": unbuffered}, reads=False) as (screen, process):
            origin.wait_until(lambda origin: len(origin.requests) == 3)
            screen.hang_up()
            process.send_signal(signal.SIGHUP)
            assert process.wait(PATIENCE) == 128 + signal.SIGHUP


@pytest.mark.parametrize("blocking", [True, False])
def test_every_line_reaches_a_slow_terminal_once_and_in_order(blocking: bool) -> None:
    """Also where another program has made it non-blocking, and also a text that no newline ends."""
    master, slave = os.openpty()
    os.set_blocking(slave, blocking)
    written = [f"line {number}" for number in range(3000)]
    read = b""
    with open(slave, "w", encoding="utf-8") as stream:
        terminal = Terminal(stream, color=False)
        terminal.start(lambda record: True)
        for line in written:
            print(line, file=sys.stderr)
        sys.stderr.write("and the last one")

        def read_all() -> None:
            nonlocal read
            while b"the last one" not in read:
                read += os.read(master, 4096)

        reader = threading.Thread(target=read_all)
        reader.start()
        terminal.close()
        reader.join(PATIENCE)
    os.close(master)
    assert re.findall(r"line \d+", read.decode()) == written
    assert "and the last one" in read.decode()


def test_ctrl_z_bg_and_fg_in_a_shell(bulk: Bulk) -> None:
    """What the shell writes stays, in the background nothing is drawn, and in front the picture is there again."""
    with FaultyOrigin() as origin:
        a_held_crawl(bulk, origin)
        script = bulk.folder / "crawl.sh"
        script.write_text(f"exec {shlex.join(bulk.command(settings=UNHURRIED))} >/dev/null\n")
        # Ctrl-Z stops jobs only at a terminal that controls their session.
        shell = ["setsid", "--ctty", "bash", "--norc", "--noprofile", "--noediting", "-i"]
        environment = {"PS1": "$ ", "HISTFILE": "/dev/null"}
        with on_a_screen(shell, bulk, stdin=True, environment=environment) as (screen, process):
            screen.type("bash crawl.sh\n")
            screen.wait_for(lambda lines: lines and "75%" in lines[-1] and "1 done, 1 failed" in lines[-2])
            assert not screen.screen.cursor.hidden, "the shell needs one"
            screen.type("\x1a")
            lines = screen.wait_for(lambda lines: lines and lines[-1].startswith("$") and "Stopped" in lines[-2])
            screen.type("bg\n")
            # With the prompt after it: else the shell writes the prompt behind the echo of what is typed next.
            screen.wait_for(lambda lines: any(line.endswith("$ bg") for line in lines) and lines[-1] == "$")
            screen.type("echo one; sleep 1.5; echo two\n")
            lines = screen.wait_for(lambda lines: "two" in lines and lines[-1] == "$")
            assert lines[lines.index("one") + 1] == "two", lines
            screen.type("fg\n")
            lines = screen.wait_for(lambda lines: "75%" in lines[-1] and "1 done, 1 failed" in lines[-2])
            assert lines[lines.index("one") + 1] == "two", lines
            assert lines[-3] == "bash crawl.sh", lines
            screen.type("\x1a")
            screen.wait_for(lambda lines: lines and lines[-1] == "$" and "Stopped" in lines[-2])
            screen.type("fg\n")
            lines = screen.wait_for(lambda lines: "75%" in lines[-1] and "1 done, 1 failed" in lines[-2])
            assert "Stopped" in lines[-5], lines
            assert lines[-4:-2] == ["$ fg", "bash crawl.sh"], lines
            screen.type("\x03")
            lines = screen.wait_for(lambda lines: "3 entries: 1 complete, 1 failed, 1 interrupted" in lines)
            screen.type("exit $?\n")
            assert process.wait(PATIENCE) == 130
            screen.read_to_the_end()


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


@pytest.mark.parametrize("environment", [{"CI": "true"}, {"JPY_PARENT_PID": "4711"}], ids=["CI", "notebook"])
def test_what_only_looks_like_a_terminal_gets_calm_lines(bulk: Bulk, environment: dict[str, str]) -> None:
    with FaultyOrigin({"a.bin": good}, default=not_found) as origin:
        bulk.write_list({name: origin.url(name) for name in ("a.bin", "gone.bin")})
        with at_a_terminal(bulk, columns=150, environment=environment) as (screen, process):
            assert process.wait(PATIENCE) == 4
            screen.read_to_the_end()
            assert b"\x1b" not in screen.raw
            assert any(line.endswith("WARNING: 2 entries: 1 complete, 1 failed") for line in screen.lines)


@pytest.mark.parametrize(
    ("asked", "environment", "mode"),
    [
        ("auto", {}, "bar"),
        ("auto", {"CI": ""}, "bar"),
        ("auto", {"CI": "False"}, "bar"),
        ("auto", {"CI": "1"}, "log"),
        ("auto", {"JPY_PARENT_PID": "1"}, "log"),
        ("auto", {"TERM": "dumb"}, "log"),
        ("bar", {"CI": "true"}, "bar"),
        ("log", {}, "log"),
        ("off", {}, "off"),
    ],
)
def test_which_form_a_run_is_shown_in(
    monkeypatch: pytest.MonkeyPatch, asked: str, environment: dict[str, str], mode: str
) -> None:
    for name, value in {"TERM": "xterm", "CI": None, "JPY_PARENT_PID": None, **environment}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: True))
    assert how(asked, feeds_terminal=False) == mode


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
        assert "\x1b[2K" in ended.log


def test_a_terminal_that_cannot_move_its_cursor_gets_failures_and_the_summary(bulk: Bulk) -> None:
    with FaultyOrigin({"a.bin": good}, default=not_found) as origin:
        bulk.write_list({name: origin.url(name) for name in ("a.bin", "gone.bin")})
        with at_a_terminal(bulk, settings={"BULK_PROGRESS": "bar"}, environment={"TERM": "dumb"}) as (screen, process):
            assert process.wait(PATIENCE) == 4
            screen.read_to_the_end()
            assert "failed gone.bin: the origin answered 404 [http_404]" in screen.lines
            assert "2 entries: 1 complete, 1 failed" in screen.lines
            assert b"\x1b" not in screen.raw


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
        assert "bulkspider.reporting.progress" in loaded
        assert not {"rich", "bulkspider.reporting.display", "bulkspider.reporting.page", "prometheus_client"} & loaded


def test_what_others_write_to_stderr_keeps_its_colours_and_nothing_else() -> None:
    written = "\x1b[31mred\x1b[0m\t\u202eevil\x1b[2J\x00\r\nnext\x9b2J"
    assert safe(written) == "\x1b[31mred\x1b[0m\t\\u202eevil\\x1b[2J\\x00\nnext\\x9b2J"
