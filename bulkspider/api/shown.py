"""`progress=True`: one line with the progress of a fetch, which changes in place in a notebook's cell or a terminal.

Elsewhere (the log of a CI job, a file) it is a line of its own every half minute, without a control character.
"""

from __future__ import annotations

import sys
import time
from importlib import import_module
from typing import Any, TextIO

from bulkspider.options import clock, human, plural

# Time between two lines where a line cannot be changed in place.
CALM_SECONDS = 30.0
# Erases what a longer line has left (ECMA-48, EL).
_REST = "\x1b[K"


def line_of(numbers: dict[str, Any]) -> str:
    """The numbers that a function of the user gets, as one line."""
    there, left, speed = numbers["bytes_on_disk"], numbers["bytes_left"], numbers["speed"]
    pieces = [f"{numbers['done']:,} of {plural(numbers['entries'], 'file', 'files')}"]
    pieces.append(human(there) if left is None else f"{human(there)} of {human(there + left)}")
    if numbers["running"]:
        pieces.append(f"{human(speed)}/s")
        if left and speed:
            pieces.append(f"{clock(left / speed)} left")
    if numbers["failed"]:
        pieces.append(f"{numbers['failed']:,} failed")
    if numbers["waiting"]:
        first, more = numbers["waiting"][0], len(numbers["waiting"]) - 1
        pieces.append(f"waiting for {first}" + (f" and {plural(more, 'more host', 'more hosts')}" if more else ""))
    return ", ".join(pieces)


class Shown:
    """Is called with the numbers, and with the last of them at the end."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._cell = None if stream is not None else _cell()
        self._changes = self._cell is None and self._stream.isatty()
        self._next = time.monotonic() + CALM_SECONDS
        self._last = ""

    def __call__(self, numbers: dict[str, Any]) -> None:
        self._last = line_of(numbers)
        if self._cell is not None:
            self._cell.update({"text/plain": self._last}, raw=True)
        elif self._changes:
            self._write(f"\r{self._last}{_REST}")
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + CALM_SECONDS
            self._write(f"{self._last}\n")

    def close(self) -> None:
        """The fetch has ended, in whatever way: its last line stays."""
        if self._cell is None and self._last:
            self._write("\n" if self._changes else f"{self._last}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _cell() -> Any:
    """An output of the notebook's cell that can be changed; None outside of a notebook."""
    shell = sys.modules.get("IPython")
    if shell is None or getattr(shell.get_ipython(), "kernel", None) is None:
        return None
    return import_module("IPython.display").display({"text/plain": ""}, raw=True, display_id=True)
