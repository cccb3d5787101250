"""What lies on the disk: the state of a transfer that is under way, waiting for it, and a file that is spoiled."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.crawl import Bulk


def wait_for(happened: Callable[[], bool], timeout: float = 60) -> None:
    """For what neither process nor origin tells."""
    waiting = threading.Event()
    deadline = time.monotonic() + timeout
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        waiting.wait(0.005)


def state_of(bulk: Bulk, name: str) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((bulk.output / f"{name}.part.json").read_text())
    return state


def spoil(path: Path) -> None:
    """Changes a byte and neither size nor time: only who reads the file can notice."""
    before = path.stat()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
