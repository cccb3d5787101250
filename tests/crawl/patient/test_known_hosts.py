"""What hosts are known to ask for is kept to: connections, time between requests, statuses that mean "slow down"; and
they are told who asks."""

from __future__ import annotations

import threading

from bulkspider import __version__
from support.crawl import Bulk
from support.faults import first, status
from support.faulty import Exchange, FaultyOrigin, good, make_body
from support.project import Project

BODY = make_body(30_000)


class Crowd:
    """How many requests were being answered at once."""

    def __init__(self) -> None:
        self.most = self._now = 0
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        # Long enough for others to come, if they may.
        exchange.stall(_after(0.15))
        good(exchange)
        with self._lock:
            self._now -= 1


def _after(seconds: float) -> threading.Event:
    event = threading.Event()
    timer = threading.Timer(seconds, event.set)
    timer.daemon = True
    timer.start()
    return event


def test_a_table_of_hosts_caps_what_the_user_wants(tmp_path):
    bulk, crowds = Bulk(tmp_path), {name: Crowd() for name in ("127.0.0.1", "127.0.0.2", "127.0.0.3")}
    (tmp_path / "hosts.toml").write_text(
        '["127.0.0.1"]\nconnections = 2\nsource = "their terms"\n["127.0.0.2"]\nconnections = 1\n'
        '["127.0.0.3"]\nrequests_per_minute = 240\nbusy = [403]\n'
    )
    one, two = (FaultyOrigin(default=crowds[host], resource=BODY, host=host) for host in ("127.0.0.1", "127.0.0.2"))
    three = FaultyOrigin(default=first(1, status(403), good), resource=BODY, host="127.0.0.3")
    with one, two, three:
        entries = {f"{n}-{o.host}.bin": o.url(f"{n}.bin") for o in (one, two) for n in range(6)}
        entries |= {f"{n}-slow.bin": three.url(f"{n}.bin") for n in range(3)}
        bulk.write_list(entries)
        ended = bulk.run(
            *("-a", "contact=me@example.org"),
            settings={
                "CONCURRENT_REQUESTS": "16",
                "CONCURRENT_REQUESTS_PER_DOMAIN": "16",
                "BULK_HOSTS": "hosts.toml",
                "DOWNLOAD_SLOTS": '{"127.0.0.2": {"concurrency": 3}}',
                "BULK_ORIGIN_PATIENCE": "60",
            },
        )
        assert ended.status == 0, ended.log
        assert all(ended.file(name) == BODY for name in entries)
        assert crowds["127.0.0.1"].most <= 2
        assert 1 < crowds["127.0.0.2"].most <= 3, "DOWNLOAD_SLOTS stands over it"
        assert ended.log.count("127.0.0.1: 2 requests at once, as 127.0.0.1 asks (their terms)") == 1
        assert len(three.requests) == 6, "each 403 says slow down"
        assert three.requests[-1].time - three.requests[0].time > 0.9
        agents = {request.headers["user-agent"] for origin in (one, two, three) for request in origin.requests}
        assert agents == {f"bulkspider/{__version__} (me@example.org)"}


def test_the_requests_of_one_attempt_keep_their_distance_too(tmp_path):
    """A file that was there is compared in several places: each is a request, and their host has asked for time."""
    bulk = Bulk(tmp_path)
    body = make_body(200_000)
    (tmp_path / "hosts.toml").write_text('["127.0.0.3"]\nrequests_per_minute = 200\nbusy = [403]\n')
    with FaultyOrigin(default=good, resource=body, host="127.0.0.3") as origin:
        bulk.write_list({name: origin.url(name) for name in ("a.bin", "b.bin")})
        bulk.output.mkdir()
        for name in ("a.bin", "b.bin"):
            (bulk.output / name).write_bytes(body[:150_000])
        ended = bulk.run(settings={"BULK_HOSTS": "hosts.toml"})
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == ended.file("b.bin") == body
        times = [request.time for request in origin.requests]
        assert len(times) > 4
        assert times[-1] - times[0] > (len(times) - 1) * 0.2, times


def test_who_we_are_unless_a_project_says_otherwise(tmp_path):
    with FaultyOrigin({"a.bin": good}, resource=BODY) as origin:
        (tmp_path / "list.txt").write_text(f"name url\na.bin {origin.url('a.bin')}\n")
        project = Project(tmp_path)
        for settings, argument in (({}, "out1"), ({"USER_AGENT": "theirs/1"}, "out2")):
            project.scrapy("crawl", "bulk", "-a", "list=list.txt", "-a", f"output={argument}", **settings)
        agents = [request.headers["user-agent"] for request in origin.requests]
        assert agents == [f"bulkspider/{__version__}", "theirs/1"]
