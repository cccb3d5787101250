"""The ledger: what a line proves, and that no crash, damage or other writer makes it say more than is true."""

from __future__ import annotations

import errno
import json
import os
import stat as stat_module
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bulkspider.codes import Kind
from bulkspider.disk.finished import ledger as ledger_module
from bulkspider.disk.finished.ledger import Ledger
from bulkspider.disk.finished.line import STATUSES, LedgerLine, LineVerdict, judge_line
from bulkspider.errors import DiskError
from support.memory import held_by_python


def line(name: str = "a/b.bin", **changes: Any) -> LedgerLine:
    plain = LedgerLine(
        name=name,
        key="k" * 64,
        size=10,
        mtime_ns=1_700_000_000_123_456_789,
        digests={"sha256": "a" * 64},
        flags=(),
        status="verified",
        time=1_700_000_000.5,
    )
    return replace(plain, **changes)


def loaded(folder: Path, writer: str | None = None) -> Ledger:
    ledger = Ledger(folder, writer)
    ledger.load()
    return ledger


# A file name can be any text, and bytes that are not UTF-8 appear as U+DC80 to U+DCFF.
NAMES = st.text(st.one_of(st.characters(codec="utf-8"), st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF)))
LINES = st.builds(
    LedgerLine,
    name=NAMES,
    key=st.text(),
    size=st.integers(0, 2**63),
    mtime_ns=st.integers(-(2**63), 2**63),
    digests=st.dictionaries(st.sampled_from(["sha256", "md5"]), st.text()),
    status=st.sampled_from(sorted(STATUSES)),
    flags=st.lists(st.text()).map(tuple),
    time=st.floats(0, 1e12),
    url=st.none() | st.text(),
    etag=st.none() | st.text(),
    last_modified=st.none() | st.text(),
)


# A line


@settings(deadline=None)
@given(LINES)
def test_any_line_round_trips(written: LedgerLine) -> None:
    text = written.to_json()
    assert text.startswith('{"name": "')
    assert "\n" not in text
    assert LedgerLine.from_json(text) == LedgerLine.from_json(text.encode()) == written


def test_the_keys_of_a_line() -> None:
    record = json.loads(line(flags=("adopted",), url="https://host/x").to_json())
    assert list(record) == ["name", "key", "size", "mtime_ns", "digests", "status", "flags", "time", "url"]


def test_a_line_of_a_newer_version_is_read() -> None:
    record = {**json.loads(line().to_json()), "colour": "blue"}
    assert LedgerLine.from_json(json.dumps(record)) == line()


