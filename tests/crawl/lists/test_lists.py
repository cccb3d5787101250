"""Lists and arguments end to end: a mistake ends before the first byte, with a sentence that helps."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from support.crawl import Bulk, Ended, sha256
from support.faulty import FaultyOrigin, good, make_body

BODY = make_body(20_000)


@pytest.fixture
def origin() -> Iterator[FaultyOrigin]:
    with FaultyOrigin(default=good, resource=BODY) as serving:
        yield serving


def refused(bulk: Bulk, origin: FaultyOrigin, *arguments: str, settings: Mapping[str, str] | None = None) -> str:
    """What a crawl says that must end with status 1 before its first byte."""
    ended = bulk.run(*arguments, settings=settings)  # no traceback either
    assert ended.status == 1, ended.log
    assert ended.rows == []
    assert origin.requests == []
    assert origin.connections == 0
    assert files(bulk) == {}
    assert len(ended.log) < 4000, "a mistake needs no essay"
    return ended.log


def files(bulk: Bulk) -> dict[str, bytes]:
    """The files of the output folder, without our own."""
    found = [path for path in bulk.output.rglob("*") if path.is_file() and ".bulkspider" not in path.parts]
    return {str(path.relative_to(bulk.output)): path.read_bytes() for path in found}


def names(ended: Ended) -> list[str]:
    return sorted(row["name"] for row in ended.rows)


# --- Refused ----------------------------------------------------------------------------------------------------------


def test_a_missing_list_is_named_and_leaves_no_trace(bulk: Bulk, origin: FaultyOrigin) -> None:
    log = refused(bulk, origin, "-a", "list=no/such/list.txt")
    assert "no/such/list.txt" in log
    assert "no such list" in log
    assert not bulk.output.exists()


def test_no_list_at_all_says_what_to_type(bulk: Bulk, origin: FaultyOrigin) -> None:
    assert "-a list=FILE" in refused(bulk, origin, "-a", "list=")


@pytest.mark.parametrize("text", ["", "name url\n", "\n\n# only a comment\n\n"], ids=["empty", "header", "comments"])
def test_a_list_without_entries_is_refused(bulk: Bulk, origin: FaultyOrigin, text: str) -> None:
    path = bulk.folder / "list.txt"
    path.write_text(text)
    assert f"{path}: the list has no entry" in refused(bulk, origin)


@pytest.mark.parametrize(
    ("entry", "file", "what"),
    [
        ("list.txt", "list.txt", "the list"),
        ("data/list", "data/list.part", "the list"),  # its unfinished file
        ("LIST.txt", "list.txt", "the list"),  # one file on some disks
        ("SUMS", "SUMS", "the checksums"),
        ("hosts.toml", "hosts.toml", "the table of hosts"),
        ("netrc", "netrc", "the netrc file"),
    ],
)
@pytest.mark.parametrize("at_link", [False, True], ids=["folder", "link"])
def test_no_download_takes_the_place_of_a_file_that_the_run_reads(
    bulk: Bulk, origin: FaultyOrigin, entry: str, file: str, what: str, at_link: bool
) -> None:
    lines = [f"a.bin {origin.url('a.bin')}", f"{entry} {origin.url('b.bin')}"]
    (bulk.output / "data").mkdir(parents=True)
    bulk.list = bulk.output / file if what == "the list" else bulk.list
    bulk.write_list(lines)
    if what != "the list":
        (bulk.output / file).write_text(f"{sha256(BODY)}  a.bin\n" if file == "SUMS" else "")
    before = files(bulk)
    given = {"SUMS": ["-a", f"sums={bulk.output / file}"]}.get(file, [])
    settings = {"hosts.toml": {"BULK_HOSTS": str(bulk.output / file)}}.get(file, {})
    environment = {"netrc": {"NETRC": str(bulk.output / file)}}.get(file, {})
    if at_link:
        (bulk.folder / "link").symlink_to(bulk.output)
        bulk.output = bulk.folder / "link"
    ended = bulk.run(*given, settings=settings, environment=environment)
    assert (ended.status, ended.rows, origin.requests) == (1, [], [])
    assert files(bulk) == before
    assert f"{bulk.list}:3: name '{entry}' would take the place of {what}" in ended.log
    assert "rename it, or choose another output folder" in ended.log

    # Where bad lines are passed over, the others come, and the file stays as it is.
    ended = bulk.run("-a", "bad_lines=skip", *given, settings=settings, environment=environment)
    assert ended.status == 4
    assert files(bulk) == before | {"a.bin": BODY}


def test_all_bad_lines_are_shown_with_file_line_what_and_cure(bulk: Bulk, origin: FaultyOrigin) -> None:
    url = origin.url("x")
    bad = {
        3: ("no-url.bin", "there is no URL"),
        5: (f"../x {url}", "would leave the output folder"),
        6: (f"/etc/x {url}", "would leave the output folder"),
        7: (f"a/../../x {url}", "would leave the output folder"),
        8: ("ftp.bin ftp://example.com/x", "URL scheme 'ftp' is not supported"),
        9: (f"fields.bin {url} size=many", "is not a number of bytes"),
        10: (f"fields.bin {url} sha256=12", "sha256"),
        11: (f"fields.bin {url} shasum256={'0' * 64}", "sha256"),
        12: (f".bulkspider/ledger.jsonl {url}", "bulkspider keeps for itself"),
        13: (f"a.bin.part {url}", "our own unfinished files"),
        14: ("nowhere.bin http:///x", "no host"),
    }
    lines = [bad[number][0] if number in bad else f"good{number}.bin {url}" for number in range(2, 15)]
    path = bulk.write_list(lines)
    log = refused(bulk, origin)
    assert f"{path}: {len(bad)} bad lines, so nothing was begun" in log
    for number, (_, what) in bad.items():
        (line,) = [line for line in log.splitlines() if line.startswith(f"{path}:{number}: ")]
        assert what in line
        assert "; " in line, "it does not say what to do"
    shown = re.findall(rf"^{re.escape(str(path))}:(\d+): ", log, re.MULTILINE)
    assert [int(number) for number in shown] == sorted(bad)


def test_names_that_would_meet_on_disk_are_refused_with_both_lines(bulk: Bulk, origin: FaultyOrigin) -> None:
    one, two = origin.url("one"), origin.url("two")
    path = bulk.write_list(
        [
            f"same.bin {one}",
            f"same.bin {two}",
            f"Case.bin {one}",
            f"case.BIN {two}",
            f"caf\u00e9 {one}",
            f"cafe\u0301 {two}",
            f"folder {one}",
            f"folder/below.bin {two}",
        ]
    )
    log = refused(bulk, origin)
    for later, earlier in ((3, 2), (5, 4), (7, 6), (9, 8)):
        (line,) = [line for line in log.splitlines() if line.startswith(f"{path}:{later}: ")]
        assert f"line {earlier}" in line


def test_a_header_that_does_not_fit_and_damaged_files_are_refused(bulk: Bulk, origin: FaultyOrigin) -> None:
    path = bulk.write_list([f"a.bin,{origin.url('a.bin')}"], header="name,url,name")
    assert f"{path}:1: the header has two columns for name" in refused(bulk, origin)
    path.write_bytes("name url\na.bin http://example.com/x\n".encode("utf-16"))
    assert f"{path}: the list is UTF-16; save it as UTF-8" in refused(bulk, origin)
    cut = bulk.folder / "cut.txt.gz"
    cut.write_bytes(gzip.compress(b"name url\n" * 1000)[:-20])
    assert f"{cut}: the gzip data is damaged or cut off" in refused(bulk, origin, "-a", f"list={cut}")
    assert "this is a folder" in refused(bulk, origin, "-a", f"list={bulk.folder}")


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (["-a", "ouput=x"], {}, ["unknown argument ouput", "did you mean output?"]),
        (["-a", "skip=2"], {}, ["argument skip=2"]),
        (["-a", "bad_lines=ignore"], {}, ["argument bad_lines=ignore", "stop", "skip"]),
        (["-a", "limit=ten"], {}, ["argument limit=ten", "number"]),
        (["-a", "match=nothing*"], {}, ["no name in the list matches 'nothing*'"]),
        ([], {"BULK_RETRY_TIME": "3"}, ["unknown setting BULK_RETRY_TIME", "did you mean BULK_RETRY_TIMES?"]),
        ([], {"BULK_CHECKPOINT": "64 parsecs"}, ["setting BULK_CHECKPOINT='64 parsecs'", "not a size"]),
        ([], {"BULK_DIGEST": "md4"}, ["setting BULK_DIGEST='md4'", "auto, sha256, off"]),
        (
            [],
            {"BULK_STALL_TIMEOUT": "soon", "BULK_REQIRE_PROOF": "1"},
            ["BULK_STALL_TIMEOUT='soon'", "did you mean BULK_REQUIRE_PROOF?"],
        ),
    ],
    ids=lambda value: None if isinstance(value, (dict, list)) else str(value),
)
def test_a_mistyped_argument_or_setting_names_the_nearest_known_one(
    bulk: Bulk, origin: FaultyOrigin, arguments: list[str], settings: dict[str, str], said: list[str]
) -> None:
    bulk.write_list({"a.bin": origin.url("a.bin")})
    log = refused(bulk, origin, *arguments, settings=settings)
    assert all(words in log for words in said), log


# --- Read -------------------------------------------------------------------------------------------------------------


def as_text(rows: list[dict[str, str]]) -> str:
    lines = [f"{row['name']} {row['url']} sha256={row['sha256']} size={row['size']}" for row in rows]
    return "\n".join(["the first line is ignored", "# a comment", "", *lines])


def as_csv(rows: list[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["sha256", "filename", "size", "url"], lineterminator="\n")
    writer.writerow({"sha256": "SHA256", "filename": "FileName", "size": "Size", "url": "URL"})
    for row in rows:
        writer.writerow({key.replace("name", "filename"): value for key, value in row.items()})
    return text.getvalue()


def as_tsv(rows: list[dict[str, str]]) -> str:
    lines = [f"{row['name']}\t{row['url']}\tsize={row['size']}\tsha256={row['sha256']}" for row in rows]
    return "\n".join(["name\turl", *lines]) + "\n"


def as_jsonl(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps({**row, "size": int(row["size"])}) + "\n" for row in rows)


FORMS = {
    "list.txt": lambda rows: as_text(rows).encode(),
    "list.csv": lambda rows: as_csv(rows).encode(),
    "list.tsv": lambda rows: as_tsv(rows).encode(),
    "windows.txt": lambda rows: b"\xef\xbb\xbf" + as_text(rows).replace("\n", "\r\n").encode(),
    "list.jsonl": lambda rows: as_jsonl(rows).encode(),
    "list.txt.gz": lambda rows: gzip.compress(as_text(rows).encode()),
    "list.jsonl.gz": lambda rows: gzip.compress(as_jsonl(rows).encode()),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_list_gives_the_same_files(bulk: Bulk, origin: FaultyOrigin, form: str) -> None:
    wanted = ["plain.bin", "two words.bin", "folder/ünder.bin"]
    if form in ("list.csv", "list.jsonl"):
        wanted.append("a, comma.bin")
    rows = [
        {"name": name, "url": origin.url(f"{n}"), "size": str(len(BODY)), "sha256": sha256(BODY)}
        for n, name in enumerate(wanted)
    ]
    path = bulk.folder / form
    path.write_bytes(FORMS[form](rows))
    ended = bulk.run("-a", f"list={path}", "-a", "output=")
    assert ended.status == 0, ended.log
    bulk.output = bulk.folder / "output" / re.sub(r"\..*", "", form)
    assert files(bulk) == dict.fromkeys(wanted, BODY)
    assert {row["status"] for row in ended.rows} == {"verified"}
    assert names(ended) == sorted(wanted)
    assert len(origin.requests) == len(wanted)


class Piped(Bulk):
    """With the list as its stdin."""

    def command(self, *arguments: str, settings: Mapping[str, str] | None = None) -> list[str]:
        command = super().command(*arguments, settings=settings)
        return ["sh", "-c", 'cat "$0" | "$@"', str(self.list), *command]


def test_a_list_on_stdin_is_read_and_its_folder_is_stdin(bulk: Bulk, origin: FaultyOrigin) -> None:
    piped = Piped(bulk.folder)
    piped.write_list([f"a.bin {origin.url('a.bin')}", origin.url("by%20its%20url.bin?query=1")])
    ended = piped.run("-a", "list=-", "-a", "output=")
    assert ended.status == 0, ended.log
    piped.output = bulk.folder / "output" / "stdin"
    assert files(piped) == {"a.bin": BODY, "by its url.bin": BODY}


def test_bad_lines_skip_makes_each_a_failed_row_and_fetches_the_rest(bulk: Bulk, origin: FaultyOrigin) -> None:
    path = bulk.write_list(
        [f"a.bin {origin.url('a')}", "no-url.bin", f"../b.bin {origin.url('b')}", f"a.bin {origin.url('other')}"]
    )
    ended = bulk.run("-a", "bad_lines=skip")
    assert ended.status == 4, ended.log
    assert files(bulk) == {"a.bin": BODY}
    assert len(ended.rows) == 4
    bad = {row["line"]: row for row in ended.rows if row["status"] == "failed"}
    assert sorted(bad) == [3, 4, 5]
    for number, row in bad.items():
        assert (row["error"]["code"], row["error"]["permanent"]) == ("bad_line", True)
        assert row["error"]["message"].startswith(f"{path}:{number}: ")
        assert row["error"]["message"] in ended.log
    assert [request.path for request in origin.requests] == ["/a"]


def test_a_first_line_that_is_an_entry_is_skipped_loudly_and_skip_0_reads_it(bulk: Bulk, origin: FaultyOrigin) -> None:
    bulk.write_list({"b.bin": origin.url("b.bin")}, header=f"a.bin {origin.url('a.bin')}")
    ended = bulk.run(settings={"STATS_DUMP": "True"})
    assert ended.status == 0, ended.log
    assert files(bulk) == {"b.bin": BODY}
    warnings = [line for line in ended.log.splitlines() if "was IGNORED" in line]
    assert all(" WARNING: line 1 of " in line and "'a.bin'" in line and "-a skip=0 reads" in line for line in warnings)
    assert len(warnings) == 2, "it is said at the start and in the summary"
    lines = ended.log.splitlines()
    at = len(lines) - 1 - lines[::-1].index(warnings[1])
    assert "INFO: 1 entry: 1 complete" in lines[at + 1], "it is the summary's first sentence"
    assert "'bulk/ignored_first_line': 'a.bin'" in ended.log

    ended = bulk.run("-a", "skip=0")
    assert ended.status == 0, ended.log
    assert files(bulk) == {"a.bin": BODY, "b.bin": BODY}
    assert "IGNORED" not in ended.log
    assert "ignored_first_line" not in ended.log
    assert [request.path for request in origin.requests] == ["/b.bin", "/a.bin"]


def test_match_and_limit_choose_entries_and_a_repeated_line_is_taken_once(bulk: Bulk, origin: FaultyOrigin) -> None:
    lines = [f"{name} {origin.url(name)}" for name in ("a.txt", "b.bin", "b.bin", "c/d.bin", "e.bin")]
    bulk.write_list(lines)
    ended = bulk.run("-a", "match=*.bin", "-a", "limit=2")
    assert ended.status == 0, ended.log
    assert files(bulk) == {"b.bin": BODY, "c/d.bin": BODY}
    assert names(ended) == ["b.bin", "c/d.bin"]

    ended = bulk.run()
    assert ended.status == 0, ended.log
    assert files(bulk) == dict.fromkeys(["a.txt", "b.bin", "c/d.bin", "e.bin"], BODY)
    assert len(ended.rows) == 4
    assert "line 4 repeats line 3" in ended.log
    assert sorted(request.path for request in origin.requests) == ["/a.txt", "/b.bin", "/c/d.bin", "/e.bin"]


def test_the_run_reads_its_copy_of_the_list_and_a_report_can_be_the_next_list(bulk: Bulk, origin: FaultyOrigin) -> None:
    bulk.write_list({"a.bin": origin.url("a.bin"), "b.bin": origin.url("b.bin")})
    ended = bulk.run()
    assert ended.status == 0, ended.log
    assert (bulk.output / ".bulkspider" / "list").read_bytes() == bulk.list.read_bytes()
    assert (bulk.output / ".bulkspider" / "list").stat().st_mode & 0o077 == 0, "lists hold signed URLs"
    report = bulk.report.rename(bulk.folder / "before.jsonl")
    again = bulk.run("-a", f"list={report}", "-a", f"output={bulk.folder / 'again'}")
    assert again.status == 0, again.log
    assert (bulk.folder / "again" / "a.bin").read_bytes() == BODY
    assert len(origin.requests) == 4


def test_headers_of_the_list_are_sent_to_its_origin(bulk: Bulk, origin: FaultyOrigin) -> None:
    url = origin.url("a.bin")
    bulk.write_list([f'a.bin,{url},header:X-Key=one two,"header:Cookie=a=b; c=d"'], header="ignored")
    ended = bulk.run()
    assert ended.status == 0, ended.log
    (request,) = origin.requests
    assert (request.headers["x-key"], request.headers["cookie"]) == ("one two", "a=b; c=d")


def test_the_lists_path_may_hold_anything_a_path_may(bulk: Bulk, origin: FaultyOrigin) -> None:
    folder = bulk.folder / "a folder, with = and ünicode"
    folder.mkdir()
    path = bulk.write_list({"a.bin": origin.url("a.bin")}).rename(folder / "my list.txt")
    output = Path(folder / "out put")
    ended = bulk.run("-a", f"list={path}", "-a", f"output={output}")
    assert ended.status == 0, ended.log
    assert (output / "a.bin").read_bytes() == BODY


def test_a_bad_list_leaves_no_folder_behind_and_harms_none_that_was_there(bulk: Bulk) -> None:
    bulk.write_list(["../x http://127.0.0.1:9/x"])
    assert bulk.run().status == 1
    assert not bulk.output.exists()
    bulk.output.mkdir()
    (bulk.output / "mine.txt").write_text("mine")
    assert bulk.run().status == 1
    assert (bulk.output / "mine.txt").read_text() == "mine"
