"""One line of the ledger: what is known of one finished entry, and whether it proves an entry of today's list."""

from __future__ import annotations

import enum
import json
import os
import stat as stat_module
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct, structs

from bulkspider.protocol.digests import STATED_BY
from bulkspider.text import visible

if TYPE_CHECKING:
    from bulkspider.items import BulkItem

# The flag of a file that the command of `--then` has received; in a verify: of a file that it has moved away.
HANDED_ON = "handed-on"
STATUSES = frozenset({"verified", "complete", "unproven"})


class LedgerLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of one finished entry.

    key: the comparable key of its URL. size: bytes. mtime_ns: of the finished file. digests: algorithm -> lower-case
    hex of the file. status: one of STATUSES. proof_by: who stated the hash that verifies it (`protocol/digests.py`);
    None of others, and in lines of versions that did not note it. time: when the line was made, seconds since 1970.
    url: already redacted. owed: its item has not come through the item pipelines yet, and the next run must yield it
    again if this one is killed. handed_on: `begun` before the command of `--then` gets the file, then `done`, or
    `moved` if the command moves the file away; each change is a new line of the same name.
    """

    name: str
    key: str
    size: int
    mtime_ns: int
    digests: Mapping[str, str]
    status: str
    proof_by: str | None = None
    flags: tuple[str, ...]
    time: float
    url: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    owed: bool = False
    handed_on: str | None = None

    @property
    def is_elsewhere(self) -> bool:
        """The command of `--then` has moved the file away: it need not be there."""
        return self.handed_on == "moved"

    def to_json(self) -> str:
        """One line, without the newline. `name` comes first, so that the index is made without parsing the rest; what
        has its default is left out."""
        try:
            return msgspec.json.format(msgspec.json.encode(self), indent=0).decode()
        except UnicodeEncodeError:  # lone surrogates: how Python shows a file name that is not UTF-8
            return json.dumps(structs.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> LedgerLine:
        """Raises ValueError if the line is damaged. Unknown keys are ignored: a newer version may add some."""
        try:
            line = _DECODER.decode(text)
        except (ValueError, RecursionError):
            line = cls._from_odd_json(text)
        if line.status not in STATUSES or line.proof_by not in (None, *STATED_BY):
            raise ValueError("not a ledger line: a value of the wrong kind")
        return line

    @classmethod
    def _from_odd_json(cls, text: str | bytes) -> LedgerLine:
        """Lone surrogates are valid only for Python's own reader."""
        try:
            record = json.loads(text if isinstance(text, str) else str(text, "utf-8"))
            return msgspec.convert(record, cls)
        except RecursionError as error:
            raise ValueError("not a ledger line: nested too deeply") from error

    def describe(self, item: BulkItem) -> None:
        """Writes into the item what is proven."""
        item.status = self.status
        item.proof_by = self.proof_by
        item.size = self.size
        item.flags = list(self.flags)
        if self.handed_on in ("done", "moved"):
            item.flags.append(HANDED_ON)
        item.checksums = dict(self.digests)
        item.sha256 = self.digests.get("sha256")
        item.etag = self.etag and visible(self.etag)
        item.last_modified = self.last_modified and visible(self.last_modified)


_DECODER = msgspec.json.Decoder(LedgerLine)


# What a line proves


class LineVerdict(enum.Enum):
    """What a ledger line says about an entry of today's list and the file that is there."""

    PROVEN = "done, with the status of the line"
    KEY_DIFFERS = "the list has another URL now: the file is foreign"
    GONE = "no regular file of that size is there"
    CONTRADICTED = "the list states another size or hash than the file has"
    STALE = "the file was touched since: hash it again"
    UNKNOWN_HASH = "the list states a hash that the line does not hold: hash the file"


def judge_line(
    line: LedgerLine, *, key: str, stat: os.stat_result | None, size: int | None, digests: Mapping[str, str]
) -> LineVerdict:
    """Judges a line. stat: of the name itself (`os.lstat`), None when nothing is there. key, size, digests: what the
    list says.

    The order matters: a touched file may have been replaced by the right one, so the line's hashes are compared with
    the list only while the mtime is unchanged. A size can be compared in any case.
    """
    if line.key != key:
        return LineVerdict.KEY_DIFFERS
    if line.is_elsewhere:
        # A hash that only the list states cannot be checked any more: it does not count.
        told = {algorithm: line.digests.get(algorithm, digest) for algorithm, digest in digests.items()}
        same = size in (None, line.size) and all(told[name].lower() == digests[name].lower() for name in told)
        return LineVerdict.PROVEN if same else LineVerdict.CONTRADICTED
    if stat is None or not stat_module.S_ISREG(stat.st_mode) or stat.st_size != line.size:
        return LineVerdict.GONE
    if size is not None and size != line.size:
        return LineVerdict.CONTRADICTED
    if stat.st_mtime_ns != line.mtime_ns:
        return LineVerdict.STALE
    if any(line.digests.get(algorithm, digest).lower() != digest.lower() for algorithm, digest in digests.items()):
        return LineVerdict.CONTRADICTED
    if not digests.keys() <= line.digests.keys():
        return LineVerdict.UNKNOWN_HASH
    return LineVerdict.PROVEN
