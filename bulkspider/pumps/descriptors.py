"""How many transfers the open files that this process may have are enough for (`ulimit -n`)."""

from __future__ import annotations

import logging
import os
import resource

logger = logging.getLogger(__name__)

# Two for the connection, two for the part and its folder, and a pipe where the kernel moves the bytes.
PER_TRANSFER = 6
# A file on its way to its name: the part and its folder.
PER_COMMIT = 2
# For name servers, the ledger, the report, and what the components of a project open.
RESERVE = 16


def transfers_at_once(wanted: int) -> int:
    """`wanted`, or as many as there is room for, at least 1; then that is said. 0, any number, stays."""
    room = max(1, free() // (PER_TRANSFER + PER_COMMIT))
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
    """Of the files that are ready for their names, how many may be open together beside so many transfers."""
    return min(most, max(1, (free() - PER_TRANSFER * transfers) // PER_COMMIT))


def free() -> int:
    """Descriptors that this process may still open, without the reserve."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        in_use = len(os.listdir("/dev/fd"))
    except OSError:
        in_use = 32
    return limit - in_use - RESERVE
