"""A job: one shared queue of entries, as `scrapy bulkqueue` and the start of a worker see it.

Pushes lists, tells how far it is, brings dead letters back. Blocking, for code before or without a reactor; a worker's
own exchange with the queue is `worker.py`. Every mistake of the user is a UsageError that says what to do.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

from bulkspider.entries.entry import Entry, origin_of, redact, url_key
from bulkspider.errors import UsageError
from bulkspider.queue.address import check_address, connect
from bulkspider.queue.scripts import GROUP, JOBS, SCRIPTS, prefix
from bulkspider.queue.status import Status

# Four at once is what most hosts bear without complaint; as CONCURRENT_REQUESTS_PER_DOMAIN in `settings.py`.
DEFAULT_CAP = 4
BATCH = 500
# A worker may be started beside its Redis.
PATIENCE_SECONDS = 30.0


class Job:
    """One job on one Redis. Every method raises UsageError when Redis cannot be asked."""

    def __init__(self, url: str, name: str) -> None:
        check_address(url, name)
        self.name = name
        self.shown = redact(url)
        self._redis: Any = connect(
            url, socket_timeout=30, socket_connect_timeout=5, decode_responses=True, encoding_errors="surrogateescape"
        )
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
        gives_up = time.monotonic() + PATIENCE_SECONDS
        told = False
        while True:
            try:
                self.refuse_cluster()
                self.require()
                return self.status().left
            except UsageError as error:
                if not is_away(error) or time.monotonic() > gives_up:
                    raise
                if not told:
                    tell(f"{error}; trying again for {PATIENCE_SECONDS:.0f} seconds")
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

    def refuse_cluster(self) -> None:
        """Raises UsageError for a node of a Redis Cluster, where a job's scripts would not find all of its keys."""
        if self._info("cluster").get("cluster_enabled"):
            raise UsageError(
                f"{self.shown} is a node of a Redis Cluster; a job needs one Redis, or one with replicas and Sentinel"
            )

    def _info(self, section: str) -> dict[str, Any]:
        """What the server says of itself; nothing where that is not allowed."""
        import redis

        with self._asking():
            try:
                return dict(self._redis.info(section))
            except redis.exceptions.NoPermissionError:
                return {}

    # -- pushing ---------------------------------------------------------------------------------------------------

    def push(self, entries: Iterable[Entry], cap: int = DEFAULT_CAP, title: str = "list") -> tuple[int, int]:
        """Adds the entries that the job does not know yet, largest first. Returns how many were new, and how many
        were given. cap: at most so many at once from each host, unless the job has a number already. title: of the
        list; a push that is broken off is marked by it until that list was pushed again. Raises UsageError when a name
        is known with another URL; nothing is added then."""
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
                new += self._run("push", cap, title, *(cell for row in batch for cell in row))
            self._run("push", cap, title)
        return new, len(rows)

    def eviction(self) -> str | None:
        """The policy by which this Redis may throw keys away when its memory is full; None if it throws none away."""
        policy = self._info("memory").get("maxmemory_policy")
        return None if policy in (None, "noeviction") else str(policy)

    # -- looking and steering --------------------------------------------------------------------------------------

    def status(self) -> Status:
        with self._asking():
            (known, done, dead, left), later, now, rows = self._run("status")
            meta = self._redis.hgetall(self._key("meta"))
            alive = dict(self._redis.zrange(self._key("alive"), 0, -1, withscores=True))
            about = self._redis.hgetall(self._key("workers"))
        hosts = [
            {"origin": origin, "left": left_there, "leased": leased, "running": leased + tokens, "cap": cap}
            | {"closed": closed / 1000}
            for origin, left_there, leased, tokens, cap, closed, _ in rows
        ]
        held: Counter[str] = Counter()
        for *_, holders in rows:
            held.update(dict(zip(holders[::2], holders[1::2], strict=True)))
        lease = int(meta.get("lease") or 0) / 1000
        workers = [
            {**json.loads(told), "name": worker, "entries": held[worker], "seen": (now - alive.get(worker, 0)) / 1000}
            for worker, told in about.items()
        ]
        return Status(
            pushed=known,
            done=done,
            dead=dead,
            left=left,
            later=later,
            lease=lease,
            order=meta.get("order"),
            unfinished=[field.removeprefix("push:") for field in sorted(meta) if field.startswith("push:")],
            hosts=sorted(hosts, key=lambda host: str(host["origin"])),
            # A worker renews more than once within a lease: one that was not heard of for the whole of it is gone.
            workers=sorted((w for w in workers if w["seen"] <= lease), key=lambda worker: str(worker["name"])),
        )

    def running(self, most: int = 50) -> list[dict[str, Any]]:
        """{name, worker, bytes} of entries that are leased now; bytes as of the last renewal, None before it."""
        found: list[dict[str, Any]] = []
        with self._asking():
            lease = int(self._redis.hget(self._key("meta"), "lease") or 0)
            for origin in sorted(self._redis.smembers(self._key("hosts"))):
                stream = self._key(f"q:{origin}")
                for pending in self._redis.xpending_range(stream, GROUP, "-", "+", most - len(found)):
                    if pending["time_since_delivered"] >= lease:
                        continue  # given back, or its worker is gone
                    message = self._redis.xrange(stream, pending["message_id"], pending["message_id"])
                    if message:
                        name = message[0][1]["n"]
                        size = self._redis.hget(self._key("best"), name)
                        found.append({"name": name, "worker": pending["consumer"], "bytes": size and int(size)})
                if len(found) >= most:
                    break
        return found

    def dead(self, reason: str = "", host: str = "") -> dict[str, dict[str, Any]]:
        """Name -> {origin, entry, code, reason} of entries that were given up. reason: only those with this code, or
        with this text in their reason. host: only those of this host, or host:port."""
        with self._asking():
            letters = self._redis.hgetall(self._key("dead"))
        told = {name: json.loads(letter) for name, letter in sorted(letters.items())}
        return {
            name: letter
            for name, letter in told.items()
            if (not reason or reason == letter["code"] or reason in letter["reason"])
            and (not host or host.lower() in (letter["origin"], letter["origin"].rpartition(":")[0]))
        }

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

    def order(self, order: str | None) -> None:
        """pause: nothing new is begun. drain: and workers end when what runs is finished. cancel: workers stop at
        once. None: all goes on."""
        with self._asking():
            self._run("order", order or "")

    def drop(self) -> None:
        """Forgets the job, whatever state it is in; files stay. Workers that are at it stop."""
        with self._asking():
            self._run("drop")
            # Found by their names, because a job whose keys were partly removed must go as well.
            for keys in _batches(self._redis.scan_iter(match=f"{self._prefix}*", count=BATCH)):
                self._redis.unlink(*keys)
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


def jobs_on(url: str) -> list[str]:
    """The names of the jobs that this Redis has. Raises UsageError when it cannot be asked."""
    check_address(url)
    with Job(url, "any") as any_job, any_job._asking():
        return sorted(any_job._redis.smembers(JOBS))


def is_away(error: UsageError) -> bool:
    """Was Redis not there, or not ready, so that the same question may be answered a little later?"""
    import redis

    cause = error.__cause__
    passing = (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError, redis.exceptions.ClusterDownError)
    return isinstance(cause, passing) and not isinstance(cause, redis.AuthenticationError)


def _row(entry: Entry) -> tuple[str, str, str, str]:
    text = json.dumps(entry.to_meta(), separators=(",", ":"))
    return origin_of(entry.url), entry.name, url_key(entry.url), text


def _batches(rows: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH)):
        yield batch
