"""bulkspider beside its peers: one server, one machine, rounds that take turns, every copy proven by its hash.

    python tests/benchmarks/run.py [--rounds 3] [--scenario http] [--size-factor 0.1] [--json out.json]

Prints a table for each scenario and writes all figures, with machine and versions, as JSON. What is not installed is
left out. Trust the ratios (to the best of aria2c, curl -Z and wget2) and the CPU time per GB; on a busy or virtual
machine wall times swing by a factor of two from run to run. Much of that may be memory that the machine gives back to
its host as soon as it is freed: --hold-memory keeps it (and takes nearly all of it for some seconds).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from clients import CLIENTS, Client, Job
from measure import Listener, Run, median, run
from memory import HeldMemory
from nginx import Nginx, hashes

KB, MB, GB = 1000, 1000**2, 1000**3
KIB, MIB, GIB = 1024, 1024**2, 1024**3

# A virtual machine may give memory that was freed back to its host, within a second or two, and whoever uses it next
# pays for that (`memory.py`). Without a pause the programs that begin slowly pay more than the others.
SETTLE = 3.0
START_UP_ROUNDS = 3  # times as many as asked for: they are short, and their figures small


@dataclass(frozen=True, slots=True)
class Transfer:
    """Files to be fetched as a whole: so many, of that size in bytes, so many at once. hashed: the list has the sha256
    of each, for the programs that compare it."""

    title: str
    count: int
    size: int
    at_once: int
    scheme: str = "http"
    path: str = ""
    small: bool = False
    hashed: bool = False

    def scaled(self, factor: float) -> Transfer:
        if self.small:
            return replace(self, count=max(1, round(self.count * factor)))
        return replace(self, size=max(1, round(self.size * factor)))


TRANSFERS = {
    "http": Transfer("4 files of 2 GiB, http", 4, 2 * GIB, 4),
    "https": Transfer("4 files of 2 GiB, https", 4, 2 * GIB, 4, scheme="https"),
    "many": Transfer("64 files of 64 MiB, all at once, http", 64, 64 * MIB, 64),
    "many-https": Transfer("64 files of 64 MiB, all at once, https", 64, 64 * MIB, 64, scheme="https"),
    "tiny": Transfer("10,000 files of 100 KB, 16 at once, http", 10_000, 100 * KB, 16, small=True),
    "small": Transfer("2,000 files of 50 kB, 16 at once, http", 2_000, 50 * KB, 16, small=True),
    "small-https": Transfer("2,000 files of 50 kB, 16 at once, https", 2_000, 50 * KB, 16, "https", small=True),
    "small-hashed": Transfer(
        "2,000 files of 50 kB with a sha256 each, 16 at once, http", 2_000, 50 * KB, 16, small=True, hashed=True
    ),
    "small-hashed-https": Transfer(
        "2,000 files of 50 kB with a sha256 each, 16 at once, https",
        2_000,
        50 * KB,
        16,
        "https",
        small=True,
        hashed=True,
    ),
    "throttled": Transfer("2 files of 128 MiB, 16 MiB/s per connection", 2, 128 * MIB, 2, path="slow/"),
}
LIST_LINES = 1_000_000
RERUN_ENTRIES = 100_000


class Benchmark:
    """Everything that the scenarios share. where: the memory-backed folder that the programs write to."""

    def __init__(self, clients: Sequence[Client], rounds: int, factor: float, server: Path, where: Path) -> None:
        self._clients = clients
        self._rounds = rounds
        self._factor = factor
        self._where = where
        self._nginx = Nginx(server)
        self.failed = False

    def __enter__(self) -> Benchmark:
        self._nginx.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._nginx.stop()

    def scenario(self, name: str) -> dict[str, Any]:
        if name in TRANSFERS:
            return self._transfer(name, TRANSFERS[name].scaled(self._factor))
        scenarios: dict[str, Callable[[], dict[str, Any]]]
        scenarios = {"list": self._list, "rerun": self._rerun, "startup": self._start_up}
        return scenarios[name]()

    # -- files -----------------------------------------------------------------------------------------------------

    def _transfer(self, name: str, what: Transfer) -> dict[str, Any]:
        total = what.count * what.size
        _need(self._where, total)
        folder = f"{what.count}x{what.size}"
        expected = self._nginx.make_files(folder, what.count, what.size)
        base = f"{self._nginx.base(what.scheme)}/{what.path}{folder}"
        clients = [client for client in self._clients if not client.only or name in client.only]
        sums = expected if what.hashed else {}
        if 4 * what.at_once * what.size > available_memory():
            clients = [client for client in clients if not client.in_memory]
        runs: dict[str, list[Run]] = {client.name: [] for client in clients}
        with _Folder(self._where) as place:
            # On a virtual machine the first use of a page of memory costs many times the second: nobody is to pay for it.
            run(clients[0].command(Job(place, place / "out", base, list(expected), what.at_once, sums)), place)
        for number in range(self._rounds):
            first = number % len(clients)
            for client in clients[first:] + clients[:first]:
                with _Folder(self._where) as place:
                    job = Job(place, place / "out", base, list(expected), what.at_once, sums)
                    one = run(client.command(job), place)
                    if one.problem is None and hashes(job.output, job.names) != expected:
                        one.problem = "a copy is missing or has another hash"
                        self.failed |= client.name == "bulkspider"
                    runs[client.name].append(one)
        rows = {}
        for client in clients:
            rows[client.name] = _row(runs[client.name])
            if rows[client.name]["wall"] is not None:
                rows[client.name]["cpu_per_gb"] = rows[client.name]["cpu"] / total * GB
                rows[client.name]["files_per_second"] = what.count / rows[client.name]["wall"]
                rows[client.name]["files_per_cpu_second"] = what.count / rows[client.name]["cpu"]
        best = {
            key: min((rows[c.name][key] for c in clients if c.peer and rows[c.name][key] is not None), default=None)
            for key in ("wall", "cpu")
        }
        for row in rows.values():
            for key, value in best.items():
                row[f"{key}_ratio"] = row[key] / value if value and row[key] is not None else None
        columns = ("wall", "wall_ratio", "user", "system", "cpu_per_gb", "cpu_ratio", "peak")
        columns += ("files_per_second", "files_per_cpu_second") if what.small else ()
        title = what.title if self._factor == 1 else f"{what.title}, of which {total / GB:.2f} GB in {what.count} files"
        return {"title": title, "bytes": total, "files": what.count, "columns": columns, "rows": rows}

    # -- a long list -----------------------------------------------------------------------------------------------

    def _list(self) -> dict[str, Any]:
        """From the start to the first request, and what is held then beyond what a list of one line needs."""
        lines = max(1, round(LIST_LINES * self._factor))
        runs: dict[str, list[Run]] = {}
        small: dict[str, list[Run]] = {}
        clients = [client for client in self._clients if not client.only]
        for _ in range(self._rounds):
            for client in clients:
                for kept, count in ((small, 1), (runs, lines)):
                    earlier = kept.setdefault(client.name, [])
                    if not any(one.problem for one in earlier):  # what once took too much takes it again
                        earlier.append(self._first_request(client, count))
        rows = {}
        for client in clients:
            row = rows[client.name] = _row(runs[client.name])
            idle = median(small[client.name], lambda one: one.peak)
            row["first_request"] = median(runs[client.name], lambda one: one.first_request)
            row["first_request_of_one_line"] = median(small[client.name], lambda one: one.first_request)
            row["growth"] = row["peak"] - idle if row["peak"] is not None and idle is not None else None
        columns = ("first_request", "first_request_of_one_line", "peak", "growth")
        return {"title": f"a list of {lines:,} lines", "lines": lines, "columns": columns, "rows": rows}

    def _first_request(self, client: Client, lines: int) -> Run:
        listener = Listener()
        try:
            with _Folder(self._where) as place:
                names = [f"some/folder/file{number:07}.bin" for number in range(lines)]
                job = Job(place, place / "out", f"http://127.0.0.1:{listener.port}/pub", names, 8)
                one = run(client.command(job), place, watch=listener.watch, time_limit=60)
                if one.problem is None and one.first_request is None:
                    one.problem = "it ended before its first request"
                return one
        finally:
            listener.close()

    # -- a finished list -------------------------------------------------------------------------------------------

    def _rerun(self) -> dict[str, Any]:
        """What an earlier run has finished, once more: nothing to fetch, everything to prove."""
        entries = max(1, round(RERUN_ENTRIES * self._factor))
        rows: dict[str, dict[str, Any]] = {}
        runs: dict[str, list[Run]] = {}
        with _Folder(self._where) as many, _Folder(self._where) as few:
            commands = {}
            for place, count, title in ((many, entries, f"{entries:,} entries"), (few, 1, "1 entry")):
                names = [f"file{number:06}.bin" for number in range(count)]
                job = Job(place, place / "out", "http://127.0.0.1:9/pub", names, 8)  # nobody is to be asked
                command = next(client for client in CLIENTS if client.name == "bulkspider").command(job)
                finished(job)
                commands[title] = (place, command)
                commands[f"{title}, with -O"] = (place, [*command, "-O", str(place / "report.jsonl")])
            for _ in range(self._rounds):
                for title, (place, command) in commands.items():
                    one = run(command, place)
                    report = place / "report.jsonl"
                    if "-O" in command and one.problem is None:
                        wanted = entries if place is many else 1
                        if report.read_text().count('"already": true') != wanted:
                            one.problem = "the report does not have all entries"
                    self.failed |= one.problem is not None
                    runs.setdefault(title, []).append(one)
        for title in commands:
            rows[title] = _row(runs[title])
        for feed in ("", ", with -O"):
            whole, start = rows[f"{entries:,} entries{feed}"], rows[f"1 entry{feed}"]
            if whole["wall"] is not None and start["wall"] is not None:
                whole["entries_per_second"] = entries / whole["wall"]
                whole["without_start_up"] = entries / max(whole["wall"] - start["wall"], 1e-9)
                whole["per_cpu_second"] = entries / max(whole["cpu"] - start["cpu"], 1e-9)
        columns = ("wall", "user", "system", "peak", "entries_per_second", "without_start_up", "per_cpu_second")
        return {"title": "a finished list again", "entries": entries, "columns": columns, "rows": rows}

    # -- start-up --------------------------------------------------------------------------------------------------

    def _start_up(self) -> dict[str, Any]:
        """`scrapy crawl` in an empty project, and `scrapy crawl bulk` with a list of one small file."""
        self._nginx.make_files("one", 1, KB)
        runs: dict[str, list[Run]] = {"empty project": [], "crawl bulk": []}
        scrapy = [sys.executable, "-m", "scrapy"]
        with _Folder(self._where) as place:
            made = run([*scrapy, "startproject", "empty", "."], place)
            (place / "empty" / "spiders" / "nothing.py").write_text(
                'import scrapy\n\n\nclass Nothing(scrapy.Spider):\n    name = "nothing"\n'
            )
            run([*scrapy, "list"], place)  # compiles what it needs
            if made.problem:
                raise SystemExit(f"scrapy startproject: {made.problem}")
            for _ in range(self._rounds * START_UP_ROUNDS):
                runs["empty project"].append(run([*scrapy, "crawl", "nothing"], place))
                with _Folder(self._where) as ours:
                    job = Job(ours, ours / "out", f"{self._nginx.base('http')}/one", ["file000000.bin"], 1)
                    command = [
                        *scrapy,
                        "crawl",
                        "bulk",
                        "-a",
                        f"list={job.name_and_url()}",
                        "-a",
                        f"output={job.output}",
                    ]
                    runs["crawl bulk"].append(
                        run(command, ours, environment={"SCRAPY_SETTINGS_MODULE": "bulkspider.settings"})
                    )
                    self.failed |= not (job.output / "file000000.bin").exists()
        rows = {name: _row(some) for name, some in runs.items()}
        for row in rows.values():
            if row["wall"] is not None and rows["empty project"]["wall"] is not None:
                row["start_ratio"] = row["wall"] / rows["empty project"]["wall"]
                row["start_cpu_ratio"] = row["cpu"] / rows["empty project"]["cpu"]
        columns = ("wall", "start_ratio", "user", "system", "start_cpu_ratio", "peak")
        return {"title": "start-up", "columns": columns, "rows": rows}


def finished(job: Job) -> None:
    """Makes what a run over this list would have left: the files, here empty ones, and their lines in the ledger."""
    from bulkspider.disk.finished.ledger import Ledger
    from bulkspider.disk.finished.line import LedgerLine
    from bulkspider.disk.folder.folder import Folder
    from bulkspider.entries.entry import url_key

    folder = Folder(job.output)
    lines = []
    for name in job.names:
        path = folder.path(name)
        path.touch()
        found = path.stat()
        url = job.url(name)
        line = LedgerLine(
            name=name,
            key=url_key(url),
            size=found.st_size,
            mtime_ns=found.st_mtime_ns,
            digests={},
            flags=(),
            status="complete",
            time=time.time(),
            url=url,
            etag='"65f1c0de-5f5e100"',
            last_modified="Wed, 13 Mar 2024 15:02:06 GMT",
        )
        lines.append(line)
    ledger = Ledger(folder.private)
    ledger.append(lines)
    ledger.close()
    folder.close()


class _Folder:
    """A folder that is gone afterwards."""

    def __init__(self, where: Path) -> None:
        self._where = where

    def __enter__(self) -> Path:
        self._path = Path(tempfile.mkdtemp(prefix="run.", dir=self._where))
        return self._path

    def __exit__(self, *_: object) -> None:
        large = sum(path.stat().st_size for path in self._path.rglob("*") if path.is_file()) > GIB
        shutil.rmtree(self._path)
        if large:
            time.sleep(SETTLE)


def _need(where: Path, total: int) -> None:
    room = min(shutil.disk_usage(where).free, available_memory())
    if total * 1.2 > room:
        raise SystemExit(f"{where} and the memory have room for {room / GB:.1f} GB; choose a smaller --size-factor")


def available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _row(runs: Sequence[Run]) -> dict[str, Any]:
    """Medians of the runs that count, and all runs as they were."""
    row: dict[str, Any] = {
        "wall": median(runs, lambda one: one.wall),
        "user": median(runs, lambda one: one.user),
        "system": median(runs, lambda one: one.system),
        "cpu": median(runs, lambda one: one.cpu),
        "peak": median(runs, lambda one: one.peak),
        "runs": [asdict(one) for one in runs],
    }
    problems = [one.problem for one in runs if one.problem]
    if problems:
        row["problem"] = f"{len(problems)} of {len(runs)}: {problems[0]}"
    return row


# -- what is shown -------------------------------------------------------------------------------------------------

_COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "wall": ("wall s", lambda value: f"{value:.2f}"),
    "wall_ratio": ("to best", lambda value: f"{value:.2f}"),
    "user": ("user s", lambda value: f"{value:.2f}"),
    "system": ("sys s", lambda value: f"{value:.2f}"),
    "cpu_per_gb": ("CPU-s/GB", lambda value: f"{value:.2f}"),
    "cpu_ratio": ("to best", lambda value: f"{value:.2f}"),
    "peak": ("peak MB", lambda value: f"{value / MB:.0f}"),
    "files_per_cpu_second": ("files/CPU-s", lambda value: f"{value:.0f}"),
    "files_per_second": ("files/s", lambda value: f"{value:.0f}"),
    "first_request": ("first request s", lambda value: f"{value:.2f}"),
    "first_request_of_one_line": ("same, 1 line", lambda value: f"{value:.2f}"),
    "start_ratio": ("to empty", lambda value: f"{value:.2f}"),
    "growth": ("growth MB", lambda value: f"{value / MB:.0f}"),
    "entries_per_second": ("entries/s", lambda value: f"{value:.0f}"),
    "per_cpu_second": ("in CPU time", lambda value: f"{value:.0f}"),
    "start_cpu_ratio": ("to empty", lambda value: f"{value:.2f}"),
    "without_start_up": ("start-up taken off", lambda value: f"{value:.0f}"),
}


def table(found: dict[str, Any]) -> str:
    """The table of one scenario, in Markdown."""
    heads = ["", *(_COLUMNS[column][0] for column in found["columns"])]
    lines = [heads, ["---", *("---:" for _ in heads[1:])]]
    for name, row in found["rows"].items():
        cells = ["–" if row.get(c) is None else _COLUMNS[c][1](row[c]) for c in found["columns"]]
        lines.append([name, *cells])
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    shown = [f"**{found['title']}**", ""]
    for line in lines:
        first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        shown.append(f"| {' | '.join([first.strip().ljust(widths[0]), *others])} |")
    shown += [f"{name}: {row['problem']}" for name, row in found["rows"].items() if "problem" in row]
    return "\n".join(shown) + "\n"


def _machine() -> dict[str, Any]:
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": cpu[0].partition(": ")[2] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "tcp_congestion_control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "load": os.getloadavg()[0],
    }


def _versions(clients: Iterable[Client]) -> dict[str, str]:
    from importlib.metadata import version

    own = {"Python": platform.python_version(), "Scrapy": version("scrapy"), "Twisted": version("twisted")}
    return own | {client.name: client.version for client in clients}


def main() -> int:
    scenarios = (*TRANSFERS, "list", "rerun", "startup")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of each program, taking turns (3)")
    parser.add_argument("--scenario", action="append", choices=scenarios, help="may be repeated; all, if none is given")
    names = [client.name for client in CLIENTS]
    parser.add_argument("--client", action="append", choices=names, help="may be repeated; all, if none is given")
    parser.add_argument("--size-factor", type=float, default=1.0, metavar="F", help="times the sizes and counts (1)")
    parser.add_argument("--hold-memory", action="store_true", help="no freed memory goes back to the machine's host")
    parser.add_argument("--json", metavar="FILE", help="all figures, with machine and versions")
    parser.add_argument("--where", default="/dev/shm", metavar="DIR", help="memory-backed, for the copies (/dev/shm)")
    options = parser.parse_args()
    clients = [c for c in CLIENTS if c.installed and (not options.client or c.name in options.client)]
    for client in CLIENTS:
        if not client.installed:
            print(f"{client.name}: {client.program} is not installed")
    result: dict[str, Any] = {"machine": _machine(), "versions": _versions(clients), "rounds": options.rounds}
    result |= {"hold_memory": options.hold_memory, "size_factor": options.size_factor, "scenarios": {}}
    print(json.dumps(result["machine"]), json.dumps(result["versions"]), sep="\n", end="\n\n", flush=True)
    with (
        closing(HeldMemory(available_memory())) if options.hold_memory else nullcontext(),
        tempfile.TemporaryDirectory(prefix="bulkspider-benchmark.") as server,
        tempfile.TemporaryDirectory(prefix="bulkspider-benchmark.", dir=options.where) as where,
        Benchmark(clients, options.rounds, options.size_factor, Path(server), Path(where)) as benchmark,
    ):
        for name in options.scenario or scenarios:
            found = result["scenarios"][name] = benchmark.scenario(name)
            print(table(found), flush=True)
            if options.json:
                Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
    return 1 if benchmark.failed else 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
