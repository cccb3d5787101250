"""Packages have ranks: an upper one may use a lower one, never the other way round. Read from the sources."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bulkspider

PACKAGE = Path(bulkspider.__file__).parent
TESTS = Path(__file__).parents[1]

# From the top. A package may use those below it, never one above; within a package, modules do not use each other in
# a circle. `bulkspider/addon.py` counts as the package `addon`, and so on.
LAYERS = (
    ("api",),
    ("commands",),
    ("addon", "settings"),
    ("status",),
    ("reporting",),
    ("spiders",),
    ("components",),
    ("dispatch",),
    ("walk",),
    ("small",),
    ("transfer",),
    ("run",),
    ("handover",),
    ("pumps",),
    ("sums",),
    ("wire",),
    ("auth",),
    ("queue",),
    ("lists",),
    ("failures",),
    ("disk",),
    ("entries",),
    ("hosts",),
    ("protocol",),
    ("items", "clock", "signals"),
    ("options", "workers"),
    ("errors", "resolver", "text", "timetable"),
    ("codes", "regex"),
)
RANK = {package: rank for rank, packages in enumerate(LAYERS) for package in packages}
# Known to everybody, and knowing nobody.
ABOVE_ALL = ("__init__", "demo")
# From here down all can be tested without a reactor, and works in any thread.
NO_TWISTED = (
    "disk",
    "entries",
    "hosts",
    "protocol",
    "items",
    "options",
    "workers",
    "errors",
    "codes",
    "text",
    "regex",
    "timetable",
)
MOST_MODULES = 8
# Of one class, unless it gives a reason.
MOST_LINES, MOST_METHODS = 300, 25


def package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def only_for_types(tree: ast.Module) -> set[ast.AST]:
    """Everything below `if TYPE_CHECKING:`, which no program ever imports."""
    guards = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    return {inner for guard in guards for statement in guard.body for inner in ast.walk(statement)}


def imports(path: Path, *, types: bool = True) -> Iterator[tuple[str, str | None]]:
    """(module, name or None) of every import of a file, wherever it stands."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    passed = set() if types else only_for_types(tree)
    for node in ast.walk(tree):
        if node in passed:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)


def packages_used(path: Path, *, types: bool = False) -> set[str]:
    used = set()
    for module, name in imports(path, types=types):
        parts = module.split(".")
        if parts[0] == "bulkspider":
            used.add(parts[1] if len(parts) > 1 else name or "")
    return used - {package_of(path), "__version__", ""}


def test_every_package_has_its_place() -> None:
    packages = {package_of(path) for path in modules()}
    assert packages - set(RANK) - set(ABOVE_ALL) == set(), "place the new package in LAYERS"
    assert set(RANK) - packages == set(), "LAYERS names packages that are gone"


def test_a_package_has_few_modules_and_opens_with_a_paragraph_that_names_them() -> None:
    packages: dict[Path, int] = {}
    for path in modules():
        if path.name != "__init__.py" and path.parent != PACKAGE:
            packages[path.parent] = packages.get(path.parent, 0) + 1
    assert {package.name: count for package, count in packages.items() if count > MOST_MODULES} == {}
    for package in packages:
        text = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8")))
        assert text, f"{package.name}/__init__.py says nothing"
        modules_of = {path.stem for path in package.glob("*.py") if path.stem != "__init__"}
        unnamed = {name for name in modules_of if not re.search(rf"`{name}(\.py)?`", text)}
        assert not unnamed, f"{package.name}/__init__.py does not say what these are for: {unnamed}"


def test_no_package_uses_one_above_it() -> None:
    wrong = [
        f"{name_of(path)} uses {used}"
        for path in modules()
        for used in sorted(packages_used(path))
        if package_of(path) in RANK and used in RANK and RANK[used] < RANK[package_of(path)]
    ]
    assert wrong == []


def test_no_modules_use_each_other_in_a_circle() -> None:
    names = {name_of(path): path for path in modules()}
    uses: dict[str, set[str]] = {}
    for name, path in names.items():
        used = {
            module if f"{module}.{part}" not in names else f"{module}.{part}"
            for module, part in imports(path, types=False)
        }
        # A package's own opening says nothing that its modules could need.
        uses[name] = {module for module in used & set(names) if not name.startswith(f"{module}.")} - {name}
    done: set[str] = set()
    while len(done) < len(uses):
        free = {name for name, used in uses.items() if name not in done and used <= done}
        assert free, f"a circle among {sorted(set(uses) - done)}"
        done |= free


def test_from_the_disk_down_nobody_knows_twisted_or_scrapys_core() -> None:
    below = [path for path in modules() if package_of(path) in NO_TWISTED]
    reached = [(name_of(path), module) for path in below for module, _ in imports(path)]
    assert [use for use in reached if use[1].split(".")[0] in ("twisted", "scrapy")] == []


