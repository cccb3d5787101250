"""The shared thread: bodies that trickle are visited by one thread, and leave it when they end or become fast."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from bulkspider.errors import BulkError, WorkerError
from bulkspider.protocol.plan import End
from bulkspider.pumps.sharedthread import OWN_THREADS, SharedThread

SOON_SECONDS = 30.0


class Threads:
    """As `bulkspider.pumps.threads.Threads`, without a reactor: what is wanted of a future is asked of it itself."""

    def __init__(self, refuses: bool = False) -> None:
        self.started = 0
        self.futures: list[Future[Any]] = []
        self._refuses = refuses

    def in_own_thread(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        deferred: Deferred[Any] = Deferred()
        if self._refuses:
            deferred.errback(Failure(WorkerError("no more threads", code="no_thread")))
        else:
            self.started += 1
            threading.Thread(target=function, args=args, daemon=True).start()
        return deferred

    def from_future(self, future: Future[Any]) -> Deferred[Any]:
        self.futures.append(future)
        return Deferred()


class Body:
    """Answers its visits in turn with these; an exception is raised."""

    def __init__(self, *answers: float | End | Exception | None) -> None:
        self._answers = list(answers)
        self.visited = threading.Semaphore(0)

    def visit(self) -> float | End | None:
        answer = self._answers.pop(0)
        self.visited.release()
        if isinstance(answer, Exception):
            raise answer
        return answer


def shared(threads: Threads) -> SharedThread:
    return SharedThread(cast(Any, threads))


def test_one_thread_visits_them_all_until_each_has_ended_or_is_fast() -> None:
    threads = Threads()
    some = shared(threads)
    for body in (Body(0.0, 0.01, End.FRAMED), Body(0.0, None), Body(End.LOST), Body(OSError("broken"))):
        some.enter(body)
    framed, fast, lost, broken = threads.futures
    assert framed.result(SOON_SECONDS) is End.FRAMED
    assert fast.result(SOON_SECONDS) is None
    assert lost.result(SOON_SECONDS) is End.LOST
    assert isinstance(broken.exception(SOON_SECONDS), BulkError)


def test_a_body_that_is_stopped_is_visited_at_once() -> None:
    threads = Threads()
    some = shared(threads)
    body, other = Body(3600.0, End.LOST), Body(3600.0, End.LOST)
    some.enter(body)
    some.enter(other)
    assert threads.started == 1
    for one in (body, other):
        assert one.visited.acquire(timeout=SOON_SECONDS)
    some.hurry(body)
    assert threads.futures[0].result(SOON_SECONDS) is End.LOST
    assert not threads.futures[1].done()
    some.hurry(body)  # it has left: nothing happens
    some.hurry(other)
    assert threads.futures[1].result(SOON_SECONDS) is End.LOST


def test_the_lane_begins_again_after_it_was_empty() -> None:
    threads = Threads()
    some = shared(threads)
    for number in range(3):
        some.enter(Body(End.FRAMED))
        assert threads.futures[number].result(SOON_SECONDS) is End.FRAMED


def test_without_a_thread_all_of_them_fail() -> None:
    threads = Threads(refuses=True)
    shared(threads).enter(Body())
    assert isinstance(threads.futures[0].exception(SOON_SECONDS), WorkerError)


@pytest.mark.parametrize(("stall_timeout", "seconds"), [(0.0, 1.25), (60.0, 1.25), (2.0, 0.5)])
def test_a_body_is_visited_several_times_before_it_counts_as_stalled(stall_timeout: float, seconds: float) -> None:
    assert SharedThread(cast(Any, Threads()), stall_timeout).visit_seconds == seconds


def test_new_bodies_begin_in_the_lane_when_there_are_many_threads() -> None:
    threads, ends = Threads(), threading.Event()
    some = shared(threads)
    for _ in range(OWN_THREADS):
        assert not some.takes_new_ones
        some.in_own_thread(ends.wait)
    assert some.takes_new_ones
    ends.set()
