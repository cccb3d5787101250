"""The original program, rewritten from its description: requests, a pool of threads, copyfileobj, resuming by size.

    python original.py LIST FOLDER THREADS

What it lacks (proof, comparison at a resume, patience) is what bulkspider is for; here it only gives the speed to beat.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests


def download(folder: Path, name: str, url: str) -> None:
    path = folder / name
    have = path.stat().st_size if path.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with requests.get(url, headers=headers, stream=True, verify=False, timeout=60) as response:
        if have and response.status_code == 416:
            return  # all of it is here
        response.raise_for_status()
        with open(path, "ab" if response.status_code == 206 else "wb") as file:
            shutil.copyfileobj(response.raw, file)


def main(list_path: str, output: str, threads: str) -> None:
    warnings.simplefilter("ignore")  # of urllib3, about the certificate
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    with open(list_path) as lines, ThreadPoolExecutor(int(threads)) as pool:
        next(lines)  # the heading
        for running in [pool.submit(download, folder, *line.split()) for line in lines]:
            running.result()


if __name__ == "__main__":
    main(*sys.argv[1:])
