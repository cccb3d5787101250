"""The README's tables say what the code does: same settings, arguments, fields and codes, nothing more and nothing less."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from bulkspider import errors
from bulkspider.arguments import ARGUMENTS
from bulkspider.items import BulkItem
from bulkspider.options import Options
from bulkspider.run import STATUSES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCES = sorted((ROOT / "bulkspider").rglob("*.py"))


def table(heading: str) -> dict[str, list[str]]:
    """The first table below a heading: first cell, without its backticks -> the other cells."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = re.search(r"^\|[-|]+\|\n((?:\|.*\n)+)", section, re.MULTILINE)
    assert rows is not None
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in rows[1].splitlines()]
    return {first.strip("`"): rest for first, *rest in cells}


def codes_in(tree: ast.Module) -> Iterator[str]:
    """Every code that an error may be given: `code="…"`, and the words that plan and transfer pass on by position."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "code":
            yield from codes_of(node.value)
        elif isinstance(node, ast.FunctionDef):
            yield from (
                default.value
                for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
                if argument.arg == "code" and isinstance(default, ast.Constant) and node.name == "__init__"
            )
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("without_range", "_break"):
                yield from codes_of(node.args[-1])


def codes_of(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        yield node.value
    elif isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
        yield f"{node.values[0].value}NNN"


def test_settings() -> None:
    told = table("Settings")
    known = {f"BULK_{field.name.upper()}": field for field in fields(Options)}
    assert list(told) == list(known)
    for name, field in known.items():
        default = told[name][0]
        assert (None if default == "none" else field.metadata["convert"](default)) == field.default, name


def test_arguments() -> None:
    assert sorted(table("Arguments")) == sorted(ARGUMENTS)


def test_fields_of_the_report() -> None:
    assert list(table("The report")) == [field.name for field in fields(BulkItem)]


def test_statuses() -> None:
    assert tuple(table("The five outcomes")) == STATUSES


def test_error_codes() -> None:
    known = {code for path in SOURCES for code in codes_in(ast.parse(path.read_text(encoding="utf-8")))}
    known |= {code for code, _, _ in errors._DISK_CODES.values()} | {"disk_error"}
    known -= {"error"}  # the default of the base class, which nobody uses
    assert set(table("Error codes")) == known


def test_modules() -> None:
    modules = "\n".join(line for line in README.split("\n## How an entry travels\n")[1].splitlines() if line[:1] == "|")
    told = set(re.findall(r"`(?:\w+/)*(\w+)(?:\.py|/)?`", modules))
    rooms = {path.relative_to(ROOT / "bulkspider").parts[0].removesuffix(".py") for path in SOURCES} - {"__init__"}
    assert rooms - told - {"spiders"} == set()


def test_links_within_the_page() -> None:
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).replace(" ", "-").lower()
        for line in README.splitlines()
        if line.startswith("#")
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) - headings == set()
