"""The plan: (entry, part, the server's answer) -> verdict.

All rules of resuming are here. Pure: no socket, no file, no clock; the input is plain data, the output is one Verdict,
which `transfer/transfer.py` carries out exactly. Three questions are answered here:

1. `ask`    What do we ask the origin for, given what is on disk?      (Range, If-Range: RFC 9110 §14.2, §13.1.5)
2. `judge`  What does its answer mean for the bytes we hold?           (200, 206, 416 and everything else: §15)
3. `ending` The body has ended: what do we have now?          (framing: RFC 9112 §6.3, §8, §9.8)

The rule above all others: one file never holds bytes of two versions. An answer that is not provably of the same
version is refused, or the file is begun anew; bytes that are sent again are compared with the disk. There are only so
many ways to ask again (each kind of validator once, once without Range, two restarts), so that no sequence of answers
keeps us busy for ever.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from bulkspider.errors import AttemptError, Meaning, proxy_auth
from bulkspider.protocol.ranges import Ranges
from bulkspider.regex import regex

# How long before Date a Last-Modified must lie to be a strong validator. RFC 9110 §8.8.2.2 asks for "at least one
# second" and a comparable clock; its predecessor RFC 7232 §2.2.2 said 60 seconds, and that is what we keep.
STRONG_DATE_AGE_SECONDS = 60.0

# A restart throws bytes away. An object that changes a third time within one run is not worth the bandwidth.
MAX_RESTARTS = 2

# No file system can address a byte beyond this one.
LENGTH_MAX_BYTES = 2**63 - 1

# Where connections break early, what is only compared is at most one part in so many of what each of them brings,
OVERLAP_PART = 8
# and at least so many bytes: fewer would prove little.
OVERLAP_MIN_BYTES = 1024

SAMPLE_BYTES = 64 * 1024
MIDDLE_SAMPLES = 2

HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})
HTML_NAMES = (".html", ".htm", ".xhtml", ".shtml", ".php", ".asp", ".aspx", ".jsp")

# Statuses that mean the whole origin, not one file: it is busy or broken (RFC 9110 §15.6; RFC 6585 §4; 520 to 524 come
# from a CDN).
ORIGIN_WIDE = frozenset({421, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
# Redirects that are followed, when they have a Location (RFC 9110 §15.4).
REDIRECTS = frozenset({301, 302, 303, 307, 308})


class ValidatorKind(enum.IntEnum):
    """How a resume makes sure that it gets the same version, the strongest way first: If-Range with the ETag, with the
    date, or a plain Range whose overlap is compared."""

    ETAG = 0
    DATE = 1
    PLAIN = 2


class Validators(Struct, frozen=True):
    """The header values that identify a version of an object, as received."""

    etag: str | None = None
    last_modified: str | None = None
    date: str | None = None

    @property
    def strong_etag(self) -> str | None:
        """The ETag if it may be used to combine parts: present and not weak (RFC 9110 §8.8.1, §8.8.3)."""
        if self.etag and len(self.etag) >= 2 and self.etag.startswith('"') and self.etag.endswith('"'):
            return self.etag
        return None

    @property
    def strong_date(self) -> str | None:
        """The Last-Modified if it is a strong validator: well before the Date of its answer (RFC 9110 §8.8.2.2)."""
        modified, sent = http_date(self.last_modified), http_date(self.date)
        if modified is None or sent is None or sent - modified < STRONG_DATE_AGE_SECONDS:
            return None
        return self.last_modified

    def contradicts(self, other: Validators) -> bool:
        """True when the two cannot be the same version. Equal, missing or incomparable validators do not contradict."""
        if self.etag and other.etag:
            # RFC 9110 §15.3.7.3: parts combine only under the same strong validator. Two different weak tags
            # already say "semantically different".
            return self.etag != other.etag and self.etag.removeprefix("W/") != other.etag.removeprefix("W/")
        if self.last_modified and other.last_modified:
            return http_date(self.last_modified) != http_date(other.last_modified)
        return False

    def agrees(self, other: Validators) -> bool:
        """True when a strong validator says that the two are the same version."""
        if self.strong_etag and other.strong_etag:
            return self.strong_etag == other.strong_etag
        return bool(
            not (self.etag and other.etag)
            and self.strong_date
            and other.strong_date
            and http_date(self.strong_date) == http_date(other.strong_date)
        )


class PartState(Struct):
    """What is on disk for an entry and what is known about it; `part.py` makes and keeps it.

    have: the bytes that can be trusted to be there. total: the length of the whole object once it is known.
    source: `host:port` that the validators came from; another host has other ones for the same object.
    The last three fields say what this run has tried (they are not saved). validator_kind: the strongest kind that is
    still sent to the origin. without_range: all is asked for at once. restarts: how often it was begun anew.
    """

    have: Ranges = field(default_factory=Ranges)
    total: int | None = None
    validators: Validators = Validators()
    source: str | None = None
    validator_kind: ValidatorKind = ValidatorKind.ETAG
    without_range: bool = False
    restarts: int = 0

    @property
    def complete(self) -> bool:
        return self.total is not None and self.have.holds(0, self.total)


class Ask(Struct, frozen=True):
    """What one attempt asks for. All bytes when `first` is None, else [first, end) with end None = to the last byte.

    want: the first byte we do not have; [first, want) is asked again only to be compared with the disk. segment: other
    connections fill the rest of the file, so that only this piece is of use. bounded: the origin gives no more than
    this in one answer; if it sends more, that is taken, too.
    """

    first: int | None = None
    end: int | None = None
    want: int = 0
    if_range: str | None = None
    validator_kind: ValidatorKind = ValidatorKind.PLAIN
    segment: bool = False
    bounded: bool = False

    @property
    def length(self) -> int | None:
        """How many bytes it asks for; None for all that there are."""
        return None if self.first is None or self.end is None else self.end - self.first

    def headers(self) -> dict[str, str]:
        """The header fields of the request (RFC 9110 §14.2, §13.1.5)."""
        # §12.5.3: with a coding, ranges and sizes would count other bytes than the file's.
        fields = {"Accept-Encoding": "identity"}
        if self.first is not None:
            last = "" if self.end is None else str(self.end - 1)
            fields["Range"] = f"bytes={self.first}-{last}"
            if self.if_range:
                fields["If-Range"] = self.if_range
        return fields


class Answer(Struct, frozen=True):
    """The head of one response, parsed; nothing of its body. `length` is the body's by Content-Length, else None."""

    status: int
    length: int | None = None
    chunked: bool = False
    content_range: ContentRange | None = None
    has_content_range: bool = False
    validators: Validators = Validators()
    encoding: str | None = None
    media_type: str | None = None
    accept_ranges: str | None = None
    retry_after: str | None = None
    location: str | None = None

    @classmethod
    def parse(cls, status: int, headers: Mapping[str, str], *, length: int | None, chunked: bool = False) -> Answer:
        """`headers`: lower-case names; repeated fields joined by ', ' (RFC 9110 §5.3)."""
        content_range = headers.get("content-range")
        encoding = headers.get("content-encoding", "").strip().lower()
        return cls(
            status=status,
            length=length,
            chunked=chunked,
            content_range=ContentRange.parse(content_range) if content_range is not None else None,
            has_content_range=content_range is not None,
            validators=Validators(headers.get("etag"), headers.get("last-modified"), headers.get("date")),
            encoding=encoding if encoding not in ("", "identity") else None,
            # A field that was sent twice arrives joined by a comma; its first value counts.
            media_type=headers.get("content-type", "").partition(";")[0].partition(",")[0].strip().lower() or None,
            accept_ranges=headers.get("accept-ranges", "").strip().lower() or None,
            retry_after=headers.get("retry-after"),
            location=headers.get("location"),
        )


