"""What the first bytes say about a name: the table, and every way by which a body gets onto the disk."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkspider.protocol.sniff import FIRST_BYTES, Content, look, says_binary
from support.crawl import Bulk
from support.faults import chunked_answer, redirect_to, status
from support.faulty import TRUST, FaultyOrigin, Resource, good, make_body
from support.project import Project

PAGE = b"<!doctype html>\n<html><head><title>Sign in</title></head><body>Please sign in to go on</body></html>\n"
S3_ERROR = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
)
ERRORS = {
    "a.tar.gz": PAGE,
    "b.zip": S3_ERROR,
    "c.nc": b'{"error": {"code": 429, "message": "quota exceeded"}}',
    "d.bam": b"Too many downloads\n",
    "e.parquet": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n",
}


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("x"), "x")
    return file.getvalue()


V7_TAR = tarred()[:257] + bytes(255)


@pytest.mark.parametrize(
    ("name", "body", "content"),
    [
        *((name, body, Content.ANSWER) for name, body in ERRORS.items()),
        ("x.tar.gz", b"\xef\xbb\xbf\r\n  <HTML lang=en>", Content.ANSWER),
        ("x.gz", b"<!-- cached -->\n<html>", Content.ANSWER),
        ("x.gz", b'<?xml version="1.0"?><!DOCTYPE html><html>', Content.ANSWER),
        ("x.tif", b'<ServiceExceptionReport version="1.3.0"><ServiceException>No such layer', Content.ANSWER),
        ("x.h5", b'<soap:Fault xmlns:soap="x"><faultcode>', Content.ANSWER),
        ("x.7z", b'[{"errors": ["gone"]}]', Content.ANSWER),
        ("x.zst", b'{"status":403,"detail":"expired"}', Content.ANSWER),
        ("x.xz", b"Forbidden", Content.ANSWER),
        ("x.bz2", b"Error 503: try again later.\nContact: ops@example.org", Content.ANSWER),
        ("x.mp4", b"Access denied", Content.ANSWER),
        ("x.fa.gz", PAGE.decode().encode("utf-16"), Content.ANSWER),
        ("x.zip", b"\xfe\xff" + "Zu viele Anfragen".encode("utf-16-be"), Content.ANSWER),
        ("x.h5", "Accès refusé".encode("latin-1"), Content.ANSWER),
        ("dir.d/X.TAR.GZ", PAGE, Content.ANSWER),
        # As named.
        ("x.tar.gz", gzip.compress(b"x", mtime=0), Content.AS_NAMED),
        ("x.tar", tarred(), Content.AS_NAMED),
        ("x.zip", zipped(), Content.AS_NAMED),
        ("x.xlsx", zipped(), Content.AS_NAMED),
        ("x.nc", b"CDF\x01" + bytes(99), Content.AS_NAMED),
        ("x.nc", b"\x89HDF\r\n\x1a\n" + bytes(99), Content.AS_NAMED),
        ("x.tiff", b"MM\x00+" + bytes(99), Content.AS_NAMED),
        ("x.zst", b"\x5a\x2a\x4d\x18" + bytes(99), Content.AS_NAMED),
        ("x.fits", b"SIMPLE  =                    T / a text to begin with", Content.AS_NAMED),
        ("x.gz", b"", Content.AS_NAMED),
        # Good files of another type than their name says, as far as anybody can tell.
        ("x.tar", V7_TAR, Content.OTHER_TYPE),
        ("x.h5", bytes(512) + b"\x89HDF\r\n\x1a\n", Content.OTHER_TYPE),
        ("x.jpg", b"\x89PNG\r\n\x1a\n" + bytes(99), Content.OTHER_TYPE),
        ("reads.fastq.gz", b"@read1\nACGT\n+\nIIII\n" * 300, Content.OTHER_TYPE),
        ("one.fa.gz", b">one\nACGT\n", Content.OTHER_TYPE),
        ("table.csv.gz", b"name,size\na,1\n", Content.OTHER_TYPE),
        ("sitemap.xml.gz", b'<?xml version="1.0"?><urlset><url>', Content.OTHER_TYPE),
        ("defaults.xml.gz", b"<defaults><size>1</size></defaults>", Content.OTHER_TYPE),
        ("rows.json.gz", b'{"id": 1, "name": "x"}', Content.OTHER_TYPE),
        ("big.json.gz", b'{"error": "of a measurement", ' + b" " * 70_000, Content.OTHER_TYPE),
        ("notes.txt.gz", b"one two three\n" * 100, Content.OTHER_TYPE),
        ("x.bam", bytes(range(256)), Content.OTHER_TYPE),
        ("x.gz", b"\xff\xfe" + bytes(range(256)), Content.OTHER_TYPE),
        ("x.gz", b"\xe9\xe8\xea ab \xff\xfd\xfc", Content.OTHER_TYPE),
        # Names that promise nothing.
        ("x.html", PAGE, Content.AS_NAMED),
        ("x.bin", PAGE, Content.AS_NAMED),
        ("x.txt", b"Too many downloads", Content.AS_NAMED),
        ("gz", PAGE, Content.AS_NAMED),
        ("dir.gz/x", PAGE, Content.AS_NAMED),
        ("x.mp4", bytes(99), Content.AS_NAMED),
    ],
)
def test_what_a_file_is(name: str, body: bytes, content: Content) -> None:
    assert look(name, body[:FIRST_BYTES], len(body)) is content


@given(st.text(max_size=20), st.binary(max_size=FIRST_BYTES), st.integers(0, 1 << 40))
def test_anything_can_be_looked_at(name: str, first: bytes, more: int) -> None:
    assert look(name, first, len(first) + more) is Content.AS_NAMED or says_binary(name)


@given(st.sampled_from(["x.tar.gz", "x.zip", "x.tif"]), st.binary(min_size=1, max_size=64))
def test_what_begins_with_a_control_byte_is_never_an_answer(name: str, rest: bytes) -> None:
    assert look(name, b"\x01" + rest, 1 + len(rest)) is not Content.ANSWER


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_the_text_of_an_answer_never_gets_the_files_name_however_it_came(bulk: Bulk, tls: bool) -> None:
    """Small and several by one request; small and alone; large, by a thread that takes the socket; by several
    connections; chunked, of no length known before."""
    large = PAGE + b"<p>more</p>" * 500_000
    behaviours = {
        **{name: (good, body) for name, body in ERRORS.items()},
        **{f"small/{n}.gz": (good, PAGE + bytes([n])) for n in range(20)},
        **{f"small/{n}.bin": (good, make_body(1000)) for n in range(20)},
        "large.tar": (good, large),
        "parts.tar": (good, large * 2),
        "chunked.zip": (chunked_answer(), PAGE),
        "proven.gz": (good, PAGE),
        "old.tar": (good, V7_TAR),
        "photo.jpg": (good, b"\x89PNG\r\n\x1a\n" + make_body(5 << 20)),
        "right.gz": (good, gzip.compress(make_body(9000))),
    }
    with FaultyOrigin(behaviours, tls=tls) as origin:
        entries = {name: origin.url(name) for name in behaviours}
        entries["proven.gz"] += f" size={len(PAGE)}"
        entries["parts.tar"] += " segments=4"
        bulk.write_list(entries)
        settings = {**(TRUST if tls else {}), "BULK_SEGMENT_MIN": "1M"}
        ended = bulk.run(settings=settings)
        assert ended.status == 4, ended.log
        refused = {*ERRORS, *(f"small/{n}.gz" for n in range(20)), "large.tar", "parts.tar", "chunked.zip"}
        for row in ended.rows:
            path = bulk.output / row["name"]
            if row["name"] in refused:
                assert (row["status"], row["error"]["code"]) == ("failed", "not_the_file"), row
                assert row["error"]["permanent"]
                assert not path.exists()
                aside = path.with_name(f"{path.name}.part.old")
                assert aside.read_bytes() == behaviours[row["name"]][1], "kept aside, to be looked at"
            else:
                assert row["status"] == "complete", row
                assert path.read_bytes() == behaviours[row["name"]][1]
        assert {row["name"] for row in ended.rows if "other-type" in row["flags"]} == {"old.tar", "photo.jpg"}
        assert "sign in" in ended.row("a.tar.gz")["server_said"]
        assert "quota exceeded" in ended.row("c.nc")["error"]["message"]
        counts = [len(origin.requests_for(name)) for name in ERRORS]
        assert max(counts) <= 2, "a batch may have seen it before; a second time of its own would bring the same"

        # Nobody goes on from what was refused, and the flag is remembered.
        again = bulk.run(settings=settings)
        assert {row["name"] for row in again.rows if row["error"]} == refused
        assert again.row("old.tar")["flags"] == ["other-type"]

        off = bulk.run(settings={**settings, "BULK_SNIFF": "False"})
        assert off.status == 0, off.log
        assert off.file("a.tar.gz") == PAGE


def test_a_mirror_takes_over_from_a_host_that_sends_a_page(bulk: Bulk) -> None:
    body = gzip.compress(make_body(50_000))
    with FaultyOrigin({"x.gz": (good, PAGE)}) as first, FaultyOrigin({"x.gz": (good, body)}) as second:
        bulk.write_list([f"x.gz {first.url('x.gz')} mirror={second.url('x.gz')}"])
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("x.gz") == body


def test_a_page_that_another_tool_has_saved_is_not_adopted(bulk: Bulk) -> None:
    with FaultyOrigin({"x.gz": (good, PAGE)}) as origin:
        bulk.write_list({"x.gz": origin.url("x.gz")})
        bulk.output.mkdir()
        (bulk.output / "x.gz").write_bytes(PAGE)
        ended = bulk.run()
        assert ended.status == 4, ended.log
        assert ended.row("x.gz")["error"]["code"] == "not_the_file"
        assert ended.file("x.gz") == PAGE, "it was there before, and stays"


@pytest.mark.parametrize(
    "target", ["login/", "login.html", "login/?next=%2Fx", "login.php?next=x.fa"], ids=["slash", "html", "query", "php"]
)
def test_where_a_redirect_leads_does_not_make_a_page_a_file(bulk: Bulk, target: str) -> None:
    with FaultyOrigin() as origin:
        login = Resource(PAGE, content_type="text/html; charset=utf-8")
        origin.add(target.partition("?")[0], good, login)
        for name in ("genome.fa", "page.html", "index/"):
            origin.add(name, redirect_to(origin.url("") + target))
        urls = {"genome.fa": origin.url("genome.fa"), "page.html": origin.url("page.html")}
        bulk.write_list({**urls, "index": origin.url("index/")})
        dry = [sys.executable, "-m", "scrapy", "bulk", str(bulk.folder / "list.txt"), "--dry-run"]
        said = subprocess.run(dry, cwd=bulk.folder, capture_output=True, text=True, timeout=60, check=False)
        assert (said.returncode, said.stdout.count("[html]")) == (3, 1), said.stdout + said.stderr
        ended = bulk.run()
        assert {row["name"]: row["status"] for row in ended.rows} == {
            "genome.fa": "failed",
            "page.html": "complete",
            "index": "complete",
        }, ended.log
        assert ended.row("genome.fa")["error"]["code"] == "html"
        assert "Please sign in" in ended.row("genome.fa")["server_said"]
        assert not (bulk.output / "genome.fa").exists()


SPIDER = """
    def start_requests(self):
        yield scrapy.Request(self.site + "/bare.gz", meta={"bulk": {"path": "bare.gz"}}, callback=self.file)

    async def start(self):
        for request in self.start_requests():
            yield request

    def file(self, response):
        yield {"status": response.meta["bulk"]["result"]["status"]}
