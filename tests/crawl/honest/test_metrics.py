"""The numbers of a run for Prometheus, while it runs."""

from __future__ import annotations

import importlib.util
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bulkspider.errors import UsageError
from bulkspider.reporting.metrics import families
from bulkspider.spiders.arguments.prepare import prepare
from support.crawl import Bulk
from support.faulty import FaultyOrigin, good, make_body, not_found
from support.holding import Holds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scraped(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_numbers_of_a_run_while_it_runs(bulk: Bulk) -> None:
    port = free_port()
    held = Holds(300_000, bulk.output / "held.bin.part", needs=[bulk.output / "ok.bin"])
    with FaultyOrigin(
        {"held.bin": (held.behaviour(), make_body(400_000)), "ok.bin": good, "gone.bin": not_found}
    ) as origin:
        bulk.write_list({name: origin.url(name) for name in ("gone.bin", "ok.bin", "held.bin")})
        process = bulk.start(
            settings={"BULK_METRICS_PORT": str(port), "BULK_STALL_TIMEOUT": "60", "CONCURRENT_REQUESTS": "2"}
        )
        held.wait()
        numbers = scraped(port)
        while not numbers.get("bulk_files_total{complete}"):  # its file is there a moment before it is counted
            numbers = scraped(port)
        process.terminate()
        ended = bulk.wait(process)
    assert ended.status == 143, ended.log
    assert f"metrics: http://127.0.0.1:{port}/metrics" in ended.log
    assert numbers["bulk_entries"] == 3
    assert numbers["bulk_active"] == 1
    assert numbers["bulk_attempts_total"] == 3
    assert numbers["bulk_files_total{failed}"] == numbers["bulk_failed_total{http_404}"] == 1
    assert numbers["bulk_bytes_received_total"] >= 600_000
    assert not any(name.startswith("python_") for name in numbers), "a registry of our own"


def test_a_port_that_is_taken_is_an_error_before_the_first_byte(bulk: Bulk) -> None:
    with socket.socket() as taken, FaultyOrigin({"a.bin": good}) as origin:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings={"BULK_METRICS_PORT": str(port)})
        assert ended.status == 1, ended.log
        assert (
            f"BULK_METRICS_PORT={port}: cannot listen on 127.0.0.1:{port} (Address already in use); choose" in ended.log
        )
        assert origin.requests == []


def test_without_the_package_it_says_which_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "prometheus_client" else found(name))
    with pytest.raises(UsageError, match=r"pip install 'bulkspider\[metrics\]'"):
        prepare({"list": str(tmp_path / "list")}, {"BULK_METRICS_PORT": 9000})
    with pytest.raises(UsageError, match="no such list"):
        prepare({"list": str(tmp_path / "list")}, {"BULK_METRICS_PORT": 0})


def test_counters_begin_at_zero() -> None:
    """Else a rate over the first minutes is missing."""
    values: dict[str, Any] = {
        family.name: [s.value for s in family.samples] for family in families({"bulk/files/failed": 2})
    }
    assert values["bulk_bytes_received"] == values["bulk_active"] == [0]
    assert values["bulk_files"] == [2]
    assert values["bulk_failed"] == []


def test_nobody_listens_without_a_port(bulk: Bulk) -> None:
    with FaultyOrigin({"a.bin": good}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run()
        assert ended.status == 0
        assert "metrics:" not in ended.log
