"""Killed at any instant, cut from power: what has a final name is right, and the next run fetches only what is missing.

`kill -9` takes the process and leaves the page cache; a power cut takes that as well. The short form of the kill test
runs always, the long one with `pytest --long`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from support.crawl import Bulk, kill
from support.faults import stall_after, trickle
from support.faulty import FaultyOrigin, good, make_body
from support.ondisk import state_of, wait_for

KIB = 1024
MIB = 1024 * KIB
OVERLAP = 64 * KIB
# A part that was killed before its first state is met as a foreign one: its head, its tail and samples between are compared.
SAMPLES = 5 * 64 * KIB


@pytest.mark.timeout(900)
@pytest.mark.parametrize("segments", [1, 8])
def test_killed_at_any_instant(bulk: Bulk, pytestconfig: pytest.Config, segments: int) -> None:
    files, kills, size, rate = (
        (20, 50, 8_000_000, 500_000) if pytestconfig.getoption("--long") else (6, 8, 3_000_000, 750_000)
    )
    rate //= segments
    together = {
        "CONCURRENT_REQUESTS": str(100 * segments),
        "CONCURRENT_REQUESTS_PER_DOMAIN": str(files * segments),
        "BULK_SEGMENTS": str(segments),
        "BULK_SEGMENT_MIN": "256K",
    }
    chance = random.Random(3)
    bodies = {f"{number}.bin": make_body(size + 1_000 * number, f"file {number}") for number in range(files)}
    with FaultyOrigin({name: (trickle(rate), body) for name, body in bodies.items()}) as origin:
        bulk.write_list({name: origin.url(name) for name in bodies})

        def sent() -> int:
            return sum(request.bytes_sent for request in list(origin.requests))

        def named() -> list[str]:
            return [name for name in bodies if (bulk.output / name).exists()]

        killed = 0
        for number in range(kills):
            process = bulk.start(settings=together)
            before, finished = sent(), len(named())
            # Some before the first byte, most within the bodies, some at the moment at which a file gets its name.
            enough = 0 if number % 8 == 7 else chance.randrange(int(1.5 * files * size / kills))
            wait_for(
                lambda process=process, before=before, finished=finished, enough=enough: (
                    process.poll() is not None or sent() - before >= enough or len(named()) > finished
                )
            )
            killed += process.poll() is None
            kill(process)
            assert process.stdout is not None
            process.stdout.close()
            for name in named():
                assert (bulk.output / name).read_bytes() == bodies[name], f"kill {number}: {name} is wrong"
        assert killed >= kills // 2
        done, asked = named(), len(origin.requests)
        ended = bulk.run(settings=together)
        assert ended.status == 0, ended.log
        assert all(ended.file(name) == body for name, body in bodies.items())
        assert sorted(path.name for path in bulk.output.iterdir()) == sorted([*bodies, ".bulkspider"])
        # What had its name may have missed its ledger line by a moment: then it is compared, not fetched again.
        again = [request for request in origin.requests[asked:] if request.path.removeprefix("/") in done]
        assert sum(request.bytes_sent for request in again) <= len(done) * (SAMPLES + OVERLAP)
        # In memory, and in the sockets, is a second at most of each transfer; every join is compared.
        lost = segments * (rate + 3 * OVERLAP) + SAMPLES
        total = sum(map(len, bodies.values()))
        print(f"{killed} kills: {sent() - total:,} bytes sent twice, of {total:,}")
        assert sent() - total <= (killed + 1) * files * lost


def zeroed(part: Path, durable: int) -> None:
    """The blocks were allocated, their bytes were not written."""
    data = part.read_bytes()
    part.write_bytes(data[:durable] + bytes(len(data) - durable))


def scrambled(part: Path, durable: int) -> None:
    data = part.read_bytes()
    part.write_bytes(data[:durable] + random.Random(4).randbytes(len(data) - durable))


def truncated(part: Path, durable: int) -> None:
    part.write_bytes(part.read_bytes()[:durable])


def truncated_between(part: Path, durable: int) -> None:
    """Longer than what is durable, and what is beyond is no good."""
    data = part.read_bytes()
    part.write_bytes(data[:durable] + bytes((len(data) - durable) // 2))


@pytest.mark.parametrize("damage", [zeroed, scrambled, truncated, truncated_between])
def test_a_power_cut_costs_what_was_not_durable(bulk: Bulk, damage: Callable[[Path, int], None]) -> None:
    """Another boot id: only `durable` counts. Everything after the last durable mark is lost here."""
    body = make_body(4 * MIB)
    held = 3 * MIB + 100_000
    with FaultyOrigin({"a.bin": stall_after(held)}, resource=body) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        process = bulk.start(settings={"BULK_CHECKPOINT": "1M", "BULK_STALL_TIMEOUT": "60"})
        part = bulk.output / "a.bin.part"
        wait_for(lambda: part.exists() and part.stat().st_size == held)
        wait_for(lambda: (bulk.output / "a.bin.part.json").exists() and bool(state_of(bulk, "a.bin")["durable"]))
        kill(process)
        assert process.stdout is not None
        process.stdout.close()
        state = state_of(bulk, "a.bin")
        ((first, durable),) = state["durable"]
        assert first == 0
        assert MIB <= durable <= held
        assert part.read_bytes()[:durable] == body[:durable]
        (bulk.output / "a.bin.part.json").write_text(json.dumps({**state, "boot": "another boot"}))
        damage(part, durable)
        before = len(origin.requests)
        origin.add("a.bin", good)
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == body
        assert ended.row("a.bin")["resumed_from"] == durable
        assert ended.row("a.bin")["bytes_received"] <= len(body) - durable + OVERLAP
        assert len(origin.requests) - before == 1


def test_a_kill_costs_nothing_that_the_state_knows(bulk: Bulk) -> None:
    """The same boot: what reached the page cache is there, durable or not."""
    body = make_body(4 * MIB)
    held = 3 * MIB + 100_000
    with FaultyOrigin({"a.bin": stall_after(held)}, resource=body) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        process = bulk.start(settings={"BULK_CHECKPOINT": "1M", "BULK_STALL_TIMEOUT": "60"})
        part = bulk.output / "a.bin.part"
        wait_for(lambda: part.exists() and part.stat().st_size == held)
        wait_for(lambda: (bulk.output / "a.bin.part.json").exists() and bool(state_of(bulk, "a.bin")["written"]))
        kill(process)
        assert process.stdout is not None
        process.stdout.close()
        ((_, written),) = state_of(bulk, "a.bin")["written"]
        origin.add("a.bin", good)
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == body
        assert ended.row("a.bin")["resumed_from"] == written
        assert ended.row("a.bin")["bytes_received"] <= len(body) - written + OVERLAP


@pytest.mark.parametrize("state", ["", "{", "[]", '{"key": 7}', '{"version": 1, "written": "all"}'])
def test_a_state_that_cannot_be_read_is_no_state(bulk: Bulk, state: str) -> None:
    """The part is then a foreign one: compared with the origin before a byte of it counts."""
    body = make_body(4 * MIB)
    with FaultyOrigin({"a.bin": good}, resource=body) as origin:
        bulk.output.mkdir()
        (bulk.output / "a.bin.part").write_bytes(make_body(3 * MIB, "something else"))
        (bulk.output / "a.bin.part.json").write_text(state)
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == body
        assert len(origin.requests) <= 6
