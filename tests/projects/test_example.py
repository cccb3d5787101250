"""`scrapy bulk --example DIR`: the project that it writes runs offline, and goes on where it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from bulkspider.demo.content import Content

MIB = 1024 * 1024


def scrapy(folder: Path, *arguments: str, status: int = 0) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "SCRAPY_SETTINGS_MODULE"}
    done = subprocess.run(
        [sys.executable, "-m", "scrapy", *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_example_is_written_and_runs(tmp_path: Path) -> None:
    said = scrapy(tmp_path, "bulk", "--example", "library")
    assert said.endswith("cd library\n  scrapy crawl books\n")
    assert "something is there already; name a new folder" in scrapy(tmp_path, "bulk", "--example", "library", status=1)
    assert "nothing else" in scrapy(tmp_path, "bulk", "--example", "other", "list.txt", status=2)
    project = tmp_path / "library"
    for again in (False, True):
        log = scrapy(project, "crawl", "books")
        rows = {row["title"]: row for row in map(json.loads, (project / "books.jsonl").read_text().splitlines())}
        assert {title: len(row["files"]) for title, row in rows.items()} == {"Red": 2, "Green": 1, "Blue": 1}, log
        files = [file for row in rows.values() for file in row["files"]]
        assert {file["status"] for file in files} == {"uptodate" if again else "downloaded"}
        assert "missing.pdf: the origin answered 404" in log
        assert "Traceback" not in log
    whole = Content("green-1", 8 * MIB).read(0, 8 * MIB)
    path = project / "files" / rows["Green"]["files"][0]["path"]
    assert path.read_bytes() == whole
