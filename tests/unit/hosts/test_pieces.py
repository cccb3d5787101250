"""How large an answer may be: what is tried after a refusal, and when it is not worth a request."""

from __future__ import annotations

import pytest

from bulkspider.errors import AttemptError
from bulkspider.hosts.pieces import PIECE_BYTES, VAIN_TRIES_MAX, Pieces
from bulkspider.protocol.servertext import meaning_of

GIB, MIB = 1 << 30, 1 << 20


def refusal(status: int = 403, said: str | None = None, **fields: object) -> AttemptError:
    error = AttemptError("no", code=f"http_{status}", http_status=status, **fields)  # type: ignore[arg-type]
    error.server_said = said
    error.meaning = meaning_of(status, {}, said)
    return error


@pytest.mark.parametrize(
    ("asked", "rest", "gives_all", "piece"),
    [
        (None, None, False, GIB),
        (GIB, None, False, 64 * MIB),
        (64 * MIB, None, False, 8 * MIB),
        (8 * MIB, None, False, None),
        (300_000, 300_000, False, None),
        (20 * MIB, 20 * MIB, False, 8 * MIB),
        (None, 300_000, False, GIB),
        # It gives all of others: the length is all that may be wrong.
        (None, 300_000, True, None),
        (None, 20 * MIB, True, 8 * MIB),
        (None, None, True, GIB),
    ],
)
def test_the_next_length(asked: int | None, rest: int | None, gives_all: bool, piece: int | None) -> None:
    pieces = Pieces()
    pieces.gives_all = gives_all
    assert pieces.next_try(refusal(), asked, rest) == piece


@pytest.mark.parametrize(
    "error",
    [
        refusal(404),
        refusal(429),
        refusal(said="AccessDenied Access Denied"),
        refusal(400, said="ExpiredToken The provided token has expired"),
        refusal(said="Please slow down"),
        refusal(said="Rate limit exceeded"),
        refusal(retry_after=1.0),
        refusal(origin_wide=True),
    ],
)
def test_a_refusal_with_another_reason(error: AttemptError) -> None:
    assert Pieces().next_try(error, None, None) is None


def test_what_was_in_vain_is_not_tried_for_ever_and_what_helped_is_remembered() -> None:
    pieces = Pieces()
    for _ in range(VAIN_TRIES_MAX):
        assert pieces.next_try(refusal(), None, None) is not None
        pieces.all_refused()
    assert pieces.next_try(refusal(), None, None) is None
    assert pieces.next_try(refusal(), None, 20 * GIB) == PIECE_BYTES[0], "so large a file is worth it"
    pieces.found(PIECE_BYTES[1])
    pieces.found(PIECE_BYTES[0])
    assert pieces.limit == PIECE_BYTES[1]


def test_a_dry_run_tries_with_a_few_files() -> None:
    pieces = Pieces()
    sizes = [300_000, MIB, MIB, 7 * MIB, 8 * MIB, 8 * MIB, 100 * GIB, 100 * GIB]
    assert [pieces.asks_for_all(size) for size in sizes] == [False, True, False, False, True, False, True, False]
    pieces.found(PIECE_BYTES[0])
    assert not pieces.asks_for_all(1 << 50)
