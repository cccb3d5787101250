"""An HTTP proxy on this machine, for plain requests and CONNECT tunnels; it remembers what it was asked."""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import threading
from types import TracebackType


def basic(credentials: str) -> str:
    return "Basic " + base64.b64encode(credentials.encode()).decode()


class Proxy:
    """An HTTP proxy that forwards absolute URLs and opens CONNECT tunnels, one thread per connection and direction."""

    def __init__(self, credentials: str | None = None) -> None:
        self.heads: list[bytes] = []
        self._expected = b"proxy-authorization: " + basic(credentials).encode().lower() if credentials else b""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._over, self._end = socket.socketpair()
        self.url = f"http://{credentials + '@' if credentials else ''}127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> Proxy:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.close()
        for thread in self._threads:
            thread.join(10)
        self._listening.close()
        self._over.close()

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while self._over not in select.select([self._listening, self._over], [], [])[0]:
            self._start(self._serve, self._listening.accept()[0])

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            received = b""
            while b"\r\n\r\n" not in received:
                data = client.recv(65536)
                if not data:
                    return
                received += data
            head, _, rest = received.partition(b"\r\n\r\n")
            self.heads.append(head)
            if self._expected not in head.lower():
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            method, target, version = head.split(b"\r\n", 1)[0].split(b" ")
            tunnel = method == b"CONNECT"
            site = target if tunnel else target.split(b"/")[2]
            host, _, port = site.decode().partition(":")
            with socket.create_connection((host, int(port))) as origin:
                if tunnel:
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    path = b"/" + target.split(b"/", 3)[3]
                    others = [line for line in head.split(b"\r\n")[1:] if not line.lower().startswith(b"proxy-")]
                    origin.sendall(b"\r\n".join([b" ".join([method, path, version]), *others, b"Connection: close"]))
                    origin.sendall(b"\r\n\r\n")
                origin.sendall(rest)
                self._relay(client, origin)

    def _relay(self, one: socket.socket, other: socket.socket) -> None:
        while True:
            ready = select.select([one, other, self._over], [], [])[0]
            if self._over in ready:
                return
            for source in ready:
                data = source.recv(65536)
                if not data:
                    return
                (other if source is one else one).sendall(data)
