"""What Scrapy would wait for without an end, and where no file can be written, is refused before the first byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from scrapy.settings import Settings

from bulkspider.dispatch.places import Limits
from bulkspider.errors import UsageError
from bulkspider.wire.compat import ZERO_IS_NO_LIMIT
from support.crawl import Bulk
from support.faulty import FaultyOrigin, good, make_body
from support.project import Project

BODY = make_body(40_000)
NEVER = "no request would ever begin"
ZERO_IN_ALL: list[dict[str, object]] = [] if ZERO_IS_NO_LIMIT else [{"CONCURRENT_REQUESTS": 0}]


# Scrapy says of CONCURRENT_REQUESTS_PER_IP that it will go.
pytestmark = pytest.mark.filterwarnings("ignore::scrapy.exceptions.ScrapyDeprecationWarning")


@pytest.mark.parametrize(
    "wrong",
    [
        {"CONCURRENT_REQUESTS_PER_DOMAIN": 0},
        {"CONCURRENT_REQUESTS_PER_DOMAIN": "-1"},
        {"CONCURRENT_REQUESTS": -1},
        {"CONCURRENT_REQUESTS_PER_IP": -2},
        {"DOWNLOAD_SLOTS": {"example.org": {"concurrency": 0}}},
        {"DOWNLOAD_SLOTS": '{"example.org": {"concurrency": "0"}}'},
        *ZERO_IN_ALL,
    ],
    ids=str,
)
def test_limits_with_which_nothing_begins(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=NEVER) as refused:
        Limits.of(Settings(wrong))
    assert next(iter(wrong)) in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"CONCURRENT_REQUESTS": "many"},
        {"CONCURRENT_REQUESTS_PER_DOMAIN": None},
        {"DOWNLOAD_SLOTS": {"example.org": {"concurrency": 1.5}}},
        {"DOWNLOAD_SLOTS": {"example.org": 3}},
    ],
    ids=str,
)
def test_limits_that_are_no_numbers(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Limits.of(Settings(wrong))


def test_limits_that_scrapy_keeps() -> None:
    limits = Limits.of(
        Settings(
            {
                "CONCURRENT_REQUESTS": "5",
                "CONCURRENT_REQUESTS_PER_DOMAIN": 3,
                "DOWNLOAD_SLOTS": {"a": {"concurrency": 2}, "b": {"delay": 1}},
            }
        )
    )
    assert (limits.total, [limits.slots.get(slot, limits.per_slot) for slot in "abc"]) == (5, [2, 3, 3])
    assert Limits.of(Settings({"CONCURRENT_REQUESTS_PER_DOMAIN": 0, "CONCURRENT_REQUESTS_PER_IP": 7})).per_slot == 7


@pytest.mark.parametrize(
    "setting",
    ["CONCURRENT_REQUESTS_PER_DOMAIN=0", "CONCURRENT_REQUESTS=-1", 'DOWNLOAD_SLOTS={"127.0.0.1": {"concurrency": 0}}'],
)
@pytest.mark.parametrize("arguments", [(), ("-a", "verify=1")], ids=["run", "verify"])
def test_a_list_ends_at_once_with_one_sentence(bulk: Bulk, setting: str, arguments: tuple[str, ...]) -> None:
    with FaultyOrigin({"a.bin": good}, resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run("-s", setting, *arguments)
        assert (ended.status, origin.requests) == (1, [])
        assert NEVER in ended.log
        assert len(ended.log.splitlines()) == 1, ended.log
        assert not bulk.output.exists()


def test_scrapys_no_limit_in_all_is_none_for_us(bulk: Bulk) -> None:
    with FaultyOrigin({"a.bin": good}, resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run("-s", "CONCURRENT_REQUESTS=0")
        assert ended.status == (0 if ZERO_IS_NO_LIMIT else 1), ended.log


SHOP = """
    async def start(self):
        yield scrapy.Request("data:,page")
        yield scrapy.Request(
            self.site + "/a.bin", self.got, errback=self.got, meta={"bulk": {"path": "a.bin"}}
        )

    def parse(self, response):
        if self.settings.getdict("ITEM_PIPELINES"):
            yield {"file_urls": [self.site + "/a.bin"]}

    def got(self, told):
        yield {"told": str(getattr(told, "value", told))}
"""


def test_in_other_projects_files_are_refused_instead_of_waited_for(tmp_path: Path) -> None:
    project = Project(tmp_path / "shop")
    project.write_spider(SHOP)
    with FaultyOrigin({"a.bin": good}, resource=BODY) as origin:
        site = origin.url("").rstrip("/")
        slots = {"127.0.0.1": {"concurrency": 0}}
        (item,) = project.crawl(site, DOWNLOAD_SLOTS=slots)
        assert item["told"].startswith('meta["bulk"]: setting DOWNLOAD_SLOTS'), project.log
        pipeline = {"ITEM_PIPELINES": {"bulkspider.BulkFilesPipeline": 1}, "FILES_STORE": "store"}
        project.crawl(site, DOWNLOAD_SLOTS=slots, status=1, **pipeline)
        assert f"concurrency of 127.0.0.1=0: {NEVER}" in project.log
        assert "Traceback" not in project.log
        assert origin.requests == []


@pytest.mark.parametrize("output", ["s3://bucket/folder", "gs://b", "file:///tmp/x", "HTTPS://example.org/x"])
def test_an_output_with_a_scheme(bulk: Bulk, output: str) -> None:
    with FaultyOrigin({"a.bin": good}, resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        bulk.output = output  # type: ignore[assignment]
        ended = bulk.run()
        assert (ended.status, origin.requests) == (1, []), ended.log
        assert f"argument output={output}: files are written to a folder of this machine only" in ended.log
        assert sorted(path.name for path in bulk.folder.iterdir()) == ["list.txt"]


def test_a_colon_in_a_path_is_no_scheme(bulk: Bulk) -> None:
    bulk.output = bulk.folder / "s3:" / "out"
    with FaultyOrigin({"a.bin": good}, resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        assert bulk.run().status == 0


def test_the_short_option_the_queue_and_the_store_refuse_it_too(bulk: Bulk, tmp_path: Path) -> None:
    import subprocess
    import sys

    def scrapy(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "scrapy", "bulk", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        return done.stderr

    (tmp_path / "list.txt").write_text("name url\nx http://127.0.0.1:1/x\n")
    where = ("-o", "s3://bucket/folder")
    for arguments in (
        ("list.txt", *where),
        ("list.txt", *where, "--dry-run"),
        ("http://127.0.0.1:1/x", *where),
        # Nobody asks that Redis.
        ("-a", "queue=redis://127.0.0.1:1/0", "-a", "job=x", *where),
    ):
        told = scrapy(*arguments)
        assert "argument output=s3://bucket/folder: files are written to a folder of this machine only" in told
    told = scrapy("list.txt", "-s", "BULK_STORE=s3://bucket/x")
    assert "setting BULK_STORE='s3://bucket/x': files are written to a folder of this machine only" in told
    assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]
