"""How long a list is checked before its first byte is fetched, and with how much memory: forms of other tools beside
a plain list of the same files.

    python tests/benchmarks/lists.py [--entries 1000000] [--rounds 3] [--form metalink]

Each check is a process of its own, the forms take turns, and the median counts. `time` and `memory` are those of the
check alone, beyond what importing bulkspider takes; the ratios are to the plain list.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

BASE = "https://data.example.org/pub/"
FORMS: dict[str, tuple[str, Callable[[int], Iterator[str]]]] = {}


def form(name: str) -> Callable[[Callable[[int], Iterator[str]]], Callable[[int], Iterator[str]]]:
    """The text of a list with so many files. name: the format, after ':' which of its looks."""

    def add(write: Callable[[int], Iterator[str]]) -> Callable[[int], Iterator[str]]:
        FORMS[name] = (name.partition(":")[0], write)
        return write

    return add


def file(number: int) -> tuple[str, int, str]:
    """Name, size in bytes and sha256 of a file."""
    return (
        f"crawl/{number // 1000:04}/segment-{number:07}.warc.gz",
        number * 7919 + 1,
        f"{number * 0x9E3779B97F4A7C15:064x}",
    )


@form("list")
def plain(entries: int) -> Iterator[str]:
    yield "name url\n"
    for number in range(entries):
        name, _, _ = file(number)
        yield f"{name} {BASE}{name}\n"


@form("list:known")
def known(entries: int) -> Iterator[str]:
    yield "name url\n"
    for number in range(entries):
        name, size, sha256 = file(number)
        yield f"{name} {BASE}{name} size={size} sha256={sha256}\n"


@form("list:columns")
def columns(entries: int) -> Iterator[str]:
    yield "name\turl\tsize\tsha256\n"
    for number in range(entries):
        name, size, sha256 = file(number)
        yield f"{name}\t{BASE}{name}\t{size}\t{sha256}\n"


@form("list:mirrors")
def mirrors(entries: int) -> Iterator[str]:
    yield "name url\n"
    for number in range(entries):
        name, _, _ = file(number)
        yield f"{name} {BASE}{name} mirror=https://mirror.example.net/pub/{name}\n"


@form("list:not ascii")
def not_ascii(entries: int) -> Iterator[str]:
    yield "name url\n"
    for number in range(entries):
        name, _, _ = file(number)
        yield f"größe/{name} {BASE}{name}\n"


@form("list:JSON Lines")
def json_lines(entries: int) -> Iterator[str]:
    for number in range(entries):
        name, size, sha256 = file(number)
        yield json.dumps({"name": name, "url": f"{BASE}{name}", "size": size, "sha256": sha256}) + "\n"


@form("paths")
def paths(entries: int) -> Iterator[str]:
    for number in range(entries):
        yield f"{file(number)[0]}\n"


@form("ena")
def ena(entries: int) -> Iterator[str]:
    yield "run_accession\tfastq_ftp\tfastq_bytes\tfastq_md5\n"
    for number in range(entries):
        run = f"SRR{number:07}"
        address = f"ftp.sra.ebi.ac.uk/vol1/fastq/{run[:6]}/{run}/{run}.fastq.gz"
        yield f"{run}\t{address}\t{number * 7919 + 1}\t{number * 0x9E3779B97F4A7C15:032x}\n"


@form("csv")
def table(entries: int) -> Iterator[str]:
    yield "title\tfile_url\tbytes\tchecksum\n"
    for number in range(entries):
        name, size, sha256 = file(number)
        yield f"{name}\t{BASE}{name}\t{size}\t{sha256}\n"


def _metalink(entries: int, urls: Callable[[str], str], between: str = "\n") -> Iterator[str]:
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<metalink xmlns="urn:ietf:params:xml:ns:metalink">\n'
    for number in range(entries):
        name, size, sha256 = file(number)
        parts = [f'  <file name="{name}">', f"    <size>{size}</size>", f'    <hash type="sha-256">{sha256}</hash>']
        yield between.join([*parts, urls(name), "  </file>\n"])
    yield "</metalink>\n"


@form("metalink")
def metalink(entries: int) -> Iterator[str]:
    yield from _metalink(entries, lambda name: f"    <url>{BASE}{name}</url>")


@form("metalink:mirrors")
def metalink_with_mirrors(entries: int) -> Iterator[str]:
    def urls(name: str) -> str:
        first = f'    <url location="de" priority="1">{BASE}{name}</url>'
        return f'{first}\n    <url location="us" priority="2">https://mirror.example.net/pub/{name}</url>'

    yield from _metalink(entries, urls)


@form("metalink:mixed")
def metalink_with_some_mirrors(entries: int) -> Iterator[str]:
    """One to four URLs, by no rule that a reader could see."""

    def urls(name: str) -> str:
        mirrors = range(1, 2 + hash(int(name[-15:-8]) * 0x9E3779B97F4A7C15) % 7 % 4)
        more = [f'\n    <url priority="{rank + 1}">https://mirror{rank}.example.net/{name}</url>' for rank in mirrors]
        return f'    <url priority="1">{BASE}{name}</url>{"".join(more)}'

    yield from _metalink(entries, urls)


@form("metalink:other")
def metalink_as_others_write_it(entries: int) -> Iterator[str]:
    """With what no regular expression would foresee."""

    def urls(name: str) -> str:
        return f'    <os>Linux-x64</os>\n    <url priority="10" location="de">{BASE}{name}?a=1&amp;b=2</url>'

    yield from _metalink(entries, urls)


def check(path: str, name: str, base: str | None) -> dict[str, float]:
    """In a process of its own."""
    from bulkspider.lists.formats.choose import Reading
    from bulkspider.lists.opening import check_list

    before = _peak_bytes()
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
        columns = "name=title,url=file_url,size=bytes,sha256=checksum" if name == "csv" else None
        begin, cpu = time.perf_counter(), time.process_time()
        source = check_list(path, folder, reading=Reading(name, base=base, columns=columns))
        figures = {"time": time.perf_counter() - begin, "cpu": time.process_time() - cpu}
        figures |= {"memory": _peak_bytes() - before, "entries": source.entries}
        source.close()
    return figures


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--form", action="append", choices=FORMS, help="only these, beside the plain list")
    parser.add_argument("--check", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.check:
        path, name = options.check
        print(json.dumps(check(path, name, BASE if name == "paths" else None)))
        return
    names = [name for name in FORMS if name == "list" or not options.form or name in options.form]
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(names):
            with open(f"{folder}/{number}", "w") as text:
                text.writelines(FORMS[name][1](options.entries))
        for _ in range(options.rounds):
            for number, name in enumerate(names):
                command = [sys.executable, __file__, "--check", f"{folder}/{number}", FORMS[name][0]]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                rows[name].append(json.loads(done.stdout))
                assert rows[name][-1]["entries"] == options.entries, name
    medians = {
        name: {key: statistics.median(row[key] for row in found) for key in found[0]} for name, found in rows.items()
    }
    plain_list = medians["list"]
    print(f"{options.entries:,} entries, median of {options.rounds} rounds; x: times the plain list's")
    print(f"{'form':<18}{'time s':>8}{'x':>6}{'CPU s':>8}{'x':>6}{'memory MB':>11}{'x':>6}")
    for name, row in medians.items():
        cells = f"{name:<18}"
        for key, unit, width in (("time", 1, 8), ("cpu", 1, 8), ("memory", 1_000_000, 11)):
            cells += f"{row[key] / unit:>{width}.2f}{row[key] / plain_list[key]:>6.2f}"
        print(cells)


if __name__ == "__main__":
    main()
