"""How often BULK_AUTH is called, and how long it is waited for, by a clock that stands still."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed

from bulkspider.auth import grants as module
from bulkspider.auth.grants import CALL_SECONDS, Grants
from bulkspider.errors import AttemptError
from support.world.clock import EventClock

ORIGIN = "data.example.org:443"


@pytest.fixture(autouse=True)
def without_reactor(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Scrapy makes of a coroutine depends on the reactor, and here is none."""
    monkeypatch.setattr(module, "deferred_from_coro", Deferred.fromCoroutine)
    monkeypatch.setattr(module, "maybe_deferred_to_future", lambda deferred: deferred)


def test_fields_that_expire_at_once_are_not_asked_for_by_every_request() -> None:
    clock, calls = EventClock(), []

    def function(origin: str, refused: bool) -> dict[str, Any]:
        calls.append(clock.now())
        return {"X-Key": "a", "expires_in": 0}

    grants = Grants(function, clock, lambda call: succeed(call()))
    # A request every tenth of a second, for ten seconds.
    for _ in range(100):
        clock.call_later(0.1, lambda: None)
        clock.step(lambda: None)
        found: list[Any] = []
        grants.get(ORIGIN).addCallback(found.append)
        assert found[0].fields == {"X-Key": "a"}
    assert 10 <= len(calls) <= 21


def test_a_call_that_never_answers_fails_after_a_while_and_is_made_again() -> None:
    clock, hanging = EventClock(), []

    def never(call: Any) -> Deferred[Any]:
        hanging.append(Deferred())
        return hanging[-1]

    grants = Grants(lambda origin, refused: None, clock, never)
    found: list[Any] = []
    for number in (1, 2):
        for _ in range(2):  # both wait for one call
            grants.get(ORIGIN).addErrback(lambda failure: found.append(failure.value))
        assert len(hanging) == number
        while len(found) < 2 * number:
            assert clock.step(lambda: None)
        assert clock.now() == number * CALL_SECONDS
    assert all(isinstance(error, AttemptError) and not error.permanent for error in found)
    assert "BULK_AUTH has not answered for 300 s" in str(found[0])
