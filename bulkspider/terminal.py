"""The terminal: some lines at its bottom that change in place, and log lines above them that nothing tears.

A thread of its own draws, so that a terminal that stands still (Ctrl-S, a hanging connection) holds up no download.
Whoever writes to stderr meanwhile, Python's logging first of all, writes into a queue that is emptied above the lines.
It knows how a terminal is spoken to and how wide text is; what the lines say is `display.py`'s matter.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import shutil
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO, Any

from rich.cells import cell_len
from rich.color import ColorSystem
from rich.console import Console
from rich.segment import Segment

# What a log may write while the terminal stands still; then its oldest lines are lost.
QUEUE = 10_000
# A terminal that takes nothing must not keep the process alive.
PATIENCE = 2.0
# All that moves the cursor; colours (SGR), tabs and newlines may pass.
_CONTROL = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")

Line = Sequence[Segment]
Draw = Callable[[int, int], Sequence[Line]]


class Terminal:
    """Owns the lower end of the terminal behind `stream` from `start` to `close`."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        # Rich knows which colours and characters this terminal has, and what NO_COLOR and TERM say.
        console = Console(file=stream, force_terminal=True)
        system = console.color_system
        self._colors = ColorSystem[{"256": "EIGHT_BIT"}.get(system, system.upper())] if system else None
        self._plain = console.no_color
        self._encoding = console.encoding
        self.unicode = self._encoding.lower().startswith("utf")
        self._draw: Draw | None = None
        self._above: deque[str] = deque(maxlen=QUEUE)
        self._last: list[str] = []
        self._widths: list[int] = []
        self._drawn_at = (0, 0)
        self._wake = threading.Event()
        self._closing = False
        self._anew = False
        self._undo: list[Callable[[], object]] = []
        self._continue: Any = None
        self._thread = threading.Thread(target=self._work, name="bulk-terminal", daemon=True)

    # ------------------------------------------------------------------------------------------- for the reactor

    def start(self, passes: Callable[[logging.LogRecord], bool]) -> None:
        """Begins to draw. passes: which log records are shown above the lines."""
        self._take_over(passes)
        if threading.current_thread() is threading.main_thread():
            self._continue = signal.signal(signal.SIGCONT, self._continued)
        atexit.register(self.close)
        self._thread.start()

    def show(self, draw: Draw) -> None:
        """draw(columns, rows) gives the lines, none wider or more than that; called once, by the thread."""
        self._draw = draw
        self._wake.set()

    def say(self, line: Line) -> None:
        """A line above, which stays."""
        self._above.append(self._render(line) + "\n")

    def close(self, last: Sequence[Line] = ()) -> None:
        """The lines vanish, `last` takes their place, and stderr is what it was."""
        if self._closing:
            return
        self._last = [self._render(line) + "\n" for line in last]
        self._closing = True
        self._wake.set()
        self._thread.join(PATIENCE)
        self._give_back()
        if self._continue is not None:
            signal.signal(signal.SIGCONT, self._continue)
        atexit.unregister(self.close)

    def _continued(self, number: int, frame: Any) -> None:
        """After Ctrl-Z and `fg`: what we drew is somewhere above."""
        self._anew = True

    # ------------------------------------------------------------------------------------------- who else writes

    def _take_over(self, passes: Callable[[logging.LogRecord], bool]) -> None:
        queue = _Queue(self._above, self._stream)
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is self._stream:
                handler.setStream(queue)
                self._undo.append(_call(handler.setStream, self._stream))
                handler.addFilter(passes)
                self._undo.append(_call(handler.removeFilter, passes))
        self._undo.append(_call(setattr, sys, "stderr", sys.stderr))
        sys.stderr = queue

    def _give_back(self) -> None:
        while self._undo:
            self._undo.pop()()

    # ------------------------------------------------------------------------------------------- the thread

    def _work(self) -> None:
        try:
            while not self._closing:
                # Log lines come also when nobody shows anything.
                self._wake.wait(1.0)
                self._wake.clear()
                self._frame(self._draw)
            self._above.extend(self._last)
            self._frame(None)
        except OSError:
            pass  # the terminal is gone, and nobody looks any more
        finally:
            # Whatever ends us, logs go on.
            self._give_back()

    def _frame(self, draw: Draw | None) -> None:
        size = shutil.get_terminal_size() if self._fd is None else _size(self._fd)
        if self._anew or not self._in_foreground():
            self._anew, self._widths = False, []
            if not self._in_foreground():
                draw = None
        out = [self._back(size)]
        above = []
        with contextlib.suppress(IndexError):
            while True:
                above.append(self._above.popleft())
        if above or draw is None:
            out.append("\x1b[J" if self._widths else "")
            out.extend(above)
            if above and not above[-1].endswith("\n"):
                out.append("\n")
        lines = draw(*size) if draw is not None else ()
        if lines:
            # Without wrapping: terminals do not agree on how wide every character is.
            out.append("\x1b[?7l")
            out.extend(f"{self._render(line)}\x1b[K\n" for line in lines)
            out.append("\x1b[J\x1b[?7h")
        self._widths = [sum(cell_len(segment.text) for segment in line) for line in lines]
        self._drawn_at = size
        text = "".join(out)
        if text:
            self._stream.write(text)
            self._stream.flush()

    def _back(self, size: tuple[int, int]) -> str:
        """Moves the cursor to the first of our lines, and clears them when their shape has changed."""
        if not self._widths:
            return ""
        rows = len(self._widths)
        if size[0] < self._drawn_at[0]:
            # A narrower terminal wraps what is on it.
            rows = sum(max(1, -(-width // size[0])) for width in self._widths)
        rows = min(rows, size[1] - 1)
        return f"\r\x1b[{rows}A" + ("\x1b[J" if size != self._drawn_at else "")

    def _render(self, line: Line) -> str:
        out = []
        for text, style, _ in line:
            if not self.unicode:
                # What Python would write instead takes more cells than were counted.
                text = text.replace("…", "~").encode(self._encoding, "replace").decode(self._encoding)
            if style is None or self._colors is None:
                out.append(text)
            else:
                out.append((style.without_color if self._plain else style).render(text, color_system=self._colors))
        return "".join(out)

    @property
    def _fd(self) -> int | None:
        try:
            return self._stream.fileno()
        except (OSError, ValueError, AttributeError):
            return None

    def _in_foreground(self) -> bool:
        """False after Ctrl-Z and `bg`: the terminal is somebody else's."""
        try:
            return self._fd is None or os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:  # a terminal, but not the one that controls us
            return True


class _Queue:
    """Stands in for stderr: whole lines go into the queue."""

    def __init__(self, above: deque[str], stream: IO[str]) -> None:
        self._above = above
        self._stream = stream
        self._begun = ""

    def write(self, text: str) -> int:
        whole, newline, self._begun = (self._begun + text).rpartition("\n")
        if newline:
            self._above.append(_CONTROL.sub("", whole) + "\n")
        return len(text)

    def flush(self) -> None:
        """What is not a whole line waits."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _call(function: Callable[..., object], *arguments: object) -> Callable[[], object]:
    return lambda: function(*arguments)


def _size(fd: int) -> tuple[int, int]:
    """Columns and rows; COLUMNS and LINES count only where the terminal does not tell."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        columns = rows = 0
    return (columns, rows) if columns and rows else tuple(shutil.get_terminal_size())  # type: ignore[return-value]
