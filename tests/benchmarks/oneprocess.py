"""Where one process ends: how much of its CPU time holds Python's lock (the GIL), and whether two processes are faster.

    python tests/benchmarks/oneprocess.py [--rounds 3] [--scenario many-https] [--where /dev/shm]

Work without the lock (system calls, OpenSSL) runs on as many cores as there are; work with it on one. So one process
ends where the lock is always held: the bound that is told, on a core of this machine. `perf` counts: samples outside the
kernel, OpenSSL and libc hold the lock, which is a little too much, so that the bound is a little too low. The start is
taken off. Then the list is given to two processes, a half to each, with half of the connections. All these processes
fetch alone (BULK_PROCESSES=1); small files are also fetched by one that starts its own second process, the default.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from clients import CLIENTS, Job
from memory import HeldMemory
from nginx import Nginx, hashes
from run import GB, TRANSFERS, Transfer, available_memory

SCENARIOS = ("many", "many-https", "small", "small-https")
# Where the samples are that do not hold the lock, by the beginning of the file's name: `_rust` is where `cryptography`
# has its OpenSSL.
UNLOCKED = ("[kernel", "[vdso", "_rust", "libcrypto", "libssl", "libc.so", "libc-")
SAMPLES_A_SECOND = 999


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of CPU time of one process, those of them that hold the lock, and its calls of futex."""

    cpu: float
    locked: float
    futex: int


class Measured:
    """One scenario on a running server."""

    def __init__(self, what: Transfer, nginx: Nginx, where: Path) -> None:
        self._what = what
        self._where = where
        folder = f"{what.count}x{what.size}"
        self._expected = nginx.make_files(folder, what.count, what.size)
        self._base = f"{nginx.base(what.scheme)}/{folder}"
        self._by_default = next(client for client in CLIENTS if client.name == "bulkspider").command

    def _command(self, job: Job) -> list[str]:
        return [*self._by_default(job), "-s", "BULK_PROCESSES=1"]

    def spent(self, files: int) -> Spent:
        """What one process takes for so many of the files."""
        with self._job(list(self._expected)[:files], self._what.at_once) as job:
            samples, calls = job.folder / "samples", job.folder / "calls"
            record = ["perf", "record", "-q", "-F", str(SAMPLES_A_SECOND), "-e", "cpu-clock", "-o", str(samples), "--"]
            _said(*record, *self._command(job))
            report = _said("perf", "report", "-i", str(samples), "--sort", "dso", "-t", ";", "-F", "sample,dso")
            shutil.rmtree(job.output)
            count = ["perf", "stat", "-x", ";", "-e", "syscalls:sys_enter_futex", "-o", str(calls), "--"]
            _said(*count, *self._command(job))
            counts = [line.split(";") for line in report.splitlines() if line.strip() and not line.startswith("#")]
            taken = {name.strip(): int(count) / SAMPLES_A_SECOND for count, name in counts}
            futex = next(line.split(";")[0] for line in calls.read_text().splitlines() if "futex" in line)
        locked = sum(seconds for name, seconds in taken.items() if not name.startswith(UNLOCKED))
        return Spent(sum(taken.values()), locked, int(futex))

    def seconds(self, processes: int, *, by_default: bool = False) -> float:
        """Wall time of so many processes for all files. by_default: each may start a second one."""
        command = self._by_default if by_default else self._command
        names = list(self._expected)
        with tempfile.TemporaryDirectory(dir=self._where) as folder:
            jobs = []
            for number in range(processes):
                place = Path(folder) / str(number)
                place.mkdir()
                at_once = max(1, self._what.at_once // processes)
                jobs.append(Job(place, place / "out", self._base, names[number::processes], at_once))
            began = time.monotonic()
            with ThreadPoolExecutor(processes) as threads:
                list(threads.map(lambda job: _said(*command(job)), jobs))
            seconds = time.monotonic() - began
            for job in jobs:
                self._prove(job)
        return seconds

    @contextmanager
    def _job(self, names: list[str], at_once: int) -> Iterator[Job]:
        with tempfile.TemporaryDirectory(dir=self._where) as folder:
            job = Job(Path(folder), Path(folder) / "out", self._base, names, at_once)
            yield job
            self._prove(job)

    def _prove(self, job: Job) -> None:
        if hashes(job.output, job.names) != {name: self._expected[name] for name in job.names}:
            raise SystemExit("a copy is missing or has another hash")


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]}: {(done.stdout + done.stderr)[-500:]}")
    return done.stdout


def told(
    what: Transfer,
    spent: Sequence[Spent],
    starts: Sequence[Spent],
    one: Sequence[float],
    two: Sequence[float],
    by_default: Sequence[float],
) -> str:
    """The figures in words. spent, starts: of runs with all files and with one, which is taken off as the start. one,
    two, by_default: seconds of one process, of two with half a list each, of one with its own second process."""
    cpu = median(run.cpu for run in spent) - median(run.cpu for run in starts)
    locked = median(run.locked for run in spent) - median(run.locked for run in starts)
    futex = median(run.futex for run in spent) - median(run.futex for run in starts)
    walls = f"one process {median(one):.2f} s, two {median(two):.2f} s, by default {median(by_default):.2f} s"
    if not cpu > locked > 0:
        return f"too little work to tell it from the start; {walls}"
    if what.small:
        return (
            f"{1000 * cpu / what.count:.2f} ms of CPU a file, {1000 * locked / what.count:.2f} with the lock, "
            f"{futex / what.count:.1f} calls of futex; bound {what.count / locked:.0f} files/s; {walls}"
        )
    size = what.count * what.size / GB
    return (
        f"{cpu / size:.2f} s of CPU a GB, {locked / size:.3f} with the lock, {futex / size:.0f} calls of futex; "
        f"bound {size / locked:.1f} GB/s; {walls}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="may be repeated; all by default")
    parser.add_argument("--size-factor", type=float, default=1.0, metavar="F", help="times the sizes and counts (1)")
    parser.add_argument("--where", type=Path, default=Path("/dev/shm"), help="memory-backed (/dev/shm)")
    parser.add_argument("--hold-memory", action="store_true", help="no freed memory goes back to the machine's host")
    options = parser.parse_args()
    if shutil.which("perf") is None:
        sys.exit("perf is needed (Debian: linux-perf)")
    with tempfile.TemporaryDirectory(dir=options.where) as folder:
        nginx = Nginx(Path(folder) / "nginx")
        nginx.start()
        try:
            with closing(HeldMemory(available_memory())) if options.hold_memory else nullcontext():
                for name in options.scenario or SCENARIOS:
                    what = TRANSFERS[name].scaled(options.size_factor)
                    measured = Measured(what, nginx, options.where)
                    rounds = [
                        (
                            *(measured.spent(what.count), measured.spent(1)),
                            *(measured.seconds(1), measured.seconds(2), measured.seconds(1, by_default=True)),
                        )
                        for _ in range(options.rounds)
                    ]
                    print(f"**{what.title}**\n{told(what, *zip(*rounds, strict=True))}", flush=True)
        finally:
            nginx.stop()


if __name__ == "__main__":
    main()
