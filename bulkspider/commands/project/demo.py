"""`scrapy demo`: the main job, offline. Several files at once, killed half-way, run again, compared by hash."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from scrapy.commands import ScrapyCommand

from bulkspider.demo.content import Content
from bulkspider.options import human, parse_size
from bulkspider.regex import regex

LIST = Path("input/demo")
FOLDER = Path("output/demo")
# Slow enough to be killed in the middle, fast enough to be over soon.
RATE = "24M"
_URL = regex(r"(\S[^\n]*?)\s+http://127\.0\.0\.1:8000/(\w+)/(\w+)\.bin")


class Command(ScrapyCommand):
    requires_project = True
    requires_crawler_process = False

    def short_desc(self) -> str:
        return "Show the main job offline: download, kill -9 half-way, run again, compare hashes"

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        if not LIST.is_file():
            print(f"demo: {LIST} is not here; run it from the project's folder", file=sys.stderr)
            self.exitcode = 1
            return
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(parents=True)
        with subprocess.Popen(
            [sys.executable, "-m", "bulkspider.demo.origin", "--rate", RATE], stdout=subprocess.PIPE, text=True
        ) as origin:
            try:
                assert origin.stdout is not None
                address = origin.stdout.readline().split()[-1].rstrip("/")
                self.exitcode = demonstrate(address)
            finally:
                origin.terminate()


def demonstrate(address: str) -> int:
    """Runs the demo against the origin at `address`; returns the exit status."""
    text = LIST.read_text(encoding="utf-8")
    contents = {name: Content(seed, parse_size(size)) for name, size, seed in _URL.findall(text)}
    total = sum(content.size for content in contents.values())
    live = FOLDER / "list.txt"
    live.write_text(text.replace("http://127.0.0.1:8000", address), encoding="utf-8")
    report = FOLDER / "report.jsonl"
    print(f"The list {LIST} has {len(contents)} files, {human(total)} in all. The embedded origin is {address}.\n")

    command = [sys.executable, "-m", "scrapy", "crawl", "bulk"]
    command += ["-a", f"list={live}", "-a", f"output={FOLDER}", "-O", f"{report}:jsonl"]
    print(f"$ scrapy crawl bulk -a list={live} -a output={FOLDER}", flush=True)
    first = subprocess.Popen(command)
    while first.poll() is None and on_disk(contents) < total / 2:
        time.sleep(0.02)
    first.kill()
    first.wait()
    kept = on_disk(contents)
    print(f"\nkill -9 with {human(kept)} on disk. The same command again:\n", flush=True)
    second = subprocess.run(command, check=False).returncode

    rows = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    fetched = sum(row["bytes_received"] for row in rows)
    wrong = [name for name, content in contents.items() if sha256_of(FOLDER / name) != content.sha256()]
    for name in contents:
        print(f"  {'WRONG' if name in wrong else 'ok':5} {name}")
    if wrong or second != 0:
        print(f"\nThe demo failed: exit status {second}, {len(wrong)} wrong files.")
        return 1
    print(f"\nAll {len(contents)} hashes are equal. Resuming saved {human(total - fetched)} of {human(total)}:")
    print(f"the second run fetched only {human(fetched)}.")
    return 0


def on_disk(contents: dict[str, Content]) -> int:
    """Bytes that have arrived, finished or not."""
    count = 0
    for name in contents:
        for path in (FOLDER / name, FOLDER / f"{name}.part"):
            try:
                count += os.stat(path).st_size
            except FileNotFoundError:
                continue
    return count


def sha256_of(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
