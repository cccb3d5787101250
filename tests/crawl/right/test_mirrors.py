"""Mirrors: they take over where another one ended, and another file is never mixed in."""

from __future__ import annotations

import pytest

from support.crawl import Bulk, Ended, sha256
from support.faults import (
    as_if,
    cut_after,
    in_turn,
    status,
)
from support.faulty import FaultyOrigin, good, make_body

BODY = make_body(300_000)
OTHER = make_body(300_000, "another file")
HELD = 200_000
OVERLAP = 64 * 1024


def codes(ended: Ended) -> dict[str, str | None]:
    return {row["name"]: row["error"] and row["error"]["code"] for row in ended.rows}


def test_mirrors_take_over_where_the_first_one_ended_when_size_and_overlap_agree(bulk: Bulk) -> None:
    with (
        FaultyOrigin({"a.bin": in_turn(cut_after(HELD), status(404))}, resource=BODY) as first,
        FaultyOrigin({"a.bin": status(404)}) as second,
        FaultyOrigin({"a.bin": as_if(etag='"of-the-mirror"', last_modified=None)}, resource=BODY) as third,
    ):
        bulk.write_list([f"a.bin {first.url('a.bin')} mirror={second.url('a.bin')} mirror={third.url('a.bin')}"])
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY
        assert (len(first.requests), len(second.requests)) == (2, 1)
        (taken,) = third.requests
        assert taken.range == (HELD - OVERLAP, None)
        assert "if-range" not in taken.headers, "a validator is its own server's"
        assert ended.row("a.bin")["final_url"] == third.url("a.bin")
        assert ended.row("a.bin")["status"] == "complete"
        assert bulk.run().rows[0]["already"]


@pytest.mark.parametrize("other", [OTHER, make_body(400_000, "longer"), make_body(250_000, "shorter")], ids=len)
def test_a_mirror_with_another_file_is_never_mixed_in(bulk: Bulk, other: bytes) -> None:
    with (
        FaultyOrigin({"a.bin": in_turn(cut_after(HELD), status(404)), "b.bin": in_turn(cut_after(HELD), status(404))}, resource=BODY) as first,
        FaultyOrigin(default=as_if(etag=None), resource=other) as second,
    ):  # fmt: skip
        mirrored = "{0} {1} mirror={2}"
        lines = [mirrored.format(name, first.url(name), second.url(name)) for name in ("a.bin", "b.bin")]
        bulk.write_list([lines[0], f"{lines[1]} sha256={sha256(BODY)}"])
        ended = bulk.run()
        assert ended.status in (3, 4), ended.log
        # Whatever else: whole, of one version; and where a hash is known, that version or nothing.
        if (bulk.output / "a.bin").exists():
            assert ended.file("a.bin") == other
        assert not (bulk.output / "b.bin").exists()
        assert ended.row("b.bin")["status"] == "failed"
        assert len(second.requests) <= 8


def test_a_mirror_of_another_size_than_the_list_says_is_refused(bulk: Bulk) -> None:
    with (
        FaultyOrigin({"a.bin": in_turn(cut_after(HELD), status(404))}, resource=BODY) as first,
        FaultyOrigin(default=good, resource=make_body(400_000, "longer")) as second,
    ):
        bulk.write_list([f"a.bin {first.url('a.bin')} size=300000 mirror={second.url('a.bin')}"])
        ended = bulk.run()
        assert ended.status in (3, 4), ended.log
        assert codes(ended)["a.bin"] in ("size_mismatch", "http_404")
        assert (bulk.output / "a.bin.part").read_bytes() == BODY[:HELD]
        assert len(second.requests) <= 2


def test_a_mirror_stands_in_for_an_origin_that_is_down(bulk: Bulk) -> None:
    with FaultyOrigin() as gone, FaultyOrigin(default=good, resource=BODY) as mirror:
        gone.down()
        names = [f"{n}.bin" for n in range(4)]
        bulk.write_list([f"{name} {gone.url(name)} mirror={mirror.url(name)}" for name in names])
        ended = bulk.run(settings={"BULK_ORIGIN_PATIENCE": "1"})
        assert ended.status == 0, ended.log
        assert all(ended.file(name) == BODY for name in names)
        assert len(mirror.requests) == 4
