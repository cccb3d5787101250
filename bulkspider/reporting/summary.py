"""The summary: the result of a run in a few lines.

A `Tally` takes every outcome and keeps a few of them: failures, the slowest files, the most retried ones. `summary`
makes lines of it; `progress.py` writes them to a log or, in colours, to a terminal.
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
from typing import TYPE_CHECKING

from msgspec import Struct

from bulkspider.codes import cure
from bulkspider.disk.finished.verify import SIZE_ONLY, TOUCHED
from bulkspider.entries.entry import origin_of, redact
from bulkspider.options import clock, human, plural
from bulkspider.protocol.digests import (
    CHECKSUM_ONLY,
    LIST,
    REDIRECT,
    SERVER,
    SERVER_DIGEST,
    SIGNED_SUMS,
    STATED_BY,
    SUMS,
    WEAK_HASH,
)
from bulkspider.regex import regex
from bulkspider.run.origins.origins import Origins
from bulkspider.run.outcomes import STATUSES

if TYPE_CHECKING:
    from bulkspider.items import BulkItem
    from bulkspider.run.run import Run

# Failures that are named, for all reasons together.
MAX_NAMED = 20
MAX_REASONS = 8
# Origins that are remembered for each reason.
MAX_ORIGINS = 1000
# How many of the slowest and the most retried files are named.
NAMED_FILES = 3
# A file is slow below this share of the mean speed.
SLOW_SHARE = 2 / 3
# The speed of a smaller file is mostly the latency of the link.
MIN_SPEED_BYTES = 1024 * 1024
# A setting or argument whose value is a secret, such as -s HTTPAUTH_PASS=… The values of our own settings with such
# names are the name of a function, or the path of a file.
_SECRET = regex(
    r"^((?!(?:-[sa])?(?:BULK_AUTH|keyring)=)(?:-s)?\w*(?:PASS|SECRET|TOKEN|KEY|AUTH|COOKIE|CREDENTIAL)\w*)=.+",
    re.IGNORECASE | re.DOTALL,
)


# Texts for who stated a hash, and for flags of proofs that are weaker than a good hash.
_BY = {
    SIGNED_SUMS: "a signed checksum file",
    LIST: "the list",
    SUMS: "a checksum file",
    REDIRECT: "a redirect",
    SERVER: "the server that sent the bytes",
}
_TOLD = {
    WEAK_HASH: ("file has only a weak hash (md5, sha1)", "files have only a weak hash (md5, sha1)"),
    CHECKSUM_ONLY: ("file has only a checksum (crc, adler)", "files have only a checksum (crc, adler)"),
    SERVER_DIGEST: ("file differs from what its server says", "files differ from what their server says"),
    SIZE_ONLY: (
        "file has no known hash: only its size was compared",
        "files have no known hash: only their sizes were compared",
    ),
    TOUCHED: (
        "of them was changed since it was fetched; a run without verify compares it with the server",
        "of them were changed since they were fetched; a run without verify compares them with the server",
    ),
}


class SummaryLine(Struct, frozen=True):
    """A line of the summary. kind: warning, title, text, bad, cure or command."""

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
        self._origins: dict[str, set[str]] = {}
        self._proofs: Counter[str] = Counter()
        self._flags: Counter[str] = Counter()

    def take(self, item: BulkItem) -> None:
        self._number += 1
        self._flags.update(flag for flag in item.flags if flag in _TOLD)
        if item.proof_by is not None:
            self._proofs[item.proof_by] += 1
        if item.status == "failed":
            error = item.error or {"code": "error", "message": ""}
            self.failed[error["code"]] += 1
            origins = self._origins.setdefault(error["code"], set())
            if item.url and len(origins) < MAX_ORIGINS:
                origins.add(origin_of(item.url))
            named = self._named.setdefault(error["code"], [])
            if len(named) < MAX_NAMED:
                named.append((item.name or f"line {item.line}", error["message"]))
        elif item.bytes_received >= MIN_SPEED_BYTES and item.seconds > 0:
            speed = item.bytes_received / item.seconds
            self._fetched += 1
            self._speeds += speed
            self._keep(self._slowest, (-speed, -self._number, item.name))
        if (retries := item.broken - (item.status == "failed")) > 0:
            self._keep(self._retried, (retries, -self._number, item.name))

    def _keep(self, heap: list[tuple[float, int, str]], row: tuple[float, int, str]) -> None:
        if len(heap) < NAMED_FILES:
            heapq.heappush(heap, row)
        else:
            heapq.heappushpop(heap, row)

    @property
    def slowest(self) -> list[tuple[str, float]]:
        """(name, bytes per second) of files that were clearly slower than the others, the slowest first."""
        limit = SLOW_SHARE * self._speeds / self._fetched if self._fetched > NAMED_FILES else 0.0
        return [(name, -speed) for speed, _, name in sorted(self._slowest, reverse=True) if -speed <= limit]

    @property
    def proofs(self) -> list[str]:
        """Sentences on who verified the files of this run, and on weaker proofs; none if the list verified all."""
        by = [f"{self._proofs[who]:,} {_BY[who]}" for who in STATED_BY if self._proofs[who]]
        told = [f"verified by: {', '.join(by)}"] if set(self._proofs) - {LIST} else []
        return told + [f"{plural(self._flags[flag], *words)}" for flag, words in _TOLD.items() if self._flags[flag]]

    @property
    def most_retried(self) -> list[tuple[str, int]]:
        """(name, how often it was tried again after an error), the most first."""
        return [(name, int(retries)) for retries, _, name in sorted(self._retried, reverse=True)]

    def cure(self, code: str, known: Origins) -> str:
        """What to do about the failures of this code. For a host that was given up: the cure of the error behind it."""
        origins = self._origins.get(code, set())
        if code == "origin_down":
            causes = sorted({cause for name in origins if (cause := known.cause(name)) is not None})
            if causes:
                return "; ".join(dict.fromkeys(what for cause in causes if (what := cure(cause)))) or cure(code)
        return cure(code, host_works=bool(origins) and all(map(known.has_served, origins)))

    def reasons(self) -> list[tuple[str, int, Sequence[tuple[str, str]]]]:
        """(code, how many, some (name, message)) by how many; few failures are all named, many are sampled."""
        most = self.failed.most_common(MAX_REASONS)
        share = MAX_NAMED if self.failed.total() <= MAX_NAMED else max(1, MAX_NAMED // len(most))
        return [(code, count, self._named[code][:share]) for code, count in most]


def summary(
    run: Run, tally: Tally, *, seconds: float, verifying: bool, report: str | None, ignored: object = None
) -> list[SummaryLine]:
    """The lines. seconds: how long the run took. ignored: what to say of a first line that is an entry."""
    counts, stats = run.outcomes.counts, run.crawler.stats
    handed_on = run.outcomes.handed_on
    here = {status: counts[status] - handed_on[status] for status in (*STATUSES, "left")}
    told = [f"{count:,} {status}" for status, count in ({**here, "handed on": handed_on.total()}).items() if count]
    if run.stopping.reason is not None and run.stopping.reason.code == "folder_gone":
        told.append("whatever was finished before the folder was deleted may be gone with it")
    entries = plural(run.outcomes.entries or 0, "entry", "entries")
    lines = [] if ignored is None else [SummaryLine("warning", str(ignored))]
    lines.append(SummaryLine("title", f"{entries}: {', '.join(told) or 'nothing to do'}"))
    if counts["already"]:
        already = plural(counts["already"], "of them was", "of them were")
        lines.append(SummaryLine("text", f"{already} done by an earlier run: nothing was asked for"))
    received = int(stats.get_value("bulk/bytes_received", 0))
    resumed = int(stats.get_value("bulk/bytes_resumed", 0))
    if received:
        speed = human(received / max(seconds, 0.001))
        lines.append(SummaryLine("text", f"{human(received)} fetched in {duration(seconds)} ({speed}/s)"))
    if resumed:
        lines.append(SummaryLine("text", f"{human(resumed)} were on disk already and were not fetched again"))
    lines.extend(SummaryLine("text", proof) for proof in tally.proofs)
    if slowest := tally.slowest:
        lines.append(
            SummaryLine("text", "slowest: " + ", ".join(f"{name} ({human(speed)}/s)" for name, speed in slowest))
        )
    if retried := tally.most_retried:
        lines.append(
            SummaryLine(
                "text", "most retried: " + ", ".join(f"{name} ({plural(n, 'retry', 'retries')})" for name, n in retried)
            )
        )
    # After a verify, these codes have one common cure, given below.
    lines.extend(_failures(run, tally, report, cured=("missing", "digest_mismatch") if verifying else ()))
    if report:
        lines.append(SummaryLine("text", f"report: {report}"))
    if verifying:
        if counts["failed"]:
            lines.append(
                SummaryLine("command", "to fetch what is missing or was refused, run the same without verify=1")
            )
    elif run.outcomes.exit_status not in (0, 1, 4, 5):
        command = command_line()
        hidden = " (*** stands for what is secret)" if "***" in command else ""
        lines.append(SummaryLine("command", f"to go on, run the same again{hidden}: {command}"))
    return lines


def failure_line(item: BulkItem) -> str:
    """A failure, as it happens."""
    error = item.error or {"code": "error", "message": ""}
    return f"failed {item.name or f'line {item.line}'}: {error['message']} [{error['code']}]"


def _failures(run: Run, tally: Tally, report: str | None, *, cured: Sequence[str]) -> list[SummaryLine]:
    lines: list[SummaryLine] = []
    named = 0
    for code, count, some in tally.reasons():
        lines.extend(SummaryLine("bad", f"failed: {name}: {message} [{code}]") for name, message in some)
        if count > len(some):
            lines.append(SummaryLine("bad", f"failed: … and {count - len(some):,} more [{code}]"))
        named += count
        if code not in cured and (what := tally.cure(code, run.origins)):
            lines.append(SummaryLine("cure", f"  what to do: {what}"))
    rest = tally.failed.total() - named
    if rest:
        lines.append(SummaryLine("bad", f"failed: … and {rest:,} more for other reasons"))
    if tally.failed.total() > MAX_NAMED and not report:
        lines.append(SummaryLine("cure", "  -O report.jsonl or -a report=run.html lists all failures"))
    return lines


def command_line() -> str:
    """The command that the user typed, as far as it is known, quoted for a shell and without secrets."""
    # Not sys.argv: Scrapy removes the command's name from it.
    words = sys.orig_argv
    for at, word in enumerate(words):
        if os.path.basename(word) == "scrapy":
            if words[at - 1] != "-m":
                # The shell replaces a bare name by the path that it found.
                words = ["scrapy" if shutil.which("scrapy") == word else word, *words[at + 1 :]]
            break
    return redact(shlex.join(_SECRET.sub(r"\1=***", word) for word in words))


def duration(seconds: float) -> str:
    """For people: 3.2 s, 4:05, 2:04:05, 3 d 04:05."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return clock(seconds)
