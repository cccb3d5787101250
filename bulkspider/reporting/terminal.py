"""The terminal: the live display at its bottom (`rich.live`), and log lines above it.

A thread of its own draws, so that a terminal that takes nothing for a while (Ctrl-S, a hanging connection) holds up no
download: what is written to stderr meanwhile, by Python's logging first of all, waits in a queue. Rich's own thread and
its redirection of stderr would make the writers wait. What the picture shows is `display.py`'s matter.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import select
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TextIO, cast

from rich.console import Console
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment, Segments

from bulkspider.regex import regex
from bulkspider.text import visible_lines
from bulkspider.workers import as_bulk_error, start

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, RenderResult

logger = logging.getLogger(__name__)

# Log lines that are kept while the terminal accepts nothing; the oldest are lost first.
QUEUE_LINES = 10_000
# Log lines are shown that often even when there is no new picture.
REFRESH_SECONDS = 1.0
# A terminal that takes nothing must not keep the process alive.
CLOSE_TIMEOUT_SECONDS = 2.0
_COLOUR = regex(r"(\x1b\[[0-9;]*m)")
_WRAP_OFF = Segment("\x1b[?7l", control=[(ControlType.CARRIAGE_RETURN,)])
_WRAP_ON = Segment("\x1b[?7h", control=[(ControlType.CARRIAGE_RETURN,)])

Line = Sequence[Segment]
Draw = Callable[[int, int], Sequence[Line]]


class Terminal:
    """Owns the lower end of the terminal behind `stream` from `start` to `close`."""

    def __init__(self, stream: TextIO, *, color: bool = True) -> None:
        self._stream = stream
        self._direct = _Direct(stream)
        # Rich knows which colours and characters this terminal has, and what NO_COLOR and TERM say.
        no_color = None if color else True
        file = cast("TextIO", self._direct)
        self._console = Console(file=file, force_terminal=True, force_jupyter=False, no_color=no_color)
        self.unicode = self._console.encoding.startswith("utf")
        self._draw: Draw = _nothing
        self._widths: list[int] = []
        self._live: Live | None = None
        self._above: deque[Line] = deque(maxlen=QUEUE_LINES)
        self._wake = threading.Event()
        self._queue = _Queue(self._above, stream)
        self._closing = False
        self._continued = False
        self._undo = contextlib.ExitStack()
        self._old_sigcont: Any = None
        self._thread = threading.Thread(target=self._work, name="bulk-terminal", daemon=True)

    # -- for the reactor -------------------------------------------------------------------------------------------

    def start(self, passes: Callable[[logging.LogRecord], bool]) -> None:
        """Begins to draw. passes: which log records are shown above the picture. Raises WorkerError when no thread can
        be started; then nothing is changed."""
        start(self._thread)
        self._stream.flush()
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is self._stream:
                handler.setStream(cast("TextIO", self._queue))
                self._undo.callback(handler.setStream, self._stream)
                handler.addFilter(passes)
                self._undo.callback(handler.removeFilter, passes)
        self._undo.callback(setattr, sys, "stderr", sys.stderr)
        sys.stderr = cast("TextIO", self._queue)
        if threading.current_thread() is threading.main_thread():
            self._old_sigcont = signal.signal(signal.SIGCONT, self._on_sigcont)
        atexit.register(self.close)

    def show(self, draw: Draw) -> None:
        """draw(columns, rows) gives the lines of the picture, none wider or more than that; the thread calls it."""
        self._draw = draw
        self._wake.set()

    def say(self, line: Line) -> None:
        """A line above the picture, which stays."""
        self._above.append([*line, Segment.line()])

    def close(self, last: Sequence[Line] = ()) -> None:
        """The picture vanishes, `last` takes its place, and stderr is what it was."""
        if self._closing:
            return
        for line in last:
            self.say(line)
        self._closing = True
        self._wake.set()
        # A thread that the terminal still holds up gives stderr back itself once it goes on. Whoever wrote there before
        # would wait for the terminal, too.
        self._thread.join(CLOSE_TIMEOUT_SECONDS)
        if self._old_sigcont is not None:
            signal.signal(signal.SIGCONT, self._old_sigcont)
        atexit.unregister(self.close)

    def _on_sigcont(self, number: int, frame: Any) -> None:
        self._continued = True

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _work(self) -> None:
        ended: BaseException | None = None
        try:
            while not self._closing:
                self._wake.wait(REFRESH_SECONDS)
                self._wake.clear()
                self.draw_frame()
            with self._console:
                self.draw_frame()
                self._end_live()
        except OSError:
            pass  # the terminal has been closed
        except BaseException as error:
            ended = error
        finally:
            # Whatever ended the thread, the log must go on.
            self._undo.close()
        with contextlib.suppress(Exception):
            if ended is not None:
                self._draw = _nothing
                self._end_live()
            # What was written since the last picture.
            self._queue.end()
            self._print_above()
        if ended is not None:
            logger.warning("The live display has ended (%s); the run goes on without it", as_bulk_error(ended))

    def draw_frame(self) -> None:
        """Draws the picture, below what waits to stand above it, in one write."""
        in_foreground, continued, self._continued = self._in_foreground(), self._continued, False
        columns = self._console.width
        with contextlib.suppress(OSError, ValueError):  # it may be no terminal
            # Rich would take COLUMNS and LINES before the terminal's own word, and never see it resized.
            size = os.get_terminal_size(self._stream.fileno())
            if size.columns and size.lines:
                self._console.size = size
        with self._console:
            if self._live is not None and (continued or not in_foreground):
                # A shell has written below the picture: Live clears fresh lines in place of its own.
                self._direct.write("\n" * (len(self._widths) + 1))
                self._end_live()
            elif self._live is not None and self._console.width < columns:
                # A narrower terminal wraps what is on it, and Live counts the lines that it wrote.
                wrapped = sum(max(width - 1, 0) // self._console.width for width in self._widths)
                self._console.control(Control(*[(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)] * wrapped))
            if in_foreground and self._live is None:
                self._begin_live()
            self._print_above()

    def _begin_live(self) -> None:
        self._live = Live(
            self,
            console=self._console,
            transient=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()
        # Live hides the cursor, and the shell would have none after Ctrl-Z or a kill.
        self._console.show_cursor()

    def _end_live(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _print_above(self) -> None:
        """With the picture below, as long as there is a Live."""
        above: list[Segment] = []
        with contextlib.suppress(IndexError):
            while True:
                above.extend(self._above.popleft())
        self._console.print(Segments(above), soft_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The picture, for Live; the cursor stands below it."""
        lines = self._draw(*console.size)
        self._widths = [Segment.get_line_length(list(line)) for line in lines]
        # Terminals do not agree on how wide every character is.
        yield _WRAP_OFF
        for line in lines:
            yield from line
            yield Segment.line()
        yield _WRAP_ON

    def _in_foreground(self) -> bool:
        """False after Ctrl-Z and `bg`: another process uses the terminal."""
        try:
            return os.tcgetpgrp(self._stream.fileno()) == os.getpgrp()
        except (OSError, ValueError):  # no terminal, or not the one that controls this process
            return True


