"""What a crawl asked for and what it left, as facts that can be compared: one dict of short texts for each file.

Two versions that do the same have equal facts, on every machine and at every load: no times, no ports, no speeds. A
fact that differs is one line, `NAME FACT: before -> now`, so that a table of such lines can say which are intended.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from support.faulty import Recorded

#: The facts of one file, or of a whole crawl: name of the fact -> its value as text.
Facts = dict[str, str]

# Of a row of the report: all that neither time nor speed decides.
_FIELDS = ("status", "already", "size", "resumed_from", "attempts", "broken", "connections")
_FIELDS += ("proof", "http", "body", "exception", "retries")  # of other front doors
_FIELDS += ("flags", "sha256", "checksums", "etag", "last_modified", "final_url")
_ERROR = ("code", "http_status", "permanent")
# Of a state file: what does not depend on when it was written.
_STATE = ("version", "key", "etag", "last_modified", "total")
# Counted while running; the time or the number of connections is in none of these.
_STATS = re.compile(r"'(bulk/(?:entries|already|left|duplicates|attempts|files/\w+|failed/\w+))': (\d+)")
_SITE = re.compile(r"\b(?:127\.0\.0\.1|localhost):\d+")


def of_requests(requests: Iterable[Recorded]) -> Facts:
    """Each request in the order of arrival, and the other header fields of them all."""
    facts: Facts = {}
    others: set[str] = set()
    for number, request in enumerate(requests, 1):
        asked = [f"{request.method} {_without_ports(request.target)}"]
        asked += [f"{name}={request.headers[name]}" for name in ("range", "if-range") if name in request.headers]
        facts[f"request {number}"] = " ".join(asked)
        others |= {
            f"{name}: {_without_ports(value)}"
            for name, value in request.headers.items()
            if name not in ("host", "range", "if-range")
        }
    if others:
        facts["headers"] = "; ".join(sorted(others))
    return facts


def of_row(row: Mapping[str, Any]) -> Facts:
    """A row of the report, or the result of a bare request."""
    facts = {name: _text(row[name]) for name in _FIELDS if name in row}
    if row.get("error"):
        facts |= {f"error {name}": _text(row["error"][name]) for name in _ERROR}
    return facts


def of_files(folder: Path, name: str, url: str) -> Facts:
    """The files of one entry: under its name, and under its name with something behind it (`.part`, `.old`)."""
    facts: Facts = {}
    place = folder / name
    for path in sorted(place.parent.glob("*")) if place.parent.is_dir() else ():
        if path.name == place.name or path.name.startswith(place.name + "."):
            facts[f"file {path.name.removeprefix(place.name) or 'itself'}"] = _kind(path, key_of(url))
    return facts


def of_ledger(folder: Path, name: str, url: str) -> Facts:
    """The last line about an entry in the ledgers."""
    facts: Facts = {}
    for path in sorted((folder / ".bulkspider").glob("ledger*.jsonl")):
        for text in path.read_bytes().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if line["name"] == name:
                shown = [
                    line["status"],
                    line["size"],
                    _own(line["key"], key_of(url)),
                    line.get("flags", []),
                    line["digests"],
                ]
                facts["ledger"] = json.dumps(shown)
    return facts


def of_stats(log: str) -> Facts:
    """Scrapy's dump of its stats at the end of a log, where it made one: those of bulkspider that count entries."""
    return dict(_STATS.findall(log))


def differences(name: str, frozen: Facts, present: Facts, *, ignored: Iterable[str] = ()) -> list[str]:
    """One line for each fact that is not the same. ignored: facts that the weather decides; `*` is any text."""
    passed = [pattern_of(text) for text in ignored]
    return [
        f"{name} {fact}: {frozen.get(fact, 'none')} -> {present.get(fact, 'none')}"
        for fact in {**frozen, **present}
        if frozen.get(fact) != present.get(fact) and not any(pattern.fullmatch(fact) for pattern in passed)
    ]


def pattern_of(text: str) -> re.Pattern[str]:
    """The text itself, where `*` stands for any text."""
    return re.compile(".*".join(map(re.escape, text.split("*"))), re.DOTALL)


def key_of(url: str) -> str:
    """The key that states and ledgers keep of a URL, where it has neither a query nor a default port."""
    return hashlib.sha256(url.encode()).hexdigest()


def _own(key: object, own: str) -> object:
    """A key without the port that is in it."""
    return "of its URL" if key == own else key


def _kind(path: Path, key: str) -> str:
    """What lies there: a file's size and hash, a state's lasting fields, or the kind of any other thing."""
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode):
        return {stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo", stat.S_IFDIR: "folder"}.get(stat.S_IFMT(mode), "other")
    data = path.read_bytes()
    if re.search(r"\.part(\.old)?\.json$", path.name):
        try:
            state = json.loads(data)
            return json.dumps({name: _own(state.get(name), key) for name in _STATE})
        except ValueError:
            pass
    return f"{len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()[:12]}"


def _text(value: object) -> str:
    return _without_ports(value if isinstance(value, str) else json.dumps(value, sort_keys=True))


def _without_ports(text: str) -> str:
    return _SITE.sub("ORIGIN", text)
