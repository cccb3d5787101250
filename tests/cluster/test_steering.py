"""A job from outside: what `scrapy bulkqueue` says of it, and that workers obey. End to end."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from scrapy.settings import Settings

from bulkspider.commands.bulkqueue import Command
from bulkspider.errors import UsageError
from bulkspider.queue.serve import JobServer
from support.faults import redirect_to, status
from support.faulty import Exchange, FaultyOrigin, correct, make_body
from support.holding import Holds, stall_until
from support.kept import kept
from support.ondisk import wait_for as until
from support.redisserver import Forwarder, RedisServer, Sentinel
from support.workers import Cluster, Throttled, lines_of

KIB = 1024
BODY = make_body(200 * KIB)


@dataclass
class Told:
    returncode: int
    stdout: str
    stderr: str


def queue(cluster: Cluster, *words: str, environment: Mapping[str, str] | None = None) -> Told:
    """`scrapy bulkqueue …`, as Scrapy's command line runs it. Without an environment queue and job are options."""
    where = [] if environment is not None else ["--queue", cluster.redis.url]
    named = [] if words[0] == "list" else ["--job", cluster.job]
    out, err = io.StringIO(), io.StringIO()
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    command = Command()
    command.settings = Settings()
    command.add_options(parser)
    options, rest = parser.parse_known_args([*words, *where, *named])
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
        patched.chdir(cluster.folder)
        patched.delenv("BULK_QUEUE", raising=False)
        for name, value in (environment or {}).items():
            patched.setenv(name, value)
        command.run([word for word in words if word in rest], options)
    return Told(command.exitcode, out.getvalue(), err.getvalue())


def state(cluster: Cluster) -> tuple[int, dict[str, object]]:
    """What `status --json` ends with, and says."""
    done = queue(cluster, "status", "--json")
    return done.returncode, json.loads(done.stdout)


def write_list(cluster: Cluster, lines: list[str]) -> str:
    (cluster.folder / "files.txt").write_text("\n".join(["name url", *lines]) + "\n")
    return "files.txt"


def test_status_and_late_workers_say_how_the_job_stands(tmp_path: Path) -> None:
    with FaultyOrigin() as origin, Cluster(tmp_path) as cluster:
        origin.add("a.bin", Throttled(10_000 * KIB), BODY)
        for name, code in (("gone.bin", 404), ("away.bin", 410)):
            origin.add(name, status(code), BODY)
        lines = [f"{name} {origin.url(name)}" for name in ("a.bin", "gone.bin", "away.bin")]
        assert queue(cluster, "push", write_list(cluster, lines)).returncode == 0
        told, said = state(cluster)
        assert (told, said["left"], said["over"]) == (3, 3, False)
        assert cluster.wait(cluster.start()).status == 4
        told, said = state(cluster)
        assert (told, said["done"], said["dead"], said["left"], said["over"]) == (4, 1, 2, 0, True)
        assert said["workers"] == [], "it has ended"
        watched = queue(cluster, "status", "--watch")
        assert (watched.returncode, "given up" in watched.stdout) == (4, True)
        late = cluster.wait(cluster.start())
        assert (late.status, late.rows) == (4, [])

        assert queue(cluster, "dead", "--reason", "http_410").stdout.split("\t")[:2] == ["away.bin", "http_410"]
        assert queue(cluster, "dead", "--host", "elsewhere.example").stdout == ""
        (row,) = map(json.loads, queue(cluster, "dead", "--json", "--reason", "404").stdout.splitlines())
        assert (row["name"], row["code"]) == ("gone.bin", "http_404")
        origin.add("gone.bin", Throttled(10_000 * KIB), BODY)
        assert "1 entry in the queue again" in queue(cluster, "retry", "--reason", "http_404").stdout
        assert cluster.wait(cluster.start()).status == 0
        assert "nov: 2 done, 0 left, 1 given up" in queue(cluster, "list").stdout
        (listed,) = map(json.loads, queue(cluster, "list", "--json").stdout.splitlines())
        assert (listed["job"], listed["done"]) == ("nov", 2)


