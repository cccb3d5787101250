"""The speed of the queue: `python tests/benchmarks/queue_speed.py`. Some minutes.

A worker without transfers takes entries and ends each after some milliseconds, at 0, 20 and 100 ms there and back to
Redis; then many hosts that are paused; then all that is done with a whole job of many entries, with the longest that
one command took of Redis and that another client waited. Figures depend on the machine; what is to hold everywhere is
how they compare.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

sys.path.insert(0, str(Path(__file__).parents[1]))

from bulkspider.entries.entry import Entry
from bulkspider.errors import BulkError
from bulkspider.queue.job import Job
from bulkspider.queue.worker import RedisQueue
from support.kept import kept
from support.redisserver import Forwarder, RedisServer

PLACES = 16


class Taker:
    """A spider that fetches nothing. seconds: that an entry takes."""

    def __init__(self, url: str, job: str, seconds: float) -> None:
        self.queue = RedisQueue(url, job, entries=0, lease=60, delay=1, patience=60, stranger_patience=60)
        self._seconds = seconds
        self._woken = asyncio.Event()
        self._running = self.done = 0

    def wake(self) -> None:
        self._woken.set()

    def lose(self, name: str) -> None:
        raise AssertionError(f"{name}: lost")

    def forgive(self, origin: str) -> None: ...
    def hurry(self, seconds: float) -> None: ...
    def refuse(self, number: int, name: str, error: BulkError) -> None: ...

    def stop(self, error: BulkError) -> None:
        raise error

    async def work(self) -> float:
        """Entries per second, until the job is over."""
        self.queue.begin(self)
        begun = time.monotonic()
        while not self.queue.exhausted or self._running:
            self._woken.clear()
            while self._running < PLACES:
                self.queue.has_room(PLACES - self._running, PLACES)
                if (entry := self.queue.take()) is None:
                    break
                self._running += 1
                asyncio.get_running_loop().call_later(self._seconds, self._end, entry)
            await self._woken.wait()
        speed = self.done / (time.monotonic() - begun)
        await self.queue.end()
        return speed

    def _end(self, entry: Entry) -> None:
        self._running -= 1
        self.done += 1
        self.queue.ended(entry, "complete")
        self.wake()


def entries(count: int, hosts: int) -> Iterator[Entry]:
    return (
        Entry(n, f"dir/{n}.bin", f"http://h{n % hosts}.example/dir/{n}.bin", n * 7 % 1_000_003) for n in range(count)
    )


def far_away(server: RedisServer, count: int) -> None:
    print("entries per second at 0, 20 and 100 ms to Redis, and of that at 0 ms")
    for seconds in (0.02, 0.1, 0.5):
        speeds = []
        for one_way in (0.0, 0.01, 0.05):
            with Job(server.url, "far") as job, Forwarder(server.port, one_way) as way:
                # For ten seconds each, at most.
                job.push(entries(min(count, int(PLACES * 5 / seconds)), 20), cap=PLACES)
                speeds.append(asyncio.run(Taker(way.url, "far", seconds).work()))
                job.drop()
        shown = ", ".join(f"{speed:.0f} ({speed / speeds[0]:.0%})" for speed in speeds)
        print(f"  files of {seconds * 1000:.0f} ms, {PLACES} at once: {shown}")


def many_hosts(server: RedisServer, client: Any, hosts: int) -> None:
    with Job(server.url, "hosts") as job:
        job.push(entries(hosts, hosts))
        job.set_caps({"default": 0})

        async def claim() -> float:
            taker = Taker(server.url, "hosts", 0)
            taker.queue.begin(taker)
            assert taker.queue.link is not None
            asked = ("claim", taker.queue.worker, 60_000, 5, 4, 8, 0)
            while (await taker.queue.link.ask(*asked))[0] == "again":
                pass
            client.config_resetstat()
            for _ in range(500):
                await taker.queue.link.ask(*asked)
            told = client.info("commandstats")["cmdstat_evalsha"]
            await taker.queue.end()
            return float(told["usec_per_call"])

        print(f"a claim beside {hosts:,} paused hosts: {asyncio.run(claim()) / 1000:.2f} ms of Redis")
        job.drop()


# Asks Redis again and again, on a connection of its own, and tells how long the longest answer took.
PING = """
import redis, select, sys, time
client, longest = redis.Redis(port=int(sys.argv[1])), 0.0
print("ready", flush=True)
while True:
    begun = time.perf_counter()
    client.ping()
    longest = max(longest, time.perf_counter() - begun)
    if select.select([sys.stdin], [], [], 0.001)[0]:
        break
print(longest)
"""


def whole_job(server: RedisServer, client: Any, count: int) -> None:
    """All that is done with the whole of a job, one after the other, a tenth of whose entries were given up."""
    client.config_set("slowlog-log-slower-than", 500)
    client.config_set("slowlog-max-len", 100_000)
    with Job(server.url, "large") as job:

        def measure(name: str, action: Callable[[], object]) -> None:
            client.slowlog_reset()
            before = resource.getrusage(resource.RUSAGE_SELF)
            command = [sys.executable, "-c", PING, str(server.port)]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as pinging:
                assert pinging.stdout
                assert pinging.stdin
                pinging.stdout.readline()
                begun = time.monotonic()
                action()
                took = time.monotonic() - begun
                pinging.stdin.close()
                ping = float(pinging.stdout.readline()) * 1000
            after = resource.getrusage(resource.RUSAGE_SELF)
            grown, busy = (after.ru_maxrss - before.ru_maxrss) / 1024, after.ru_utime - before.ru_utime
            longest = max((one["duration"] for one in client.slowlog_get(100_000)), default=0) / 1000
            told = f"{took:.2f} s ({busy:.2f} s of CPU), {grown:.0f} MiB more memory"
            print(
                f"  {name}: {told}; longest command {longest:.1f} ms, longest wait of another {ping:.1f} ms", flush=True
            )

        print(f"a job of {count:,} entries")
        measure("push", lambda: job.push(entries(count, 1_000)))
        with kept(server.url, "large") as there:
            there.give_up(count // 10)
        measure("push again", lambda: job.push(entries(count, 1_000)))
        measure("status", job.status)
        measure("dead", job.dead)
        measure("report", lambda: sum(1 for _ in job.outcomes()))
        measure("retry", lambda: job.retry(job.dead()))
        measure("clean", lambda: job.done_elsewhere((entry.name, "") for entry in entries(count, 1_000)))
        measure("caps", lambda: job.set_caps({"default": 2}))
        measure("cancel", lambda: job.order("cancel"))
        measure("drop", job.drop)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000, help="of the push")
    parser.add_argument("--hosts", type=int, default=20_000, help="that are paused")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder)) as server:
        client = redis.Redis(port=server.port)
        far_away(server, options.entries)
        many_hosts(server, client, options.hosts)
        whole_job(server, client, options.entries)


if __name__ == "__main__":
    main()
