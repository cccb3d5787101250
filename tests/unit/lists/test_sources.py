"""A list is checked whole before anything begins, and gives its entries in order, host by host."""

from __future__ import annotations

import errno
import gzip
import os
import stat
import subprocess
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulkspider.entries.entry import Entry, EntryError, fold, origin_of, parse_line
from bulkspider.errors import ListError, UsageError
from bulkspider.lists.checking import check as list_check
from bulkspider.lists.checking import copy as list_copy
from bulkspider.lists.formats.choose import Reading
from bulkspider.lists.listsource import ListSource
from bulkspider.lists.opening import check_list, folder_name
from bulkspider.lists.source import Source

SHA = "ab" * 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / ".bulkspider"
    path.mkdir()
    return path


def write(folder: Path, content: str | bytes, name: str = "files.txt") -> str:
    path = folder.parent / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def check(folder: Path, content: str | bytes, name: str = "files.txt", **options: Any) -> ListSource:
    return check_list(write(folder, content, name), folder, **options)


def rest(source: ListSource) -> list[Entry]:
    entries = []
    while (entry := source.take()) is not None:
        entries.append(entry)
    assert source.exhausted
    assert source.waiting == 0
    assert not list(source.origins_waiting())
    source.close()
    return entries


def names(source: ListSource) -> list[str]:
    return [entry.name for entry in rest(source)]


def refused(folder: Path, content: str | bytes, name: str = "files.txt", **options: Any) -> ListError:
    with pytest.raises(ListError) as caught:
        check(folder, content, name, **options)
    assert not list(folder.iterdir())  # nothing is left behind
    return caught.value


# ---------------------------------------------------------------------------------------------------- the first line


def test_the_first_line_is_ignored(folder: Path) -> None:
    source = check(folder, "whatever this is\na https://h/a\nb https://h/b\n")
    assert source.warnings == []
    assert [(entry.line, entry.name) for entry in rest(source)] == [(2, "a"), (3, "b")]


def test_an_entry_in_the_first_line_is_skipped_loudly(folder: Path) -> None:
    source = check(folder, "a https://h/a\nb https://h/b\n")
    assert source.ignored is not None
    assert source.ignored.name == "a"
    assert source.warnings == [str(source.ignored)]
    assert "'a' is not in this run; -a skip=0 reads it" in source.warnings[0]
    assert names(source) == ["b"]
    source = check(folder, "a https://h/a\nb https://h/b\n", skip_option="--skip 0")
    assert "--skip 0 reads it" in str(source.ignored)
    source.close()
    assert names(check(folder, "a https://h/a\nb https://h/b\n", skip=0)) == ["a", "b"]


@pytest.mark.parametrize("skip", [0, 1])
def test_a_header_is_read_as_columns(folder: Path, skip: int) -> None:
    source = check(folder, f"url,name,size,sha256\nhttps://h/x,a,5,{SHA}\n", skip=skip)
    assert source.known_bytes == 5
    assert rest(source) == [Entry(2, "a", "https://h/x", size=5, digests=(("sha256", SHA),))]


def test_a_header_that_does_not_fit_stops_the_list(folder: Path) -> None:
    error = refused(folder, "name,file,url\na,b,https://h/x\n", bad_lines="skip")
    assert "files.txt:1: the header has two columns for name" in str(error)


@pytest.mark.parametrize("first", ["", "# comment", "   "])
def test_the_first_line_may_be_blank_or_a_comment(folder: Path, first: str) -> None:
    assert names(check(folder, f"{first}\na https://h/a\n")) == ["a"]
    assert names(check(folder, f"{first}\na https://h/a\n", skip=0)) == ["a"]


