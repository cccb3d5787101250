"""The link of one worker to Redis: scripts asked now, and outcomes that must arrive some time.

`ask` gives an answer or raises OSError while Redis is away. `post` is for what must not get lost: it is sent in order,
again and again, until Redis has it. Logs once that Redis cannot be reached, and once that it can. Every script checks
that the worker still holds what it speaks of, so that repeating one whose answer was lost does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from bulkspider.entries.entry import redact
from bulkspider.queue.address import connect_async
from bulkspider.queue.scripts import SCRIPTS, prefix

logger = logging.getLogger(__name__)

# Seconds between two attempts while Redis is away.
AWAY_SECONDS = 1.0


class Link:
    """title: how messages name the job. patience: seconds for one answer. on_return: called when Redis is back."""

    def __init__(self, url: str, job: str, title: str, *, patience: float, on_return: Callable[[], None]) -> None:
        """To be made in the thread of a running asyncio loop."""
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        self.away = False
        self._title = title
        self._on_return = on_return
        self._prefix = prefix(job)
        self._redis: Any = connect_async(
            url,
            socket_timeout=patience,
            socket_connect_timeout=patience,
            # Once: a connection may have died since its last use. All else is ours to repeat.
            retry=Retry(NoBackoff(), 1),
            encoding_errors="surrogateescape",
            decode_responses=True,
        )
        self._scripts = {name: self._redis.register_script(text) for name, text in SCRIPTS.items()}
        self._unsent: deque[tuple[str, tuple[str | int, ...], Callable[[Any], None] | None]] = deque()
        self._open = True
        self._posted = asyncio.Event()
        self._sent = asyncio.Event()
        self._sender = asyncio.get_running_loop().create_task(self._send())

    async def ask(self, script: str, *arguments: str | int) -> Any:
        """Raises OSError when Redis is away: unreachable, restarting, or refusing writes for now."""
        import redis

        try:
            answer = await self._scripts[script](keys=[self._prefix], args=arguments)
        except (redis.RedisError, OSError) as error:
            if not self.away:
                self.away = True
                why = redact(str(error)) or type(error).__name__
                logger.warning("%s: Redis does not answer (%s); transfers go on while leases last", self._title, why)
            # After a failover a connection may lead to a server that is a replica now (READONLY), and would do so for
            # ever: the next attempt makes a new one.
            with contextlib.suppress(redis.RedisError, OSError):
                await self._redis.connection_pool.disconnect()
            raise OSError(str(error)) from error
        if self.away:
            self.away = False
            logger.warning("%s: Redis answers again", self._title)
            self._on_return()
        return answer

    def post(self, script: str, *arguments: str | int, then: Callable[[Any], None] | None = None) -> None:
        """then: is given the answer, before anything else is sent."""
        self._unsent.append((script, arguments, then))
        self._posted.set()

    async def _send(self) -> None:
        while self._open:
            await self._posted.wait()
            self._posted.clear()
            while self._unsent and self._open:
                script, arguments, then = self._unsent[0]
                try:
                    answer = await self.ask(script, *arguments)
                except OSError:
                    await asyncio.sleep(AWAY_SECONDS)
                else:
                    self._unsent.popleft()
                    if then is not None:
                        then(answer)
            self._sent.set()

    async def all_sent(self) -> None:
        """Returns when Redis has heard everything."""
        while self._unsent:
            self._sent.clear()
            await self._sent.wait()

    async def close(self) -> None:
        """Ends the link; what was not sent is forgotten."""
        self._open = False
        self._sender.cancel()
        self._posted.set()
        await asyncio.wait([self._sender])
        with contextlib.suppress(Exception):
            await self._redis.aclose()