GOOD = json.loads(line().to_json())
WRONG_VALUES: list[dict[str, Any]] = [
    *({"name": 1}, {"key": None}, {"size": "10"}, {"size": 1.5}, {"size": True}, {"mtime_ns": None}, {"time": "now"}),
    *({"digests": []}, {"status": "failed"}, {"status": ["verified"]}, {"flags": None}),
]


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[]", "3", "null", '"name"', "{", "[" * 200_000, b"\xff", b"\0" * 50),
        *(json.dumps({**GOOD, **wrong}) for wrong in WRONG_VALUES),
        json.dumps(GOOD)[:-1] + ', "later": ' + "[" * 200_000,
        *(json.dumps({key: GOOD[key] for key in GOOD if key != missing}) for missing in ("name", "time", "flags")),
    ],
)
def test_a_damaged_line_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (json's own errors are ValueErrors too)
        LedgerLine.from_json(text)


# What it proves


@pytest.mark.parametrize(
    ("changes", "listed", "proof"),
    [
        ({}, {}, LineVerdict.PROVEN),
        ({}, {"size": 10}, LineVerdict.PROVEN),
        ({}, {"digests": {"sha256": "A" * 64}}, LineVerdict.PROVEN),
        ({"status": "unproven", "digests": {}}, {}, LineVerdict.PROVEN),
        ({}, {"key": "other"}, LineVerdict.KEY_DIFFERS),
        ({"size": 11}, {"key": "other"}, LineVerdict.KEY_DIFFERS),
        ({"size": 11}, {}, LineVerdict.GONE),
        ({"size": 11}, {"size": 11}, LineVerdict.GONE),
        ({}, {"size": 11}, LineVerdict.CONTRADICTED),
        ({"mtime_ns": 1}, {"size": 11}, LineVerdict.CONTRADICTED),
        ({}, {"digests": {"sha256": "b" * 64}}, LineVerdict.CONTRADICTED),
        ({}, {"digests": {"md5": "c" * 32, "sha256": "b" * 64}}, LineVerdict.CONTRADICTED),
        ({"mtime_ns": 1}, {}, LineVerdict.STALE),
        ({"mtime_ns": 1}, {"digests": {"sha256": "b" * 64}}, LineVerdict.STALE),  # it may be the right file by now
        ({"mtime_ns": 1}, {"digests": {"md5": "c" * 32}}, LineVerdict.STALE),
        ({}, {"digests": {"md5": "c" * 32}}, LineVerdict.UNKNOWN_HASH),
        ({}, {"digests": {"sha256": "a" * 64, "md5": "c" * 32}}, LineVerdict.UNKNOWN_HASH),
        ({"digests": {}}, {"digests": {"sha256": "a" * 64}}, LineVerdict.UNKNOWN_HASH),
    ],
)
def test_what_a_line_proves(
    tmp_path: Path, changes: dict[str, Any], listed: dict[str, Any], proof: LineVerdict
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 10)
    os.utime(file, ns=(0, line().mtime_ns))
    today: dict[str, Any] = {"key": line().key, "size": None, "digests": {}, **listed}
    assert judge_line(line(**changes), stat=os.lstat(file), **today) is proof


def test_what_is_not_a_regular_file_is_gone(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    for path in (tmp_path / "link", tmp_path):
        stat = os.lstat(path)
        assert not stat_module.S_ISREG(stat.st_mode)
        same = line(size=stat.st_size, mtime_ns=stat.st_mtime_ns)
        assert judge_line(same, key=same.key, stat=stat, size=None, digests={}) is LineVerdict.GONE


# Writing and finding


@settings(deadline=None)
@given(st.lists(LINES, max_size=8))
def test_what_was_appended_is_found_at_once_and_by_the_next_run(lines: list[LedgerLine]) -> None:
    last = {each.name: each for each in lines}
    with tempfile.TemporaryDirectory() as folder:
        ledger = loaded(Path(folder))
        ledger.append(lines[:3])
        ledger.append(lines[3:])
        for reader in (ledger, loaded(Path(folder))):
            assert len(reader) == len(lines)
            assert {name: reader.find(name) for name in last} == last
            assert reader.find("\0no such name") is None
            assert reader.damaged == 0
            reader.close()


WRITERS = [None, "1-of-2", "worker.7"]
STEPS = st.lists(st.tuples(st.sampled_from(range(3)), st.lists(st.sampled_from("abc"), max_size=3)), max_size=12)


@settings(deadline=None)
@given(STEPS, st.data())
def test_the_last_line_of_a_file_and_the_latest_among_files_counts(
    steps: list[tuple[int, list[str]]], data: st.DataObject
) -> None:
    model: dict[str, dict[int, LedgerLine]] = {}
    with tempfile.TemporaryDirectory() as folder:
        ledgers = [loaded(Path(folder), writer) for writer in WRITERS]
        for number, (writer, names) in enumerate(steps):
            lines = [line(name, size=number, time=data.draw(st.integers(0, 5)) + writer / 10) for name in names]
            ledgers[writer].append(lines)
            for each in lines:
                model.setdefault(each.name, {})[writer] = each
            assert all(ledgers[writer].find(each.name) is not None for each in lines)
        for each_ledger in ledgers:
            each_ledger.load()
            for name in "abc":
                expected = max(model.get(name, {}).values(), key=lambda each: each.time, default=None)
                assert each_ledger.find(name) == expected
            each_ledger.close()


def test_names_of_one_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "HASH_MASK", 0)
    lines = [line(f"name {number}", size=number) for number in range(20)]
    ledger = loaded(tmp_path)
    ledger.append(lines)
    for reader in (ledger, loaded(tmp_path)):
        assert [reader.find(each.name) for each in lines] == lines
        assert reader.find("name 20") is None


def test_a_folder_with_more_ledgers_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "OPEN_FILES_MAX", 2)
    lines = [line(f"name {number}") for number in range(7)]
    for number, each in enumerate(lines):
        writer = loaded(tmp_path, str(number))
        writer.append([each])
        writer.close()
    (tmp_path / "ledger.empty.jsonl").touch()
    reader = loaded(tmp_path)
    open_before = len(os.listdir("/dev/fd"))
    for each in [*lines, *reversed(lines)]:
        assert reader.find(each.name) == each
    assert len(os.listdir("/dev/fd")) <= open_before + 2
    reader.close()
    assert len(os.listdir("/dev/fd")) == open_before


