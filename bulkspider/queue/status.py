"""The status of a job: the numbers, the text that shows them, and the exit status.

`Status` is one look at the queue (`Job.status`). Everything here is also for machines: `as_json` has the same facts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from bulkspider.options import human, plural

# Hosts that are shown to a person, those at work first; `--json` has all.
SHOWN_HOSTS = 40
# Failures that are shown to a person; `scrapy bulkqueue dead` has all.
SHOWN_FAILURES = 20
ORDERS = {
    "pause": "paused: nothing new is begun; `scrapy bulkqueue resume` goes on",
    "drain": "draining: what runs is finished, and workers end; `scrapy bulkqueue resume` takes it back",
    "cancel": "cancelled: workers stop and keep what they have; `scrapy bulkqueue resume` takes it back",
}


class Status(Struct, frozen=True):
    """One look at a job.

    pushed: entries that it was ever given. done, dead (given up), left: what has become of them; left includes what
    runs. later: those of the left that wait for their next try. order: pause, drain, cancel or None. unfinished: names
    of lists whose push has not ended. hosts: {origin, left, running (connections), leased (entries), cap, closed
    (seconds)} of each origin with entries left. workers: {name, entries (leased now), bytes (as of the last renewal),
    seen (seconds ago)} of those that live. lease: seconds, the longest of all workers. bytes_done, bytes_left: of the
    entries whose sizes are known; bytes_left includes what parts have already.
    """

    pushed: int
    done: int
    dead: int
    left: int
    later: int
    lease: float
    order: str | None
    unfinished: list[str]
    hosts: list[dict[str, Any]]
    workers: list[dict[str, Any]]
    bytes_done: int = 0
    bytes_left: int = 0

    @property
    def running(self) -> int:
        """Entries that a living worker has."""
        return sum(int(host["leased"]) for host in self.hosts)

    @property
    def missing(self) -> int:
        """Entries that were pushed but are not in the queue any more: keys were removed or evicted."""
        return self.pushed - self.done - self.dead - self.left

    @property
    def is_over(self) -> bool:
        """Nothing is left to do, and nothing was lost."""
        return not self.left and not self.missing and not self.unfinished

    @property
    def exit_status(self) -> int:
        """0: all is done. 3: something is left, or was lost. 4: all is done but what was given up."""
        if not self.is_over:
            return 3
        return 4 if self.dead else 0

    def as_json(self, job: str) -> dict[str, Any]:
        """Everything, for machines."""
        parts = sum(int(worker["bytes"]) for worker in self.workers)
        counts = {"pushed": self.pushed, "done": self.done, "dead": self.dead, "left": self.left}
        # As `scrapy bulk LIST --status --json` names them.
        counts |= {"entries": self.pushed, "failed": self.dead}
        counts |= {"bytes_on_disk": self.bytes_done + parts, "bytes_left": max(0, self.bytes_left - parts)}
        waiting = [host["origin"] for host in self.hosts if host["closed"]]
        state = {"later": self.later, "running": self.running, "missing": self.missing, "over": self.is_over}
        told = {"order": self.order, "unfinished_pushes": self.unfinished, "lease": self.lease}
        return {"job": job, **counts, **state, **told, "waiting": waiting, "hosts": self.hosts, "workers": self.workers}


def describe(
    name: str, shown: str, status: Status, running: list[dict[str, Any]], dead: Mapping[str, Any]
) -> Iterator[str]:
    """What a person sees. name: of the job. shown: its Redis. running: as Job.running. dead: some, as of
    Job.some_dead."""
    told = [f"{status.done:,} done", f"{status.left:,} left", f"{status.dead:,} given up"]
    yield f"job {name} on {shown}: {plural(status.pushed, 'entry', 'entries')}, {', '.join(told)}"
    if status.order:
        yield ORDERS[status.order]
    for title in status.unfinished:
        yield f"the push of {title} has not ended; if nobody is at it, push that list again"
    if status.missing:
        yield f"{plural(status.missing, 'entry is', 'entries are')} missing on this Redis; {MISSING_CURE}"
    if status.later:
        yield f"{status.later:,} of those left wait for another try"
    if status.hosts:
        width = max(len(host["origin"]) for host in status.hosts)
        yield f"\n{'host':<{width}} {'left':>9} {'at once':>8} {'of':>4}"
        hosts = sorted(status.hosts, key=lambda host: (-host["running"], -host["left"]))[:SHOWN_HOSTS]
        for host in sorted(hosts, key=lambda host: str(host["origin"])):
            closed = f"   asked to wait {host['closed']:.0f} s" if host["closed"] else ""
            yield f"{host['origin']:<{width}} {host['left']:>9,} {host['running']:>8} {host['cap']:>4}{closed}"
        if len(status.hosts) > SHOWN_HOSTS:
            yield f"… and {len(status.hosts) - SHOWN_HOSTS:,} more hosts"
    if status.workers:
        width = max(len(worker["name"]) for worker in status.workers)
        yield f"\n{'worker':<{width}} {'running':>8} {'heard of':>11}"
        for worker in status.workers:
            ago = f"{worker['seen']:.0f} s ago"
            yield f"{worker['name']:<{width}} {worker['entries']:>8} {ago:>11}"
    if running:
        yield "\nrunning"
        for row in running:
            size = human(row["bytes"]) if row["bytes"] is not None else ""
            yield f"{size:>11}  {row['name']}  ({row['worker']})"
    if dead:
        yield "\ngiven up (scrapy bulkqueue retry brings them back)"
        for entry, letter in dead.items():
            yield f"{entry}: {letter['reason']} [{letter['code']}]"
        if status.dead > len(dead):
            yield f"… and {status.dead - len(dead):,} more (scrapy bulkqueue dead)"


MISSING_CURE = (
    "keys were removed, or evicted for want of memory (set maxmemory-policy noeviction); "
    "drop the job and push its list again: what the ledger proves is not fetched"
)