def test_bom_crlf_blank_lines_comments_and_a_missing_last_newline(folder: Path) -> None:
    content = b"\xef\xbb\xbfa https://h/a\r\n\r\n# b\r\nc\thttps://h/c\r\nd d,https://h/d\r\ne https://h/e"
    source = check(folder, content, skip=0)
    assert [(entry.line, entry.name) for entry in rest(source)] == [(1, "a"), (4, "c"), (5, "d d"), (6, "e")]
    assert names(check(folder, b"\xef\xbb\xbfname url\r\nc https://h/c\r\n")) == ["c"]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ('{"url": "https://h/a"}\n\n{"url": "https://h/b"}', "rows.jsonl"),
        ('\n# rows\n  {"url": "https://h/a"}\n{"url": "https://h/b"}\n', "rows.txt"),
        ('\ufeff{"url": "https://h/a"}\r\n{"url": "https://h/b"}\r\n', "rows"),
        ('# rows\n{"url": "https://h/a"}\n{"url": "https://h/b"}\n', "ROWS.JSONL"),
    ],
)
def test_json_lines_have_no_line_to_skip(folder: Path, content: str, name: str) -> None:
    source = check(folder, content, name)
    assert source.warnings == []
    assert names(source) == ["a", "b"]


# ------------------------------------------------------------------------------------------------ where lists come from


@pytest.mark.parametrize("name", ["files.txt.gz", "files", "files.jsonl.gz"])
def test_gzip_is_known_by_its_first_bytes(folder: Path, name: str) -> None:
    row = '{"url": "https://h/a"}\n' if "jsonl" in name else "x\na https://h/a\n"
    assert names(check(folder, gzip.compress(row.encode()) + gzip.compress(b"\n"), name)) == ["a"]
    assert (folder / "list").read_bytes() == row.encode() + b"\n"


def test_stdin_is_a_list(folder: Path) -> None:
    code = (
        "import sys; from bulkspider.lists.opening import check_list; s = check_list('-', sys.argv[1])\n"
        "print(s.take().name, s.waiting)"
    )
    for content in (b"x\na https://h/a\nb https://h/b\n", gzip.compress(b"x\na https://h/a\nb https://h/b\n")):
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder)], input=content, capture_output=True, check=True, timeout=60
        )
        assert done.stdout == b"a 1\n"


def test_the_run_reads_its_own_copy(folder: Path) -> None:
    path = write(folder, "x\na https://h/a\nb https://h/b\n")
    source = check_list(path, folder)
    Path(path).write_text("x\nc https://h/c\n")
    assert (folder / "list").read_text() == "x\na https://h/a\nb https://h/b\n"
    assert stat.S_IMODE((folder / "list").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["list"]
    assert names(source) == ["a", "b"]


def test_a_bad_list_leaves_the_copy_of_the_run_before(folder: Path) -> None:
    check(folder, "x\na https://h/a\n").close()
    with pytest.raises(ListError):
        check(folder, "x\nnothing\n")
    assert (folder / "list").read_text() == "x\na https://h/a\n"
    assert [path.name for path in folder.iterdir()] == ["list"]


def test_a_changed_copy_is_noticed(folder: Path) -> None:
    source = check(folder, "x\na https://h/a\n")
    with (folder / "list").open("r+b") as copy:
        copy.truncate(3)
    with pytest.raises(ListError, match="was changed during the run"):
        source.take()


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (b"", "files.txt", "the list has no entry"),
        (b"", "files.txt.gz", "the list has no entry"),
        (b"\n\n", "files.txt", "the list has no entry"),
        (b"name url\n# nothing\n", "files.txt", "the list has no entry"),
        (b"a https://h/a\n", "files.txt", "-a skip=0 reads it"),
        (b"x\na https://h/a\n", "files.txt.gz", "is not gzip"),
        (gzip.compress(b"x\na https://h/a\n", mtime=0)[:-9], "files.txt.gz", "damaged or cut off"),
        (gzip.compress(b"x\na https://h/a\n", mtime=0)[:-1], "files", "damaged or cut off"),
        (gzip.compress(b"x\na https://h/a\n", mtime=0) + b"rubbish", "files", "damaged or cut off"),
        ("x\na https://h/a\n".encode("utf-16"), "files.txt", "UTF-16"),
        (b"PK\3\4rest", "files.xlsx", "this is a zip file or a workbook"),
        (b"\0" * (list_copy.LINE_MAX + list_copy.BLOCK), "files.txt", "longer than"),
    ],
)
def test_what_is_no_list_is_told_in_one_sentence(folder: Path, content: bytes, name: str, says: str) -> None:
    error = refused(folder, content, name)
    assert says in str(error)
    assert name in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("bad_lines", ["stop", "skip"])