"""


def test_other_spiders_take_what_comes_unless_they_ask(tmp_path_factory: pytest.TempPathFactory) -> None:
    project = Project(tmp_path_factory.mktemp("projects") / "shop")
    project.write_spider(SPIDER)
    with FaultyOrigin({"bare.gz": (good, PAGE)}) as origin:
        site = origin.url("").rstrip("/")
        store = {"FILES_STORE": str(project.folder / "files")}
        assert project.crawl(site, **store) == [{"status": "complete"}]
        assert (project.folder / "files" / "bare.gz").read_bytes() == PAGE
        (project.folder / "files" / "bare.gz").unlink()
        assert project.crawl(site, **store, BULK_SNIFF=True) == []
        assert "not_the_file" in project.log, project.log
        assert not (project.folder / "files" / "bare.gz").exists()


ITEMS = """
    async def start(self):
        yield scrapy.Request("data:,page")

    def parse(self, response):
        yield {"file_urls": [self.site + "/article", self.site + "/paper.pdf"]}
"""


def test_pages_are_files_of_items_unless_somebody_refuses_them(tmp_path_factory: pytest.TempPathFactory) -> None:
    project = Project(tmp_path_factory.mktemp("projects") / "shop")
    project.write_spider(ITEMS)
    project.settings |= {"ITEM_PIPELINES": {"scrapy.pipelines.files.FilesPipeline": 1}, "FILES_STORE": "files"}
    html = {"Content-Type": "text/html"}
    with FaultyOrigin({"article": status(200, html, PAGE), "paper.pdf": status(200, html, PAGE)}) as origin:
        site = origin.url("").rstrip("/")
        (stock,) = project.crawl(site, ADDONS={}, FILES_STORE="stock")
        (item,) = project.crawl(site)
        as_stock = [{key: file[key] for key in stock["files"][0]} for file in item["files"]]
        assert as_stock == stock["files"], project.log
        assert [(project.folder / "files" / file["path"]).read_bytes() for file in item["files"]] == [PAGE, PAGE]
        (item,) = project.crawl(site, BULK_HTML="refuse", FILES_STORE="refused")
        assert item["files"] == []
        assert project.log.count("[html]") == 2


def test_a_list_takes_pages_when_it_is_told_to(bulk: Bulk) -> None:
    html = {"Content-Type": "text/html"}
    pages = {"article": status(200, html, PAGE), "paper.pdf": (good, PAGE), "gone.pdf": (good, S3_ERROR)}
    with FaultyOrigin(pages) as origin:
        bulk.write_list({name: origin.url(name) for name in pages})
        refused = bulk.run()
        assert {row["name"]: row["error"]["code"] for row in refused.rows} == {
            "article": "html",
            "paper.pdf": "not_the_file",
            "gone.pdf": "not_the_file",
        }
        dry = [sys.executable, "-m", "scrapy", "bulk", str(bulk.list), "--dry-run", "-s", "BULK_HTML=accept"]
        said = subprocess.run(dry, cwd=bulk.folder, capture_output=True, text=True, timeout=60, check=False)
        assert "[html]" not in said.stdout + said.stderr
        accepted = bulk.run(settings={"BULK_HTML": "accept"})
        assert {row["name"]: row["status"] for row in accepted.rows} == {
            "article": "complete",
            "paper.pdf": "complete",
            "gone.pdf": "failed",
        }
        assert accepted.row("paper.pdf")["flags"] == ["other-type"]
        assert accepted.file("article") == PAGE
