"""The shared queue against a real Redis: who gets which entry, when, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bulkspider.disk.commit import publish
from bulkspider.disk.folder.folder import Folder
from bulkspider.disk.part import Part
from bulkspider.entries.entry import Entry
from bulkspider.errors import AttemptError, BulkError, UsageError, disk_error
from bulkspider.queue.job import Job
from bulkspider.queue.worker import RedisQueue
from bulkspider.queue.working.claims import MOST_TRIES
from support.kept import kept
from support.redisserver import Forwarder, RedisServer

SLOW = AttemptError("the connection broke", code="lost")
GONE = AttemptError("the origin answered 404", code="http_404", http_status=404)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def job(redis: RedisServer, request: pytest.FixtureRequest) -> Iterator[Job]:
    """A job of this test's own, with nothing in it."""
    with Job(redis.url, f"job{abs(hash(request.node.name))}") as job:
        yield job


def entries(*names: str, host: str = "h", sizes: dict[str, int] | None = None) -> list[Entry]:
    return [Entry(n + 2, name, f"http://{host}/{name}", (sizes or {}).get(name)) for n, name in enumerate(names)]


class Worker:
    """A queue as the spider uses it."""

    def __init__(
        self, redis: RedisServer | Forwarder, job: Job, lease: float = 30, delay: float = 0.1, patience: float = 3600
    ) -> None:
        self.queue = RedisQueue(
            *(redis.url, job.name), entries=0, lease=lease, delay=delay, patience=patience, stranger_patience=60
        )
        self.lost: list[str] = []
        self.forgiven: list[str] = []
        self.patience = float("inf")
        self.stopped: list[BulkError] = []
        self._woken = asyncio.Event()

    async def __aenter__(self) -> Worker:
        self.queue.begin(self)
        return self

    def wake(self) -> None:
        self._woken.set()

    def lose(self, name: str) -> None:
        self.lost.append(name)

    def forgive(self, origin: str) -> None:
        self.forgiven.append(origin)

    def hurry(self, seconds: float) -> None:
        self.patience = seconds

    def stop(self, error: BulkError) -> None:
        self.stopped.append(error)

    async def __aexit__(self, *_: object) -> None:
        await self.queue.end()

    async def take(self, *blocked: str) -> Entry | None:
        """The next entry, or None when the queue has said that there is none now."""
        claims = self.queue.claims
        claims.ask_at = 0.0
        heard = claims.nothing_heard
        self.queue.has_room(1, 100)
        while True:
            self._woken.clear()
            if (entry := self.queue.take(blocked)) is not None:
                return entry
            if claims.nothing_heard > heard or self.queue.exhausted or self.stopped:
                return None
            await asyncio.wait_for(self._woken.wait(), 10)

    async def names(self, *blocked: str) -> list[str]:
        """All that can be had now."""
        taken = []
        while (entry := await self.take(*blocked)) is not None:
            taken.append(entry.name)
        return taken

    async def until(self, happened: Callable[[], bool], timeout: float = 10) -> None:
        await until(happened, timeout)

    async def told(self) -> None:
        """Redis has heard everything."""
        await asyncio.wait_for(self.queue.all_told(), 10)

    async def vanish(self) -> None:
        """As after kill -9: nothing is given back."""
        await self.queue.vanish()

    async def sleep(self) -> None:
        """As after SIGSTOP, as far as leases go."""
        await self.queue.leases.let_go()

    def go_on(self) -> None:
        assert self.queue.link is not None
        self.queue.leases.keep(self.queue.link)


