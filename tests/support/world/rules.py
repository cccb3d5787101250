"""What must hold in every world, after every step and at the end."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from bulkspider.errors import BulkError, Stopped
from bulkspider.hosts.budget import LITTLE_PAUSE_MAX_SECONDS
from bulkspider.hosts.crowd import CALM_MAX_SECONDS, CALM_SECONDS, CALM_TRIES, SEVERAL_ENTRIES
from support.world.engine import Broken, World
from support.world.hosts import LOST_BYTES, Host
from support.world.plans import EntryPlan, HostPlan, WorldPlan

if TYPE_CHECKING:
    from support.world.engine import Engine

STEPS_MAX = 6_000
# Starting, the first answer of a stranger, and the last entry's last byte, where a list is short.
SLACK_SECONDS = 4.0
# Bytes flow again so soon after an outage (seconds; as a part of its length).
SOON_SECONDS, SOON_PART = 5.0, 0.1


def check_step(engine: Engine, steps: int) -> None:
    plan = engine.world.plan
    elapsed = engine.clock.now() - engine.began
    if steps > STEPS_MAX + 6 * elapsed:
        raise Broken("no busy loop", f"{steps} events in {elapsed:.0f} s, {len(engine.source.outcomes)} entries done")
    if steps % 16 == 0 and elapsed > engine.longest:
        names = [name for name in engine.world.fates if not engine.source.outcomes[name]]
        raise Broken("nothing waits for ever", f"{elapsed:.0f} s and {names} have no outcome")
    if len(engine.fetcher.running) > plan.total:
        raise Broken("places", f"{len(engine.fetcher.running)} attempts at {plan.total} places")


def longest(world: World) -> float:
    """A run never takes longer (seconds): generous, but finite."""
    options = world.options
    sizes = sum(
        entry.size / max(world.plan.hosts[host].speed, options.min_speed)
        for entry in world.plan.entries
        for host in (entry.host, entry.mirror)
        if host is not None
    )
    outages = sum(o.end - o.start for host in world.plan.hosts for o in host.outages if o.end != float("inf"))
    tries = (options.retry_times + 2) * (options.retry_delay_max + options.stall_timeout)
    pieces = sum(
        entry.size / max(1, burst - LOST_BYTES)
        for entry in world.plan.entries
        for host in (entry.host, entry.mirror)
        if host is not None and (burst := world.plan.hosts[host].burst) is not None
    )
    sizes += pieces * LITTLE_PAUSE_MAX_SECONDS
    return 3 * (sizes + outages) + 4 * options.origin_patience + 4 * tries + 600


def check_end(engine: Engine) -> None:
    """Of one run."""
    world = engine.world
    for name in world.fates:
        times = engine.source.outcomes[name]
        if times > 1 or (times == 0 and not engine.stopping):
            raise Broken("one outcome", f"{name} has {times}")
        status, error = engine.source.ended_as.get(name, ("left", None))
        done = name in world.disk.ledger
        if done != (status in ("verified", "complete")) and status != "left":
            raise Broken("one outcome", f"{name} is {status}, and done is {done}")
        if error is not None and not isinstance(error, Stopped):
            check_reason(engine, world.fates[name], error)
    for origin in engine.origins:
        if origin.connections:
            raise Broken("places", f"{origin.name} has {origin.connections} connections at the end")


def check_reason(engine: Engine, entry: EntryPlan, error: BulkError) -> None:
    """It failed for the reason that it really had."""
    world = engine.world
    host = world.plan.hosts[entry.host]
    calm = HostPlan(host.name, host.latency, host.speed, etag=host.etag)
    if entry.mirror is not None or host != calm or host.speed < world.options.min_speed:
        return
    fates = [e.fate for e in world.plan.entries if e.host == entry.host]
    if sum(fate in (429, 503) for fate in fates) >= 3 and error.code == "origin_down":
        return  # nobody can tell these from a host that is too busy for everybody
    # Those that an earlier run has done say nothing in this one: a host of which nothing succeeds is in trouble.
    others = any(
        e.host == entry.host and e.fate is None and world.done_at.get(e.name, engine.began) > engine.began
        for e in world.plan.entries
    )
    if entry.fate is None:
        raise Broken("own reasons", f"{entry.name} failed on a host that is well: {error}")
    if others and error.code == "origin_down" and not _served_nothing(engine, host.name, str(error)):
        raise Broken("own reasons", f"{entry.name} always gets {entry.fate}, and ends as {error}")


def _served_nothing(engine: Engine, host: str, said: str) -> bool:
    """It is true, as it was said, that the host gave no file for so many seconds: when all that is left of a host is
    bad, nobody can tell that from a host in trouble."""
    seconds = re.search(r"has not worked for (\d+) s", said)
    ends = sorted(until for since, until, _ in engine.world.hosts[host].flows if until > since >= engine.began)
    gaps = [after - before for before, after in itertools.pairwise([engine.began, *ends, engine.clock.now()])]
    return seconds is not None and max(gaps) >= int(seconds[1]) - 1


def check_world(world: World) -> None:
    """At the very end."""
    plan = world.plan
    stopped = any(engine.stopping or engine.killed for engine in world.runs)
    for n, host in enumerate(plan.hosts):
        check_requests(world, world.hosts[host.name], n)
        if not stopped and plan.capacity is None:
            check_after_outages(world, world.hosts[host.name], n)
    if not stopped and plan.capacity is None and plan.total >= 4 and len(plan.entries) > 1:
        check_fair(world)


def check_requests(world: World, host: Host, number: int) -> None:
    plan, options = world.plan, world.options
    runs = len(world.runs)
    files = [entry for entry in plan.entries if number in (entry.host, entry.mirror)]
    size = sum(entry.size for entry in files)
    versions = 1 + len(host.plan.changes)
    pieces = 0.0 if host.plan.burst is None else versions * 4 * size / host.plan.burst
    if host.plan.ranges == "short":
        pieces += sum(3 * entry.size / max(200_000, entry.size // 3) for entry in files)
    if host.plan.speed < options.min_speed:
        pieces += sum(entry.size / (host.plan.speed * options.stall_timeout) for entry in files)
    if host.plan.limit is not None:
        # One more connection than it took is tried after each calm while.
        pieces += sum(entry.size / host.plan.speed for entry in files) / CALM_MAX_SECONDS
    if host.plan.expires:
        # Between two pieces the pause may be longer than a link lives.
        pieces *= 2
        pieces += 3 * sum(entry.size / (host.plan.speed * host.plan.expires) for entry in files) + len(files)
    if host.plan.rate is not None:
        # A try of a bad URL may be refused once for the rate, beside the others, and says nothing of the URL then.
        pieces += runs * options.retry_times * sum(entry.fate is not None for entry in files)
    # Of an outage: some at its beginning, then one after each tenth of the time that it has lasted, BULK_RETRY_DELAY_MAX
    # at most.
    probes = max(60.0, 36.0 + options.origin_patience / (0.75 * options.retry_delay_max))
    most = runs * (len(files) * (options.retry_times + 6) + probes) + pieces + probes * len(host.plan.outages)
    if len(host.requests) > most:
        raise Broken("requests are bounded", f"{host.plan.name} got {len(host.requests)}, at most {most:.0f} are right")
    if host.plan.burst is not None and host.plan.ranges == "right" and not host.plan.changes and runs == 1:
        # What a connection takes with it when it breaks is lost whoever asks: of each burst only the rest arrives.
        least = size * host.plan.burst / (host.plan.burst - LOST_BYTES)
        if host.sent > max(1.5 * least + len(files) * 512 * 1024, 2 * len(files) * host.plan.burst):
            raise Broken("bytes are bounded", f"{host.plan.name} sent {host.sent} for {size}")


def check_after_outages(world: World, host: Host, number: int) -> None:
    """Whoever was down is used again soon."""
    if host.plan != replace(HostPlan(host.plan.name), **_calm(host.plan)) or host.plan.speed < world.options.min_speed:
        return
    patience = min(world.options.origin_patience, 60.0)
    files = [
        e.name for e in world.plan.entries if e.host == number and e.fate is None and not e.later and e.mirror is None
    ]
    bad = {e.name for e in world.plan.entries if number in (e.host, e.mirror) and e.fate is not None}
    for n, outage in enumerate(host.plan.outages):
        following = host.plan.outages[n + 1].start if n + 1 < len(host.plan.outages) else float("inf")
        start = outage.start
        for earlier in reversed(host.plan.outages[:n]):
            # With nothing served between them, two are one to whoever waits.
            if any(until > earlier.end and since < start for since, until, _ in host.flows):
                break
            start = earlier.start
        length = outage.end - start
        if outage.how in ("black", "silent", "dns") or outage.retry_after is not None or length == float("inf"):
            continue
        first = [o for o in host.plan.outages if o.start <= outage.start and o.end >= outage.start - 1]
        if len(first) > 1 or length > 0.8 * patience:
            continue
        left = [name for name in files if world.done_at.get(name, float("inf")) > outage.end]
        soon = max(SOON_SECONDS, SOON_PART * length) + 0.5
        if not left or following < outage.end + soon:
            continue
        brought = [flow for flow in host.flows if flow not in host.empty]
        served = {name for since, until, name in brought if since < until and since < outage.end}
        if len(left) < SEVERAL_ENTRIES and not served.intersection(left) and outage.how != "refused":
            # One or two URLs that answer so, and never did otherwise, may be all that is wrong: they have
            # BULK_RETRY_TIMES tries, at growing pauses.
            continue
        refused = [(at, name) for at, name in host.requests if outage.start <= at < outage.end]
        while_others_were = {name for at, name in refused if any(since < at < until for since, until, _ in host.flows)}
        earlier = {name for at, name in host.requests if at < outage.start}
        earlier -= {name for _, until, name in host.flows if until > outage.start}
        if isinstance(outage.how, int) and {*left} <= while_others_were | earlier and while_others_were:
            # It was said to each of them while others were served, whose answers had begun before: that is taken for
            # their own fault, and they wait alone. So do those that were refused before it began.
            continue
        asked = [at for at, _ in host.requests if outage.start <= at]
        # An outage that is a status only says it to new requests: what flows goes on.
        after = sorted(max(since, outage.end) for since, until, _ in host.flows if until > outage.end)
        if not asked or asked[0] > outage.end:
            continue
        soon += _given_to_bad_ones([(at, name) for at, name in host.requests if at >= outage.end], bad)
        if not after or after[0] > outage.end + soon:
            when = f"{after[0] - outage.end:.1f} s" if after else "never"
            raise Broken(
                "soon after an outage", f"{host.plan.name}: {length:.1f} s of {outage.how}, bytes after {when}"
            )


def _given_to_bad_ones(requests: list[tuple[float, str]], bad: set[str]) -> float:
    """Seconds that passed because those that asked first whether an outage was over always get a refusal: nobody can
    know that of them before. Each of them counts once."""
    seconds, seen = 0.0, set()
    for (at, name), (following, _) in itertools.pairwise(requests):
        if name not in bad:
            break
        if name not in seen:
            seen.add(name)
            seconds += following - at
    return seconds


def _calm(plan: HostPlan) -> dict[str, object]:
    return {"latency": plan.latency, "speed": plan.speed, "etag": plan.etag, "outages": plan.outages}


def check_fair(world: World) -> None:
    """A good host is not slower than 1.5 x its time alone."""
    plan = world.plan
    for n, host in enumerate(plan.hosts):
        files = [e for e in plan.entries if e.host == n and e.fate is None and not e.later]
        busy = [e for e in plan.entries if e.host == n and e.fate in (429, 503)]
        if not host.is_good or not files or len(files) == len(plan.entries) or len(busy) > 2:
            continue  # a host that is too busy for many URLs is taken for one that is too busy
        # "Later" is no fault: what the host gives in the end has its share of it as the others do, then and now. So has
        # what came to it as a mirror.
        came = {name for _, name in world.hosts[host.name].requests}
        own = [e for e in plan.entries if e.host == n and e.fate is None]
        moved = [replace(e, host=n, mirror=None) for e in plan.entries if e.mirror == n != e.host and e.name in came]
        alone = World(_only(plan, [*own, *(e for e in moved if e.fate is None)]))
        alone.play()
        needed = max(alone.done_at[entry.name] for entry in files)
        needed = max([needed, *(alone.done_at.get(entry.name, 0.0) for entry in moved)])
        took = max(world.done_at.get(entry.name, float("inf")) for entry in files)
        # With four places two hosts that are silent may hold half of them.
        factor = 2.0 if plan.total == 4 and len(plan.hosts) > 2 else 1.5
        slack = SLACK_SECONDS
        if len(busy) > 1:
            # Two at once, as if these were too many: one more connection is tried after each calm while, and a large
            # file may have had several.
            slack += CALM_SECONDS
            factor = factor if plan.options.get("segments") == 1 else 2.0
        fates = [e.fate for e in plan.entries if e.host == n]
        if fates.count(403) >= SEVERAL_ENTRIES and {*fates} - {None, 403}:
            # What 403 means there is found out once, by a few tries one after the other, about a second apart; those
            # that are refused otherwise come in between.
            slack += CALM_TRIES * (world.options.retry_delay + host.latency)
        if took > factor * needed + slack:
            raise Broken("a good host is not slowed down", f"{host.name} took {took:.1f} s, alone {needed:.1f} s")


def _only(plan: WorldPlan, files: list[EntryPlan]) -> WorldPlan:
    """The same world with these entries only."""
    return replace(plan, entries=tuple(files))