@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        ('{\n  "files": [\n    {"name": "a", "link": "https://h/a"}\n  ]\n}\n', 1, "unknown form; write JSON Lines"),
        ('{"files": [\n{"name": "a", "url": "https://h/a"}\n]}\n', 1, "unknown form; write JSON Lines"),
        ('{"files": [{"name": "a", "url": "https://h/a"}]}', 1, "unknown form; write JSON Lines"),
        ('[{"name": "a", "url": "https://h/a"}]', 1, "a JSON array, not JSON Lines; write JSON Lines"),
        ('\n# rows\n[\n  {"name": "a", "url": "https://h/a"}\n]\n', 3, "a JSON array, not JSON Lines"),
        ('["https://h/a", "https://h/b"]\n', 1, "a JSON array, not JSON Lines"),
        ('<!DOCTYPE html>\n<a href="https://h/a">a</a>\n', 1, "HTML or XML document"),
        ('\ufeff<?xml version="1.0"?>\n<metalink></metalink>\n', 1, "HTML or XML document"),
        ("name;url\na;https://h/a\n", 1, "separated by semicolons; separate them by commas or TABs"),
    ],
)
@pytest.mark.parametrize("name", ["files.txt", "files.jsonl"])
def test_a_document_is_refused_at_once_with_the_line(
    folder: Path, content: str, line: int, says: str, bad_lines: str, name: str
) -> None:
    if ";" in content and name.endswith(".jsonl"):
        return
    error = refused(folder, content, name, bad_lines=bad_lines)
    assert f"{name}:{line}: " in str(error)
    assert says in str(error)
    assert len(error.problems) == 1


@pytest.mark.parametrize("first", ["[Files of 2024]", "[1] of 2", "<files>", "name;link"])
def test_a_first_line_in_brackets_is_ignored_as_any_other(folder: Path, first: str) -> None:
    assert names(check(folder, f"{first}\na https://h/a\n")) == ["a"]


