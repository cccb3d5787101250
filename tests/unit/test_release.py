"""What is released: two builds of the same sources are equal, and hold what they should."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md", ".gitignore", "bulkspider", "docs")


def build(folder: Path, *, hour: int, umask: int) -> dict[str, bytes]:
    """The files of a build, by name, of sources that were copied at some hour by somebody with this umask."""
    folder.mkdir(parents=True)
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, folder / name)
    for path in folder.rglob("*"):
        os.utime(path, (3600 * hour, 3600 * hour))
        if path.is_file():
            path.chmod(0o666 & ~umask)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", "built"],
        cwd=folder,
        env={**os.environ, "TZ": "UTC" if hour % 2 else "Asia/Tokyo", "PYTHONHASHSEED": str(hour)},
        umask=umask,
        check=True,
        capture_output=True,
    )
    return {path.name: path.read_bytes() for path in (folder / "built").iterdir()}


def test_two_builds_are_the_same(tmp_path: Path) -> None:
    first = build(tmp_path / "one", hour=400_001, umask=0o022)
    second = build(tmp_path / "somewhere" / "else", hour=410_000, umask=0o077)
    assert sorted(first) == sorted(second)
    assert len(first) == 2
    assert {name: first[name] == second[name] for name in first} == dict.fromkeys(first, True)
    (wheel,) = (tmp_path / "one" / "built").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"bulkspider", wheel.name.split("-py3")[0] + ".dist-info"}
    assert {"bulkspider/py.typed", "bulkspider/reporting/page.html", "bulkspider/auth/oauth2.py"} <= set(names)
    (sdist,) = (tmp_path / "one" / "built").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/SECURITY.md") for name in archive.getnames())
