"""Many workers on one queue: whatever is killed, stopped or cut off, every file is right, and is finished once."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from bulkspider.disk.leftovers.cleaning import remove_parts
from bulkspider.errors import UsageError
from bulkspider.spiders.arguments.prepare import prepare
from support.faults import busy, first, status
from support.faulty import Exchange, FaultyOrigin, correct, good, make_body
from support.holding import Holds, stall_until
from support.proxy import Proxy
from support.workers import LEASE, Cluster, Throttled, lines_of

KIB = 1024

SABOTAGE = Path(__file__).parents[1] / "support" / "sabotage"
DAY_SECONDS = 24 * 3600


def test_workers_killed_at_random_and_a_killed_redis_lose_and_spoil_nothing(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """3 workers, two slow origins, at most 3 at once from each. The long form: 60 files, 10 kills of workers."""
    files, kills = (60, 10) if request.config.getoption("--long") else (24, 3)
    size, rate = 400 * KIB, 250 * KIB
    chance = random.Random(9)
    bodies = {f"{n}.bin": make_body(size + n, str(n)) for n in range(files)}
    with FaultyOrigin() as one, FaultyOrigin(host="127.0.0.2") as two, Cluster(tmp_path) as cluster:
        halves = [{n: b for n, b in bodies.items() if int(n[:-4]) % 2 == rest} for rest in (0, 1)]
        throttles: list[Throttled] = []
        cluster.push(
            lines_of(
                dict(zip((one, two), halves, strict=True)), lambda: throttles.append(Throttled(rate)) or throttles[-1]
            )
        )
        workers = [cluster.start() for _ in range(3)]
        cluster.wait_for(lambda job: job.status().running >= 6)
        held = 0
        for kill in range(kills):
            if kill == kills // 2:
                cluster.redis.kill()
                time.sleep(1)
                cluster.redis.up()
            victim = chance.randrange(3)
            workers[victim].kill()
            held += 3
            workers[victim] = cluster.start()
            begun = time.monotonic()
            # The next one strikes when somebody is at work again; at any moment of that.
            cluster.wait_for(lambda job: job.status().running > 0)
            time.sleep(max(0, chance.uniform(0.2, 1.2) - (time.monotonic() - begun)))
        ended = [cluster.wait(worker) for worker in workers]
        assert [e.status for e in ended] == [0, 0, 0], cluster.logs()
        cluster.assert_all_done(bodies)
        assert [throttle.most for throttle in throttles] == [3, 3]
        sent = sum(r.bytes_sent for origin in (one, two) for r in origin.requests)
        # A killed transfer is continued from its state, a second old at most, or found by comparing.
        assert sent - sum(map(len, bodies.values())) <= held * (rate + 64 * KIB)


def test_a_worker_that_sleeps_through_its_lease_writes_nothing_more(tmp_path: Path) -> None:
    """SIGSTOP for longer than the lease, then SIGCONT: the zombie finds out and lets go."""
    bodies = {f"{n}.bin": make_body(600 * KIB + n, str(n)) for n in range(4)}
    with FaultyOrigin() as origin, Cluster(tmp_path) as cluster:
        cluster.push(lines_of({origin: bodies}, lambda: Throttled(200 * KIB)))
        zombie = cluster.start()
        wait_for_file(cluster.output, "*.part.json")
        cluster.stop(zombie)
        other = cluster.start()
        ended = cluster.wait(other)
        assert ended.status == 0, ended.log
        assert len(ended.rows) == 4
        assert any(row["resumed_from"] > 0 for row in ended.rows), "nothing was continued from the zombie's parts"
        cluster.assert_all_done(bodies)
        finished = {name: cluster.output.joinpath(name).stat() for name in bodies}
        zombie.signal(signal.SIGCONT)
        ended = cluster.wait(zombie)
        assert ended.status == 0, ended.log
        assert "its lease has ended" in ended.log
        assert ended.rows == [], "whoever ended the entries has their rows"
        cluster.assert_all_done(bodies)
        for name, before in finished.items():
            after = cluster.output.joinpath(name).stat()
            assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino), name


def test_a_stopped_worker_hands_over_at_once_and_the_next_one_continues(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    body = make_body(1000 * KIB)
    patience = 2 if request.config.getoption("--long") else 10  # a busy machine may take longer; the lease is a minute
    with FaultyOrigin() as origin, Cluster(tmp_path, settings={"BULK_LEASE": "60"}) as cluster:
        held = Holds(700 * KIB, cluster.output / "a.bin.part")
        origin.add("a.bin", held.behaviour(), body)
        cluster.push([f"a.bin {origin.url('a.bin')}"], cap=1)
        workers = [cluster.start(), cluster.start()]
        with cluster.ask() as job:
            held.wait()
            ((holder,),) = [[w for w in workers if f"-{w.pid}-" in row["worker"]] for row in job.running()]
            cluster.wait_for(lambda job: len(job.status().workers) == 2)
        (other,) = [worker for worker in workers if worker is not holder]
        holder.signal(signal.SIGTERM)
        told = time.monotonic()
        origin.wait_until(lambda o: len(o.requests) >= 2)
        assert time.monotonic() - told < patience
        ended = cluster.wait(holder)
        assert ended.status == 143
        assert [row["status"] for row in ended.rows] == ["interrupted"]
        ended = cluster.wait(other)
        assert ended.status == 0, ended.log
        assert ended.row("a.bin")["resumed_from"] >= 700 * KIB
        cluster.assert_all_done({"a.bin": body})


def test_a_dead_workers_file_is_continued_from_its_part(tmp_path: Path) -> None:
    body = make_body(9 * 1024 * KIB)
    with FaultyOrigin() as origin, Cluster(tmp_path) as cluster:
        held = Holds(8500 * KIB, cluster.output / "a.bin.part", needs=[cluster.output / "a.bin.part.json"])
        origin.add("a.bin", held.behaviour(), body)
        cluster.push([f"a.bin {origin.url('a.bin')}"])
        victim = cluster.start()
        held.wait()
        victim.kill()
        ended = cluster.wait(cluster.start())
        assert ended.status == 0, ended.log
        _, resumed = origin.requests_for("a.bin")
        assert resumed.headers["if-range"] == '"v1"'
        assert ended.row("a.bin")["resumed_from"] >= 8192 * KIB
        cluster.assert_all_done({"a.bin": body})


def test_two_workers_do_twice_as_much_as_one(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The long form: and four do 3.2 times as much at least."""
    long = request.config.getoption("--long")
    files, seconds_each, at_least = (64, 1.5, {2: 1.8, 4: 3.2}) if long else (16, 0.75, {2: 1.3})
    bodies = {f"{n}.bin": make_body(150 * KIB, str(n)) for n in range(files)}
    seconds = []
    for workers in (1, *at_least):
        folder = tmp_path / str(workers)
        folder.mkdir()
        with FaultyOrigin() as one, FaultyOrigin(host="127.0.0.2") as two, Cluster(folder) as cluster:
            halves = [{n: b for n, b in bodies.items() if int(n[:-4]) % 2 == rest} for rest in (0, 1)]
            throttles = [Throttled(150 * KIB / seconds_each) for _ in halves]
            cluster.push(lines_of(dict(zip((one, two), halves, strict=True)), iter(throttles).__next__), cap=8)
            with cluster.ask() as job:
                job.set_caps({"default": 0})
                started = [cluster.start(CONCURRENT_REQUESTS="4") for _ in range(workers)]
                cluster.wait_for(lambda job, workers=workers: len(job.status().workers) == workers)  # type: ignore[misc]
                job.set_caps({"default": 8})
            assert [cluster.wait(worker).status for worker in started] == [0] * workers
            cluster.assert_all_done(bodies)
            begun = [r.time for origin in (one, two) for r in origin.requests]
            seconds.append(max(t.last for t in throttles) - min(begun))
    faster = {workers: seconds[0] / one for workers, one in zip(at_least, seconds[1:], strict=True)}
    assert all(faster[workers] >= least for workers, least in at_least.items()), faster


