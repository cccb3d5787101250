"""Every call of the disk path fails once: no wrong name, no lost part, no hang, an honest end, and the next run ends it.

In the manner of curl's torture tests. The short form tries each call at its first and last occurrence and at some
others; `--long` tries all of them, with several error numbers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bulkspider.disk.files import statefile
from support.crawl import QUICK, Bulk, sha256
from support.faulty import FaultyOrigin, good, make_body

LARGE, SMALL = 6 * 1024 * 1024, 40_000
BODIES = {"large.bin": make_body(LARGE, "large"), "small.bin": make_body(SMALL, "small"), "deep/known.bin": make_body(SMALL, "known")}  # fmt: skip
SCRIPT = Path(__file__).parents[2] / "support" / "torture.py"
GOOD = ("verified", "complete")
#: After one of these has failed nobody knows what the disk has: such a run does not end well.
FLUSHES = ("fdatasync", "fsync")


def is_of_the_directory_of_a_state(met: str) -> bool:
    """A state whose name is lost in a power cut costs some bytes; not every file system has such a flush."""
    module, _, line = met.partition(":")
    return (
        module == "statefile.py"
        and "os.fsync(dir_fd)" in Path(statefile.__file__).read_text().splitlines()[int(line) - 1]
    )


@pytest.mark.timeout(3600)
def test_each_call_of_the_disk_path_fails_once(bulk: Bulk, pytestconfig: pytest.Config) -> None:
    long = pytestconfig.getoption("--long")
    with FaultyOrigin({name: (good, body) for name, body in BODIES.items()}) as origin:
        lines = [f"{name} {origin.url(name)}" for name in BODIES]
        lines[-1] += f" sha256={sha256(BODIES['deep/known.bin'])}"
        bulk.write_list(lines)
        settings = {
            **QUICK,
            "ADDONS": {"bulkspider.Addon": 500},
            "LOG_LEVEL": "CRITICAL",
            "TELNETCONSOLE_ENABLED": False,
            "BULK_PROGRESS": "off",
            "BULK_CHECKPOINT": "2M",
            "BULK_ORIGIN_PATIENCE": "1",
        }
        plan = {
            "folder": str(bulk.folder),
            "settings": settings,
            "names": list(BODIES),
            "seed": 19,
            "errnos": ["EIO", "ENOSPC", "EACCES", "EMFILE"] if long else ["EIO"],
            "most": 0 if long else 12,
        }
        path = bulk.folder / "plan.json"
        path.write_text(json.dumps(plan))
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(path)],
            cwd=bulk.folder,
            env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])},
            capture_output=True,
            text=True,
            timeout=3600,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        counted, *points = [json.loads(line) for line in done.stdout.splitlines()]
        assert points
        assert {row["status"] for row in counted["first"]["rows"]} <= set(GOOD), counted
        for call in ("open", "pwrite", "fdatasync", "fsync", "rename", "fstatvfs", "thread"):
            assert counted["counts"].get(call), f"{call} is not on the way any more: {counted['counts']}"
        right = {name: sha256(body) for name, body in BODIES.items()}
        wrong = []
        for point in points:
            where = f"{point['call']} {point['number']} {point['errno']} at {point['broken']['met']}"
            found, again = point["broken"], point["again"]
            statuses = {row["name"]: row["status"] for row in found["rows"]}
            if found["hung"] or again["hung"]:
                wrong.append(f"{where}: hangs")
            if any(right[name] != digest for name, digest in point["after"].items()):
                wrong.append(f"{where}: a wrong file under its name")
            named = [name for name, status in statuses.items() if status in GOOD and name not in point["after"]]
            if named:
                wrong.append(f"{where}: {named} said to be there")
            if found["status"] == 0 and sorted(statuses.values()) != ["complete", "complete", "verified"]:
                wrong.append(f"{where}: {found['rows']}, and exit status 0")
            if (
                point["call"] in FLUSHES
                and found["met"]
                and not is_of_the_directory_of_a_state(found["met"])
                and set(statuses.values()) <= set(GOOD)
                and found["status"] == 0
            ):
                wrong.append(f"{where}: a flush that failed, and all is said to be good")
            if point["last"] != right or again["refused"]:
                wrong.append(f"{where}: the next run left {sorted(set(right) - set(point['last']))} ({again})")
        print(f"{len(points)} points of {sum(counted['counts'].values())} calls")
        assert wrong == [], "\n".join(wrong)
