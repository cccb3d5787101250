"""A job for browsers and for Prometheus: `scrapy bulkqueue serve`.

    /               a page that renews itself
    /metrics        numbers in the text form of Prometheus
    /status.json    what `bulkqueue status --json` says
    /report.jsonl, /report.csv  a row for each entry that has its outcome

It only reads the job. However many ask, Redis is asked for the status once in a second at most.
"""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Iterable, Iterator
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bulkspider.errors import UsageError
from bulkspider.options import human, plural
from bulkspider.queue.job import Job
from bulkspider.queue.report import csv_lines, json_lines
from bulkspider.queue.status import SHOWN_FAILURES, SHOWN_HOSTS, Status, describe
from bulkspider.text import visible

FRESH_SECONDS = 1.0
RENEWED_SECONDS = 5
_COUNTS = {
    "entries": "Entries that were ever pushed",
    "done": "Entries that are done",
    "failed": "Entries that were given up",
    "left": "Entries that have no outcome yet",
    "running": "Entries that a living worker has",
    "later": "Entries that wait for their next try",
    "missing": "Entries that were pushed and of which the queue knows nothing any more",
    "bytes_on_disk": "Bytes of entries that are done, and of parts",
    "bytes_left": "Bytes of entries that are left, as far as sizes are known",
}


class JobServer(ThreadingHTTPServer):
    """Listens from its creation on; `serve_forever` answers. Raises OSError when it cannot listen there."""

    daemon_threads = True

    def __init__(self, job: Job, host: str, port: int) -> None:
        self._job = job
        self._lock = threading.Lock()
        self._seen: tuple[float, Status] | None = None
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own looks this machine's name up in the DNS.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def answer(self, path: str) -> tuple[str, Iterable[str]] | None:
        """Media type and text of a page; None when there is no such page. Raises UsageError when Redis is away."""
        job = self._job
        match path:
            case "/":
                return "text/html; charset=utf-8", page(job, self._status())
            case "/metrics":
                return "text/plain; version=0.0.4; charset=utf-8", metrics(job.name, self._status())
            case "/status.json":
                return "application/json", [json.dumps(self._status().as_json(job.name)), "\n"]
            case "/report.jsonl":
                return "application/x-ndjson; charset=utf-8", json_lines(job.outcomes())
            case "/report.csv":
                return "text/csv; charset=utf-8", csv_lines(job.outcomes())
        return None

    def _status(self) -> Status:
        with self._lock:
            if self._seen is None or time.monotonic() - self._seen[0] > FRESH_SECONDS:
                self._seen = time.monotonic(), self._job.status()
            return self._seen[1]


class _Handler(BaseHTTPRequestHandler):
    server: JobServer

    def do_GET(self) -> None:
        try:
            found = self.server.answer(self.path.partition("?")[0])
            if found is None:
                self.send_error(404)
                return
            kind, texts = found
            pieces = iter(texts)
            first = next(pieces, "")  # while an error can still be told
        except UsageError as error:
            self._reply(503, "text/plain; charset=utf-8")
            self.wfile.write(f"{visible(str(error))}\n".encode())
            return
        self._reply(200, kind)
        self.wfile.write(first.encode("utf-8", "backslashreplace"))
        for piece in pieces:
            self.wfile.write(piece.encode("utf-8", "backslashreplace"))

    def _reply(self, code: int, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """No access log."""


def metrics(job: str, status: Status) -> Iterator[str]:
    """In the text form of Prometheus, every name with the label `job_name`."""
    told = status.as_json(job)
    for name, meaning in _COUNTS.items():
        yield from _family(f"bulk_job_{name}", meaning, [({}, told[name])], job)
    yield from _family("bulk_job_over", "1: nothing is left, and nothing was lost", [({}, int(status.is_over))], job)
    yield from _family("bulk_job_workers", "Workers that live", [({}, len(status.workers))], job)
    for field, meaning in (("left", "Entries left"), ("running", "Connections"), ("cap", "Connections allowed")):
        samples = [({"host": host["origin"]}, host[field]) for host in status.hosts]
        yield from _family(f"bulk_job_host_{field}", f"{meaning}, by host", samples, job)
    samples = [({"worker": worker["name"]}, worker["entries"]) for worker in status.workers]
    yield from _family("bulk_job_worker_entries", "Entries that a worker has", samples, job)


def _family(name: str, meaning: str, samples: list[tuple[dict[str, str], Any]], job: str) -> Iterator[str]:
    yield f"# HELP {name} {meaning}\n# TYPE {name} gauge\n"
    for labels, value in samples:
        cells = ",".join(f'{key}="{_label(text)}"' for key, text in {"job_name": job, **labels}.items())
        yield f"{name}{{{cells}}} {value}\n"


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}th,td{text-align:left;padding:.2rem 1rem .2rem 0}"
    "td.n,th.n{text-align:right}progress{width:100%}caption{text-align:left;font-weight:bold}"
)


def page(job: Job, status: Status) -> Iterator[str]:
    """One HTML page that loads nothing, and itself again."""
    told = status.as_json(job.name)
    title = f"job {job.name}: {status.done:,} of {status.pushed:,} done"
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(title)}</title>'
    yield f'<meta http-equiv="refresh" content="{RENEWED_SECONDS}"><style>{_STYLE}</style><h1>{_text(title)}</h1>'
    yield f'<progress max="{max(1, status.pushed)}" value="{status.done}"></progress>'
    left = f"{human(told['bytes_on_disk'])} here, {human(told['bytes_left'])} left"
    yield f"<p>{status.left:,} left, {status.running:,} running, {status.dead:,} given up; {left}</p>"
    # What the command says before its tables: an order, what is missing, a push that has not ended.
    for line in describe(job.name, job.shown, status, [], {}):
        if line.startswith("\n"):
            break
        yield f"<p>{_text(line)}</p>"
    hosts = sorted(status.hosts, key=lambda host: (-host["running"], -host["left"]))[:SHOWN_HOSTS]
    yield from _table(
        f"{plural(len(status.hosts), 'host', 'hosts')} with entries left",
        ("host", "left", "at once", "of"),
        [(host["origin"], host["left"], host["running"], host["cap"]) for host in hosts],
    )
    yield from _table(
        plural(len(status.workers), "worker", "workers"),
        ("worker", "running", "heard of, seconds ago"),
        [(worker["name"], worker["entries"], round(worker["seen"])) for worker in status.workers],
    )
    running = [(row["name"], human(row["bytes"] or 0), row["worker"]) for row in job.running()]
    yield from _table("running", ("name", "here", "worker"), running)
    given_up = [(name, letter["code"], letter["reason"]) for name, letter in job.some_dead(SHOWN_FAILURES).items()]
    yield from _table("given up", ("name", "code", "reason"), given_up)
    yield '<p>For programs: <a href="/metrics">metrics</a>, <a href="/status.json">status.json</a>, '
    yield '<a href="/report.jsonl">report.jsonl</a>, <a href="/report.csv">report.csv</a></p></html>'


def _table(title: str, heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Iterator[str]:
    if not rows:
        return
    yield f"<table><caption>{_text(title)}</caption><tr>"
    numeric = [isinstance(cell, int) for cell in rows[0]]
    for head, number in zip(heads, numeric, strict=True):
        yield f"<th{' class=n' * number}>{_text(head)}</th>"
    for row in rows:
        yield "<tr>"
        for cell, number in zip(row, numeric, strict=True):
            yield f"<td class=n>{cell:,}</td>" if number else f"<td>{_text(str(cell))}</td>"
    yield "</table>"


def _text(text: str) -> str:
    return escape(visible(text))
