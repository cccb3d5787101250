"""What every test may ask for: the option `--long`, and a folder in which crawls run.

Where a test stands:
    unit/<package>      one module of that package, by table and by property: no process, no network
    crawl/<promise>     the main job end to end (`scrapy crawl bulk`, `scrapy bulk`), by what it promises: `right` files,
                        it `resumes`, is `patient` and `bounded`, `honest` in what it says, reads the `lists` that people have
    python              `bulkspider.fetch` and what belongs to it, called from Python
    engines             workflow engines, where they are installed (`tox -e engines`)
    projects            Scrapy projects of others that chain it in
    cluster             the queue, its workers, and shards
    gate                the same folders and servers for a frozen version and the present one
    benchmarks          figures beside other programs, and a test that the harness measures
    support             servers, processes and records that several tests need; the only place that tests import from
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support.crawl import Bulk

# How long Hypothesis takes for its examples depends on the machine and on what else runs there: no test fails for that.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="all tests, and the long forms of some: 20 files, 50 kills")
    parser.addoption(
        "--engines", action="store_true", help="also tests/engines, for the workflow engines that are here"
    )


def pytest_configure(config: pytest.Config) -> None:
    # A process that crashes in C says where in its log.
    os.environ["PYTHONFAULTHANDLER"] = "1"
    config.addinivalue_line("markers", "long: a test, or a module of them, that only runs with --long")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("long") is not None and not item.config.getoption("--long"):
        pytest.skip("only with --long")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Workflow engines take minutes and an environment of their own: `tox -e engines`."""
    return True if collection_path.name == "engines" and not config.getoption("--engines") else None


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Of two files that differ: how long they are and where they part, instead of all their bytes."""
    if op != "==" or not isinstance(left, bytes) or not isinstance(right, bytes) or len(left) + len(right) < 1_000:
        return None
    shorter = min(len(left), len(right))
    differs = [n for n in range(0, shorter, 512) if left[n : min(n + 512, shorter)] != right[n : min(n + 512, shorter)]]
    return [
        f"{len(left):,} bytes == {len(right):,} bytes",
        f"{len(differs)} blocks of 512 bytes differ, from {differs[0]:,} to {differs[-1]:,}"
        if differs
        else "one goes on",
        *(
            f"{len(data) - data.count(0):,} bytes of the {side} are not 0"
            for side, data in (("left", left), ("right", right))
        ),
    ]


@pytest.fixture
def bulk(tmp_path: Path) -> Bulk:
    return Bulk(tmp_path)
