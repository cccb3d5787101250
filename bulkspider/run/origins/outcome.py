"""How one attempt ended, and what can follow from that."""

from __future__ import annotations

from msgspec import Struct

from bulkspider.errors import AttemptError, BulkError


class Outcome(Struct, frozen=True):
    """The outcome of one attempt.

    fetched: every byte of the object is here. grew: the part is larger than ever before. gained: by how many bytes.
    error: why the attempt ended early; None when it did not. With neither error nor `fetched`, the next attempt asks
    for the rest.
    """

    fetched: bool = False
    grew: bool = False
    gained: int = 0
    error: BulkError | None = None

    @property
    def retry_after(self) -> float | None:
        """Seconds that the origin asked us to wait."""
        return self.error.retry_after if isinstance(self.error, AttemptError) else None


class Fetched(Struct, frozen=True):
    """All bytes are here."""


class Again(Struct, frozen=True):
    """Try again, not before `at` (seconds of the run's clock)."""

    at: float


class GiveUp(Struct, frozen=True):
    """This URL is given up, because of `error`."""

    error: BulkError
