"""`scrapy bulk LIST`: the spider for people who have no project. Works anywhere.

Decides what the words of the command line mean to the spider and to Scrapy's settings. Every option is a spider
argument or a setting under another name, except `--format` and `--dry-run` and URLs in the place of a list, which only
this command has. What is done, and the exit status, is the business of `honest.py`.

Every scrapy command of an environment imports this module, whatever is to be run; hence the late imports.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from scrapy.commands import BaseRunSpiderCommand
from scrapy.exceptions import UsageError

from bulkspider import settings as ours
from bulkspider.options import nearest, parse_size

if TYPE_CHECKING:
    from bulkspider.arguments import Given

DESCRIPTION = """\
Downloads every file of a list, many at a time, and gives each its name only
when it is whole. Stopped, killed, unplugged, disk full: the same command again
fetches only what is missing.

LIST is a text file with a line `name URL` for each file; its first line is
ignored. CSV, TSV, JSON Lines and gzip are read too; `-` is standard input.
URLs on the command line are named by the last part of their path.
Files go to output/<name of the list>/ below this folder, or to output/urls/."""

EXAMPLES = """\
examples:
  scrapy bulk files.txt --dry-run               will it work? writes nothing
  scrapy bulk files.txt -o /data -j 16          16 files at a time
  scrapy bulk files.txt --sums SHA256SUMS       compare with known hashes
  scrapy bulk files.txt -o /data --verify       read again what is there
  scrapy bulk -o . https://example.org/big.iso  one file, into this folder
  scrapy bulk downloads.txt --format aria2      a file made for aria2c -i
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
        "match": "match",
        "limit": "limit",
        "skip": "skip",
        "bad_lines": "bad_lines",
        "report": "report",
    }
    options: ClassVar[dict[str, tuple[str, ...]]] = {
        "jobs": ("CONCURRENT_REQUESTS", "CONCURRENT_REQUESTS_PER_DOMAIN"),
        "segments": ("BULK_SEGMENTS",),
        "order": ("BULK_ORDER",),
        "rate": ("BULK_RATE_LIMIT",),
        "rate_per_host": ("BULK_RATE_LIMIT_PER_HOST",),
    }

    def syntax(self) -> str:
        return "[options] LIST\n       scrapy bulk [options] URL [URL ...]"

    def short_desc(self) -> str:
        return "Download every file of a list, and go on where an earlier run stopped"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        parser.formatter_class = _Formatter
        parser.description = DESCRIPTION
        parser.epilog = EXAMPLES
        group = parser.add_argument_group
        what, where, how, instead = map(group, ("what to fetch", "where to", "how fast", "instead of downloading"))
        report, others = group("reports"), group("more")
        super().add_options(parser)  # first: of two options of one name the later one stands

        add = _Adder(what)
        add("--sums", metavar="FILE", help="compare with a checksum file (SHA256SUMS and the like), a path or a URL")
        add("--match", metavar="GLOB", help="only the names that match, as in --match 'reads/*'")
        add("--limit", metavar="N", type=_count, help="only the first N files")
        add("--skip", choices=("0", "1"), help="0: the first line is an entry, too")
        add("--bad-lines", choices=("stop", "skip"), help="skip: a bad line fails alone and stops nothing")
        add("--format", choices=("list", "aria2"), default="list", help="aria2: LIST was made for aria2c -i")
        add = _Adder(where)
        add("-o", "--output", metavar="DIR", dest="folder", help="the output folder; made if it is not there")
        add = _Adder(how)
        add("-j", "--jobs", metavar="N", type=_count, help="files at a time, also from one host (default: 8, and 4)")
        add("--segments", metavar="N", type=int, help="connections for each file; 0, the default, decides by itself")
        add("--order", choices=("list", "smallest", "largest"), help="what comes first (default: the list's order)")
        add("--rate", metavar="BYTES", type=_size, help="bytes per second of all together, as in --rate 20M")
        add("--rate-per-host", metavar="BYTES", type=_size, help="bytes per second from each host")
        add = _Adder(instead)
        add("--dry-run", action="store_true", help="ask for every file's size, tell what a run would do, write nothing")
        add("--verify", action="store_true", help="read again what is in the output folder; asks nobody")
        add = _Adder(report)
        add("--report", metavar="FILE.html", help="a page to look at: the files in time, failures first")
        add(
            *("-O", "--overwrite-output"),
            action="append",
            metavar="FILE",
            help="a row for each file, failures included: report.jsonl, report.csv",
        )
        add = _Adder(others)
        add("-a", dest="spargs", action="append", default=[], metavar="NAME=VALUE", help="a spider argument")
        add("-h", "--help", action="help", help="show this text")

    def process_options(self, args: list[str], opts: argparse.Namespace) -> None:
        # What is made from here on stays: `honest.py` switches it on again when the crawl has begun.
        gc.disable()
        from bulkspider.commands.honest import calm

        opts.output = None
        super().process_options(args, opts)
        assert self.settings is not None
        calm(self.settings)
        # Where BULK_FRESH_URL and the like are looked for, as in a project's own folder.
        sys.path.append(os.getcwd())
        for option, names in self.options.items():
            if (value := getattr(opts, option)) is not None:
                for name in names:
                    self.settings.set(name, value, "cmdline")
        if opts.dry_run and (opts.overwrite_output or opts.report):
            raise UsageError("--dry-run writes nothing: leave out -O and --report")
        self.wanted = self._read(args, opts)

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        from bulkspider.commands.honest import run_bulk, run_dry
        from bulkspider.spiders.bulk import BulkSpider

        arguments, given = self.wanted
        assert self.settings is not None
        addons = self.settings["ADDONS"]
        if not any("bulkspider" in str(addon) for addon in addons):
            addons["bulkspider.Addon"] = 500
        assert self.crawler_process is not None
        if opts.dry_run:
            self.exitcode = run_dry(self.crawler_process, self.settings, arguments, given)
        else:
            crawler = self.crawler_process.create_crawler(BulkSpider)
            self.exitcode = run_bulk(self.crawler_process, crawler, arguments, given)

    def _read(self, args: list[str], opts: argparse.Namespace) -> tuple[dict[str, str], Given]:
        """The spider's arguments, and what only this command can say. Raises UsageError."""
        from bulkspider.arguments import Given
        from bulkspider.given import is_url

        # What follows `--` is no option, whatever it looks like.
        options = args[: args.index("--")] if "--" in args else args
        for argument in options:
            if argument.startswith("-") and argument != "-":
                name = argument.partition("=")[0]
                raise UsageError(f"unknown option {name}{nearest(name, _Adder.known)}")
        args = [*options, *args[len(options) + 1 :]]
        urls = tuple(filter(is_url, args))
        arguments: dict[str, str] = dict(opts.spargs)
        if urls and len(urls) < len(args):
            raise UsageError("either one list, or URLs; not both")
        if urls and opts.format == "aria2":
            raise UsageError("--format is for lists; leave it out with URLs")
        if not urls:
            if len(args) > 1:
                raise UsageError(f"one list at a time, not {len(args)}: {' '.join(args)}")
            if not args and arguments.keys().isdisjoint({"list", "queue"}):
                raise UsageError("which list? `scrapy bulk LIST`, with a `name URL` line per file; -h tells all")
            arguments.update({"list": args[0]} if args else {})
        for option, name in self.arguments.items():
            if (value := getattr(opts, option)) is not None:
                arguments[name] = str(value)
        if opts.verify:
            arguments["verify"] = "1"
        return arguments, Given(aria2=opts.format == "aria2", urls=urls)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


class _Adder:
    """Adds options to a group, and remembers how they are called for `did you mean`."""

    known: ClassVar[set[str]] = {"--set", "--loglevel", "--logfile", "--nolog", "--profile", "--pidfile", "--pdb"}

    def __init__(self, group: Any) -> None:
        self._add: Callable[..., Any] = group.add_argument

    def __call__(self, *names: str, **kwargs: Any) -> None:
        self.known.update(name for name in names if name.startswith("--"))
        self._add(*names, **kwargs)


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return number


def _size(text: str) -> str:
    try:
        parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    return text