def test_transfers_survive_a_short_absence_of_redis_and_are_fenced_in_a_long_one(tmp_path: Path) -> None:
    body = make_body(1200 * KIB)
    with FaultyOrigin() as origin, Cluster(tmp_path) as cluster:
        cluster.push(lines_of({origin: {"a.bin": body}}, lambda: Throttled(200 * KIB)))
        worker = cluster.start()
        origin.wait_until(lambda o: bool(o.requests) and o.requests[0].bytes_sent > 100 * KIB)
        cluster.redis.kill()
        time.sleep(LEASE / 4)
        cluster.redis.up()
        origin.wait_until(lambda o: o.requests[0].bytes_sent > 600 * KIB)
        assert len(origin.requests) == 1, "a short absence broke the transfer off"
        cluster.redis.kill()
        origin.wait_until(lambda o: o.requests[0].ended)
        assert origin.requests[0].bytes_sent < 1200 * KIB, "without a lease it went on"
        cluster.redis.up()
        ended = cluster.wait(worker)
        assert ended.status == 0, ended.log
        assert "Redis answers again" in ended.log
        assert len(origin.requests) == 2
        assert origin.requests[1].range != (0, None)
        cluster.assert_all_done({"a.bin": body})


def test_what_a_worker_finished_before_it_died_unheard_is_not_fetched_again(tmp_path: Path) -> None:
    body = make_body(300 * KIB)
    with FaultyOrigin() as origin, Cluster(tmp_path) as cluster:
        cluster.push(lines_of({origin: {"a.bin": body}}, lambda: Throttled(300 * KIB)), cap=1)
        with cluster.ask() as job:
            job.set_caps({"default": 0})
            other = cluster.start(CONCURRENT_REQUESTS="1")
            cluster.wait_for(lambda job: len(job.status().workers) == 1)
            cluster.stop(other)
            job.set_caps({"default": 1})
        victim = cluster.start()
        origin.wait_until(lambda o: bool(o.requests) and o.requests[0].bytes_sent > 100 * KIB)
        cluster.redis.kill()
        wait_for_file(cluster.output, "a.bin")
        time.sleep(0.3)  # for its ledger line; without one the file would be compared, which is right as well
        victim.kill()
        cluster.redis.up()
        other.signal(signal.SIGCONT)
        ended = cluster.wait(other)
        assert ended.status == 0, ended.log
        assert [(row["name"], row["already"]) for row in ended.rows] == [("a.bin", True)]
        assert len(origin.requests) == 1
        cluster.assert_all_done({"a.bin": body})

        # Redis lost altogether: the list is pushed anew, and nothing is fetched.
        cluster.job = "again"
        cluster.push([f"a.bin {origin.url('a.bin')}"])
        assert cluster.wait(cluster.start()).status == 0
        assert len(origin.requests) == 1


