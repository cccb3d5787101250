"""Hashes: of a growing file, of what servers and checksum files state."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import random
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anycrc
import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkspider.disk.finished.hashing import BUFFER_BYTES, IncrementalHasher, hash_file
from bulkspider.entries.sumsfile import parse_sums
from bulkspider.errors import DiskError, ListError, Stopped
from bulkspider.protocol.digests import (
    ALGORITHMS,
    CHECKSUMS,
    STATED_BY,
    Claim,
    ServerDigests,
    Weighed,
    from_headers,
    linked,
    weigh,
)


def expected_digests(data: bytes) -> dict[str, str]:
    return {
        **{name: hashlib.new(name, data).hexdigest() for name in ("sha512", "sha256", "sha1", "md5")},
        "crc64nvme": f"{anycrc.Model('CRC64-NVME').calc(data):016x}",
        "crc32c": f"{crc32c(data):08x}",
        "crc32": f"{zlib.crc32(data):08x}",
        "adler32": f"{zlib.adler32(data):08x}",
    }


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


# Following a file


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, BUFFER_BYTES * 2), st.integers(0, BUFFER_BYTES * 2)), max_size=6), st.integers()
)
def test_a_file_followed_in_any_steps_has_the_hashes_of_the_whole(steps: list[tuple[int, int]], seed: int) -> None:
    data = b""
    follower = IncrementalHasher(ALGORITHMS)
    with tempfile.TemporaryFile() as file:
        for grown, behind in steps:
            data += random.Random(seed).randbytes(grown)
            os.pwrite(file.fileno(), data[len(data) - grown :], len(data) - grown)
            front = max(follower.hashed, len(data) - behind)
            follower.follow(file.fileno(), front)
            assert follower.hashed == front
            assert follower.digests() == expected_digests(data[:front])
        follower.follow(file.fileno(), len(data))
    assert follower.digests() == expected_digests(data)


def test_known_values_of_the_algorithms() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"123456789")
        file.flush()
        found = hash_file(file.fileno(), ALGORITHMS)
    assert found["crc32c"] == "e3069283"  # the check value of CRC-32C
    assert found["md5"] == "25f9e794323b453885f5181f1b624d0b"
    assert found["sha1"] == "f7c3bc1d808e04732adf679965ccc34ca7ae3441"
    assert found["sha256"] == "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"
    assert found["sha512"].startswith("d9e6762dd1c8eaf6d61b3c6192fc408d4d6d5f1176d0c29169bc24e71c3f274a")


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(ValueError, match="sha3"):
        IncrementalHasher(["sha3"])


def test_a_stopped_follower_goes_on_where_it_was(file: int) -> None:
    data = random.Random(1).randbytes(5 * BUFFER_BYTES + 17)
    os.write(file, data)
    follower = IncrementalHasher(["sha256"])
    answers = iter([False, False, True])
    follower.follow(file, len(data), lambda: next(answers))
    assert follower.hashed == 2 * BUFFER_BYTES
    follower.follow(file, len(data), lambda: True)
    assert follower.hashed == 2 * BUFFER_BYTES
    follower.follow(file, len(data))
    assert follower.digests() == {"sha256": hashlib.sha256(data).hexdigest()}


def test_stop_is_asked_at_least_every_8_mib() -> None:
    assert BUFFER_BYTES <= 8 * 1024 * 1024


def test_a_file_shorter_than_promised_is_an_error(file: int) -> None:
    os.write(file, b"x" * 100)
    follower = IncrementalHasher(["md5"])
    with pytest.raises(DiskError, match="cut to 100 bytes") as caught:
        follower.follow(file, 101)
    assert caught.value.code == "file_changed"


def test_a_file_that_cannot_be_read_is_an_error(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(DiskError, match="at byte 0: the disk reported an error") as caught:
        IncrementalHasher(["md5"]).follow(file, 1)
    assert caught.value.code == "io_error"


def test_every_byte_is_read_once_for_all_algorithms_and_buffers_are_used_again(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.write(file, b"x" * (3 * BUFFER_BYTES))
    read, buffers, real = [], [], os.preadv

    def counting(fd: int, into: list[memoryview], offset: int) -> int:
        read.append(count := real(fd, into, offset))
        buffers.append(into[0].obj)
        return count

    monkeypatch.setattr(os, "preadv", counting)
    for _ in range(4):
        IncrementalHasher(ALGORITHMS).follow(file, 3 * BUFFER_BYTES)
    assert sum(read) == 4 * 3 * BUFFER_BYTES
    assert all(buffer is buffers[0] for buffer in buffers)


def test_a_buffer_comes_back_after_an_error(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    buffers, real = [], os.preadv

    def noting(fd: int, into: list[memoryview], offset: int) -> int:
        buffers.append(into[0].obj)
        return real(fd, into, offset)

    monkeypatch.setattr(os, "preadv", noting)
    for _ in range(2):
        with pytest.raises(DiskError):
            IncrementalHasher(["md5"]).follow(file, 1)
    assert buffers[0] is buffers[-1]
    assert len(buffers) > 1


def test_hashing_a_whole_file_stops_when_told(file: int) -> None:
    os.write(file, b"x" * 10)
    with pytest.raises(Stopped):
        hash_file(file, ["sha256"], lambda: True)


def test_an_empty_file_has_a_hash_even_when_stopping(file: int) -> None:
    assert hash_file(file, ["md5"], lambda: True) == {"md5": "d41d8cd98f00b204e9800998ecf8427e"}


@pytest.mark.parametrize("meanwhile", [b"longer" * 99, b""])
def test_a_file_written_to_while_it_is_hashed_has_no_hash(file: int, tmp_path: Path, meanwhile: bytes) -> None:
    os.write(file, b"x" * 10)

    def disturb() -> bool:
        os.pwrite(file, meanwhile, 10)
        os.utime(tmp_path / "file", ns=(1, 1))  # what a rewrite at the same length leaves behind
        return False

    with pytest.raises(DiskError) as caught:
        hash_file(file, ["sha256"], disturb)
    assert caught.value.code == "file_changed"


# Comparing


def stated(*words: str) -> list[Claim]:
    """`list:sha256=aa` and so on."""
    return [Claim(by or None, *rest.split("=")) for by, rest in (word.split(":") for word in words)]


NO_HASH = Weighed()
VERIFIED = partial(Weighed, None, "verified")
WEAK, ONLY = frozenset({"weak-hash"}), frozenset({"checksum-only"})
SHA_DIFFERS = "sha256 expected ab found aa (says the server)"


@pytest.mark.parametrize(
    ("claims", "server", "verdict"),
    [
        ([], "require", NO_HASH),
        (["list:sha256=aa"], "require", VERIFIED("list")),
        (["list:sha256=AA"], "require", VERIFIED("list")),
        (["list:sha3=aa"], "require", NO_HASH),
        (["list:md5=bb"], "require", VERIFIED("list", WEAK)),
        (["sums:sha1=cc"], "require", VERIFIED("sums", WEAK)),
        (["list:md5=bb", "list:sha512=dd"], "require", VERIFIED("list")),
        (["list:md5=bb", "server:sha256=aa"], "require", VERIFIED("list", WEAK)),
        (["list:md5=bb", "sums:sha256=aa"], "require", VERIFIED("sums")),
        (["sums:sha256=aa", "signed-sums:sha512=dd", "list:md5=bb"], "require", VERIFIED("signed-sums")),
        (["server:md5=bb", "redirect:sha256=aa"], "require", VERIFIED("redirect")),
        (["server:md5=bb"], "warn", VERIFIED("server", WEAK)),
        ([":md5=bb"], "require", VERIFIED(None, WEAK)),
        # Checksums
        (["list:crc32=ee"], "require", Weighed(None, "complete", None, ONLY)),
        (["server:crc32c=ff", "list:adler32=11"], "require", Weighed(None, "complete", None, ONLY)),
        (["list:crc32=ee", "server:sha256=aa"], "require", VERIFIED("server")),
        (["list:crc32=00"], "require", Weighed("crc32 expected 00 found ee (says the list)")),
        (["list:crc32=00", "list:sha256=aa"], "require", Weighed("crc32 expected 00 found ee (says the list)")),
        # What the user says decides.
        (["list:sha256=ab"], "ignore", Weighed("sha256 expected ab found aa (says the list)")),
        (["list:sha256=ab", "list:md5=bd"], "require", Weighed("sha256 expected ab found aa (says the list)")),
        (["server:sha256=aa", "sums:md5=bd"], "require", Weighed("md5 expected bd found bb (says the checksum file)")),
        (["list:md5=bb", "server:sha256=ab"], "require", VERIFIED("list", WEAK, (SHA_DIFFERS,))),
        (["list:md5=bb", "server:sha256=ab"], "warn", VERIFIED("list", WEAK, (SHA_DIFFERS,))),
        (["server:sha256=ab"], "require", Weighed(SHA_DIFFERS)),
        (["server:sha256=ab"], "warn", Weighed(doubts=(SHA_DIFFERS,))),
        (["server:sha256=ab", "server:md5=bb"], "warn", Weighed(doubts=(SHA_DIFFERS,))),
        (["server:sha256=ab", "list:crc32=ee"], "require", Weighed(SHA_DIFFERS)),
        (["redirect:sha256=ab", "server:sha256=aa"], "require", Weighed("sha256 expected ab found aa (says the redirect)")),
    ],
)  # fmt: skip
def test_what_claims_are_worth(claims: list[str], server: str, verdict: Weighed) -> None:
    found = {"sha256": "aa", "md5": "bb", "sha1": "cc", "sha512": "dd", "crc32": "ee", "crc32c": "ff", "adler32": "11"}
    assert weigh(stated(*claims), found, server=server) == verdict


def test_what_was_not_computed_is_not_compared() -> None:
    assert weigh(stated("list:sha256=ab", "server:md5=ab"), {}) == NO_HASH


CLAIM = st.builds(
    Claim, st.sampled_from([*STATED_BY, None]), st.sampled_from(list(ALGORITHMS)), st.sampled_from(["aa", "ab"])
)


@given(st.lists(CLAIM), st.sampled_from(["require", "warn", "ignore"]))
def test_no_claims_verify_what_the_user_refutes_nor_without_a_hash(claims: list[Claim], server: str) -> None:
    weighed = weigh(claims, dict.fromkeys(ALGORITHMS, "aa"), server=server)
    if any(claim.of_the_user and claim.digest == "ab" for claim in claims):
        assert weighed.refuted is not None
    if weighed.status == "verified":
        right = [claim for claim in claims if claim.by == weighed.proof_by and claim.digest == "aa"]
        assert any(claim.algorithm not in CHECKSUMS for claim in right)
        assert (weighed.flags == WEAK) == (not any(claim.algorithm in ("sha256", "sha512") for claim in right))
    if any(claim.digest == "ab" for claim in claims):
        assert weighed.refuted or weighed.doubts


# What the server says

HELLO = b'{"hello": "world"}\n'  # the representation of the examples in RFC 9530, appendix B
SHA256 = hashlib.sha256(HELLO).hexdigest()
SHA512 = hashlib.sha512(HELLO).hexdigest()
RFC_SHA256 = "RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg="
RFC_SHA512 = "YMAam51Jz/jOATT6/zvHrLVgOYTGFy1d6GJiOHTohq4yP+pgk4vf2aCsyRZOtw8MjkM7iw7yZ/WkppmM44T3qg=="
RFC_RANGE_SHA256 = "jjcgBDWNAtbYUXI37CVG3gRuGOAjaaDRGpIUFsdyepQ="  # of bytes 10-18
MD5 = "Ojk9c3dhfxgoKVVHYwFbHQ=="
MD5_HEX = "3a393d7377617f182829554763015b1d"
CRC = "n03x6A=="
CRC_HEX = "9f4df1e8"


def test_the_examples_of_rfc_9530() -> None:
    answer = {
        "content-range": "bytes 10-18/19",
        "repr-digest": f"sha-256=:{RFC_SHA256}:, sha-512=:{RFC_SHA512}:",
        "content-digest": f"sha-256=:{RFC_RANGE_SHA256}:",
    }
    assert from_headers(answer) == ServerDigests(
        representation={"sha256": SHA256, "sha512": SHA512},
        content={"sha256": hashlib.sha256(HELLO[10:19]).hexdigest()},
    )


@pytest.mark.parametrize(
    ("headers", "representation"),
    [
        ({}, {}),
        ({"repr-digest": f"sha-256=:{RFC_SHA256}:"}, {"sha256": SHA256}),
        (
            {"repr-digest": f"sha-256=:{RFC_SHA256}:;param=1, sha-512=:{RFC_SHA512}:"},
            {"sha256": SHA256, "sha512": SHA512},
        ),
        ({"repr-digest": f"md5=:{MD5}:, crc32c=:{CRC}:"}, {"md5": MD5_HEX, "crc32c": CRC_HEX}),
        ({"repr-digest": f"unixsum=:AAA=:, sha-256=:{RFC_SHA256}:, shake=1"}, {"sha256": SHA256}),
        ({"repr-digest": f"sha-256={RFC_SHA256}"}, {}),  # not a byte sequence: the field does not parse
        ({"repr-digest": f"SHA-256=:{RFC_SHA256}:"}, {}),  # keys are lower-case
        ({"repr-digest": "sha-256=:AAAA:"}, {}),  # too short
        ({"repr-digest": "sha-256, sha-512=5, md5=(1 2)"}, {}),
        ({"repr-digest": "sha-256=:ünïcode:"}, {}),
        ({"digest": f"SHA-256={RFC_SHA256},unixsum=30637"}, {"sha256": SHA256}),
        ({"digest": f"sha-256={RFC_SHA256}, MD5={MD5}"}, {"sha256": SHA256, "md5": MD5_HEX}),
        ({"digest": "SHA=thvDyvhfIqlvFe+A9MYgxAfm1q5="}, {"sha1": "b61bc3caf85f22a96f15ef80f4c620c407e6d6ae"}),
        ({"digest": f"crc32c={CRC_HEX}"}, {"crc32c": CRC_HEX}),  # hex, as storage systems in science write it
        ({"digest": f"id-sha-256={RFC_SHA256}, adler=03da0195"}, {}),
        ({"digest": "adler32=03da0195"}, {"adler32": "03da0195"}),
        ({"etag": f'"md5:{MD5_HEX}"'}, {"md5": MD5_HEX}),
        ({"etag": f'"sha256:{SHA256.upper()}"'}, {"sha256": SHA256}),
        ({"etag": f'W/"md5:{MD5_HEX}"'}, {}),  # of bytes that mean the same
        ({"etag": f'"{MD5_HEX}"'}, {}),  # S3's, which is often no hash
        ({"etag": f'"md5:{MD5_HEX}0"'}, {}),
        ({"etag": f'"md5:{MD5_HEX}"', "repr-digest": "md5=:AAAAAAAAAAAAAAAAAAAAAA==:"}, {"md5": "0" * 32}),
        ({"digest": "sha-256, md5=, =, ,"}, {}),
        ({"x-goog-hash": f"crc32c={CRC},md5={MD5}"}, {"crc32c": CRC_HEX, "md5": MD5_HEX}),
        ({"x-goog-hash": f"crc32c={CRC}, md5={MD5}"}, {"crc32c": CRC_HEX, "md5": MD5_HEX}),
        ({"x-goog-hash": f"md5={MD5}", "x-goog-stored-content-encoding": "identity"}, {"md5": MD5_HEX}),
        ({"x-goog-hash": f"md5={MD5}", "x-goog-stored-content-encoding": "gzip"}, {}),  # unpacked on its way
        (
            {"x-goog-hash": f"md5={MD5}", "x-goog-stored-content-encoding": "gzip", "content-encoding": "gzip"},
            {"md5": MD5_HEX},
        ),
        ({"repr-digest": f"sha-256=:{RFC_SHA256}:", "digest": f"sha-256={RFC_RANGE_SHA256}"}, {"sha256": SHA256}),
    ],
)
def test_digests_of_the_whole_object(headers: dict[str, str], representation: dict[str, str]) -> None:
    assert from_headers(headers) == ServerDigests(representation, {})


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"content-digest": f"sha-256=:{RFC_SHA256}:"}, {"sha256": SHA256}),
        ({"content-md5": MD5}, {"md5": MD5_HEX}),
        ({"content-md5": f" {MD5_HEX} "}, {"md5": MD5_HEX}),
        ({"content-md5": f"{MD5}, {MD5}"}, {}),
        ({"content-md5": "none"}, {}),
        (
            {"x-amz-checksum-sha256": RFC_SHA256, "x-amz-checksum-crc32": "rosUhg=="},
            {"sha256": SHA256, "crc32": "ae8b1486"},
        ),
        (
            {"x-amz-checksum-crc64nvme": "rosUhgp5mIg=", "x-amz-checksum-type": "FULL_OBJECT"},
            {"crc64nvme": "ae8b14860a799888"},
        ),
        ({"x-amz-checksum-crc32c": CRC, "x-amz-checksum-type": "COMPOSITE"}, {}),
        ({"x-amz-checksum-sha256": f"{RFC_SHA256}-2"}, {}),  # of its parts' hashes
        ({"x-amz-checksum-sha1": "AAAA", "x-amz-checksum-md5": MD5}, {}),
    ],
)
def test_digests_of_one_body(headers: dict[str, str], content: dict[str, str]) -> None:
    assert from_headers(headers) == ServerDigests({}, content)


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({}, ({}, None)),
        ({"x-linked-etag": f'"{SHA256}"', "x-linked-size": "19"}, ({"sha256": SHA256}, 19)),
        ({"x-linked-etag": SHA256.upper()}, ({"sha256": SHA256}, None)),
        ({"x-linked-etag": f'"{SHA256[:40]}"', "x-linked-size": "0"}, ({}, 0)),  # of git
        ({"x-linked-etag": f'W/"{SHA256}"', "x-linked-size": "-1"}, ({}, None)),
        ({"x-linked-size": "9" * 30}, ({}, None)),
        ({"x-linked-size": "١٢"}, ({}, None)),
    ],
)
def test_what_a_redirect_tells_of_the_file(headers: dict[str, str], told: tuple[dict[str, str], int | None]) -> None:
    assert linked(headers) == told


FIELDS = ["repr-digest", "content-digest", "digest", "content-md5", "x-goog-hash", "etag", "x-amz-checksum-crc64nvme"]
PIECES = st.sampled_from(
    ["sha-256", "md5", "crc32c", "=", ":", ",", " ", ";", "(", ")", '"', "?1", "@", "%", RFC_SHA256, MD5, CRC]
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), st.one_of(st.text(), st.lists(PIECES).map("".join))))
def test_no_header_is_ever_an_error(headers: dict[str, str]) -> None:
    found = from_headers(headers)
    for digests in (found.representation, found.content):
        assert all(len(bytes.fromhex(value)) == ALGORITHMS[name] for name, value in digests.items())


OF_S3 = ("crc64nvme", "crc32")


@settings(deadline=None)
@given(st.binary())
def test_what_a_server_states_of_the_right_bytes_agrees(data: bytes) -> None:
    right = expected_digests(data)
    encoded = {name: base64.b64encode(bytes.fromhex(value)).decode() for name, value in right.items()}
    headers = {
        "repr-digest": f"sha-256=:{encoded['sha256']}:, sha-512=:{encoded['sha512']}:, sha=:{encoded['sha1']}:, "
        f"adler32=:{encoded['adler32']}:",
        "x-goog-hash": f"crc32c={encoded['crc32c']},md5={encoded['md5']}",
    }
    assert from_headers(headers).representation == {n: d for n, d in right.items() if n not in OF_S3}
    amazon = {f"x-amz-checksum-{name}": encoded[name] for name in (*OF_S3, "sha256")}
    assert from_headers(amazon).content == {name: right[name] for name in (*OF_S3, "sha256")}


# What a checksum file says

A256, A512, AMD5, ASHA1, ACRC = ("a" * 64, "a" * 128, "a" * 32, "a" * 40, "a" * 8)


@pytest.mark.parametrize(
    ("lines", "hint", "sums"),
    [
        ([f"{A256}  name"], None, {"name": ("sha256", A256)}),
        ([f"{A256} *name\n"], "SHA256SUMS", {"name": ("sha256", A256)}),
        ([f"{A256.upper()}  name\r\n"], "sha256", {"name": ("sha256", A256)}),
        ([f"{A512}  name", f"{AMD5}  other"], None, {"name": ("sha512", A512), "other": ("md5", AMD5)}),
        ([f"{ASHA1}  a b  c"], "SHA-1.txt", {"a b  c": ("sha1", ASHA1)}),
        ([f"{ACRC}  name"], "crc32c", {"name": ("crc32c", ACRC)}),
        ([f"{AMD5} name", f"{AMD5}\ttab"], "MD5SUMS", {"name": ("md5", AMD5), "tab": ("md5", AMD5)}),
        ([f"{AMD5}   name"], None, {" name": ("md5", AMD5)}),
        ([f"{AMD5}  ./a/b"], None, {"a/b": ("md5", AMD5)}),
        ([rf"\{AMD5}  a\\b\nc\rd"], None, {"a\\b\nc\rd": ("md5", AMD5)}),
        ([rf"{AMD5}  a\nb"], None, {r"a\nb": ("md5", AMD5)}),
        ([f"SHA256 (name) = {A256}"], None, {"name": ("sha256", A256)}),
        ([f"SHA256 (a (1).txt) = {A256}"], "CHECKSUM", {"a (1).txt": ("sha256", A256)}),
        ([f"SHA2-256(name)= {A256}"], None, {"name": ("sha256", A256)}),
        ([rf"\MD5 (a\nb) = {AMD5}"], None, {"a\nb": ("md5", AMD5)}),
        (["\ufeff# made by us", "", f"{AMD5}  name"], None, {"name": ("md5", AMD5)}),
        ([f"\ufeff{AMD5}  name"], None, {"name": ("md5", AMD5)}),
        ([f"MD5 (n) = {AMD5}", f"SHA512 (n) = {A512}", f"SHA1 (n) = {ASHA1}"], None, {"n": ("sha512", A512)}),
        ([f"RMD160 (n) = {ASHA1}", f"MD5 (n) = {AMD5}"], None, {"n": ("md5", AMD5)}),
        ([f"{AMD5}  n", f"{AMD5}  n"], None, {"n": ("md5", AMD5)}),
        ([f"{A256}  n"], "https://host/md5/SHA256SUMS", {"n": ("sha256", A256)}),
        ([], "SHA256SUMS", {}),
    ],
)
def test_checksum_lines(lines: list[str], hint: str | None, sums: dict[str, tuple[str, str]]) -> None:
    assert parse_sums(lines, hint, "sums") == sums


@pytest.mark.parametrize(
    ("lines", "hint", "problem"),
    [
        (["<!DOCTYPE html>"], None, "sums:1: not a checksum line; write `HASH  name`, as sha256sum does"),
        ([f"{AMD5}  n", f"{AMD5}"], None, "sums:2: not a checksum line"),
        ([f"{AMD5}  name"], "SHA256SUMS", "sums:1: a sha256 hash with 32 digits; it must have 64"),
        ([f"SHA256 (name) = {AMD5}"], None, "sums:1: a sha256 hash with 32 digits; it must have 64"),
        (["", f"{'a' * 56}  name"], None, "sums:2: unknown kind of hash with 56 digits; use one of sha512"),
        ([f"{A512}  name"], "B2SUMS", "sums:1: unknown kind of hash b2sums"),
        ([f"{A256}  name"], "SHA3-256SUMS", "sums:1: unknown kind of hash sha3256sums"),
        ([f"SHA3-256 (name) = {A256}"], None, "sums:1: unknown kind of hash SHA3-256"),
        ([f"{A256}  n", f"{'b' * 64}  n"], None, "sums:2: a second, different sha256 for 'n'; keep the right one"),
    ],
)
def test_a_checksum_file_that_cannot_be_used_names_its_lines(lines: list[str], hint: str | None, problem: str) -> None:
    with pytest.raises(ListError) as caught:
        parse_sums(lines, hint, "sums")
    assert problem in str(caught.value)


def test_all_bad_lines_are_shown_in_order() -> None:
    with pytest.raises(ListError) as caught:
        parse_sums(["bad", f"{'a' * 56}  unknown", f"{AMD5}  good", "worse"], None, "sums")
    assert [problem.line for problem in caught.value.problems] == [1, 2, 4]


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), min_size=1).filter(
    lambda name: not name.startswith("./")
)


@settings(deadline=None)
@given(st.dictionaries(NAMES, st.binary()))
def test_any_name_written_the_gnu_way_is_read_back(files: dict[str, bytes]) -> None:
    lines = []
    for name, data in files.items():
        escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        lines.append(f"{chr(92) if escaped != name else ''}{hashlib.sha256(data).hexdigest()}  {escaped}\n")
    assert parse_sums(lines, None, "sums") == {
        name: ("sha256", hashlib.sha256(data).hexdigest()) for name, data in files.items()
    }


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
@pytest.mark.parametrize("option", ["--text", "--binary", "--tag"])
def test_what_sha256sum_writes_is_read(tmp_path: Path, option: str) -> None:
    names = ["plain", "with blank", "back\\slash", "new\nline", "ü(1) = 2", "*star"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    written = subprocess.run(
        ["sha256sum", option, "--", *names], cwd=tmp_path, check=True, capture_output=True, env={"LC_ALL": "C.UTF-8"}
    ).stdout.decode()
    assert parse_sums(written.split("\n"), "SHA256SUMS", "sums") == {
        name: ("sha256", hashlib.sha256(name.encode()).hexdigest()) for name in names
    }
