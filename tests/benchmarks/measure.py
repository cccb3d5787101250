"""One run of one program: wall time, CPU time, peak memory. Knows nothing of what the program does.

CPU time is the kernel's account of the whole process tree (`wait4`). The peak of memory is read while the program runs
(`VmHWM`), because the kernel's own account of it (`ru_maxrss`) begins with what this Python process held at the fork.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOOK_EVERY = 0.05  # seconds between two looks at its memory; the first ones come sooner
MOST_MEMORY = 4 << 30  # a program that takes more is ended: the machine has other work


@dataclass(slots=True)
class Run:
    """Seconds and bytes. problem: why this run does not count. first_request: seconds, where that is what is measured."""

    wall: float
    user: float
    system: float
    peak: int
    problem: str | None = None
    first_request: float | None = None

    @property
    def cpu(self) -> float:
        return self.user + self.system


def run(
    command: Sequence[str],
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    most_memory: int = MOST_MEMORY,
    time_limit: float = 900.0,
    good: Sequence[int] = (0,),
    watch: Callable[[float], tuple[float | None, bool]] | None = None,
) -> Run:
    """Runs the command in `folder` to its end. watch(seconds to wait) waits in our place, tells when the first request
    came (a time of `time.monotonic`), and says True when the program has shown what it was to show and may be ended."""
    log = folder / "log"
    with open(log, "wb") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    pidfd = os.pidfd_open(process.pid)
    peak, problem, first, shown = 0, None, None, False
    wait = 0.002
    try:
        while not select.select([pidfd], [], [], 0 if watch else wait)[0]:
            wait = min(2 * wait, LOOK_EVERY)
            peak = max(peak, _peak(process.pid))
            if watch is not None:
                first, shown = watch(LOOK_EVERY)
            if peak > most_memory:
                problem = f"took more than {most_memory >> 20} MiB of memory"
            elif time.monotonic() - began > time_limit:
                problem = f"took longer than {time_limit:.0f} s"
            if problem or shown:
                os.killpg(process.pid, signal.SIGKILL)
                select.select([pidfd], [], [])
        wall = time.monotonic() - began
    finally:
        os.close(pidfd)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if problem is None and not shown and process.returncode not in good:
        problem = f"exit status {process.returncode}: {log.read_text(errors='replace')[-300:].strip()}"
    peak = peak or usage.ru_maxrss * 1024  # through before the first look: the kernel's account, which is no less
    return Run(wall, usage.ru_utime, usage.ru_stime, peak, problem, None if first is None else first - began)


def _peak(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


class Listener:
    """An origin that lets everybody connect and answers nobody: it only notes when the first request came.

    What a program does between its start and its first request, and what it then holds, is all that is wanted.
    """

    def __init__(self, settle: float = 1.0) -> None:
        """settle: seconds after the first request in which the program's memory is watched on."""
        self._server = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._server.getsockname()[1]
        self._settle = settle
        self._clients: list[socket.socket] = []
        self._first: float | None = None

    def watch(self, wait: float) -> tuple[float | None, bool]:
        waiting = [self._server, *(self._clients if self._first is None else ())]
        ready = select.select(waiting, [], [], wait)[0]
        now = time.monotonic()
        for one in ready:
            if one is self._server:
                self._clients.append(one.accept()[0])
            elif one.recv(65536):
                self._first = self._first or now
            else:
                self._clients.remove(one)
                one.close()
        return self._first, self._first is not None and now - self._first > self._settle

    def close(self) -> None:
        for one in (self._server, *self._clients):
            one.close()


def median(runs: Sequence[Run], value: Callable[[Run], Any]) -> float | None:
    """Of the runs that count."""
    values = [value(run) for run in runs if run.problem is None]
    return statistics.median(values) if values and None not in values else None
