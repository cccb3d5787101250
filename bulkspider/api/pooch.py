"""`bulkspider.pooch`: a downloader for pooch, the fetcher of sample data in scientific Python.

    registry.fetch("big.nc", downloader=bulkspider.pooch)

pooch names a temporary file, checks its hash and renames it. Here the file is fetched in a folder beside that one, so
that a download that was stopped goes on with the next call; then it is moved to the name that pooch gave.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import Any

from bulkspider.api.fetch import fetch
from bulkspider.entries.urls import normal_url, url_key

# In the folder of pooch's cache; removed with its last part.
FOLDER = ".bulkspider-pooch"


def pooch(url: str, output_file: Any, pooch: Any, check_only: bool = False) -> bool | None:
    """As `pooch.HTTPDownloader`. Raises FetchError.

    output_file: a path, or a file open for writing. pooch: the caller; not used. check_only: only asks whether the file
    can be had.
    """
    if check_only:
        from urllib.request import Request, urlopen

        try:
            with urlopen(Request(url, method="HEAD")) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
    path = None if hasattr(output_file, "write") else os.path.abspath(output_file)
    root = os.path.join(os.path.dirname(path) if path else os.getcwd(), FOLDER)
    # A folder for each URL: two calls at once for two files share nothing.
    folder = os.path.join(root, url_key(normal_url(url))[:32])
    fetch([("file", url)], folder)
    whole = os.path.join(folder, "file")
    if path:
        os.replace(whole, path)
    else:
        with open(whole, "rb") as source:
            shutil.copyfileobj(source, output_file)
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # other files are under way
        os.rmdir(root)
    return None