class ContentRange(Struct, frozen=True):
    """A Content-Range of unit bytes (RFC 9110 §14.4). first is None for the unsatisfied form `bytes */N`."""

    first: int | None
    end: int | None
    total: int | None

    _SATISFIED = regex(r"bytes[ \t]+([0-9]+)-([0-9]+)/([0-9]+|\*)", re.IGNORECASE)
    _UNSATISFIED = regex(r"bytes[ \t]+\*/([0-9]+)", re.IGNORECASE)

    @classmethod
    def parse(cls, text: str) -> ContentRange | None:
        """None when the field is invalid: such an answer MUST NOT be recombined (§14.4)."""
        text = text.strip()
        if match := cls._UNSATISFIED.fullmatch(text):
            total = length_of(match[1])
            return None if total is None else cls(None, None, total)
        match = cls._SATISFIED.fullmatch(text)
        if match is None:
            return None
        first, last, total = length_of(match[1]), length_of(match[2]), length_of(match[3])
        if first is None or last is None or (total is None and match[3] != "*"):
            return None
        if last < first or (total is not None and last >= total):
            return None
        return cls(first, last + 1, total)


class Write(Struct, frozen=True):
    """Take the body: compare what is on disk already, write the rest.

    first, end: offsets in the object of the body's first byte and of the byte after the last one we take; end None: as
    far as it goes. total: length of the object if this answer tells it. fresh: the object changed and this is its new
    version; set the part aside first, and write from 0 on. flags: of the entry's row.
    """

    first: int = 0
    end: int | None = None
    total: int | None = None
    fresh: bool = False
    flags: frozenset[str] = frozenset()


