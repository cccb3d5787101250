"""`scrapy bulk LIST`: the spider without a project.

Translates the command line into spider arguments and Scrapy settings. Every option (`words/options.py`) is a spider
argument or a setting under another name, except `--dry-run` and URLs instead of a list, which only this command has.
`startup.py` runs the spider and computes the exit status.

Every scrapy command of an environment imports this module, whichever is run; hence the late imports.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any, ClassVar

from scrapy.commands import BaseRunSpiderCommand
from scrapy.exceptions import UsageError

from bulkspider import settings as ours
from bulkspider.commands.words.foreign import advice
from bulkspider.commands.words.options import Adder, add_options
from bulkspider.text import nearest

if TYPE_CHECKING:
    from bulkspider.spiders.arguments.reading import Given


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
        add_options(parser, super().add_options)

    def process_options(self, args: list[str], opts: argparse.Namespace) -> None:
        from bulkspider.commands import brief

        brief.pause_collections()
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
        if opts.example is None and not opts.status:
            brief.import_handler()
        from bulkspider.commands.startup import calm

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
                raise UsageError(f"unknown option {name}{f'; {told}' if told else nearest(name, Adder.known)}")
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
