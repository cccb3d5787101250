"""What answers say about rate limits, as hosts really write it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkspider.hosts.limits import seconds_to_wait

NOW = 1_800_000_000.0

CASES = [
    # A success says nothing before nothing remains.
    (200, {}, None),
    (200, {"retry-after": "60"}, None),
    (200, {"x-ratelimit-remaining": "1", "x-ratelimit-reset": "1800000060", "retry-after": "60"}, None),
    (200, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1800000060"}, 60),
    (206, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1800000060000"}, 60),
    (200, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "17"}, 17),
    (200, {"x-ratelimit-remaining": "0, 0", "x-ratelimit-reset": "17, 17"}, 17),
    (200, {"x-ratelimit-remaining": "0", "x-ratelimit-reset-after": "0.5"}, 0.5),
    (200, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1799999990"}, 0),
    (200, {"x-ratelimit-remaining": "0", "retry-after": "9"}, 9),
    (200, {"x-ratelimit-remaining": "0"}, None),
    (302, {"ratelimit": '"resolvers";r=0;t=55', "ratelimit-policy": '"resolvers";q=3000;w=300'}, 55),
    (302, {"ratelimit": '"resolvers";r=0', "ratelimit-policy": '"resolvers";q=3000;w=300'}, 300),
    (200, {"ratelimit": '"hour";r=10;t=1000, "minute";r=0;t=7'}, 7),
    (200, {"ratelimit": '"hour";r=0;t=1000, "minute";r=0;t=7'}, 1000),
    (200, {"ratelimit": '"hour";r=10;t=1000'}, None),
    (200, {"ratelimit": "limit=100, remaining=0, reset=50"}, 50),
    (200, {"ratelimit-limit": "100", "ratelimit-remaining": "0", "ratelimit-reset": "50"}, 50),
    # A refusal.
    (429, {"retry-after": "3"}, 3),
    (429, {"retry-after": "3", "x-ratelimit-remaining": "5", "x-ratelimit-reset": "40"}, 3),
    (403, {"retry-after": "3"}, 3),
    (403, {"retry-after": "3", "x-ratelimit-remaining": "5", "x-ratelimit-reset": "40"}, None),
    (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "40"}, 40),
    (404, {"retry-after": "60", "x-ratelimit-remaining": "59"}, None),
    (503, {"ratelimit": '"a";r=0;t=5'}, 5),
    (429, {"x-ratelimit-remaining": "0"}, None),
    (202, {"retry-after": "30"}, 30),
    # What nobody can read.
    (200, {"ratelimit": ";;;", "x-ratelimit-remaining": "none"}, None),
    (429, {"retry-after": "soon", "ratelimit": '"a";r=?;t=5'}, None),
    (200, {"ratelimit": '("a" "b");r=0;t=5'}, None),
    (200, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "-5"}, None),
    (200, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "nan"}, None),
    (200, {"x-ratelimit-remaining": "9" * 400, "x-ratelimit-reset": "5"}, None),
]


@pytest.mark.parametrize(("status", "fields", "seconds"), CASES)
def test_how_long_the_host_wants_to_be_left_alone(status: int, fields: dict[str, str], seconds: float | None) -> None:
    assert seconds_to_wait(status, fields, NOW) == seconds


NAMES = [
    "retry-after",
    "ratelimit",
    "ratelimit-policy",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "ratelimit-reset",
]


@given(st.integers(200, 599), st.dictionaries(st.sampled_from(NAMES), st.text(max_size=30)))
def test_nothing_that_a_host_writes_is_an_error(status: int, fields: dict[str, str]) -> None:
    seconds = seconds_to_wait(status, fields, NOW)
    assert seconds is None or seconds >= 0
