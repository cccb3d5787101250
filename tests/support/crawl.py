"""`scrapy crawl bulk` as a subprocess, its files compared by hash."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import warm
from support.messages import check_error

# Patience in tests: a retry must not wait for seconds, a stall must be noticed soon.
QUICK = {
    "BULK_RETRY_DELAY": "0.05",
    "BULK_RETRY_DELAY_MAX": "0.2",
    "BULK_RETRY_TIMES": "3",
    "BULK_STALL_TIMEOUT": "3",
    "BULK_HEADERS_TIMEOUT": "3",
    "BULK_CONNECT_TIMEOUT": "3",
    "BULK_ORIGIN_PATIENCE": "3",
    # How fast a busy machine is decides nothing: small files have one connection.
    "BULK_SEGMENT_MIN": "16M",
}


@dataclass
class Ended:
    """A crawl that has ended."""

    status: int
    log: str
    rows: list[dict[str, Any]]
    output: Path

    def row(self, name: str) -> dict[str, Any]:
        (row,) = [row for row in self.rows if row["name"] == name]
        return row

    def file(self, name: str) -> bytes:
        return (self.output / name).read_bytes()


class Bulk:
    """Runs crawls in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "out"
        self.report = folder / "report.jsonl"
        self.list = folder / "list.txt"
        self.settings_module = "bulkspider.settings"

    def write_list(self, entries: Iterable[str] | Mapping[str, str], header: str = "name url") -> Path:
        lines = [f"{name} {url}" for name, url in entries.items()] if isinstance(entries, Mapping) else list(entries)
        self.list.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        return self.list

    def command(self, *arguments: str, settings: Mapping[str, str] | None = None) -> list[str]:
        command = [sys.executable, "-m", "scrapy", "crawl", "bulk", "-a", f"list={self.list}"]
        command += ["-a", f"output={self.output}", "-O", f"{self.report}:jsonl"]
        for name, value in {**QUICK, **(settings or {})}.items():
            command += ["-s", f"{name}={value}"]
        return [*command, *arguments]

    def start(
        self,
        *arguments: str,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        self.report.unlink(missing_ok=True)
        return warm.Popen(
            self.command(*arguments, settings=settings),
            cwd=self.folder,
            env={
                **os.environ,
                "SCRAPY_SETTINGS_MODULE": self.settings_module,
                "PYTHONWARNINGS": "default",
                **(environment or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pipesize=1 << 20,  # a test that waits for something else reads it only at the end
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self, process: subprocess.Popen[str], timeout: float = 90) -> Ended:
        try:
            log, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            log, _ = process.communicate()
            pytest.fail(f"the crawl hangs:\n{log}")
        rows = []
        if self.report.exists():
            rows = [json.loads(line) for line in self.report.read_text().splitlines()]
        for row in rows:
            if row["error"] is not None:
                check_error(row["error"])
        return Ended(process.returncode, log, rows, self.output)

    def run(
        self,
        *arguments: str,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        timeout: float = 90,
    ) -> Ended:
        ended = self.wait(self.start(*arguments, settings=settings, environment=environment), timeout)
        assert "Traceback" not in ended.log, ended.log
        return ended


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
