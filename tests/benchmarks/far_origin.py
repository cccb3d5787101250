"""An origin that is far away, or slow to each connection: one process that serves the files of a folder.

    python tests/benchmarks/far_origin.py FOLDER --delay 0.05 --rate 4194304

delay: seconds each way. A new connection costs its first request one more way there and back, as TCP's handshake does.
rate: bytes per second of each connection, 0 for no limit. Prints its port. On SIGUSR1 it prints, as JSON, the bytes that
each file has got and the seconds from the first request to the last byte, and begins to count anew. Bodies go from file to socket within the kernel, so that it costs little of the machine that is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import socket
import time
from collections import Counter
from pathlib import Path

TICK_SECONDS = 0.01
MOST_AT_ONCE = 1 << 20
SEGMENT_BYTES = 1448  # what one packet of Ethernet brings
# A connection may be behind by so much of its rate; what it could have sent before is lost to it.
BURST_SECONDS = 0.25


class Connection:
    """One client. due: when the answer to its request leaves, None while none is wanted."""

    def __init__(self, sock: socket.socket, now: float, delay: float) -> None:
        self.sock, self.received, self.head, self.due = sock, b"", b"", 0.0
        self.accepted = now + 2 * delay
        self.file = -1
        self.name = ""
        self.at = self.end = 0
        self.since, self.sent = 0.0, 0

    @property
    def busy(self) -> bool:
        return self.file >= 0


class Origin:
    def __init__(self, folder: Path, delay: float, rate: float) -> None:
        self.folder, self.delay, self.rate = folder, delay, rate
        self.sent: Counter[str] = Counter()
        self.selector = selectors.DefaultSelector()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.busy: dict[Connection, None] = {}
        self.first = self.last = 0.0

    def tell(self, *_: object) -> None:
        print(json.dumps({"sent": self.sent, "seconds": self.last - self.first}), flush=True)
        self.sent.clear()
        self.first = 0.0

    def serve(self) -> None:
        while True:
            for key, _ in self.selector.select(TICK_SECONDS if self.busy else 1.0):
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.data)
            now = time.monotonic()
            for connection in list(self.busy):
                self._send(connection, now)
            if self.busy:
                time.sleep(max(0.0, TICK_SECONDS - (time.monotonic() - now)) if self.rate else 0.0)

    def _accept(self) -> None:
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.selector.register(sock, selectors.EVENT_READ, Connection(sock, time.monotonic(), self.delay))

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            return
        connection.received += data
        while b"\r\n\r\n" in connection.received and not connection.busy:
            head, _, connection.received = connection.received.partition(b"\r\n\r\n")
            self._answer(connection, head.decode("latin-1"))

    def _answer(self, connection: Connection, request: str) -> None:
        line, *fields = request.split("\r\n")
        connection.name = line.split()[1].rpartition("/")[2]
        connection.file = os.open(self.folder / connection.name, os.O_RDONLY)
        size = os.fstat(connection.file).st_size
        asked = next((f.partition("bytes=")[2] for f in fields if f.lower().startswith("range:")), None)
        connection.at, connection.end, status = 0, size, "200 OK"
        told = ""
        if asked is not None:
            first, _, last = asked.partition("-")
            connection.at, connection.end = int(first), min(size, int(last) + 1) if last else size
            status, told = "206 Partial Content", f"Content-Range: bytes {first}-{connection.end - 1}/{size}\r\n"
        connection.head = (
            f"HTTP/1.1 {status}\r\nContent-Length: {connection.end - connection.at}\r\n{told}"
            f'ETag: "{size:x}"\r\nLast-Modified: Wed, 13 Mar 2024 15:02:06 GMT\r\nAccept-Ranges: bytes\r\n\r\n'
        ).encode()
        now = time.monotonic()
        self.first = self.first or now
        connection.due = max(now, connection.accepted) + 2 * self.delay
        connection.since, connection.sent = connection.due, 0
        self.busy[connection] = None

    def _send(self, connection: Connection, now: float) -> None:
        if now < connection.due:
            return
        try:
            if connection.head:
                connection.head = connection.head[connection.sock.send(connection.head) :]
            if self.rate:
                connection.since = max(connection.since, now - BURST_SECONDS - connection.sent / self.rate)
                allowed = int(self.rate * (now - connection.since)) - connection.sent
            else:
                allowed = MOST_AT_ONCE
            count = min(allowed, connection.end - connection.at)
            least = min(MOST_AT_ONCE, max(SEGMENT_BYTES, int(self.rate * TICK_SECONDS / 2)))
            if count >= min(least, connection.end - connection.at):
                sent = os.sendfile(connection.sock.fileno(), connection.file, connection.at, count) if count else 0
                connection.at, connection.sent = connection.at + sent, connection.sent + sent
                self.sent[connection.name] += sent
                self.last = now
        except BlockingIOError:
            return
        except OSError:
            self._close(connection)
            return
        if connection.at == connection.end:
            self._end(connection)

    def _end(self, connection: Connection) -> None:
        del self.busy[connection]
        os.close(connection.file)
        connection.file = -1

    def _close(self, connection: Connection) -> None:
        if connection.busy:
            self._end(connection)
        self.selector.unregister(connection.sock)
        connection.sock.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--rate", type=float, default=0.0)
    options = parser.parse_args()
    origin = Origin(options.folder, options.delay, options.rate)
    signal.signal(signal.SIGUSR1, origin.tell)
    print(origin.listener.getsockname()[1], flush=True)
    origin.serve()


if __name__ == "__main__":
    main()
