"""The SLURM recipe of docs/engines.md, by a real cluster of one node that the test starts: munge, slurmctld and slurmd."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.faulty import FaultyOrigin, good
from support.holding import Holds
from support.ondisk import wait_for
from support.recipes import all_there, recipe

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, ("slurmctld", "slurmd", "sbatch", "munged"))),
        reason="SLURM is not installed, or this is not root",
    ),
]
FILES = {f"{number}.bin": good for number in range(6)}
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of its commands."""
    place = tmp_path / "slurm"
    for folder in (place / "state", place / "spool"):
        folder.mkdir(parents=True)
    place.chmod(0o755)
    key = place / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    conf = place / "slurm.conf"
    host = socket.gethostname().split(".")[0]
    conf.write_text(CONF.format(host=host, ports=free_ports(2), place=place, cpus=os.cpu_count()))
    environment = {**os.environ, "SLURM_CONF": str(conf), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    munge = [f"--key-file={key}", f"--socket={place}/munge.socket", f"--pid-file={place}/munge.pid"]
    munge += [f"--log-file={place}/munge.log", f"--seed-file={place}/munge.seed"]
    commands = (
        ["munged", "--foreground", "--force", *munge],
        ["slurmctld", "-D", "-i", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf), "-N", host],
    )
    with ExitStack() as stack:
        for command in commands:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            if command[0] == "munged":
                wait_for((place / "munge.socket").exists)
        wait_for(lambda: "idle" in said(environment, "sinfo", "-h", "-o", "%T"))
        yield environment


def said(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def test_a_job_that_is_told_to_end_keeps_every_byte_and_goes_on_when_it_is_sent_again(
    tmp_path: Path, cluster: dict[str, str]
) -> None:
    """As --signal=B:TERM@60 tells it before its time is over, which here would take minutes."""
    holds = Holds(100_000, tmp_path / "out/0.bin.part")
    with FaultyOrigin({"0.bin": holds.behaviour()}) as origin:
        (tmp_path / "files.txt").write_text(f"name url\n0.bin {origin.url('0.bin')}\n")
        code = recipe("SLURM", origin, tmp_path / "out").replace("--array=1-3 ", "")
        (tmp_path / "job.sh").write_text(code.replace("$SLURM_ARRAY_TASK_ID/3", "1/1"))
        begun = ["sbatch", "--parsable", "job.sh"]
        job = subprocess.run(
            begun, cwd=tmp_path, env=cluster, capture_output=True, text=True, check=True
        ).stdout.strip()
        holds.wait()
        subprocess.run(["scancel", "--batch", "--signal=TERM", job], env=cluster, check=True)
        wait_for(lambda: "JobState=FAILED" in said(cluster, "scontrol", "show", "job", job))
        assert "ExitCode=143:0" in said(cluster, "scontrol", "show", "job", job)
        assert (tmp_path / "out/0.bin.part").stat().st_size >= 100_000
        subprocess.run(["sbatch", "--wait", "job.sh"], cwd=tmp_path, env=cluster, capture_output=True, check=True)
        assert origin.requests_for("0.bin")[-1].range is not None
    assert all_there(tmp_path / "out", 1)


def test_slurm(tmp_path: Path, cluster: dict[str, str]) -> None:
    with FaultyOrigin(FILES) as origin:
        (tmp_path / "files.txt").write_text("name url\n" + "".join(f"{path} {origin.url(path)}\n" for path in FILES))
        (tmp_path / "job.sh").write_text(recipe("SLURM", origin, tmp_path / "out"))
        done = subprocess.run(
            ["sbatch", "--wait", "job.sh"], cwd=tmp_path, env=cluster, capture_output=True, text=True, check=False
        )
        logs = "".join(path.read_text() for path in tmp_path.glob("slurm-*.out"))
        assert done.returncode == 0, done.stdout + done.stderr + logs
    assert len(list(tmp_path.glob("slurm-*.out"))) == 3
    assert all_there(tmp_path / "out", 6)