def test_from_the_disk_down_importing_all_loads_no_twisted() -> None:
    names = [name_of(path) for path in modules() if package_of(path) in NO_TWISTED]
    code = (
        f"import sys, {', '.join(names)}; print([m for m in sys.modules if m.split('.')[0] in ('twisted', 'scrapy')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_importing_the_package_and_its_public_names_installs_no_reactor() -> None:
    for code in (
        "import bulkspider",
        "from bulkspider import Addon",
        "from bulkspider import " + ", ".join(bulkspider.__all__),
        "import bulkspider.settings, bulkspider.commands.bulk, bulkspider.commands.project.crawl",
    ):
        check = f"{code}\nimport sys; print('twisted.internet.reactor' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == ("False\n", ""), code


def test_the_second_process_imports_neither_twisted_nor_scrapy() -> None:
    check = "import sys, bulkspider.small.process; print({'twisted', 'scrapy', 'w3lib'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_all_public_names_can_be_had() -> None:
    assert {"Addon", "BulkDownloadHandler", "BulkFilesPipeline", "BulkItem", "BulkPipeline", "BulkSpider"} <= set(
        bulkspider.__all__
    )
    assert all(callable(getattr(bulkspider, name)) for name in bulkspider.__all__)


# --- Private names ----------------------------------------------------------------------------------------------------


# Methods of named tuples, which are public whatever their names look like.
PUBLIC = ("_replace", "_asdict", "_fields", "_make")


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__")) and name not in PUBLIC


def private_imports(path: Path) -> list[str]:
    """Private modules or names that are imported from anybody else (`from scrapy.x import _y`, `import scrapy._z`)."""
    return [
        f"{module}.{name or ''}"
        for module, name in imports(path)
        if any(is_private(part) for part in module.split(".")) or (name is not None and is_private(name))
    ]


def own_privates(path: Path) -> set[str]:
    """The private names that a file itself gives: attributes, slots, methods, functions, fields, classes."""
    given: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            given.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            given.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            given.add(node.id)
    return {name for name in given if is_private(name)}


# A name of ours in a string.
OF_OURS = re.compile(r"bulkspider(\.\w+)+(:[\w.]+)?")


def named(function: ast.expr) -> str | None:
    return (
        function.id
        if isinstance(function, ast.Name)
        else function.attr
        if isinstance(function, ast.Attribute)
        else None
    )


def foreign_privates(path: Path, ours: set[str]) -> list[str]:
    """Private attributes that a file reads or sets (also by getattr and the like, or by a name in a string) and that
    are not `ours`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = None
        if isinstance(node, ast.Attribute):
            name = node.attr
        elif isinstance(node, ast.Call) and named(node.func) in ("getattr", "hasattr", "setattr", "delattr"):
            name = str(node.args[1].value) if isinstance(node.args[1], ast.Constant) else None
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and OF_OURS.fullmatch(node.value):
            # As the sabotage of the tests names a function: "package.module:Class.method".
            name = next(filter(is_private, re.split("[.:]", node.value)), None)
        # os._exit is a documented name.
        if name is not None and is_private(name) and name not in ours and name != "_exit":
            found.append(f"line {node.lineno}: {name}")
    return found


# Not of ours: the interpreter's and Scrapy's, which tests of what they do have no other way to.
OF_OTHERS = ("_getframe", "_close_pipe_fds", "_sslobj", "_apply_settings", "_split_domain")


def test_tests_touch_no_private_names_of_ours() -> None:
    for path in sorted(TESTS.rglob("*.py")):
        if "gate" in path.parts:
            continue
        ours = {*own_privates(path), *OF_OTHERS}
        found = [found for found in foreign_privates(path, ours) if not found.endswith("__")]
        imported = [name for name in private_imports(path) if not name.startswith("_")]
        assert (found, imported) == ([], []), path


def test_only_the_wire_touches_private_names_of_scrapy_and_twisted() -> None:
    wire = [path for path in modules() if package_of(path) == "wire"]
    ours = set().union(*map(own_privates, modules()))
    assert any(map(private_imports, wire)), "nothing private is imported there? then this test sees nothing"
    assert any(foreign_privates(path, ours) for path in wire), (
        "nothing private is read there? then this test sees nothing"
    )
    for path in modules():
        if path not in wire:
            assert private_imports(path) == [], name_of(path)
            assert foreign_privates(path, ours) == [], name_of(path)


def test_only_the_wire_the_run_and_its_threads_know_the_reactor() -> None:
    knowing = {name_of(path) for path in modules() if ("twisted.internet", "reactor") in set(imports(path))}
    assert {name for name in knowing if not name.startswith(("bulkspider.wire.", "bulkspider.demo."))} <= {
        "bulkspider.run.run",
        "bulkspider.pumps.threads",
    }


def test_large_classes_say_why() -> None:
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                methods = sum(isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)) for inner in node.body)
                small = lines <= MOST_LINES and methods <= MOST_METHODS
                assert small or "One class, because" in (ast.get_docstring(node) or ""), (node.name, lines, methods)


def test_tests_use_each_other_only_by_support() -> None:
    """What two tests need stands in `tests/support` (or in the package of the gate, or beside the benchmarks)."""
    names = {path.stem for path in TESTS.rglob("test_*.py")} | {"conftest"}
    found = []
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [f"{path.relative_to(TESTS)}: {module}" for module in modules if module.split(".")[-1] in names]
    assert not found


def test_only_what_others_get_or_set_is_a_dataclass() -> None:
    """A dataclass takes thirty times as long to define as a struct: a hundred of them would be a tenth of each start."""
    makers = {name_of(path) for path in modules() if ("dataclasses", "dataclass") in imports(path)}
    assert makers == {"bulkspider.items", "bulkspider.options"}
