"""Signatures of checksum files: by whom, by which key, altered, expired, revoked, or none at all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkspider.entries.entry import Entry
from bulkspider.errors import UsageError
from bulkspider.sums.checksums import sums_file
from support.signer import MISSING, Signer, signer

pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"makes keys: {MISSING}")
HASH = "ab" * 32
LINE = f"{HASH}  a.bin\n"
DATA = LINE.encode()
DAY = 86400


@pytest.fixture(scope="module")
def keys() -> Iterator[Signer]:
    with signer() as one:
        yield one


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: Signer) -> Path:
    (tmp_path / "SHA256SUMS").write_bytes(DATA)
    keys.keyring(tmp_path / "ring.gpg", "ada", "old", "lost")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def proof(
    signature: str | None = None, file: str = "SHA256SUMS", keyring: str = "ring.gpg"
) -> tuple[tuple[str, str], ...]:
    """Who states the hash of a.bin by this file. Raises UsageError."""
    given = sums_file(file, signature, keyring)
    assert given is not None
    entry = given.read().add_to(Entry(1, "a.bin", "https://h/a.bin"))
    assert entry.digests == (("sha256", HASH),)
    return entry.stated_by


def test_a_good_signature(folder: Path, keys: Signer, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "binary").write_bytes(keys.sign("ada", DATA, "--detach-sign"))
    (folder / "armored").write_bytes(keys.sign("ada", DATA, "--detach-sign", "--armor"))
    # Of one whose key nobody has: the other one is enough.
    (folder / "two").write_bytes(keys.sign("eve", DATA, "--detach-sign") + keys.sign("ada", DATA, "--detach-sign"))
    caplog.set_level("INFO")
    for name in ("binary", "armored", "two"):
        assert proof(name) == (("sha256", "signed-sums"),)
    assert "SHA256SUMS: good signature of ada <ada@example.org> (" in caplog.text


def test_signatures_that_are_not_good(folder: Path, keys: Signer) -> None:
    made = {
        "of-another-text": keys.sign("ada", b"something else", "--detach-sign"),
        "of-eve": keys.sign("eve", DATA, "--detach-sign"),
        "of-old": keys.sign("old", DATA, "--detach-sign", at=time.time() - 89.9 * DAY),
        "of-lost": keys.sign("lost", DATA, "--detach-sign"),
        "expired": keys.sign("ada", DATA, "--detach-sign", "--default-sig-expire", "seconds=1", at=time.time() + 2),
        "no-signature": b"nothing of the kind",
        "empty": b"",
        # A message of its own, which says nothing of the file beside it.
        "a-message": keys.sign("ada", b"a message", "--sign"),
        "bad-and-good": keys.sign("ada", b"else", "--detach-sign") + keys.sign("ada", DATA, "--detach-sign"),
    }
    for name, signature in made.items():
        (folder / name).write_bytes(signature)
    assert proof("of-lost") == (("sha256", "signed-sums"),)
    keys.revoke("lost")
    keys.keyring(folder / "ring.gpg", "ada", "old", "lost")
    for name, says in {
        "of-another-text": "it is not the file that was signed (BADSIG)",
        "of-eve": "it is signed by the key ",
        "of-old": "the key has expired (EXPKEYSIG)",
        "of-lost": "the key was revoked (REVKEYSIG)",
        "no-signature": "no signature that gpgv understands",
        "empty": "no signature that gpgv understands",
        "a-message": "no signature that gpgv understands",
        "bad-and-good": "BADSIG",
        "missing": "missing: no such signature",
    }.items():
        with pytest.raises(UsageError) as raised:
            proof(name)
        assert says in str(raised.value), f"{name}: {raised.value}"
    with pytest.raises(UsageError, match="no signature"):
        proof()


def test_of_a_file_that_is_signed_inside_only_the_signed_lines_are_read(folder: Path, keys: Signer) -> None:
    inline = keys.sign("ada", DATA, "--clear-sign")
    (folder / "inline").write_bytes(inline)
    assert proof(file="inline") == (("sha256", "signed-sums"),)
    (folder / "inline").write_bytes(f"{'0' * 64}  a.bin\nno line at all\n".encode() + inline + b"nor this\n")
    assert proof(file="inline") == (("sha256", "signed-sums"),)
    (folder / "inline").write_bytes(inline.replace(b"ab" * 32, b"cd" * 32))
    with pytest.raises(UsageError, match="BADSIG"):
        proof(file="inline")
    # One by somebody else, behind a good text or before it.
    other = keys.sign("eve", b"00" * 32 + b"  b.bin\n", "--clear-sign")
    (folder / "inline").write_bytes(inline + other)
    given = sums_file("inline", None, "ring.gpg")
    assert given is not None
    assert given.read().add_to(Entry(2, "b.bin", "https://h/b.bin")).digests == ()
    (folder / "inline").write_bytes(other + inline)
    with pytest.raises(UsageError, match="it is signed by the key"):
        proof(file="inline")


def test_keyrings(folder: Path, keys: Signer) -> None:
    (folder / "good").write_bytes(keys.sign("ada", DATA, "--detach-sign"))
    keys.keyring(folder / "ring.asc", "ada", armor=True)
    for keyring, says in {
        "missing.gpg": "missing.gpg: no such keyring",
        "ring.asc": f"gpg --dearmor < {folder}/ring.asc > {folder}/ring.gpg",
        "SHA256SUMS": "it is signed by the key ",
    }.items():
        with pytest.raises(UsageError) as raised:
            proof("good", keyring=keyring)
        assert says in str(raised.value)