def test_several_connections_for_one_file_keep_to_the_cap_of_all_workers(tmp_path: Path) -> None:
    bodies = {"large.bin": make_body(2000 * KIB), "small.bin": make_body(200 * KIB, "small")}
    throttle = Throttled(150 * KIB)
    with FaultyOrigin() as origin, Cluster(tmp_path) as cluster:
        cluster.push(lines_of({origin: bodies}, lambda: throttle), cap=3)
        workers = [cluster.start(BULK_SEGMENT_MIN="50K", BULK_SEGMENTS="8") for _ in range(2)]
        ended = [cluster.wait(worker) for worker in workers]
        assert [e.status for e in ended] == [0, 0]
        assert throttle.most == 3
        assert max(row["connections"] for e in ended for row in e.rows) in (2, 3)
        cluster.assert_all_done(bodies)


def test_a_worker_that_stays_waits_for_the_first_push_and_for_the_next(tmp_path: Path) -> None:
    with FaultyOrigin({"a.bin": good, "b.bin": good}) as origin, Cluster(tmp_path) as cluster:
        worker = cluster.start("-a", "stay=1")
        cluster.wait_for_log(worker, "waiting for it")
        for name in ("a.bin", "b.bin"):
            cluster.push([f"{name} {origin.url(name)}"])
            wait_for_file(cluster.output, name)
            cluster.wait_for(lambda job: job.status().is_over)
        cluster.wait_for_log(worker, "waiting for the next push")
        worker.signal(signal.SIGTERM)
        ended = cluster.wait(worker)
        assert ended.status == 143
        assert [row["status"] for row in ended.rows] == ["complete", "complete"]