def test_other_files_of_the_folder_are_no_ledgers(tmp_path: Path) -> None:
    for name in ("list", "lock", "control.json", "ledger.jsonl.old", "my-ledger.jsonl"):
        (tmp_path / name).write_text(line(name).to_json() + "\n")
    assert len(loaded(tmp_path)) == 0


def test_a_line_longer_than_one_read_is_found(tmp_path: Path) -> None:
    long = line(url="https://host/" + "x" * 50_000)
    ledger = loaded(tmp_path)
    ledger.append([long, line("next")])
    assert ledger.find(long.name) == long


def test_a_closed_ledger_can_be_used_again(tmp_path: Path) -> None:
    ledger = loaded(tmp_path)
    ledger.append([line("a")])
    ledger.close()
    assert ledger.find("a") == line("a")
    ledger.append([line("b")])
    assert loaded(tmp_path).find("b") == ledger.find("b") == line("b")


def test_without_a_folder_there_is_nothing_to_read_and_nowhere_to_write(tmp_path: Path) -> None:
    ledger = loaded(tmp_path / "absent")
    assert ledger.find("a") is None
    with pytest.raises(DiskError):
        ledger.append([line()])


def test_lines_ready_together_cost_one_write_and_one_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = loaded(tmp_path)
    ledger.append([line("first")])  # also flushes the folder, for the new file
    calls: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        real: Callable[..., Any] = getattr(os, name)

        def call(*args: Any) -> Any:
            calls.append(name)
            return real(*args)

        return call

    for name in ("write", "fsync"):
        monkeypatch.setattr(os, name, counted(name))
    ledger.append([line(str(number)) for number in range(500)])
    ledger.append([])
    assert calls == ["write", "fsync"]


def test_the_first_line_flushes_the_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(stat_module.S_ISDIR(os.fstat(fd).st_mode)))
    loaded(tmp_path).append([line()])
    assert flushed == [False, True]


def test_a_ledger_is_read_by_one_thread_while_another_writes(tmp_path: Path) -> None:
    ledger = loaded(tmp_path)
    lines = [line(f"name {number}", size=number) for number in range(400)]
    written = threading.Event()
    wrong: list[str] = []

    def read() -> None:
        while not written.is_set():
            for each in lines:
                if ledger.find(each.name) not in (None, each):
                    wrong.append(each.name)

    reader = threading.Thread(target=read)
    reader.start()
    for first in range(0, 400, 10):
        ledger.append(lines[first : first + 10])
    written.set()
    reader.join()
    assert not wrong
    assert [ledger.find(each.name) for each in lines] == lines


# Crash and damage


def test_a_line_torn_at_any_byte_is_skipped_and_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # a thousand real ones take long
    file = tmp_path / "ledger.jsonl"
    lines = [line("plain"), line('quo"ted\n'), line("grün", flags=("adopted",))]
    whole = "".join(f"{each.to_json()}\n" for each in lines).encode()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        file.write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends)
        torn = cut not in (0, *ends)
        ledger = loaded(tmp_path)
        assert (len(ledger), ledger.damaged) == (kept, torn)
        assert [ledger.find(each.name) for each in lines] == lines[:kept] + [None] * (3 - kept)

        ledger.append([line("later")])
        assert ledger.find("later") == line("later")
        ledger.close()
        again = loaded(tmp_path)
        kept += cut + 1 in ends  # only the end of line was torn off: nothing is lost
        assert [again.find(each.name) for each in lines] == lines[:kept] + [None] * (3 - kept)
        assert again.find("later") == line("later")
        again.close()


