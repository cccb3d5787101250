"""The wire at what only a long run shows."""

from __future__ import annotations

import pytest

from support.crawl import Bulk
from support.faulty import TRUST, FaultyOrigin, good, make_body


def test_thousands_of_answers_on_one_connection_leave_nothing_behind(bulk: Bulk) -> None:
    """Each answer is watched for how its connection closes; the watchers must not pile up on a connection."""
    names = [f"{number}.bin" for number in range(1500)]
    with FaultyOrigin(default=good, resource=b"x" * 10) as origin:
        bulk.write_list({name: origin.url(name) for name in names})
        ended = bulk.run(settings={"CONCURRENT_REQUESTS": "1"})
        assert ended.status == 0, ended.log
        assert origin.connections < 5
    assert len(ended.rows) == len(names)
    assert "RecursionError" not in ended.log


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_this_scrapy_and_twisted_give_their_sockets_away(bulk: Bulk, tls: bool) -> None:
    """The contract with the private names: a moved body's connection is not used again, and nothing is warned of."""
    body = make_body(5 * 1024 * 1024)
    with FaultyOrigin(default=good, resource=body, tls=tls) as origin:
        bulk.write_list({name: origin.url(name) for name in ("a.bin", "b.bin")})
        ended = bulk.run(settings={"CONCURRENT_REQUESTS": "1", **TRUST})
        assert ended.status == 0, ended.log
        assert origin.connections == len(origin.requests) == 2
    assert "lend" not in ended.log
    assert ended.file("a.bin") == ended.file("b.bin") == body
