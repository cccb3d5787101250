"""`scrapy bulk LIST`: the spider without a project.

Translates the command line into spider arguments and Scrapy settings. Every option is a spider argument or a setting
under another name, except `--dry-run` and URLs instead of a list, which only this command has. `startup.py` runs the
spider and computes the exit status.

Every scrapy command of an environment imports this module, whichever is run; hence the late imports.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import scrapy
from scrapy.commands import BaseRunSpiderCommand
from scrapy.exceptions import UsageError

import bulkspider
from bulkspider import settings as ours
from bulkspider.commands.words.completion import SHELLS, script
from bulkspider.commands.words.foreign import advice
from bulkspider.options import nearest, parse_rate, parse_size

if TYPE_CHECKING:
    from bulkspider.spiders.arguments.reading import Given

DESCRIPTION = """\
Downloads every file of a list, many at a time, and gives each its name only
when it is whole. Stopped, killed, unplugged, disk full: the same command again
fetches only what is missing.

LIST is a text file with a line `name URL` for each file; its first line is
ignored. CSV, TSV, JSON Lines and gzip are read too; `-` is standard input.
So are lists of other tools: checksum files, metalinks, reports of ENA, bags,
records of Zenodo and more (docs/lists.md).
URLs on the command line are named by the last part of their path.
Files go to output/<name of the list>/ below this folder, or to output/urls/."""

EXAMPLES = """\
examples:
  scrapy bulk files.txt --dry-run               will it work? writes nothing
  scrapy bulk files.txt -o /data -j 16          16 files at a time
  scrapy bulk files.txt --sums SHA256SUMS       compare with known hashes
  scrapy bulk files.txt -o /data --verify       read again what is there
  scrapy bulk files.txt -o /data --status       how far is it?
  scrapy bulk -o . https://example.org/big.iso  one file, into this folder
  scrapy bulk downloads.txt --format aria2      a file made for aria2c -i
  scrapy bulk https://example.org/2024/ --recurse --accept '*.nc'
  zcat lists.gz | scrapy bulk - -o /data        a list from another program

exit status:
  0  every file is verified or complete
  1  nothing was begun: the list, a setting or the output folder is at fault
  2  this command line is wrong
  3  something is left that may pass: run the same again
  4  only failures that the same list cannot cure
  5  nothing failed, but the lengths of some files cannot be proven
  130, 143, 129  ended by Ctrl-C, SIGTERM, SIGHUP