@settings(deadline=None)
@given(
    st.integers(0, 2),
    st.binary(min_size=1, max_size=400).map(lambda junk: junk.replace(b"\n", b"\0")),
    st.integers(0, 400),
)
def test_a_damaged_line_spoils_no_other(which: int, junk: bytes, where: int) -> None:
    lines = [line("a"), line("b"), line("c")]
    raw = [f"{each.to_json()}\n".encode() for each in lines]
    where %= len(raw[which])
    raw[which] = (raw[which][:where] + junk)[: len(raw[which]) - 1].ljust(len(raw[which]) - 1, b"\0") + b"\n"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "ledger.jsonl").write_bytes(b"".join(raw))
        ledger = loaded(Path(folder))
        for number, each in enumerate(lines):
            assert ledger.find(each.name) in ([each] if number != which else [each, None])
        ledger.close()


def test_a_block_of_zeros_left_by_a_power_cut_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    file.write_bytes(line("a").to_json().encode() + b"\n" + b"\0" * 4096)
    ledger = loaded(tmp_path)
    ledger.append([line("b")])
    again = loaded(tmp_path)
    assert (again.find("a"), again.find("b"), again.damaged) == (line("a"), line("b"), 1)


def test_damage_inside_a_line_is_found_when_it_is_asked_for_and_the_line_before_counts(tmp_path: Path) -> None:
    older, newer = line("a", size=1), line("a", size=2).to_json().replace('"size": 2', '"size": x')
    (tmp_path / "ledger.jsonl").write_text(f"{older.to_json()}\n{newer}\n")
    ledger = loaded(tmp_path)
    assert (len(ledger), ledger.damaged) == (2, 0)
    assert ledger.find("a") == ledger.find("a") == older
    assert (len(ledger), ledger.damaged) == (1, 1)


def test_a_ledger_cut_behind_our_back_proves_nothing(tmp_path: Path) -> None:
    ledger = loaded(tmp_path)
    ledger.append([line("a"), line("b")])
    os.truncate(tmp_path / "ledger.jsonl", 20)
    assert ledger.find("a") is ledger.find("b") is None


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    ledger = loaded(tmp_path)
    ledger.append([line("a"), line("b")])
    assert (ledger.find("a"), ledger.find("b")) == (line("a"), line("b"))
    assert len(loaded(tmp_path)) == 2


@pytest.mark.parametrize("fits", [0, 1, 100, 300])
def test_a_full_disk_is_an_error_and_the_ledger_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    ledger = loaded(tmp_path)
    ledger.append([line("before")])
    room, write = [fits], os.write

    def full(fd: int, data: memoryview) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(fd, data[: room[0]])
        room[0] -= written
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DiskError, match=r"ledger\.jsonl: the file system is full") as caught:
            ledger.append([line("during"), line("during too")])
    assert (caught.value.code, caught.value.kind) == ("disk_full", Kind.STOP)
    assert ledger.find("during") is None
    ledger.append([line("after")])
    for reader in (ledger, loaded(tmp_path)):
        assert (reader.find("before"), reader.find("after")) == (line("before"), line("after"))


def test_a_failed_flush_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    ledger = loaded(tmp_path)
    with pytest.raises(DiskError) as caught:
        ledger.append([line()])
    assert caught.value.code == "io_error"
    assert ledger.find(line().name) is None


@pytest.mark.parametrize("writer", [None, "1"])
def test_a_ledger_that_is_a_symbolic_link_is_refused(tmp_path: Path, writer: str | None) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / "ledger.jsonl").symlink_to("elsewhere")
    for attempt in (Ledger(tmp_path, writer).load, lambda: Ledger(tmp_path).append([line()])):
        with pytest.raises(DiskError, match=r"ledger\.jsonl: a symbolic link") as caught:
            attempt()
        assert caught.value.code == "not_regular"
    assert not (tmp_path / "elsewhere").read_bytes()


def test_a_fifo_for_a_ledger_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ledger.x.jsonl")
    assert len(loaded(tmp_path)) == 0


# Size


def test_a_line_takes_at_most_16_bytes_of_memory(tmp_path: Path) -> None:
    template = line("NAME").to_json().replace("NAME", "data/{0:08d}.bin", 1)
    before, after = template.split("{0:08d}")
    (tmp_path / "ledger.jsonl").write_text("".join(f"{before}{number:08d}{after}\n" for number in range(50_000)))
    with held_by_python() as held:
        ledger = loaded(tmp_path)
    assert len(ledger) == 50_000
    assert held.bytes <= 16 * 50_000
    assert ledger.find("data/00049999.bin") == line("data/00049999.bin")
