"""Pieces: how many bytes of a file an origin gives in one answer.

Some hosts refuse to send a large file in one go (CloudFront above its limit, the bridge of Hugging Face, proxies that
bound a Range): they answer 400, 403, 413 or 416 to a GET without Range, to an open one (`bytes=N-`) or to a long one,
and 206 to a bounded one. Such an origin is asked for the largest pieces that it gives. A refusal can have many other
reasons, so failed tries are counted, and after a few entries no more are made. Pure; lengths in bytes.
"""

from __future__ import annotations

from bulkspider.errors import AttemptError, Meaning

# The lengths that are tried, one after the other (bytes).
PIECE_BYTES = (1 << 30, 64 << 20, 8 << 20)
# Statuses that may mean "not so many bytes at once".
REFUSAL_STATUSES = (400, 403, 413, 416)
# After so many entries that were refused with every length, a refusal of this origin has another reason.
VAIN_TRIES_MAX = 3

# A dry run tries this with a file of at least this size, and again with one that is so many times as large: few
# requests for each host.
PROBED_FROM_BYTES = 1 << 20
GROWTH_FACTOR = 8

# What storage services call a refusal that has nothing to do with its length (S3, GCS, Azure; in <Code> or a sentence).
OTHER_REASONS = (
    "accessdenied",
    "access denied",
    "authenticationfailed",
    "expired",
    "invalidaccesskeyid",
    "invalidtoken",
    "nosuch",
    "signature",
)


class Pieces:
    """What is known of one origin.

    limit: the most bytes that it gives in one answer, None where no limit is known. gives_all: it has answered a
    request without an end with the whole rest of a file.
    """

    def __init__(self) -> None:
        self.limit: int | None = None
        self.gives_all = False
        self._in_vain = 0
        self._largest_asked = PROBED_FROM_BYTES // GROWTH_FACTOR

    def asks_for_all(self, size: int) -> bool:
        """A dry run should try whether it sends all of a file of `size` bytes: it has not tried with a similar size."""
        if self.limit is not None or size < GROWTH_FACTOR * self._largest_asked:
            return False
        self._largest_asked = size
        return True

    def next_try(self, error: AttemptError, asked: int | None, rest: int | None) -> int | None:
        """The length to ask for after a refusal; None when a shorter one is not worth a request.

        asked: the length that was asked for, None for all or for an open range. rest: bytes that are missing, as far as
        that is known.
        """
        if (
            error.http_status not in REFUSAL_STATUSES
            or error.origin_wide
            or error.retry_after is not None
            or _has_other_reason(error)
        ):
            return None
        if self._in_vain >= VAIN_TRIES_MAX and (rest is None or rest <= PIECE_BYTES[0]):
            return None
        if asked is None and self.gives_all:
            # The missing Range is not the reason.
            asked = rest
        return next((piece for piece in PIECE_BYTES if asked is None or piece < asked), None)

    def found(self, limit: int) -> None:
        """A piece of this length came where more was refused."""
        self.limit = limit if self.limit is None else min(limit, self.limit)
        self._in_vain = 0

    def all_refused(self) -> None:
        """An entry was refused with every length."""
        self._in_vain += 1


def _has_other_reason(error: AttemptError) -> bool:
    said = (error.server_said or "").lower()
    return error.meaning is not Meaning.UNSAID or any(reason in said for reason in OTHER_REASONS)