def test_a_missing_list_is_told(folder: Path) -> None:
    with pytest.raises(ListError, match="there is no such list"):
        check_list(str(folder / "missing.txt"), folder)
    with pytest.raises(ListError, match="there is no such list"):
        check_list("nul\0", folder)
    with pytest.raises(ListError, match="this is a folder"):
        check_list(str(folder), folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_list_is_told(folder: Path) -> None:
    path = write(folder, "x\na https://h/a\n")
    os.chmod(path, 0)
    with pytest.raises(ListError, match="cannot be read"):
        check_list(path, folder)


def test_a_copy_that_cannot_be_written_is_told(folder: Path) -> None:
    path = write(folder, "x\na https://h/a\n")
    with pytest.raises(UsageError, match="cannot copy the list"):
        check_list(path, folder / "missing")


def test_a_full_disk_is_told_and_nothing_is_left_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, block: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(list_copy, "write_block", full)
    with pytest.raises(UsageError, match="No space left"):
        check(folder, "x\na https://h/a\n")
    assert not list(folder.iterdir())


@pytest.mark.parametrize("options", [{"skip": 2}, {"bad_lines": "ignore"}, {"limit": 0}])
def test_an_option_that_does_not_fit_is_refused(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        check(folder, "x\na https://h/a\n", **options)


# ----------------------------------------------------------------------------------------------------------- bad lines

BAD = b"x\na https://h/a\nb ftp://h/b\nc https://h/c size=x\n\xff https://h/d\n../e https://h/e\nf https://h/f\n"


def test_all_bad_lines_are_shown_with_file_and_line(folder: Path) -> None:
    error = refused(folder, BAD)
    path = folder.parent / "files.txt"
    lines = str(error).splitlines()
    assert lines[0] == f"{path}: 4 bad lines, so nothing was begun:"
    assert [line.split(": ")[0] for line in lines[1:]] == [f"{path}:{number}" for number in (3, 4, 5, 6)]
    assert lines[4] == f"{path}:6: name '../e' would leave the output folder; rename it in the list"
    assert [problem.line for problem in error.problems] == [3, 4, 5, 6]


def test_bad_lines_can_be_skipped(folder: Path) -> None:
    source = check(folder, BAD, bad_lines="skip")
    assert [(bad.line, bad.name) for bad in source.bad] == [(3, "b"), (4, "c"), (5, None), (6, "../e")]
    assert str(source.bad[1].problem).endswith(
        "files.txt:4: size 'x' is not a number of bytes; write bytes in digits, as size=1048576"
    )
    assert source.entries == 2
    assert names(source) == ["a", "f"]


def test_a_list_of_bad_lines_only_can_be_skipped(folder: Path) -> None:
    source = check(folder, "x\nbad\n", bad_lines="skip")
    assert (source.entries, source.exhausted, len(source.bad)) == (0, True, 1)
    assert source.take() is None


def test_many_bad_lines_are_counted_and_not_all_shown(folder: Path) -> None:
    error = refused(folder, "x\n" + "bad\n" * 70)
    assert "70 bad lines, so nothing was begun; the first 50:" in str(error)
    assert len(str(error).splitlines()) == 51
    assert len(error.problems) == 70
    assert "more than 999 bad lines" in str(refused(folder, "x\n" + "bad\n" * 5000))


# ------------------------------------------------------------------------------------------------- names that meet


def test_a_repeated_line_is_taken_once(folder: Path) -> None:
    content = "x\na https://h/a size=5\nb https://h/b\nA https://h/a\na\thttps://h/a\tsize=5\n"
    source = check(folder, content)
    assert (source.entries, source.duplicates, source.known_bytes, source.unsized) == (2, 2, 5, 1)
    (warning,) = source.warnings
    assert warning.startswith(f"{folder.parent / 'files.txt'}: 2 lines repeat an earlier one (same name and URL)")
    assert warning.endswith("the first: line 4 repeats line 2")
    assert names(source) == ["a", "b"]


def test_two_names_may_share_a_url(folder: Path) -> None:
    assert names(check(folder, "x\na https://h/a\nb https://h/a\n")) == ["a", "b"]


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ("a https://h/a", "a https://h/b", "name 'a' is that of line 2, with another URL"),
        ("a https://h/a", "a http://h/a", "name 'a' is that of line 2, with another URL"),
        ("a.bin https://h/a", "A.bin https://h/b", "name 'A.bin' is 'a.bin' of line 2 but for case"),
        ("\u00e4 https://h/a", "a\u0308 https://h/b", "is '\u00e4' of line 2 but for case or Unicode form"),
        ("STRASSE https://h/a", "straße https://h/b", "but for case"),
        ("a https://h/a", "a/b https://h/b", "name 'a/b' needs a folder where line 2 has the file 'a'"),
        ("a https://h/a", "A/b/c https://h/a", "name 'A/b/c' needs a folder where line 2 has the file 'a'"),
        ("a/b/c https://h/a", "a/b https://h/b", "name 'a/b' is also the folder of 'a/b/c' in line 2"),
        ("A/b/c https://h/a", "a https://h/a", "name 'a' is also the folder of 'A/b/c' in line 2"),
        ("a https://h/a size=1", "a https://h/a size=2", "with another size"),
        (f"a https://h/a sha256={SHA}", f"a https://h/a sha256={SHA[::-1]}", "with another hash"),
    ],
)
def test_two_files_for_one_name_are_a_problem_that_names_both_lines(
    folder: Path, first: str, second: str, says: str
) -> None:
    content = f"x\n{first}\nother https://h/o\n{second}\n"
    error = refused(folder, content)
    assert [problem.line for problem in error.problems] == [4]
    assert says in str(error)
    source = check(folder, content, bad_lines="skip")
    assert [bad.line for bad in source.bad] == [4]
    assert source.duplicates == 0
    assert [entry.line for entry in rest(source)] == [2, 3]


