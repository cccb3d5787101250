"""The contract with the installed Scrapy, Twisted and pyOpenSSL: each private name that `bulkspider/wire/` uses is there.

Read from our sources, so that a new one is watched from its first day on. It runs with the oldest and the newest Scrapy,
and with its master (`tox -e master`).
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import OpenSSL
import pytest
import scrapy
import twisted

import bulkspider

PACKAGE = Path(bulkspider.__file__).parent
WIRE = sorted((PACKAGE / "wire").rglob("*.py"))
# Where the classes are whose private attributes are used.
READ = [
    Path(scrapy.__file__).parent,
    Path(OpenSSL.__file__).parent,
    *(Path(twisted.__file__).parent / name for name in ("web", "internet", "protocols")),
]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def trees() -> Iterator[ast.Module]:
    for path in WIRE:
        yield ast.parse(path.read_text(encoding="utf-8"))


def imported() -> Iterator[tuple[str, str]]:
    """(module, name) of each import in which something is private."""
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("bulkspider"):
                for alias in node.names:
                    if is_private(alias.name) or any(map(is_private, node.module.split("."))):
                        yield node.module, alias.name


def defined() -> set[str]:
    """Private names of our own."""
    names: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
    return names


def read() -> set[str]:
    """Private attributes of others, also by getattr and hasattr."""
    names = set()
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("getattr", "hasattr")
            ) and isinstance(node.args[1], ast.Constant):
                names.add(str(node.args[1].value))
    return {name for name in names if is_private(name)} - defined()


@pytest.mark.parametrize(("module", "name"), sorted(set(imported())))
def test_a_private_name_can_be_imported(module: str, name: str) -> None:
    found = importlib.import_module(module)
    assert hasattr(found, name) or importlib.import_module(f"{module}.{name}")


def test_a_private_attribute_is_still_one_of_theirs() -> None:
    names = read()
    assert "_slot" in names, "nothing private is read there? then this test sees nothing"
    texts = "\n".join(path.read_text(encoding="utf-8") for folder in READ for path in folder.rglob("*.py"))
    assert {name for name in names if name not in texts} == set()
