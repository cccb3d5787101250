"""Rate limits of hosts: what an answer says about when its host may be asked again.

Three families are read: Retry-After (RFC 9110 §10.2.3; seconds or a date), the fields of the IETF draft "RateLimit
header fields for HTTP" (structured fields, and their forms before draft 8), and X-RateLimit-*, where a reset is a time
or a number of seconds. They may come with successes, too; there they matter only when no request remains. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bulkspider.protocol.plan import http_date

# With these statuses a Retry-After counts, whatever else the answer states.
LATER_STATUSES = (202, 429, 503)
# From here on an answer is a refusal (RFC 9110 §15.5).
FIRST_REFUSAL_STATUS = 400
# From the first of these on, an X-RateLimit-Reset is a time in seconds since 1970; from the second on, in milliseconds.
EPOCH_FROM_SECONDS = 1_000_000_000
EPOCH_FROM_MILLISECONDS = 100_000_000_000

_PREFIXES = ("ratelimit-", "x-ratelimit-", "x-rate-limit-")
_FIELDS = frozenset(["retry-after", "ratelimit", *(f"{prefix}remaining" for prefix in _PREFIXES)])


def seconds_to_wait(status: int, fields: Mapping[str, str], wall_clock: float) -> float | None:
    """How many seconds the host asks us to wait after this answer; None where it does not ask.

    fields: lower-case names. wall_clock: seconds since 1970.
    """
    if _FIELDS.isdisjoint(fields):
        return None
    remains, reset = _remaining(fields, wall_clock)
    retry_after = parse_retry_after(fields.get("retry-after"), wall_clock)
    if status >= FIRST_REFUSAL_STATUS or status in LATER_STATUSES:
        # Some hosts send a Retry-After with each answer: a refusal while requests remain has another reason.
        if retry_after is not None and (not remains or status in LATER_STATUSES):
            return retry_after
        return reset
    if remains is None or remains > 0:
        return None
    return reset if reset is not None else retry_after


def parse_retry_after(text: str | None, wall_clock: float) -> float | None:
    """Seconds to wait from a Retry-After of either form (RFC 9110 §10.2.3); None when absent or malformed."""
    if not text:
        return None
    text = text.strip()
    if text.isdecimal():
        return float(text)
    date = http_date(text)
    return None if date is None else max(0.0, date - wall_clock)


def _remaining(fields: Mapping[str, str], wall_clock: float) -> tuple[int | None, float | None]:
    """(how many requests remain, None if not stated; if none, the seconds until there are some again)."""
    found = [*_structured(fields), *_separate(fields, wall_clock)]
    if not found:
        return None, None
    if remains := min(remaining for remaining, _ in found):
        return max(0, remains), None
    return 0, max((reset for remaining, reset in found if remaining <= 0 and reset is not None), default=None)


def _structured(fields: Mapping[str, str]) -> list[tuple[int, float | None]]:
    """RateLimit: `"policy";r=0;t=55, …` (draft 8 and later), or `limit=9, remaining=0, reset=55` (draft 7)."""
    found: list[tuple[int, float | None]] = []
    windows = {name: _number(parameters.get("w")) for name, parameters in _items(fields.get("ratelimit-policy", ""))}
    for name, parameters in _items(fields.get("ratelimit", "")):
        remaining, reset = _number(parameters.get("r")), _number(parameters.get("t"))
        if reset is None:
            reset = windows.get(name)
        if remaining is not None:
            found.append((int(remaining), reset))
    if not found:
        members = _parse(fields.get("ratelimit", ""), "dictionary") or {}
        remaining, reset = (_number(members[key][0]) if key in members else None for key in ("remaining", "reset"))
        if remaining is not None:
            found.append((int(remaining), reset))
    return found


def _separate(fields: Mapping[str, str], wall_clock: float) -> list[tuple[int, float | None]]:
    """X-RateLimit-Remaining and -Reset; RateLimit-Remaining and -Reset of the drafts before 7."""
    found: list[tuple[int, float | None]] = []
    for prefix in _PREFIXES:
        remaining = _number(fields.get(f"{prefix}remaining"))
        if remaining is None:
            continue
        reset = _number(fields.get(f"{prefix}reset-after"))
        if (
            reset is None
            and (reset := _number(fields.get(f"{prefix}reset"))) is not None
            and reset >= EPOCH_FROM_SECONDS
        ):
            reset = max(0.0, (reset / 1000 if reset >= EPOCH_FROM_MILLISECONDS else reset) - wall_clock)
        found.append((int(remaining), reset))
    return found


def _items(text: str) -> list[tuple[Any, dict[str, Any]]]:
    members = _parse(text, "list") or []
    # An inner list has no name.
    return [(name, dict(parameters)) for name, parameters in members if not isinstance(name, list)]


def _parse(text: str, kind: str) -> Any:
    if not text:
        return None
    import http_sf  # costs every start some milliseconds, and few origins send such fields

    try:
        return http_sf.parse(text.encode("ascii", "replace"), tltype=kind)
    except ValueError:
        return None  # RFC 9651 §4.2: a field that does not parse is ignored as a whole


def _number(value: Any) -> float | None:
    """The first number of a field, which may have been sent twice or have parameters. None without a number."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        value = value.split(",")[0].split(";")[0].strip()
        if len(value) > 20:
            return None
    try:
        number = float(value)
    except (ValueError, TypeError):
        return None
    return number if 0 <= number < float("inf") else None
