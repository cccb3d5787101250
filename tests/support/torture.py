"""Many crawls in one process, in each of which one call of the disk path fails once: `python torture.py PLAN`.

PLAN is a JSON file: site, folder, settings, names (of the files at the site), share (of the occurrences to try), errnos.
A first crawl counts the calls of each function that bulkspider makes. Then each of them, at each occurrence in turn, fails
once with an OSError in a crawl of its own, which is followed by one in which nothing fails. Writes a line of JSON for each
such pair: what failed, the rows of both crawls, the files and their hashes, whether a crawl had to be stopped.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from scrapy import signals
from scrapy.crawler import CrawlerRunner
from scrapy.settings import Settings
from scrapy.utils.reactor import install_reactor

install_reactor("twisted.internet.asyncioreactor.AsyncioSelectorReactor")
from twisted.internet import defer, reactor  # noqa: E402

import bulkspider  # noqa: E402
from bulkspider.run.run import Run  # noqa: E402
from bulkspider.spiders.bulk import BulkSpider  # noqa: E402

OURS = os.path.dirname(bulkspider.__file__)
# Of `os`: everything on the way of a byte to the disk that the system may refuse.
CALLS = (
    *("open", "pwrite", "write", "preadv", "pread", "read", "splice", "posix_fallocate", "ftruncate"),
    *("fdatasync", "fsync", "rename", "replace", "unlink", "mkdir", "listdir", "utime"),
    *("stat", "fstat", "lstat", "statvfs", "fstatvfs", "lseek", "dup", "pipe2"),
)
# A crawl that takes longer hangs.
PATIENCE_SECONDS = 60


class Faults:
    """Counts the calls that bulkspider makes, and lets one fail. at: (function, occurrence, error number)."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.at: tuple[str, int, int] | None = None
        self.met = ""
        self._lock = threading.Lock()
        for name in CALLS:
            if hasattr(os, name):
                setattr(os, name, self._watched(name, getattr(os, name)))
        start = threading.Thread.start

        def start_thread(thread: threading.Thread) -> None:
            if thread.name.startswith("bulk-") and self._fails("thread", f"start of {thread.name}"):
                raise RuntimeError("can't start new thread")
            start(thread)

        threading.Thread.start = start_thread  # type: ignore[method-assign]

    def begin(self, at: tuple[str, int, int] | None) -> None:
        with self._lock:
            self.counts.clear()
            self.at, self.met = at, ""

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            frame = sys._getframe(1)
            if frame.f_code.co_filename.startswith(OURS) and self._fails(name, f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"):  # fmt: skip
                assert self.at is not None
                raise OSError(self.at[2], os.strerror(self.at[2]))
            return function(*args, **kwargs)

        return watched

    def _fails(self, name: str, where: str) -> bool:
        with self._lock:
            self.counts[name] += 1
            if self.at is not None and (name, self.counts[name]) == self.at[:2]:
                self.met = where
                return True
            return False


faults = Faults()
plan = json.loads(Path(sys.argv[1]).read_text())
folder = Path(plan["folder"])
runner = CrawlerRunner(Settings(plan["settings"]))


def crawl(output: Path, at: tuple[str, int, int] | None) -> defer.Deferred[Any]:
    """One crawl; fires with its rows, and whether it had to be stopped."""
    crawler = runner.create_crawler(BulkSpider)
    rows: list[dict[str, Any]] = []

    def scraped(item: Any, response: Any, spider: Any) -> None:
        rows.append({"name": item.name, "status": item.status, "code": item.error and item.error["code"]})

    statuses: list[int] = []

    def closed(spider: Any, reason: str) -> None:
        statuses.append(crawler.get_extension(Run).outcomes.exit_status)

    crawler.signals.connect(scraped, signals.item_scraped, weak=False)
    crawler.signals.connect(closed, signals.spider_closed, weak=False)
    faults.begin(at)
    began, hung = time.monotonic(), []
    done = defer.maybeDeferred(runner.crawl, crawler, list=str(folder / "list.txt"), output=str(output))

    def stop() -> None:
        hung.append(True)
        cast(Any, runner).stop()

    timer = cast(Any, reactor).callLater(PATIENCE_SECONDS, stop)

    def ended(result: Any) -> dict[str, Any]:
        if timer.active():
            timer.cancel()
        refused = getattr(result, "value", None)
        return {
            "rows": rows,
            "hung": bool(hung),
            "refused": None if refused is None else f"{type(refused).__name__}: {refused}",
            "seconds": round(time.monotonic() - began, 2),
            "status": statuses[0] if statuses else None,
            "met": faults.met,
        }

    return done.addBoth(ended)


def lying(output: Path) -> dict[str, str]:
    found = {}
    for name in plan["names"]:
        path = output / name
        if path.exists():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def kept(output: Path) -> int:
    """Bytes in finished files and parts."""
    paths = [output / f"{name}{end}" for name in plan["names"] for end in ("", ".part", ".part.old")]
    return sum(path.stat().st_size for path in paths if path.is_file())


@defer.inlineCallbacks
def torture() -> Any:
    first = yield crawl(folder / "counted", None)
    counts = dict(faults.counts)
    print(json.dumps({"counts": counts, "first": first}), flush=True)
    points = [(name, number) for name, count in sorted(counts.items()) for number in range(1, count + 1)]
    chance = random.Random(plan["seed"])
    if plan["most"] and len(points) > plan["most"]:
        # The first and the last occurrence of each, and others by chance.
        ends = [(name, number) for name, number in points if number in (1, counts[name])]
        others = [point for point in points if point not in ends]
        points = ends + chance.sample(others, max(0, min(len(others), plan["most"] - len(ends))))
    for name, number in points:
        for code in plan["errnos"]:
            output = folder / "tortured"
            shutil.rmtree(output, ignore_errors=True)
            broken = yield crawl(output, (name, number, getattr(errno, code)))
            told = {"call": name, "number": number, "errno": code, "broken": broken}
            told |= {"after": lying(output), "kept": kept(output)}
            told["again"] = yield crawl(output, None)
            told["last"] = lying(output)
            print(json.dumps(told), flush=True)


def report(result: Any) -> None:
    if result is not None:
        result.printTraceback(sys.stderr)
        os._exit(1)
    cast(Any, reactor).callLater(0, cast(Any, reactor).stop)


defer.maybeDeferred(torture).addBoth(report)
cast(Any, reactor).run(installSignalHandlers=False)
