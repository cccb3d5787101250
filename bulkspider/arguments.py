"""The spider's arguments: everything that can be wrong before the first byte is found here.

`prepare` checks arguments, settings and the whole list, and claims the output folder. Commands call it before the
reactor starts, so that a mistake ends with one clear sentence; in a foreign project the spider calls it itself.
`preview` checks the same for a dry run, which neither makes nor claims anything.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from bulkspider.errors import UsageError
from bulkspider.folder import Folder
from bulkspider.freshurl import load_hook
from bulkspider.given import rows_of
from bulkspider.options import Options, nearest
from bulkspider.sources import ListSource, check_list, folder_name
from bulkspider.sums import Sums, read_sums

ARGUMENTS = ("list", "output", "skip", "bad_lines", "sums", "verify", "match", "limit", "report")


@dataclass(frozen=True, slots=True)
class Given:
    """What only `scrapy bulk` can say: that the list is an input file of aria2, or which URLs stand in its place."""

    aria2: bool = False
    urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked list and a locked folder. sums_url: where a checksum file is to be fetched from first.

    report: the page to write, an absolute path.
    """

    folder: Folder
    source: ListSource
    list_path: str
    sums: Sums | None = None
    sums_url: str | None = None
    verify: bool = False
    report: str | None = None
    aria2: bool = False


@dataclass(frozen=True, slots=True)
class Preview:
    """A checked list, and where its files would go. sums_url: as in Prepared."""

    root: str
    source: ListSource
    list_path: str
    sums: Sums | None = None
    sums_url: str | None = None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the arguments say. check: checks the list, and copies it into a folder."""

    list_path: str
    root: str
    check: Callable[[str | os.PathLike[str]], ListSource]
    sums: Sums | None
    sums_url: str | None
    verify: bool
    report: str | None


def prepare(arguments: Mapping[str, str], settings: Mapping[str, Any], given: Given = Given()) -> Prepared:
    """Raises UsageError, ListError or DiskError, each of which says what to do; nothing is left open then."""
    wanted = _read(arguments, settings, given)
    made = _missing(wanted.root)
    folder = Folder(wanted.root)
    try:
        folder.lock(exclusive=True)
        source = wanted.check(folder.private)
    except BaseException:
        folder.close()
        if made:
            # A bad list leaves no trace.
            shutil.rmtree(folder.private, ignore_errors=True)
            with contextlib.suppress(OSError):
                for path in made:
                    os.rmdir(path)
        raise
    return Prepared(
        folder,
        source,
        wanted.list_path,
        wanted.sums,
        wanted.sums_url,
        verify=wanted.verify,
        report=wanted.report,
        aria2=given.aria2,
    )


def _missing(root: str) -> list[str]:
    """The folders that must be made for `root`, the innermost first."""
    path, missing = os.path.abspath(root), []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing


def preview(arguments: Mapping[str, str], settings: Mapping[str, Any], given: Given = Given()) -> Preview:
    """For a dry run. Raises UsageError or ListError."""
    wanted = _read(arguments, settings, given)
    if wanted.verify:
        raise UsageError("a dry run asks the servers, verify asks nobody; choose one of the two")
    # The list's copy lives on without a name.
    with tempfile.TemporaryDirectory(prefix="bulkspider.") as folder:
        source = wanted.check(folder)
    return Preview(wanted.root, source, wanted.list_path, wanted.sums, wanted.sums_url)


def _read(arguments: Mapping[str, str], settings: Mapping[str, Any], given: Given) -> _Wanted:
    unknown = [f"unknown argument {name}{nearest(name, ARGUMENTS)}" for name in arguments if name not in ARGUMENTS]
    if unknown:
        raise UsageError("\n".join([*unknown, f"known arguments: {', '.join(ARGUMENTS)}"]))
    options = Options.from_settings(settings)
    if options.fresh_url:
        load_hook(options.fresh_url)
    if options.metrics_port and importlib.util.find_spec("prometheus_client") is None:
        raise UsageError("BULK_METRICS_PORT needs the package prometheus-client: pip install 'bulkspider[metrics]'")
    path = "the command line" if given.urls else arguments.get("list")
    if not path:
        raise UsageError("which list? Say -a list=FILE (`name url` a line), for example -a list=input/tmp")
    skip = _choice(arguments, "skip", "1", {"0": "reads the first line too", "1": "ignores it"})
    bad_lines = _choice(arguments, "bad_lines", "stop", {"stop": "ends before the first byte", "skip": "goes on"})
    verify = _choice(arguments, "verify", "0", {"0": "downloads", "1": "re-reads the output instead"})
    sums, sums_url = arguments.get("sums"), None
    if sums is not None and sums.startswith(("http://", "https://")):
        sums, sums_url = None, sums
    limit = arguments.get("limit")
    if limit is not None and not limit.isdecimal():
        raise UsageError(f"argument limit={limit}: must be a number of entries")
    if path != "-" and not given.urls and not os.path.exists(path):
        # Before the folder is made: a mistyped name leaves no trace.
        raise UsageError(f"{path}: no such list; give the path of a file with a line `name url` for each file")
    report = _report(arguments.get("report"))
    known_sums = read_sums(sums) if sums else None
    root = arguments.get("output") or os.path.join("output", "urls" if given.urls else folder_name(path))
    check = partial(
        check_list,
        path,
        skip=int(skip),
        bad_lines=bad_lines,
        match=arguments.get("match"),
        limit=int(limit) if limit is not None else None,
        order=options.order,
        aria2=given.aria2,
        root=root,
        rows=rows_of(given.urls) if given.urls else None,
    )
    return _Wanted(path, root, check, known_sums, sums_url, verify == "1", report)


def _report(path: str | None) -> str | None:
    """Checked now: after a day of downloads it is too late to say that there is no such folder."""
    if not path:
        return None
    if not path.lower().endswith((".html", ".htm")):
        raise UsageError(f"argument report={path}: it is an HTML page, say report=NAME.html; rows are -O report.jsonl")
    path = os.path.abspath(path)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise UsageError(f"argument report={path}: there is no folder {folder}; make it, or choose another")
    if os.path.isdir(path) or not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"argument report={path}: it cannot be written; choose another place")
    return path


def _choice(arguments: Mapping[str, str], name: str, default: str, allowed: Mapping[str, str]) -> str:
    value = arguments.get(name, default)
    if value not in allowed:
        meanings = ", ".join(f"{choice} {meaning}" for choice, meaning in allowed.items())
        raise UsageError(f"argument {name}={value}: {meanings}")
    return value
