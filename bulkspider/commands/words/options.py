"""The options of `scrapy bulk`: their names, values and help.

`bulk.py` says which spider argument or setting each of them stands for.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from typing import Any, ClassVar

import scrapy

import bulkspider
from bulkspider.commands.words.completion import SHELLS, script
from bulkspider.options import parse_rate, parse_size

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


def add_options(parser: argparse.ArgumentParser, add_others: Callable[[argparse.ArgumentParser], None]) -> None:
    """Adds the options of `scrapy bulk`. add_others: adds those that every scrapy command has."""
    Adder.actions.clear()
    parser.formatter_class = _Formatter
    parser.description = DESCRIPTION
    parser.epilog = EXAMPLES
    group = parser.add_argument_group
    what, index = group("what to fetch"), group("from an index on the web")
    where, how, then = map(group, ("where to", "how fast", "and then"))
    instead = group("instead of downloading")
    report, others = group("reports"), group("more")
    add_others(parser)  # first: of two options of one name the later one stands

    add = Adder(what)
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
    add = Adder(index)
    add("--recurse", action="store_true", help="walk the index pages below a URL, fetch all files found there")
    add("--accept", metavar="GLOB", action="append", help="only such files: --accept '*.nc,*.h5'")
    add("--reject", metavar="GLOB", action="append", help="not these: --reject '*.tmp,old/'; 'old/' is a folder")
    add("--depth", metavar="N", type=_count, help="folders below the URL at most (default: 30)")
    add = Adder(where)
    add("-o", "--output", metavar="DIR", dest="folder", help="the output folder; made if it is not there")
    add = Adder(how)
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
    add = Adder(then)
    add("--then", metavar="CMD", help="hand each proven file to a command; {path} {name} {url} {sha256} {size}")
    add("--then-moves", action="store_true", help="the command takes the file away: it is not fetched again")
    add = Adder(instead)
    add("--dry-run", action="store_true", help="ask for every file's size, tell what a run would do, write nothing")
    add("--verify", action="store_true", help="read again what is in the output folder; asks nobody")
    add("--status", action="store_true", help="tell how far the list is, also while a run works; asks nobody")
    add("--json", action="store_true", help="with --status: one line of JSON, for programs")
    add("--example", metavar="DIR", help="write a small Scrapy project there: crawl, files, parse, offline")
    add = Adder(report)
    add("--manifest", metavar="FORM", help="keep a manifest: SHA256SUMS, bagit, metalink or csv")
    add("--report", metavar="FILE.html", help="a page to look at: the files in time, failures first")
    add(
        *("-O", "--overwrite-output"),
        action="append",
        metavar="FILE",
        help="a row for each file, failures included: report.jsonl, report.csv",
    )
    add = Adder(others)
    add("--stay", action="store_true", help="a worker of a queue: waits for the next push when the job is over")
    add("-q", "--quiet", action="store_true", help="no display, no log but of failures")
    add("-v", "--verbose", action="store_true", help="all of the log")
    add("--no-color", action="store_true", help="a display without colours, as with NO_COLOR=1")
    add("-a", dest="spargs", action="append", default=[], metavar="NAME=VALUE", help="a spider argument")
    add("-h", "--help", action="help", help="show this text")
    add("--completion", action=_Completion, choices=SHELLS, help='for TAB: eval "$(scrapy bulk --completion bash)"')
    add("--version", action="version", version=_version(), help="show the versions of bulkspider and Scrapy")


def _version() -> str:
    return f"bulkspider {bulkspider.__version__}, Scrapy {scrapy.__version__}, Python {platform.python_version()}"


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


class _Completion(argparse.Action):
    """Prints what makes a shell complete our options, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(script(Adder.actions, Adder.known, str(_[1])), end="")
        parser.exit()


class Adder:
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
