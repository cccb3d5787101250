"""Finds out the length of an object that its origin has not stated, or only by closing the connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkspider.protocol import plan
from bulkspider.protocol.plan import Ask, AskAgain, Complete, Fail, PartState, Restart
from bulkspider.transfer.asking.exchange import Exchange

if TYPE_CHECKING:
    from bulkspider.wire import Head


async def learn_length(exchange: Exchange, known: PartState, asked: Ask) -> Complete | Restart | AskAgain | Fail:
    """The verdict on a 416 to `asked` that did not state the length of the object: a HEAD may state it."""
    head = await exchange.send(Ask(), method="HEAD")
    length = _length_of_head(head)
    if length is not None:
        return plan.judge_length(known, asked, length, head.answer.validators, exchange.expected)
    return plan.without_range(known, "416, and no way to learn the length", "bad_range")


async def prove_length(exchange: Exchange, reached: int) -> int | None:
    """The length of an object whose body ended at byte `reached` because the connection was closed (RFC 9112 §8).

    One or two more requests may prove it; None when they do not.
    """
    head = await exchange.send(Ask(first=reached, want=reached))
    piece = head.answer.content_range
    head.drop()
    if head.status in (206, 416) and piece is not None and piece.total is not None:
        return piece.total
    if head.status == 200 and head.answer.length is not None and head.answer.encoding is None:
        return head.answer.length
    return _length_of_head(await exchange.send(Ask(), method="HEAD"))


def _length_of_head(head: Head) -> int | None:
    """The length by the answer to a HEAD (RFC 9110 §9.3.2)."""
    if head.status != 200 or head.answer.encoding is not None:
        return None
    return plan.length_of(head.fields.get("content-length", ""))
