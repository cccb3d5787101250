"""The hosts of a world: what each answers, when, and how its bytes flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bulkspider.errors import AttemptError
from bulkspider.protocol.plan import Answer, Ask, ContentRange, Validators
from support.world.plans import EntryPlan, HostPlan, Outage

# When a system asks again for a connection that nobody answers (seconds after the first time).
ASKED_AGAIN = (1.0, 3.0, 7.0, 15.0, 31.0, 63.0)
# What a broken connection takes with it: bytes that were sent and never read.
LOST_BYTES = 64 * 1024
WHY = {
    "own": "<Error><Code>AccessDenied</Code></Error>",
    "expired": "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>",
    "missing": "<Error><Code>NoSuchKey</Code></Error>",
}


@dataclass(frozen=True)
class Wait:
    """Nothing comes for so many seconds; then it is to be asked again (`error` None), or that is the end of it."""

    seconds: float
    error: AttemptError | None = None


@dataclass
class Said:
    """The head of an answer, after `seconds`, and what follows it. version: of the bytes. breaks_at: the byte at which
    the connection breaks. body: text of a refusal. fields: header fields that `Answer` does not hold."""

    seconds: float
    answer: Answer
    version: int = 0
    breaks_at: int | None = None
    body: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


class Host:
    """requests: (when, which file). flows: since when and until when a body came, and of which file. sent: bytes that it sent.
    open: connections."""

    def __init__(self, plan: HostPlan, entries: dict[str, EntryPlan], options: dict[str, float]) -> None:
        self.plan = plan
        self.requests: list[tuple[float, str]] = []
        self.flows: list[tuple[float, float, str]] = []
        self.empty: set[tuple[float, float, str]] = set()  # those of `flows` that brought nothing
        self.sent = 0
        self.open = 0
        self._entries = entries
        self._options = options
        self._first_asked: dict[str, float] = {}

    def outage(self, now: float) -> Outage | None:
        return next((outage for outage in self.plan.outages if outage.start <= now < outage.end), None)

    def next_outage(self, now: float) -> float:
        """When the connections break that flow now."""
        starts = [o.start for o in self.plan.outages if o.start > now and not isinstance(o.how, int)]
        return min(starts, default=float("inf"))

    def version(self, now: float) -> int:
        return sum(change <= now for change in self.plan.changes)

    def link_is_good(self, issued: float, now: float) -> bool:
        return self.plan.expires is None or now - issued < self.plan.expires

    def meets(self, now: float, asked_for: str, waited: float, *, first: bool = True) -> Wait | Said:
        """What a request meets before anybody looks at what it asks for. waited: seconds without an answer so far."""
        plan, outage = self.plan, self.outage(now)
        if first:
            self.requests.append((now, asked_for))
        if outage is not None:
            match outage.how:
                case "black":
                    again = next((at for at in ASKED_AGAIN if at > waited), 1e9)
                    left = self._options["connect_timeout"] - waited
                    if again - waited >= left:
                        return Wait(left, AttemptError("no connection", code="connect", origin_wide=True))
                    return Wait(again - waited)
                case "silent":
                    return Wait(self._options["headers_timeout"], AttemptError("no answer", code="headers_timeout"))
                case int():
                    return self._refusal(outage.how, outage.retry_after)
                case how:
                    return Wait(plan.latency, _broken(how))
        if plan.limit is not None and self.open > plan.limit.most:
            if isinstance(plan.limit.how, int):
                return self._refusal(plan.limit.how, plan.limit.retry_after)
            return Wait(plan.latency, _broken(plan.limit.how))
        if plan.rate is not None:
            recent = [at for at, _ in self.requests[-plan.rate.most - 1 :] if at > now - plan.rate.seconds]
            if len(recent) > plan.rate.most:
                return self._refusal(plan.rate.status, plan.rate.retry_after)
        return Wait(0.0)

    def answers(self, now: float, name: str, asked: Ask, issued: float) -> Said:
        """What is said to a request that nothing stands against."""
        plan, entry = self.plan, self._entries[name]
        if not self.link_is_good(issued, now):
            return self._refusal(403, None, "expired")
        if now - self._first_asked.setdefault(name, now) < entry.later:
            return self._refusal(202, None)
        if entry.fate is not None:
            if entry.fate == "challenge":
                said = self._refusal(202, None)
                said.fields = {"x-amzn-waf-action": "challenge"}
                return said
            return self._refusal(403 if entry.fate == "own" else int(entry.fate), None, str(entry.fate))
        version, total = self.version(now), entry.size
        tag = f'"{name}-{version}"'
        validators = Validators({"strong": tag, "weak": "W/" + tag, "none": None}[plan.etag])
        first, end = 0, total
        whole = (
            asked.first is None or plan.ranges == "none" or (plan.ranges == "if-range" and asked.if_range is not None)
        )
        if not whole and asked.if_range not in (None, tag):
            whole = True
        if whole:
            said = Said(plan.latency, Answer(200, total, validators=validators), version)
        else:
            first = asked.first or 0
            end = total if asked.end is None else min(asked.end, total)
            if first >= total:
                found = ContentRange(None, None, total)
                return Said(plan.latency, Answer(416, 0, content_range=found, has_content_range=True), version)
            if plan.ranges == "short":
                end = min(end, first + max(200_000, total // 3))
            told = total + 1 if plan.ranges == "total" and len(self.requests) % 5 == 0 else total
            found = ContentRange(first, end, told)
            answer = Answer(206, end - first, content_range=found, has_content_range=True, validators=validators)
            said = Said(plan.latency, answer, version)
        if plan.burst is not None and end - first > plan.burst:
            said.breaks_at = first + max(1, plan.burst - LOST_BYTES)
        return said

    def _refusal(self, status: int, retry_after: float | None, why: str = "") -> Said:
        told = None if retry_after is None else f"{retry_after:.0f}"
        return Said(self.plan.latency, Answer(status, 100, retry_after=told), body=WHY.get(why, ""))


def _broken(how: str | int) -> AttemptError:
    if how == "refused":
        return AttemptError("the connection was refused", code="refused", origin_wide=True)
    if how == "dns":
        return AttemptError("the host name was not found", code="dns", origin_wide=True)
    return AttemptError("the connection was lost before the answer", code="lost")
