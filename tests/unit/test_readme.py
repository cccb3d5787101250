"""The README's tables say what the code does: same settings, arguments, fields and codes, nothing more and nothing less."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from scrapy.settings import Settings

from bulkspider import codes, errors
from bulkspider.commands.bulk import Command
from bulkspider.components import meta
from bulkspider.items import RESULT_KEYS, BulkItem
from bulkspider.options import Options
from bulkspider.run.outcomes import STATUSES
from bulkspider.spiders.arguments.reading import ARGUMENTS
from support.readme import PAGES, README, ROOT, section, table

# Options without a value, and values for those that take only certain ones.
FLAGS = ("--failed", "--status", "--recurse", "--verify", "--then-moves", "--dry-run", "-q", "-v", "--no-color")
WORDS = {"--bad-lines": "skip", "--order": "largest", "--names": "path"}
SOURCES = sorted((ROOT / "bulkspider").rglob("*.py"))


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


def test_options_of_the_command() -> None:
    """Every option that is another name for something, and for what."""
    told = table("A list and a shell")
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    command = Command()
    command.settings = Settings()
    command.add_options(parser)
    named = {option.split()[0]: [re.split("[= ]", way)[1] for way in told[option][0].split("-")[1:]] for option in told}
    ours = {
        **{option: (name,) for option, name in Command.arguments.items()},
        **Command.options,
        **{flag: tuple(settings) for flag, settings in Command.flags.items()},
        **{name: (name,) for name in ("verify", "then_moves", "recurse", "failed", "status")},
    }
    for option, names in named.items():
        destination = vars(parser.parse_args([option] if option in FLAGS else [option, WORDS.get(option, "1")]))
        (key,) = [key for key, value in destination.items() if value != parser.get_default(key)]
        assert key == "dry_run" or tuple(names) == ours.pop(key), option
    assert ours == {}


# How the README calls the types of BulkItem's fields.
TYPES = {
    "int": "number",
    "float": "number",
    "str": "text",
    "bool": "true/false",
    "list[str]": "list of texts",
    "dict[str, str]": "object",
    "dict[str, Any]": "object",
    "None": "null",
}


def test_fields_of_the_report() -> None:
    told = table("The report")
    assert list(told) == [field.name for field in fields(BulkItem)]
    for field in fields(BulkItem):
        kinds = [TYPES[kind] for kind in str(field.type).split(" | ")]
        assert told[field.name][0] == " or ".join(kinds), field.name


def test_keys_of_meta() -> None:
    told = table("Any request")
    assert tuple(told) == meta.KEYS
    assert all(len(cells) == 3 for cells in told.values()), "type, default and meaning"
    answer = section("Any request").split('`meta["bulk"]["result"]`')[1].split("[the report]")[0]
    assert tuple(re.findall(r"`(\w+)`", answer)) == RESULT_KEYS


def test_keys_of_a_files_result() -> None:
    (tree,) = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES if path.name == "filespipeline.py"]
    (result,) = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Dict)
        and "result" in ast.unparse(node.targets[0])
    ]
    assert list(table("Files of items")) == [key.value for key in result.keys if isinstance(key, ast.Constant)]


SETTERS = ("set_value", "inc_value", "_inc_value", "max_value", "min_value")


def stat_of(key: ast.expr) -> str:
    """The key of a stat; what varies in it is a word in capitals, as in the README."""
    if isinstance(key, ast.JoinedStr):
        return "".join(map(stat_of, key.values))
    if isinstance(key, ast.FormattedValue):
        return str(re.findall(r"\w+", ast.unparse(key.value))[-1]).upper()
    assert isinstance(key, ast.Constant), f"line {key.lineno}: a stat is to be named where it is set"
    return str(key.value)


def stats_in(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SETTERS:
            yield stat_of(node.args[0])


def test_stats() -> None:
    assert set(table("Stats")) == {key for path in SOURCES for key in stats_in(ast.parse(path.read_text("utf-8")))}


def test_statuses() -> None:
    assert tuple(table("The five outcomes")) == STATUSES


def test_error_codes() -> None:
    known = {code for path in SOURCES for code in codes_in(ast.parse(path.read_text(encoding="utf-8")))}
    known |= {code for code, _ in errors.DISK_CODES.values()} | {"disk_error"}
    known -= {"error"}  # the default of the base class, which nobody uses
    assert {*codes.TABLE, "http_NNN"} == known
    assert set(table("Error codes")) == known


def test_modules() -> None:
    modules = "\n".join(line for line in README.split("\n## The packages\n")[1].splitlines() if line[:1] == "|")
    told = set(re.findall(r"`(?:\w+/)*(\w+)(?:\.py|/)?`", modules))
    rooms = {path.relative_to(ROOT / "bulkspider").parts[0].removesuffix(".py") for path in SOURCES} - {"__init__"}
    assert rooms - told - {"spiders"} == set()


def anchors(page: Path) -> set[str]:
    """What a link may name on a page."""
    return {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).replace(" ", "-").lower()
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("#")
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    """Every link leads to a page or picture that is there, and to a heading on it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if "://" not in target:
            there = page if not path else (page.parent / path).resolve()
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target
