"""The recipes of docs/engines.md, run by the engines themselves. `tox -e engines` installs what pip can; an engine that is not
there is skipped, never imitated."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.faults import cut_after
from support.faulty import FaultyOrigin, good
from support.recipes import BODY, all_there, recipe

pytestmark = pytest.mark.timeout(600)
FILES = {f"{number}.bin": good for number in range(6)}


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs("distributed")
def test_dask(tmp_path: Path) -> None:
    with FaultyOrigin(FILES) as origin:
        (tmp_path / "recipe.py").write_text(recipe("Dask", origin, tmp_path / "out"))
        out = run(sys.executable, "recipe.py", cwd=tmp_path)
    assert f"{6 * len(BODY)} bytes are there" in out
    assert all_there(tmp_path / "out", 6)


@needs("distributed")
def test_dask_is_told_what_failed(tmp_path: Path) -> None:
    """A FetchError passes through the cluster, with its rows."""
    script = """
import bulkspider
from dask.distributed import Client, LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        try:
            client.submit(bulkspider.fetch, ["URL/gone.bin"], "out").result()
        except bulkspider.FetchError as error:
            print(error.exit_status, error.rows[0]["error"]["code"])
"""
    with FaultyOrigin() as origin:
        (tmp_path / "script.py").write_text(script.replace("URL/", origin.url("")))
        assert run(sys.executable, "script.py", cwd=tmp_path).splitlines() == ["4 http_404"]


@needs("airflow")
def test_airflow(tmp_path: Path) -> None:
    home = {"AIRFLOW_HOME": str(tmp_path / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    home["AIRFLOW__CORE__DAGS_FOLDER"] = str(tmp_path / "dags")
    (tmp_path / "dags").mkdir()
    with FaultyOrigin(FILES) as origin:
        code = recipe("Airflow", origin, tmp_path / "out")
        (tmp_path / "dags/recipe.py").write_text(code)
        run(sys.executable, "-m", "airflow", "db", "migrate", cwd=tmp_path, **home)
        run(sys.executable, "-m", "airflow", "dags", "test", "download", cwd=tmp_path, **home)
    assert all_there(tmp_path / "out", 6)


@needs("pooch")
def test_pooch(tmp_path: Path) -> None:
    with FaultyOrigin({"0.bin": cut_after(100_000, "reset", times=1)}) as origin:
        (tmp_path / "recipe.py").write_text(recipe("pooch", origin, tmp_path / "out"))
        run(sys.executable, "recipe.py", cwd=tmp_path)
        ranges = [request.range for request in origin.requests]
    assert ranges[0] is None
    assert ranges[1] is not None
    assert all_there(tmp_path / "out", 1)
    # Nothing of ours stays in its cache.
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sample.bin"]


@needs("nbclient")
@needs("ipykernel")
def test_a_notebook(tmp_path: Path) -> None:
    """A kernel runs an asyncio loop of its own: both functions work in a cell."""
    import nbclient
    import nbformat

    cells = [
        "import bulkspider, sys",
        'rows = bulkspider.fetch(["URL/0.bin"], "out")\nrows[0]["status"]',
        'rows = await bulkspider.fetch_async(["URL/1.bin"], "out")\nrows[0]["status"]',
        'rows = bulkspider.fetch(["URL/2.bin"], "out", progress=True)\nrows[0]["status"]',
        "[name for name in sys.modules if name.startswith(('scrapy', 'twisted'))]",
    ]
    with FaultyOrigin(FILES) as origin:
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell.replace("URL/", origin.url(""))) for cell in cells]
        )
        nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()
    told = [cell.outputs[-1]["data"]["text/plain"] for cell in notebook.cells[1:]]
    assert told == ["'complete'", "'complete'", "'complete'", "[]"]
    line, _ = notebook.cells[3].outputs
    assert line["data"]["text/plain"].startswith("1 of 1 file, "), "one output that has changed"
    assert all_there(tmp_path / "out", 3)


@pytest.mark.skipif(shutil.which("nextflow") is None, reason="nextflow is not installed")
def test_nextflow(tmp_path: Path) -> None:
    with FaultyOrigin(FILES) as origin:
        write_list(tmp_path, origin)
        (tmp_path / "main.nf").write_text(recipe("Nextflow", origin, tmp_path / "out"))
        run("nextflow", "run", "main.nf", cwd=tmp_path, PATH=path_with_scrapy())
    assert all_there(tmp_path / "out", 6)


def write_list(folder: Path, origin: FaultyOrigin) -> None:
    (folder / "files.txt").write_text("name url\n" + "".join(f"{path} {origin.url(path)}\n" for path in FILES))


def path_with_scrapy() -> str:
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"
