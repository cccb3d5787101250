"""Several workers, one Redis that may be killed, and origins that count who is with them: for the tests of the queue."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import pytest

from bulkspider.lists.checking.reader import Form
from bulkspider.queue.job import Job
from support.crawl import QUICK, Ended
from support.faulty import Behaviour, Exchange, FaultyOrigin, correct
from support.kept import Kept, kept
from support.redisserver import RedisServer

# Long enough that a busy machine renews in time, short enough to wait for.
LEASE = 2
SETTINGS = {
    **QUICK,
    "BULK_LEASE": str(LEASE),
    "CONCURRENT_REQUESTS": "8",
    "CONCURRENT_REQUESTS_PER_DOMAIN": "8",
    # An origin that is slow on purpose does not stall.
    "BULK_STALL_TIMEOUT": "60",
    "BULK_HEADERS_TIMEOUT": "60",
    "BULK_MIN_SPEED": "0",
}


class Throttled:
    """The right answer at `rate` bytes per second; counts how many are given at once."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.now = self.most = 0
        self.last = 0.0  # when an answer ended last
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            reply = correct(exchange)
            exchange.promise(reply)
            exchange.send_slowly(reply.body[:-1], self.rate)
        finally:
            with self._lock:
                self.now -= 1
                self.last = time.monotonic()
        # Counted until here: with this byte the client has all, and may begin the next answer at once.
        exchange.send(reply.body[-1:])


@dataclass
class Worker:
    process: subprocess.Popen[str]
    log: Path
    report: Path
    number: int

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None


@dataclass
class Cluster:
    """Workers of one job, in one output folder. Everything that was started ends with the `with` block."""

    folder: Path
    job: str = "nov"
    settings: dict[str, str] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.output = self.folder / "out"
        self.redis = RedisServer(self.folder)

    def __enter__(self) -> Cluster:
        self.redis.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.process.kill()
            worker.process.wait()
        self.redis.kill()

    # -- the job -----------------------------------------------------------------------------------------------------

    def ask(self) -> Job:
        return Job(self.redis.url, self.job)

    def kept(self) -> AbstractContextManager[Kept]:
        return kept(self.redis.url, self.job)

    def push(self, lines: Iterable[str], cap: int = 3) -> None:
        form = Form()
        entries = [entry for n, line in enumerate(lines) if (entry := form.read(line.encode(), n + 2))]
        with self.ask() as job:
            job.push(entries, cap)

    def wait_for(self, happened: Callable[[Job], bool], timeout: float = 60) -> None:
        """Polls what the queue says."""
        deadline = time.monotonic() + timeout
        with self.ask() as job:
            while not happened(job):
                if time.monotonic() > deadline:
                    pytest.fail(f"not within {timeout} s: {job.status()} {job.running()} {self.logs()}")
                time.sleep(0.02)

    def wait_for_log(self, worker: Worker, text: str, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while text not in worker.log.read_text():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.02)

    # -- workers -----------------------------------------------------------------------------------------------------

    def start(
        self,
        *arguments: str,
        output: Path | None = None,
        environment: Mapping[str, str] | None = None,
        **settings: str,
    ) -> Worker:
        number = len(self.workers)
        log, report = self.folder / f"worker{number}.log", self.folder / f"worker{number}.jsonl"
        command = [sys.executable, "-m", "scrapy", "crawl", "bulk", "-a", f"queue={self.redis.url}"]
        command += ["-a", f"job={self.job}", "-a", f"output={output or self.output}", "-O", f"{report}:jsonl"]
        for name, value in {**SETTINGS, **self.settings, **settings}.items():
            command += ["-s", f"{name}={value}"]
        with log.open("w") as stream:
            process = subprocess.Popen(
                [*command, *arguments],
                cwd=self.folder,
                env={**os.environ, **(environment or {}), "SCRAPY_SETTINGS_MODULE": "bulkspider.settings"}
                | {"PYTHONWARNINGS": "default"},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.workers.append(Worker(process, log, report, number))
        return self.workers[-1]

    def stop(self, worker: Worker) -> None:
        """SIGSTOP, and it has stopped."""
        worker.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, worker.pid, os.WSTOPPED | os.WNOWAIT)

    def wait(self, worker: Worker, timeout: float = 60) -> Ended:
        try:
            worker.process.wait(timeout)
        except subprocess.TimeoutExpired:
            worker.kill()
            pytest.fail(f"the worker hangs:\n{self.logs()}")
        log = worker.log.read_text()
        assert "Traceback" not in log, log
        rows = [json.loads(line) for line in worker.report.read_text().splitlines()] if worker.report.exists() else []
        return Ended(worker.process.returncode, log, rows, self.output)

    def logs(self) -> str:
        return "\n".join(f"--- worker {worker.number}\n{worker.log.read_text()}" for worker in self.workers)

    # -- what must be true afterwards ----------------------------------------------------------------------------------

    def assert_all_done(self, bodies: Mapping[str, bytes]) -> None:
        """Nothing lost, nothing corrupt, every file finished and acknowledged once, nothing left behind."""
        wrong = [name for name, body in bodies.items() if self._file(name) != body]
        with self.ask() as job:
            status = job.status()
        assert wrong == [], self.logs()
        assert (status.done, status.left, status.dead) == (len(bodies), 0, 0), self.logs()
        lines: Counter[str] = Counter()
        for ledger in (self.output / ".bulkspider").glob("ledger*.jsonl"):
            lines.update(json.loads(line)["name"] for line in ledger.read_text().splitlines())
        assert lines == Counter(dict.fromkeys(bodies, 1)), self.logs()
        left = [path.name for path in self.output.rglob("*") if ".part" in path.name or ".old" in path.name]
        assert left == []

    def _file(self, name: str) -> bytes | None:
        path = self.output / name
        return path.read_bytes() if path.exists() else None


def lines_of(origins: Mapping[FaultyOrigin, Mapping[str, bytes]], behaviour: Callable[[], Behaviour]) -> list[str]:
    """A list of all these files, in which each origin answers by a behaviour of its own."""
    lines = []
    for origin, bodies in origins.items():
        answers = behaviour()
        for name, body in bodies.items():
            origin.add(name, answers, body)
            lines.append(f"{name} {origin.url(name)} size={len(body)}")
    return lines
