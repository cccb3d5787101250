"""Links that expire while a run lasts: a hook or the edited list gives fresh ones, and what is on disk is kept."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from support.crawl import Bulk, Ended
from support.faults import (
    cut_after,
    in_turn,
    redirect_to,
    status,
    when,
)
from support.faulty import Behaviour, Exchange, FaultyOrigin, good, make_body

BODY = make_body(300_000)
HELD = 200_000
OVERLAP = 64 * 1024
SOON = {"BULK_RETRY_DELAY": "0.05"}


def codes(ended: Ended) -> dict[str, str | None]:
    return {row["name"]: row["error"] and row["error"]["code"] for row in ended.rows}


HOOKS = """
import asyncio
from pathlib import Path

def fresh(entry):
    with open("asked.txt", "a") as file:
        file.write(entry.name + "\\n")
    return Path("fresh.txt").read_text().format(entry.name)

async def later(entry):
    await asyncio.sleep(0)
    return fresh(entry)

def none(entry):
    return None

def broken(entry):
    raise RuntimeError("the vault is closed for X-Amz-Signature=s3cret")

async def broken_later(entry):
    raise RuntimeError("the vault is closed")

def nonsense(entry):
    return "no url at all"

value = 7
"""


@pytest.fixture
def hooked(bulk: Bulk) -> Bulk:
    (bulk.folder / "links.py").write_text(HOOKS)
    return bulk


@pytest.mark.parametrize("hook", ["links.fresh", "links.later"])
def test_a_hook_gives_fresh_links_and_the_parts_are_kept(hooked: Bulk, hook: str) -> None:
    bulk = hooked
    with FaultyOrigin(resource=BODY) as origin:
        for code in (401, 403, 410):
            origin.add(f"{code}.bin", in_turn(cut_after(HELD), status(code)))
            origin.add(f"fresh/{code}.bin", good)
        (bulk.folder / "fresh.txt").write_text(origin.url("fresh/") + "{}?Signature=s3cret")
        bulk.write_list({f"{code}.bin": origin.url(f"{code}.bin?Signature=old") for code in (401, 403, 410)})
        ended = bulk.run(settings={"BULK_FRESH_URL": hook})
        assert ended.status == 0, ended.log
        for code in (401, 403, 410):
            assert ended.file(f"{code}.bin") == BODY
            assert len(origin.requests_for(f"{code}.bin")) == 2
            (resumed,) = origin.requests_for(f"fresh/{code}.bin")
            assert resumed.range == (HELD - OVERLAP, None)
            assert resumed.query == "Signature=s3cret"
        assert sorted((bulk.folder / "asked.txt").read_text().split()) == ["401.bin", "403.bin", "410.bin"]
        assert "s3cret" not in ended.log


def test_a_fresh_link_that_is_refused_too_is_not_asked_for_again_and_again(hooked: Bulk) -> None:
    with FaultyOrigin({"a.bin": in_turn(cut_after(HELD), status(403)), "b.bin": status(403)}, resource=BODY) as origin:
        (hooked.folder / "fresh.txt").write_text(origin.url("b.bin"))
        hooked.write_list({"a.bin": origin.url("a.bin")})
        ended = hooked.run(settings={"BULK_FRESH_URL": "links.fresh"})
        assert ended.status == 4, ended.log
        assert codes(ended) == {"a.bin": "http_403"}
        assert len(origin.requests) <= 4
        assert (hooked.output / "a.bin.part").read_bytes() == BODY[:HELD]


def test_links_may_expire_again_and_again_while_there_is_progress(hooked: Bulk) -> None:
    """Every link is good for one request of 50 kB."""

    def one_use(exchange: Exchange) -> None:
        (cut_after(OVERLAP + 50_000) if exchange.attempt % 2 == 0 else status(403))(exchange)

    with FaultyOrigin({"a.bin": one_use, "b.bin": one_use}, resource=BODY) as origin:
        # Two links that take turns, as a hook that signs anew gives them.
        (hooked.folder / "turns.py").write_text(
            f"import itertools\nurls = itertools.cycle([{origin.url('b.bin')!r}, {origin.url('a.bin')!r}])\n"
            "def fresh(entry):\n    return next(urls)\n"
        )
        hooked.write_list({"a.bin": origin.url("a.bin")})
        ended = hooked.run(settings={"BULK_FRESH_URL": "turns.fresh", "BULK_RETRY_TIMES": "1"})
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY


@pytest.mark.parametrize("hook", ["none", "broken", "broken_later", "nonsense"])
def test_a_hook_without_an_answer_leaves_the_failure_as_it_was(hooked: Bulk, hook: str) -> None:
    with FaultyOrigin({"a.bin": in_turn(cut_after(HELD), status(410)), "b.bin": good}, resource=BODY) as origin:
        hooked.write_list({name: origin.url(name) for name in ("a.bin", "b.bin")})
        ended = hooked.wait(hooked.start(settings={"BULK_FRESH_URL": f"links.{hook}"}))
        assert ended.status == 4, ended.log
        assert codes(ended) == {"a.bin": "http_410", "b.bin": None}
        assert ended.row("a.bin")["error"]["http_status"] == 410
        assert (hooked.output / "a.bin.part").read_bytes() == BODY[:HELD]
        assert ("a.bin: no fresh URL" in ended.log) == (hook != "none")
        assert "s3cret" not in ended.log
        assert len(origin.requests_for("a.bin")) == 2


@pytest.mark.parametrize("hook", ["links.missing", "nowhere.fresh", "links.value", "links"])
def test_a_hook_that_does_not_exist_is_told_before_anything_is_begun(hooked: Bulk, hook: str) -> None:
    with FaultyOrigin(default=good) as origin:
        hooked.write_list({"a.bin": origin.url("a.bin")})
        ended = hooked.run(settings={"BULK_FRESH_URL": hook})
        assert ended.status == 1, ended.log
        assert f"BULK_FRESH_URL={hook}" in ended.log
        assert origin.requests == []


def test_a_list_that_was_edited_meanwhile_is_read_again(bulk: Bulk) -> None:
    with FaultyOrigin(resource=BODY) as origin:

        def expired(exchange: Exchange) -> None:
            if exchange.attempt == 0:
                cut_after(HELD)(exchange)
                return
            # The user was told, and has put new links into the list before this answer is out.
            lines = ["name url", "this line is no entry", f"a.bin {origin.url('a.bin?Signature=new')}"]
            bulk.list.write_text("\n".join([*lines, f"c.bin {origin.url('c.bin')}"]) + "\n")
            status(403)(exchange)

        origin.add("a.bin", when(lambda exchange: exchange.query == "Signature=new", good, expired))
        bulk.write_list({"a.bin": origin.url("a.bin?Signature=old")})
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY
        assert [(r.query, r.status) for r in origin.requests] == [
            ("Signature=old", 200),
            ("Signature=old", 403),
            ("Signature=new", 206),
        ]
        assert [row["name"] for row in ended.rows] == ["a.bin"], "the run reads its copy of the list"


# --- Links that a redirect gives --------------------------------------------------------------------------------------

S3_EXPIRED = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
S3_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access denied</Message></Error>"


def resolving(uses: int, refusal: Behaviour) -> FaultyOrigin:
    """Each request for a file is sent to a link of its own, which serves `uses` requests."""
    origin, numbers, used = FaultyOrigin(resource=BODY), itertools.count(), Counter[str]()

    def signed(exchange: Exchange) -> None:
        used[exchange.query] += 1
        (good if used[exchange.query] <= uses else refusal)(exchange)

    origin.default = lambda exchange: redirect_to(origin.url(f"signed?Expires={next(numbers)}"))(exchange)
    origin.add("signed", signed)
    return origin


def test_a_link_that_has_expired_when_it_is_used_is_fetched_anew(bulk: Bulk) -> None:
    """A cache may give a redirect that it has kept for too long."""
    expired = in_turn(status(403, body=S3_EXPIRED), status(400, body=b"ExpiredToken"), status(401, body=S3_EXPIRED))
    with FaultyOrigin({"signed": in_turn(expired, expired, expired, good)}, resource=BODY) as origin:
        origin.default = redirect_to(origin.url("signed"))
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings=SOON)
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY
        assert [r.status for r in origin.requests_for("signed")] == [403, 400, 401, 200]


def test_a_link_that_always_has_expired_fails_after_its_tries(bulk: Bulk) -> None:
    with resolving(0, status(403, body=S3_EXPIRED)) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings={**SOON, "BULK_RETRY_TIMES": "2"})
        assert ended.status == 3, ended.log
        assert codes(ended) == {"a.bin": "http_403"}
        assert len(origin.requests_for("a.bin")) <= 4


@pytest.mark.parametrize("words", [S3_EXPIRED, S3_DENIED, b""], ids=["expired", "denied", "nothing"])
def test_links_that_expire_between_two_pieces(bulk: Bulk, words: bytes) -> None:
    with resolving(1, status(403, body=words)) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings={**SOON, "BULK_RANGE_MAX": "100000", "BULK_RETRY_TIMES": "1"})
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY


@pytest.mark.parametrize("words", [S3_EXPIRED, S3_DENIED], ids=["expired", "denied"])
def test_links_that_expire_while_a_foreign_part_is_compared(bulk: Bulk, words: bytes) -> None:
    """The samples that were compared before count: each attempt goes on with the next one."""
    bulk.output.mkdir()
    (bulk.output / "a.bin.part").write_bytes(BODY[:-1000])
    with resolving(1, status(403, body=words)) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings=SOON)
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY
        assert ended.row("a.bin")["resumed_from"] == len(BODY) - 1000
        sampled = [r.range for r in origin.requests_for("signed") if r.status == 206]
        assert len(sampled) == len(set(sampled))
