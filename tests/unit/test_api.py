"""docs/api.md says what is so: its names are there, and its examples are typed as strictly as we are and load."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import bulkspider
from support.readme import ROOT, table

EXAMPLES = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "docs" / "api.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
)


def test_the_names_are_there_and_none_is_missing() -> None:
    told = set(table("Names"))
    for name in told:
        module, _, attribute = name.rpartition(".")
        try:
            importlib.import_module(name)
        except ImportError:
            assert hasattr(importlib.import_module(module), attribute), name
    assert {f"bulkspider.{name}" for name in bulkspider.__all__} <= told


def test_the_examples_are_typed_and_can_be_loaded(tmp_path: Path) -> None:
    assert len(EXAMPLES) >= 5
    files = []
    for number, text in enumerate(EXAMPLES):
        file = tmp_path / f"example_{number}.py"
        file.write_text(text, encoding="utf-8")
        files.append(str(file))
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path / 'cache'}", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    loaded = "import runpy, sys\nfor file in sys.argv[1:]: runpy.run_path(file)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", loaded, *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
