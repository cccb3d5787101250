"""What a world is made of: drawn from a seed, printed as Python, and made smaller piece by piece."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

MIB = 1024 * 1024


@dataclass(frozen=True)
class Outage:
    """From `start` to `end` (seconds). how: refused, black (nothing answers), silent (accepts, never answers), dns,
    lost (closes at once), or the status that every request gets. retry_after: what such an answer says."""

    start: float
    end: float
    how: str | int
    retry_after: float | None = None


@dataclass(frozen=True)
class Limit:
    """More than `most` connections at once are refused, by `how`: refused, lost, or a status."""

    most: int
    how: str | int
    retry_after: float | None = None


@dataclass(frozen=True)
class Rate:
    """More than `most` requests within `seconds` are answered by `status`."""

    most: int
    seconds: float
    status: int
    retry_after: float | None = None


@dataclass(frozen=True)
class HostPlan:
    """latency: seconds to the head of an answer. speed: bytes a second of one connection. burst: bytes after which each
    connection breaks; lost: how many of these never arrive. ranges: right, none (ignored), if-range (with it all is
    sent), short (fewer bytes than asked), total (the length is wrong now and then). etag: strong, weak or none.
    expires: seconds that a link lives. changes: when its files become other ones."""

    name: str
    latency: float = 0.05
    speed: float = 4.0 * MIB
    outages: tuple[Outage, ...] = ()
    limit: Limit | None = None
    rate: Rate | None = None
    burst: int | None = None
    ranges: str = "right"
    etag: str = "strong"
    expires: float | None = None
    changes: tuple[float, ...] = ()

    @property
    def is_good(self) -> bool:
        """Nothing is wrong with it."""
        return self == HostPlan(self.name, self.latency, self.speed, etag=self.etag) and self.speed > 100_000

    @property
    def is_dead(self) -> bool:
        """It never serves anybody."""
        return any(outage.start == 0.0 and outage.end == float("inf") for outage in self.outages)


@dataclass(frozen=True)
class EntryPlan:
    """fate: the status that this URL always gets, or a word: `own` (403 whose body says that it is this URL's fault),
    `challenge`. later: it is answered 202 for so many seconds. hashed, sized: the list says so."""

    name: str
    host: int
    size: int
    fate: int | str | None = None
    later: float = 0.0
    hashed: bool = False
    sized: bool = False
    mirror: int | None = None


@dataclass(frozen=True)
class WorldPlan:
    """total, per_slot: places. capacity: bytes of the disk, None for plenty. stops: (seconds after the start of a run,
    `stop` or `kill`); after each the list is run again. fresh: links are renewed when they expire."""

    seed: int
    hosts: tuple[HostPlan, ...]
    entries: tuple[EntryPlan, ...]
    total: int = 16
    per_slot: int = 8
    capacity: int | None = None
    stops: tuple[tuple[float, str], ...] = ()
    fresh: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return _python(self)


def _python(value: Any) -> str:
    """An expression that makes it again; what is as usual is left out."""
    if hasattr(value, "__dataclass_fields__"):
        parts = []
        for one in fields(value):
            shown = getattr(value, one.name)
            if one.default_factory is dict and not shown:
                continue
            if shown != one.default:
                parts.append(f"{one.name}={_python(shown)}")
        return f"{type(value).__name__}({', '.join(parts)})"
    if isinstance(value, tuple):
        return "(" + "".join(f"{_python(one)}, " for one in value) + ")"
    return "float('inf')" if value == float("inf") else repr(value)


# -- from a seed -------------------------------------------------------------------------------------------------------

FOREVER = float("inf")
PIECES_MAX = 40
HOWS: tuple[str | int, ...] = ("refused", "black", "silent", "lost", 500, 502, 503)


def draw(seed: int) -> WorldPlan:
    chance = random.Random(seed)
    options = {
        "retry_times": chance.choice((2, 5, 10)),
        "retry_delay_max": chance.choice((20.0, 60.0, 300.0)),
        "origin_patience": chance.choice((90.0, 300.0, 1200.0)),
        "connect_timeout": 30.0,
        "headers_timeout": chance.choice((20.0, 60.0)),
        "stall_timeout": chance.choice((20.0, 60.0)),
        "segments": chance.choice((0, 0, 1, 4)),
    }
    fair = chance.random() < 0.4
    if fair:
        options["segments"] = 1  # several connections for a file are judged by their own tests
    hosts = tuple(_host(chance, n, good=fair and n == 0) for n in range(chance.randint(2 if fair else 1, 4)))
    entries = tuple(_entries(chance, hosts, chance.randint(2, 36)))
    # A large file in tiny pieces takes hours and says no more than a small one.
    least = max(entry.size for entry in entries) // PIECES_MAX
    hosts = tuple(host if host.burst is None else replace(host, burst=max(host.burst, least)) for host in hosts)
    total = chance.choice((4, 8, 16)) if fair else chance.choice((1, 2, 4, 8, 16))
    per_slot = total
    if sum(not host.is_dead for host in hosts) > 1:
        # Who sends, however slowly, has a right to its places.
        total, per_slot = total * len(hosts), total
    stops: tuple[tuple[float, str], ...] = ()
    if not fair:
        stops = tuple(
            (chance.choice((0.0, 0.3, 3.0, 20.0, 100.0)) * chance.uniform(0.5, 2), chance.choice(("stop", "kill")))
            for _ in range(chance.choice((0, 0, 1, 2)))
        )
    size = sum(entry.size for entry in entries)
    return WorldPlan(
        seed=seed,
        hosts=hosts,
        entries=entries,
        total=total,
        per_slot=per_slot,
        capacity=int(size * chance.uniform(0.3, 1.2)) + MIB if not fair and chance.random() < 0.08 else None,
        stops=stops,
        fresh=chance.random() < 0.7,
        options=options,
    )


def _host(chance: random.Random, number: int, *, good: bool) -> HostPlan:
    host = HostPlan(
        f"h{number}.example",
        latency=chance.choice((0.01, 0.05, 0.3)),
        speed=chance.choice((0.2, 2.0, 20.0)) * MIB,
        etag=chance.choice(("strong", "strong", "weak", "none")),
    )
    if good:
        return host
    for _ in range(chance.choice((0, 1, 1, 2))):
        host = replace(host, **_fault(chance))
    return host


def _fault(chance: random.Random) -> dict[str, Any]:
    pause = chance.choice((None, None, 0.0, 5.0, 40.0))
    match chance.choice(
        (
            "outage",
            "outage",
            "outage",
            "dead",
            "limit",
            "limit",
            "rate",
            "burst",
            "drip",
            "ranges",
            "expires",
            "changes",
        )
    ):
        case "outage":
            start, outages = 0.0, []
            for _ in range(chance.randint(1, 3)):
                start += chance.choice((0.0, 0.5, 5.0, 60.0)) * chance.random()
                end = start + chance.choice((0.5, 2.0, 10.0, 30.0, 120.0)) * chance.uniform(0.5, 1)
                how = chance.choice((*HOWS, 429))
                outages.append(Outage(start, end, how, pause if how in (429, 503) else None))
                start = end
            return {"outages": tuple(outages)}
        case "dead":
            start = chance.choice((0.0, 0.0, 3.0))
            return {"outages": (Outage(start, FOREVER, chance.choice((*HOWS, "dns", 401, 403))),)}
        case "limit":
            how = chance.choice(("refused", "lost", 403, 421, 429, 503))
            return {"limit": Limit(chance.choice((1, 2, 3)), how, pause if isinstance(how, int) else None)}
        case "rate":
            return {
                "rate": Rate(chance.choice((1, 3)), chance.choice((0.5, 1.0)), chance.choice((403, 429, 503)), pause)
            }
        case "burst":
            return {"burst": chance.choice((100_000, 1_000_000, 10_000_000))}
        case "drip":
            return {"speed": chance.choice((300.0, 3_000.0, 30_000.0))}
        case "ranges":
            return {"ranges": chance.choice(("none", "if-range", "short", "total"))}
        case "expires":
            return {"expires": chance.choice((5.0, 30.0))}
        case _:
            return {"changes": tuple(sorted(chance.uniform(0, 30) for _ in range(chance.randint(1, 2))))}


def _entries(chance: random.Random, hosts: tuple[HostPlan, ...], count: int) -> Iterator[EntryPlan]:
    typical = chance.choice((20_000, 1_000_000, 30_000_000))
    bad = chance.choice((0.0, 0.0, 0.1, 0.4))
    fates: tuple[int | str, ...] = (500, 503, 404, 403, "own", "challenge", 429)
    kinds = chance.sample(fates, 2)
    for number in range(count):
        fate = chance.choice(kinds) if chance.random() < bad else None
        yield EntryPlan(
            f"f{number}",
            chance.randrange(len(hosts)),
            int(typical * chance.choice((0.1, 0.5, 1.0, 4.0)) * chance.uniform(0.5, 1.5)) + 1,
            fate=fate,
            later=chance.choice((3.0, 20.0)) if fate is None and chance.random() < 0.02 else 0.0,
            hashed=chance.random() < 0.3,
            sized=chance.random() < 0.3,
            mirror=chance.randrange(len(hosts)) if chance.random() < 0.05 else None,
        )


# -- smaller -----------------------------------------------------------------------------------------------------------


def smaller(plan: WorldPlan) -> Iterator[WorldPlan]:
    """Plans that lack something of it, the boldest first."""
    count = len(plan.entries)
    step = count // 2
    while step:
        for at in range(0, count, step):
            yield replace(plan, entries=plan.entries[:at] + plan.entries[at + step :])
        step //= 2
    for n in range(len(plan.stops)):
        yield replace(plan, stops=plan.stops[:n] + plan.stops[n + 1 :])
    if plan.capacity is not None:
        yield replace(plan, capacity=None)
    for n, host in enumerate(plan.hosts):
        for one in fields(host):
            if one.name not in ("name", "speed") and getattr(host, one.name) != one.default:
                yield replace(plan, hosts=_with(plan.hosts, n, replace(host, **{one.name: one.default})))
        for m in range(len(host.outages)):
            fewer = replace(host, outages=host.outages[:m] + host.outages[m + 1 :])
            yield replace(plan, hosts=_with(plan.hosts, n, fewer))
    for n, entry in enumerate(plan.entries):
        for one in fields(entry):
            if one.name not in ("name", "host", "size") and getattr(entry, one.name) != one.default:
                yield replace(plan, entries=_with(plan.entries, n, replace(entry, **{one.name: one.default})))
    for name in plan.options:
        yield replace(plan, options={key: value for key, value in plan.options.items() if key != name})


def _with(values: tuple[Any, ...], at: int, value: Any) -> tuple[Any, ...]:
    return (*values[:at], value, *values[at + 1 :])