class Complete(Struct, frozen=True):
    """All `total` bytes are on disk, the length is proven; no body is needed."""

    total: int


class Restart(Struct, frozen=True):
    """Another version: drop this answer, set the part aside, ask for everything."""

    why: str


class AskAgain(Struct, frozen=True):
    """Drop this answer, ask again at once: from now on with validators of this kind at most, or without Range."""

    why: str
    validator_kind: ValidatorKind | None = None
    without_range: bool = False


class LearnLength(Struct, frozen=True):
    """Drop this answer, ask for the object's length alone (HEAD)."""

    why: str


class NoPieces(Struct, frozen=True):
    """A piece was asked for, and the whole body came, which is of no use here."""

    why: str


class Fail(Struct, frozen=True):
    """This attempt failed. flags: of the entry's row."""

    error: AttemptError
    flags: frozenset[str] = frozenset()


Verdict: TypeAlias = Write | Complete | Restart | AskAgain | LearnLength | NoPieces | Fail


class Expected(Struct, frozen=True):
    """What the list says of an entry, as far as the plan needs it.

    url_path: of the list's URL, not of the URL to which a redirect leads. size_by: who says the size, for messages: the
    list, or a redirect (X-Linked-Size). pages: a web page is accepted, whatever the name says.
    """

    name: str = ""
    url_path: str = ""
    size: int | None = None
    size_by: str = "the list"
    has_digest: bool = False
    pages: bool = False


# ---------------------------------------------------------------------------------------------------- 1. what to ask


