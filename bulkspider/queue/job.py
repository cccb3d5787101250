"""A job: one shared queue of entries, as `scrapy bulkqueue` and the start of a worker use it.

Pushes lists, reports the status, puts dead letters back. Blocking, for code before or without a reactor; a running
worker uses `worker.py`. Every mistake of the user is a UsageError that says what to do.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, NoReturn

from bulkspider.entries.entry import Entry, redact
from bulkspider.errors import UsageError
from bulkspider.queue.address import check_address, connect
from bulkspider.queue.rows import Row, Rows
from bulkspider.queue.scripts import FORM, JOBS, SCRIPTS, prefix
from bulkspider.queue.status import Status

# Most hosts accept four connections at once; as CONCURRENT_REQUESTS_PER_DOMAIN in `settings.py`.
DEFAULT_CAP = 4
# Entries of one script, which Redis runs in a millisecond or two; scripts that are sent together, and which it may run
# before it serves anybody else.
ENTRIES_PER_SCRIPT = 50
SCRIPTS_TOGETHER = 8
# The state of a job with more hosts is read by several commands, between which the job changes. If the numbers do not
# fit together it is read again, at most so often.
LOOKS_MAX = 3
# A worker may be started at the same time as its Redis, so it waits this long for it.
PATIENCE_SECONDS = 30.0


class _Asked:
    """A Redis, and the scripts of one job on it."""

    def __init__(self, url: str, name: str) -> None:
        check_address(url, name)
        self.name = name
        self.shown = redact(url)
        self._redis: Any = connect(
            url, socket_timeout=30, socket_connect_timeout=5, decode_responses=True, encoding_errors="surrogateescape"
        )
        self._scripts = {script: self._redis.register_script(text) for script, text in SCRIPTS.items()}
        self._prefix = prefix(name)

    def _info(self, section: str) -> dict[str, Any]:
        """A section of Redis' INFO; empty where that is not allowed."""
        import redis

        with self._asking():
            try:
                return dict(self._redis.info(section))
            except redis.exceptions.NoPermissionError:
                return {}

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _run(self, script: str, *arguments: str | int) -> Any:
        return self._scripts[script](keys=[self._prefix], args=arguments)

    def _run_many(self, script: str, arguments: Iterable[list[Any]]) -> Iterator[Any]:
        """The answers to one script with many arguments, several of which are under way at once."""
        waiting = iter(arguments)
        while together := list(islice(waiting, SCRIPTS_TOGETHER)):
            pipe = self._redis.pipeline(transaction=False)
            for one in together:
                self._scripts[script](keys=[self._prefix], args=one, client=pipe)
            yield from pipe.execute()

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


