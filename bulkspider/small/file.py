"""A small file: whether the answer brings it as it should be, and the proof of its bytes. The same in both processes of
a crawl (`second.py`)."""

from __future__ import annotations

from bulkspider.disk.finished.hashing import IncrementalHasher
from bulkspider.disk.finished.proof import Proof, Refuted, prove
from bulkspider.disk.part import HELD_MAX_BYTES
from bulkspider.entries.urls import origin_of
from bulkspider.errors import too_large
from bulkspider.protocol.heads.answerhead import AnswerHead
from bulkspider.protocol.plan import Ask, Write, judge
from bulkspider.protocol.sniff import FIRST_BYTES, Content, look
from bulkspider.run.download import Download


def is_usual(download: Download, head: AnswerHead, asked: Ask, max_size: int | None) -> bool:
    """The answer brings the whole file, small enough for memory, and all is as `protocol/plan.py` wants it. max_size:
    BULK_MAX_SIZE, in bytes."""
    answer, length = head.answer, head.answer.length
    # Scrapy's middleware for cookies must see an answer with a cookie.
    if head.status != 200 or not length or length > HELD_MAX_BYTES or "set-cookie" in head.fields:
        return False
    verdict = judge(download.part.state, asked, answer, download.wanted)
    if verdict != Write(first=0, end=length, total=length) or answer.has_content_range:
        return False
    return not too_large(length, None, max_size)


def proof_of(download: Download, head: AnswerHead, body: bytes, *, sniffs: bool, server_digest: str) -> Proof | None:
    """The proof of a usual answer's body. None when the bytes are not the file: a request of its own then fetches them
    once more, and sets them aside if they are wrong again.

    sniffs, server_digest: BULK_SNIFF, BULK_SERVER_DIGEST.
    """
    download.bytes_received += len(body)
    if sniffs and download.needs_a_look:
        content = look(download.entry.name, body[:FIRST_BYTES], len(body), pages=download.takes_pages)
        if content is Content.ANSWER:
            return None
        if content is Content.OTHER_TYPE:
            download.flags.add("other-type")
    download.expect_from(head)
    algorithms = download.algorithms
    hasher = IncrementalHasher(algorithms) if algorithms else None
    if hasher is not None:
        hasher.take(body)
    try:
        return prove(
            download.part,
            total=len(body),
            expected=download.expected,
            length_proven=True,
            hasher=hasher,
            stop=lambda: False,
            server=server_digest,
        )
    except Refuted:
        download.forget_expected()
        return None


def hold(download: Download, head: AnswerHead, body: bytes) -> None:
    """The bytes are the file: the part holds them in memory, for its commit."""
    download.part.learn(total=len(body), validators=head.answer.validators, source=origin_of(download.entry.url))
    download.part.buffer(body)
