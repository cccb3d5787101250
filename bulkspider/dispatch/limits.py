"""Limits: how many requests Scrapy has in hand at once, in all and in one slot, read from its settings and checked.

Scrapy itself takes any number. With one that lets no request begin, a crawl would wait for ever without a word: a slot
of `concurrency` 0 or less never transfers anything (in every release up to 2.19, for CONCURRENT_REQUESTS_PER_DOMAIN as
for DOWNLOAD_SLOTS), and CONCURRENT_REQUESTS=0 means no limit only since 2.18. So such values are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scrapy.settings import BaseSettings

from bulkspider.errors import UsageError
from bulkspider.wire.compat import ZERO_IS_NO_LIMIT

TOTAL = "CONCURRENT_REQUESTS"
PER_DOMAIN = "CONCURRENT_REQUESTS_PER_DOMAIN"
PER_IP = "CONCURRENT_REQUESTS_PER_IP"
SLOTS = "DOWNLOAD_SLOTS"


@dataclass(frozen=True, slots=True)
class Limits:
    """total: requests in all, 0 for no limit. per_slot: in one slot that is not named in `slots`. named: slots of which
    DOWNLOAD_SLOTS says something."""

    total: int
    per_slot: int
    slots: Mapping[str, int]
    named: frozenset[str] = frozenset()

    @classmethod
    def of(cls, settings: BaseSettings) -> Limits:
        """Raises UsageError for a value with which nothing would ever begin."""
        total = _number(TOTAL, settings.get(TOTAL), least=0 if ZERO_IS_NO_LIMIT else 1)
        # It wins over the limit of a domain, where it is not 0 (deprecated).
        per_ip = _number(PER_IP, settings.get(PER_IP) or 0, least=0)
        per_slot = per_ip or _number(PER_DOMAIN, settings.get(PER_DOMAIN), least=1)
        try:
            named = settings.getdict(SLOTS)
            slots = {
                name: _number(f"{SLOTS}: concurrency of {name}", values["concurrency"], least=1)
                for name, values in named.items()
                if "concurrency" in values
            }
        except (ValueError, TypeError) as error:
            raise UsageError(
                f'setting {SLOTS}: not understood; write for example {{"example.org": {{"concurrency": 2}}}}'
            ) from error
        return cls(total, per_slot, slots, frozenset(named))


def _number(name: str, value: object, *, least: int) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = least - 1
    if number < least:
        what = "no request would ever begin" if str(value).strip().lstrip("-").isdecimal() else "not a whole number"
        zero = "; 0 is no limit" if least == 0 else ""
        raise UsageError(f"setting {name}={value}: {what}; say a number from {max(least, 1)} on{zero}")
    return number
