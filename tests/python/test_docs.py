"""What docs/python.md shows is what happens: its examples run, against a server here in the place of example.org."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from bulkspider.api import partition
from support.faults import status
from support.faulty import FaultyOrigin, good
from support.readme import ROOT


def test_the_examples_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    files = dict.fromkeys(("a.fq.gz", "b.bin", "c.bin"), good)
    with FaultyOrigin({**files, "gone.bin": status(404)}) as origin:
        text = text.replace("https://example.org/", origin.url(""))
        test = doctest.DocTestParser().get_doctest(text, {}, "docs/python.md", None, 0)
        assert len(test.examples) > 10
        assert doctest.DocTestRunner().run(test).failed == 0


def test_the_examples_of_the_functions() -> None:
    assert doctest.testmod(partition).failed == 0
    assert doctest.testmod(partition).attempted