def _nothing(columns: int, rows: int) -> Sequence[Line]:
    return ()


class _Direct:
    """Writes to the stream's descriptor without its buffer. Python gives a buffer a lock, and what holds it while the
    terminal takes nothing would make the interpreter wait for it at its end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        left = memoryview(text.encode(self._stream.encoding, self._stream.errors or "strict"))
        while left:
            try:
                left = left[os.write(self._stream.fileno(), left) :]
            except BlockingIOError:
                # Another program on this terminal has set O_NONBLOCK, which is of the open file, for all.
                select.select([], [self._stream.fileno()], [])
        return len(text)

    def flush(self) -> None:
        """Nothing waits here."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Queue:
    """Stands in for stderr: whole lines go into the queue."""

    def __init__(self, above: deque[Line], stream: TextIO) -> None:
        self._above = above
        self._stream = stream
        self._begun = ""

    def write(self, text: str) -> int:
        whole, newline, self._begun = (self._begun + text).rpartition("\n")
        if newline:
            self._above.append([Segment(safe(whole) + "\n")])
        return len(text)

    def flush(self) -> None:
        """What is not a whole line waits."""

    def end(self) -> None:
        """It waits no longer."""
        if self._begun:
            self.write("\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def safe(text: str) -> str:
    """`text` with all escaped that moves the cursor or is not seen, but for colours, TABs and newlines."""
    # A carriage return has no use above the picture.
    pieces = _COLOUR.split(text.replace("\r", ""))
    return "".join(piece if number % 2 else visible_lines(piece) for number, piece in enumerate(pieces))
