"""Makes checked entries and a locked output folder from the arguments.

A `LockedOutput` reads arguments and settings and locks the output folder, and then checks the whole list; before the
check a walk may make the list. Commands do this before the reactor starts, so that a mistake ends with one clear
sentence; in another project the spider does it itself (`prepare`). An `UntouchedOutput` is the same for a dry run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from bulkspider.disk.folder.folder import Folder
from bulkspider.disk.folder.untouched import UntouchedFolder
from bulkspider.disk.leftovers.cleaning import remove_parts
from bulkspider.entries.urls import redact
from bulkspider.errors import UsageError
from bulkspider.handover.handing import Then
from bulkspider.handover.manifests import Bag, ManifestForm, prepare_folder
from bulkspider.lists.checking.copy import compare_with_other_shards
from bulkspider.lists.source import Source
from bulkspider.options import Options, plural
from bulkspider.spiders.arguments.reading import (
    OF_A_LIST,
    Given,
    read_manifest,
    read_options,
    read_output,
    read_report,
    read_sums,
    read_then,
    read_wanted,
)
from bulkspider.sums.checksums import Sums, SumsFile
from bulkspider.walk.record import Record, Walked

logger = logging.getLogger(__name__)


class Prepared(Struct, frozen=True):
    """Entries and a locked folder (for a dry run: an UntouchedFolder). list_path: the list, "" with a queue.
    remote_sums: a checksum file that must be fetched first. report: absolute path of the page to write. writer: the
    run's name in a folder that it shares, None when it has the folder to itself. walked: the walk that has made the
    list, None when the user gave a list. every_row: as in Given. manifest: the form of the manifest to write, None for
    none. then: the command for every proven file.
    """

    folder: Folder
    source: Source
    list_path: str
    sums: Sums | None = None
    remote_sums: SumsFile | None = None
    verify: bool = False
    report: str | None = None
    writer: str | None = None
    walked: Walked | None = None
    every_row: bool = False
    manifest: ManifestForm | None = None
    then: Then | None = None

    @property
    def needs_sha256(self) -> bool:
        """Every file must be hashed with SHA-256."""
        return self.manifest is not None or (self.then is not None and self.then.template.needs_sha256)


class LockedOutput:
    """The locked output folder before its list is checked. To be ended by `prepare` or `give_up`.

    plan: of the walk that makes the list first; None when the user gave a list. whole: the walk must read every page.
    """

    def __init__(
        self,
        arguments: Mapping[str, str],
        settings: Mapping[str, Any],
        given: Given = Given(),
        own: tuple[str, ...] = (),
    ) -> None:
        """Raises UsageError, ListError or DiskError; nothing is left open then. own: arguments of a subclass of the
        spider."""
        wanted = self._wanted = read_wanted(arguments, settings, given, own)
        self.plan = wanted.plan
        self.whole = wanted.bad_lines == "stop"
        self._every_row = given.every_row
        self._alone = wanted.shard is None and not given.shares
        self._writer: str | None = None
        self._made = _missing(wanted.root)
        self._folder = Folder(wanted.root)
        try:
            if wanted.shard is not None:
                self._writer = wanted.shard.writer
                self._folder.lock_shard(self._writer)
            elif given.shares:
                self._writer = self._folder.lock_as_one_of_many("fetch")
            else:
                self._folder.lock(exclusive=True)
        except BaseException:
            self.give_up()
            raise

    def record(self) -> Record:
        """Where a walk writes its list."""
        return Record(self._folder.private_fd, str(self._folder.private))

    def prepare(self, walked: Walked | None = None) -> Prepared:
        """Checks the list, or what a walk has made. Raises as the constructor does."""
        wanted, folder = self._wanted, self._folder
        path = wanted.list_path if walked is None else walked.list_path
        try:
            source = wanted.check(path, folder.private_fd, self._writer)
            if wanted.manifest is not None:
                prepare_folder(wanted.manifest, folder)
            if wanted.shard is not None:
                with contextlib.suppress(OSError):  # then nothing is noticed
                    source.warnings = [*source.warnings, *compare_with_other_shards(folder.private_fd, wanted.shard)]
        except BaseException:
            self.give_up()
            raise
        return Prepared(
            folder,
            source,
            path,
            wanted.sums,
            wanted.remote_sums,
            verify=wanted.verify,
            report=wanted.report,
            writer=self._writer,
            walked=walked,
            every_row=self._every_row,
            manifest=wanted.manifest,
            then=wanted.then,
        )

    def give_up(self) -> None:
        """Unlocks the folder, and removes what was made, so that a bad list leaves nothing."""
        self._folder.close()
        # In a shared folder others may have begun already.
        if self._made and self._alone:
            shutil.rmtree(self._folder.private, ignore_errors=True)
            with contextlib.suppress(OSError):
                for path in self._made:
                    os.rmdir(path)


class UntouchedOutput:
    """The same for a dry run, which neither makes nor locks a folder: the copy of the list is a file without a name."""

    def __init__(self, arguments: Mapping[str, str], settings: Mapping[str, Any], given: Given = Given()) -> None:
        """Raises UsageError or ListError."""
        if "queue" in arguments or "job" in arguments:
            raise UsageError("a dry run is for lists; `scrapy bulkqueue status` shows a queue")
        wanted = self._wanted = read_wanted(arguments, settings, given)
        if wanted.verify:
            raise UsageError("a dry run asks the servers, verify asks nobody; choose one of the two")
        self.plan = wanted.plan
        self.whole = wanted.bad_lines == "stop"
        self._folder = tempfile.TemporaryDirectory(prefix="bulkspider.")
        self._fd = os.open(self._folder.name, os.O_RDONLY | os.O_DIRECTORY)

    def record(self) -> Record:
        return Record(self._fd, self._folder.name)

    def prepare(self, walked: Walked | None = None) -> Prepared:
        wanted = self._wanted
        path = wanted.list_path if walked is None else walked.list_path
        try:
            source = wanted.check(path, self._fd, None)
        finally:
            self.give_up()
        folder = UntouchedFolder(wanted.root)
        if wanted.then is not None:
            folder.stage_max = wanted.then.stage_max
        return Prepared(folder, source, wanted.list_path, wanted.sums, wanted.remote_sums, walked=walked)

    def give_up(self) -> None:
        os.close(self._fd)
        self._folder.cleanup()


def prepare_given(
    source: Source, arguments: Mapping[str, str], settings: Mapping[str, Any], *, own: tuple[str, ...], folder: str
) -> Prepared:
    """For entries that a program gives: `source`. folder: where their files go unless `output` says otherwise. Raises
    UsageError or DiskError, and nothing is left open then."""
    read_options(arguments, settings, own)
    if of_a_list := [name for name in (*OF_A_LIST, "queue", "job") if name in arguments]:
        raise UsageError(f"argument {of_a_list[0]}: it is for lists and queues; leave it out with entries=")
    report = read_report(arguments.get("report"))
    sums, sums_url = read_sums(arguments)
    output = Folder(read_output(arguments) or os.path.join("output", folder))
    try:
        output.lock(exclusive=True)
    except BaseException:
        output.close()
        raise
    return Prepared(output, source, "", sums, sums_url, report=report)


def prepare(
    arguments: Mapping[str, str], settings: Mapping[str, Any], given: Given = Given(), *, own: tuple[str, ...] = ()
) -> Prepared:
    """For a crawl without a walk before it. Raises as `LockedOutput` does. own: arguments that a subclass of the spider
    defines."""
    if "queue" in arguments or "job" in arguments:
        return _prepare_worker(arguments, read_options(arguments, settings, own), given)
    if arguments.get("status", "0") != "0":
        raise UsageError("argument status: only `scrapy bulk LIST --status` can tell it")
    if arguments.get("recurse", "0") != "0" and arguments.get("verify", "0") == "0":
        raise UsageError("argument recurse: only `scrapy bulk URL --recurse` can walk an index before it fetches")
    return LockedOutput(arguments, settings, given, own).prepare()


def _prepare_worker(arguments: Mapping[str, str], options: Options, given: Given) -> Prepared:
    """For a worker. Asks Redis first: without its job a worker would end at once, as if all were done."""
    # Imported here, so that lists and other commands of Scrapy start sooner.
    from bulkspider.hosts.outage import STRANGER_PATIENCE_SECONDS
    from bulkspider.queue.address import VARIABLE, check_address, find_address
    from bulkspider.queue.job import Job
    from bulkspider.queue.worker import RedisQueue

    url, name = find_address(arguments.get("queue")), arguments.get("job")
    if not url:
        raise UsageError(f"job={name}: on which Redis? Say queue=redis://HOST/0, or set {VARIABLE} in the environment")
    if not name:
        raise UsageError(f"queue={redact(url)}: which job on it? Say job=NAME")
    check_address(url, name)
    if of_a_list := ["the URLs"] * bool(given.urls) + [f"argument {n}" for n in OF_A_LIST if n in arguments]:
        raise UsageError(
            f"{of_a_list[0]}: only for lists; a worker gets its entries from the queue (`scrapy bulkqueue push`)"
        )
    output = read_output(arguments)
    report = read_report(arguments.get("report"))
    sums, remote_sums = read_sums(arguments)
    manifest = read_manifest(arguments, options)
    if isinstance(manifest, Bag):
        raise UsageError(
            "argument manifest=bagit: the files of a bag must be known at the start, as those of a list are"
        )
    then = read_then(arguments, options)
    stays = arguments.get("stay", "0") != "0"
    root = output or os.path.join("output", name)
    with Job(url, name) as job:
        left = job.wait_until_there(logger.warning, stays=stays)
        if os.path.isdir(root) and (removed := remove_parts(Path(root), job.done_elsewhere)):
            # A worker died here, and others have finished its entries on disks of their own.
            logger.info("%s: removed, as the job has them done", plural(len(removed), "part", "parts"))
    queue = RedisQueue(
        *(url, name),
        entries=left,
        lease=options.lease,
        delay=options.retry_delay_max,
        patience=options.origin_patience,
        stranger_patience=STRANGER_PATIENCE_SECONDS,
        stays=stays,
    )
    folder = Folder(root)
    try:
        folder.lock(exclusive=False)
    except BaseException:
        folder.close()
        raise
    return Prepared(
        *(folder, queue, "", sums, remote_sums), report=report, writer=queue.worker, manifest=manifest, then=then
    )


def _missing(root: str) -> list[str]:
    """The folders that must be made for `root`, the innermost first."""
    path, missing = os.path.abspath(root), []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing
