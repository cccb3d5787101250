"""Checksum files beside a list: found by name, fetched where they are URLs, and a mismatch keeps the name free."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

import pytest
from msgspec.structs import replace

from bulkspider.entries.entry import Entry
from bulkspider.sums.checksums import Sums
from support.crawl import Bulk, Ended, sha256
from support.faults import in_turn, redirect_to, status, when
from support.faulty import TRUST, FaultyOrigin, good, make_body

NAMES = ("a.bin", "deep/er/b.bin", "with some blanks.bin")
BODIES = {name: make_body(120_000 + n, name) for n, name in enumerate(NAMES)}
PATHS = {name: f"served/{n}.bin" for n, name in enumerate(NAMES)}


def origin_of_bodies() -> FaultyOrigin:
    return FaultyOrigin({PATHS[name]: (good, body) for name, body in BODIES.items()})


def sums_of(bodies: Mapping[str, bytes], algorithm: str = "sha256") -> str:
    return "".join(f"{hashlib.new(algorithm, body).hexdigest()}  {name}\n" for name, body in bodies.items())


def write_list(bulk: Bulk, origin: FaultyOrigin) -> None:
    bulk.write_list({name: origin.url(PATHS[name]) for name in NAMES})


def statuses(ended: Ended) -> dict[str, str]:
    return {row["name"]: row["status"] for row in ended.rows}


@pytest.mark.parametrize(("file", "algorithm"), [("SHA256SUMS", "sha256"), ("MD5SUMS", "md5"), ("sums", "sha512")])
def test_a_checksum_file_verifies_names_with_folders_and_blanks(bulk: Bulk, file: str, algorithm: str) -> None:
    path = bulk.folder / file
    path.write_text(sums_of(BODIES, algorithm))
    with origin_of_bodies() as origin:
        write_list(bulk, origin)
        ended = bulk.run("-a", f"sums={path}")
        assert ended.status == 0, ended.log
        assert statuses(ended) == dict.fromkeys(NAMES, "verified")
        for name, body in BODIES.items():
            assert ended.file(name) == body
            assert ended.row(name)["checksums"] == {algorithm: hashlib.new(algorithm, body).hexdigest()}
        requests = len(origin.requests)
        again = bulk.run("-a", f"sums={path}")
        assert again.status == 0, again.log
        assert [row["already"] for row in again.rows] == [True] * 3
        assert len(origin.requests) == requests


def test_a_checksum_file_may_be_a_url_and_is_fetched_first_and_with_patience(bulk: Bulk) -> None:
    with origin_of_bodies() as origin:
        origin.add("SHA256SUMS", in_turn(status(503), good), sums_of(BODIES).encode())
        write_list(bulk, origin)
        ended = bulk.run("-a", f"sums={origin.url('SHA256SUMS')}")
        assert ended.status == 0, ended.log
        assert statuses(ended) == dict.fromkeys(NAMES, "verified")
        assert [request.path for request in origin.requests[:2]] == ["/SHA256SUMS"] * 2
        assert len(origin.requests) == 2 + len(NAMES)


def test_a_line_of_a_checksum_file_counts_for_the_last_part_of_name_or_url(bulk: Bulk) -> None:
    bodies = {"b.bin": BODIES["deep/er/b.bin"], "0.bin": BODIES["a.bin"]}
    (bulk.folder / "SHA256SUMS").write_text(sums_of(bodies))
    with origin_of_bodies() as origin:
        write_list(bulk, origin)
        ended = bulk.run("-a", f"sums={bulk.folder / 'SHA256SUMS'}")
    assert ended.status == 0, ended.log
    assert statuses(ended) == dict(zip(NAMES, ("verified", "verified", "complete"), strict=True))
    told = f"{bulk.folder / 'SHA256SUMS'} has no line for 1 of 3 entries: these were not compared with it"
    assert ended.log.count(told) == 1


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("run/1.gz", True),
        ("pub/run/1.gz", True),
        ("a/b.gz", True),
        ("1.gz", True),
        ("b.gz", True),
        ("2/run/1.gz", False),
    ],
)
def test_a_line_of_a_checksum_file_counts_for_the_end_of_a_path(line: str, found: bool) -> None:
    """The longest one: files of many folders are often called alike."""
    sums = Sums({line: ("md5", "right"), "run/1.gz.md5": ("md5", "wrong"), "gz": ("md5", "wrong")}, "MD5SUMS")
    entry = sums.add_to(Entry(line=2, name="a/b.gz", url="https://example.org/pub/run/1.gz?run/1.gz.md5"))
    assert entry.digests == ((("md5", "right"),) if found else ())
    both = Sums({"1.gz": ("md5", "of another folder"), "run/1.gz": ("md5", "right")}, "MD5SUMS")
    assert both.add_to(replace(entry, digests=())).digests == (("md5", "right"),)


@pytest.mark.parametrize("remote", [False, True], ids=["path", "url"])
def test_a_checksum_file_that_disagrees_is_a_mismatch_and_the_name_stays_free(bulk: Bulk, remote: bool) -> None:
    wrong = sums_of({**BODIES, "a.bin": b"another"})
    (bulk.folder / "SHA256SUMS").write_text(wrong)
    with origin_of_bodies() as origin:
        origin.add("SHA256SUMS", good, wrong.encode())
        write_list(bulk, origin)
        ended = bulk.run("-a", f"sums={origin.url('SHA256SUMS') if remote else bulk.folder / 'SHA256SUMS'}")
        assert ended.status == 4, ended.log
        assert statuses(ended) == dict(zip(NAMES, ("failed", "verified", "verified"), strict=True))
        error = ended.row("a.bin")["error"]
        assert (error["code"], error["permanent"]) == ("digest_mismatch", True)
        assert sha256(b"another") in error["message"]
        assert sha256(BODIES["a.bin"]) in error["message"]
        assert not (bulk.output / "a.bin").exists()
        assert (bulk.output / "a.bin.part.old").read_bytes() == BODIES["a.bin"]
        assert len(origin.requests_for(PATHS["a.bin"])) == 2, "begun anew once, and only once"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such checksum file"),
        (b"this is no checksum line\n", ":1: not a checksum line"),
        (b"# fine\n" + b"0" * 63 + b"  a.bin\n", ":2: "),
        (sums_of({"a.bin": b"1"}).encode() + sums_of({"a.bin": b"2"}).encode(), ":2: a second, different sha256"),
    ],
    ids=["missing", "no-line", "digits", "two-hashes"],
)
def test_a_bad_checksum_file_ends_before_anything_is_begun(bulk: Bulk, content: bytes | None, says: str) -> None:
    path = bulk.folder / "SHA256SUMS"
    if content is not None:
        path.write_bytes(content)
    with origin_of_bodies() as origin:
        write_list(bulk, origin)
        ended = bulk.run("-a", f"sums={path}")
        assert ended.status == 1, ended.log
        assert str(path) in ended.log
        assert says in ended.log
        assert origin.requests == []
        assert not bulk.output.exists()


@pytest.mark.parametrize(("code", "body"), [(404, b"no"), (200, b"<html>please log in</html>\n")], ids=["404", "page"])
def test_a_bad_checksum_url_ends_before_any_entry_is_begun(bulk: Bulk, code: int, body: bytes) -> None:
    with origin_of_bodies() as origin:
        origin.add("SHA256SUMS", status(code, body=body))
        write_list(bulk, origin)
        ended = bulk.run("-a", f"sums={origin.url('SHA256SUMS?token=s3cret')}")
        assert ended.status == 1, ended.log
        assert "the checksum file" in ended.log
        assert "/SHA256SUMS" in ended.log
        assert "s3cret" not in ended.log
        assert {request.path for request in origin.requests} == {"/SHA256SUMS"}
        assert ended.rows == []
        assert [path.name for path in bulk.output.iterdir()] == [".bulkspider"]


def test_a_checksum_file_that_wants_a_password_gets_that_of_its_url_or_of_netrc(
    bulk: Bulk, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bulk.folder / "netrc").write_text("machine 127.0.0.1 login ada password of-the-file\n")
    monkeypatch.setenv("NETRC", str(bulk.folder / "netrc"))
    with origin_of_bodies() as origin:
        origin.add(
            "SHA256SUMS",
            when(lambda exchange: "authorization" in exchange.headers, good, status(401)),
            sums_of(BODIES).encode(),
        )
        write_list(bulk, origin)
        url = origin.url("SHA256SUMS")
        for place, expected in ((url, b"ada:of-the-file"), (url.replace("//", "//eve:of-the-url@"), b"eve:of-the-url")):
            bulk.output = bulk.folder / expected.decode().partition(":")[0]
            ended = bulk.run("-a", f"sums={place}")
            assert ended.status == 0, ended.log
            assert set(statuses(ended).values()) == {"verified"}
            sent = origin.requests_for("SHA256SUMS")[-1].headers["authorization"]
            assert base64.b64decode(sent.removeprefix("Basic ")) == expected
            assert "of-the" not in ended.log


def test_a_checksum_file_is_not_taken_in_the_clear_after_https(bulk: Bulk) -> None:
    """Whoever can change what comes by http would say which bytes are right."""
    with (
        origin_of_bodies() as origin,
        FaultyOrigin({"SHA256SUMS": redirect_to(origin.url("SHA256SUMS"))}, tls=True) as secure,
        FaultyOrigin({"SHA256SUMS": redirect_to(secure.url("there")), "x": good}, tls=True) as first,
    ):
        origin.add("SHA256SUMS", good, sums_of(BODIES).encode())
        secure.add("there", good, sums_of(BODIES).encode())
        write_list(bulk, origin)
        ended = bulk.run("-a", f"sums={secure.url('SHA256SUMS')}", settings=TRUST)
        assert ended.status == 1, ended.log
        assert "redirected from https to http; that is not followed" in ended.log
        assert origin.requests == []
        ended = bulk.run("-a", f"sums={first.url('SHA256SUMS')}", settings=TRUST)
        assert ended.status == 0, ended.log
        assert set(statuses(ended).values()) == {"verified"}
