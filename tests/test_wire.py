"""The wire at what only a long run shows."""

from __future__ import annotations

from conftest import Bulk
from faulty import FaultyOrigin, good


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
