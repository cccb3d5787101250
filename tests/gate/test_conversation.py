"""Row by row: the same requests and the same outcome as the frozen version, when an origin or the disk misbehaves.

Both versions run at the same time, each with origins and a folder of its own. Concurrency is one connection for each
file and one origin for each row, so the order of requests to a file is fixed; time is compared nowhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gate.differences import passes
from gate.rows import BUSY, DISK, FRAMING, PACE, PATIENCE, RANGES, TIME, Row
from gate.scene import Scene
from support import record
from support.versions import PRESENT, Version

# The frozen version as well, with every row: for whoever rebuilds the engine.
pytestmark = pytest.mark.long


@dataclass(frozen=True)
class Table:
    """Rows of one crawl. counted: its stats are compared, too."""

    rows: tuple[Row, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    counted: bool = True


def ending(status: int) -> Table:
    return Table(tuple(row for row in (*RANGES, *FRAMING, *PACE, *DISK) if row.exit == status))


TABLES = {
    "ends-0": ending(0),
    "ends-3": ending(3),
    "ends-4": ending(4),
    "ends-5": ending(5),
    "busy": Table(BUSY, {"BULK_RETRY_TIMES": "3", "BULK_RETRY_AFTER_MAX": "3"}),
    "time": Table(
        TIME,
        {
            "BULK_RETRY_TIMES": "1",
            "BULK_CONNECT_TIMEOUT": "3",
            "BULK_HEADERS_TIMEOUT": "3",
            "BULK_STALL_TIMEOUT": "3",
        },
    ),
    "patience": Table(
        PATIENCE,
        {"BULK_ORIGIN_PATIENCE": "1", "BULK_CONNECT_TIMEOUT": "3", "BULK_HEADERS_TIMEOUT": "3"},
        counted=False,
    ),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TABLES)
def test_the_same_requests_and_outcomes(name: str, frozen: Version, tmp_path: Path) -> None:
    table = TABLES[name]
    with contextlib.ExitStack() as stack:
        scenes = {version: Scene(tmp_path / version.name, table.rows, stack) for version in (frozen, PRESENT)}
        running = {}
        for version, scene in scenes.items():
            version.check(scene.folder)
            started = version.start(
                scene.command(table.settings),
                cwd=scene.folder,
                report=scene.folder / "report.jsonl",
                environment=scene.environment,
            )
            running[version] = stack.enter_context(started)
        ended = {version: process.wait(300) for version, process in running.items()}
    ours, theirs = ended[PRESENT], ended[frozen]
    if name.startswith("ends-"):
        assert theirs.status == int(name[-1]), f"`exit` of a row is wrong:\n{theirs.log}"
    assert len(theirs.rows) == len(table.rows), theirs.log
    lines = [f"exit status: {theirs.status} -> {ours.status}"] if theirs.status != ours.status else []
    if table.counted:
        lines += record.differences("stats", record.of_stats(theirs.log), record.of_stats(ours.log))
    for row in table.rows:
        facts = [scenes[version].facts(row, ended[version]) for version in (frozen, PRESENT)]
        lines += record.differences(row.name, *facts, ignored=row.loose)
    passes(name, lines, ours)
