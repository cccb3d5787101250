"""Checksum files that are signed, end to end."""

from __future__ import annotations

import hashlib

import pytest

from support.crawl import Bulk
from support.faulty import FaultyOrigin, good, make_body
from support.signer import MISSING, signer

BODY = make_body(50_000)
LINE = f"{hashlib.sha256(BODY).hexdigest()}  a.bin\n"


@pytest.mark.skipif(MISSING is not None, reason=f"makes keys: {MISSING}")
def test_a_signed_list_an_altered_one_and_a_wrong_key(bulk: Bulk) -> None:
    data = LINE.encode()
    with signer() as keys, FaultyOrigin({"a.bin": (good, BODY)}) as origin:
        ring = keys.keyring(bulk.folder / "ring.gpg", "ada")
        origin.add("good.sig", good, keys.sign("ada", data, "--detach-sign"))
        origin.add("bad.sig", good, keys.sign("eve", data, "--detach-sign"))
        origin.add("SHA256SUMS", good, data)
        bulk.write_list([f"a.bin {origin.url('a.bin')} sha256={'0' * 64}"])
        local = bulk.folder / "SHA256SUMS"
        local.write_bytes(data.replace(b"a.bin", b"b.bin"))
        signature = bulk.folder / "sig"
        signature.write_bytes(keys.sign("ada", data, "--detach-sign"))

        def run(sums: object, sums_sig: object) -> tuple[int, str]:
            ended = bulk.run("-a", f"sums={sums}", "-a", f"sums_sig={sums_sig}", "-a", f"keyring={ring}")
            return ended.status, ended.log

        status, log = run(local, signature)
        assert (status, "BADSIG" in log) == (1, True), log
        for name, says in (("bad.sig", "it is signed by the key"), ("missing.sig", "could not be fetched (404)")):
            status, log = run(origin.url("SHA256SUMS"), origin.url(name))
            assert (status, says in log) == (1, True), log
        assert not origin.requests_for("a.bin"), "before the first byte"
        assert not (bulk.output / "a.bin.part").exists()
        status, log = run(origin.url("SHA256SUMS"), origin.url("good.sig"))
        assert status == 0, log
        # The signed hash counts before that of the list, and that is said.
        assert "the signed one counts" in log
        assert bulk.report.read_text().count('"proof_by": "signed-sums"') == 1
        assert "verified by: 1 a signed checksum file" in log


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sums_sig=x"], "argument sums_sig: of which file?"),
        (["keyring=x"], "argument keyring: of which file?"),
        (["sums=x", "sums_sig=y"], "argument sums_sig: whose signature is good? Say keyring=FILE"),
    ],
)
def test_what_is_missing_is_told(bulk: Bulk, arguments: list[str], says: str) -> None:
    bulk.write_list({"a": "http://127.0.0.1:9/a"})
    ended = bulk.run(*(word for argument in arguments for word in ("-a", argument)))
    assert ended.status == 1, ended.log
    assert says in ended.log


def test_without_gpgv_nothing_is_begun(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(bulk.folder))
    bulk.write_list({"a": "http://127.0.0.1:9/a"})
    ended = bulk.run("-a", "sums=x", "-a", "keyring=y")
    assert ended.status == 1, ended.log
    assert "gpgv, which is not installed" in ended.log