def test_a_part_whose_entry_another_disk_has_is_removed_when_its_machine_comes_back(tmp_path: Path) -> None:
    body = make_body(300 * KIB)
    with FaultyOrigin() as origin, Cluster(tmp_path) as cluster:
        one, two = tmp_path / "one", tmp_path / "two"
        held = {name: Holds(100 * KIB, one / f"{name}.part", needs=[one / f"{name}.part.json"]) for name in ("a", "b")}
        for name, holds in held.items():
            origin.add(name, holds.behaviour(), body)
        cluster.push([f"a {origin.url('a')}"])
        victim = cluster.start(output=one, BULK_CHECKPOINT="50K")
        held["a"].wait()
        victim.kill()
        # One that is still needed.
        cluster.push([f"b {origin.url('b')}"])
        with cluster.ask() as job:
            job.set_caps({"default": 0})
        for suffix in (".part", ".part.json"):
            (one / f"b{suffix}").write_bytes((one / f"a{suffix}").read_bytes())
        with cluster.ask() as job:
            assert remove_parts(one, job.done_elsewhere) == [], "nothing is done yet"
            job.set_caps({"default": 3})
        origin.add("b", good, body)
        assert cluster.wait(cluster.start(output=two)).status == 0
        ended = cluster.wait(cluster.start(output=one))
        assert (ended.status, "1 part: removed" in ended.log) == (0, True), ended.log
        # Its state speaks of another URL: it is not what the job has done.
        assert sorted(path.name for path in one.glob("*.part*")) == ["b.part", "b.part.json"]


def test_exit_status_and_rows_are_of_what_the_worker_itself_did(tmp_path: Path) -> None:
    answers = {"good.bin": good, "broken.bin": status(500), "busy.bin": first(2, status(500))}
    with FaultyOrigin(answers) as origin, Cluster(tmp_path) as cluster:
        cluster.push([f"{name} {origin.url(name)}" for name in ("good.bin", "gone.bin")])
        ended = cluster.wait(cluster.start())
        assert ended.status == 4, ended.log
        assert {row["name"]: row["status"] for row in ended.rows} == {"good.bin": "complete", "gone.bin": "failed"}
        cluster.push([f"{name} {origin.url(name)}" for name in ("broken.bin", "busy.bin")])
        ended = cluster.wait(cluster.start(BULK_RETRY_TIMES="1"))
        assert ended.status == 3, ended.log
        assert {row["name"]: row["status"] for row in ended.rows} == {"busy.bin": "complete", "broken.bin": "failed"}
        with cluster.ask() as job:
            assert {name: letter["code"] for name, letter in job.dead().items()} == {
                "gone.bin": "http_404",
                "broken.bin": "http_500",
            }
        assert cluster.wait(cluster.start()).status == 4, "nothing is left to do: the job's"


def test_retry_after_holds_for_all_workers(tmp_path: Path) -> None:
    # The patience with a host must outlast its Retry-After, also on a busy machine.
    settings = {"BULK_ORIGIN_PATIENCE": "60"}
    with (
        FaultyOrigin({"a.bin": busy(retry_after=3), "b.bin": good}) as origin,
        Cluster(tmp_path, settings=settings) as cluster,
    ):
        cluster.push([f"a.bin {origin.url('a.bin')}"])
        told = cluster.start(CONCURRENT_REQUESTS="1")
        origin.wait_until(lambda o: bool(o.requests) and o.requests[0].ended)
        cluster.wait_for(lambda job: job.status().hosts[0]["closed"] > 0)
        cluster.push([f"b.bin {origin.url('b.bin')}"])
        assert [cluster.wait(worker).status for worker in (cluster.start(), told)] == [0, 0]
        answered, *later = origin.requests
        assert {request.path for request in later} == {"/a.bin", "/b.bin"}
        assert min(request.time for request in later) - answered.time >= 2.9


