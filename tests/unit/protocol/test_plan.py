"""The plan: its table row by row, and what must hold for any sequence of answers."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bulkspider.protocol import plan
from bulkspider.protocol.plan import (
    Answer,
    Ask,
    AskAgain,
    Complete,
    ContentRange,
    End,
    Expected,
    Fail,
    LearnLength,
    PartState,
    Restart,
    ValidatorKind,
    Validators,
    Verdict,
    Write,
)
from bulkspider.protocol.ranges import Ranges

OLD, NOW = "Mon, 01 Jan 2024 00:00:00 GMT", "Tue, 02 Jan 2024 00:00:00 GMT"
V1 = Validators('"v1"', OLD, NOW)
V2 = Validators('"v2"', NOW, NOW)
OVERLAP = 10


def state(have: int = 100, total: int | None = 1000, validators: Validators = V1, **more: object) -> PartState:
    return PartState(Ranges([(0, have)]), total, validators, **more)  # type: ignore[arg-type]


def answer(status: int = 206, content_range: str | None = "bytes 90-999/1000", **fields: str) -> Answer:
    headers = {"etag": '"v1"', "last-modified": OLD, "date": NOW}
    headers |= {name.replace("_", "-"): value for name, value in fields.items()}
    if content_range is not None:
        headers["content-range"] = content_range
    length = headers.pop("length", None)
    return Answer.parse(status, {k: v for k, v in headers.items() if v}, length=int(length) if length else None)


def judge(part: PartState, got: Answer, expected: Expected = Expected()) -> Verdict:
    return plan.judge(part, plan.ask(part, overlap=OVERLAP), got, expected)


def written(verdict: Verdict) -> Write:
    assert isinstance(verdict, Write)
    return verdict


@pytest.mark.parametrize(
    ("part", "headers"),
    [
        (PartState(), {}),
        (state(), {"Range": "bytes=90-", "If-Range": '"v1"'}),
        # RFC 9110 §13.1.5: never a weak tag; a date only without a strong tag, and only a strong date.
        (state(validators=Validators('W/"v1"', None, NOW)), {"Range": "bytes=90-"}),
        (state(validators=Validators('W/"v1"', OLD, NOW)), {"Range": "bytes=90-", "If-Range": OLD}),
        (state(validators=Validators(None, OLD, NOW)), {"Range": "bytes=90-", "If-Range": OLD}),
        (state(validators=Validators(None, NOW, NOW)), {"Range": "bytes=90-"}),
        (state(validator_kind=ValidatorKind.DATE), {"Range": "bytes=90-", "If-Range": OLD}),
        (state(validator_kind=ValidatorKind.PLAIN), {"Range": "bytes=90-"}),
        (state(without_range=True), {}),
        (state(have=OVERLAP), {}),
        (state(have=1000), {"Range": "bytes=990-", "If-Range": '"v1"'}),
    ],
)
def test_what_is_asked(part: PartState, headers: dict[str, str]) -> None:
    asked = plan.ask(part, overlap=OVERLAP).headers()
    assert asked.pop("Accept-Encoding") == "identity"
    assert asked == headers


@pytest.mark.parametrize(
    ("breaks", "breaks_after", "compared"),
    [
        (0, 0, 65_536),
        (1, 200_000, 65_536),
        (2, 200_000, 25_000),
        (1, 130_000, 16_250),
        (1, 65_536, 8_192),
        (9, 34_464, 4_308),
        (9, 2_000, 1_024),
        (9, 16 << 20, 65_536),
    ],
)
def test_where_connections_break_early_less_is_compared(breaks: int, breaks_after: int, compared: int) -> None:
    assert plan.overlap_after(breaks, breaks_after, 65_536) == compared
    assert plan.overlap_after(breaks, breaks_after, 100) == 100, "never more than BULK_RESUME_OVERLAP"


def test_a_hole_is_asked_for_up_to_the_next_byte_held() -> None:
    part = PartState(Ranges([(0, 100), (200, 300)]), 1000, V1)
    asked = plan.ask(part, overlap=OVERLAP, end=part.have.next_after(100))
    assert asked.headers()["Range"] == "bytes=90-199"
    assert plan.ask(part, overlap=OVERLAP, first=300).headers()["Range"] == "bytes=290-"
    assert plan.ask(part, overlap=500, first=300).headers()["Range"] == "bytes=200-", "not into the hole before"


ROWS = [
    ("206 as asked", state(), answer(), Write, None),
    ("206, total unknown", state(), answer(content_range="bytes 90-999/*"), Write, None),
    ("206, honest but short (§15.3.7)", state(), answer(content_range="bytes 90-499/1000"), Write, None),
    ("206 that starts early", state(), answer(content_range="bytes 50-999/1000"), Write, None),
    ("206 that starts late", state(), answer(content_range="bytes 101-999/1000"), AskAgain, None),
    ("206 without the bytes to compare", state(), answer(content_range="bytes 100-999/1000"), Write, None),
    (
        "206 without the bytes to compare, and without a validator",
        state(),
        answer(content_range="bytes 100-999/1000", etag="", last_modified=""),
        AskAgain,
        None,
    ),
    ("206 that ends before what we miss", state(), answer(content_range="bytes 90-99/1000"), AskAgain, None),
    ("206 without Content-Range", state(), answer(content_range=None), AskAgain, None),
    (
        "206 with garbage as Content-Range (§14.4)",
        state(),
        answer(content_range="bytes 999-90/1000"),
        AskAgain,
        None,
    ),
    ("206 in another unit", state(), answer(content_range="lines 90-999/1000"), AskAgain, None),
    (
        "multipart/byteranges (§15.3.7.2)",
        state(),
        answer(content_range=None, content_type="multipart/byteranges; boundary=x"),
        AskAgain,
        None,
    ),
    (
        "the same without Range already tried",
        state(without_range=True),
        answer(content_range=None),
        Fail,
        "bad_range",
    ),
    ("206 of another version (§15.3.7.3)", state(), answer(etag='"v2"'), Restart, None),
    ("206, weak tags that differ", state(validators=Validators('W/"v1"')), answer(etag='W/"v2"'), Restart, None),
    (
        "206, no tags, other date",
        state(validators=Validators(None, OLD)),
        answer(etag="", last_modified=NOW),
        Restart,
        None,
    ),
    ("206, other total", state(), answer(content_range="bytes 90-1999/2000"), Restart, None),
    ("206, fewer bytes than on disk", state(total=None), answer(content_range="bytes 90-94/95"), Restart, None),
    ("the third change", state(restarts=2), answer(etag='"v2"'), Fail, "unstable"),
    ("200 of another version", state(), answer(200, None, etag='"v2"', length="1000"), Write, None),
    (
        "200, other length, no validator",
        state(),
        answer(200, None, etag="", last_modified="", length="900"),
        Write,
        None,
    ),
    ("200, other length under the same ETag", state(), answer(200, None, length="900"), Restart, None),
    ("200, third change", state(restarts=2), answer(200, None, etag='"v2"', length="1000"), Fail, "unstable"),
    ("200 of the same version to If-Range", state(), answer(200, None, length="1000"), AskAgain, None),
    (
        "200 of the same version to a plain Range",
        state(validator_kind=ValidatorKind.PLAIN),
        answer(200, None, length="1000"),
        Write,
        None,
    ),
    ("200 that carries the slice", state(), answer(200, length="910"), Write, None),
    ("416, complete", state(have=1000, total=None), answer(416, "bytes */1000"), Complete, None),
    ("416, the object shrank", state(total=None), answer(416, "bytes */50"), Restart, None),
    ("416 that contradicts itself", state(total=None), answer(416, "bytes */1000"), AskAgain, None),
    ("416 of another version", state(), answer(416, "bytes */1000", etag='"v2"'), Restart, None),
    ("416 without a length", state(), answer(416, None), LearnLength, None),
    ("404", state(), answer(404, None), Fail, "http_404"),
    ("503", state(), answer(503, None), Fail, "http_503"),
    ("204 is not success", state(), answer(204, None), Fail, "http_204"),
    ("302 without Location", state(), answer(302, None), Fail, "redirect"),
    (
        "a page where a file was expected",
        PartState(),
        answer(200, None, content_type="text/html", length="9"),
        Fail,
        "html",
    ),
]


@pytest.mark.parametrize(("part", "got", "kind", "code"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_the_table(part: PartState, got: Answer, kind: type[Verdict], code: str | None) -> None:
    verdict = judge(part, got, Expected(name="a.bin"))
    assert type(verdict) is kind
    assert (verdict.error.code if isinstance(verdict, Fail) else None) == code


def test_a_fresh_body_begins_at_byte_0_of_a_new_part() -> None:
    verdict = judge(state(), answer(200, None, etag='"v2"', length="1000"))
    assert verdict == Write(first=0, end=1000, total=1000, fresh=True)


def test_bytes_that_are_sent_again_are_compared_not_skipped() -> None:
    assert written(judge(state(), answer(content_range="bytes 50-999/1000"))).first == 50
    assert written(judge(state(validator_kind=ValidatorKind.PLAIN), answer(200, None, length="1000"))).first == 0


@pytest.mark.parametrize(
    ("status", "permanent"), [(404, True), (410, True), (451, True), (400, True), (418, False), (500, False)]
)
def test_what_is_final(status: int, permanent: bool) -> None:
    verdict = judge(PartState(), answer(status, None))
    assert isinstance(verdict, Fail)
    assert verdict.error.permanent is permanent


@pytest.mark.parametrize(
    ("expected", "refused"),
    [
        (Expected("a.bin", size=9), False),
        (Expected("a.bin", size=10), True),
        (Expected("a.html"), False),
        (Expected("a", url_path="/"), False),
        (Expected("a.bin", has_digest=True), False),
    ],
)
def test_a_page_is_taken_only_where_one_is_expected(expected: Expected, refused: bool) -> None:
    verdict = judge(PartState(), answer(200, None, content_type="text/html; charset=utf-8", length="9"), expected)
    assert isinstance(verdict, Fail) is refused


@pytest.mark.parametrize(
    ("end", "reached", "total", "unproven", "failed"),
    [
        (End.FRAMED, 500, 500, False, False),
        (End.NOTIFIED, 500, 500, False, False),
        (End.CLOSED, 500, 500, True, False),
        (End.LOST, 500, None, False, True),
    ],
)
def test_how_a_body_of_unknown_length_ends(
    end: End, reached: int, total: int | None, unproven: bool, failed: bool
) -> None:
    ending = plan.ending(Write(), end, reached)
    assert (ending.total, ending.unproven, ending.error is not None) == (total, unproven, failed)


@pytest.mark.parametrize("end", list(End))
def test_a_body_of_known_length_is_whole_when_its_last_byte_is_here(end: End) -> None:
    verdict = Write(end=500, total=500)
    assert plan.ending(verdict, end, 500).error is None
    assert plan.ending(verdict, end, 499).error is not None


@pytest.mark.parametrize("text", ["bytes 0-9/10", "bytes  0-9/*", "Bytes 0-0/1"])
def test_valid_content_ranges(text: str) -> None:
    assert ContentRange.parse(text) is not None


@pytest.mark.parametrize(
    "text", ["bytes 0-10/10", "bytes -5/10", "bytes 0-9", "0-9/10", "bytes 5-4/10", "bytes */*", ""]
)
def test_invalid_content_ranges(text: str) -> None:
    assert ContentRange.parse(text) is None


# ------------------------------------------------------------------------------- what holds for any sequence of answers

CONTENT = {
    1: bytes(range(200)),
    2: bytes(reversed(range(200))),
    3: bytes(range(150)),
    4: bytes(range(200)) + b"and more",
}


@dataclass
class Origin:
    """A server that serves one version per request and lies as its row of faults says."""

    versions: list[int]
    faults: list[str]
    cuts: list[int]
    tags: str
    served: int = 0
    log: list[str] = field(default_factory=list)

    def answer(self, asked: Ask) -> tuple[Answer, bytes, End, int]:
        turn, self.served = self.served, self.served + 1
        version = self.versions[min(turn, len(self.versions) - 1)]
        fault = self.faults[turn] if turn < len(self.faults) else "none"
        cut = self.cuts[turn] if turn < len(self.cuts) else 10_000
        body = CONTENT[version]
        tags = {"strong": f'"v{version}"', "weak": f'W/"v{version}"', "none": "", "each": f'"{turn}"'}[self.tags]
        headers = {"etag": tags} if tags else {}
        size = len(body)
        self.log.append(f"{asked.headers()} -> version {version}, {fault}, cut after {cut}")
        ranged = asked.first is not None and fault != "ignores range"
        if ranged and asked.if_range and (asked.if_range != tags or fault == "if-range never holds"):
            ranged = False
        if fault == "503":
            return Answer.parse(503, {}, length=0), b"", End.FRAMED, version
        if ranged and asked.first is not None:
            first = asked.first
            end = size if asked.end is None else min(size, asked.end)
            if first >= size:
                length = "" if fault == "no content-range" else f"bytes */{size}"
                return Answer.parse(416, headers | {"content-range": length}, length=0), b"", End.FRAMED, version
            if fault == "starts early":
                first = max(0, first - 7)
            if fault == "starts late":
                first = min(end - 1, first + 7)
            if fault == "short":
                end = max(first + 1, end - 30)
            if fault != "no content-range":
                headers["content-range"] = f"bytes {first}-{end - 1}/{size}"
            status, data = 206, body[first:end]
        else:
            status, data = 200, body
        sent = data[:cut]
        how = End.FRAMED if len(sent) == len(data) else End.LOST
        return Answer.parse(status, headers, length=len(data)), sent, how, version


class Disk:
    """A part in memory that does what `transfer/transfer.py` and `disk/part.py` do with a verdict."""

    def __init__(self) -> None:
        self.state = PartState()
        self.bytes = bytearray(400)

    def carry_out(self, verdict: Verdict, got: Answer, data: bytes, how: End) -> str:
        state = self.state
        match verdict:
            case Fail():
                return "failed"
            case Complete():
                return "fetched"
            case Restart():
                self.begin_anew()
                return "again"
            case AskAgain(validator_kind=validator_kind, without_range=without_range):
                state.validator_kind = state.validator_kind if validator_kind is None else validator_kind
                state.without_range |= without_range
                return "again"
            case Write(fresh=True):
                self.begin_anew()
            case Write():
                pass
            case _:
                return "again"
        state = self.state
        if not state.have:
            state.validators = got.validators
        state.total = verdict.total if verdict.total is not None else state.total
        at, known = verdict.first, state.have.copy()
        for byte in data[: None if verdict.end is None else verdict.end - verdict.first]:
            if known.holds(at, at + 1):
                if self.bytes[at] != byte:
                    again = plan.restart(state, "overlap")
                    if isinstance(again, Fail):
                        return "failed"
                    self.begin_anew()
                    return "again"
            else:
                self.bytes[at] = byte
                state.have.add(at, at + 1)
            at += 1
        ending = plan.ending(verdict, how, at)
        if ending.error is None and ending.total is not None:
            state.total = ending.total
        return "fetched" if state.complete else "again"

    def begin_anew(self) -> None:
        self.state = PartState(restarts=self.state.restarts + 1, validator_kind=self.state.validator_kind)


FAULTS = [
    "none",
    "ignores range",
    "if-range never holds",
    "starts early",
    "starts late",
    "short",
    "no content-range",
    "503",
]


@example(versions=[1, 1, 2], faults=["none", "none", "starts late"], cuts=[], tags="none", overlap=1, bound=100)
@settings(max_examples=400, deadline=None)
@given(
    versions=st.lists(st.sampled_from(list(CONTENT)), min_size=1, max_size=6),
    faults=st.lists(st.sampled_from(FAULTS), max_size=12),
    cuts=st.lists(st.integers(0, 250), max_size=12),
    tags=st.sampled_from(["strong", "each", "none"]),
    overlap=st.sampled_from([1, 10, 64, 500]),
    bound=st.sampled_from([0, 0, 40, 100, 300]),
)
def test_no_sequence_of_answers_mixes_versions_or_loops(
    versions: list[int], faults: list[str], cuts: list[int], tags: str, overlap: int, bound: int
) -> None:
    origin, disk = Origin(versions, faults, cuts, tags), Disk()
    attempts_left, result, most = 10, "again", 0
    for _ in range(400):
        end = disk.state.have.next_after(disk.state.have.front)
        asked = plan.ask(disk.state, overlap=overlap, end=end, most=bound)
        assert not bound or asked.length is None or asked.length <= bound
        got, data, how, _ = origin.answer(asked)
        result = disk.carry_out(plan.judge(disk.state, asked, got), got, data, how)
        if result == "fetched":
            break
        if disk.state.have.count > most:
            most, attempts_left = disk.state.have.count, 10
        else:
            attempts_left -= 1
        if attempts_left < 0 or (result == "failed" and got.status != 503):
            break
    else:
        pytest.fail("it never ends:\n" + "\n".join(origin.log))
    if result == "fetched":
        total = disk.state.total
        assert total is not None
        # Without validators an object that changes into one that agrees at every join cannot be told apart by
        # anybody; these versions differ in every byte, or share a prefix, so only the end may be compared there.
        whole = bytes(disk.bytes[:total])
        assert whole in CONTENT.values(), "\n".join(origin.log)


def test_an_unknown_length_is_not_a_reason_to_trust() -> None:
    part = replace(state(total=None))
    assert written(judge(part, answer(content_range="bytes 90-999/*"))).total is None
