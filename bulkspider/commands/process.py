"""What our own commands change in their process, which runs one crawl and nothing else.

Not done in processes of other programs. Here all descriptors are used that the system allows, and a signal ends the
process even if the main thread is blocked (by a disk, or by the reader of its log).
"""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from bulkspider.run.stopping import listen

# How long a stop may take after the first signal (a crawl gives up threads that hang some time before, `run/run.py`).
END_SECONDS = 60.0
# After this many signals the process ends at once.
INSISTING = 3


@contextmanager
def told_to_a_reader() -> Iterator[None]:
    """Around what is printed: when its reader ends first (`| head`), nothing more is said, as by other programs."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Else the interpreter complains at its end, when it flushes once more.
        _lead_nowhere(sys.stdout.fileno())


def leave_closed_stderr() -> None:
    """At the end: where nobody takes stderr any more (a terminal that was closed, a full disk), what waits for it is
    dropped. Else the interpreter would try once more, and end with status 120 instead of ours."""
    try:
        sys.stderr.flush()
    except OSError:
        _lead_nowhere(sys.stderr.fileno())


def _lead_nowhere(fd: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, fd)
    os.close(nowhere)


def raise_descriptors() -> None:
    """As many open files as the system allows: the soft limit of `ulimit -n` becomes the hard one.

    A child process gets the old limit: programs that close or watch every descriptor there could be expect few.
    """
    old, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if old == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return

    def give_back() -> None:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (old, hard))

    os.register_at_fork(after_in_child=give_back)
    starting = threading.Lock()

    @contextmanager
    def old_limit() -> Iterator[None]:
        """Lowers the limit of this process while a child of `subprocess` is started, because the child inherits it and
        runs no code of ours before. Descriptors that are open stay open."""
        with starting:
            resource.setrlimit(resource.RLIMIT_NOFILE, (old, hard))
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    start: Any = subprocess.Popen.__init__

    def start_with_old_limit(self: Any, *args: Any, **kwargs: Any) -> None:
        with old_limit():
            start(self, *args, **kwargs)

    setattr(subprocess.Popen, "__init__", start_with_old_limit)  # noqa: B010 - mypy allows no plain assignment


def obey_signals() -> None:
    """The process ends END_SECONDS after the first signal, or at the third one, whatever hangs: as by `kill -9`, which
    loses nothing that is on disk."""
    heard: list[int] = []

    def end(*_: Any) -> None:
        what = b"bulkspider: something does not answer; the process ends without it, and what is on disk is kept\n"
        if select.select([], [2], [], 0)[1]:
            os.write(2, what)
        os._exit(128 + heard[0])

    def hear(number: int) -> None:
        heard.append(number)
        if len(heard) == 1:
            signal.signal(signal.SIGALRM, end)
            signal.setitimer(signal.ITIMER_REAL, END_SECONDS)
        elif len(heard) >= INSISTING:
            end()

    listen(hear)