async def until(happened: Callable[[], bool], timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while not happened():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def run(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    def wrapped(redis: RedisServer, job: Job, tmp_path: Path) -> None:
        asyncio.run(test(redis, job, tmp_path))

    wrapped.__name__ = test.__name__
    wrapped.__doc__ = test.__doc__
    return wrapped


def grown(folder: Path, name: str, size: int) -> Part:
    """A part with so many bytes."""
    part = Part(Folder(folder), name, "key", checkpoint=1 << 30)
    part.state.have.add(0, size)
    return part


# --- Pushing ----------------------------------------------------------------------------------------------------------


def test_pushing_again_adds_only_what_is_new(job: Job) -> None:
    assert job.push(entries("a", "b")) == (2, 2)
    assert job.push(entries("a", "b", "c")) == (1, 3)
    assert job.status().left == 3


def test_a_name_with_another_url_is_refused_and_nothing_is_added(job: Job) -> None:
    job.push(entries("a"))
    with pytest.raises(UsageError, match=r"^a: job .* has another URL for this name"):
        job.push([*entries("b"), *entries("a", host="other")])
    assert job.status().pushed == 1


def test_twenty_thousand_entries_are_pushed_by_few_questions(redis: RedisServer, job: Job) -> None:
    many = [Entry(n, f"{n}.bin", f"http://h{n % 200}.example/{n}", n) for n in range(20_000)]
    with kept(redis.url, job.name) as there:
        there.client.config_resetstat()
        assert job.push(many) == (20_000, 20_000)
        assert there.client.info("commandstats")["cmdstat_evalsha"]["calls"] < 20_000 / 40
    assert job.status().left == 20_000


@run
async def test_nothing_of_a_large_job_keeps_redis_from_others_for_long(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    """Redis serves nobody else while it runs one command or script; it does about a thousand commands in 1 ms."""
    many = [Entry(n, f"{n}.bin", f"http://h{n % 300}.example/{n}", n) for n in range(6_000)]
    with kept(redis.url, job.name) as there, there.longest_step() as steps:
        job.push(many)
        job.push(many)
        job.push([Entry(n, f"p{n}", f"http://h{n}.example/p{n}") for n in range(300)], priority=-7)
        async with Worker(redis, job) as worker:
            for _ in range(500):
                entry = await get(worker)
                worker.queue.ended(entry, "failed", GONE)
            await worker.told()
            assert len(await worker.names()) == 4 * 300
            await worker.vanish()
        there.lapse()
        assert job.status().running == 0
        assert len(job.running()) == 0
        assert job.retry(job.dead()) == 500
        job.set_caps({"default": 0})
        assert len(list(job.outcomes())) == 0
        assert job.done_elsewhere((entry.name, "key") for entry in many) == []
        job.order("pause")
        job.drop()
        assert there.keys == []
    assert max(steps) < 4_000


@run
async def test_a_job_of_the_first_form_is_changed_into_this_one(redis: RedisServer, job: Job, tmp_path: Path) -> None:
    """A stream for each origin; here one entry of it is leased, one waits for its next try, one is done."""
    texts = {entry.name: json.dumps(entry.to_meta()) for entry in entries("a", "b", "c", "d")}
    with kept(redis.url, job.name) as there:
        client, key = there.client, there.key
        client.hset(key("meta"), mapping={"made": 1, "cap": 4, "lease": 1000})
        client.sadd(key("hosts"), "h:80")
        client.hset(key("known"), mapping=dict.fromkeys("abcd", "key"))
        client.xgroup_create(key("q:h:80"), "workers", "0", mkstream=True)
        for name in "ab":
            client.xadd(key("q:h:80"), {"n": name, "e": texts[name]})
        client.xreadgroup("workers", "gone", {key("q:h:80"): ">"}, 1)
        client.zadd(key("later"), {f"h:80\nc\n{texts['c']}": 1})
        client.hset(key("done"), "d", "{}")
        job.require()
        assert (job.status().left, job.status().done, job.status().missing) == (3, 1, 0)
        assert not client.exists(key("q:h:80"), key("later"))
    async with Worker(redis, job) as worker:
        assert await worker.names() == ["a", "b", "c"]


@run
async def test_what_was_sent_and_not_answered_is_neither_lost_nor_held_against_an_entry(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    """The connection breaks when Redis has done what it was told, again and again, and nobody hears that it has."""
    job.push(entries(*map(str, range(40))), cap=4)
    with Forwarder(redis.port) as address, kept(redis.url, job.name) as there:
        done: list[str] = []
        async with Worker(address, job, lease=30) as worker:
            while len(done) < 40:
                entry = await get(worker)
                address.deaf = len(done) % 3 == 0
                worker.queue.ended(entry, "complete")
                done.append(entry.name)
                worker.queue.has_room(2, 9)
                worker.queue.claims.ask(())
                if address.deaf:
                    await until(lambda: job.status().done == len(done))
                    address.deaf = False
                    address.cut()
            await worker.told()
            assert sorted(done, key=int) == [str(n) for n in range(40)], "each was given once"
            assert (job.status().done, job.status().left, job.dead()) == (40, 0, {})
            assert there.client.zcard(there.key("leases")) == there.client.hlen(there.key("used")) == 0


@run
async def test_a_connection_that_breaks_while_much_is_sent_is_made_anew(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    """Redis hears and says nothing, again and again; each time the worker gives up waiting while it is sending."""
    job.push(entries("a"))
    with Forwarder(redis.port) as address:
        async with Worker(address, job, lease=3) as worker:
            link = worker.queue.link
            assert link is not None
            broken: list[asyncio.Future[Any]] = []
            for pause in range(10):
                answers = [OSError()]
                while answers != [0]:
                    asked = asyncio.gather(link.ask("lapse"), return_exceptions=True)
                    answers = await asyncio.wait_for(asked, 10)
                address.deaf = True
                while not broken:
                    question = link.ask("lapse")
                    question.add_done_callback(lambda asked: broken.append(asked) if asked.exception() else None)
                    for _ in range(pause % 5 + 1):
                        await asyncio.sleep(0)
                address.deaf = False
                address.cut()
                broken.clear()
            assert await worker.names() == ["a"]


@run
async def test_the_largest_come_first(redis: RedisServer, job: Job, tmp_path: Path) -> None:
    job.push(entries("a", "b", "c", "d", sizes={"a": 1, "b": 1 << 40, "d": 1 << 30}), cap=9)
    async with Worker(redis, job) as worker:
        assert await worker.names() == ["b", "d", "a", "c"]


@run
async def test_an_entry_arrives_as_it_was_pushed(redis: RedisServer, job: Job, tmp_path: Path) -> None:
    entry = Entry(
        7, "ü/名.bin", "https://u:p@h/x?sig=1", 5, (("sha256", "ab"),), ("http://m/x",), (("Cookie", "a=1"),), 2
    )
    job.push([entry])
    async with Worker(redis, job) as worker:
        assert await worker.take() == entry


# --- Who may have what ------------------------------------------------------------------------------------------------


@run
async def test_a_host_never_has_more_than_its_cap_over_all_workers(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    job.push([*entries("a", "b", "c", "d"), *entries("x", "y", "z", host="other")], cap=2)
    job.set_caps({"other": 1})
    async with Worker(redis, job) as one, Worker(redis, job) as two:
        taken = [entry for worker in (one, two, one, two) if (entry := await worker.take())]
        assert sorted(entry.name for entry in taken) == ["a", "b", "x"]
        (first,) = [entry for entry in taken if entry.name == "a"]
        holder = one if "a" in one.queue.leases else two
        holder.queue.ended(first, "complete")
        await holder.told()
        assert await two.names() == ["c"]
        job.set_caps({"h": 3, "default": 9, "other": None})
        assert sorted(await one.names()) == ["d", "y", "z"]


@run
async def test_blocked_origins_are_passed_over(redis: RedisServer, job: Job, tmp_path: Path) -> None:
    job.push([*entries("a"), *entries("x", host="other")])
    async with Worker(redis, job) as worker:
        assert await worker.names("h:80") == ["x"]
        assert await worker.names() == ["a"]


@run
async def test_the_cap_counts_at_the_host_that_serves_where_that_is_known(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    job.push([*entries("a", "b", "c", host="front"), *entries("x", "y", host="back")], cap=2)
    job.set_caps({"back": 0})
    async with Worker(redis, job) as worker:
        a = await get(worker)
        part = grown(tmp_path, a.name, 10)
        worker.queue.begun(a, part)
        part.learn(source="back:80")
        worker.queue.leases.renew_soon()
        await until(lambda: {host["origin"]: host["running"] for host in job.status().hosts}.get("back:80") == 1)
        assert await worker.names() == [], "nothing may begin at the host whereto a redirect leads"
        job.set_caps({"back": 2})
        (one,) = await worker.names()
        assert one in ("b", "x")
        assert await worker.names() == []
        worker.queue.ended(a, "complete")
        assert len(await worker.names()) == 1
        job.set_caps({"back": None, "default": 9, "front": 0})
        assert set(await worker.names()) <= {"x", "y"}, "what is paused by its own name stays so"
        job.set_caps({"front": None})
        await worker.names()
        assert len(worker.queue.leases) == 4


@run
async def test_entries_of_a_higher_priority_come_first_whatever_their_host(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    job.push(entries("a", "b"), cap=9)
    job.push(entries("x", "y", host="other"), priority=-1)
    job.push(entries("now"), priority=7)
    async with Worker(redis, job) as worker:
        first = await get(worker)
        assert first.name == "now"
        worker.queue.ended(first, "interrupted")
        assert await worker.names() == ["now", "a", "b", "x", "y"], "also what was handed back"
    assert job.push(entries("a"), priority=3) == (0, 1)


@run
async def test_a_host_that_asked_to_wait_is_left_alone_by_everybody(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    job.push([*entries("a"), *entries("x", host="other")])
    async with Worker(redis, job) as one, Worker(redis, job) as two:
        one.queue.origin_closed("h:80", 0.4)
        await one.told()
        closed = time.monotonic()
        assert await two.names() == ["x"]
        assert [host["closed"] > 0 for host in job.status().hosts] == [True, False]
        while not (taken := await two.names()):
            await asyncio.sleep(0.01)
        assert taken == ["a"]
        assert time.monotonic() - closed >= 0.3


@run
async def test_what_a_claim_costs_does_not_depend_on_how_many_hosts_are_paused(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    cost = []
    with kept(redis.url, job.name) as there:
        for hosts in (20, 2_000):
            job.push([Entry(n, f"{n}", f"http://h{n}.example/{n}") for n in range(hosts)])
            job.set_caps({"default": 0})
            job.push(entries(f"a{hosts}", host="open"))
            job.set_caps({"open": 4})
            async with Worker(redis, job) as worker:
                while not worker.queue.claims.ready:  # at first it finds those that are paused
                    worker.queue.claims.ask(())
                    await asyncio.sleep(0.01)
                assert f"a{hosts}" in await worker.names()
                there.client.config_resetstat()
                assert await worker.take() is None
                cost.append(sum(one["calls"] for one in there.client.info("commandstats").values()))
    assert cost[1] <= cost[0] + 10


@run
async def test_who_takes_many_short_files_asks_ahead_by_as_many_as_end_before_the_answer(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    job.push(entries(*map(str, range(100))), cap=50)
    with Forwarder(redis.port, delay=0.2) as far:
        async with Worker(far, job) as worker:
            queue = worker.queue
            queue.has_room(20, 100)
            queue.take()
            await worker.until(lambda: len(queue.claims.ready) == 20)
            for _ in range(20):
                entry = queue.take()
                assert entry
                queue.ended(entry, "complete")
            queue.has_room(1, 100)
            queue.take()
            await worker.until(lambda: bool(queue.claims.ready))
            assert 10 <= len(queue.claims.ready) <= 50
            assert job.status().done == 20


# --- Leases -----------------------------------------------------------------------------------------------------------


@run
async def test_what_a_dead_worker_held_goes_to_others_within_the_lease(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    job.push(entries("a", "b"), cap=1)
    async with Worker(redis, job, lease=1) as one, Worker(redis, job, lease=1) as two:
        assert await one.names() == ["a"]
        await one.vanish()
        begun = time.monotonic()
        assert await two.names() == [], "it is leased, and fills the cap"
        taken = None
        while taken is None:
            await asyncio.sleep(0.05)
            taken = await two.take()
        assert 0.5 < time.monotonic() - begun < 2
        assert taken.name == "a"
        assert two.queue.taken_over(taken)
        assert await two.names() == [], "the dead worker's place is taken, there is no second one"


@run
async def test_what_joining_costs_does_not_depend_on_what_others_hold(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    """After a restart of Redis all workers join at once."""
    job.push([Entry(n, f"{n}", f"http://h{n % 10}.example/{n}") for n in range(2_000)], cap=1_000)

    async def cost() -> float:
        """Of Redis' time, for one that comes and goes. The least of several, as others use this machine too."""
        costs = []
        for _ in range(10):
            there.client.config_resetstat()
            async with Worker(redis, job) as late:
                await late.take()
            costs.append(there.client.info("commandstats")["cmdstat_evalsha"]["usec"])
        return min(costs)

    with kept(redis.url, job.name) as there:
        alone = await cost()
        async with Worker(redis, job) as other:
            assert len(await other.names()) >= 1_000
            assert await cost() < 4 * alone


@run
async def test_a_lease_is_renewed_for_as_long_as_its_worker_lives(redis: RedisServer, job: Job, tmp_path: Path) -> None:
    job.push(entries("a"))
    async with Worker(redis, job, lease=1) as one, Worker(redis, job, lease=1) as two:
        entry = await one.take()
        assert entry is not None
        deadline = time.monotonic() + 2.5
        while time.monotonic() < deadline:
            assert await two.take() is None
            await asyncio.sleep(0.05)
        assert one.lost == []
        one.queue.ended(entry, "complete")
        await one.told()
        assert job.status().done == 1


@run
async def test_the_longest_lease_of_all_workers_is_everybodys(redis: RedisServer, job: Job, tmp_path: Path) -> None:
    job.push(entries("a"))
    async with Worker(redis, job, lease=30) as patient, Worker(redis, job, lease=1) as hasty:
        assert await patient.names() == ["a"]
        await patient.vanish()
        await asyncio.sleep(1.2)
        assert await hasty.names() == []


@run
async def test_who_slept_through_his_lease_is_told_and_changes_nothing(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    job.push(entries("a"))
    async with Worker(redis, job, lease=1) as one, Worker(redis, job, lease=1) as two:
        entry = await one.take()
        assert entry is not None
        part = Part(Folder(tmp_path), "a", "key", checkpoint=1 << 30)
        one.queue.begun(entry, part)
        part.open()
        part.write(b"hello", 0)
        await one.sleep()
        await until(lambda: not part.files.lease or not part.files.lease.valid)
        with pytest.raises(BulkError, match="another worker goes on") as caught:
            part.write(b"world", 5)
        assert caught.value.code == "lease_lost"
        for name_changes in (lambda: publish(part), part.set_aside, part.foreign.refuse):
            with pytest.raises(BulkError):
                name_changes()
        part.state.have.add(5, 10)
        part.checkpoints.save()
        part.close()
        assert (tmp_path / "a.part").read_bytes() == b"hello"
        assert not (tmp_path / "a.part.json").exists()
        taken = None
        while taken is None:
            taken = await two.take()
        one.go_on()
        await one.until(lambda: one.lost == ["a"])
        one.queue.ended(entry, "failed", GONE)  # as if it did not care
        await one.told()
        assert (job.status().dead, job.status().left) == (0, 1)
        two.queue.ended(taken, "complete")
        await two.told()
        assert job.status().done == 1


@run
async def test_while_redis_is_away_leases_end_by_the_workers_own_clock(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    with RedisServer(tmp_path) as own, Job(own.url, "j") as job:
        job.push(entries("a", "b"))
        async with Worker(own, job, lease=2) as worker:
            a, b = await worker.take(), await worker.take()
            assert a
            assert b
            own.kill()
            worker.queue.ended(a, "complete")
            assert worker.lost == []
            await worker.until(lambda: worker.lost == ["b"])
            assert worker.queue.take_back(b, BulkError("", code="lease_lost"))
            own.up()
            await worker.told()
            assert job.status().done == 1, "what was done meanwhile is told as soon as Redis is back"
            taken = None
            while taken is None:
                taken = await worker.take()
                await asyncio.sleep(0.05)
            assert taken.name == "b"
            assert worker.queue.owed == 2


@run
async def test_an_orderly_end_gives_everything_back_at_once_and_blames_nobody(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    job.push(entries("a", "b"))
    async with Worker(redis, job, lease=60) as two:
        for _ in range(MOST_TRIES + 1):
            async with Worker(redis, job, lease=60) as one:
                assert sorted(await one.names()) == ["a", "b"]
        assert sorted(await two.names()) == ["a", "b"]
        assert not two.queue.taken_over(entries("a")[0])
        workers = job.status().workers
        assert [(worker["name"], worker["entries"]) for worker in workers] == [(two.queue.worker, 2)]


@run
async def test_further_connections_count_against_the_cap_as_leases_do(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    job.push([*entries("a", "b"), *entries("x", host="other")], cap=2)
    job.set_caps({"other": 0, "h": 1})

    def running() -> int:
        return sum(host["running"] for host in job.status().hosts)

    async with Worker(redis, job, lease=3) as one, Worker(redis, job, lease=3) as two:
        a = await get(one)
        assert await one.take() is None
        job.set_caps({"h": None})
        assert not one.queue.may_connect(a), "it is asked for in the background"
        await one.until(lambda: one.queue.may_connect(a))
        one.queue.connect(a)
        assert await two.names() == [], "a and its second connection fill the cap"
        for _ in range(3):
            assert not one.queue.may_connect(a)
            await asyncio.sleep(1.1)  # longer than the lease in all: tokens are renewed with it
        assert await two.names() == []
        assert running() == 2
        one.queue.disconnect(a)
        await one.told()
        b = await get(two)
        two.queue.ended(b, "complete")
        await two.told()
        assert running() == 1
        # A token that nobody takes up is given back.
        one.queue.connections.asked.clear()
        assert not one.queue.may_connect(a)
        await one.until(lambda: running() == 2)
        await one.until(lambda: running() == 1)
        # And one that is in use goes with its entry.
        await one.until(lambda: one.queue.may_connect(a))
        one.queue.connect(a)
        assert running() == 2
        one.queue.ended(a, "complete")
        await one.told()
        job.push(entries("c"))
        assert running() == 0


# --- Outcomes ---------------------------------------------------------------------------------------------------------


@run
async def test_what_cannot_be_cured_is_given_up_with_its_reason_until_somebody_retries(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    job.push(entries("a", "b"))
    async with Worker(redis, job) as worker:
        a, b = await worker.take(), await worker.take()
        assert a
        assert b
        assert not worker.queue.take_back(a, GONE)
        worker.queue.ended(a, "failed", GONE)
        worker.queue.ended(b, "verified")
        await worker.told()
        assert (job.status().left, job.status().dead) == (0, 1)
        assert job.dead()["a"]["reason"] == "the origin answered 404"
        assert await worker.take() is None
        assert worker.queue.exhausted
        assert job.retry(["a", "no such"]) == 1
        assert job.push(entries("a")) == (0, 1), "it is known"
    async with Worker(redis, job) as worker:
        assert await worker.names() == ["a"]


@run
async def test_what_failed_and_may_pass_is_given_again_later_and_in_the_end_given_up(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    job.push(entries("a"), cap=1)
    async with Worker(redis, job, delay=0.1) as worker:
        for _ in range(MOST_TRIES - 1):
            entry = await get(worker)
            begun = time.monotonic()
            assert worker.queue.take_back(entry, SLOW)
            await worker.told()
            assert job.status().running == 0, "who waits fills no place"
            assert job.status().left == 1
            await get_ready(worker)
            assert time.monotonic() - begun >= 0.1
        entry = await get(worker)
        # It brought something at last: the patience with it is new.
        worker.queue.begun(entry, grown(tmp_path, "a", 10))
        assert worker.queue.take_back(entry, SLOW)
        for _ in range(MOST_TRIES - 1):
            entry = await get(worker)
            worker.queue.begun(entry, grown(tmp_path, "a", 10))
            assert worker.queue.take_back(entry, SLOW)
        entry = await get(worker)
        worker.queue.begun(entry, grown(tmp_path, "a", 10))
        assert not worker.queue.take_back(entry, SLOW)
        worker.queue.ended(entry, "failed", SLOW)
        await worker.told()
        assert job.dead()["a"]["code"] == "lost"
        assert worker.queue.owed == 1


async def get(worker: Worker) -> Entry:
    while (entry := await worker.take()) is None:
        await asyncio.sleep(0.01)
    return entry


async def get_ready(worker: Worker) -> None:
    """Leases the next entry without taking it."""
    worker.queue.has_room(1, 100)
    while not worker.queue.claims.ready:
        worker.queue.claims.ask_at = 0.0
        worker.queue.claims.ask(())
        await asyncio.sleep(0.01)


@run
async def test_what_kills_its_workers_is_given_up_too(redis: RedisServer, job: Job, tmp_path: Path) -> None:
    job.push(entries("poison", "good"), cap=1)
    for _ in range(MOST_TRIES):
        async with Worker(redis, job) as victim:
            assert (await get(victim)).name == "poison"
            await victim.vanish()
        with kept(redis.url, job.name) as there:
            there.lapse()
    async with Worker(redis, job) as worker:
        assert await worker.names() == ["good"]
    assert (
        job.dead()["poison"]["reason"]
        == f"taken {MOST_TRIES} times, and its part did not grow; at last: its workers died"
    )


@run
async def test_a_full_disk_of_one_worker_is_not_held_against_the_entry(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    job.push(entries("a"))
    async with Worker(redis, job) as one, Worker(redis, job) as two:
        entry = await get(one)
        assert one.queue.take_back(entry, disk_error(OSError(28, ""), tmp_path))
        await one.told()
        assert not two.queue.taken_over(await get(two))


DOWN = AttemptError("h:80 has not worked for 60 s", code="origin_down")


async def know_each_other(*workers: Worker) -> None:
    """As they do after a third of a lease, or ten seconds."""
    for worker in workers:
        await worker.take("h:80")
    for worker in workers:
        worker.queue.leases.renew_soon()
        await worker.until(lambda queue=worker.queue: queue.outcomes.others == len(workers) - 1)  # type: ignore[misc]
        assert worker.patience <= 20, "an origin that it cannot reach is soon left to others"


async def fail(worker: Worker, name: str, error: BulkError) -> None:
    """It takes this entry, as soon as the queue gives it, and gives it back."""
    entry = await get(worker)
    assert entry.name == name
    if not worker.queue.take_back(entry, error):
        worker.queue.ended(entry, "failed", error)
    await worker.told()


@run
async def test_a_machine_that_cannot_reach_what_others_can_does_not_spoil_their_queue(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    job.push(entries("a", "b", "c"), cap=1)
    async with Worker(redis, job) as healthy, Worker(redis, job, delay=0.3) as cut_off:
        await know_each_other(healthy, cut_off)
        # Nobody was served yet: it waits a little, for others first, and nobody is to blame.
        for again in range(MOST_TRIES + 1):
            await fail(cut_off, "abc"[again % 3], DOWN)
            assert await cut_off.names() == [], "it leaves the host to others"
            await cut_off.until(lambda: not cut_off.queue.outcomes.left_to_others)
            if again == 2:
                for _ in range(3):
                    healthy.queue.take_back(await get(healthy), disk_error(OSError(28, ""), tmp_path))
                    await healthy.told()
        assert job.status().left == 3
        # Somebody is: it is the machine.
        done = await get(healthy)
        healthy.queue.ended(done, "complete")
        await healthy.told()
        for left_alone in (0.3, 0.6):
            entry = await get(cut_off)
            assert cut_off.queue.take_back(entry, DOWN)
            await cut_off.told()
            begun = time.monotonic()
            assert await cut_off.names() == []
            again_by = await get(healthy)
            assert (again_by.name, healthy.queue.taken_over(again_by)) == (entry.name, False)
            healthy.queue.take_back(again_by, disk_error(OSError(28, ""), tmp_path))
            await cut_off.until(lambda: not cut_off.queue.outcomes.left_to_others)
            assert time.monotonic() - begun >= left_alone * 0.8, "longer each time"
        assert cut_off.forgiven[-1] == "h:80", "in the end it may try again"
        assert job.status().dead == 0


@run
async def test_failures_at_one_worker_count_once_while_others_live(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    job.push(entries("a"))
    async with Worker(redis, job, lease=1) as one, Worker(redis, job, lease=1) as two:
        await know_each_other(one, two)
        for _ in range(MOST_TRIES + 1):
            # After the time of a lease in which no other has taken it, it is given to the same worker again.
            await fail(one, "a", SLOW)
        assert job.dead() == {}
        for n in range(MOST_TRIES - 1):
            await fail((two, one)[n % 2], "a", SLOW)
        assert job.dead()["a"]["code"] == "lost", "failures at different workers count"


@run
async def test_a_host_that_no_worker_reaches_is_given_up_by_the_patience_of_all(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    job.push(entries("a", "b"), cap=1)
    async with Worker(redis, job, patience=0.5) as one, Worker(redis, job, patience=0.5) as two:
        await know_each_other(one, two)
        # 20 seconds each have passed by the time that they say so.
        for name, worker in (("a", one), ("b", two)):
            await fail(worker, name, DOWN)
        assert job.dead()["b"]["code"] == "origin_down"
        assert (two.queue.given_up, job.status().left) == (1, 1)
        await two.until(lambda: not two.queue.outcomes.left_to_others)
        await fail(two, "a", DOWN)
        assert (two.queue.given_up, job.status().left) == (2, 0)


@run
async def test_what_may_be_a_fault_of_one_machine_is_tried_at_another_once(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    certificate = AttemptError("the certificate has expired", code="tls_verify")
    job.push(entries("a", "b"), cap=1)
    async with Worker(redis, job) as one:
        entry = await get(one)
        assert not one.queue.take_back(entry, certificate), "alone it is as in a run of a list"
        one.queue.ended(entry, "failed", certificate)
        async with Worker(redis, job) as two:
            await know_each_other(one, two)
            await fail(one, "b", certificate)
            assert job.status().later == 1
            await fail(two, "b", certificate)
            assert (job.status().left, job.status().dead) == (0, 2)


@run
async def test_a_dropped_job_stops_its_workers(redis: RedisServer, job: Job, tmp_path: Path) -> None:
    job.push(entries("a", "b"), cap=1)
    async with Worker(redis, job, lease=1) as worker:
        assert await worker.names() == ["a"]
        job.drop()
        await worker.take()
        assert [error.code for error in worker.stopped] == ["no_job"]
        await worker.until(lambda: worker.lost == ["a"])
    with kept(redis.url, job.name) as there:
        assert there.keys == []


@run
async def test_a_cancelled_job_and_one_that_lost_entries_stop_their_workers(
    redis: RedisServer, job: Job, tmp_path: Path
) -> None:
    job.push(entries("a", "b"), cap=1)
    job.order("cancel")
    async with Worker(redis, job) as worker:
        await worker.take()
        assert [error.code for error in worker.stopped] == ["job_cancelled"]
    job.order(None)
    with kept(redis.url, job.name) as there:
        there.evict_queue()
    async with Worker(redis, job) as worker:
        await worker.take()
        assert [error.code for error in worker.stopped] == ["job_incomplete"]


def test_without_an_asyncio_loop_a_queue_says_what_it_needs(redis: RedisServer, job: Job) -> None:
    queue = RedisQueue(redis.url, job.name, entries=0, lease=1, delay=1, patience=1, stranger_patience=1)
    with pytest.raises(UsageError, match="asyncio reactor"):
        queue.begin(Worker(redis, job))
    asyncio.run(queue.end())


def test_a_worker_may_be_started_before_its_redis(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, Job(server.url, "j") as job:
        job.push(entries("a"))
        server.kill()
        told: list[str] = []

        def tell(sentence: str) -> None:
            told.append(sentence)
            server.up()

        assert job.wait_until_there(tell) == 1
    assert len(told) == 1
    assert "cannot be asked" in told[0]


@dataclass
class Case:
    url: str
    job: str | None
    said: str


@pytest.mark.parametrize(
    "case",
    [
        Case("http://h/0", "j", "write redis://HOST/0"),
        Case("localhost:6379", "j", "write redis://HOST/0"),
        Case("redis+sentinel://h", "j", "HOST:PORT/SERVICE/0"),
        Case("redis+sentinel://h:x/s/0", "j", "h:x has no valid port"),
        Case("redis://h/0", "a{b}", "letters, digits"),
        Case("redis://:secret@h:x/0", "j", r"redis://\*\*\*@h:x/0"),
        Case("redis://:secret@127.0.0.1:1/0", "j", r"redis://\*\*\*@127.0.0.1:1/0 cannot be asked"),
    ],
)
def test_what_is_wrong_with_an_address_is_said_without_its_password(case: Case) -> None:
    with pytest.raises(UsageError, match=case.said), Job(case.url, case.job) as job:  # type: ignore[arg-type]
        job.require()


def test_a_list_of_another_form_is_pushed_with_what_it_needs(redis: RedisServer, job: Job, tmp_path: Path) -> None:
    (tmp_path / "warc.paths").write_text("crawl/a/1.gz\ncrawl/b/1.gz\n")
    words = ["push", "warc.paths", "--queue", redis.url, "--job", job.name]
    words += ["-a", "format=paths", "-a", "base=https://h/", "-a", "cut=1"]
    command = [sys.executable, "-m", "scrapy", "bulkqueue", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warc.paths: paths, one a line, 2 entries" in done.stdout
    # Known now, with these names and URLs: another URL for one of them would be refused.
    known = [Entry(1, "a/1.gz", "https://h/crawl/a/1.gz"), Entry(2, "b/1.gz", "https://h/crawl/b/1.gz")]
    assert job.push(known) == (0, 2)
