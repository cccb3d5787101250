"""The bell: how a loop of a spider waits for an event, and lets the reactor do its other work.

The loops of `spiders/bulk.py` and `preflight.py` wait here; whoever has something for them to see rings. It knows
nothing of what has happened.
"""

from __future__ import annotations

from scrapy.utils.asyncio import call_later
from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import Deferred


class Bell:
    """For one loop, which waits at one place at a time."""

    def __init__(self) -> None:
        self._waiting: Deferred[None] | None = None

    def ring(self) -> None:
        """Ends the wait, if there is one; a bell that nobody waits for is not remembered."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)

    async def wait(self, seconds: float | None = None) -> None:
        """Returns when it rings, after `seconds` at the latest (None: whenever that is)."""
        self._waiting = Deferred()
        timer = call_later(seconds, self.ring) if seconds is not None else None
        try:
            await maybe_deferred_to_future(self._waiting)
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()


async def breathe() -> None:
    """Lets the reactor do its other work."""
    breath: Deferred[None] = Deferred()
    call_later(0, breath.callback, None)
    await maybe_deferred_to_future(breath)
