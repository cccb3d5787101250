"""Grants: the header fields that BULK_AUTH gives for an origin, asked for once and renewed in time.

BULK_AUTH names a function of the user, `function(origin, refused)`, plain or async: it returns a dict of header fields
for that origin (`host:port`), with the key `expires_in` (seconds) if they expire, or None for an origin that needs
none. All who need the fields of one origin wait for one call (each token may be a session, and hosts count sessions).
It is called again before they expire, and with refused=True after the origin answered 401 to them. When it raises an
error or does not answer, this is like an outage of the origin: its entries wait and it is asked again later.
AuthRefused is permanent, so that a wrong password is not tried once for each of ten thousand entries; so is a return
value that does not fit, which is a mistake in the user's code.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from msgspec import Struct
from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.python.failure import Failure

from bulkspider.codes import Kind
from bulkspider.entries.fields import check_header
from bulkspider.entries.names import EntryError
from bulkspider.entries.urls import redact
from bulkspider.errors import AttemptError
from bulkspider.text import visible

if TYPE_CHECKING:
    from bulkspider.clock import Clock

# Fields are renewed so long before they expire, or a fifth of their life when that is less.
RENEW_BEFORE_SECONDS = 30.0
# After this many renewals because of a 401, each soon after the one before, the fields are not the reason: a host also
# answers 401 for files that the user may not have, and those must not cost a log-in each.
MOST_RENEWALS = 5
RENEWALS_APART_SECONDS = 10.0
# Fields are used at least this long, even if they have expired when they come: not one call for each request.
LEAST_SECONDS = 0.5
# A call that has not answered by then has failed.
CALL_SECONDS = 300.0

Function = Callable[[str, bool], Any]


class AuthRefused(Exception):
    """No credentials, permanently: for example, the user name or the password is wrong. The message is shown."""


class _NoAnswer(Exception):
    """What BULK_AUTH returned does not fit."""


class Grant(Struct, eq=False):
    """Header fields for one origin. since, renew_at: seconds of the run's clock. renewals: how many grants before this
    one were refused, each soon after the other. worked: the origin has answered with something else than 401."""

    fields: Mapping[str, str]
    since: float
    renew_at: float | None = None
    renewals: int = 0
    worked: bool = False


class Grants:
    """One per run. function: BULK_AUTH, None where there is none. in_thread: runs plain functions in a thread."""

    def __init__(self, function: Function | None, clock: Clock, in_thread: Callable[..., Deferred[Any]]) -> None:
        self._function = function
        self._clock = clock
        self._in_thread = in_thread
        self._known: dict[str, Grant | None] = {}
        self._refused: dict[str, AttemptError] = {}
        self._waiting: dict[str, list[Deferred[Grant | None]]] = {}

    def get(self, origin: str, refused: Grant | None = None) -> Deferred[Grant | None]:
        """The fields for an origin, None when it needs none. refused: those that it answered 401 to; they are returned
        again where new ones would not help. Fails with AttemptError; may be cancelled."""
        if self._function is None:
            return succeed(None)
        if origin in self._refused:
            return fail(self._refused[origin])
        now = self._clock.now()
        known = self._known.get(origin)
        if origin in self._known and origin not in self._waiting and not self._is_stale(known, refused, now):
            return succeed(known)
        wanted: Deferred[Grant | None] = Deferred(lambda gone: self._waiting.get(origin, []).remove(gone))
        if origin in self._waiting:
            self._waiting[origin].append(wanted)
        else:
            self._waiting[origin] = [wanted]
            asked = deferred_from_coro(self._ask(origin, now, known if known is refused else None))
            timer = self._clock.call_later(CALL_SECONDS, asked.cancel)
            asked.addBoth(self._answered, origin, timer)
        return wanted

    def _is_stale(self, known: Grant | None, refused: Grant | None, now: float) -> bool:
        if known is None:
            return False
        if known is refused:
            if now - known.since >= RENEWALS_APART_SECONDS or not known.renewals:
                return True
            return known.worked and known.renewals < MOST_RENEWALS
        return known.renew_at is not None and now >= known.renew_at

    async def _ask(self, origin: str, now: float, refused: Grant | None) -> Grant | None:
        assert self._function is not None
        answer = await self._call(self._function, origin, refused is not None)
        if answer is None:
            return None
        fields, life = _read(answer)
        renew_at = None
        if life is not None:
            renew_at = max(now + life - min(RENEW_BEFORE_SECONDS, life / 5), self._clock.now() + LEAST_SECONDS)
        renewals = 0
        if refused is not None:
            renewals = 1 + (refused.renewals if now - refused.since < RENEWALS_APART_SECONDS else 0)
        return Grant(fields, now, renew_at, renewals)

    async def _call(self, function: Function, origin: str, refused: bool) -> Any:
        called = function if inspect.isfunction(function) else type(function).__call__
        if inspect.iscoroutinefunction(called):
            return await function(origin, refused)

        def call() -> tuple[Any, Exception | None]:
            try:
                return function(origin, refused), None
            except Exception as error:  # of the user's code, not of the thread
                return None, error

        answer, error = await maybe_deferred_to_future(self._in_thread(call))
        if error is not None:
            raise error
        return await answer if inspect.isawaitable(answer) else answer

    def _answered(self, result: Grant | Failure | None, origin: str, timer: Any) -> None:
        timer.cancel()
        waiting = self._waiting.pop(origin)
        if isinstance(result, Failure):
            error = self._error(origin, cast(BaseException, result.value))
            for wanted in waiting:
                wanted.errback(error)
            return
        self._known[origin] = result
        for wanted in waiting:
            wanted.callback(result)

    def _error(self, origin: str, why: BaseException) -> AttemptError:
        told = visible(redact(str(why)))
        if isinstance(why, (AuthRefused, _NoAnswer)):
            error = AttemptError(f"no credentials for {origin} ({told})", code="auth", kind=Kind.PERMANENT)
            self._refused[origin] = error
            return error
        if isinstance(why, (CancelledError, asyncio.CancelledError)):
            told = f"BULK_AUTH has not answered for {CALL_SECONDS:.0f} s"
        else:
            told = f"{type(why).__name__}: {told}" if told else type(why).__name__
        return AttemptError(f"no credentials for {origin} ({told})", code="auth", origin_wide=True)


def _read(answer: object) -> tuple[dict[str, str], float | None]:
    """Header fields, and for how many seconds they are valid (None: not said), from what BULK_AUTH returned. Raises
    _NoAnswer, which shows no value: each may be a secret."""
    if not isinstance(answer, Mapping):
        raise _NoAnswer(f"BULK_AUTH returned {type(answer).__name__}; it is to return a dict of header fields, or None")
    fields = dict(answer)
    life = fields.pop("expires_in", None)
    for name, value in fields.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise _NoAnswer(
                f"BULK_AUTH returned {visible(str(name))!r} as {type(value).__name__}; header fields are str"
            )
        try:
            check_header(name, value)
        except EntryError as error:
            raise _NoAnswer(f"BULK_AUTH returned no valid header field: {error.what}") from error
    if life is None:
        return fields, None
    try:
        seconds = float(life)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise _NoAnswer("BULK_AUTH returned an expires_in that is no number of seconds")
    return fields, max(0.0, seconds)
