"""Manifests: lists of the files in the output folder with their hashes, in forms that other programs check.

A manifest is made from the ledger: the verified and complete files of all lists that were fetched into the folder, as
far as they are there. It is written to a temporary file and renamed, so that it is always complete; during a run it
takes at most a twentieth of the time. A file that an earlier run proved without sha256 is hashed once, and its hash
goes into the ledger. A file of another program under the manifest's name becomes `.old`.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Protocol
from xml.sax.saxutils import escape, quoteattr

from msgspec import Struct

from bulkspider.disk.finished.ledger import Ledger
from bulkspider.disk.finished.line import LedgerLine
from bulkspider.disk.finished.proof import add_sha256
from bulkspider.disk.folder.folder import Folder
from bulkspider.disk.folder.opening import create_temporary, lstat_at, open_ours
from bulkspider.errors import DiskError, Stopped, UsageError, disk_error
from bulkspider.text import nearest

logger = logging.getLogger(__name__)

# A manifest is written again after this time at the earliest, and not before so many times the time that writing it
# took.
EVERY_SECONDS = 10.0
EVERY_TIMES_ITS_COST = 20.0
LISTED = ("verified", "complete")
# The file that notes which manifests in the folder are ours.
OURS = "manifest.json"
PAYLOAD = "data/"
BAGIT = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"


class ManifestForm(Protocol):
    """How a manifest is written. name: of its file, in the output folder."""

    name: str

    def head(self) -> str: ...
    def line(self, line: LedgerLine, sha256: str) -> str: ...
    def foot(self) -> str: ...


class Sums:
    """GNU coreutils: `sha256sum -c SHA256SUMS`. A name with a backslash or line end is escaped, and marked so."""

    name = "SHA256SUMS"

    def head(self) -> str:
        return ""

    def foot(self) -> str:
        return ""

    def line(self, line: LedgerLine, sha256: str) -> str:
        escaped = line.name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        return f"{'' if escaped == line.name else chr(92)}{sha256}  {escaped}\n"


class Bag(Sums):
    """RFC 8493: the payload manifest. Only CR, LF and % are encoded (§2.1.3)."""

    name = "manifest-sha256.txt"

    def line(self, line: LedgerLine, sha256: str) -> str:
        name = line.name.replace("%", "%25").replace("\n", "%0A").replace("\r", "%0D")
        return f"{sha256}  {name}\n" if line.name.startswith(PAYLOAD) else ""


class Metalink(Sums):
    """RFC 5854. URLs with secrets are left out."""

    name = "files.meta4"

    def head(self) -> str:
        return '<?xml version="1.0" encoding="UTF-8"?>\n<metalink xmlns="urn:ietf:params:xml:ns:metalink">\n'

    def foot(self) -> str:
        return "</metalink>\n"

    def line(self, line: LedgerLine, sha256: str) -> str:
        url = f"    <url>{escape(line.url)}</url>\n" if line.url and "***" not in line.url else ""
        return (
            f"  <file name={quoteattr(line.name)}>\n    <size>{line.size}</size>\n"
            f'    <hash type="sha-256">{sha256}</hash>\n{url}  </file>\n'
        )


class Table(Sums):
    """CSV (RFC 4180, with LF): a list that `scrapy bulk` can read, except URLs with secrets."""

    name = "manifest.csv"

    def head(self) -> str:
        return "name,url,size,sha256\n"

    def line(self, line: LedgerLine, sha256: str) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow([line.name, line.url or "", line.size, sha256])
        return text.getvalue()


FORMS: dict[str, type[ManifestForm]] = {"SHA256SUMS": Sums, "bagit": Bag, "metalink": Metalink, "csv": Table}


def form_of(word: str) -> ManifestForm:
    """The form that `-a manifest=` names. Raises UsageError."""
    known = {name.lower(): form for name, form in FORMS.items()}
    if word.lower() not in known:
        raise UsageError(f"argument manifest={word}: must be one of {', '.join(FORMS)}{nearest(word, FORMS)}")
    return known[word.lower()]()


def check_name(form: ManifestForm) -> Callable[[str], bool]:
    """A function for every name of the list; it raises UsageError for a name that does not fit this manifest."""

    def check(name: str) -> bool:
        if isinstance(form, Bag) and not name.startswith(PAYLOAD):
            raise UsageError(
                f"argument manifest=bagit: {name} is not below {PAYLOAD}; name the files {PAYLOAD}… in the list"
            )
        if name == form.name:
            raise UsageError(f"argument manifest: the list has a file called {name}; choose another manifest")
        return True

    return check


def prepare_folder(form: ManifestForm, folder: Folder) -> None:
    """A bag has its declaration (§2.1.1), and no manifest beside ours. Raises UsageError, DiskError."""
    if not isinstance(form, Bag):
        return
    ours = _ours(folder)
    for name in sorted(os.listdir(folder.root)):
        if name.startswith(("manifest-", "tagmanifest-")) and name.endswith(".txt") and name not in {*ours, form.name}:
            raise UsageError(f"argument manifest=bagit: {folder.path(name)} would not be right any more; move it")
    path = folder.path("bagit.txt")
    try:
        if folder.lstat("bagit.txt") is None:
            _replace(folder, "bagit.txt", iter([BAGIT]))
        elif b"UTF-8" not in path.read_bytes().upper():
            raise UsageError(f"argument manifest=bagit: {path} names another encoding than UTF-8; move it")
    except OSError as error:
        raise disk_error(error, path) from error


class Manifest(Struct):
    """One manifest of one output folder. Its methods work in worker threads, one at a time.

    due: when it may be written again, in seconds of the monotonic clock.
    """

    form: ManifestForm
    folder: Folder
    ledger: Ledger
    due: float = 0.0

    def write(self, stop: Callable[[], bool], *, shared: bool = False) -> None:
        """Hashes what is not hashed yet, and writes it. shared: others write to the ledgers here, too.

        Raises DiskError; Stopped when `stop()` is true first, and what has a hash is in the manifest then.
        """
        began = time.monotonic()
        self.due = began + EVERY_SECONDS
        if shared:
            self.ledger.load()
        if self.ledger.find(self.form.name) is not None:
            raise DiskError(
                f"{self.form.name} was fetched from a list: the manifest is not written", code="not_regular"
            )
        try:
            _replace(self.folder, self.form.name, self._text(stop))
        except OSError as error:
            raise disk_error(error, self.folder.path(self.form.name)) from error
        took = time.monotonic() - began
        self.due = time.monotonic() + max(EVERY_SECONDS, EVERY_TIMES_ITS_COST * took)
        if stop():
            raise Stopped

    def _text(self, stop: Callable[[], bool]) -> Iterator[bytes]:
        yield self.form.head().encode()
        for line in self.ledger.lines():
            if line.status not in LISTED:
                continue
            found = self.folder.lstat(line.name)
            if found is None or (found.st_size, found.st_mtime_ns) != (line.size, line.mtime_ns):
                continue
            sha256 = line.digests.get("sha256") or self._hash(line, stop)
            if sha256 is not None:
                yield self.form.line(line, sha256).encode("utf-8", "surrogateescape")
        yield self.form.foot().encode()

    def _hash(self, line: LedgerLine, stop: Callable[[], bool]) -> str | None:
        if stop():
            return None
        try:
            return add_sha256(self.folder, self.ledger, line, stop).digests["sha256"]
        except Stopped:
            return None


def _replace(folder: Folder, name: str, text: Iterator[bytes]) -> None:
    """Writes a file of ours under a temporary name and renames it. Raises OSError."""
    directory = os.open(folder.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd, temporary = create_temporary(directory)
        try:
            with open(fd, "wb") as file:
                for block in text:
                    file.write(block)
                file.flush()
                os.fsync(fd)
                written = os.fstat(fd)
            ours = _ours(folder)
            found = lstat_at(name, directory)
            if found is not None and ours.get(name) != [found.st_size, found.st_mtime_ns]:
                _keep_aside(directory, name)
            ours[name] = [written.st_size, written.st_mtime_ns]
            _note(folder, ours)
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
            raise
        os.fsync(directory)
    finally:
        os.close(directory)


def _keep_aside(directory: int, name: str) -> None:
    number, aside = 0, f"{name}.old"
    while lstat_at(aside, directory) is not None:
        number += 1
        aside = f"{name}.old.{number}"
    logger.warning("%s is not ours, and is kept as %s", name, aside)
    os.rename(name, aside, src_dir_fd=directory, dst_dir_fd=directory)


def _ours(folder: Folder) -> dict[str, list[int]]:
    """Name -> size and mtime of the manifests that we wrote."""
    try:
        with open(open_ours(OURS, os.O_RDONLY, dir_fd=folder.private_fd, path=folder.private / OURS), "rb") as file:
            found = json.load(file)
        return found if isinstance(found, dict) else {}
    except (OSError, DiskError, ValueError):
        return {}


def _note(folder: Folder, ours: dict[str, list[int]]) -> None:
    fd, temporary = create_temporary(folder.private_fd)
    with open(fd, "w") as file:
        json.dump(ours, file)
    os.rename(temporary, OURS, src_dir_fd=folder.private_fd, dst_dir_fd=folder.private_fd)