3 wins over 4, 4 over 5. A dry run ends with what a run would end with.
"""


class Command(BaseRunSpiderCommand):
    requires_project = False
    # Below a project's own settings, above Scrapy's defaults.
    default_settings: ClassVar[dict[str, Any]] = {
        name: getattr(ours, name)
        for name in dir(ours)
        if name.isupper() and name not in ("BOT_NAME", "COMMANDS_MODULE", "SPIDER_MODULES")
    }
    # Option -> the spider argument or setting that it is another name of.
    arguments: ClassVar[dict[str, str]] = {
        "folder": "output",
        "sums": "sums",
        "sums_sig": "sums_sig",
        "keyring": "keyring",
        "match": "match",
        "limit": "limit",
        "skip": "skip",
        "bad_lines": "bad_lines",
        "format": "format",
        "base": "base",
        "names": "names",
        "cut": "cut",
        "columns": "columns",
        "url_field": "url_field",
        "name_field": "name_field",
        "accept": "accept",
        "reject": "reject",
        "depth": "depth",
        "report": "report",
        "manifest": "manifest",
        "then": "then",
        "contact": "contact",
    }
    options: ClassVar[dict[str, tuple[str, ...]]] = {
        "jobs": ("CONCURRENT_REQUESTS", "CONCURRENT_REQUESTS_PER_DOMAIN"),
        "segments": ("BULK_SEGMENTS",),
        "order": ("BULK_ORDER",),
        "rate": ("BULK_RATE_LIMIT",),
        "rate_per_host": ("BULK_RATE_LIMIT_PER_HOST",),
    }
    # Option without a value -> the settings that it is another name of.
    flags: ClassVar[dict[str, dict[str, Any]]] = {
        "quiet": {"LOG_LEVEL": "ERROR", "BULK_PROGRESS": "off"},
        "verbose": {"LOG_LEVEL": "DEBUG"},
        "no_color": {"BULK_COLOR": False},
    }

    def syntax(self) -> str:
        return "[options] LIST\n       scrapy bulk [options] URL [URL ...]"

    def short_desc(self) -> str:
        return "Download every file of a list, and go on where an earlier run stopped"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        _Adder.actions.clear()
        parser.formatter_class = _Formatter
        parser.description = DESCRIPTION
        parser.epilog = EXAMPLES
        group = parser.add_argument_group
        what, index = group("what to fetch"), group("from an index on the web")
        where, how, then = map(group, ("where to", "how fast", "and then"))
        instead = group("instead of downloading")
        report, others = group("reports"), group("more")
        super().add_options(parser)  # first: of two options of one name the later one stands

        add = _Adder(what)
        add("--sums", metavar="FILE", help="compare with a checksum file (SHA256SUMS and the like), a path or a URL")
        add("--sums-sig", metavar="FILE", help="the checksum file's signature, judged with --keyring; a path or a URL")
        add("--keyring", metavar="FILE", help="the keys that may have signed the checksum file, as gpgv reads them")
        add("--match", metavar="GLOB", help="only the names that match, as in --match 'reads/*'")
        add("--limit", metavar="N", type=_count, help="only the first N files")
        add("--failed", action="store_true", help="only what failed last time")
        add("--skip", choices=("0", "1"), help="0: the first line is an entry, too")
        add("--bad-lines", choices=("stop", "skip"), help="skip: a bad line fails alone and stops nothing")
        add("--format", metavar="NAME", help="aria2, urls, paths, csv; others are known by their content")
        add("--base", metavar="URL", help="where the files of a list without hosts are")
        add("--names", choices=("last", "path"), help="path: a URL's whole path is its name, not its last part alone")
        add("--cut", metavar="N", help="as --names path, without the first N folders")
        add("--columns", metavar="LIST", help="of a table: --columns 'url=Link,name=File'")
        add("--url-field", metavar="NAME", help="the list is the items of a crawl, and this field has their URLs")
        add("--name-field", metavar="NAME", help="the field of these items that has the names")
        add = _Adder(index)
        add("--recurse", action="store_true", help="walk the index pages below a URL, fetch all files found there")
        add("--accept", metavar="GLOB", action="append", help="only such files: --accept '*.nc,*.h5'")
        add("--reject", metavar="GLOB", action="append", help="not these: --reject '*.tmp,old/'; 'old/' is a folder")
        add("--depth", metavar="N", type=_count, help="folders below the URL at most (default: 30)")
        add = _Adder(where)
        add("-o", "--output", metavar="DIR", dest="folder", help="the output folder; made if it is not there")
        add = _Adder(how)
        add("-j", "--jobs", metavar="N", type=_count, help="files at a time, also from one host (default: 8, and 4)")
        add("--segments", metavar="N", type=int, help="connections for each file; 0, the default, decides by itself")
        add("--order", choices=("list", "smallest", "largest"), help="what comes first (default: the list's order)")
        add(
            "--rate",
            metavar="BYTES",
            type=_rate,
            help="bytes per second of all together, as in --rate 20M; or by the hour: --rate '08:00,1M 18:00,off'",
        )
        add("--rate-per-host", metavar="BYTES", type=_size, help="bytes per second from each host")
        add("--contact", metavar="MAIL", help="how hosts reach you, in the User-Agent; some serve nobody without")
        add = _Adder(then)
        add("--then", metavar="CMD", help="hand each proven file to a command; {path} {name} {url} {sha256} {size}")
        add("--then-moves", action="store_true", help="the command takes the file away: it is not fetched again")
        add = _Adder(instead)
        add("--dry-run", action="store_true", help="ask for every file's size, tell what a run would do, write nothing")
        add("--verify", action="store_true", help="read again what is in the output folder; asks nobody")
        add("--status", action="store_true", help="tell how far the list is, also while a run works; asks nobody")
        add("--json", action="store_true", help="with --status: one line of JSON, for programs")
        add("--example", metavar="DIR", help="write a small Scrapy project there: crawl, files, parse, offline")
        add = _Adder(report)
        add("--manifest", metavar="FORM", help="keep a manifest: SHA256SUMS, bagit, metalink or csv")
        add("--report", metavar="FILE.html", help="a page to look at: the files in time, failures first")
        add(
            *("-O", "--overwrite-output"),
            action="append",
            metavar="FILE",
            help="a row for each file, failures included: report.jsonl, report.csv",
        )
        add = _Adder(others)
        add("--stay", action="store_true", help="a worker of a queue: waits for the next push when the job is over")
        add("-q", "--quiet", action="store_true", help="no display, no log but of failures")
        add("-v", "--verbose", action="store_true", help="all of the log")
        add("--no-color", action="store_true", help="a display without colours, as with NO_COLOR=1")
        add("-a", dest="spargs", action="append", default=[], metavar="NAME=VALUE", help="a spider argument")
        add("-h", "--help", action="help", help="show this text")
        add("--completion", action=_Completion, choices=SHELLS, help='for TAB: eval "$(scrapy bulk --completion bash)"')
        add("--version", action="version", version=_version(), help="show the versions of bulkspider and Scrapy")

    def process_options(self, args: list[str], opts: argparse.Namespace) -> None:
        # Objects that are made while the crawl begins live to its end; `startup.py` switches the collector on again.
        gc.disable()
        from bulkspider.commands.startup import calm

        opts.output = None
        if opts.quiet + opts.verbose + bool(opts.loglevel) > 1:
            raise UsageError("-q is -L ERROR, -v is -L DEBUG: give one of them")
        try:
            super().process_options(args, opts)
        except UsageError as error:
            if not opts.overwrite_output or "output format" not in str(error):
                raise
            from bulkspider.entries.urls import redact

            what = "it writes a report, a row for each file, to report.jsonl or report.csv"
            name = redact(opts.overwrite_output[-1])
            raise UsageError(f"-O {name}: {what}; for the files themselves say -o DIR (here: -o .)") from None
        assert self.settings is not None
        for flag, wanted in self.flags.items():
            if getattr(opts, flag):
                self.settings.setdict(wanted, "cmdline")
        calm(self.settings)
        # So that the functions of BULK_FRESH_URL and the like are found in the current folder, as in a project.
        sys.path.append(os.getcwd())
        for option, names in self.options.items():
            if (value := getattr(opts, option)) is not None:
                for name in names:
                    self.settings.set(name, value, "cmdline")
        if opts.dry_run and (opts.overwrite_output or opts.report):
            raise UsageError("--dry-run writes nothing: leave out -O and --report")
        if opts.json and not opts.status:
            raise UsageError("--json belongs to --status; rows of a run are -O report.jsonl")
        if opts.example is None:
            self.wanted = self._read(args, opts)
        elif args:
            raise UsageError("--example takes a folder for the project, and nothing else")

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        if opts.example is not None:
            self.exitcode = _write_example(opts.example)
            return
        from bulkspider.commands.startup import run_bulk, run_dry, run_status
        from bulkspider.spiders.bulk import BulkSpider

        arguments, given = self.wanted
        assert self.settings is not None
        addons = self.settings["ADDONS"]
        if not any("bulkspider" in str(addon) for addon in addons):
            addons["bulkspider.Addon"] = 500
        assert self.crawler_process is not None
        if arguments.get("status", "0") != "0":
            self.exitcode = run_status(self.settings, arguments, given, as_json=opts.json)
        elif opts.dry_run:
            self.exitcode = run_dry(self.crawler_process, self.settings, arguments, given)
        else:
            crawler = self.crawler_process.create_crawler(BulkSpider)
            self.exitcode = run_bulk(self.crawler_process, crawler, arguments, given)

    def _read(self, args: list[str], opts: argparse.Namespace) -> tuple[dict[str, str], Given]:
        """The spider's arguments, and what only this command can say. Raises UsageError."""
        from bulkspider.lists.formats.lines import is_url
        from bulkspider.spiders.arguments.reading import Given

        # What follows `--` is no option, whatever it looks like.
        options = args[: args.index("--")] if "--" in args else args
        for argument in options:
            if argument.startswith("-") and argument != "-":
                name = argument.partition("=")[0]
                told = advice(name)
                raise UsageError(f"unknown option {name}{f'; {told}' if told else nearest(name, _Adder.known)}")
        args = [*options, *args[len(options) + 1 :]]
        arguments: dict[str, str] = dict(opts.spargs)
        if opts.recurse:
            arguments["recurse"] = "1"
        walks = arguments.get("recurse", "0") != "0"
        urls = () if walks else tuple(filter(is_url, args))
        if urls and len(urls) < len(args):
            raise UsageError("either one list, or URLs; not both")
        if urls and opts.format is not None:
            raise UsageError("--format is for lists; leave it out with URLs")
        if walks and len(args) > 1:
            raise UsageError(f"one walk at a time, not {len(args)}: {' '.join(args)}")
        if not urls:
            if len(args) > 1:
                raise UsageError(f"one list at a time, not {len(args)}: {' '.join(args)}")
            if not args and arguments.keys().isdisjoint({"list", "queue", "job"}):
                raise UsageError("which list? `scrapy bulk LIST`, with a `name URL` line per file; -h tells all")
            arguments.update({"list": args[0]} if args else {})
        for option, name in self.arguments.items():
            if (value := getattr(opts, option)) is not None:
                arguments[name] = ",".join(value) if isinstance(value, list) else str(value)
        for flag in ("verify", "then_moves", "failed", "status", "stay"):
            if getattr(opts, flag):
                arguments[flag] = "1"
        return arguments, Given(urls=urls, skip_option="--skip 0")


