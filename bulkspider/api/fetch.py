"""`bulkspider.fetch` and `bulkspider.fetch_async`: fetch a list of files from any Python program.

The crawl runs in a child process (`child.py`), which gets the entries and sends the rows back, so that nothing in the
caller's process is changed. `fetch` blocks its thread; `fetch_async` uses a thread of its own, so that any number of
calls can wait in one event loop.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import Any, Protocol, cast

from bulkspider.api.child import Child, Tell
from bulkspider.api.given import Entries, list_file, output_folder, plain_settings, rows
from bulkspider.api.shown import Shown
from bulkspider.codes import cure
from bulkspider.options import plural

# Failed files that the message of a FetchError names.
TOLD_FAILURES = 3
DONE = ("verified", "complete", "unproven")


class FetchError(Exception):
    """Something was not fetched.

    rows: of the entries that were begun, as `fetch` returns them; empty when none was. exit_status: as of `scrapy
    bulk`: 1 nothing was begun (an entry, a setting or the output folder is wrong), 3 calling again may help, 4 only
    failures that a further call cannot cure.
    """

    def __init__(self, message: str, rows: list[dict[str, Any]], exit_status: int) -> None:
        super().__init__(message)
        self.rows = rows
        self.exit_status = exit_status

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: workflow engines send the exception from process to process."""
        return FetchError, (str(self), self.rows, self.exit_status)


class Bar(Protocol):
    """A progress bar like tqdm's. total: the sum of all values that `update` will get."""

    total: Any

    def update(self, n: int, /) -> object: ...


Progress = Callable[[dict[str, Any]], object] | Bar | bool


