"""A soak: many files from a server that resets, stalls, is busy and is restarted at random; every file must be right.

Prints the memory and the open files of the crawl, which must not grow. `crawl/patient/test_soak.py` runs it.
"""

from __future__ import annotations

import json
import random
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from support.crawl import Bulk, Ended
from support.faulty import Exchange, FaultyOrigin, correct, make_body

RATE = 400_000  # bytes per second and transfer
SIZE = 400_000  # of a file, on average
OPTIONS = {
    "CONCURRENT_REQUESTS": "16",
    "CONCURRENT_REQUESTS_PER_DOMAIN": "16",
    "BULK_STALL_TIMEOUT": "2",
    "BULK_HEADERS_TIMEOUT": "2",
    "BULK_RETRY_DELAY_MAX": "1",
    "BULK_RETRY_TIMES": "30",
    "BULK_ORIGIN_PATIENCE": "120",
    "BULK_MIN_SPEED": "0",
}


class Weather:
    """What a request meets: mostly a good answer, at `rate` bytes per second; else one of many misfortunes."""

    def __init__(self, seed: int, rate: float) -> None:
        self._chance = random.Random(seed)
        self._rate = rate
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            kind, place = self._chance.random(), self._chance.random()
        if kind < 0.04:
            exchange.send_status(503)
            exchange.header("Retry-After", 1)
            exchange.header("Content-Length", 0)
            exchange.end_headers()
            return
        if kind < 0.06:
            exchange.send_status(500)
            exchange.header("Content-Length", 0)
            exchange.end_headers()
            return
        if kind < 0.08:
            exchange.reset()
            return
        reply = correct(exchange)
        cut = int(len(reply.body) * place)
        exchange.promise(reply)
        if kind < 0.40:
            exchange.send_slowly(reply.body[:cut], self._rate)
            if kind < 0.20:
                exchange.reset()
            elif kind < 0.36:
                exchange.close()
            else:
                exchange.stall()
            return
        exchange.send_slowly(reply.body, self._rate)


@dataclass
class Sample:
    """The crawl at one moment. seconds: since its begin. rss: KiB."""

    seconds: float
    rss: int
    files: int
    threads: int
    done: int

    @classmethod
    def take(cls, pid: int, seconds: float, done: int) -> Sample | None:
        """None when the process has ended."""
        try:
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            return cls(seconds, int(status["VmRSS"].split()[0]), files, int(status["Threads"]), done)
        except (OSError, KeyError, ValueError):
            return None

    def __str__(self) -> str:
        return f"{self.seconds:7.0f} s {self.rss / 1024:9.1f} MiB {self.files:6d} files {self.threads:6d} threads {self.done:8d} done"


class Soak:
    """One soak. `run` ends when every file is there, and tells when one is wrong."""

    def __init__(self, folder: Path, seconds: float, *, every: float, seed: int = 11) -> None:
        self.samples: list[Sample] = []
        self.restarts = 0
        self._seconds, self._every, self._seed = seconds, every, seed
        self._bulk = Bulk(folder)
        sizes = random.Random(seed)
        # With a better server this would take about half of the time.
        count = max(24, int(seconds * 16 * RATE / SIZE * 0.35))
        pool = make_body(2 * SIZE + count, "soak")
        self._bodies = {f"{n % 10}/{n}.bin": pool[n : n + sizes.randrange(1, 2 * SIZE)] for n in range(count)}

    def run(self) -> Ended:
        weather, lines = Weather(self._seed, RATE), list[str]()
        with FaultyOrigin({name: (weather, body) for name, body in self._bodies.items()}) as origin:
            self._bulk.write_list({name: origin.url(name) for name in self._bodies})
            process = self._bulk.start(settings=OPTIONS)
            log = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
            log.start()
            try:
                self._watch(process, origin)
            finally:
                process.kill()
                log.join()
                process.wait()
        assert process.stdout is not None
        process.stdout.close()
        rows = [json.loads(line) for line in self._bulk.report.read_text().splitlines()]
        ended = Ended(process.returncode, "".join(lines), rows, self._bulk.output)
        self._check(ended)
        return ended

    def _watch(self, process: subprocess.Popen[str], origin: FaultyOrigin) -> None:
        """Restarts the server now and then, and takes the samples, until the crawl has ended."""
        chance = random.Random(self._seed + 1)
        began = time.monotonic()
        sample, restart = self._every, chance.uniform(3, 8)
        while not has_ended(process, 0.2):
            now = time.monotonic() - began
            assert now < 4 * self._seconds + 60, "the crawl does not end"
            if now >= sample:
                sample += self._every
                self._note(process.pid, now)
            if now >= restart:
                restart = now + chance.uniform(5, 20)
                self.restarts += 1
                origin.down()
                has_ended(process, chance.uniform(0, 1.5))
                origin.up()

    def _note(self, pid: int, seconds: float) -> None:
        done = sum(path.suffix == ".bin" for path in self._bulk.output.glob("?/*"))
        taken = Sample.take(pid, seconds, done)
        if taken is not None:
            self.samples.append(taken)
            print(taken, flush=True)

    def _check(self, ended: Ended) -> None:
        assert ended.status == 0, ended.log[-5000:]
        assert "Traceback" not in ended.log, ended.log[-5000:]
        assert sorted(row["name"] for row in ended.rows) == sorted(self._bodies)
        for name, body in self._bodies.items():
            assert ended.file(name) == body, name
        left = [path for path in self._bulk.output.rglob("*") if ".part" in path.name or ".old" in path.name]
        assert left == []

    def assert_no_growth(self) -> None:
        """Between the second quarter of the run, when all has found its size, and its last samples."""
        taken = self.samples
        early, late = taken[len(taken) // 4 : len(taken) // 2], taken[-max(1, len(taken) // 4) :]
        if len(taken) < 8:
            return
        # The least of the last ones: how many transfers are open at the moment of one sample is chance.
        assert min(s.files for s in late) <= max(s.files for s in early) + 16, "open files grow"
        assert min(s.rss for s in late) <= max(s.rss for s in early) * 1.25 + 8 * 1024, "memory grows"


def has_ended(process: subprocess.Popen[str], seconds: float) -> bool:
    """Waits so long for the end of the process."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