def test_a_bad_line_makes_no_other_line_bad(folder: Path) -> None:
    content = "x\na/b https://h/1\na https://h/2\na/c https://h/3\na/b https://h/4\na/b https://h/1\n"
    source = check(folder, content, bad_lines="skip")
    assert [bad.line for bad in source.bad] == [3, 5]
    assert source.duplicates == 1
    assert names(source) == ["a/b", "a/c"]


def test_a_chance_collision_of_hashes_is_no_problem(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("bulkspider.lists.checking.check", "bulkspider.lists.checking.collisions"):
        monkeypatch.setattr(f"{module}.hash", lambda key: len(key) % 3 - 1, raising=False)
    content = "x\n" + "".join(f"{name} https://h/{name}\n" for name in ("a", "b", "c/a", "dd", "e/f/g", "h/a", "i/jjj"))
    source = check(folder, content)
    assert source.duplicates == 0
    assert len(rest(source)) == 7


LIST_NAME = st.sampled_from(
    ["a", "A", "a/b", "A/B", "a/b/c", "b", "ä", unicodedata.normalize("NFD", "ä"), "Ä/x", "a b", "b/a b", "dir/sub/x"]
)
LIST_LINE = st.tuples(LIST_NAME, st.sampled_from(["http://h/1", "http://h/2", "https://i/1"])).map(" ".join)


def expected(lines: Iterable[str]) -> tuple[list[int], list[int], list[int]]:
    """Lines that are entries, that repeat one, and that cannot stand beside one; found the slow way."""
    taken: dict[str, Entry] = {}
    repeated, bad = [], []
    for number, line in enumerate(lines, 1):
        try:
            entry = parse_line(line, number)
        except EntryError:
            bad.append(number)
            continue
        if entry is None:
            continue
        key = fold(entry.name)
        if key in taken and taken[key].url == entry.url:
            repeated.append(number)
        elif key in taken or any(f"{key}/".startswith(f"{k}/") or k.startswith(f"{key}/") for k in taken):
            bad.append(number)
        else:
            taken[key] = entry
    return [entry.line for entry in taken.values()], repeated, bad


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(LIST_LINE | st.sampled_from(["", "# c", "bad"]), max_size=12), st.sampled_from(["\n", "\r\n"]))
def test_the_check_agrees_with_the_slow_way(folder: Path, lines: list[str], end: str) -> None:
    good, repeated, bad = expected(lines)
    content = end.join([*lines, ""])
    if not good and not bad:
        with pytest.raises(ListError):
            check(folder, content, skip=0)
        return
    source = check(folder, content, skip=0, bad_lines="skip")
    assert [line.line for line in source.bad] == bad
    assert source.duplicates == len(repeated)
    assert source.entries == len(good)
    assert [entry.line for entry in rest(source)] == good


# -------------------------------------------------------------------------------------------------- match and limit

MANY = "x\n" + "".join(f"{kind}{n} https://{kind}/{n} size=1{n}\n" for n in range(10) for kind in "ab")


def test_match_is_a_glob_on_names(folder: Path) -> None:
    source = check(folder, MANY, match="a[0-2]")
    assert (source.entries, source.known_bytes, source.unsized) == (3, 33, 0)
    assert names(source) == ["a0", "a1", "a2"]
    assert names(check(folder, "x\nä b https://h/x\nA https://h/A\n", match="ä*")) == ["ä b"]
    assert "no name in the list matches 'A*'" in str(refused_keeping(folder, MANY, match="A*"))


def refused_keeping(folder: Path, content: str, **options: Any) -> ListError:
    with pytest.raises(ListError) as caught:
        check(folder, content, **options)
    return caught.value


def test_limit_takes_the_first_entries_after_match_and_duplicates(folder: Path) -> None:
    source = check(folder, MANY, limit=3)
    assert (source.entries, source.known_bytes, source.unsized) == (3, 31, 0)
    assert names(source) == ["a0", "b0", "a1"]
    assert names(check(folder, MANY, limit=2, match="b*")) == ["b0", "b1"]
    assert names(check(folder, MANY, limit=1000)) == [f"{kind}{n}" for n in range(10) for kind in "ab"]
    source = check(folder, "x\na https://h/a\na https://h/a\nb https://h/b\nc https://h/c\n", limit=2)
    assert (source.duplicates, names(source)) == (1, ["a", "b"])