def test_one_report_page_and_metrics_for_the_whole_job(tmp_path: Path) -> None:
    with FaultyOrigin() as origin, Cluster(tmp_path) as cluster:
        for name in ("a.bin", "b<i>.bin", "c.bin"):
            origin.add(name, Throttled(10_000 * KIB), BODY)
        origin.add("gone.bin", status(404), BODY)
        lines = [f"{name}\t{origin.url(quote(name))}" for name in ("a.bin", "b<i>.bin", "gone.bin")]
        cluster.push(lines)
        first = cluster.wait(cluster.start("-s", "CONCURRENT_REQUESTS=2"))
        cluster.push([f"c.bin {origin.url('c.bin')} size={len(BODY)}"])
        assert state(cluster)[1]["bytes_left"] == len(BODY)
        second = cluster.wait(cluster.start())
        assert (first.status, second.status) == (4, 0)
        expected = {"a.bin": "complete", "b<i>.bin": "complete", "c.bin": "complete", "gone.bin": "failed"}
        assert queue(cluster, "report", "all.txt").returncode == 1
        assert "4 entries" in queue(cluster, "report", "all.jsonl").stdout
        rows = {row["name"]: row for row in map(json.loads, (tmp_path / "all.jsonl").read_text().splitlines())}
        assert {name: row["status"] for name, row in rows.items()} == expected
        assert (rows["gone.bin"]["code"], rows["a.bin"]["size"]) == ("http_404", len(BODY))
        assert len({row["worker"] for row in rows.values()}) == 2
        assert queue(cluster, "report", "all.csv").returncode == 0
        with (tmp_path / "all.csv").open(newline="") as file:
            assert {row["name"]: row["url"] for row in csv.DictReader(file)} == {n: r["url"] for n, r in rows.items()}
        told = state(cluster)[1]
        names = ("entries", "done", "failed", "left", "running", "waiting", "bytes_on_disk", "bytes_left")
        assert [told[name] for name in names] == [4, 3, 1, 0, 0, [], 3 * len(BODY), 0]

        with cluster.ask() as job, JobServer(job, "127.0.0.1", 0) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()

            def get(path: str) -> str:
                with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}{path}", timeout=30) as answer:
                    return str(answer.read().decode())

            assert 'bulk_job_done{job_name="nov"} 3\n' in get("/metrics")
            page = get("/")
            assert "3 of 4 done" in page
            assert "gone.bin" in page
            assert json.loads(get("/status.json"))["dead"] == 1
            assert len(get("/report.jsonl").splitlines()) == 4
            assert len(list(csv.reader(get("/report.csv").splitlines()))) == 5
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get("/other")
            cluster.redis.kill()
            with pytest.raises(urllib.error.HTTPError, match="503"):
                get("/report.csv")
            cluster.redis.up()
            assert len(get("/report.csv").splitlines()) == 5
            server.shutdown()


def test_whoever_looks_at_a_job_survives_a_restart_of_its_redis(tmp_path: Path) -> None:
    """A watch, a page and a worker that comes while Redis is away; what they say meanwhile."""
    bodies = {f"{n}.bin": make_body(150 * KIB + n, str(n)) for n in range(4)}
    with FaultyOrigin() as origin, Cluster(tmp_path, settings={"BULK_LEASE": "30"}) as cluster:
        cluster.push(lines_of({origin: bodies}, lambda: Throttled(400 * KIB)), cap=4)
        said = tmp_path / "watch.txt"
        command = ["bulkqueue", "status", "--watch", "--queue", cluster.redis.url, "--job", "nov"]
        with said.open("w") as stream:
            watch = subprocess.Popen(
                [sys.executable, "-m", "scrapy", *command], cwd=tmp_path, stdout=stream, stderr=subprocess.STDOUT
            )
        try:
            until(lambda: "0 done, 4 left" in said.read_text(), 30)
            with cluster.ask() as job, JobServer(job, "127.0.0.1", 0) as server:
                threading.Thread(target=server.serve_forever, daemon=True).start()

                def get() -> str:
                    address = f"http://127.0.0.1:{server.server_port}/metrics"
                    with urllib.request.urlopen(address, timeout=60) as answer:
                        return str(answer.read().decode())

                assert 'bulk_job_left{job_name="nov"} 4\n' in get()
                cluster.redis.kill()
                until(lambda: "cannot be asked" in said.read_text(), 60)
                with pytest.raises(urllib.error.HTTPError, match="503"):
                    get()
                late = cluster.start()
                cluster.wait_for_log(late, "trying again")
                cluster.redis.up()
                until(lambda: "answers again" in said.read_text(), 60)
                assert 'bulk_job_left{job_name="nov"}' in get()
                server.shutdown()
            assert cluster.wait(late).status == 0
            assert watch.wait(60) == 0, said.read_text()
        finally:
            watch.kill()
            watch.wait()
        cluster.assert_all_done(bodies)
        told = said.read_text()
        assert "4 done, 0 left" in told
        assert told.count("cannot be asked") == 1, "it is not repeated"
        assert "Traceback" not in told


