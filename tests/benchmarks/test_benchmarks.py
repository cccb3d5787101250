"""The benchmark's harness: it runs, it measures, and it proves the copies."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RUN = Path(__file__).parent / "run.py"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")

pytestmark = pytest.mark.skipif(
    not (NGINX and shutil.which("curl") and shutil.which("openssl")), reason="needs nginx, curl and openssl"
)


def bench(folder: Path, *arguments: str) -> dict[str, Any]:
    figures = folder / "figures.json"
    command = [sys.executable, str(RUN), "--rounds", "1", "--json", str(figures), "--where", str(folder), *arguments]
    for client in ("bulkspider", "curl -Z"):
        command += ["--client", client]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(figures.read_text())
    assert all("problem" not in row for s in found["scenarios"].values() for row in s["rows"].values()), done.stdout
    return found


@pytest.mark.parametrize("scenario", ["http", "https"])
def test_every_program_is_measured_and_its_copies_are_proven(tmp_path: Path, scenario: str) -> None:
    found = bench(tmp_path, "--scenario", scenario, "--size-factor", "0.0005")
    rows = found["scenarios"][scenario]["rows"]
    assert rows.keys() == {"bulkspider", "curl -Z"}
    for row in rows.values():
        assert row["wall"] > 0
        assert row["cpu_per_gb"] > 0
        assert row["peak"] > 1_000_000
    assert rows["curl -Z"]["wall_ratio"] == 1
    assert found["versions"].keys() >= {"Python", "Scrapy", "Twisted", "bulkspider", "curl -Z"}
    assert found["machine"]["cores"] >= 1


@pytest.mark.skipif(shutil.which("perf") is None, reason="needs perf")
def test_one_process_is_measured_beside_two(tmp_path: Path) -> None:
    script = RUN.with_name("oneprocess.py")
    arguments = ["--rounds", "1", "--scenario", "small", "--size-factor", "0.02", "--where", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=90, check=False
    )
    # So few files take hardly more than the start, and on a busy machine even less: what is told of them is tested with
    # given figures, below.
    assert re.search(r"; one process [\d.]+ s, two [\d.]+ s, by default [\d.]+ s\n$", done.stdout), done.stderr


def test_the_time_with_the_lock_is_told() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from oneprocess import Spent, TRANSFERS, told\n"
        "starts = [Spent(cpu=0.8, locked=0.7, futex=100)]\n"
        "for name, cpu, locked in ('small', 2.8, 1.7), ('many-https', 12.8, 3.7), ('small', 0.7, 0.6):\n"
        "    print(told(TRANSFERS[name], [Spent(cpu, locked, 8100)], starts, [3.0], [2.0], [1.5]))\n"
    )
    command = [sys.executable, "-c", script, str(RUN.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    walls = "one process 3.00 s, two 2.00 s, by default 1.50 s"
    assert done.stdout.splitlines() == [
        f"1.00 ms of CPU a file, 0.50 with the lock, 4.0 calls of futex; bound 2000 files/s; {walls}",
        f"2.79 s of CPU a GB, 0.698 with the lock, 1863 calls of futex; bound 1.4 GB/s; {walls}",
        f"too little work to tell it from the start; {walls}",
    ]


def test_lists_are_measured_without_being_fetched(tmp_path: Path) -> None:
    found = bench(tmp_path, "--scenario", "list", "--scenario", "rerun", "--size-factor", "0.0005")
    for row in found["scenarios"]["list"]["rows"].values():
        assert row["first_request"] > 0
    assert found["scenarios"]["rerun"]["rows"]["50 entries"]["entries_per_second"] > 0


def test_a_wrong_copy_is_not_counted(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "import nginx\n"
        "folder = Path(sys.argv[2])\n"
        "(folder / 'a').write_bytes(b'right')\n"
        "right = nginx.hashes(folder, ['a'])\n"
        "(folder / 'a').write_bytes(b'wrong')\n"
        "assert nginx.hashes(folder, ['a']) != right\n"
        "(folder / 'a').unlink()\n"
        "assert nginx.hashes(folder, ['a']) != right\n"
    )
    subprocess.run([sys.executable, "-c", script, str(RUN.parent), str(tmp_path)], check=True, timeout=30)


@pytest.mark.skipif(not shutil.which("aria2c"), reason="needs aria2c")
def test_hosts_that_are_far_away_are_measured(tmp_path: Path) -> None:
    command = [sys.executable, str(RUN.parent / "far.py"), "--rounds", "1", "--where", str(tmp_path)]
    command += ["--scenario", "far", "--size-factor", "0.01"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    for name in ("bulkspider", "aria2c -x16", "one"):
        assert f"\n{name}: " in done.stdout
    assert "hash" not in done.stdout
    assert "exit status" not in done.stdout


def test_the_forms_of_lists_are_measured() -> None:
    script = RUN.parent / "lists.py"
    command = [sys.executable, str(script), "--entries", "300", "--rounds", "1", "--form", "metalink", "--form", "ena"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == ["list", "ena", "metalink"]
