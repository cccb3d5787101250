"""What hosts say about their rate limits, end to end: they are asked again when they say so, and all files come."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping

from support.crawl import Bulk
from support.faults import as_if, first, status
from support.faulty import Behaviour, Exchange, FaultyOrigin, good, make_body

BODY = make_body(50_000)


def limited(fields: Callable[[int], Mapping[str, str]], each: int) -> Behaviour:
    """`each` requests a window; `fields` of how many remain. Who asks in between is refused."""
    state = {"left": each, "opens": 0.0}

    def answer(exchange: Exchange) -> None:
        now = time.monotonic()
        if state["left"] == 0 and now >= state["opens"]:
            state["left"] = each
        if state["left"] == 0:
            status(403)(exchange)
            return
        state["left"] -= 1
        if state["left"] == 0:
            state["opens"] = now + 0.9
        as_if(headers=tuple(fields(int(state["left"])).items()))(exchange)

    return answer


def refused(fields: Mapping[str, str], code: int) -> Behaviour:
    return first(2, status(code, dict(fields)), good)


WINDOWS: dict[str, Callable[[int], Mapping[str, str]]] = {
    "zenodo": lambda left: {"X-RateLimit-Remaining": str(left), "X-RateLimit-Reset": f"{math.ceil(time.time() + 1)}", "Retry-After": "1"},
    "seconds": lambda left: {"X-RateLimit-Remaining": str(left), "X-RateLimit-Reset": "1"},
    "draft": lambda left: {"RateLimit": f'"default";r={left};t=1', "RateLimit-Policy": '"default";q=3;w=1'},
}  # fmt: skip
REFUSALS: dict[str, tuple[Mapping[str, str], int]] = {
    "403": ({"Retry-After": "1"}, 403),
    "404": ({"Retry-After": "1"}, 404),
    "429": ({"RateLimit": '"default";r=0;t=1'}, 429),
    "420": ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1"}, 420),
}


def test_a_host_is_asked_again_when_it_says_so(tmp_path):
    bulk, entries, origins = Bulk(tmp_path), {}, {}
    with contextlib.ExitStack() as stack:
        for name, fields in WINDOWS.items():
            origins[name] = stack.enter_context(FaultyOrigin(default=limited(fields, 3), resource=BODY))
            entries |= {f"{name}-{number}.bin": origins[name].url(f"{number}.bin") for number in range(7)}
        for name, (fields, code) in REFUSALS.items():
            origins[name] = stack.enter_context(FaultyOrigin(default=refused(fields, code), resource=BODY))
            entries[f"{name}.bin"] = origins[name].url("a.bin")
        bulk.write_list(entries)
        settings = {"CONCURRENT_REQUESTS": "1", "BULK_ORIGIN_PATIENCE": "60", "BULK_RETRY_DELAY": "0.01"}
        ended = bulk.run(settings=settings)
        assert ended.status == 0, ended.log
        assert all(ended.file(name) == BODY for name in entries)
        for name in WINDOWS:
            assert [request.status for request in origins[name].requests] == [200] * 7
            assert "nothing remains of its rate limit; it is asked again in " in ended.log
        for name in REFUSALS:
            times = [request.time for request in origins[name].requests]
            assert len(times) == 3
            assert min(times[1] - times[0], times[2] - times[1]) >= 0.99