def test_a_job_that_is_not_there_any_more_is_never_told_as_done(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster, cluster.ask() as job, JobServer(job, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cluster.push(["a.bin http://127.0.0.1:9/a.bin"])
        with cluster.kept() as there:
            there.evict("*")
        for command in (["status"], ["list"]):
            told = queue(cluster, *command)
            assert (told.returncode, told.stdout) == (1, "")
            assert "job nov is not on" in told.stderr
            assert "push its list again" in told.stderr
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=60)
        assert queue(cluster, "drop").returncode == 0
        assert queue(cluster, "list").returncode == 0
        with pytest.raises(UsageError, match="not on"):
            job.status()
        server.shutdown()


def test_what_is_no_word_of_the_command_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        told = queue(cluster, "list")
        assert (told.returncode, told.stdout) == (0, "")
        assert "no job is there" in told.stderr
        cluster.push(["a.bin http://127.0.0.1:9/a.bin"])
        for action in ("drop", "status", "pause", "list"):
            told = queue(cluster, action, "other")
            assert (told.returncode, told.stdout) == (1, "")
            assert f"other: nothing is to follow {action}" in told.stderr
        assert queue(cluster, "caps", "http://h.example=3").returncode == 1
        told, said = state(cluster)
        assert (told, said["left"], said["order"]) == (3, 1, None)


def test_a_paused_job_begins_nothing_and_a_drained_one_ends_its_workers(tmp_path: Path) -> None:
    bodies = {f"{n}.bin": BODY for n in range(4)}
    with FaultyOrigin() as origin, Cluster(tmp_path, settings={"CONCURRENT_REQUESTS": "1"}) as cluster:
        drained = threading.Event()

        def held(exchange: Exchange) -> None:
            reply = correct(exchange)
            exchange.promise(reply)
            exchange.send(reply.body[: 100 * KIB])
            stall_until(exchange, drained.is_set)
            exchange.send(reply.body[100 * KIB :])

        cluster.push(lines_of({origin: bodies}, lambda: held), cap=1)
        assert "paused" in queue(cluster, "pause").stdout
        worker = cluster.start()
        cluster.wait_for(lambda job: len(job.status().workers) == 1)
        assert state(cluster)[1]["order"] == "pause"
        cluster.wait_for_log(worker, "is paused")
        assert not origin.requests
        assert queue(cluster, "resume").returncode == 0
        origin.wait_until(lambda o: len(o.requests) == 1)
        assert "draining" in queue(cluster, "drain").stdout
        drained.set()
        ended = cluster.wait(worker)
        assert ended.status == 3, ended.log
        assert "is to end when what runs is finished" in ended.log
        assert [row["status"] for row in ended.rows] == ["complete"], "what ran was finished"
        told, said = state(cluster)
        assert (told, said["left"]) == (3, 3)
        assert queue(cluster, "resume").returncode == 0
        assert cluster.wait(cluster.start()).status == 0
        cluster.assert_all_done(bodies)


def test_a_cancelled_job_stops_its_workers_which_keep_what_they_have(tmp_path: Path) -> None:
    with FaultyOrigin() as origin, Cluster(tmp_path) as cluster:
        held = Holds(100 * KIB, cluster.output / "a.bin.part")
        origin.add("a.bin", held.behaviour(), BODY)
        cluster.push([f"a.bin {origin.url('a.bin')}"])
        worker = cluster.start()
        held.wait()
        assert "cancelled" in queue(cluster, "cancel").stdout
        ended = cluster.wait(worker)
        assert (ended.status, [row["status"] for row in ended.rows]) == (3, ["interrupted"])
        assert "was cancelled" in ended.log
        assert cluster.wait(cluster.start()).status == 3, "it stays cancelled"
        queue(cluster, "resume")
        ended = cluster.wait(cluster.start())
        assert (ended.status, ended.row("a.bin")["resumed_from"] > 0) == (0, True)


def test_a_lowered_cap_holds_for_what_was_handed_back(tmp_path: Path) -> None:
    bodies = {f"{n}.bin": make_body(300 * KIB + n, str(n)) for n in range(6)}
    with FaultyOrigin() as origin, Cluster(tmp_path) as cluster:
        lowered = threading.Event()
        throttle = Throttled(100 * KIB)

        def first_held(exchange: Exchange) -> None:
            if lowered.is_set():
                throttle(exchange)
            else:
                exchange.promise(correct(exchange))
                exchange.stall()

        cluster.push(lines_of({origin: bodies}, lambda: first_held), cap=6)
        first = cluster.start()
        cluster.wait_for(lambda job: job.status().running == 6)
        assert queue(cluster, "caps", "default=0").returncode == 0
        first.signal(signal.SIGTERM)
        assert cluster.wait(first).status == 143
        lowered.set()
        asked = len(origin.requests)
        second = cluster.start()
        cluster.wait_for(lambda job: len(job.status().workers) == 1)
        told, said = state(cluster)
        assert (told, said["left"], said["running"]) == (3, 6, 0), "what was handed back is not shown as running"
        assert len(origin.requests) == asked
        assert queue(cluster, "caps", "default=2").returncode == 0
        assert cluster.wait(second).status == 0
        assert throttle.most == 2
        cluster.assert_all_done(bodies)


def test_hosts_that_lead_to_one_server_share_its_cap(tmp_path: Path) -> None:
    """Known from the first file on."""
    bodies = {f"{n}.bin": make_body(60 * KIB + n, str(n)) for n in range(9)}
    with FaultyOrigin() as server, FaultyOrigin(host="127.0.0.2") as front, Cluster(tmp_path) as cluster:
        throttle = Throttled(100 * KIB)
        for name, body in bodies.items():
            server.add(name, throttle, body)
            front.add(name, redirect_to(server.url(name)), body)
        urls = [(front if n % 2 == 0 else server).url(name) for n, name in enumerate(bodies)]
        lines = [f"{name} {url}" for name, url in zip(bodies, urls, strict=True)]
        cluster.push(lines[:1], cap=2)
        assert cluster.wait(cluster.start()).status == 0
        assert queue(cluster, "push", write_list(cluster, lines), "--priority", "high").returncode == 1
        assert "8 entries pushed" in queue(cluster, "push", write_list(cluster, lines), "--priority", "5").stdout
        workers = [cluster.start(), cluster.start()]
        assert [cluster.wait(worker).status for worker in workers] == [0, 0]
        assert throttle.most == 2
        cluster.assert_all_done(bodies)


def test_entries_that_the_queue_has_lost_are_never_success(tmp_path: Path) -> None:
    with FaultyOrigin() as origin, Cluster(tmp_path) as cluster:
        bodies = {f"{n}.bin": make_body(10 * KIB + n, str(n)) for n in range(6)}
        cluster.push(lines_of({origin: bodies}, lambda: Throttled(10_000 * KIB)))
        with cluster.kept() as there:
            there.evict_queue()
        ended = cluster.wait(cluster.start())
        assert ended.status == 3, ended.log
        assert "6 entries are missing" in ended.log
        assert "push its list again" in ended.log
        shown = queue(cluster, "status")
        assert (shown.returncode, "6 entries are missing" in shown.stdout) == (3, True)
        with cluster.kept() as there:
            there.evict("meta")
        assert queue(cluster, "status").returncode == 1
        assert queue(cluster, "drop").returncode == 0, "whatever state it is in"
        with cluster.kept() as there:
            assert there.client.keys("*") == []


def test_a_push_that_was_broken_off_is_told_and_repeated(tmp_path: Path) -> None:
    with FaultyOrigin() as origin, Cluster(tmp_path) as cluster:
        bodies = {f"{n}.bin": make_body(10 * KIB + n, str(n)) for n in range(4)}
        lines = lines_of({origin: bodies}, lambda: Throttled(10_000 * KIB))
        cluster.push(lines[:2])
        with cluster.kept() as there:
            there.interrupt_push("files.txt")
        told = queue(cluster, "status")
        assert (told.returncode, "the push of files.txt has not ended" in told.stdout) == (3, True)
        ended = cluster.wait(cluster.start())
        assert (ended.status, len(ended.rows)) == (3, 2)
        assert "the push of files.txt was broken off; push that list again" in ended.log
        assert "2 entries pushed, 2 were there already" in queue(cluster, "push", write_list(cluster, lines)).stdout
        assert cluster.wait(cluster.start()).status == 0
        cluster.assert_all_done(bodies)


def test_a_job_that_its_redis_has_lost_goes_on_once_its_list_is_pushed_again(tmp_path: Path) -> None:
    with FaultyOrigin() as origin, Cluster(tmp_path) as cluster:
        held = Holds(100 * KIB, cluster.output / "a.bin.part")
        origin.add("a.bin", held.behaviour(), BODY)
        origin.add("b.bin", Throttled(10_000 * KIB), BODY)
        lines = [f"{name} {origin.url(name)} size={len(BODY)}" for name in ("a.bin", "b.bin")]
        cluster.push(lines)
        worker = cluster.start()
        held.wait()
        cluster.wait_for(lambda job: job.status().done == 1)
        with cluster.kept() as there:
            there.client.flushall()
        cluster.wait_for(lambda job: "is lost: this Redis knows nothing of it" in cluster.logs())
        assert queue(cluster, "push", write_list(cluster, lines)).returncode == 0
        ended = cluster.wait(worker)
        assert ended.status == 0, ended.log
        assert "dropped" not in ended.log
        assert (cluster.output / "a.bin").read_bytes() == BODY
        assert len([r for r in origin.requests if r.path.endswith("b.bin")]) == 1, "the ledger proves it"


def test_a_queue_needs_no_secret_on_the_command_line(tmp_path: Path) -> None:
    with FaultyOrigin() as origin, Cluster(tmp_path) as cluster:
        origin.add("a.bin", Throttled(10_000 * KIB), BODY)
        cluster.redis.kill()
        cluster.redis = RedisServer(tmp_path, "--requirepass", "sesame")
        with cluster.redis:
            where = f"redis://127.0.0.1:{cluster.redis.port}/0"
            secret = where.replace("//", "//:sesame@")
            (tmp_path / "address").write_text(f"# of the queue\n{secret}\n")
            (tmp_path / "netrc").write_text("machine 127.0.0.1 login default password sesame\n")
            (tmp_path / "netrc").chmod(0o600)
            ways = (
                {"BULK_QUEUE": secret},
                {"BULK_QUEUE": f"@{tmp_path}/address"},
                {"BULK_QUEUE": where, "NETRC": f"{tmp_path}/netrc"},
            )
            assert (
                queue(
                    cluster, "push", write_list(cluster, [f"a.bin {origin.url('a.bin')}"]), environment=ways[0]
                ).returncode
                == 0
            )
            for way in ways:
                told = queue(cluster, "status", environment=way)
                assert (told.returncode, "sesame" in told.stdout + told.stderr) == (3, False), told.stderr
                assert "nov: 0 done, 1 left" in queue(cluster, "list", environment=way).stdout
            refused = queue(cluster, "status", environment={"BULK_QUEUE": where, "NETRC": "/dev/null"})
            assert (refused.returncode, "refused the password" in refused.stderr) == (1, True), refused.stderr
            command = [sys.executable, "-m", "scrapy", "bulk", "-a", "job=nov", "-o", str(cluster.output)]
            done = subprocess.run(
                command,
                cwd=tmp_path,
                env={**os.environ, **ways[1]},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert "sesame" not in done.stderr
        assert (cluster.output / "a.bin").read_bytes() == BODY
        cluster.redis = RedisServer(tmp_path)
    none = queue(cluster, "status", environment={})
    assert (none.returncode, "BULK_QUEUE" in none.stderr) == (1, True)


def test_what_a_redis_may_throw_away_is_told_and_a_cluster_is_refused(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    write_list(cluster, ["a.bin http://h.example/a.bin"])
    with RedisServer(tmp_path, "--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru") as cluster.redis:
        told = queue(cluster, "push", "files.txt")
        assert (told.returncode, "maxmemory-policy allkeys-lru" in told.stdout) == (0, True)
    (tmp_path / "nodes").mkdir()
    with RedisServer(tmp_path / "nodes", "--cluster-enabled", "yes") as cluster.redis:
        told = queue(cluster, "push", "files.txt")
        assert (told.returncode, "is a node of a Redis Cluster" in told.stderr) == (1, True), told.stderr
        late = cluster.wait(cluster.start())
        assert (late.status, "is a node of a Redis Cluster" in late.log) == (1, True)


def test_after_a_failover_a_worker_goes_on_at_the_new_master(tmp_path: Path) -> None:
    """Its connection leads to a server that has become a replica: it answers READONLY, for ever."""
    bodies = {f"{n}.bin": make_body(150 * KIB + n, str(n)) for n in range(6)}
    (tmp_path / "two").mkdir()
    with (
        FaultyOrigin() as origin,
        Cluster(tmp_path) as cluster,
        RedisServer(tmp_path / "two") as two,
        Forwarder(cluster.redis.port) as address,
    ):
        one = cluster.redis
        cluster.push(lines_of({origin: bodies}, lambda: Throttled(100 * KIB)), cap=2)
        worker = cluster.start("-a", f"queue=redis://127.0.0.1:{address.port}/0")
        cluster.wait_for(lambda job: job.status().running == 2)
        with kept(one.url, "nov") as first, kept(two.url, "nov") as second:
            second.client.replicaof("127.0.0.1", one.port)
            until(lambda: second.client.hlen(second.key("known")) == 6)
            # As managed services do it: no write is answered until another one is the master.
            first.client.client_pause(20_000, all=False)
            second.client.replicaof("NO", "ONE")
            address.target = two.port
            first.client.replicaof("127.0.0.1", two.port)
        ended = cluster.wait(worker)
        assert ended.status == 0, ended.log
        cluster.redis = two
        cluster.assert_all_done(bodies)
        one.kill()


def test_sentinels_are_asked_where_the_master_is(tmp_path: Path) -> None:
    bodies = {f"{n}.bin": make_body(150 * KIB + n, str(n)) for n in range(6)}
    for name in ("two", "sentinel"):
        (tmp_path / name).mkdir()
    settings = {"BULK_LEASE": "20"}
    with (
        FaultyOrigin() as origin,
        Cluster(tmp_path, settings=settings) as cluster,
        RedisServer(tmp_path / "two") as two,
    ):
        one = cluster.redis
        cluster.push(lines_of({origin: bodies}, lambda: Throttled(100 * KIB)), cap=2)
        with (
            kept(one.url, "nov") as first,
            kept(two.url, "nov") as second,
            Sentinel(tmp_path / "sentinel", one) as sentinel,
        ):
            second.client.replicaof("127.0.0.1", one.port)
            until(lambda: second.client.hlen(second.key("known")) == 6)
            address = f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0"
            until(lambda: "slave0" in first.client.info("replication"))
            told = queue(cluster, "status", environment={"BULK_QUEUE": address})
            assert "0 done, 6 left" in told.stdout, told.stderr
            worker = cluster.start("-a", f"queue={address}")
            cluster.wait_for(lambda job: job.status().running == 2)
            # As soon as the Sentinel knows of the replica it can make it the master.
            with redis.Redis(port=sentinel.port) as watching:
                until(lambda: len(watching.sentinel_slaves("mymaster")) == 1)
            one.kill()
            ended = cluster.wait(worker)
            assert ended.status == 0, ended.log
            cluster.redis = two
            cluster.assert_all_done(bodies)
