"""One nginx for a whole benchmark, on free ports of the loopback, and the files that it serves.

The files are sparse with a few random blocks, so that they cost no disk and still have a hash each.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BLOCK = 64 * 1024
RANDOM_BLOCKS = 8
THROTTLE = "16m"  # nginx's limit_rate, per connection

_CONFIG = """
daemon off;
{user}
worker_processes {workers};
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    default_type application/octet-stream;
    client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp; uwsgi_temp_path temp; scgi_temp_path temp;
    server {{
        listen 127.0.0.1:{http};
        listen 127.0.0.1:{https} ssl;
        ssl_certificate cert.pem;
        ssl_certificate_key key.pem;
        root {root};
        location /slow/ {{ alias {root}/; limit_rate {throttle}; }}
    }}
}}
"""


class Nginx:
    """Started by `start`, ended by `stop`. `base("http")` is the URL of `root`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "files"
        self.root.mkdir(parents=True)
        self._ports = {"http": _free_port(), "https": _free_port()}
        self._process: subprocess.Popen[bytes] | None = None

    def base(self, scheme: str) -> str:
        return f"{scheme}://127.0.0.1:{self._ports[scheme]}"

    def start(self) -> None:
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        certificate = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        certificate += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
        certificate += ["-keyout", str(self.folder / "key.pem"), "-out", str(self.folder / "cert.pem")]
        subprocess.run(certificate, check=True, capture_output=True)
        config = self.folder / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                user="user root root;" if os.geteuid() == 0 else "",  # else its workers may not read our folder
                workers=os.cpu_count() or 1,
                root=self.root,
                throttle=THROTTLE,
                **self._ports,
            )
        )
        command = [program, "-p", f"{self.folder}/", "-c", str(config), "-e", "stderr"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        ends = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._ports["http"])).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > ends:
                    raise SystemExit("nginx does not start; its message is above") from None
                time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def make_files(self, folder: str, count: int, size: int) -> dict[str, str]:
        """Makes `count` different files of `size` bytes below root/folder, once; name -> sha256."""
        where = self.root / folder
        where.mkdir(exist_ok=True)
        names = [f"file{number:06}.bin" for number in range(count)]
        for number, name in enumerate(names):
            if not (where / name).exists():
                _make(where / name, size, random.Random(number))
        return hashes(where, names)


def _make(path: Path, size: int, source: random.Random) -> None:
    with open(path, "wb") as file:
        file.truncate(size)
        block = min(BLOCK, size)
        for at in (0, size - block, *(source.randrange(size - block + 1) for _ in range(RANDOM_BLOCKS - 2))):
            file.seek(at)
            file.write(source.randbytes(min(block, 4096) if size <= 4 * BLOCK else block))


def hashes(folder: Path, names: list[str]) -> dict[str, str]:
    """Name -> sha256, or why there is none. Reads the files through the cache, which warms it for the server."""

    def one(name: str) -> str:
        buffer = bytearray(1024 * 1024)
        digest = hashlib.sha256()
        try:
            with open(folder / name, "rb", buffering=0) as file, memoryview(buffer) as view:
                while count := file.readinto(buffer):
                    digest.update(view[:count])
        except OSError as error:
            return error.strerror or "unreadable"
        return digest.hexdigest()

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip(names, threads.map(one, names), strict=True))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