def test_a_worker_says_what_is_missing_instead_of_ending_in_success(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        ended = cluster.wait(cluster.start())
        assert ended.status == 1
        assert "there is no job nov" in ended.log
        assert f"scrapy bulkqueue push LIST --queue {cluster.redis.url} --job nov" in ended.log
        assert not cluster.output.exists()
        cluster.push(["a.bin http://127.0.0.1:1/a"])
        for arguments, said in (
            ({"list": "x"}, "a worker gets its entries from the queue"),
            ({"shard": "1/2"}, "a worker gets its entries from the queue"),
            ({"job": ""}, "Say job=NAME"),
            ({"queue": ""}, "on which Redis"),
        ):
            with pytest.raises(UsageError, match=said):
                prepare({"queue": cluster.redis.url, "job": "nov", **arguments}, {})
        ended = cluster.wait(cluster.start("-s", "TWISTED_REACTOR=twisted.internet.epollreactor.EPollReactor"))
        assert ended.status == 1, ended.log
        assert "a queue needs the asyncio reactor" in ended.log


def wait_for_file(folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 30
    while not any(folder.glob(pattern)):
        assert time.monotonic() < deadline, f"no {pattern} in {folder}"
        time.sleep(0.01)


def test_a_worker_whose_proxy_dies_leaves_the_host_to_others(tmp_path: Path) -> None:
    """Within two leases here, 20 seconds at most; nothing is held against the entries that it had."""
    bodies = {f"{n}.bin": make_body(200 * KIB + n, str(n)) for n in range(24)}
    with FaultyOrigin() as origin, Cluster(tmp_path, settings={"BULK_ORIGIN_PATIENCE": "3600"}) as cluster:
        both = threading.Event()

        def held(exchange: Exchange) -> None:
            reply = correct(exchange)
            exchange.promise(reply)
            exchange.send(reply.body[: 10 * KIB])
            stall_until(exchange, both.is_set)
            exchange.send_slowly(reply.body[10 * KIB :], 200 * KIB)

        cluster.push(lines_of({origin: bodies}, lambda: held), cap=6)
        with Proxy() as proxy:
            broken = cluster.start(environment={"http_proxy": proxy.url, "no_proxy": ""})
            cluster.wait_for(lambda job: job.status().running >= 4)
            whole = cluster.start()
            cluster.wait_for(lambda job: len(job.status().workers) == 2)
            both.set()
            cluster.wait_for(lambda job: job.status().done > 0)
        ended = [cluster.wait(worker) for worker in (whole, broken)]
        assert [e.status for e in ended] == [0, 0], cluster.logs()
        cluster.assert_all_done(bodies)
        assert "works for others; it is left to them" in ended[1].log
        assert 0 < ended[1].log.count("back to the queue") <= 24, "it does not take them again and again"


def test_workers_whose_clocks_are_wrong_keep_to_the_cap_and_end_the_job(tmp_path: Path) -> None:
    """A day fast and a day slow: leases, pauses and caps go by the clock of Redis alone."""
    bodies = {f"{n}.bin": make_body(100 * KIB + n, str(n)) for n in range(16)}
    throttle = Throttled(200 * KIB)
    late = {"late.bin": make_body(1000, "late")}
    with FaultyOrigin() as origin, FaultyOrigin() as other, Cluster(tmp_path) as cluster:
        cluster.push(lines_of({origin: bodies}, lambda: throttle), cap=4)
        cluster.push(lines_of({other: late}, lambda: busy(503, 1, 1)))
        workers = [
            cluster.start(environment={"PYTHONPATH": str(SABOTAGE), "SABOTAGE": json.dumps({"clock": seconds})})
            for seconds in (DAY_SECONDS, -DAY_SECONDS)
        ]
        cluster.wait_for(lambda job: len(job.status().workers) == 2)
        ended = [cluster.wait(worker) for worker in workers]
        assert [e.status for e in ended] == [0, 0], cluster.logs()
        assert ended[1].log[:10] < ended[0].log[:10], "their logs have the dates of their clocks"
        assert throttle.most == 4
        first_ask, again = other.requests
        assert again.time - first_ask.time >= 0.9
        cluster.assert_all_done(bodies | late)
