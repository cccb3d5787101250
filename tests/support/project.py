"""Somebody else's Scrapy project, as `scrapy startproject` makes it, with the one line that adds bulkspider."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support import warm
from support.crawl import QUICK

PAGE = b"<html><head><title>a page</title></head><body>%s</body></html>"

SPIDER = """
import scrapy
from scrapy.exceptions import CloseSpider


class Shop(scrapy.Spider):
    name = "shop"
    site = ""
{body}
"""


class Project:
    """The project `shop` in a folder, with one spider of that name, called with `site=URL`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(_started(), folder, dirs_exist_ok=True)
        self.settings: dict[str, Any] = {
            "ADDONS": {"bulkspider.Addon": 500},
            "ROBOTSTXT_OBEY": False,
            "DOWNLOAD_DELAY": 0,
            "CONCURRENT_REQUESTS_PER_DOMAIN": 4,
        }
        self.log = ""
        self._template = (folder / "shop" / "settings.py").read_text()

    def write_spider(self, body: str) -> None:
        """body: of the class, indented by one step."""
        (self.folder / "shop" / "spiders" / "shop.py").write_text(SPIDER.format(body=body), encoding="utf-8")

    def start(self, site: str, *arguments: str, **settings: Any) -> subprocess.Popen[str]:
        return self._start(*self._crawl(site, arguments), settings=settings)

    def crawl(self, site: str, *arguments: str, status: int = 0, timeout: float = 60, **settings: Any) -> list[Any]:
        """Runs the spider; its items. The log is in `log`."""
        return self.wait(self.start(site, *arguments, **settings), status=status, timeout=timeout)

    def scrapy(self, *arguments: str, status: int = 0, timeout: float = 60, **settings: Any) -> str:
        """Runs any command; its output and log."""
        self.wait(self._start(*arguments, settings=settings), status=status, timeout=timeout)
        return self.log

    def wait(self, process: subprocess.Popen[str], *, status: int = 0, timeout: float = 60) -> list[Any]:
        try:
            self.log, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            self.log, _ = process.communicate()
            pytest.fail(f"the crawl hangs:\n{self.log}")
        assert process.returncode == status, self.log
        items = self.folder / "items.jsonl"
        return [json.loads(line) for line in items.read_text().splitlines()] if items.exists() else []

    def stop(self, process: subprocess.Popen[str]) -> list[Any]:
        """Ctrl-C."""
        process.send_signal(signal.SIGINT)
        return self.wait(process)

    def _crawl(self, site: str, arguments: tuple[str, ...]) -> list[str]:
        (self.folder / "items.jsonl").unlink(missing_ok=True)
        return ["crawl", "shop", "-a", f"site={site}", "-O", "items.jsonl", *arguments]

    def _start(self, *arguments: str, settings: Mapping[str, Any]) -> subprocess.Popen[str]:
        ours = "\n".join(f"{name} = {value!r}" for name, value in {**QUICK, **self.settings, **settings}.items())
        (self.folder / "shop" / "settings.py").write_text(f"{self._template}\n{ours}\n", encoding="utf-8")
        return warm.Popen(
            [sys.executable, "-m", "scrapy", *arguments],
            cwd=self.folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pipesize=1 << 20,  # a test that waits for something else reads it only at the end
            stderr=subprocess.STDOUT,
            text=True,
        )


@functools.cache
def _started() -> Path:
    """A project just made by Scrapy."""
    folder = Path(tempfile.mkdtemp(prefix="shop."))
    atexit.register(shutil.rmtree, folder)
    command = [sys.executable, "-m", "scrapy", "startproject", "shop", str(folder)]
    subprocess.run(command, env=_environment(), check=True, capture_output=True, timeout=60)
    return folder


def _environment() -> dict[str, str]:
    hidden = ("SCRAPY_SETTINGS_MODULE", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    return {name: value for name, value in os.environ.items() if name not in hidden}


def stat(log: str, name: str) -> int:
    """A number among the stats that Scrapy dumps at the end."""
    (line,) = [line for line in log.splitlines() if f"'{name}':" in line]
    return int(line.partition(f"'{name}':")[2].strip(" ,}"))
