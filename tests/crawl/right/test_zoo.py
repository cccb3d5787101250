"""A list of files from hosts as they are: all that can come comes, once, proven, through a `kill -9`; and no host is
asked more often than its files are worth."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest

from support import zoo
from support.crawl import Bulk, kill
from support.faulty import Exchange, FaultyOrigin, good, make_body

GIANT = make_body(12 << 20, "giant")
SETTINGS = {
    "BULK_HOSTS": "hosts.toml",
    "BULK_ORIGIN_PATIENCE": "60",
    "BULK_STALL_TIMEOUT": "60",
    "CONCURRENT_REQUESTS": "12",
    "CONCURRENT_REQUESTS_PER_DOMAIN": "8",
    "BULK_SEGMENTS": "1",
    # The host where one logs in is not in the list, and is asked over http here: only the user may say so.
    "BULK_TRUSTED_HOSTS": "http://127.0.1.2",
}


@pytest.fixture
def hosts(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> list[zoo.Host]:
    netrc = bulk.folder / "netrc"
    netrc.write_text("machine 127.0.1.2 login me password s3cret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    (bulk.folder / "hosts.toml").write_text(zoo.TABLE)
    return [kind() for kind in zoo.ALL]


def check(bulk: Bulk, hosts: Sequence[zoo.Host], rows: dict[str, dict], *, runs: int) -> None:
    for host in hosts:
        told = f"{type(host).__name__}: {[(r.path, r.status, r.range) for s in host.servers for r in s.requests]}"
        for name, body in host.files.items():
            told += f"\n{name}: {rows[name]}"
            if host.fails:
                assert rows[name]["status"] == "failed", told
                assert not (bulk.output / name).exists()
            else:
                assert rows[name]["status"] in ("verified", "complete"), told
                assert (bulk.output / name).read_bytes() == body, told
        # What a kill has left without a state is compared by samples, four for each file.
        assert host.requests <= runs * host.most_requests + 5 * len(host.files), told


def test_files_of_hosts_as_they_are(bulk: Bulk, hosts: list[zoo.Host]) -> None:
    stalls: list[bool] = [True]

    def giant(exchange: Exchange) -> None:
        if not stalls:
            good(exchange)
            return
        exchange.send_status(200)
        exchange.header("Content-Length", len(GIANT))
        exchange.header("ETag", '"v1"')
        exchange.end_headers()
        exchange.send(GIANT[: 6 << 20])
        exchange.stall()

    with contextlib.ExitStack() as stack:
        for host in hosts:
            stack.enter_context(host.open())
        # One more, that keeps the first run busy until it is killed.
        slow = stack.enter_context(FaultyOrigin({"giant.bin": giant}, resource=GIANT, host="127.0.1.13"))
        lines = [f"giant.bin {slow.url('giant.bin')}", *(line for host in hosts for line in host.lines())]
        bulk.write_list(lines)
        ena = next(host for host in hosts if isinstance(host, zoo.Ena))
        with bulk.start("-a", "contact=me@example.org", settings=SETTINGS) as process:
            ena.servers[0].wait_until(lambda origin: len(origin.requests) >= 3)
            slow.wait_until(lambda origin: any(request.bytes_sent >= 6 << 20 for request in origin.requests))
            kill(process)
        stalls.clear()
        ended = bulk.run("-a", "contact=me@example.org", settings=SETTINGS)
        assert ended.status in (3, 4), ended.log
        rows = {row["name"]: row for row in ended.rows}
        check(bulk, hosts, rows, runs=2)
        assert (bulk.output / "giant.bin").read_bytes() == GIANT
        assert rows["giant.bin"]["resumed_from"] > 5 << 20
        assert "s3cret" not in ended.log
        # Once more: nobody but the one that failed is asked.
        before = {type(host).__name__: host.requests for host in hosts}
        bulk.run("-a", "contact=me@example.org", settings=SETTINGS)
        assert {type(host).__name__ for host in hosts if host.requests > before[type(host).__name__]} == {"Figshare"}
