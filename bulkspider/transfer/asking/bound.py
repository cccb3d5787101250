"""How many bytes one request asks for at most, as some origins refuse longer ranges (`hosts/pieces.py`)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from bulkspider.entries.entry import redact
from bulkspider.errors import AttemptError
from bulkspider.hosts.pieces import PIECE_BYTES
from bulkspider.options import human
from bulkspider.protocol.plan import Ask
from bulkspider.transfer.asking.exchange import Reply

if TYPE_CHECKING:
    from bulkspider.run.download import Download
    from bulkspider.run.run import Run

logger = logging.getLogger(__name__)


class Bound:
    """How many bytes one transfer asks its origin for at once (`hosts/pieces.py`)."""

    def __init__(self, run: Run, download: Download, source: str) -> None:
        self._source = source
        self._pieces = run.origins[source].pieces
        self._chosen = run.options.range_max or None
        self._may_renew = run.options.fresh_url is not None
        self._download = download
        self._tried: int | None = None
        self._has_piece = False

    @property
    def most(self) -> int:
        """Bytes; 0 for no limit, as for a POST, for which no Range can be asked."""
        if self._download.entry.asked is not None:
            return 0
        limits = (self._chosen, self._pieces.limit, self._tried or self._download.range_max)
        return min((limit for limit in limits if limit is not None), default=0)

    def lower(self, asked: Ask, error: AttemptError) -> bool:
        """After a refusal: whether to ask again for fewer bytes, which `most` then returns."""
        download, pieces = self._download, self._pieces
        if download.entry.asked is not None or self._has_piece or download.refused_whole_and_in_pieces == self._source:
            return False
        if error.http_status == 403 and self._may_renew and not download.refreshed_in_vain:
            return False  # the link may have expired: a fresh one comes first
        lengths = [length for length in (asked.length, self._tried) if length is not None]
        piece = pieces.next_try(error, min(lengths, default=None), self._rest(asked))
        if piece is None:
            if asked.bounded:
                pieces.all_refused()
                download.refused_whole_and_in_pieces = self._source
            return False
        if error.http_status == 403 and pieces.gives_all:
            # It sends other files as a whole, so this refusal may mean that it is busy: one more try now, and a still
            # shorter piece only at the entry's next attempt.
            download.range_max = piece
            if self._tried is not None:
                return False
        self._tried = piece
        download.part.state.without_range = False
        logger.info("%s: %s; asking for no more than %s at once", download.entry.name, redact(str(error)), human(piece))
        return True

    def lower_after_416(self, reply: Reply) -> bool:
        """As `lower`, after a 416. RFC 9110 §15.5.17 says that the bytes do not exist; some hosts answer 416 when the
        range is too long. A short file is asked for as a whole instead."""
        rest = self._rest(reply.asked)
        if reply.head.status != 416 or (self._tried is None and (rest is None or rest <= PIECE_BYTES[-1])):
            return False
        return self.lower(reply.asked, AttemptError("the origin answered 416", code="bad_range", http_status=416))

    def answered(self, asked: Ask, *, piece: bool) -> None:
        """The bytes that were asked for come. piece: `most` limited the request."""
        if piece:
            self._has_piece = True
            # Where the origin sends other files as a whole, only the longest piece is remembered, which does not slow
            # down the next file.
            if self._tried is not None and (not self._pieces.gives_all or self._tried == PIECE_BYTES[0]):
                self._pieces.found(self._tried)
        elif asked.length is None:
            self._pieces.gives_all = True

    def _rest(self, asked: Ask) -> int | None:
        total = self._download.part.state.total
        if total is None:
            total = self._download.entry.size
        return None if total is None else total - asked.want
