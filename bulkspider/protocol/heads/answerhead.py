"""What the head of an answer says, whoever has read it."""

from __future__ import annotations

from collections.abc import Mapping

from bulkspider.protocol.plan import Answer


class AnswerHead:
    """What the head of an answer says. fields: by lower-case names. length: of the body in bytes, None when it does not
    say."""

    def __init__(self, status: int, fields: Mapping[str, str], length: int | None) -> None:
        self.status = status
        self.fields = fields
        self.answer = Answer.parse(status, fields, length=length)