def test_the_whole_list_is_checked_whatever_is_matched(folder: Path) -> None:
    assert "4 bad lines" in str(refused(folder, BAD, match="a", limit=1))
    source = check(folder, BAD, match="[a-c]", bad_lines="skip")
    assert [bad.line for bad in source.bad] == [3, 4, 5]  # the fifth has no name that could be compared


# ------------------------------------------------------------------------------------------------------------ taking


def test_a_list_source_is_a_source(folder: Path) -> None:
    source: Source = check(folder, "x\na https://h/a\n")
    assert not source.exhausted
    source.close()
    source.close()


def test_blocked_origins_are_passed_over_and_come_back(folder: Path) -> None:
    source = check(folder, "x\na1 https://a/\na2 https://a:443/\nb1 http://b:8080/\nc1 https://c/\na3 https://a/\n")

    def take(*blocked: str) -> str | None:
        entry = source.take(set(blocked))
        return entry.name if entry else None

    assert set(source.origins_waiting()) == {"a:443", "b:8080", "c:443"}
    assert take() == "a1"
    assert take("a:443") == "b1"
    assert take("a:443", "c:443") is None
    assert not source.exhausted
    assert take("c:443") == "a2"
    assert take("a:443") == "c1"
    assert set(source.origins_waiting()) == {"a:443"}
    assert take("a:443") is None
    assert source.waiting == 1
    assert take() == "a3"
    assert source.exhausted
    assert take() is None


def test_every_host_of_a_sorted_list_gives_its_first_entry_at_once(folder: Path) -> None:
    lines = [f"{host}-{n} https://h{host:03}/{n}" for host in range(300) for n in range(5)]
    source = check(folder, "\n".join(["x", *lines]))
    blocked: set[str] = set()
    for host in range(300):
        entry = source.take(blocked)
        assert entry is not None
        assert entry.name == f"{host}-0"
        blocked.add(origin_of(entry.url))
    assert source.take(blocked) is None
    assert source.take(frozenset(blocked)) is None
    blocked.remove("h007:443")
    taken = [source.take(blocked) for _ in range(5)]
    assert [entry.name for entry in taken if entry] == ["7-1", "7-2", "7-3", "7-4"]
    assert source.waiting == 1500 - 304


