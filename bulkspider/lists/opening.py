"""Opens a list: checks all of it, and copies it, before anything is begun."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType

from bulkspider.disk.folder.opening import create_temporary
from bulkspider.errors import ListError, UsageError
from bulkspider.lists.checking.check import SKIP_OPTION, Check
from bulkspider.lists.checking.copy import Copy, copy_blocks, shown, write_lines
from bulkspider.lists.checking.shards import Shard
from bulkspider.lists.formats.choose import Opened, Reading
from bulkspider.lists.formats.row import as_lines, batches
from bulkspider.lists.listsource import Extent, ListSource


def check_list(
    path: str,
    folder: os.PathLike[str] | str | int,
    writer: str | None = None,
    *,
    skip: int = 1,
    bad_lines: str = "stop",
    match: str | None = None,
    limit: int | None = None,
    order: str = "list",
    reading: Reading = Reading(),
    root: str | None = None,
    rows: Iterable[bytes] | None = None,
    shard: Shard | None = None,
    names: Collection[str] | None = None,
    skip_option: str = SKIP_OPTION,
    check_name: Callable[[str], bool] | None = None,
    inputs: Mapping[str, str] = MappingProxyType({}),
) -> ListSource:
    """Checks the whole list at `path` ('-' is stdin) and copies it to `<folder>/list`, or `list.<writer>`.

    folder: its path, or an open descriptor of it. writer: whose copy it is among others, also without it that of a
    shard.
    skip: 1 ignores the first line, unless it is a header; 0 reads it. bad_lines: "stop" raises ListError with every bad
    line; "skip" leaves them in `bad`. match: a glob, case-sensitive, of the names to do. limit: the first so many of
    them. order: "list", or "smallest" or "largest" first. reading: how it is read. root: the output folder. rows: the
    list itself, in JSON Lines, read once; `path` is only what messages call it. shard: only what belongs to it,
    which may be nothing. names: only these. skip_option: how a user asks for skip=0. check_name: is given every name to
    do, and raises UsageError for one that does not fit. inputs: as of Check. Raises ListError or UsageError before
    anything was begun; `<folder>/list` is then what it was.
    """
    if skip not in (0, 1):
        raise UsageError(f"skip={skip}: only 0 and 1 are possible")
    if bad_lines not in ("stop", "skip"):
        raise UsageError(f"bad_lines={bad_lines}: write stop or skip")
    if limit is not None and limit < 1:
        raise UsageError(f"limit={limit}: write 1 or more")
    opened = Opened(Reading("list"), path, iter(())) if rows is not None else reading.look(path)
    reading = opened.reading
    check = Check(
        shown(opened.path),
        numbered=reading.format != "list",
        naming=reading.naming,
        json=rows is not None or path.lower().endswith((".jsonl", ".jsonl.gz")),
        skip=skip,
        keep=_filter(match, shard, names, check_name),
        stop=bad_lines == "stop",
        skip_option=skip_option,
        inputs=inputs,
    )
    temporary, copy, directory = "", None, -1
    try:
        directory = os.dup(folder) if isinstance(folder, int) else os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fd, temporary = create_temporary(directory, 0o600)  # lists hold signed URLs and headers
        copy = Copy(fd)
        form = opened.format(check.note, root)
        if form is not None:
            for made in as_lines(form.rows(opened.blocks), reading.naming):
                check.feed(write_lines(made.lines, fd), made.rows)
        elif rows is not None:
            for lines in batches(rows):
                check.feed(write_lines(lines, fd))
        else:
            for text in copy_blocks(opened.blocks, shown(path), fd):
                check.feed(text)
        if form is not None:
            check.warnings += form.warnings
        elif reading.base is not None:
            check.warnings.append(f"{shown(path)}: {_BASE_UNUSED}")
        check.settle(copy, limit, shard)
        if check.bad and bad_lines == "stop":
            raise check.error()
        if not len(check.index) and not check.bad and (shard is None or not check.good):
            raise ListError(_nothing_to_do(check, shown(path), match, reading, names is not None))
        if order != "list" and check.index.known_bytes:
            check.index.arrange(order, copy, check.form)
        writer = writer or (shard.writer if shard is not None else None)
        name = "list" if writer is None else f"list.{writer}"
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException as error:
        if copy is not None:
            copy.close()
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        if isinstance(error, OSError):
            where = ".bulkspider" if isinstance(folder, int) else os.fspath(folder)
            raise UsageError(f"cannot copy the list to {where}/list: {error.strerror}") from None
        raise
    finally:
        if directory >= 0:
            os.close(directory)
    last = None
    if limit is not None:
        last = max((max(queue.lines) for queue in check.index.queues.values() if queue.lines), default=0)
    extent = Extent(os.path.abspath(path), match, last)
    title = shown(path) if shard is None else f"shard {shard} of {shown(path)}"
    return ListSource(copy, check, title, reading, extent)


def _filter(
    match: str | None,
    shard: Shard | None,
    names: Collection[str] | None,
    check_name: Callable[[str], bool] | None,
) -> Callable[[str], object] | None:
    """Is true of the names to do; None: all."""
    tests: list[Callable[[str], object]] = []
    if names is not None:
        tests.append(names.__contains__)
    if match is not None:
        tests.append(re.compile(fnmatch.translate(match)).match)
    if shard is not None and shard.by == "entry":
        tests.append(shard.takes)
    if check_name is not None:
        tests.append(check_name)  # last: of names that are not to do it is not asked
    if len(tests) < 2:
        return tests[0] if tests else None
    return lambda name: all(test(name) for test in tests)


_BASE_UNUSED = "base= changes nothing of a list in our own form; --format urls and --format paths read relative entries"


def _nothing_to_do(check: Check, where: str, match: str | None, reading: Reading, of_names: bool) -> str:
    if check.good and of_names:
        return f"{where}: no entry of the list is among those that failed last time"
    if check.good:
        return f"{where}: no name in the list matches {match!r}; correct the glob"
    if reading.title:
        more = f"; {check.warnings[0]}" if check.warnings else ""
        return f"{where}: {reading.title} without a file{more}"
    if check.warnings:
        return f"{where}: the list has no entry; {check.ignored or check.warnings[0]}"
    return f"{where}: the list has no entry; write one per line, NAME and URL, below a first line that is ignored"


def folder_name(path: str) -> str:
    """The name of the output folder of a list: its file name without .gz and .txt, .csv, .tsv or .jsonl."""
    if path == "-":
        return "stdin"
    name = os.path.basename(path.rstrip("/"))
    for suffixes in ((".gz",), (".txt", ".csv", ".tsv", ".jsonl")):
        for suffix in suffixes:
            if name.lower().endswith(suffix):
                name = name[: -len(suffix)]
                break
    return name if name.strip(". ") else "list"
