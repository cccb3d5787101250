"""Visits: a few threads visit all bodies, when their sockets have bytes or their time has come, until each has ended."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from bulkspider.errors import BulkError, WorkerError
from bulkspider.protocol.plan import End
from bulkspider.pumps.visits import READY_THREADS, Visits

SOON_SECONDS = 30.0
LATER = 3600.0


class Threads:
    """As `bulkspider.pumps.threads.Threads`, without a reactor: what is wanted of a future is asked of it itself.
    after: so many threads can be started."""

    def __init__(self, after: int = 1000) -> None:
        self.started: list[threading.Thread] = []
        self.futures: list[Future[Any]] = []
        self._after = after

    def in_own_thread(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        deferred: Deferred[Any] = Deferred()
        if len(self.started) >= self._after:
            deferred.errback(Failure(WorkerError("no more threads", code="no_thread")))
        else:
            self.started.append(threading.Thread(target=function, args=args, daemon=True))
            self.started[-1].start()
        return deferred

    def from_future(self, future: Future[Any]) -> Deferred[Any]:
        self.futures.append(future)
        return Deferred()

    def join(self) -> None:
        for thread in self.started:
            thread.join(SOON_SECONDS)
            assert not thread.is_alive()


Answer = float | End | Exception | threading.Event | None


class Body:
    """Answers its visits in turn with these; an exception is raised, an event is waited for. Its peer is `other`."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self._socket, self.other = socket.socketpair()
        self.duplicate = self._socket.dup()  # as Twisted's
        self.visited = threading.Semaphore(0)
        self.released = 0
        self._inside = threading.Lock()

    def fileno(self) -> int:
        return self._socket.fileno()

    def visit(self) -> float | End | None:
        assert self._inside.acquire(blocking=False), "two threads at once"
        try:
            with contextlib.suppress(BlockingIOError):
                self._socket.recv(1, socket.MSG_DONTWAIT)
            answer = self._answers.pop(0)
            self.visited.release()
            if isinstance(answer, threading.Event):
                assert answer.wait(SOON_SECONDS)
                return None
            if isinstance(answer, Exception):
                raise answer
            return answer
        finally:
            self._inside.release()

    def release(self) -> None:
        self.released += 1
        self._socket.close()

    def was_visited(self) -> bool:
        return self.visited.acquire(timeout=SOON_SECONDS)


@pytest.fixture
def bodies() -> Iterator[Callable[..., Body]]:
    made: list[Body] = []

    def make(*answers: Answer) -> Body:
        made.append(Body(*answers))
        return made[-1]

    yield make
    for body in made:
        body.other.close()
        body.duplicate.close()
        assert body.released == 1


Make = Callable[..., Body]


def test_each_body_is_visited_until_it_has_ended(bodies: Make) -> None:
    threads = Threads()
    visits = Visits(cast(Any, threads))
    for body in (bodies(0.0, 0.01, End.FRAMED), bodies(0.0, 0.0, End.LOST), bodies(OSError("broken"))):
        visits.enter(body)
    framed, lost, broken = threads.futures
    assert framed.result(SOON_SECONDS) is End.FRAMED
    assert lost.result(SOON_SECONDS) is End.LOST
    assert isinstance(broken.exception(SOON_SECONDS), BulkError)
    threads.join()


def test_a_body_is_visited_when_its_socket_has_bytes(bodies: Make) -> None:
    threads = Threads()
    visits = Visits(cast(Any, threads))
    body, other = bodies(None, None, End.FRAMED), bodies(None, End.LOST)
    for one in (body, other):
        visits.enter(one)
        assert one.was_visited()
    body.other.send(b"a")
    assert body.was_visited()
    body.other.send(b"b")
    assert threads.futures[0].result(SOON_SECONDS) is End.FRAMED
    assert not threads.futures[1].done()
    other.other.close()
    assert threads.futures[1].result(SOON_SECONDS) is End.LOST
    threads.join()


def test_a_body_that_is_hurried_is_visited_at_once(bodies: Make) -> None:
    threads = Threads()
    visits = Visits(cast(Any, threads))
    timed, waits, other = bodies(LATER, End.LOST), bodies(None, End.LOST), bodies(LATER, End.LOST)
    for one in (timed, waits, other):
        visits.enter(one)
        assert one.was_visited()
    for number, one in enumerate((timed, waits)):
        visits.hurry(one)
        assert threads.futures[number].result(SOON_SECONDS) is End.LOST
        visits.hurry(one)  # it has left: nothing happens
    assert not threads.futures[2].done()
    visits.hurry(other)
    assert threads.futures[2].result(SOON_SECONDS) is End.LOST
    threads.join()


