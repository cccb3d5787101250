"""`scrapy bulkqueue`: fills, shows and steers the queue that workers on many machines share (`queue/`).

Every scrapy command of an environment imports this module, whichever is run; hence the late imports.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from scrapy.commands import ScrapyCommand
from scrapy.exceptions import UsageError as ScrapyUsageError
from scrapy.utils.conf import arglist_to_dict

from bulkspider.errors import BulkError, UsageError
from bulkspider.options import plural
from bulkspider.text import visible, visible_lines

if TYPE_CHECKING:
    from bulkspider.entries.entry import Entry
    from bulkspider.queue.job import Job
    from bulkspider.queue.status import Status

WATCH_SECONDS = 2.0


class Command(ScrapyCommand):
    requires_project = False
    requires_crawler_process = False
    default_settings: ClassVar[dict[str, Any]] = {"LOG_ENABLED": False}

    def syntax(self) -> str:
        return (
            "push LIST | status | list | dead | retry [NAME …] | caps [HOST=N …] | pause | drain | cancel | resume | "
            "report FILE | serve | clean DIR | drop   --queue URL --job NAME"
        )

    def short_desc(self) -> str:
        return "A list that workers on several machines share, on Redis"

    def long_desc(self) -> str:
        return (
            "push LIST: adds a list to the job, largest files first; again is harmless. "
            "status: how far it is; with --watch until it is over; "
            "its exit status is the job's: 0 done, 3 left, 4 given up. "
            "list: the jobs of this Redis. dead: entries that were given up. "
            "retry: gives entries that were given up (all, or these) another chance. "
            "caps: how many at once from a host, all workers together, from now on (default=N for all others; HOST= "
            "takes a number back). pause: nothing new is begun. drain: and workers end when what runs is finished. "
            "cancel: workers stop at once and keep what they have. resume: takes these back. "
            "report FILE.jsonl (or .csv): a row for each entry of the whole job. "
            "serve: a page, and /metrics for Prometheus. "
            "clean DIR: removes parts in a worker's folder whose entries are done elsewhere. "
            "drop: forgets the job; files stay. "
            "Workers: scrapy bulk -a queue=URL -a job=NAME -a output=DIR. "
            "The environment variable BULK_QUEUE stands for --queue, here and for workers."
        )

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        from bulkspider.queue.job import DEFAULT_CAP

        super().add_options(parser)
        parser.add_argument(
            "--queue",
            metavar="URL",
            help="redis://HOST/0, rediss://…, unix://…, redis+sentinel://HOST/SERVICE/0, or @FILE with such a line",
        )
        parser.add_argument("--job", metavar="NAME", help="name of the job on that Redis")
        parser.add_argument("--cap", metavar="N", help=f"push: at once from each host, at most ({DEFAULT_CAP})")
        parser.add_argument(
            "--priority", metavar="N", default="0", help="push: entries of a higher number come first (0; -100 to 100)"
        )
        parser.add_argument("--watch", action="store_true", help="status: again and again until the job is over")
        parser.add_argument("--json", action="store_true", help="status, list, dead: for machines, one object a line")
        parser.add_argument(
            "--listen", metavar="HOST:PORT", default="127.0.0.1:8000", help="serve: where (127.0.0.1:8000)"
        )
        parser.add_argument("--reason", metavar="TEXT", default="", help="dead, retry: only of this code or reason")
        parser.add_argument("--host", metavar="HOST", default="", help="dead, retry: only of this host")
        parser.add_argument(
            "-a",
            metavar="NAME=VALUE",
            action="append",
            default=[],
            dest="spargs",
            help="push: skip, bad_lines, match, limit, sums, sums_sig, keyring, as for a list",
        )

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        actions: dict[str, Callable[[Job, list[str], argparse.Namespace], None]] = {
            "push": self._push,
            "status": self._status,
            "dead": self._dead,
            "retry": self._retry,
            "caps": self._caps,
            "pause": self._order,
            "drain": self._order,
            "cancel": self._order,
            "resume": self._order,
            "report": self._report,
            "serve": self._serve,
            "clean": self._clean,
            "drop": self._drop,
        }
        if not args or args[0] not in {*actions, "list"}:
            raise ScrapyUsageError(f"say what to do: {', '.join([*actions, 'list'])}")
        from bulkspider.commands.process import told_to_a_reader
        from bulkspider.queue.address import VARIABLE, find_address
        from bulkspider.queue.job import Job

        action = args[0]
        try:
            queue = find_address(opts.queue)
            if not queue:
                raise UsageError(f"which queue? Say --queue redis://HOST/0, or set {VARIABLE} in the environment")
            if len(args) > 1 and action not in {"push", "retry", "caps", "report", "clean"}:
                raise UsageError(f"{args[1]}: nothing is to follow {action}; the job is named by --job NAME")
            if action == "list":
                with told_to_a_reader():
                    self._list(queue, opts)
                return
            if not opts.job:
                raise UsageError("which job? Say --job NAME; `scrapy bulkqueue list` shows those there are")
            with told_to_a_reader(), Job(queue, opts.job) as job:
                if action == "push":
                    job.refuse_cluster()
                elif action != "drop":
                    job.require()
                actions[action](job, args if actions[action] == self._order else args[1:], opts)
        except BulkError as error:
            print(f"bulkspider: {visible_lines(str(error))}", file=sys.stderr)
            self.exitcode = 1
        except KeyboardInterrupt:
            self.exitcode = 130

    def _push(self, job: Job, args: list[str], opts: argparse.Namespace) -> None:
        from bulkspider.lists.opening import check_list
        from bulkspider.queue.job import DEFAULT_CAP
        from bulkspider.spiders.arguments.reading import list_options
        from bulkspider.sums.checksums import sums_file

        if len(args) != 1:
            raise UsageError("which list? `scrapy bulkqueue push LIST --queue URL --job NAME`")
        if opts.cap is not None and (not opts.cap.isdecimal() or int(opts.cap) < 1):
            raise UsageError(f"--cap {opts.cap}: must be a number of transfers")
        if not re.fullmatch(r"[+-]?\d{1,3}", opts.priority) or not -100 <= int(opts.priority) <= 100:
            raise UsageError(f"--priority {opts.priority}: must be a whole number, -100 to 100")
        options = arglist_to_dict(opts.spargs)
        file = sums_file(*(options.pop(name, None) for name in ("sums", "sums_sig", "keyring")))
        known_sums = file.read() if file is not None else None
        with tempfile.TemporaryDirectory(prefix="bulkqueue-") as folder:
            source = check_list(args[0], folder, **list_options(options))

            def entries() -> Iterator[Entry]:
                while (entry := source.take()) is not None:
                    yield entry if known_sums is None else known_sums.add_to(entry)

            new, given = job.push(entries(), int(opts.cap or DEFAULT_CAP), Path(args[0]).name, int(opts.priority))
            source.close()
        if opts.cap is not None:
            job.set_caps({"default": int(opts.cap)})
        if source.introduction:
            print(visible(source.introduction))
        for warning in source.warnings:
            print(f"warning: {visible(warning)}")
        for bad in source.bad:
            print(f"passed over: {visible(str(bad.problem))}")
        if known_sums is not None and (gaps := known_sums.gaps):
            print(f"warning: {visible(gaps)}")
        known = f", {plural(given - new, 'was', 'were')} there already" if new < given else ""
        print(f"job {job.name}: {plural(new, 'entry', 'entries')} pushed{known}")
        caps = job.caps()
        print(f"at once from one host, all workers together: {caps.pop('default')}", end="")
        print("".join(f", {host}: {cap}" for host, cap in caps.items()))
        if policy := job.eviction():
            print(
                f"warning: this Redis may throw keys away when its memory is full (maxmemory-policy {policy}), and "
                "entries of the job with them; set maxmemory-policy noeviction"
            )

    def _status(self, job: Job, args: list[str], opts: argparse.Namespace) -> None:
        from bulkspider.queue.job import is_away

        away = False
        while True:
            try:
                status = job.status()
                if away:
                    print(f"{visible(job.shown)} answers again", file=sys.stderr, flush=True)
                away = False
                self._show(job, status, opts)
            except UsageError as error:
                if not opts.watch or not is_away(error):
                    raise
                if not away:
                    print(f"{visible_lines(str(error))}; asking again until it answers", file=sys.stderr, flush=True)
                away = True
            else:
                self.exitcode = status.exit_status
                if not opts.watch or status.is_over:
                    return
            time.sleep(WATCH_SECONDS)

    def _show(self, job: Job, status: Status, opts: argparse.Namespace) -> None:
        from bulkspider.queue.status import SHOWN_FAILURES, describe

        if opts.json:
            print(json.dumps(status.as_json(job.name)), flush=True)
            return
        some_dead = job.some_dead(SHOWN_FAILURES)
        lines = map(visible_lines, describe(job.name, job.shown, status, job.running(), some_dead))
        if opts.watch and sys.stdout.isatty():
            print("\033[H\033[2J", end="")
        print("\n".join(lines), flush=True)
        if opts.watch and not status.is_over:
            print()

    def _list(self, queue: str, opts: argparse.Namespace) -> None:
        from bulkspider.queue.job import Job, jobs_on

        names = jobs_on(queue)
        if not names:
            print("no job is there; `scrapy bulkqueue push LIST --job NAME` makes one", file=sys.stderr)
        for name in names:
            try:
                with Job(queue, name) as job:
                    status = job.status()
            except UsageError as error:
                if error.code != "no_job":
                    raise
                print(f"bulkspider: {visible_lines(str(error))}", file=sys.stderr)
                self.exitcode = 1
                continue
            if opts.json:
                print(json.dumps(status.as_json(name)))
            else:
                order = f", {status.order}" if status.order else ""
                missing = f", {status.missing:,} missing" if status.missing else ""
                print(f"{name}: {status.done:,} done, {status.left:,} left, {status.dead:,} given up{missing}{order}")

    def _dead(self, job: Job, args: list[str], opts: argparse.Namespace) -> None:
        """name, code, host and reason of each, in columns that tabs divide."""
        for name, letter in job.dead(opts.reason, opts.host).items():
            row = {"name": name, "code": letter["code"], "host": letter["origin"], "reason": letter["reason"]}
            print(json.dumps(row) if opts.json else "\t".join(map(visible, row.values())))

    def _retry(self, job: Job, args: list[str], opts: argparse.Namespace) -> None:
        letters = job.dead(opts.reason, opts.host)
        if unknown := [name for name in args if name not in letters]:
            raise UsageError(f"{unknown[0]}: not among the entries of job {job.name} that were given up")
        count = job.retry(args or letters)
        print(f"job {job.name}: {plural(count, 'entry', 'entries')} in the queue again")

    def _caps(self, job: Job, args: list[str], opts: argparse.Namespace) -> None:
        caps: dict[str, int | None] = {}
        for arg in args:
            host, equals, number = arg.partition("=")
            if not host or "/" in host or not equals or (number and not number.isdecimal()):
                raise UsageError(f"{arg}: write HOST=N, for example example.org=6; HOST= takes it back")
            caps[host.lower()] = int(number) if number else None
        job.set_caps(caps)
        for host, cap in job.caps().items():
            print(f"{host} {cap}")

    def _order(self, job: Job, args: list[str], opts: argparse.Namespace) -> None:
        from bulkspider.queue.status import ORDERS

        order = None if args[0] == "resume" else args[0]
        job.order(order)
        told = ORDERS[order] if order else "goes on; workers that have ended are to be started again"
        print(f"job {job.name}: {told}")

    def _report(self, job: Job, args: list[str], opts: argparse.Namespace) -> None:
        from bulkspider.queue.report import write_report

        if len(args) != 1:
            raise UsageError("into which file? `scrapy bulkqueue report FILE.jsonl` (or FILE.csv)")
        count = write_report(Path(args[0]), job.outcomes())
        print(f"{visible(args[0])}: {plural(count, 'entry', 'entries')}")

    def _serve(self, job: Job, args: list[str], opts: argparse.Namespace) -> None:
        from bulkspider.queue.serve import JobServer

        host, _, port = opts.listen.rpartition(":")
        if not port.isdecimal() or int(port) > 65_535:
            raise UsageError(f"--listen {opts.listen}: write HOST:PORT")
        try:
            server = JobServer(job, host.strip("[]") or "127.0.0.1", int(port))
        except OSError as error:
            raise UsageError(f"--listen {opts.listen}: {error.strerror}; choose another port") from None
        with server:
            print(f"job {job.name}: http://{server.server_name}:{server.server_port}/, and /metrics; Ctrl-C ends it")
            sys.stdout.flush()
            server.serve_forever()

    def _clean(self, job: Job, args: list[str], opts: argparse.Namespace) -> None:
        from bulkspider.disk.leftovers.cleaning import remove_parts

        if len(args) != 1 or not Path(args[0]).is_dir():
            raise UsageError("which folder? `scrapy bulkqueue clean DIR --queue URL --job NAME`")
        removed = remove_parts(Path(args[0]), job.done_elsewhere)
        print(
            f"{visible(args[0])}: {plural(len(removed), 'part', 'parts')} removed, of entries that are done elsewhere"
        )

    def _drop(self, job: Job, args: list[str], opts: argparse.Namespace) -> None:
        job.drop()
        print(f"job {job.name}: dropped; finished files and parts stay where they are")