def fetch(
    entries: Entries,
    output: str | os.PathLike[str],
    *,
    jobs: int = 8,
    segments: int = 0,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Fetches every entry into the folder `output`; returns a row for each (docs/reference.md), in their order.

    entries: dicts as the rows of a JSON Lines list (`{"name": …, "url": …, "sha256": …}`), pairs `(name, url)`, or
    URLs, which are named by their last part; or the path of a list file, as for `scrapy bulk`.
    jobs: files at a time, also from one host. segments: connections for each file, 0 decides by itself. settings:
    Scrapy's and `BULK_*`, plain values; functions by their names (`"package.module.function"`, found on the caller's
    `sys.path`). progress: True for a line that shows how it stands, in a notebook's cell or on standard error; a
    tqdm-like bar, which gets bytes; or a function that is given a dict of numbers about twice a second, in this thread:
    an exception that it raises ends the crawl.

    What is done already is not fetched again: the same call goes on where an earlier one was stopped. Calls at the same
    time may share a folder. Raises FetchError when something failed, was stopped, or could not be begun; TypeError or
    ValueError, before anything is begun, for a wrong argument.
    """
    call = _Call(entries, output, jobs=jobs, segments=segments, settings=settings)
    with _telling(progress) as tell:
        return call.run(tell)


async def fetch_async(
    entries: Entries,
    output: str | os.PathLike[str],
    *,
    jobs: int = 8,
    segments: int = 0,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """As `fetch`, for a running asyncio loop. Cancelling it stops the crawl; every byte is kept.

    `progress` is called in the loop, `entries` is read in another thread.
    """
    call = _Call(entries, output, jobs=jobs, segments=segments, settings=settings)
    with _telling(progress) as tell:
        return await _run(call, tell)


async def _run(call: _Call, tell: Tell | None) -> list[dict[str, Any]]:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[list[dict[str, Any]]] = loop.create_future()

    def tell_here(numbers: dict[str, Any]) -> None:
        try:
            assert tell is not None
            if not ended.done():
                tell(numbers)
        except BaseException as error:
            ended.set_exception(error)

    def end(rows: list[dict[str, Any]], error: BaseException | None) -> None:
        stopped.set()
        if ended.done():
            return
        if error is None:
            ended.set_result(rows)
        else:
            ended.set_exception(error)

    def work() -> None:
        rows: list[dict[str, Any]] = []
        failure: BaseException | None = None
        try:
            rows = call.run(None if tell is None else lambda numbers: loop.call_soon_threadsafe(tell_here, numbers))
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(end, rows, failure)

    stopped = asyncio.Event()
    threading.Thread(target=work, name="bulkspider-fetch", daemon=True).start()
    try:
        return await ended
    finally:
        if not stopped.is_set():
            call.stop()
            await asyncio.shield(stopped.wait())


class _Call:
    """One call of `fetch`. `stop` may be called in any thread."""

    def __init__(
        self,
        entries: Entries,
        output: str | os.PathLike[str],
        *,
        jobs: int,
        segments: int,
        settings: Mapping[str, Any] | None,
    ) -> None:
        if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
            raise ValueError(f"jobs={jobs!r}: a number from 1 on")
        if isinstance(segments, bool) or not isinstance(segments, int) or segments < 0:
            raise ValueError(f"segments={segments!r}: a number, 0 decides by itself")
        self._entries = entries
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._stopped = False
        here = os.getcwd()
        path = list_file(entries)
        self._is_list = path is not None
        self._head = {
            "list": path,
            "output": output_folder(output),
            "folder": here,
            "path": [os.path.abspath(part) if part else here for part in sys.path],
            "own": {
                "CONCURRENT_REQUESTS": jobs,
                "CONCURRENT_REQUESTS_PER_DOMAIN": jobs,
                "BULK_SEGMENTS": segments,
            },
            "settings": plain_settings(settings),
        }

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            if self._child is not None:
                self._child.stop()

    def run(self, tell: Tell | None) -> list[dict[str, Any]]:
        lines = iter(()) if self._is_list else rows(self._entries)  # type: ignore[arg-type]
        first = None if self._is_list else next(lines, None)
        if not self._is_list and first is None:
            return []
        with self._lock:
            child = self._child = Child()
            if self._stopped:
                child.stop()
        with child:
            child.send({**self._head, "progress": tell is not None}, _chain(first, lines))
            return _collect(child, tell)


def _collect(child: Child, tell: Tell | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for message in child.messages():
        if "row" in message:
            rows.append(message["row"])
        elif "progress" in message:
            if tell is not None:
                tell(message["progress"])
        elif "refused" in message:
            raise FetchError(message["refused"], [], 1)
        else:
            rows.sort(key=lambda row: int(row["line"]))
            if message["ended"] in (0, 5):
                return rows
            raise FetchError(_sentence(rows), rows, message["ended"])
    status = child.exit_status
    rows.sort(key=lambda row: int(row["line"]))
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    raise FetchError(f"the process of the crawl ended too soon ({how}); call again to go on", rows, 3)


def _sentence(rows: list[dict[str, Any]]) -> str:
    failed = [row for row in rows if row["status"] not in DONE]
    if not failed:
        return "the crawl was stopped before its end; call again to go on"
    told = [f"{row['name']}: {(row['error'] or {}).get('message', row['status'])}" for row in failed[:TOLD_FAILURES]]
    if len(failed) > len(told):
        told.append(f"and {len(failed) - len(told)} more")
    cures = dict.fromkeys(cure(row["error"]["code"]) for row in failed[:TOLD_FAILURES] if row["error"])
    cures.pop("", None)
    what = f". What to do: {'; '.join(cures)}" if cures else ""
    return f"{len(failed)} of {plural(len(rows), 'file', 'files')} not fetched: {'; '.join(told)}{what}"


def _chain(first: str | None, rows: Iterator[str]) -> Iterator[str]:
    if first is not None:
        yield first
    yield from rows


@contextmanager
def _telling(progress: Progress | None) -> Iterator[Tell | None]:
    """What is to be called with the numbers."""
    if progress is None or progress is False:
        yield None
    elif progress is True:
        with closing(Shown()) as shown:
            yield shown
    elif hasattr(progress, "update"):
        yield _advancing(cast(Bar, progress))
    elif callable(progress):
        yield progress
    else:
        raise TypeError(f"progress: True, a bar or a function, not {type(progress).__name__}")


def _advancing(bar: Bar) -> Tell:
    before = 0

    def advance(numbers: dict[str, Any]) -> None:
        nonlocal before
        if numbers["bytes_left"] is not None:
            bar.total = numbers["bytes_on_disk"] + numbers["bytes_left"]
        bar.update(numbers["bytes_on_disk"] - before)
        before = numbers["bytes_on_disk"]

    return advance
