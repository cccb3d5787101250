"""Who says that a file is right: hashes from the list, from redirects and from servers, right and wrong ones."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from pathlib import Path

import anycrc
import crc32c
import pytest

from support.crawl import Bulk, sha256
from support.faults import as_if, close_delimited, in_turn, redirect_to, wrong_digest_headers
from support.faulty import FaultyOrigin, good, make_body
from support.project import Project

BODY = make_body(90_000)
OTHER = make_body(90_000, "another file")
MD5 = hashlib.md5(BODY).hexdigest()
SHA1 = hashlib.sha1(BODY).hexdigest()
CRC32, ADLER = f"{zlib.crc32(BODY):08x}", f"{zlib.adler32(BODY):08x}"
CRC32C = f"{crc32c.crc32c(BODY):08x}"
CRC64 = anycrc.Model("CRC64-NVME").calc(BODY)
WRONG = {64: "0" * 64, 32: "0" * 32, 8: "00000000"}


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


SHA256_BASE64 = b64(hashlib.sha256(BODY).digest())


def states(**headers: str) -> object:
    return as_if(headers=tuple((name.replace("_", "-"), value) for name, value in headers.items()))


def linked(etag: str, size: int = len(BODY), to: str = "good") -> object:
    return redirect_to(f"/{to}", headers={"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(size)})


# name: what the server does, what the list says, then (status, proof_by, flags) or the code of the error
ROWS = {
    "sha256": (good, f"sha256={sha256(BODY)}", ("verified", "list", [])),
    "md5": (good, f"md5={MD5}", ("verified", "list", ["weak-hash"])),
    "both": (good, f"md5={MD5} sha256={sha256(BODY)}", ("verified", "list", [])),
    "sha1-wrong": (good, f"sha1={'0' * 40} sha256={sha256(BODY)}", "digest_mismatch"),
    "crc32": (good, f"crc32={CRC32}", ("complete", None, ["checksum-only"])),
    "adler32": (good, f"adler32={ADLER}", ("complete", None, ["checksum-only"])),
    "adler32-wrong": (good, "adler32=00000000", "digest_mismatch"),
    "crc32c-no-length": (close_delimited(provable=False), f"crc32c={CRC32C}", ("complete", None, ["checksum-only"])),
    "nothing": (good, "", ("complete", None, [])),
    # Hugging Face
    "linked": (linked(sha256(BODY)), "", ("verified", "redirect", [])),
    "linked-wrong": (linked(WRONG[64]), "", "digest_mismatch"),
    "linked-wrong-list-right": (linked(WRONG[64]), f"md5={MD5}", ("verified", "list", ["server-digest", "weak-hash"])),
    "linked-git": (linked(SHA1, to="no-length"), "", ("complete", None, [])),
    "linked-size": (linked(sha256(BODY), 5), "", "size_mismatch"),
    "linked-twice": (redirect_to("/linked"), "", ("verified", "redirect", [])),
    # Zenodo
    "etag": (as_if(etag=f'"md5:{MD5}"'), "", ("verified", "server", ["weak-hash"])),
    "etag-wrong": (as_if(etag=f'"md5:{WRONG[32]}"'), "", "digest_mismatch"),
    "etag-weak": (as_if(etag=f'W/"md5:{WRONG[32]}"'), "", ("complete", None, [])),
    # S3
    "amz-sha256": (states(x_amz_checksum_sha256=SHA256_BASE64), "", ("verified", "server", [])),
    "amz-crc64": (states(x_amz_checksum_crc64nvme=b64(CRC64.to_bytes(8, "big"))), "", ("complete", None, ["checksum-only"])),
    "amz-crc64-wrong": (states(x_amz_checksum_crc64nvme=b64(bytes(8))), "", "digest_mismatch"),
    "amz-composite": (states(x_amz_checksum_sha256=f"{b64(bytes(32))}-7"), "", ("complete", None, [])),
    "amz-composite-type": (states(x_amz_checksum_crc32=b64(bytes(4)), x_amz_checksum_type="COMPOSITE"), "", ("complete", None, [])),
    # Wrong for ever
    "server-wrong": (wrong_digest_headers(), "", "digest_mismatch"),
    "server-wrong-list-right": (wrong_digest_headers(), f"sha256={sha256(BODY)}", ("verified", "list", ["server-digest"])),
    "server-wrong-crc-right": (wrong_digest_headers(), f"crc32={CRC32}", "digest_mismatch"),
}  # fmt: skip


def test_who_says_so(bulk: Bulk) -> None:
    table = {name: behaviour for name, (behaviour, *_) in ROWS.items()}
    with FaultyOrigin({**table, "good": good, "no-length": close_delimited(provable=False)}, resource=BODY) as origin:  # type: ignore[dict-item]
        bulk.write_list([f"{name} {origin.url(name)} {fields}" for name, (_, fields, _) in ROWS.items()])
        report = bulk.folder / "page.html"
        ended = bulk.run("-a", f"report={report}", settings={"BULK_DIGEST": "auto"})
        assert ended.status == 3, ended.log  # size_mismatch may pass
        found = {}
        for row in ended.rows:
            good_row = (row["status"], row["proof_by"], row["flags"])
            found[row["name"]] = row["error"]["code"] if row["error"] else good_row
            if not row["error"]:
                assert ended.file(row["name"]) == BODY
            else:
                assert not (bulk.output / row["name"]).exists()
        assert found == {name: result for name, (*_, result) in ROWS.items()}
        for said in (
            "verified by: 5 the list, 2 a redirect, 2 the server that sent the bytes",
            "files have only a weak hash (md5, sha1)",
            "4 files have only a checksum (crc, adler)",
            "2 files differ from what their server says",
        ):
            assert said in ended.log
        assert "the file stands" in ended.log
        assert '"redirect"' in report.read_text()

        # The next run asks nobody, and says the same of what is done.
        requests = len(origin.requests)
        bulk.write_list([f"{n} {origin.url(n)} {f}" for n, (_, f, r) in ROWS.items() if not isinstance(r, str)])
        again = bulk.run()
        assert again.status == 0, again.log
        assert len(origin.requests) == requests
        assert {row["name"]: (row["status"], row["proof_by"], row["flags"]) for row in again.rows} == {
            name: result for name, (*_, result) in ROWS.items() if not isinstance(result, str)
        }
        # So does a run that reads all again.
        read = bulk.run("-a", "verify=1")
        assert read.status == 0, read.log
        assert {row["name"]: row["proof_by"] for row in read.rows} == {
            name: result[1] for name, (*_, result) in ROWS.items() if not isinstance(result, str)
        }


@pytest.mark.parametrize(
    ("policy", "status", "result"),
    [("warn", 0, ("complete", ["server-digest"])), ("ignore", 0, ("complete", [])), ("require", 4, ("failed", []))],
)
def test_what_a_wrong_hash_of_the_server_means(bulk: Bulk, policy: str, status: int, result: tuple[str, list[str]]) -> None:  # fmt: skip
    with FaultyOrigin({"a": wrong_digest_headers(), "b": linked(WRONG[64])}, default=good, resource=BODY) as origin:  # type: ignore[dict-item]
        bulk.write_list({name: origin.url(name) for name in "ab"})
        ended = bulk.run(settings={"BULK_SERVER_DIGEST": policy})
        assert ended.status == status, ended.log
        assert [(row["status"], row["flags"]) for row in ended.rows] == [result] * 2
        assert {row["proof_by"] for row in ended.rows} == {None}


def test_a_redirect_that_says_another_hash_after_a_change_is_believed_anew(bulk: Bulk) -> None:
    """What an earlier attempt was told is of an earlier version."""
    first = redirect_to("/changed", headers={"X-Linked-ETag": sha256(OTHER)})
    with FaultyOrigin({"a": in_turn(first, linked(sha256(BODY)))}, default=good, resource=BODY) as origin:  # type: ignore[arg-type]
        bulk.write_list({"a": origin.url("a")})
        ended = bulk.run()
        assert ended.status == 0, ended.log
        row = ended.row("a")
        assert (row["status"], row["proof_by"], row["checksums"]) == ("verified", "redirect", {"sha256": sha256(BODY)})


def test_a_hash_that_comes_later_from_somebody_better_is_named(bulk: Bulk) -> None:
    with FaultyOrigin({"a": as_if(etag=f'"sha256:{sha256(BODY)}"')}, resource=BODY) as origin:
        bulk.write_list({"a": origin.url("a")})
        assert bulk.run().row("a")["proof_by"] == "server"
        sums = bulk.folder / "SHA256SUMS"
        sums.write_text(f"{sha256(BODY)}  a\n")
        assert bulk.run("-a", f"sums={sums}").row("a")["proof_by"] == "sums"
        bulk.write_list([f"a {origin.url('a')} sha256={sha256(BODY)}"])
        assert bulk.run().row("a")["proof_by"] == "list"
        assert len(origin.requests) == 1


def test_lines_of_an_older_ledger_keep_their_status(bulk: Bulk) -> None:
    with FaultyOrigin({"a": good}, resource=BODY) as origin:
        bulk.write_list([f"a {origin.url('a')} crc32c={CRC32C}"])
        assert bulk.run().row("a")["status"] == "complete"
        ledger = bulk.output / ".bulkspider" / "ledger.jsonl"
        line = json.loads(ledger.read_text())
        assert "proof_by" not in line
        ledger.write_text(json.dumps({**line, "status": "verified", "flags": []}) + "\n")
        for arguments in ((), ("-a", "verify=1"), ()):
            row = bulk.run(*arguments).row("a")
            assert (row["status"], row["flags"]) == ("verified", [])
        assert row["proof_by"] is None
        assert len(origin.requests) == 1


def test_s3_is_asked_for_checksums_where_nothing_is_signed(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy stands for all of the hosts."""
    with FaultyOrigin(default=good, resource=BODY) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        signed = "http://b.s3.eu-west-1.amazonaws.com/signed?X-Amz-Signature=abc"
        urls = {
            "virtual": "http://bucket.s3.amazonaws.com/virtual",
            "path": "http://s3.eu-west-1.amazonaws.com/bucket/path",
            "signed": signed,
            "other": "http://bucket.example.org/other",
        }
        lines = [f"{name} {url}" for name, url in urls.items()]
        bulk.write_list([*lines, "token http://bucket.s3.amazonaws.com/token header:Authorization=abc"])
        ended = bulk.run(settings={"BULK_BATCH": "1"})
        assert ended.status == 0, ended.log
        asked = {r.path.rpartition("/")[2]: r.headers.get("x-amz-checksum-mode") for r in proxy.requests}
        assert asked == {"virtual": "ENABLED", "path": "ENABLED", "signed": None, "other": None, "token": None}


def test_a_bare_request_learns_from_the_redirect_too(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write_spider(
        """
    def start_requests(self):
        for name in ("right", "wrong"):
            yield scrapy.Request(self.site + name, meta={"bulk": {"path": name}}, errback=self.failed)

    async def start(self):
        for request in self.start_requests():
            yield request

    def parse(self, response):
        yield response.meta["bulk"]["result"]

    def failed(self, failure):
        yield failure.request.meta["bulk"]["result"]
"""
    )
    with FaultyOrigin({"right": linked(sha256(BODY)), "wrong": linked(WRONG[64], to="other")}, default=good, resource=BODY) as origin:  # type: ignore[dict-item]  # fmt: skip
        results = project.crawl(origin.url(""))
        assert sorted((r["status"], r["proof_by"]) for r in results) == [("failed", None), ("verified", "redirect")]
