"""`bulkspider.partition`: every entry once, in order, in parts that are about equal."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bulkspider

ENTRY = st.fixed_dictionaries(
    {"url": st.sampled_from(["http://a/x", "http://A/y", "https://b:1/x", "http://u:p@b:1/z"])},
    optional={"size": st.one_of(st.none(), st.integers(0, 10**12))},
)


@given(st.lists(ENTRY), st.integers(1, 5), st.sampled_from(["size", "host", "count"]))
def test_every_entry_is_in_one_part_and_keeps_its_order(entries: list[dict[str, Any]], n: int, by: str) -> None:
    parts = bulkspider.partition(entries, n, by)
    assert len(parts) <= n
    assert all(parts)
    numbers = [[next(at for at, other in enumerate(entries) if other is entry) for entry in part] for part in parts]
    assert all(part == sorted(part) for part in numbers)
    assert sorted(itertools.chain.from_iterable(numbers)) == list(range(len(entries)))
    if by == "host":
        hosts = [
            {entry["url"].split("@")[-1].split("//")[-1].split("/")[0].lower() for entry in part} for part in parts
        ]
        assert sum(map(len, hosts)) == len(set().union(*hosts))
    if by == "count" and entries:
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_pairs_and_urls_have_no_size() -> None:
    assert bulkspider.partition([("a", "http://h/a"), "http://h/b"], 2) == [[("a", "http://h/a")], ["http://h/b"]]
    assert bulkspider.partition([], 3) == []


def test_the_largest_is_alone() -> None:
    entries = [("a", 1), ("b", 100), ("c", 40), ("d", 40), ("e", 19)]
    given = [{"name": name, "url": "http://h/" + name, "size": size} for name, size in entries]
    parts = bulkspider.partition(given, 2)
    assert abs(sum(e["size"] for e in parts[0]) - sum(e["size"] for e in parts[1])) <= 1


@pytest.mark.parametrize(("n", "by"), [(0, "size"), (True, "size"), (2, "color")])
def test_refused(n: int, by: str) -> None:
    with pytest.raises(ValueError, match=r"n=|by="):
        bulkspider.partition([], n, by)


@pytest.mark.parametrize(
    ("entries", "error", "told"),
    [
        (None, TypeError, "not NoneType"),
        ("list.txt", TypeError, "not str"),
        ({"url": "http://h/a"}, TypeError, "one dict"),
        ([5], TypeError, "entry 1: a dict, a pair"),
        ([{"name": "a"}], ValueError, "entry 1 has no url"),
        ([{"url": "http://h/a", "size": "much"}], ValueError, "entry 1: size='much' is no number"),
    ],
)
def test_what_is_no_list_of_entries_is_refused(entries: Any, error: type[Exception], told: str) -> None:
    by = "size" if "size" in told else "host"
    with pytest.raises(error, match=told):
        bulkspider.partition(entries, 2, by)