class Job(_Asked):
    """One job on one Redis. Every method raises UsageError when Redis cannot be asked."""

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self._redis.close()

    # -- what workers need -----------------------------------------------------------------------------------------

    def wait_until_there(self, tell: Callable[[str], None], *, stays: bool = False) -> int:
        """How many entries are left. Waits a while for a Redis that does not answer yet; raises UsageError when it
        does not come, or has no such job. stays: waits for the job, however long, and tells so once."""
        gives_up = time.monotonic() + PATIENCE_SECONDS
        told = False
        while True:
            try:
                self.refuse_cluster()
                self.require()
                return self.status().left
            except UsageError as error:
                comes = stays and error.code == "no_job"
                if not comes and (not is_away(error) or time.monotonic() > gives_up):
                    raise
                if not told:
                    how_long = "waiting for it" if comes else f"trying again for {PATIENCE_SECONDS:.0f} seconds"
                    tell(f"{error}; {how_long}")
                    told = True
                time.sleep(0.5)

    def require(self) -> None:
        """Raises UsageError when nothing was ever pushed to this job."""
        with self._asking():
            if meta := self._redis.hgetall(self._key("meta")):
                if int(meta.get("form", 1)) < FORM:
                    self._upgrade()
                return
            others = self._redis.smembers(JOBS)
        if self.name in others:
            self._refuse_lost()
        there = f" (jobs there: {', '.join(sorted(others))})" if others else ""
        raise UsageError(
            f"there is no job {self.name} on {self.shown}{there}; push its list first: "
            f"scrapy bulkqueue push LIST --queue {self.shown} --job {self.name}",
            code="no_job",
        )

    def _refuse_lost(self) -> NoReturn:
        raise UsageError(
            f"job {self.name} is not on {self.shown} any more: it was dropped, or this Redis has lost it; if it is "
            "lost, push its list again: what the ledger proves is not fetched",
            code="no_job",
        )

    def _upgrade(self) -> None:
        """Converts a job that an earlier version has pushed. Its workers find that their leases are lost, and stop."""
        for origin in sorted(self._redis.smembers(self._key("hosts"))):
            while self._run("upgrade", origin):
                pass
        while self._run("upgrade"):
            pass
        self._redis.hset(self._key("meta"), "form", FORM)

    def refuse_cluster(self) -> None:
        """Raises UsageError for a node of a Redis Cluster, where a job's scripts would not find all of its keys."""
        if self._info("cluster").get("cluster_enabled"):
            raise UsageError(
                f"{self.shown} is a node of a Redis Cluster; a job needs one Redis, or one with replicas and Sentinel"
            )

    # -- pushing ---------------------------------------------------------------------------------------------------

    def push(
        self, entries: Iterable[Entry], cap: int = DEFAULT_CAP, title: str = "list", priority: int = 0
    ) -> tuple[int, int]:
        """Adds the entries that the job does not know yet, largest first. Returns how many were new, and how many
        were given. cap: at most so many at once from each host, unless the job has a number already. title: of the
        list; a push that is broken off is marked by it until that list was pushed again. priority: those of a higher
        one are given first. Raises UsageError when a name is known with another URL; nothing is added then."""
        with Rows(entries, priority) as rows, self._asking():
            if self._redis.hlen(self._key("known")):
                # First, so that a list that does not fit leaves nothing behind.
                self._check(rows)
            self._redis.sadd(JOBS, self.name)
            batches = ([cell for row in batch for cell in row[:3]] for batch in _batches(rows.largest_first()))
            new = sum(self._run_many("push", ([cap, title, priority, *cells] for cells in batches)))
            self._run("push", cap, title, priority)
            return new, len(rows)

    def _check(self, rows: Rows) -> None:
        batches: list[list[Row]] = []

        def cells() -> Iterator[list[str]]:
            for batch in _batches(rows):
                batches.append(batch)
                yield [cell for row in batch for cell in (row[1], row[3])]

        for other in self._run_many("check", cells()):
            batch = batches.pop(0)
            if other is not None:
                raise UsageError(
                    f"{batch[other][1]}: job {self.name} has another URL for this name; rename one of the two, or use "
                    "another job"
                )

    def eviction(self) -> str | None:
        """The policy by which this Redis may remove keys when its memory is full; None if it removes none."""
        policy = self._info("memory").get("maxmemory_policy")
        return None if policy in (None, "noeviction") else str(policy)

    # -- looking and steering --------------------------------------------------------------------------------------

    def status(self) -> Status:
        """How far it is. Where it has many hosts they are asked some at a time, so that Redis serves others meanwhile;
        entries that were on their way between two questions are not taken for lost ones. Raises UsageError also when
        the job is not there any more."""
        self._lapse()
        looks = (self._look() for _ in range(LOOKS_MAX))
        best = next(looks)
        for look in looks:
            if not best.missing:
                break
            best = min(best, look, key=lambda status: abs(status.missing))
        return best

    def _lapse(self) -> None:
        """Nothing is shown as running whose lease is over."""
        with self._asking():
            while self._run("lapse"):
                pass

    def _look(self) -> Status:
        with self._asking():
            origins = set(self._redis.sscan_iter(self._key("hosts"), count=ENTRIES_PER_SCRIPT))
            # With the hosts in one step, if they are few.
            pipe = self._redis.pipeline()
            self._scripts["status"](keys=[self._prefix], client=pipe)
            pipe.hgetall(self._key("held"))
            if 0 < len(origins) <= ENTRIES_PER_SCRIPT:
                self._scripts["hosts"](keys=[self._prefix], args=[*origins], client=pipe)
            (known, done, dead, later, now), held, *found = pipe.execute()
            about_hosts = dict(zip(origins, found[0], strict=True)) if found else {}
            # number, seat, origin, worker
            leases = [lease.split(" ", 3) for lease in held.values()]
            more = {cell for _, seat, origin, _ in leases for cell in (seat, origin)} | origins
            batches = list(_batches(sorted(more - about_hosts.keys())))
            for batch, rows in zip(batches, self._run_many("hosts", batches), strict=True):
                about_hosts |= zip(batch, rows, strict=True)
            if not (meta := self._redis.hgetall(self._key("meta"))):
                self._refuse_lost()
            alive = dict(self._redis.zrange(self._key("alive"), 0, -1, withscores=True))
            about = self._redis.hgetall(self._key("workers"))
            done_bytes, left_bytes = self._redis.hmget(self._key("bytes"), "done", "left")
        leased, by_worker = Counter(lease[2] for lease in leases), Counter(lease[3] for lease in leases)
        hosts = [
            {"origin": origin, "left": waiting + leased[origin], "leased": leased[origin], "running": used, "cap": cap}
            | {"closed": closed / 1000}
            for origin, (waiting, used, cap, closed) in sorted(about_hosts.items())
            if waiting or used or leased[origin]
        ]
        lease = int(meta.get("lease") or 0) / 1000
        workers = [
            {
                **json.loads(told),
                "name": worker,
                "entries": by_worker[worker],
                "seen": (now - alive.get(worker, 0)) / 1000,
            }
            for worker, told in about.items()
        ]
        return Status(
            pushed=known,
            done=done,
            dead=dead,
            left=sum(int(host["left"]) for host in hosts) + later,
            later=later,
            lease=lease,
            order=meta.get("order"),
            unfinished=[field.removeprefix("push:") for field in sorted(meta) if field.startswith("push:")],
            hosts=hosts,
            # A worker renews more than once within a lease: one that was not heard of for the whole of it is gone.
            workers=sorted((w for w in workers if w["seen"] <= lease), key=lambda worker: str(worker["name"])),
            bytes_done=int(done_bytes or 0),
            bytes_left=int(left_bytes or 0),
        )

    def running(self, most: int = 50) -> list[dict[str, Any]]:
        """{name, worker, bytes} of entries that are leased now; bytes as of the last renewal, None before it."""
        self._lapse()
        with self._asking():
            held = dict(islice(self._redis.hscan_iter(self._key("held"), count=most), most))
            sizes = self._redis.hmget(self._key("best"), [*held]) if held else []
        return [
            {"name": name, "worker": lease.split(" ", 3)[3], "bytes": size and int(size)}
            for (name, lease), size in zip(held.items(), sizes, strict=True)
        ]

    def dead(self, reason: str = "", host: str = "") -> dict[str, dict[str, Any]]:
        """Name -> {origin, entry, code, reason} of entries that were given up. reason: only those with this code, or
        with this text in their reason. host: only those of this host, or host:port."""
        with self._asking():
            letters = dict(self._redis.hscan_iter(self._key("dead"), count=ENTRIES_PER_SCRIPT))
        told = {name: json.loads(letter) for name, letter in sorted(letters.items())}
        return {
            name: letter
            for name, letter in told.items()
            if (not reason or reason == letter["code"] or reason in letter["reason"])
            and (not host or host.lower() in (letter["origin"], letter["origin"].rpartition(":")[0]))
        }

    def some_dead(self, most: int) -> dict[str, dict[str, Any]]:
        """A few of the entries that were given up, as of `dead`."""
        with self._asking():
            letters = islice(self._redis.hscan_iter(self._key("dead"), count=most), most)
            return {name: json.loads(letter) for name, letter in sorted(letters)}

    def outcomes(self) -> Iterator[dict[str, Any]]:
        """Of each entry that is done, or was given up: {name, url, status, size (bytes), worker, time (Unix), code,
        message}, in any order; those that have no outcome yet are not among them."""
        seen: set[int] = set()  # a hash that grows meanwhile may give an entry twice
        with self._asking():
            for key in ("done", "dead"):
                for name, told in self._redis.hscan_iter(self._key(key), count=ENTRIES_PER_SCRIPT):
                    if (mark := hash(name)) in seen:
                        continue
                    seen.add(mark)
                    about = json.loads(told)
                    row = {"name": name, "url": about.get("url"), "status": about.get("status", "failed")}
                    row |= {"size": about.get("size"), "worker": about.get("worker"), "time": about.get("time")}
                    if key == "dead":
                        row["url"] = redact(json.loads(about["entry"])["url"])
                    yield row | {"code": about.get("code"), "message": about.get("reason")}

    def done_elsewhere(self, entries: Iterable[tuple[str, str]]) -> list[str]:
        """Of entries by (name, key of the URL): the names of those that the job knows as done."""
        found = []
        with self._asking():
            for batch in _batches(entries):
                pipe = self._redis.pipeline(transaction=False)
                pipe.hmget(self._key("done"), [name for name, _ in batch])
                pipe.hmget(self._key("known"), [name for name, _ in batch])
                for (name, key), done, known in zip(batch, *pipe.execute(), strict=True):
                    if done is not None and known is not None and known.partition(" ")[0] == key:
                        found.append(name)
        return found

    def retry(self, names: Iterable[str]) -> int:
        """Puts dead letters into the queue again; returns how many."""
        with self._asking():
            return sum(self._run_many("retry", _batches(names)))

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
            for _ in self._run_many(
                "look", _batches(self._redis.sscan_iter(self._key("hosts"), count=ENTRIES_PER_SCRIPT))
            ):
                pass

    def caps(self) -> dict[str, int]:
        with self._asking():
            default = self._redis.hget(self._key("meta"), "cap")
            caps = self._redis.hgetall(self._key("caps"))
        return {"default": int(default), **{host: int(cap) for host, cap in sorted(caps.items())}}

    def order(self, order: str | None) -> None:
        """pause: no new entry begins. drain: the same, and workers end when their running entries are finished. cancel:
        workers stop at once. None: all goes on."""
        with self._asking():
            self._run("order", order or "")

    def drop(self) -> None:
        """Removes the job, in whatever state; files stay. Its workers stop."""
        with self._asking():
            self._run("drop")
            # Found by their names, because a job whose keys were partly removed must go as well.
            for keys in _batches(self._redis.scan_iter(match=f"{self._prefix}*", count=ENTRIES_PER_SCRIPT)):
                self._redis.unlink(*keys)
            self._redis.srem(JOBS, self.name)


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


def _batches(rows: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, ENTRIES_PER_SCRIPT)):
        yield batch
