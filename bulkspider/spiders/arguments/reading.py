"""Checks arguments and settings: unknown names, wrong values, arguments that exclude each other."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from msgspec import Struct
from scrapy.settings import BaseSettings, Settings

from bulkspider.auth.named import check_auth
from bulkspider.disk.folder.opening import PRIVATE
from bulkspider.dispatch.freshurl import load_hook
from bulkspider.dispatch.places import Limits
from bulkspider.entries.mistakes import is_address
from bulkspider.entries.urls import redact
from bulkspider.errors import UsageError
from bulkspider.failures import load_failures
from bulkspider.handover.command import Template
from bulkspider.handover.handing import Then
from bulkspider.handover.manifests import ManifestForm, check_name, form_of
from bulkspider.hosts.identity import check_contact
from bulkspider.hosts.profiles import Profiles
from bulkspider.lists.checking.check import SKIP_OPTION
from bulkspider.lists.checking.shards import Shard
from bulkspider.lists.formats.choose import ARGUMENTS as READING
from bulkspider.lists.formats.choose import Reading
from bulkspider.lists.formats.lines import is_url, rows_of
from bulkspider.lists.listsource import ListSource
from bulkspider.lists.opening import check_list, folder_name
from bulkspider.options import Options, has_scheme
from bulkspider.spiders.arguments.inputs import input_names
from bulkspider.sums.checksums import Sums, SumsFile, sums_file
from bulkspider.text import nearest
from bulkspider.walk.record import NAME as WALKED
from bulkspider.walk.start import Plan, parse_plan

# Arguments that choose and read the entries of a list; with a queue they were given when the list was pushed.
LIST_OPTIONS = ("skip", "bad_lines", "match", "limit", *READING)
# Arguments of a walk.
WALK_OPTIONS = ("accept", "reject", "depth")
OF_A_LIST = ("list", *LIST_OPTIONS, "shard", "shard_by", "verify", "failed", "status", "recurse", *WALK_OPTIONS)
ARGUMENTS = (
    *("list", "output", *LIST_OPTIONS, "recurse", *WALK_OPTIONS),
    *(
        "sums",
        "sums_sig",
        "keyring",
        "verify",
        "failed",
        "status",
        "then",
        "then_moves",
        "manifest",
        "report",
        "shard",
        "shard_by",
        "queue",
        "job",
        "stay",
        "contact",
    ),
)


class Given(Struct, frozen=True):
    """What the caller says: entries that replace a list, and how the folder is used.

    urls: from the command line. rows: lines of JSON, one for each entry; read once. shares: other runs of this kind may
    use the same output folder at the same time. every_row: the run has a row for every entry, also for those that an
    earlier run has done. skip_option: for messages, the option for skip=0 of the command in use.
    """

    urls: tuple[str, ...] = ()
    rows: Iterable[bytes] | None = None
    shares: bool = False
    every_row: bool = False
    skip_option: str = SKIP_OPTION


class Wanted(Struct, frozen=True):
    """The checked arguments. plan: of the walk that makes the list, None when the user gave one. check: a function of
    (path of the list, folder for its copy, writer or None) that checks and copies the list."""

    list_path: str
    root: str
    plan: Plan | None
    check: Callable[[str, str | os.PathLike[str] | int, str | None], ListSource]
    bad_lines: str
    sums: Sums | None
    remote_sums: SumsFile | None
    verify: bool
    report: str | None
    shard: Shard | None
    manifest: ManifestForm | None
    then: Then | None


def read_options(arguments: Mapping[str, str], settings: Mapping[str, Any], own: tuple[str, ...] = ()) -> Options:
    # Names that begin with "_" are arguments of the program that runs the spider, such as Scrapyd's `_job`.
    known = (*ARGUMENTS, *own)
    unknown = [
        f"unknown argument {name}{nearest(name, known)}" for name in arguments if name not in known and name[:1] != "_"
    ]
    if unknown:
        raise UsageError("\n".join([*unknown, f"known arguments: {', '.join(known)}"]))
    options = Options.from_settings(settings)
    Limits.of(settings if isinstance(settings, BaseSettings) else Settings(settings))
    check_auth(options)
    Profiles.load(options.hosts)
    if "contact" in arguments:
        check_contact(arguments["contact"])
    if options.fresh_url:
        load_hook(options.fresh_url)
    if options.metrics_port and importlib.util.find_spec("prometheus_client") is None:
        raise UsageError("BULK_METRICS_PORT needs the package prometheus-client: pip install 'bulkspider[metrics]'")
    return options


def read_sums(arguments: Mapping[str, str]) -> tuple[Sums | None, SumsFile | None]:
    """(the checksums, None), or (None, a checksum file that must be fetched)."""
    file = sums_file(*(arguments.get(name) for name in ("sums", "sums_sig", "keyring")))
    if file is None or file.is_remote:
        return None, file
    return file.read(), None


def read_wanted(
    arguments: Mapping[str, str], settings: Mapping[str, Any], given: Given, own: tuple[str, ...] = ()
) -> Wanted:
    options = read_options(arguments, settings, own)
    path = "the command line" if given.urls else "entries" if given.rows is not None else arguments.get("list")
    if not path:
        raise UsageError("which list? Say -a list=FILE (`name url` a line), for example -a list=input/tmp")
    options_of_list = list_options({name: arguments[name] for name in LIST_OPTIONS if name in arguments})
    if given.urls and (of_a_list := [name for name in READING if name in arguments]):
        raise UsageError(f"argument {of_a_list[0]}: it is for lists; leave it out with URLs")
    verify = _choice(arguments, "verify", "0", {"0": "downloads", "1": "re-reads the output instead"})
    failed = _choice(arguments, "failed", "0", {"0": "does all", "1": "does only what failed last time"}) == "1"
    shard = _shard(arguments)
    plan = _plan(path, arguments, shard)
    rows = rows_of(given.urls) if given.urls else given.rows
    if path != "-" and rows is None and plan is None and not os.path.exists(path):
        # Checked before the folder is made.
        cure = "give the path of a file with a line `name url` for each file"
        if is_address(path):
            cure += f", or a URL with its scheme: https://{path.lstrip('/')}"
        raise UsageError(f"{redact(path)}: no such list; {cure}")
    report = read_report(arguments.get("report"))
    sums, remote_sums = read_sums(arguments)
    named = "urls" if given.urls else folder_name(path) if plan is None else plan.start.folder_name
    root = read_output(arguments) or os.path.join("output", named)
    manifest = read_manifest(arguments, options)
    if plan is not None and (verify == "1" or failed or arguments.get("status", "0") != "0"):
        # The list of the last walk.
        path, plan = os.path.join(root, PRIVATE, WALKED), None
        if not os.path.exists(path):
            raise UsageError(f"{root}: there is no list of an earlier walk yet; walk once first, without this option")
    names = load_failures(root) if failed else None
    if names is not None and not names:
        raise UsageError(f"{root}: nothing failed there last time; leave out --failed (-a failed=1) to do what is left")
    check = partial(
        check_list,
        **options_of_list,
        names=names,
        order=options.order,
        shard=shard,
        root=root,
        rows=rows,
        skip_option=given.skip_option,
        check_name=check_name(manifest) if manifest is not None else None,
        inputs=input_names(root, path if rows is None and plan is None else None, arguments, options),
    )
    return Wanted(
        *(path, root, plan, check, options_of_list["bad_lines"], sums, remote_sums),
        verify=verify == "1",
        report=report,
        shard=shard,
        manifest=manifest,
        then=read_then(arguments, options),
    )


def _plan(path: str, arguments: Mapping[str, str], shard: Shard | None) -> Plan | None:
    """The walk that makes the list, if one is asked for. Raises UsageError."""
    wanted = _choice(arguments, "recurse", "0", {"0": "takes a list", "1": "walks the index below a URL"}) == "1"
    if wanted and not is_url(path):
        raise UsageError(f"{path}: recurse walks the index below a URL; give one, such as https://example.org/data/")
    if not wanted:
        if of_a_walk := [name for name in WALK_OPTIONS if name in arguments]:
            raise UsageError(f"argument {of_a_walk[0]}: it is for a walk; say --recurse (-a recurse=1)")
        if is_url(path):
            raise UsageError(f"{redact(path)}: a list is a file; --recurse (-a recurse=1) walks the index below a URL")
        return None
    if shard is not None:
        raise UsageError("argument shard: every shard would walk by itself; walk once, and give them its list")
    if of_a_list := [name for name in READING if name in arguments]:
        raise UsageError(f"argument {of_a_list[0]}: it is for lists; a walk names files by their path below its start")
    return parse_plan(path, arguments)


def read_output(arguments: Mapping[str, str]) -> str | None:
    """The argument `output`. Raises UsageError for the URL of a service: else a local folder `s3:` would be made."""
    output = arguments.get("output")
    if output and has_scheme(output):
        raise UsageError(
            f"argument output={output}: files are written to a folder of this machine only; give its path, and copy "
            "them from there with a tool of that service"
        )
    return output


def read_then(arguments: Mapping[str, str], options: Options) -> Then | None:
    moves = _choice(arguments, "then_moves", "0", {"0": "the file stays", "1": "the command takes the file away"})
    text = arguments.get("then") or options.then
    if not text:
        if moves == "1" or options.stage_max:
            what = "argument then_moves" if moves == "1" else "setting BULK_STAGE_MAX"
            raise UsageError(f"{what}: what takes the files away? Say --then COMMAND (-a then=COMMAND)")
        return None
    if options.stage_max and moves == "0":
        raise UsageError("setting BULK_STAGE_MAX: nothing takes the files away; say --then-moves (-a then_moves=1)")
    template = Template.parse(text)
    if template.needs_sha256 and options.digest == "off":
        raise UsageError("the command has {sha256}; leave out BULK_DIGEST=off")
    return Then(template, moves == "1", options.then_at_once, options.stage_max)


def read_manifest(arguments: Mapping[str, str], options: Options) -> ManifestForm | None:
    form = form_of(arguments["manifest"]) if "manifest" in arguments else None
    if form is not None and options.digest == "off":
        raise UsageError("argument manifest: it is made of hashes; leave out BULK_DIGEST=off")
    return form


def read_report(path: str | None) -> str | None:
    """The absolute path of the report. Checked before the start, not when it is written after a day of downloads."""
    if not path:
        return None
    if not path.lower().endswith((".html", ".htm")):
        raise UsageError(f"argument report={path}: it is an HTML page, say report=NAME.html; rows are -O report.jsonl")
    path = os.path.abspath(path)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise UsageError(f"argument report={path}: there is no folder {folder}; make it, or choose another")
    if os.path.isdir(path) or not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"argument report={path}: it cannot be written; choose another place")
    return path


def list_options(arguments: Mapping[str, str]) -> dict[str, Any]:
    """The keyword arguments of `check_list` for LIST_OPTIONS. Raises UsageError."""
    if unknown := [name for name in arguments if name not in LIST_OPTIONS]:
        raise UsageError(f"unknown argument {unknown[0]}{nearest(unknown[0], LIST_OPTIONS)}")
    skip = _choice(arguments, "skip", "1", {"0": "reads the first line too", "1": "ignores it"})
    bad_lines = _choice(arguments, "bad_lines", "stop", {"stop": "ends before the first byte", "skip": "goes on"})
    limit = arguments.get("limit")
    if limit is not None and not limit.isdecimal():
        raise UsageError(f"argument limit={limit}: must be a number of entries")
    return {
        "skip": int(skip),
        "bad_lines": bad_lines,
        "match": arguments.get("match"),
        "limit": int(limit) if limit is not None else None,
        "reading": Reading.parse(arguments),
    }


def _shard(arguments: Mapping[str, str]) -> Shard | None:
    if "shard" in arguments:
        return Shard.parse(arguments["shard"], arguments.get("shard_by", "entry"))
    if "shard_by" in arguments:
        raise UsageError("argument shard_by: it divides the list among shards; say which one, for example shard=3/16")
    return None


def _choice(arguments: Mapping[str, str], name: str, default: str, allowed: Mapping[str, str]) -> str:
    value = arguments.get(name, default)
    if value not in allowed:
        meanings = ", ".join(f"{choice} {meaning}" for choice, meaning in allowed.items())
        raise UsageError(f"argument {name}={value}: {meanings}")
    return value
