"""What the forms of a manifest make of names that need care, and which lines of the ledgers count."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkspider.disk.finished.ledger import Ledger
from bulkspider.disk.finished.line import LedgerLine
from bulkspider.disk.folder.folder import Folder
from bulkspider.errors import UsageError
from bulkspider.handover import manifests

HASH = "ab" * 32


def line_of(name: str, url: str | None = "https://h/x?a=1&b=2", time: float = 1.0) -> LedgerLine:
    return LedgerLine(
        name=name,
        key="k",
        size=5,
        mtime_ns=1,
        digests={"sha256": HASH},
        flags=(),
        status="complete",
        time=time,
        url=url,
    )


@pytest.mark.parametrize(
    ("form", "name", "written"),
    [
        ("SHA256SUMS", "a b", f"{HASH}  a b\n"),
        ("SHA256SUMS", "a\\b\nc", f"\\{HASH}  a\\\\b\\nc\n"),
        ("bagit", "data/50% a\n", f"{HASH}  data/50%25 a%0A\n"),
        ("bagit", "other/a", ""),
    ],
)
def test_names(form: str, name: str, written: str) -> None:
    assert manifests.form_of(form).line(line_of(name), HASH) == written


@given(st.text(st.characters(exclude_categories=["C"]), min_size=1))
def test_a_table_and_a_metalink_give_back_every_name(name: str) -> None:
    table, metalink = manifests.form_of("csv"), manifests.form_of("metalink")
    line = line_of(name)
    assert list(csv.reader([table.line(line, HASH)])) == [[name, line.url, "5", HASH]]
    (file,) = ElementTree.fromstring((metalink.head() + metalink.line(line, HASH) + metalink.foot()).encode())
    assert (file.get("name"), file[2].text) == (name, line.url)


def test_a_metalink_has_no_url_that_had_a_secret() -> None:
    assert "<url>" not in manifests.form_of("metalink").line(line_of("a", "https://h/x?sig=***"), HASH)


def test_a_bag_with_another_manifest_or_encoding_is_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    form = manifests.form_of("bagit")
    manifests.prepare_folder(form, folder)
    manifests.prepare_folder(form, folder)
    (folder.root / "bagit.txt").write_text("BagIt-Version: 0.97\nTag-File-Character-Encoding: ISO-8859-1\n")
    with pytest.raises(UsageError, match="another encoding"):
        manifests.prepare_folder(form, folder)
    (folder.root / "manifest-md5.txt").touch()
    with pytest.raises(UsageError, match=r"manifest-md5\.txt would not be right"):
        manifests.prepare_folder(form, folder)
    folder.close()


@settings(deadline=None, max_examples=30)  # each has files
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12))
def test_the_lines_that_count_are_those_that_a_look_up_finds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("ledgers")
    ledgers = Ledger(folder), Ledger(folder, "other")
    for time, (name, other) in enumerate(steps):
        ledgers[other].append([line_of(name, time=float(time))])
    with (folder / "ledger.jsonl").open("a") as file:
        file.write('{"name": "torn')
    reader = Ledger(folder, "reader")
    reader.load()
    lines = list(reader.lines())
    assert {line.name: line for line in lines} == {name: reader.find(name) for name, _ in steps}
    assert len(lines) == len({name for name, _ in steps})
    for ledger in (*ledgers, reader):
        ledger.close()