HOSTS = ["a", "b", "c", "d"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(
    st.lists(st.sampled_from(HOSTS), min_size=1, max_size=20),
    st.lists(st.sets(st.sampled_from(HOSTS)), max_size=40),
    st.sampled_from([set, frozenset, list, tuple]),
)
def test_taking_gives_the_first_entry_that_is_not_blocked(
    folder: Path, hosts: list[str], steps: list[set[str]], kind: type
) -> None:
    source = check(folder, "".join(f"{n} http://{host}/\n" for n, host in enumerate(hosts)), skip=0)
    left = list(enumerate(hosts))
    frozen: dict[tuple[str, ...], Any] = {}
    for step in steps:
        names_blocked = [f"{host}:80" for host in sorted(step)]
        blocked = frozen.setdefault(tuple(names_blocked), kind(names_blocked))
        first = next((pair for pair in left if pair[1] not in step), None)
        entry = source.take(blocked)
        assert (entry and entry.name) == (first and str(first[0]))
        if first is not None:
            left.remove(first)
        assert source.waiting == len(left)
        assert source.exhausted is (not left)
        assert {origin.removesuffix(":80") for origin in source.origins_waiting()} == {host for _, host in left}
    source.close()


@pytest.mark.parametrize("block", [1, 7, 64, 4096])
def test_lines_are_whole_wherever_a_block_ends(folder: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(list_copy, "BLOCK", block)
    monkeypatch.setattr(list_copy, "WINDOW_BYTES", block)
    lines = [f"name-{n} https://h{n % 3}/{'x' * (n * 13 % 50)}" for n in range(40)]
    source = check(folder, "\n".join(["first", *lines, lines[3], ""]))
    assert source.duplicates == 1
    assert [(entry.line, entry.name) for entry in rest(source)] == [(n + 2, f"name-{n}") for n in range(40)]


def test_a_long_list_needs_a_few_bytes_per_line(folder: Path) -> None:
    code = (
        "import resource, sys; from bulkspider.lists.opening import check_list\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); s = check_list(sys.argv[1], sys.argv[2]); print(s.entries, peak() - before)"
    )
    path = write(
        folder, "x\n" + "".join(f"dir/file-{n:07d}.bin https://h{n % 5}.example/{n:07d}.bin\n" for n in range(200_000))
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path, str(folder)], capture_output=True, check=True, timeout=100, text=True
    )
    entries, kilobytes = map(int, done.stdout.split())
    assert entries == 200_000
    assert kilobytes < 12_000  # 20 bytes per line, and the blocks being read


# ------------------------------------------------------------------------------------------------------------- folder


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("input/tmp", "tmp"),
        ("input/files.txt", "files"),
        ("/a/b/files.CSV.gz", "files"),
        ("rows.jsonl", "rows"),
        ("rows.jsonl.gz", "rows"),
        ("a.tsv", "a"),
        ("a.tar.gz", "a.tar"),
        ("a.txt.txt", "a.txt"),
        ("a.list", "a.list"),
        ("-", "stdin"),
        (".txt", "list"),
        ("..", "list"),
        (".", "list"),
        ("/", "list"),
        ("...gz", "list"),
        ("lists/", "lists"),
    ],
)
def test_the_output_folder_has_the_name_of_the_list(path: str, name: str) -> None:
    assert folder_name(path) == name


def test_giving_up_is_far_above_what_is_shown() -> None:
    assert list_check.GIVE_UP > list_check.SHOWN_MAX


def test_the_smallest_or_the_largest_first_over_all_origins_and_what_has_no_size_last(folder: Path) -> None:
    content = "name url\n" + "".join(
        f"{name} https://{host}.example/{name}{size}\n"
        for name, host, size in [
            ("c", "x", " size=30"),
            ("unknown", "x", ""),
            ("a", "y", " size=10"),
            ("b", "x", " size=20"),
            ("also", "y", ""),
            ("same", "y", " size=20"),
        ]
    )
    assert names(check(folder, content)) == ["c", "unknown", "a", "b", "also", "same"]
    assert names(check(folder, content, order="smallest")) == ["a", "b", "same", "c", "unknown", "also"]
    assert names(check(folder, content, order="largest")) == ["c", "b", "same", "a", "unknown", "also"]
    source = check(folder, content, order="largest")
    assert [entry.name for entry in iter(lambda: source.take({"x.example:443"}), None)] == ["same", "a", "also"]
    assert names(source) == ["c", "b", "unknown"]


# ---------------------------------------------------------------------------------------------- lists of other tools


def test_rows_of_another_form_keep_their_lines_in_every_message(folder: Path) -> None:
    text = (
        "# made for aria2c -i\n\nhttps://h/a\n  out=a.bin\n\nhttps://h/b\n  out=a.bin\n"
        "https://h/con\n  split=2\nhttps://h/d\n  no such option\nhttps://h/e\n"
    )
    source = check(folder, text, reading=Reading("aria2"), bad_lines="skip", root=str(folder.parent))
    assert [(bad.line, bad.problem.line) for bad in source.bad] == [(6, 6), (8, 8), (11, 11)]
    assert "is that of line 3, with another URL" in source.bad[0].problem.what
    assert "device on Windows" in source.bad[1].problem.what
    assert [(entry.line, entry.name) for entry in rest(source)] == [(3, "a.bin"), (12, "e")]


def test_a_bad_row_of_another_form_is_told_with_its_line(folder: Path) -> None:
    assert "files.txt:3: the URL ends in '/'" in str(refused(folder, "\n\nhttps://h/\n", reading=Reading("aria2")))
