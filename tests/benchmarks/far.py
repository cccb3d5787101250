"""bulkspider beside aria2c -x16 at hosts that are far away or give each connection little; and the price of many slow
connections.

    python tests/benchmarks/far.py [--rounds 3] [--scenario far] [--where /dev/shm]

Rounds take turns; every copy is proven by its hash. `one` is bulkspider with one connection for each file. Where this
module's own origin serves, the seconds from the first request to the last byte are told, too: on a busy machine the
start of a Python program takes several times as long as otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clients import CLIENTS, Job
from measure import Run, median, run
from nginx import Nginx, hashes

HERE = Path(__file__).parent
MB, MIB, GIB = 1000**2, 1024**2, 1024**3
WARM_UP_SECONDS, WATCHED_SECONDS = 8.0, 12.0
SLOW_SIZE = 16 * MIB


@dataclass(frozen=True, slots=True)
class Files:
    """So many files of that size (bytes), in so many places; delay (seconds) each way, rate (bytes a second) of each
    connection; without either it is nginx that serves them."""

    title: str
    count: int
    size: int
    at_once: int
    delay: float = 0.0
    rate: float = 0.0


FILES = {
    "far": Files("256 MiB over 50 ms each way, 4 MiB/s a connection", 1, 256 * MIB, 16, 0.05, 4 * MIB),
    "throttled": Files("1 GiB, 16 MiB/s a connection", 1, GIB, 16, 0.0, 16 * MIB),
    "long": Files("8 x 512 MiB over 50 ms each way, 4 MiB/s a connection", 8, 512 * MIB, 128, 0.05, 4 * MIB),
    "open": Files("2 GiB, not throttled", 1, 2 * GIB, 16),
}
# Connections, bytes a second of each, our own limit for all of them (None: none).
SLOW = {"slow": (500, 10_000, None), "limited": (400, 0, "4M"), "fair": (64, 0, "5M")}


@contextlib.contextmanager
def far_origin(folder: Path, delay: float, rate: float) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, str(HERE / "far_origin.py"), str(folder), f"--delay={delay}", f"--rate={rate}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}", process
        finally:
            process.kill()


@contextlib.contextmanager
def served(nginx: Nginx, folder: str, what: Files) -> Iterator[tuple[str, subprocess.Popen[str] | None]]:
    if not (what.delay or what.rate):
        yield f"{nginx.base('http')}/{folder}", None
        return
    with far_origin(nginx.root / folder, what.delay, what.rate) as (base, origin):
        yield base, origin


def compare(nginx: Nginx, what: Files, rounds: int, where: Path) -> None:
    folder = f"{what.count}x{what.size}"
    expected = nginx.make_files(folder, what.count, what.size)
    commands = {client.name: client.command for client in CLIENTS}
    ours = commands["bulkspider"]
    several = {
        "bulkspider": ours,
        "aria2c -x16": commands["aria2c -x16"],
        "one": lambda job: [*ours(job), "-s", "BULK_SEGMENTS=1"],
    }
    runs: dict[str, list[Run]] = {name: [] for name in several}
    with served(nginx, folder, what) as (base, origin):
        for number in range(rounds):
            names = list(several)
            for name in names[number % 3 :] + names[: number % 3]:
                if name == "one" and number and what.rate:
                    continue  # it takes long, and its time is known
                with tempfile.TemporaryDirectory(dir=where) as place:
                    job = Job(Path(place), Path(place) / "out", base, list(expected), what.at_once, {})
                    if name.startswith("aria2c"):
                        job = replace(job, at_once=max(1, what.count))
                    one = run(several[name](job), job.folder)
                    if origin is not None:
                        one.first_request = one.wall - asked(origin)["seconds"]
                    if one.problem is None and hashes(job.output, job.names) != expected:
                        one.problem = "a copy is missing or has another hash"
                    runs[name].append(one)
                    print(f"  {name}: {told([one])} {one.problem or ''}", flush=True)
    print(f"**{what.title}, {what.at_once} places** (medians of {rounds}; to aria2c -x16)")
    for name, some in runs.items():
        print(f"{name}: {told(some, runs['aria2c -x16'])}", flush=True)


def told(some: Sequence[Run], peer: Sequence[Run] = ()) -> str:
    parts = []
    for what, value in (
        ("", lambda one: one.wall),
        ("without start and end ", lambda one: one.first_request and one.wall - one.first_request),
        ("CPU ", lambda one: one.cpu),
    ):
        if (seconds := median(some, value)) is not None:
            best = median(peer, value)
            parts.append(f"{what}{seconds:.2f} s" + (f" ({seconds / best:.2f})" if best else ""))
    return ", ".join(parts)


# -- many slow connections ---------------------------------------------------------------------------------------------


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def watch(nginx: Nginx, name: str, where: Path) -> None:
    count, rate, limit = SLOW[name]
    names = list(nginx.make_files(f"slow{count}", count, SLOW_SIZE))
    with (
        far_origin(nginx.root / f"slow{count}", 0.0, rate) as (base, origin),
        tempfile.TemporaryDirectory(dir=where) as place,
    ):
        job = Job(Path(place), Path(place) / "out", base, names, count, {})
        command = next(client.command(job) for client in CLIENTS if client.name == "bulkspider")
        command += ["-s", "BULK_SEGMENTS=1", *([] if limit is None else ["--rate", limit])]
        with open(job.folder / "log", "wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            served: set[str] = set()
            while len(served) < count and process.poll() is None:
                time.sleep(1.0)
                served |= asked(origin)["sent"].keys()
            time.sleep(WARM_UP_SECONDS)
            before = _written(job)
            cpu, began = _cpu_seconds(process.pid), time.monotonic()
            time.sleep(WATCHED_SECONDS)
            after = _written(job)
            share = (_cpu_seconds(process.pid) - cpu) / (time.monotonic() - began)
            threads, at = _threads(process.pid), time.monotonic()
            process.send_signal(signal.SIGINT)
            process.wait()
            stopped = time.monotonic() - at
        got = sorted(after[one] - before[one] for one in names)
        low, high = got[len(got) // 10], got[len(got) * 9 // 10]
        title = f"{count} connections{f' of {rate} B/s' if rate else ''}{f' under --rate {limit}' if limit else ''}"
        print(
            f"**{name}: {title}**\nCPU {100 * share:.1f} % of a core, {threads} threads, stop after {stopped:.2f} s;"
            f" {sum(got) / WATCHED_SECONDS / 1000:.0f} kB/s, p90/p10 {high / max(low, 1):.2f}",
            flush=True,
        )


def _written(job: Job) -> dict[str, int]:
    """The bytes on disk of each file: what the origin has sent may wait in buffers of megabytes."""
    return {name: (job.output / f"{name}.part").stat().st_size for name in job.names}


def asked(origin: subprocess.Popen[str]) -> dict[str, Any]:
    """What the origin tells (`far_origin.py`)."""
    assert origin.stdout is not None
    origin.send_signal(signal.SIGUSR1)
    found: dict[str, Any] = json.loads(origin.stdout.readline())
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--scenario", action="append", choices=(*FILES, *SLOW), help="may be repeated; all by default")
    parser.add_argument(
        "--size-factor", type=float, default=1.0, metavar="F", help="times the sizes of `far` to `open` (1)"
    )
    parser.add_argument("--where", type=Path, default=Path("/dev/shm"), help="memory-backed (/dev/shm)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.where) as server:
        nginx = Nginx(Path(server))
        nginx.start()
        try:
            for name in options.scenario or (*FILES, *SLOW):
                if name in FILES:
                    what = replace(FILES[name], size=round(FILES[name].size * options.size_factor))
                    compare(nginx, what, options.rounds, options.where)
                else:
                    watch(nginx, name, options.where)
        finally:
            nginx.stop()


if __name__ == "__main__":
    main()
