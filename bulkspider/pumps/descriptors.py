"""How many transfers the allowed number of open files is enough for (`ulimit -n`)."""

from __future__ import annotations

import logging
import os
import resource

logger = logging.getLogger(__name__)

# Open files of a transfer: two for the connection, two for the part and its folder, two for a pipe of the kernel.
FILES_PER_TRANSFER = 6
# Open files of a commit: the part and its folder.
FILES_PER_COMMIT = 2
# Open files for name servers, the ledger, the report, and the components of a project.
RESERVED_FILES = 16


def transfers_at_once(wanted: int) -> int:
    """`wanted`, or as many as the open files are enough for (at least 1), with a warning. 0 means no limit and is
    returned as it is."""
    room = max(1, free() // (FILES_PER_TRANSFER + FILES_PER_COMMIT))
    if wanted <= room:
        return wanted
    logger.warning(
        "%d transfers at once, not %d: this process may have only %d open files; raise `ulimit -n` for more",
        room,
        wanted,
        resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )
    return room


def commits_at_once(transfers: int, most: int) -> int:
    """How many finished files may be open for their commit at the same time as this number of transfers."""
    return min(most, max(1, (free() - FILES_PER_TRANSFER * transfers) // FILES_PER_COMMIT))


def free() -> int:
    """Descriptors that this process may still open, without the reserve."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        in_use = len(os.listdir("/dev/fd"))
    except OSError:
        in_use = 32
    return limit - in_use - RESERVED_FILES
