"""The tables of the README and of docs/, for tests that hold them equal to the code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def section(heading: str) -> str:
    """The text below a heading of any level, up to the next one of that level or above."""
    start = re.search(rf"^(#+) {re.escape(heading)}\n", README, re.MULTILINE)
    assert start is not None, f"the README has no heading {heading!r}"
    return re.split(rf"^#{{1,{len(start[1])}}} ", README[start.end() :], maxsplit=1, flags=re.MULTILINE)[0]


def table(heading: str, first_column: str | None = None) -> dict[str, list[str]]:
    """The first table below a heading (or the one whose first column is so called): first cell, without its
    backticks -> the other cells."""
    head = re.escape(f"| {first_column} |") if first_column else r"\|"
    rows = re.search(rf"^{head}.*\n\|[-|]+\|\n((?:\|.*\n)+)", section(heading), re.MULTILINE)
    assert rows is not None, f"no such table below {heading!r}"
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in rows[1].splitlines()]
    return {first.strip("`"): rest for first, *rest in cells}
