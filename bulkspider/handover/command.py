"""The command of `--then`: its words with fields, and one run of it.

The command is split into words once, as a shell would; the fields are filled into the words, so that a name with blanks
or quotes stays one word. No shell is used. Plain Python, for worker threads.
"""

from __future__ import annotations

import logging
import os
import select
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from msgspec import Struct

from bulkspider.errors import BulkError, Stopped, UsageError
from bulkspider.regex import regex
from bulkspider.text import nearest, visible

logger = logging.getLogger(__name__)

FIELDS = ("path", "name", "url", "sha256", "size")
_FIELD = regex(r"\{([a-z0-9_]+)\}")
LOOK_SECONDS = 0.25
# How long a command may take to end after a stop, before it is killed.
STOP_SECONDS = 10.0
# Bytes of the end of a command's output that are kept, because it says why it failed.
TAIL_BYTES = 4096
TOLD_CHARACTERS = 200


class Template(Struct, frozen=True):
    """A command with fields. words: `{path}` and the like in them are to be filled in."""

    words: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Raises UsageError that says what is wrong."""
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise UsageError(f"the command {text!r} cannot be split into words: {error}") from None
        if not words:
            raise UsageError("the command is empty; say for example 'rclone moveto {path} s3:bucket/{name}'")
        for name in _FIELD.findall(text):
            if name not in FIELDS and (hint := nearest(name, FIELDS)):
                raise UsageError(f"the command has an unknown field {{{name}}}{hint}")
        program = words[0]
        # A path that is not absolute begins at the output folder, which may not be there yet.
        is_known = "{" in program or ("/" in program and not program.startswith("/")) or shutil.which(program)
        if not is_known:
            raise UsageError(f"the command {program!r} is not there, or no program; say its whole path, or install it")
        return cls(words)

    @property
    def needs_sha256(self) -> bool:
        return any("{sha256}" in word for word in self.words)

    def fill(self, values: Mapping[str, str]) -> list[str]:
        """The words to run. What is no field stays as it is."""
        return [_FIELD.sub(lambda found: values.get(found[1], found[0]), word) for word in self.words]


def run(words: list[str], cwd: str, stop: Callable[[], bool], keep_open: int) -> None:
    """Runs a command to its end. keep_open: a descriptor that it inherits, so that it holds the lock as long as it
    lives.

    Raises BulkError `then_failed` unless it ends with 0; Stopped when it was ended by us, because of `stop()`.
    """
    try:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(keep_open,),
        )
    except OSError as error:
        what = error.strerror or str(error)
        raise BulkError(f"the command {visible(words[0])} cannot be run: {what}", code="then_failed") from error
    assert process.stdout is not None
    with process.stdout:
        tail, stopped = _follow(process, process.stdout.fileno(), stop)
    if process.returncode == 0:
        return
    if stopped:
        raise Stopped
    how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit status {process.returncode}"
    said = [line for line in tail.decode("utf-8", "replace").splitlines() if line.strip()][-1:]
    told = f": {visible(said[0].strip())[:TOLD_CHARACTERS]}" if said else ""
    raise BulkError(f"the command {visible(words[0])} failed with {how}{told}", code="then_failed")


def _follow(process: subprocess.Popen[bytes], pipe: int, stop: Callable[[], bool]) -> tuple[bytes, bool]:
    """Reads its output until it has ended. Does not wait for processes that it leaves in the background."""
    tail, kill_at, is_open = b"", 0.0, True
    while process.poll() is None:
        if is_open:
            if select.select([pipe], [], [], LOOK_SECONDS)[0]:
                block = os.read(pipe, 65536)
                is_open = bool(block)
                tail = (tail + block)[-TAIL_BYTES:]
        else:
            with suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_SECONDS)
        if stop() and not kill_at:
            kill_at = time.monotonic() + STOP_SECONDS
            _signal(process, signal.SIGTERM)
        elif kill_at and time.monotonic() >= kill_at:
            _signal(process, signal.SIGKILL)
    while is_open and select.select([pipe], [], [], 0)[0] and (block := os.read(pipe, 65536)):
        tail = (tail + block)[-TAIL_BYTES:]
    return tail, bool(kill_at)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Sends a signal to all processes of the command, which has a session of its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
