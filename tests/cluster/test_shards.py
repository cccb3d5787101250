"""Shards: one list divided among runs that know nothing of each other."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkspider.errors import UsageError
from bulkspider.lists.checking.shards import Shard
from bulkspider.lists.opening import check_list
from bulkspider.spiders.arguments.prepare import prepare
from support.crawl import Bulk
from support.faulty import FaultyOrigin, good, make_body
from support.holding import Holds
from support.shell import Shell


@pytest.mark.parametrize(("text", "number", "of"), [("3/16", 3, 16), ("0/16", 16, 16), (" 1 / 1 ", 1, 1)])
def test_numbers_may_be_counted_from_0_or_from_1(text: str, number: int, of: int) -> None:
    shard = Shard.parse(text)
    assert (shard.number, shard.of) == (number, of)


@pytest.mark.parametrize("text", ["", "3", "3/", "/16", "17/16", "1/0", "-1/4", "a/b", "1/2/3"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="for example 3/16"):
        Shard.parse(text)


def test_a_name_has_its_shard_for_ever() -> None:
    # Written down: another release must not divide a list differently while shards of it are running.
    names = ["a.bin", "b.bin", "reads/run1.fastq.gz", "名前.bin", "\udcff"]
    assert [[n for n in range(1, 5) if Shard(n, 4).takes(name)] for name in names] == [[2], [3], [4], [2], [3]]


@given(st.lists(st.one_of(st.none(), st.integers(0, 10**12))), st.integers(1, 9))
def test_by_size_every_entry_has_one_shard_and_none_gets_much_more(sizes: list[int | None], of: int) -> None:
    shares = [Shard(number, of, "size").share(sizes) for number in range(1, of + 1)]
    assert all(sum(taken) == 1 for taken in zip(*shares, strict=True))
    known = [size for size in sizes if size is not None]
    average = max(1, sum(known) // len(known)) if known else 1
    weights = [average if size is None else max(1, size) for size in sizes]
    loads = [sum(w for w, taken in zip(weights, share, strict=True) if taken) for share in shares]
    # What longest processing time first promises: no shard has more than the mean and one entry.
    assert not weights or max(loads) <= sum(weights) / of + max(weights)


LINES = [f"f{n}.bin http://h{n % 7}.example:{8000 + n % 2}/{n} size={(n + 1) ** 2}" for n in range(60)]


@pytest.mark.parametrize("by", ["entry", "host", "size"])
def test_together_the_shards_take_every_entry_once(by: str, tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("\n".join(["name url", *LINES]) + "\n")
    taken: list[list[str]] = []
    hosts: list[set[str]] = []
    weights = []
    for number in range(1, 5):
        source = check_list(str(path), tmp_path, shard=Shard(number, 4, by))
        entries = []
        while (entry := source.take()) is not None:
            entries.append(entry)
        taken.append([entry.name for entry in entries])
        hosts.append({entry.url.split(":")[1] for entry in entries})
        weights.append(sum(entry.size or 0 for entry in entries))
        assert (source.known_bytes, source.unsized) == (weights[-1], 0)
        assert source.entries == len(entries)
    assert Counter(name for names in taken for name in names) == Counter(line.split()[0] for line in LINES)
    if by == "host":
        assert sum(map(len, hosts)) == 7, "a host lies in two shards"
    if by == "size":
        assert max(weights) < 1.02 * min(weights)
    if by == "entry":
        assert all(5 <= len(names) <= 25 for names in taken)


def test_bad_lines_that_are_skipped_are_told_by_one_shard(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text(
        "name url\n" + "".join(f"good{n}.bin http://h/{n}\n../bad{n} http://h/{n}\nno url {n}\n" for n in range(9))
    )
    for by in ("entry", "host", "size"):
        sources = [check_list(str(path), tmp_path, bad_lines="skip", shard=Shard(n, 3, by)) for n in range(1, 4)]
        lines = [bad.line for source in sources for bad in source.bad]
        assert sorted(lines) == sorted({*range(3, 29, 3), *range(4, 29, 3)}), by


def test_limit_and_match_count_within_the_shard(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("\n".join(["name url", *LINES]) + "\n")
    whole = check_list(str(path), tmp_path, shard=Shard(1, 2))
    some = check_list(str(path), tmp_path, shard=Shard(1, 2), limit=3)
    assert whole.entries > 3 == some.entries
    assert check_list(str(path), tmp_path, shard=Shard(1, 2), match="nothing").entries == 0


# --- End to end -------------------------------------------------------------------------------------------


def test_shards_run_at_once_into_one_folder_and_a_list_run_knows_what_they_did(bulk: Bulk) -> None:
    bodies = {f"{n}.bin": make_body(50_000 + n, str(n)) for n in range(8)}
    held = Holds(10_000, bulk.output / "0.bin.part")
    first = next(number for number in (1, 2) if Shard(number, 2).takes("0.bin"))
    with FaultyOrigin({name: (good, body) for name, body in bodies.items()}) as origin:
        origin.add("0.bin", held.behaviour(), bodies["0.bin"])
        bulk.write_list({name: origin.url(name) for name in bodies})
        holding = bulk.start("-a", f"shard={first}/2", settings={"BULK_STALL_TIMEOUT": "60"})
        held.wait()
        # The same shard again, counted from 0 or from 1, and a run of the whole list, are refused; the other goes.
        for arguments in (("-a", f"shard={first % 2}/2"), ()):
            refused = bulk.run(*arguments)
            assert refused.status == 1
            assert f"pid {holding.pid}" in refused.log
        other = bulk.run("-a", f"shard={3 - first}/2")
        assert other.status == 0, other.log
        holding.terminate()
        assert bulk.wait(holding).status == 143
        again = bulk.run("-a", f"shard={first}/2")
        assert again.status == 0, again.log
        assert {path.name for path in (bulk.output / ".bulkspider").glob("ledger*")} == {
            "ledger.1-of-2.jsonl",
            "ledger.2-of-2.jsonl",
        }
        requests = len(origin.requests)
        whole = bulk.run()
        assert whole.status == 0, whole.log
        assert [row["already"] for row in whole.rows] == [True] * 8
        assert len(origin.requests) == requests
    assert all(whole.file(name) == body for name, body in bodies.items())


def test_a_shard_without_entries_has_nothing_to_do_and_succeeds(bulk: Bulk) -> None:
    with FaultyOrigin({"a.bin": good}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = [bulk.run("-a", f"shard={number}/3") for number in range(3)]
    assert [e.status for e in ended] == [0, 0, 0]
    assert sorted(len(e.rows) for e in ended) == [0, 0, 1]


def test_a_shard_that_failed_says_so_by_its_status(bulk: Bulk) -> None:
    with FaultyOrigin({"a.bin": good}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin"), "gone.bin": origin.url("gone.bin")})
        statuses = {number: bulk.run("-a", f"shard={number}/2", "-a", "shard_by=size").status for number in (1, 2)}
    assert statuses == {1: 0, 2: 4}


def test_mistakes_are_told_before_anything_is_made(bulk: Bulk) -> None:
    bulk.write_list({"a.bin": "http://h/a"})
    for arguments, said in (
        (("shard=5/4",), "for example 3/16"),
        (("shard=1/4", "shard_by=color"), "shard_by=color: entry: by a hash of its name; host:"),
        (("shard_by=host",), "say which one"),
    ):
        ended = bulk.run(*(word for argument in arguments for word in ("-a", argument)))
        assert ended.status == 1
        assert said in ended.log
        assert not bulk.output.exists()


def test_shards_of_different_lists_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"

    def warnings_of(shard: str, lines: list[str], by: str = "entry") -> str:
        path.write_text("\n".join(["name url", *lines]) + "\n")
        arguments = {"list": str(path), "output": str(tmp_path / "out"), "shard": shard, "shard_by": by}
        prepared = prepare(arguments, {})
        prepared.folder.close()
        return "\n".join(prepared.source.warnings)

    assert warnings_of("1/3", LINES) == warnings_of("2/3", LINES) == warnings_of("1/4", LINES[:-1]) == ""
    assert "shard 3/3 has another list" in (told := warnings_of("3/3", LINES[:-1]))
    assert "than 1, 2 of 3 had in this folder" in told
    assert warnings_of("3/3", LINES) == "", "run again with the list of the others"
    assert "or another shard_by" in warnings_of("2/3", LINES, by="host")


def test_the_status_of_all_shards_is_told_from_their_ledgers_alone(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    names = [f"{n}.bin" for n in range(8)]
    with FaultyOrigin(dict.fromkeys(names, good)) as origin:
        shell.write("list.txt", "name url\n" + "".join(f"{name} {origin.url(name)}\n" for name in names))
        assert shell.bulk("list.txt", "-a", "shard=1/2").status == 0
    told = json.loads(shell.bulk("list.txt", "--status", "--json").out)
    mine = sum(Shard(1, 2).takes(name) for name in names)
    assert (told["entries"], told["done"], told["left"]) == (8, mine, 8 - mine)
