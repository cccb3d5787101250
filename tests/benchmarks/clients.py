"""The programs that are compared: which are installed, which version, and how each is told to fetch a list.

All of them are told the same: these files, so many at once, into this folder, the certificate not checked, nothing
shown on a terminal. Everything else is what each does by itself.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Job:
    """Fetch the files `names`, found at `url(name)`, into `output`; `folder` is for lists and logs. sums: the sha256 of
    each, where they are to be compared."""

    folder: Path
    output: Path
    base: str
    names: list[str]
    at_once: int
    sums: dict[str, str] = field(default_factory=dict)

    def url(self, name: str) -> str:
        return f"{self.base}/{name}"

    def write(self, lines: Iterator[str]) -> str:
        path = self.folder / "list.txt"
        with open(path, "w") as file:
            file.writelines(lines)
        return str(path)

    def name_url_and_sum(self) -> str:
        """The list of bulkspider."""
        heading = iter(["name url\n"])
        entries = (f"{n} {self.url(n)}{f' sha256={self.sums[n]}' if self.sums else ''}\n" for n in self.names)
        return self.write(line for part in (heading, entries) for line in part)

    def name_and_url(self) -> str:
        """The list of the original program and of the stock spider."""
        heading = iter(["name url\n"])
        return self.write(line for part in (heading, (f"{n} {self.url(n)}\n" for n in self.names)) for line in part)


def _bulkspider(job: Job) -> list[str]:
    command = [sys.executable, "-m", "scrapy", "bulk", job.name_url_and_sum(), "-o", str(job.output)]
    return [*command, "-j", str(job.at_once), "-s", "DOWNLOAD_VERIFY_CERTIFICATES=False"]


def _aria2(job: Job) -> list[str]:
    sums = {name: f" checksum=sha-256={value}\n" for name, value in job.sums.items()}
    path = job.write(f"{job.url(name)}\n out={name}\n{sums.get(name, '')}" for name in job.names)
    options = ["--file-allocation=none", "--check-certificate=false", "--quiet", "--no-conf"]
    return ["aria2c", "-i", path, "-d", str(job.output), "-j", str(job.at_once), *options]


def _aria2_segments(job: Job) -> list[str]:
    return [*_aria2(job), "-x", "16", "-s", "16", "-k", "1M"]


def _curl(job: Job) -> list[str]:
    path = job.write(f'url = "{job.url(name)}"\noutput = "{job.output / name}"\n' for name in job.names)
    return ["curl", "-q", "-Z", "--parallel-max", str(job.at_once), "-sSkf", "--create-dirs", "-K", path]


def _wget2(job: Job) -> list[str]:
    path = job.write(f"{job.url(name)}\n" for name in job.names)
    options = ["--no-config", "--quiet", "--no-check-certificate"]
    return ["wget2", *options, f"--max-threads={job.at_once}", "-P", str(job.output), "-i", path]


def _rclone(job: Job) -> list[str]:
    options = ["--config", "/dev/null", "--no-check-certificate", "--transfers", str(job.at_once), "--quiet"]
    if _rclone_has_urls():
        path = job.write(f"{job.url(name)},{name}\n" for name in job.names)
        return ["rclone", "copyurl", "--urls", path, str(job.output), *options]
    # Before 1.70 copyurl takes one URL; this is its nearest relative, with a HEAD request for every file.
    path = job.write(f"{name}\n" for name in job.names)
    lists = ["--files-from-raw", path, "--no-traverse", "--checkers", str(job.at_once)]
    return ["rclone", "copy", ":http:", str(job.output), "--http-url", job.base, *lists, *options]


def _rclone_has_urls() -> bool:
    return "--urls" in _output("rclone", "copyurl", "--help")


def _original(job: Job) -> list[str]:
    return [sys.executable, str(HERE / "original.py"), job.name_and_url(), str(job.output), str(job.at_once)]


def _stock_scrapy(job: Job) -> list[str]:
    command = [sys.executable, "-m", "scrapy", "runspider", str(HERE / "stock_scrapy.py")]
    command += ["-a", f"list={job.name_and_url()}", "-a", f"output={job.output}"]
    settings = {
        "CONCURRENT_REQUESTS": job.at_once,
        "CONCURRENT_REQUESTS_PER_DOMAIN": job.at_once,
        "DOWNLOAD_DELAY": 0,
        "DOWNLOAD_MAXSIZE": 0,
        "DOWNLOAD_TIMEOUT": 86400,
        "LOG_LEVEL": "INFO",
    }
    return [*command, *(word for name, value in settings.items() for word in ("-s", f"{name}={value}"))]


def _output(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@dataclass(frozen=True, slots=True)
class Client:
    """command: what to run for a job. program: what must be installed, an executable or a Python package.
    peer: bulkspider is held against the best of these. in_memory: it holds every file as a whole."""

    name: str
    command: Callable[[Job], list[str]]
    program: str
    package: bool = False
    peer: bool = False
    in_memory: bool = False
    only: frozenset[str] = field(default_factory=frozenset)

    @property
    def installed(self) -> bool:
        if self.package:
            return importlib.util.find_spec(self.program) is not None
        return shutil.which(self.program) is not None

    @property
    def version(self) -> str:
        if self.package:
            return importlib.metadata.version(self.program)
        return _output(self.program, "--version").splitlines()[0]


CLIENTS = (
    Client("bulkspider", _bulkspider, "bulkspider", package=True),
    Client("aria2c", _aria2, "aria2c", peer=True),
    Client("aria2c -x16", _aria2_segments, "aria2c", peer=True, only=frozenset({"throttled"})),
    Client("curl -Z", _curl, "curl", peer=True),
    Client("wget2", _wget2, "wget2", peer=True),
    Client("rclone", _rclone, "rclone"),
    Client("original", _original, "requests", package=True),
    Client("stock Scrapy", _stock_scrapy, "scrapy", package=True, in_memory=True),
)
