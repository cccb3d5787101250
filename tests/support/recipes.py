"""The recipes of docs/engines.md, as they stand there, for a server and a folder here."""

from __future__ import annotations

import re
from pathlib import Path

from support.faulty import FaultyOrigin, make_body
from support.readme import ROOT

BODY = make_body()


def recipe(heading: str, origin: FaultyOrigin, output: Path) -> str:
    """The first block of code below a heading of the page."""
    page = (ROOT / "docs/engines.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    code = re.findall(r"^```\w+\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[0]
    return code.replace("https://example.org/", origin.url("")).replace("/mnt/out", str(output))


def all_there(output: Path, count: int) -> bool:
    """So many files, each right, and nothing unfinished."""
    files = [path for path in output.iterdir() if path.is_file()]
    return len(files) == count and all(path.read_bytes() == BODY for path in files)