def ask(
    state: PartState,
    *,
    overlap: int,
    first: int | None = None,
    end: int | None = None,
    most: int = 0,
    alone: bool = False,
) -> Ask:
    """What to ask for so that the bytes [first, end) arrive; by default all from the first hole on.

    overlap: bytes before the join that are asked again and compared with the disk (BULK_RESUME_OVERLAP). With `first`
    it is a segment, whose request carries the validator of the part even while nothing is on disk yet. alone: it is the
    only connection of the file, so an answer with the whole file is of use. most: bytes that the origin gives in one
    answer (hosts/pieces.py), 0 for any number.
    """
    segment = first is not None and not alone
    want = state.have.front if first is None else first
    if first is None and (state.without_range or not (state.have or most)):
        return Ask(None, None, want=0)
    if most:
        # The answer must hold new bytes, too, not only the overlap.
        overlap = min(overlap, most // 2)
    start = max(want - overlap, state.have.first_of(want))
    if most:
        ends = (end, state.total, start + most)
        end = min(byte for byte in ends if byte is not None)
    asked = _with_validator(state, start, end, want, segment=segment)
    return replace(asked, bounded=True) if most else asked


def overlap_after(breaks: int, breaks_after: int, most: int) -> int:
    """Bytes that are asked for again and compared where a Range joins the part: `most` (BULK_RESUME_OVERLAP), fewer
    where connections break so early that little else would come.

    breaks: how many have. breaks_after: so many bytes of a body the last of them brought. A single one says nothing of
    those to come, but when it brought less than two times `most`, to compare so much would send half of it twice.
    """
    if not breaks or (breaks == 1 and breaks_after >= 2 * most):
        return most
    return min(most, max(breaks_after // OVERLAP_PART, OVERLAP_MIN_BYTES))


def _with_validator(state: PartState, start: int, end: int | None, want: int, *, segment: bool) -> Ask:
    if start == 0 and end is None:
        # All bytes on disk lie within the overlap: the whole body, compared as it comes, needs no Range.
        return Ask(None, None, want=want)
    if state.validator_kind <= ValidatorKind.ETAG and state.validators.strong_etag:
        # RFC 9110 §13.1.5: MUST NOT use a weak tag in If-Range.
        return Ask(start, end, want, state.validators.strong_etag, ValidatorKind.ETAG, segment)
    if state.validator_kind <= ValidatorKind.DATE and not state.validators.strong_etag and state.validators.strong_date:
        # §13.1.5: a date only when there is no strong entity tag and the date is strong.
        return Ask(start, end, want, state.validators.strong_date, ValidatorKind.DATE, segment)
    if state.validator_kind == ValidatorKind.DATE and state.validators.strong_date:
        # This origin answers If-Range with an ETag wrongly; some of those origins accept the date.
        return Ask(start, end, want, state.validators.strong_date, ValidatorKind.DATE, segment)
    return Ask(start, end, want, None, ValidatorKind.PLAIN, segment)


def samples(size: int) -> list[tuple[int, int]]:
    """Where a foreign file of `size` bytes is compared with the origin: head, evenly spread pieces, tail.

    (offset, length) pairs.
    """
    if size <= SAMPLE_BYTES:
        return [(0, size)] if size else []
    tail = size - SAMPLE_BYTES
    places = {tail * n // (MIDDLE_SAMPLES + 1) for n in range(MIDDLE_SAMPLES + 2)}
    return [(place, SAMPLE_BYTES) for place in sorted(places)]


# ------------------------------------------------------------------------------------------- 2. what an answer means


def judge(state: PartState, asked: Ask, answer: Answer, expected: Expected = Expected()) -> Verdict:
    """The verdict on the head of an answer. Never raises; a refusal is a Fail with its error."""
    if answer.status == 206 or (answer.status == 200 and _is_slice(asked, answer)):
        return _judge_206(state, asked, answer, expected)
    if answer.status == 200:
        return _judge_200(state, asked, answer, expected)
    if answer.status == 416 and asked.first is not None:
        return _judge_416(state, asked, answer, expected)
    return _judge_status(answer)


def _is_slice(asked: Ask, answer: Answer) -> bool:
    """A 200 whose body is the range that its Content-Range names (seen at ModelScope)."""
    piece = answer.content_range
    if piece is None or piece.first is None or piece.end is None or answer.length is None:
        return False
    return piece.first == (asked.first or 0) and answer.length == piece.end - piece.first


def _judge_206(state: PartState, asked: Ask, answer: Answer, expected: Expected) -> Verdict:
    piece = answer.content_range
    if piece is None or piece.first is None or piece.end is None:
        # RFC 9110 §15.3.7.1-2: a single part has a Content-Range; multipart/byteranges is no answer to one range.
        what = "multipart/byteranges" if answer.media_type == "multipart/byteranges" else "no valid Content-Range"
        return without_range(state, f"206 with {what}", "bad_range")
    if refused := _refuse_html(piece.total, answer, expected):
        return refused
    if state.have and state.validators.contradicts(answer.validators):
        # §15.3.7.3: another strong validator is another representation.
        return restart(state, "the object changed (other validator in 206)")
    if state.total is not None and piece.total is not None and piece.total != state.total:
        return restart(state, f"the object changed its length from {state.total} to {piece.total} bytes")
    total = piece.total if piece.total is not None else state.total
    if total is not None and piece.end > total:
        return without_range(state, f"206 reaches byte {piece.end} of an object of {total}", "bad_range")
    if refused := _refuse_size(total, answer, expected):
        return refused
    if total is not None and state.have.end > total:
        return restart(state, f"the object has {total} bytes, fewer than are on disk")
    latest = asked.want if asked.first is not None else 0
    if asked.first is not None and asked.first < latest and not state.validators.agrees(answer.validators):
        # At least one byte that is on disk must come, too: only a comparison shows that it is the same object.
        latest -= 1
    if piece.first > latest:
        return without_range(state, f"asked for byte {asked.first or 0}, got byte {piece.first}", "bad_range")
    if piece.end <= asked.want and not (total is not None and state.have.holds(0, total)):
        # It ends before the first byte we miss: asked again in the same way, nothing new would ever come.
        return without_range(state, f"asked for byte {asked.want}, got bytes up to {piece.end - 1} only", "bad_range")
    # §15.3.7: fewer bytes than asked are legal; the rest is asked for afterwards. More than asked are cut off.
    end = piece.end if asked.end is None else min(piece.end, asked.end)
    return Write(first=piece.first, end=end, total=total, flags=_flags(answer))


def _judge_200(state: PartState, asked: Ask, answer: Answer, expected: Expected) -> Verdict:
    total = answer.length
    if refused := _refuse_size(total, answer, expected) or _refuse_html(total, answer, expected):
        return refused
    whole = Write(first=0, end=total, total=total, flags=_flags(answer))
    changed_length = total is not None and (
        (state.total is not None and total != state.total) or state.have.end > total
    )
    if asked.segment and (state.validators.contradicts(answer.validators) or changed_length):
        return restart(state, "the object changed")
    if asked.length is not None and (asked.segment or not (state.have or asked.bounded)):
        # A piece was asked for, and this origin knows no ranges.
        return NoPieces("the origin ignores Range")
    if not state.have:
        return whole
    if state.validators.contradicts(answer.validators) or changed_length:
        # §13.1.5: If-Range was false; this is the new version, from its first byte.
        if state.restarts >= MAX_RESTARTS:
            return restart(state, "the object changed again")
        if state.validators.agrees(answer.validators):
            # Two lengths under the same ETag: one of the two answers is wrong. Ask once more before believing this one.
            return restart(state, f"the object changed its length to {total} bytes under the same validator")
        return replace(whole, fresh=True)
    if asked.first is not None and asked.validator_kind < ValidatorKind.PLAIN:
        # Nothing says that the object changed, yet the whole body came: this origin mishandles If-Range, or knows no
        # ranges. Trying the next kind of validator costs one request; reading everything again may take a day.
        return AskAgain(
            f"the origin answered If-Range by {asked.validator_kind.name.lower()} with everything",
            validator_kind=_weaker_kind(state, asked.validator_kind),
        )
    # No ranges here (§14.2 allows that). The body is compared with the disk as it comes: that takes time, and the
    # result is right even if the object did change.
    flags = whole.flags | {"no-range"} if asked.first is not None else whole.flags
    return replace(whole, flags=flags)


def _weaker_kind(state: PartState, validator_kind: ValidatorKind) -> ValidatorKind:
    if validator_kind == ValidatorKind.ETAG and state.validators.strong_date:
        return ValidatorKind.DATE
    return ValidatorKind.PLAIN


def _judge_416(state: PartState, asked: Ask, answer: Answer, expected: Expected) -> Verdict:
    """RFC 9110 §15.5.17. Its body is never written."""
    piece = answer.content_range
    if piece is None or piece.first is not None or piece.total is None:
        return LearnLength("416 without the object's length")
    return judge_length(state, asked, piece.total, answer.validators, expected)


def judge_length(
    state: PartState, asked: Ask, length: int, validators: Validators, expected: Expected = Expected()
) -> Complete | Restart | AskAgain | Fail:
    """The object has `length` bytes, says a 416 or the HEAD after one, and gave no body."""
    if state.validators.contradicts(validators):
        return restart(state, "the object changed (other validator)")
    if state.total is not None and length != state.total:
        return restart(state, f"the object changed its length from {state.total} to {length} bytes")
    if length < state.have.end:
        return restart(state, f"the object has {length} bytes, fewer than are on disk")
    if state.have.holds(0, length) and (
        state.validators.agrees(validators) or expected.has_digest or (asked.first or 0) >= length
    ):
        # §15.5.17 with nothing left to ask for. A 416 for bytes that do exist proves the length only where a validator
        # or a hash shows that the bytes are right.
        return Complete(length)
    return without_range(state, f"416 for byte {asked.first} of an object of {length}", "bad_range")


def _judge_status(answer: Answer) -> Fail:
    status = answer.status
    if status == 407:
        error = proxy_auth(status)
    elif 300 <= status < 400:
        error = AttemptError(f"a redirect that cannot be followed ({status})", code="redirect", http_status=status)
    elif status == 202:
        error = AttemptError(
            "the origin accepted the request and has no file yet (202)", code="not_yet", http_status=202
        )
    else:
        error = AttemptError(
            f"the origin answered {status}",
            code=f"http_{status}",
            http_status=status,
            origin_wide=status in ORIGIN_WIDE,
        )
    return Fail(error)


def restart(state: PartState, why: str) -> Restart | Fail:
    """Begin the file anew, because its bytes are of another version; not more often than MAX_RESTARTS."""
    if state.restarts >= MAX_RESTARTS:
        return Fail(AttemptError(f"{why}; it was begun anew {MAX_RESTARTS} times already", code="unstable"))
    return Restart(why)


def without_range(state: PartState, why: str, code: str) -> AskAgain | Fail:
    """Refuse this answer; ask once for everything, and compare it with the disk as it passes."""
    if state.without_range:
        return Fail(AttemptError(why, code=code))
    return AskAgain(why, without_range=True)


def _refuse_size(total: int | None, answer: Answer, expected: Expected) -> Fail | None:
    if expected.size is None or total is None or total == expected.size:
        return None
    if answer.encoding and answer.status == 200 and not answer.has_content_range:
        what = f"{total} bytes in Content-Encoding {answer.encoding}"
    else:
        what = f"{total} bytes"
    error = AttemptError(
        f"the origin offers {what}, {expected.size_by} says {expected.size}",
        code="size_mismatch",
        http_status=answer.status,
    )
    return Fail(error, flags=_flags(answer))


def _refuse_html(total: int | None, answer: Answer, expected: Expected) -> Fail | None:
    """A web page came where a file was expected, such as a login page, which must not get the file's name.

    It may come in ranges, too: a login page may be a plain file of its server.
    """
    if answer.media_type not in HTML_TYPES or expected.has_digest or expected.pages:
        return None
    if expected.size is not None and total == expected.size:
        return None
    if expected.name.lower().endswith(HTML_NAMES) or expected.url_path.lower().endswith((*HTML_NAMES, "/")):
        return None
    error = AttemptError(
        f"the origin sent a page ({answer.media_type}) where a file was expected (login, error or landing page?)",
        code="html",
        http_status=answer.status,
    )
    return Fail(error)


def learn_meaning(error: AttemptError, meaning: Meaning) -> None:
    """Notes what a refusal means. A challenge for browsers gets the code `bot_challenge`, whatever its status; a port
    that wants TLS gets `wants_tls`."""
    error.meaning = meaning
    if meaning is Meaning.CHALLENGE:
        what = f"a challenge that only a browser can answer stands before the file ({error.http_status})"
        _name(error, AttemptError(what, code="bot_challenge"))
    elif meaning is Meaning.TLS:
        what = f"the port speaks TLS, and the URL begins with http:// ({error.http_status})"
        _name(error, AttemptError(what, code="wants_tls"))


def _name(error: AttemptError, named: AttemptError) -> None:
    error.code, error.kind, error.message = named.code, named.kind, named.message


def explains(error: AttemptError) -> bool:
    """True when the body of the answer is a text about the error, not a file that was refused for its size."""
    return error.http_status is not None and error.code != "size_mismatch"


def _flags(answer: Answer) -> frozenset[str]:
    return frozenset({"encoded"}) if answer.encoding else frozenset()


# --------------------------------------------------------------------------------------------- 3. how a body ended


class End(enum.Enum):
    """How the body of an answer ended, as the wire saw it."""

    FRAMED = "framed"  # at its Content-Length or its last chunk (RFC 9112 §6.3)
    NOTIFIED = "notified"  # delimited by close, over TLS, with close_notify: complete (RFC 9112 §9.8)
    CLOSED = "closed"  # delimited by close, nothing proves that this was all (RFC 9112 §8)
    CUT = "cut"  # we closed the connection: all that was wanted is here
    LOST = "lost"  # the connection broke, or the framing is unfinished (RFC 9112 §8)


class Ending(Struct, frozen=True):
    """What we have after a body: `total` when its end tells the object's length, `unproven` when that is a guess."""

    total: int | None = None
    unproven: bool = False
    error: AttemptError | None = None


def ending(verdict: Write, end: End, reached: int) -> Ending:
    """`reached`: offset after the last byte taken. Without an error the piece that the verdict promised is here."""
    if verdict.end is not None:
        if reached >= verdict.end:
            return Ending(total=verdict.total)
        return Ending(error=AttemptError(f"the body ended at byte {reached} of {verdict.end}", code="lost"))
    if end in (End.FRAMED, End.NOTIFIED):
        return Ending(total=verdict.total if verdict.total is not None else reached)
    if end is End.CLOSED and verdict.total is None:
        return Ending(total=reached, unproven=True)
    return Ending(error=AttemptError(f"the connection was lost at byte {reached}", code="lost"))


# ------------------------------------------------------------------------------------------------------- small print


def length_of(text: str) -> int | None:
    """The number of bytes that decimal digits name; None for anything else, and for more than a file can ever have."""
    digits = text.lstrip("0")
    if not (text.isascii() and text.isdecimal()) or len(digits) > len(str(LENGTH_MAX_BYTES)):
        return None
    return number if (number := int(digits or "0")) <= LENGTH_MAX_BYTES else None


def http_date(text: str | None) -> float | None:
    """Seconds since the epoch of an HTTP-date (RFC 9110 §5.6.7), None when it is none."""
    if not text:
        return None
    try:
        from email.utils import parsedate_to_datetime  # imported only where a date is read: many files have an ETag

        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def join_headers(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Lower-case names; values of repeated fields joined by ', ' (RFC 9110 §5.3)."""
    joined: dict[str, str] = {}
    for name, value in pairs:
        key = name.lower()
        joined[key] = f"{joined[key]}, {value}" if key in joined else value
    return joined
