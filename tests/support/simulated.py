"""A clock that only moves when it is told to, and downloads without a disk: what the engine's tests share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from twisted.internet import task

from bulkspider.entries.entry import Entry
from bulkspider.hosts.budget import Budget
from bulkspider.protocol.byteranges import ByteRange
from bulkspider.protocol.plan import PartState
from bulkspider.run.download import Attempt, Download
from bulkspider.run.origins.origin import Place


class Timer:
    """`cancel()` may be called at any time."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def cancel(self) -> None:
        if self._call.active():
            self._call.cancel()


class SimulatedClock:
    def __init__(self) -> None:
        self._clock = task.Clock()

    def now(self) -> float:
        return cast(float, self._clock.seconds())

    def call_later(self, seconds: float, function: Any, *args: Any) -> Timer:
        return Timer(self._clock.callLater(seconds, function, *args))

    def advance(self, seconds: float) -> None:
        self._clock.advance(seconds)


def entry(name: str, host: str = "a.example", **fields: Any) -> Entry:
    return Entry(line=1, name=name, url=f"https://{host}/{name}", **fields)


def download(name: str, host: str = "a.example", *, total: int | None = None, remaining: int = 0) -> Download:
    """An entry under way, with a part that nothing is written to."""
    one = entry(name, host)
    part = SimpleNamespace(state=PartState(total=total), unwritten=remaining, checkpoints=SimpleNamespace())
    folder = SimpleNamespace(place=lambda name: f"/out/{name}")
    return Download(
        entry=one,
        folder=cast(Any, folder),
        part=cast(Any, part),
        budget=Budget(),
        policy="auto",
        url=one.url,
        mirrors=list(one.mirrors),
    )


def run_attempt(one: Download, place: Place, byterange: ByteRange | None = None) -> Attempt:
    """One more attempt of a download is under way."""
    attempt = Attempt(one, one.numbered, place, byterange or ByteRange(), further=byterange is not None)
    one.running[attempt.number] = attempt
    one.numbered += 1
    return attempt
