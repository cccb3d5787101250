"""A job: one shared queue of entries, as `scrapy bulkqueue` and the start of a worker see it.

Pushes lists, tells how far it is, brings dead letters back. Blocking, for code before or without a reactor; a worker's
own exchange with the queue is `redisqueue.py`. Every mistake of the user is a UsageError that says what to do.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from bulkspider.entry import Entry, origin_of, redact, url_key
from bulkspider.errors import UsageError
from bulkspider.queue.scripts import GROUP, JOBS, SCRIPTS, prefix

SCHEMES = ("redis", "rediss", "unix")
# Four at once is what most hosts bear without complaint; as CONCURRENT_REQUESTS_PER_DOMAIN in `settings.py`.
DEFAULT_CAP = 4
BATCH = 500
# A worker may be started beside its Redis.
PATIENCE = 30.0
_NAME = re.compile(r"[\w.-]{1,100}", re.ASCII)


def check_address(url: str, job: str | None) -> None:
    """Raises UsageError unless these can be the address of a Redis and the name of a job, and redis-py is there."""
    if url.partition("://")[0] not in SCHEMES or "://" not in url:
        raise UsageError(f"queue={redact(url)}: write redis://HOST/0 (or rediss://…, unix://…)")
    if not job:
        raise UsageError(f"queue={redact(url)}: which job on it? Say job=NAME")
    if not _NAME.fullmatch(job):
        raise UsageError(f"job={job}: a name of letters, digits and . _ - is needed")
    try:
        import redis  # noqa: F401
    except ImportError:
        raise UsageError('a queue needs redis-py: pip install "bulkspider[redis]"') from None


@dataclass(frozen=True, slots=True)
class Status:
    """How far a job is. hosts: {origin, left, running, cap, closed (seconds)} of each origin with entries left.
    later: entries that wait for their next try. workers: {name, entries (leased now), bytes (as of the last
    renewal), seen (seconds ago)}. lease: seconds, the longest of all workers."""

    pushed: int
    done: int
    dead: int
    later: int
    lease: float
    hosts: list[dict[str, Any]]
    workers: list[dict[str, Any]]

    @property
    def left(self) -> int:
        return sum(int(host["left"]) for host in self.hosts) + self.later

    @property
    def running(self) -> int:
        return sum(int(host["leased"]) for host in self.hosts)


class Job:
    """One job on one Redis. Every method raises UsageError when Redis cannot be asked."""

    def __init__(self, url: str, name: str) -> None:
        check_address(url, name)
        import redis

        self.name = name
        self.shown = redact(url)
        try:
            self._redis: Any = redis.Redis.from_url(
                url,
                socket_timeout=30,
                socket_connect_timeout=5,
                decode_responses=True,
                encoding_errors="surrogateescape",
            )
        except ValueError as error:
            raise UsageError(f"queue={self.shown}: {redact(str(error))}") from None
        self._scripts = {script: self._redis.register_script(text) for script, text in SCRIPTS.items()}
        self._prefix = prefix(name)

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self._redis.close()

    # -- what workers need -----------------------------------------------------------------------------------------

    def wait_until_there(self, tell: Callable[[str], None]) -> int:
        """How many entries are left. Waits a while for a Redis that does not answer yet; raises UsageError when it
        does not come, or has no such job."""
        import redis

        gives_up = time.monotonic() + PATIENCE
        told = False
        while True:
            try:
                self.require()
                return self.status().left
            except UsageError as error:
                cause = error.__cause__
                away = isinstance(cause, (redis.ConnectionError, redis.TimeoutError))
                if not away or isinstance(cause, redis.AuthenticationError) or time.monotonic() > gives_up:
                    raise
                if not told:
                    tell(f"{error}; trying again for {PATIENCE:.0f} seconds")
                    told = True
                time.sleep(0.5)

    def require(self) -> None:
        """Raises UsageError when nothing was ever pushed to this job."""
        with self._asking():
            if self._redis.exists(self._key("meta")):
                return
            others = sorted(self._redis.smembers(JOBS))
        there = f" (jobs there: {', '.join(others)})" if others else ""
        raise UsageError(
            f"there is no job {self.name} on {self.shown}{there}; push its list first: "
            f"scrapy bulkqueue push LIST --queue {self.shown} --job {self.name}",
            code="no_job",
        )

    # -- pushing ---------------------------------------------------------------------------------------------------

    def push(self, entries: Iterable[Entry], cap: int = DEFAULT_CAP) -> tuple[int, int]:
        """Adds the entries that the job does not know yet, largest first. Returns how many were new, and how many
        were given. cap: at most so many at once from each host, unless the job has a number already. Raises UsageError
        when a name is known with another URL; nothing is added then."""
        rows = sorted(
            ((entry.size or 0, _row(entry)) for entry in entries),
            key=lambda sized: -sized[0],  # stable: the list's order among equals
        )
        with self._asking():
            # The names alone first, so that a list that does not fit leaves nothing behind.
            for batch in _batches(row for _, row in rows):
                known = self._redis.hmget(self._key("known"), [name for _, name, _, _ in batch])
                for (_, name, key, _), there in zip(batch, known, strict=True):
                    if there is not None and there != key:
                        raise UsageError(
                            f"{name}: job {self.name} has another URL for this name; rename one of the two, or use "
                            "another job"
                        )
            self._redis.sadd(JOBS, self.name)
            new = 0
            for batch in _batches(row for _, row in rows):
                new += self._run("push", cap, *(cell for row in batch for cell in row))
        return new, len(rows)

    # -- looking and steering --------------------------------------------------------------------------------------

    def status(self) -> Status:
        with self._asking():
            rows = self._run("hosts")
            hosts = [
                {"origin": origin, "left": left, "leased": leased, "running": leased + tokens, "cap": cap}
                | {"closed": closed / 1000}
                for origin, left, leased, tokens, cap, closed, _ in rows
            ]
            held: Counter[str] = Counter()
            for *_, holders in rows:
                held.update({worker: int(count) for worker, count in holders})
            seconds, micros = self._redis.time()
            alive = dict(self._redis.zrange(self._key("alive"), 0, -1, withscores=True))
            workers = [
                {**json.loads(about), "name": worker, "entries": held[worker]}
                | {"seen": seconds + micros / 1e6 - alive.get(worker, 0) / 1000}
                for worker, about in self._redis.hgetall(self._key("workers")).items()
            ]
            return Status(
                pushed=self._redis.hlen(self._key("known")),
                done=self._redis.hlen(self._key("done")),
                dead=self._redis.hlen(self._key("dead")),
                later=self._redis.zcard(self._key("later")),
                lease=int(self._redis.hget(self._key("meta"), "lease") or 0) / 1000,
                hosts=sorted(hosts, key=lambda host: host["origin"]),
                workers=sorted(workers, key=lambda worker: worker["name"]),
            )

    def running(self, most: int = 50) -> list[dict[str, Any]]:
        """{name, worker, bytes} of entries that are leased now; bytes as of the last renewal, None before it."""
        found: list[dict[str, Any]] = []
        with self._asking():
            for origin in sorted(self._redis.smembers(self._key("hosts"))):
                stream = self._key(f"q:{origin}")
                for pending in self._redis.xpending_range(stream, GROUP, "-", "+", most - len(found)):
                    message = self._redis.xrange(stream, pending["message_id"], pending["message_id"])
                    if message:
                        name = message[0][1]["n"]
                        size = self._redis.hget(self._key("best"), name)
                        found.append({"name": name, "worker": pending["consumer"], "bytes": size and int(size)})
                if len(found) >= most:
                    break
        return found

    def dead(self) -> dict[str, dict[str, Any]]:
        """Name -> {origin, entry, code, reason} of entries that were given up."""
        with self._asking():
            letters = self._redis.hgetall(self._key("dead"))
        return {name: json.loads(letter) for name, letter in sorted(letters.items())}

    def retry(self, names: Iterable[str]) -> int:
        """Puts dead letters into the queue again; returns how many."""
        with self._asking():
            return sum(self._run("retry", *batch) for batch in _batches(names))

    def set_caps(self, caps: Mapping[str, int | None]) -> None:
        """Host, or host:port, -> how many at once from now on; None: the default. The key "default" sets that."""
        with self._asking():
            for host, cap in caps.items():
                if host == "default":
                    self._redis.hset(self._key("meta"), "cap", DEFAULT_CAP if cap is None else cap)
                elif cap is None:
                    self._redis.hdel(self._key("caps"), host)
                else:
                    self._redis.hset(self._key("caps"), host, cap)

    def caps(self) -> dict[str, int]:
        with self._asking():
            default = self._redis.hget(self._key("meta"), "cap")
            caps = self._redis.hgetall(self._key("caps"))
        return {"default": int(default), **{host: int(cap) for host, cap in sorted(caps.items())}}

    def drop(self) -> None:
        """Forgets the job; files stay. Workers that are at it stop."""
        with self._asking():
            self._run("drop")
            self._redis.srem(JOBS, self.name)

    # -- Redis -----------------------------------------------------------------------------------------------------

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _run(self, script: str, *arguments: str | int) -> Any:
        return self._scripts[script](keys=[self._prefix], args=arguments)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        import redis

        try:
            yield
        except redis.AuthenticationError as error:
            raise UsageError(f"{self.shown} refused the password ({error})") from error
        except redis.RedisError as error:
            raise UsageError(
                f"{self.shown} cannot be asked ({redact(str(error))}); start it or correct the URL"
            ) from error


def _row(entry: Entry) -> tuple[str, str, str, str]:
    text = json.dumps(entry.to_meta(), separators=(",", ":"))
    return origin_of(entry.url), entry.name, url_key(entry.url), text


def _batches(rows: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH)):
        yield batch
