"""Memory that stays: for machines that give what is freed back to their host.

On a virtual machine with free page reporting, memory that was freed belongs to the host a moment later, in blocks of a
few MiB, and who uses it next waits for the host. That can cost more than a whole download, and it falls on whoever
comes at the wrong time. Where a single page of each block is in use, no block is ever free.
"""

from __future__ import annotations

import mmap

PAGE = mmap.PAGESIZE
# Of so many bytes one page is kept, far less than a block: pages that lie side by side here need not do so in memory.
KEPT_OF = 128 * 1024
# For the programs' own memory, and for what the kernel wants to have in hand.
LEFT = 1024**3


class HeldMemory:
    """Keeps a page of each block of nearly all available memory, one in 32, until it is closed."""

    def __init__(self, available: int) -> None:
        """available: bytes, as in /proc/meminfo; of the others, somebody makes use already."""
        size = max(0, available - LEFT) // KEPT_OF * KEPT_OF
        self._memory = mmap.mmap(-1, max(size, KEPT_OF), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._memory.madvise(mmap.MADV_NOHUGEPAGE)
        pages = len(self._memory) // PAGE
        self._memory[::PAGE] = b"\1" * pages
        for start in range(0, len(self._memory), KEPT_OF):
            self._memory.madvise(mmap.MADV_DONTNEED, start + PAGE, KEPT_OF - PAGE)

    def close(self) -> None:
        self._memory.close()
