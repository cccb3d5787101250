"""The connection of one worker to Redis: questions that are answered now, and outcomes that must arrive in the end.

`ask` gives an answer, or raises OSError while Redis is away. `post` is for messages that must not get lost: they are
sent in order, and repeated until Redis has answered. All go over one connection, in the order in which they were given,
and none waits for the answer to the one before it: an outcome and the question for the next entry are sent together, so
that a long round trip costs little. Every script checks that the worker still holds the lease, so that repeating one
whose answer was lost does no harm. Logs once that Redis cannot be reached, and once that it can.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from hashlib import sha1
from typing import Any

from msgspec import Struct

from bulkspider.entries.entry import redact
from bulkspider.queue.address import connect_async
from bulkspider.queue.scripts import SCRIPTS, prefix

logger = logging.getLogger(__name__)

# Seconds between two attempts while Redis is away.
AWAY_SECONDS = 1.0
# Commands that are packed and sent together.
MESSAGES_TOGETHER = 64

Arguments = tuple["str | int", ...]


class _Command(Struct, eq=False):
    """answer: of a question, which fails when the connection does; None for a post. then: is given the answer."""

    script: str
    arguments: Arguments
    answer: asyncio.Future[Any] | None = None
    then: Callable[[Any], None] | None = None


class Link:
    """title: how messages name the job. patience: seconds for one answer. on_return: called when Redis is back.
    greeting: called on each new connection; the arguments of `join`, which comes before all questions."""

    def __init__(
        self,
        url: str,
        job: str,
        title: str,
        *,
        patience: float,
        on_return: Callable[[], None],
        greeting: Callable[[], Arguments],
    ) -> None:
        """To be made in the thread of a running asyncio loop."""
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        self.away = False
        self._title = title
        self._on_return = on_return
        self._greeting = greeting
        self._prefix = prefix(job)
        self._redis: Any = connect_async(
            url,
            socket_timeout=patience,
            socket_connect_timeout=patience,
            retry=Retry(NoBackoff(), 0),  # repeating is ours to do
            encoding_errors="surrogateescape",
            decode_responses=True,
        )
        self._hashes = {name: sha1(text.encode()).hexdigest() for name, text in SCRIPTS.items()}
        self._unsent: deque[_Command] = deque()
        self._unanswered: deque[_Command] = deque()
        self._posts = 0  # that Redis has not answered yet
        self._open = True
        self._has_answered = False  # over this connection
        self._given = asyncio.Event()
        self._in_flight = asyncio.Event()
        self._heard = asyncio.Event()
        self._worker = asyncio.get_running_loop().create_task(self._work())

    def ask(self, script: str, *arguments: str | int) -> asyncio.Future[Any]:
        """Sent after all that was posted before. The answer raises OSError when Redis is away: unreachable, restarting,
        or refusing writes for now."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._open:
            self._give(_Command(script, arguments, answer=answer))
        else:
            answer.set_exception(OSError("the link is closed"))
        return answer

    def post(self, script: str, *arguments: str | int, then: Callable[[Any], None] | None = None) -> None:
        """then: is given the answer, before any later one is heard."""
        self._posts += 1
        self._give(_Command(script, arguments, then=then))

    def _give(self, command: _Command) -> None:
        self._unsent.append(command)
        self._given.set()

    async def all_sent(self) -> None:
        """Returns when Redis has answered every post."""
        while self._posts:
            self._heard.clear()
            await self._heard.wait()

    async def close(self) -> None:
        """Closes the connection; what was not sent is lost."""
        self._open = False
        self._given.set()
        await _end([self._worker])
        self._break_off(OSError("the link is closed"))
        with contextlib.suppress(Exception):
            await self._redis.aclose()

    # -- the connection --------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while self._open:
            await self._given.wait()
            self._has_answered = False
            error = await self._converse()
            if not self._open:
                return
            self._break_off(OSError(error))
            # A connection that died while it was not used is replaced at once, without a warning.
            if not self._has_answered:
                if not self.away:
                    self.away = True
                    logger.warning(
                        "%s: Redis does not answer (%s); transfers go on while leases last", self._title, error
                    )
                await asyncio.sleep(AWAY_SECONDS)

    async def _converse(self) -> str:
        """Over one connection until it breaks. Returns why."""
        import redis

        passing = (redis.RedisError, OSError, asyncio.TimeoutError)
        # Of our own: answers are matched with commands by their order. After a failover a connection may lead to a
        # server that is a replica now (READONLY), and would do so for ever, so every error ends it.
        connection = self._redis.connection_pool.make_connection()
        try:
            await connection.connect()
            await self._load(connection)
            self._greet()
            await self._exchange(connection)
        except passing as error:
            return redact(str(error)) or type(error).__name__
        finally:
            with contextlib.suppress(*passing):
                await connection.disconnect()
        return "closed"

    async def _load(self, connection: Any) -> None:
        """Makes sure that the server has all scripts: after a restart or a failover it may have none."""
        await connection.send_packed_command(connection.pack_command("SCRIPT", "EXISTS", *self._hashes.values()))
        there = await connection.read_response()
        missing = [name for name, known in zip(self._hashes, there, strict=True) if not known]
        for name in missing:
            await connection.send_packed_command(connection.pack_command("SCRIPT", "LOAD", SCRIPTS[name]))
        for _ in missing:
            await connection.read_response()

    def _greet(self) -> None:
        """What was posted comes first again; then the queue hears what this worker has; then it may be asked."""
        posts = [command for command in self._unsent if command.answer is None]
        questions = [command for command in self._unsent if command.answer is not None]
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda done: done.exception())  # nobody waits for it
        self._unsent = deque([*posts, _Command("join", self._greeting(), answer=answer), *questions])

    async def _exchange(self, connection: Any) -> None:
        tasks = [asyncio.ensure_future(self._read(connection)), asyncio.ensure_future(self._write(connection))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(tasks)
        # The reader's first: when it fails it closes the connection, which the writer finds so.
        for error in [task.exception() for task in tasks if not task.cancelled()]:
            if error is not None:
                raise error

    async def _write(self, connection: Any) -> None:
        while True:
            while self._unsent:
                batch = [self._unsent.popleft() for _ in range(min(MESSAGES_TOGETHER, len(self._unsent)))]
                self._unanswered.extend(batch)
                self._in_flight.set()
                commands = [("EVALSHA", self._hashes[c.script], 1, self._prefix, *c.arguments) for c in batch]
                await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            self._given.clear()
            await self._given.wait()

    async def _read(self, connection: Any) -> None:
        while True:
            while not self._unanswered:
                self._in_flight.clear()
                await self._in_flight.wait()
            answer = await connection.read_response()
            self._hear(self._unanswered.popleft(), answer)

    def _hear(self, command: _Command, answer: Any) -> None:
        self._has_answered = True
        if self.away:
            self.away = False
            logger.warning("%s: Redis answers again", self._title)
            self._on_return()
        if command.answer is None:
            self._posts -= 1
            self._heard.set()
            if command.then is not None:
                command.then(answer)
        elif not command.answer.done():
            command.answer.set_result(answer)

    def _break_off(self, error: OSError) -> None:
        """Questions have failed; what was posted and not answered is sent again, in its order."""
        commands = [*self._unanswered, *self._unsent]
        self._unanswered.clear()
        self._unsent = deque(command for command in commands if command.answer is None)
        for command in commands:
            if command.answer is not None and not command.answer.done():
                command.answer.set_exception(error)
        if self._unsent:
            self._given.set()
        else:
            self._given.clear()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancels them until they have ended. Before Python 3.12 wait_for(), by which redis-py sends, swallows a
    cancellation that comes when it has just sent. Then the task would go on, over a new connection that redis-py makes
    and nobody reads."""
    while going_on := [task for task in tasks if not task.done()]:
        for task in going_on:
            task.cancel()
        await asyncio.wait(going_on, timeout=0.1)
