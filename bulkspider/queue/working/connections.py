"""Further connections of a file that is fetched by several at once: each takes a token of its host.

A lease is one connection; a token is one more, and both count against the host's cap in one and the same script, so the
number of connections to a host is exact over all workers. A token is asked for in the background, like a lease, and is
given back when it is not used.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

from bulkspider.queue.working.lease import Lease, clock
from bulkspider.queue.working.link import Link

# Seconds: until a host that had none free is asked again; for which a token waits to be taken up.
POLL_SECONDS = 1.0


class Connections:
    """The tokens of one worker. wake: called when `ready` may answer otherwise."""

    def __init__(self, link: Link, wake: Callable[[], None]) -> None:
        self._link = link
        self._wake = wake
        self._spare: dict[str, str] = {}  # origin -> token that waits to be taken up
        self.asked: dict[str, float] = {}  # origin -> when it may be asked again
        self._tasks: set[asyncio.Task[None]] = set()

    def ready(self, lease: Lease) -> bool:
        """There is a token for one more connection of this entry; if not, one is asked for."""
        if lease.origin in self._spare:
            return True
        if clock() >= self.asked.get(lease.origin, 0.0):
            self.asked[lease.origin] = float("inf")
            task = asyncio.get_running_loop().create_task(self._ask(lease.origin))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return False

    def take(self, lease: Lease) -> None:
        """The entry has one more connection."""
        lease.tokens.append(self._spare.pop(lease.origin))

    async def _ask(self, origin: str) -> None:
        token = uuid.uuid4().hex
        try:
            granted = await self._link.ask("connect", origin, token)
        except OSError:
            granted = 0
        self.asked[origin] = 0.0 if granted else clock() + POLL_SECONDS
        if granted:
            self._spare[origin] = token
            asyncio.get_running_loop().call_later(POLL_SECONDS, self._give_back, origin, token)
            self._wake()

    def _give_back(self, origin: str, token: str) -> None:
        if self._spare.get(origin) == token:
            del self._spare[origin]
            self._link.post("disconnect", token)

    def release(self, lease: Lease, all_of_them: bool = False) -> None:
        """One of the entry's further connections has ended, or all of them."""
        while lease.tokens:
            self._link.post("disconnect", lease.tokens.pop())
            if not all_of_them:
                break
