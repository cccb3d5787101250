"""The spider's arguments: everything that can be wrong before the first byte is found here.

`prepare` checks arguments, settings and the whole list, and claims the output folder. Commands call it before the
reactor starts, so that a mistake ends with one clear sentence; in a foreign project the spider calls it itself.
`preview` checks the same for a dry run, which neither makes nor claims anything.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
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
from bulkspider.shards import Shard
from bulkspider.sources import ListSource, Source, check_list, folder_name
from bulkspider.sums import Sums, read_sums

logger = logging.getLogger(__name__)

# What says which entries of a list are meant: a queue was told that when the list was pushed.
LIST_OPTIONS = ("skip", "bad_lines", "match", "limit")
OF_A_LIST = ("list", *LIST_OPTIONS, "shard", "shard_by", "verify")
ARGUMENTS = ("list", "output", *LIST_OPTIONS, "sums", "verify", "report", "shard", "shard_by", "queue", "job")


@dataclass(frozen=True, slots=True)
class Given:
    """What only `scrapy bulk` can say: that the list is an input file of aria2, or which URLs stand in its place."""

    aria2: bool = False
    urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """Entries and a locked folder. list_path: the list, "" with a queue. sums_url: where a checksum file is to be
    fetched from first. report: the page to write, an absolute path. writer: as whom the run writes in a folder that it
    shares, None when it has it to itself.
    """

    folder: Folder
    source: Source
    list_path: str
    sums: Sums | None = None
    sums_url: str | None = None
    verify: bool = False
    report: str | None = None
    aria2: bool = False
    writer: str | None = None


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
    shard: Shard | None


def prepare(arguments: Mapping[str, str], settings: Mapping[str, Any], given: Given = Given()) -> Prepared:
    """Raises UsageError, ListError or DiskError, each of which says what to do; nothing is left open then."""
    if "queue" in arguments or "job" in arguments:
        return _prepare_worker(arguments, _options(arguments, settings), given)
    wanted = _read(arguments, settings, given)
    made = _missing(wanted.root)
    folder = Folder(wanted.root)
    try:
        if wanted.shard is None:
            folder.lock(exclusive=True)
        else:
            folder.lock_shard(wanted.shard.writer)
        source = wanted.check(folder.private)
    except BaseException:
        folder.close()
        if made and wanted.shard is None:
            # A bad list leaves no trace. Beside a shard, others may have begun already.
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
        writer=wanted.shard.writer if wanted.shard is not None else None,
    )


def _prepare_worker(arguments: Mapping[str, str], options: Options, given: Given) -> Prepared:
    """Asks Redis first: a worker of a job that nobody has pushed would end at once, as if all were done."""
    # Imported late: lists, and every other command of Scrapy, start sooner.
    from bulkspider.queue.job import Job, check_address
    from bulkspider.queue.redisqueue import RedisQueue

    url, name = arguments.get("queue"), arguments.get("job")
    if not url:
        raise UsageError(f"job={name}: on which Redis? Say queue=redis://HOST/0")
    check_address(url, name)
    if of_a_list := ["the URLs"] * bool(given.urls) + [f"argument {n}" for n in OF_A_LIST if n in arguments]:
        raise UsageError(
            f"{of_a_list[0]}: of a list, and the entries come from a queue; lists go to `scrapy bulkqueue push`"
        )
    report = _report(arguments.get("report"))
    sums, sums_url = _sums(arguments)
    assert name is not None
    with Job(url, name) as job:
        left = job.wait_until_there(logger.warning)
    queue = RedisQueue(url, name, entries=left, lease=options.lease, delay=options.retry_delay_max)
    folder = Folder(arguments.get("output") or os.path.join("output", name))
    try:
        folder.lock(exclusive=False)
    except BaseException:
        folder.close()
        raise
    return Prepared(folder, queue, "", sums, sums_url, report=report, writer=queue.worker)


def _missing(root: str) -> list[str]:
    """The folders that must be made for `root`, the innermost first."""
    path, missing = os.path.abspath(root), []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing


def preview(arguments: Mapping[str, str], settings: Mapping[str, Any], given: Given = Given()) -> Preview:
    """For a dry run. Raises UsageError or ListError."""
    if "queue" in arguments or "job" in arguments:
        raise UsageError("a dry run is for lists; `scrapy bulkqueue status` shows a queue")
    wanted = _read(arguments, settings, given)
    if wanted.verify:
        raise UsageError("a dry run asks the servers, verify asks nobody; choose one of the two")
    # The list's copy lives on without a name.
    with tempfile.TemporaryDirectory(prefix="bulkspider.") as folder:
        source = wanted.check(folder)
    return Preview(wanted.root, source, wanted.list_path, wanted.sums, wanted.sums_url)


def _options(arguments: Mapping[str, str], settings: Mapping[str, Any]) -> Options:
    unknown = [f"unknown argument {name}{nearest(name, ARGUMENTS)}" for name in arguments if name not in ARGUMENTS]
    if unknown:
        raise UsageError("\n".join([*unknown, f"known arguments: {', '.join(ARGUMENTS)}"]))
    options = Options.from_settings(settings)
    if options.fresh_url:
        load_hook(options.fresh_url)
    if options.metrics_port and importlib.util.find_spec("prometheus_client") is None:
        raise UsageError("BULK_METRICS_PORT needs the package prometheus-client: pip install 'bulkspider[metrics]'")
    return options


def _sums(arguments: Mapping[str, str]) -> tuple[Sums | None, str | None]:
    """A checksum file, or the URL of one."""
    sums = arguments.get("sums")
    if sums is not None and sums.startswith(("http://", "https://")):
        return None, sums
    return read_sums(sums) if sums else None, None


def _read(arguments: Mapping[str, str], settings: Mapping[str, Any], given: Given) -> _Wanted:
    options = _options(arguments, settings)
    path = "the command line" if given.urls else arguments.get("list")
    if not path:
        raise UsageError("which list? Say -a list=FILE (`name url` a line), for example -a list=input/tmp")
    options_of_list = list_options({name: arguments[name] for name in LIST_OPTIONS if name in arguments})
    verify = _choice(arguments, "verify", "0", {"0": "downloads", "1": "re-reads the output instead"})
    shard = _shard(arguments)
    if path != "-" and not given.urls and not os.path.exists(path):
        # Before the folder is made: a mistyped name leaves no trace.
        raise UsageError(f"{path}: no such list; give the path of a file with a line `name url` for each file")
    report = _report(arguments.get("report"))
    sums, sums_url = _sums(arguments)
    root = arguments.get("output") or os.path.join("output", "urls" if given.urls else folder_name(path))
    check = partial(
        check_list,
        path,
        **options_of_list,
        order=options.order,
        shard=shard,
        aria2=given.aria2,
        root=root,
        rows=rows_of(given.urls) if given.urls else None,
    )
    return _Wanted(path, root, check, sums, sums_url, verify == "1", report, shard)


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


def list_options(arguments: Mapping[str, str]) -> dict[str, Any]:
    """What `check_list` is to be told of LIST_OPTIONS. Raises UsageError."""
    if unknown := [name for name in arguments if name not in LIST_OPTIONS]:
        raise UsageError(f"unknown argument {unknown[0]}{nearest(unknown[0], LIST_OPTIONS)}")
    skip = _choice(arguments, "skip", "1", {"0": "reads the first line too", "1": "ignores it"})
    bad_lines = _choice(arguments, "bad_lines", "stop", {"stop": "ends before the first byte", "skip": "goes on"})
    limit = arguments.get("limit")
    if limit is not None and not limit.isdecimal():
        raise UsageError(f"argument limit={limit}: must be a number of entries")
    return {
        "skip": int(skip),
        "bad_lines": bad_lines,
        "match": arguments.get("match"),
        "limit": int(limit) if limit is not None else None,
    }


def _shard(arguments: Mapping[str, str]) -> Shard | None:
    if "shard" in arguments:
        return Shard.parse(arguments["shard"], arguments.get("shard_by", "entry"))
    if "shard_by" in arguments:
        raise UsageError("argument shard_by: it divides the list among shards; say which one, for example shard=3/16")
    return None


def _choice(arguments: Mapping[str, str], name: str, default: str, allowed: Mapping[str, str]) -> str:
    value = arguments.get(name, default)
    if value not in allowed:
        meanings = ", ".join(f"{choice} {meaning}" for choice, meaning in allowed.items())
        raise UsageError(f"argument {name}={value}: {meanings}")
    return value