def _write_example(folder: str) -> int:
    from pathlib import Path

    from bulkspider.demo.example import write

    try:
        write(Path(folder))
    except OSError as error:
        print(f"bulkspider: {error}", file=sys.stderr)
        return 1
    print(f"A small project is in {folder}; its README.md tells what it does. Try it:")
    print(f"  cd {folder}\n  scrapy crawl books")
    return 0


def _version() -> str:
    return f"bulkspider {bulkspider.__version__}, Scrapy {scrapy.__version__}, Python {platform.python_version()}"


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


class _Completion(argparse.Action):
    """Prints what makes a shell complete our options, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(script(_Adder.actions, _Adder.known, str(_[1])), end="")
        parser.exit()


class _Adder:
    """Adds options to a group, and remembers them for `did you mean` and for shells."""

    actions: ClassVar[list[argparse.Action]] = []
    known: ClassVar[set[str]] = {"--set", "--loglevel", "--logfile", "--nolog", "--profile", "--pidfile", "--pdb"}

    def __init__(self, group: Any) -> None:
        self._add: Callable[..., Any] = group.add_argument

    def __call__(self, *names: str, **kwargs: Any) -> None:
        self.known.update(name for name in names if name.startswith("--"))
        self.actions.append(self._add(*names, **kwargs))


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return number


def _rate(text: str) -> str:
    return _checked(text, parse_rate)


def _size(text: str) -> str:
    return _checked(text, parse_size)


def _checked(text: str, parse: Callable[[str], object]) -> str:
    try:
        parse(text)
    except ValueError as error:
        said = str(error)  # of a timetable it names the entry that is wrong
        raise argparse.ArgumentTypeError(said if said.startswith("'") else f"{text!r}: {said}") from None
    return text
