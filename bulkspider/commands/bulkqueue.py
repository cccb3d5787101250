"""`scrapy bulkqueue`: fills, shows and steers the queue that workers on many machines share (`queue/`).

Every scrapy command of an environment imports this module, whatever is to be run; hence the late imports.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from scrapy.commands import ScrapyCommand
from scrapy.exceptions import UsageError as ScrapyUsageError
from scrapy.utils.conf import arglist_to_dict

from bulkspider.errors import BulkError, UsageError
from bulkspider.options import human, plural

if TYPE_CHECKING:
    from bulkspider.entry import Entry
    from bulkspider.queue.job import Job, Status

WATCH_SECONDS = 2.0
# A worker renews every third of its lease: one that was not heard of for the whole of it is gone.
SHOWN_FAILURES = 20


class Command(ScrapyCommand):
    requires_project = False
    requires_crawler_process = False
    default_settings: ClassVar[dict[str, Any]] = {"LOG_ENABLED": False}

    def syntax(self) -> str:
        return "push LIST | status | retry [NAME …] | caps [HOST=N …] | drop   --queue URL --job NAME"

    def short_desc(self) -> str:
        return "A list that workers on several machines share, on Redis"

    def long_desc(self) -> str:
        return (
            "push LIST: adds a list to the job, largest files first; again is harmless. "
            "status: how far it is; with --watch until it is done. "
            "retry: gives entries that were given up (all, or these) another chance. "
            "caps: how many at once from a host, all workers together, from now on (default=N for all others; HOST= "
            "takes a number back). drop: forgets the job; files stay. "
            "Workers: scrapy bulk -a queue=URL -a job=NAME -a output=DIR"
        )

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        from bulkspider.queue.job import DEFAULT_CAP

        super().add_options(parser)
        parser.add_argument("--queue", metavar="URL", help="redis://HOST/0, rediss://… or unix://…")
        parser.add_argument("--job", metavar="NAME", help="name of the job on that Redis")
        parser.add_argument("--cap", metavar="N", help=f"push: at once from each host, at most ({DEFAULT_CAP})")
        parser.add_argument("--watch", action="store_true", help="status: again and again until the job is done")
        parser.add_argument(
            "-a",
            metavar="NAME=VALUE",
            action="append",
            default=[],
            dest="spargs",
            help="push: skip, bad_lines, match, limit, sums, as for a list",
        )

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        actions: dict[str, Callable[[Job, list[str], argparse.Namespace], None]] = {
            "push": self._push,
            "status": self._status,
            "retry": self._retry,
            "caps": self._caps,
            "drop": self._drop,
        }
        if not args or args[0] not in actions:
            raise ScrapyUsageError(f"say what to do: {', '.join(actions)}")
        from bulkspider.queue.job import Job

        try:
            if not opts.queue or not opts.job:
                raise UsageError("which queue and job? Say --queue redis://HOST/0 --job NAME")
            with Job(opts.queue, opts.job) as job:
                if args[0] != "push":
                    job.require()
                actions[args[0]](job, args[1:], opts)
        except BulkError as error:
            print(f"bulkspider: {error}", file=sys.stderr)
            self.exitcode = 1
        except KeyboardInterrupt:
            self.exitcode = 130

    def _push(self, job: Job, args: list[str], opts: argparse.Namespace) -> None:
        from bulkspider.arguments import list_options
        from bulkspider.queue.job import DEFAULT_CAP
        from bulkspider.sources import check_list
        from bulkspider.sums import read_sums

        if len(args) != 1:
            raise UsageError("which list? `scrapy bulkqueue push LIST --queue URL --job NAME`")
        if opts.cap is not None and (not opts.cap.isdecimal() or int(opts.cap) < 1):
            raise UsageError(f"--cap {opts.cap}: must be a number of transfers")
        options = arglist_to_dict(opts.spargs)
        sums = options.pop("sums", None)
        known_sums = read_sums(sums) if sums else None
        with tempfile.TemporaryDirectory(prefix="bulkqueue-") as folder:
            source = check_list(args[0], folder, **list_options(options))

            def entries() -> Iterator[Entry]:
                while (entry := source.take()) is not None:
                    yield entry if known_sums is None else known_sums.add_to(entry)

            new, given = job.push(entries(), int(opts.cap or DEFAULT_CAP))
            source.close()
        if opts.cap is not None:
            job.set_caps({"default": int(opts.cap)})
        for warning in source.warnings:
            print(f"warning: {warning}")
        for bad in source.bad:
            print(f"passed over: {bad.problem}")
        if known_sums is not None and (gaps := known_sums.gaps):
            print(f"warning: {gaps}")
        known = f", {plural(given - new, 'was', 'were')} there already" if new < given else ""
        print(f"job {job.name}: {plural(new, 'entry', 'entries')} pushed{known}")
        caps = job.caps()
        print(f"at once from one host, all workers together: {caps.pop('default')}", end="")
        print("".join(f", {host}: {cap}" for host, cap in caps.items()))

    def _status(self, job: Job, args: list[str], opts: argparse.Namespace) -> None:
        while True:
            status = job.status()
            lines = list(_describe(job, status))
            if opts.watch and sys.stdout.isatty():
                print("\033[H\033[2J", end="")
            print("\n".join(lines), flush=True)
            if not opts.watch or not status.left:
                return
            print()
            time.sleep(WATCH_SECONDS)

    def _retry(self, job: Job, args: list[str], opts: argparse.Namespace) -> None:
        letters = job.dead()
        if unknown := [name for name in args if name not in letters]:
            raise UsageError(f"{unknown[0]}: not among the entries of job {job.name} that were given up")
        count = job.retry(args or letters)
        print(f"job {job.name}: {plural(count, 'entry', 'entries')} in the queue again")

    def _caps(self, job: Job, args: list[str], opts: argparse.Namespace) -> None:
        caps: dict[str, int | None] = {}
        for arg in args:
            host, equals, number = arg.partition("=")
            if not host or not equals or (number and not number.isdecimal()):
                raise UsageError(f"{arg}: write HOST=N, for example example.org=6; HOST= takes it back")
            caps[host.lower()] = int(number) if number else None
        job.set_caps(caps)
        for host, cap in job.caps().items():
            print(f"{host} {cap}")

    def _drop(self, job: Job, args: list[str], opts: argparse.Namespace) -> None:
        job.drop()
        print(f"job {job.name}: dropped; finished files and parts stay where they are")


def _describe(job: Job, status: Status) -> Iterator[str]:
    """What `status` shows."""
    told = [f"{status.done:,} done", f"{status.left:,} left", f"{status.dead:,} given up"]
    yield f"job {job.name} on {job.shown}: {plural(status.pushed, 'entry', 'entries')}, {', '.join(told)}"
    if status.later:
        yield f"{status.later:,} of those left wait for another try"
    if status.hosts:
        width = max(len(host["origin"]) for host in status.hosts)
        yield f"\n{'host':<{width}} {'left':>9} {'at once':>8} {'of':>4}"
        for host in status.hosts:
            closed = f"   asked to wait {host['closed']:.0f} s" if host["closed"] else ""
            yield f"{host['origin']:<{width}} {host['left']:>9,} {host['running']:>8} {host['cap']:>4}{closed}"
    if status.workers:
        width = max(len(worker["name"]) for worker in status.workers)
        yield f"\n{'worker':<{width}} {'running':>8} {'heard of':>11}"
        for worker in status.workers:
            ago = f"{worker['seen']:.0f} s ago"
            gone = "   (gone)" if worker["seen"] > status.lease else ""
            yield f"{worker['name']:<{width}} {worker['entries']:>8} {ago:>11}{gone}"
    if running := job.running():
        yield "\nrunning"
        for row in running:
            size = human(row["bytes"]) if row["bytes"] is not None else ""
            yield f"{size:>11}  {row['name']}  ({row['worker']})"
    if letters := job.dead():
        yield "\ngiven up (scrapy bulkqueue retry brings them back)"
        for name, letter in list(letters.items())[:SHOWN_FAILURES]:
            yield f"{name}: {letter['reason']} [{letter['code']}]"
        if len(letters) > SHOWN_FAILURES:
            yield f"… and {len(letters) - SHOWN_FAILURES:,} more"
