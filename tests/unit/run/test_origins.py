"""Origins, by table and by property: no time passes here, it is passed in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkspider.errors import AttemptError, BulkError, DiskError
from bulkspider.hosts.budget import Budget
from bulkspider.hosts.limits import parse_retry_after
from bulkspider.hosts.outage import STRANGER_PATIENCE_SECONDS
from bulkspider.options import Options
from bulkspider.run.origins.origin import Origin
from bulkspider.run.origins.origins import Origins
from bulkspider.run.origins.outcome import Again, Fetched, GiveUp, Outcome

OPTIONS = Options(retry_delay=1.0, retry_delay_max=300.0, retry_after_max=3600.0, origin_patience=3600.0)
A = "a.example:443"

LOST = AttemptError("the connection was lost", code="lost")
REFUSED = AttemptError("the connection was refused", code="refused", origin_wide=True)
GONE = AttemptError("the origin answered 404", code="http_404", http_status=404)
BROKEN = AttemptError("the origin answered 500", code="http_500", http_status=500, origin_wide=True)
FINAL = AttemptError("a page", code="html", http_status=200)
NO_SPACE = AttemptError("no room", code="no_space")


def busy(retry_after: float | None, code: int = 503) -> AttemptError:
    return AttemptError("busy", code=f"http_{code}", http_status=code, origin_wide=True, retry_after=retry_after)


def origin(jitter: float = 1.0, **options: float) -> Origin:
    """One that has answered, and served nothing yet."""
    one = Origin(A, replace(OPTIONS, **options), jitter=lambda: jitter)  # type: ignore[arg-type]
    one.heard(404, -1000.0)
    return one


# --- What follows from one outcome ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "follows"),
    [
        pytest.param(Outcome(fetched=True, grew=True), Fetched(), id="all-is-here"),
        pytest.param(Outcome(fetched=True), Fetched(), id="nothing-was-missing"),
        pytest.param(Outcome(), Again(100.0), id="more-to-ask-for"),
        pytest.param(Outcome(grew=True, error=LOST), Again(100.0), id="lost-with-progress-goes-on-at-once"),
        pytest.param(Outcome(error=LOST), Again(101.0), id="lost-without-progress-waits"),
        pytest.param(Outcome(grew=True, error=REFUSED), Again(100.0), id="progress-is-no-outage"),
        pytest.param(Outcome(error=REFUSED), Again(101.0), id="refused"),
        pytest.param(Outcome(error=GONE), GiveUp(GONE), id="permanent"),
        pytest.param(Outcome(grew=True, error=GONE), GiveUp(GONE), id="permanent-in-the-middle"),
        pytest.param(Outcome(error=FINAL), GiveUp(FINAL), id="final"),
        pytest.param(Outcome(error=NO_SPACE), Again(100.0), id="room-on-the-disk-costs-nothing"),
        pytest.param(Outcome(error=busy(7)), Again(107.0), id="retry-after"),
        pytest.param(Outcome(error=busy(7, 429)), Again(107.0), id="retry-after-429"),
        pytest.param(Outcome(error=busy(None)), Again(101.0), id="busy-without-retry-after"),
        pytest.param(Outcome(error=busy(0)), Again(101.0), id="retry-after-0-is-stretched"),
        pytest.param(Outcome(error=busy(99_999)), Again(3700.0), id="retry-after-is-capped"),
        pytest.param(Outcome(grew=True, error=busy(7)), Again(100.0), id="busy-after-progress"),
    ],
)
def test_what_follows(outcome: Outcome, follows: Again | GiveUp | Fetched) -> None:
    assert origin().after(outcome, Budget(limit=10), 100.0) == follows


def test_errors_that_are_no_attempts_are_final() -> None:
    disk = DiskError("full", code="disk_full")
    assert origin().after(Outcome(error=disk), Budget(), 0) == GiveUp(disk)
    assert isinstance(origin().after(Outcome(error=BulkError("x")), Budget(), 0), GiveUp)


def test_a_host_behind_a_redirect_that_is_down_is_no_outage_of_one_that_sends_others_elsewhere() -> None:
    one, budget = origin(), Budget()
    refused = AttemptError("the connection was refused", code="refused", origin_wide=True)
    refused.redirected_to = "mirror.example:443"
    one.heard(206, 10.0, by="cdn.example:443")
    assert isinstance(one.after(Outcome(error=refused), budget, 20.0), Again)
    assert one.outage.since is None
    assert one.outage.closed_until <= 20.0
    for second in range(1, 100):
        if isinstance(one.after(Outcome(error=refused), budget, 20.0 + second), GiveUp):
            break
    assert budget.is_spent


def test_a_host_to_which_all_are_sent_is_waited_for() -> None:
    one, budget = origin(), Budget()
    refused = AttemptError("the connection was refused", code="refused", origin_wide=True)
    refused.redirected_to = "cdn.example:443"
    one.heard(206, 10.0, by="cdn.example:443")
    assert isinstance(one.after(Outcome(error=refused), budget, 20.0), Again)
    assert one.outage.since == 20.0
    assert not budget.fruitless


# --- Budgets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 3, 10])
def test_attempts_without_progress_run_out(limit: int) -> None:
    one, budget = origin(), Budget(limit=limit)
    for number in range(limit):
        assert isinstance(one.after(Outcome(error=LOST), budget, number), Again)
    assert one.after(Outcome(error=LOST), budget, limit) == GiveUp(LOST)


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=200), st.integers(0, 5))
def test_only_attempts_in_a_row_without_progress_count(grew: list[bool], limit: int) -> None:
    one, budget, row, now = origin(), Budget(limit=limit), 0, 0.0
    for progress in grew:
        row = 0 if progress else row + 1
        now += 1.0
        one.moved(now)  # others are served, or the failure would be the origin's
        follows = one.after(Outcome(grew=progress, error=LOST), budget, now)
        assert isinstance(follows, GiveUp if row > limit else Again)
        if row > limit:
            return


@settings(deadline=None)
@given(st.lists(st.sampled_from([REFUSED, busy(1), busy(600, 429), NO_SPACE]), max_size=300))
def test_waiting_for_an_origin_or_for_room_costs_no_retry(errors: list[AttemptError]) -> None:
    one, budget = origin(), Budget(limit=0)
    for number, error in enumerate(errors):
        assert isinstance(one.after(Outcome(error=error), budget, float(number)), Again)
    assert budget.fruitless == 0


def test_an_entry_that_alone_gets_500_spends_its_own_budget() -> None:
    one, budget = origin(), Budget(limit=2)
    for now in (10.0, 20.0):
        one.moved(now)
        assert isinstance(one.after(Outcome(error=BROKEN), budget, now), Again)
        assert one.allows(now), "its origin works"
    one.moved(30.0)
    assert one.after(Outcome(error=BROKEN), budget, 30.0) == GiveUp(BROKEN)


# --- Back-off ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(jitter=st.floats(0, 1), delay=st.floats(0.01, 10), most=st.floats(0.01, 1000), failures=st.integers(1, 80))
def test_back_off_is_exponential_with_full_jitter_between_its_bounds(
    jitter: float, delay: float, most: float, failures: int
) -> None:
    one = origin(jitter, retry_delay=delay, retry_delay_max=most, origin_patience=1e9)
    budget, now = Budget(limit=1000), 0.0
    for number in range(failures):
        follows = one.after(Outcome(error=LOST), budget, now)
        assert isinstance(follows, Again)
        ceiling = min(most, delay * 2.0 ** min(number, 60))
        assert follows.at - now == pytest.approx(ceiling * jitter, abs=1e-6 * (1 + now))
        now = follows.at


@settings(deadline=None)
@given(jitter=st.floats(0, 1), most=st.floats(1, 1000), length=st.floats(0, 500))
def test_a_probe_follows_soon_after_a_short_outage_and_within_a_tenth_of_a_long_one(
    jitter: float, most: float, length: float
) -> None:
    one, now = origin(jitter, retry_delay_max=most, origin_patience=1e9), 0.0
    while now <= length:
        follows = one.after(Outcome(error=REFUSED), Budget(), now)
        assert isinstance(follows, Again)
        assert 0.5 <= follows.at - now <= max(1.0, min(most, now / 10)) + 1e-6
        now = follows.at


def test_sixteen_refusals_in_one_instant_are_one_failure() -> None:
    one = origin()
    for _ in range(16):
        one.after(Outcome(error=REFUSED), Budget(), 50.0, 49.9)
    assert one.outage.closed_until == 51.0


def test_jitter_keeps_clients_out_of_step() -> None:
    waits = set()
    for _ in range(20):
        one = Origins(OPTIONS)[A]
        one.heard(404, -1000.0)
        waits.add(one.after(Outcome(error=LOST), Budget(fruitless=5, limit=10), 0.0))
    assert len(waits) > 10
    assert all(isinstance(wait, Again) and 0 <= wait.at <= 32 for wait in waits)


# --- Origins ----------------------------------------------------------------------------------------------------------


def test_an_outage_shuts_its_origin_alone_and_lets_one_probe_through_at_a_time() -> None:
    origins = Origins(OPTIONS, jitter=lambda: 1.0)
    one = origins[A]
    one.heard(200, 0.0)
    for _ in range(8):  # all that was under way when it went down
        one.begins(5.0)
    for _ in range(8):
        one.after(Outcome(error=REFUSED), Budget(), 10.0, 5.0)
    opening = origins.next_opening(10.0)
    assert opening is not None
    assert not one.allows(opening - 0.001)
    assert origins["b.example:443"].allows(10.0)
    assert [origin.name for origin in origins if not origin.allows(10.0)] == [A]

    one.begins(opening)
    assert not one.allows(opening), "a second probe"
    one.after(Outcome(error=REFUSED), Budget(), opening + 1, opening)
    later = origins.next_opening(opening + 1)
    assert later is not None
    assert later > opening + 1

    one.begins(later)
    one.after(Outcome(grew=True, error=LOST), Budget(), later + 1, later)
    assert one.allows(later + 1), "one success frees all"
    one.begins(later + 1)
    assert one.allows(later + 1)


@settings(deadline=None)
@given(st.data())
def test_never_two_probes_at_once_and_never_before_the_time(data: st.DataObject) -> None:
    one, now, known_down = origin(data.draw(st.floats(0, 1)), retry_delay=0.5), 0.0, False
    out: list[float] = []
    opens = served = 0.0
    for _ in range(data.draw(st.integers(1, 60))):
        now += data.draw(st.floats(0.01, 5))
        if one.allows(now) and data.draw(st.booleans()):
            if known_down:
                assert out == []
                assert now >= opens
            one.begins(now)
            out.append(now)
        elif out:
            begun = out.pop()
            if data.draw(st.booleans()):
                error = data.draw(st.sampled_from([REFUSED, busy(3), busy(0.2)]))
                follows = one.after(Outcome(error=error), Budget(limit=1000), now, begun)
                assert isinstance(follows, Again)
                # Attempts that had begun before the outage do not count as probes.
                known_down = one.outage.since is not None and not out
                if error is REFUSED or begun >= served:  # else the host has served others meanwhile: it is the entry's
                    opens = max(opens, follows.at)
            else:
                one.after(Outcome(fetched=True, grew=True), Budget(), now, begun)
                known_down, served = False, now


def test_retry_after_holds_for_the_origin_until_its_time_and_no_longer() -> None:
    one = origin()
    one.after(Outcome(error=busy(20)), Budget(), 100.0)
    one.after(Outcome(error=busy(5)), Budget(), 101.0)
    assert not one.allows(119.9), "a shorter wait does not take back a longer one"
    assert one.allows(120.0)
    assert one.closed(101.0) == (120.0, "busy")


@pytest.mark.parametrize(
    ("served", "error", "patience", "given_up_after"),
    [
        (False, REFUSED, 3600.0, STRANGER_PATIENCE_SECONDS),
        (False, REFUSED, 10.0, 10.0),
        (True, REFUSED, 3600.0, 3600.0),
        (True, REFUSED, 10.0, 10.0),
        (False, busy(5), 3600.0, 3600.0),
        (False, BROKEN, 3600.0, STRANGER_PATIENCE_SECONDS),
    ],
    ids=["stranger", "stranger-short", "known", "known-short", "told-us-to-wait", "stranger-500"],
)
def test_patience_ends(served: bool, error: AttemptError, patience: float, given_up_after: float) -> None:
    one = origin(0.0, origin_patience=patience)
    if served:
        one.served()
    for _ in range(3):  # one entry alone may be at fault itself
        one.after(Outcome(error=error), Budget(limit=1000), 1000.0)
    one.after(Outcome(error=error), Budget(limit=1000), 1000.0 + given_up_after / 2)
    assert one.given_up(1000.0 + given_up_after - 0.1) is None
    given = one.given_up(1000.0 + given_up_after)
    assert given is not None
    assert (given.code, given.permanent) == ("origin_down", False)
    assert A in given.message


def test_the_last_pass_forgives_and_a_new_outage_counts_from_its_own_beginning() -> None:
    one = origin()
    one.after(Outcome(error=busy(600)), Budget(), 0.0)
    one.forgive()
    assert one.allows(1.0)
    assert one.given_up(1e9) is None
    one.after(Outcome(error=REFUSED), Budget(), 5000.0)
    assert one.given_up(5000.0 + STRANGER_PATIENCE_SECONDS - 1) is None


@pytest.mark.parametrize(
    "answered", [lambda one: one.heard(206, 9.0), lambda one: one.moved(9.0)], ids=["head", "bytes"]
)
def test_an_answer_ends_an_outage(answered: Callable[[Origin], None]) -> None:
    one = origin()
    one.after(Outcome(error=REFUSED), Budget(), 0.0)
    one.begins(1.0)
    answered(one)
    assert one.given_up(1e9) is None
    assert one.allows(1e9)


def test_a_probe_that_gets_a_plain_404_shows_that_the_origin_is_up() -> None:
    one = origin()
    one.after(Outcome(error=REFUSED), Budget(), 0.0)
    one.begins(9.0)
    one.after(Outcome(error=GONE), Budget(), 10.0, 9.0)
    assert one.allows(10.0)
    one.begins(10.0)
    assert one.allows(10.0)


# --- Retry-After, further connections, statistics ----------------------------------------------------------------------

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("²", None),  # byte B2 of a header, which is a digit and no decimal
        ("Thu, 99 Foo 2024", None),
        ("9" * 400, float("inf")),
    ],
)
def test_retry_after_of_either_form(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, NOW) == seconds


@settings(deadline=None)
@given(st.text(max_size=40))
def test_no_retry_after_raises(text: str) -> None:
    seconds = parse_retry_after(text, NOW)
    assert seconds is None or seconds >= 0


def test_a_refused_further_connection_is_remembered_and_is_no_outage() -> None:
    one = origin(retry_after_max=10)
    one.connections = 3
    assert one.allows_more(0.0)
    one.refuses_more(AttemptError("busy", code="http_503", http_status=503, origin_wide=True), 0.0)
    assert not one.allows_more(100.0)
    assert one.allows(0.0), "entries may begin as before"
    one.connections = 2
    assert one.allows_more(0.0)
    one.connections = 5
    one.refuses_more(AttemptError("busy", code="http_429", http_status=429, retry_after=60.0), 0.0)
    one.connections = 3
    assert not one.allows_more(100.0), "the smallest number counts"
    assert not one.allows(9.9)
    assert one.allows(10.0)


def test_an_origin_tells_what_is_known_of_it_as_plain_data() -> None:
    one = origin()
    one.after(Outcome(error=busy(20)), Budget(), 100.0)
    one.brought(10.0)
    one.brought(30.0)
    told = one.statistics()
    assert json.loads(json.dumps(told)) == told
    assert (told["origin"], told["closed_until"], told["usual_speed"]) == (A, 120.0, 20.0)