def test_a_body_that_is_hurried_during_a_visit_is_visited_once_more(bodies: Make) -> None:
    threads, goes_on = Threads(), threading.Event()
    visits = Visits(cast(Any, threads))
    body = bodies(goes_on, End.LOST)
    visits.enter(body)
    assert body.was_visited()
    visits.hurry(body)
    goes_on.set()
    assert threads.futures[0].result(SOON_SECONDS) is End.LOST
    threads.join()


def test_it_begins_again_after_there_was_no_body_and_leaves_no_descriptor(bodies: Make) -> None:
    threads = Threads()
    visits = Visits(cast(Any, threads))
    made = [bodies(0.001, End.FRAMED) for _ in range(4)]
    before = len(os.listdir("/dev/fd"))
    for number, body in enumerate(made):
        visits.enter(body)
        assert threads.futures[number].result(SOON_SECONDS) is End.FRAMED
    threads.join()
    assert len(os.listdir("/dev/fd")) == before - len(made)


def test_a_few_threads_visit_many_bodies_and_those_that_hang_keep_no_other_from_being_visited(bodies: Make) -> None:
    threads, goes_on = Threads(), threading.Event()
    visits = Visits(cast(Any, threads))
    hung = [bodies(goes_on, End.LOST) for _ in range(READY_THREADS - 1)]
    for body in hung:
        visits.enter(body)
        assert body.was_visited()
    for _ in range(20):
        visits.enter(bodies(0.0, 0.01, End.FRAMED))
    for future in threads.futures[len(hung) :]:
        assert future.result(SOON_SECONDS) is End.FRAMED
    assert len(threads.started) == READY_THREADS + 1  # and one for those that are slow
    for body in hung:
        visits.hurry(body)
    goes_on.set()
    for future in threads.futures[: len(hung)]:
        assert future.result(SOON_SECONDS) is End.LOST
    threads.join()


def test_it_is_known_that_all_threads_hang(bodies: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    threads, goes_on = Threads(), threading.Event()
    visits = Visits(cast(Any, threads))
    hung = [bodies(goes_on, End.LOST) for _ in range(READY_THREADS)]
    for body in hung:
        visits.enter(body)
        assert body.was_visited()
    assert not visits.hang, "they have not been visited for long"
    monkeypatch.setattr("bulkspider.pumps.visits.LONG_VISIT_SECONDS", 0.0)
    assert visits.hang
    for body in hung:
        visits.hurry(body)
    goes_on.set()
    for future in threads.futures:
        assert future.result(SOON_SECONDS) is End.LOST
    assert not visits.hang
    threads.join()


@pytest.mark.parametrize("after", [0, 1])
def test_without_a_thread_all_of_them_fail(bodies: Make, after: int) -> None:
    threads = Threads(after)
    visits = Visits(cast(Any, threads))
    visits.enter(bodies())
    assert isinstance(threads.futures[0].exception(SOON_SECONDS), WorkerError)
    threads.join()


def test_where_one_thread_can_be_started_it_does_the_work_of_all(bodies: Make) -> None:
    threads = Threads(after=2)
    visits = Visits(cast(Any, threads))
    made = [bodies(None, 0.001, End.LOST) for _ in range(READY_THREADS + 2)]
    for body in made:
        visits.enter(body)
        assert body.was_visited()
    # Not before all have entered: the two threads would end with the last body, and no others can be started.
    for body in made:
        body.other.send(b"a")
    for future in threads.futures:
        assert future.result(SOON_SECONDS) is End.LOST
    assert len(threads.started) == 2
    threads.join()


@pytest.mark.parametrize(("stall_timeout", "seconds"), [(0.0, 1.25), (60.0, 1.25), (2.0, 0.5)])
def test_a_body_is_visited_several_times_before_it_counts_as_stalled(stall_timeout: float, seconds: float) -> None:
    assert Visits(cast(Any, Threads()), stall_timeout).visit_seconds == seconds
