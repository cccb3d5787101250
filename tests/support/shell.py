"""`scrapy bulk` typed into a shell, in a folder that belongs to no project."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import warm
from support.crawl import QUICK


@dataclass
class Said:
    status: int
    out: str
    log: str


class Shell:
    """A folder that belongs to no project, and a shell in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        settings = [word for name, value in QUICK.items() for word in ("-s", f"{name}={value}")]
        hidden = ("SCRAPY_SETTINGS_MODULE", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        return warm.Popen(
            [sys.executable, "-m", "scrapy", "bulk", *settings, *arguments],
            cwd=self.folder,
            env={**environment, "COLUMNS": "80", "NETRC": str(self.folder / "netrc"), "PYTHONWARNINGS": "default"},
            stdin=stdin,
            stdout=subprocess.PIPE,
            pipesize=1 << 20,  # a test that waits for something else reads it only at the end
            stderr=subprocess.PIPE,
        )

    def bulk(self, *arguments: str, stdin: bytes = b"") -> Said:
        process = self.start(*arguments, stdin=subprocess.PIPE)
        try:
            out, log = process.communicate(stdin, timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            out, log = process.communicate()
            pytest.fail(f"the command hangs:\n{log.decode()}")
        said = Said(process.returncode, out.decode(), log.decode())
        assert "Traceback" not in said.log, said.log
        assert "Fatal Python error" not in said.log, said.log
        assert "Warning" not in said.log, said.log
        return said

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def files(self, *, hidden: bool = False) -> dict[str, bytes]:
        """All files below, with or without those of `.bulkspider`."""
        found = [path for path in self.folder.rglob("*") if path.is_file()]
        wanted = [path for path in found if hidden or ".bulkspider" not in path.parts]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in wanted}
