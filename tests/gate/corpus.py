"""A job that the frozen version began, kept as it was left, and continued by either version from the same bytes.

Both versions continue in the same folder, against the same origin on the same port, one after the other: what the first
one did is put back before the second one begins. So states, ledgers, queues and JOBDIRs may hold paths and ports.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gate.differences import passes
from gate.rows import PATIENT
from support import record
from support.faulty import Behaviour, Exchange, FaultyOrigin, Recorded, Resource, correct, good, resolve
from support.record import Facts
from support.versions import PRESENT, Ended, Running, Version

# Nothing here needs longer than seconds; a machine that is busy may.
PATIENCE_SECONDS = 100.0
# What several connections make a matter of chance.
OF_CONNECTIONS = ("request *", "attempts", "broken", "connections", "headers")


def hold(length: int) -> Behaviour:
    """The first `length` bytes of what was asked for, and silence until the client leaves; a shorter answer ends."""

    def behaviour(exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[:length])
        if len(reply.body) > length:
            exchange.stall()

    return behaviour


def partly(resource: Resource, length: int) -> Behaviour:
    """`hold`, of another resource than the path has."""

    def behaviour(exchange: Exchange) -> None:
        exchange.resource = resource
        hold(length)(exchange)

    return behaviour


def wait_for(happened: Callable[[], bool], running: Running) -> None:
    """For what only the disk shows. Raises AssertionError when the process ends before, or it takes too long."""
    pause = threading.Event()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        ended = running.process.poll() is not None
        assert not ended, f"ended too early:\n{running.log.read_text()}"
        assert time.monotonic() < deadline, f"it did not happen:\n{running.log.read_text()}"
        pause.wait(0.02)


@dataclass
class Job:
    """A list, its folder and its origin. `home` is all that is kept and put back; `output` and more lie in it."""

    folder: Path
    origin: FaultyOrigin
    frozen: Version
    urls: dict[str, str] = field(default_factory=dict)
    bodies: dict[str, Resource | bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home = self.folder / "home"
        self.output = self.home / "out"
        self.output.mkdir(parents=True)
        self.list = self.home / "list.txt"
        self._kept = self.folder / "kept"
        self.frozen.check(self.folder)
        PRESENT.check(self.folder)

    def serve(self, name: str, behaviour: Behaviour, body: Resource | bytes) -> None:
        """From now on."""
        self.urls[name], self.bodies[name] = self.origin.url(name), body
        self.origin.add(name, behaviour, body)

    def serve_all(self, behaviour: Behaviour = good) -> None:
        for name, body in self.bodies.items():
            self.origin.add(name, behaviour, body)

    def write_list(self, fields: Mapping[str, str] | None = None) -> None:
        """fields: of the line of a name."""
        lines = [f"{name} {url} {(fields or {}).get(name, '')}".rstrip() for name, url in self.urls.items()]
        self.list.write_text("\n".join(["name url", *lines]) + "\n", encoding="utf-8")

    def command(self, *arguments: str, **settings: str) -> list[str]:
        command = ["scrapy", "crawl", "bulk", "-a", f"list={self.list}", "-a", f"output={self.output}", *arguments]
        command += ["-O", f"{self.folder / 'report.jsonl'}:jsonl"]
        chosen = {**PATIENT, "BULK_CHECKPOINT": "256K", **settings}
        return command + [word for name, value in chosen.items() for word in ("-s", f"{name}={value}")]

    @contextmanager
    def begin(self, command: Sequence[str], prefix: Sequence[str] = ()) -> Iterator[Running]:
        """Starts the frozen version."""
        with self.frozen.start(command, cwd=self.folder, report=self.folder / "report.jsonl", prefix=prefix) as running:
            yield running

    def finish(self, command: Sequence[str], prefix: Sequence[str] = ()) -> Ended:
        """The frozen version from beginning to end."""
        with self.begin(command, prefix) as running:
            return running.wait(PATIENCE_SECONDS)

    def keep(self) -> None:
        """What lies in `home` now is what is continued."""
        _copy(self.home, self._kept)

    def put_back(self) -> None:
        # The folder itself may be somewhere's mount point or working directory: its inode stays.
        for path in self.home.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        _copy(self._kept, self.home)

    def compare(
        self,
        where: str,
        command: Sequence[str],
        *,
        ignored: Collection[str] = (),
        around: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
        counted: bool = True,
    ) -> Ended:
        """Continues by either version and compares. where: the test's id. ignored: facts that are left out.

        around: what must run meanwhile, made anew for each version. counted: stats are compared. Returns how the
        present version ended.
        """
        ended: dict[Version, Ended] = {}
        facts: dict[Version, dict[str, Facts]] = {}
        asked: dict[Version, dict[str, list[Recorded]]] = {}
        for version in (self.frozen, PRESENT):
            self.put_back()
            begun = len(self.origin.requests)
            with around(), version.start(command, cwd=self.folder, report=self.folder / "report.jsonl") as running:
                ended[version] = running.wait(PATIENCE_SECONDS)
            asked[version] = {
                name: [request for request in self.origin.requests[begun:] if request.path == f"/{name}"]
                for name in self.urls
            }
            facts[version] = {name: self._facts(name, asked[version][name], ended[version]) for name in self.urls}
        theirs, ours = ended[self.frozen], ended[PRESENT]
        lines = [f"exit status: {theirs.status} -> {ours.status}"] if theirs.status != ours.status else []
        if counted:
            lines += record.differences(
                "stats", record.of_stats(theirs.log), record.of_stats(ours.log), ignored=ignored
            )
        for name in self.urls:
            pair = facts[self.frozen][name], facts[PRESENT][name]
            lines += record.differences(name, *pair, ignored=ignored)
            if "request *" not in ignored:
                more = _only_in(self._asked(asked[PRESENT][name]), self._asked(asked[self.frozen][name]))
                lines += [f"{name} asks for bytes that the frozen version does not: {more}"] if more else []
        passes(where, lines, ours)
        return ours

    def _facts(self, name: str, asked: list[Recorded], ended: Ended) -> Facts:
        url = self.urls[name]
        facts = record.of_requests(asked)
        for row in ended.rows:
            if row["name"] == name:
                facts |= record.of_row(row)
        return facts | record.of_files(self.output, name, url) | record.of_ledger(self.output, name, url)

    def _asked(self, requests: list[Recorded]) -> list[tuple[int, int]]:
        """First byte and the one after the last, of each request that asks for bytes."""
        spans = []
        for request in requests:
            body = self.bodies[request.path.removeprefix("/")]
            size = len(body.body if isinstance(body, Resource) else body)
            first, last = (0, size - 1) if request.range is None else resolve(request.range, size)
            if request.method == "GET" and first <= last:
                spans.append((first, last + 1))
        return spans


def _only_in(more: list[tuple[int, int]], less: list[tuple[int, int]]) -> str:
    """The bytes that `more` covers more often than `less`, as text."""
    edges = sorted({edge for span in (*more, *less) for edge in span})

    def times(spans: list[tuple[int, int]], at: int) -> int:
        return sum(first <= at < end for first, end in spans)

    found = [f"{at}-{end - 1}" for at, end in itertools.pairwise(edges) if times(more, at) > times(less, at)]
    return ", ".join(found)


def _copy(source: Path, target: Path) -> None:
    """All that is in a folder, with times, holes, links and whatever else `cp -a` keeps."""
    target.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)
