"""What a job keeps in Redis, for tests that break it, or look whether anything is left. The names of the keys are those
that `bulkspider/queue/scripts.py` lists."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from bulkspider.queue.scripts import prefix


class Kept:
    """The keys of one job, and the client to reach them."""

    def __init__(self, client: Any, job: str) -> None:
        self.client = client
        self.prefix = prefix(job)

    def key(self, name: str) -> str:
        return self.prefix + name

    @property
    def keys(self) -> list[str]:
        """All that the job has."""
        return sorted(self.client.keys(f"{self.prefix}*"))

    def evict(self, *patterns: str) -> None:
        """As a Redis does that wants memory."""
        for pattern in patterns:
            for key in self.client.keys(self.key(pattern)):
                self.client.delete(key)

    def evict_queue(self) -> None:
        """All entries that nobody has."""
        self.evict("e:*", "hosts", "ready:*")

    def lapse(self) -> None:
        """As if the time of every lease were over."""
        for one in self.client.zrange(self.key("leases"), 0, -1):
            self.client.zadd(self.key("leases"), {one: 1})

    @contextmanager
    def longest_step(self) -> Iterator[list[int]]:
        """Of each command that Redis is given in the block: how many arguments it has, and how many commands it calls
        if it is a script. To be read after the block."""
        steps = [0]
        with self.client.monitor() as monitor:
            yield steps
            self.client.echo("that is all")
            for told in monitor.listen():
                command = told["command"]
                if command == "ECHO that is all":
                    break
                if told["client_type"] == "lua":
                    steps[-1] += 1
                else:
                    steps += [command.count(" "), 0]

    def give_up(self, count: int) -> None:
        """As if the servers of so many entries that nobody has did not know them."""
        for queued in self.client.scan_iter(self.key("e:*"), count=1_000):
            names = self.client.lpop(queued, count)
            pipe = self.client.pipeline()
            for name, row in zip(names, self.client.hmget(self.key("known"), names), strict=True):
                key, _, origin, entry = row.split(" ", 3)
                letter = {"origin": origin, "entry": entry, "code": "http_404", "reason": "gone", "worker": "w"}
                pipe.hset(self.key("dead"), name, json.dumps(letter))
                pipe.hset(self.key("known"), name, key)
            pipe.execute()
            count -= len(names)
            if not count:
                break

    def interrupt_push(self, title: str) -> None:
        """As if a push of this list had been broken off long ago."""
        self.client.hset(self.key("meta"), f"push:{title}", 1)


@contextmanager
def kept(url: str, job: str) -> Iterator[Kept]:
    client = redis.Redis.from_url(url, decode_responses=True)
    try:
        yield Kept(client, job)
    finally:
        client.close()
