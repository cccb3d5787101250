"""Which hashes are computed (BULK_DIGEST), when, and that no file is hashed twice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from support.crawl import Bulk, sha256
from support.faulty import FaultyOrigin, good, make_body
from support.ondisk import spoil

NAMES = ("a.bin", "deep/er/b.bin", "with some blanks.bin")
BODIES = {name: make_body(120_000 + n, name) for n, name in enumerate(NAMES)}
PATHS = {name: f"served/{n}.bin" for n, name in enumerate(NAMES)}


def origin_of_bodies() -> FaultyOrigin:
    return FaultyOrigin({PATHS[name]: (good, body) for name, body in BODIES.items()})


def sums_of(bodies: Mapping[str, bytes], algorithm: str = "sha256") -> str:
    return "".join(f"{hashlib.new(algorithm, body).hexdigest()}  {name}\n" for name, body in bodies.items())


def write_list(bulk: Bulk, origin: FaultyOrigin) -> None:
    bulk.write_list({name: origin.url(PATHS[name]) for name in NAMES})


def test_bulk_digest_says_what_is_hashed(bulk: Bulk) -> None:
    body = BODIES["a.bin"]
    md5 = hashlib.md5(body).hexdigest()
    with FaultyOrigin(default=good, resource=body) as origin:
        lines = [f"plain.bin {origin.url('plain.bin')}", f"known.bin {origin.url('known.bin')} md5={md5}"]

        def rows(policy: str) -> list[dict[str, Any]]:
            bulk.output = bulk.folder / policy
            bulk.write_list(lines, header="ignored")
            ended = bulk.run(settings={"BULK_DIGEST": policy})
            assert ended.status == 0, ended.log
            return [ended.row("plain.bin"), ended.row("known.bin")]

        plain, known = rows("auto")
        assert (plain["status"], plain["sha256"], plain["checksums"]) == ("complete", None, {})
        assert (known["status"], known["checksums"]) == ("verified", {"md5": md5})

        plain, known = rows("sha256")
        assert (plain["status"], plain["sha256"]) == ("complete", sha256(body)), "nobody else vouched for this hash"
        assert plain["checksums"] == {"sha256": sha256(body)}
        assert (known["status"], known["checksums"]) == ("verified", {"md5": md5, "sha256": sha256(body)})

        # What is switched off is not promised: neither hashed nor verified.
        lines[1] = f"known.bin {origin.url('known.bin')} md5={'0' * 32}"
        plain, known = rows("off")
        assert (plain["status"], plain["checksums"]) == ("complete", {})
        assert (known["status"], known["checksums"], known["sha256"]) == ("complete", {}, None)


def test_a_file_is_hashed_once_and_not_by_the_next_runs(bulk: Bulk) -> None:
    body = BODIES["a.bin"]
    with FaultyOrigin(default=good, resource=body) as origin:
        bulk.write_list([f"{n}.bin {origin.url(f'{n}.bin')} sha256={sha256(body)}" for n in range(3)], header="ignored")
        assert bulk.run().status == 0
        for n in range(3):
            spoil(bulk.output / f"{n}.bin")
        requests = len(origin.requests)
        again = bulk.run()
        assert again.status == 0, again.log
        assert [(row["status"], row["already"]) for row in again.rows] == [("verified", True)] * 3
        assert len(origin.requests) == requests
        # Whoever wants to know what is really on disk asks for it.
        verified = bulk.run("-a", "verify=1")
        assert verified.status == 3, verified.log
        assert {row["error"]["code"] for row in verified.rows} == {"digest_mismatch"}


def test_hashes_that_come_later_are_compared_once_without_a_request(bulk: Bulk) -> None:
    with origin_of_bodies() as origin:
        write_list(bulk, origin)
        assert bulk.run().status == 0
        requests = len(origin.requests)
        (bulk.folder / "SHA256SUMS").write_text(sums_of(BODIES))
        sums = ("-a", f"sums={bulk.folder / 'SHA256SUMS'}")
        later = bulk.run(*sums)
        assert later.status == 0, later.log
        assert [(row["status"], row["already"]) for row in later.rows] == [("verified", True)] * 3
        for name in NAMES:
            spoil(bulk.output / name)
        assert [row["already"] for row in bulk.run(*sums).rows] == [True] * 3
        assert len(origin.requests) == requests
