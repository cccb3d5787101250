"""The summary: what became of a run, to be read in ten seconds.

A `Tally` is told every outcome and keeps the few that deserve a word: failures, the slowest, the most retried. `Told`
are the lines made of it; whether they go to a log or, in colours, to a terminal is `progress.py`'s matter.
"""

from __future__ import annotations

import heapq
import os
import re
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bulkspider.cures import cure
from bulkspider.entry import redact
from bulkspider.options import human, plural
from bulkspider.run import STATUSES

if TYPE_CHECKING:
    from bulkspider.items import BulkItem
    from bulkspider.run import Run

# Failures that are named, all reasons together; more would not be read.
NAMED = 20
REASONS = 8
NOTABLE = 3
# Slower than this share of the mean.
SLOW = 2 / 3
# Of fewer bytes a speed says more about the clock than about the link.
WORTH_A_SPEED = 1024 * 1024
# A setting or argument whose value is nobody's business: -s HTTPAUTH_PASS=…
_SECRET = re.compile(r"^((?:-s)?\w*(?:PASS|SECRET|TOKEN|KEY|AUTH|COOKIE|CREDENTIAL)\w*)=.+", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Told:
    """A line of the summary. kind: title, text, bad, cure or command."""

    kind: str
    text: str


class Tally:
    """Keeps what the summary needs of each outcome; memory does not grow with the list."""

    def __init__(self) -> None:
        self.failed: Counter[str] = Counter()
        self._named: dict[str, list[tuple[str, str]]] = {}
        self._slowest: list[tuple[float, int, str]] = []
        self._retried: list[tuple[float, int, str]] = []
        self._fetched = 0
        self._speeds = 0.0
        self._number = 0

    def take(self, item: BulkItem) -> None:
        self._number += 1
        if item.status == "failed":
            error = item.error or {"code": "error", "message": ""}
            self.failed[error["code"]] += 1
            named = self._named.setdefault(error["code"], [])
            if len(named) < NAMED:
                named.append((item.name or f"line {item.line}", error["message"]))
        elif item.bytes_received >= WORTH_A_SPEED and item.seconds > 0:
            speed = item.bytes_received / item.seconds
            self._fetched += 1
            self._speeds += speed
            self._keep(self._slowest, (-speed, -self._number, item.name))
        if (retries := item.broken - (item.status == "failed")) > 0:
            self._keep(self._retried, (retries, -self._number, item.name))

    def _keep(self, heap: list[tuple[float, int, str]], row: tuple[float, int, str]) -> None:
        if len(heap) < NOTABLE:
            heapq.heappush(heap, row)
        else:
            heapq.heappushpop(heap, row)

    @property
    def slowest(self) -> list[tuple[str, float]]:
        """(name, bytes per second) of files that were clearly slower than the others, the slowest first."""
        limit = SLOW * self._speeds / self._fetched if self._fetched > NOTABLE else 0.0
        return [(name, -speed) for speed, _, name in sorted(self._slowest, reverse=True) if -speed <= limit]

    @property
    def most_retried(self) -> list[tuple[str, int]]:
        """(name, how often it was tried again after an error), the most first."""
        return [(name, int(retries)) for retries, _, name in sorted(self._retried, reverse=True)]

    def reasons(self) -> list[tuple[str, int, Sequence[tuple[str, str]]]]:
        """(code, how many, some (name, message)) by how many; few failures are all named, many are sampled."""
        most = self.failed.most_common(REASONS)
        share = NAMED if self.failed.total() <= NAMED else max(1, NAMED // len(most))
        return [(code, count, self._named[code][:share]) for code, count in most]


def summary(run: Run, tally: Tally, *, seconds: float, verifying: bool, report: str | None) -> list[Told]:
    """The lines. seconds: how long the run took."""
    counts, stats = run.counts, run.crawler.stats
    told = [f"{counts[status]:,} {status}" for status in (*STATUSES, "left") if counts[status]]
    entries = plural(run.entries or 0, "entry", "entries")
    lines = [Told("title", f"{entries}: {', '.join(told) or 'nothing to do'}")]
    if counts["already"]:
        already = plural(counts["already"], "of them was", "of them were")
        lines.append(Told("text", f"{already} done by an earlier run: nothing was asked for"))
    received = int(stats.get_value("bulk/bytes_received", 0))
    resumed = int(stats.get_value("bulk/bytes_resumed", 0))
    if received:
        speed = human(received / max(seconds, 0.001))
        lines.append(Told("text", f"{human(received)} fetched in {duration(seconds)} ({speed}/s)"))
    if resumed:
        lines.append(Told("text", f"{human(resumed)} were on disk already and were not fetched again"))
    if slowest := tally.slowest:
        lines.append(Told("text", "slowest: " + ", ".join(f"{name} ({human(speed)}/s)" for name, speed in slowest)))
    if retried := tally.most_retried:
        lines.append(
            Told(
                "text", "most retried: " + ", ".join(f"{name} ({plural(n, 'retry', 'retries')})" for name, n in retried)
            )
        )
    # What to do about what a verify refuses is one and the same, and said below.
    lines.extend(_failures(tally, report, cured=("missing", "digest_mismatch") if verifying else ()))
    if report:
        lines.append(Told("text", f"report: {report}"))
    if verifying:
        if counts["failed"]:
            lines.append(Told("command", "to fetch what is missing or was refused, run the same without verify=1"))
    elif run.exit_status not in (0, 1, 4, 5):
        command = command_line()
        hidden = " (*** stands for what is secret)" if "***" in command else ""
        lines.append(Told("command", f"to go on, run the same again{hidden}: {command}"))
    return lines


def _failures(tally: Tally, report: str | None, *, cured: Sequence[str]) -> list[Told]:
    lines: list[Told] = []
    named = 0
    for code, count, some in tally.reasons():
        lines.extend(Told("bad", f"failed: {name}: {message} [{code}]") for name, message in some)
        if count > len(some):
            lines.append(Told("bad", f"failed: … and {count - len(some):,} more [{code}]"))
        named += count
        if (what := cure(code)) and code not in cured:
            lines.append(Told("cure", f"  what to do: {what}"))
    rest = tally.failed.total() - named
    if rest:
        lines.append(Told("bad", f"failed: … and {rest:,} more for other reasons"))
    if tally.failed.total() > NAMED and not report:
        lines.append(Told("cure", "  -O report.jsonl or -a report=run.html lists all failures"))
    return lines


def command_line() -> str:
    """What the user typed, as well as it can be known, quoted for a shell and without secrets."""
    # Scrapy takes the command's name out of sys.argv.
    words = sys.orig_argv
    for at, word in enumerate(words):
        if os.path.basename(word) == "scrapy":
            if words[at - 1] != "-m":
                # The shell gives the whole path of what it found by its name alone.
                words = ["scrapy" if shutil.which("scrapy") == word else word, *words[at + 1 :]]
            break
    return redact(shlex.join(_SECRET.sub(r"\1=***", word) for word in words))


def duration(seconds: float) -> str:
    """For people: 3.2 s, 4:05, 2:04:05, 3 d 04:05."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return clock(seconds)


def clock(seconds: float) -> str:
    """0:07, 4:05, 2:04:05, 3 d 04:05."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour:02}:{minute:02}"
    return f"{hour}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
