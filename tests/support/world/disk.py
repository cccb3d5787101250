"""The disk of a world: parts and files that know of which version their bytes are, and what a kill leaves of them."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from types import SimpleNamespace

from msgspec.structs import replace

from bulkspider.disk.finished.line import LedgerLine
from bulkspider.errors import VersionConflict, disk_error
from bulkspider.protocol.plan import PartState
from bulkspider.protocol.ranges import Ranges

RESERVE_BYTES = 256 * 1024


@dataclass
class Saved:
    """A part as its state on disk tells of it."""

    state: PartState
    versions: dict[int, Ranges]


@dataclass
class Disk:
    """capacity: bytes, None for plenty. files: the versions that each finished file is made of."""

    capacity: int | None
    parts: dict[str, Saved] = field(default_factory=dict)
    files: dict[str, dict[int, Ranges]] = field(default_factory=dict)
    ledger: dict[str, LedgerLine] = field(default_factory=dict)
    open: dict[str, SimulatedPart] = field(default_factory=dict)

    @property
    def free(self) -> int:
        if self.capacity is None:
            return 1 << 60
        parts = {name: saved.versions for name, saved in self.parts.items()}
        parts |= {name: part.versions for name, part in self.open.items()}
        held = [versions for kind in (parts, self.files) for versions in kind.values()]
        return self.capacity - sum(ranges.count for versions in held for ranges in versions.values())


class SimulatedPart:
    """What the engine sees of a part (`bulkspider.disk.part.Part`)."""

    foreign = None
    buffered = b""

    def __init__(self, disk: Disk, name: str, key: str) -> None:
        self.disk, self.name, self.key = disk, name, key
        self.checkpoints = SimpleNamespace(details={}, old=SimpleNamespace(drop=lambda: None))
        saved = disk.parts.get(name)
        self.state = PartState() if saved is None else _copy(saved.state)
        self.versions = {} if saved is None else {v: ranges.copy() for v, ranges in saved.versions.items()}
        disk.open[name] = self

    @property
    def unwritten(self) -> int:
        return 0 if self.state.total is None else max(0, self.state.total - self.state.have.count)

    def put(self, first: int, end: int, version: int, *, has_written: bool) -> None:
        """Writes bytes, or compares them with what is there. Raises VersionConflict, DiskError."""
        at, have = first, self.state.have
        while at < end:
            held = min(have.end_of(at), end)
            if held > at:
                if not self.versions.get(version, Ranges()).holds(at, held):
                    raise VersionConflict("the bytes on disk differ", differ=True)
                at = held
                continue
            following = have.next_after(at)
            upto = end if following is None else min(end, following)
            if self.disk.capacity is not None and self.disk.free < upto - at:
                raise disk_error(OSError(errno.ENOSPC, ""), self.name)
            have.add(at, upto)
            if version not in self.versions:
                self.versions[version] = Ranges()
            self.versions[version].add(at, upto)
            at = upto

    def save(self) -> None:
        """What a kill leaves."""
        versions = {version: ranges.copy() for version, ranges in self.versions.items()}
        self.disk.parts[self.name] = Saved(_copy(self.state), versions)

    def begin_anew(self) -> None:
        self.versions = {}
        self.state = PartState(restarts=self.state.restarts + 1, validator_kind=self.state.validator_kind)

    def close(self) -> None:
        self.disk.open.pop(self.name, None)

    def publish(self, line: LedgerLine) -> None:
        self.disk.files[self.name] = self.versions
        self.disk.ledger[self.name] = line
        self.disk.parts.pop(self.name, None)
        self.close()


def _copy(state: PartState) -> PartState:
    return replace(state, have=state.have.copy(), restarts=0, without_range=False)
