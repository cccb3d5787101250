"""The second process for small files: whatever happens to it, or to the first one, nothing is lost or wrong.

That it does the same as one process is shown in `test_batch.py`, for all kinds of answers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.batches import COUNT, FEW, NAMES, ODD, SCHEMES, body, fetch, origin, others_are_right, trusting
from support.crawl import Bulk, Ended, kill
from support.faults import altered, busy, closes_after_answer, http10, when
from support.faulty import Behaviour, Exchange, FaultyOrigin, Resource, correct, good
from support.second import two_processes

ALONE = "small files are fetched by this one"


def second_of(process: subprocess.Popen[Any]) -> int:
    """The id of the second process of a crawl."""
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"bulkspider.small.process" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    raise AssertionError("there is none")


def is_gone(pid: int) -> bool:
    """It has ended; a process that nobody has waited for yet has ended, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


class Stalling:
    """An origin whose answer for one file comes only when `go_on` is set. `crawl` waits until it is asked for."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.server = origin(self._answer)

    def _answer(self, exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[:500])
        exchange.stall(self.go_on)
        exchange.send(reply.body[500:])

    def start(self, bulk: Bulk, **sabotage: Any) -> subprocess.Popen[str]:
        bulk.write_list({name: self.server.url(name) for name in NAMES})
        settings = {**FEW, "BULK_STALL_TIMEOUT": "60"}
        process = bulk.start(settings=settings, environment=two_processes(**sabotage))
        self.server.wait_until(lambda server: bool(server.requests_for(NAMES[ODD])))
        return process


def everything_is_right(bulk: Bulk, ended: Ended) -> None:
    assert ended.status == 0, ended.log
    others_are_right(ended)
    assert ended.file(NAMES[ODD]) == body(NAMES[ODD])
    left = {path.name for path in bulk.output.iterdir()} - set(NAMES)
    assert left == {".bulkspider"}


def test_it_is_killed_and_the_first_one_goes_on(bulk: Bulk) -> None:
    stalling = Stalling()
    with stalling.server:
        process = stalling.start(bulk)
        os.kill(second_of(process), signal.SIGKILL)
        stalling.server.wait_until(lambda server: len(server.requests_for(NAMES[ODD])) > 1)
        stalling.go_on.set()
        ended = bulk.wait(process)
    everything_is_right(bulk, ended)
    assert f"signal 9); {ALONE}" in ended.log
    ledger = (bulk.output / ".bulkspider" / "ledger.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["name"] for line in ledger) == sorted(NAMES)


def test_it_is_stopped_and_the_stop_of_the_first_one_does_not_wait_for_it(bulk: Bulk) -> None:
    stalling = Stalling()
    with stalling.server:
        process = stalling.start(bulk)
        second = second_of(process)
        os.kill(second, signal.SIGSTOP)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        ended = bulk.wait(process)
        assert time.monotonic() - began < 20
        stalling.go_on.set()
    assert is_gone(second)
    assert "interrupted" in ended.log
    assert "Traceback" not in ended.log
    with origin() as server:
        everything_is_right(bulk, fetch(bulk, server, environment=two_processes()))


def test_it_hangs_and_the_first_one_goes_on(bulk: Bulk) -> None:
    stalling = Stalling()
    often = {"bulkspider.small.second:LOOK_SECONDS": 0.2, "bulkspider.small.process:TELL_ALIVE_SECONDS": 0.1}
    with stalling.server:
        process = stalling.start(bulk, set=often)
        second = second_of(process)
        time.sleep(3)  # more than all looks together: it waits for the server, and says that it does
        assert not is_gone(second)
        os.kill(second, signal.SIGSTOP)
        stalling.server.wait_until(lambda server: len(server.requests_for(NAMES[ODD])) > 1)
        stalling.go_on.set()
        ended = bulk.wait(process)
    everything_is_right(bulk, ended)
    assert f"The second process ended (it said nothing for 2 s); {ALONE}" in ended.log


def test_the_first_one_is_killed_and_it_is_gone_at_once(bulk: Bulk) -> None:
    stalling = Stalling()
    with stalling.server:
        process = stalling.start(bulk)
        second = second_of(process)
        kill(process)
        bulk.wait(process)
        ends = time.monotonic() + 10
        while not is_gone(second):
            assert time.monotonic() < ends
            time.sleep(0.01)
        stalling.go_on.set()
    for name in NAMES:
        found = bulk.output / name
        assert not found.exists() or found.read_bytes() == body(name)
    with origin() as server:
        everything_is_right(bulk, fetch(bulk, server, environment=two_processes()))


def test_signals_are_for_the_first_one(bulk: Bulk) -> None:
    stalling = Stalling()
    with stalling.server:
        process = stalling.start(bulk)
        second = second_of(process)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(second, number)
        assert os.getsid(second) == second, "Ctrl-C in a terminal does not reach it"
        stalling.go_on.set()
        ended = bulk.wait(process)
    everything_is_right(bulk, ended)
    assert ALONE not in ended.log


@pytest.mark.parametrize(
    ("sabotage", "why"),
    [
        ({"raise": {"bulkspider.small.process:Process.__init__": "MemoryError"}}, "MemoryError"),
        ({"raise": {"bulkspider.small.process:is_usual": "KeyError"}}, "KeyError"),
        ({"raise": {"bulkspider.small.connection:Connection.ask": "RuntimeError"}}, "RuntimeError"),
    ],
    ids=["at its start", "at its first file", "at its first request"],
)
def test_an_error_of_its_own_ends_it_and_the_first_one_goes_on(
    bulk: Bulk, sabotage: Mapping[str, Any], why: str
) -> None:
    with origin() as server:
        ended = fetch(bulk, server, environment=two_processes(**sabotage))
    everything_is_right(bulk, ended)
    assert f"The second process ended ({why} in " in ended.log
    assert ALONE in ended.log


def test_the_disk_refuses_it_a_file(bulk: Bulk) -> None:
    """What it cannot do is handed back, and ends as it would with one process."""
    with origin() as server:
        refuses = {"raise": {"bulkspider.disk.commit.durable:Flusher.flush": "MemoryError"}}
        ended = fetch(bulk, server, environment=two_processes(**refuses))
    assert ended.status != 0
    assert not [name for name in NAMES if (bulk.output / name).exists() and ended.file(name) != body(name)]


@pytest.mark.parametrize("changed", [{}, {"bulkspider.small.process:CONNECTIONS": -100}], ids=["few", "too few"])
def test_it_may_open_few_files(bulk: Bulk, changed: Mapping[str, int]) -> None:
    """It has smaller groups then; and what it cannot open after all, the first process can."""
    with origin() as server:
        bulk.write_list({name: server.url(name) for name in NAMES})
        done = subprocess.run(
            ["bash", "-c", 'ulimit -n 48 && exec "$@"', "bash", *bulk.command(settings=FEW)],
            cwd=bulk.folder,
            env={
                **os.environ,
                "SCRAPY_SETTINGS_MODULE": bulk.settings_module,
                **two_processes(set=changed),
            },
            capture_output=True,
            text=True,
            timeout=100,
        )
    rows = [json.loads(line) for line in bulk.report.read_text().splitlines()]
    ended = Ended(done.returncode, done.stderr, rows, bulk.output)
    everything_is_right(bulk, ended)
    assert "to the second process" in ended.log
    assert not list((bulk.output / ".bulkspider").glob("begun*"))


def test_the_ledger_cannot_be_written(bulk: Bulk) -> None:
    with origin() as server:
        refuses = {"raise": {"bulkspider.disk.finished.ledger:Ledger.append": "MemoryError"}}
        ended = fetch(bulk, server, environment=two_processes(**refuses))
        assert ended.status != 0, ended.log
        everything_is_right(bulk, fetch(bulk, server, environment=two_processes()))


def test_it_wants_the_certificate_that_the_first_one_has_checked(bulk: Bulk) -> None:
    """Another one is shown when the second process connects: nothing is asked for there, and the first one judges."""
    lock, shown = threading.Lock(), []
    with FaultyOrigin(tls="expired") as stranger:

        def turns(exchange: Exchange) -> None:
            with lock:
                if not shown:
                    shown.append(server.connections)
                    server.show_certificate_of(stranger)
            good(exchange)

        with origin(scheme="https") as server:
            # The second process knows the host and has no connection yet; the first one keeps those that it has.
            server.add(NAMES[12], turns, Resource(body(NAMES[12])))
            ended = fetch(bulk, server, environment=two_processes())
            assert "to the second process" in ended.log
            assert all(request.connection < shown[0] for request in server.requests), "asked on a new connection"
    failed = [row for row in ended.rows if row["status"] == "failed"]
    assert {row["error"]["code"] for row in failed} <= {"tls_verify"}
    for row in ended.rows:
        if row["status"] == "complete":
            assert ended.file(row["name"]) == body(row["name"])
        else:
            assert not (bulk.output / row["name"]).exists()


def test_a_rate_limit_that_begins_takes_its_batches_back(bulk: Bulk) -> None:
    """`control.json` sets a limit while a batch is under way: from then on the first process fetches, within it."""
    stalling = Stalling()
    with stalling.server:
        process = stalling.start(bulk)
        (bulk.output / ".bulkspider" / "control.json").write_text(json.dumps({"rate_limit": "10M"}))
        # The file that stalls is asked for again, by the first process.
        stalling.server.wait_until(lambda server: len(server.requests_for(NAMES[ODD])) > 1)
        stalling.go_on.set()
        ended = bulk.wait(process)
    everything_is_right(bulk, ended)
    assert ALONE not in ended.log


def test_a_connection_that_ends_while_a_batch_waits_for_its_commits_ends_the_batch_once(bulk: Bulk) -> None:
    """With one file in memory at most, each batch waits after each file; the server closes its connections then."""
    behaviours = [good] * (COUNT // 2) + [closes_after_answer()] * (COUNT // 2)
    table = {name: (behaviour, Resource(body(name))) for name, behaviour in zip(NAMES, behaviours, strict=True)}
    with FaultyOrigin(table) as server:
        waits = {"bulkspider.small.process:MOST_COMMITS": 1}
        ended = fetch(bulk, server, environment=two_processes(set=waits))
    everything_is_right(bulk, ended)
    assert "to the second process" in ended.log
    assert ALONE not in ended.log


@pytest.mark.parametrize(
    "settings",
    [
        {"BULK_PROCESSES": "1"},
        {"BULK_BATCH": "1"},
        {"DOWNLOADER_CLIENT_TLS_CIPHERS": "DEFAULT"},
        {"DOWNLOAD_BIND_ADDRESS": "127.0.0.1"},
    ],
    ids=str,
)
def test_there_is_none_where_it_is_not_wanted_or_knows_too_little(bulk: Bulk, settings: dict[str, str]) -> None:
    with origin() as server:
        ended = fetch(bulk, server, settings=settings, environment=two_processes())
    everything_is_right(bulk, ended)
    assert "to the second process" not in ended.log


def with_field(name: str, value: str) -> Behaviour:
    return altered(lambda exchange, reply: reply.headers.update({name: value}), 200)


def test_a_host_that_wants_a_pause_is_asked_by_it_again(bulk: Bulk) -> None:
    def later(exchange: Exchange) -> bool:
        """The first request on each connection of the second process; the first one has 0 and 1."""
        return exchange.on_connection == 0 and exchange.recorded.connection in (2, 3)

    answer = when(later, busy(429, retry_after=1, times=None))
    with FaultyOrigin({name: (answer, Resource(body(name))) for name in NAMES}) as server:
        ended = fetch(bulk, server, environment=two_processes())
        assert [request.status for request in server.requests].count(429) == 2
    everything_is_right(bulk, ended)
    sent = [line for line in ended.log.splitlines() if "to the second process" in line]
    assert len(sent) > 2, "it gets no more batches"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "unusual",
    [with_field("Connection", "close"), http10(), with_field("X-Odd", "a\tb")],
    ids=["closes", "HTTP/1.0", "odd field"],
)
def test_a_host_with_unusual_answers_is_not_asked_by_it(bulk: Bulk, unusual: Behaviour, scheme: str) -> None:
    table = {name: (unusual, Resource(body(name))) for name in NAMES}
    with FaultyOrigin(table, tls=scheme == "https") as server:
        ended = fetch(bulk, server, environment=two_processes())
        assert len(server.requests) == COUNT
    everything_is_right(bulk, ended)
    assert "its request brings" in ended.log
    assert "to the second process" not in ended.log


def test_there_is_none_for_a_short_list(bulk: Bulk) -> None:
    with origin() as server:
        ended = fetch(bulk, server, environment=two_processes(files=COUNT))
    everything_is_right(bulk, ended)
    assert "to the second process" not in ended.log


def test_two_runs_in_one_folder_have_one_each(bulk: Bulk) -> None:
    with origin() as server:
        bulk.write_list({name: server.url(name) for name in NAMES})
        both = []
        for shard in ("1/2", "2/2"):
            command = Bulk(bulk.folder / shard[0])
            command.folder.mkdir()
            command.list, command.output = bulk.list, bulk.output
            environment = {**trusting(server), **two_processes()}
            both.append((command, command.start("-a", f"shard={shard}", settings=FEW, environment=environment)))
        ended = [command.wait(process) for command, process in both]
    assert [one.status for one in ended] == [0, 0]
    for name in NAMES:
        assert (bulk.output / name).read_bytes() == body(name)
    assert {path.name for path in bulk.output.iterdir()} == {".bulkspider", *NAMES}
