"""Two versions of bulkspider, run side by side: the frozen one, a wheel in `frozen/`, and the present one.

Both run with the same Python, Scrapy and other packages. The frozen version stands first on PYTHONPATH; so its
package, and its entry points for `scrapy bulk`, are found before those of the installed one. `Version.check` makes sure
of that. A process writes its log to a file, because two processes run at once and a full pipe would stop one of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bulkspider

FROZEN_SHA256 = "202ae95d395fc3f9cc962ce3184f6c52cb8e4b7202f605f77b6c784f4e72b422"
FROZEN_WHEEL = Path(__file__).parent / "frozen" / "bulkspider-0.1.0-py3-none-any.whl"

_HIDDEN = ("PYTHONPATH", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


@dataclass
class Ended:
    """A process that has ended: its exit status, its log (stdout and stderr), the rows of its report."""

    status: int
    log: str
    rows: list[dict[str, Any]]


@dataclass
class Running:
    """A process of one version. Ended by `wait` or `kill`, at the latest by the end of `Version.start`'s block."""

    process: subprocess.Popen[bytes]
    log: Path
    report: Path

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def wait(self, timeout: float) -> Ended:
        """Raises AssertionError, with the log, when the process is still running after `timeout` seconds."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {timeout:.0f} s:\n{self.log.read_text()}") from None
        rows = []
        if self.report.exists():
            rows = [json.loads(line) for line in self.report.read_text(encoding="utf-8").splitlines()]
        return Ended(self.process.returncode, self.log.read_text(encoding="utf-8", errors="replace"), rows)


@dataclass(frozen=True)
class Version:
    """One version of bulkspider. folder: where its package lies, put before everything installed; None: as installed."""

    name: str
    folder: Path | None = field(default=None, repr=False)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        plain = {name: value for name, value in os.environ.items() if name not in _HIDDEN}
        path = {} if self.folder is None else {"PYTHONPATH": str(self.folder)}
        return {**plain, "SCRAPY_SETTINGS_MODULE": "bulkspider.settings", **path, **(more or {})}

    def check(self, cwd: Path) -> None:
        """The package that a process started in `cwd` imports is this version's."""
        # Like `-m`, `-c` has the current folder first on sys.path.
        asked = [sys.executable, "-c", "import bulkspider; print(bulkspider.__file__)"]
        done = subprocess.run(asked, cwd=cwd, env=self.environment(), capture_output=True, text=True, check=True)
        imported = Path(done.stdout.strip())
        expected = Path(bulkspider.__file__) if self.folder is None else self.folder / "bulkspider" / "__init__.py"
        assert imported.samefile(expected), f"{self.name}: {imported} was imported instead of {expected}"

    @contextmanager
    def start(
        self,
        module: Sequence[str],
        *,
        cwd: Path,
        report: Path | None = None,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> Iterator[Running]:
        """Runs `python -m MODULE ...`. report: JSON Lines that it writes. prefix: a command that runs it."""
        report = report or cwd / f"{self.name}.jsonl"
        report.unlink(missing_ok=True)
        log = cwd / f"{self.name}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*prefix, sys.executable, "-m", *module],
                cwd=cwd,
                env=self.environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        running = Running(process, log, report)
        try:
            yield running
        finally:
            if process.poll() is None:
                running.kill()


PRESENT = Version("present")


def unpack_frozen(folder: Path) -> Version:
    """The frozen version, unpacked into `folder`."""
    found = hashlib.sha256(FROZEN_WHEEL.read_bytes()).hexdigest()
    assert found == FROZEN_SHA256, f"{FROZEN_WHEEL} is not the one that was frozen"
    with zipfile.ZipFile(FROZEN_WHEEL) as wheel:
        wheel.extractall(folder)
    return Version("frozen", folder)
